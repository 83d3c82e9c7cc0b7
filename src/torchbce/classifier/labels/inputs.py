"""What the network of many labels reads: standardised numbers, and sparse categories and text."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from torchbce.classifier.columns.encoder import Encoded, Encoder

#: Text features that the network reads at most, those in most rows: each has as many weights as
#: there are hidden units. With few labels rare n-grams are left to the linear models; with many
#: a step takes so long by its labels that the weights do not matter.
MOST_TEXT, MOST_TEXT_OF_MANY = 10_000, 100_000


class Inputs(NamedTuple):
    """The features of some rows.

    Attributes:
        numbers: standardised, 0 where missing, float32 [rows, N].
        sparse: categories, missing numbers and text, float32 CSR [rows, F].
    """

    numbers: np.ndarray
    sparse: sp.csr_matrix

    def take(self, rows: np.ndarray) -> "Inputs":
        """The rows at some indices, in their order."""
        return Inputs(self.numbers[rows], self.sparse[rows])

    def __len__(self) -> int:  # rows, and not fields
        return len(self.numbers)


def most_frequent(encoded: Encoded, most: int = MOST_TEXT) -> np.ndarray:
    """The text features that the network reads, at most so many, int32."""
    text = encoded.text
    if text.shape[1] <= most:
        return np.arange(text.shape[1], dtype=np.int32)
    rows = np.bincount(text.indices, minlength=text.shape[1])
    return np.sort(np.argsort(-rows, kind="stable")[:most]).astype(np.int32)


def network_inputs(encoder: Encoder, encoded: Encoded, text: np.ndarray) -> Inputs:
    """The features of some rows.

    Args:
        encoder: the columns.
        encoded: their arrays.
        text: the text features to read, int32.
    """
    columns = zip(encoder.numeric, encoded.numbers.T, strict=True)
    numbers = [np.nan_to_num(column.standardise(x)).astype(np.float32) for column, x in columns]
    blocks = []
    for (first, width), codes in zip(_codes(encoder), encoded.codes.T, strict=True):
        if width:
            rows = np.flatnonzero(codes >= first)
            one = np.ones(len(rows), np.float32), (rows, codes[rows] - first)
            blocks.append(sp.csr_matrix(one, shape=(len(encoded), width)))
    if encoder.texts:
        own = encoded.text
        blocks.append(own if len(text) == own.shape[1] else own[:, text])
    sparse = sp.hstack(blocks, format="csr") if blocks else sp.csr_matrix((len(encoded), 0))
    return Inputs(
        np.column_stack(numbers) if numbers else np.zeros((len(encoded), 0), np.float32),
        sparse.astype(np.float32),
    )


def sparse_width(encoder: Encoder, text: int) -> int:
    """The number of sparse features with so many of text."""
    return sum(width for _, width in _codes(encoder)) + text


def _codes(encoder: Encoder) -> list[tuple[int, int]]:
    """The first code of each column that is a feature, and their number.

    Of a number only the code of missing values is, after its bins.
    """
    numeric = [
        (column.codes - column.flag_missing, column.flag_missing) for column in encoder.numeric
    ]
    return [*numeric, *((0, column.codes) for column in encoder.categorical)]
