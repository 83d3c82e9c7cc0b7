"""The kernels of a linear layer whose input is sparse: logits, exact loss and gradients in one pass.

The rows of a CSR matrix are computed in tiles, small enough for their indices and values to stay in
the second-level cache between the two times that they are read. Of each tile, `gather` sums the
products with the weights, the formulas give losses and their derivatives, and `scatter` adds the
products with these to the gradient of the weight.

Everything is computed and summed in float64. The rows are split into blocks whose number depends on
the problem only. Each block has a gradient of its own, and these are added in order, so that the
result is bitwise the same for any number of threads.
"""

from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from torchbce.backends.cpu import formulas
from torchbce.backends.cpu.intrinsics import (
    fma,
    load_float32,
    next_of,
    out_of_line,
    pointer_to_float64,
    read_float64,
    read_int64,
    write_float64,
)
from torchbce.backends.cpu.staging import loop, named

#: Rows of a tile, and stored elements from which on no row is added to it: 256 KiB of indices and
#: values in float32.
TILE, TILE_STORED = 512, 32768

#: What a kernel is called with: int64 fields, of which those that end in _AT are addresses (0 for
#: what is not given), then two float64.
(
    BLOCKS,
    COLUMNS,
    EDGES_AT,
    NEXT_AT,
    POINTERS_AT,
    INDICES_AT,
    VALUES_AT,
    WEIGHT_AT,
    BIAS_AT,
    OFFSETS_AT,
    TARGET_AT,
    ROW_WEIGHT_AT,
    LOGITS_AT,
    GRADIENTS_AT,
    SUMS_AT,
    FIELDS,
) = range(16)
#: What a block writes: the sum of its losses, and of their derivatives.
LOSS_SUM, SLOPE_SUM, SUMS_PER_BLOCK = range(3)

#: Columns that a thread adds up at a time.
COLUMNS_AT_A_TIME = 4096


@intrinsic
def _index_at(typing: Any, address: Any, place: Any) -> Any:
    """An int32 as an int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        return builder.sext(builder.load(builder.gep(pointer, [args[1]])), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@loop
def _value_float32(values, place):
    return np.float64(load_float32(values, place))


@loop
def _value_float64(values, place):
    return read_float64(values, place)


@loop
def _value_one(values, place):
    return 1.0


def _gather(dtype: str, value_at: Any) -> Any:
    """Write z = x . w of rows. Four sums, since one would wait for each addition."""

    def gather(z, pointers, indices, values, weight, first):
        out_of_line()
        for i in range(z.size):
            place, end = read_int64(pointers, first + i), read_int64(pointers, first + i + 1)
            s0 = s1 = s2 = s3 = 0.0
            while place + 3 < end:
                c0, c1 = _index_at(indices, place), _index_at(indices, place + 1)
                c2, c3 = _index_at(indices, place + 2), _index_at(indices, place + 3)
                s0 = fma(value_at(values, place), read_float64(weight, c0), s0)
                s1 = fma(value_at(values, place + 1), read_float64(weight, c1), s1)
                s2 = fma(value_at(values, place + 2), read_float64(weight, c2), s2)
                s3 = fma(value_at(values, place + 3), read_float64(weight, c3), s3)
                place += 4
            while place < end:
                column = _index_at(indices, place)
                s0 = fma(value_at(values, place), read_float64(weight, column), s0)
                place += 1
            z[i] = (s0 + s1) + (s2 + s3)

    return named(f"_gather_{dtype}", gather)


def _scatter(dtype: str, value_at: Any) -> Any:
    """Add x g of rows to the gradient of the weight."""

    def scatter(slopes, pointers, indices, values, gradient, first):
        out_of_line()
        for i in range(slopes.size):
            g = slopes[i]
            for place in range(
                read_int64(pointers, first + i), read_int64(pointers, first + i + 1)
            ):
                column = _index_at(indices, place)
                old = read_float64(gradient, column)
                write_float64(gradient, column, fma(value_at(values, place), g, old))

    return named(f"_scatter_{dtype}", scatter)


@loop
def _losses(losses, slopes, z, a, b):
    """a (-log sigma(z)) + b (-log sigma(-z)), and its derivative."""
    out_of_line()
    for i in range(z.size):
        positive, negative, up, down, _, _, _, _, _, _ = formulas.focal_terms(z[i])
        losses[i] = formulas.weighed(a[i], positive) + formulas.weighed(b[i], negative)
        slopes[i] = a[i] * up + b[i] * down


#: By the dtype of the values; "one" where every stored value is 1 and none is in memory.
VALUES = {"float32": _value_float32, "float64": _value_float64, "one": _value_one}
_PASSES = {dtype: (_gather(dtype, of), _scatter(dtype, of)) for dtype, of in VALUES.items()}

# `specialised` gives these names their values.
_gather_rows: Any = None
_scatter_rows: Any = None


def _rows_kernel(record):
    """Compute blocks of rows until none is left; every thread runs this."""
    pointers, indices = read_int64(record, POINTERS_AT), read_int64(record, INDICES_AT)
    values, weight = read_int64(record, VALUES_AT), read_int64(record, WEIGHT_AT)
    edges, bias = read_int64(record, EDGES_AT), read_float64(read_int64(record, BIAS_AT), 0)
    offsets, target = read_int64(record, OFFSETS_AT), read_int64(record, TARGET_AT)
    row_weight, logits = read_int64(record, ROW_WEIGHT_AT), read_int64(record, LOGITS_AT)
    columns, counter = read_int64(record, COLUMNS), read_int64(record, NEXT_AT)
    memory = np.empty(5 * TILE, np.float64)
    scratch = memory.ctypes.data
    while True:
        block = next_of(counter)
        if block >= read_int64(record, BLOCKS):
            break
        gradient = read_int64(record, GRADIENTS_AT) + 8 * columns * block
        loss_sum, slope_sum = 0.0, 0.0
        if target:
            for column in range(columns):
                write_float64(gradient, column, 0.0)
        first, end = read_int64(edges, block), read_int64(edges, block + 1)
        while first < end:
            stop = first + 1
            limit = read_int64(pointers, first) + TILE_STORED
            while stop < min(end, first + TILE) and read_int64(pointers, stop + 1) <= limit:
                stop += 1
            m = stop - first
            z = carray(pointer_to_float64(scratch), (m,))
            _gather_rows(z, pointers, indices, values, weight, first)
            for i in range(m):
                z[i] += bias
            if offsets:
                for i in range(m):
                    z[i] += read_float64(offsets, first + i)
            if logits:
                for i in range(m):
                    write_float64(logits, first + i, z[i])
            if target:
                a = carray(pointer_to_float64(scratch + 8 * TILE), (m,))
                b = carray(pointer_to_float64(scratch + 16 * TILE), (m,))
                losses = carray(pointer_to_float64(scratch + 24 * TILE), (m,))
                slopes = carray(pointer_to_float64(scratch + 32 * TILE), (m,))
                for i in range(m):
                    a[i] = read_float64(target, first + i)
                    b[i] = 1.0 - a[i]
                if row_weight:
                    for i in range(m):
                        a[i] *= read_float64(row_weight, first + i)
                        b[i] *= read_float64(row_weight, first + i)
                _losses(losses, slopes, z, a, b)
                of_losses, of_slopes = 0.0, 0.0
                for i in range(m):
                    of_losses += losses[i]
                    of_slopes += slopes[i]
                loss_sum += of_losses
                slope_sum += of_slopes
                _scatter_rows(slopes, pointers, indices, values, gradient, first)
            first = stop
        if target:
            sums = read_int64(record, SUMS_AT)
            write_float64(sums, SUMS_PER_BLOCK * block + LOSS_SUM, loss_sum)
            write_float64(sums, SUMS_PER_BLOCK * block + SLOPE_SUM, slope_sum)
    memory[0] = 0.0  # Numba frees an array after its last use, and does not see `scratch`.


def _sum_kernel(record):
    """Add the gradients of the other blocks to that of the first, columns at a time."""
    blocks, columns = read_int64(record, BLOCKS), read_int64(record, COLUMNS)
    gradients, counter = read_int64(record, GRADIENTS_AT), read_int64(record, NEXT_AT)
    while True:
        start = next_of(counter) * COLUMNS_AT_A_TIME
        if start >= columns:
            break
        size = min(COLUMNS_AT_A_TIME, columns - start)
        total = carray(pointer_to_float64(gradients + 8 * start), (size,))
        for block in range(1, blocks):
            part = carray(pointer_to_float64(gradients + 8 * (columns * block + start)), (size,))
            for i in range(size):
                total[i] += part[i]


def specialised(values: str, name: str) -> Any:
    """The kernel of rows for a dtype of the values, ready to be compiled, see `loops.specialised`."""
    gather, scatter = _PASSES[values]
    bound = {"_gather_rows": gather, "_scatter_rows": scatter}
    function = FunctionType(_rows_kernel.__code__, {**globals(), **bound}, name)
    function.__qualname__ = name
    return function


def sum_of_blocks(name: str) -> Any:
    """The kernel that adds the gradients of blocks, ready to be compiled."""
    function = FunctionType(_sum_kernel.__code__, globals(), name)
    function.__qualname__ = name
    return function
