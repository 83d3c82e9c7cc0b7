"""The definition of every loss, in plain PyTorch.

Whatever else computes a loss in this package is a faster way to say what stands here. The
functions take tensors whose shapes broadcast and check nothing; `torchbce.functional` does.
Each is differentiable any number of times, in the weights and the targets too.

Half-precision inputs are computed in float32. An element-wise result is rounded once to the
input's dtype; a reduced one stays in float32, where a sum of many elements does not overflow.
"""

import math

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")

#: PyTorch's floor on each logarithm of a probability: no loss from probabilities exceeds 100.
LOG_FLOOR = -100.0


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which losses of an input of `dtype` are computed: float32 at least."""
    return dtype if dtype == torch.float64 else torch.float32


def binary_cross_entropy_with_logits(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""`w [p y (-log sigma(z)) + (1 - y) (-log sigma(-z))]`, as a sum of non-negative terms.

    With `m = |z|` and `s = log(1 + exp(-m))`, `-log sigma(z)` is `max(-z, 0) + s` and
    `-log sigma(-z)` is `max(z, 0) + s`, so that

        loss = w [c m + k s],   c = p y where z < 0 else 1 - y,   k = p y + (1 - y).

    Every branch is smooth on its side and the branches agree at 0 to all orders, which is what
    makes automatic differentiation of this form right at z = 0 and in both tails: the derivative
    of s is `-exp(-m) / (1 + exp(-m))` and never the difference of two numbers near 1.
    """
    dtype = compute_dtype(logits.dtype)
    z, y = logits.to(dtype), targets.to(dtype)
    negative = z < 0
    magnitude = torch.where(negative, -z, z)
    tail = torch.log1p(torch.exp(-magnitude))

    positive_part = y if pos_weight is None else pos_weight.to(dtype) * y
    negative_part = 1 - y
    coefficient = torch.where(negative, positive_part, negative_part)
    if weight is not None:
        weight = weight.to(dtype)

    # 0 * inf is 0 here: an infinitely confident right answer costs nothing. The product is
    # avoided, not repaired afterwards, because the gradient of a repaired NaN is NaN.
    nothing = coefficient == 0 if weight is None else (coefficient == 0) | (weight == 0)
    magnitude = torch.where(nothing & magnitude.isinf(), 0.0, magnitude)

    both = 1 if pos_weight is None else positive_part + negative_part
    loss = coefficient * magnitude + both * tail
    if weight is not None:
        loss = weight * loss
    return reduce(loss, reduction, logits.dtype)


def binary_cross_entropy(
    probabilities: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    eps: float | None = None,
) -> Tensor:
    r"""`-w [y log p + (1 - y) log(1 - p)]`, each logarithm at least -100; or p clamped by `eps`.

    Where a logarithm is floored or p is clamped the loss is flat and its gradient 0. Everywhere
    else the gradient is the exact `w [(1 - y) / (1 - p) - y / p]`: 1 at p = y = 0, -1 at p = y = 1.
    """
    dtype = compute_dtype(probabilities.dtype)
    p, y = probabilities.to(dtype), targets.to(dtype)
    log_p, log_not_p = _floored_logs(p) if eps is None else _clamped_logs(p, eps)
    loss = -(y * log_p + (1 - y) * log_not_p)
    if weight is not None:
        loss = weight.to(dtype) * loss
    return reduce(loss, reduction, probabilities.dtype)


def reduce(loss: Tensor, reduction: str, input_dtype: torch.dtype) -> Tensor:
    """Apply one of `REDUCTIONS` to element losses in the compute dtype.

    The mean over no elements is 0, attached to the graph, so that an empty batch trains on
    instead of spreading NaN.
    """
    if reduction == "none":
        return loss.to(input_dtype)
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean() if loss.numel() > 0 else loss.sum()
    raise ValueError(f"unknown reduction {reduction!r}, expected one of {REDUCTIONS}")


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
