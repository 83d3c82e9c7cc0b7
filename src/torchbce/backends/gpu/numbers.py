# ruff: noqa: SIM108 - what is known when a kernel is compiled is decided by statements
"""Arithmetic of a kernel: of single numbers, and of numbers in two parts of float32.

A float32 number multiplies the error of its logarithm by up to 104 when it is raised to a power.
So losses of float32 inputs are computed in two parts, the second of which holds what the rounding
of the first left over: about 30 bits in the functions, and more in sums and products. float64 would
do, but many GPUs compute it at 1/64 of the rate of float32.

A function takes and returns `Number`s, or `Single`s in float64, and in float32 where the accuracy
of 16 bits is enough. Then it is one instruction, or as few as possible. A second part of None
instead would be simpler, but functions of Triton 3.6 cannot return a None.

Fused multiply-adds are written out where they are meant; the compiler adds none.
"""

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl


class Number(NamedTuple):
    """The sum of two parts."""

    hi: Any
    lo: Any


class Single(NamedTuple):
    """One part, where it is accurate enough; its `len` is 1."""

    hi: Any


LN2 = tl.constexpr(math.log(2))
_MINUS_LOG2_E = tl.constexpr(-math.log2(math.e))
#: Adding 3 * 2^22 rounds to an integer, which is then in the lowest bits of the sum.
_ROUND_TO_INTEGER = tl.constexpr(3.0 * 2**22)
#: ln 2 in two parts: 355 / 512, whose product with an integer of 8 bits is exact, and the rest.
_LN2_HIGH, _LN2_LOW = tl.constexpr(355 / 512), tl.constexpr(math.log(2) - 355 / 512)
_MINUS_LN2_HIGH, _MINUS_LN2_LOW = tl.constexpr(-355 / 512), tl.constexpr(355 / 512 - math.log(2))
#: exp(-104) is below half of the smallest subnormal float32 and rounds to 0, and so does 10^6 times
#: exp(-120).
_UNDERFLOW = tl.constexpr(120.0)
#: Above this, `exp_neg_scaled` returns 2^32 exp(-t).
_SCALED_ABOVE = tl.constexpr(80.0)
#: 2^n is computed as 2^(n + 64) times 2^-64, since it is subnormal itself from n = -127 on.
_EXPONENT_BIAS = tl.constexpr(127 + 64)
_2_TO_MINUS_64, _2_TO_MINUS_32 = tl.constexpr(2.0**-64), tl.constexpr(2.0**-32)
_SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)
_SMALLEST_NORMAL = tl.constexpr(2.0**-126)

# exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2) / 2. Minimax polynomial, relative error 2^-28.3.
_P0, _P1, _P2, _P3, _P4 = map(
    tl.constexpr,
    (0.499999934478, 0.166665206317, 0.0416683880499, 0.00836871688516, 0.0013814598482),
)
# exp(r) = 1 + r + r^2 / 2 + r^3 q(r). Minimax polynomial, relative error 2^-31.
_Q0, _Q1, _Q2, _Q3, _Q4 = map(
    tl.constexpr,
    (
        0.1666666716337204,
        0.041666556149721146,
        0.008333345875144005,
        0.0013926229439675808,
        0.00019861990585923195,
    ),
)
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
# log(1 + f) = f - f^2 / 2 + f^3 v(f) in the same range. Minimax polynomial, absolute error 2^-29.
_V0, _V1, _V2, _V3, _V4, _V5, _V6, _V7, _V8 = map(
    tl.constexpr,
    (
        0.3333333134651184,
        -0.24999994039535522,
        0.20000717043876648,
        -0.16668061912059784,
        0.14249233901500702,
        -0.12419963628053665,
        0.11677784472703934,
        -0.11516334116458893,
        0.07037612795829773,
    ),
)


# --------------------------------------------------------------------------------- arithmetic


@triton.jit
def exactly(value, like):
    """A value that its dtype holds exactly, with as many parts as another number."""
    if len(like) == 1:
        number = Single(value)
    else:
        number = Number(value, 0.0)
    return number


@triton.jit
def rounded(x):
    """A number as a single one. The second part of infinity and NaN means nothing."""
    if len(x) == 1:
        value = x.hi
    else:
        value = tl.where(tl.abs(x.hi) < float("inf"), x.hi + x.lo, x.hi)
    return value


@triton.jit
def negative(x):
    """-x."""
    if len(x) == 1:
        number = Single(-x.hi)
    else:
        number = Number(-x.hi, -x.lo)
    return number


@triton.jit
def choose(condition, x, y):
    """x where a condition is true, else y."""
    if len(x) == 1:
        number = Single(tl.where(condition, x.hi, y.hi))
    else:
        hi, lo = tl.where(condition, x.hi, y.hi), tl.where(condition, x.lo, y.lo)
        number = Number(hi, lo)
    return number


@triton.jit
def choose_value(condition, value, x):
    """A value that its dtype holds exactly where a condition is true, else x."""
    return choose(condition, exactly(value, x), x)


@triton.jit
def add(x, y):
    """x + y; the rounding error of the sum of the first parts is exact."""
    hi = x.hi + y.hi
    if len(x) == 1:
        number = Single(hi)
    else:
        part = hi - x.hi
        error = (x.hi - (hi - part)) + (y.hi - part)
        number = Number(hi, error + (x.lo + y.lo))
    return number


@triton.jit
def subtract(x, y):
    """x - y."""
    return add(x, negative(y))


@triton.jit
def one_plus(x):
    """1 + x for -1 <= x <= 1."""
    hi = 1 + x.hi
    if len(x) == 1:
        number = Single(hi)
    else:
        number = Number(hi, (x.hi - (hi - 1)) + x.lo)
    return number


@triton.jit
def multiply(x, y):
    """x y; the rounding error of the product of the first parts is exact."""
    hi = x.hi * y.hi
    if len(x) == 1:
        number = Single(hi)
    else:
        lo = tl.fma(x.hi, y.lo, tl.fma(x.lo, y.hi, tl.fma(x.hi, y.hi, -hi)))
        number = Number(hi, lo)
    return number


@triton.jit
def fast_reciprocal(x):
    """1 / x of a number that is neither tiny nor huge, with a relative error of 2^-21.9.

    The square of a reciprocal square root takes two instructions, a division takes eight.
    """
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def divide(x, y):
    """x / y; one step of Newton's method gives the second part. In two parts y is above 2^-126."""
    if len(x) == 1:
        number = Single(x.hi / y.hi)
    else:
        reciprocal = fast_reciprocal(y.hi)
        hi = x.hi * reciprocal
        lo = tl.fma(-hi, y.lo, tl.fma(-hi, y.hi, x.hi) + x.lo) * reciprocal
        number = Number(hi, lo)
    return number


# --------------------------------------------------------------------- exponentials, logarithms


@triton.jit
def exp_neg_float32(t):
    """exp(-t) for t >= 0 in float32, exact for subnormal results too.

    With n the integer nearest to -t / ln 2 and r = -t - n ln 2: exp(-t) = 2^n exp(r).
    """
    t = tl.minimum(t, _UNDERFLOW, propagate_nan=tl.PropagateNan.ALL)
    shifted = tl.fma(t, _MINUS_LOG2_E, _ROUND_TO_INTEGER)
    n = shifted - _ROUND_TO_INTEGER
    r = tl.fma(n, _MINUS_LN2_LOW, tl.fma(n, _MINUS_LN2_HIGH, -t))
    p = tl.fma(tl.fma(tl.fma(tl.fma(_P4, r, _P3), r, _P2), r, _P1), r, _P0)
    return (1 + tl.fma(r * r, p, r)) * _power_of_two(shifted) * _2_TO_MINUS_64


@triton.jit
def _power_of_two(shifted):
    """2^(n + 64) from the sum in whose lowest bits n is."""
    exponent = (shifted.to(tl.int32, bitcast=True) + _EXPONENT_BIAS) << 23
    return exponent.to(tl.float32, bitcast=True)


@triton.jit
def _reduced_exp(x):
    """The parts of exp(-x) = 2^n (1 + r + h + l) for x in two parts: r, h = r^2 / 2, l, 2^(n + 64).

    r + h are exact but for l, which includes the terms from the third on.
    """
    t = tl.minimum(x.hi, _UNDERFLOW, propagate_nan=tl.PropagateNan.ALL)
    shifted = tl.fma(t, _MINUS_LOG2_E, _ROUND_TO_INTEGER)
    n = shifted - _ROUND_TO_INTEGER
    exact = tl.fma(n, _MINUS_LN2_HIGH, -t)
    low = tl.fma(n, _MINUS_LN2_LOW, -tl.where(x.hi < _UNDERFLOW, x.lo, 0.0))
    r = exact + low
    r_low = (exact - r) + low
    square = r * r
    q = tl.fma(tl.fma(tl.fma(tl.fma(_Q4, r, _Q3), r, _Q2), r, _Q1), r, _Q0)
    rest = tl.fma(square * r, q, 0.5 * tl.fma(r, r, -square))
    return r, 0.5 * square, tl.fma(r_low, r, r_low) + rest, _power_of_two(shifted)


@triton.jit
def _assembled_exp(r, half, rest, scale, by):
    """exp from what `_reduced_exp` returns; `by` is 2^-64, unless the result is to be scaled."""
    one = 1 + r
    first = one + half
    rest += ((1 - one) + r) + ((one - first) + half)
    hi = first + rest
    return Number(hi * scale * by, (rest - (hi - first)) * scale * by)


@triton.jit
def exp_neg(x):
    """exp(-x) for x >= 0; NaN for x < 0 in float32."""
    if x.hi.dtype == tl.float64:
        value = Single(tl.exp(-x.hi))
    elif len(x) == 1:
        value = Single(tl.where(x.hi < 0, float("nan"), exp_neg_float32(x.hi)))
    else:
        r, half, rest, scale = _reduced_exp(x)
        exp = _assembled_exp(r, half, rest, scale, _2_TO_MINUS_64)
        value = choose_value(x.hi < 0, float("nan"), exp)
    return value


@triton.jit
def exp_neg_scaled(x):
    """exp(-x) for x >= 0 as a product: a number, and a factor that is not 1 where x > 80.

    Below 1e-38 float32 has fewer digits, and none below 1e-45. Where the number is multiplied, the
    factor is multiplied last.
    """
    if len(x) == 1:
        value, factor = exp_neg(x), 1.0
    else:
        r, half, rest, scale = _reduced_exp(x)
        above = x.hi > _SCALED_ABOVE
        by = tl.where(above, _2_TO_MINUS_32, _2_TO_MINUS_64)
        by = tl.where(x.hi < _UNDERFLOW, by, 0.0)  # it may be multiplied by x, which may be 10^38
        value = _assembled_exp(r, half, rest, scale, by)
        factor = tl.where(above, _2_TO_MINUS_32, 1.0)
    return value, factor


@triton.jit
def one_minus_exp_neg(x, exp):
    """1 - exp(-x) for x >= 0, from exp(-x) in float64. For a small x no digits are lost."""
    if x.hi.dtype == tl.float64:
        # With exp(-x) rounded to p, it is (1 - p) x / -log(p).
        u = 1 - exp.hi
        some = (exp.hi == 1) | (exp.hi == 0)
        ratio = x.hi / -tl.log(tl.where(some, 0.5, exp.hi))
        value = Single(tl.where(exp.hi == 1, x.hi, tl.where(x.hi > LN2, u, u * ratio)))
    else:
        small = x.hi < 0.34  # the polynomials hold up to ln(2) / 2
        if len(x) == 1:
            r = tl.where(small, -x.hi, 0.0)
            p = tl.fma(tl.fma(tl.fma(tl.fma(_P4, r, _P3), r, _P2), r, _P1), r, _P0)
            value = Single(tl.where(small, -tl.fma(r * r, p, r), 1 - exp.hi))
        else:
            r, half, rest, _ = _reduced_exp(x)
            first = r + half
            rest += (r - first) + half
            hi = first + rest
            near = Number(-hi, (hi - first) - rest)
            value = choose(small, near, one_plus(negative(exp)))
    return value


@triton.jit
def log(x):
    """log(x), accurate near 1 too, where the hardware's float32 logarithm is not.

    In float32, x = m 2^k with m between sqrt(1/2) and sqrt(2), and log(x) = k ln 2 + log(m).
    """
    u = x.hi
    if u.dtype == tl.float64:
        value = Single(tl.log(u))
    else:
        tiny = u < _SMALLEST_NORMAL
        normal = tl.where(tiny, u * 4294967296.0, u)
        bits = normal.to(tl.int32, bitcast=True)
        k = (bits - _SQRT_HALF_BITS) >> 23
        f = (bits - (k << 23)).to(tl.float32, bitcast=True) - 1
        exponent = (k - tl.where(tiny, 32, 0)).to(tl.float32)
        if len(x) == 1:
            w = tl.fma(tl.fma(tl.fma(_W7, f, _W6), f, _W5), f, _W4)
            w = tl.fma(tl.fma(tl.fma(tl.fma(w, f, _W3), f, _W2), f, _W1), f, _W0)
            value = Single(tl.fma(exponent, LN2, tl.fma(f * f, w, f)))
        else:
            low = tl.where(tiny, x.lo * 4294967296.0, x.lo)
            low *= ((127 - k) << 23).to(tl.float32, bitcast=True)  # 2^-k
            square = f * f
            v = tl.fma(tl.fma(tl.fma(tl.fma(_V8, f, _V7), f, _V6), f, _V5), f, _V4)
            v = tl.fma(tl.fma(tl.fma(tl.fma(v, f, _V3), f, _V2), f, _V1), f, _V0)
            # low / (1 + f), exact for f = 0.
            rest = tl.fma(-f * fast_reciprocal(1 + f), low, low)
            rest += tl.fma(exponent, _LN2_LOW, -0.5 * tl.fma(f, f, -square))
            rest = tl.fma(square * f, v, rest)
            whole = exponent * _LN2_HIGH
            first = whole + f
            second = tl.fma(-0.5, square, first)
            rest += ((whole - first) + f) + tl.fma(-0.5, square, first - second)
            hi = second + rest
            value = Number(hi, rest - (hi - second))
        value = choose(u >= 0, value, exactly(float("nan"), value))
        value = choose_value(u == 0, float("-inf"), value)
    return value


@triton.jit
def log1p(x, u, reciprocal):
    """log(1 + x) from u = 1 + x, whose rounding error is corrected to first order, and 1 / u."""
    if len(x) == 1:
        value = Single(log(u).hi + (x.hi - (u.hi - 1)) * reciprocal.hi)
    else:
        value = log(u)
    return value
