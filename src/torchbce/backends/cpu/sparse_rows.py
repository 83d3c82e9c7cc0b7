"""The kernels of a linear layer with a sparse input: logits, exact loss, gradients, in one pass.

The rows of a CSR matrix are computed in tiles, small enough for their indices and values to stay in
the second-level cache between the two times that they are read. Of each tile, `gather` sums the
products with the weights, the formulas give losses and their derivatives, and `scatter` adds the
products with these to the gradient of the weight.

Weights and gradients are in panels, [columns, width]: the weights of a column are neighbours for
`width` labels, 1 or 8, so that each stored element of the matrix reads one line of the cache.
`pack` writes the panels of the weights, `unpack` reads those of the gradients.

Everything is computed and summed in float64. The work is split into items, a panel and a block of
rows each, whose number depends on the problem only. Each has a gradient of its own, and those of a
panel are added in order, so that the result is bitwise the same for any number of threads.
"""

from types import FunctionType
from typing import Any

import numpy as np
from numba import carray

from torchbce.backends.cpu import formulas, sparse_lines
from torchbce.backends.cpu.intrinsics import (
    fma,
    load_bool,
    load_float32,
    next_of,
    out_of_line,
    pointer,
    pointer_to_float64,
    read_float64,
    read_int64,
    write_float64,
)
from torchbce.backends.cpu.sparse_lines import WIDTH, index_at
from torchbce.backends.cpu.staging import loop, named

#: Logits of a tile, and stored elements from which on no row is added to it: 256 KiB of indices and
#: values in float32.
TILE, TILE_STORED = 512, 32768
#: Columns that a thread packs or unpacks at a time, and rows that it checks.
PIECE = 4096

#: What a kernel is called with: int64 fields, of which those that end in _AT are addresses (0 for
#: what is not given), then float64 fields.
(
    NEXT_AT,  # the counter from which threads take items
    ITEMS,
    ROW_BLOCKS,  # per panel
    ROWS,
    COLUMNS,
    LABELS,
    EDGES_AT,  # of the blocks of rows, [ROW_BLOCKS + 1]
    POINTERS_AT,  # int64 [ROWS + 1]
    INDICES_AT,  # int32
    VALUES_AT,
    PANELS_AT,  # of the weights, [panels, COLUMNS, width]
    BIAS_AT,  # [LABELS], and what follows
    OFFSETS_AT,  # [ROWS]
    TARGET_AT,
    TARGET_ROW,  # strides of the target, in elements
    TARGET_LABEL,
    MASK_AT,  # bool, false where an element is ignored
    MASK_ROW,
    MASK_LABEL,
    ROW_WEIGHT_AT,  # [ROWS]
    LABEL_WEIGHT_AT,  # [LABELS]
    POS_WEIGHT_AT,  # [LABELS]
    UPSTREAM_AT,  # [ROWS]
    LOGITS_AT,  # written: [ROWS], of one label
    ROW_LOSSES_AT,  # written: [panels, ROWS]
    VALUE_GRADIENTS_AT,  # added to: [stored]; of one panel at a time
    GRADIENTS_AT,  # written: [ITEMS, COLUMNS, width]
    SUMS_AT,  # written: [ITEMS, SUMS + width]
    WEIGHT_AT,  # what is packed from or unpacked into
    WEIGHT_ROW,  # its strides
    WEIGHT_COLUMN,
    NUMBERS_AT,  # int64 [COLUMNS], the columns of the weight that the panels have; 0 for all
    SMOOTHING,
    SCALE,
    FIELDS,
) = range(35)
FLOATS = (SMOOTHING, SCALE)
#: What an item writes: the sum of its losses, 1 if a target was outside [0, 1], and from SUMS on
#: the sum of the derivatives of each label.
LOSS_SUM, WRONG, SUMS = range(3)


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

    def gather(z, pointers, indices, values, panel, first):
        out_of_line()
        for i in range(z.size):
            place, end = read_int64(pointers, first + i), read_int64(pointers, first + i + 1)
            s0 = s1 = s2 = s3 = 0.0
            while place + 3 < end:
                c0, c1 = index_at(indices, place), index_at(indices, place + 1)
                c2, c3 = index_at(indices, place + 2), index_at(indices, place + 3)
                s0 = fma(value_at(values, place), read_float64(panel, c0), s0)
                s1 = fma(value_at(values, place + 1), read_float64(panel, c1), s1)
                s2 = fma(value_at(values, place + 2), read_float64(panel, c2), s2)
                s3 = fma(value_at(values, place + 3), read_float64(panel, c3), s3)
                place += 4
            while place < end:
                column = index_at(indices, place)
                s0 = fma(value_at(values, place), read_float64(panel, column), s0)
                place += 1
            z[i] = (s0 + s1) + (s2 + s3)

    return named(f"_gather_{dtype}_1", gather)


def _gather_panel(dtype: str) -> Any:
    """The same of a panel."""
    gather_row = sparse_lines.gather_row(dtype)

    def gather(z, pointers, indices, values, panel, first):
        out_of_line()
        for i in range(z.size // WIDTH):
            place, end = read_int64(pointers, first + i), read_int64(pointers, first + i + 1)
            gather_row(z.ctypes.data + 8 * WIDTH * i, panel, indices, values, place, end)

    return named(f"_gather_{dtype}_{WIDTH}", gather)


def _scatter(dtype: str, value_at: Any) -> Any:
    """Add x g of rows to the gradient of the weight."""

    def scatter(slopes, pointers, indices, values, gradient, first):
        out_of_line()
        for i in range(slopes.size):
            g = slopes[i]
            for place in range(
                read_int64(pointers, first + i), read_int64(pointers, first + i + 1)
            ):
                column = index_at(indices, place)
                old = read_float64(gradient, column)
                write_float64(gradient, column, fma(value_at(values, place), g, old))

    return named(f"_scatter_{dtype}_1", scatter)


def _scatter_panel(dtype: str) -> Any:
    """The same of a panel."""
    scatter_row = sparse_lines.scatter_row(dtype)

    def scatter(slopes, pointers, indices, values, gradient, first):
        out_of_line()
        for i in range(slopes.size // WIDTH):
            place, end = read_int64(pointers, first + i), read_int64(pointers, first + i + 1)
            scatter_row(slopes.ctypes.data + 8 * WIDTH * i, gradient, indices, values, place, end)

    return named(f"_scatter_{dtype}_{WIDTH}", scatter)


@loop
def _add_value_gradients(slopes, width, pointers, indices, panel, gradients, first):
    """Add g . w to the gradient of each stored value."""
    out_of_line()
    for i in range(slopes.size // width):
        for place in range(read_int64(pointers, first + i), read_int64(pointers, first + i + 1)):
            at = width * index_at(indices, place)
            total = read_float64(gradients, place)
            for label in range(width):
                total = fma(slopes[width * i + label], read_float64(panel, at + label), total)
            write_float64(gradients, place, total)


@loop
def _stage(record, z, a, b, factors, width, panel, first):
    """The weights of both parts of each logit, and what multiplies its derivative.

    Ignored elements, and labels beyond the last, get the logit 0 and weights of 0. Returns whether
    a target is outside [0, 1].
    """
    out_of_line()
    target, mask = read_int64(record, TARGET_AT), read_int64(record, MASK_AT)
    target_row, target_label = read_int64(record, TARGET_ROW), read_int64(record, TARGET_LABEL)
    mask_row, mask_label = read_int64(record, MASK_ROW), read_int64(record, MASK_LABEL)
    row_weight, upstream = read_int64(record, ROW_WEIGHT_AT), read_int64(record, UPSTREAM_AT)
    label_weight = read_int64(record, LABEL_WEIGHT_AT)
    pos_weight, smoothing = read_int64(record, POS_WEIGHT_AT), read_float64(record, SMOOTHING)
    scale, labels = read_float64(record, SCALE), read_int64(record, LABELS)
    wrong = False
    for i in range(z.size // width):
        row = first + i
        of_row = read_float64(row_weight, row) if row_weight else 1.0
        factor = scale * read_float64(upstream, row) if upstream else scale
        for j in range(width):
            label, at = width * panel + j, width * i + j
            valid = label < labels
            if mask and valid:
                valid = load_bool(mask, row * mask_row + label * mask_label) != 0
            if not valid:
                z[at], a[at], b[at], factors[at] = 0.0, 0.0, 0.0, 0.0
                continue
            y = read_float64(target, row * target_row + label * target_label)
            wrong |= not (y >= 0 and y <= 1)
            y = y * (1 - smoothing) + smoothing / 2
            w = of_row * read_float64(label_weight, label) if label_weight else of_row
            a[at], b[at] = w * y, w * (1 - y)
            if pos_weight and y != 0:
                a[at] *= read_float64(pos_weight, label)
            factors[at] = factor
    return wrong


@loop
def _losses(losses, slopes, z, a, b, factors):
    """a (-log sigma(z)) + b (-log sigma(-z)), and its derivative times the factors."""
    out_of_line()
    for i in range(z.size):
        positive, negative, up, down, _, _, _, _, _, _ = formulas.focal_terms(z[i])
        losses[i] = formulas.weighed(a[i], positive) + formulas.weighed(b[i], negative)
        slopes[i] = (a[i] * up + b[i] * down) * factors[i]


#: By the dtype of the values; "one" where every stored value is 1 and none is in memory.
VALUES = {"float32": _value_float32, "float64": _value_float64, "one": _value_one}
_PASSES = {
    **{(dtype, 1): (_gather(dtype, of), _scatter(dtype, of)) for dtype, of in VALUES.items()},
    **{(dtype, WIDTH): (_gather_panel(dtype), _scatter_panel(dtype)) for dtype in VALUES},
}

# `specialised` gives these names their values.
_width = 1
_gather_rows: Any = None
_scatter_rows: Any = None
_typed_pointer: Any = None


def _rows_kernel(record):
    """Compute items until none is left; every thread runs this."""
    pointers, indices = read_int64(record, POINTERS_AT), read_int64(record, INDICES_AT)
    values, edges = read_int64(record, VALUES_AT), read_int64(record, EDGES_AT)
    bias, offsets = read_int64(record, BIAS_AT), read_int64(record, OFFSETS_AT)
    target, logits = read_int64(record, TARGET_AT), read_int64(record, LOGITS_AT)
    row_losses, gradients = read_int64(record, ROW_LOSSES_AT), read_int64(record, GRADIENTS_AT)
    value_gradients = read_int64(record, VALUE_GRADIENTS_AT)
    size = _width * read_int64(record, COLUMNS)
    rows, labels = read_int64(record, ROWS), read_int64(record, LABELS)
    row_blocks, counter = read_int64(record, ROW_BLOCKS), read_int64(record, NEXT_AT)
    memory = np.empty(6 * TILE + _width, np.float64)
    scratch = memory.ctypes.data
    slope_sums = memory[6 * TILE :]
    while True:
        item = next_of(counter)
        if item >= read_int64(record, ITEMS):
            break
        panel, block = item // row_blocks, item % row_blocks
        weights = read_int64(record, PANELS_AT) + 8 * size * panel
        gradient = gradients + 8 * size * item
        if gradients:
            for place in range(size):
                write_float64(gradient, place, 0.0)
        loss_sum, wrong = 0.0, 0.0
        slope_sums[:] = 0.0
        first, end = read_int64(edges, block), read_int64(edges, block + 1)
        while first < end:
            stop = first + 1
            limit = read_int64(pointers, first) + TILE_STORED
            most = min(end, first + TILE // _width)
            while stop < most and read_int64(pointers, stop + 1) <= limit:
                stop += 1
            m = stop - first
            z = carray(pointer_to_float64(scratch), (_width * m,))
            _gather_rows(z, pointers, indices, values, weights, first)
            for i in range(m):
                offset = read_float64(offsets, first + i) if offsets else 0.0
                for j in range(_width):
                    if bias and _width * panel + j < labels:
                        z[_width * i + j] += read_float64(bias, _width * panel + j)
                    z[_width * i + j] += offset
            if logits:
                for i in range(m):
                    write_float64(logits, first + i, z[i])
            if target:
                a = carray(pointer_to_float64(scratch + 8 * TILE), (_width * m,))
                b = carray(pointer_to_float64(scratch + 16 * TILE), (_width * m,))
                factors = carray(pointer_to_float64(scratch + 24 * TILE), (_width * m,))
                losses = carray(pointer_to_float64(scratch + 32 * TILE), (_width * m,))
                slopes = carray(pointer_to_float64(scratch + 40 * TILE), (_width * m,))
                if _stage(record, z, a, b, factors, _width, panel, first):
                    wrong = 1.0
                _losses(losses, slopes, z, a, b, factors)
                of_tile = 0.0
                for i in range(m):
                    of_row = 0.0
                    for j in range(_width):
                        of_row += losses[_width * i + j]
                        slope_sums[j] += slopes[_width * i + j]
                    of_tile += of_row
                    if row_losses:
                        write_float64(row_losses, panel * rows + first + i, of_row)
                loss_sum += of_tile
                if gradients:
                    _scatter_rows(slopes, pointers, indices, values, gradient, first)
                if value_gradients:
                    _add_value_gradients(
                        slopes, _width, pointers, indices, weights, value_gradients, first
                    )
            first = stop
        if target:
            sums = read_int64(record, SUMS_AT) + 8 * (SUMS + _width) * item
            write_float64(sums, LOSS_SUM, loss_sum)
            write_float64(sums, WRONG, wrong)
            for j in range(_width):
                write_float64(sums, SUMS + j, slope_sums[j])
    memory[0] = 0.0  # Numba frees an array after its last use, and does not see `scratch`.


@loop
def _column(numbers, place):
    return read_int64(numbers, place) if numbers else place


def _pack_kernel(record):
    """Write the panels of a weight [labels, columns], pieces of columns at a time."""
    columns, labels = read_int64(record, COLUMNS), read_int64(record, LABELS)
    row, step = read_int64(record, WEIGHT_ROW), read_int64(record, WEIGHT_COLUMN)
    numbers, counter = read_int64(record, NUMBERS_AT), read_int64(record, NEXT_AT)
    pieces = (columns + PIECE - 1) // PIECE
    last = labels * row + columns * step  # carray needs a size, which nothing reads
    weight = carray(_typed_pointer(read_int64(record, WEIGHT_AT)), (last,))
    while True:
        item = next_of(counter)
        if item >= pieces * ((labels + _width - 1) // _width):
            break
        panel, piece = item // pieces, item % pieces
        to = read_int64(record, PANELS_AT) + 8 * _width * columns * panel
        for place in range(piece * PIECE, min((piece + 1) * PIECE, columns)):
            at = _width * panel * row + _column(numbers, place) * step
            for j in range(_width):
                value = 0.0
                if _width * panel + j < labels:
                    value = np.float64(weight[np.uint64(at + j * row)])
                write_float64(to, _width * place + j, value)


def _unpack_kernel(record):
    """Add the gradients of the blocks of each panel, and write them into [labels, columns]."""
    columns, labels = read_int64(record, COLUMNS), read_int64(record, LABELS)
    row, step = read_int64(record, WEIGHT_ROW), read_int64(record, WEIGHT_COLUMN)
    numbers, counter = read_int64(record, NUMBERS_AT), read_int64(record, NEXT_AT)
    row_blocks, pieces = read_int64(record, ROW_BLOCKS), (columns + PIECE - 1) // PIECE
    last = labels * row + columns * step
    weight = carray(_typed_pointer(read_int64(record, WEIGHT_AT)), (last,))
    while True:
        item = next_of(counter)
        if item >= pieces * ((labels + _width - 1) // _width):
            break
        panel, piece = item // pieces, item % pieces
        start = piece * PIECE
        size = min(PIECE, columns - start)
        of_panel = read_int64(record, GRADIENTS_AT) + 8 * _width * (
            columns * row_blocks * panel + start
        )
        total = carray(pointer_to_float64(of_panel), (_width * size,))
        for block in range(1, row_blocks):
            part = carray(
                pointer_to_float64(of_panel + 8 * _width * columns * block), (_width * size,)
            )
            for i in range(_width * size):
                total[i] += part[i]
        for j in range(min(_width, labels - _width * panel)):
            at = (_width * panel + j) * row
            for place in range(size):
                weight[np.uint64(at + _column(numbers, start + place) * step)] = total[
                    _width * place + j
                ]


def _bound(function: Any, name: str, **bound: Any) -> Any:
    """A function with globals of its own, see `loops.specialised`."""
    specialised = FunctionType(function.__code__, {**globals(), **bound}, name)
    specialised.__qualname__ = name
    return specialised


def rows_kernel(values: str, width: int, name: str) -> Any:
    """The kernel of rows for a dtype of the values and a width, ready to be compiled."""
    gather, scatter = _PASSES[values, width]
    return _bound(_rows_kernel, name, _width=width, _gather_rows=gather, _scatter_rows=scatter)


_POINTERS = {"float32": pointer, "float64": pointer_to_float64}


def pack_kernel(dtype: str, width: int, name: str) -> Any:
    """The kernel that packs a weight of a dtype, ready to be compiled."""
    return _bound(_pack_kernel, name, _width=width, _typed_pointer=_POINTERS[dtype])


def unpack_kernel(dtype: str, width: int, name: str) -> Any:
    """The kernel that unpacks a gradient of a dtype, ready to be compiled."""
    return _bound(_unpack_kernel, name, _width=width, _typed_pointer=_POINTERS[dtype])
