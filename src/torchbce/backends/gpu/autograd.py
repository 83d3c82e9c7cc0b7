"""The autograd function of a loss on a GPU.

The forward pass computes the value and, if the input requires grad, its gradient in the same pass
over memory. That gradient is for an upstream gradient of 1. The backward pass launches a kernel
that reads the upstream gradient on the device: if it is 1, the kernel does nothing, and else it
computes the gradient again in the same memory, with one rounding. The host never waits.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from torchbce.backends import selection
from torchbce.backends.gpu import launch
from torchbce.backends.gpu.operands import Denominator, Outputs
from torchbce.backends.request import Call, KernelInputs, by_definition


def evaluate(
    call: Call, denominator: Denominator, inputs: KernelInputs, sparse: Tensor | None = None
) -> Tensor:
    """The loss by a kernel; of its inputs, `input` alone may require grad.

    Args:
        call: the loss, its reduction and its definition in plain PyTorch.
        denominator: of the reduction; None if the kernel computes it.
        inputs: what the kernel reads.
        sparse: the target, if it is sparse, for gradients by the definition.

    Returns:
        The loss: 0-dimensional, or of the input's shape for the reduction "none".
    """
    if inputs.input.requires_grad and torch.is_grad_enabled():
        return _apply(inputs.input, call, denominator, inputs, sparse)
    return compute_value(call, denominator, inputs, None)[0]


def compute_value(
    call: Call, denominator: Denominator, inputs: KernelInputs, gradient: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The loss, and the denominator if the kernel computed it.

    The gradient for an upstream gradient of 1 is written to `gradient`, unless that is None.
    """
    if call.reduction == "none":
        losses = launch.new_output(inputs)
        launch.launch_loss(call.program, inputs, Outputs(losses=losses))
        return losses, None
    weighted = call.reduction == "weighted_mean"
    return launch.value_and_gradient(call.program, inputs, gradient, denominator, weighted)


def compute_gradient(
    call: Call,
    denominator: Denominator,
    inputs: KernelInputs,
    upstream: Tensor,
    kept: Tensor | None = None,
) -> Tensor:
    """The gradient for an upstream gradient.

    `kept` is the gradient for an upstream gradient of 1, if there is one; its memory is reused.
    """
    gradient = launch.new_output(inputs) if kept is None else kept
    if call.reduction == "none" or denominator is None:
        denominator = 1.0
    launch.launch_loss(
        call.program,
        inputs,
        Outputs(gradient=gradient),
        denominator=denominator,
        upstream=upstream,
        skip_if_one=kept is not None,
    )
    return gradient


class _Context(Protocol):
    """PyTorch's context, with what the forward pass leaves to the backward pass."""

    saved_tensors: tuple[Tensor, ...]
    gradient: Tensor | None
    call: Call
    denominator: Denominator

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class BinaryCrossEntropyGPU(torch.autograd.Function):
    """Value and gradient in one pass; profilers show this name."""

    @staticmethod
    def forward(
        ctx: _Context,
        input: Tensor,
        call: Call,
        denominator: Denominator,
        inputs: KernelInputs,
        sparse: Tensor | None,
    ) -> Tensor:
        # Under hooks on saved tensors the gradient is not kept: they offload saved tensors or, in
        # checkpointing, drop them, and the gradient takes at least as much memory.
        keeps = (
            call.reduction != "none"
            and denominator is not None
            and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
        )
        ctx.gradient = launch.new_output(inputs) if keeps else None
        value, computed = compute_value(call, denominator, inputs, ctx.gradient)
        ctx.call = call
        ctx.denominator = computed if denominator is None else denominator
        ctx.save_for_backward(*inputs, sparse)
        return value

    @staticmethod
    def backward(ctx: _Context, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, sparse = ctx.saved_tensors
        inputs, call = KernelInputs(*tensors), ctx.call
        by_pytorch = torch.is_grad_enabled() or selection.active_mode() is not None
        if by_pytorch or not selection.is_plain(upstream, upstream.is_cuda):
            return by_definition(call, inputs, sparse, upstream), *_NO_GRADIENTS
        # Only the first backward pass, in whichever thread, takes the kept gradient: its caller
        # owns that memory and may write to it. Further passes compute their own.
        kept: Tensor | None = ctx.__dict__.pop("gradient", None)
        gradient = compute_gradient(call, ctx.denominator, inputs, upstream, kept)
        return gradient, *_NO_GRADIENTS


_NO_GRADIENTS = (None,) * 4  # of call, denominator, inputs and sparse
_apply: Callable[[Tensor, Call, Denominator, KernelInputs, Tensor | None], Tensor] = (
    BinaryCrossEntropyGPU.apply
)
