"""Log loss, the logistic map that mends it, ranks, and how noisy each of them is.

Element i has the weight a_i if it is positive and b_i if it is negative: a = w p y and
b = w (1 - y), with w its weight, p the pos_weight and y the target, which may lie between 0 and 1.
Its loss is a softplus(-z) + b softplus(z).

Elements of one group, such as the labels of a row or the pixels of an image, are not independent.
So the noise of a sum is that of the sums of the groups.
"""

import math
from typing import NamedTuple

import numpy as np

#: Standard errors from which on a difference is not taken for noise: by chance in 3 of a million.
SIGMAS = 4.5
#: Deviance from which on two parameters are not taken for noise, -2 log(1e-6): that of two degrees
#: of freedom is above d by chance with the probability exp(-d / 2).
DEVIANCE = 27.6
#: Fewer elements, or a smaller total weight of either class in units of elements, say too little.
FEWEST, FEWEST_PER_CLASS = 20, 5.0


class Groups(NamedTuple):
    """The group of each element, from 0; None if each is one by itself."""

    of: np.ndarray | None
    number: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of each group."""
        if self.of is None:
            return values
        return np.bincount(self.of, weights=values, minlength=self.number)


class Map(NamedTuple):
    """The logistic map z -> slope z + offset with the lowest loss.

    Attributes:
        slope: of the logits.
        offset: in nats.
        gain: by how much it lowers the sum of the losses.
        inflation: how much more its parameters vary than those of independent elements of weight 1
            (Rotnitzky and Jewell, 1990).
    """

    slope: float
    offset: float
    gain: float
    inflation: float

    @property
    def deviance(self) -> float:
        """Twice the gain, as for independent elements of weight 1."""
        return 2 * self.gain / self.inflation


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) without overflow."""
    small = np.exp(-np.abs(z))
    p: np.ndarray = np.where(z >= 0, 1.0, small) / (1 + small)
    return p


def losses(z: np.ndarray | float, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The loss of each element, in nats; 0 times an infinite loss is 0."""
    z = np.asarray(z)
    if np.isfinite(z).all():
        loss: np.ndarray = a * np.logaddexp(0, -z) + b * np.logaddexp(0, z)
        return loss
    with np.errstate(invalid="ignore"):
        positive, negative = a * np.logaddexp(0, -z), b * np.logaddexp(0, z)
    return np.where(a > 0, positive, 0.0) + np.where(b > 0, negative, 0.0)


def entropy(rate: float) -> float:
    """The entropy of a rate, in nats."""
    if not 0 < rate < 1:
        return 0.0
    return -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)


def constant_logit(a: np.ndarray, b: np.ndarray, smoothing: float = 0.0) -> float:
    """The logit with the lowest loss among constants, log(sum a / sum b)."""
    return math.log((a.sum() + smoothing) / (b.sum() + smoothing))


def sigmas(values: np.ndarray, groups: Groups) -> float:
    """How many standard errors the sum of some values is above 0."""
    sums = groups.sums(values)
    if len(sums) < 2:
        return 0.0
    error = math.sqrt(len(sums)) * float(sums.std(ddof=1))
    total = float(sums.sum())
    return total / error if error > 0 else math.copysign(math.inf, total) if total else 0.0


def fit_map(
    z: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    groups: Groups,
    hard: bool,
    slope: bool = True,
    offset: bool = True,
) -> Map:
    """The logistic map of the logits with the lowest loss.

    Args:
        z: finite logits.
        a: the weight of each element as a positive.
        b: its weight as a negative.
        groups: elements that are not independent.
        hard: whether every target is 0 or 1 and every weight 1.
        slope: whether to fit the slope, which is 1 otherwise.
        offset: whether to fit the offset, which is 0 otherwise.
    """
    scale = float(np.abs(z).max(initial=0)) or 1.0
    x = np.stack([z / scale] * slope + [np.ones_like(z)] * offset, axis=1)
    start = np.array([scale] * slope + [0.0] * offset)
    fixed = 0.0 if slope else z
    found = _newton(x, fixed, a, b, start)
    if found is None:
        # Logits that separate the classes have no best slope. Platt's targets (1999) have: one
        # element more of the other class, spread over all elements of a class.
        m = a + b
        softened = a * (1 - 1 / (a.sum() + 2)) + b / (b.sum() + 2)
        found = _newton(x, fixed, softened, m - softened, start)
        if found is None:
            found = start
    mapped = fixed + x @ found
    gain = float((losses(z, a, b) - losses(mapped, a, b)).sum())
    m, p = a + b, sigmoid(mapped)
    scores = np.stack([groups.sums((m * p - a) * column) for column in x.T], axis=1)
    information = x.T @ (x * (m * p * (1 - p))[:, None]) + 1e-12 * np.eye(x.shape[1])
    variance = scores.T @ scores * len(scores) / max(len(scores) - 1, 1)
    inflation = float(np.trace(np.linalg.solve(information, variance))) / x.shape[1]
    inflation = max(inflation, 1.0 if hard else 1e-3)
    return Map(
        float(found[0]) / scale if slope else 1.0,
        float(found[-1]) if offset else 0.0,
        gain,
        inflation,
    )


def _newton(
    x: np.ndarray, fixed: np.ndarray | float, a: np.ndarray, b: np.ndarray, start: np.ndarray
) -> np.ndarray | None:
    """The weights of a logistic regression; None if none are best."""
    m, weights = a + b, start.copy()
    loss = float(losses(fixed + x @ weights, a, b).sum())
    for _ in range(50):
        p = sigmoid(fixed + x @ weights)
        slope = x.T @ (m * p - a)
        curvature = x.T @ (x * (m * p * (1 - p))[:, None])
        try:
            step = np.linalg.solve(curvature + 1e-10 * np.eye(len(weights)), slope)
        except np.linalg.LinAlgError:
            return None
        for _ in range(30):  # halved until the loss is not higher
            nearer = float(losses(fixed + x @ (weights - step), a, b).sum())
            if nearer <= loss:
                break
            step = step / 2
        else:
            return weights
        weights = weights - step
        if loss - nearer < 1e-9 * max(loss, 1e-9):
            # The classes are separated if the loss has all but vanished.
            return weights if nearer > 1e-6 * float(m.sum()) else None
        loss = nearer
    return None


class Ranking(NamedTuple):
    """How well scores rank the positives above the negatives.

    Attributes:
        auc: the area under the ROC curve.
        correlation: of the ranks with the targets.
        sigmas: how many standard errors that is above 0.
    """

    auc: float
    correlation: float
    sigmas: float


def ranks(z: np.ndarray) -> np.ndarray:
    """The rank of each value, from -1/2 to 1/2 and 0 on average; equal values have equal ranks."""
    _, group, counts = np.unique(z, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    r: np.ndarray = (middle[group.reshape(-1)] - (len(z) - 1) / 2) / len(z)
    return r


def ranking(z: np.ndarray, y: np.ndarray, independent: int | None = None) -> Ranking:
    """How well logits rank targets, which may be soft.

    Args:
        z: logits.
        y: targets.
        independent: the number of independent elements; None if all are.
    """
    r, centred = ranks(z), y - y.mean()
    spread = math.sqrt(float(r @ r) * float(centred @ centred))
    correlation = float(r @ centred) / spread if spread > 0 else 0.0
    positive, negative = float(y.sum()), float((1 - y).sum())
    auc = 0.5
    if positive > 0 and negative > 0:
        # r = (rank - mean) / n, so that for hard targets this is Mann and Whitney's statistic.
        auc += float(r @ y) * len(z) / (positive * negative)
    return Ranking(auc, correlation, correlation * math.sqrt(max((independent or len(z)) - 1, 0)))


def improbable(count: float, expected: float) -> bool:
    """Whether a count of rare events is so far above its expectation by chance once in a million.

    By Chernoff's bound, P(X >= k) <= exp(k - l - k log(k / l)) for a Poisson mean l < k.
    """
    if count <= expected:
        return False
    if expected <= 0:
        return True
    return count - expected - count * math.log(count / expected) < math.log(1e-6)


def rate_interval(positive: float, number: float, sigma: float = 3.3) -> tuple[float, float]:
    """Wilson's interval of a rate; by default of 99.9 %."""
    if number <= 0:
        return 0.0, 1.0
    rate, square = positive / number, sigma**2
    middle = (rate + square / (2 * number)) / (1 + square / number)
    half = sigma * math.sqrt(rate * (1 - rate) / number + square / (4 * number**2))
    half /= 1 + square / number
    return max(middle - half, 0.0), min(middle + half, 1.0)
