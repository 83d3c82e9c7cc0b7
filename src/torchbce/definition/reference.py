"""The formula of every loss, in plain PyTorch: the definition that the kernels are tested against.

Each loss of the family is the loss P of a positive and the loss N of a negative, two functions of
one input, weighted by the target:

    loss = w [ p y P(x) + (1 - y) N(x) ]

The `*_parts` functions return (P, N), `combine` the weighted sum. They take tensors whose shapes
broadcast and check nothing; `torchbce.functional` does. Each is differentiable any number of times,
with respect to the weights and the targets too.

The focal, asymmetric and Poly-1 losses multiply a loss (P, N) by focusing weights, powers of the
probability of the wrong answer. The `*_terms` functions return a loss before it is focused, and
these probabilities; `combine_focused` weights it.

Half-precision inputs are computed in float32. The loss of "none" is rounded once to the input's
dtype; a reduced loss stays in float32, in which a sum of many elements does not overflow.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.definition.elementary import expm1, log1p, log1p_exp

#: PyTorch's floor on each logarithm of a probability: no loss from probabilities exceeds 100.
LOG_FLOOR = -100.0

#: A number, or a tensor that broadcasts to the input's shape.
Constant = float | Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which losses of an input of `dtype` are computed: float32 at least."""
    return dtype if dtype == torch.float64 else torch.float32


def widened(x: Tensor) -> Tensor:
    """In float64, where the device has it, else in float32."""
    return x.float() if x.device.type == "mps" else x.double()


def _wide(parts: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Compute the parts in float64, where the device has it, and round each once.

    In float32 the gradient of cross-entropy came to 2.7 units in the last place, a factor such as
    sigma(z)^2 to hundreds, and second derivatives beyond |z| = 88 to 0 or NaN.
    """

    @functools.wraps(parts)
    def rounded(x: Tensor, *options: float | None) -> tuple[Tensor, Tensor]:
        positive, negative = parts(widened(x), *options)
        return positive.to(x.dtype), negative.to(x.dtype)

    return rounded


def combine(
    positive: Tensor,
    negative: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """`w [p y P + (1 - y) N]` with 0 * inf = 0: a correct infinite logit has loss 0."""
    dtype = positive.dtype
    positive_share, negative_share = targets, 1 - targets
    if pos_weight is not None:
        p = pos_weight.to(dtype)
        # inf is replaced before the product, as below.
        positive_share = torch.where((targets != 0) | (p != math.inf), p, 0.0) * targets
    positive_counts, negative_counts = positive_share != 0, negative_share != 0
    if weight is not None:
        weight = weight.to(dtype)
        positive_counts, negative_counts = (
            positive_counts & (weight != 0),
            negative_counts & (weight != 0),
        )
    # inf is replaced before the product: replacing NaN after it would leave a gradient of NaN.
    positive = torch.where(positive_counts | (positive != math.inf), positive, 0.0)
    negative = torch.where(negative_counts | (negative != math.inf), negative, 0.0)
    loss = positive_share * positive + negative_share * negative
    return loss if weight is None else weight * loss


@_wide
def logits_parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """`-log sigma(z)` and `-log sigma(-z)`: max(-z, 0) + s and max(z, 0) + s, s = log1p(exp(-|z|)).

    Each branch is smooth on its side, and all their derivatives agree at 0. So automatic
    differentiation is right at z = 0 and in both tails.
    """
    below = z < 0
    tail = log1p_exp(torch.where(below, z, -z))
    return torch.where(below, -z, 0.0) + tail, torch.where(below, 0.0, z) + tail


@_wide
def logits_slope_parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of the two: -sigma(-z) and sigma(z)."""
    return -torch.sigmoid(-z), torch.sigmoid(z)


# -------------------------------------------------------------------------------- focused losses


class Miss(NamedTuple):
    """The probability of the wrong answer: sigma(logit) or, less a margin, a probability itself.

    Attributes:
        minus_log: -log sigma(logit), which the loss needs anyway; None without a logit.
        logit: its logit; None where there is only the probability.
        probability: the probability; None where there is a logit.
    """

    minus_log: Tensor | None
    logit: Tensor | None
    probability: Tensor | None = None

    def power(self, exponent: Constant) -> Tensor:
        """Its power; x^0 is 1, at x = 0 too.

        sigma(z)^g is computed as exp(-g (-log sigma(z))). Its derivatives stay finite where sigma
        underflows; those of a power of sigma would be 0 * inf.
        """
        minus_log = self.minus_log
        if minus_log is None:
            return _power(self.value(), exponent)
        if isinstance(exponent, Tensor):  # 0 * inf is NaN
            return torch.exp(-exponent * minus_log.clamp(max=torch.finfo(minus_log.dtype).max))
        return torch.ones_like(minus_log) if exponent == 0 else torch.exp(-exponent * minus_log)

    def value(self) -> Tensor:
        if self.probability is not None:
            return self.probability
        assert self.logit is not None
        return torch.sigmoid(self.logit)


def _power(probability: Tensor, exponent: Constant) -> Tensor:
    """The power of a probability, with derivatives of 0 at a probability of 0."""
    above = probability > 0
    power = torch.where(above, probability, 1.0) ** exponent
    if isinstance(exponent, Tensor):
        return torch.where(above | (exponent == 0), power, 0.0)
    return power if exponent == 0 else torch.where(above, power, 0.0)


class Terms(NamedTuple):
    """A loss before it is focused, in float64, and what it is focused by.

    Attributes:
        positive: the loss of a positive.
        negative: the loss of a negative.
        of_positive: the probability that a positive is taken for a negative.
        of_negative: the probability that a negative is taken for a positive.
        gamma_pos: exponent of the first.
        gamma_neg: exponent of the second.
        alpha: weight of positives, 1 - alpha that of negatives; None for no such weights.
    """

    positive: Tensor
    negative: Tensor
    of_positive: Miss
    of_negative: Miss
    gamma_pos: Constant
    gamma_neg: Constant
    alpha: Constant | None = None


def combine_focused(
    terms: Callable[..., Terms],
    constants: tuple[Constant | None, ...],
    z: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    by_p_t: bool,
    detached: bool,
) -> Tensor:
    """The element losses; with q and s the probabilities of a wrong answer, see `Terms`:

        w [ alpha p y q^g+ P + (1 - alpha) (1 - y) s^g- N ]

    or, `by_p_t`, the unfocused loss focused by a mixture of the probabilities:

        w [ alpha y + (1 - alpha) (1 - y) ] m^g [ p y P + (1 - y) N ],
        m = y q + (1 - y) s, g = y g+ + (1 - y) g-

    The two are equal for targets of 0 and 1. If `detached`, the powers are constants in
    derivatives.
    """
    wide = (widened(c) if isinstance(c, Tensor) else c for c in constants)
    found = terms(widened(z), *wide)
    positive, negative, of_positive, of_negative, gamma_pos, gamma_neg, alpha = found
    if not by_p_t:
        focus = of_positive.power(gamma_pos), of_negative.power(gamma_neg)
        weights = tuple(power.detach() for power in focus) if detached else focus
        positive, negative = _share(alpha, weights[0] * positive, weights[1] * negative)
        return combine(positive.to(z.dtype), negative.to(z.dtype), targets, weight, pos_weight)
    y = widened(targets)
    miss = Miss(None, None, y * of_positive.value() + (1 - y) * of_negative.value())
    mixed = miss.power(_mixed(gamma_pos, gamma_neg, y))
    mixed = mixed.detach() if detached else mixed
    if alpha is not None:
        mixed = mixed * _mixed(alpha, 1 - alpha, y)
    mixed = mixed if weight is None else mixed * weight
    return combine(positive, negative, y, mixed, pos_weight).to(z.dtype)


def focal_terms(z: Tensor, alpha: Constant | None, gamma: Constant) -> Terms:
    """Cross-entropy, focused by `sigma(-z)^g` and `sigma(z)^g`."""
    positive, negative = logits_parts(z)
    return Terms(positive, negative, Miss(negative, -z), Miss(positive, z), gamma, gamma, alpha)


def asymmetric_terms(
    z: Tensor, gamma_pos: Constant, gamma_neg: Constant, margin: Constant
) -> Terms:
    """`-log sigma(z)` and `-log(1 - s)`, s = max(sigma(z) - margin, 0)."""
    positive, negative = logits_parts(z)
    of_positive = Miss(negative, -z)
    if not isinstance(margin, Tensor) and margin == 0:
        return Terms(positive, negative, of_positive, Miss(positive, z), gamma_pos, gamma_neg)
    p, not_p = torch.exp(-positive), torch.exp(-negative)
    counts = p > margin
    s = torch.where(counts, p - margin, 0.25)
    # Compute 1 - s from 1 - sigma where s is near 1, and log1p(-s) elsewhere: nothing cancels.
    near_one = s > 0.5
    rest = torch.where(near_one, not_p + margin, 0.75)
    if isinstance(margin, Tensor):
        rest = torch.where(margin == 0, 0.75, rest)
    log_rest = torch.where(near_one, torch.log(rest), log1p(-torch.where(near_one, 0.25, s)))
    shifted = torch.where(counts, -log_rest, 0.0)
    if isinstance(margin, Tensor):
        shifted = torch.where(margin == 0, negative, shifted)
    shifted = torch.where(z.isnan(), z, shifted)
    of_negative = Miss(None, None, torch.where(counts, s, 0.0))
    return Terms(positive, shifted, of_positive, of_negative, gamma_pos, gamma_neg)


def poly_terms(z: Tensor, epsilon: Constant, gamma: Constant, alpha: Constant | None) -> Terms:
    """`-log p_t + epsilon (1 - p_t)`, p_t the probability of the true class, focused as above."""
    positive, negative = logits_parts(z)
    return Terms(
        _poly(positive, negative, epsilon),
        _poly(negative, positive, epsilon),
        Miss(negative, -z),
        Miss(positive, z),
        gamma,
        gamma,
        alpha,
    )


def _poly(minus_log: Tensor, minus_log_miss: Tensor, epsilon: Constant) -> Tensor:
    """`-log p + epsilon (1 - p)` from -log p and -log(1 - p).

    With a negative epsilon that cancels as p approaches 1. Let r = -log p - (1 - p), the series
    after its first term. The loss is `(1 + epsilon) (-log p) - epsilon r`, a sum of non-negative
    terms. Where q = 1 - p is small, r is computed as its series q^2 / 2 + q^3 / 3 + ...
    """
    miss = torch.exp(-minus_log_miss)
    if not isinstance(epsilon, Tensor) and epsilon >= 0:
        return minus_log + epsilon * miss
    small = miss < 0.05  # 12 terms: 0.05^12 is 2e-16
    q = torch.where(small, miss, 0.0)
    series = torch.zeros_like(q)
    for power in range(13, 1, -1):
        series = (series + 1 / power) * q
    rest = torch.where(small, series * q, minus_log - miss)
    value = _times(1 + epsilon, minus_log) - epsilon * rest
    if isinstance(epsilon, Tensor):
        value = torch.where(epsilon >= 0, minus_log + epsilon * miss, value)
    return value


def _share(alpha: Constant | None, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """The parts weighted by alpha and 1 - alpha; unweighted for None."""
    if alpha is None:
        return positive, negative
    return _times(alpha, positive), _times(1 - alpha, negative)


def _times(factor: Constant, part: Tensor) -> Tensor:
    """The product, where 0 * inf is 0."""
    if isinstance(factor, Tensor):  # replaced before the product, see `combine`
        return factor * torch.where((factor != 0) | (part != math.inf), part, 0.0)
    return factor * part if factor else torch.where(part.isnan(), part, 0.0)


def _mixed(of_positive: Constant, of_negative: Constant, y: Tensor) -> Constant:
    """`y of_positive + (1 - y) of_negative`."""
    numbers = not isinstance(of_positive, Tensor) and not isinstance(of_negative, Tensor)
    same = of_positive is of_negative or (numbers and of_positive == of_negative)
    return of_positive if same else y * of_positive + (1 - y) * of_negative


# -------------------------------------------------------------------------------- probabilities


def probability_parts(p: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    """`-log p` and `-log(1 - p)`, each at most 100; or of p clamped into [eps, 1 - eps].

    Where a logarithm is floored or p is clamped, the loss is constant and its gradient 0.
    Everywhere else the derivatives are exact, `-1 / p` and `1 / (1 - p)`: 1 at p = y = 0. One
    exception: where `1 / p` overflows (p below 2.9e-39 in float32) the derivative is 0, because the
    derivative of the softmax or sigmoid that gave such a p is 0, and inf times 0 is NaN.
    """
    return _probability_parts(p, eps, 1 / torch.finfo(p.dtype).max)


@_wide
def _probability_parts(p: Tensor, eps: float | None, least: float) -> tuple[Tensor, Tensor]:
    log_p, log_not_p = _floored_logs(p) if eps is None else _clamped_logs(p, eps)
    return -torch.where(p < least, log_p.detach(), log_p), -log_not_p


@_wide
def log_probability_parts(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """`-log p` and `-log(1 - exp(log p))`, the second in the form that does not cancel."""
    certain, near_zero = log_p == 0, log_p > -math.log(2)
    log_not_p = torch.where(
        near_zero,
        torch.log(-expm1(torch.where(near_zero & ~certain, log_p, -1.0))),
        log1p(-torch.exp(torch.where(near_zero, -1.0, log_p))),
    )
    # At log p = 0 a negative has an infinite loss. It is a constant, so that no NaN derivative
    # reaches the positives.
    return -log_p, -torch.where(certain, -math.inf, log_not_p)


def _floored_logs(p: Tensor) -> tuple[Tensor, Tensor]:
    """max(log p, -100) and max(log(1 - p), -100)."""
    # exp(-100) is 3.7e-44, a subnormal float32. 1 - p is either 0 or at least 6e-8 in float32
    # (1.1e-16 in float64), so that the second floor is reached only at p = 1.
    return (
        _log_or(p, p < math.exp(LOG_FLOOR), LOG_FLOOR),
        _log1p_or(-p, p == 1, LOG_FLOOR),
    )


def _clamped_logs(p: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """log and log1p(-x) of x = p clamped into [eps, 1 - eps], as if eps had no rounding error.

    1 - eps is never formed: 1 - 1e-7 is 1 in half precision, and 1 - 1e-12 is 1 in float32.
    """
    low, high = p < eps, (1 - p) < eps
    log_eps, log_not_eps = math.log(eps), math.log1p(-eps)
    log_p = torch.where(low, log_eps, _log_or(p, low | high, log_not_eps))
    log_not_p = torch.where(low, log_not_eps, _log1p_or(-p, low | high, log_eps))
    return log_p, log_not_p


# Where the constant is used the argument of the logarithm is replaced as well: the derivative of an
# unused log(0) would be 0 * inf = NaN.


def _log_or(x: Tensor, constant_where: Tensor, constant: float) -> Tensor:
    return torch.where(constant_where, constant, torch.log(torch.where(constant_where, 1.0, x)))


def _log1p_or(x: Tensor, constant_where: Tensor, constant: float) -> Tensor:
    return torch.where(constant_where, constant, log1p(torch.where(constant_where, 0.0, x)))
