"""The kind of each column: text, categorical, numeric, or dropped."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import polars as pl

from torchbce.classifier.columns.values import (
    all_numbers,
    as_text,
    is_unsupported,
    maybe_numbers,
)
from torchbce.classifier.errors import Argument, InputError, listing, unknown_name

Kind = Literal["text", "categorical", "numeric", "dropped"]

# Free text has several words per value and few repeated values; names of categories do not.
TEXT_WORDS = 3.0
TEXT_DISTINCT = 0.5
#: From this many rows on, a column of single words that never repeat is an identifier.
IDENTIFIER_ROWS = 20


@dataclass(frozen=True)
class Choice:
    """The kind chosen for a column, and why.

    Attributes:
        name: the column.
        kind: "text", "categorical", "numeric" or "dropped".
        reason: why, for instance "numbers, 31 distinct".

    Example:
        >>> Choice("age", "numeric", "numbers, 31 distinct").kind
        'numeric'
    """

    name: str
    kind: Kind
    reason: str


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

    def kinds(self, table: pl.DataFrame, target: str) -> dict[str, Kind]:
        """The kinds by column.

        Args:
            table: the table that has the columns.
            target: the name of its target column.

        Returns:
            The name of each column that is named here, with its kind.

        Raises:
            InputError: if a name is not in the table, is that of the target, or has two kinds.
        """
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
                if name == target:
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


def infer_columns(table: pl.DataFrame, target: str, overrides: Overrides) -> list[Choice]:
    """A choice for every column but the target.

    Raises:
        InputError: if every column is dropped, or `overrides` does not fit the table.
    """
    kinds = overrides.kinds(table, target)
    choices = [
        Choice(name, kinds[name], "as you said") if name in kinds else _infer(table[name])
        for name in table.columns
        if name != target
    ]
    if all(choice.kind == "dropped" for choice in choices):
        why = "; ".join(f"{c.name!r}: {c.reason}" for c in choices[:5])
        raise InputError(
            "no column is left to learn from"
            + (f" ({why})" if why else "; the table has only its target column")
        )
    return choices


def _infer(values: pl.Series) -> Choice:
    name = values.name

    def choice(kind: Kind, reason: str) -> Choice:
        return Choice(name, kind, reason)

    if is_unsupported(values.dtype):
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
    """Whether each value is the one before plus 1, which says only the order of the rows."""
    numbers = maybe_numbers(values)
    return (
        numbers is not None
        and len(values) >= IDENTIFIER_ROWS
        and numbers.null_count() == 0
        and bool((numbers.diff().drop_nulls() == 1).all())
    )
