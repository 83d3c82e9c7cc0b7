r"""The share of positives in rows without targets, and logits at another share than the table's.

Where only the share of positives differs, and each value's rows are like those that were learned
from, the odds of a row change by one factor, that of the odds of the share:
:math:`z' = z + \log\frac{\pi'}{1 - \pi'} - \log\frac{\pi}{1 - \pi}`.
"""

import math

import msgspec
import numpy as np

from torchbce.classifier.errors import Argument, InputError, listing
from torchbce.classifier.scalars import as_real

#: Shares from 4e-18 to 1 less that, as logits.
FARTHEST = 40.0
#: Twice the fall of the log-likelihood at the ends of an interval: the 95% quantile of chi-squared
#: with one degree of freedom.
CHI_SQUARED = 3.841458820694124


class BaseRate(msgspec.Struct, frozen=True):
    """An estimated share of positives, with its 95% interval.

    Attributes:
        rate: the estimate, in [0, 1].
        low: the lower end of the interval.
        high: the upper end.
        rows: the number of rows that it comes from.
    """

    rate: float
    low: float
    high: float
    rows: int

    @property
    def usable(self) -> float:
        """The rate as one above 0 and below 1, by half a row at least."""
        edge = 0.5 / (self.rows + 1)
        return min(max(self.rate, edge), 1 - edge)


def check_rate(rate: float) -> float:
    """The base rate as a float. Raises `InputError` if it is not above 0 and below 1."""
    value = as_real(rate)
    if value is None or not 0 < value < 1:
        raise InputError(
            Argument("base_rate"),
            " must be above 0 and below 1, the share of positives; got "
            f"{listing([rate]) if value is None else format(value, 'g')}",
        )
    return value


def log_odds(rate: float) -> float:
    """log(r / (1 - r)) of a rate."""
    return math.log(rate) - math.log1p(-rate)


def estimate_base_rate(
    logits: np.ndarray, base: float, weight: np.ndarray | None = None
) -> BaseRate:
    r"""The share of positives among rows without targets, from calibrated logits.

    With the likelihood ratio :math:`r_i = e^{z_i - b}` of a row, the estimate is where

    .. math:: \sum_i w_i \log(\pi r_i + 1 - \pi)

    is highest: the fixed point of the EM algorithm of Saerens et al., found by bisection, since the
    function is concave. The interval has all shares whose likelihood is not lower by more than a
    test of 5% allows (the profile likelihood). It is that of the rows' sampling: it trusts the
    logits.

    Args:
        logits: log-odds in nats for the base rate of the rows that were learned from, float64
            [rows].
        base: the logit of that rate.
        weight: how much each row counts, [rows]; None for 1.

    Returns:
        The share, from 0 to 1.

    Raises:
        InputError: if there are no rows, or the logits are all equal.

    Example:
        >>> z = np.repeat([-2.0, 2.0], [70, 30])  # 12% and 88%, learned at 50%
        >>> found = estimate_base_rate(z, 0.0)
        >>> round(found.rate, 3), round(found.low, 2), round(found.high, 2)
        (0.237, 0.13, 0.36)

    References:
        Saerens, Latinne and Decaestecker, Adjusting the Outputs of a Classifier to New a Priori
        Probabilities, Neural Computation 2002.
    """
    if not len(logits):
        raise InputError("a base rate cannot be estimated without rows")
    from scipy.optimize import brentq
    from scipy.special import expit

    u = np.clip(logits - base, -1e6, 1e6)
    if np.ptp(u) < 1e-9:
        raise InputError(
            "a base rate cannot be estimated: the model gives every row the same probability"
        )
    w = np.ones(len(u)) if weight is None else weight

    def slope(t: float) -> float:
        """A positive multiple of the derivative, by the share of which t is the logit."""
        if t > 0:  # where both are near 1, so that their difference rounds to 0
            return float(w @ (expit(-t) - expit(-(u + t))))
        return float(w @ (expit(u + t) - expit(t)))

    def likelihood(t: float) -> float:
        return float(w @ (np.logaddexp(0.0, u + t) - np.logaddexp(0.0, t)))

    ends = -FARTHEST, FARTHEST
    if slope(ends[0]) <= 0:
        best = ends[0]
    elif slope(ends[1]) >= 0:
        best = ends[1]
    else:
        best = float(brentq(slope, *ends, xtol=1e-10))
    highest = likelihood(best)

    def excess(t: float) -> float:
        return 2 * (highest - likelihood(t)) - CHI_SQUARED

    found = [end if excess(end) <= 0 else brentq(excess, best, end, xtol=1e-8) for end in ends]
    rate, low, high = (
        float(expit(t)) if abs(t) < FARTHEST else float(t > 0) for t in (best, *found)
    )
    return BaseRate(rate, low, high, len(u))
