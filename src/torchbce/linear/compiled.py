"""The linear loss inside a compiled graph, as an operator that `torch.compile` does not trace."""

from typing import Any

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.definition import reference
from torchbce.linear import autograd
from torchbce.linear.dense import dense_loss
from torchbce.linear.prepare import prepare
from torchbce.linear.records import (
    NO_GRADIENTS,
    Gradients,
    Head,
    LinearCall,
    LinearOperands,
    LinearOptions,
    NeedsGrad,
)
from torchbce.linear.sharding import LabelShard

#: The fields of `Head`, the target, and the fields of `LinearOptions` and `NeedsGrad`.
_ARGUMENTS = (
    "Tensor input, Tensor weight, Tensor? bias, Tensor target, "
    "Tensor? pos_weight, Tensor? label_weight, Tensor? row_weight, Tensor? mask, Tensor? ignored, "
    "float label_smoothing, str reduction, int? chunk_labels, bool? check_targets, "
    "bool[] needs_grad"
)
#: An operator returns tensors only: a gradient that is not needed is an empty tensor.
_GRADIENTS = "Tensor, Tensor, Tensor"


def operator_loss(head: Head, target: Tensor, options: LinearOptions) -> Tensor:
    """The loss as a node of the graph, of arguments that `arguments.check` has accepted."""
    p = options.pos_weight
    if p is not None and not isinstance(p, Tensor):
        p = torch.full((), float(p), dtype=torch.float64, device=head.input.device)
    grad = torch.is_grad_enabled()
    needs_grad = [grad and tensor is not None and tensor.requires_grad for tensor in head]
    value: Tensor = _forward_operator(*head, target, p, *options[1:], needs_grad)[0]
    return value


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    head, options, needs_grad = _unpacked(arguments)
    call, operands = _prepared(arguments)
    if not _in_forward(head, options):
        needs_grad = NO_GRADIENTS
    loss, gradients = autograd.loss_and_gradients(call, head, operands, needs_grad)
    return loss, *_without_none(gradients, head)


def _forward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    head, options, needs_grad = _unpacked(arguments)
    shape = head.input.shape[:-1] if options.reduction == "none" else ()
    dtype = reference.compute_dtype(head.input.dtype)
    if not _in_forward(head, options):
        needs_grad = NO_GRADIENTS
    gradients = _empty_gradients(head, needs_grad, dtype)
    return head.input.new_empty(shape, dtype=dtype), *_without_none(gradients, head)


def _forward_in_onnx(*arguments: Any) -> tuple[Tensor, ...]:
    """The dense form, without gradients: an ONNX graph has no backward pass that reads them."""
    head, options, _ = _unpacked(arguments)
    loss = dense_loss(*head, target=arguments[3], options=options)
    return loss, *_forward_shapes(*arguments)[1:]


def _backward(upstream: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    head, _, needs_grad = _unpacked(arguments)
    call, operands = _prepared(arguments)
    gradients = autograd.gradients_for(call, head, operands, needs_grad, upstream)
    return _without_none(gradients, head)


def _backward_shapes(upstream: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    head, _, needs_grad = _unpacked(arguments)
    return _without_none(_empty_gradients(head, needs_grad, head.input.dtype), head)


_define: Any = torch.library.custom_op
_forward_operator = _define(
    "torchbce::linear_binary_cross_entropy",
    _forward,
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, {_GRADIENTS})",
)
_backward_operator = _define(
    "torchbce::linear_binary_cross_entropy_backward",
    _backward,
    mutates_args=(),
    schema=f"(Tensor upstream, {_ARGUMENTS}) -> ({_GRADIENTS})",
)
_forward_operator.register_fake(_forward_shapes)
_backward_operator.register_fake(_backward_shapes)
_pytorch.decompose_for_onnx(
    torch.ops.torchbce.linear_binary_cross_entropy.default, _forward_in_onnx, _forward_shapes
)


def _unpacked(arguments: tuple[Any, ...]) -> tuple[Head, LinearOptions, NeedsGrad]:
    return Head(*arguments[:3]), LinearOptions(*arguments[4:-1]), NeedsGrad(*arguments[-1])


def _prepared(arguments: tuple[Any, ...]) -> tuple[LinearCall, LinearOperands]:
    head, options, _ = _unpacked(arguments)
    labels = head.weight.shape[0]
    return prepare(head.input, arguments[3], options, LabelShard(labels, 0, labels))


def _in_forward(head: Head, options: LinearOptions) -> bool:
    """Whether the forward operator computes the gradients and backward scales them."""
    scaled = [torch.float32, torch.float64]
    if head.input.is_cuda:
        scaled.append(torch.bfloat16)
    return options.reduction != "none" and all(t is None or t.dtype in scaled for t in head)


def _empty_gradients(head: Head, needs_grad: NeedsGrad, input_dtype: torch.dtype) -> Gradients:
    input, weight, bias = head
    return Gradients(
        input.new_empty(input.shape, dtype=input_dtype) if needs_grad.input else None,
        weight.new_empty(weight.shape) if needs_grad.weight else None,
        bias.new_empty(bias.shape) if bias is not None and needs_grad.bias else None,
    )


def _without_none(gradients: Gradients, head: Head) -> tuple[Tensor, ...]:
    """The gradients in the shapes of the tensors, and without elements where there is none."""
    if gradients.input is not None:
        gradients = gradients._replace(input=gradients.input.view(head.input.shape))
    return tuple(head.input.new_empty(0) if g is None else g for g in gradients)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    head, options, _ = _unpacked(inputs)
    ctx.in_forward = _in_forward(head, options)
    ctx.others = inputs[9:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(output[1:] if ctx.in_forward else inputs[:9]))


def _gradients_of_inputs(
    ctx: Any, upstream: Tensor | None, *none: None
) -> tuple[Tensor | None, ...]:
    gradients: list[Tensor | None] = [None] * 3
    if upstream is not None:
        if ctx.in_forward:
            # The product is rounded once, since the upstream gradient has the dtype of computation;
            # rounding it to bfloat16 first would add a second error.
            wide = upstream.dtype
            gradients = [(g.to(wide) * upstream).to(g.dtype) for g in ctx.saved_tensors]
        else:
            gradients = list(_backward_operator(upstream, *ctx.saved_tensors, *ctx.others))
    needs_grad = ctx.others[-1]
    of_head = (g if needed else None for g, needed in zip(gradients, needs_grad, strict=True))
    return *of_head, *(None,) * 11


_forward_operator.register_autograd(_gradients_of_inputs, setup_context=_setup_context)
