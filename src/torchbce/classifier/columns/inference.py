"""What each column of a table is taken for: text, categories, numbers, or nothing."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import polars as pl

from torchbce.classifier.columns.values import all_numbers, as_text, maybe_numbers
from torchbce.classifier.errors import InputError, listing, unknown_name

Kind = Literal["text", "categorical", "numeric", "dropped"]

# Free text has several words and seldom repeats itself; the name of a category does not.
TEXT_WORDS = 3.0
TEXT_DISTINCT = 0.5
#: From this many rows on, a column of single words that never repeats is an identifier.
IDENTIFIER_ROWS = 20


@dataclass(frozen=True)
class Choice:
    """What a column is taken for, and why."""

    name: str
    kind: Kind
    reason: str


@dataclass(frozen=True)
class Overrides:
    """The columns whose kind the user has said."""

    text: Collection[str] = ()
    numeric: Collection[str] = ()
    categorical: Collection[str] = ()
    drop: Collection[str] = ()

    def kinds(self, table: pl.DataFrame, target: str) -> dict[str, Kind]:
        """Name to kind. Raises for a name that is not in the table, or is said twice."""
        said: dict[str, Kind] = {}
        groups: list[tuple[Kind, Collection[str]]] = [
            ("text", self.text),
            ("numeric", self.numeric),
            ("categorical", self.categorical),
            ("dropped", self.drop),
        ]
        for kind, names in groups:
            for name in names:
                if name not in table.columns:
                    raise unknown_name("column", name, table.columns)
                if name == target:
                    raise InputError(f"column {name!r} is the target; it cannot be an input too")
                if said.get(name, kind) != kind:
                    raise InputError(f"column {name!r} is called both {said[name]} and {kind}")
                said[name] = kind
        return said


def infer_columns(table: pl.DataFrame, target: str, overrides: Overrides) -> list[Choice]:
    """A choice for every column but the target. Raises if none is left to learn from."""
    said = overrides.kinds(table, target)
    choices = [
        Choice(name, said[name], "as you said") if name in said else _look(table[name])
        for name in table.columns
        if name != target
    ]
    if all(choice.kind == "dropped" for choice in choices):
        why = "; ".join(f"{c.name!r}: {c.reason}" for c in choices[:5])
        raise InputError(
            "no column is left to learn from" + (f" ({why})" if why else " beside the target")
        )
    return choices


def _look(values: pl.Series) -> Choice:
    name = values.name

    def choice(kind: Kind, reason: str) -> Choice:
        return Choice(name, kind, reason)

    if values.dtype.is_nested() or values.dtype.is_temporal() or values.dtype == pl.Binary:
        return choice("dropped", f"values of type {values.dtype} are not used")
    if name == "" or name.startswith("Unnamed: "):
        return choice("dropped", "a row index without a name")

    text = as_text(values)
    present = text.drop_nulls()
    distinct = present.n_unique()
    if len(present) == 0:
        return choice("dropped", "empty")
    if distinct == 1 and len(present) == len(text):
        return choice("dropped", "constant")
    if values.dtype != pl.Boolean and all_numbers(values):
        if _counts_rows(values):
            return choice("dropped", "counts the rows")
        return choice("numeric", f"numbers, {distinct:,} distinct")

    words = float(present.str.count_matches(r"\S+").mean() or 0)  # type: ignore[arg-type]
    repeats = f"{distinct:,} distinct in {len(present):,}"
    if words >= TEXT_WORDS and distinct > TEXT_DISTINCT * len(present):
        return choice("text", f"{words:.1f} words on average, {repeats}")
    if distinct == len(present) >= IDENTIFIER_ROWS:
        return choice("dropped", "no value repeats: an identifier")
    examples = listing(present.unique(maintain_order=True)[:2], joiner="or")
    return choice("categorical", f"{repeats}, as {examples}")


def _counts_rows(values: pl.Series) -> bool:
    """Whether each value is one more than the one before: that is the order of the file."""
    numbers = maybe_numbers(values)
    return (
        numbers is not None
        and len(values) >= IDENTIFIER_ROWS
        and numbers.null_count() == 0
        and bool((numbers.diff().drop_nulls() == 1).all())
    )
