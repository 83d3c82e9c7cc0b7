"""The target column: which of its two values is the positive one."""

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.values import as_text, is_unsupported
from torchbce.classifier.errors import Argument, InputError, Row, listing, unknown_name

#: Pairs of values, in lower case, of which the second one is the positive one by convention.
KNOWN_PAIRS = [
    ("0", "1"),
    ("-1", "1"),
    ("false", "true"),
    ("no", "yes"),
    ("n", "y"),
    ("f", "t"),
    ("negative", "positive"),
    ("neg", "pos"),
]


class Target(msgspec.Struct, frozen=True):
    """The target column and its two values, as text."""

    column: str
    negative: str
    positive: str
    reason: str = ""

    def array(self, values: pl.Series) -> np.ndarray:
        """The target values as 0 and 1.

        Args:
            values: the target column of some rows.

        Returns:
            1 for the positive value and 0 for the negative one, float32, [rows].

        Raises:
            InputError: at a missing value or a third value; the message names its row.
        """
        text = _complete(values)
        known = text.is_in([self.negative, self.positive])
        if not known.all():
            at = int((~known).arg_max() or 0)
            raise InputError(
                f"target column {values.name!r} holds {text[at]!r} in ",
                Row(at),
                f"; expected {self.negative!r} or {self.positive!r}",
            )
        return (text == self.positive).to_numpy().astype(np.float32)

    def labels(self, predicted: np.ndarray) -> pl.Series:
        """The target value of each prediction.

        Args:
            predicted: bool, [rows].

        Returns:
            A column `predicted`, [rows]: of integers if both target values are integers, else of
            strings.
        """
        names = pl.Series("predicted", [self.negative, self.positive])
        numbers = names.cast(pl.Int64, strict=False)
        values = names if numbers.null_count() else numbers
        return values.gather(pl.Series(predicted).cast(pl.UInt32))


def choose_target(table: pl.DataFrame, column: str, positive: str | None) -> Target:
    """The target of a table.

    Args:
        table: has the column, with two values and none missing.
        column: the name of the target column.
        positive: its positive value; None if the two values are one of `KNOWN_PAIRS`.

    Raises:
        InputError: if the column is not there, or does not have two values, or `positive` is not
            one of them, or is None and the two values do not say which is positive.
    """
    if column not in table.columns:
        raise unknown_name("target column", column, table.columns)
    counts = _complete(table[column]).alias("value").value_counts(sort=True)
    values = counts["value"].to_list()
    if len(values) == 1:
        raise InputError(
            f"target column {column!r} holds {values[0]!r} in every row; two values are needed"
        )
    if len(values) > 2:
        raise InputError(
            f"target column {column!r} holds {len(values):,} values, {listing(values)}; exactly "
            "two are needed. Keep the rows of two values, or replace the values by yes and no."
        )
    if positive is not None:
        return _with_positive(column, values, positive)
    for no, yes in KNOWN_PAIRS:
        lowered = {value.lower(): value for value in values}
        if lowered.keys() == {no, yes}:
            return Target(column, lowered[no], lowered[yes], f"{yes} against {no}")
    raise InputError(
        f"target column {column!r} holds {listing(values)}; say which is the positive one, for "
        "instance ",
        Argument("positive", values[1]),
    )


def _with_positive(column: str, values: list[str], positive: str) -> Target:
    """The target with the positive value that the caller named."""
    text = as_text(pl.Series([positive]))[0]
    if text not in values:
        raise InputError(
            Argument("positive", positive),
            f" is not a value of target column {column!r}, which holds {listing(values)}",
        )
    negative = values[1] if values[0] == text else values[0]
    return Target(column, negative, text, "as you said")


def _complete(values: pl.Series) -> pl.Series:
    """The values as text. Raises `InputError` if one is missing or their type has no text."""
    if is_unsupported(values.dtype):
        raise InputError(
            f"target column {values.name!r} is of type {values.dtype}; expected two values that "
            "are text, numbers or bool"
        )
    text = as_text(values)
    if missing := text.null_count():
        raise InputError(
            f"target column {values.name!r} has no value in {missing:,} "
            f"{'row' if missing == 1 else 'rows'}, the first is ",
            Row(int(text.is_null().arg_max() or 0)),
            "; drop or fill them",
        )
    return text
