"""The formulas of one tile, without loads or stores: those of `reference`, in Triton.

Cross-entropy of float32 logits and of float32 probabilities is computed in float32, within 2 units
in the last place. Every other loss of float32 inputs, and all losses of float64 inputs, are
computed in float64, which many GPUs do 64 times as slowly: a power multiplies the error of its
logarithm by up to 100. That does not reach the first 16 bits. Where the result is rounded to these,
`EXACT` is false and everything is computed in float32.

A GPU moves 12 bytes in the time of about 100 instructions, and 6 bytes in that of 50.
Cross-entropy of logits takes 52 instructions and 31.

Fused multiply-adds are written out where they are meant; the compiler adds none.
"""

import math

import triton
import triton.language as tl

#: The losses that the kernel computes. `LossSpec` describes their constants.
LOGITS, FOCAL, POLY, ASYMMETRIC, PROBABILITY, LOG_PROBABILITY = map(tl.constexpr, range(6))

_LARGEST = tl.constexpr(3.4028234663852886e38)

# ------------------------------------------------------- cross-entropy of logits, in float32

_LN2 = tl.constexpr(math.log(2))
_MINUS_LOG2_E = tl.constexpr(-math.log2(math.e))
_MINUS_HALF_LOG2_E = tl.constexpr(-math.log2(math.e) / 2)
#: Adding 3 * 2^22 rounds to an integer, which is then in the lowest bits of the sum.
_ROUND_TO_INTEGER = tl.constexpr(3.0 * 2**22)
#: -ln 2 in two parts: -355 / 512, whose product with an integer of 8 bits is exact, and the rest.
_LN2_HIGH, _LN2_LOW = tl.constexpr(-355 / 512), tl.constexpr(355 / 512 - math.log(2))
#: exp(-104) is below half of the smallest subnormal float32 and rounds to 0.
_UNDERFLOW = tl.constexpr(105.0)
#: 2^n is computed as 2^(n + 64) times 2^-64, since it is subnormal itself from n = -127 on.
_EXPONENT_BIAS = tl.constexpr(127 + 64)
_SIGN = tl.constexpr(-(2**31))
_2_TO_MINUS_64 = tl.constexpr(2.0**-64)

# exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2) / 2. Minimax polynomial, relative error 2^-28.3.
_P0, _P1, _P2, _P3, _P4 = map(
    tl.constexpr,
    (0.499999934478, 0.166665206317, 0.0416683880499, 0.00836871688516, 0.0013814598482),
)
# log(1 + e) = e + e^2 u(e) for 0 <= e <= 1. Minimax polynomials, relative errors 5.3e-9 (U) and
# 2.2e-7 (V).
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
def _exp_neg(t):
    """exp(-t) for t >= 0, exact for subnormal results too.

    With n the integer nearest to -t / ln 2 and r = -t - n ln 2: exp(-t) = 2^n exp(r).
    """
    t = tl.minimum(t, _UNDERFLOW, propagate_nan=tl.PropagateNan.ALL)
    shifted = tl.fma(t, _MINUS_LOG2_E, _ROUND_TO_INTEGER)
    n = shifted - _ROUND_TO_INTEGER
    r = tl.fma(n, _LN2_LOW, tl.fma(n, _LN2_HIGH, -t))
    p = tl.fma(tl.fma(tl.fma(tl.fma(_P4, r, _P3), r, _P2), r, _P1), r, _P0)
    exponent = (shifted.to(tl.int32, bitcast=True) + _EXPONENT_BIAS) << 23
    scale = exponent.to(tl.float32, bitcast=True)
    return (1 + tl.fma(r * r, p, r)) * scale * _2_TO_MINUS_64


@triton.jit
def _log1p_unit(e, EXACT: tl.constexpr):
    """log(1 + e) for 0 <= e <= 1. The largest term is added last."""
    if EXACT:
        u = tl.fma(tl.fma(tl.fma(_U8, e, _U7), e, _U6), e, _U5)
        u = tl.fma(tl.fma(tl.fma(u, e, _U4), e, _U3), e, _U2)
        u = tl.fma(tl.fma(u, e, _U1), e, _U0)
    else:
        u = tl.fma(tl.fma(tl.fma(_V6, e, _V5), e, _V4), e, _V3)
        u = tl.fma(tl.fma(tl.fma(u, e, _V2), e, _V1), e, _V0)
    return tl.fma(e * e, u, e)


@triton.jit
def _smaller_sigmoid(e, EXACT: tl.constexpr):
    """e / (1 + e) for 0 <= e <= 1.

    If `EXACT`, one step of Newton's method corrects the rounding of 1 + e and of the reciprocal.
    The square of a reciprocal square root takes two instructions, a division takes eight.
    """
    d = 1 + e
    root = tl.rsqrt(d)
    reciprocal = root * root
    v = e * reciprocal
    if EXACT:
        remainder = tl.fma(-v, e - (d - 1), tl.fma(-v, d, e))
        v = tl.fma(remainder, reciprocal, v)
    return v


@triton.jit
def _cross_entropy_float32(z, a, b, total, GRADIENT: tl.constexpr, EXACT: tl.constexpr):
    """a (-log sigma(z)) + b (-log sigma(-z)), and its derivative b sigma(z) - a sigma(-z).

    Let total = a + b, e = exp(-|z|), and share the weight of the class that z speaks against (a if
    z < 0, else b). The loss is total log(1 + e) + share |z|. Its derivative is share -
    total e / (1 + e), with the opposite sign if z < 0. For a target of 0 or 1, share is 0 or total.
    """
    t = tl.abs(z)
    if EXACT:
        e = _exp_neg(t)
    else:
        # The square of exp(-t / 2), since the hardware's exp2 flushes subnormals to 0.
        root = tl.exp2(t * _MINUS_HALF_LOG2_E)
        e = root * root
    # The sign bit: compared as floats, bfloat16 numbers would be compared in pairs and unpacked.
    below = z.to(tl.int32, bitcast=True) < 0
    share = tl.where(below, a, b)
    log = _log1p_unit(e, EXACT)
    if EXACT:
        # 0 * inf is 0: an infinite logit with the right sign has a loss of 0.
        wrong = tl.where(share == 0, 0.0, share * t)
        loss = tl.fma(total, log, wrong)
    else:
        right = total * log
        loss = tl.where(share == 0, right, tl.fma(share, t, right))
    slope = loss
    if GRADIENT:
        slope = tl.fma(-total, _smaller_sigmoid(e, EXACT), share)
        # Negated if z < 0, by its sign bit: a predicate would be stored from above.
        sign = z.to(tl.int32, bitcast=True) & _SIGN
        slope = (slope.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)
    return loss, slope


# ---------------------------------------------------------------------------- all other losses
#
# Each function returns the loss of a positive, the loss of a negative, and their derivatives
# ("slopes") with respect to the input, in float64 or float32. The `*_terms` functions are of a loss
# before it is focused (see `reference`), and also return, of the probabilities q and s that a
# positive and a negative are mistaken: -log q, -log s, q, s, and the derivatives of -log q and of
# log s.

_SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)
_SMALLEST_NORMAL = tl.constexpr(2.0**-126)
# log(1 + f) = f + f^2 w(f) for sqrt(1/2) <= 1 + f <= sqrt(2). Minimax polynomial, relative error
# 3e-8.
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

#: PyTorch's `BCELoss` limits logarithms to -100 at least.
_EXP_MINUS_100 = tl.constexpr(math.exp(-100.0))
_LARGEST_64 = tl.constexpr(1.7976931348623157e308)


@triton.jit
def _log(u):
    """log(u), accurate near 1 too, where the hardware's float32 logarithm is not.

    In float32, u = m 2^k with m between sqrt(1/2) and sqrt(2), and log(u) = k ln 2 + log(m).
    """
    if u.dtype == tl.float64:
        log = tl.log(u)
    else:
        tiny = u < _SMALLEST_NORMAL
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
    if x.dtype == tl.float64:  # noqa: SIM108 - Triton would compile both sides
        exp = tl.exp(x)
    else:
        exp = tl.where(x > 0, float("nan"), _exp_neg(-x))
    return exp


@triton.jit
def _log1p(x, u, reciprocal):
    """log(1 + x) from u = 1 + x and 1 / u.

    The rounding error of u, x - (u - 1), is corrected to first order.
    """
    return _log(u) + (x - (u - 1)) * reciprocal


@triton.jit
def _sigmoid_and_logs(z):
    """sigma(z), sigma(-z), -log sigma(z), -log sigma(-z)."""
    t = tl.abs(z)
    if z.dtype == tl.float32:
        e = _exp_neg(t)
        s = _log1p_unit(e, True)
        smaller = _smaller_sigmoid(e, False)
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
def _finite(part):
    """0 where a loss is infinite: p (-log p) goes to 0 with p."""
    return tl.where(part == float("inf"), 0.0, part)


@triton.jit
def _focused(terms, gamma_pos, gamma_neg, ATTACHED: tl.constexpr):
    """The parts q^g+ P and s^g- N and their slopes, without alpha.

    The focusing weights are constants unless `ATTACHED`.
    """
    positive, negative, slope_pos, slope_neg, log_q, log_s, _q, _s, rate_q, rate_s = terms
    focus_pos, focus_neg = _power(log_q, gamma_pos), _power(log_s, gamma_neg)
    if ATTACHED:
        slope_pos -= gamma_pos * (rate_q * _finite(positive))
        slope_neg += gamma_neg * (rate_s * _finite(negative))
    return focus_pos * positive, focus_neg * negative, focus_pos * slope_pos, focus_neg * slope_neg


@triton.jit
def _focused_by_p_t(
    terms, y, a, b, weight_pos, weight_neg, gamma_pos, gamma_neg, ATTACHED: tl.constexpr
):
    """`reference.combine_focused` by p_t: the loss and its slope."""
    positive, negative, slope_pos, slope_neg, _log_q, _log_s, q, s, rate_q, rate_s = terms
    not_y = 1 - y
    miss = y * q + not_y * s
    gamma = y * gamma_pos + not_y * gamma_neg
    above = miss > 0
    base = tl.where(above, miss, 1.0)
    # At most 1, but for rounding.
    minus_log = tl.maximum(-_log(base), 0.0, propagate_nan=tl.PropagateNan.ALL)
    power = tl.where(above | (gamma == 0), _power(minus_log, gamma), 0.0)
    focus = (weight_pos * y + weight_neg * not_y) * power
    plain = _weighted(a, positive) + _weighted(b, negative)
    slope = a * slope_pos + b * slope_neg
    if ATTACHED:
        rate = (not_y * (rate_s * s) - y * (rate_q * q)) / base
        slope += gamma * (rate * _finite(plain))
    return _weighted(focus, plain), focus * slope


@triton.jit
def _cross_entropy(z):
    """`reference.logits_parts`."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    return positive, negative, -q, p


@triton.jit
def _focal_terms(z):
    """`reference.focal_terms`."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    return positive, negative, -q, p, negative, positive, q, p, p, q


@triton.jit
def _sigmoid_minus_margin(z, p, margin):
    """sigma(z) - margin, from p = sigma(z) and a margin in float64.

    In float32 the difference of two close numbers loses its accuracy. With d = z - logit(margin),
    where the logit has two parts, it is sigma(z) (1 - margin) (1 - exp(-d)). For a small r = -d,
    1 - exp(r) is -r - r^2 p(r).
    """
    if z.dtype == tl.float64:
        difference = p - margin
    else:
        some = tl.where(margin > 0, margin, 0.5)
        logit = tl.log(some) - tl.log(1 - some)
        high = logit.to(tl.float32)
        d = (z - high) - (logit - high.to(tl.float64)).to(tl.float32)
        small = d < 0.34  # the polynomial holds up to ln(2) / 2
        r = tl.where(small, -d, 0.0)
        polynomial = tl.fma(tl.fma(tl.fma(tl.fma(_P4, r, _P3), r, _P2), r, _P1), r, _P0)
        near = -tl.fma(r * r, polynomial, r)
        share = tl.where(small, near, 1 - _exp_neg(tl.where(small, 0.34, d)))
        difference = tl.where(margin > 0, p * (1 - margin).to(tl.float32) * share, p)
    return difference


@triton.jit
def _asymmetric_terms(z, exact_margin):
    """`reference.asymmetric_terms`, with the margin in float64."""
    p, q, positive, negative = _sigmoid_and_logs(z)
    margin = exact_margin.to(z.dtype)
    shifted = _sigmoid_minus_margin(z, p, exact_margin)
    inside = shifted > 0
    s = tl.where(inside, shifted, 0.25)
    # 1 - s is q + margin: computed so where it is small, and else by a difference, whose rounding
    # `_log1p` corrects.
    near_one = s > 0.5
    rest = tl.where(near_one, q + margin, 1 - s)
    reciprocal = 1 / rest
    minus_log_rest = -_log1p(tl.where(near_one, rest - 1, -s), rest, reciprocal)
    # Without a margin, the rest underflows where sigma is 1.
    minus_log_rest = tl.where(margin == 0, negative, minus_log_rest)
    steep = tl.where(inside, p * q, 0.0)
    slope_neg = tl.where(margin == 0, p, steep * reciprocal)
    is_number = z == z
    return (
        positive,
        tl.where(is_number, tl.where(inside, minus_log_rest, 0.0), z),
        -q,
        tl.where(is_number, slope_neg, z),
        negative,
        -_log(s),
        q,
        tl.where(inside, s, 0.0),
        p,
        steep / s,
    )


@triton.jit
def _poly_term(p, q, minus_log, epsilon, kept):
    """`-log p + epsilon q` and the factor of -q in its slope, `1 + epsilon p`; see `reference`.

    For a negative epsilon both are written as sums of nonnegative terms, with `kept` for
    1 + epsilon: kept (-log p) - epsilon (-log p - q), and kept - epsilon q. For a small q, the
    difference -log p - q is computed as q^2 / 2 + q^3 / 3 + ...
    """
    small = tl.where(q < 0.05, q, 0.0)
    series = small * (1 / 13)
    for power in tl.static_range(12, 1, -1):
        series = (series + 1 / power) * small
    difference = tl.where(q < 0.05, series * small, minus_log - q)
    first = tl.where(kept == 0, 0.0, kept * minus_log)
    value = tl.where(epsilon < 0, first - epsilon * difference, minus_log + epsilon * q)
    return value, tl.where(epsilon < 0, kept - epsilon * q, 1 + epsilon * p)


@triton.jit
def _poly_terms(z, epsilon, kept):
    """`reference.poly_terms`."""
    p, q, minus_log, minus_log_not = _sigmoid_and_logs(z)
    positive, steepness_pos = _poly_term(p, q, minus_log, epsilon, kept)
    negative, steepness_neg = _poly_term(q, p, minus_log_not, epsilon, kept)
    slope_pos, slope_neg = -q * steepness_pos, p * steepness_neg
    return positive, negative, slope_pos, slope_neg, minus_log_not, minus_log, q, p, p, q


@triton.jit
def _rounded_up(number, dtype: tl.constexpr):
    """The least number of `dtype` that is not below a float64 number.

    A p of float32 is below it if and only if it is below the float64 number.
    """
    if dtype == tl.float64:
        rounded = number
    else:
        nearest = number.to(tl.float32)
        above = (nearest.to(tl.int32, bitcast=True) + 1).to(tl.float32, bitcast=True)
        rounded = tl.where(nearest.to(tl.float64) < number, above, nearest)
    return rounded


@triton.jit
def _reciprocal(x, EXACT: tl.constexpr):
    """1 / x. The division that Triton compiles in float32 has an error of 2 units."""
    return tl.div_rn(1.0, x) if EXACT and x.dtype == tl.float32 else 1 / x


@triton.jit
def _probability(p, eps, minus_log_eps, minus_log_not_eps, smallest, EXACT: tl.constexpr):
    """`reference.probability_parts`; an eps of 0 means that logarithms are limited to -100.

    Below `smallest`, 1 / p exceeds the dtype, and the slope is 0. Parts and slopes are within 2
    units in float32: 1 - p is exact for p >= 1/2, and its rounding error is corrected below.
    """
    u = 1 - p
    reciprocal_not = _reciprocal(u, EXACT)
    minus_log, minus_log_not = -_log(p), -_log1p(-p, u, reciprocal_not)
    floored, certain = p < _EXP_MINUS_100, p == 1
    edge = _rounded_up(tl.where(eps > 0, eps, float("-inf")), p.dtype)
    low, high = p < edge, u < edge
    flat = low | high
    minus_log_eps, minus_log_not_eps = minus_log_eps.to(p.dtype), minus_log_not_eps.to(p.dtype)
    positive = tl.where(floored, 100.0, minus_log)
    positive = tl.where(high, minus_log_not_eps, tl.where(low, minus_log_eps, positive))
    negative = tl.where(certain, 100.0, minus_log_not)
    negative = tl.where(high, minus_log_eps, tl.where(low, minus_log_not_eps, negative))
    slope_pos = tl.where((p < smallest) | floored, 0.0, -_reciprocal(p, EXACT))
    slope_neg = tl.where(certain, 0.0, reciprocal_not)
    return positive, negative, tl.where(flat, 0.0, slope_pos), tl.where(flat, 0.0, slope_neg)


@triton.jit
def _log_probability(x):
    """`reference.log_probability_parts`."""
    p = _exp(x)
    u = 1 - p
    certain, near_one = x == 0, x > -_LN2
    # Corrections for rounding: with p = exp(x) rounded, 1 - exp(x) is u x / log(p); with u = 1 - p
    # rounded, log(1 - p) is log(u) (-p) / (u - 1). The first for p near 1, the second elsewhere.
    undefined = (p == 1) | (u == 1)
    divisor = tl.where(near_one, _log(p), u - 1)
    ratio = tl.where(near_one, x, -p) / tl.where(undefined, 1.0, divisor)
    rest = tl.where(near_one, tl.where(p == 1, -x, u * ratio), u)
    minus_log_rest = -_log(rest) * tl.where(near_one, 1.0, ratio)
    negative = tl.where(certain, float("inf"), tl.where(u == 1, p, minus_log_rest))
    slope_neg = p / rest
    # The largest number instead of infinity, which would give NaN with a weight of 0.
    largest: tl.constexpr = _LARGEST_64 if x.dtype == tl.float64 else _LARGEST
    slope_neg = tl.where(certain, 0.0, tl.where(slope_neg == float("inf"), largest, slope_neg))
    return -x, negative, tl.full(x.shape, -1.0, x.dtype), slope_neg


@triton.jit
def _weighted(share, part):
    """The product, where 0 times infinity is 0 and NaN stays NaN."""
    return share * tl.where((share == 0) & (part == float("inf")), 0.0, part)


@triton.jit
def loss_and_slope(
    x,
    y,
    a,
    b,
    c0,
    c1,
    c2,
    c3,
    c4,
    LOSS: tl.constexpr,
    BY_P_T: tl.constexpr,
    ATTACHED: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """a positive(x) + b negative(x) and its derivative, for x in float32 or float64, in that dtype.

    `WEIGHTED` is false where a + b = 1. The derivative is valid if `GRADIENT` is true. `BY_P_T` is
    the form of soft targets y, see `reference.combine_focused`; focusing weights are constants
    unless `ATTACHED`.
    """
    if LOSS == LOGITS and x.dtype == tl.float32:
        loss, slope = _cross_entropy_float32(x, a, b, a + b if WEIGHTED else 1.0, GRADIENT, EXACT)
    else:
        in_float64: tl.constexpr = EXACT and LOSS != PROBABILITY
        wide: tl.constexpr = tl.float64 if in_float64 else x.dtype
        z = x.to(wide)
        a, b, w0, w1 = a.to(wide), b.to(wide), c0.to(wide), c1.to(wide)
        if LOSS == FOCAL or LOSS == POLY or LOSS == ASYMMETRIC:  # noqa: SIM109 - Triton has no `in`
            if LOSS == FOCAL:
                terms = _focal_terms(z)
            elif LOSS == POLY:
                terms = _poly_terms(z, c4.to(wide), (1 + c4).to(wide))
            else:
                terms = _asymmetric_terms(z, c4)
            gamma_pos, gamma_neg = c2.to(wide), c3.to(wide)
        if BY_P_T:
            loss, slope = _focused_by_p_t(
                terms, y.to(wide), a, b, w0, w1, gamma_pos, gamma_neg, ATTACHED
            )
        else:
            if LOSS == LOGITS:
                positive, negative, slope_pos, slope_neg = _cross_entropy(z)
            elif LOSS == PROBABILITY:
                smallest: tl.constexpr = 1 / _LARGEST_64 if x.dtype == tl.float64 else 1 / _LARGEST
                positive, negative, slope_pos, slope_neg = _probability(
                    z, c2, c3, c4, smallest, EXACT
                )
            elif LOSS == LOG_PROBABILITY:
                positive, negative, slope_pos, slope_neg = _log_probability(z)
            else:
                positive, negative, slope_pos, slope_neg = _focused(
                    terms, gamma_pos, gamma_neg, ATTACHED
                )
            a, b = w0 * a, w1 * b
            loss = _weighted(a, positive) + _weighted(b, negative)
            slope = a * slope_pos + b * slope_neg
        loss, slope = loss.to(x.dtype), slope.to(x.dtype)
    return loss, slope
