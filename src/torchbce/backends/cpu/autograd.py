"""The loss on the CPU under autograd: one pass computes the loss and, if needed, its gradient."""

import ctypes
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.backends import selection
from torchbce.backends.cpu import launch as cpu_launch
from torchbce.backends.request import KernelInputs, Request
from torchbce.definition import reductions

_FLOAT32 = torch.float32


def evaluate(request: Request) -> tuple[Tensor, float]:
    """The loss by a kernel, and the number of valid elements."""
    input = request.inputs.input
    if input.requires_grad and torch.is_grad_enabled():
        counted: list[float] = []
        value: Tensor = _apply(input, request, counted)
        return value, counted[0]
    with _pytorch.profiled(BinaryCrossEntropy.__name__):
        value, _, _, count = _compute(request, with_gradient=False)
    return value, count


class BinaryCrossEntropy(torch.autograd.Function):
    """The forward pass computes the gradient and keeps it; the backward pass multiplies it."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, request: Request, counted: list[float]) -> Tensor:
        # The gradient is computed in the backward pass where it would be rounded a second time:
        # with an upstream gradient per element, and in half precision with a denominator that is
        # known only after the pass. Likewise where saved tensors are offloaded or, by
        # checkpointing, dropped: the gradient is as large as they are.
        once = request.call.reduction != "none" and (
            request.denominator is not None or input.dtype is _FLOAT32
        )
        keeps = once and _pytorch.saved_tensor_hooks(True) is None
        value, gradient, factor, count = _compute(request, keeps)
        counted.append(count)
        ctx.call, ctx.denominator = request.call, request.denominator
        ctx.factor, ctx.gradient = factor, gradient
        ctx.save_for_backward(*request.inputs, request.sparse_target)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        # Reading them raises if one was changed since, or if the graph was freed.
        saved = ctx.saved_tensors
        plain = not torch.is_grad_enabled() and (_is_usual(upstream) or _is_plain(upstream))
        factor = math.nan
        if plain and ctx.call.reduction != "none":
            factor = ctx.factor * upstream.item()
            try:
                # Used by the first of several backward passes, or of several threads: later ones
                # compute their own, since the caller may write into the gradient.
                gradient = ctx.gradient
                del ctx.gradient
            except AttributeError:
                gradient = None
            if gradient is not None and factor == 1:
                return gradient, None, None
            if gradient is not None and gradient.dtype is _FLOAT32 and math.isfinite(factor):
                return gradient.mul_(factor), None, None
        return _compute_gradient(ctx, saved, upstream, plain, factor), None, None


_apply = _pytorch.function_apply(BinaryCrossEntropy)


def _is_plain(upstream: Tensor) -> bool:
    """Whether a kernel can read an upstream gradient."""
    global _is_usual
    plain = selection.active_mode() is None and selection.is_plain(upstream)
    if plain and upstream.dim() == 0:
        _is_usual = _pytorch.tensor_guard(upstream) or _is_usual
    return plain


def _is_never(upstream: Tensor) -> bool:
    return False


#: A single call that checks whether an upstream gradient is like the last plain one.
_is_usual: Callable[[Tensor], bool] = _is_never


def _compute(request: Request, with_gradient: bool) -> tuple[Tensor, Tensor | None, float, float]:
    """The loss, the gradient, a factor to multiply it by later, and the count of valid elements."""
    call, inputs, denominator, *_ = request
    element_wise = call.reduction == "none"
    losses = cpu_launch.memory_for_losses(inputs) if element_wise else None
    gradient = cpu_launch.memory_for_gradient(inputs) if with_gradient else None
    scale = 1.0 if denominator is None else 1 / float(denominator)
    sums = cpu_launch.launch(
        call.loss_spec, inputs, losses, gradient, scale, None, not element_wise
    )
    if sums.out_of_range and call.checked:
        request.definition()  # raises, naming the value and its index
    if losses is not None:
        return losses, None, 1.0, sums.valid
    factor = 1.0
    if denominator is None:
        weights = sums.weight if call.reduction == "weighted_mean" else None
        if weights == 0 and sums.valid:
            reductions.warn_of_no_weight()
        denominator = reductions.denominator(call.reduction, sums.valid, 1, weights)
        factor = 1 / float(denominator)
    return _value(sums.loss / float(denominator), inputs.input), gradient, factor, sums.valid


def _value(loss: float, input: Tensor) -> Tensor:
    """A reduced loss: 0-dimensional, float32; infinite where float32 overflows."""
    # PyTorch would raise for a number beyond float32, and ctypes makes it infinite.
    return input.new_full((), ctypes.c_float(loss).value, dtype=_FLOAT32)


def _compute_gradient(
    ctx: Any, saved: tuple[Tensor, ...], upstream: Tensor, plain: bool, factor: float
) -> Tensor:
    """Compute the gradient in the backward pass.

    Args:
        ctx: the context of the forward pass.
        saved: the tensors that it saved.
        upstream: the upstream gradient.
        plain: whether a kernel can read it.
        factor: for a reduced loss, multiplies the gradient of the sum divided by the denominator.
    """
    if len(saved) == 2:  # a prepared call saves only the input and the target
        inputs, sparse_target = KernelInputs(*saved), None
    else:
        inputs, sparse_target = KernelInputs(*saved[:-1]), saved[-1]
    request = Request(ctx.call, inputs, ctx.denominator, sparse_target)
    element_wise = request.call.reduction == "none"
    if not plain or not (element_wise or math.isfinite(factor)):
        return request.gradient_by_definition(upstream)
    gradient = cpu_launch.memory_for_gradient(request.inputs)
    scale = 1.0
    if not element_wise:
        # Multiplying the rounded gradient would round half precision twice.
        scale = factor / float(request.denominator or 1.0)
    cpu_launch.launch(
        request.call.loss_spec,
        request.inputs,
        None,
        gradient,
        scale,
        upstream if element_wise else None,
        False,
    )
    return gradient
