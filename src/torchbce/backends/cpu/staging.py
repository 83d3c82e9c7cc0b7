"""How a kernel is called, and how it reads a block of an operand: as float32, whatever its dtype.

The record is what Python fills in and a kernel reads: addresses, flags, numbers and a table that
gives the layout of each operand in memory. Behind it is the memory that the threads share.
"""

import struct
from typing import Any

import numpy as np
from numba import carray, njit

from torchbce.backends.cpu import intrinsics
from torchbce.backends.cpu.intrinsics import (
    out_of_line,
    pointer,
    pointer_to_float64,
    read_float64,
    read_int64,
)

#: 1,024 float32 are 4 KiB: eight such buffers fill a first-level cache of 32 KiB.
BLOCK = 1024
CHUNK = 32 * BLOCK
BUFFERS = 12
#: The constants of a loss per element, in float64, behind them.
CONSTANT_BUFFERS = 5

#: Rows of the table of operands, of which a kernel without options reads the first three, and one
#: without constants per element all but those from `FIRST_CONSTANT` on; and the columns of a row
#: before its sizes and strides.
INPUT, TARGET, UPSTREAM, WEIGHT, POS_WEIGHT, MASK, FIRST_CONSTANT = range(7)
KIND, ADDRESS, DTYPE, DIMENSIONS, SIZES = range(5)

#: Operand layout: absent, contiguous, scalar, strided, or sparse (ascending positions).
ABSENT, CONTIGUOUS, SCALAR, STRIDED, SPARSE = range(5)

FLOAT32, BFLOAT16, FLOAT16, FLOAT64, BOOL, UINT8, INT8, INT16, INT32, INT64 = range(10)

#: What a kernel is called with: seven int64 and nine float64, then the table of operands, then the
#: memory in which threads take chunks and write sums, `WORK` bytes from the start.
N, THREADS, WORK, WIDTH, LOSSES_AT, GRADIENT_AT, FLAGS = range(7)
SMOOTHING, MARKER, SCALE, CONSTANTS = range(7, 11)
RECORD = struct.Struct("7q9d")
TABLE_AT = RECORD.size

#: Flags: whether to compute the gradient and the sums, and whether a target is ignored.
GRADIENT, SUMS, IGNORE, IGNORE_NAN = (1 << i for i in range(4))

#: What a chunk writes: the sums of losses and of weights, the number of valid elements, and 1 if a
#: value was outside its range; and how many numbers these are.
LOSS_SUM, WEIGHT_SUM, COUNT, WRONG, SUMS_PER_CHUNK = range(5)

_ENDLESS = 2**62
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)

#: Without wrappers for Python, which would take a third of the time to compile.
INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

loop = njit(**INNER)


def named(name: str, function: Any, **options: Any) -> Any:
    """Compile a loop that another function has made, under a name of its own.

    Numba calls a compiled function by its name, and numbers functions of the same name in the order
    in which it meets them. A kernel read from disk may have met them in another order, and would
    call the wrong loop.
    """
    function.__name__ = function.__qualname__ = name
    return njit(**INNER, **options)(function)


@loop
def buffer_at(scratch, which, size):
    return carray(pointer(scratch + 4 * BLOCK * which), (size,))


@loop
def constant_buffer_at(scratch, which, size):
    return carray(pointer_to_float64(scratch + 4 * BLOCK * BUFFERS + 8 * BLOCK * which), (size,))


# ------------------------------------------------------------------------------------- staging


def _stager(dtype: str, load: Any = None, in_place: bool = False) -> Any:
    """A loop that reads a block of a dtype as float32: in place if possible, else into `buffer`."""
    load = load or getattr(intrinsics, f"load_{dtype}")

    def stage(buffer, table, row, start):
        out_of_line()
        kind = read_int64(table, row + KIND)
        address = read_int64(table, row + ADDRESS)
        if in_place and kind == CONTIGUOUS:
            return carray(pointer(address + 4 * start), buffer.shape)
        if kind in (ABSENT, SCALAR):
            buffer[:] = ONE if kind == ABSENT else load(address, 0)
        elif kind == SPARSE:
            # 0, except for the stored entries. Bisection finds the first of the block.
            buffer[:] = ZERO
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
            # Runs along the last dimension; a contiguous operand is one run without an end.
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

    return named(f"_stage_{dtype}", stage)


#: By the code of the dtype.
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

_stage_constant = _stager("constant", read_float64)


@loop
def constant_at(scratch, which, size, table, width, start, number):
    """A block of a constant per element: of a tensor of float64, or of a number."""
    buffer = constant_buffer_at(scratch, which, size)
    row = (FIRST_CONSTANT + which) * width
    if read_int64(table, row + KIND) == ABSENT:
        buffer[:] = number
        return buffer
    return _stage_constant(buffer, table, row, start)


def _writer(dtype: str) -> Any:
    store = getattr(intrinsics, f"store_{dtype}")

    def write(address, start, values):
        out_of_line()
        for i in range(values.size):
            store(address, start + i, values[i])

    return named(f"_write_{dtype}", write)


WRITERS = {BFLOAT16: _writer("bfloat16"), FLOAT16: _writer("float16")}
