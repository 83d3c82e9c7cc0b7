"""The values of a column as text, as numbers, or as missing."""

import numpy as np
import polars as pl

from torchbce.classifier.errors import InputError, Row

#: Values of a CSV that mean "no value"; JSON and Parquet have null.
MISSING = ["", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A"]


def as_text(values: pl.Series) -> pl.Series:
    """The values as stripped strings, missing ones null; 1, 1.0 and "1.0" are all "1".

    So a value is the same text whether the table is a CSV or a Parquet file.
    """
    if values.dtype == pl.Boolean or values.dtype.is_integer():
        return values.cast(pl.String)
    if values.dtype.is_float():
        text = values.fill_nan(None).cast(pl.String)
    else:
        text = values.cast(pl.String).str.strip_chars()
        text = text.set(text.is_in(MISSING).fill_null(True), None)
    numbers = text.cast(pl.Float64, strict=False)
    # Above 2^53 neighbouring integers are the same float64.
    whole = (
        numbers.is_finite() & (numbers == numbers.round()) & (numbers.abs() < 2**53)
    ).fill_null(False)
    fractional = (numbers.is_finite() & (numbers != numbers.round())).fill_null(False)
    if not (whole | fractional).any():
        return text
    text = numbers.cast(pl.String).zip_with(fractional, text)
    return numbers.cast(pl.Int64, strict=False).cast(pl.String).zip_with(whole, text)


def as_numbers(values: pl.Series) -> np.ndarray:
    """The values as float64, missing ones NaN.

    Raises:
        InputError: at a value that is not a finite number; the message names its row.
    """
    numbers = maybe_numbers(values)
    if numbers is None or not numbers.dtype.is_float():
        raise InputError(
            f"column {values.name!r} should hold numbers, but its type is {values.dtype}"
        )
    bad = numbers.is_null() & ~_missing(values)
    if bad.any():
        at = int(bad.arg_max() or 0)
        raise InputError(
            f"column {values.name!r} should hold numbers, but ", Row(at), f" holds {values[at]!r}"
        )
    infinite = numbers.is_infinite().fill_null(False)
    if infinite.any():
        raise InputError(
            f"column {values.name!r} holds an infinite number in ",
            Row(int(infinite.arg_max() or 0)),
            "; replace it or leave it empty",
        )
    return numbers.fill_null(float("nan")).to_numpy(writable=True)


def maybe_numbers(values: pl.Series) -> pl.Series | None:
    """The values as float64, null where missing or not a number; None for other types, as dates."""
    if values.dtype == pl.String:
        return values.str.strip_chars().cast(pl.Float64, strict=False).fill_nan(None)
    if values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null):
        return values.cast(pl.Float64).fill_nan(None)
    return None


def all_numbers(values: pl.Series) -> bool:
    """Whether there are values that are not missing, and all of those are numbers."""
    numbers = maybe_numbers(values)
    if numbers is None:
        return False
    return bool(numbers.is_not_null().any()) and not (numbers.is_null() & ~_missing(values)).any()


def _missing(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return values.is_null() | values.str.strip_chars().is_in(MISSING).fill_null(True)
    if values.dtype.is_float():
        return values.is_null() | values.is_nan().fill_null(True)
    return values.is_null()


def is_unsupported(dtype: pl.DataType) -> bool:
    """Whether values of a type are neither inputs nor targets: lists, structs, dates, bytes."""
    return dtype.is_nested() or dtype.is_temporal() or dtype == pl.Binary
