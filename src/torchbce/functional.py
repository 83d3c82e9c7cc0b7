"""The losses as functions: check, align, and call the definition."""

from torch import Tensor
from torch.nn import _reduction as _torch_reduction

from torchbce import _checks, reference

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits"]


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | float | None = None,
) -> Tensor:
    r"""Binary cross-entropy of logits, accurate in both tails.

    .. math::
        \ell = w \, [\, p \, y \, (-\log \sigma(z)) + (1 - y) (-\log \sigma(-z)) \,],
        \qquad \sigma(z) = 1 / (1 + e^{-z})

    computed as a sum of non-negative terms, so that nothing cancels: the loss of a negative at
    z = -40 is 4.2e-18 and not 0. A right answer of infinite confidence costs 0, a wrong one inf;
    0 * inf is 0, in the derivatives by target and weight too.

    Args:
        input: logits z (log-odds, in nats), any shape, any floating dtype.
        target: y in [0, 1], of input's shape or differing from it by trailing dimensions of size
            1 only, as (N,) and (N, 1); any float, bool or integer dtype.
        weight: w, a number or a tensor that broadcasts to input's shape. The values of a tensor
            are used as they are; a number must be finite and not negative.
        size_average: deprecated, as in PyTorch: use `reduction`.
        reduce: deprecated, as in PyTorch: use `reduction`.
        reduction: "none", "mean" (over the number of elements, weights or not) or "sum".
        pos_weight: p, the weight of the positive part: a number or a tensor that broadcasts to
            input's shape, for instance (C,) for an input of shape (N, C).

    Returns:
        The loss in nats. For "none" of input's shape and dtype; otherwise 0-dimensional, float64
        for float64 input and float32 for every other. Of an empty input, 0.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, a target on the CPU lies outside [0, 1] (the value and
            its index are named), or the reduction is unknown.

    Example:
        >>> import torch
        >>> from torchbce.functional import binary_cross_entropy_with_logits
        >>> logits = torch.tensor([5.0, -2.0, 0.5], dtype=torch.float64)
        >>> round(binary_cross_entropy_with_logits(logits, torch.tensor([1, 0, 1])).item(), 15)
        0.202573447904066
        >>> five = torch.tensor([[5.0]], dtype=torch.float64)  # (1, 1) with (1,): trailing ones
        >>> round(binary_cross_entropy_with_logits(five, torch.tensor([True])).item(), 15)
        0.006715348489118

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy_with_logits.html
    """
    reduction = _reduction_name(size_average, reduce, reduction)
    _checks.input_dtype("input", input)
    _checks.target_dtype(target)
    target = _checks.align_target(input, target)
    weight = _checks.align_weight("weight", weight, input)
    pos_weight = _checks.align_weight("pos_weight", pos_weight, input)
    _checks.unit_range("target", target)
    return reference.binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    eps: float | None = None,
) -> Tensor:
    r"""Binary cross-entropy of probabilities. It applies no sigmoid: for logits use
    `binary_cross_entropy_with_logits`, which is accurate where a probability has rounded to 1.

    .. math::
        \ell = -w \, [\, y \log p + (1 - y) \log(1 - p) \,]

    Each logarithm is at least -100, as in PyTorch, so that no element costs more than 100 w; with
    `eps`, p is clamped into [eps, 1 - eps] instead. Where the floor or the clamp holds, the loss
    is flat and its gradient 0; elsewhere the gradient is exact, 1 at p = y = 0 included.

    Args:
        input: probabilities p in [0, 1], any shape, any floating dtype.
        target: y in [0, 1], of input's shape or differing from it by trailing dimensions of size
            1 only; any float, bool or integer dtype.
        weight: w, a number or a tensor that broadcasts to input's shape. The values of a tensor
            are used as they are; a number must be finite and not negative.
        size_average: deprecated, as in PyTorch: use `reduction`.
        reduce: deprecated, as in PyTorch: use `reduction`.
        reduction: "none", "mean" (over the number of elements, weights or not) or "sum".
        eps: the clamp, in (0, 0.5), exact in every dtype: 1 - eps is never rounded.

    Returns:
        The loss in nats. For "none" of input's shape and dtype; otherwise 0-dimensional, float64
        for float64 input and float32 for every other. Of an empty input, 0.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, a probability or target on the CPU lies outside [0, 1]
            (the value and its index are named, NaN told apart), or reduction or eps is wrong.

    Example:
        >>> import torch
        >>> from torchbce.functional import binary_cross_entropy
        >>> p = torch.tensor([0.8, 0.2, 0.95, 0.05])
        >>> round(binary_cross_entropy(p, torch.tensor([1, 0, 1, 0])).item(), 4)
        0.1372
        >>> certain = torch.tensor([1.0])
        >>> binary_cross_entropy(certain, torch.tensor([0])).item()
        100.0
        >>> round(binary_cross_entropy(certain, torch.tensor([0]), eps=1e-7).item(), 4)
        16.1181

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy.html
    """
    reduction = _reduction_name(size_average, reduce, reduction)
    _checks.eps(eps)
    _checks.input_dtype("input", input)
    _checks.target_dtype(target)
    target = _checks.align_target(input, target)
    weight = _checks.align_weight("weight", weight, input)
    _checks.unit_range("input", input)
    _checks.unit_range("target", target)
    return reference.binary_cross_entropy(input, target, weight, reduction, eps)


def _reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is not None or reduce is not None:
        return _torch_reduction.legacy_get_string(size_average, reduce)
    _checks.reduction(reduction)
    return reduction
