"""From probabilities to a decision: by a threshold, by two with undecided rows between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.decisions.guarantees import Certified, Guarantee
from torchbce.classifier.decisions.thresholds import ChosenThreshold
from torchbce.classifier.errors import Argument, InputError

#: Above every probability: no row is decided positive.
NEVER = 2.0


class Decision(msgspec.Struct, frozen=True):
    """How the threshold of a classifier was chosen.

    Attributes:
        optimized: the threshold that is best for an objective on the rows held out; None if none
            was wanted.
        guarantees: the thresholds that keep what was wanted, by rows that were set aside.
        undecided: rows with a probability in [low, high) are undecided if the classifier abstains;
            None without guarantees. A `high` of 2 is above all probabilities.
        abstain: whether it abstains unless told otherwise.
    """

    optimized: ChosenThreshold | None = None
    guarantees: list[Certified] = []
    undecided: tuple[Annotated[float, msgspec.Meta(ge=0, le=NEVER)], ...] | None = None
    abstain: bool = False

    def __post_init__(self) -> None:
        if self.undecided is not None and not (
            len(self.undecided) == 2 and self.undecided[0] <= self.undecided[1]
        ):
            raise ValueError("undecided must be two probabilities in order")

    @property
    def notes(self) -> list[str]:
        """Why a threshold is not what was wanted."""
        found = [] if self.optimized is None else [self.optimized.note]
        return [note for note in [*found, *(one.note for one in self.guarantees)] if note]


def decide(
    optimized: ChosenThreshold | None, guarantees: Sequence[Certified], abstain: bool
) -> tuple[float, Decision | None]:
    """The threshold of a classifier, and how it came about.

    Without guarantees it is the one that was optimized, or 0.5. A guarantee of the precision or of
    the false positive rate says from where on rows may be predicted positive, and one of the recall
    below where they may be predicted negative; rows between the two are undecided. Where only one
    is wanted, the other is the threshold without a guarantee. Where one is wanted and none keeps
    it, no row may be predicted so.

    Args:
        optimized: the threshold for an objective, or None.
        guarantees: at most one for positives and one for negatives.
        abstain: whether rows may stay undecided.

    Returns:
        The threshold in [0, 1], and the decision; None where nothing was wanted.
    """
    plain = 0.5 if optimized is None else optimized.threshold
    if not guarantees:
        return plain, None if optimized is None else Decision(optimized)
    low = high = None
    for one in guarantees:
        if Guarantee.parse(one.guarantee).upper:
            high = NEVER if one.threshold is None else one.threshold
        else:
            low = 0.0 if one.threshold is None else one.threshold
    if high is None:
        assert low is not None
        high = max(plain, low)
    low = min(plain, high) if low is None else min(low, high)
    decision = Decision(optimized, list(guarantees), (low, high), abstain)
    if abstain:
        return min(high, 1.0), decision
    found = guarantees[0].threshold
    return plain if found is None else found, decision


@dataclass(frozen=True)
class Rule:
    """What is predicted at which probability.

    Attributes:
        threshold: rows with at least this are positive.
        undecided: rows in [low, high) are undecided; None for no row.
    """

    threshold: float
    undecided: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        threshold: float,
        decision: Decision | None,
        other: float | None = None,
        abstain: bool | None = None,
    ) -> "Rule":
        """The rule of a classifier.

        Args:
            threshold: of the classifier.
            decision: likewise.
            other: a threshold in its place.
            abstain: whether rows may stay undecided; None for what the decision says.

        Raises:
            InputError: if the other threshold is outside [0, 1] or given with `abstain`, or the
                classifier has no guarantee to abstain by.
        """
        if other is not None:
            if not 0 <= other <= 1:
                raise InputError(Argument("threshold"), f" must be in [0, 1], got {other:g}")
            if abstain:
                raise InputError(
                    Argument("threshold"), " and ", Argument("abstain"), " exclude each other"
                )
            return cls(other)
        between = None if decision is None else decision.undecided
        if abstain and between is None:
            raise InputError(
                Argument("abstain"),
                " needs a model that was fitted with a guarantee, as ",
                Argument("guarantee", "precision>=0.9"),
            )
        if between is None or not (
            decision is not None and (abstain or (abstain is None and decision.abstain))
        ):
            return cls(threshold)
        low, high = between
        return cls(high, (low, high))

    def is_undecided(self, probabilities: np.ndarray) -> np.ndarray:
        """Which rows are undecided, bool [rows]."""
        if self.undecided is None:
            return np.zeros(len(probabilities), dtype=bool)
        low, high = self.undecided
        return (probabilities >= low) & (probabilities < high)

    def decided(self, labels: pl.Series, probabilities: np.ndarray) -> pl.Series:
        """The labels, null where a row is undecided."""
        if self.undecided is None:
            return labels
        kept = pl.Series(~self.is_undecided(probabilities))
        return pl.select(pl.when(kept).then(labels)).to_series().alias(labels.name)
