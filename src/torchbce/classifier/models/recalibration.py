r"""Bring the logits of a model back to the rate of the targets, after a loss that left it.

Focal and similar losses are lowest at probabilities that are not those of the targets. There is no
exact shift, as for a weight of the positives, so that a slope and an offset are fitted to the rows
held out, by binary cross-entropy; the offset of the model of all rows is such that their mean
probability is right. They become part of the model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from torchbce.classifier.models.solver import Linear


class Line(NamedTuple):
    """A map of logits: slope times logit plus offset."""

    slope: float
    offset: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """The mapped logits."""
        return self.slope * logits + self.offset

    def after(self, linear: Linear) -> Linear:
        """The linear model whose logits are mapped."""
        return Linear(self.slope * linear.weight, self.slope * linear.bias + self.offset)


def fit_line(logits: np.ndarray, targets: np.ndarray, weight: np.ndarray | None) -> Line:
    """The slope, 0 or above, and the offset with the lowest log loss.

    Args:
        logits: of rows that the model was not fitted to, float64 [rows].
        targets: in [0, 1], float64 [rows].
        weight: of each row, [rows]; None for 1.
    """
    from torchbce.calibration.modules import Platt, elements

    platt = Platt()
    # Without the warning of a slope of 0, right where a model found nothing.
    platt._fit(*elements(logits, targets, weight, None))
    at_0, at_1 = platt(np.array([0.0, 1.0]))
    return Line(float(at_1 - at_0), float(at_0))


def offset_at(logits: np.ndarray, targets: np.ndarray, weight: np.ndarray | None) -> float:
    """What is added to logits so that the mean probability is that of the targets.

    That of the rows that a model was fitted to, as after cross-entropy with a bias: they are more
    rows than those held out.

    Args:
        logits: float64, [rows].
        targets: in [0, 1], [rows], not all 0 and not all 1.
        weight: of each row, [rows]; None for 1.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    rate = float(np.average(targets, weights=weight))
    far = float(np.abs(logits).max()) + 50.0

    def excess(offset: float) -> float:
        return float(np.average(expit(logits + offset), weights=weight)) - rate

    return float(brentq(excess, -far, far, xtol=1e-9))


def cross_fitted(
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray | None,
    honest: Sequence[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """The logits of the rows held out, each mapped by a line that was fitted to other rows.

    Args:
        logits: of the rows held out, float64.
        targets: of these rows.
        weight: of these rows; None for 1.
        honest: masks of rows to fit on and of rows to map; rows of none are mapped by a line that
            was fitted to all.
    """
    mapped = fit_line(logits, targets, weight)(logits)
    for fitted, part in honest:
        own = None if weight is None else weight[fitted]
        mapped[part] = fit_line(logits[fitted], targets[fitted], own)(logits[part])
    return mapped
