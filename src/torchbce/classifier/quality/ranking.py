"""How well scores rank positives above negatives.

A target y between 0 and 1 counts as y of a positive and 1 - y of a negative with the same score, as
if the row were repeated.
"""

import numpy as np


def roc_auc(scores: np.ndarray, targets: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The area under the ROC curve: P(a positive's score is above a negative's), ties counting 1/2.

    The statistic of Mann and Whitney: the sum over positives of the negatives below them, and half
    of those that are equal, divided by n m for n positives and m negatives.

    Args:
        scores: finite or infinite numbers, [rows].
        targets: bool or in [0, 1], [rows], with positives and negatives.
        weight: how much each row counts, [rows]; None is 1.
    """
    positives, negatives = _by_score(scores, targets, weight)
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / (positives.sum() * negatives.sum()))


def average_precision(
    scores: np.ndarray, targets: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """The area under the precision-recall curve, sum of (R_k - R_{k-1}) P_k, as scikit-learn's.

    Recall R_k and precision P_k are those of the rows with at least the k-th highest score.

    Args:
        scores: finite or infinite numbers, [rows].
        targets: bool or in [0, 1], [rows], with positives.
        weight: how much each row counts, [rows]; None is 1.
    """
    positives, negatives = (counts[::-1] for counts in _by_score(scores, targets, weight))
    precision = np.cumsum(positives) / np.maximum(np.cumsum(positives + negatives), 1e-300)
    return float(positives @ precision / positives.sum())


def _by_score(
    scores: np.ndarray, targets: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The positives and the negatives of each score, in ascending order of the scores."""
    _, group = np.unique(scores, return_inverse=True)
    y = np.asarray(targets, dtype=np.float64)
    w = 1.0 if weight is None else weight
    return np.bincount(group, weights=w * y), np.bincount(group, weights=w * (1 - y))
