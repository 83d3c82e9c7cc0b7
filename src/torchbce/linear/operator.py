"""Linear + cross-entropy inside a compiled graph: an operator that the compiler takes as it is."""

from typing import Any

import torch
from torch import Tensor

from torchbce import reference
from torchbce.linear import autograd, call
from torchbce.linear.call import Settings
from torchbce.linear.chunks import Gradients, Head, Wants
from torchbce.linear.sharding import Shard

Result = tuple[Tensor, Tensor, Tensor, Tensor]


def linear_loss(head: Head, target: Tensor, options: Settings) -> Tensor:
    """The loss, as a node of the graph, of arguments that `call.check` let pass."""
    input, weight, bias = head
    p = options.pos_weight
    if p is not None and not isinstance(p, Tensor):
        p = torch.tensor(float(p), dtype=torch.float64)
    grad = torch.is_grad_enabled()
    wants = [grad and tensor is not None and tensor.requires_grad for tensor in head]
    value: Tensor = _loss_and_gradients(input, weight, bias, target, p, *options[1:], wants)[0]
    return value


@torch.library.custom_op("torchbce::linear_binary_cross_entropy", mutates_args=())
def _loss_and_gradients(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    pos_weight: Tensor | None,
    label_weight: Tensor | None,
    row_weight: Tensor | None,
    mask: Tensor | None,
    ignored: Tensor | None,
    label_smoothing: float,
    reduction: str,
    chunk_labels: int | None,
    wants: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    options = Settings(
        pos_weight,
        label_weight,
        row_weight,
        mask,
        ignored,
        label_smoothing,
        reduction,
        chunk_labels,
    )
    head = Head(input, weight, bias)
    labels = weight.shape[0]
    asked, operands = call.prepare(input, target, options, Shard(labels), labels)
    now = Wants(*wants) if _keeps(head, reduction) else Wants()
    loss, found = autograd.run(asked, head, operands, now)
    return loss, *_filled(found, head)


@_loss_and_gradients.register_fake
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    pos_weight: Tensor | None,
    label_weight: Tensor | None,
    row_weight: Tensor | None,
    mask: Tensor | None,
    ignored: Tensor | None,
    label_smoothing: float,
    reduction: str,
    chunk_labels: int | None,
    wants: list[bool],
) -> Result:
    shape = input.shape[:-1] if reduction == "none" else ()
    dtype = reference.compute_dtype(input.dtype)
    head = Head(input, weight, bias)
    found = _shapes(head, wants if _keeps(head, reduction) else [False] * 3)
    return input.new_empty(shape, dtype=dtype), *_filled(found, head)


@torch.library.custom_op("torchbce::linear_binary_cross_entropy_backward", mutates_args=())
def _gradients(
    upstream: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    pos_weight: Tensor | None,
    label_weight: Tensor | None,
    row_weight: Tensor | None,
    mask: Tensor | None,
    ignored: Tensor | None,
    label_smoothing: float,
    reduction: str,
    chunk_labels: int | None,
    wants: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    options = Settings(
        pos_weight,
        label_weight,
        row_weight,
        mask,
        ignored,
        label_smoothing,
        reduction,
        chunk_labels,
    )
    head = Head(input, weight, bias)
    labels = weight.shape[0]
    asked, operands = call.prepare(input, target, options, Shard(labels), labels)
    return _filled(autograd.gradients(asked, head, operands, Wants(*wants), upstream), head)


@_gradients.register_fake
def _(
    upstream: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    head = Head(input, weight, bias)
    return _filled(_shapes(head, rest[-1], input.dtype), head)


def _keeps(head: Head, reduction: str) -> bool:
    """Whether the gradients come with the loss, to be scaled: see `autograd`."""
    exact = torch.float32, torch.float64
    return reduction != "none" and all(t is None or t.dtype in exact for t in head)


def _shapes(head: Head, wants: list[bool], input_dtype: torch.dtype | None = None) -> Gradients:
    input, weight, bias = head
    dtype = input_dtype or reference.compute_dtype(input.dtype)
    return Gradients(
        input.new_empty(input.shape, dtype=dtype) if wants[0] else None,
        weight.new_empty(weight.shape) if wants[1] else None,
        bias.new_empty(bias.shape) if bias is not None and wants[2] else None,
    )


def _filled(found: Gradients, head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients, each that is not wanted without an element: an operator returns tensors."""
    d_input, d_weight, d_bias = found
    if d_input is not None:
        d_input = d_input.view(head.input.shape)
    nothing = head.input.new_empty
    return (
        nothing(0) if d_input is None else d_input,
        nothing(0) if d_weight is None else d_weight,
        nothing(0) if d_bias is None else d_bias,
    )


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    *tensors, smoothing, reduction, chunk_labels, wants = inputs
    ctx.asked = smoothing, reduction, chunk_labels, wants
    ctx.keeps = _keeps(Head(*inputs[:3]), reduction)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(output[1:] if ctx.keeps else tensors))


def _backward(ctx: Any, upstream: Tensor | None, *none: None) -> tuple[Tensor | None, ...]:
    rest = (None,) * 10
    if upstream is None:
        return (None, None, None, *rest)
    wants = ctx.asked[-1]
    found = ctx.saved_tensors if ctx.keeps else _gradients(upstream, *ctx.saved_tensors, *ctx.asked)
    factor = upstream if ctx.keeps else None
    scaled = (g if factor is None else g * factor.to(g.dtype) for g in found)
    return (*(g if wanted else None for g, wanted in zip(scaled, wants, strict=True)), *rest)


_loss_and_gradients.register_autograd(_backward, setup_context=_keep_for_backward)
