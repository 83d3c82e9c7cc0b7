"""What a good threshold is: accuracy, F1, MCC, precision at a recall, a cost, and so on."""

from dataclasses import dataclass

import numpy as np

from torchbce.classifier.decisions.counts import Counts, ratio
from torchbce.classifier.errors import Argument, InputError, listing

PLAIN = ("accuracy", "f1", "mcc", "balanced-accuracy")
#: As the option is written; a number R or P follows the @, two numbers the colon.
WRITTEN = "accuracy, f1, mcc, balanced-accuracy, precision@R, recall@P or cost:FP,FN"


@dataclass(frozen=True)
class Objective:
    """What a threshold is chosen for.

    Attributes:
        name: "accuracy", "f1", "mcc", "balanced-accuracy", "precision", "recall" or "cost".
        at_least: of "precision" the recall, and of "recall" the precision that must be reached.
        costs: of "cost", what a false positive and a false negative cost.

    Example:
        >>> Objective.parse("precision@0.8")
        Objective(name='precision', at_least=0.8, costs=None)
        >>> Objective.parse("cost:1,5").costs
        (1.0, 5.0)
    """

    name: str
    at_least: float | None = None
    costs: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """An objective as the command line writes it.

        Args:
            text: "accuracy", "f1", "mcc", "balanced-accuracy", "precision@R" (the highest precision
                with a recall of at least R), "recall@P" (the highest recall with a precision of at
                least P) or "cost:FP,FN" (the lowest cost, where a false positive costs FP and a
                false negative FN).

        Raises:
            InputError: if it is none of these, R or P is outside (0, 1], or a cost is not above 0.
        """
        if not isinstance(text, str):
            raise InputError(Argument("optimize"), f" must be {WRITTEN}, got {listing([text])}")
        name, at, share = text.partition("@")
        if text in PLAIN:
            return cls(text)
        if at and name in ("precision", "recall"):
            number = _number(share)
            if not 0 < number <= 1:
                other = "recall" if name == "precision" else "precision"
                raise InputError(
                    Argument("optimize"),
                    f" {name}@ needs the {other} to reach, above 0 and at most 1, got {share!r}",
                )
            return cls(name, at_least=number)
        name, colon, both = text.partition(":")
        if colon and name == "cost":
            costs = tuple(_number(one) for one in both.split(","))
            if len(costs) != 2 or not all(0 < cost < np.inf for cost in costs):
                raise InputError(
                    Argument("optimize"),
                    " cost: needs the cost of a false positive and of a false negative, two "
                    f"numbers above 0 as in cost:1,5, got {both!r}",
                )
            return cls(name, costs=(costs[0], costs[1]))
        raise InputError(Argument("optimize"), f" must be {WRITTEN}, got {text!r}")

    def __str__(self) -> str:
        if self.at_least is not None:
            return f"{self.name}@{self.at_least:g}"
        if self.costs is not None:
            return f"{self.name}:{self.costs[0]:g},{self.costs[1]:g}"
        return self.name

    def value(self, counts: Counts) -> np.ndarray:
        """The figure at each threshold, [T]: higher is better, but of "cost", the cost per row."""
        tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
        rows = tp + fp + fn + tn
        if self.name == "accuracy":
            return ratio(tp + tn, rows)
        if self.name == "f1":
            return zero_if_undefined(ratio(2 * tp, 2 * tp + fp + fn))
        if self.name == "mcc":
            # The square roots are taken apart, because the product of four counts overflows.
            spread = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
            return zero_if_undefined(ratio(tp * tn - fp * fn, spread))
        if self.name == "balanced-accuracy":
            both: np.ndarray = (counts.recall + 1 - counts.false_positive_rate) / 2
            return both
        if self.name == "precision":
            return zero_if_undefined(counts.precision)
        if self.name == "recall":
            return zero_if_undefined(counts.recall)
        assert self.costs is not None
        return ratio(self.costs[0] * fp + self.costs[1] * fn, rows)

    def score(self, counts: Counts) -> np.ndarray:
        """What is maximised, [T]: -inf where the recall or the precision to reach is not."""
        value = self.value(counts)
        if self.name == "cost":
            return -value
        if self.at_least is None:
            return value
        other = counts.recall if self.name == "precision" else counts.precision
        reached = zero_if_undefined(other) >= self.at_least - 1e-12  # of a sum of weights
        return np.where(reached, value, -np.inf)

    def in_theory(self, rate: float) -> float:
        """The best threshold of probabilities that are exact; 0.5 where it depends on their spread.

        A row is better predicted positive where p FN > (1 - p) FP, so above FP / (FP + FN); for
        balanced accuracy the costs are those of the inverse rates of the two values.

        Args:
            rate: the share of positives.
        """
        if self.costs is not None:
            return self.costs[0] / sum(self.costs)
        return rate if self.name == "balanced-accuracy" and 0 < rate < 1 else 0.5


def zero_if_undefined(values: np.ndarray) -> np.ndarray:
    """The values, 0 where they are NaN."""
    return np.where(np.isnan(values), 0.0, values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
