"""What a kernel is asked for, whatever it runs on: which loss, of which tensors, in what order."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbce.definition import reference


class KernelInputs(NamedTuple):
    """What a kernel reads. Each tensor broadcasts to the input's shape.

    Attributes:
        input: [...] of a floating dtype.
        target: [...] of any real dtype; or the values that a sparse target stores, [stored].
        weight, pos_weight: of any real dtype.
        mask: bool, false where an element is ignored.
        positions: of the stored elements of a sparse target in the flattened input, [stored],
            int64, ascending; None for a dense target.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    mask: Tensor | None = None
    positions: Tensor | None = None


class LossSpec(NamedTuple):
    """Which loss, with what constants and options."""

    loss: str
    constants: tuple[float, float, float, float, float]
    smoothing: float = 0.0
    ignore_index: float | None = None


def program(
    parts: Callable[..., tuple[Tensor, Tensor]],
    own: tuple[float | None, ...],
    smoothing: float,
    ignore_index: float | None,
) -> LossSpec:
    """The program of a loss that `reference` defines, with its own constants.

    The first two constants of a kernel weigh positives and negatives. A loss that focuses on
    nothing is cross-entropy.
    """

    def focused(
        name: str, alpha: float | None, gamma_pos: float, gamma_neg: float, last: float = 0.0
    ) -> tuple[str, tuple[float, ...]]:
        if alpha is None and gamma_pos == gamma_neg == last == 0:
            return "logits", (1.0, 1.0)
        a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
        return name, (a, b, gamma_pos, gamma_neg, last)

    c: Any = own
    if parts is reference.focal_parts:
        loss, constants = focused("focal", c[0], c[1], c[1])
    elif parts is reference.poly_parts:
        loss, constants = focused("poly", c[2], c[1], c[1], c[0])
    elif parts is reference.asymmetric_parts:
        loss, constants = focused("asymmetric" if c[2] else "focal", None, *c)
    elif parts is reference.probability_parts:
        eps = c[0]
        logs = (0.0, 0.0, 0.0) if eps is None else (eps, -math.log(eps), -math.log1p(-eps))
        loss, constants = "probability", (1.0, 1.0, *logs)
    elif parts is reference.log_probability_parts:
        loss, constants = "log_probability", (1.0, 1.0)
    else:
        loss, constants = "logits", (1.0, 1.0)
    filled = tuple(float(value) for value in (*constants, 0.0, 0.0, 0.0)[:5])
    return LossSpec(loss, filled, smoothing, ignore_index)  # type: ignore[arg-type]


def strides_of_memory(elements: KernelInputs) -> tuple[Tensor, tuple[int, ...]]:
    """The input, and the strides of memory in the order in which a kernel walks over it."""
    x, walk = elements[0], order(elements)
    if walk is None:
        return x, (x.stride() if x.is_contiguous() else contiguous(x.shape))
    strides = dict(zip(walk, contiguous([x.shape[d] for d in walk]), strict=True))
    return x, tuple(strides[d] for d in range(x.dim()))


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides[: len(shape)]))


def order(elements: KernelInputs) -> list[int] | None:
    """The dimensions of the input from the outermost in memory to the innermost.

    None for the order in which they stand: that of a contiguous input, of one that repeats
    elements, and the one in which a sparse target counts its positions.
    """
    x, positions = elements[0], elements[5]
    if x.is_contiguous() or positions is not None:
        return None
    strides = x.stride()
    if any(stride == 0 and size > 1 for size, stride in zip(x.shape, strides, strict=True)):
        return None
    by_stride = sorted(range(x.dim()), key=lambda d: -strides[d])
    return None if by_stride == list(range(x.dim())) else by_stride


def as_in(number: float, dtype: torch.dtype) -> float:
    """A number as its dtype has it, of an integer dtype as float32 has it."""
    wide = dtype if dtype.is_floating_point else torch.float32
    return torch.tensor(number, dtype=wide, device="cpu").item()


class Call(NamedTuple):
    """What a loss is asked for, beside its tensors.

    Attributes:
        program: a `kernels.elements.LossSpec`.
        reduction: its name.
        definition: the loss of input, target, weight, pos_weight and mask in plain PyTorch.
        checked: whether a value outside its range is an error, which the definition raises.
    """

    program: Any
    reduction: str
    definition: Callable[..., Tensor]
    checked: bool = True


def by_definition(
    call: Call, elements: KernelInputs, sparse: Tensor | None, upstream: Tensor
) -> Tensor:
    """For gradients of gradients and batched ones: the definition, differentiated."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        value = call.definition(*definition_arguments(elements, sparse))
        (gradient,) = torch.autograd.grad(value, elements[0], upstream, create_graph=create)
    return gradient


def definition_arguments(
    elements: KernelInputs, sparse: Tensor | None
) -> tuple[Tensor | None, ...]:
    input, target, *options, _ = elements
    return (input, target if sparse is None else sparse, *options)
