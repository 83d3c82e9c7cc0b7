"""The autograd function of a loss on a GPU.

The forward pass computes the value and, if the input requires grad, its gradient in the same pass
over memory. That gradient is for an upstream gradient of 1. The backward pass launches a kernel
that reads the upstream gradient on the device, so that the host never waits. If it is 1, the kernel
does nothing. Otherwise it multiplies the gradient in place, which rounds a second time; in half
precision, where that would show, it computes the gradient again in the same memory.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.backends import selection
from torchbce.backends.gpu import launch
from torchbce.backends.gpu.operands import Outputs
from torchbce.backends.request import KernelInputs, Request


def evaluate(request: Request) -> Tensor:
    """The loss by a kernel: 0-dimensional, or of the input's shape for the reduction "none"."""
    input = request.inputs.input
    if input.requires_grad and torch.is_grad_enabled():
        value: Tensor = _apply(input, request)
        return value
    with _pytorch.profiled(BinaryCrossEntropyGPU.__name__):
        return compute_value(request, None)[0]


def compute_value(request: Request, gradient: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The loss, and the denominator if the kernel computed it.

    The gradient for an upstream gradient of 1 is written to `gradient`, unless that is None. If the
    kernel computes the denominator, it is the gradient of the sum.
    """
    call, inputs, denominator, _, outside = request
    if call.reduction == "none":
        losses = launch.new_output(inputs)
        launch.launch_loss(call.loss_spec, inputs, Outputs(losses=losses, outside=outside))
        return losses, None
    weighted = call.reduction == "weighted_mean"
    return launch.value_and_gradient(
        call.loss_spec, inputs, gradient, denominator, weighted, outside
    )


def compute_gradient(request: Request, upstream: Tensor, kept: Tensor | None = None) -> Tensor:
    """The gradient for an upstream gradient.

    `kept` is the gradient for an upstream gradient of 1, if there is one; its memory is reused.
    """
    call, inputs, denominator, *_ = request
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


def ignores(request: Request) -> bool:
    """Whether elements may be ignored."""
    return request.inputs.mask is not None or request.call.loss_spec.ignore_index is not None


class BinaryCrossEntropyGPU(torch.autograd.Function):
    """Value and gradient in one pass; profilers show this name."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, request: Request) -> Tensor:
        call, inputs, denominator, sparse_target, _ = request
        # Under hooks on saved tensors the gradient is not kept: they offload saved tensors or, in
        # checkpointing, drop them, and the gradient takes at least as much memory. A gradient in
        # half precision is not kept where the denominator is known only after the pass.
        keeps = (
            call.reduction != "none"
            and (denominator is not None or input.dtype.itemsize > 2)
            and _pytorch.saved_tensor_hooks(True) is None
        )
        gradient = launch.new_output(inputs) if keeps else None
        value, computed = compute_value(request, gradient)
        _keep(ctx, request, gradient, computed)
        ctx.save_for_backward(*inputs, sparse_target)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        # One None more than `forward` of this class has arguments; a prepared call has as many.
        # Reading them raises if one was changed since, or if the graph was freed.
        saved = ctx.saved_tensors
        if torch.is_grad_enabled() or not (_is_usual(upstream) or _is_plain(upstream)):
            return _request(ctx, saved).gradient_by_definition(upstream), None, None
        # Only the first backward pass, in whichever thread, takes the kept gradient: its caller
        # owns that memory and may write to it. Further passes compute their own.
        kept: Tensor | None = ctx.__dict__.pop("gradient", None)
        if kept is not None and not ctx.captured and _captures(upstream):
            # Each replay of the backward pass alone would multiply the same memory once more.
            kept = None
        prepared = ctx.__dict__.get("prepared")
        if prepared is not None and kept is not None and upstream.dtype == prepared.dtype:
            prepared.finish(saved, kept, upstream)
            return kept, None, None
        if kept is None or kept.dtype.itemsize <= 2:
            return compute_gradient(_request(ctx, saved), upstream, kept), None, None
        divisor = 1.0 if ctx.computed is None else ctx.computed
        launch.launch_scale(kept, upstream, divisor, ctx.ignores)
        return kept, None, None


_apply = _pytorch.function_apply(BinaryCrossEntropyGPU)


def _keep(ctx: Any, request: Request, gradient: Tensor | None, computed: Tensor | None) -> None:
    """Keep what the backward pass needs.

    `gradient`: for an upstream gradient of 1. `computed`: the denominator that the kernel computed,
    by which that gradient is not divided yet.
    """
    ctx.call, ctx.gradient, ctx.computed = request.call, gradient, computed
    ctx.denominator = request.denominator if computed is None else computed
    ctx.ignores = ignores(request)
    ctx.captured = _captures(request.inputs.input)


def _request(ctx: Any, saved: tuple[Tensor, ...]) -> Request:
    if len(saved) == 2:  # a prepared call saves only the input and the target
        return Request(ctx.call, KernelInputs(*saved), ctx.denominator)
    *tensors, sparse_target = saved
    return Request(ctx.call, KernelInputs(*tensors), ctx.denominator, sparse_target)


def _captures(tensor: Tensor) -> bool:
    """Whether the work of this thread is captured into a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _is_plain(upstream: Tensor) -> bool:
    """Whether a kernel can read an upstream gradient."""
    global _is_usual
    plain = selection.active_mode() is None and selection.is_plain(upstream, upstream.is_cuda)
    if plain and upstream.dim() == 0:
        _is_usual = _pytorch.tensor_guard(upstream) or _is_usual
    return plain


def _is_never(upstream: Tensor) -> bool:
    return False


#: A single call that checks whether an upstream gradient is like the last plain one.
_is_usual: Callable[[Tensor], bool] = _is_never
