"""How well scores rank positives above negatives."""

import numpy as np


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve: P(a positive's score is above a negative's), ties counting 1/2.

    The statistic of Mann and Whitney, from the mean ranks of equal scores:
    (sum of the positives' ranks - n (n + 1) / 2) / (n m) for n positives and m negatives.

    Args:
        scores: finite or infinite numbers, [rows].
        positive: bool, [rows], at least one of each.
    """
    _, group, rows = np.unique(scores, return_inverse=True, return_counts=True)
    hits = np.bincount(group, weights=positive, minlength=len(rows))
    mean_ranks = np.cumsum(rows) - (rows - 1) / 2
    n = hits.sum()
    m = len(scores) - n
    return float((hits @ mean_ranks - n * (n + 1) / 2) / (n * m))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the precision-recall curve, sum of (R_k - R_{k-1}) P_k, as scikit-learn's.

    Recall R_k and precision P_k are those of the rows with at least the k-th highest score.

    Args:
        scores: finite or infinite numbers, [rows].
        positive: bool, [rows], at least one positive.
    """
    _, group, rows = np.unique(scores, return_inverse=True, return_counts=True)
    hits = np.bincount(group, weights=positive, minlength=len(rows))[::-1]
    precision = np.cumsum(hits) / np.cumsum(rows[::-1])
    return float(hits @ precision / hits.sum())
