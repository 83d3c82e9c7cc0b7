"""From PyTorch tensors to a kernel: where their elements lie, which kernel, how many threads."""

import hashlib
import math
import os
import struct
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numba import cfunc, types
from torch import Tensor

from torchbce.backends.cpu import loops
from torchbce.backends.cpu import memory as cpu_memory
from torchbce.backends.cpu import threads as cpu_threads
from torchbce.backends.request import KernelInputs, LossSpec, as_in, order, strides_of_memory

CODES = {
    torch.float32: loops.FLOAT32,
    torch.bfloat16: loops.BFLOAT16,
    torch.float16: loops.FLOAT16,
    torch.float64: loops.FLOAT64,
    torch.bool: loops.BOOL,
    torch.uint8: loops.UINT8,
    torch.int8: loops.INT8,
    torch.int16: loops.INT16,
    torch.int32: loops.INT32,
    torch.int64: loops.INT64,
}

_SIGNATURE = types.void(types.int64)

#: Below two chunks a thread, 0.1 ms, waking another one takes longer than it saves.
_ELEMENTS_PER_THREAD = 2 * loops.CHUNK


#: Two flat operands and no third, behind the record.
_FLAT = struct.Struct(loops.RECORD.format + "12q")


def launch(
    program: LossSpec,
    elements: KernelInputs,
    losses: Tensor | None,
    gradient: Tensor | None,
    scale: float = 1.0,
    upstream: Tensor | None = None,
    sums: bool = True,
) -> tuple[float, float, float, bool]:
    """One pass over the elements.

    Args:
        program: the loss and its options.
        elements: what is read.
        losses: where the element losses go, from `memory_for_losses`; None for nowhere.
        gradient: where the gradient goes, from `memory_for_gradient`; None for nowhere.
        scale: a number that multiplies the gradient.
        upstream: what multiplies it too, of input's dtype, broadcasting to its shape.
        sums: whether the sums of losses and weights are wanted.

    Returns:
        The sum of the losses, the sum of the weights, the number of elements that count, and
        whether a value was outside its range.
    """
    x, y, weight, pos_weight, mask, positions = elements
    loss, constants, smoothing, ignore_index = program
    n, x_code, y_code = x.numel(), CODES[x.dtype], CODES[y.dtype]
    flags = (loops.SUMS if sums else 0) | (0 if gradient is None else loops.GRADIENT)
    marker = 0.0
    if ignore_index is not None:
        flags |= loops.IGNORE | (loops.IGNORE_NAN if math.isnan(ignore_index) else 0)
        marker = as_in(ignore_index, y.dtype)
    chunks = -(-n // loops.CHUNK)
    threads = min(torch.get_num_threads(), n // _ELEMENTS_PER_THREAD) or 1
    work = array("d", bytes(8 * (1 + threads + loops.LEFT * chunks)))
    losses_at = 0 if losses is None else losses.data_ptr()
    gradient_at = 0 if gradient is None else gradient.data_ptr()

    # fmt: off
    weights: tuple[int, ...] | None = None
    ignores = mask is not None or ignore_index is not None
    if weight is None and pos_weight is None and not ignores and smoothing == 0:
        flat = upstream is None and positions is None and x.is_contiguous() and y.is_contiguous()
    else:
        flat = False
        weights = tuple(loops.FLOAT32 if w is None else CODES[w.dtype] for w in elements[2:4])
    if flat:
        record = _FLAT.pack(
            n, threads, work.buffer_info()[0], 4, losses_at, gradient_at, flags,
            smoothing, marker, scale, *constants,
            loops.FLAT, x.data_ptr(), x_code, 0, loops.FLAT, y.data_ptr(), y_code, 0, 0, 0, 0, 0,
        )
    else:
        table, width = _table(elements, upstream)
        record = loops.RECORD.pack(
            n, threads, work.buffer_info()[0], width, losses_at, gradient_at, flags,
            smoothing, marker, scale, *constants,
        ) + table.tobytes()
    # fmt: on
    memory = (work, elements, losses, gradient, upstream)
    cpu_threads.run(_kernel(loss, x_code, y_code, weights), record, threads, memory)
    if chunks == 1:
        _, _, loss_sum, weight_sum, count, wrong = work
    else:
        # In a fixed order, whichever threads the chunks went to.
        columns = (work[1 + threads + i :: loops.LEFT] for i in range(loops.LEFT))
        loss_sum, weight_sum, count, wrong = map(sum, columns)
    return loss_sum, weight_sum, count if ignores else n, wrong != 0


def memory_for_gradient(elements: KernelInputs) -> Tensor:
    """Of input's shape and dtype, in the order in which a kernel walks over it."""
    return cpu_memory.reused(*strides_of_memory(elements))


def memory_for_losses(elements: KernelInputs) -> Tensor:
    """Of input's shape and dtype, in the order in which a kernel walks over it."""
    x, strides = strides_of_memory(elements)
    memory = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
    return cpu_memory.in_huge_pages(memory)


# ------------------------------------------------------------------------ where elements lie


def _table(elements: KernelInputs, upstream: Tensor | None) -> tuple["array[int]", int]:
    """The operands as rows of equal width, in the order of `loops.INPUT` and its neighbours."""
    x, y, *options, positions = elements
    walk = order(elements)
    if positions is None:
        targets = _row(y, x.shape, walk)
    else:
        stored = (y.data_ptr(), CODES[y.dtype], y.numel(), positions.data_ptr())
        targets = [loops.SPARSE, *stored]
    others = [_row(tensor, x.shape, walk) for tensor in (*options, upstream)]
    rows = [_row(x, x.shape, walk), targets, others.pop(), *others]
    width = max(map(len, rows))
    return array("q", [v for row in rows for v in [*row, *[0] * (width - len(row))]]), width


def _row(tensor: Tensor | None, shape: torch.Size, walk: Sequence[int] | None) -> list[int]:
    if tensor is None:
        return [loops.ABSENT]
    dimensions = range(len(shape)) if walk is None else walk
    strides = tensor.expand(shape).stride()
    merged = _merged([shape[d] for d in dimensions], [strides[d] for d in dimensions])
    kind = loops.STRIDED
    if all(stride == 0 for _, stride in merged):
        kind = loops.SCALAR
    elif len(merged) == 1 and merged[0][1] == 1:
        kind = loops.FLAT
    sizes, steps = [size for size, _ in merged], [stride for _, stride in merged]
    return [kind, tensor.data_ptr(), CODES[tensor.dtype], len(merged), *sizes, *steps]


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Sizes and strides, those of neighbours merged that one step walks through."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            size *= merged.pop()[0]
        merged.append((size, stride))
    return merged


# --------------------------------------------------------------------------------- the kernels

_compiling = threading.RLock()
_alive: list[Any] = []  # Numba frees the code with the object
_compiled: dict[tuple[str, int, int, tuple[int, ...] | None], Any] = {}


def _kernel(loss: str, input: int, target: int, weights: tuple[int, ...] | None) -> Any:
    """The compiled kernel: from this process, else from disk, else made now."""
    key = loss, input, target, weights
    found = _compiled.get(key)
    if found is None:
        with _compiling:
            found = _compiled.get(key)
            if found is None:
                found = _compiled[key] = _compile(*key)
    return found


def _compile(loss: str, input: int, target: int, weights: tuple[int, ...] | None) -> Any:
    codes = [input, target, *(weights or ())]
    name = "_".join(["visit", loss, *map(str, codes), _FINGERPRINT or ""])
    function = loops.specialised(loss, input, target, weights, name)
    try:
        compiled = cfunc(_SIGNATURE, cache=_FINGERPRINT is not None, error_model="numpy")(function)
    except Exception:
        # No folder may be written, the disk is full, or what lies there cannot be read. What is
        # wrong with the kernel itself shows without the cache too.
        compiled = cfunc(_SIGNATURE, error_model="numpy")(function)
    _alive.append(compiled)
    return cpu_threads.Kernel(compiled.address)


def _code() -> str | None:
    """A hash of the code of the kernels as it was imported; None where there are no sources.

    It stands in the names of compiled kernels, since Numba looks at one file of a cached function.
    """
    folder = Path(__file__).parent
    names = ("intrinsics.py", "formulas.py", "loops.py")
    try:
        sources = b"".join((folder / name).read_bytes() for name in names)
    except OSError:
        return None
    return hashlib.sha256(sources).hexdigest()[:16]


_FINGERPRINT = _code()

if hasattr(os, "register_at_fork"):  # nothing forks on Windows
    # A child forked from the middle of a compilation would wait for Numba's locks for ever.
    os.register_at_fork(
        before=_compiling.acquire,
        after_in_parent=_compiling.release,
        after_in_child=_compiling.release,
    )
