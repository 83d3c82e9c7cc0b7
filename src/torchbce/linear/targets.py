"""Targets and lists of ignored labels as sorted keys, the form in which chunks read them.

Logits are stored as [labels, rows], so that a chunk of labels is one block of memory. The key of an
element is `label * rows + row`. The positives of a chunk are neighbours in the sorted keys, and
their place in the chunk is their key minus the key of the chunk's first element.
"""

import torch
from torch import Tensor

from torchbce.definition import checks
from torchbce.linear.records import LogitsShape


def target_operands(
    target: Tensor, shape: LogitsShape, check: bool | None, on_gpu: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`dense`, `keys` and `values` of `LinearOperands` for this process' labels.

    Raises for labels and sparse values out of range. A dense target is checked as it is computed.
    """
    values: Tensor | None
    if target.layout is not torch.strided:
        keys, values = _sparse_keys(target, shape, check)
    elif target.dtype == torch.int64:
        check_label_lists("target", target, shape, check)
        if on_gpu:
            keys, values = padded_keys(target, shape), None
        else:
            keys = unique_keys(target, shape)
            values = torch.ones(keys.shape, dtype=torch.bool, device=keys.device)
    else:
        dense = target.reshape(shape.rows, shape.labels)
        return dense[:, shape.first : shape.first + shape.local], None, None
    first_key = shape.first * shape.rows
    if on_gpu:  # the kernel skips the keys of other processes
        return None, keys - first_key, values
    assert values is not None
    low, high = _local_range(keys, shape)
    return None, keys[low:high] - first_key, values[low:high]


def ignored_keys(
    ignored: Tensor | None, shape: LogitsShape, check: bool | None, on_gpu: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Keys of the ignored elements: of all labels, and relative to this process' labels."""
    if ignored is None:
        return None, None
    check_label_lists("ignored", ignored, shape, check)
    first_key = shape.first * shape.rows
    if on_gpu:
        keys = padded_keys(ignored, shape)
        return keys, keys - first_key
    keys = unique_keys(ignored, shape)
    low, high = _local_range(keys, shape)
    return keys, keys[low:high] - first_key


def padded_keys(lists: Tensor, shape: LogitsShape) -> Tensor:
    """Sorted keys of label lists, with those of padding and duplicates.

    Their number is that of the list entries, so that the host does not wait for the GPU to count
    the distinct ones.
    """
    keys: Tensor = _keys(lists, shape).sort().values
    return keys


def unique_keys(lists: Tensor, shape: LogitsShape) -> Tensor:
    """Sorted keys of label lists, without padding and duplicates."""
    keys = _keys(lists, shape)
    if keys.device.type == "cpu":
        # numpy sorts in a third of PyTorch's time, which for 5,120 labels was as long as one of
        # the matrix products.
        array = keys.numpy()
        array.sort()
        padding = int(array.searchsorted(0))  # keys of padding are below 0
        keys = keys[padding:]
        return torch.unique_consecutive(keys) if (array[1:] == array[:-1]).any() else keys
    unique: Tensor = torch.unique(keys[keys >= 0])
    return unique


def _keys(lists: Tensor, shape: LogitsShape) -> Tensor:
    row = torch.arange(shape.rows, device=lists.device)[:, None]
    return (lists.reshape(shape.rows, lists.shape[-1]) * shape.rows + row).flatten()


def _sparse_keys(target: Tensor, shape: LogitsShape, check: bool | None) -> tuple[Tensor, Tensor]:
    logits = torch.empty(shape.dense, device="meta")
    index, values = checks.sparse_entries(target, logits)
    checks.value_range("target", values, None, index, check)
    row = torch.zeros_like(index[0])
    for index_of_dimension, size in zip(index[:-1], shape.batch, strict=True):
        row = row * size + index_of_dimension
    keys, order = torch.sort(index[-1] * shape.rows + row)
    return keys, values[order]


def _local_range(keys: Tensor, shape: LogitsShape) -> tuple[int, int]:
    """The slice of the sorted keys that belongs to this process' labels."""
    if shape.local == shape.labels:
        return 0, keys.numel()
    edges = torch.tensor([shape.first, shape.first + shape.local], device=keys.device)
    low, high = torch.searchsorted(keys, edges * shape.rows).tolist()
    return low, high


def check_label_lists(
    name: str, lists: Tensor, shape: LogitsShape, check: bool | None = None
) -> None:
    """Raise unless every entry is a label or -1: on the CPU, on a GPU only if `check` is true."""
    readable = None if check is False else checks.readable(lists, anywhere=bool(check))
    if readable is None and check:
        checks.unreadable(name, lists)
    if readable is None or not readable.numel():
        return
    lists = readable
    low, high = (int(value) for value in torch.aminmax(lists))
    if low < -1 or high >= shape.labels:
        wrong = (lists < -1) | (lists >= shape.labels)
        index = tuple(int(i) for i in wrong.nonzero()[0])
        place = ", ".join(map(str, index))
        raise ValueError(
            f"{name}[{place}] is {lists[index].item()}; with {shape.labels} rows of weight the "
            f"labels are 0 to {shape.labels - 1}, and only -1 pads a row with fewer labels: "
            "torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)"
        )
    if low >= 0 and high <= 1 and lists.shape[-1] == shape.labels > 2:
        # Probably a dense target: as many columns as labels, and no label but 0 and 1.
        raise ValueError(
            f"{name} has shape {tuple(lists.shape)}, dtype int64 and holds only 0 and 1: int64 "
            "lists the labels of each row. For one value per element give "
            + ("target.bool()" if name == "target" else f"mask=~{name}.bool()")
        )
