"""Sparse features of the linear models: codes as 0 and 1, standardised numbers, text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchbce.classifier.columns.encoder import Encoded, Encoder

if TYPE_CHECKING:
    import scipy.sparse as sp


class SparseRows(NamedTuple):
    """A sparse matrix in the form that `torchbce.linear.sparse_rows` reads.

    Attributes:
        indptr: where each row begins, int64 [rows + 1].
        indices: the column of each stored element, int32.
        values: the stored elements, float32; None if all of them are 1.
        width: the number of columns.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray | None
    width: int

    @property
    def matrix(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The arrays of the matrix, without its width."""
        return self.indptr, self.indices, self.values

    def csr(self) -> "sp.csr_matrix":
        """The matrix as SciPy's."""
        import scipy.sparse as sp

        stored = np.ones(len(self.indices), np.float32) if self.values is None else self.values
        shape = len(self.indptr) - 1, self.width
        return sp.csr_matrix((stored, self.indices, self.indptr), shape=shape)

    def take(self, rows: np.ndarray) -> "SparseRows":
        """The rows at some indices, in their order."""
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        at = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        values = None if self.values is None else self.values[at]
        return SparseRows(indptr, self.indices[at], values, self.width)

    def slice(self, start: int, stop: int) -> "SparseRows":
        """The rows from `start` to `stop`."""
        first, last = self.indptr[start], self.indptr[stop]
        values = None if self.values is None else self.values[first:last]
        indptr = self.indptr[start : stop + 1] - first
        return SparseRows(indptr, self.indices[first:last], values, self.width)


@dataclass(frozen=True)
class Layout:
    """Which feature is what: the codes of each column, then the numbers, then the text."""

    starts: np.ndarray
    numbers: int
    text: int
    width: int

    @classmethod
    def of(cls, encoder: Encoder) -> "Layout":
        """The layout of an encoder's features."""
        starts = np.cumsum([0, *(column.codes for column in encoder.coded)])
        numbers = int(starts[-1])
        text = numbers + len(encoder.numeric)
        return cls(starts[:-1], numbers, text, text + encoder.text_width)


def linear_features(encoder: Encoder, encoded: Encoded) -> SparseRows:
    """The features of the linear model: a 1 at each code, standardised numbers, and the text."""
    layout = Layout.of(encoder)
    rows = len(encoded)
    # The codes and numbers of all rows side by side, [rows, K]; then what is absent is left out.
    parts = [np.where(encoded.codes >= 0, encoded.codes + layout.starts.astype(np.int32), -1)]
    values = [np.ones(encoded.codes.shape, np.float32)]
    if encoder.numeric:
        columns = zip(encoder.numeric, encoded.numbers.T, strict=True)
        values.append(np.column_stack([column.standardise(x) for column, x in columns]))
        index = layout.numbers + np.arange(len(encoder.numeric), dtype=np.int32)
        parts.append(np.broadcast_to(index, (rows, len(index))))
    text = encoded.text
    if layout.text == 0:
        indptr = text.indptr.astype(np.int64)
        return SparseRows(indptr, text.indices.astype(np.int32), text.data, layout.width)
    index, value = np.hstack(parts), np.hstack(values)
    stored = (index >= 0) & (value != 0)
    counts = stored.sum(axis=1)
    dense = SparseRows(
        np.concatenate([[0], np.cumsum(counts)]), index[stored], value[stored], layout.width
    )
    if not encoder.texts:
        return dense
    return beside(dense, text.indptr, text.indices + layout.text, text.data)


def beside(
    rows: SparseRows,
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray | None,
    width: int | None = None,
) -> SparseRows:
    """`rows` with the stored elements of another matrix added to each row."""
    one, other = np.diff(rows.indptr), np.diff(indptr)
    total = np.concatenate([[0], np.cumsum(one + other)]).astype(np.int64)
    joined = np.empty(total[-1], dtype=np.int32)
    weights = np.ones(total[-1], dtype=np.float32)
    first = np.repeat(total[:-1] - rows.indptr[:-1], one) + np.arange(len(rows.indices))
    second = np.repeat(total[:-1] + one - indptr[:-1], other) + np.arange(len(indices))
    joined[first], joined[second] = rows.indices, indices
    if rows.values is not None:
        weights[first] = rows.values
    if values is not None:
        weights[second] = values
    return SparseRows(total, joined, weights, rows.width if width is None else width)
