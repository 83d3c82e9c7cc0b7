"""Intervals of the metrics: the bootstrap on rows that are grouped by their scores."""

from typing import NamedTuple

import numpy as np

from torchbce.classifier.quality.calibration import on_grid, smoothed_error, smoothing_width
from torchbce.classifier.quality.metrics import ECE_BINS, ece_bins

ROUNDS = 500
#: The percentiles of a 95% interval.
ENDS = (2.5, 97.5)
#: Rows are merged to so many groups of neighbouring scores: a million rows take as long as these.
GROUPS = 8192
#: Sums of absolute errors, which noise makes larger: of calibrated rows they are not 0.
ABSOLUTE = ("ece", "smooth_ece")


class Cells(NamedTuple):
    """Rows of nearly one score and of one target value, merged; sums over their rows, [cells].

    Attributes:
        starts: the position of the first cell of each group of scores, in ascending order.
        rows: how many rows of weight 1 vary as much as these: (sum of w)^2 / sum of w^2.
        weight: the sum of w.
        positives: of w y.
        hits: of w y where the row is predicted positive.
        alarms: of w (1 - y) where it is.
        p: of w p.
        loss: of w times the log loss.
        squares: of w (p - y)^2.
    """

    starts: np.ndarray
    rows: np.ndarray
    weight: np.ndarray
    positives: np.ndarray
    hits: np.ndarray
    alarms: np.ndarray
    p: np.ndarray
    loss: np.ndarray
    squares: np.ndarray


def cells_of(
    scores: np.ndarray,
    p: np.ndarray,
    y: np.ndarray,
    losses: np.ndarray,
    threshold: float,
    weight: np.ndarray | None,
) -> Cells:
    """Merge rows; those of equal scores are never divided."""
    order = np.argsort(scores, kind="stable")
    first = np.concatenate([[True], np.diff(scores[order]) > 0])
    group = np.cumsum(first) - 1
    if group[-1] >= GROUPS:
        begins = np.flatnonzero(first)[group]
        group = begins * GROUPS // len(order)
    y, p, losses = y[order], p[order], losses[order]
    w = np.ones(len(y)) if weight is None else weight[order]
    value = np.where(y <= 0, 0, np.where(y >= 1, 2, 1))
    names, cell = np.unique(group * 3 + value, return_inverse=True)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.bincount(cell, values, len(names))

    predicted = p >= threshold
    total, squared = summed(w), summed(w * w)
    return Cells(
        np.flatnonzero(np.concatenate([[True], np.diff(names // 3) > 0])),
        np.divide(total * total, squared, out=np.zeros(len(names)), where=squared > 0),
        total,
        summed(w * y),
        summed(w * y * predicted),
        summed(w * (1 - y) * predicted),
        summed(w * p),
        summed(w * losses),
        summed(w * (p - y) ** 2),
    )


def intervals(
    cells: Cells, threshold: float, figures: dict[str, float | None], seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The 95% interval of each figure, for samples of as many rows like these.

    Each of 500 rounds draws for a cell how often its rows occur, by Poisson's distribution, which
    for single rows is the bootstrap with a random number of rows.

    Args:
        cells: the rows.
        threshold: from which on they were predicted positive.
        figures: the figures of all rows; those that are None have no interval.
        seed: of the draws.

    Returns:
        Percentiles 2.5 and 97.5 of each figure over the rounds. Calibration errors are larger in a
        round than in the rows, as in the rows than in truth, so that their percentiles are
        reflected at the figure itself. Near 0 this is not enough: unless the figure e is more than
        twice the percentile 97.5 of N, the error of a round's deviations from the rows, the lower
        end is max(0, e - N), since the true error differs from e by the error of the deviations at
        most.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    random = np.random.default_rng(seed)
    rows = np.maximum(cells.rows, 1e-300)
    mean_p = cells.p / np.maximum(cells.weight, 1e-300)
    bins = ece_bins(np.clip(mean_p, 0, 1))
    residual = cells.positives - cells.p
    spread = on_grid(mean_p, residual / cells.weight.sum())
    width = smoothing_width(spread)
    drawn = []
    noise: dict[str, list[float]] = {name: [] for name in ABSOLUTE}
    grids = np.empty((ROUNDS, len(spread)))
    for number in range(ROUNDS):
        times = random.poisson(rows) / rows
        total = float(times @ cells.weight)
        if total <= 0:  # a round without rows says nothing
            times, total = np.ones(len(rows)), float(cells.weight.sum())
        drawn.append(_figures(cells, times, total, bins, residual, threshold))
        grids[number] = on_grid(mean_p, times * residual / total)
        deviations = times * residual / total - residual / cells.weight.sum()
        noise["ece"].append(float(np.abs(np.bincount(bins, deviations, ECE_BINS)).sum()))
    columns = {name: np.array([one[name] for one in drawn]) for name in drawn[0]}
    columns["smooth_ece"] = smoothed_error(grids, width)
    noise["smooth_ece"] = smoothed_error(grids - spread, width).tolist()
    found = {}
    for name, values in columns.items():
        figure, finite = figures.get(name), values[np.isfinite(values)]
        if figure is None or not len(finite):
            continue
        low, high = np.percentile(finite, ENDS).tolist()
        if name in ABSOLUTE:
            most = float(np.percentile(noise[name], ENDS[1]))
            low, high = 2 * figure - high, 2 * figure - low
            low = low if figure > 2 * most else min(low, figure - most)
            low, high = max(0.0, low), max(0.0, high)
        found[name] = (low, high)
    return found


def _figures(
    cells: Cells,
    times: np.ndarray,
    total: float,
    bins: np.ndarray,
    residual: np.ndarray,
    threshold: float,
) -> dict[str, float]:
    """The figures of one round, whose cells occur `times` times; NaN where one is not defined."""
    positives = float(times @ cells.positives)
    negatives = total - positives
    tp, fp = float(times @ cells.hits), float(times @ cells.alarms)
    log_loss = float(times @ cells.loss) / total
    found = {
        "log_loss": log_loss,
        "brier": float(times @ cells.squares) / total,
        "accuracy": (tp + negatives - fp) / total,
        "f1": 2 * tp / (tp + fp + positives) if tp > 0 else 0.0,
        "ece": float(np.abs(np.bincount(bins, times * residual, ECE_BINS)).sum()) / total,
        "net_benefit": tp / total - fp / total * threshold / (1 - threshold)
        if threshold < 1
        else np.nan,
    }
    names = ("relative_log_loss", "roc_auc", "average_precision")
    if min(positives, negatives) <= 1e-9 * total:
        return found | dict.fromkeys(names, np.nan)
    rate = positives / total
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    above = np.add.reduceat(times * cells.positives, cells.starts)
    below = np.add.reduceat(times * (cells.weight - cells.positives), cells.starts)
    ranked = above @ (np.cumsum(below) - below / 2) / (positives * negatives)
    seen = np.cumsum((above + below)[::-1])
    precision = np.cumsum(above[::-1]) / np.maximum(seen, 1e-300)
    values = (log_loss / entropy, ranked, above[::-1] @ precision / positives)
    return found | dict(zip(names, map(float, values), strict=True))
