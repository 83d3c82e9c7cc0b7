"""Metrics of predicted probabilities: loss, calibration, ranking, and decisions at a threshold."""

from typing import Any

import msgspec
import numpy as np

from torchbce.classifier.quality.ranking import average_precision, roc_auc

#: Bins of equal width of the expected calibration error, as in Guo et al.
ECE_BINS = 15


class Confusion(msgspec.Struct, frozen=True):
    """The confusion matrix at a threshold: counts of rows, or sums of their weights."""

    tn: int | float
    fp: int | float
    fn: int | float
    tp: int | float


class Metrics(msgspec.Struct, frozen=True):
    """How good predicted probabilities are.

    Attributes:
        log_loss: the mean binary cross-entropy in nats; lower is better.
        relative_log_loss: `log_loss` divided by the log loss of predicting the share of positives
            for every row: below 1 is better than that. None if all targets are equal.
        brier: the mean of (probability - target)^2; lower is better.
        roc_auc: the probability that a positive is ranked above a negative: 0.5 is chance, 1 is
            best. None if all targets are equal.
        average_precision: the area under the precision-recall curve, as scikit-learn computes it.
            None if all targets are equal.
        accuracy: the share of rows that are predicted right at the threshold.
        f1: the harmonic mean of precision and recall at the threshold.
        ece: the expected calibration error: the mean of |share of positives - mean probability|
            over 15 bins of equal width, weighted by their rows; lower is better.
        confusion: the counts `tn`, `fp`, `fn` and `tp` at the threshold.

    Example:
        >>> metrics = evaluate_probabilities(np.array([0.1, 0.4, 0.8]), np.array([0.0, 1.0, 1.0]))
        >>> metrics.roc_auc, metrics.confusion
        (1.0, Confusion(tn=1, fp=0, fn=1, tp=1))
    """

    log_loss: float
    relative_log_loss: float | None
    brier: float
    roc_auc: float | None
    average_precision: float | None
    accuracy: float
    f1: float
    ece: float
    confusion: Confusion


def evaluate_logits(
    logits: np.ndarray,
    targets: np.ndarray,
    threshold: float = 0.5,
    weight: np.ndarray | None = None,
) -> Metrics:
    """Compute the metrics of logits.

    The log loss is exact even where the probability, sigmoid(logit), would round to 0 or 1.

    Args:
        logits: log-odds of the positive value in nats, float64, [rows].
        targets: in [0, 1], float, [rows]. A target y between 0 and 1 counts as y of a positive and
            1 - y of a negative in every metric but the Brier score, the mean of (p - y)^2.
        threshold: rows with a probability of at least this are predicted positive, in [0, 1].
        weight: how much each row counts, at least 0 and not all 0, [rows]; None is 1.

    Returns:
        The metrics of these rows; the log loss in nats, without a limit per row.

    Raises:
        ValueError: if the shapes differ, a target is outside [0, 1], or a weight is negative or not
            finite, or all are 0.

    Example:
        >>> metrics = evaluate_logits(np.array([-40.0, 40.0]), np.array([1.0, 1.0]))
        >>> metrics.log_loss, metrics.accuracy
        (20.0, 0.5)

    References:
        He et al., Practical Lessons from Predicting Clicks on Ads at Facebook, ADKDD 2014 (the
        relative log loss, there "normalized entropy"); Guo et al., On Calibration of Modern Neural
        Networks, ICML 2017 (the expected calibration error).
    """
    from torchbce import backend
    from torchbce.functional import binary_cross_entropy_with_logits

    w = checked_weight(weight, targets)
    z, y = _tensor(logits), _tensor(targets)
    with backend("reference"):  # a single call does not repay compiling a kernel
        log_loss = binary_cross_entropy_with_logits(z, y, *_weighted(w)).item()
    # Rows are ranked by logits: different logits may have equal sigmoids.
    ranking = np.nan_to_num(logits)
    return _evaluate(z.sigmoid().numpy(), targets, log_loss, threshold, ranking, w)


def evaluate_probabilities(
    probabilities: np.ndarray,
    targets: np.ndarray,
    threshold: float = 0.5,
    weight: np.ndarray | None = None,
) -> Metrics:
    """Compute the metrics of probabilities.

    Args:
        probabilities: of the positive value, in [0, 1], float64, [rows].
        targets: in [0, 1], float, [rows]; see `evaluate_logits`.
        threshold: rows with a probability of at least this are predicted positive, in [0, 1].
        weight: how much each row counts, at least 0 and not all 0, [rows]; None is 1.

    Returns:
        The metrics of these rows; the log loss in nats, at most 100 per row, as PyTorch's.

    Raises:
        ValueError: if the shapes differ, a probability or target is outside [0, 1], or a weight is
            negative or not finite, or all are 0.

    Example:
        >>> metrics = evaluate_probabilities(np.array([0.2, 0.6]), np.array([0.0, 1.0]))
        >>> round(metrics.log_loss, 4), round(metrics.relative_log_loss, 4)
        (0.367, 0.5294)

    References:
        See `evaluate_logits`.
    """
    from torchbce import backend
    from torchbce.functional import binary_cross_entropy

    w = checked_weight(weight, targets)
    p, y = _tensor(probabilities), _tensor(targets)
    with backend("reference"):
        log_loss = binary_cross_entropy(p, y, *_weighted(w)).item()
    return _evaluate(probabilities, targets, log_loss, threshold, probabilities, w)


def checked_weight(weight: np.ndarray | None, targets: np.ndarray) -> np.ndarray | None:
    """The weights in float64, None where every row counts 1.

    Raises:
        ValueError: if they are not one for each target, or negative, or not finite, or all 0.
    """
    if weight is None:
        return None
    w = np.asarray(weight, dtype=np.float64)
    if w.shape != targets.shape:
        raise ValueError(f"weight has shape {w.shape} and targets have {targets.shape}")
    if not ((w >= 0) & np.isfinite(w)).all() or not w.any():
        raise ValueError("every weight must be finite and at least 0, and one above 0")
    return w


def _tensor(values: np.ndarray) -> Any:
    """The values as a tensor; PyTorch warns of an array that is read only, as polars' are."""
    import torch  # not at the top: a card of figures is read without it

    return torch.from_numpy(np.require(values, requirements="W"))


def _weighted(weight: np.ndarray | None) -> tuple[Any, ...]:
    """The positional arguments of a loss for its mean: weight, two deprecated ones, reduction."""
    return () if weight is None else (_tensor(weight), None, None, "weighted_mean")


def _evaluate(
    p: np.ndarray,
    targets: np.ndarray,
    log_loss: float,
    threshold: float,
    ranking: np.ndarray,
    weight: np.ndarray | None,
) -> Metrics:
    y = targets.astype(np.float64)
    confusion = confusion_at(p, y, threshold, weight)
    rate = float(np.average(y, weights=weight))
    both = 0 < rate < 1
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if both else 0.0
    return Metrics(
        log_loss=log_loss,
        relative_log_loss=log_loss / float(entropy) if both else None,
        brier=float(np.average((p - y) ** 2, weights=weight)),
        roc_auc=roc_auc(ranking, y, weight) if both else None,
        average_precision=average_precision(ranking, y, weight) if both else None,
        **decision_figures(confusion),
        ece=expected_calibration_error(p, y, weight),
        confusion=confusion,
    )


def confusion_at(
    p: np.ndarray, y: np.ndarray, threshold: float, weight: np.ndarray | None
) -> Confusion:
    """The confusion matrix at a threshold; in whole rows unless targets or weights are not."""
    predicted = (p >= threshold).astype(np.int64)
    w = np.ones(len(y)) if weight is None else weight
    negatives = np.bincount(predicted, weights=w * (1 - y), minlength=2).tolist()
    positives = np.bincount(predicted, weights=w * y, minlength=2).tolist()
    counts = (*negatives, *positives)
    if weight is None and all(count.is_integer() for count in counts):
        counts = tuple(int(count) for count in counts)
    tn, fp, fn, tp = counts
    return Confusion(tn, fp, fn, tp)


def decision_figures(confusion: Confusion) -> dict[str, float]:
    """The accuracy and F1 of a confusion matrix."""
    tn, fp, fn, tp = msgspec.structs.astuple(confusion)
    return {
        "accuracy": (tp + tn) / (tn + fp + fn + tp),
        "f1": 2 * tp / (2 * tp + fp + fn) if tp > 0 else 0.0,
    }


def expected_calibration_error(
    p: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """The mean over rows of |share of positives - mean probability| in the row's bin."""
    w = np.ones(len(p)) if weight is None else weight
    difference = np.bincount(ece_bins(p), weights=w * (y - p), minlength=ECE_BINS)
    return float(np.abs(difference).sum() / w.sum())


def ece_bins(p: np.ndarray) -> np.ndarray:
    """The bin of each probability."""
    bins: np.ndarray = np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    return bins
