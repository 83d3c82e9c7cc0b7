"""The kind of each column: text, categorical, numeric, date, or dropped."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from torchbce.classifier.columns.dates import FORMATS, ISO, dates_of, is_date, moments_of
from torchbce.classifier.columns.numbers import PLAIN, Notation, notation_of, numbers_of
from torchbce.classifier.columns.values import (
    as_numbers,
    as_text,
    is_missing,
    is_unsupported,
    plain_numbers,
)
from torchbce.classifier.errors import Argument, InputError, Row, listing, unknown_name

Kind = Literal["text", "categorical", "numeric", "date", "dropped"]

# Free text has more than one word per value and few repeated values; names of categories do not.
TEXT_WORDS = 1.5
TEXT_DISTINCT = 0.5
#: In scripts that put no spaces between words, up to two characters count as a word.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORD = rf"[{_UNSPACED}]{{1,2}}|[^\s{_UNSPACED}]+"

#: From this share of numbers or dates on, the other cells are taken for mistakes.
MOST = 0.9
#: So many cells are looked at together for plain numbers.
CELLS = 1 << 24
#: From this many rows on, a column of single words that never repeat is an identifier.
IDENTIFIER_ROWS = 20


@dataclass(frozen=True)
class Choice:
    """The kind chosen for a column, and why.

    Attributes:
        name: the column.
        kind: "text", "categorical", "numeric", "date" or "dropped".
        reason: why, for instance "numbers, 31 distinct".
        written: how strings write its numbers, or its dates.

    Example:
        >>> Choice("age", "numeric", "numbers, 31 distinct").kind
        'numeric'
    """

    name: str
    kind: Kind
    reason: str
    written: Notation | str = PLAIN


@dataclass(frozen=True)
class Overrides:
    """The columns whose kind is given rather than inferred.

    Args:
        text: names of the columns to use as text.
        numeric: names of the columns to use as numbers.
        categorical: names of the columns to use as categories.
        drop: names of the columns to leave out.

    Example:
        >>> import polars as pl
        >>> table = pl.DataFrame({"code": [7, 8, 9], "row": [1, 2, 3], "y": [0, 1, 1]})
        >>> Overrides(categorical=["code"], drop=["row"]).kinds(table, "y")
        {'code': 'categorical', 'row': 'dropped'}
    """

    text: Collection[str] = ()
    numeric: Collection[str] = ()
    categorical: Collection[str] = ()
    drop: Collection[str] = ()

    def kinds(self, table: pl.DataFrame, target: str | Collection[str]) -> dict[str, Kind]:
        """The kinds by column.

        Args:
            table: the table that has the columns.
            target: the name of its target column, or those of several.

        Returns:
            The name of each column that is named here, with its kind.

        Raises:
            InputError: if a name is not in the table, is that of the target, or has two kinds.
        """
        targets = {target} if isinstance(target, str) else {*target}
        kinds: dict[str, Kind] = {}
        arguments: dict[str, str] = {}
        groups: list[tuple[str, Kind, Collection[str]]] = [
            ("text", "text", self.text),
            ("numeric", "numeric", self.numeric),
            ("categorical", "categorical", self.categorical),
            ("drop", "dropped", self.drop),
        ]
        for argument, kind, names in groups:
            for name in names:
                if name not in table.columns:
                    raise unknown_name("column", name, table.columns)
                if name in targets:
                    raise InputError(f"column {name!r} is the target; it cannot be an input too")
                if arguments.setdefault(name, argument) != argument:
                    raise InputError(
                        f"column {name!r} is named in both ",
                        Argument(arguments[name]),
                        " and ",
                        Argument(argument),
                        "; name it in one of them",
                    )
                kinds[name] = kind
        return kinds


def infer_columns(
    table: pl.DataFrame,
    target: str | Collection[str],
    overrides: Overrides,
    decimal: str = ".",
    set_aside: Sequence[Choice] = (),
) -> list[Choice]:
    """A choice for every column but those of the target.

    Args:
        table: the rows.
        target: the name of the target column, or those of several.
        overrides: the columns whose kind is given.
        decimal: what begins the decimals of numbers in strings, "." or ",".
        set_aside: the choices of columns that are no inputs, whatever their values, as weights.

    Raises:
        InputError: if every column is dropped, or `overrides` does not fit the table, or most cells
            of a column are numbers or dates, and not all.
    """
    _check_decimal(decimal)
    targets = {target} if isinstance(target, str) else {*target}
    kinds = overrides.kinds(table, targets)
    aside = {choice.name: choice for choice in set_aside}
    for name in aside:
        if kinds.get(name, "dropped") != "dropped":
            raise InputError(f"column {name!r} is {aside[name].reason}; it cannot be an input too")
    names = [name for name in table.columns if name not in targets]
    looked_at = [name for name in names if name not in kinds and name not in aside]
    plain = _plain_numbers(table.select(looked_at), decimal)
    choices = [
        aside.get(name)
        or (
            _as_said(table[name], kinds[name], decimal)
            if name in kinds
            else plain.get(name) or _infer(table[name], decimal)
        )
        for name in names
    ]
    if all(choice.kind == "dropped" for choice in choices):
        why = "; ".join(f"{c.name!r}: {c.reason}" for c in choices[:5])
        raise InputError(
            "no column is left to learn from"
            + (f" ({why})" if why else "; the table has only its target column")
        )
    return choices


def _as_said(values: pl.Series, kind: Kind, decimal: str) -> Choice:
    written = PLAIN
    if kind == "numeric" and values.dtype == pl.String:
        written = _written_numbers(values, decimal, *_or_other_kinds(values.name))
    return Choice(values.name, kind, "as you said", written)


def with_decimal(values: pl.Series, decimal: str) -> pl.Series:
    """A column that is to hold numbers, with strings of a decimal comma read.

    Args:
        values: the column.
        decimal: what begins the decimals of numbers in strings, "." or ",".

    Raises:
        InputError: if most cells have a decimal comma and `decimal` is ".", or a cell is no number
            and `decimal` is ",".
    """
    _check_decimal(decimal)
    if values.dtype != pl.String:
        return values
    written = _written_numbers(values, decimal)
    return values if decimal == "." else pl.Series(values.name, as_numbers(values, written))


def _check_decimal(decimal: str) -> None:
    if decimal not in (".", ","):
        raise InputError(Argument("decimal"), f" must be '.' or ',', got {decimal!r}")


def _written_numbers(values: pl.Series, decimal: str, *otherwise: str | Argument) -> Notation:
    """How the numbers of a column are written that is said to hold numbers."""
    text = _present(values)
    plain = numbers_of(text)
    if decimal == "." and plain is not None and not plain.null_count():
        return PLAIN
    reading = notation_of(text, decimal)
    if decimal == "." and reading.numbers < len(text):
        _refuse_commas(values.name, text, *otherwise)
    return reading.written


def _refuse_commas(name: str, text: pl.Series, *otherwise: str | Argument) -> None:
    """Raise `InputError` if most cells are numbers with a decimal comma.

    Args:
        name: the column.
        text: its cells that are not missing.
        otherwise: what else there is to do.
    """
    comma = notation_of(text, ",")
    if comma.written.decimal == "," and comma.numbers >= MOST * len(text):
        example = [*text.filter(text.str.contains(",", literal=True)).head(1), *text.head(1)][0]
        raise InputError(
            f"column {name!r} holds numbers with a decimal comma, as {example!r}; pass ",
            Argument("decimal", ","),
            " to read them",
            *otherwise,
        )


def _plain_numbers(table: pl.DataFrame, decimal: str) -> dict[str, Choice]:
    """The choice of each column of plain numbers, with a few operations for many columns."""
    names = [
        name
        for name, dtype in table.schema.items()
        if (dtype.is_numeric() or (dtype == pl.String and decimal == "."))
        and not _is_index_name(name)
    ]
    choices: dict[str, Choice] = {}
    step = max(1, CELLS // max(1, len(table)))
    for start in range(0, len(names), step):
        plain = plain_numbers(table, names[start : start + step])
        if plain.width == 0:
            continue
        numbers = plain.to_numpy()
        counts = (~np.isnan(numbers)).sum(axis=0)
        ordered = np.sort(numbers, axis=0)  # NaN last
        changes = (ordered[1:] != ordered[:-1]) & ~np.isnan(ordered[1:])
        distinct = changes.sum(axis=0) + 1
        with np.errstate(invalid="ignore"):
            counting = (np.diff(numbers, axis=0) == 1).all(axis=0) & (len(table) >= IDENTIFIER_ROWS)
        for i, name in enumerate(plain.columns):
            choice = _numeric(name, PLAIN, int(counts[i]), len(table), int(distinct[i]))
            if choice.kind == "numeric" and counting[i]:
                choice = Choice(name, "dropped", "counts the rows")
            choices[name] = choice
    return choices


def _numeric(name: str, written: Notation, present: int, rows: int, distinct: int) -> Choice:
    if present == 0:
        return Choice(name, "dropped", "empty")
    if distinct == 1 and present == rows:
        return Choice(name, "dropped", "constant")
    words = f" {written.words()}" if written.words() else ""
    return Choice(name, "numeric", f"numbers{words}, {distinct:,} distinct", written)


def _infer(values: pl.Series, decimal: str) -> Choice:
    name = values.name

    def choice(kind: Kind, reason: str, written: Notation | str = PLAIN) -> Choice:
        return Choice(name, kind, reason, written)

    if is_unsupported(values.dtype):
        return choice("dropped", f"values of type {values.dtype} are not used")
    if _is_index_name(name):
        return choice("dropped", "a row index without a name")

    text = as_text(values)
    present = text.drop_nulls()
    distinct = present.n_unique()
    if len(present) == 0:
        return choice("dropped", "empty")
    if distinct == 1 and len(present) == len(text):
        return choice("dropped", "constant")
    if is_date(values.dtype):
        return choice("date", f"dates, {distinct:,} distinct", ISO)
    if values.dtype == pl.String and (found := _numbers_or_dates(values, distinct, decimal)):
        return found

    words = float(present.str.count_matches(WORD).mean() or 0)  # type: ignore[arg-type]
    repeats = f"{distinct:,} distinct in {len(present):,}"
    never_repeats = distinct == len(present) >= IDENTIFIER_ROWS
    # "ID 1", "ID 2" and so on differ in their digits only.
    numbered = (
        words < 3 and never_repeats and present.str.replace_all("[0-9]+", "0").n_unique() == 1
    )
    if words >= TEXT_WORDS and distinct > TEXT_DISTINCT * len(present) and not numbered:
        return choice("text", f"{words:.1f} words on average, {repeats}")
    if never_repeats:
        return choice("dropped", "no value repeats: an identifier")
    examples = listing(present.unique(maintain_order=True)[:2], joiner="or")
    return choice("categorical", f"{repeats}, as {examples}")


def _is_index_name(name: str) -> bool:
    return name == "" or name.startswith("Unnamed: ")


def _present(values: pl.Series) -> pl.Series:
    return values.filter(~is_missing(values)).str.strip_chars()


def _numbers_or_dates(values: pl.Series, distinct: int, decimal: str) -> Choice | None:
    """The choice of a column of strings that are all numbers, or dates; None if few are.

    Raises:
        InputError: if most are, and not all: one of them would make categories of the column.
    """
    text = _present(values)
    least = MOST * len(text)
    # Numbers and dates have digits; to look for their notations takes ten times as long.
    if int(text.str.contains("[0-9]").sum()) < least:
        return None
    reading = notation_of(text, decimal)
    if reading.numbers == len(text):
        return _numeric(values.name, reading.written, len(text), len(values), distinct)
    if reading.numbers >= least or reading.alike >= least:
        numbers = numbers_of(values, reading.written)
        assert numbers is not None
        finite = numbers.is_finite().fill_null(False)  # "inf" is no number of a table
        raise _mistakes(values, numbers.set(~finite, None), "numbers")
    if decimal == ".":
        _refuse_commas(values.name, text, *_or_other_kinds(values.name))
    dates = dates_of(text)
    if dates.dates == len(text):
        how = f"dates as {FORMATS[dates.written]}"
        if (other := _SWAPPED.get(dates.written)) and not moments_of(text, other).null_count():
            how += " (month first, which no row decides)"
        return Choice(values.name, "date", f"{how}, {distinct:,} distinct", dates.written)
    if dates.dates >= least:
        raise _mistakes(values, moments_of(values, dates.written), "dates")
    return None


_SWAPPED = {"%m/%d/%Y": "%d/%m/%Y", "%m/%d/%y": "%d/%m/%y"}


def _mistakes(values: pl.Series, read: pl.Series, kind: str) -> InputError:
    """The error for the cells of a column that are not what nearly all others are."""
    present = ~is_missing(values)
    bad = read.is_null() & present
    at, good = int(bad.arg_max() or 0), int((~bad & present).arg_max() or 0)
    cells, count, cell = int(present.sum()), int(bad.sum()), str(values[at])
    others = f"1 other: {cell!r}" if count == 1 else f"{count:,} others: the first is {cell!r}"
    return InputError(
        f"column {values.name!r} holds {kind}, as {values[good]!r}, in {cells - count:,} of "
        f"{cells:,} cells, and {others} in ",
        Row(at),
        f"; correct {'it' if count == 1 else 'them'}, pass ",
        Argument("missing", cell.strip()),
        " if that means no value, or ",
        *_other_kinds(values.name),
    )


def _or_other_kinds(name: str) -> list[str | Argument]:
    return [", or ", *_other_kinds(name)]


def _other_kinds(name: str) -> list[str | Argument]:
    kinds = [Argument("categorical", name), Argument("text", name), Argument("drop", name)]
    return [kinds[0], ", ", kinds[1], " or ", kinds[2]]
