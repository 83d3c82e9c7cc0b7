"""The losses in 60-digit arithmetic, directly from their definitions, and errors in ulps.

Floats are converted exactly. Nothing here shares code with the package, neither its branches nor
its handling of infinities, so that an error in the package is not repeated here.
"""

import math

import torch
from mpmath import mp, mpf

mp.dps = 60

#: Larger exponents take mpmath much time, for a result below every float: exp(-1e6).
_FAR = 1_000_000


def softplus(x: float) -> mpf:
    """log(1 + exp(x)), the loss of a negative with logit x.

    >>> softplus(-math.inf), softplus(math.inf)
    (mpf('0.0'), mpf('+inf'))
    """
    if abs(x) > _FAR:
        return mpf(max(x, 0.0))
    return mp.log1p(mp.exp(mpf(x)))


def sigmoid(x: float) -> mpf:
    """1 / (1 + exp(-x))."""
    if abs(x) > _FAR:
        return mpf(1 if x > 0 else 0)
    return 1 / (1 + mp.exp(-mpf(x)))


def times(a: mpf, b: mpf) -> mpf:
    """a b, where 0 times infinity is 0, as in the losses."""
    return mpf(0) if a == 0 or b == 0 else a * b


def bce_with_logits(z: float, y: float, weight: float = 1.0, pos_weight: float = 1.0) -> mpf:
    """w [p y log(1 + e^-z) + (1 - y) log(1 + e^z)].

    >>> float(bce_with_logits(5.0, 1.0))
    0.006715348489118068
    >>> float(bce_with_logits(-math.inf, 0.0))
    0.0
    """
    if math.isnan(z):
        return mp.nan
    positive = times(mpf(pos_weight) * mpf(y), softplus(-z))
    negative = times(1 - mpf(y), softplus(z))
    return times(mpf(weight), positive + negative)


def logit_gradient(z: float, y: float, weight: float = 1.0, pos_weight: float = 1.0) -> mpf:
    """d loss / dz = w [(1 - y) sigma(z) - p y sigma(-z)]."""
    if math.isnan(z):
        return mp.nan
    return mpf(weight) * ((1 - mpf(y)) * sigmoid(z) - mpf(pos_weight) * mpf(y) * sigmoid(-z))


def logit_curvature(z: float, y: float, weight: float = 1.0, pos_weight: float = 1.0) -> mpf:
    """d2 loss / dz2 = w [p y + 1 - y] sigma(z) sigma(-z)."""
    return mpf(weight) * (mpf(pos_weight) * mpf(y) + 1 - mpf(y)) * sigmoid(z) * sigmoid(-z)


def bce(p: float, y: float, eps: float | None = None) -> mpf:
    """-[y log p + (1 - y) log(1 - p)], each logarithm at least -100, or p clamped by eps.

    >>> float(bce(0.0, 1.0)), round(float(bce(0.0, 1.0, eps=1e-7)), 4)
    (100.0, 16.1181)
    """
    if eps is None:
        log_p = mpf(-100) if p == 0 else max(mp.log(mpf(p)), mpf(-100))
        log_not_p = mpf(-100) if p == 1 else max(mp.log1p(-mpf(p)), mpf(-100))
    else:
        clamped = min(max(mpf(p), mpf(eps)), 1 - mpf(eps))
        log_p, log_not_p = mp.log(clamped), mp.log1p(-clamped)
    return -(mpf(y) * log_p + (1 - mpf(y)) * log_not_p)


def ulp(value: mpf, dtype: torch.dtype) -> mpf:
    """The distance between neighbours of `dtype` at `value`; among subnormals, the smallest one.

    >>> float(ulp(mpf(1), torch.float32)) == 2**-23
    True
    >>> float(ulp(mpf(0), torch.float16)) == 2**-24
    True
    """
    info = torch.finfo(dtype)
    digits = 1 - int(math.log2(info.eps))
    smallest_exponent = int(math.log2(info.tiny))
    exponent = smallest_exponent
    if value != 0:
        exponent = max(mp.frexp(abs(value))[1] - 1, smallest_exponent)
    return mp.ldexp(mpf(1), exponent - digits + 1)


def ulp_error(value: float, truth: mpf, dtype: torch.dtype) -> float:
    """|value - truth| in units in the last place of `dtype`.

    NaN agrees only with NaN, and infinity with values that `dtype` rounds to infinity.

    >>> ulp_error(1 + 2**-22, mpf(1), torch.float32)
    2.0
    >>> ulp_error(0.0, mpf(2) ** -149, torch.float32)
    1.0
    >>> ulp_error(math.inf, mpf(70000), torch.float16), ulp_error(math.inf, mpf(6), torch.float16)
    (0.0, inf)
    """
    if math.isnan(value) or mp.isnan(truth):
        return 0.0 if math.isnan(value) and mp.isnan(truth) else math.inf
    if math.isinf(value) or mp.isinf(truth):
        largest = mpf(torch.finfo(dtype).max)
        overflows = abs(truth) >= largest + ulp(largest, dtype) / 2
        same_sign = (value > 0) == (truth > 0)
        return 0.0 if math.isinf(value) and overflows and same_sign else math.inf
    return float(abs(mpf(value) - truth) / ulp(truth, dtype))
