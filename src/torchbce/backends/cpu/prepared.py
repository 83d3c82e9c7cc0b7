"""Repeated calls with few elements, prepared once so that each runs little but the kernel.

A training step repeats the call of the previous step with other tensors of the same kind. For few
elements, checking and describing the call again takes longer than the kernel, which takes 0.7
microseconds for the loss and the gradient of 32 elements.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.backends.cpu.autograd import BinaryCrossEntropy
from torchbce.backends.cpu.launch import (
    GRADIENT_AT,
    INPUT_AT,
    TARGET_AT,
    SmallRecord,
    fits_small_record,
    read_sums,
    small_record,
)
from torchbce.backends.request import Request

_FLOAT32 = torch.float32
_LARGE = 3e38  # below the largest float32, 3.4e38


class PreparedLoss:
    """A reduced loss of few plain, contiguous elements, whose only option is the reduction.

    Args:
        request: a call of this kind.
        denominator: the denominator of its reduction.
        given_target: the target before it was aligned to the input's shape.
        is_same_kind: tells whether an input and a target are like those of the call.
    """

    __slots__ = (
        "_is_same_kind",
        "_loss",
        "_loss_and_gradient",
        "_needs_gradient",
        "_shape",
        "call",
        "denominator",
    )

    def __init__(
        self,
        request: Request,
        denominator: float,
        given_target: Tensor,
        is_same_kind: Callable[..., bool],
    ) -> None:
        spec, inputs = request.call.loss_spec, request.inputs
        self.call, self.denominator = request.call, denominator
        self._is_same_kind = is_same_kind
        self._needs_gradient = inputs.input.requires_grad
        shape = inputs.input.shape
        self._shape = None if given_target.shape == shape else shape
        self._loss = small_record(spec, inputs, False, 1.0)
        self._loss_and_gradient = small_record(spec, inputs, True, 1 / denominator)

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
        if _pytorch.profiler_is_active():
            with _pytorch.profiled(SmallBinaryCrossEntropy.__name__):
                return self.compute(input, target, None)
        return self.compute(input, target, None)

    def compute(self, input: Tensor, target: Tensor, gradient: Tensor | None) -> Tensor:
        """The loss, and its gradient if there is memory for one."""
        prepared: SmallRecord
        if gradient is None:
            prepared = self._loss
            record = prepared.words[:]
        else:
            prepared = self._loss_and_gradient
            record = prepared.words[:]
            record[GRADIENT_AT] = gradient.data_ptr()
        record[INPUT_AT], record[TARGET_AT] = input.data_ptr(), target.data_ptr()
        prepared.kernel(record.buffer_info()[0])
        loss = wrong = 0.0
        for at in prepared.sums_at:
            of_chunk, _, _, outside = read_sums(record, at)
            loss, wrong = loss + of_chunk, wrong + outside
        if wrong and self.call.checked:
            self.call.definition(input, target, None, None, None)  # raises
        loss /= self.denominator
        if not -_LARGE < loss < _LARGE:
            loss = ctypes.c_float(loss).value  # infinite; PyTorch would raise
        return input.new_full((), loss, dtype=_FLOAT32)


class SmallBinaryCrossEntropy(BinaryCrossEntropy):
    """`BinaryCrossEntropy` for a call that is prepared."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, input: Tensor, prepared: PreparedLoss, targets: tuple[Tensor]
    ) -> Tensor:
        (target,) = targets
        gradient = None
        if _pytorch.saved_tensor_hooks(True) is None:
            gradient = torch.empty_like(input)
        ctx.call, ctx.denominator = prepared.call, prepared.denominator
        ctx.factor, ctx.gradient = 1.0, gradient
        ctx.save_for_backward(input, target)
        return prepared.compute(input, target, gradient)


_apply = _pytorch.function_apply(SmallBinaryCrossEntropy)


def prepare(request: Request, given_target: Tensor) -> PreparedLoss | None:
    """The call prepared; None if it is not of this kind, or PyTorch offers no cheap check of it.

    Args:
        request: the call.
        given_target: its target before it was aligned to the input's shape.
    """
    inputs, denominator = request.inputs, request.denominator
    if (
        # The check ignores the grad mode. A call prepared without gradients would lack them when
        # they are needed; one prepared with them may compute a gradient that is not needed.
        (inputs.input.requires_grad and not torch.is_grad_enabled())
        or given_target.requires_grad
        or request.call.reduction == "none"
        or not isinstance(denominator, float | int)
        or not fits_small_record(request.call.loss_spec, inputs)
        or (is_same_kind := _pytorch.tensor_guard(inputs.input, given_target)) is None
    ):
        return None
    return PreparedLoss(request, denominator, given_target, is_same_kind)
