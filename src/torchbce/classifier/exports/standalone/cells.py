"""The values of a column as numbers, dates and categories."""

import datetime
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

#: White space as Unicode has it; `str.strip()` takes four control characters more.
WHITE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
PLAIN_NUMBER = re.compile(
    r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|(?i:inf|infinity|nan))"
)
BOOLEANS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
MINUS = dict.fromkeys(map(ord, "\u2212\u2013"), "-")
SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u202f"), " ") | {0x2019: "'"}
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
EPOCH = datetime.datetime(1970, 1, 1)
#: Above this, neighbouring integers are the same float.
EXACT = 2.0**53


def values_of(column: Any, numeric: bool) -> list[Any]:
    """The values of a list or an array, as Python's own types; None or NaN where missing."""
    if isinstance(column, np.ndarray):
        if column.dtype.kind == "M":
            column = column.astype("datetime64[s]")
        elif column.dtype.kind == "f" and not numeric:
            column = [float(str(value)) for value in column]  # as a float32 is written
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    if str in kinds and len(kinds) > 1:
        return [None if value is None else str(value) for value in values]
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return values


def plain_number(text: str) -> float | None:
    """The number of a text such as -1.5e3; None if it is none."""
    return float(text) if PLAIN_NUMBER.fullmatch(text) else None


def without_words(values: list[Any], words: set[str], numbers: set[float]) -> list[Any]:
    """The values, with None for those that are one of the words that mean "no value"."""

    def named(value: Any) -> bool:
        if isinstance(value, str):
            text = value.strip(WHITE)
            if text in words:
                return True
            number = plain_number(text)
            return number in numbers or (number != number and "nan" in map(str, numbers))
        return isinstance(value, int | float) and not isinstance(value, bool) and value in numbers

    return [None if named(value) else value for value in values] if words else values


def read_all(values: list[Any], name: str, kind: str, read: Callable[[Any], Any]) -> list[Any]:
    """What a function reads in each value; an error names the first value that it cannot read."""
    found = []
    for row, value in enumerate(values, start=1):
        try:
            found.append(read(value))
        except ValueError:
            raise ValueError(
                f"column {name!r} should hold {kind}, but row {row} holds {value!r}"
            ) from None
    return found


def number_reader(column: dict[str, Any], missing: set[str]) -> Callable[[Any], float]:
    """A function from a value of a numeric column to a finite number, or NaN where missing."""
    pattern = re.compile(column["pattern"])

    def of_text(text: str) -> float:
        if text in missing:
            return math.nan
        match = pattern.fullmatch(text.translate(SPACES))
        if match is None:
            number = plain_number(text) if column["plain"] else None
            if number is not None and math.isnan(number):  # NAN
                return math.nan
            return {"true": 1.0, "false": 0.0}.get(BOOLEANS.get(text, text), math.inf)
        opened, sign, inner, body, exponent, closed = (part or "" for part in match.groups())
        if (opened == "") != (closed == "") or (sign and inner):
            return math.inf
        digits = body.replace(column["thousands"], "") if column["thousands"] else body
        size = float(digits.replace(column["decimal"], ".") + exponent.translate(MINUS))
        return -size if opened or (sign + inner).translate(MINUS) == "-" else size

    def read(value: Any) -> float:
        if value is None:
            return math.nan
        if isinstance(value, int | float):
            number = float(value)
        elif isinstance(value, str):
            number = of_text(value.strip(WHITE))
        else:
            number = math.inf
        if math.isinf(number):
            raise ValueError
        return number

    return read


def moment_reader(column: dict[str, Any], missing: set[str]) -> Callable[[Any], int | None]:
    """A function from a date to its seconds since 1970 on the clock, None where missing."""
    pattern, groups = re.compile(column["pattern"]), column["groups"]

    def of_text(text: str) -> int | None:
        if text in missing:
            return None
        match = pattern.fullmatch(text)
        if match is None:
            raise ValueError
        part = dict(zip(groups, match.groups(), strict=True))
        year = int(part.get("year") or 1970)
        if part.get("short"):  # as POSIX: 69 is 1969, and 68 is 2068
            year = int(part["short"]) + (1900 if int(part["short"]) >= 69 else 2000)
        month = int(part.get("month") or 1)
        if part.get("name"):
            month = MONTHS.index(part["name"].lower()) + 1
        hour = int(part["hour"] or 0)
        if part["half"]:
            hour = hour % 12 + 12 * (part["half"] in "pP")
        minute, second = int(part["minute"] or 0), int(part["second"] or 0)
        if hour > 23 or minute > 59 or second > 60:
            raise ValueError
        # Python has no year 0: 400 years have 146,097 days.
        day = datetime.date(year or 400, month, int(part.get("day") or 1)).toordinal()
        days = day - EPOCH.toordinal() - (0 if year else 146097)
        return days * 86400 + hour * 3600 + minute * 60 + second

    def read(value: Any) -> int | None:
        if value is None or value != value:
            return None
        if isinstance(value, str):
            return of_text(value.strip(WHITE))
        if isinstance(value, datetime.datetime):
            if value.tzinfo is not None and not hasattr(value.tzinfo, "key"):
                value = value.astimezone(datetime.UTC)
            return int((value.replace(tzinfo=None) - EPOCH) // datetime.timedelta(seconds=1))
        if isinstance(value, datetime.date):
            return (value.toordinal() - EPOCH.toordinal()) * 86400
        if isinstance(value, datetime.time):
            return value.hour * 3600 + value.minute * 60 + value.second
        raise ValueError

    return read


def moment_parts(moments: list[int | None]) -> dict[str, np.ndarray]:
    """The numbers of some dates: year, month, day of the week, hour, days since 1970."""
    missing = np.array([moment is None for moment in moments], dtype=bool)
    seconds = np.array([moment or 0 for moment in moments], dtype="datetime64[s]")
    days, months = seconds.astype("datetime64[D]"), seconds.astype("datetime64[M]")
    clock = (seconds - days).astype(np.int64)
    parts = {
        "year": months.astype("datetime64[Y]").astype(np.int64) + 1970,
        "month": months.astype(np.int64) % 12 + 1,
        "day of week": (days.astype(np.int64) + 3) % 7 + 1,
        "hour": clock // 3600 + clock // 60 % 60 * (1 / 60),
        "elapsed days": seconds.astype(np.int64) * 1_000_000 * (1 / 86_400_000_000),
    }
    return {name: np.where(missing, np.nan, part) for name, part in parts.items()}


def category_reader(missing: set[str]) -> Callable[[Any], str | float | None]:
    """A function from a value to what equal values have in common: 1, 1.0 and "1.0" are one."""

    def read(value: Any) -> str | float | None:
        if value is None:
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return float(value) if abs(value) < EXACT else str(value)
        text = plain_text(value).strip(WHITE)
        if isinstance(value, float):
            return value if abs(value) < EXACT else None if value != value else text
        if text in missing:
            return None
        number = plain_number(text)
        if number is not None and abs(number) < EXACT:
            return number
        return BOOLEANS.get(text, text)

    return read


def plain_text(value: Any) -> str:
    """A value as text; a missing one is empty."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S.%f}"
    if isinstance(value, datetime.time):
        return f"{value:%H:%M:%S}"
    if isinstance(value, float):
        # 0.00001 and 1e-7, where Python has 1e-05 and 1e-07.
        if 1e-5 <= abs(value) < 1e-4:
            return np.format_float_positional(value)
        return re.sub(r"e-0", "e-", repr(value))
    return str(value)
