"""The formulas of one element, without loops, loads or stores.

Cross-entropy of logits is computed in float32, in three steps (`exp_of_minus`, `logits_loss`,
`logits_slope`) that carry the rounding error of the first number as a second one: results are
within 1 unit in the last place, subnormals included. Every other loss is computed in float64 and
rounded once, because a power sigma^gamma multiplies the relative error of its logarithm by up to
100 gamma.

The logarithm of 0 and a division by 0 are infinite; the caller drops those with a weight of 0.
"""

import math

import numpy as np
from numba import njit

from torchbce.backends.cpu.intrinsics import (
    absolute,
    add,
    either,
    fma,
    from_bits,
    shift_left,
    shift_right,
    subtract,
    to_bits,
    where,
)

#: LLVM inlines a formula into the loop that calls it, so that the loop can be vectorised.
formula = njit(
    error_model="numpy", forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True
)

# ------------------------------------------------------- cross-entropy of logits, in float32

_0, _HALF, _1 = np.float32(0), np.float32(0.5), np.float32(1)
_MAX = np.finfo(np.float32).max
_LN2 = np.float32(math.log(2))
_MINUS_LOG2_E = np.float32(-math.log2(math.e))
#: Adding 3 * 2^22 rounds to an integer, which is then in the lowest bits of the sum.
_ROUND = np.float32(3 * 2**22)
#: ln 2 as 355 / 512, whose product with an integer of 8 bits is exact, and the rest.
_LN2_HIGH, _LN2_LOW = np.float32(355 / 512), np.float32(math.log(2) - 355 / 512)
#: exp(-104) is below half of the smallest subnormal float32.
_FAR = np.float32(105)
#: 2^n with n + 64 in the exponent, then 2^-64: the scale itself would be subnormal from -127 on.
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127 + 64), np.int32(23)
_2_TO_MINUS_64 = np.float32(2.0**-64)

# exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2) / 2. Minimax, of relative error 2^-28.3.
_EXP = tuple(
    np.float32(c)
    for c in (0.499999934478, 0.166665206317, 0.0416683880499, 0.00836871688516, 0.0013814598482)
)
# log(1 + f) = f - f^2 / 2 - f^3 q(f) for -1/4 <= f <= 1/2. Minimax, of relative error 2^-27.7 with
# the rounding of the coefficients.
_LOG = tuple(
    np.float32(c)
    for c in (
        -0.333334088737,
        0.249997560942,
        -0.19991677933,
        0.166594518892,
        -0.144931605187,
        0.130664250741,
        -0.101808208927,
        0.04288734127,
    )
)
_P0, _P1, _P2, _P3, _P4 = _EXP
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5, _Q6, _Q7 = _LOG


@formula
def exp_of_minus(t):
    """exp(-t) for t >= 0 as the sum of two numbers, the second below a unit of the first.

    With n the integer next to -t / ln 2 and r = -t - n ln 2: exp(-t) = 2^n exp(r). Polynomials are
    evaluated in pairs (Estrin), half as deep as by Horner's rule.
    """
    t = where(t > _FAR, _FAR, t)
    shifted = fma(t, _MINUS_LOG2_E, _ROUND)
    n = shifted - _ROUND
    exact = fma(n, -_LN2_HIGH, -t)
    r = fma(n, -_LN2_LOW, exact)
    r_rest = fma(n, -_LN2_LOW, exact - r)
    r2 = r * r
    p = fma(fma(_P4, r2, fma(_P3, r, _P2)), r2, fma(_P1, r, _P0))
    q = fma(r2, p, r)
    high = _1 + q
    # The rounding errors of 1 + q, q and r.
    low = (q - (high - _1)) + (fma(r2, p, r - q) + r_rest)
    scale = from_bits(shift_left(add(to_bits(shifted), _EXPONENT_BIAS), _MANTISSA_BITS))
    return (high * scale) * _2_TO_MINUS_64, (low * scale) * _2_TO_MINUS_64


@formula
def logits_loss(z, e, e_rest, a, b, total):
    """a (-log sigma(z)) + b (-log sigma(-z)), from e = exp(-|z|) and total = a + b.

    That is total log(1 + e) + share |z|, where share is the weight of the wrong side. Above 1/2,
    1 + e is halved: log(1 + e) = ln 2 + log(1 + (e - 1) / 2). log(1 + e) is kept as the sum of
    two numbers, and what its sum with share |z| leaves is found (Knuth's two-sum) and added.
    """
    halved = e > _HALF
    f = where(halved, fma(e, _HALF, -_HALF), e)
    base = where(halved, _LN2, _0)
    f2 = f * f
    f2_rest = fma(f, f, -f2)
    q0123 = fma(fma(_Q3, f, _Q2), f2, fma(_Q1, f, _Q0))
    q4567 = fma(fma(_Q7, f, _Q6), f2, fma(_Q5, f, _Q4))
    q = fma(q4567, f2 * f2, q0123)
    # The derivative of log(1 + e), 1 / (1 + e), is within a twelfth of 1 - e / 2.
    small = fma(-_HALF, f2_rest, e_rest * fma(-_HALF, e, _1))
    curved = fma(-_HALF, f2, fma(-f2 * f, q, small))
    s = base + f
    s_rest = curved + (f - (s - base))
    share = where(z < _0, a, b)
    # 0 * inf is 0: an infinitely confident right answer has loss 0.
    wrong = where(share == _0, _0, share * absolute(z))
    right = total * s
    both = right + wrong
    back = both - right
    rest = (right - (both - back)) + (wrong - back)
    # The rounding error of infinity is NaN.
    return where(absolute(both) > _MAX, both, both + fma(total, s_rest, rest))


@formula
def logits_slope(z, e, e_rest, a, b):
    """b sigma(z) - a sigma(-z), from e = exp(-|z|).

    The smaller of the two sigmas is v = e / (1 + e), with a step of Newton's for what the rounding
    of 1 + e and of the quotient leave; the larger is 1 - v, which v <= 1/2 keeps exact enough.
    """
    below = z < _0
    share, other = where(below, a, b), where(below, b, a)
    d = _1 + e
    v = e / d
    rest = fma(-v, d, e) + fma(-v, e - (d - _1), e_rest)
    v = fma(rest, _1 - v, v)
    slope = fma(share, _1 - v, -(other * v))
    return where(below, -slope, slope)


# ------------------------------------------------------------------ the family, in float64
#
# Each function returns the loss P of a positive, the loss N of a negative, and their derivatives.
# The `*_terms` functions are of a loss before it is focused (see `reference`), and also return, of
# the probabilities q and s that a positive and a negative are mistaken: -log q, -log s, q, s, and
# the derivatives of -log q and of log s.

_LN2_64, _LOG2_E = math.log(2), math.log2(math.e)
#: ln 2 in 32 bits, whose product with an integer of 20 bits is exact, and the rest.
_LN2_HIGH_64, _LN2_LOW_64 = 0.6931471803691238, 1.9082149292705877e-10
_ROUND_64 = 3.0 * 2**51
_DEEP = -700.0  # exp(-700) is 1e-304, and 0 as a float32
_BIAS_64, _MANTISSA_BITS_64 = np.int64(1023), np.int64(52)
_TO_SQRT_HALF = np.int64(int(np.float64(1).view(np.int64)) - int(np.float64(0.5**0.5).view("i8")))
_2_TO_52, _2_TO_52_BITS = 2.0**52, np.int64(np.float64(2.0**52).view(np.int64))
_FLOOR, _LEAST_WITH_A_LOG = 100.0, math.exp(-100.0)
#: Below it 1 / p overflows float32, and the derivative is 0: see `reference`.
_LEAST_WITH_A_SLOPE = 1 / float(np.finfo(np.float32).max)
LARGEST = float(np.finfo(np.float64).max)


@formula
def _exp_split(x):
    """(q, scale) with exp(x) = scale (1 + q), for x <= 0: Taylor's series to r^11, 6e-15."""
    x = where(x < _DEEP, _DEEP, x)
    shifted = fma(x, _LOG2_E, _ROUND_64)
    n = shifted - _ROUND_64
    r = fma(n, -_LN2_LOW_64, fma(n, -_LN2_HIGH_64, x))
    q = fma(r, 1 / 39916800, 1 / 3628800)
    q = fma(q, r, 1 / 362880)
    q = fma(q, r, 1 / 40320)
    q = fma(q, r, 1 / 5040)
    q = fma(q, r, 1 / 720)
    q = fma(q, r, 1 / 120)
    q = fma(q, r, 1 / 24)
    q = fma(q, r, 1 / 6)
    q = fma(q, r, 0.5)
    q = fma(q * r, r, r)
    exponent = add(to_bits(shifted), _BIAS_64)
    return q, from_bits(shift_left(exponent, _MANTISSA_BITS_64))


@formula
def _exp(x):
    """exp(x) for x <= 0."""
    q, scale = _exp_split(x)
    return fma(scale, q, scale)


@formula
def _log1p_near_0(f):
    """log(1 + f) = 2 artanh(f / (2 + f)) for -0.3 <= f <= 0.5: the series to w^21, 1e-15."""
    w = f / (2 + f)
    w2 = w * w
    s = fma(w2, 2 / 21, 2 / 19)
    s = fma(s, w2, 2 / 17)
    s = fma(s, w2, 2 / 15)
    s = fma(s, w2, 2 / 13)
    s = fma(s, w2, 2 / 11)
    s = fma(s, w2, 2 / 9)
    s = fma(s, w2, 2 / 7)
    s = fma(s, w2, 2 / 5)
    s = fma(s, w2, 2 / 3)
    return fma(s * w2, w, w + w)


@formula
def _split(u):
    """(k, m) with u = m 2^k and m between sqrt(1/2) and sqrt(2), for u > 0."""
    exponent = shift_right(add(to_bits(u), _TO_SQRT_HALF), _MANTISSA_BITS_64)
    down = shift_left(subtract(exponent, _BIAS_64), _MANTISSA_BITS_64)
    k = from_bits(either(exponent, _2_TO_52_BITS)) - (_2_TO_52 + 1023)
    return k, from_bits(subtract(to_bits(u), down))


@formula
def _log(u):
    """log(u) for u > 0."""
    k, m = _split(u)
    return fma(k, _LN2_64, _log1p_near_0(m - 1))


@formula
def _log1p(x):
    """log(1 + x) for x > -1."""
    k, m = _split(1 + x)
    return fma(k, _LN2_64, _log1p_near_0(where(k == 0, x, m - 1)))


@formula
def _sigmoid_and_logs(z):
    """sigma(z), sigma(-z), -log sigma(z), -log sigma(-z)."""
    t = absolute(z)
    e = _exp(-t)
    halved = e > 0.5
    s = _log1p_near_0(where(halved, fma(e, 0.5, -0.5), e)) + where(halved, _LN2_64, 0.0)
    larger = 1 / (1 + e)
    smaller = e * larger
    below = z < 0
    return (
        where(below, smaller, larger),
        where(below, larger, smaller),
        s + where(below, t, 0.0),
        s + where(below, 0.0, t),
    )


@formula
def _power(minus_log, exponent):
    """x^exponent from -log x; x^0 is 1, at x = 0 too."""
    return where(exponent == 0, 1.0, _exp(-exponent * minus_log))


@formula
def weighed(weight, part):
    """The product with 0 * inf = 0; NaN stays NaN."""
    return weight * where((weight == 0) & (part > LARGEST), 0.0, part)


@formula
def _finite(part):
    """0 where a loss is infinite: p (-log p) goes to 0 with p."""
    return where(part > LARGEST, 0.0, part)


@formula
def focused(terms, gamma_pos, gamma_neg, slope):
    """The parts q^g+ P and s^g- N and their derivatives, without alpha.

    `slope` is 1, or 0 where the focusing weights are constants.
    """
    positive, negative, up, down, log_q, log_s, _, _, rate_q, rate_s = terms
    focus_pos, focus_neg = _power(log_q, gamma_pos), _power(log_s, gamma_neg)
    return (
        focus_pos * positive,
        focus_neg * negative,
        focus_pos * (up - slope * gamma_pos * (rate_q * _finite(positive))),
        focus_neg * (down + slope * gamma_neg * (rate_s * _finite(negative))),
    )


@formula
def focused_by_p_t(terms, y, a, b, weight_pos, weight_neg, gamma_pos, gamma_neg, slope):
    """`reference.combine_focused` by p_t: the loss and its derivative."""
    positive, negative, up, down, _, _, q, s, rate_q, rate_s = terms
    not_y = 1 - y
    miss = y * q + not_y * s
    gamma = y * gamma_pos + not_y * gamma_neg
    above = miss > 0
    base = where(above, miss, 1.0)
    power = where(above | (gamma == 0), _power(-_log(base), gamma), 0.0)
    focus = (weight_pos * y + weight_neg * not_y) * power
    plain = weighed(a, positive) + weighed(b, negative)
    rate = (not_y * (rate_s * s) - y * (rate_q * q)) / base
    change = a * up + b * down + slope * gamma * (rate * _finite(plain))
    return weighed(focus, plain), focus * change


@formula
def focal_terms(z):
    """`reference.focal_terms`."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    return positive, negative, -q, p, negative, positive, q, p, p, q


@formula
def asymmetric_terms(z, margin):
    """`reference.asymmetric_terms`."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    counts = p > margin
    s = where(counts, p - margin, 0.25)
    rest = where(s > 0.5, q + margin, 1 - s)
    minus_log_rest = -where(s > 0.5, _log(rest), _log1p(-where(s > 0.5, 0.25, s)))
    # Without a margin, the rest underflows where sigma is 1.
    minus_log_rest = where(margin == 0, negative, minus_log_rest)
    steep = where(counts, p * q, 0.0)
    return (
        positive,
        where(z == z, where(counts, minus_log_rest, 0.0), z),
        -q,
        where(z == z, steep / rest, z),
        negative,
        -_log(s),
        q,
        where(counts, s, 0.0),
        p,
        steep / s,
    )


@formula
def _poly_of_one(p, q, minus_log, epsilon):
    """`-log p + epsilon q` and `1 + epsilon p`, the factor of -q in its derivative.

    For a negative epsilon both are written as sums of terms that are not negative:
    (1 + epsilon) (-log p) - epsilon (-log p - q), whose last difference is q^2 / 2 + q^3 / 3 + ...
    for a small q, and 1 + epsilon - epsilon q.
    """
    small = where(q < 0.05, q, 0.0)
    series = fma(small, 1 / 13, 1 / 12)
    series = fma(series, small, 1 / 11)
    series = fma(series, small, 1 / 10)
    series = fma(series, small, 1 / 9)
    series = fma(series, small, 1 / 8)
    series = fma(series, small, 1 / 7)
    series = fma(series, small, 1 / 6)
    series = fma(series, small, 1 / 5)
    series = fma(series, small, 1 / 4)
    series = fma(series, small, 1 / 3)
    series = fma(series, small, 1 / 2)
    beyond = where(q < 0.05, series * small * small, minus_log - q)
    kept = 1 + epsilon
    negative = epsilon < 0
    first = where(kept == 0, 0.0, kept * minus_log)
    value = where(negative, first - epsilon * beyond, minus_log + epsilon * q)
    return value, where(negative, kept - epsilon * q, 1 + epsilon * p)


@formula
def poly_terms(z, epsilon):
    """`reference.poly_terms`."""
    p, q, minus_log, minus_log_not = _sigmoid_and_logs(z)
    positive, slope_of_positive = _poly_of_one(p, q, minus_log, epsilon)
    negative, slope_of_negative = _poly_of_one(q, p, minus_log_not, epsilon)
    up, down = -q * slope_of_positive, p * slope_of_negative
    return positive, negative, up, down, minus_log_not, minus_log, q, p, p, q


@formula
def probability(p, eps, minus_log_eps, minus_log_not_eps):
    """`reference.probability_parts`; an eps of 0 stands for the floor of -100."""
    minus_log, minus_log_not = -_log(p), -_log1p(-p)
    floored, certain = p < _LEAST_WITH_A_LOG, p == 1
    low, high = p < eps, (1 - p) < eps
    flat = low | high
    positive = where(floored, _FLOOR, minus_log)
    positive = where(high, minus_log_not_eps, where(low, minus_log_eps, positive))
    negative = where(certain, _FLOOR, minus_log_not)
    negative = where(high, minus_log_eps, where(low, minus_log_not_eps, negative))
    steep = where(p < _LEAST_WITH_A_SLOPE, 0.0, where(floored, 0.0, -1 / p))
    steep_not = where(certain, 0.0, 1 / (1 - p))
    return positive, negative, where(flat, 0.0, steep), where(flat, 0.0, steep_not)


@formula
def log_probability(x):
    """`reference.log_probability_parts`."""
    q, scale = _exp_split(x)
    p = fma(scale, q, scale)
    rest = -fma(scale, q, scale - 1)  # 1 - p, where p is near 1 too
    certain = x == 0
    minus_log_rest = -where(x > -_LN2_64, _log(rest), _log1p(-p))
    return (
        -x,
        where(certain, math.inf, minus_log_rest),
        -1.0,
        where(certain, 0.0, p / rest),
    )
