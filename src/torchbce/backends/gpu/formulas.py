"""The formulas of one tile, without loads or stores: those of `reference`, for Triton.

Cross-entropy of logits in float32 is computed in float32, every other loss of float32, and all of
float64, in float64. What is rounded to 16 bits is computed in float32 throughout (`EXACT` is
false), which on many GPUs is 64 times as fast: a power multiplies the error of its logarithm by up
to 100, which leaves the first 16 bits. A GPU reads and writes 12 bytes in the time of some 100
instructions, 6 in that of 50: cross-entropy of logits takes about half of each.

Fused multiply-adds are written where they are meant; kernels are compiled without others.
"""

import math

import triton
import triton.language as tl

#: A loss that a kernel has. Their constants are those of `elements.program`.
LOGITS, FOCAL, POLY, ASYMMETRIC, PROBABILITY, LOG_PROBABILITY = map(tl.constexpr, range(6))

_LARGEST = tl.constexpr(3.4028234663852886e38)

# ------------------------------------------------------- cross-entropy of logits, in float32

_LN2 = tl.constexpr(math.log(2))
_MINUS_LOG2_E = tl.constexpr(-math.log2(math.e))
_MINUS_HALF_LOG2_E = tl.constexpr(-math.log2(math.e) / 2)
#: Adding 3 * 2^22 rounds to an integer, which then stands in the lowest bits of the sum.
_ROUND = tl.constexpr(3.0 * 2**22)
#: Minus ln 2 as 355 / 512, whose product with an integer of 8 bits is exact, and the rest.
_LN2_HIGH, _LN2_LOW = tl.constexpr(-355 / 512), tl.constexpr(355 / 512 - math.log(2))
#: exp(-104) is below half of the least subnormal float32.
_FAR = tl.constexpr(105.0)
#: 2^n with n + 64 in the exponent, then 2^-64: the scale itself would be subnormal from -127 on.
_EXPONENT_BIAS = tl.constexpr(127 + 64)
_2_TO_MINUS_64 = tl.constexpr(2.0**-64)

# exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2) / 2. Minimax, of relative error 2^-28.3.
_P0, _P1, _P2, _P3, _P4 = map(
    tl.constexpr,
    (0.499999934478, 0.166665206317, 0.0416683880499, 0.00836871688516, 0.0013814598482),
)
# log(1 + e) = e + e^2 u(e) for 0 <= e <= 1. Minimax, of relative error 5.3e-9 and 2.2e-7.
_U0, _U1, _U2, _U3, _U4, _U5, _U6, _U7, _U8 = map(
    tl.constexpr,
    (
        -0.4999993145465851,
        0.33330467343330383,
        -0.2495807409286499,
        0.19692489504814148,
        -0.15346260368824005,
        0.10663869231939316,
        -0.057488005608320236,
        0.02010449953377247,
        -0.003294917056336999,
    ),
)
_V0, _V1, _V2, _V3, _V4, _V5, _V6 = map(
    tl.constexpr,
    (
        -0.4999817907810211,
        0.3328404426574707,
        -0.24536757171154022,
        0.17846916615962982,
        -0.10901886224746704,
        0.04498382657766342,
        -0.008778179064393044,
    ),
)


@triton.jit
def _exp_of_minus(t):
    """exp(-t) for t >= 0, subnormals included.

    With n the integer next to -t / ln 2 and r = -t - n ln 2: exp(-t) = 2^n exp(r).
    """
    t = tl.minimum(t, _FAR, propagate_nan=tl.PropagateNan.ALL)
    shifted = tl.fma(t, _MINUS_LOG2_E, _ROUND)
    n = shifted - _ROUND
    r = tl.fma(n, _LN2_LOW, tl.fma(n, _LN2_HIGH, -t))
    p = tl.fma(tl.fma(tl.fma(tl.fma(_P4, r, _P3), r, _P2), r, _P1), r, _P0)
    exponent = (shifted.to(tl.int32, bitcast=True) + _EXPONENT_BIAS) << 23
    scale = exponent.to(tl.float32, bitcast=True)
    return (1 + tl.fma(r * r, p, r)) * scale * _2_TO_MINUS_64


@triton.jit
def _log1p_of_exp(e, EXACT: tl.constexpr):
    """log(1 + e) for 0 <= e <= 1, whose largest term is added last."""
    if EXACT:
        u = tl.fma(tl.fma(tl.fma(_U8, e, _U7), e, _U6), e, _U5)
        u = tl.fma(tl.fma(tl.fma(u, e, _U4), e, _U3), e, _U2)
        u = tl.fma(tl.fma(u, e, _U1), e, _U0)
    else:
        u = tl.fma(tl.fma(tl.fma(_V6, e, _V5), e, _V4), e, _V3)
        u = tl.fma(tl.fma(tl.fma(u, e, _V2), e, _V1), e, _V0)
    return tl.fma(e * e, u, e)


@triton.jit
def _smaller_sigma(e, EXACT: tl.constexpr):
    """e / (1 + e) for 0 <= e <= 1.

    `EXACT` takes a step of Newton's for what the rounding of 1 + e and of the reciprocal leave. The
    square of a reciprocal root is two instructions, where a division is eight.
    """
    d = 1 + e
    root = tl.rsqrt(d)
    reciprocal = root * root
    v = e * reciprocal
    if EXACT:
        rest = tl.fma(-v, e - (d - 1), tl.fma(-v, d, e))
        v = tl.fma(rest, reciprocal, v)
    return v


@triton.jit
def _logits(z, a, b, total, GRADIENT: tl.constexpr, EXACT: tl.constexpr):
    """a (-log sigma(z)) + b (-log sigma(-z)) and b sigma(z) - a sigma(-z), where total = a + b.

    With e = exp(-|z|) and share the weight of the wrong side, that is total log(1 + e) + share |z|
    and, but for the sign, share - total e / (1 + e): for a target of 0 or 1 one of the two alone.
    """
    t = tl.abs(z)
    if EXACT:
        e = _exp_of_minus(t)
    else:
        # A square, since exp2 takes a subnormal for 0.
        root = tl.exp2(t * _MINUS_HALF_LOG2_E)
        e = root * root
    below = z < 0
    share = tl.where(below, a, b)
    # 0 * inf is 0: a certain and right answer costs nothing.
    wrong = tl.where(share == 0, 0.0, share * t)
    loss = tl.fma(total, _log1p_of_exp(e, EXACT), wrong)
    slope = loss
    if GRADIENT:
        slope = tl.fma(-total, _smaller_sigma(e, EXACT), share)
        slope = tl.where(below, -slope, slope)
    return loss, slope


# ---------------------------------------------------------------------------------- the family
#
# Each function gives the loss P of a positive, the loss N of a negative, and their slopes, in
# float64 or float32.

_SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)
_LEAST_NORMAL = tl.constexpr(2.0**-126)
# log(1 + f) = f + f^2 w(f) for sqrt(1/2) <= 1 + f <= sqrt(2). Minimax, of relative error 3e-8.
_W0, _W1, _W2, _W3, _W4, _W5, _W6, _W7 = map(
    tl.constexpr,
    (
        -0.49999991059303284,
        0.33333948254585266,
        -0.25001782178878784,
        0.1996215134859085,
        -0.16570109128952026,
        0.14916925132274628,
        -0.14309360086917877,
        0.08739430457353592,
    ),
)

_LEAST_WITH_A_LOG = tl.constexpr(math.exp(-100.0))
_LARGEST_64 = tl.constexpr(1.7976931348623157e308)


@triton.jit
def _log(u):
    """log(u), exact near 1 too, where the hardware's of float32 is not.

    In float32, u = m 2^k with m between sqrt(1/2) and sqrt(2), and log(u) = k ln 2 + log(m).
    """
    if u.dtype == tl.float64:
        log = tl.log(u)
    else:
        tiny = u < _LEAST_NORMAL
        normal = tl.where(tiny, u * 4294967296.0, u)
        bits = normal.to(tl.int32, bitcast=True)
        k = (bits - _SQRT_HALF_BITS) >> 23
        f = (bits - (k << 23)).to(tl.float32, bitcast=True) - 1
        w = tl.fma(tl.fma(tl.fma(_W7, f, _W6), f, _W5), f, _W4)
        w = tl.fma(tl.fma(tl.fma(tl.fma(w, f, _W3), f, _W2), f, _W1), f, _W0)
        k = (k - tl.where(tiny, 32, 0)).to(tl.float32)
        log = tl.fma(k, _LN2, tl.fma(f * f, w, f))
        log = tl.where(u == 0, float("-inf"), tl.where(u >= 0, log, float("nan")))
    return log


@triton.jit
def _exp(x):
    """exp(x) for x <= 0; NaN for x > 0 in float32."""
    if x.dtype == tl.float64:  # noqa: SIM108 - of an expression Triton compiles both sides
        exp = tl.exp(x)
    else:
        exp = tl.where(x > 0, float("nan"), _exp_of_minus(-x))
    return exp


@triton.jit
def _log1p(x, u, reciprocal):
    """log(1 + x) from u = 1 + x and 1 / u: what the rounding of u left is the slope times it."""
    return _log(u) + (x - (u - 1)) * reciprocal


@triton.jit
def _sigmoid_and_logs(z):
    """sigma(z), sigma(-z), -log sigma(z), -log sigma(-z)."""
    t = tl.abs(z)
    if z.dtype == tl.float32:
        e = _exp_of_minus(t)
        s = _log1p_of_exp(e, True)
        smaller = _smaller_sigma(e, False)
        larger = 1 - smaller
    else:
        e = tl.exp(-t)
        larger = 1 / (1 + e)
        s = _log1p(e, 1 + e, larger)
        smaller = e * larger
    below = z < 0
    p, q = tl.where(below, smaller, larger), tl.where(below, larger, smaller)
    return p, q, s + tl.where(below, t, 0.0), s + tl.where(below, 0.0, t)


@triton.jit
def _power(minus_log, exponent):
    """x^exponent from -log x; x^0 is 1, at x = 0 too."""
    return tl.where(exponent == 0, 1.0, _exp(-exponent * minus_log))


@triton.jit
def _minus_log_of(p, minus_log):
    """p (-log p), 0 where -log p is infinite: it goes to 0 with p."""
    return p * tl.where(minus_log == float("inf"), 0.0, minus_log)


@triton.jit
def _plain(z):
    """`reference.logits_parts`."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    return positive, negative, -q, p


@triton.jit
def _focal(z, gamma_pos, gamma_neg):
    """`reference.focal_parts` without alpha, with a gamma for each class."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    easy_positive, easy_negative = _power(negative, gamma_pos), _power(positive, gamma_neg)
    up = -easy_positive * (q + gamma_pos * _minus_log_of(p, positive))
    down = easy_negative * (p + gamma_neg * _minus_log_of(q, negative))
    return easy_positive * positive, easy_negative * negative, up, down


@triton.jit
def _above(z, p, margin):
    """sigma(z) - margin, of p = sigma(z) and a margin in float64.

    In float32 that difference loses what is small. With d = z - logit(margin), in two parts, it is
    sigma(z) (1 - margin) (1 - exp(-d)), of which the last is -r - r^2 p(r) for a small r = -d.
    """
    if z.dtype == tl.float64:
        above = p - margin
    else:
        middle = tl.log(margin) - tl.log(1 - margin)
        high = middle.to(tl.float32)
        d = (z - high) - (middle - high.to(tl.float64)).to(tl.float32)
        small = d < 0.34  # ln(2) / 2 and above it would be another n
        r = tl.where(small, -d, 0.0)
        polynomial = tl.fma(tl.fma(tl.fma(tl.fma(_P4, r, _P3), r, _P2), r, _P1), r, _P0)
        near = -tl.fma(r * r, polynomial, r)
        share = tl.where(small, near, 1 - _exp_of_minus(tl.where(small, 0.34, d)))
        above = p * (1 - margin).to(tl.float32) * share
    return above


@triton.jit
def _asymmetric(z, gamma_pos, gamma_neg, exact_margin):
    """`reference.asymmetric_parts` for a margin above 0, which is handed over in float64."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    easy = _power(negative, gamma_pos)
    margin = exact_margin.to(z.dtype)
    above = _above(z, p, exact_margin)
    counts = above > 0
    s = tl.where(counts, above, 0.25)
    # 1 - s: formed where it is the smaller of the two, else rounded and its logarithm mended.
    near_one = s > 0.5
    rest = tl.where(near_one, q + margin, 1 - s)
    reciprocal = 1 / rest
    minus_log_rest = -_log1p(tl.where(near_one, rest - 1, -s), rest, reciprocal)
    power = _power(-_log(s), gamma_neg)
    slope = p * q * power * (gamma_neg * (minus_log_rest / s) + reciprocal)
    down = tl.where(counts, slope, 0.0)
    shifted = tl.where(counts, power * minus_log_rest, 0.0)
    up = -easy * (q + gamma_pos * _minus_log_of(p, positive))
    known = z == z
    return easy * positive, tl.where(known, shifted, z), up, tl.where(known, down, z)


@triton.jit
def _poly_of_one(p, q, minus_log, epsilon, kept):
    """`-log p + epsilon q` and the factor of -q in its slope, `1 + epsilon p`; see `reference`.

    For a negative epsilon both are written as sums of terms that are not negative, with kept
    for 1 + epsilon: kept (-log p) - epsilon (-log p - q), whose last difference is
    q^2 / 2 + q^3 / 3 + ... for a small q, and kept - epsilon q.
    """
    small = tl.where(q < 0.05, q, 0.0)
    series = small * (1 / 13)
    for power in tl.static_range(12, 1, -1):
        series = (series + 1 / power) * small
    beyond = tl.where(q < 0.05, series * small, minus_log - q)
    first = tl.where(kept == 0, 0.0, kept * minus_log)
    value = tl.where(epsilon < 0, first - epsilon * beyond, minus_log + epsilon * q)
    return value, tl.where(epsilon < 0, kept - epsilon * q, 1 + epsilon * p)


@triton.jit
def _poly(z, gamma, epsilon, kept):
    """`reference.poly_parts` without alpha."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    easy_positive, easy_negative = _power(negative, gamma), _power(positive, gamma)
    of_positive, slope_of_positive = _poly_of_one(p, q, positive, epsilon, kept)
    of_negative, slope_of_negative = _poly_of_one(q, p, negative, epsilon, kept)
    up = -easy_positive * (q * slope_of_positive + gamma * _minus_log_of(p, of_positive))
    down = easy_negative * (p * slope_of_negative + gamma * _minus_log_of(q, of_negative))
    return easy_positive * of_positive, easy_negative * of_negative, up, down


@triton.jit
def _probability(p, eps, minus_log_eps, minus_log_not_eps, least):
    """`reference.probability_parts`; an eps of 0 stands for the floor of -100."""
    reciprocal_not = 1 / (1 - p)
    minus_log, minus_log_not = -_log(p), -_log1p(-p, 1 - p, reciprocal_not)
    floored, certain = p < _LEAST_WITH_A_LOG, p == 1
    edge = tl.where(eps > 0, eps, float("-inf"))
    low, high = p < edge, (1 - p) < edge
    flat = low | high
    positive = tl.where(floored, 100.0, minus_log)
    positive = tl.where(high, minus_log_not_eps, tl.where(low, minus_log_eps, positive))
    negative = tl.where(certain, 100.0, minus_log_not)
    negative = tl.where(high, minus_log_eps, tl.where(low, minus_log_not_eps, negative))
    steep = tl.where((p < least) | floored, 0.0, -1 / p)
    steep_not = tl.where(certain, 0.0, reciprocal_not)
    return positive, negative, tl.where(flat, 0.0, steep), tl.where(flat, 0.0, steep_not)


@triton.jit
def _log_probability(x):
    """`reference.log_probability_parts`."""
    p = _exp(x)
    u = 1 - p
    certain, near_one = x == 0, x > -_LN2
    # With p = exp(x) as it is rounded, 1 - exp(x) is u x / log(p); with u = 1 - p as it is rounded,
    # log(1 - p) is log(u) (-p) / (u - 1). The first where p is near 1, the second elsewhere.
    lost = (p == 1) | (u == 1)
    below = tl.where(near_one, _log(p), u - 1)
    ratio = tl.where(near_one, x, -p) / tl.where(lost, 1.0, below)
    rest = tl.where(near_one, tl.where(p == 1, -x, u * ratio), u)
    minus_log_rest = -_log(rest) * tl.where(near_one, 1.0, ratio)
    negative = tl.where(certain, float("inf"), tl.where(u == 1, p, minus_log_rest))
    steep = p / rest
    # Beyond the dtype it would be infinite, and NaN where nobody weighs it.
    largest: tl.constexpr = _LARGEST_64 if x.dtype == tl.float64 else _LARGEST
    steep = tl.where(certain, 0.0, tl.where(steep == float("inf"), largest, steep))
    return -x, negative, tl.full(x.shape, -1.0, x.dtype), steep


@triton.jit
def _weighed(share, part):
    """The product, where 0 * inf is 0 and NaN stays."""
    return share * tl.where((share == 0) & (part == float("inf")), 0.0, part)


@triton.jit
def loss_and_slope(
    x,
    a,
    b,
    c0,
    c1,
    c2,
    c3,
    c4,
    LOSS: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """a P(x) + b N(x) and its slope, of x in float32 or float64, in that dtype.

    `WEIGHTED` is false where a + b is 1; a slope is only right where `GRADIENT` is true.
    """
    if LOSS == LOGITS and x.dtype == tl.float32:
        loss, slope = _logits(x, a, b, a + b if WEIGHTED else 1.0, GRADIENT, EXACT)
    else:
        wide: tl.constexpr = tl.float64 if EXACT else tl.float32
        z = x.to(wide)
        if LOSS == LOGITS:
            positive, negative, up, down = _plain(z)
        elif LOSS == FOCAL:
            positive, negative, up, down = _focal(z, c2.to(wide), c3.to(wide))
        elif LOSS == POLY:
            positive, negative, up, down = _poly(z, c2.to(wide), c4.to(wide), (1 + c4).to(wide))
        elif LOSS == ASYMMETRIC:
            positive, negative, up, down = _asymmetric(z, c2.to(wide), c3.to(wide), c4)
        elif LOSS == PROBABILITY:
            # Below it 1 / p is beyond the dtype, and the slope is taken as 0: see `reference`.
            least: tl.constexpr = 1 / _LARGEST_64 if x.dtype == tl.float64 else 1 / _LARGEST
            positive, negative, up, down = _probability(
                z, c2.to(wide), c3.to(wide), c4.to(wide), least
            )
        else:
            positive, negative, up, down = _log_probability(z)
        a, b = c0.to(wide) * a.to(wide), c1.to(wide) * b.to(wide)
        loss = (_weighed(a, positive) + _weighed(b, negative)).to(x.dtype)
        slope = (a * up + b * down).to(x.dtype)
    return loss, slope
