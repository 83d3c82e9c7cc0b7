"""A loss inside a compiled graph: an operator that the compiler takes as it is.

The forward operator computes the loss, the backward one the gradient: between the two a graph keeps
what the loss was computed from, and no gradient.
"""

from typing import Any

import torch
from torch import Tensor

from torchbce.backends.gpu import autograd as gpu_autograd
from torchbce.backends.request import (
    Call,
    KernelInputs,
    LossSpec,
    kernel_denominator,
    strides_of_memory,
)
from torchbce.definition import reference
from torchbce.definition.arguments import Arguments, Valid, find_valid

#: The fields of `KernelInputs` but for the last, those of `LossSpec`, and the reduction.
_ARGUMENTS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, Tensor? mask, "
    "str loss, float[] constants, float smoothing, float? ignore_index, str reduction"
)


def loss(
    program: LossSpec,
    reduction: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The loss of tensors that are aligned, as a node of the graph."""
    name, constants, *others = program
    read = input, target, weight, pos_weight, mask
    value: Tensor = _value(*read, name, list(constants), *others, reduction)[0]
    return value


def _value_now(*arguments: Any) -> tuple[Tensor, Tensor]:
    call, divisor, elements = _asked(arguments)
    value, counted = gpu_autograd.run(call, divisor, elements, None)
    by = counted if counted is not None else divisor
    return value, by if isinstance(by, Tensor) else value.new_empty(0)


def _value_shape(*arguments: Any) -> tuple[Tensor, Tensor]:
    input, _, weight, _, mask, _, _, _, ignore_index, reduction = arguments
    wide = reference.compute_dtype(input.dtype)
    # Where nothing is counted the divisor is not looked at: a graph would hold for one size alone.
    counts = mask is not None or ignore_index is not None
    weighs = reduction == "weighted_mean" and weight is not None
    by = _divisor(arguments) if counts or weighs else 1.0
    if isinstance(by, Tensor):
        divisor = by
    else:
        divisor = input.new_empty((), dtype=wide) if by is None else input.new_empty(0, dtype=wide)
    if reduction == "none":
        return _memory(*arguments[:5]), divisor.new_empty(0, dtype=input.dtype)
    return input.new_empty((), dtype=wide), divisor


def _gradient_now(upstream: Tensor, divisor: Tensor, *arguments: Any) -> Tensor:
    call, by, elements = _asked(arguments, divisor if divisor.numel() else None)
    return gpu_autograd.gradient_of(call, by, elements, upstream)


def _gradient_shape(upstream: Tensor, divisor: Tensor, *arguments: Any) -> Tensor:
    return _memory(*arguments[:5])


def _memory(*read: Any) -> Tensor:
    input, strides = strides_of_memory(KernelInputs(*read))
    return input.new_empty_strided(input.shape, strides)


def _asked(
    arguments: tuple[Any, ...], divisor: Tensor | None = None
) -> tuple[Call, gpu_autograd.Divisor, KernelInputs]:
    name, constants, smoothing, ignore_index, reduction = arguments[5:]
    program = LossSpec(name, tuple(constants), smoothing, ignore_index)
    by = _divisor(arguments) if divisor is None else divisor
    return Call(program, reduction, _none), by, KernelInputs(*arguments[:5])


def _divisor(arguments: tuple[Any, ...]) -> gpu_autograd.Divisor:
    input, target, weight, pos_weight, mask, _, _, _, ignore_index, reduction = arguments
    tensors = Arguments(input, target, weight, pos_weight, mask)
    valid = find_valid(tensors, ignore_index) if reduction == "batch_mean" else Valid()
    return kernel_denominator(reduction, tensors, ignore_index, valid.elements)


def _none(*arguments: Tensor) -> Tensor:
    raise RuntimeError("a compiled loss has first derivatives alone")


_define: Any = torch.library.custom_op
_value = _define(
    "torchbce::binary_loss",
    _value_now,
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)",
)
_gradient = _define(
    "torchbce::binary_loss_backward",
    _gradient_now,
    mutates_args=(),
    schema=f"(Tensor upstream, Tensor divisor, {_ARGUMENTS}) -> Tensor",
)
_value.register_fake(_value_shape)
_gradient.register_fake(_gradient_shape)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.others = inputs[5:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], *inputs[:5])


def _backward(ctx: Any, upstream: Tensor | None, none: None) -> tuple[Tensor | None, ...]:
    gradient = None
    if upstream is not None:
        divisor, *read = ctx.saved_tensors
        gradient = _gradient(upstream, divisor, *read, *ctx.others)
    return gradient, *(None,) * 9


_value.register_autograd(_backward, setup_context=_keep_for_backward)
