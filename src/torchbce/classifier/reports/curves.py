"""The numbers of a report's charts, from probabilities and targets."""

import msgspec
import numpy as np

from torchbce.classifier.decisions.counts import Counts, count_thresholds

#: The points of a curve at most, which a screen cannot tell from more.
POINTS = 200
#: Bins of the histograms, and of the reliability diagram if there are rows for so many.
BINS, RELIABILITY_BINS, ROWS_OF_BIN = 20, 10, 20
#: The slider moves in such steps.
STEPS = 200
#: The normal quantile of a 95% interval.
Z = 1.959963984540054


class Point(msgspec.Struct, frozen=True):
    """A point of a curve."""

    x: float
    y: float


class Reliable(msgspec.Struct, frozen=True):
    """A bin of the reliability diagram.

    Attributes:
        predicted: the mean probability of its rows.
        share: the share of positives among them.
        low: the lower end of the 95% interval of the share (Wilson).
        high: the upper end.
        rows: the number of rows, or the sum of their weights.
    """

    predicted: float
    share: float
    low: float
    high: float
    rows: float


class Bar(msgspec.Struct, frozen=True):
    """A bar of a histogram of probabilities, from `start` to `stop`, and the rows of each value."""

    start: float
    stop: float
    negatives: float
    positives: float


class At(msgspec.Struct, frozen=True):
    """The confusion matrix at a threshold."""

    threshold: float
    tp: float
    fp: float
    fn: float
    tn: float


class Curves(msgspec.Struct, frozen=True):
    """The numbers of the charts of one target.

    Attributes:
        roc: the false positive rate and the true positive rate of each threshold; empty where all
            targets are equal.
        precision_recall: recall and precision; empty without positives.
        reliability: of bins with as many rows each.
        histogram: of bins of equal width.
        thresholds: from 0 to 1.
    """

    roc: list[Point]
    precision_recall: list[Point]
    reliability: list[Reliable]
    histogram: list[Bar]
    thresholds: list[At]


def curves_of(p: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Curves:
    """The numbers of the charts.

    Args:
        p: probabilities, float64 [rows], at least one.
        y: targets in [0, 1], [rows].
        weight: how much each row counts, [rows]; None is 1.

    Example:
        >>> curves = curves_of(np.array([0.1, 0.4, 0.8]), np.array([0.0, 1.0, 1.0]))
        >>> [(point.x, point.y) for point in curves.roc]
        [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (1.0, 1.0)]
    """
    w = np.ones(len(p)) if weight is None else weight
    every = count_thresholds(p, y, None, weight)
    at = count_thresholds(p, y, np.linspace(0, 1, STEPS + 1), weight)
    return Curves(
        _roc(every),
        _precision_recall(every),
        _reliability(p, y, w),
        _histogram(p, y, w),
        [At(*map(float, one)) for one in zip(*vars(at).values(), strict=True)][::-1],
    )


def _roc(counts: Counts) -> list[Point]:
    x, y = counts.false_positive_rate, counts.recall
    if np.isnan(x).any() or np.isnan(y).any():
        return []
    # The highest threshold may be that of the first rows already.
    return _points(np.concatenate([[0.0], x]), np.concatenate([[0.0], y]))


def _precision_recall(counts: Counts) -> list[Point]:
    known = ~np.isnan(counts.precision) & ~np.isnan(counts.recall)
    return _points(counts.recall[known], counts.precision[known])


def _points(x: np.ndarray, y: np.ndarray) -> list[Point]:
    """A curve with at most `POINTS` points, evenly spaced along it, and both ends."""
    if not len(x):
        return []
    if len(x) > POINTS:
        length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
        kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)))
        x, y = x[kept], y[kept]
    new = np.concatenate([[True], (np.diff(x) != 0) | (np.diff(y) != 0)])
    return [Point(float(a), float(b)) for a, b in zip(x[new], y[new], strict=True)]


def _reliability(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Reliable]:
    order = np.argsort(p, kind="stable")
    p, y, w = p[order], y[order], w[order]
    bins = int(np.clip(len(p) // ROWS_OF_BIN, 1, RELIABILITY_BINS))
    # Rows of the same probability are in one bin.
    first = np.searchsorted(p, p[np.arange(bins) * len(p) // bins])
    number = np.zeros(len(p), dtype=np.int64)
    number[np.unique(first)] = 1
    number = np.cumsum(number) - 1
    rows = np.bincount(number, w)
    found = []
    for n, predicted, share in zip(
        rows, np.bincount(number, w * p) / rows, np.bincount(number, w * y) / rows, strict=True
    ):
        low, high = wilson(share, n)
        found.append(Reliable(float(predicted), float(share), low, high, float(n)))
    return found


def wilson(share: float, rows: float) -> tuple[float, float]:
    """The 95% interval of a share by Wilson.

    Example:
        >>> [round(end, 3) for end in wilson(0.5, 100)]
        [0.404, 0.596]
    """
    scale = 1 + Z**2 / rows
    middle = (share + Z**2 / (2 * rows)) / scale
    half = Z * np.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2)) / scale
    return max(float(middle - half), 0.0), min(float(middle + half), 1.0)


def _histogram(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[Bar]:
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    positives = np.bincount(bins, w * y, minlength=BINS)
    negatives = np.bincount(bins, w * (1 - y), minlength=BINS)
    return [
        Bar(k / BINS, (k + 1) / BINS, float(n), float(m))
        for k, (n, m) in enumerate(zip(negatives, positives, strict=True))
    ]
