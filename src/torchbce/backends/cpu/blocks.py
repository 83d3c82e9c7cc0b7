"""What is computed per block: range checks, options, and the loops of each loss."""

from typing import Any

import numpy as np
from numba import njit

from torchbce.backends.cpu import formulas
from torchbce.backends.cpu.intrinsics import larger_unsigned, out_of_line, to_bits, where
from torchbce.backends.cpu.staging import (
    HALF,
    INNER,
    ONE,
    ZERO,
    buffer_at,
    constant_at,
    loop,
    named,
)
from torchbce.definition.family import BY_ELEMENT, BY_P_T, LOG_PROBS, LOGITS, PROBABILITIES

_MAX = np.finfo(np.float32).max
_ONE_BITS = np.int32(np.float32(1).view(np.int32))

# ------------------------------------------------------------------------------------- options


@loop
def _largest_bits(values):
    """The largest bit pattern: above that of 1 if a value is outside [0, 1], or -0, or NaN."""
    out_of_line()
    largest = np.int32(0)
    for i in range(values.size):
        largest = larger_unsigned(largest, to_bits(values[i]))
    return largest


@loop
def seems_outside(bits):
    return bits < 0 or bits > _ONE_BITS


@loop
def is_outside(values):
    """Whether a value is outside [0, 1] or NaN; -0 is 0."""
    out_of_line()
    outside = False
    for i in range(values.size):
        outside |= not (values[i] >= ZERO and values[i] <= ONE)
    return outside


@loop
def outside_unit(values):
    return seems_outside(_largest_bits(values)) and is_outside(values)


@loop
def above_zero(values):
    """Whether a value is above 0 or NaN."""
    out_of_line()
    wrong = np.int32(0)
    for i in range(values.size):
        wrong = larger_unsigned(wrong, where(values[i] <= ZERO, np.int32(0), np.int32(1)))
    return wrong != 0


@loop
def anything(values):
    """Any logit is allowed."""
    return False


@loop
def drop_ignored(valid, target, nan, marker):
    """Make `valid` 0 where the target is the marker."""
    out_of_line()
    if nan:
        for i in range(valid.size):
            valid[i] = where(target[i] == target[i], valid[i], ZERO)
    else:
        for i in range(valid.size):
            valid[i] = where(target[i] == marker, ZERO, valid[i])


@loop
def choose(out, valid, values, otherwise):
    out_of_line()
    for i in range(out.size):
        out[i] = where(valid[i] != ZERO, values[i], otherwise)


@loop
def constants_at(scratch, size, table, width, start, numbers):
    """A block of each constant of the loss, and what multiplies the slope of a focusing weight."""
    return (
        constant_at(scratch, 0, size, table, width, start, numbers[0]),
        constant_at(scratch, 1, size, table, width, start, numbers[1]),
        constant_at(scratch, 2, size, table, width, start, numbers[2]),
        constant_at(scratch, 3, size, table, width, start, numbers[3]),
        constant_at(scratch, 4, size, table, width, start, numbers[4]),
        numbers[5],
    )


@loop
def positive_and_negative_weights(a, b, target, pos_weight, smoothing):
    """a = p y and b = 1 - y with p 0 = 0."""
    out_of_line()
    kept, added = ONE - smoothing, smoothing * HALF
    for i in range(a.size):
        y = target[i] * kept + added
        a[i] = where(y == ZERO, ZERO, pos_weight[i] * y)
        b[i] = ONE - y


@loop
def apply_weight(values, weight):
    """w times the loss; a weight of 0 times an infinite loss is 0."""
    out_of_line()
    for i in range(values.size):
        silent = (weight[i] == ZERO) & (formulas.absolute(values[i]) > _MAX)
        values[i] = where(silent, ZERO, weight[i] * values[i])


@loop
def complement(b, a):
    """b = 1 - a; and the largest bit pattern of a, see `_largest_bits`."""
    out_of_line()
    largest = np.int32(0)
    for i in range(b.size):
        b[i] = ONE - a[i]
        largest = larger_unsigned(largest, to_bits(a[i]))
    return largest


@loop
def multiply(values, factors):
    out_of_line()
    for i in range(values.size):
        values[i] *= factors[i]


@njit(**INNER, fastmath={"reassoc"})
def sum_of(values):
    """The sum in float64: in float32 a sum of 1,024 equal losses is off by several units."""
    out_of_line()
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


# -------------------------------------------------------------------------------------- losses

# Two short loops instead of a long one: the constants of each fit the registers. Loss and gradient
# take 1.5 ns per element instead of 1.9.


@loop
def _exponentials(z, e, e_rest):
    out_of_line()
    for i in range(z.size):
        e[i], e_rest[i] = formulas.exp_of_minus(formulas.absolute(z[i]))


@loop
def _logits_losses(out, z, a, b, e, e_rest):
    out_of_line()
    for i in range(z.size):
        out[i] = formulas.logits_loss(z[i], e[i], e_rest[i], a[i], b[i], a[i] + b[i])


@loop
def _logits_losses_unweighted(out, z, a, b, e, e_rest):
    out_of_line()
    for i in range(z.size):
        out[i] = formulas.logits_loss(z[i], e[i], e_rest[i], a[i], b[i], ONE)


@loop
def _logits_slopes(out, z, a, b, e, e_rest, scale):
    out_of_line()
    for i in range(z.size):
        out[i] = formulas.logits_slope(z[i], e[i], e_rest[i], a[i], b[i]) * scale


def _logits(name: str, losses_of: Any) -> Any:
    def block(losses, slopes, z, a, b, scratch, gradient, scale, constants):
        out_of_line()
        e, e_rest = buffer_at(scratch, 9, z.size), buffer_at(scratch, 10, z.size)
        _exponentials(z, e, e_rest)
        losses_of(losses, z, a, b, e, e_rest)
        if gradient:
            _logits_slopes(slopes, z, a, b, e, e_rest, scale)

    return named(name, block)


_weighted_logits = _logits("_weighted_logits", _logits_losses)
unweighted_logits = _logits("unweighted_logits", _logits_losses_unweighted)


def _member(name: str, parts: Any) -> Any:
    """The loop of a loss computed in float64; `parts(x, c)` returns P, N and their derivatives."""
    parts.__name__ = parts.__qualname__ = f"_parts_of{name}"
    parts = formulas.formula(parts)

    def block(losses, slopes, x, a, b, scratch, gradient, scale, c):
        out_of_line()
        if gradient:
            for i in range(x.size):
                positive, negative, up, down = parts(np.float64(x[i]), c)
                weight, weight_not = c[0] * a[i], c[1] * b[i]
                losses[i] = weighed(weight, positive) + weighed(weight_not, negative)
                slope = (weight * up + weight_not * down) * scale
                # The largest float32 instead of infinity, whose product with a weight of 0 is NaN.
                # Only log_probability has such a slope, 1 / (1 - exp(x)), and it is positive.
                slopes[i] = where(slope > _MAX, np.float64(_MAX), slope)
        else:
            for i in range(x.size):
                positive, negative, _, _ = parts(np.float64(x[i]), c)
                losses[i] = weighed(c[0] * a[i], positive) + weighed(c[1] * b[i], negative)

    return named(name, block)


def _by_element(name: str, terms: Any) -> Any:
    """The same, with a block of values for each constant; `terms(x, last)` as in `formulas`."""

    def block(losses, slopes, x, a, b, scratch, gradient, scale, c):
        out_of_line()
        c0, c1, c2, c3, c4, slope = c
        for i in range(x.size):
            found = terms(np.float64(x[i]), c4[i])
            positive, negative, up, down = formulas.focused(found, c2[i], c3[i], slope)
            weight, weight_not = c0[i] * a[i], c1[i] * b[i]
            losses[i] = weighed(weight, positive) + weighed(weight_not, negative)
            slopes[i] = (weight * up + weight_not * down) * scale

    return named(name, block)


def _by_p_t(name: str, terms: Any) -> Any:
    """The same in the form with p_t, which also reads the targets and their smoothing."""

    def block(losses, slopes, x, a, b, scratch, gradient, scale, c):
        out_of_line()
        c0, c1, c2, c3, c4, slope, target, smoothing = c
        kept, added = ONE - smoothing, smoothing * HALF
        for i in range(x.size):
            found = terms(np.float64(x[i]), c4[i])
            y = np.float64(target[i] * kept + added)
            loss, change = formulas.focused_by_p_t(
                found, y, a[i], b[i], c0[i], c1[i], c2[i], c3[i], slope
            )
            losses[i], slopes[i] = loss, change * scale

    return named(name, block)


weighed = formulas.weighed


@formulas.formula
def _focal_terms(x, last):
    return formulas.focal_terms(x)


_focal = _member("_focal", lambda x, c: formulas.focused(formulas.focal_terms(x), c[2], c[3], c[5]))
_poly = _member(
    "_poly", lambda x, c: formulas.focused(formulas.poly_terms(x, c[4]), c[2], c[3], c[5])
)
_asymmetric = _member(
    "_asymmetric",
    lambda x, c: formulas.focused(formulas.asymmetric_terms(x, c[4]), c[2], c[3], c[5]),
)
_probability = _member("_probability", lambda x, c: formulas.probability(x, c[2], c[3], c[4]))
_log_probability = _member("_log_probability", lambda x, c: formulas.log_probability(x))

_TERMS = {
    "focal": _focal_terms,
    "poly": formulas.poly_terms,
    "asymmetric": formulas.asymmetric_terms,
}
#: By the name of the kernel, see `family.KERNELS`.
LOSSES = {
    "logits": _weighted_logits,
    "focal": _focal,
    "poly": _poly,
    "asymmetric": _asymmetric,
    "probability": _probability,
    "log_probability": _log_probability,
    **{loss + BY_ELEMENT: _by_element(f"_{loss}_by_element", t) for loss, t in _TERMS.items()},
    **{loss + BY_P_T: _by_p_t(f"_{loss}_by_p_t", t) for loss, t in _TERMS.items()},
}
#: By the domain of the input.
RANGE_CHECKS = {LOGITS: anything, PROBABILITIES: outside_unit, LOG_PROBS: above_zero}
