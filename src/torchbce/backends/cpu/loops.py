"""The loops over a block of elements, and the kernel that visits every block once.

A kernel walks over n elements by chunks, which threads take from shared counters, and by blocks
within a chunk, small enough for every intermediate result to stay in the first-level cache. A block
is staged (read as float32, from whatever dtype and strides), computed by loops short enough to
become vector instructions, and written. Each chunk leaves its sums in its own place, so that the
result is the same, bit for bit, for any number of threads.
"""

import struct
from types import FunctionType
from typing import Any

import numpy as np
from numba import carray, njit

from torchbce.backends.cpu import formulas, intrinsics
from torchbce.backends.cpu.intrinsics import (
    larger_unsigned,
    next_of,
    out_of_line,
    pointer,
    read_float64,
    read_int64,
    to_bits,
    where,
    write_float64,
)

#: 1,024 float32 are 4 KiB: eight such buffers fill a first-level cache of 32 KiB.
BLOCK = 1024
CHUNK = 32 * BLOCK
BUFFERS = 12

#: Rows of the table of operands, of which a kernel without options reads the first three, and the
#: columns of a row before its sizes and strides.
INPUT, TARGET, UPSTREAM, WEIGHT, POS_WEIGHT, MASK = range(6)
KIND, ADDRESS, DTYPE, DIMENSIONS, SIZES = range(5)

#: How an operand's elements lie: not given, one after another, one for all, by sizes and strides,
#: or as the stored elements of a sparse target, whose positions ascend.
ABSENT, FLAT, SCALAR, STRIDED, SPARSE = range(5)

FLOAT32, BFLOAT16, FLOAT16, FLOAT64, BOOL, UINT8, INT8, INT16, INT32, INT64 = range(10)

#: What a kernel is called with: seven int64 and eight float64, and behind them the table.
N, THREADS, WORK, WIDTH, LOSSES_AT, GRADIENT_AT, FLAGS = range(7)
SMOOTHING, MARKER, SCALE, CONSTANTS = range(7, 11)
RECORD = struct.Struct("7q8d")
TABLE_AT = RECORD.size

#: What is asked of a kernel.
GRADIENT, SUMS, IGNORE, IGNORE_NAN = (1 << i for i in range(4))

#: What a chunk leaves: the sums of losses and of weights, the elements that count, what was wrong.
LOSS_SUM, WEIGHT_SUM, COUNT, WRONG, LEFT = range(5)

_ENDLESS = 2**62
_0, _HALF, _1 = np.float32(0), np.float32(0.5), np.float32(1)
_MAX = np.finfo(np.float32).max
_ONE_BITS = np.int32(np.float32(1).view(np.int32))

#: No wrappers for Python: they would take a third of the time to compile.
_INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

loop = njit(**_INNER)


def _named(name: str, function: Any, **options: Any) -> Any:
    """A loop made by another function, under a name of its own.

    Numba calls a compiled function by its name, and numbers those of one name as they come. In a
    kernel from the disk they came in another order: it would call another loop of that name.
    """
    function.__name__ = function.__qualname__ = name
    return njit(**_INNER, **options)(function)


@loop
def _buffer(scratch, which, size):
    return carray(pointer(scratch + 4 * BLOCK * which), (size,))


# ------------------------------------------------------------------------------------- staging


def _stager(dtype: str, in_place: bool = False) -> Any:
    """How a block of a dtype is staged: where it lies if it can be used so, else in `buffer`."""
    load = getattr(intrinsics, f"load_{dtype}")

    def stage(buffer, table, row, start):
        out_of_line()
        kind = read_int64(table, row + KIND)
        address = read_int64(table, row + ADDRESS)
        if in_place and kind == FLAT:
            return carray(pointer(address + 4 * start), buffer.shape)
        if kind in (ABSENT, SCALAR):
            buffer[:] = _1 if kind == ABSENT else load(address, 0)
        elif kind == SPARSE:
            # 0, but for the stored elements, whose ascending positions are searched by halves.
            buffer[:] = _0
            positions = read_int64(table, row + SIZES)
            low, end = 0, read_int64(table, row + DIMENSIONS)
            high = end
            while low < high:
                middle = (low + high) // 2
                if read_int64(positions, middle) < start:
                    low = middle + 1
                else:
                    high = middle
            while low < end and read_int64(positions, low) < start + buffer.size:
                buffer[read_int64(positions, low) - start] = load(address, low)
                low += 1
        else:
            # Runs along the last dimension; what is flat is a run without an end.
            size, stride = _ENDLESS, 1
            dimensions, last = 1, 0
            if kind == STRIDED:
                dimensions = read_int64(table, row + DIMENSIONS)
                last = row + SIZES + dimensions - 1
                size, stride = read_int64(table, last), read_int64(table, last + dimensions)
            done = 0
            while done < buffer.size:
                column, rest = (start + done) % size, (start + done) // size
                first = column * stride
                for d in range(1, dimensions):
                    first += (
                        rest
                        % read_int64(table, last - d)
                        * read_int64(table, last - d + dimensions)
                    )
                    rest //= read_int64(table, last - d)
                run = buffer[done : done + min(size - column, buffer.size - done)]
                if stride == 1:
                    for i in range(run.size):
                        run[i] = load(address, first + i)
                else:
                    for i in range(run.size):
                        run[i] = load(address, first + i * stride)
                done += run.size
        return buffer

    return _named(f"_stage_{dtype}", stage)


#: By the code of a dtype.
STAGERS = (
    _stager("float32", in_place=True),
    *map(
        _stager,
        (
            "bfloat16",
            "float16",
            "float64",
            "bool",
            "uint8",
            "int8",
            "int16",
            "int32",
            "int64",
        ),
    ),
)


def _writer(dtype: str) -> Any:
    store = getattr(intrinsics, f"store_{dtype}")

    def write(address, start, values):
        out_of_line()
        for i in range(values.size):
            store(address, start + i, values[i])

    return _named(f"_write_{dtype}", write)


_WRITERS = {BFLOAT16: _writer("bfloat16"), FLOAT16: _writer("float16")}


# ------------------------------------------------------------------------------------- options


@loop
def _largest_bits(values):
    """The largest bit pattern: above that of 1 if a value is outside [0, 1], -0 or NaN."""
    out_of_line()
    largest = np.int32(0)
    for i in range(values.size):
        largest = larger_unsigned(largest, to_bits(values[i]))
    return largest


@loop
def _seems_outside(bits):
    return bits < 0 or bits > _ONE_BITS


@loop
def _is_outside(values):
    """Whether a value is outside [0, 1] or NaN, -0 being 0."""
    out_of_line()
    outside = False
    for i in range(values.size):
        outside |= not (values[i] >= _0 and values[i] <= _1)
    return outside


@loop
def _outside_unit(values):
    return _seems_outside(_largest_bits(values)) and _is_outside(values)


@loop
def _above_zero(values):
    """Whether a value is above 0 or NaN."""
    out_of_line()
    wrong = np.int32(0)
    for i in range(values.size):
        wrong = larger_unsigned(wrong, where(values[i] <= _0, np.int32(0), np.int32(1)))
    return wrong != 0


@loop
def _anything(values):
    """Every logit will do."""
    return False


@loop
def _drop_ignored(valid, target, nan, marker):
    """Make `valid` 0 where the target is the marker."""
    out_of_line()
    if nan:
        for i in range(valid.size):
            valid[i] = where(target[i] == target[i], valid[i], _0)
    else:
        for i in range(valid.size):
            valid[i] = where(target[i] == marker, _0, valid[i])


@loop
def _choose(out, valid, values, otherwise):
    out_of_line()
    for i in range(out.size):
        out[i] = where(valid[i] != _0, values[i], otherwise)


@loop
def _share(a, b, target, pos_weight, smoothing):
    """a = p y and b = 1 - y, where p times 0 is 0."""
    out_of_line()
    kept, added = _1 - smoothing, smoothing * _HALF
    for i in range(a.size):
        y = target[i] * kept + added
        a[i] = where(y == _0, _0, pos_weight[i] * y)
        b[i] = _1 - y


@loop
def _weigh(values, weight):
    """w times the loss, which is 0 for a weight of 0, infinite losses included."""
    out_of_line()
    for i in range(values.size):
        silent = (weight[i] == _0) & (formulas.absolute(values[i]) > _MAX)
        values[i] = where(silent, _0, weight[i] * values[i])


@loop
def _complement(b, a):
    """b = 1 - a; and the largest bit pattern of a, see `_largest_bits`."""
    out_of_line()
    largest = np.int32(0)
    for i in range(b.size):
        b[i] = _1 - a[i]
        largest = larger_unsigned(largest, to_bits(a[i]))
    return largest


@loop
def _multiply(values, factors):
    out_of_line()
    for i in range(values.size):
        values[i] *= factors[i]


@njit(**_INNER, fastmath={"reassoc"})
def _sum(values):
    """In float64: a float32 sum of 1,024 equal losses is off by several units."""
    out_of_line()
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


# -------------------------------------------------------------------------------------- losses

# Two short loops instead of one long: the constants of each fit the registers, and the loss and
# the gradient took 1.5 ns an element in place of 1.9.


@loop
def _exponentials(z, e, e_rest):
    out_of_line()
    for i in range(z.size):
        e[i], e_rest[i] = formulas.exp_of_minus(formulas.absolute(z[i]))


@loop
def _logits_losses(out, z, a, b, e, e_rest):
    out_of_line()
    for i in range(z.size):
        out[i] = formulas.logits_loss(z[i], e[i], e_rest[i], a[i], b[i], a[i] + b[i])


@loop
def _logits_losses_unweighted(out, z, a, b, e, e_rest):
    out_of_line()
    for i in range(z.size):
        out[i] = formulas.logits_loss(z[i], e[i], e_rest[i], a[i], b[i], _1)


@loop
def _logits_slopes(out, z, a, b, e, e_rest, scale):
    out_of_line()
    for i in range(z.size):
        out[i] = formulas.logits_slope(z[i], e[i], e_rest[i], a[i], b[i]) * scale


def _logits(name: str, losses_of: Any) -> Any:
    def block(losses, slopes, z, a, b, scratch, gradient, scale, constants):
        out_of_line()
        e, e_rest = _buffer(scratch, 9, z.size), _buffer(scratch, 10, z.size)
        _exponentials(z, e, e_rest)
        losses_of(losses, z, a, b, e, e_rest)
        if gradient:
            _logits_slopes(slopes, z, a, b, e, e_rest, scale)

    return _named(name, block)


_weighted_logits = _logits("_weighted_logits", _logits_losses)
_unweighted_logits = _logits("_unweighted_logits", _logits_losses_unweighted)


@formulas.formula
def _weighed(a, positive):
    """a P, where 0 * inf is 0 and NaN stays."""
    return a * where((a == 0) & (positive > formulas.LARGEST), 0.0, positive)


def _member(name: str, parts: Any) -> Any:
    """The loop of a loss that is computed in float64: `parts(x, c)` gives P, N and their slopes."""
    parts.__name__ = parts.__qualname__ = f"_parts_of{name}"
    parts = formulas.formula(parts)

    def block(losses, slopes, x, a, b, scratch, gradient, scale, c):
        out_of_line()
        if gradient:
            for i in range(x.size):
                positive, negative, up, down = parts(np.float64(x[i]), c)
                weight, weight_not = c[0] * a[i], c[1] * b[i]
                losses[i] = _weighed(weight, positive) + _weighed(weight_not, negative)
                slopes[i] = (weight * up + weight_not * down) * scale
        else:
            for i in range(x.size):
                positive, negative, _, _ = parts(np.float64(x[i]), c)
                losses[i] = _weighed(c[0] * a[i], positive) + _weighed(c[1] * b[i], negative)

    return _named(name, block)


_focal = _member("_focal", lambda x, c: formulas.focal(x, c[2], c[3]))
_poly = _member("_poly", lambda x, c: formulas.poly(x, c[2], c[4]))
_asymmetric = _member("_asymmetric", lambda x, c: formulas.asymmetric(x, c[2], c[3], c[4]))
_probability = _member("_probability", lambda x, c: formulas.probability(x, c[2], c[3], c[4]))
_log_probability = _member("_log_probability", lambda x, c: formulas.log_probability(x))

#: What stands for the input of an ignored element: it has a finite loss.
_NEUTRAL = {"probability": np.float32(0.5), "log_probability": np.float32(-1)}

LOSSES = {
    "logits": _weighted_logits,
    "focal": _focal,
    "poly": _poly,
    "asymmetric": _asymmetric,
    "probability": _probability,
    "log_probability": _log_probability,
}
_CHECKS = {"probability": _outside_unit, "log_probability": _above_zero}

# The names that `specialised` binds, and what each is.
_weighted = False  # by weight, pos_weight, mask, ignored targets or label smoothing
_halves = False
_neutral = _0
_loss: Any = None
_outside_domain: Any = None
_stage_input: Any = None
_stage_target: Any = None
_stage_weight: Any = None
_stage_pos_weight: Any = None
_stage_mask = STAGERS[BOOL]
_write: Any = None


def _visit(record):
    """Visit chunks until none is left.

    At `record` stand the fields of `RECORD` and the table, at `work` a counter of the threads that
    came, one of chunks for each, and `LEFT` float64 a chunk. Each thread begins with a share of its
    own, far from the others': two that touch a fresh huge page at once both fill its 2 MiB with
    zeros. Then it helps the others.
    """
    n, threads = read_int64(record, N), read_int64(record, THREADS)
    work, width, table = read_int64(record, WORK), read_int64(record, WIDTH), record + TABLE_AT
    losses_at, gradient_at = read_int64(record, LOSSES_AT), read_int64(record, GRADIENT_AT)
    flags = read_int64(record, FLAGS)
    smooth = np.float32(read_float64(record, SMOOTHING))
    marked = np.float32(read_float64(record, MARKER))
    factor = np.float32(read_float64(record, SCALE))
    constants = (
        read_float64(record, CONSTANTS),
        read_float64(record, CONSTANTS + 1),
        read_float64(record, CONSTANTS + 2),
        read_float64(record, CONSTANTS + 3),
        read_float64(record, CONSTANTS + 4),
    )
    gradient, sums = flags & GRADIENT != 0, flags & SUMS != 0
    masked = _weighted and read_int64(table, MASK * width) != ABSENT
    ignoring = flags & IGNORE != 0
    upstream = read_int64(table, UPSTREAM * width) != ABSENT
    memory = np.empty(BUFFERS * BLOCK, np.float32)
    scratch = memory.ctypes.data
    own = next_of(work)
    chunks = (n + CHUNK - 1) // CHUNK
    helped = 0
    while helped < threads:
        share = (own + helped) % threads
        chunk = share * chunks // threads + next_of(work + 8 * (1 + share))
        if chunk >= (share + 1) * chunks // threads:
            helped += 1
            continue
        loss_sum, weight_sum, count, wrong = 0.0, 0.0, 0.0, 0.0
        for start in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK), BLOCK):
            m = min(BLOCK, n - start)
            x = _stage_input(_buffer(scratch, 0, m), table, INPUT * width, start)
            a = _stage_target(_buffer(scratch, 1, m), table, TARGET * width, start)
            b = _buffer(scratch, 2, m)
            if _weighted:
                y = a
                w = _stage_weight(_buffer(scratch, 3, m), table, WEIGHT * width, start)
                p = _stage_pos_weight(_buffer(scratch, 4, m), table, POS_WEIGHT * width, start)
                if masked or ignoring:
                    valid = _stage_mask(_buffer(scratch, 5, m), table, MASK * width, start)
                    if ignoring:
                        _drop_ignored(valid, y, flags & IGNORE_NAN != 0, marked)
                    # What is ignored is replaced first: a NaN there reaches nothing.
                    _choose(_buffer(scratch, 0, m), valid, x, _neutral)
                    _choose(_buffer(scratch, 1, m), valid, y, _HALF)
                    _choose(_buffer(scratch, 3, m), valid, w, _0)
                    _choose(_buffer(scratch, 4, m), valid, p, _1)
                    x, y = _buffer(scratch, 0, m), _buffer(scratch, 1, m)
                    w, p = _buffer(scratch, 3, m), _buffer(scratch, 4, m)
                    count += _sum(valid)
                if sums:
                    weight_sum += _sum(w)
                if _outside_unit(y):
                    wrong = 1.0
                a = _buffer(scratch, 6, m)
                _share(a, b, y, p, smooth)
            else:
                if _seems_outside(_complement(b, a)) and _is_outside(a):
                    wrong = 1.0
            if _outside_domain(x):
                wrong = 1.0
            losses, slopes = _buffer(scratch, 7, m), _buffer(scratch, 8, m)
            if not _halves:
                if losses_at:
                    losses = carray(pointer(losses_at + 4 * start), (m,))
                if gradient:
                    slopes = carray(pointer(gradient_at + 4 * start), (m,))
            _loss(losses, slopes, x, a, b, scratch, gradient, factor, constants)
            if _weighted:
                _weigh(losses, w)
                if gradient:
                    _multiply(slopes, w)
            if sums:
                loss_sum += _sum(losses)
            if gradient and upstream:
                u = _stage_input(_buffer(scratch, 11, m), table, UPSTREAM * width, start)
                _multiply(slopes, u)
                if masked or ignoring:
                    # 0 whatever comes from above
                    _choose(slopes, _buffer(scratch, 5, m), slopes, _0)
            if _halves:
                if losses_at:
                    _write(losses_at, start, losses)
                if gradient:
                    _write(gradient_at, start, slopes)
        place = 1 + threads + LEFT * chunk
        write_float64(work, place + LOSS_SUM, loss_sum)
        write_float64(work, place + WEIGHT_SUM, weight_sum)
        write_float64(work, place + COUNT, count)
        write_float64(work, place + WRONG, wrong)
    memory[0] = _0  # Numba frees an array after its last use, and `scratch` is none to it.


def specialised(
    loss: str, input: int, target: int, weights: tuple[int, ...] | None, name: str
) -> Any:
    """The kernel of a loss, for dtypes and with or without options, to be compiled.

    A function of its own globals and not a closure: Numba caches a compiled function under its
    name and bytecode, and a closure over compiled functions under a key that no other process has.

    Args:
        loss: a key of `LOSSES`.
        input: the code of its dtype, as of the next two.
        target: that of the targets.
        weights: those of weight and pos_weight; None where nothing weighs or ignores.
        name: of the function, another for each kernel and each version of the code.
    """
    weighted = weights is not None
    bound = {
        "_weighted": weighted,
        "_halves": input in _WRITERS,
        "_neutral": _NEUTRAL.get(loss, _0),
        "_loss": _unweighted_logits if loss == "logits" and not weighted else LOSSES[loss],
        "_outside_domain": _CHECKS.get(loss, _anything),
        "_stage_input": STAGERS[input],
        "_stage_target": STAGERS[target],
        "_stage_weight": STAGERS[weights[0]] if weights else None,
        "_stage_pos_weight": STAGERS[weights[1]] if weights else None,
        "_write": _WRITERS.get(input),
    }
    function = FunctionType(_visit.__code__, {**globals(), **bound}, name)
    function.__qualname__ = name
    return function
