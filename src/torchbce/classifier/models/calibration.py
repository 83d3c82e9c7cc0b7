"""The map from combined logits to calibrated ones, chosen on rows held out."""

from typing import Annotated, Literal

import msgspec
import numpy as np

from torchbce.calibration import maps

#: With fewer rows held out, logits are left as they are.
FEWEST_ROWS = 1000

Bounded = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Slope = Annotated[float, msgspec.Meta(ge=0, le=1e30)]


class Calibration(msgspec.Struct, frozen=True):
    """A map of logits, as `torchbce.calibration` fits it, in plain numbers.

    Attributes:
        kind: which map it is.
        slopes: its slopes.
        offset: its offset in nats.
        low: of "quadratic", where its slope begins to change.
        high: of "quadratic", where it ends.

    Example:
        >>> Calibration("platt", [0.5], 1.0)(np.array([0.0, 2.0]))
        array([1., 2.])
    """

    kind: Literal["temperature", "platt", "beta", "quadratic"]
    slopes: list[Slope]
    offset: Bounded = 0.0
    low: Bounded | None = None
    high: Bounded | None = None

    def __post_init__(self) -> None:
        if len(self.slopes) != maps.KINDS[self.kind][0]:
            raise ValueError(f"a {self.kind} map has {maps.KINDS[self.kind][0]} slopes")
        if self.kind == "quadratic" and not (
            self.low is not None and self.high is not None and self.low < self.high
        ):
            raise ValueError("a quadratic map needs low and high, and low < high")

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """The calibrated logits, float64 of the same shape."""
        mapped = maps.apply(self.kind, logits, self.slopes, self.offset, self.low, self.high)
        return np.asarray(mapped, dtype=np.float64)

    def slope_near(self, logit: float) -> float:
        """By how much the calibrated logit changes when one near `logit` changes by 1."""
        low, high = self(np.array([logit - 0.5, logit + 0.5]))
        return float(high - low)


def calibration_of(
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray | None,
    groups: np.ndarray | None = None,
) -> Calibration | None:
    """The map that makes logits of rows held out better, if one does.

    Args:
        logits: of rows that the models were not fitted to, each row once, float64 [rows].
        targets: in [0, 1], [rows].
        weight: how much each row counts, [rows]; None for 1.
        groups: the group of each row, which no fold divides, [rows]; None without groups.

    Returns:
        As `torchbce.calibration.choose` chooses it; None where logits are better left alone, or
        there are fewer than 1,000 rows.
    """
    if len(logits) < FEWEST_ROWS:
        return None
    from torchbce.calibration.choosing import chosen
    from torchbce.calibration.modules import elements

    # Without the warning of a slope of 0: who fits a classifier does not choose its logits.
    found = chosen(*elements(logits, targets, weight, None), groups=groups).to_dict()
    return None if found["kind"] == "identity" else msgspec.convert(found, Calibration)
