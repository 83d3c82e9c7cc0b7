"""Targets and lists of ignored labels as sorted keys, the form in which chunks read them.

Logits are stored as [labels, rows], so that a chunk of labels is one block of memory. The key of an
element is `label * rows + row`. The positives of a chunk are neighbours in the sorted keys, and
their place in the chunk is their key minus the key of the chunk's first element.
"""

import numpy as np
import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.definition import checks
from torchbce.definition.sparse import sparse_entries
from torchbce.linear.records import LogitsShape

#: What fills the rows that have fewer labels than the longest.
PADDING = (-1, -100)


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
        if on_gpu:
            check_label_lists("target", target, shape, check)
            keys, values = padded_keys(target, shape), None
        else:
            keys = checked_keys("target", target, shape, check)
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
    first_key = shape.first * shape.rows
    if ignored.layout is not torch.strided:
        keys = _sparse_ignored_keys(ignored, shape, check, on_gpu)
    elif on_gpu:
        check_label_lists("ignored", ignored, shape, check)
        keys = padded_keys(ignored, shape)
    else:
        keys = checked_keys("ignored", ignored, shape, check)
    if on_gpu:
        return keys, keys - first_key
    low, high = _local_range(keys, shape)
    return keys, keys[low:high] - first_key


def padded_keys(lists: Tensor, shape: LogitsShape) -> Tensor:
    """Sorted keys of label lists, with those of padding and of repeated labels.

    Their number is that of the list entries, so that the host does not wait for the GPU to count
    the labels.
    """
    row = torch.arange(shape.rows, device=lists.device)[:, None]
    keys = (lists.reshape(shape.rows, lists.shape[-1]) * shape.rows + row).flatten()
    ascending: Tensor = keys.sort().values
    return ascending


def checked_keys(name: str, lists: Tensor, shape: LogitsShape, check: bool | None) -> Tensor:
    """Sorted keys of label lists, each once; raises as `check_label_lists` does."""
    values = _checked_values(name, lists, shape, check)
    keys = _label_keys(lists, shape)
    if values is not None:
        _refuse_repeated(name, keys, shape)
        return keys
    once: Tensor = torch.unique_consecutive(keys)
    return once


def _label_keys(lists: Tensor, shape: LogitsShape) -> Tensor:
    """Sorted keys of the labels in lists, without padding.

    Only labels are sorted: with one list of 20,000 labels, the lists of 255 other rows are nearly
    all padding, and sorting it took ten times as long as the rest.
    """
    # Under torch.jit.trace a size is a tensor.
    columns, rows, flat = max(int(lists.shape[-1]), 1), int(shape.rows), lists.reshape(-1)
    if lists.device.type == "cpu":
        # numpy finds and sorts in a third of PyTorch's time, which for 5,120 labels was as long as
        # one of the matrix products.
        values = flat.numpy()
        entries = np.flatnonzero(values >= 0)
        array = values[entries] * rows + entries // columns
        array.sort()
        return torch.from_numpy(array)
    (entry,) = torch.nonzero(flat >= 0, as_tuple=True)
    keys: Tensor = (flat[entry] * rows + entry // columns).sort().values
    return keys


def _sparse_keys(
    target: Tensor, shape: LogitsShape, check: bool | None, name: str = "target"
) -> tuple[Tensor, Tensor]:
    logits = torch.empty(shape.dense, device="meta")
    index, values = sparse_entries(target, logits, check, name)
    if name == "target":
        checks.value_range("target", values, None, index, check)
    row = torch.zeros_like(index[0])
    for index_of_dimension, size in zip(index[:-1], shape.batch, strict=True):
        row = row * size + index_of_dimension
    keys, order = torch.sort(index[-1] * shape.rows + row)
    return keys, values[order]


def _sparse_ignored_keys(
    ignored: Tensor, shape: LogitsShape, check: bool | None, on_gpu: bool
) -> Tensor:
    """Sorted keys of the entries that are not 0; on a GPU those that are 0 have keys below 0."""
    keys, values = _sparse_keys(ignored, shape, check, "ignored")
    if on_gpu:  # where selecting them would make the host wait
        marked: Tensor = torch.where(values != 0, keys, -1).sort().values
        return marked
    return keys[values != 0]


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
    """Raise unless `lists` has the labels of each row, each once, and padding.

    Values on the CPU are read by default, those on a GPU if `check` is true. Where they are not
    read, lists with as many columns as there are labels are refused: they may be a dense target.
    """
    values = _checked_values(name, lists, shape, check)
    # Under a transform the values may be those of many calls, in any order of dimensions.
    if values is not None and not _pytorch.functorch_is_active():
        _refuse_repeated(name, _label_keys(values, shape), shape)


def _checked_values(
    name: str, lists: Tensor, shape: LogitsShape, check: bool | None
) -> Tensor | None:
    """The values of label lists, None if they are not read.

    Raises for values out of range, and for lists that may be a dense target.
    """
    as_wide_as_dense = lists.shape[-1] == shape.labels and lists.numel() > 0
    plain = None if check is False else checks.readable(lists, anywhere=bool(check))
    if plain is None:
        if check:
            checks.unreadable(name, lists)
        if as_wide_as_dense:
            raise ValueError(
                f"{name} has shape {tuple(lists.shape)}, dtype int64 and as many columns as there "
                "are labels. It may be one value per label or lists of labels, and its values are "
                f"not read here. {_remedies(name)}; or give check_targets=True"
            )
        return None
    if not plain.numel():
        return plain
    low, high = (int(value) for value in torch.aminmax(plain))
    # -1 before a label may mark an unknown value; a list has its padding at the end.
    if as_wide_as_dense and high <= 1 and (low >= 0 or _has_gaps(plain)):
        raise ValueError(
            f"{name} has shape {tuple(lists.shape)}, dtype int64 and holds only 0 and 1"
            + ("" if low >= 0 else f" and {low} before them")
            + ", with as many columns as there are labels. It may be one value per label or lists "
            "of labels. " + _remedies(name)
        )
    if low < -1 or high >= shape.labels:
        wrong = (plain < -1) | (plain >= shape.labels)
        for padding in PADDING:
            wrong &= plain != padding
        if bool(wrong.any()):
            _refuse_label(name, plain, wrong, shape)
    return plain


def _has_gaps(lists: Tensor) -> bool:
    """Whether padding stands before a label in some row."""
    return bool(((lists[..., :-1] < 0) & (lists[..., 1:] >= 0)).any())


def _refuse_label(name: str, lists: Tensor, wrong: Tensor, shape: LogitsShape) -> None:
    index = tuple(int(i) for i in wrong.nonzero()[0])
    place = ", ".join(map(str, index))
    raise ValueError(
        f"{name}[{place}] is {lists[index].item()}; with {shape.labels} rows of weight the "
        f"labels are 0 to {shape.labels - 1}, and only -1 or -100 pads a row with fewer labels: "
        "torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)"
    )


def _refuse_repeated(name: str, keys: Tensor, shape: LogitsShape) -> None:
    """Raise if a key occurs twice among sorted keys."""
    repeats = keys[1:] == keys[:-1]
    if not bool(repeats.any()):
        return
    label, row = divmod(int(keys[:-1][repeats][0]), shape.rows)
    index: list[int] = []
    for size in reversed(shape.batch):
        row, place = divmod(row, size)
        index.insert(0, place)
    of_row = f"[{', '.join(map(str, index))}]" if index else ""
    raise ValueError(
        f"{name}{of_row} has label {label} more than once. int64 lists the labels of each row, "
        f"each of them once. {_remedies(name)}"
    )


def _remedies(name: str) -> str:
    dense = "target.bool()" if name == "target" else f"mask=~{name}.bool()"
    return (
        f"For one value per label give {dense}; for lists pad each row with -1, at least one "
        f"column: torch.nn.functional.pad({name}, (0, 1), value=-1)"
    )
