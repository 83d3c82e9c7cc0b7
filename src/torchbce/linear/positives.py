"""Label lists from the forms in which labels are stored: any rows become one int64 tensor."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from torchbce.definition.sparse import sparse_entries
from torchbce.linear.targets import PADDING

__all__ = ["collate_positives", "positives_from"]


class _Rows(NamedTuple):
    """Labels of all rows after each other.

    Attributes:
        flat: the labels, int64 [stored].
        lengths: how many of them belong to each row, [rows].
        labels: the number of labels, if the form has it.
        columns: how many columns the lists are given; None for one more than the longest row.
    """

    flat: np.ndarray
    lengths: np.ndarray
    labels: int | None = None
    columns: int | None = None


def positives_from(labels: Any, *, num_labels: int | None = None) -> Tensor:
    """Label lists, int64 [N, K] padded with -1, as `torchbce.LinearBCELoss` takes them.

    Row i of the result has the labels that are 1 in row i of the input, in the same order, and K is
    one more than the number of labels of the longest row: lists that end with padding cannot be
    mistaken for one value per label. Only rows that may be that, of one length and with no label
    but 0 and 1, get no padding, and the loss refuses them if there are as many labels as columns.

    In a `torch.utils.data.DataLoader` this is a `collate_fn` for samples that are labels only;
    `collate_positives` is one for samples with other fields.

    Args:
        labels: one of

            - a sequence of rows, each a list, tuple, set, NumPy array or tensor of the row's
              labels. Also a NumPy array of dtype object;
            - a nested tensor of integers, strided or jagged;
            - a SciPy sparse matrix or array [N, L], a sequence of its rows, or a sparse COO or CSR
              tensor. Values are 0 or 1 (or True), and those that are 0 are no labels;
            - a bool array or tensor [N, L], true where a label is 1;
            - an integer array or tensor [N, K] of label lists, of which K is kept.

            In rows of labels, -1 and -100 are padding, which is dropped. No row has a label twice.
        num_labels: L, to check that labels are below it (the loss checks it too); None for any.

    Returns:
        The lists, on the device of `labels` if that is a tensor, otherwise on the CPU.

    Raises:
        TypeError: if labels are not integers, or `labels` is none of these forms.
        ValueError: if a label is negative (and no padding), not below the number of labels, or
            twice in a row; or if a value of a sparse matrix is neither 0 nor 1.

    Example:
        >>> import scipy.sparse, torchbce
        >>> torchbce.positives_from([[3, 17], [], [5]])
        tensor([[ 3, 17, -1],
                [-1, -1, -1],
                [ 5, -1, -1]])
        >>> matrix = scipy.sparse.csr_array(([1, 1, 1], [3, 17, 5], [0, 2, 2, 3]), shape=(3, 20))
        >>> torchbce.positives_from(matrix).equal(torchbce.positives_from([[3, 17], [], [5]]))
        True

    References:
        https://docs.scipy.org/doc/scipy/reference/sparse.html
    """
    device = labels.device if isinstance(labels, Tensor) else None
    rows = _checked_rows(labels, num_labels)
    flat, lengths, columns = rows.flat, rows.lengths, rows.columns
    columns = int(lengths.max(initial=0)) + 1 if columns is None else columns
    padded = np.full((len(lengths), columns), PADDING[0], dtype=np.int64)
    padded[np.arange(columns) < lengths[:, None]] = flat
    result = torch.from_numpy(padded)
    return result if device is None else result.to(device)


def label_rows(labels: Any, num_labels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The labels of all rows after each other, without padding, and how many each row has.

    Args:
        labels: as `positives_from` takes them.
        num_labels: L, to check that labels are below it; None for any.

    Returns:
        The labels, int64 [stored], and their number in each row, [N].

    Raises:
        TypeError, ValueError: as `positives_from`.

    Example:
        >>> label_rows([[3, 17], [], [5]])
        (array([ 3, 17,  5]), array([2, 0, 1]))
    """
    rows = _checked_rows(labels, num_labels)
    return rows.flat, rows.lengths


def _checked_rows(labels: Any, num_labels: int | None) -> _Rows:
    """The labels of every form that `positives_from` takes, without padding, and checked."""
    flat, lengths, stored_labels, columns = _rows_of(labels)
    padding = (flat == PADDING[0]) | (flat == PADDING[1])
    row = np.repeat(np.arange(len(lengths)), lengths)
    if padding.any():
        flat, row = flat[~padding], row[~padding]
        lengths = np.bincount(row, minlength=len(lengths))
    known = [number for number in (stored_labels, num_labels) if number is not None]
    _check_labels(flat, row, min(known, default=None))
    return _Rows(flat, lengths, stored_labels, columns)


def collate_positives(samples: Sequence[Any], *, labels: Any = None) -> Any:
    """A batch of samples of which one field has the labels, for `DataLoader(collate_fn=...)`.

    The labels become one tensor by `positives_from`; every other field is batched by
    `torch.utils.data.default_collate`, which cannot batch lists of different lengths.

    Args:
        samples: tuples, lists or dictionaries, as a data set returns them. The labels of a sample
            are a row as `positives_from` takes it.
        labels: the index or key of the labels; None for the last field of a tuple or list, and for
            "labels" in a dictionary. Give another with `functools.partial`.

    Returns:
        A batch of the samples' type: a tuple, list or dictionary of tensors.

    Raises:
        TypeError: if a sample is no tuple, list or dictionary, or its labels are not integers.
        KeyError: if a dictionary does not have the key.
        IndexError: if a tuple or list does not have the index.
        ValueError: if a label is negative.

    Example:
        >>> import torch, torchbce
        >>> from torch.utils.data import DataLoader
        >>> rows = [(torch.zeros(8), [3, 17]), (torch.ones(8), [])]
        >>> loader = DataLoader(rows, batch_size=2, collate_fn=torchbce.collate_positives)
        >>> x, positives = next(iter(loader))
        >>> x.shape, positives
        (torch.Size([2, 8]), tensor([[ 3, 17, -1],
                [-1, -1, -1]]))

    References:
        https://docs.pytorch.org/docs/stable/data.html#dataloader-collate-fn
    """
    first = samples[0]
    if isinstance(first, Mapping):
        key = "labels" if labels is None else labels
        if key not in first:
            names = ", ".join(map(repr, list(first)[:8]))
            raise KeyError(
                f"a sample has no field {key!r} but {names}; give the name of the labels' field: "
                "functools.partial(torchbce.collate_positives, labels=...)"
            )
        batch = {name: default_collate([s[name] for s in samples]) for name in first if name != key}
        return batch | {key: positives_from([sample[key] for sample in samples])}
    if not isinstance(first, (tuple, list)):
        raise TypeError(
            f"a sample must be a tuple, a list or a dictionary with the labels as one field, got "
            f"{type(first).__name__}; if it is the labels only, use torchbce.positives_from"
        )
    place = range(len(first))[-1 if labels is None else labels]
    fields: list[Any] = [
        positives_from(list(column)) if i == place else default_collate(list(column))
        for i, column in enumerate(zip(*samples, strict=True))
    ]
    if hasattr(first, "_fields"):  # a named tuple
        return type(first)(*fields)
    return type(first)(fields)


def _rows_of(labels: Any) -> _Rows:
    """The labels of every form that `positives_from` takes."""
    if isinstance(labels, Tensor):
        labels = labels.detach()
        if labels.is_nested:
            return _of_rows(labels.unbind())
        if labels.layout is not torch.strided:
            return _of_sparse_tensor(labels)
        labels = labels.cpu().numpy()
    elif _is_scipy(labels):
        return _of_scipy(labels)
    if isinstance(labels, np.ndarray) and labels.dtype != object:
        return _of_array(labels)
    if isinstance(labels, (str, bytes, Mapping)) or not isinstance(labels, Iterable):
        raise TypeError(
            f"labels must be rows of labels, such as [[3, 17], [5]], a SciPy sparse matrix, or a "
            f"nested or sparse tensor; got {type(labels).__name__}"
        )
    rows = list(labels)
    if rows and all(map(_is_scipy, rows)):
        import scipy.sparse

        rows = [row if row.ndim == 2 else row.reshape(1, -1) for row in rows]
        return _of_scipy(scipy.sparse.vstack(rows))
    return _of_rows(rows)


def _of_rows(rows: Sequence[Any]) -> _Rows:
    """Rows that are lists, sets, arrays or tensors."""
    arrays = [_of_row(i, row) for i, row in enumerate(rows)]
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    flat = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
    if flat.size and lengths.min() == lengths.max() and flat.min() >= 0 and flat.max() <= 1:
        return _Rows(flat, lengths, columns=int(lengths[0]))  # the loss knows the number of labels
    return _Rows(flat, lengths)


def _of_row(number: int, row: Any) -> np.ndarray:
    """The labels of one row, int64 [K]."""
    if isinstance(row, Tensor):
        array = row.detach().cpu().numpy()
    elif isinstance(row, np.ndarray):
        array = row
    elif isinstance(row, (str, bytes, Mapping)) or not isinstance(row, Iterable):
        array = np.array(row, dtype=object)
    else:
        values = list(row)
        try:
            array = np.array(values) if values else np.empty(0, np.int64)
        except (ValueError, TypeError, RuntimeError):  # labels of several shapes
            array = np.empty((0, 0))
    if array.ndim != 1:
        raise TypeError(
            f"row {number} is {_shown(row)}, and a row is a list of labels, such as [3, 17]; if "
            "each row has one label, give [[3], [17]]"
        )
    if array.size and array.dtype.kind not in "iu":
        remedy = (
            "for one value per label give an array or tensor of dtype bool, [rows, labels]"
            if array.dtype.kind == "b"
            else "convert them to integers"
        )
        raise TypeError(
            f"row {number} has {array.dtype} values such as {_shown(array[0])}, and labels are "
            f"integers; {remedy}"
        )
    return array.astype(np.int64, copy=False)


def _shown(value: object) -> str:
    """A value in at most 40 characters."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"of shape {tuple(value.shape)}"
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _of_array(array: np.ndarray) -> _Rows:
    """An array of integers, [N, K], or of bool, [N, L]."""
    if array.ndim != 2 or array.dtype.kind not in "iub":
        remedy = ""
        if array.ndim == 2:
            remedy = "; for one value per label, 0 or 1, give (labels > 0)"
        elif array.ndim == 1:
            remedy = "; if each row has one label, give labels[:, None]"
        raise TypeError(
            f"labels has shape {array.shape} and dtype {array.dtype}; an array must be of integers "
            f"[rows, labels per row] or of bool [rows, labels]{remedy}"
        )
    if array.dtype.kind == "b":
        return _Rows(np.nonzero(array)[1], array.sum(1))
    rows, columns = array.shape
    return _Rows(array.astype(np.int64).ravel(), np.full(rows, columns), columns=columns)


def _is_scipy(labels: Any) -> bool:
    """Whether labels are a sparse matrix of SciPy; it is not imported to find out."""
    module = sys.modules.get("scipy.sparse")
    return module is not None and bool(module.issparse(labels))


def _of_scipy(matrix: Any) -> _Rows:
    if matrix.ndim != 2:
        raise TypeError(
            f"labels has shape {matrix.shape}; a sparse matrix must be [rows, labels]: "
            "labels.reshape(1, -1) is one row"
        )
    matrix = matrix.tocsr()
    lengths, columns = np.diff(matrix.indptr), matrix.indices.astype(np.int64)
    return _of_entries(lengths, columns, matrix.data, matrix.shape[1])


def _of_sparse_tensor(tensor: Tensor) -> _Rows:
    if tensor.dim() != 2:
        raise TypeError(
            f"labels has shape {tuple(tensor.shape)}; a sparse tensor must be [rows, labels]"
        )
    tensor = tensor.cpu()
    (row, column), values = sparse_entries(tensor, tensor, name="labels")
    lengths = torch.bincount(row, minlength=tensor.shape[0])
    return _of_entries(lengths.numpy(), column.numpy(), values.numpy(), tensor.shape[1])


def _of_entries(lengths: np.ndarray, columns: np.ndarray, values: np.ndarray, labels: int) -> _Rows:
    """The entries of a sparse matrix whose value is 1."""
    if (columns < 0).any():  # -1 is no padding here
        raise ValueError(f"labels has an entry in column {columns.min()}; columns begin at 0")
    ones = values == 1
    if ones.all():
        return _Rows(columns, lengths, labels)
    row = np.repeat(np.arange(len(lengths)), lengths)
    wrong = ~ones & (values != 0)
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"labels[{row[first]}, {columns[first]}] is {values[first]}; label lists have the "
            "labels that are 1. Give (labels != 0) if every stored value is a label; the loss "
            "takes soft targets as a sparse tensor"
        )
    return _Rows(columns[ones], np.bincount(row[ones], minlength=len(lengths)), labels)


def _check_labels(flat: np.ndarray, row: np.ndarray, num_labels: int | None) -> None:
    """Raise unless labels are in range, and none is twice in a row."""
    if not flat.size:
        return
    limit = np.iinfo(np.int64).max if num_labels is None else num_labels
    if flat.min() < 0 or flat.max() >= limit:
        first = int(((flat < 0) | (flat >= limit)).argmax())
        expected = "0 or above" if num_labels is None else f"0 to {num_labels - 1}"
        raise ValueError(
            f"row {row[first]} has the label {flat[first]}; labels are {expected}, and only -1 and "
            "-100 are padding"
        )
    order = np.lexsort((flat, row))
    flat, row = flat[order], row[order]
    twice = (flat[1:] == flat[:-1]) & (row[1:] == row[:-1])
    if twice.any():
        first = int(twice.argmax())
        raise ValueError(
            f"row {row[first]} has label {flat[first]} more than once. If rows are lists of "
            "labels, give each label once: set(row). If there is one value per label, 0 or 1, give "
            "an array or tensor of dtype bool"
        )
