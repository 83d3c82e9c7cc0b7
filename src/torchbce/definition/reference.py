"""The definition of every loss, in plain PyTorch.

Each loss of the family weighs two functions of one input, the loss P of a positive and the loss N
of a negative, by the target:

    loss = w [ p y P(x) + (1 - y) N(x) ]

`*_parts` functions give (P, N), `combine` the weighted sum, `reduce` the reduction. Whatever else
computes a loss in this package is a faster way to say what stands here. The functions take tensors
whose shapes broadcast and check nothing; `torchbce.functional` does. Each is differentiable any
number of times, in the weights and the targets too.

Half-precision inputs are computed in float32. An element-wise result is rounded once to the
input's dtype; a reduced one stays in float32, where a sum of many elements does not overflow.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum", "weighted_mean", "batch_mean")

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
    """`w [p y P + (1 - y) N]`, where 0 * inf is 0: a certain and right answer costs nothing."""
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
    # The product is avoided, not repaired afterwards: the gradient of a repaired NaN is NaN.
    positive = torch.where(positive_counts | (positive != math.inf), positive, 0.0)
    negative = torch.where(negative_counts | (negative != math.inf), negative, 0.0)
    loss = positive_share * positive + negative_share * negative
    return loss if weight is None else weight * loss


@_wide
def logits_parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """`-log sigma(z)` and `-log sigma(-z)`: max(-z, 0) + s and max(z, 0) + s, s = log1p(exp(-|z|)).

    Every branch is smooth on its side and the branches agree at 0 to all orders, which is what
    makes automatic differentiation right at z = 0 and in both tails.
    """
    below = z < 0
    tail = F.softplus(torch.where(below, z, -z))
    return torch.where(below, -z, 0.0) + tail, torch.where(below, 0.0, z) + tail


@_wide
def logits_slope_parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of the two: -sigma(-z) and sigma(z)."""
    return -torch.sigmoid(-z), torch.sigmoid(z)


# A power of a sigmoid is taken from the logarithm that the loss has anyway: sigma(z)^g is
# exp(-g (-log sigma(z))), whose derivatives stay finite where those of a power of an underflowed
# sigma are 0 * inf.


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
    # 1 - q is formed where it is the smaller of the two, q where it is.
    near_one = q > 0.5
    log_rest = torch.where(
        near_one,
        torch.log(torch.where(near_one, not_p + margin, 0.75)),
        torch.log1p(-torch.where(near_one, 0.25, q)),
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

    Where epsilon is negative that cancels as p nears 1. With the rest of the series after its first
    term, r = -log p - (1 - p), it is `(1 + epsilon) (-log p) - epsilon r`, a sum of non-negative
    terms; r is its own series q^2 / 2 + q^3 / 3 + ... where q = 1 - p is small.
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

    Where a logarithm is floored or p is clamped the loss is flat and its gradient 0. Everywhere
    else the derivatives are the exact `-1 / p` and `1 / (1 - p)`: 1 at p = y = 0. But where `1 / p`
    is beyond the dtype (p below 2.9e-39 in float32) it is taken as 0 too: a softmax or sigmoid
    that ends there has a slope of 0, and infinity times 0 is NaN.
    """
    return _probability_parts(p, eps, 1 / torch.finfo(p.dtype).max)


@_wide
def _probability_parts(p: Tensor, eps: float | None, least: float) -> tuple[Tensor, Tensor]:
    log_p, log_not_p = _floored_logs(p) if eps is None else _clamped_logs(p, eps)
    return -torch.where(p < least, log_p.detach(), log_p), -log_not_p


@_wide
def log_probability_parts(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """`-log p` and `-log(1 - exp(log p))`, the second by whichever of two forms cancels nothing."""
    certain, near_zero = log_p == 0, log_p > -math.log(2)
    log_not_p = torch.where(
        near_zero,
        torch.log(-torch.expm1(torch.where(near_zero & ~certain, log_p, -1.0))),
        torch.log1p(-torch.exp(torch.where(near_zero, -1.0, log_p))),
    )
    # p has rounded to 1: infinite for a negative, and no slope to spread NaN from to a positive.
    return -log_p, -torch.where(certain, -math.inf, log_not_p)


def reduce(
    loss: Tensor,
    reduction: str,
    input_dtype: torch.dtype,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Apply one of `REDUCTIONS` to element losses in the compute dtype.

    Args:
        loss: element losses; those of ignored elements are 0.
        reduction: its name.
        input_dtype: the dtype of an element-wise result.
        weight: what "weighted_mean" divides by the sum of; broadcasts to the loss.
        valid: bool, of the loss' shape, false where an element is ignored.

    A mean over nothing is 0, attached to the graph, so that an empty batch trains on instead of
    spreading NaN. Means divide a sum by a global count, which stays right when the tensors are
    sharded unevenly over devices.
    """
    if reduction == "none":
        return loss.to(input_dtype)
    total = loss.sum()
    if reduction == "sum":
        return total
    if reduction == "mean" or (reduction == "weighted_mean" and weight is None):
        return total / (max(loss.numel(), 1) if valid is None else _count(valid))
    if reduction == "weighted_mean":
        assert weight is not None
        counted = weight.to(loss.dtype).expand(loss.shape)
        if valid is not None:
            counted = torch.where(valid, counted, 0.0)
        weights = counted.sum()
        return total / torch.where(weights == 0, 1.0, weights)
    if reduction == "batch_mean":
        if loss.dim() == 0:
            return total
        if valid is None:
            return total / max(loss.shape[0], 1)
        labels = tuple(range(1, loss.dim()))
        # A sum and a comparison: of a mask sharded over labels, any() would count a row per shard.
        return total / _count(valid.sum(dim=labels) > 0 if labels else valid)
    raise ValueError(f"unknown reduction {reduction!r}, expected one of {REDUCTIONS}")


def _count(valid: Tensor) -> Tensor:
    return valid.sum().clamp(min=1)


def _share(alpha: float | None, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """The parts weighted by alpha and 1 - alpha; None weighs neither."""
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
    # (1.1e-16 in float64), so that the second floor is reached at p = 1 alone.
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


# The argument is made harmless where the constant is taken: the derivative of an unused
# log(0) would be 0 * inf = NaN.


def _log_or(x: Tensor, constant_where: Tensor, constant: float) -> Tensor:
    return torch.where(constant_where, constant, torch.log(torch.where(constant_where, 1.0, x)))


def _log1p_or(x: Tensor, constant_where: Tensor, constant: float) -> Tensor:
    return torch.where(constant_where, constant, torch.log1p(torch.where(constant_where, 0.0, x)))
