"""The Triton kernels: one computes losses and gradients, one adds up partial sums, one scales.

`loss_kernel` makes one pass over the elements. It writes losses, their gradient, or both, and each
program stores the sum of its own elements. `sum_kernel` adds these partial sums up in a fixed
order, so that the same input gives the same bits; a pass of a single program does without it.
`scale_kernel` multiplies a gradient by a number on the device.

Offsets are computed in 64 bits. Kernels are compiled without fused multiply-adds other than those
that `formulas` writes out.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from torchbce.backends.gpu import formulas, operands
from torchbce.backends.gpu.numbers import Number, Single

# Kernels read module variables only if they are of this type.
_SCALAR = tl.constexpr(operands.SCALAR)
_STRIDED = tl.constexpr(operands.STRIDED)
_SPARSE = tl.constexpr(operands.SPARSE)
_IGNORE_NONE = tl.constexpr(operands.IGNORE_NONE)
_IGNORE_EQUAL = tl.constexpr(operands.IGNORE_EQUAL)
_IGNORE_NAN = tl.constexpr(operands.IGNORE_NAN)
_BY_NUMBER = tl.constexpr(operands.BY_NUMBER)
_BY_TENSOR = tl.constexpr(operands.BY_TENSOR)
_BY_VALID_COUNT = tl.constexpr(operands.BY_VALID_COUNT)
_BY_WEIGHT_SUM = tl.constexpr(operands.BY_WEIGHT_SUM)


class _Constants(NamedTuple):
    """Numbers of the loss.

    Attributes:
        wide: the five constants in float64.
        numbers: the same, and the logit of the fifth, in two parts of float32.
        smoothing: of the targets.
        ignore_index: the target of ignored elements.
    """

    wide: tuple[float, ...]
    numbers: tuple[Number, ...]
    smoothing: float
    ignore_index: float


class _Tile(NamedTuple):
    """The elements of one tile.

    Attributes:
        number: of the tile.
        start: its first element.
        lane: 0 to the number of elements per tile.
        inside: which lanes are elements, and not beyond the last one.
        sizes: of the dimensions that strides belong to.
    """

    number: int
    start: int
    lane: int
    inside: bool
    sizes: tuple[int, ...]


@triton.jit
def _float64(value):
    """A float64 scalar; the interpreter passes a Python float."""
    return tl.full((), value, tl.float64)


@triton.jit
def _strided_offsets(tile, strides, FLAGS: tl.constexpr):
    """The offsets of the elements of a tile in an operand: coordinates times strides.

    Coordinates are computed from the innermost dimension outwards. There is one true division per
    tile and dimension, of the tile's first element. The lanes then carry over into the next
    dimension: by at most 1 where that dimension is not shorter than a tile, and else by less than
    2^12, where a product in float32 gives the exact quotient. Offsets always have 64 bits,
    coordinates where `FLAGS.wide_index`.
    """
    dimensions: tl.constexpr = len(tile.sizes)
    carried = tile.lane.to(tl.int64) if FLAGS.wide_index else tile.lane
    start = tile.start.to(carried.dtype)
    offsets = tl.zeros(tile.lane.shape, tl.int64)
    for d in tl.static_range(dimensions - 1, 0, -1):
        size = tl.full((), tile.sizes[d], carried.dtype)
        quotient = start // size
        moved = carried + (start - quotient * size)
        start = quotient
        if FLAGS.short[d]:
            reciprocal = 1.0 / size.to(tl.float32)
            carried = ((moved.to(tl.float32) + 0.5) * reciprocal).to(carried.dtype)
            coordinate = moved - carried * size
        else:
            beyond = moved >= size
            coordinate = tl.where(beyond, moved - size, moved)
            carried = beyond.to(carried.dtype)
        if strides[d] is not None:
            offsets += coordinate.to(tl.int64) * strides[d]
    if strides[0] is not None:
        step = tl.full((), strides[0], tl.int64)
        offsets += start.to(tl.int64) * step
        if dimensions == 1 or FLAGS.short[min(dimensions - 1, 1)]:
            offsets += carried.to(tl.int64) * step
        else:
            offsets += tl.where(carried != 0, step, 0)
    return offsets


@triton.jit
def _widened(values, COMPUTE: tl.constexpr):
    """Values of any dtype in that of the computation.

    A bfloat16 is the upper half of a float32. Converted as a float, its sign and its absolute value
    would be computed in pairs of bfloat16 and then unpacked, 7 instructions instead of 2.
    """
    if values.dtype == tl.bfloat16 and tl.float32 == COMPUTE:
        bits = values.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        wide = bits.to(tl.float32, bitcast=True)
    else:
        wide = values.to(COMPUTE)
    return wide


@triton.jit
def _load(
    pointer, KIND: tl.constexpr, strides, tile, fill, FLAGS: tl.constexpr, BOUNDED: tl.constexpr
):
    """The elements of an operand in a tile; `fill` for lanes beyond the last element."""
    if KIND == _SCALAR:
        values = tl.load(pointer)
    else:
        pointers = pointer + tile.start + tile.lane
        # Contiguous operands are read once: evict them first, so that operands that are read
        # again stay in the cache.
        policy: tl.constexpr = "" if KIND == _STRIDED else "evict_first"
        if KIND == _STRIDED:
            pointers = pointer + _strided_offsets(tile, strides, FLAGS)
        if BOUNDED:
            values = tl.load(pointers, mask=tile.inside, other=fill, eviction_policy=policy)
        else:
            values = tl.load(pointers, eviction_policy=policy)
    return values


@triton.jit
def _search(keys, starts, tile, wanted):
    """Binary search: the positions of the wanted keys in sorted keys, and which of them occur."""
    first, last = tl.load(starts + tile.number), tl.load(starts + tile.number + 1)
    left = (last - first).to(tl.int32)
    keys += first
    at = tl.zeros(wanted.shape, tl.int32)
    occurs = at != at
    if left > 0:
        end = left
        while left > 0:
            half = (left + 1) // 2
            below = tl.load(keys + at + half - 1) < wanted
            at = tl.where(below, at + half, at)
            left -= half
        inside = at < end
        occurs = inside & (tl.load(keys + at, mask=inside, other=-1) == wanted)
    return first + at, occurs


@triton.jit
def _load_tile(
    tensors,
    strides,
    keys,
    first_key,
    constants,
    tile,
    COMPUTE: tl.constexpr,
    FLAGS: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Input, target, weight, positive weight and valid mask of a tile.

    Ignored elements have an input with a finite loss and a weight of 0.
    """
    KINDS: tl.constexpr = FLAGS.kinds
    BLOCK: tl.constexpr = FLAGS.block
    # fmt: off
    x = _load(tensors.input, KINDS.input, strides.input, tile, FLAGS.neutral, FLAGS, BOUNDED)
    x = _widened(x, COMPUTE)
    if tensors.bias is not None:
        bias = _load(tensors.bias, KINDS.bias, strides.bias, tile, 0, FLAGS, BOUNDED)
        x += _widened(bias, COMPUTE)
    if KINDS.target == _SPARSE:
        wanted = first_key + tile.start + tile.lane
        at, occurs = _search(keys.target, keys.target_starts, tile, wanted)
        y = occurs.to(COMPUTE)
        if tensors.target is not None:
            y = tl.load(tensors.target + at, mask=occurs, other=0).to(COMPUTE)
    else:
        y = _load(tensors.target, KINDS.target, strides.target, tile, 0, FLAGS, BOUNDED)
        y = _widened(y, COMPUTE)
    w, p = tl.full((BLOCK,), 1.0, COMPUTE), tl.full((BLOCK,), 1.0, COMPUTE)
    if tensors.weight is not None:
        weight = _load(tensors.weight, KINDS.weight, strides.weight, tile, 0, FLAGS, BOUNDED)
        w *= _widened(weight, COMPUTE)
    if tensors.second_weight is not None:
        second = _load(
            tensors.second_weight, KINDS.second_weight, strides.second_weight, tile, 0, FLAGS,
            BOUNDED,
        )
        w *= _widened(second, COMPUTE)
    if tensors.pos_weight is not None:
        pos_weight = _load(
            tensors.pos_weight, KINDS.pos_weight, strides.pos_weight, tile, 0, FLAGS, BOUNDED
        )
        p *= _widened(pos_weight, COMPUTE)
    # fmt: on
    valid = tile.inside
    if tensors.mask is not None:
        mask = _load(tensors.mask, KINDS.mask, strides.mask, tile, 0, FLAGS, BOUNDED)
        valid = valid & (mask != 0)
    if FLAGS.ignore == _IGNORE_EQUAL:
        valid = valid & (y != constants.ignore_index.to(COMPUTE))
    elif FLAGS.ignore == _IGNORE_NAN:
        valid = valid & (y == y)
    if keys.ignored is not None:
        wanted = first_key + tile.start + tile.lane
        _, ignored = _search(keys.ignored, keys.ignored_starts, tile, wanted)
        valid = valid & ~ignored
    if FLAGS.ignores:
        # Before the formula, so that a NaN in an ignored element does not propagate.
        x, y = tl.where(valid, x, FLAGS.neutral), tl.where(valid, y, 0.5)
        w, p = tl.where(valid, w, 0.0), tl.where(valid, p, 1.0)
    return x, y, w, p, valid


@triton.jit
def _constant(
    pointer, KIND: tl.constexpr, strides, wide, number, tile, valid, COMPUTE: tl.constexpr,
    FLAGS: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """A constant of the loss: of a tensor, 1 in ignored elements; or a number.

    A number is given in float64 (`wide`) and in two parts of float32.
    """
    if pointer is not None:
        wide = _load(pointer, KIND, strides, tile, 1, FLAGS, BOUNDED).to(tl.float64)
        if FLAGS.ignores:
            wide = tl.where(valid, wide, 1.0)
        constant = _in_parts(wide, COMPUTE, FLAGS)
    elif tl.float64 == COMPUTE:
        constant = Single(wide)
    elif FLAGS.two_parts:
        constant = number
    else:
        constant = Single(number.hi)
    return constant


@triton.jit
def _in_parts(wide, COMPUTE: tl.constexpr, FLAGS: tl.constexpr):
    """A float64 tensor as the formulas read it."""
    if tl.float64 == COMPUTE:
        number = Single(wide)
    elif FLAGS.two_parts:
        hi = wide.to(tl.float32)
        number = Number(hi, (wide - hi.to(tl.float64)).to(tl.float32))
    else:
        number = Single(wide.to(tl.float32))
    return number


@triton.jit
def _logit(pointer, margin, number, COMPUTE: tl.constexpr, FLAGS: tl.constexpr):
    """The logit of a margin in (0, 1), always in two parts."""
    logit = number
    if FLAGS.loss == formulas.ASYMMETRIC and pointer is not None and tl.float32 == COMPUTE:
        some = margin.hi.to(tl.float64)
        if FLAGS.two_parts:
            some += margin.lo.to(tl.float64)
        some = tl.where(some > 0, some, 0.5)
        wide = tl.log(some) - tl.log(1 - some)
        hi = wide.to(tl.float32)
        logit = Number(hi, (wide - hi.to(tl.float64)).to(tl.float32))
    return logit


@triton.jit
def _compute_tile(
    tensors,
    layout,
    keys,
    first_key,
    outputs,
    constants,
    factor,
    number,
    n,
    COMPUTE: tl.constexpr,
    FLAGS: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Write the losses and the gradient of one tile; return losses, weights and the valid mask.

    `factor` multiplies the gradient. `COMPUTE` is the dtype of the computation. Where `BOUNDED`,
    the tile may extend beyond the last element.
    """
    BLOCK: tl.constexpr = FLAGS.block
    start = number * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = start + lane < n
    tile = _Tile(number, start, lane, inside, layout.sizes)
    x, y, w, p, valid = _load_tile(
        tensors, layout.strides, keys, first_key, constants, tile, COMPUTE, FLAGS, BOUNDED
    )
    if outputs.outside is not None:
        # Every lane that finds one stores the same number. NaN is outside too.
        outside = inside & ~((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1))
        tl.store(outputs.outside + lane * 0, 1, mask=outside)
    if FLAGS.smooth:
        s = constants.smoothing.to(COMPUTE)
        y = y * (1 - s) + s * 0.5
    a, b = y, 1 - y
    if tensors.pos_weight is not None:
        a = tl.where(y == 0, 0.0, p * y)
    kinds: tl.constexpr = FLAGS.kinds
    strides, wide, numbers = layout.strides, constants.wide, constants.numbers
    # fmt: off
    c0 = _constant(
        tensors.c0, kinds.c0, strides.c0, wide[0], numbers[0], tile, valid,
        COMPUTE, FLAGS, BOUNDED,
    )
    c1 = _constant(
        tensors.c1, kinds.c1, strides.c1, wide[1], numbers[1], tile, valid,
        COMPUTE, FLAGS, BOUNDED,
    )
    c2 = _constant(
        tensors.c2, kinds.c2, strides.c2, wide[2], numbers[2], tile, valid,
        COMPUTE, FLAGS, BOUNDED,
    )
    c3 = _constant(
        tensors.c3, kinds.c3, strides.c3, wide[3], numbers[3], tile, valid,
        COMPUTE, FLAGS, BOUNDED,
    )
    c4 = _constant(
        tensors.c4, kinds.c4, strides.c4, wide[4], numbers[4], tile, valid,
        COMPUTE, FLAGS, BOUNDED,
    )
    # fmt: on
    logit = _logit(tensors.c4, c4, numbers[5], COMPUTE, FLAGS)
    loss, slope = formulas.loss_and_slope(
        x,
        y,
        a,
        b,
        (c0, c1, c2, c3, c4, logit),
        FLAGS.loss,
        FLAGS.by_p_t,
        FLAGS.attached,
        outputs.gradient is not None,
        tensors.pos_weight is not None,
        FLAGS.exact,
    )
    if tensors.weight is not None or tensors.second_weight is not None or FLAGS.ignores:
        # A weight of 0 gives 0, even for an infinite loss.
        loss = tl.where((w == 0) & (tl.abs(loss) == float("inf")), 0.0, w * loss)
    if outputs.losses is not None:
        tl.store(
            outputs.losses + start + lane,
            loss.to(outputs.losses.dtype.element_ty),
            mask=inside if BOUNDED else None,
        )
    if outputs.gradient is not None:
        slope *= factor
        if tensors.weight is not None or tensors.second_weight is not None:
            slope *= w
        if tensors.upstream is not None:
            upstream = _load(
                tensors.upstream,
                FLAGS.kinds.upstream,
                layout.strides.upstream,
                tile,
                0,
                FLAGS,
                BOUNDED,
            )
            slope *= _widened(upstream, COMPUTE)
        if FLAGS.ignores:
            slope = tl.where(valid, slope, 0.0)  # even if the upstream gradient is infinite or NaN
        tl.store(
            outputs.gradient + start + lane,
            slope.to(outputs.gradient.dtype.element_ty),
            mask=inside if BOUNDED else None,
        )
    if BOUNDED:
        loss, w = tl.where(inside, loss, 0.0), tl.where(inside, w, 0.0)
    return loss, w, valid.to(COMPUTE)


@triton.jit
def _store_value(
    total, weight_sum, valid_count, outputs, denominator, number, DENOMINATOR: tl.constexpr
):
    """Divide the sum by the denominator; store the latter too where it was computed here."""
    if DENOMINATOR == _BY_NUMBER:
        by = _float64(number)
    elif DENOMINATOR == _BY_TENSOR:
        by = tl.load(denominator).to(tl.float64)
    else:
        by = valid_count if DENOMINATOR == _BY_VALID_COUNT else weight_sum
        by = tl.where(by == 0, 1.0, by)  # the mean over no elements is 0
        tl.store(outputs.denominator, by.to(outputs.denominator.dtype.element_ty))
    tl.store(outputs.value, (total / by).to(outputs.value.dtype.element_ty))


@triton.jit
def loss_kernel(
    tensors,
    layout,
    keys,
    first_key: tl.int64,
    outputs,
    denominator,
    n: tl.int64,
    c0: tl.float64,
    c1: tl.float64,
    c2: tl.float64,
    c3: tl.float64,
    c4: tl.float64,
    numbers,
    smoothing: tl.float64,
    ignore_index: tl.float64,
    scale: tl.float64,
    number: tl.float64,
    FLAGS: tl.constexpr,
):
    """Losses, gradients and partial sums of all n elements; of one program, also the value.

    Args:
        tensors: `Operands` of tensors, None for those that are absent.
        layout: the strides of the strided ones.
        keys: of a sparse target and of ignored elements.
        first_key: the key of the first element.
        outputs: where the results go.
        denominator: of one element; divides value and gradient. None for `number`.
        n: the number of elements.
        c0: the first constant of the loss, see `LossSpec`.
        c1: the second one.
        c2: the third one.
        c3: the fourth one.
        c4: the fifth one.
        numbers: the same five, and the logit of the fifth, in two parts of float32.
        smoothing: of the targets.
        ignore_index: the target of ignored elements.
        scale: multiplies the gradient.
        number: divides the value.
        FLAGS: what is known at compile time.

    Scalars of float64 are parameters of their own: Triton takes those in a tuple as float32. The
    constants are in both, since splitting one would take instructions of float64.
    """
    if FLAGS.skip_if_one:  # noqa: SIM102 - the first is known at compile time, the second is not
        # The gradient for an upstream gradient of 1 is already in place.
        if tl.load(tensors.upstream) == 1:
            return
    BLOCK: tl.constexpr = FLAGS.block
    DENOMINATOR: tl.constexpr = FLAGS.denominator
    COMPUTE: tl.constexpr = (
        tl.float64 if tensors.input.dtype.element_ty == tl.float64 else tl.float32
    )
    constants = _Constants(
        (_float64(c0), _float64(c1), _float64(c2), _float64(c3), _float64(c4)),
        numbers,
        _float64(smoothing),
        _float64(ignore_index),
    )
    factor = _float64(scale)
    if denominator is not None:
        factor = factor / tl.load(denominator).to(tl.float64)
    factor = factor.to(COMPUTE)
    program = tl.program_id(0).to(tl.int64)
    losses = tl.zeros((BLOCK,), COMPUTE)
    weights, valids = losses, losses
    count, first, step = FLAGS.tiles, program * FLAGS.tiles, 1
    if FLAGS.skip_if_one:
        # As many programs as run at the same time, so that few are launched to do nothing.
        step = tl.num_programs(0)
        count, first = tl.cdiv(tl.cdiv(n, BLOCK) - program, step), program
    for i in range(count):
        tile = first + i * step
        # fmt: off
        if FLAGS.whole:
            loss, w, valid = _compute_tile(
                tensors, layout, keys, first_key, outputs, constants, factor, tile, n,
                COMPUTE, FLAGS, False,
            )
        elif FLAGS.even:
            # No access of 16 bytes is partly beyond the last element: bounds cost no width.
            loss, w, valid = _compute_tile(
                tensors, layout, keys, first_key, outputs, constants, factor, tile, n,
                COMPUTE, FLAGS, True,
            )
        elif (tile + 1) * BLOCK <= n:
            loss, w, valid = _compute_tile(
                tensors, layout, keys, first_key, outputs, constants, factor, tile, n,
                COMPUTE, FLAGS, False,
            )
        else:
            loss, w, valid = _compute_tile(
                tensors, layout, keys, first_key, outputs, constants, factor, tile, n,
                COMPUTE, FLAGS, True,
            )
        # fmt: on
        if FLAGS.tiles == 1 and not FLAGS.skip_if_one:
            losses, weights, valids = loss, w, valid
        else:
            losses += loss
            if DENOMINATOR == _BY_WEIGHT_SUM:
                weights += w
            elif DENOMINATOR == _BY_VALID_COUNT:
                valids += valid
    if outputs.value is not None:
        total = tl.sum(losses).to(tl.float64)
        weight_sum, valid_count = total, total
        if DENOMINATOR == _BY_WEIGHT_SUM:
            weight_sum = tl.sum(weights).to(tl.float64)
        elif DENOMINATOR == _BY_VALID_COUNT:
            valid_count = tl.sum(valids).to(tl.float64)
        _store_value(total, weight_sum, valid_count, outputs, denominator, number, DENOMINATOR)
    elif outputs.sums is not None:
        programs = tl.num_programs(0)
        tl.store(outputs.sums + program, tl.sum(losses))
        if DENOMINATOR == _BY_WEIGHT_SUM:
            tl.store(outputs.sums + programs + program, tl.sum(weights))
        elif DENOMINATOR == _BY_VALID_COUNT:
            tl.store(outputs.sums + programs + program, tl.sum(valids))


@triton.jit
def sum_kernel(
    outputs,
    denominator,
    programs: tl.int64,
    number: tl.float64,
    DENOMINATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up the partial sums of `loss_kernel`, in order and in float64, and store the value."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    by = total
    for start in range(0, programs, BLOCK):
        inside = start + lane < programs
        total += tl.load(outputs.sums + start + lane, mask=inside, other=0.0).to(tl.float64)
        if DENOMINATOR >= _BY_VALID_COUNT:
            second_row = outputs.sums + programs + start + lane
            by += tl.load(second_row, mask=inside, other=0.0).to(tl.float64)
    by_sum = tl.sum(by)
    _store_value(tl.sum(total), by_sum, by_sum, outputs, denominator, number, DENOMINATOR)


@triton.jit
def scale_kernel(
    values,
    factor,
    divisor,
    n: tl.int64,
    number: tl.float64,
    IGNORES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Multiply n values in place by `factor / divisor`; by 1, nothing is read or written.

    Args:
        values: the memory.
        factor: of one element, on the device.
        divisor: of one element; None for `number`.
        n: the number of values.
        number: divides too.
        IGNORES: whether a value of 0 stays 0 even if the factor is infinite or NaN.
        BLOCK: the number of values per tile.
    """
    dtype: tl.constexpr = values.dtype.element_ty
    by = tl.load(factor).to(tl.float64) / _float64(number)
    if divisor is not None:
        by = by / tl.load(divisor).to(tl.float64)
    if by == 1:
        return
    by = by.to(tl.float64 if dtype == tl.float64 else tl.float32)
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    for tile in range(program, tl.cdiv(n, BLOCK), programs):
        at = tile * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        value = tl.load(values + at, mask=inside)
        product = value * by
        if IGNORES:
            product = tl.where(value == 0, value, product)
        tl.store(values + at, product.to(dtype), mask=inside)
