"""One pass on a GPU that leaves the loss and, if it will be needed, the gradient; its backward.

The host never waits for the device. The gradient that is kept is that of an
upstream gradient of 1. The kernel that the backward pass launches reads the upstream gradient: it
does nothing if that is 1, and else computes the gradient again in the same memory, rounded once.
"""

from typing import Any

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.backends import selection
from torchbce.backends.gpu import launch as gpu_launch
from torchbce.backends.request import Call, KernelInputs, Request

#: What a sum is divided by, see `reductions.divisor`.
Divisor = float | Tensor | None


def evaluate(request: Request) -> Tensor:
    """The loss by a kernel."""
    call, elements, divisor, sparse = request
    if elements[0].requires_grad and torch.is_grad_enabled():
        apply: Any = _Fused.apply
        value: Tensor = apply(elements[0], call, divisor, elements, sparse)
        return value
    return run(call, divisor, elements, None)[0]


def run(
    call: Call, divisor: Divisor, elements: KernelInputs, gradient: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The loss, with its gradient where there is memory for one; and what was counted."""
    if call.reduction == "none":
        losses: Tensor = gpu_launch.memory(elements)
        gpu_launch.launch(call.loss_spec, elements, losses=losses)
        return losses, None
    by: dict[str, Any] = {"by": gpu_launch.BY_NUMBER, "number": divisor}
    if divisor is None:
        by = {
            "by": gpu_launch.BY_WEIGHTS
            if call.reduction == "weighted_mean"
            else gpu_launch.BY_COUNT
        }
    elif isinstance(divisor, Tensor):
        by = {"by": gpu_launch.BY_TENSOR, "divided_by": divisor}
    found: tuple[Tensor, Tensor | None] = gpu_launch.value_and_gradient(
        call.loss_spec, elements, gradient, **by
    )
    return found


def gradient_of(
    call: Call,
    divisor: Divisor,
    elements: KernelInputs,
    upstream: Tensor,
    kept: Tensor | None = None,
) -> Tensor:
    """The gradient by an incoming one; `kept` is that by 1, whose memory is used again."""
    gradient: Tensor = gpu_launch.memory(elements) if kept is None else kept
    if call.reduction == "none":
        gpu_launch.launch(call.loss_spec, elements, gradient=gradient, upstream=upstream)
        return gradient
    gpu_launch.launch(
        call.loss_spec,
        elements,
        gradient=gradient,
        scale=1.0 if isinstance(divisor, Tensor) or divisor is None else 1 / divisor,
        divided_by=divisor if isinstance(divisor, Tensor) else None,
        upstream=upstream,
        unless_one=kept is not None,
    )
    return gradient


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        call: Call,
        divisor: Divisor,
        elements: KernelInputs,
        sparse: Tensor | None,
    ) -> Tensor:
        # Not where saved tensors are offloaded or, by checkpointing, forgotten: the gradient is no
        # smaller than they are.
        keeps = (
            call.reduction != "none"
            and divisor is not None
            and _pytorch.saved_tensor_hooks(True) is None
        )
        ctx.gradient = gpu_launch.memory(elements) if keeps else None
        value, counted = run(call, divisor, elements, ctx.gradient)
        ctx.asked = call, counted if divisor is None else divisor
        ctx.save_for_backward(*elements, sparse)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        *elements, sparse = ctx.saved_tensors
        call, divisor = ctx.asked
        mode = torch.is_grad_enabled() or selection.active_mode() is not None
        if mode or not selection.is_plain(upstream, upstream.is_cuda):
            request = Request(call, KernelInputs(*elements), divisor, sparse)
            return request.gradient_by_definition(upstream), *_NOTHING
        # Taken by one of several threads, or by the first of several backward passes; others
        # compute their own, since whoever asked may write into what he got.
        kept = ctx.__dict__.pop("gradient", None)
        return gradient_of(call, divisor, elements, upstream, kept), *_NOTHING


_NOTHING = (None,) * 4  # for call, divisor, elements and sparse
