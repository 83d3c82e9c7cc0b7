"""X of a scikit-learn estimator as a table or a sparse matrix, checked as scikit-learn does."""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import scipy.sparse as sp
import sklearn
from sklearn.utils.validation import validate_data

from torchbce.classifier.columns.inference import Overrides
from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.tables.frames import as_table, is_pandas, pandas_names

#: Up to this many columns a sparse matrix is read as an array, so that every model can read it.
DENSE_COLUMNS = 256

Rows: TypeAlias = Any  # a polars DataFrame, or a CSR matrix


def is_frame(X: Any) -> bool:
    """Whether X has columns of several types: a polars, pandas or Arrow table, or a dict."""
    if sp.issparse(X):  # a DOK matrix is a dict in older versions of SciPy
        return False
    if isinstance(X, pl.DataFrame | pl.LazyFrame | Mapping):
        return True
    return is_pandas(X) or (hasattr(X, "__arrow_c_stream__") and not hasattr(X, "dtype"))


def read_rows(estimator: Any, X: Any) -> Rows:
    """X of a first fit, which sets `n_features_in_` and `feature_names_in_` of the estimator.

    Args:
        estimator: the estimator.
        X: a frame, an array or a sparse matrix, [rows, columns].

    Returns:
        The table of a frame; of an array or a narrow matrix the table of its columns x0, x1, ...;
        a wide matrix as it is.

    Raises:
        ValueError: if X is none of these, or holds infinite values.
    """
    if is_frame(X):
        X = _with_names(X)
        _check_names(estimator, X, reset=True)
        return as_table(X)
    array = _checked(estimator, X, reset=True)
    if sp.issparse(array) and array.shape[1] > DENSE_COLUMNS:
        return sp.csr_matrix(array)
    return table_of(array, [f"x{position}" for position in range(array.shape[1])])


def read_more(estimator: Any, X: Any, names: list[str] | None) -> Rows:
    """X of a fitted estimator, as it was read when it was fitted.

    Args:
        estimator: the estimator.
        X: as in `read_rows`.
        names: the names of the columns of its table; None if it reads a matrix.

    Raises:
        ValueError: as `read_rows`, and if there are other columns than X had in the fit.
    """
    if not is_frame(X):
        array = _checked(estimator, X, reset=False)
        return sp.csr_matrix(array) if names is None else table_of(array, names)
    X = _with_names(X)
    _check_names(estimator, X, reset=False)
    table = as_table(X)
    if names is None:
        return sp.csr_matrix(_checked(estimator, table.to_numpy(), reset=False))
    return (
        table
        if table.columns == names
        else table.rename(dict(zip(table.columns, names, strict=True)))
    )


def given_kinds(
    rows: Rows, numeric_by_default: bool, kinds: Mapping[str, Collection[Any] | None]
) -> Overrides:
    """The columns whose kind is given.

    Args:
        rows: X; a matrix has no kinds.
        numeric_by_default: whether every other column is numeric, as those of an array are.
        kinds: for each kind of `Overrides` the names or positions of columns; None is none.
    """
    if not isinstance(rows, pl.DataFrame):
        for kind, columns in kinds.items():
            if columns is not None and len(columns):
                raise InputError(
                    Argument(kind), " needs a frame or an array; a sparse X has numbers only"
                )
        return Overrides()
    given = {kind: _names(rows, kind, columns) for kind, columns in kinds.items()}
    if numeric_by_default:
        named = {name for names in given.values() for name in names}
        given["numeric"] += [name for name in rows.columns if name not in named]
    return Overrides(**given)


def _names(table: pl.DataFrame, kind: str, columns: Collection[Any] | None) -> list[str]:
    if isinstance(columns, str) or not (columns is None or hasattr(columns, "__iter__")):
        raise InputError(
            Argument(kind), f" must be names or positions of columns, as [{columns!r}]"
        )
    found = []
    for column in () if columns is None else columns:
        if isinstance(column, int | np.integer) and not isinstance(column, bool):
            if not 0 <= column < table.width:
                raise InputError(
                    Argument(kind), f" names column {column} of {table.width}, counted from 0"
                )
            found.append(table.columns[column])
        else:
            found.append(str(column))
    return found


def table_of(array: Any, names: list[str]) -> pl.DataFrame:
    """The table of an array or a narrow sparse matrix, of float64 columns."""
    dense = array.toarray() if sp.issparse(array) else array
    return pl.DataFrame(
        {name: np.ascontiguousarray(column) for name, column in zip(names, dense.T, strict=True)}
    )


def _with_names(X: Any) -> Any:
    """X as a frame that scikit-learn knows."""
    if is_pandas(X):
        pandas_names(X)  # scikit-learn does not say which names are equal
        return X
    return X if isinstance(X, pl.DataFrame) else as_table(X)


class _Protocol:
    """The names of a polars frame, for scikit-learn before 1.9, which does not know polars 2."""

    def __init__(self, table: pl.DataFrame) -> None:
        self.shape, self._names = table.shape, table.columns

    def __dataframe__(self) -> "_Protocol":
        return self

    def column_names(self) -> list[str]:
        return self._names


def _check_names(estimator: Any, X: Any, reset: bool) -> None:
    """Set the names and the number of columns of the estimator, or compare them with those of X."""
    old = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9)
    names = _Protocol(X) if old and isinstance(X, pl.DataFrame) else X
    validate_data(estimator, names, skip_check_array=True, reset=reset)


def _checked(estimator: Any, X: Any, reset: bool) -> Any:
    return validate_data(
        estimator,
        X,
        reset=reset,
        accept_sparse="csr",
        dtype=np.float64,
        ensure_all_finite="allow-nan",
    )
