"""The kernel of a loss, which visits every block once.

A kernel walks over n elements by chunks, which threads take from shared counters, and by blocks
within a chunk, small enough for every intermediate result to stay in the first-level cache. A block
is staged (read as float32, from whatever dtype and strides), computed by loops short enough to
become vector instructions, and written. Each chunk writes its sums to its own place, so that the
result is bitwise the same for any number of threads.
"""

from types import FunctionType
from typing import Any

import numpy as np
from numba import carray

from torchbce.backends.cpu.blocks import (
    LOSSES,
    RANGE_CHECKS,
    apply_weight,
    choose,
    complement,
    constants_at,
    drop_ignored,
    is_outside,
    multiply,
    outside_unit,
    positive_and_negative_weights,
    seems_outside,
    sum_of,
    unweighted_logits,
)
from torchbce.backends.cpu.intrinsics import (
    next_of,
    pointer,
    read_float64,
    read_int64,
    write_float64,
)
from torchbce.backends.cpu.staging import (
    ABSENT,
    BLOCK,
    BOOL,
    BUFFERS,
    CHUNK,
    CONSTANT_BUFFERS,
    CONSTANTS,
    COUNT,
    FLAGS,
    GRADIENT,
    GRADIENT_AT,
    HALF,
    IGNORE,
    IGNORE_NAN,
    INPUT,
    LOSS_SUM,
    LOSSES_AT,
    MARKER,
    MASK,
    ONE,
    POS_WEIGHT,
    SCALE,
    SMOOTHING,
    STAGERS,
    SUMS,
    SUMS_PER_CHUNK,
    TABLE_AT,
    TARGET,
    THREADS,
    UPSTREAM,
    WEIGHT,
    WEIGHT_SUM,
    WIDTH,
    WORK,
    WRITERS,
    WRONG,
    ZERO,
    N,
    buffer_at,
)
from torchbce.definition.family import BY_ELEMENT, BY_P_T, KERNELS

# `specialised` gives these names their values.
_weighted = False  # with weight, pos_weight, mask, ignored targets or label smoothing
_by_element = False  # with constants per element
_by_p_t = False  # the same, in the form with p_t
_buffers = BUFFERS
_half_precision = False
_neutral = ZERO
_loss: Any = None
_outside_domain: Any = None
_stage_input: Any = None
_stage_target: Any = None
_stage_weight: Any = None
_stage_pos_weight: Any = None
_stage_mask = STAGERS[BOOL]
_write: Any = None


def _loss_kernel(record):
    """Compute chunks until none is left; every thread runs this.

    `record` is the address of the fields of `RECORD` and of the table. `work` has a counter of the
    threads that have begun, one of chunks for each of them, and the sums of each chunk. A thread
    begins with a share of its own, far from those of others: two threads that touch a new huge page
    at once both fill its 2 MiB with zeros. When its share is done it helps the others.
    """
    n, threads = read_int64(record, N), read_int64(record, THREADS)
    work, width = record + read_int64(record, WORK), read_int64(record, WIDTH)
    table = record + TABLE_AT
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
        read_float64(record, CONSTANTS + 5),
    )
    gradient, sums = flags & GRADIENT != 0, flags & SUMS != 0
    masked = _weighted and read_int64(table, MASK * width) != ABSENT
    ignoring = flags & IGNORE != 0
    upstream = read_int64(table, UPSTREAM * width) != ABSENT
    memory = np.empty(_buffers * BLOCK, np.float32)
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
            x = _stage_input(buffer_at(scratch, 0, m), table, INPUT * width, start)
            a = _stage_target(buffer_at(scratch, 1, m), table, TARGET * width, start)
            b = buffer_at(scratch, 2, m)
            if _weighted:
                y = a
                w = _stage_weight(buffer_at(scratch, 3, m), table, WEIGHT * width, start)
                p = _stage_pos_weight(buffer_at(scratch, 4, m), table, POS_WEIGHT * width, start)
                if masked or ignoring:
                    valid = _stage_mask(buffer_at(scratch, 5, m), table, MASK * width, start)
                    if ignoring:
                        drop_ignored(valid, y, flags & IGNORE_NAN != 0, marked)
                    # Ignored elements are replaced first: a NaN there reaches no result.
                    choose(buffer_at(scratch, 0, m), valid, x, _neutral)
                    choose(buffer_at(scratch, 1, m), valid, y, HALF)
                    choose(buffer_at(scratch, 3, m), valid, w, ZERO)
                    choose(buffer_at(scratch, 4, m), valid, p, ONE)
                    x, y = buffer_at(scratch, 0, m), buffer_at(scratch, 1, m)
                    w, p = buffer_at(scratch, 3, m), buffer_at(scratch, 4, m)
                    count += sum_of(valid)
                if sums:
                    weight_sum += sum_of(w)
                if outside_unit(y):
                    wrong = 1.0
                a = buffer_at(scratch, 6, m)
                positive_and_negative_weights(a, b, y, p, smooth)
            else:
                if seems_outside(complement(b, a)) and is_outside(a):
                    wrong = 1.0
            if _outside_domain(x):
                wrong = 1.0
            losses, slopes = buffer_at(scratch, 7, m), buffer_at(scratch, 8, m)
            if not _half_precision:
                if losses_at:
                    losses = carray(pointer(losses_at + 4 * start), (m,))
                if gradient:
                    slopes = carray(pointer(gradient_at + 4 * start), (m,))
            if _by_element or _by_p_t:
                blocks = constants_at(scratch, m, table, width, start, constants)
                if masked or ignoring:
                    for constant in blocks[:5]:
                        choose(constant, buffer_at(scratch, 5, m), constant, 1.0)
            if _by_p_t:
                _loss(losses, slopes, x, a, b, scratch, gradient, factor, blocks + (y, smooth))  # noqa: RUF005 - Numba has no (*blocks, y)
            elif _by_element:
                _loss(losses, slopes, x, a, b, scratch, gradient, factor, blocks)
            else:
                _loss(losses, slopes, x, a, b, scratch, gradient, factor, constants)
            if _weighted:
                apply_weight(losses, w)
                if gradient:
                    multiply(slopes, w)
            if sums:
                loss_sum += sum_of(losses)
            if gradient and upstream:
                u = _stage_input(buffer_at(scratch, 11, m), table, UPSTREAM * width, start)
                multiply(slopes, u)
                if masked or ignoring:
                    # Ignored elements have gradient 0 whatever the upstream gradient is.
                    choose(slopes, buffer_at(scratch, 5, m), slopes, ZERO)
            if _half_precision:
                if losses_at:
                    _write(losses_at, start, losses)
                if gradient:
                    _write(gradient_at, start, slopes)
        place = 1 + threads + SUMS_PER_CHUNK * chunk
        write_float64(work, place + LOSS_SUM, loss_sum)
        write_float64(work, place + WEIGHT_SUM, weight_sum)
        write_float64(work, place + COUNT, count)
        write_float64(work, place + WRONG, wrong)
    memory[0] = ZERO  # Numba frees an array after its last use, and does not see `scratch`.


def specialised(
    loss: str, input: int, target: int, weights: tuple[int, ...] | None, name: str
) -> Any:
    """The kernel of a loss for given dtypes, with or without options, ready to be compiled.

    It is a function with globals of its own, not a closure: Numba caches a function under its name
    and bytecode, but a closure over compiled functions under a key that no other process has.

    Args:
        loss: the name of the kernel, a key of `LOSSES`.
        input: the code of the input's dtype.
        target: the code of the target's dtype.
        weights: the codes of the dtypes of weight and pos_weight; None for a kernel without
            weights, mask, ignored targets, label smoothing and constants per element.
        name: of the function, different for each kernel and each version of the code.
    """
    weighted, domain = weights is not None, KERNELS[loss]
    reads_constants = loss.endswith((BY_ELEMENT, BY_P_T))
    bound = {
        "_weighted": weighted,
        "_by_element": loss.endswith(BY_ELEMENT),
        "_by_p_t": loss.endswith(BY_P_T),
        "_buffers": BUFFERS + (2 * CONSTANT_BUFFERS if reads_constants else 0),
        "_half_precision": input in WRITERS,
        "_neutral": np.float32(domain.neutral),
        "_loss": unweighted_logits if loss == "logits" and not weighted else LOSSES[loss],
        "_outside_domain": RANGE_CHECKS[domain],
        "_stage_input": STAGERS[input],
        "_stage_target": STAGERS[target],
        "_stage_weight": STAGERS[weights[0]] if weights else None,
        "_stage_pos_weight": STAGERS[weights[1]] if weights else None,
        "_write": WRITERS.get(input),
    }
    function = FunctionType(_loss_kernel.__code__, {**globals(), **bound}, name)
    function.__qualname__ = name
    return function
