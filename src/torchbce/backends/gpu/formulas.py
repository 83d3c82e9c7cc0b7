"""The formulas of one tile, without loads or stores: those of `reference`, in Triton.

Losses of float32 inputs are computed in float32, within 2 units in the last place: cross-entropy of
logits and of probabilities by single numbers, the others by numbers in two parts, see `numbers`.
Losses of float64 inputs are computed in float64. Where the result is rounded to 16 bits, `EXACT` is
false and everything is computed by single numbers of float32.

A GPU moves 12 bytes in the time of about 100 instructions, and 6 bytes in that of 50.
Cross-entropy of logits takes 52 instructions and 31.

Fused multiply-adds are written out where they are meant; the compiler adds none.
"""

import math

import triton
import triton.language as tl

from torchbce.backends.gpu import numbers
from torchbce.backends.gpu.numbers import (
    LN2,
    Number,
    Single,
    add,
    choose,
    choose_value,
    divide,
    exactly,
    exp_neg,
    exp_neg_float32,
    exp_neg_scaled,
    fast_reciprocal,
    log1p,
    multiply,
    negative,
    one_minus_exp_neg,
    one_plus,
    rounded,
    subtract,
)

#: The losses that the kernel computes. `LossSpec` describes their constants.
LOGITS, FOCAL, POLY, ASYMMETRIC, PROBABILITY, LOG_PROBABILITY = map(tl.constexpr, range(6))

_LARGEST = tl.constexpr(3.4028234663852886e38)
_LARGEST_64 = tl.constexpr(1.7976931348623157e308)

# ------------------------------------------------------- cross-entropy of logits, in float32

_MINUS_HALF_LOG2_E = tl.constexpr(-math.log2(math.e) / 2)
_SIGN = tl.constexpr(-(2**31))

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
    """
    d = 1 + e
    reciprocal = fast_reciprocal(d)
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
        e = exp_neg_float32(t)
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
# ("slopes") with respect to the input. The `*_terms` functions are of a loss before it is focused
# (see `reference`), and also return, of the probabilities q and s that a positive and a negative
# are mistaken: -log q, -log s, q, s, and the derivatives of -log q and of log s. All are `Number`s.

_TINY, _2_TO_64 = tl.constexpr(2.0**-64), tl.constexpr(2.0**64)
#: PyTorch's `BCELoss` limits logarithms to -100 at least.
_EXP_MINUS_100 = tl.constexpr(math.exp(-100.0))


@triton.jit
def _sigmoid_and_logs(z, SCALED: tl.constexpr):
    """sigma(z), sigma(-z), -log sigma(z), -log sigma(-z), and a factor.

    If `SCALED`, exp(-|z|) is a product with this factor, see `exp_neg_scaled`: the smaller sigma
    and the smaller logarithm are still to be multiplied by it. Beside other numbers they are
    negligible where it is not 1.
    """
    t = exactly(tl.abs(z.hi), z)
    if SCALED:
        e, factor = exp_neg_scaled(t)
    else:
        e, factor = exp_neg(t), 1.0
    if z.hi.dtype == tl.float64:
        u = one_plus(e)
        larger = divide(exactly(1.0, z), u)
        smaller = multiply(e, larger)
        s = log1p(e, u, larger)
    elif len(z) == 1:
        s = Single(_log1p_unit(e.hi, True))
        smaller = Single(_smaller_sigmoid(e.hi, False))
        larger = Single(1 - smaller.hi)
    else:
        u = one_plus(e)
        reciprocal = fast_reciprocal(u.hi)
        remainder = tl.fma(-reciprocal, u.lo, tl.fma(-reciprocal, u.hi, 1.0))
        larger = Number(reciprocal, remainder * reciprocal)
        smaller = multiply(e, larger)
        s = log1p(e, u, larger)
    below = z.hi < 0
    p, q = choose(below, smaller, larger), choose(below, larger, smaller)
    large = add(t, s)
    return p, q, choose(below, large, s), choose(below, s, large), factor


@triton.jit
def _power(minus_log, exponent):
    """x^exponent from -log x; x^0 is 1, at x = 0 too."""
    return choose_value(exponent.hi == 0, 1.0, exp_neg(multiply(exponent, minus_log)))


@triton.jit
def _finite(part):
    """0 where a loss is infinite: p (-log p) goes to 0 with p."""
    return choose_value(part.hi == float("inf"), 0.0, part)


@triton.jit
def _focused(terms, gamma_pos, gamma_neg, ATTACHED: tl.constexpr):
    """The parts q^g+ P and s^g- N and their slopes, without alpha.

    The focusing weights are constants unless `ATTACHED`.
    """
    positive, negative_part, slope_pos, slope_neg, log_q, log_s, _q, _s, rate_q, rate_s = terms
    focus_pos, focus_neg = _power(log_q, gamma_pos), _power(log_s, gamma_neg)
    if ATTACHED:
        by_q = multiply(gamma_pos, multiply(rate_q, _finite(positive)))
        by_s = multiply(gamma_neg, multiply(rate_s, _finite(negative_part)))
        slope_pos, slope_neg = subtract(slope_pos, by_q), add(slope_neg, by_s)
    return (
        multiply(focus_pos, positive),
        multiply(focus_neg, negative_part),
        multiply(focus_pos, slope_pos),
        multiply(focus_neg, slope_neg),
    )


@triton.jit
def _focused_by_p_t(
    terms, y, a, b, weight_pos, weight_neg, gamma_pos, gamma_neg, ATTACHED: tl.constexpr
):
    """`reference.combine_focused` by p_t: the loss and its slope."""
    positive, negative_part, slope_pos, slope_neg, _log_q, _log_s, q, s, rate_q, rate_s = terms
    not_y = one_plus(negative(y))
    miss = add(multiply(y, q), multiply(not_y, s))
    gamma = add(multiply(y, gamma_pos), multiply(not_y, gamma_neg))
    above = miss.hi > 0
    base = choose(above, miss, exactly(1.0, miss))
    minus_log = negative(numbers.log(base))
    # At most 1, but for rounding.
    minus_log = choose_value(minus_log.hi < 0, 0.0, minus_log)
    unfocused = gamma.hi == 0
    power = choose(above | unfocused, _power(minus_log, gamma), exactly(0.0, miss))
    focus = multiply(add(multiply(weight_pos, y), multiply(weight_neg, not_y)), power)
    plain = add(_weighted(a, positive), _weighted(b, negative_part))
    slope = add(multiply(a, slope_pos), multiply(b, slope_neg))
    if ATTACHED:
        rate = subtract(multiply(not_y, multiply(rate_s, s)), multiply(y, multiply(rate_q, q)))
        # The reciprocal of a subnormal number would be infinite.
        up = exactly(tl.where(base.hi < _TINY, _2_TO_64, 1.0), base)
        ratio = divide(multiply(rate, up), multiply(base, up))
        slope = add(slope, multiply(gamma, multiply(ratio, _finite(plain))))
    return _weighted(focus, plain), multiply(focus, slope)


@triton.jit
def _cross_entropy(z):
    """`reference.logits_parts`."""
    p, q, positive, negative_part, _ = _sigmoid_and_logs(z, False)
    return positive, negative_part, negative(q), p


@triton.jit
def _focal_terms(z, SCALED: tl.constexpr):
    """`reference.focal_terms`, and the factor of `_sigmoid_and_logs`."""
    p, q, positive, negative_part, factor = _sigmoid_and_logs(z, SCALED)
    return (positive, negative_part, negative(q), p, negative_part, positive, q, p, p, q), factor


@triton.jit
def _sigmoid_minus_margin(z, p, margin, logit):
    """sigma(z) - margin, from p = sigma(z) and the logit of the margin, in two parts.

    In float32 the difference of two close numbers loses its accuracy. With d = z - logit(margin) it
    is sigma(z) (1 - margin) (1 - exp(-d)).
    """
    if z.hi.dtype == tl.float64:
        difference = subtract(p, margin)
    else:
        if len(z) == 1:  # noqa: SIM108 - as in `numbers`
            d = Single((z.hi - logit.hi) - logit.lo)
        else:
            d = subtract(z, logit)
        # Of d < 0 only the sign matters.
        above = choose_value(d.hi < 0, 1.0, d)
        share = one_minus_exp_neg(above, exp_neg(above))
        inside = multiply(multiply(p, one_plus(negative(margin))), share)
        difference = choose(d.hi < 0, exactly(-1.0, z), inside)
        difference = choose(margin.hi > 0, difference, p)
    return difference


@triton.jit
def _asymmetric_terms(z, margin, logit, SCALED: tl.constexpr):
    """`reference.asymmetric_terms`, and the factor of `_sigmoid_and_logs`."""
    p, q, positive, negative_part, factor = _sigmoid_and_logs(z, SCALED)
    shifted = _sigmoid_minus_margin(z, p, margin, logit)
    inside = shifted.hi > 0
    s = choose(inside, shifted, exactly(0.25, z))
    # 1 - s is q + margin: computed so where it is small, and else by a difference, whose rounding
    # `log1p` corrects.
    near_one = s.hi > 0.5
    minus_s = negative(s)
    rest = choose(near_one, add(q, margin), one_plus(minus_s))
    if len(z) == 1:
        minus_s = Single(tl.where(near_one, rest.hi - 1, minus_s.hi))
    reciprocal = divide(exactly(1.0, z), rest)
    minus_log_rest = negative(log1p(minus_s, rest, reciprocal))
    # Without a margin, the rest underflows where sigma is 1.
    without = margin.hi == 0
    minus_log_rest = choose(without, negative_part, minus_log_rest)
    steep = choose(inside, multiply(p, q), exactly(0.0, z))
    slope_neg = choose(without, p, multiply(steep, reciprocal))
    is_number = z.hi == z.hi
    terms = (
        positive,
        choose(is_number, choose(inside, minus_log_rest, exactly(0.0, z)), z),
        negative(q),
        choose(is_number, slope_neg, z),
        negative_part,
        negative(numbers.log(s)),
        q,
        choose(inside, s, exactly(0.0, z)),
        p,
        divide(steep, s),
    )
    return terms, factor


@triton.jit
def _poly_term(p, q, minus_log, epsilon, kept):
    """`-log p + epsilon q` and the factor of -q in its slope, `1 + epsilon p`; see `reference`.

    For a negative epsilon both are written as sums of nonnegative terms, with `kept` for
    1 + epsilon: kept (-log p) - epsilon (-log p - q), and kept - epsilon q. For a small q, the
    difference -log p - q is computed as q^2 / 2 + q^3 / 3 + ...
    """
    is_small = q.hi < 0.05
    small = choose(is_small, q, exactly(0.0, q))
    terms: tl.constexpr = 12 if q.hi.dtype == tl.float64 else 7  # 0.05^12 is 2e-16
    series = small.hi * (1 / (terms + 1))
    for power in tl.static_range(terms, 2, -1):
        series = (series + 1 / power) * small.hi
    half = multiply(small, multiply(small, exactly(0.5, q)))
    higher = exactly(small.hi * small.hi * series, q)
    difference = choose(is_small, add(half, higher), subtract(minus_log, q))
    first = choose_value(kept.hi == 0, 0.0, multiply(kept, minus_log))
    is_negative = epsilon.hi < 0
    value = choose(
        is_negative,
        subtract(first, multiply(epsilon, difference)),
        add(minus_log, multiply(epsilon, q)),
    )
    steepness = choose(
        is_negative,
        subtract(kept, multiply(epsilon, q)),
        add(exactly(1.0, q), multiply(epsilon, p)),
    )
    return value, steepness


@triton.jit
def _poly_terms(z, epsilon, SCALED: tl.constexpr):
    """`reference.poly_terms`, and the factor of `_sigmoid_and_logs`."""
    p, q, minus_log, minus_log_not, factor = _sigmoid_and_logs(z, SCALED)
    kept = add(exactly(1.0, epsilon), epsilon)
    positive, steepness_pos = _poly_term(p, q, minus_log, epsilon, kept)
    negative_part, steepness_neg = _poly_term(q, p, minus_log_not, epsilon, kept)
    terms = (
        positive,
        negative_part,
        negative(multiply(q, steepness_pos)),
        multiply(p, steepness_neg),
        minus_log_not,
        minus_log,
        q,
        p,
        p,
        q,
    )
    return terms, factor


@triton.jit
def _rounded_up(number):
    """The least number of the dtype of the first part that is not below a number.

    A p of float32 is below it if and only if it is below the exact number.
    """
    edge = number.hi
    if len(number) == 2:
        above = (edge.to(tl.int32, bitcast=True) + 1).to(tl.float32, bitcast=True)
        edge = tl.where(number.lo > 0, above, edge)
    return edge


@triton.jit
def _reciprocal(x, EXACT: tl.constexpr):
    """1 / x. The division that Triton compiles in float32 has an error of 2 units."""
    return tl.div_rn(1.0, x) if EXACT and x.dtype == tl.float32 else 1 / x


@triton.jit
def _probability(p, eps, minus_log_eps, minus_log_not_eps, smallest, EXACT: tl.constexpr):
    """`reference.probability_parts`; an eps of 0 means that logarithms are limited to -100.

    Below `smallest`, 1 / p exceeds the dtype, and the slope is 0. Parts and slopes are single
    numbers, within 2 units in float32: 1 - p is exact for p >= 1/2, and its rounding error is
    corrected below.
    """
    u = 1 - p
    reciprocal_not = _reciprocal(u, EXACT)
    minus_log = -numbers.log(Single(p)).hi
    minus_log_not = -(numbers.log(Single(u)).hi + (-p - (u - 1)) * reciprocal_not)
    floored, certain = p < _EXP_MINUS_100, p == 1
    edge = tl.where(eps.hi > 0, _rounded_up(eps), float("-inf"))
    low, high = p < edge, u < edge
    flat = low | high
    positive = tl.where(floored, 100.0, minus_log)
    positive = tl.where(high, minus_log_not_eps.hi, tl.where(low, minus_log_eps.hi, positive))
    negative_part = tl.where(certain, 100.0, minus_log_not)
    negative_part = tl.where(
        high, minus_log_eps.hi, tl.where(low, minus_log_not_eps.hi, negative_part)
    )
    slope_pos = tl.where((p < smallest) | floored, 0.0, -_reciprocal(p, EXACT))
    slope_neg = tl.where(certain, 0.0, reciprocal_not)
    return (
        Single(positive),
        Single(negative_part),
        Single(tl.where(flat, 0.0, slope_pos)),
        Single(tl.where(flat, 0.0, slope_neg)),
    )


@triton.jit
def _log_probability(x):
    """`reference.log_probability_parts`."""
    t = negative(x)
    p = exp_neg(t)
    # 1 - p is accurate near p = 1; elsewhere `log1p` corrects its rounding.
    rest = one_minus_exp_neg(t, p)
    near_one = t.hi < LN2
    minus_p = negative(p)
    if len(x) == 1:
        minus_p = Single(tl.where(near_one, rest.hi - 1, minus_p.hi))
    certain = t.hi == 0
    reciprocal = divide(exactly(1.0, x), rest)
    # Near p = 1 there is nothing to correct, and the reciprocal may be infinite.
    minus_log_rest = negative(log1p(minus_p, rest, choose_value(near_one, 1.0, reciprocal)))
    negative_part = choose_value(certain, float("inf"), minus_log_rest)
    slope_neg = multiply(p, reciprocal)
    # The largest number instead of infinity, which would give NaN with a weight of 0.
    largest: tl.constexpr = _LARGEST_64 if x.hi.dtype == tl.float64 else _LARGEST
    slope_neg = choose_value(slope_neg.hi == float("inf"), largest, slope_neg)
    slope_neg = choose_value(certain, 0.0, slope_neg)
    minus_one = exactly(tl.full(x.hi.shape, -1.0, x.hi.dtype), x)
    return t, negative_part, minus_one, slope_neg


@triton.jit
def _weighted(share, part):
    """The product, where 0 times infinity is 0 and NaN stays NaN."""
    return multiply(share, choose(share.hi == 0, _finite(part), part))


@triton.jit
def loss_and_slope(
    x,
    y,
    a,
    b,
    constants,
    LOSS: tl.constexpr,
    BY_P_T: tl.constexpr,
    ATTACHED: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """a positive(x) + b negative(x) and its derivative, for x in float32 or float64, in that dtype.

    `constants` are those of the loss, and the logit of its margin, as `Number`s or `Single`s.
    `WEIGHTED` is false where a + b = 1. The derivative is valid if `GRADIENT` is true. `BY_P_T` is
    the form of soft targets y, see `reference.combine_focused`; focusing weights are constants
    unless `ATTACHED`.
    """
    if LOSS == LOGITS and x.dtype == tl.float32:
        loss, slope = _cross_entropy_float32(x, a, b, a + b if WEIGHTED else 1.0, GRADIENT, EXACT)
    else:
        in_two_parts: tl.constexpr = EXACT and x.dtype == tl.float32 and LOSS != PROBABILITY
        weight_pos, weight_neg, gamma_pos, gamma_neg, last, logit = constants
        if in_two_parts:  # noqa: SIM108 - as in `numbers`
            z = Number(x, 0.0)
        else:
            z = Single(x)
        if LOSS == FOCAL:
            terms, factor = _focal_terms(z, not BY_P_T)
        elif LOSS == POLY:
            terms, factor = _poly_terms(z, last, not BY_P_T)
        elif LOSS == ASYMMETRIC:
            terms, factor = _asymmetric_terms(z, last, logit, not BY_P_T)
        if BY_P_T:
            loss, slope = _focused_by_p_t(
                terms,
                exactly(y, z),
                exactly(a, z),
                exactly(b, z),
                weight_pos,
                weight_neg,
                gamma_pos,
                gamma_neg,
                ATTACHED,
            )
            loss, slope = rounded(loss), rounded(slope)
        else:
            if LOSS == LOGITS:
                parts = _cross_entropy(z)
            elif LOSS == PROBABILITY:
                smallest: tl.constexpr = 1 / _LARGEST_64 if x.dtype == tl.float64 else 1 / _LARGEST
                parts = _probability(x, gamma_pos, gamma_neg, last, smallest, EXACT)
            elif LOSS == LOG_PROBABILITY:
                parts = _log_probability(z)
            else:
                parts = _focused(terms, gamma_pos, gamma_neg, ATTACHED)
            positive, negative_part, slope_pos, slope_neg = parts
            if LOSS == FOCAL or LOSS == POLY or LOSS == ASYMMETRIC:  # noqa: SIM109 - no `in`
                positive = _weighted(weight_pos, positive)
                negative_part = _weighted(weight_neg, negative_part)
                slope_pos = multiply(weight_pos, slope_pos)
                slope_neg = multiply(weight_neg, slope_neg)
            positive, negative_part = rounded(positive), rounded(negative_part)
            slope_pos, slope_neg = rounded(slope_pos), rounded(slope_neg)
            if LOSS == FOCAL or LOSS == POLY or LOSS == ASYMMETRIC:  # noqa: SIM109 - no `in`
                of_positive = tl.where(x > 0, factor, 1.0)
                of_negative = tl.where(x > 0, 1.0, factor)
                positive, negative_part = positive * of_positive, negative_part * of_negative
                if LOSS == ASYMMETRIC:
                    # With a margin this slope is as small as 1 - sigma(z).
                    of_negative = tl.where(last.hi > 0, factor, of_negative)
                slope_pos, slope_neg = slope_pos * of_positive, slope_neg * of_negative
            loss = _weighted(Single(a), Single(positive)).hi
            loss += _weighted(Single(b), Single(negative_part)).hi
            slope = a * slope_pos + b * slope_neg
    return loss, slope
