"""How good probabilities are: the figures of `torchbce evaluate`."""

import msgspec
import numpy as np
import torch
from sklearn import metrics

from torchbce._backends import backend
from torchbce.functional import binary_cross_entropy, binary_cross_entropy_with_logits

#: Bins of equal width for the expected calibration error, as in Guo et al.
ECE_BINS = 15


class Confusion(msgspec.Struct, frozen=True):
    """Counts of rows: true and false, positives and negatives."""

    tn: int
    fp: int
    fn: int
    tp: int


class Metrics(msgspec.Struct, frozen=True):
    """The figures. None where a figure is not defined, as a ranking of one class is not."""

    log_loss: float
    relative_log_loss: float | None
    brier: float
    roc_auc: float | None
    average_precision: float | None
    accuracy: float
    f1: float
    ece: float
    confusion: Confusion


@backend("reference")  # no kernel to compile for one call
def evaluate_logits(logits: np.ndarray, targets: np.ndarray, threshold: float = 0.5) -> Metrics:
    """The figures of logits: the log loss is exact where a probability would round to 1."""
    z, y = torch.from_numpy(logits), torch.from_numpy(targets)
    log_loss = binary_cross_entropy_with_logits(z, y).item()
    # Ranked by logits: sigmoids tie where they round to 1, and equal logits may round apart.
    ranking = np.nan_to_num(logits)
    return _evaluate(torch.sigmoid(z).numpy(), targets, log_loss, threshold, ranking)


@backend("reference")
def evaluate_probabilities(
    probabilities: np.ndarray, targets: np.ndarray, threshold: float = 0.5
) -> Metrics:
    """The figures of probabilities in [0, 1] against targets of 0 and 1.

    Args:
        probabilities: float64, [rows].
        targets: 0 and 1, [rows].
        threshold: rows at or above it are predicted positive.

    Returns:
        log loss in nats, at most 100 a row; that loss relative to always predicting the base rate
        of these rows (below 1 is better than that); Brier score; ROC-AUC; average precision;
        accuracy; F1; expected calibration error in 15 bins of equal width; confusion counts.

    References:
        He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014 (the
        relative loss, there "normalized entropy"); Guo et al., On Calibration of Modern Neural
        Networks, ICML 2017.
    """
    p, y = torch.from_numpy(probabilities), torch.from_numpy(targets)
    log_loss = binary_cross_entropy(p, y).item()
    return _evaluate(probabilities, targets, log_loss, threshold, probabilities)


def _evaluate(
    p: np.ndarray, targets: np.ndarray, log_loss: float, threshold: float, ranking: np.ndarray
) -> Metrics:
    y = targets.astype(bool)
    rate = float(y.mean())
    both = 0 < rate < 1
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if both else 0.0
    predicted = p >= threshold
    tn, fp, fn, tp = metrics.confusion_matrix(y, predicted, labels=[False, True]).ravel().tolist()
    return Metrics(
        log_loss=log_loss,
        relative_log_loss=log_loss / float(entropy) if both else None,
        brier=float(metrics.brier_score_loss(y, p, pos_label=True)),
        roc_auc=float(metrics.roc_auc_score(y, ranking)) if both else None,
        average_precision=float(metrics.average_precision_score(y, ranking)) if both else None,
        accuracy=float(metrics.accuracy_score(y, predicted)),
        f1=float(metrics.f1_score(y, predicted, zero_division=0.0)),
        ece=expected_calibration_error(p, y),
        confusion=Confusion(tn, fp, fn, tp),
    )


def expected_calibration_error(p: np.ndarray, y: np.ndarray) -> float:
    """The mean over rows of |share of positives - mean probability| of the row's bin."""
    bins = np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    difference = np.bincount(bins, weights=y - p, minlength=ECE_BINS)
    return float(np.abs(difference).sum() / len(p))
