"""The columns of a CSV that are written as numbers in a format that has numbers.

A column is one of numbers only where nothing of it is lost: an identifier 007 stays a string, and
so does 9007199254740993 beside NaN, which a float64 would make 9007199254740992.
"""

import polars as pl

from torchbce.classifier.tables.reading import Scan

#: A number as JSON writes it. One of at most 15 digits is the same after float64.
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_DIGITS = 15
_SMALLEST = 2.3e-308  # smaller ones have fewer digits


def numeric_columns(table: Scan) -> dict[str, pl.DataType]:
    """The columns of strings that Int64 or Float64 holds exactly, with the type; {} if none.

    Args:
        table: what `scan` returned; only a CSV has columns of strings that may be numbers.
    """
    if not table.strings or table.empty:
        return {}
    names = table.frame.collect_schema().names()
    columns = [pl.col(name) for name in names]
    fit = table.frame.select(
        *(column.is_not_null().any().alias(f"any {i}") for i, column in enumerate(columns)),
        *(_are_integers(column).alias(f"int {i}") for i, column in enumerate(columns)),
        *(_are_floats(column).alias(f"float {i}") for i, column in enumerate(columns)),
    )
    found = fit.collect(engine="streaming").row(0)
    some, integers, floats = (found[i * len(names) : (i + 1) * len(names)] for i in range(3))
    types: dict[str, pl.DataType] = {}
    for name, any_value, whole, real in zip(names, some, integers, floats, strict=True):
        if any_value and (whole or real):
            types[name] = pl.Int64() if whole else pl.Float64()
    return types


def _are_integers(text: pl.Expr) -> pl.Expr:
    same = text.cast(pl.Int64, strict=False).cast(pl.String) == text
    return same.fill_null(text.is_null()).all()


def _are_floats(text: pl.Expr) -> pl.Expr:
    value = text.cast(pl.Float64, strict=False)
    mantissa = text.str.extract(r"^-?([0-9.]+)").str.replace_all(".", "", literal=True)
    digits = mantissa.str.strip_chars_start("0").str.len_chars()
    normal = (value.abs() >= _SMALLEST) | (digits == 0)
    exact = ((digits <= _DIGITS) & normal) | (value.cast(pl.String) == text)
    same = text.str.contains(_NUMBER) & value.is_finite() & exact
    return same.fill_null(text.is_null()).all()
