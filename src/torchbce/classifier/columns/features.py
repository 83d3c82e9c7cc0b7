"""What the kinds of columns share: sparse features, and how many rows a rare value needs."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

#: A word, pair or category of a single row says nothing about other rows, and is left out of
#: tables of this many rows or more. A smaller table may have nothing else.
RARE_ROWS = 200


def least_rows(rows: int) -> int:
    """The number of rows that a word, pair or category must be in, of a table of `rows` rows."""
    return 2 if rows >= RARE_ROWS else 1


def one_hot(codes: np.ndarray, width: int) -> sp.csr_matrix:
    """A matrix with a 1 at the code of each row; a row with a negative code is all zeros."""
    known = codes >= 0
    indptr = np.concatenate([[0], np.cumsum(known)])
    ones = np.ones(int(indptr[-1]), dtype=np.float32)
    return sp.csr_matrix((ones, codes[known], indptr), shape=(len(codes), width))


def one_column(values: np.ndarray) -> sp.csr_matrix:
    """A matrix of one column; quicker than scipy's own way, which counts with 30,000 columns."""
    stored = values != 0
    indptr = np.concatenate([[0], np.cumsum(stored)])
    indices = np.zeros(int(indptr[-1]), dtype=np.int32)
    data = values[stored].astype(np.float32)
    return sp.csr_matrix((data, indices, indptr), shape=(len(values), 1))


def concatenate(blocks: Sequence[sp.csr_matrix]) -> sp.csr_matrix:
    """The blocks of features side by side, float32."""
    features = blocks[0] if len(blocks) == 1 else sp.hstack(blocks, format="csr")
    return features.astype(np.float32, copy=False)
