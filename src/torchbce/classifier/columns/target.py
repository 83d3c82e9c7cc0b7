"""Which of a column's two values is the positive one."""

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.values import as_text
from torchbce.classifier.errors import InputError, listing, unknown_name

#: Pairs whose positive value nobody doubts, in lower case, negative first.
EVIDENT = [
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

    def array(self, values: pl.Series, first_row: int = 1) -> np.ndarray:
        """0 and 1 as float32, [rows]. Raises at a missing value or a third one."""
        text = _complete(values, first_row)
        known = text.is_in([self.negative, self.positive])
        if not known.all():
            at = int((~known).arg_max() or 0)
            raise InputError(
                f"target column {values.name!r} holds {text[at]!r} in row {first_row + at}; "
                f"expected {self.negative!r} or {self.positive!r}"
            )
        return (text == self.positive).to_numpy().astype(np.float32)

    def labels(self, predicted: np.ndarray) -> pl.Series:
        """The values that stand for False and True; as integers if they are."""
        names = pl.Series("predicted", [self.negative, self.positive])
        numbers = names.cast(pl.Int64, strict=False)
        values = names if numbers.null_count() else numbers
        return values.gather(pl.Series(predicted).cast(pl.UInt32))


def choose_target(table: pl.DataFrame, column: str, positive: str | None) -> Target:
    """The target of a table, from its two values and what the user said."""
    if column not in table.columns:
        raise unknown_name("target column", column, table.columns)
    counts = _complete(table[column]).value_counts(sort=True)
    values = counts[column].to_list()
    if len(values) == 1:
        raise InputError(
            f"target column {column!r} holds {values[0]!r} in every row; two values are needed"
        )
    if len(values) > 2:
        raise InputError(
            f"target column {column!r} holds {len(values):,} values, {listing(values)}; exactly "
            "two are needed. Keep the rows of two values, or make the column yes or no."
        )
    if positive is not None:
        wanted = as_text(pl.Series([positive]))[0]
        if wanted not in values:
            raise InputError(
                f"--positive {positive!r} is not a value of target column {column!r}, which "
                f"holds {listing(values)}"
            )
        negative = values[1] if values[0] == wanted else values[0]
        return Target(column, negative, wanted, "as you said")
    for no, yes in EVIDENT:
        lowered = {value.lower(): value for value in values}
        if lowered.keys() == {no, yes}:
            return Target(column, lowered[no], lowered[yes], f"{yes} against {no}")
    raise InputError(
        f"target column {column!r} holds {listing(values)}; say which is the positive one, for "
        f"instance --positive {values[1]!r}"
    )


def _complete(values: pl.Series, first_row: int = 1) -> pl.Series:
    if values.dtype.is_nested() or values.dtype.is_temporal() or values.dtype == pl.Binary:
        raise InputError(f"target column {values.name!r} is of type {values.dtype}")
    text = as_text(values)
    if text.null_count():
        at = int(text.is_null().arg_max() or 0)
        raise InputError(
            f"target column {values.name!r} has no value in {text.null_count():,} rows, the first "
            f"is row {first_row + at}; drop or fill them"
        )
    return text
