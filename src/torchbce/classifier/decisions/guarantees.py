"""Thresholds whose precision, recall or false positive rate holds with a stated confidence."""

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from torchbce.classifier.decisions.counts import Counts, count_thresholds
from torchbce.classifier.decisions.thresholds import blended
from torchbce.classifier.errors import Argument, InputError, listing

#: The probability that a threshold which is found keeps what it promises.
CONFIDENCE = 0.95
#: How many thresholds are tested at most, one after the other. More of them end nearer to the last
#: one that holds, but each is another chance to stop early.
SEQUENCE = 200

#: How each figure may be written, and whether it is to be at least or at most the bound.
FIGURES = {
    "precision": ("precision", ">="),
    "recall": ("recall", ">="),
    "fpr": ("fpr", "<="),
    "false-positive-rate": ("fpr", "<="),
}
WRITTEN = "precision>=P, recall>=R or fpr<=F"


@dataclass(frozen=True)
class Guarantee:
    """What is to hold for new rows.

    Attributes:
        figure: "precision", "recall" or "fpr", the false positive rate.
        bound: what it is at least, or, of "fpr", at most, in (0, 1).

    Example:
        >>> Guarantee.parse("precision>=0.9")
        Guarantee(figure='precision', bound=0.9)
        >>> str(Guarantee.parse("false-positive-rate <= 5e-2"))
        'fpr<=0.05'
    """

    figure: Literal["precision", "recall", "fpr"]
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Guarantee":
        """A guarantee as the command line writes it.

        Args:
            text: "precision>=P", "recall>=R" or "fpr<=F" ("false-positive-rate<=F").

        Raises:
            InputError: if it is none of these, or the number is not between 0 and 1.
        """
        if not isinstance(text, str):
            raise InputError(Argument("guarantee"), f" must be {WRITTEN}, got {listing([text])}")
        for sign in (">=", "<="):
            name, found, number = text.partition(sign)
            if not found:
                continue
            figure, own = FIGURES.get(name.strip().lower(), ("", ""))
            if own != sign:
                break
            try:
                bound = float(number)
            except ValueError:
                bound = float("nan")
            if not 0 < bound < 1:
                raise InputError(
                    Argument("guarantee"),
                    f" {name.strip()}{sign} needs a number between 0 and 1, got {number!r}",
                )
            return cls(figure, bound)  # type: ignore[arg-type]
        raise InputError(Argument("guarantee"), f" must be {WRITTEN}, got {text!r}")

    def __str__(self) -> str:
        return f"{self.figure}{'<=' if self.figure == 'fpr' else '>='}{self.bound:g}"

    @property
    def upper(self) -> bool:
        """Whether it says when a row may be predicted positive, and not when it may be negative."""
        return self.figure != "recall"

    def p_values(self, counts: Counts) -> np.ndarray:
        r"""How probable counts as good as these are where the guarantee just fails, [T].

        Of n rows that are predicted positive (of n positives for the recall) with the share P or R,
        k are true positives: :math:`P(\mathrm{Bin}(n, P) \ge k)`. Of n negatives k are false
        positives: :math:`P(\mathrm{Bin}(n, F) \le k)`. Counts need not be whole.
        """
        from scipy.special import betainc

        if self.figure == "fpr":
            n, k = counts.fp + counts.tn, counts.fp
            inside = np.maximum(n - k, 1e-300), k + 1, 1 - self.bound
            return np.where(n - k <= 0, 1.0, betainc(*inside))
        n = counts.tp + (counts.fp if self.figure == "precision" else counts.fn)
        k = counts.tp
        inside = np.maximum(k, 1e-300), n - k + 1, self.bound
        return np.where(k <= 0, 1.0, betainc(*inside))

    def estimate(self, counts: Counts) -> np.ndarray:
        """The figure itself, [T]."""
        if self.figure == "fpr":
            return counts.false_positive_rate
        return counts.precision if self.figure == "precision" else counts.recall


class Certified(msgspec.Struct, frozen=True):
    """A guarantee and the threshold that keeps it.

    Attributes:
        guarantee: as `Guarantee.parse` reads it.
        threshold: of the probability; None where none is found.
        confidence: the probability, over rows that are drawn like those of the test, that the
            threshold that is found keeps the guarantee.
        rows: the number of rows of the test.
        estimate: the figure on them at the threshold; None without a threshold.
        note: why there is no threshold; "" if there is one.
    """

    guarantee: str
    threshold: float | None
    confidence: float
    rows: int
    estimate: float | None
    note: str = ""


def certify(
    guarantee: Guarantee | str,
    choosing: tuple[np.ndarray, np.ndarray],
    testing: tuple[np.ndarray, np.ndarray],
    confidence: float = CONFIDENCE,
) -> Certified:
    r"""The threshold that decides most rows and keeps a guarantee for new rows.

    Thresholds are tested one after the other, from the one that most certainly keeps the guarantee
    to those that decide more rows, each by an exact binomial test at the level 1 - confidence. The
    first one that is not passed ends the sequence, and the last one passed is returned. The
    sequence depends on the choosing rows only, so the probability that a threshold is returned that
    does not keep the guarantee is at most 1 - confidence: that would need the first such threshold
    in the sequence to pass its test.

    Args:
        guarantee: what is to hold.
        choosing: logits and targets, 0 or 1, [N] each, of rows that are not among the testing ones.
        testing: logits and targets, [M] each, of rows drawn independently from what the guarantee
            is about, which neither the model nor the choosing rows have seen.
        confidence: in (0, 1).

    Returns:
        The threshold; None, and why, where no threshold passes. Predicting all rows positive for
        the recall, or none for the false positive rate, is not an answer.

    Raises:
        InputError: if the guarantee is not one.
        ValueError: if a target is neither 0 nor 1.

    Example:
        >>> random = np.random.default_rng(0)
        >>> targets = (random.random(8000) < 0.4).astype(float)
        >>> logits = random.normal(4 * targets - 2.4)
        >>> half = logits[:4000], targets[:4000]
        >>> found = certify("precision>=0.95", half, (logits[4000:], targets[4000:]))
        >>> 0.2 < found.threshold < 0.9, found.estimate > 0.95
        (True, True)

    References:
        Angelopoulos et al., Learn then Test: Calibrating Predictive Algorithms to Achieve Risk
        Control, 2021 (fixed sequence testing); Clopper and Pearson, The Use of Confidence or
        Fiducial Limits Illustrated in the Case of the Binomial, 1934.
    """
    from scipy.special import expit

    goal = Guarantee.parse(guarantee) if isinstance(guarantee, str) else guarantee
    for _, targets in (choosing, testing):
        if not ((targets == 0) | (targets == 1)).all():
            raise ValueError("every target must be 0 or 1")
    p, y = expit(testing[0]), testing[1]
    sequence = _sequence(goal, expit(choosing[0]), choosing[1], len(y))
    counts = count_thresholds(p, y, sequence)
    if not goal.upper:  # from the lowest threshold on
        counts = Counts(*(values[::-1] for values in vars(counts).values()))
    passed = goal.p_values(counts) <= 1 - confidence
    number = len(passed) if passed.all() else int(np.argmin(passed))
    if number == 0:
        return Certified(str(goal), None, confidence, len(y), None, _why(goal, y, confidence))
    at = number - 1
    estimate = float(goal.estimate(counts)[at])
    return Certified(str(goal), float(counts.thresholds[at]), confidence, len(y), estimate)


def _sequence(goal: Guarantee, p: np.ndarray, y: np.ndarray, rows: int) -> np.ndarray:
    """Thresholds in the order in which they may be tested, the highest first; [] without rows."""
    if not len(p):
        return np.array([])
    counts = count_thresholds(p, blended(p, y))
    # Without those that decide nothing, which are no answer.
    inside = slice(None, -1) if goal.figure == "recall" else slice(1, None)
    thresholds = counts.thresholds
    if thresholds[0] <= p.max():  # no threshold is above a probability of 1
        inside = slice(inside.start and 0, inside.stop)
    thresholds = thresholds[inside]
    if len(thresholds) > SEQUENCE:
        at = np.linspace(0, len(thresholds) - 1, SEQUENCE).round().astype(np.int64)
        thresholds = thresholds[at]
    if goal.figure != "precision":
        return thresholds
    # Of a high threshold too few rows are above it for a test to pass, whatever their targets are.
    share = rows / len(p)
    expected = count_thresholds(p, blended(p, y), thresholds, np.full(len(p), share))
    return thresholds[int(np.argmin(goal.p_values(expected))) :]


def _why(goal: Guarantee, y: np.ndarray, confidence: float) -> str:
    """What to say where no threshold passes its test."""
    positives, negatives = int(y.sum()), int((1 - y).sum())
    cases, what = {
        "precision": (len(y), "rows"),
        "recall": (positives, "positives"),
        "fpr": (negatives, "negatives"),
    }[goal.figure]
    chance = 1 - goal.bound if goal.figure == "fpr" else goal.bound
    fewest = int(np.ceil(np.log(1 - confidence) / np.log(chance)))
    begin = (
        f"no threshold keeps {goal} with {confidence:.0%} confidence on the {cases:,} {what} that "
        "were set aside to test it"
    )
    if cases < fewest:
        return f"{begin}; at least {fewest:,} are needed"
    return begin
