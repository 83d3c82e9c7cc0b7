"""Dates and times as numbers: year, month, day of the week, hour, and days since 1970.

A CSV and JSON lines hold them as strings, in one of `FORMATS`; Parquet as Date, Datetime or Time.
Both give the same features. An offset from UTC is left out: the hour is the one on the clock.
"""

import datetime
from dataclasses import dataclass

import msgspec
import polars as pl

from torchbce.classifier.columns.numeric import NumericColumn, fit_numeric
from torchbce.classifier.columns.values import is_missing
from torchbce.classifier.errors import InputError, Row

_NAMES = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
MONTHS = {name: str(number) for number, name in enumerate(_NAMES, start=1)}
_FIELDS = {
    "%Y": "(?P<year>[0-9]{4})",
    "%y": "(?P<short>[0-9]{2})",
    "%m": "(?P<month>[0-9]{1,2})",
    "%d": "(?P<day>[0-9]{1,2})",
    "%b": r"(?P<name>\p{L}{3})\p{L}*\.?",
}
_TIME = (
    "(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]+)?)?"
    r"\s?(?P<half>[AaPp])?(?:\.?[Mm]\.?)?\s?(?:Z|UTC|[+-][0-9]{2}:?[0-9]{2})?"
)
_GROUPS = ["year", "short", "month", "day", "name", "hour", "minute", "second", "half"]

#: How dates are written as text, each with or without a time after it. The first that fits is
#: taken, so 01/02/2024 is January 2 unless another row has a day above 12 in its place.
FORMATS = {
    "%Y-%m-%d": "2024-12-31",
    "%Y/%m/%d": "2024/12/31",
    "%Y.%m.%d": "2024.12.31",
    "%m/%d/%Y": "12/31/2024",
    "%d/%m/%Y": "31/12/2024",
    "%d.%m.%Y": "31.12.2024",
    "%d-%m-%Y": "31-12-2024",
    "%m-%d-%Y": "12-31-2024",
    "%d %b %Y": "31 Dec 2024",
    "%d-%b-%Y": "31-Dec-2024",
    "%b %d, %Y": "Dec 31, 2024",
    "%b %d %Y": "Dec 31 2024",
    "%m/%d/%y": "12/31/24",
    "%d/%m/%y": "31/12/24",
    "%d.%m.%y": "31.12.24",
    "%d-%b-%y": "31-Dec-24",
    "%Y-%m": "2024-12",
    "%H:%M": "23:59",
}
ISO = "%Y-%m-%d"

#: The parts that become features, in their order.
PARTS = ("year", "month", "day of week", "hour", "elapsed days")

#: Hours of a minute, and days of a microsecond. They are factors because polars computes a quotient
#: as a product too, and exported models have to compute the same bits.
HOURS, DAYS = 1 / 60, 1 / 86_400_000_000

#: A column is looked at more closely only if one of its first cells is a date.
_LOOK = 20


class DateColumn(msgspec.Struct, frozen=True, tag_field="kind", tag="date"):
    """A column of dates or times: its parts, each as a numeric column; constant ones are left out.

    Attributes:
        name: the column.
        written: how strings write a date, one of `FORMATS`.
        parts: the numeric columns, each named as one of `PARTS`.
    """

    name: str
    written: str
    parts: list[NumericColumn]


def fit_date(values: pl.Series, written: str) -> DateColumn:
    """The description of a column of dates."""
    parts = date_parts(values, written)
    fitted = [fit_numeric(parts[name]) for name in PARTS]
    return DateColumn(values.name, written, [part for part in fitted if part is not None])


def date_parts(values: pl.Series, written: str) -> dict[str, pl.Series]:
    """The parts of some dates by their name, float64, null where missing.

    Args:
        values: the column, of strings, dates or times.
        written: how strings write a date, one of `FORMATS`.

    Raises:
        InputError: at a value that is no date; the message names its row.
    """
    if not is_date(values.dtype) and values.dtype not in (pl.String, pl.Null):
        raise InputError(
            f"column {values.name!r} should hold dates, but its type is {values.dtype}"
        )
    moments = moments_of(values, written)
    bad = moments.is_null() & ~is_missing(values)
    if bad.any():
        at = int(bad.arg_max() or 0)
        raise InputError(
            f"column {values.name!r} should hold dates as {FORMATS.get(written, written)}, but ",
            Row(at),
            f" holds {values[at]!r}",
        )
    parts = {
        "year": moments.dt.year(),
        "month": moments.dt.month(),
        "day of week": moments.dt.weekday(),
        "hour": moments.dt.hour() + moments.dt.minute() * HOURS,
        "elapsed days": moments.dt.epoch("us") * DAYS,
    }
    return {name: part.cast(pl.Float64).alias(name) for name, part in parts.items()}


def is_date(dtype: pl.DataType) -> bool:
    """Whether a type is one of dates or times."""
    return dtype in (pl.Date, pl.Datetime, pl.Time)


def moments_of(values: pl.Series, written: str) -> pl.Series:
    """The values as dates with times on the clock, in whole seconds; null where there is none."""
    if values.dtype == pl.Null:
        return values.cast(pl.Datetime("us"))
    if values.dtype == pl.Datetime:
        return values.dt.replace_time_zone(None).cast(pl.Datetime("us")).dt.truncate("1s")
    if values.dtype == pl.Date:
        return values.cast(pl.Datetime("us"))
    if values.dtype == pl.Time:
        day = pl.lit(datetime.date(1970, 1, 1))
        return pl.select(day.dt.combine(pl.lit(values))).to_series().dt.truncate("1s")
    return _parsed(values.str.strip_chars(), written)


@dataclass(frozen=True)
class DateReading:
    """The format that fits most cells of a column, and how many those are."""

    written: str
    dates: int


def dates_of(text: pl.Series) -> DateReading:
    """How most cells of a column write a date.

    Args:
        text: the cells that are not missing.
    """
    best = DateReading(ISO, 0)
    head = text.head(_LOOK)
    for written in FORMATS:
        if _parsed(head, written).null_count() < len(head):
            dates = len(text) - _parsed(text, written).null_count()
            if dates > best.dates:
                best = DateReading(written, dates)
    return best


def _parsed(text: pl.Series, written: str) -> pl.Series:
    fields = text.str.extract_groups(date_pattern(written)).struct.unnest()
    fields = fields.with_columns(
        pl.lit(None, dtype=pl.String).alias(name) for name in _GROUPS if name not in fields.columns
    )
    only_time, no_day = written == "%H:%M", written == "%Y-%m"
    number = pl.col("short").cast(pl.Int64)  # as POSIX: 69 is 1969, and 68 is 2068
    short = (number + pl.when(number >= 69).then(1900).otherwise(2000)).cast(pl.String)
    name = pl.col("name").str.to_lowercase()
    month = name.replace_strict(MONTHS, default=None, return_dtype=pl.String)
    half = pl.col("half").str.to_lowercase()
    hour = pl.col("hour").cast(pl.Int64)
    hour = pl.when(half.is_null()).then(hour).otherwise(hour % 12 + 12 * (half == "p"))
    stamp = pl.format(
        "{}-{}-{} {}:{}:{}",
        pl.lit("1970") if only_time else pl.coalesce("year", short),
        pl.lit("01") if only_time else pl.coalesce("month", month).str.zfill(2),
        pl.lit("01") if only_time or no_day else pl.col("day").str.zfill(2),
        (hour.cast(pl.String) if only_time else hour.cast(pl.String).fill_null("0")).str.zfill(2),
        pl.col("minute").fill_null("00"),
        pl.col("second").fill_null("00"),
    )
    return fields.select(stamp.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)).to_series()


def date_pattern(written: str) -> str:
    """The regular expression of a format, whose groups are named as in `_GROUPS`.

    Args:
        written: one of `FORMATS`.
    """
    if written == "%H:%M":
        return f"^{_TIME}$"
    pattern = written.replace(".", r"\.").replace(" ", r"\s+").replace(",", ",?")
    for field, group in _FIELDS.items():
        pattern = pattern.replace(field, group)
    return rf"^{pattern}(?:(?:[T,]\s*|\s+){_TIME})?$"
