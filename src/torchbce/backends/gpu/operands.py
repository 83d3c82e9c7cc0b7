"""What a kernel is launched with: its tensors, their layout in memory, and its compile-time flags.

Every operand broadcasts to the shape of the input. The host sorts each one into a kind (absent,
contiguous, scalar, strided or sparse), so that a kernel computes offsets from strides only for the
operands that need them.
"""

import functools
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from torchbce.backends.request import KernelInputs, order

T = TypeVar("T")

#: Operand layout: absent, contiguous, scalar, strided, or sparse (sorted keys).
ABSENT, CONTIGUOUS, SCALAR, STRIDED, SPARSE = range(5)
#: Which targets are ignored: none, those equal to `ignore_index`, or those that are NaN.
IGNORE_NONE, IGNORE_EQUAL, IGNORE_NAN = range(3)
#: Where the denominator of the sum comes from: a number, a tensor of one element, or the kernel
#: itself, which counts the valid elements or adds up their weights.
BY_NUMBER, BY_TENSOR, BY_VALID_COUNT, BY_WEIGHT_SUM = range(4)


class LinearInputs(NamedTuple):
    """Further inputs for the logits of a linear layer, of float or integer dtypes.

    The elements of the input are numbered in order, beginning with `first_key`. These numbers are
    the keys by which sparse targets and ignored elements are given.

    Attributes:
        bias: added to the input, broadcasting to its shape.
        weight: a second weight per element, broadcasting to the shape of the input.
        keys: of the targets that are not 0, [nnz], int64, sorted; a key may occur several times.
            `KernelInputs.target` is not read then.
        values: the values of those targets, [nnz]; None if all of them are 1.
        ignored: the keys of ignored elements, sorted in the same way.
        tile_starts: where the keys of each tile start in `keys`, a row of
            `tiles.chunk_tile_starts`; None to search for them in this launch.
        ignored_tile_starts: the same for `ignored`.
        first_key: the key of the first element.
    """

    bias: Tensor | None = None
    weight: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    ignored: Tensor | None = None
    tile_starts: Tensor | None = None
    ignored_tile_starts: Tensor | None = None
    first_key: int = 0


class Operands(NamedTuple, Generic[T]):
    """One entry for each operand: its tensor, its kind, or its strides.

    `c0` to `c4` are the constants of the loss that are tensors.
    """

    input: T
    target: T
    weight: T
    pos_weight: T
    mask: T
    upstream: T
    bias: T
    second_weight: T
    c0: T
    c1: T
    c2: T
    c3: T
    c4: T


class SparseKeys(NamedTuple):
    """Sorted keys of sparse targets and of ignored elements, and where those of each tile start."""

    target: Tensor | None
    target_starts: Tensor | None
    ignored: Tensor | None
    ignored_starts: Tensor | None


class Outputs(NamedTuple):
    """Where a kernel writes its results; None for a result that is not needed.

    Attributes:
        losses: of each element, from `new_output`.
        gradient: of each element, from `new_output` or of another dtype.
        sums: the partial sums of each program, [programs] or, with a denominator that the kernel
            computes, [2, programs].
        value: the sum over the denominator, 0-dimensional; of a single program only.
        denominator: the one that the kernel computed, 0-dimensional.
        outside: 0, int32, 0-dimensional; set to 1 if an input or a target is outside [0, 1].
    """

    losses: Tensor | None = None
    gradient: Tensor | None = None
    sums: Tensor | None = None
    value: Tensor | None = None
    denominator: Tensor | None = None
    outside: Tensor | None = None


#: Strides of one operand, in elements; None for a stride of 0, which costs no instruction.
Strides = tuple[int | None, ...]


class Layout(NamedTuple):
    """The strides of strided operands, and the sizes of the dimensions that they belong to."""

    strides: Operands[Strides]
    sizes: tuple[int, ...]


class Flags(NamedTuple):
    """What is known when the loss kernel is compiled.

    Attributes:
        kinds: the kind of each operand.
        loss: one of the constants of `formulas`.
        by_p_t: whether it is in the form with p_t, see `reference.combine_focused`.
        attached: whether its focusing weights are differentiated.
        neutral: an input with a finite loss, which replaces the input of an ignored element.
        ignore: which targets are ignored.
        ignores: whether elements may be ignored, by their target, a mask or keys.
        smooth: whether targets are smoothed.
        exact: false where the accuracy of 16 bits is enough.
        two_parts: whether the constants of the loss are read in two parts of float32.
        short: for each of `Layout.sizes`, whether it is shorter than a tile.
        wide_index: whether coordinates need 64 bits.
        whole: whether the elements fill all tiles.
        even: whether the number of elements is a multiple of 16.
        denominator: where the denominator comes from.
        skip_if_one: whether to do nothing if the upstream gradient is 1.
        tiles: the number of tiles per program.
        block: the number of elements per tile.
    """

    kinds: Operands[int]
    loss: int
    by_p_t: bool
    attached: bool
    neutral: float
    ignore: int
    ignores: bool
    smooth: bool
    exact: bool
    two_parts: bool
    short: tuple[bool, ...]
    wide_index: bool
    whole: bool
    even: bool
    denominator: int
    skip_if_one: bool
    tiles: int
    block: int


_NO_STRIDES: Layout = Layout(Operands(*((),) * len(Operands._fields)), ())
#: The shape and strides of an operand.
_Shape = tuple[torch.Size, tuple[int, ...]]


def layout_of(
    operands: Operands[Tensor | None], inputs: KernelInputs
) -> tuple[Operands[int], Layout]:
    """The kinds of the operands, and their strides in the order in which the kernel visits them."""
    input = inputs.input
    shape = input.shape
    if input.is_contiguous():
        kinds: list[int] = []
        for tensor in operands:
            if tensor is None:
                kinds.append(ABSENT)
            elif tensor.shape == shape and tensor.is_contiguous():
                kinds.append(CONTIGUOUS)
            elif tensor.numel() == 1:
                kinds.append(SCALAR)
            else:
                break
        else:
            return Operands(*kinds), _NO_STRIDES
    dimensions = tuple(order(inputs) or range(input.dim()))
    shapes = tuple(None if t is None else (t.shape, t.stride()) for t in operands)
    return _strided_layout(dimensions, shape, shapes)


@functools.lru_cache(maxsize=256)  # a training loop asks for the same shapes in every step
def _strided_layout(
    dimensions: tuple[int, ...], shape: torch.Size, shapes: tuple[_Shape | None, ...]
) -> tuple[Operands[int], Layout]:
    """As `layout_of`, from shapes and strides; `dimensions` lists the outermost one first.

    Neighbouring dimensions are merged where every strided operand has one stride for both.
    """
    sizes = [shape[d] for d in dimensions]
    kinds: list[int] = []
    strides: list[list[int] | None] = []
    for i, each in enumerate(shapes):
        kind, steps = ABSENT, None
        if each is not None:
            expanded = [0] * (len(shape) - len(each[0]))
            expanded += [0 if size == 1 else step for size, step in zip(*each, strict=True)]
            steps = [expanded[d] for d in dimensions]
            kind = _kind(sizes, steps)
            if kind == SCALAR and i == 0:
                kind = STRIDED
        kinds.append(kind)
        strides.append(steps if kind == STRIDED else None)
    merged = _merge(sizes, [steps for steps in strides if steps is not None])
    columns = iter(zip(*(steps for _, steps in merged), strict=True))
    walked = (() if s is None else tuple(step or None for step in next(columns)) for s in strides)
    return Operands(*kinds), Layout(Operands(*walked), tuple(size for size, _ in merged))


def _merge(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Sizes and strides without dimensions of size 1, with neighbours merged where possible.

    Dimensions of sizes m and n can be merged if each stride of the outer one is n times that of the
    inner one.
    """
    merged: list[tuple[int, list[int]]] = []
    for size, *steps in zip(sizes, *strides, strict=True) if strides else ():
        if size == 1:
            continue
        if merged and merged[-1][1] == [size * step for step in steps]:
            size *= merged.pop()[0]
        merged.append((size, steps))
    return merged


def _kind(sizes: Sequence[int], strides: Sequence[int]) -> int:
    expected, contiguous, scalar = 1, True, True
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1:
            contiguous = contiguous and stride == expected
            scalar = scalar and stride == 0
            expected *= size
    return CONTIGUOUS if contiguous else SCALAR if scalar else STRIDED
