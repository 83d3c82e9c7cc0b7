"""The description of a call to a kernel, on any device: its loss, tensors and denominator.

A call of a loss is described once, by a `Request`. Every later step reads it: the launch, the
backward pass, and the definition for second derivatives.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.definition.arguments import Arguments
from torchbce.definition.family import Loss
from torchbce.definition.reductions import Denominator, count_rows, denominator


class KernelInputs(NamedTuple):
    """The tensors that a kernel reads. Each tensor broadcasts to the input's shape.

    Attributes:
        input: [...] of a floating dtype.
        target: [...] of any real dtype; or the values that a sparse target stores, [stored].
        weight: of any real dtype.
        pos_weight: of any real dtype.
        mask: bool, false where an element is ignored.
        positions: where the stored entries of a sparse target are in the flattened input,
            [stored], int64, ascending; None for a dense target.
        c0: the first constant of the loss, of float64, if it is a tensor; see `family.Kernel`.
        c1: the second one.
        c2: the third one.
        c3: the fourth one.
        c4: the fifth one.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    mask: Tensor | None = None
    positions: Tensor | None = None
    c0: Tensor | None = None
    c1: Tensor | None = None
    c2: Tensor | None = None
    c3: Tensor | None = None
    c4: Tensor | None = None


class LossSpec(NamedTuple):
    """Which loss a kernel computes: its name and constants (`family.Kernel`) and its options.

    A constant that is a tensor is 0 here, and in `KernelInputs`.
    """

    loss: str
    constants: tuple[float, float, float, float, float, float]
    smoothing: float = 0.0
    ignore_index: float | None = None


class Call(NamedTuple):
    """Everything about a call except its tensors: the same at every step of a training.

    Attributes:
        loss_spec: the loss and its options.
        reduction: its name.
        definition: the loss of input, target, weight, pos_weight and mask in plain PyTorch.
        checked: whether a value outside its range is an error, which the definition raises.
    """

    loss_spec: LossSpec
    reduction: str
    definition: Callable[..., Tensor]
    checked: bool = True


class Request(NamedTuple):
    """One call of a loss by a kernel.

    Attributes:
        call: what is computed.
        inputs: the tensors, of which only the input may require grad.
        denominator: what the sum is divided by; None if the kernel computes it (the number of valid
            elements for "mean", the sum of their weights for "weighted_mean").
        sparse_target: the sparse target whose entries are in `inputs`; None for a dense one.
        outside: on a GPU, 0 of int32 that the kernel sets to 1 if an input or a target is outside
            [0, 1]; None not to look for one.
    """

    call: Call
    inputs: KernelInputs
    denominator: Denominator | None
    sparse_target: Tensor | None = None
    outside: Tensor | None = None

    def definition(self) -> Tensor:
        """The loss in plain PyTorch."""
        input, target, weight, pos_weight, mask, *_ = self.inputs
        target = target if self.sparse_target is None else self.sparse_target
        return self.call.definition(input, target, weight, pos_weight, mask)

    def gradient_by_definition(self, upstream: Tensor) -> Tensor:
        """The gradient that PyTorch derives from the definition.

        For second derivatives, and for several upstream gradients at once.
        """
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(
                self.definition(), self.inputs.input, upstream, create_graph=create
            )
        return gradient


def loss_spec(loss: Loss, smoothing: float = 0.0, ignore_index: float | None = None) -> LossSpec:
    """A loss that has a kernel, with its options."""
    assert loss.kernel is not None  # else `selection` chose the reference
    name, constants = loss.kernel
    if loss.tensors:
        numbers = (0.0 if isinstance(c, Tensor) else c for c in constants)
        constants = tuple(numbers)  # type: ignore[assignment]
    return LossSpec(name, constants, smoothing, ignore_index)  # type: ignore[arg-type]


def constant_tensors(loss: Loss) -> tuple[Tensor | None, ...]:
    """The constants that are tensors, for `KernelInputs`."""
    if not loss.tensors or loss.kernel is None:
        return ()
    return tuple(c if isinstance(c, Tensor) else None for c in loss.kernel.constants[:5])


def kernel_denominator(
    reduction: str, arguments: Arguments, ignore_index: float | None, valid: Tensor | None
) -> Denominator | None:
    """The denominator of a `Request`: None if the kernel computes it.

    Args:
        reduction: its name.
        arguments: the tensors.
        ignore_index: the target that is ignored.
        valid: which elements are valid; read for "batch_mean" only.
    """
    input, ignores = arguments.input, arguments.mask is not None or ignore_index is not None
    weighted = reduction == "weighted_mean" and arguments.weight is not None
    if reduction in ("mean", "weighted_mean") and (ignores or weighted):
        return None
    rows: float | Tensor = input.shape[0] if input.dim() else 1
    if reduction == "batch_mean" and ignores and input.dim():
        assert valid is not None  # something may be ignored
        rows = count_rows(valid)
    return denominator(reduction, input.numel(), rows)


# ------------------------------------------------------------------------------------- memory


def strides_of_memory(inputs: KernelInputs) -> tuple[Tensor, tuple[int, ...]]:
    """The input, and the strides of memory for a result, in the order in which a kernel writes."""
    x, dimensions = inputs.input, order(inputs)
    if dimensions is None:
        return x, (x.stride() if x.is_contiguous() else contiguous(x.shape))
    strides = dict(zip(dimensions, contiguous([x.shape[d] for d in dimensions]), strict=True))
    return x, tuple(strides[d] for d in range(x.dim()))


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides[: len(shape)]))


def order(inputs: KernelInputs) -> list[int] | None:
    """The dimensions of the input from the outermost in memory to the innermost.

    None for the dimensions as they are: those of a contiguous input, of one with a stride of 0, and
    of one with a sparse target, whose positions count in that order.
    """
    x, positions = inputs.input, inputs.positions
    if x.is_contiguous() or positions is not None:
        return None
    strides = x.stride()
    if any(stride == 0 and size > 1 for size, stride in zip(x.shape, strides, strict=True)):
        return None
    by_stride = sorted(range(x.dim()), key=lambda d: -strides[d])
    return None if by_stride == list(range(x.dim())) else by_stride


def as_in(number: float, dtype: torch.dtype) -> float:
    """A number rounded to a floating dtype; for an integer dtype, to float32."""
    wide = dtype if dtype.is_floating_point else torch.float32
    return torch.tensor(number, dtype=wide, device="cpu").item()
