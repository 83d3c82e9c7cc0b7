"""A sparse matrix as one column of features, which the linear model reads as they are."""

from typing import Annotated, Any

import msgspec
import numpy as np
import scipy.sparse as sp

from torchbce.classifier.columns.text import TextUnits
from torchbce.classifier.errors import InputError

#: The name of the column.
NAME = "X"


class MatrixColumn(msgspec.Struct, frozen=True, tag_field="kind", tag="matrix"):
    """The columns of a sparse matrix, each a feature that is divided by its scale.

    The scale of a feature is its largest absolute value in the training rows if that is above 1,
    else 1: TF-IDF, shares and flags stay as they are, and counts are brought down to them, since
    all weights have one penalty. A stored NaN is 0, as a value that is not stored.
    """

    name: str
    width: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

    @property
    def vocabulary(self) -> list[str]:
        """The name of each feature, as scikit-learn names the columns of arrays."""
        return [f"x{position}" for position in range(self.width)]

    @property
    def units(self) -> list[TextUnits]:
        """All features, as the one unit of a text column."""
        return [TextUnits("columns", self.vocabulary)]


def fit_matrix(matrix: sp.csr_matrix) -> tuple[MatrixColumn, np.ndarray]:
    """The description of a matrix, and the scale of each feature, float32 [width]."""
    present = np.nan_to_num(np.abs(matrix.data), nan=0.0)
    scale = np.ones(matrix.shape[1], dtype=np.float32)
    with np.errstate(over="ignore"):  # an overflow is refused below
        np.maximum.at(scale, matrix.indices, present.astype(np.float32))
    if np.isinf(scale).any():
        at = int(np.isinf(scale).argmax())
        most = present[matrix.indices == at].max()
        raise InputError(
            f"column {at} of the matrix holds {most:g}, too large for float32; rescale the column"
        )
    return MatrixColumn(NAME, matrix.shape[1]), scale


def scaled(matrix: sp.csr_matrix, scale: np.ndarray) -> sp.csr_matrix:
    """The features of a matrix, float32 CSR, without stored zeros."""
    with np.errstate(over="ignore"):
        data = (np.nan_to_num(matrix.data, nan=0.0) / scale[matrix.indices]).astype(np.float32)
    most = np.finfo(np.float32).max
    features = sp.csr_matrix(
        (np.clip(data, -most, most), matrix.indices, matrix.indptr), shape=matrix.shape, copy=True
    )
    features.sum_duplicates()
    features.eliminate_zeros()
    return features


def as_matrix(rows: Any, width: int | None = None) -> sp.csr_matrix:
    """A sparse matrix or an array as a CSR matrix of float64.

    Args:
        rows: a SciPy sparse matrix or array, or an array of two dimensions.
        width: the number of its columns; None is any.

    Raises:
        InputError: if it is something else, or has another number of columns, or infinite values.
    """
    if not sp.issparse(rows) and not (isinstance(rows, np.ndarray) and rows.ndim == 2):
        raise InputError(
            f"the model reads a matrix of {width:,} columns and no table; pass a SciPy sparse "
            f"matrix or an array, got a {type(rows).__name__}"
        )
    matrix = sp.csr_matrix(rows, dtype=np.float64)
    if width is not None and matrix.shape[1] != width:
        raise InputError(
            f"the model reads a matrix of {width:,} columns, got one of {matrix.shape[1]:,}"
        )
    if np.isinf(matrix.data).any():
        raise InputError("the matrix holds an infinite number; replace it by a finite one")
    return matrix
