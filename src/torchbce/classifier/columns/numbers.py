"""Numbers as people write them: $1.20, 12 %, 1,234.50, 1.234,50, 1_000, 5 kg, with U+2212 as minus.

A column is read so only if all of its cells are written in the same way, which is kept with the
column: new values are read as those that it was fitted to.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl


@dataclass(frozen=True)
class Notation:
    """How the numbers of a column are written.

    Attributes:
        decimal: what begins the decimals.
        thousands: what is between groups of digits; "" if nothing.
        before: what every number begins with, for instance "$".
        after: what every number ends with, for instance "%" or "kg".
    """

    decimal: Literal[".", ","] = "."
    thousands: Literal["", ",", ".", " ", "'", "_"] = ""
    before: str = ""
    after: str = ""

    def words(self) -> str:
        """What is not plain about it, for instance "with % and ',' for thousands"."""
        parts = [part for part in (self.before, self.after) if part]
        if self.thousands:
            parts.append(f"{self.thousands!r} for thousands")
        if self.decimal == ",":
            parts.append("a decimal comma")
        return f"with {' and '.join(parts)}" if parts else ""


PLAIN = Notation()

_CODES = (
    "USD|EUR|GBP|CHF|JPY|CNY|RMB|INR|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|BRL|MXN|ZAR|KRW|SGD|HKD|"
    "TRY|RUB|Rs|kr"
)
_CURRENCY = rf"(?:[A-Z]{{0,3}}\p{{Sc}}|(?:{_CODES})\b\.?)"
#: A unit of one letter only if it is usual: 12A may be a seat.
_UNIT = r"(?:[gmshldykKMBVWLt]|m[23²³]|[°µ%‰]\p{L}?|\p{L}[\p{L}²³°/. ]*[\p{L}²³.][23]?)"
#: The signs that make a number negative.
MINUS = r"[-\u2212\u2013]"
#: What is read as a space, and as an apostrophe.
SPACES, APOSTROPHE = "\u00a0\u2007\u2009\u202f", "\u2019"

#: Any number: a sign, a currency, digits with separators, an exponent, a unit.
_CELL = (
    rf"^(\()?([-+\u2212\u2013])?\s*({_CURRENCY})?\s*([-+\u2212\u2013])?"
    r"([0-9](?:[0-9.,'_ ]*[0-9.,])?|[.,][0-9]+)([eE][-+\u2212\u2013]?[0-9]+)?"
    rf"\s*({_CURRENCY}|{_UNIT})?(\))?$"
)
_THOUSANDS = {".": ["", ",", " ", "'", "_"], ",": ["", ".", " ", "'", "_"]}


@dataclass(frozen=True)
class Reading:
    """The notation that fits most cells of a column, and how many cells those are.

    Attributes:
        written: the notation.
        numbers: how many cells are numbers in this notation.
        alike: how many cells are numbers, in any notation without a unit of letters.
    """

    written: Notation
    numbers: int
    alike: int


def notation_of(text: pl.Series, decimal: str) -> Reading:
    """How most cells of a column are written.

    Args:
        text: its cells that are not missing.
        decimal: what begins the decimals, "." or ",".
    """
    parts = _parts(text)
    usual = parts.drop_nulls("body").select("before", "after").to_series
    if parts["body"].null_count() == len(parts):
        return Reading(PLAIN, 0, 0)
    before, after = (_most_common(usual(i)) for i in range(2))
    choices = [(decimal, thousands) for thousands in _THOUSANDS[decimal]]
    if decimal == ",":
        choices.append((".", ""))  # a column of decimal points among others
    best, alike = Reading(PLAIN, 0, 0), pl.repeat(False, len(text), eager=True)
    plain_unit = parts["after"].str.contains(rf"^(%|{_CURRENCY})?$").fill_null(False)
    for mark, thousands in choices:
        written = Notation(mark, thousands, before, after)  # type: ignore[arg-type]
        digits = _in_digits(parts["body"], written)
        alike = alike | (digits & plain_unit)
        numbers = int((digits & (parts["before"] == before) & (parts["after"] == after)).sum())
        if numbers > best.numbers:
            best = Reading(written, numbers, 0)
    return Reading(best.written, best.numbers, int(alike.sum()))


def numbers_of(values: pl.Series, written: Notation = PLAIN) -> pl.Series | None:
    """The values as float64, null where missing or not a number so written; None for other types.

    Args:
        values: the column: strings, numbers or bool.
        written: how strings write a number.
    """
    if values.dtype == pl.String:
        return _parsed(values.str.strip_chars(), written).fill_nan(None)
    if values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null):
        return values.cast(pl.Float64).fill_nan(None)
    return None


def _parsed(text: pl.Series, written: Notation) -> pl.Series:
    if written != PLAIN:
        return _parsed_by_parts(text, written)
    numbers = text.cast(pl.Float64, strict=False)
    others = numbers.is_null() & text.is_not_null()
    if others.any():  # perhaps another minus, brackets or a space after the sign
        found = _parsed_by_parts(text.filter(others), written)
        numbers = numbers.scatter(others.arg_true(), found)
    return numbers


def _parsed_by_parts(text: pl.Series, written: Notation) -> pl.Series:
    parts = _parts(text)
    body = parts["body"]
    if written.thousands:
        body = body.str.replace_all(written.thousands, "", literal=True)
    if written.decimal == ",":
        body = body.str.replace(",", ".", literal=True)
    numbers = (body + parts["exponent"].str.replace(MINUS, "-")).cast(pl.Float64, strict=False)
    fits = _in_digits(parts["body"], written) & (
        (parts["before"] == written.before) & (parts["after"] == written.after)
    )
    numbers = numbers.zip_with(fits.fill_null(False), pl.Series([None], dtype=pl.Float64))
    return numbers.zip_with(~parts["negative"].fill_null(False), -numbers)


def _parts(text: pl.Series) -> pl.DataFrame:
    """The parts of each number, null where a cell is none; a missing part is ""."""
    spaced = text.str.replace_all(f"[{SPACES}]", " ").str.replace_all(APOSTROPHE, "'")
    names = ["open", "sign", "before", "inner", "body", "exponent", "after", "close"]
    groups = spaced.str.extract_groups(_CELL).struct.rename_fields(names).struct.unnest()
    minus = pl.col("sign", "inner").str.contains(MINUS).fill_null(False)
    both = pl.col("open").is_not_null() == pl.col("close").is_not_null()
    return groups.with_columns(
        body=pl.when(both & (pl.col("sign").is_null() | pl.col("inner").is_null())).then("body"),
        negative=pl.any_horizontal(minus) | pl.col("open").is_not_null(),
    ).with_columns(pl.col("before", "after", "exponent").fill_null("").str.strip_chars())


def _in_digits(body: pl.Series, written: Notation) -> pl.Series:
    """Whether the digits are grouped as a notation says."""
    return body.str.contains(f"^(?:{digits_pattern(written)})$").fill_null(False)


def digits_pattern(written: Notation) -> str:
    """The regular expression of the digits of a number, with its groups and decimals."""
    between, point = (f"[{written.thousands}]" if written.thousands else ""), f"[{written.decimal}]"
    whole = "[0-9]+"
    if written.thousands == "_":
        whole = "[0-9]+(?:_[0-9]+)*"
    elif written.thousands:
        # India writes 12,34,567. No number of thousands begins with 0: 0,126 has decimals.
        short = "{2,3}" if written.thousands == "," else "{3}"
        whole = rf"(?:[1-9][0-9]{{0,2}}(?:{between}[0-9]{short})*{between}[0-9]{{3}}|[0-9]+)"
    return rf"{whole}(?:{point}[0-9]*)?|{point}[0-9]+"


def _most_common(values: pl.Series) -> str:
    counts = values.alias("value").value_counts(sort=True, name="times")
    word: str = counts["value"][0]
    return word
