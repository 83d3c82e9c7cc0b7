"""What a table says of its rows beside their inputs: targets, weights, groups and times."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.dates import ISO, dates_of, is_date, moments_of
from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.target import Target
from torchbce.classifier.columns.values import as_numbers, as_text, is_missing, is_unsupported
from torchbce.classifier.errors import Argument, InputError, Row, unknown_name

#: Weights count rows. Those whose mean is not in this range do not, as survey weights that add up
#: to a population, or weights that add up to 1, and are divided by their mean: the strengths of
#: penalties, of the linear models and of the trees, are made for losses that are sums over rows.
COUNTING = (0.1, 100.0)


class RowColumns(msgspec.Struct, frozen=True):
    """The columns that say something of a row and are no inputs; None where there is none.

    Attributes:
        weight: how much each row counts.
        group: rows of the same value stay together in every split.
        time: the latest rows are held out.

    Example:
        >>> [choice.reason for choice in RowColumns(weight="count").dropped()]
        ['the weight of each row']
    """

    weight: str | None = None
    group: str | None = None
    time: str | None = None

    def dropped(self) -> list[Choice]:
        """Why each of these columns is no input."""
        reasons = {
            self.weight: "the weight of each row",
            self.group: "the group of each row",
            self.time: "the time of each row",
        }
        return [Choice(n, "dropped", reason) for n, reason in reasons.items() if n is not None]

    def check(self, targets: Collection[str]) -> None:
        """Refuse a target column in another part.

        Raises:
            InputError: the message names the column.
        """
        parts = {
            "weight": Argument("weight", self.weight),
            "group": Argument("group", self.group),
            "time": Argument("time", self.time),
        }
        for part, argument in parts.items():
            if argument.value in targets:
                name = argument.value
                raise InputError(
                    f"column {name!r} is a target; it cannot be the {part} too: leave out ",
                    argument,
                )


@dataclass(frozen=True)
class Outcomes:
    """What is known of each row beside its inputs.

    Attributes:
        targets: in [0, 1], float64 [rows]: the probability of the positive value, as a rule 0 or 1.
        weight: how much each row counts, 0 or above, float64 [rows]; None for 1.
        groups: the number of each row's group, int64 [rows]; None without groups.
        times: any numbers in the order of time, float64 [rows]; None without times.

    Example:
        >>> outcomes = Outcomes(np.array([0.0, 1.0, 0.5]), np.array([1.0, 0.0, 2.0]))
        >>> outcomes.take(outcomes.counted()).targets
        array([0. , 0.5])
    """

    targets: np.ndarray
    weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def counted(self) -> np.ndarray:
        """The indices of the rows with a weight above 0."""
        if self.weight is None:
            return np.arange(len(self.targets))
        return np.flatnonzero(self.weight > 0)

    def take(self, rows: np.ndarray) -> "Outcomes":
        """The rows at some indices."""

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Outcomes(self.targets[rows], of(self.weight), of(self.groups), of(self.times))

    def scaled(self) -> np.ndarray | None:
        """The weights for a fit: see `COUNTING`; None where every row counts 1."""
        if self.weight is None or (self.weight == 1).all():
            return None
        mean = float(self.weight.mean())
        low, high = COUNTING
        return self.weight if low <= mean <= high else self.weight / mean


def check_weight(weight: np.ndarray, name: str = "weight") -> None:
    """Refuse weights that are negative or not finite, by their row.

    Args:
        weight: float64, [rows].
        name: what the message calls them.

    Raises:
        InputError: the message names the row.
    """
    wrong = ~((weight >= 0) & (weight < np.inf))
    if wrong.any():
        at = int(wrong.argmax())
        value = "no value" if np.isnan(weight[at]) else f"{weight[at]:g}"
        raise InputError(
            f"{name} holds {value} in ", Row(at), "; expected finite weights of 0 or above"
        )


def check_not_all_zero(weight: np.ndarray | None) -> None:
    """Raise `InputError` if there are weights, and none is above 0."""
    if weight is not None and not weight.any():
        raise InputError("every row has a weight of 0, so that no row counts")


def read_weight(
    table: pl.DataFrame, target: Target | None, column: str | None
) -> np.ndarray | None:
    """The weight of each row: that of a column, times the number of trials of a target of votes.

    Args:
        table: the rows.
        target: the target; None where it has no trials.
        column: the name of the column of weights; None for 1.

    Returns:
        Float64, [rows]; None for 1.

    Raises:
        InputError: if a column is not there, or a weight is missing, negative or infinite.
    """
    weight = None
    if column is not None:
        if column not in table.columns:
            raise unknown_name("weight column", column, table.columns)
        weight = _numbers(table[column], "weight")
        check_weight(weight, f"weight column {column!r}")
    trials = None if target is None else target.trials_of(table)
    if trials is None:
        return weight
    return trials if weight is None else weight * trials


def read_outcomes(table: pl.DataFrame, target: Target, columns: RowColumns) -> Outcomes:
    """The targets, weights, groups and times of the rows of a table.

    A row of weight 0 may have any target, and none: its target is 0 here.

    Args:
        table: the rows.
        target: the target.
        columns: the columns of weights, groups and times.

    Raises:
        InputError: if a column is not there or a value in it is wrong; the message names its row.
    """
    columns.check(target.columns)
    weight = read_weight(table, target, columns.weight)
    if weight is None:
        targets = target.targets(table)
    else:
        counted = np.flatnonzero(weight > 0)
        targets = np.zeros(len(table))
        with positions(counted):
            targets[counted] = target.targets(table[counted])
    outcomes = Outcomes(targets, weight)
    if columns.group is not None:
        outcomes = replace(outcomes, groups=_groups(table, columns.group))
    if columns.time is not None:
        outcomes = replace(outcomes, times=_times(table, columns.time))
    return outcomes


def strata(y: np.ndarray) -> np.ndarray:
    """Which rows are positive; where targets are between 0 and 1, which are above their median."""
    if ((y == 0) | (y == 1)).all():
        return y > 0
    median = np.median(y)
    above: np.ndarray = y > median
    return above if above.any() else y >= median


@contextmanager
def positions(rows: np.ndarray) -> Iterator[None]:
    """Let an `InputError` raised inside name rows of a table of which only some were taken."""
    try:
        yield
    except InputError as error:
        error.args = tuple(
            Row(int(rows[part.position])) if isinstance(part, Row) else part for part in error.args
        )
        raise


def _numbers(values: pl.Series, what: str) -> np.ndarray:
    if is_unsupported(values.dtype) or is_date(values.dtype):
        raise InputError(
            f"{what} column {values.name!r} is of type {values.dtype}; expected numbers"
        )
    if values.dtype.is_float() and (infinite := values.is_infinite().fill_null(False)).any():
        at = int(infinite.arg_max() or 0)
        raise InputError(
            f"{what} column {values.name!r} holds {values[at]:g} in ",
            Row(at),
            "; expected finite numbers",
        )
    return as_numbers(values)


def _groups(table: pl.DataFrame, name: str) -> np.ndarray:
    """The number of each row's group."""
    if name not in table.columns:
        raise unknown_name("group column", name, table.columns)
    values = table[name]
    if is_unsupported(values.dtype):
        raise InputError(
            f"group column {name!r} is of type {values.dtype}; expected text, numbers or dates"
        )
    text = values.cast(pl.String) if is_date(values.dtype) else as_text(values)
    if missing := text.null_count():
        raise InputError(
            f"group column {name!r} has no value in {missing:,} "
            f"{'row' if missing == 1 else 'rows'}, the first is ",
            Row(int(text.is_null().arg_max() or 0)),
            "; give every row a group, one of its own where it belongs to none",
        )
    groups: np.ndarray = np.unique(text.to_numpy(), return_inverse=True)[1].ravel()
    if len(groups) and groups.max() == 0:
        raise InputError(
            f"group column {name!r} holds {str(values[0])!r} in every row; at least 2 groups are "
            "needed, one to learn from and one to check with"
        )
    return groups


def _times(table: pl.DataFrame, name: str) -> np.ndarray:
    """Numbers in the order of time, from a column of dates or numbers."""
    if name not in table.columns:
        raise unknown_name("time column", name, table.columns)
    values = table[name]
    missing = is_missing(values)
    if missing.any():
        count = int(missing.sum())
        raise InputError(
            f"time column {name!r} has no value in {count:,} {'row' if count == 1 else 'rows'}, "
            "the first is ",
            Row(int(missing.arg_max() or 0)),
            "; drop or fill them",
        )
    if is_date(values.dtype):
        moments = moments_of(values, ISO)
    elif values.dtype == pl.String:
        moments = _moments(values)
    elif values.dtype.is_numeric():
        return _numbers(values, "time")
    else:
        raise InputError(
            f"time column {name!r} is of type {values.dtype}; expected dates or numbers"
        )
    return moments.to_physical().cast(pl.Float64).to_numpy().astype(np.float64)


def _moments(values: pl.Series) -> pl.Series:
    """Strings as moments, or as numbers."""
    text = values.str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    if not numbers.null_count():
        return pl.Series(values.name, _numbers(numbers, "time"))
    found = dates_of(text)
    if found.dates == len(text):
        return moments_of(text, found.written)
    bad = moments_of(text, found.written).is_null() if found.dates else numbers.is_null()
    at = int(bad.arg_max() or 0)
    raise InputError(
        f"time column {values.name!r} holds {values[at]!r} in ",
        Row(at),
        "; expected dates in one format, as 2024-05-31, or numbers, so that the rows have an order",
    )
