"""One pass that leaves the loss and, if it will be needed, the gradient; and its backward."""

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from torchbce.backends import selection
from torchbce.backends.cpu import launch as cpu_launch
from torchbce.backends.request import Call, KernelInputs, by_definition, definition_arguments


def evaluate(
    call: Call, divisor: float | None, elements: KernelInputs, sparse: Tensor | None = None
) -> tuple[Tensor, float]:
    """The loss by a kernel, and the number of elements that count.

    Args:
        call: what is asked for.
        divisor: what a sum is divided by; None for what only the pass itself can count: elements
            for "mean", weights for "weighted_mean".
        elements: of whose tensors the first alone may require grad.
        sparse: the sparse target, whose values and positions the elements have.
    """
    if elements[0].requires_grad and torch.is_grad_enabled():
        counted: list[float] = []
        # What `Function.apply` comes to where no transform of torch.func is active, which the
        # choice of the backend has seen to: its own look takes 12 of 19 microseconds.
        value: Tensor = _apply(elements[0], call, divisor, elements, sparse, counted)
        return value, counted[0]
    value, _, _, count = _pass(call, divisor, elements, sparse, wants_gradient=False)
    return value, count


class _Fused(torch.autograd.Function):
    """The gradient is computed with the loss and kept, and only scaled when it is asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        call: Call,
        divisor: float | None,
        elements: KernelInputs,
        sparse: Tensor | None,
        counted: list[float],
    ) -> Tensor:
        # Not where it would have to be rounded a second time: with a number from above for each
        # element, or in half precision times what the pass is to find. And not where saved tensors
        # are offloaded or, by checkpointing, forgotten: the gradient is no smaller than they are.
        once = call.reduction != "none" and (divisor is not None or input.dtype is _FLOAT32)
        keeps = once and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
        value, gradient, factor, count = _pass(call, divisor, elements, sparse, keeps)
        counted.append(count)
        ctx.asked = call, factor, 1 / (divisor or 1.0)
        ctx.gradient = gradient
        ctx.save_for_backward(*elements, sparse)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        *elements, sparse = ctx.saved_tensors
        call, factor, scale = ctx.asked
        mode = torch.is_grad_enabled() or selection.active_mode() is not None
        if mode or not selection.is_plain(upstream):
            return by_definition(call, elements, sparse, upstream), *_NOTHING
        if call.reduction == "none":
            return _gradient(call, elements, upstream=upstream), *_NOTHING
        # What the kept gradient still has to be multiplied by.
        factor *= upstream.item()
        if not math.isfinite(factor):
            return by_definition(call, elements, sparse, upstream), *_NOTHING
        # Taken by one of several threads, or by the first of several backward passes; others
        # compute their own, since whoever asked may write into what he got.
        gradient = ctx.__dict__.pop("gradient", None)
        if gradient is not None and factor == 1:
            return gradient, *_NOTHING
        if gradient is not None and gradient.dtype is _FLOAT32:
            return gradient.mul_(factor), *_NOTHING
        # In half precision a product with what is rounded already would be rounded twice.
        return _gradient(call, elements, factor * scale), *_NOTHING


_NOTHING = (None,) * 5  # for call, divisor, elements, sparse and counted
_FLOAT32 = torch.float32
_SAFE = 3e38  # below the largest float32, 3.4e38
_apply: Any = super(torch.autograd.Function, _Fused).apply


def _pass(
    call: Call,
    divisor: float | None,
    elements: KernelInputs,
    sparse: Tensor | None,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor | None, float, float]:
    """The loss, the gradient, what that still has to be multiplied by, and how many count."""
    program, reduction, definition, checked = call
    element_wise = reduction == "none"
    losses = cpu_launch.memory_for_losses(elements) if element_wise else None
    gradient = cpu_launch.memory_for_gradient(elements) if wants_gradient else None
    scale = 1 / divisor if divisor else 1.0
    total, weights, count, wrong = cpu_launch.launch(
        program, elements, losses, gradient, scale, None, not element_wise
    )
    if wrong and checked:
        definition(*definition_arguments(elements, sparse))
    if losses is not None:
        return losses, None, 1.0, count
    factor = 1.0
    if divisor is None:
        # A mean over nothing is 0, and so is one that nothing weighs.
        divisor = (weights if reduction == "weighted_mean" else count) or 1.0
        factor = 1 / divisor
    loss = total / divisor
    if not -_SAFE < loss < _SAFE:
        loss = ctypes.c_float(loss).value  # infinite where float32 is: PyTorch would raise
    return elements[0].new_full((), loss, dtype=_FLOAT32), gradient, factor, count


def _gradient(
    call: Call, elements: KernelInputs, scale: float = 1.0, upstream: Tensor | None = None
) -> Tensor:
    gradient: Tensor = cpu_launch.memory_for_gradient(elements)
    cpu_launch.launch(call.program, elements, None, gradient, scale, upstream, False)
    return gradient
