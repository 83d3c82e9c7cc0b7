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

from torchbce import _pytorch
from torchbce.backends import selection
from torchbce.backends.gpu import launch
from torchbce.backends.gpu.operands import Outputs
from torchbce.backends.request import Call, KernelInputs, Request
from torchbce.definition.reductions import Denominator


def evaluate(request: Request) -> Tensor:
    """The loss by a kernel: 0-dimensional, or of the input's shape for the reduction "none"."""
    input = request.inputs.input
    if input.requires_grad and torch.is_grad_enabled():
        return _apply(input, request)
    return compute_value(request, None)[0]


def compute_value(request: Request, gradient: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The loss, and the denominator if the kernel computed it.

    The gradient for an upstream gradient of 1 is written to `gradient`, unless that is None.
    """
    call, inputs, denominator, _ = request
    if call.reduction == "none":
        losses = launch.new_output(inputs)
        launch.launch_loss(call.loss_spec, inputs, Outputs(losses=losses))
        return losses, None
    weighted = call.reduction == "weighted_mean"
    return launch.value_and_gradient(call.loss_spec, inputs, gradient, denominator, weighted)


def compute_gradient(request: Request, upstream: Tensor, kept: Tensor | None = None) -> Tensor:
    """The gradient for an upstream gradient.

    `kept` is the gradient for an upstream gradient of 1, if there is one; its memory is reused.
    """
    call, inputs, denominator, _ = request
    gradient = launch.new_output(inputs) if kept is None else kept
    if call.reduction == "none" or denominator is None:
        denominator = 1.0
    launch.launch_loss(
        call.loss_spec,
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
    denominator: Denominator | None

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class BinaryCrossEntropyGPU(torch.autograd.Function):
    """Value and gradient in one pass; profilers show this name."""

    @staticmethod
    def forward(ctx: _Context, input: Tensor, request: Request) -> Tensor:
        call, inputs, denominator, sparse_target = request
        # Under hooks on saved tensors the gradient is not kept: they offload saved tensors or, in
        # checkpointing, drop them, and the gradient takes at least as much memory.
        keeps = (
            call.reduction != "none"
            and denominator is not None
            and _pytorch.saved_tensor_hooks(True) is None
        )
        ctx.gradient = launch.new_output(inputs) if keeps else None
        value, computed = compute_value(request, ctx.gradient)
        ctx.call = call
        ctx.denominator = computed if denominator is None else denominator
        ctx.save_for_backward(*inputs, sparse_target)
        return value

    @staticmethod
    def backward(ctx: _Context, upstream: Tensor) -> tuple[Tensor, None]:
        *tensors, sparse_target = ctx.saved_tensors
        request = Request(ctx.call, KernelInputs(*tensors), ctx.denominator, sparse_target)
        by_pytorch = torch.is_grad_enabled() or selection.active_mode() is not None
        if by_pytorch or not selection.is_plain(upstream, upstream.is_cuda):
            return request.gradient_by_definition(upstream), None
        # Only the first backward pass, in whichever thread, takes the kept gradient: its caller
        # owns that memory and may write to it. Further passes compute their own.
        kept: Tensor | None = ctx.__dict__.pop("gradient", None)
        return compute_gradient(request, upstream, kept), None


_apply: Callable[[Tensor, Request], Tensor] = BinaryCrossEntropyGPU.apply
