"""Where a table says which labels a row has: in a column for each, or in one column of lists."""

from collections.abc import Sequence

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.outcomes import Outcomes, RowColumns, positions, read_outcomes
from torchbce.classifier.columns.target import KNOWN_PAIRS, Target, choose_target, named_target
from torchbce.classifier.columns.values import as_text
from torchbce.classifier.errors import Argument, InputError, listing, unknown_name
from torchbce.classifier.labels.targets import LabelTargets

#: What separates labels that are text, where it is not given: the first one that is in a cell.
SEPARATORS = (",", ";", "|")


class LabelColumns(msgspec.Struct, frozen=True, tag_field="kind", tag="columns"):
    """A column of two values for each label.

    Attributes:
        targets: the columns and their values.
    """

    targets: list[Target]

    @property
    def names(self) -> list[str]:
        """The labels: the names of their columns."""
        return [target.column for target in self.targets]

    @property
    def columns(self) -> list[str]:
        """The columns of a table that are no inputs."""
        return self.names

    def read(self, table: pl.DataFrame) -> LabelTargets:
        """The labels of each row; an empty cell is unknown.

        Raises:
            InputError: if a column is not there, or a value is neither of the two.
        """
        dense = np.full((len(table), len(self.targets)), np.nan, dtype=np.float32)
        for number, target in enumerate(self.targets):
            if target.column not in table.columns:
                raise unknown_name("target column", target.column, table.columns)
            known = np.flatnonzero(as_text(table[target.column]).is_not_null().to_numpy())
            with positions(known):
                dense[known, number] = target.targets(table.select(target.column)[known])
        return LabelTargets(len(self.targets), dense)

    def known(self, table: pl.DataFrame) -> np.ndarray:
        """The indices of the rows whose labels may be read: all of them."""
        return np.arange(len(table))

    def predicted(self, number: int, positive: np.ndarray, as_written: bool) -> pl.Series:
        """The predicted values of a label, as `Target.labels`."""
        return self.targets[number].labels(positive, as_written)


class LabelLists(msgspec.Struct, frozen=True, tag_field="kind", tag="lists"):
    """One column of the labels that each row has.

    Attributes:
        column: its name.
        separator: what separates labels that are text; None for lists.
        labels: the labels, in their order.
    """

    column: str
    separator: str | None
    labels: list[str]

    @property
    def names(self) -> list[str]:
        """The labels."""
        return self.labels

    @property
    def columns(self) -> list[str]:
        """The columns of a table that are no inputs."""
        return [self.column]

    def read(self, table: pl.DataFrame) -> LabelTargets:
        """The labels of each row; those that the model does not know are left out.

        Raises:
            InputError: if the column is not there, or holds neither text nor lists.
        """
        lists = split_labels(table, self.column, self.separator)
        known = pl.DataFrame({"label": self.labels, "number": np.arange(len(self.labels))})
        rows = pl.DataFrame({"row": np.arange(len(lists)), "label": lists})
        stored = (
            rows.explode("label", empty_as_null=True)
            .drop_nulls("label")
            .unique()
            .join(known, on="label", how="inner")
            .sort("row", "number")
        )
        lengths = np.bincount(stored["row"].to_numpy(), minlength=len(lists))
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        labels = stored["number"].to_numpy().astype(np.int64)
        return LabelTargets(len(self.labels), starts=starts, labels=labels)

    def known(self, table: pl.DataFrame) -> np.ndarray:
        """The indices of the rows whose labels are known: a list may be null, and text may not."""
        if self.column not in table.columns:
            raise unknown_name("label column", self.column, table.columns)
        values = table[self.column]
        if self.separator is not None:
            return np.arange(len(table))
        return np.flatnonzero(values.is_not_null().to_numpy())

    def predicted(self, number: int, positive: np.ndarray, as_written: bool) -> pl.Series:
        """Whether a label is predicted: 1 or 0, or as strings in text formats."""
        values = pl.Series("predicted", positive.astype(np.int8))
        return values.cast(pl.String) if as_written else values


LabelSource = LabelColumns | LabelLists


class _NoTarget(Target, frozen=True):
    """A target that no column holds."""

    def targets(self, table: pl.DataFrame) -> np.ndarray:
        return np.zeros(len(table))


def read_row_columns(table: pl.DataFrame, columns: RowColumns) -> Outcomes:
    """The weights, groups and times of the rows, with targets of 0.

    Raises:
        InputError: as `read_outcomes`.
    """
    return read_outcomes(table, _NoTarget("", "0", "1"), columns)


def choose_columns(
    table: pl.DataFrame, columns: Sequence[str], positive: str | None, soft: bool = False
) -> LabelColumns:
    """The values of each target column, of which empty cells are left out.

    A column that holds a single value has the pair of values that another column has.

    Raises:
        InputError: if a column is named twice, is not there, is empty, or does not have two values.
    """
    if len(set(columns)) != len(columns):
        raise InputError(f"a target column is named twice among {listing(columns)}")
    found: dict[str, Target | str] = {}
    for column in columns:
        if column not in table.columns:
            raise unknown_name("target column", column, table.columns)
        text = as_text(table[column])
        present = table.filter(text.is_not_null())
        if not len(present):
            raise InputError(f"target column {column!r} is empty; drop it")
        if soft:
            named = named_target(column, positive, True, None, None)
            assert named is not None
            found[column] = named
            continue
        values = text.drop_nulls().unique()
        found[column] = (
            str(values[0]) if len(values) == 1 else choose_target(present, column, positive)
        )
    pairs = [(one.negative, one.positive) for one in found.values() if isinstance(one, Target)]
    targets = [
        one if isinstance(one, Target) else _of_single_value(column, one, pairs)
        for column, one in found.items()
    ]
    return LabelColumns(targets)


def _of_single_value(column: str, value: str, pairs: list[tuple[str, str]]) -> Target:
    """The target of a column that holds one value only."""
    for negative, positive in [*dict.fromkeys(pairs), *KNOWN_PAIRS]:
        if value in (negative, positive):
            return Target(column, negative, positive, f"only {value} was there")
    raise InputError(
        f"target column {column!r} holds {value!r} in every row; two values are needed"
    )


def choose_lists(table: pl.DataFrame, column: str, separator: str | None) -> LabelLists:
    """The labels that a column of lists has, in alphabetical order.

    Args:
        table: the rows.
        column: the name of the column, of lists, or of text.
        separator: what separates labels that are text; None for the first of , ; and | that is in
            a cell.

    Raises:
        InputError: if the column is not there, holds neither text nor lists, or fewer than two
            labels.
    """
    if column not in table.columns:
        raise unknown_name("label column", column, table.columns)
    values = table[column]
    if isinstance(values.dtype, pl.List | pl.Array):
        separator = None
    elif separator is None:
        text = as_text(values).drop_nulls()
        inside = [s for s in SEPARATORS if text.str.contains(s, literal=True).any()]
        separator = inside[0] if inside else ","
    elif not separator:
        raise InputError(Argument("separator"), " must not be empty")
    labels = split_labels(table, column, separator).explode(empty_as_null=True).drop_nulls()
    names = sorted(labels.unique().to_list())
    if len(names) < 2:
        raise InputError(
            f"label column {column!r} holds {listing(names) if names else 'no label'}; at least "
            "two labels are needed"
            + ("" if separator is None else f", here separated by {separator!r}")
        )
    return LabelLists(column, separator, names)


def split_labels(table: pl.DataFrame, column: str, separator: str | None) -> pl.Series:
    """The labels of each row as lists of strings, without white space around them."""
    if column not in table.columns:
        raise unknown_name("label column", column, table.columns)
    values = table[column]
    if isinstance(values.dtype, pl.List | pl.Array):
        inner = values.dtype.inner
        if not (inner == pl.String or inner.is_integer() or inner == pl.Null):
            raise InputError(
                f"label column {column!r} is of type {values.dtype}; expected lists of strings or "
                "integers"
            )
        values = values.cast(pl.List(pl.String))
    elif values.dtype == pl.String or values.dtype.is_integer():
        values = values.cast(pl.String).str.split(separator or ",")
    else:
        raise InputError(
            f"label column {column!r} is of type {values.dtype}; expected text with a separator, "
            "or lists"
        )
    lists = values.list.eval(pl.element().str.strip_chars().replace("", None)).list.drop_nulls()
    return lists.alias(column)
