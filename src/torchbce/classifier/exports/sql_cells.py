"""The cells of a table as numbers and codes, in SQL.

Every column is read as text, whatever its type, so that a table of strings and one of typed columns
give the same numbers. A cell that the model cannot read, as text among numbers, is remembered in a
column of its own, and the row gets no probability.
"""

import math
import sys

import polars as pl

from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.dates import DAYS, HOURS, ISO, MONTHS, DateColumn
from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.columns.numbers import APOSTROPHE, PLAIN, SPACES
from torchbce.classifier.columns.numeric import NumericColumn
from torchbce.classifier.columns.values import BOOLEANS, MISSING
from torchbce.classifier.exports.patterns import (
    MINUS_SIGNS,
    Pattern,
    moment_pattern,
    number_pattern,
)
from torchbce.classifier.exports.sql_words import choice, lookup, name, number, text, texts
from torchbce.classifier.exports.standalone.cells import EXACT, WHITE, plain_number

#: Expressions by the name of the column that they make.
Stage = dict[str, str]

_PLAIN = text("^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$")
_NAN = texts(["nan", "+nan", "-nan"])
_WORDS = {
    value: [w for w, v in BOOLEANS.items() if v == value] + [value] for value in ("true", "false")
}


def cell_stages(encoder: Encoder, missing: list[str]) -> dict[str, Stage]:
    """From the columns of the table, `t`, to text, numbers and codes.

    Returns:
        The stages by their names; each reads columns of those before it. `value` has `x0`, `x1` and
        so on, the numbers in the order of `encoder.numeric`, and `k0`, `k1` and so on, the codes of
        the categories in the order of `encoder.categorical`; `seen` has `unread`, whether a cell of
        the row could not be read.
    """
    raw: Stage = {}
    cells: Stage = {}
    fields: Stage = {}
    days: Stage = {}
    values: Stage = {}
    parts: list[str] = []
    codes: list[str] = []
    unread: list[str] = []
    for position, column in enumerate(encoder.columns):
        c = f"raw.c{position}"
        raw[f"c{position}"] = (
            f"TRIM(BOTH {text(WHITE)} FROM CAST(t.{name(column.name)} AS VARCHAR))"
        )
        cells[f"v{position}"] = _cell(c, column, missing)
    for position, column in enumerate(encoder.columns):
        v = f"cell.v{position}"
        if isinstance(column, NumericColumn):
            x = f"value.x{len(values)}"
            values[f"x{len(values)}"] = _number(v, column)
            bad = f"{x} IS NULL OR ABS({x}) > {number(sys.float_info.max)}"
            unread.append(f"({v} IS NOT NULL AND ({bad}))")
        elif isinstance(column, DateColumn):
            for field, expression in _fields(v, column.written).items():
                fields[f"{field}{position}"] = expression
            days |= _day(position)
            unread.append(f"({v} IS NOT NULL AND day.date{position} IS NULL)")
            made = _parts(position)
            parts += [made[part.name] for part in column.parts]
        elif isinstance(column, CategoricalColumn):
            codes.append(_code(v, column))
    values |= {f"x{len(values) + i}": part for i, part in enumerate(parts)}
    values |= {f"k{i}": code for i, code in enumerate(codes)}
    check = {"unread": " OR ".join(unread) if unread else "FALSE"}
    return {"raw": raw, "cell": cells, "field": fields, "day": days, "value": values, "seen": check}


def _cell(c: str, column: object, missing: list[str]) -> str:
    """The text of a cell, NULL where missing."""
    words = [word.strip() for word in missing]
    gone = [f"{c} IN {texts(dict.fromkeys([*MISSING, *words]))}"]
    numbers = pl.Series(words, dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
    finite = [number(value) for value in numbers if math.isfinite(value)]
    if finite:
        value = choice([(f"{c} ~ {_PLAIN}", f"CAST({c} AS DOUBLE PRECISION)")])
        gone.append(f"{value} IN ({', '.join(finite)})")
    kept = c
    if isinstance(column, NumericColumn):
        if column.written == PLAIN:
            gone.append(f"LOWER({c}) IN {_NAN}")
        other = text(SPACES + APOSTROPHE)
        kept = f"TRANSLATE({c}, {other}, {text(' ' * len(SPACES) + chr(39))})"
    return choice([(" OR ".join(gone), "NULL")], kept)


def _number(v: str, column: NumericColumn) -> str:
    """The number of a cell, NULL where it is missing or none."""
    written = column.written
    pattern = number_pattern(written, lookahead=False)
    fits = (
        f"{v} ~ {text(pattern.text)} AND {_group(v, pattern, 'open', 'close')} IN ('', '()')"
        f" AND LENGTH({_group(v, pattern, 'sign', 'inner')}) < 2"
    )
    body = _group(v, pattern, "body")
    if written.thousands:
        body = f"REPLACE({body}, {text(written.thousands)}, '')"
    if written.decimal != ".":
        body = f"REPLACE({body}, {text(written.decimal)}, '.')"
    digits = f"{body} || {_minus(_group(v, pattern, 'exponent'))}"
    signs = f"{_group(v, pattern, 'open', 'sign', 'inner')} IN ('', '+')"
    sign = choice([(signs, number(1))], number(-1))
    cases = [(fits, f"{sign} * CAST({digits} AS DOUBLE PRECISION)")]
    if written == PLAIN:  # most cells are read by a cast, which is fast
        cases.insert(0, (f"{v} ~ {_PLAIN}", f"CAST({v} AS DOUBLE PRECISION)"))
    words = [(f"{v} IN {texts(_WORDS[word])}", number(word == "true")) for word in _WORDS]
    return choice([*cases, *words])


def _minus(expression: str) -> str:
    others = MINUS_SIGNS.replace("-", "")
    return f"TRANSLATE({expression}, {text(others)}, {text('-' * len(others))})"


def _group(v: str, pattern: Pattern, *names: str) -> str:
    """The text of some groups of a pattern, where the cell fits it."""
    groups = "".join(rf"\{pattern.groups.index(each) + 1}" for each in names)
    return f"REGEXP_REPLACE({v}, {text(pattern.text)}, {text(groups)})"


def _fields(v: str, written: str) -> Stage:
    """Year, month, day and seconds of the day, of strings as written and of typed columns."""
    cases: dict[str, list[tuple[str, str]]] = {"year": [], "month": [], "day": [], "clock": []}
    for form in dict.fromkeys([written, ISO]):
        pattern = moment_pattern(form, "[A-Za-z]")
        for field, expression in _fields_of(v, pattern).items():
            cases[field].append((f"{v} ~ {text(pattern.text)}", expression))
    return {field: choice(found) for field, found in cases.items()}


def _fields_of(v: str, pattern: Pattern) -> Stage:
    def integer(group: str, absent: int) -> str:
        if group not in pattern.groups:
            return str(absent)
        return f"COALESCE(CAST(NULLIF({_group(v, pattern, group)}, '') AS INTEGER), {absent})"

    year = integer("year", 1970)
    if "short" in pattern.groups:  # as POSIX: 69 is 1969, and 68 is 2068
        short = integer("short", 0)
        year = f"{short} + {choice([(f'{short} >= 69', '1900')], '2000')}"
    month = integer("month", 1)
    if "name" in pattern.groups:
        word = f"LOWER({_group(v, pattern, 'name')})"
        month = lookup(word, [(text(key), value) for key, value in MONTHS.items()])
    hour, minute, second = (integer(part, 0) for part in ("hour", "minute", "second"))
    half = f"LOWER({_group(v, pattern, 'half')})"
    afternoon = choice([(f"{half} = 'p'", "12")], "0")
    hour = choice([(f"{half} = ''", hour)], f"MOD({hour}, 12) + {afternoon}")
    valid = f"{hour} < 24 AND {minute} < 60 AND {second} <= 60"
    clock = f"{hour} * 3600 + {minute} * 60 + {second}"
    return {
        "year": year,
        "month": month,
        "day": integer("day", 1),
        "clock": choice([(valid, clock)]),
    }


def _day(i: int) -> Stage:
    """The day, NULL where there is no such day; a leap second at its end begins the next day."""
    year = f"field.year{i}"
    leap = f"MOD({year}, 4) = 0 AND (MOD({year}, 100) <> 0 OR MOD({year}, 400) = 0)"
    short = f"field.month{i} IN (4, 6, 9, 11)"
    february = choice([(leap, "29")], "28")
    last = choice([(f"field.month{i} = 2", february), (short, "30")], "31")
    valid = (
        f"field.clock{i} IS NOT NULL AND field.year{i} > 0 AND field.month{i} BETWEEN 1 AND 12 "
        f"AND field.day{i} BETWEEN 1 AND {last}"
    )
    day = f"MAKE_DATE(field.year{i}, field.month{i}, field.day{i})"
    next_day = choice([(f"field.clock{i} = 86400", "1")], "0")
    return {
        f"date{i}": choice([(valid, f"CAST({day} + {next_day} AS DATE)")]),
        f"time{i}": f"MOD(field.clock{i}, 86400)",
    }


def _parts(i: int) -> Stage:
    """The numbers of a date, by the names of its parts."""
    days = f"CAST(day.date{i} - DATE '1970-01-01' AS DOUBLE PRECISION)"
    micro = f"({days} * {number(86400)} + day.time{i}) * {number(1e6)}"
    minutes = f"FLOOR(MOD(day.time{i}, 3600) / {number(60)})"
    hour = f"FLOOR(day.time{i} / {number(3600)}) + {minutes} * {number(HOURS)}"
    dated = f"day.date{i} IS NOT NULL"
    return {
        "year": f"CAST(EXTRACT(YEAR FROM day.date{i}) AS DOUBLE PRECISION)",
        "month": f"CAST(EXTRACT(MONTH FROM day.date{i}) AS DOUBLE PRECISION)",
        "day of week": f"CAST(EXTRACT(ISODOW FROM day.date{i}) AS DOUBLE PRECISION)",
        "hour": choice([(dated, hour)]),
        "elapsed days": choice([(dated, f"{micro} * {number(DAYS)}")]),
    }


def _code(v: str, column: CategoricalColumn) -> str:
    """The code of a category: 1, 1.0 and 1e0 are one, and so are True, TRUE and true."""
    words: list[tuple[str, str]] = []
    numbers: list[tuple[str, str]] = []
    for code, category in enumerate(column.categories):
        value = plain_number(category)
        if value is not None and abs(value) < EXACT:
            numbers.append((number(value), str(code)))
        else:
            words += [(text(word), str(code)) for word in _WORDS.get(category, [category])]
        if column.boolean:
            numbers.append((number(category == "true"), str(code)))
    found = [lookup(v, words)] if words else []
    if numbers:
        value_of = choice([(f"{v} ~ {_PLAIN}", f"CAST({v} AS DOUBLE PRECISION)")])
        found.append(lookup(value_of, numbers))
    if column.flag_missing:
        found.append(choice([(f"{v} IS NULL", str(len(column.categories)))]))
    return f"COALESCE({', '.join([*found, '-1'])})"
