"""Tables of Python: polars, pandas and Arrow tables, and dicts of columns."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from torchbce.classifier.errors import InputError, listing

#: A polars DataFrame or LazyFrame, a pandas or Arrow table, or a dict of columns.
TableLike: TypeAlias = Any


def as_table(table: TableLike) -> pl.DataFrame:
    """The table as a polars DataFrame.

    Args:
        table: a polars DataFrame or LazyFrame, a pandas DataFrame, an Arrow table or anything else
            with `__arrow_c_stream__`, or a dict of columns of one length.

    Raises:
        InputError: if it is something else, or its columns have no names, equal names, different
            lengths or values of several kinds.
    """
    if isinstance(table, pl.DataFrame):
        return table
    try:
        return _as_table(table)
    except pl.exceptions.DuplicateError as error:
        # A LazyFrame and an Arrow table have no names before they are read; polars names one.
        found = re.search(r"name:? ['\"`]?([^'\"`]+)", str(error))
        raise _repeated([found[1]] if found else []) from error
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the table, a {_type(table)}, cannot be read: {reason}") from error


def _as_table(table: TableLike) -> pl.DataFrame:
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    if is_pandas(table):
        return _from_pandas(table)
    if isinstance(table, Mapping):
        return _from_columns(table)
    if hasattr(table, "__arrow_c_stream__") and not isinstance(table, pl.Series):
        frame = pl.DataFrame(table)
        _check_names(frame.columns)
        return frame
    raise InputError(
        f"the table must be a polars, pandas or Arrow table, a LazyFrame or a dict of columns, got "
        f"{'an' if _type(table)[0] in 'aeiou' else 'a'} {_type(table)}{_advice(table)}"
    )


def _advice(table: object) -> str:
    if isinstance(table, str | Path):
        return "; read a file with torchbce.classifier.read"
    if isinstance(table, list | tuple) or hasattr(table, "shape"):
        return "; give its columns names, as in {'name': values}"
    return ""


def _type(value: object) -> str:
    return type(value).__name__


def is_pandas(table: object) -> bool:
    """Whether a table is a pandas DataFrame."""
    return type(table).__module__.split(".")[0] == "pandas" and hasattr(table, "columns")


def _from_pandas(table: Any) -> pl.DataFrame:
    """The columns one by one: polars needs pyarrow for whole tables of pandas."""
    names = pandas_names(table)
    columns = {name: _pandas_series(table.iloc[:, i]) for i, name in enumerate(names)}
    return _from_columns(columns)


def pandas_names(table: Any) -> list[str]:
    """The names of the columns of a pandas frame. Raises `InputError` if two are equal."""
    names = [
        " ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in table.columns
    ]
    _check_names(names)
    return names


def _pandas_series(values: Any) -> Any:
    """A column of pandas as an array or a list, with None for missing values."""
    kind = getattr(values.dtype, "kind", "O")
    if type(values.dtype).__module__.startswith("numpy") and kind in "biufM":
        return values.to_numpy()
    if kind == "M":  # with a time zone; the hour on the clock is what counts
        return values.dt.tz_localize(None).to_numpy()
    missing = values.isna().to_numpy()
    return [None if gone else value for gone, value in zip(missing, values.tolist(), strict=True)]


def _from_columns(columns: Mapping[Any, Any]) -> pl.DataFrame:
    names = [str(name) for name in columns]
    _check_names(names)
    series = [_series(name, values) for name, values in zip(names, columns.values(), strict=True)]
    lengths = {len(column) for column in series}
    if len(lengths) > 1:
        shortest = min(series, key=len)
        longest = max(series, key=len)
        raise InputError(
            f"the columns of a table have the same length, but {shortest.name!r} has "
            f"{len(shortest):,} values and {longest.name!r} {len(longest):,}"
        )
    return pl.DataFrame(series)


def _series(name: str, values: Any) -> pl.Series:
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise InputError(
            f"column {name!r} must be a list, an array or a series of values, got a "
            f"{type(values).__name__}"
        )
    if type(values).__module__.split(".")[0] == "torch":
        values = values.detach().cpu().numpy()
    if type(values).__module__.split(".")[0] == "pandas":
        values = _pandas_series(values)
    if getattr(values, "ndim", 1) != 1:
        raise InputError(f"column {name!r} must have one dimension, got shape {values.shape}")
    if getattr(getattr(values, "dtype", None), "kind", "") == "O":
        values = values.tolist()
    try:
        series = pl.Series(name, values)
    except (TypeError, pl.exceptions.PolarsError) as error:
        if not isinstance(values, list | tuple):
            raise
        kinds = {type(value).__name__ for value in values if value is not None}
        if kinds <= {"int", "float", "bool"}:
            return pl.Series(name, values, strict=False)
        if kinds <= {"int", "float", "bool", "str"}:
            return pl.Series(name, [None if value is None else str(value) for value in values])
        raise InputError(
            f"column {name!r} holds values of several types, {listing(sorted(kinds))}"
        ) from error
    if series.dtype == pl.Object:
        kinds = {type(value).__name__ for value in values if value is not None}
        raise InputError(f"column {name!r} holds values of type {listing(sorted(kinds))}")
    return series


def _check_names(names: list[str]) -> None:
    repeated = (
        {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    )
    if repeated:
        raise _repeated(sorted(repeated))


def _repeated(names: list[str]) -> InputError:
    return InputError(
        f"the table has more than one column {listing(names) if names else 'of one name'}"
    )
