"""A loss inside a compiled graph: a custom operator, which `torch.compile` does not trace.

The forward operator computes the loss, the backward operator its gradient. Between the two a graph
keeps the operator's inputs, and no gradient.
"""

from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from torchbce.backends.gpu import autograd as gpu_autograd
from torchbce.backends.request import (
    Call,
    KernelInputs,
    LossSpec,
    Request,
    kernel_denominator,
    strides_of_memory,
)
from torchbce.definition import reference
from torchbce.definition.arguments import Arguments, Valid, convert, find_valid
from torchbce.definition.reductions import Denominator


class _Arguments(NamedTuple):
    """The arguments of the operators: `KernelInputs` without positions, `LossSpec`, reduction."""

    input: Tensor
    target: Tensor
    weight: Tensor | None
    pos_weight: Tensor | None
    mask: Tensor | None
    loss: str
    constants: list[float]
    smoothing: float
    ignore_index: float | None
    reduction: str

    def inputs(self) -> KernelInputs:
        return KernelInputs(self.input, self.target, self.weight, self.pos_weight, self.mask)

    def request(self, denominator: Denominator | None) -> Request:
        c0, c1, c2, c3, c4, slope = self.constants
        constants = c0, c1, c2, c3, c4, slope
        loss_spec = LossSpec(self.loss, constants, self.smoothing, self.ignore_index)
        return Request(Call(loss_spec, self.reduction, _no_definition), self.inputs(), denominator)

    def denominator(self) -> Denominator | None:
        arguments = Arguments(*self[:5])
        batch_mean = self.reduction == "batch_mean"
        valid = Valid()
        if batch_mean:
            valid = find_valid(arguments, convert(arguments), self.ignore_index)
        return kernel_denominator(self.reduction, arguments, self.ignore_index, valid.elements)


_SCHEMA = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, Tensor? mask, "
    "str loss, float[] constants, float smoothing, float? ignore_index, str reduction"
)


def loss(
    loss_spec: LossSpec,
    reduction: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The loss of aligned tensors, as a node of the graph."""
    name, constants, smoothing, ignore_index = loss_spec
    tensors = input, target, weight, pos_weight, mask
    value: Tensor = _forward(*tensors, name, list(constants), smoothing, ignore_index, reduction)[0]
    return value


def _compute_value(*given: Any) -> tuple[Tensor, Tensor]:
    """The loss and its denominator; the latter is empty if it is a number."""
    arguments = _Arguments(*given)
    denominator = arguments.denominator()
    value, computed = gpu_autograd.compute_value(arguments.request(denominator), None)
    found = computed if denominator is None else denominator
    return value, found if isinstance(found, Tensor) else value.new_empty(0)


def _value_metadata(*given: Any) -> tuple[Tensor, Tensor]:
    """Tensors with the shapes and dtypes that `_compute_value` returns, for tracing."""
    arguments = _Arguments(*given)
    input = arguments.input
    dtype = reference.compute_dtype(input.dtype)
    # Where every element is valid the denominator is a number that depends on the size. Without
    # computing it here, a graph holds for every size.
    ignores = arguments.mask is not None or arguments.ignore_index is not None
    weighted = arguments.reduction == "weighted_mean" and arguments.weight is not None
    denominator = arguments.denominator() if ignores or weighted else 1.0
    if denominator is None:
        denominator = input.new_empty((), dtype=dtype)
    elif not isinstance(denominator, Tensor):
        denominator = input.new_empty(0, dtype=dtype)
    if arguments.reduction == "none":
        return _output_metadata(arguments), denominator.new_empty(0, dtype=input.dtype)
    return input.new_empty((), dtype=dtype), denominator


def _compute_gradient(upstream: Tensor, denominator: Tensor, *given: Any) -> Tensor:
    arguments = _Arguments(*given)
    found = denominator if denominator.numel() else arguments.denominator()
    return gpu_autograd.compute_gradient(arguments.request(found), upstream)


def _gradient_metadata(upstream: Tensor, denominator: Tensor, *given: Any) -> Tensor:
    return _output_metadata(_Arguments(*given))


def _output_metadata(arguments: _Arguments) -> Tensor:
    input, strides = strides_of_memory(arguments.inputs())
    return input.new_empty_strided(input.shape, strides)


def _no_definition(*arguments: Tensor) -> Tensor:
    raise RuntimeError(
        "a loss inside a compiled graph on a GPU has first derivatives only; compute second "
        "derivatives outside torch.compile"
    )


_forward = torch.library.custom_op(
    "torchbce::binary_loss",
    _compute_value,
    mutates_args=(),
    schema=f"({_SCHEMA}) -> (Tensor, Tensor)",
)
_backward = torch.library.custom_op(
    "torchbce::binary_loss_backward",
    _compute_gradient,
    mutates_args=(),
    schema=f"(Tensor upstream, Tensor denominator, {_SCHEMA}) -> Tensor",
)
_forward.register_fake(_value_metadata)
_backward.register_fake(_gradient_metadata)


class _Context(Protocol):
    """PyTorch's context, with what the forward operator saves for the backward operator."""

    saved_tensors: tuple[Tensor, ...]
    options: tuple[object, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...
    def set_materialize_grads(self, value: bool, /) -> None: ...


def _save_for_backward(
    ctx: _Context, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]
) -> None:
    ctx.options = inputs[5:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], *cast("tuple[Tensor | None, ...]", inputs[:5]))


def _differentiate(
    ctx: _Context, upstream: Tensor | None, _of_denominator: None
) -> tuple[Tensor | None, ...]:
    gradient: Tensor | None = None
    if upstream is not None:
        denominator, *tensors = ctx.saved_tensors
        gradient = _backward(upstream, denominator, *tensors, *ctx.options)
    return gradient, *(None,) * 9


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)
