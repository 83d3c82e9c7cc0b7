"""How good the predicted probabilities of many labels are."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from torchbce import ranking
from torchbce.classifier.labels.targets import LabelTargets
from torchbce.classifier.quality.metrics import Metrics, evaluate_logits

#: The k of P@k, nDCG@k and PSP@k.
KS = (1, 3, 5)
#: Logits that are computed at a time.
CHUNK_LOGITS = 2**24
#: Of more labels than this only those are listed that have both values in the rows.
LISTED = 1000


class LabelsMetrics(msgspec.Struct, frozen=True):
    """How good the predicted probabilities of many labels are.

    Attributes:
        log_loss: the mean over the labels of their mean binary cross-entropy in nats.
        relative_log_loss: `log_loss` divided by that of each label's share of positives for every
            row: below 1 is better than that. None if no label has both values.
        micro_f1: the F1 of all decisions together: 2 tp / (2 tp + fp + fn) of the sums over labels.
        macro_f1: the mean of the labels' F1, which is 0 for a label without true positives.
        hamming_loss: the share of wrong decisions.
        macro_roc_auc: the mean of the ROC-AUC of the labels that have both values; None without.
        macro_average_precision: the mean of their average precision.
        precision_at: the share of the k most probable labels of a row that are positive, by k.
        ndcg_at: the normalised discounted cumulative gain of the k most probable labels, by k.
        psp_at: propensity-scored precision, in which rare labels of the training rows count more.
        labels: the metrics of each label, by its name.

    Example:
        >>> from torchbce.classifier import fit_labels
        >>> table = {"x": [0.0, 1.0, 5.0] * 20, "low": [1, 1, 0] * 20, "any": [1, 0, 1] * 20}
        >>> metrics = fit_labels(table, targets=["low", "any"]).card.held_out
        >>> metrics.precision_at["1"], list(metrics.labels)
        (1.0, ['low', 'any'])
    """

    log_loss: float
    relative_log_loss: float | None
    micro_f1: float
    macro_f1: float
    hamming_loss: float
    macro_roc_auc: float | None
    macro_average_precision: float | None
    precision_at: dict[str, float]
    ndcg_at: dict[str, float]
    psp_at: dict[str, float]
    labels: dict[str, Metrics]


def evaluate_labels(
    logits: Callable[[int, int], np.ndarray],
    best: np.ndarray,
    targets: LabelTargets,
    names: Sequence[str],
    thresholds: np.ndarray,
    propensity: np.ndarray,
    weight: np.ndarray | None = None,
    listed: bool = True,
) -> LabelsMetrics:
    """Compute the metrics of many labels.

    Args:
        logits: returns those of the labels from a first to a last one, float64 [rows, labels].
        best: the most probable labels of each row, the best first, int64 [rows, at most 5].
        targets: the labels of the rows; what is unknown counts nowhere.
        names: the labels' names, [L].
        thresholds: of each label: a probability of at least this is a positive decision, [L].
        propensity: of each label, as `torchbce.ranking` takes it, [L].
        weight: how much each row counts; None for 1. Ranking metrics do not weigh rows.
        listed: whether the figures of each label are returned.
    """
    number = targets.number
    step = max(1, CHUNK_LOGITS // max(1, len(targets)))
    losses, entropies = np.zeros(number), np.zeros(number)
    counted = np.zeros(number, dtype=bool)
    tp, fp, fn, tn = np.zeros((4, number))
    of_labels: dict[str, Metrics] = {}
    aucs, precisions = [], []
    for start in range(0, number, step):
        stop = min(start + step, number)
        z, y = logits(start, stop), targets.values(start, stop)
        known = ~np.isnan(y)
        w = known * (1.0 if weight is None else weight[:, None])
        total = w.sum(0)
        counted[start:stop] = total > 0
        per = np.maximum(total, 1e-300)
        y = np.nan_to_num(y)
        at = slice(start, stop)
        losses[at] = (w * (np.logaddexp(0.0, z) - y * z)).sum(0) / per
        rate = (w * y).sum(0) / per
        with np.errstate(divide="ignore", invalid="ignore"):
            entropies[at] = -np.nan_to_num(rate * np.log(rate)) - np.nan_to_num(
                (1 - rate) * np.log1p(-rate)
            )
        decided = z >= _logit(thresholds[at])
        tp[at], fp[at] = (w * decided * y).sum(0), (w * decided * (1 - y)).sum(0)
        fn[at], tn[at] = (w * ~decided * y).sum(0), (w * ~decided * (1 - y)).sum(0)
        for label in range(start, stop):
            own = known[:, label - start]
            values = y[own, label - start]
            both = bool(values.any() and (values < 1).any())
            if not len(values) or not (both or number <= LISTED):
                continue
            if not both and not listed:
                continue
            of_rows = {} if weight is None else {"weight": weight[own]}
            if not listed and weight is None and bool(((values == 0) | (values == 1)).all()):
                auc, precision = auc_and_precision(z[own, label - start], values > 0)
                aucs.append(auc)
                precisions.append(precision)
                continue
            found = evaluate_logits(
                np.ascontiguousarray(z[own, label - start]),
                values,
                float(thresholds[label]),
                **of_rows,
            )
            of_labels[names[label]] = found
            if found.roc_auc is not None:
                aucs.append(found.roc_auc)
            if found.average_precision is not None:
                precisions.append(found.average_precision)
    ranked = _ranked(best, targets, propensity)
    entropy = float(entropies[counted].sum())
    f1 = 2 * tp / np.maximum(2 * tp + fp + fn, 1e-300)
    return LabelsMetrics(
        log_loss=float(losses[counted].mean()) if counted.any() else 0.0,
        relative_log_loss=float(losses[counted].sum()) / entropy if entropy else None,
        micro_f1=float(2 * tp.sum() / max(2 * tp.sum() + fp.sum() + fn.sum(), 1e-300)),
        macro_f1=float(f1[counted].mean()) if counted.any() else 0.0,
        hamming_loss=float((fp + fn).sum() / max((tp + fp + fn + tn).sum(), 1e-300)),
        macro_roc_auc=float(np.mean(aucs)) if aucs else None,
        macro_average_precision=float(np.mean(precisions)) if precisions else None,
        **ranked,
        labels=of_labels if listed else {},
    )


def best_labels(logits: np.ndarray, k: int) -> np.ndarray:
    """The k labels of the largest logits, the best first, int64 [rows, k]; equal ones in order."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]


def auc_and_precision(logits: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """The ROC-AUC and the average precision of a label with few positives, by one sort.

    As `quality.ranking`, which groups equal logits: here only those of the positives are looked up.

    Args:
        logits: [rows].
        positive: bool, [rows], at least one and not all.
    """
    ordered, own = np.sort(logits), np.sort(logits[positive])
    below = np.searchsorted(ordered, own, side="left")
    up_to = np.searchsorted(ordered, own, side="right")
    n, rows = len(own), len(ordered)
    mean_ranks = (below + up_to + 1) / 2
    auc = (mean_ranks.sum() - n * (n + 1) / 2) / (n * (rows - n))
    hits = n - np.searchsorted(own, own, side="left")
    return float(auc), float(np.mean(hits / (rows - below)))


def _ranked(
    best: np.ndarray, targets: LabelTargets, propensity: np.ndarray
) -> dict[str, dict[str, float]]:
    """Ranking metrics of the rows of which something is known, without unknown labels."""
    import torch

    rows = np.arange(len(best))
    if targets.dense is not None:
        unknown = np.isnan(targets.dense)
        rows = np.flatnonzero(~unknown.all(1))
        best = np.where(np.take_along_axis(unknown, best, 1), -1, best)
        # What is known moves to the front, in its order.
        order = np.argsort(best < 0, axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)
    ks = [k for k in KS if k <= best.shape[1]]
    if not len(rows) or not ks:
        return {"precision_at": {}, "ndcg_at": {}, "psp_at": {}}
    metrics = ranking.RankingMetrics(ks, propensity=torch.from_numpy(propensity))
    metrics.update(torch.from_numpy(best[rows]), targets.take(rows).lists())
    return {
        name: {str(k): value for k, value in by_k.items()}
        for name, by_k in metrics.compute().items()
    }


def _logit(probability: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        found: np.ndarray = np.log(probability) - np.log1p(-probability)
    return found
