"""The formula of every loss, in plain PyTorch: the definition that the kernels are tested against.

Each loss of the family is the loss P of a positive and the loss N of a negative, two functions of
one input, weighted by the target:

    loss = w [ p y P(x) + (1 - y) N(x) ]

The `*_parts` functions return (P, N), `combine` the weighted sum. They take tensors whose shapes
broadcast and check nothing; `torchbce.functional` does. Each is differentiable any number of times,
with respect to the weights and the targets too.

Half-precision inputs are computed in float32. The loss of "none" is rounded once to the input's
dtype; a reduced loss stays in float32, in which a sum of many elements does not overflow.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchbce.definition.elementary import expm1, log1p, log1p_exp

#: PyTorch's floor on each logarithm of a probability: no loss from probabilities exceeds 100.
LOG_FLOOR = -100.0


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which losses of an input of `dtype` are computed: float32 at least."""
    return dtype if dtype == torch.float64 else torch.float32


def _wide(parts: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Compute the parts in float64, where the device has it, and round each once.

    In float32 the gradient of cross-entropy came to 2.7 units in the last place, a factor such as
    sigma(z)^2 to hundreds, and second derivatives beyond |z| = 88 to 0 or NaN.
    """

    @functools.wraps(parts)
    def rounded(x: Tensor, *options: float | None) -> tuple[Tensor, Tensor]:
        positive, negative = parts(x if x.device.type == "mps" else x.double(), *options)
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
    positive_share = targets if pos_weight is None else pos_weight.to(dtype) * targets
    negative_share = 1 - targets
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


# A power of a sigmoid is computed from the logarithm that the loss needs anyway: sigma(z)^g is
# exp(-g (-log sigma(z))). Its derivatives stay finite where sigma underflows; those of a power of
# sigma would be 0 * inf.


@_wide
def focal_parts(z: Tensor, alpha: float | None, gamma: float) -> tuple[Tensor, Tensor]:
    """`a sigma(-z)^g (-log sigma(z))` and `(1 - a) sigma(z)^g (-log sigma(-z))`."""
    positive, negative = logits_parts(z)
    return _share(alpha, _power(negative, gamma) * positive, _power(positive, gamma) * negative)


@_wide
def asymmetric_parts(
    z: Tensor, gamma_pos: float, gamma_neg: float, margin: float
) -> tuple[Tensor, Tensor]:
    """`sigma(-z)^g+ (-log sigma(z))` and `q^g- (-log(1 - q))`, q = max(sigma(z) - margin, 0)."""
    positive, negative = logits_parts(z)
    focused = _power(negative, gamma_pos) * positive
    if margin == 0:
        return focused, _power(positive, gamma_neg) * negative
    p, not_p = torch.exp(-positive), torch.exp(-negative)
    counts = p > margin
    q = torch.where(counts, p - margin, 0.25)
    # Compute 1 - q from 1 - sigma where q is near 1, and log1p(-q) elsewhere: nothing cancels.
    near_one = q > 0.5
    log_rest = torch.where(
        near_one,
        torch.log(torch.where(near_one, not_p + margin, 0.75)),
        log1p(-torch.where(near_one, 0.25, q)),
    )
    shifted = torch.where(counts, q**gamma_neg * -log_rest, 0.0)
    return focused, torch.where(z.isnan(), z, shifted)


@_wide
def poly_parts(
    z: Tensor, epsilon: float, gamma: float, alpha: float | None
) -> tuple[Tensor, Tensor]:
    """The focal loss plus `epsilon (1 - p_t)^(g + 1)`, p_t the probability of the true class."""
    positive, negative = logits_parts(z)
    return _share(
        alpha,
        _power(negative, gamma) * _poly(positive, negative, epsilon),
        _power(positive, gamma) * _poly(negative, positive, epsilon),
    )


def _poly(minus_log: Tensor, minus_log_miss: Tensor, epsilon: float) -> Tensor:
    """`-log p + epsilon (1 - p)` from -log p and -log(1 - p).

    With a negative epsilon that cancels as p approaches 1. Let r = -log p - (1 - p), the series
    after its first term. The loss is `(1 + epsilon) (-log p) - epsilon r`, a sum of non-negative
    terms. Where q = 1 - p is small, r is computed as its series q^2 / 2 + q^3 / 3 + ...
    """
    miss = torch.exp(-minus_log_miss)
    if epsilon >= 0:
        return minus_log + epsilon * miss
    small = miss < 0.05  # 12 terms: 0.05^12 is 2e-16
    q = torch.where(small, miss, 0.0)
    series = torch.zeros_like(q)
    for power in range(13, 1, -1):
        series = (series + 1 / power) * q
    rest = torch.where(small, series * q, minus_log - miss)
    return _times(1 + epsilon, minus_log) - epsilon * rest


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


def _share(alpha: float | None, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """The parts weighted by alpha and 1 - alpha; unweighted for None."""
    if alpha is None:
        return positive, negative
    return _times(alpha, positive), _times(1 - alpha, negative)


def _times(factor: float, part: Tensor) -> Tensor:
    """The product, where 0 * inf is 0."""
    return factor * part if factor else torch.where(part.isnan(), part, 0.0)


def _power(minus_log: Tensor, exponent: float) -> Tensor:
    """`x^exponent` from -log x; x^0 is 1, at x = 0 too."""
    return torch.ones_like(minus_log) if exponent == 0 else torch.exp(-exponent * minus_log)


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
