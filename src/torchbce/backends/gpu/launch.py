"""From PyTorch tensors to a Triton kernel: one that visits elements, one that adds up its sums.

The first is one pass: it leaves losses, their gradient, or both, and the sums of each block in a
place of its own. The second adds those up in order, so that the same input gives the same bits. A
pass of a single block needs no second kernel. The host waits for nothing.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchbce.backends.gpu import formulas
from torchbce.backends.request import KernelInputs, LossSpec, as_in, order, strides_of_memory
from torchbce.definition import reference

_LOSSES = {
    "logits": formulas.LOGITS,
    "focal": formulas.FOCAL,
    "poly": formulas.POLY,
    "asymmetric": formulas.ASYMMETRIC,
    "probability": formulas.PROBABILITY,
    "log_probability": formulas.LOG_PROBABILITY,
}
#: What stands for the input of an ignored element: it has a finite loss.
_NEUTRAL = {"probability": 0.5, "log_probability": -1.0}

#: How an operand lies: not at all, as the elements are visited, one number, by strides, as a list.
_ABSENT, _FLAT, _SCALAR, _STRIDED, _LISTED = map(tl.constexpr, range(5))
#: Which targets are ignored: none, those equal to the marker, NaN.
_KEEP_ALL, _DROP_MARKED, _DROP_NAN = map(tl.constexpr, range(3))
#: What the sum is divided by: a number, one in memory, the elements that count, their weights.
BY_NUMBER, BY_TENSOR, BY_COUNT, BY_WEIGHTS = range(4)
_BY_NUMBER, _BY_TENSOR, _BY_COUNT, _BY_WEIGHTS = map(tl.constexpr, range(4))


class LinearInputs(NamedTuple):
    """What the logits of a linear layer need beside `KernelInputs`, of float or integer dtypes.

    Attributes:
        bias: added to the input, broadcasting to its shape.
        weight: a second weight of elements, broadcasting to input's shape.
        keys: of the targets that are not 0, [stored], int64, ascending, not all of them distinct;
            `KernelInputs.target` is not read then.
        values: those targets, [stored]; None for ones.
        ignored: keys of elements that are ignored, as `keys`.
        places: a row of what `places_of` finds for `keys`; None to look now.
        ignored_places: likewise for `ignored`.
        first: the key of the first element; others follow in order.
    """

    bias: Tensor | None = None
    weight: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    ignored: Tensor | None = None
    places: Tensor | None = None
    ignored_places: Tensor | None = None
    first: int = 0


class _Operands(NamedTuple):
    """What broadcasts to the input; its fields name the numbers of kinds and strides."""

    input: Any
    target: Any
    weight: Any
    pos_weight: Any
    mask: Any
    upstream: Any
    bias: Any
    more_weight: Any


class _Lists(NamedTuple):
    """Ascending keys, and where in them those of each tile begin."""

    keys: Any
    places: Any
    ignored: Any
    ignored_places: Any


class _Constants(NamedTuple):
    c0: float
    c1: float
    c2: float
    c3: float
    c4: float
    smoothing: float
    marker: float


# --------------------------------------------------------------------------------- the kernels


@triton.jit
def _number(value):
    """A number that was handed over, in float64: under the interpreter it is Python's own."""
    return tl.full((), value, tl.float64)


@triton.jit
def _strided(start, lane, sizes, strides, NEAR: tl.constexpr, LONG: tl.constexpr):
    """Where element `start + lane` lies: its coordinates, the innermost first, times the strides.

    Coordinates are of 64 bits where there are `LONG` ones, offsets always. The first division is
    one for the tile; what lanes carry over to the next dimension is at most 1 where that is no
    shorter than a tile (`NEAR` is false), and else below 2^12, for which a product in float32 is
    the quotient.
    """
    dimensions: tl.constexpr = len(sizes)
    carried = lane.to(tl.int64) if LONG else lane
    start = start.to(carried.dtype)
    at = tl.zeros(lane.shape, tl.int64)
    for d in tl.static_range(dimensions - 1, 0, -1):
        size = tl.full((), sizes[d], carried.dtype)
        rest = start // size
        moved = carried + (start - rest * size)
        start = rest
        if NEAR[d]:
            reciprocal = 1.0 / size.to(tl.float32)
            carried = ((moved.to(tl.float32) + 0.5) * reciprocal).to(carried.dtype)
            coordinate = moved - carried * size
        else:
            beyond = moved >= size
            coordinate = tl.where(beyond, moved - size, moved)
            carried = beyond.to(carried.dtype)
        if strides[d] is not None:
            at += coordinate.to(tl.int64) * strides[d]
    if strides[0] is not None:
        step = tl.full((), strides[0], tl.int64)
        at += start.to(tl.int64) * step
        if dimensions == 1 or NEAR[min(dimensions - 1, 1)]:
            at += carried.to(tl.int64) * step
        else:
            at += tl.where(carried != 0, step, 0)
    return at


@triton.jit
def _read(
    pointer,
    KIND: tl.constexpr,
    strides,
    walk,
    fill,
    NEAR: tl.constexpr,
    LONG: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The elements of an operand, `fill` beyond the last."""
    sizes, start, lane, inside = walk
    if KIND == _SCALAR:
        values = tl.load(pointer)
    else:
        places = pointer + start + lane
        # What is read once makes room in the cache for what is read again.
        keep: tl.constexpr = "" if KIND == _STRIDED else "evict_first"
        if KIND == _STRIDED:
            places = pointer + _strided(start, lane, sizes, strides, NEAR, LONG)
        if MASKED:
            values = tl.load(places, mask=inside, other=fill, eviction_policy=keep)
        else:
            values = tl.load(places, eviction_policy=keep)
    return values


@triton.jit
def _find(keys, places, tile, wanted):
    """Where in ascending keys the wanted ones stand, and which of them do: found by halving."""
    first, last = tl.load(places + tile), tl.load(places + tile + 1)
    left = (last - first).to(tl.int32)
    keys += first
    at = tl.zeros(wanted.shape, tl.int32)
    found = at != at
    if left > 0:
        end = left
        while left > 0:
            half = (left + 1) // 2
            below = tl.load(keys + at + half - 1) < wanted
            at = tl.where(below, at + half, at)
            left -= half
        there = at < end
        found = there & (tl.load(keys + at, mask=there, other=-1) == wanted)
    return first + at, found


@triton.jit
def _tile(
    operands,
    kinds: tl.constexpr,
    strides,
    sizes,
    lists,
    first,
    losses,
    gradient,
    constants,
    factor,
    tile,
    n,
    WIDE: tl.constexpr,
    LOSS: tl.constexpr,
    NEUTRAL: tl.constexpr,
    IGNORE: tl.constexpr,
    SMOOTH: tl.constexpr,
    EXACT: tl.constexpr,
    NEAR: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):
    """One tile: losses and gradient are written; returned are losses, weights and what counts."""
    start = tile * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = start + lane < n
    walk = (sizes, start, lane, inside)
    x = _read(operands.input, kinds[0], strides[0], walk, NEUTRAL, NEAR, LONG, MASKED).to(WIDE)
    if operands.bias is not None:
        x += _read(operands.bias, kinds[6], strides[6], walk, 0, NEAR, LONG, MASKED).to(WIDE)
    if kinds[1] == _LISTED:
        place, found = _find(lists.keys, lists.places, tile, first + start + lane)
        y = found.to(WIDE)
        if operands.target is not None:
            y = tl.load(operands.target + place, mask=found, other=0).to(WIDE)
    else:
        y = _read(operands.target, kinds[1], strides[1], walk, 0, NEAR, LONG, MASKED).to(WIDE)
    w, p = tl.full((BLOCK,), 1.0, WIDE), tl.full((BLOCK,), 1.0, WIDE)
    if operands.weight is not None:
        w *= _read(operands.weight, kinds[2], strides[2], walk, 0, NEAR, LONG, MASKED).to(WIDE)
    if operands.more_weight is not None:
        w *= _read(operands.more_weight, kinds[7], strides[7], walk, 0, NEAR, LONG, MASKED).to(WIDE)
    if operands.pos_weight is not None:
        p *= _read(operands.pos_weight, kinds[3], strides[3], walk, 0, NEAR, LONG, MASKED).to(WIDE)

    IGNORES: tl.constexpr = (
        operands.mask is not None or IGNORE != _KEEP_ALL or lists.ignored is not None
    )
    counts = inside
    if operands.mask is not None:
        kept = _read(operands.mask, kinds[4], strides[4], walk, 0, NEAR, LONG, MASKED)
        counts = counts & (kept != 0)
    if IGNORE == _DROP_MARKED:
        counts = counts & (y != constants.marker.to(WIDE))
    elif IGNORE == _DROP_NAN:
        counts = counts & (y == y)
    if lists.ignored is not None:
        _, dropped = _find(lists.ignored, lists.ignored_places, tile, first + start + lane)
        counts = counts & ~dropped
    if IGNORES:
        # What is ignored is replaced first: a NaN there reaches nothing.
        x, y = tl.where(counts, x, NEUTRAL), tl.where(counts, y, 0.5)
        w, p = tl.where(counts, w, 0.0), tl.where(counts, p, 1.0)

    if SMOOTH:
        s = constants.smoothing.to(WIDE)
        y = y * (1 - s) + s * 0.5
    a, b = y, 1 - y
    if operands.pos_weight is not None:
        a = tl.where(y == 0, 0.0, p * y)
    loss, slope = formulas.loss_and_slope(
        x,
        a,
        b,
        constants.c0,
        constants.c1,
        constants.c2,
        constants.c3,
        constants.c4,
        LOSS,
        gradient is not None,
        operands.pos_weight is not None,
        EXACT,
    )
    if operands.weight is not None or operands.more_weight is not None or IGNORES:
        # 0 for a weight of 0, infinite losses included.
        loss = tl.where((w == 0) & (tl.abs(loss) == float("inf")), 0.0, w * loss)
    if losses is not None:
        tl.store(
            losses + start + lane,
            loss.to(losses.dtype.element_ty),
            mask=inside if MASKED else None,
        )
    if gradient is not None:
        slope *= factor
        if operands.weight is not None or operands.more_weight is not None:
            slope *= w
        if operands.upstream is not None:
            above = _read(operands.upstream, kinds[5], strides[5], walk, 0, NEAR, LONG, MASKED)
            slope *= above.to(WIDE)
        if IGNORES:
            slope = tl.where(counts, slope, 0.0)  # whatever comes from above
        tl.store(
            gradient + start + lane,
            slope.to(gradient.dtype.element_ty),
            mask=inside if MASKED else None,
        )
    if MASKED:
        loss, w = tl.where(inside, loss, 0.0), tl.where(inside, w, 0.0)
    return loss, w, counts.to(WIDE)


@triton.jit
def _conclude(total, weights, count, value, divisor, divided_by, number, BY: tl.constexpr):
    """The value, a sum divided; and by what, where the sums alone know it."""
    if BY == _BY_NUMBER:
        by = _number(number)
    elif BY == _BY_TENSOR:
        by = tl.load(divided_by).to(tl.float64)
    else:
        by = count if BY == _BY_COUNT else weights
        by = tl.where(by == 0, 1.0, by)  # a mean over nothing is 0
        tl.store(divisor, by.to(divisor.dtype.element_ty))
    tl.store(value, (total / by).to(value.dtype.element_ty))


@triton.jit
def visit(
    operands,
    kinds: tl.constexpr,
    strides,
    sizes,
    lists,
    first: tl.int64,
    losses,
    gradient,
    sums,
    value,
    divisor,
    divided_by,
    n: tl.int64,
    c0: tl.float64,
    c1: tl.float64,
    c2: tl.float64,
    c3: tl.float64,
    c4: tl.float64,
    smoothing: tl.float64,
    marker: tl.float64,
    scale: tl.float64,
    number: tl.float64,
    LOSS: tl.constexpr,
    NEUTRAL: tl.constexpr,
    IGNORE: tl.constexpr,
    SMOOTH: tl.constexpr,
    EXACT: tl.constexpr,
    NEAR: tl.constexpr,
    LONG: tl.constexpr,
    EVEN: tl.constexpr,
    BY: tl.constexpr,
    UNLESS_ONE: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Visit `TILES` tiles of `BLOCK` elements a program.

    `EVEN`: n is a multiple of 16, and a mask stops no access of 16 bytes. Else there is a tile
    without one for all but the last.
    """
    if UNLESS_ONE:  # noqa: SIM102 - the one is a fact, the other a value
        # The gradient is there already, for an incoming one of 1.
        if tl.load(operands.upstream) == 1:
            return
    WIDE: tl.constexpr = tl.float64 if operands.input.dtype.element_ty == tl.float64 else tl.float32
    constants = _Constants(
        _number(c0),
        _number(c1),
        _number(c2),
        _number(c3),
        _number(c4),
        _number(smoothing),
        _number(marker),
    )
    factor = _number(scale)
    if divided_by is not None:
        factor = factor / tl.load(divided_by).to(tl.float64)
    factor = factor.to(WIDE)
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), WIDE)
    weights, count = total, total
    for i in range(TILES):
        tile = program * TILES + i
        # fmt: off
        if EVEN:
            loss, w, c = _tile(
                operands, kinds, strides, sizes, lists, first, losses, gradient, constants, factor,
                tile, n, WIDE, LOSS, NEUTRAL, IGNORE, SMOOTH, EXACT, NEAR, LONG, BLOCK, True,
            )
        elif (tile + 1) * BLOCK <= n:
            loss, w, c = _tile(
                operands, kinds, strides, sizes, lists, first, losses, gradient, constants, factor,
                tile, n, WIDE, LOSS, NEUTRAL, IGNORE, SMOOTH, EXACT, NEAR, LONG, BLOCK, False,
            )
        else:
            loss, w, c = _tile(
                operands, kinds, strides, sizes, lists, first, losses, gradient, constants, factor,
                tile, n, WIDE, LOSS, NEUTRAL, IGNORE, SMOOTH, EXACT, NEAR, LONG, BLOCK, True,
            )
        # fmt: on
        total += loss
        if BY == _BY_WEIGHTS:
            weights += w
        elif BY == _BY_COUNT:
            count += c
    if value is not None:
        found = tl.sum(total).to(tl.float64)
        by_weights, by_count = found, found
        if BY == _BY_WEIGHTS:
            by_weights = tl.sum(weights).to(tl.float64)
        elif BY == _BY_COUNT:
            by_count = tl.sum(count).to(tl.float64)
        _conclude(found, by_weights, by_count, value, divisor, divided_by, number, BY)
    elif sums is not None:
        programs = tl.num_programs(0)
        tl.store(sums + program, tl.sum(total))
        if BY == _BY_WEIGHTS:
            tl.store(sums + programs + program, tl.sum(weights))
        elif BY == _BY_COUNT:
            tl.store(sums + programs + program, tl.sum(count))


@triton.jit
def conclude(
    sums,
    value,
    divisor,
    divided_by,
    programs: tl.int64,
    number: tl.float64,
    BY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up, in order and in float64, what the programs of `visit` left."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    by = total
    for start in range(0, programs, BLOCK):
        inside = start + lane < programs
        total += tl.load(sums + start + lane, mask=inside, other=0.0).to(tl.float64)
        if BY >= _BY_COUNT:
            places = sums + programs + start + lane
            by += tl.load(places, mask=inside, other=0.0).to(tl.float64)
    found = tl.sum(by)
    _conclude(tl.sum(total), found, found, value, divisor, divided_by, number, BY)


@triton.jit
def times(values, factor, n: tl.int64, BLOCK: tl.constexpr):
    """Multiply in place; nothing is read or written if the factor is 1."""
    by = tl.load(factor)
    if by == 1:
        return
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    product = tl.load(values + at, mask=inside) * by
    tl.store(values + at, product.to(values.dtype.element_ty), mask=inside)


# ------------------------------------------------------------------------------ their launchers


def memory(elements: KernelInputs) -> Tensor:
    """For losses or a gradient: of input's shape and dtype, in the order of a kernel's visit."""
    x, strides = strides_of_memory(elements)
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)


def value_and_gradient(
    program: LossSpec,
    elements: KernelInputs,
    gradient: Tensor | None,
    by: int = BY_NUMBER,
    number: float = 1.0,
    divided_by: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses, divided, and the gradient of that.

    Args:
        program: the loss and its options.
        elements: what is read.
        gradient: where it goes, from `memory`; None for nowhere. It needs a `by` that is known
            beforehand.
        by: what divides the sum, `BY_NUMBER` and its neighbours.
        number: that number.
        divided_by: that tensor, of one element.

    Returns:
        The value, 0-dimensional, and what divided the sum where that was counted.
    """
    x = elements[0]
    wide = reference.compute_dtype(x.dtype)
    if not x.numel():
        return x.new_zeros((), dtype=wide), x.new_ones((), dtype=wide) if by >= BY_COUNT else None
    value = x.new_empty((), dtype=wide)
    divisor = x.new_empty((), dtype=wide) if by >= BY_COUNT else None
    programs = programs_of(x.numel(), _block(program, elements), _tiles(x.numel()))
    ends = {"value": value, "divisor": divisor, "divided_by": divided_by}
    shared = {"program": program, "elements": elements, "gradient": gradient, "by": by}
    if programs == 1:
        launch(**shared, **ends, number=number, scale=1 / number)
        return value, divisor
    sums = x.new_empty((2 if by >= BY_COUNT else 1, programs), dtype=wide)
    launch(**shared, divided_by=divided_by, sums=sums, scale=1 / number)
    add_up(sums, **ends, number=number, by=by)
    return value, divisor


def add_up(
    sums: Tensor,
    value: Tensor,
    divisor: Tensor | None = None,
    divided_by: Tensor | None = None,
    number: float = 1.0,
    by: int = BY_NUMBER,
) -> None:
    """The value of the sums that `launch` left, [1 or 2, programs]."""
    programs = sums.shape[-1]
    block = min(max(triton.next_power_of_2(programs), 128), _SUMS)
    _run(
        conclude,
        1,
        sums,
        (sums, value, divisor, divided_by, programs, number),
        {"BY": by, "BLOCK": block},
        max(block // 256, 1),
    )


def multiply(values: Tensor, factor: Tensor) -> None:
    """Multiply dense memory in place by a tensor of one element, on whose value nothing waits."""
    n = values.numel()
    if n:
        _run(times, -(-n // _TILE), values, (values, factor, n), {"BLOCK": _TILE}, _WARPS)


def launch(
    program: LossSpec,
    elements: KernelInputs,
    more: LinearInputs | None = None,
    *,
    losses: Tensor | None = None,
    gradient: Tensor | None = None,
    sums: Tensor | None = None,
    value: Tensor | None = None,
    divisor: Tensor | None = None,
    divided_by: Tensor | None = None,
    number: float = 1.0,
    by: int = BY_NUMBER,
    scale: float = 1.0,
    upstream: Tensor | None = None,
    unless_one: bool = False,
    exact: bool | None = None,
) -> None:
    """One pass over the elements.

    Args:
        program: the loss and its options.
        elements: what is read.
        more: what the logits of a linear layer need.
        losses: where they go, from `memory`.
        gradient: where it goes, from `memory`, or of another dtype.
        sums: where those of each program go, [2, programs] with a `by` that is counted, else
            [programs].
        value: where the sum goes, divided, if there is but one program.
        divisor: where that goes which was counted.
        divided_by: of one element, divides the gradient too.
        number: what divides the value, and not the gradient.
        by: what divides the value.
        scale: a number that multiplies the gradient.
        upstream: what multiplies it too, broadcasting to input's shape.
        unless_one: whether to do nothing if `upstream`, of one element, is 1.
        exact: false where 16 bits are enough; None for what the outputs hold.
    """
    x, y, weight, pos_weight, mask, positions = elements
    loss, constants, smoothing, ignore_index = program
    n = x.numel()
    if n == 0:
        return
    bias, more_weight, keys, listed, ignored, *places, first = more or _NO_MORE
    if positions is not None:
        keys, listed = positions, y
    dense = y if keys is None else None
    operands = _Operands(x, dense, weight, pos_weight, mask, upstream, bias, more_weight)
    kinds, strides, sizes = _layout(operands, elements)
    if keys is not None:
        kinds = (kinds[0], _LISTED.value, *kinds[2:])
        operands = operands._replace(target=listed)
    block, tiles = _block(program, elements, more is not None), _tiles(n)
    programs = programs_of(n, block, tiles)
    for i, listing in enumerate((keys, ignored)):
        if listing is not None and places[i] is None:
            places[i] = _places(listing, first, n, block, programs * tiles)
    drop, marker = _KEEP_ALL, 0.0
    if ignore_index is not None:
        drop = _DROP_NAN if math.isnan(ignore_index) else _DROP_MARKED
        marker = 0.0 if drop is _DROP_NAN else as_in(ignore_index, y.dtype)
    if exact is None:
        outputs = [t for t in (losses, gradient) if t is not None] or [x]
        exact = any(t.dtype.itemsize > 2 for t in outputs)
    _run(
        visit,
        programs,
        x,
        (
            operands,
            kinds,
            strides,
            sizes,
            _Lists(keys, places[0], ignored, places[1]),
            first,
            losses,
            gradient,
            sums,
            value,
            divisor,
            divided_by,
            n,
            *constants,
            float(smoothing),
            marker,
            float(scale),
            float(number),
        ),
        {
            "LOSS": _LOSSES[loss].value,
            "NEUTRAL": _NEUTRAL.get(loss, 0.0),
            "IGNORE": drop.value,
            "SMOOTH": smoothing != 0,
            "EXACT": exact,
            "NEAR": tuple(size < block for size in sizes),
            "LONG": n >= 2**31 - block * tiles,
            "EVEN": n % 16 == 0,
            "BY": by,
            "UNLESS_ONE": unless_one,
            "TILES": tiles,
            "BLOCK": block,
        },
        _WARPS,
    )


_NO_MORE = LinearInputs()
_NO_STRIDES: tuple[tuple[int | None, ...], ...] = ((),) * len(_Operands._fields)
_WARPS = 4
#: 16 elements a thread, several loads of 16 bytes at once; 8 where there are many operands. Of what
#: takes more registers 4, and of 16 bits 8.
_TILE, _TILE_OF_64 = 2048, 512
#: From here on a program visits several tiles, which leaves fewer sums to add up.
_MANY, _TILES = 2**22, 4
_SUMS = 8192  # at a time: 8 a thread of 32 warps


def _block(program: LossSpec, elements: KernelInputs, more: bool = False) -> int:
    """Elements per tile. With `LinearInputs` it does not depend on the options, see `parts_of`."""
    x, _, *options, _ = elements
    if program.loss == "logits" and x.dtype != torch.float64:
        given = sum(option is not None for option in options)
        return _TILE // (2 if more or given > 1 else 1)
    return _TILE_OF_64 if x.dtype.itemsize > 2 else 2 * _TILE_OF_64


def _tiles(n: int) -> int:
    return _TILES if n >= _MANY else 1


def parts_of(program: LossSpec, like: Tensor, counts: Sequence[int]) -> list[int]:
    """How many partial sums `launch` writes with `LinearInputs`, for each number of elements.

    Multiples of 4, so that each begins at 16 bytes; what is over is to be 0.
    """
    block = _block(program, KernelInputs(like, like), True)
    return [-(-programs_of(n, block, _tiles(n)) // 4) * 4 for n in counts]


def programs_of(n: int, block: int, tiles: int) -> int:
    """How many programs visit n elements."""
    return -(-n // (block * tiles))


def _run(
    kernel: Any,
    programs: int,
    where: Tensor,
    arguments: tuple[Any, ...],
    facts: dict[str, Any],
    warps: int,
) -> None:
    """Launch on the device of a tensor."""
    # Contraction to fused multiply-adds would break the remainders of `cuda_math`.
    options = {**facts, "num_warps": warps, "enable_fp_fusion": False}
    if not facts.get("EVEN", True) and torch.version.hip is None:
        # Else ptxas rather spills a few bytes of two ways of a tile than takes another register.
        options["maxnreg"] = 255
    device = where.device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **options)
    else:
        kernel[(programs,)](*arguments, **options)


def _places(keys: Tensor, first: int, n: int, block: int, tiles: int) -> Tensor:
    """Where in ascending keys those of each tile begin, and where those of the last end."""
    edges = torch.arange(tiles + 1, device=keys.device).mul_(block).clamp_(max=n).add_(first)
    return torch.searchsorted(keys, edges)


def places_of(
    program: LossSpec, like: Tensor, keys: Tensor | None, n: int, size: int
) -> Tensor | None:
    """As `_places`, [chunks, tiles + 1], for n elements in chunks of `size` (`LinearInputs`)."""
    if keys is None or not n:
        return None
    pieces = -(-n // size)
    block = _block(program, KernelInputs(like, like), True)
    tiles = programs_of(size, block, _tiles(size)) * _tiles(size)
    # An even number, so that each row begins at 16 bytes, as one compiled kernel expects.
    edges = torch.arange(tiles + 1 + (tiles + 1) % 2, device=keys.device)
    edges = edges.mul_(block).clamp_(max=size)
    starts = torch.arange(pieces, device=keys.device).mul_(size)
    return torch.searchsorted(keys, (edges + starts[:, None]).clamp_(max=n))


#: Kinds and strides of the operands, and the sizes that the strides belong to.
_Layout = tuple[tuple[int, ...], tuple[tuple[int | None, ...], ...], tuple[int, ...]]


def _layout(operands: _Operands, elements: KernelInputs) -> _Layout:
    """How the operands lie; what a training asks again and again is kept."""
    x = operands.input
    shape = x.shape
    if x.is_contiguous():
        quick: list[int] = []
        for tensor in operands:
            if tensor is None:
                quick.append(_ABSENT.value)
            elif tensor.shape == shape and tensor.is_contiguous():
                quick.append(_FLAT.value)
            elif tensor.numel() == 1:
                quick.append(_SCALAR.value)
            else:
                break
        else:
            return tuple(quick), _NO_STRIDES, ()
    dimensions = tuple(order(elements) or range(x.dim()))
    lie = tuple(None if t is None else (t.shape, t.stride()) for t in operands)
    return _layout_of(dimensions, shape, lie)


@functools.lru_cache(maxsize=256)
def _layout_of(
    dimensions: tuple[int, ...],
    shape: torch.Size,
    lie: tuple[tuple[torch.Size, tuple[int, ...]] | None, ...],
) -> _Layout:
    """Of shapes and strides, which broadcast to the first shape.

    A stride of 0 is None, and costs no instruction. Dimensions stand in the order of the visit;
    neighbours that one step walks through are merged.
    """
    walk = [shape[d] for d in dimensions]
    kinds: list[int] = []
    walked: list[list[int] | None] = []
    for i, place in enumerate(lie):
        kind, steps = _ABSENT, None
        if place is not None:
            missing = len(shape) - len(place[0])
            strides = [0 if size == 1 else step for size, step in zip(*place, strict=True)]
            steps = [([0] * missing + strides)[d] for d in dimensions]
            kind = _kind(walk, steps)
            if kind is _SCALAR and i == 0:
                kind = _STRIDED
        kinds.append(kind.value)
        walked.append(steps if kind is _STRIDED else None)
    strided = [steps for steps in walked if steps is not None]
    merged: list[tuple[int, list[int]]] = []
    for size, *steps in zip(walk, *strided, strict=True) if strided else ():
        if size == 1:
            continue
        if merged and merged[-1][1] == [size * step for step in steps]:
            size *= merged.pop()[0]
        merged.append((size, steps))
    columns = iter(zip(*(steps for _, steps in merged), strict=True))
    steps_of = (() if s is None else tuple(step or None for step in next(columns)) for s in walked)
    return tuple(kinds), tuple(steps_of), tuple(size for size, _ in merged)


def _kind(shape: Sequence[int], strides: Sequence[int]) -> tl.constexpr:
    expected, flat, scalar = 1, True, True
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1:
            flat = flat and stride == expected
            scalar = scalar and stride == 0
            expected *= size
    return _FLAT if flat else _SCALAR if scalar else _STRIDED
