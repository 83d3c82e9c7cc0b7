"""What every threshold of a set of probabilities gets right and wrong."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Counts:
    """The confusion matrix at each of some thresholds, the highest threshold first.

    Attributes:
        thresholds: rows with a probability of at least this are predicted positive, [T].
        tp: the true positives, rows or the sum of their weights, float64 [T].
        fp: the false positives.
        fn: the false negatives.
        tn: the true negatives.
    """

    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """tp / (tp + fp), [T]; NaN where no row is predicted positive."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> np.ndarray:
        """tp / (tp + fn), [T]; NaN without positives."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def false_positive_rate(self) -> np.ndarray:
        """fp / (fp + tn), [T]; NaN without negatives."""
        return ratio(self.fp, self.fp + self.tn)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the whole is 0."""
    quotient = np.full(len(part), np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def count_thresholds(
    probabilities: np.ndarray,
    targets: np.ndarray,
    thresholds: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> Counts:
    """Count true and false positives and negatives at each threshold.

    Args:
        probabilities: of the positive value, in [0, 1], float64 [N].
        targets: in [0, 1], [N]. A target y between 0 and 1 counts as y of a positive and 1 - y of a
            negative.
        thresholds: in any order, [T]; None takes every threshold that decides differently: 0, the
            middle of each two neighbouring probabilities, and one above all of them if that is at
            most 1.
        weight: how much each row counts, [N]; None is 1.

    Returns:
        The counts, the highest threshold first.

    Example:
        >>> counts = count_thresholds(np.array([0.2, 0.6, 0.9]), np.array([0, 0, 1]))
        >>> counts.thresholds.tolist(), counts.tp.tolist(), counts.fp.tolist()
        ([0.95, 0.75, 0.4, 0.0], [0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 2.0])
    """
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    w = np.ones(len(p)) if weight is None else np.asarray(weight, dtype=np.float64)
    order = np.argsort(-p, kind="stable")
    p, y, w = p[order], y[order], w[order]
    at = every_threshold(p) if thresholds is None else -np.sort(-np.asarray(thresholds, float))
    # The number of rows with p >= threshold; `-p` ascends.
    above = np.searchsorted(-p, -at, side="right")
    tp = np.concatenate([[0.0], np.cumsum(w * y)])
    fp = np.concatenate([[0.0], np.cumsum(w * (1 - y))])
    return Counts(at, tp[above], fp[above], tp[-1] - tp[above], fp[-1] - fp[above])


def every_threshold(p: np.ndarray) -> np.ndarray:
    """The thresholds that decide differently about probabilities, which are given in falling order.

    The middle of two neighbouring probabilities is the threshold that stays farthest from both.
    """
    values = p[np.concatenate([[True], p[1:] < p[:-1]])] if len(p) else p
    if not len(values):
        return np.array([0.0])
    middles = values[1:] + (values[:-1] - values[1:]) / 2
    # Between neighbouring floating-point numbers the middle is one of them.
    middles = np.where(middles > values[1:], middles, values[:-1])
    top = values[0] + (1 - values[0]) / 2
    return np.concatenate([[top] if top > values[0] else [], middles, [0.0]])
