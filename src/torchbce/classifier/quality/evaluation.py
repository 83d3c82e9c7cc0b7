"""The whole evaluation: the metrics with their intervals, calibration, and several thresholds."""

from typing import Any

import msgspec
import numpy as np

from torchbce.classifier.decisions.counts import Counts, count_thresholds
from torchbce.classifier.decisions.deciding import Rule
from torchbce.classifier.quality.calibration import refinement_loss, smooth_calibration_error
from torchbce.classifier.quality.intervals import cells_of, intervals
from torchbce.classifier.quality.metrics import (
    Metrics,
    evaluate_logits,
    evaluate_probabilities,
)

#: The thresholds that figures are given for, beside the one in use.
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
#: A probability of 0 or 1 has at most this loss, as PyTorch's.
MOST = 100.0


class AtThreshold(msgspec.Struct, frozen=True):
    """The figures of decisions at a threshold.

    Attributes:
        threshold: rows with a probability of at least this are predicted positive.
        predicted: the share of rows that are.
        precision: the share of positives among them; None if there are none.
        recall: the share of the positives that are among them; None without positives.
        false_positive_rate: the share of the negatives that are; None without negatives.
        accuracy: the share of rows that are predicted right.
        f1: the harmonic mean of precision and recall.
        net_benefit: TP / n - FP / n * t / (1 - t), which weighs a false positive by the odds of the
            threshold t; that of predicting no row positive is 0. None at a threshold of 1.
        net_benefit_of_all: that of predicting every row positive.
    """

    threshold: float
    predicted: float
    precision: float | None
    recall: float | None
    false_positive_rate: float | None
    accuracy: float
    f1: float
    net_benefit: float | None
    net_benefit_of_all: float | None


class Undecided(msgspec.Struct, frozen=True):
    """What a classifier that abstains decides.

    Attributes:
        share: the share of rows that it leaves undecided.
        accuracy: the share of the other rows that are predicted right; None if there are none.
        precision: the share of positives among the rows predicted positive.
        missed: the share of the positives that are predicted negative.
    """

    share: float
    accuracy: float | None
    precision: float | None
    missed: float | None


class Evaluation(Metrics, frozen=True):
    """The metrics, and what else `torchbce evaluate` reports.

    Attributes:
        rows: the number of rows with a weight above 0.
        threshold: from which on they are predicted positive.
        calibration_loss: what of `log_loss` a better calibration would save, in nats; None with too
            few rows.
        refinement_loss: the rest, which only a better model would.
        smooth_ece: the smooth calibration error of Błasiok and Nakkiran, which needs no bins.
        net_benefit: see `AtThreshold`.
        intervals: the 95% bootstrap interval of each figure.
        thresholds: the figures of decisions at several thresholds.
        undecided: what a classifier that abstains decides; None for others.
    """

    rows: int
    threshold: float
    calibration_loss: float | None
    refinement_loss: float | None
    smooth_ece: float
    net_benefit: float | None
    intervals: dict[str, tuple[float, float]]
    thresholds: list[AtThreshold]
    undecided: Undecided | None = None


def evaluate_model(
    logits: np.ndarray, targets: np.ndarray, rule: Rule, weight: np.ndarray | None = None
) -> Evaluation:
    """Evaluate the logits of a model.

    Args:
        logits: in nats, float64 [rows], at least one.
        targets: in [0, 1], [rows].
        rule: what is predicted at which probability.
        weight: how much each row counts, [rows]; None is 1.

    Raises:
        ValueError: as `evaluate_logits`.

    Example:
        >>> random = np.random.default_rng(0)
        >>> targets = (random.random(500) < 0.3).astype(float)
        >>> found = evaluate_model(random.normal(2 * targets - 2), targets, Rule(0.5))
        >>> low, high = found.intervals["roc_auc"]
        >>> 0.85 < low < found.roc_auc < high < 1
        True
    """
    from scipy.special import expit

    y = np.asarray(targets, dtype=np.float64)
    metrics = evaluate_logits(logits, y, rule.threshold, weight)
    z = np.nan_to_num(logits)
    losses = np.logaddexp(0, z) - y * z
    return _whole(metrics, expit(z), y, z, losses, rule, weight)


def evaluate_predicted(
    probabilities: np.ndarray,
    targets: np.ndarray,
    threshold: float = 0.5,
    weight: np.ndarray | None = None,
) -> Evaluation:
    """Evaluate probabilities of any source; the arguments are those of `evaluate_probabilities`.

    Example:
        >>> evaluate_predicted(np.array([0.2, 0.6]), np.array([0.0, 1.0])).thresholds[0].predicted
        1.0
    """
    y = np.asarray(targets, dtype=np.float64)
    metrics = evaluate_probabilities(probabilities, y, threshold, weight)
    with np.errstate(divide="ignore"):
        z = np.log(probabilities) - np.log1p(-probabilities)
        losses = -y * np.maximum(np.log(probabilities), -MOST)
        losses -= (1 - y) * np.maximum(np.log1p(-probabilities), -MOST)
    z = np.clip(z, -MOST, MOST)
    return _whole(metrics, probabilities, y, z, losses, Rule(threshold), weight)


def _whole(
    metrics: Metrics,
    p: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    losses: np.ndarray,
    rule: Rule,
    weight: np.ndarray | None,
) -> Evaluation:
    threshold = rule.threshold
    refined = refinement_loss(z, y, weight)
    refined = None if refined is None else min(refined, metrics.log_loss)
    at = np.array(sorted({*THRESHOLDS, threshold}))
    thresholds = _at_thresholds(count_thresholds(p, y, at, weight))
    own = next(one for one in thresholds if one.threshold == threshold)
    smooth_ece = smooth_calibration_error(p, y, weight)
    known: dict[str, Any] = msgspec.structs.asdict(metrics)
    figures = {**known, "smooth_ece": smooth_ece, "net_benefit": own.net_benefit}
    cells = cells_of(z, p, y, losses, threshold, weight)
    return Evaluation(
        **known,
        rows=len(y) if weight is None else int((weight > 0).sum()),
        threshold=threshold,
        calibration_loss=None if refined is None else metrics.log_loss - refined,
        refinement_loss=refined,
        smooth_ece=smooth_ece,
        net_benefit=own.net_benefit,
        intervals=intervals(cells, threshold, figures),
        thresholds=thresholds,
        undecided=None if rule.undecided is None else _undecided(p, y, rule, weight),
    )


def _at_thresholds(counts: Counts) -> list[AtThreshold]:
    """The figures at each threshold, the lowest first."""
    found = []
    for t, tp, fp, fn, tn in zip(*vars(counts).values(), strict=True):
        rows = tp + fp + fn + tn
        odds = t / (1 - t) if t < 1 else np.nan
        found.append(
            AtThreshold(
                threshold=float(t),
                predicted=float((tp + fp) / rows),
                precision=_ratio(tp, tp + fp),
                recall=_ratio(tp, tp + fn),
                false_positive_rate=_ratio(fp, fp + tn),
                accuracy=float((tp + tn) / rows),
                f1=_ratio(2 * tp, 2 * tp + fp + fn) or 0.0,
                net_benefit=_ratio(tp - fp * odds, rows),
                net_benefit_of_all=_ratio((tp + fn) - (fp + tn) * odds, rows),
            )
        )
    return found[::-1]


def _undecided(p: np.ndarray, y: np.ndarray, rule: Rule, weight: np.ndarray | None) -> Undecided:
    w = np.ones(len(y)) if weight is None else weight
    undecided, positive = rule.is_undecided(p), p >= rule.threshold
    negative = ~undecided & ~positive
    right = float(w @ (positive * y + negative * (1 - y)))
    return Undecided(
        share=float(w @ undecided / w.sum()),
        accuracy=_ratio(right, float(w @ ~undecided)),
        precision=_ratio(float(w @ (positive * y)), float(w @ positive)),
        missed=_ratio(float(w @ (negative * y)), float(w @ y)),
    )


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 and np.isfinite(part) else None
