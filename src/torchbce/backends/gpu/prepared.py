"""Repeated calls on a GPU, prepared once so that each does little but launch the kernels.

A training step repeats the call of the previous step with other tensors of the same kind. Checking
and describing the call again takes the host about as long as the launches.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.backends.gpu import launch, tiles
from torchbce.backends.gpu.autograd import BinaryCrossEntropyGPU, _captures
from torchbce.backends.gpu.calls import PreparedLaunch
from torchbce.backends.gpu.operands import Outputs
from torchbce.backends.request import Request
from torchbce.definition import reference


class PreparedLoss:
    """A reduced loss of plain tensors, whose only option is the reduction.

    Args:
        request: a call of this kind.
        denominator: the denominator of its reduction.
        given_target: the target before it was aligned to the input's shape.
        is_same_kind: tells whether an input and a target are like those of the call.
    """

    def __init__(
        self,
        request: Request,
        denominator: float,
        given_target: Tensor,
        is_same_kind: Callable[..., bool],
    ) -> None:
        spec, inputs = request.call.loss_spec, request.inputs
        input = inputs.input
        self.call, self.denominator = request.call, denominator
        self._is_same_kind = is_same_kind
        self._needs_gradient = input.requires_grad
        self._shape = None if given_target.shape == input.shape else input.shape
        self.dtype = reference.compute_dtype(input.dtype)
        programs = tiles.count_programs(input.numel(), tiles.block_size(spec, inputs))
        self._programs = programs
        detached = inputs._replace(input=input.detach())
        value, sums = input.new_empty((), dtype=self.dtype), self._new_sums(input)
        results = Outputs(value=value) if sums is None else Outputs(sums=sums)
        self._loss, self._loss_and_gradient = (
            PreparedLaunch(
                launch.describe_plain(
                    spec, detached, results._replace(gradient=gradient), denominator
                ),
                input.device,
            )
            for gradient in (None, detached.input)
        )
        #: Multiplies the gradient by an upstream gradient of the value's dtype, or, in half
        #: precision, computes it again.
        self.rounds_twice = input.dtype.itemsize > 2
        if self.rounds_twice:
            backward = launch.describe_scale(detached.input, value)
        else:
            outputs = Outputs(gradient=detached.input)
            backward = launch.describe_plain(spec, detached, outputs, denominator, value)
        self._backward = PreparedLaunch(backward, input.device)
        self._sum = None
        if sums is not None:
            described = launch.describe_sum(sums, value, denominator)
            self._sum = PreparedLaunch(described, input.device)

    def __call__(self, input: Tensor, target: Tensor) -> Tensor | None:
        """The loss; None if the tensors are of another kind."""
        if not self._is_same_kind(input, target):
            return None
        if self._shape is not None:
            target = target.view(self._shape)
        if self._needs_gradient:
            # In a tuple, the target is no argument of a node of the graph.
            value: Tensor = _apply(input, self, (target,))
            return value
        with _pytorch.profiled(BinaryCrossEntropyGPU.__name__):
            return self.compute(input, target, None)

    def compute(self, input: Tensor, target: Tensor, gradient: Tensor | None) -> Tensor:
        """The loss, and its gradient if there is memory for one."""
        value, sums = input.new_empty((), dtype=self.dtype), self._new_sums(input)
        result = value if sums is None else sums
        if gradient is None:
            self._loss((input, target, result))
        else:
            self._loss_and_gradient((input, target, gradient, result))
        if self._sum is not None:
            self._sum((sums, value))  # type: ignore[arg-type]
        return value

    def finish(self, saved: Sequence[Tensor], kept: Tensor, upstream: Tensor) -> None:
        """Turn the kept gradient into that for an upstream gradient, in place."""
        if self.rounds_twice:
            self._backward((kept, upstream))
        else:
            self._backward((*saved, upstream, kept))

    def _new_sums(self, input: Tensor) -> Tensor | None:
        """Memory for partial sums; None if there is a single program."""
        if self._programs == 1:
            return None
        return input.new_empty(self._programs, dtype=self.dtype)


class PreparedBinaryCrossEntropyGPU(BinaryCrossEntropyGPU):
    """`BinaryCrossEntropyGPU` for a call that is prepared."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, input: Tensor, prepared: PreparedLoss, targets: tuple[Tensor]
    ) -> Tensor:
        (target,) = targets
        gradient = None
        if _pytorch.saved_tensor_hooks(True) is None:
            gradient = torch.empty_like(input)
        ctx.call, ctx.denominator = prepared.call, prepared.denominator
        ctx.gradient, ctx.computed, ctx.ignores = gradient, None, False
        ctx.prepared = prepared
        ctx.captured = _captures(input)
        ctx.save_for_backward(input, target)
        return prepared.compute(input, target, gradient)


_apply = _pytorch.function_apply(PreparedBinaryCrossEntropyGPU)


def prepare(request: Request, given_target: Tensor) -> PreparedLoss | None:
    """The call prepared; None if it is not of this kind, or PyTorch offers no cheap check of it.

    Args:
        request: the call.
        given_target: its target before it was aligned to the input's shape.
    """
    inputs, denominator = request.inputs, request.denominator
    if (
        # As on the CPU: the check of the tensors ignores the grad mode.
        (inputs.input.requires_grad and not torch.is_grad_enabled())
        or given_target.requires_grad
        or request.call.reduction == "none"
        or not isinstance(denominator, float | int)
        or any(option is not None for option in inputs[2:])
        or inputs.input.numel() == 0
        or not (inputs.input.is_contiguous() and given_target.is_contiguous())
        or (is_same_kind := _pytorch.tensor_guard(inputs.input, given_target)) is None
    ):
        return None
    return PreparedLoss(request, denominator, given_target, is_same_kind)
