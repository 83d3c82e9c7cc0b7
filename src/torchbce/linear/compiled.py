"""Linear + cross-entropy inside a compiled graph: an operator that the compiler takes as it is."""

from typing import Any

import torch
from torch import Tensor

from torchbce.definition import reference
from torchbce.linear import autograd, call
from torchbce.linear.autograd import Call
from torchbce.linear.call import Settings
from torchbce.linear.chunks import NOTHING, Gradients, Head, Wants
from torchbce.linear.sharding import Shard
from torchbce.linear.targets import Operands

#: The fields of `Head`, the target, the fields of `Settings`, and which gradients are wanted.
_ARGUMENTS = (
    "Tensor input, Tensor weight, Tensor? bias, Tensor target, "
    "Tensor? pos_weight, Tensor? label_weight, Tensor? row_weight, Tensor? mask, Tensor? ignored, "
    "float label_smoothing, str reduction, int? chunk_labels, bool? check_targets, bool[] wants"
)
#: A tensor without an element stands for a gradient that is not wanted.
_THREE = "Tensor, Tensor, Tensor"


def linear_loss(head: Head, target: Tensor, options: Settings) -> Tensor:
    """The loss, as a node of the graph, of arguments that `call.check` let pass."""
    p = options.pos_weight
    if p is not None and not isinstance(p, Tensor):
        p = torch.full((), float(p), dtype=torch.float64, device=head.input.device)
    grad = torch.is_grad_enabled()
    wants = [grad and tensor is not None and tensor.requires_grad for tensor in head]
    value: Tensor = _loss_and_gradients(*head, target, p, *options[1:], wants)[0]
    return value


def _loss_and_gradients_now(*arguments: Any) -> tuple[Tensor, ...]:
    head, options, wants = _named(arguments)
    asked, operands = _prepared(arguments)
    loss, found = autograd.run(asked, head, operands, wants if _keeps(head, options) else NOTHING)
    return loss, *_filled(found, head)


def _loss_and_gradients_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    head, options, wants = _named(arguments)
    shape = head.input.shape[:-1] if options.reduction == "none" else ()
    dtype = reference.compute_dtype(head.input.dtype)
    found = _shapes(head, wants if _keeps(head, options) else NOTHING, dtype)
    return head.input.new_empty(shape, dtype=dtype), *_filled(found, head)


def _gradients_now(upstream: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    head, _, wants = _named(arguments)
    asked, operands = _prepared(arguments)
    return _filled(autograd.gradients(asked, head, operands, wants, upstream), head)


def _gradients_shapes(upstream: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    head, _, wants = _named(arguments)
    return _filled(_shapes(head, wants, head.input.dtype), head)


_define: Any = torch.library.custom_op
_loss_and_gradients = _define(
    "torchbce::linear_binary_cross_entropy",
    _loss_and_gradients_now,
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, {_THREE})",
)
_gradients = _define(
    "torchbce::linear_binary_cross_entropy_backward",
    _gradients_now,
    mutates_args=(),
    schema=f"(Tensor upstream, {_ARGUMENTS}) -> ({_THREE})",
)
_loss_and_gradients.register_fake(_loss_and_gradients_shapes)
_gradients.register_fake(_gradients_shapes)


def _named(arguments: tuple[Any, ...]) -> tuple[Head, Settings, Wants]:
    return Head(*arguments[:3]), Settings(*arguments[4:-1]), Wants(*arguments[-1])


def _prepared(arguments: tuple[Any, ...]) -> tuple[Call, Operands]:
    head, options, _ = _named(arguments)
    return call.prepare(head.input, arguments[3], options, Shard(head.weight.shape[0]))


def _keeps(head: Head, options: Settings) -> bool:
    """Whether the gradients come with the loss, to be scaled: see `autograd`."""
    kept = [torch.float32, torch.float64]
    if head.input.is_cuda:
        kept.append(torch.bfloat16)
    return options.reduction != "none" and all(t is None or t.dtype in kept for t in head)


def _shapes(head: Head, wants: Wants, input_dtype: torch.dtype) -> Gradients:
    input, weight, bias = head
    return Gradients(
        input.new_empty(input.shape, dtype=input_dtype) if wants.input else None,
        weight.new_empty(weight.shape) if wants.weight else None,
        bias.new_empty(bias.shape) if bias is not None and wants.bias else None,
    )


def _filled(found: Gradients, head: Head) -> tuple[Tensor, ...]:
    """The gradients, each that is not wanted without an element: an operator returns tensors."""
    if found.input is not None:
        found = found._replace(input=found.input.view(head.input.shape))
    return tuple(head.input.new_empty(0) if gradient is None else gradient for gradient in found)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    head, options, _ = _named(inputs)
    ctx.keeps = _keeps(head, options)
    ctx.others = inputs[9:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(output[1:] if ctx.keeps else inputs[:9]))


def _backward(ctx: Any, upstream: Tensor | None, *none: None) -> tuple[Tensor | None, ...]:
    found: list[Tensor | None] = [None] * 3
    if upstream is not None:
        if ctx.keeps:
            # Under a number that is no power of two bfloat16 is rounded again, the number is not.
            wide = upstream.dtype
            found = [(kept.to(wide) * upstream).to(kept.dtype) for kept in ctx.saved_tensors]
        else:
            found = list(_gradients(upstream, *ctx.saved_tensors, *ctx.others))
    wants = ctx.others[-1]
    return *(g if wanted else None for g, wanted in zip(found, wants, strict=True)), *(None,) * 11


_loss_and_gradients.register_autograd(_backward, setup_context=_keep_for_backward)
