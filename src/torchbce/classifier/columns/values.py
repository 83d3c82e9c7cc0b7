"""The values of a column as text, as numbers, or as missing."""

from collections.abc import Collection

import numpy as np
import polars as pl
import polars.selectors as cs

from torchbce.classifier.columns.numbers import PLAIN, Notation, numbers_of
from torchbce.classifier.errors import InputError, Row

#: Words that mean "no value": those of pandas' read_csv, and "?". JSON and Parquet have null. A "-"
#: is none of them: spreadsheets write 0 so.
MISSING = [
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "?"),
]

#: What polars casts to NaN, in lower case.
NOT_NUMBERS = ["nan", "+nan", "-nan"]

#: How a bool is written; its text is the last of its line.
BOOLEANS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def as_text(values: pl.Series) -> pl.Series:
    """The values as stripped strings, missing ones null.

    1, 1.0 and "1.0" are all "1", and True, "TRUE" and "True" are all "true", so that a value is the
    same text whether the table is a CSV or a Parquet file.
    """
    if values.dtype == pl.Boolean or values.dtype.is_integer():
        return values.cast(pl.String)
    if values.dtype.is_float():
        text = values.fill_nan(None).cast(pl.String)
    else:
        text = values.cast(pl.String).str.strip_chars()
        text = text.set(text.is_in(MISSING).fill_null(True), None)
        if text.is_in(list(BOOLEANS)).any():
            text = text.replace(BOOLEANS)
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


def as_numbers(values: pl.Series, written: Notation = PLAIN) -> np.ndarray:
    """The values as float64, missing ones NaN; true is 1 and false is 0.

    Args:
        values: the column.
        written: how its numbers are written, where they are strings.

    Raises:
        InputError: at a value that is not a finite number; the message names its row.
    """
    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        array = values.cast(pl.Float64).to_numpy(writable=True)  # null is NaN
        _refuse_infinite(values.name, np.isinf(array))
        return array
    numbers = numbers_of(values, written)
    if numbers is None:
        raise InputError(
            f"column {values.name!r} should hold numbers, but its type is {values.dtype}"
        )
    bad = numbers.is_null() & ~is_missing(values)
    if bad.any():
        words = values.str.strip_chars().replace(BOOLEANS)
        if written == PLAIN:
            bad = bad & ~words.str.to_lowercase().is_in(NOT_NUMBERS).fill_null(False)
        numbers = numbers.set(bad & (words == "true"), 1.0).set(bad & (words == "false"), 0.0)
        bad = numbers.is_null() & bad
    if bad.any():
        at = int(bad.arg_max() or 0)
        kind = "numbers" if written == PLAIN else f"numbers {written.words()}"
        raise InputError(
            f"column {values.name!r} should hold {kind}, but ", Row(at), f" holds {values[at]!r}"
        )
    array = numbers.to_numpy(writable=True)
    _refuse_infinite(values.name, np.isinf(array))
    return array


def _refuse_infinite(name: str, infinite: np.ndarray) -> None:
    if infinite.any():
        raise InputError(
            f"column {name!r} holds an infinite number in ",
            Row(int(infinite.argmax())),
            "; replace it or leave it empty",
        )


def plain_numbers(table: pl.DataFrame, names: Collection[str]) -> pl.DataFrame:
    """The columns of plain numbers among some of a table, as float64, null or NaN where missing.

    A few operations for all columns at once: one column at a time, 30,000 columns take minutes.

    Args:
        table: any table.
        names: its columns to look at, of strings or numbers.
    """
    given = table.select(names)
    schema = given.schema
    strings = [name for name, dtype in schema.items() if dtype == pl.String]
    text = pl.col(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    numbers = given.select(text, (~cs.string()).cast(pl.Float64)) if names else given
    # The cells that are none are looked at only where there are any.
    before = _null_counts(given.select(strings))
    nulls = zip(strings, _null_counts(numbers.select(strings)), before, strict=True)
    lacking = [name for name, now, before in nulls if now > before]
    if lacking:
        words = given.select(~pl.col(lacking).str.strip_chars().is_in(MISSING).fill_null(True))
        unread = numbers.select(pl.col(lacking).is_null())
        bad = np.logical_and(words.to_numpy(), unread.to_numpy()).any(axis=0)
        numbers = numbers.drop(name for name, any_bad in zip(lacking, bad, strict=True) if any_bad)
    return numbers


def _null_counts(table: pl.DataFrame) -> tuple[int, ...]:
    return table.null_count().row(0) if table.width else ()


def is_missing(values: pl.Series) -> pl.Series:
    """Whether each value is missing."""
    if values.dtype == pl.String:
        return values.is_null() | values.str.strip_chars().is_in(MISSING).fill_null(True)
    if values.dtype.is_float():
        return values.is_null() | values.is_nan().fill_null(True)
    return values.is_null()


def without_words(table: pl.DataFrame, words: Collection[str]) -> pl.DataFrame:
    """The table with null for every value that is one of some words, in any format.

    Args:
        table: any table.
        words: more words that mean "no value"; "-999" means the number too.
    """
    if not words:
        return table
    stripped = [word.strip() for word in words]
    numbers = pl.Series(stripped).cast(pl.Float64, strict=False).drop_nulls().to_list()
    strings, floats = cs.string(include_categorical=True), cs.numeric()
    text = strings.cast(pl.String).str.strip_chars()
    named = text.is_in(stripped) | text.cast(pl.Float64, strict=False).is_in(numbers)
    equal = floats.cast(pl.Float64).is_in(numbers)
    return table.with_columns(
        pl.when(named.fill_null(False)).then(None).otherwise(strings).name.keep(),
        pl.when(equal.fill_null(False)).then(None).otherwise(floats).name.keep(),
    )


def is_unsupported(dtype: pl.DataType) -> bool:
    """Whether values of a type are neither inputs nor targets: lists, structs, durations, bytes."""
    return dtype.is_nested() or dtype in (pl.Duration, pl.Binary, pl.Object)
