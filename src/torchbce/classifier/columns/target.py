"""The target: two values, of which one is positive, or probabilities, or votes."""

from typing import Literal

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.dates import is_date
from torchbce.classifier.columns.values import as_numbers, as_text, is_unsupported
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


#: 0, 1 and bool are the same two values in different formats.
BOOLEANS = {"true": "1", "false": "0"}


class Target(msgspec.Struct, frozen=True):
    """The target column and its two values, as they were written.

    Attributes:
        column: its name; of votes that of the column of positive votes.
        negative: one value.
        positive: the other, whose probability is predicted.
        reason: why that one is positive, or what the column holds.
        kind: "values", two values; "soft", probabilities of the positive value; "votes", numbers of
            positive votes among the `trials` of the row.
        trials: the column of the numbers of votes; None but with votes.
    """

    column: str
    negative: str
    positive: str
    reason: str = ""
    kind: Literal["values", "soft", "votes"] = "values"
    trials: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns of a table that it is read from."""
        return [self.column] if self.trials is None else [self.column, self.trials]

    def targets(self, table: pl.DataFrame) -> np.ndarray:
        """The probability of the positive value in each row, as a rule 0 or 1.

        Args:
            table: has the columns of the target.

        Returns:
            In [0, 1], float64, [rows]; of votes 0 where there are no trials.

        Raises:
            InputError: if a column is not there or a value is wrong; the message names its row.
        """
        for name in self.columns:
            if name not in table.columns:
                raise unknown_name("target column", name, table.columns)
        if self.kind == "values":
            return self.array(table[self.column]).astype(np.float64)
        values = _complete_numbers(table[self.column])
        trials = self.trials_of(table)
        most = np.ones(len(values)) if trials is None else trials
        wrong = ~((values >= 0) & (values <= most))
        if wrong.any():
            at = int(wrong.argmax())
            raise InputError(
                f"target column {self.column!r} holds {values[at]:g} in ",
                Row(at),
                f"; expected numbers in [0, {most[at]:g}], "
                + ("probabilities" if trials is None else f"that of {self.trials!r} there"),
            )
        shares: np.ndarray = np.divide(values, most, out=np.zeros(len(values)), where=most > 0)
        return shares

    def trials_of(self, table: pl.DataFrame) -> np.ndarray | None:
        """The number of votes of each row, float64 [rows]; None but with votes.

        Raises:
            InputError: if the column is not there, or a value is missing or negative.
        """
        if self.trials is None:
            return None
        if self.trials not in table.columns:
            raise unknown_name("column of trials", self.trials, table.columns)
        trials = _complete_numbers(table[self.trials])
        if (trials < 0).any():
            at = int((trials < 0).argmax())
            raise InputError(
                f"column {self.trials!r} holds {trials[at]:g} in ",
                Row(at),
                "; expected numbers of trials, 0 or above",
            )
        return trials

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
        negative, positive = as_text(pl.Series([self.negative, self.positive]))
        if _known_pair(self.column, [self.negative, self.positive]):
            text = text.str.to_lowercase()
            negative, positive = negative.lower(), positive.lower()
        if {negative, positive} <= {"true", "false", "1", "0"}:
            text = text.replace(BOOLEANS)
            negative, positive = BOOLEANS.get(negative, negative), BOOLEANS.get(positive, positive)
        known = text.is_in([negative, positive])
        if not known.all():
            at = int((~known).arg_max() or 0)
            raise InputError(
                f"target column {values.name!r} holds {str(values[at])!r} in ",
                Row(at),
                f"; expected {self.negative!r} or {self.positive!r}",
            )
        targets: np.ndarray = (text == positive).to_numpy().astype(np.float32)
        return targets

    def labels(self, predicted: np.ndarray, as_written: bool = False) -> pl.Series:
        """The target value of each prediction.

        Args:
            predicted: bool, [rows].
            as_written: whether to return strings, as the target's values were written.

        Returns:
            A column `predicted`, [rows]: bool if the target values are, integers if both are and
            are written without zeros before them, else strings.
        """
        values = pl.Series("predicted", [self.negative, self.positive])
        if not as_written:
            values = self._typed(values)
        return values.gather(pl.Series(predicted).cast(pl.UInt32))

    @staticmethod
    def _typed(values: pl.Series) -> pl.Series:
        text = as_text(values)
        if sorted(text) == ["false", "true"]:
            return text == "true"
        numbers = values.cast(pl.Int64, strict=False)
        same = (numbers.cast(pl.String) == values).fill_null(False)
        return numbers if same.all() else values


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
    text = _complete(table[column])
    values = _spellings(table[column], text)
    if len(values) == 1:
        raise InputError(
            f"target column {column!r} holds {values[0]!r} in every row; two values are needed"
        )
    if len(values) > 2:
        raise InputError(
            f"target column {column!r} holds {len(values):,} values, {listing(values)}; exactly "
            "two are needed. Keep the rows of two values, or replace the values by yes and no",
            *_if_probabilities(values),
        )
    if positive is not None:
        return _with_positive(column, values, positive)
    if (known := _known_pair(column, values)) is not None:
        return known
    raise InputError(
        f"target column {column!r} holds {listing(values)}; say which is the positive one, for "
        "instance ",
        Argument("positive", values[1]),
    )


def target_of_pair(column: str, values: list[str], positive: str | None) -> Target:
    """The target of two classes; if nothing says which is positive, it is the second one.

    Args:
        column: the name of the target.
        values: the names of the classes, in their order.
        positive: the name of the positive one; None if the names say it.
    """
    if positive is not None:
        return Target(column, values[1 - values.index(positive)], positive, "as you said")
    known = _known_pair(column, values)
    return known or Target(column, values[0], values[1], "the second class")


def _known_pair(column: str, values: list[str]) -> Target | None:
    for no, yes in KNOWN_PAIRS:
        lowered = {(as_text(pl.Series([value]))[0] or "").lower(): value for value in values}
        if lowered.keys() == {no, yes}:
            return Target(column, lowered[no], lowered[yes], f"{yes} against {no}")
    return None


def _if_probabilities(values: list[str]) -> list[str | Argument]:
    """What to say of values that are all numbers in [0, 1]."""
    numbers = pl.Series(values).cast(pl.Float64, strict=False)
    if numbers.is_between(0, 1).fill_null(False).all():
        return ["; if they are probabilities, pass ", Argument("soft", True)]
    return ["."]


def named_target(
    column: str | None, positive: str | None, soft: bool, positives: str | None, trials: str | None
) -> Target | None:
    """The target that names alone tell, of probabilities or votes; None if values must.

    Args:
        column: the name of the target column.
        positive: its positive value.
        soft: whether it holds probabilities.
        positives: the column of the numbers of positive votes.
        trials: that of the numbers of all votes.

    Raises:
        InputError: if these do not go together.
    """
    if (positives is None) != (trials is None):
        given, other = ("positives", "trials") if trials is None else ("trials", "positives")
        raise InputError(
            Argument(given), " needs ", Argument(other), " too: the columns of votes are two"
        )
    if positives is not None and trials is not None:
        for name, value in (("target", column), ("positive", positive), ("soft", soft or None)):
            if value is not None:
                raise InputError(
                    Argument("positives"),
                    " and ",
                    Argument("trials"),
                    " are the target; leave out ",
                    Argument(name),
                )
        if positives == trials:
            raise InputError(
                Argument("positives"), " and ", Argument("trials"), f" are both {positives!r}"
            )
        return Target(positives, "0", "1", f"its share of {trials}", "votes", trials)
    if column is None:
        raise InputError(
            "give the column to predict, ",
            Argument("target"),
            ", or ",
            Argument("positives"),
            " and ",
            Argument("trials"),
        )
    if not soft:
        return None
    if positive is not None:
        raise InputError(
            Argument("soft"), " means probabilities of 1; leave out ", Argument("positive")
        )
    return Target(column, "0", "1", "probabilities of 1", "soft")


def _complete_numbers(values: pl.Series) -> np.ndarray:
    """The values as numbers. Raises `InputError` if one is missing or none."""
    _complete(values, "numbers")
    return as_numbers(values)


def _with_positive(column: str, values: list[str], positive: str) -> Target:
    """The target with the positive value that the caller named."""
    text = as_text(pl.Series(values)).to_list()
    said = as_text(pl.Series([positive], dtype=pl.String))[0]
    if said is not None and said not in text and _known_pair(column, values):
        text, said = [value.lower() for value in text], said.lower()
    if said not in text:
        raise InputError(
            Argument("positive", positive),
            f" is not a value of target column {column!r}, which holds {listing(values)}",
        )
    at = text.index(said)
    return Target(column, values[1 - at], values[at], "as you said")


def _spellings(values: pl.Series, text: pl.Series) -> list[str]:
    """The distinct values, the most frequent first, each as it is written most often.

    The words of a pair of `KNOWN_PAIRS` are the same in upper and lower case.
    """
    written = values.str.strip_chars() if values.dtype == pl.String else text
    counts = (
        pl.DataFrame({"text": _folded(text), "written": written})
        .group_by("text", "written", maintain_order=True)
        .len(name="times")
        .sort("times", descending=True, maintain_order=True)
        .group_by("text", maintain_order=True)
        .agg(pl.col("written").first(), pl.col("times").sum())
        .sort("times", descending=True, maintain_order=True)
    )
    return counts["written"].to_list()


def _folded(text: pl.Series) -> pl.Series:
    """The values in lower case, where all of them are words of one of `KNOWN_PAIRS`."""
    words = {*text.unique().str.to_lowercase()}
    return text.str.to_lowercase() if any(words <= {*pair} for pair in KNOWN_PAIRS) else text


def _complete(
    values: pl.Series, expected: str = "two values that are text, numbers or bool"
) -> pl.Series:
    """The values as text. Raises `InputError` if one is missing or their type has no text."""
    if is_unsupported(values.dtype) or is_date(values.dtype):
        raise InputError(
            f"target column {values.name!r} is of type {values.dtype}; expected {expected}"
        )
    text = as_text(values)
    if missing := text.null_count():
        at = int(text.is_null().arg_max() or 0)
        word = str(values[at]) if values.dtype == pl.String and values[at] else ""
        raise InputError(
            f"target column {values.name!r} has no value in {missing:,} "
            f"{'row' if missing == 1 else 'rows'}, the first is ",
            Row(at),
            f", which holds {word!r}" if word.strip() else "",
            "; drop or fill them",
        )
    return text
