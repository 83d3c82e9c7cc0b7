"""What the values of a column say: as text, as numbers, or missing."""

import numpy as np
import polars as pl

from torchbce.classifier.errors import InputError

#: What stands for "no value" in files that have no null.
MISSING = ["", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A"]


def as_text(values: pl.Series) -> pl.Series:
    """The values as stripped strings, missing ones null; 1, 1.0 and "1.0" are all "1".

    A table in CSV and the same in Parquet then say the same.
    """
    if values.dtype == pl.Boolean or values.dtype.is_integer():
        return values.cast(pl.String)
    if values.dtype.is_float():
        text = values.fill_nan(None).cast(pl.String)
    else:
        text = values.cast(pl.String).str.strip_chars()
        text = text.set(text.is_in(MISSING).fill_null(True), None)
    numbers = text.cast(pl.Float64, strict=False)
    # Beyond 2^53 a float no longer tells neighbouring integers apart.
    whole = (
        numbers.is_finite() & (numbers == numbers.round()) & (numbers.abs() < 2**53)
    ).fill_null(False)
    broken = (numbers.is_finite() & (numbers != numbers.round())).fill_null(False)
    if not (whole | broken).any():
        return text
    text = numbers.cast(pl.String).zip_with(broken, text)
    return numbers.cast(pl.Int64, strict=False).cast(pl.String).zip_with(whole, text)


def as_numbers(values: pl.Series, first_row: int = 1) -> np.ndarray:
    """The values as float64, missing ones NaN.

    Raises `InputError`, with the row, at a value that is not a finite number.
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
            f"column {values.name!r} should hold numbers, but row {first_row + at} holds "
            f"{values[at]!r}"
        )
    infinite = numbers.is_infinite().fill_null(False)
    if infinite.any():
        at = int(infinite.arg_max() or 0)
        raise InputError(
            f"column {values.name!r} holds an infinite number in row {first_row + at}; "
            "replace it or leave it empty"
        )
    return numbers.fill_null(float("nan")).to_numpy(writable=True)


def maybe_numbers(values: pl.Series) -> pl.Series | None:
    """The values as float64, null where missing or not a number; None if their type has none."""
    if values.dtype == pl.String:
        return values.str.strip_chars().cast(pl.Float64, strict=False).fill_nan(None)
    if values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null):
        return values.cast(pl.Float64).fill_nan(None)
    return None


def all_numbers(values: pl.Series) -> bool:
    """Whether every value that is not missing is a number, and there is one."""
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
