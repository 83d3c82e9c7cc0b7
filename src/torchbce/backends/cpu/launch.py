"""From PyTorch tensors to a kernel: the record that it reads, and the sums that it writes."""

import math
import struct
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.backends.cpu import memory as cpu_memory
from torchbce.backends.cpu import staging, threads
from torchbce.backends.cpu.compiler import compiled_kernel
from torchbce.backends.request import KernelInputs, LossSpec, as_in, order, strides_of_memory
from torchbce.definition.family import reads_constants

CODES = {
    torch.float32: staging.FLOAT32,
    torch.bfloat16: staging.BFLOAT16,
    torch.float16: staging.FLOAT16,
    torch.float64: staging.FLOAT64,
    torch.bool: staging.BOOL,
    torch.uint8: staging.UINT8,
    torch.int8: staging.INT8,
    torch.int16: staging.INT16,
    torch.int32: staging.INT32,
    torch.int64: staging.INT64,
}

#: With less than two chunks per thread, 0.1 ms, waking a thread takes longer than it saves.
ELEMENTS_PER_THREAD = 2 * staging.CHUNK

#: Reads the sums of a chunk from a record, at an offset in bytes.
read_sums = struct.Struct(f"{staging.SUMS_PER_CHUNK}d").unpack_from
_WORD = 8  # bytes


class Sums(NamedTuple):
    """The sums over all elements.

    Attributes:
        loss: the sum of the losses.
        weight: the sum of the weights of valid elements.
        valid: the number of valid elements.
        out_of_range: whether a valid target or input was outside its range.
    """

    loss: float
    weight: float
    valid: float
    out_of_range: bool


def launch(
    loss_spec: LossSpec,
    inputs: KernelInputs,
    losses: Tensor | None = None,
    gradient: Tensor | None = None,
    scale: float = 1.0,
    upstream: Tensor | None = None,
    sums: bool = True,
    most_threads: int | None = None,
) -> Sums:
    """One pass over the elements.

    One thread reads and writes blocks of `staging.BLOCK` elements in the order of memory, so that
    the memory that it writes may begin a block in front of the memory that it reads.

    Args:
        loss_spec: the loss and its options.
        inputs: the tensors to read.
        losses: memory for the element losses, from `memory_for_losses`; None not to store them.
        gradient: memory for the gradient, from `memory_for_gradient`; None to compute none.
        scale: a number that multiplies the gradient.
        upstream: a tensor that multiplies it too, of input's dtype, broadcasting to its shape.
        sums: whether the sums of losses and weights are wanted.
        most_threads: how many threads to use at most; None for as many as PyTorch uses.
    """
    x, y, mask = inputs.input, inputs.target, inputs.mask
    loss, constants, smoothing, ignore_index = loss_spec
    n = x.numel()
    flags = (staging.SUMS if sums else 0) | (0 if gradient is None else staging.GRADIENT)
    marker = 0.0
    if ignore_index is not None:
        flags |= staging.IGNORE | (staging.IGNORE_NAN if math.isnan(ignore_index) else 0)
        marker = as_in(ignore_index, y.dtype)
    ignores = mask is not None or ignore_index is not None
    by_element = reads_constants(loss)
    count = min(most_threads or torch.get_num_threads(), n // ELEMENTS_PER_THREAD) or 1
    chunks = -(-n // staging.CHUNK)
    table, width = _table(inputs, upstream, by_element)
    work = staging.TABLE_AT + _WORD * len(table)
    header = staging.RECORD.pack(
        n,
        count,
        work,
        width,
        0 if losses is None else losses.data_ptr(),
        0 if gradient is None else gradient.data_ptr(),
        flags,
        smoothing,
        marker,
        scale,
        *constants,
    )
    words = 1 + count + staging.SUMS_PER_CHUNK * chunks
    record = array("q", header + table.tobytes() + bytes(_WORD * words))
    kernel = kernel_for(loss_spec, inputs)
    # Pass the tensors too, since the record has only their addresses.
    threads.run(kernel, record, count, (inputs, losses, gradient, upstream))
    start = work + _WORD * (1 + count)
    per_chunk = struct.unpack_from(f"{staging.SUMS_PER_CHUNK * chunks}d", record, start)
    # Added in a fixed order, whichever threads computed the chunks.
    loss_sum, weight_sum, valid, wrong = (
        sum(per_chunk[i :: staging.SUMS_PER_CHUNK], 0.0) for i in range(staging.SUMS_PER_CHUNK)
    )
    return Sums(loss_sum, weight_sum, valid if ignores else n, wrong != 0)


def kernel_for(loss_spec: LossSpec, inputs: KernelInputs) -> threads.Kernel:
    """The kernel that `launch` runs, compiled now if it is new."""
    x, y, weight, pos_weight, mask, *_ = inputs
    loss, _, smoothing, ignore_index = loss_spec
    ignores = mask is not None or ignore_index is not None
    weight_codes: tuple[int, int] | None = None
    if not (weight is pos_weight is None) or ignores or smoothing or reads_constants(loss):
        weight_codes = _code(weight), _code(pos_weight)
    return compiled_kernel(loss, CODES[x.dtype], CODES[y.dtype], weight_codes)


class SmallRecord(NamedTuple):
    """The record of a pass over a few contiguous elements, complete except for three addresses.

    Attributes:
        kernel: the kernel that reads it.
        words: the record, to be copied for each call.
        sums_at: where the sums of each chunk are in the record, in bytes.
    """

    kernel: threads.Kernel
    words: "array[int]"
    sums_at: list[int]


def small_record(
    loss_spec: LossSpec, inputs: KernelInputs, gradient: bool, scale: float
) -> SmallRecord:
    """The record for tensors of the same kind as `inputs`, see `fits_small_record`.

    It is for one thread, for a loss that is reduced to a sum, and without options.
    """
    x, y, *_ = inputs
    chunks = -(-x.numel() // staging.CHUNK)
    by_element = reads_constants(loss_spec.loss)
    weight_codes = (_code(None), _code(None)) if by_element else None
    table, width = _table(inputs, None, by_element)
    work = staging.TABLE_AT + _WORD * len(table)
    flags = staging.SUMS | (staging.GRADIENT if gradient else 0)
    header = staging.RECORD.pack(
        x.numel(), 1, work, width, 0, 0, flags, 0.0, 0.0, scale, *loss_spec.constants
    )
    words = 2 + staging.SUMS_PER_CHUNK * chunks
    record = array("q", header + table.tobytes() + bytes(_WORD * words))
    per_chunk = _WORD * staging.SUMS_PER_CHUNK
    sums_at = [work + 2 * _WORD + per_chunk * chunk for chunk in range(chunks)]
    kernel = compiled_kernel(loss_spec.loss, CODES[x.dtype], CODES[y.dtype], weight_codes)
    return SmallRecord(kernel, record, sums_at)


def fits_small_record(loss_spec: LossSpec, inputs: KernelInputs) -> bool:
    """Whether a `small_record` can be made for these."""
    x, y, *options = inputs
    return (
        not loss_spec.smoothing
        and loss_spec.ignore_index is None
        and all(option is None for option in options)
        and 0 < x.numel() < 2 * ELEMENTS_PER_THREAD
        and x.is_contiguous()
        and y.is_contiguous()
    )


def memory_for_gradient(inputs: KernelInputs) -> Tensor:
    """Memory of input's shape and dtype, in the order in which a kernel writes."""
    return cpu_memory.reused(*strides_of_memory(inputs))


def memory_for_losses(inputs: KernelInputs) -> Tensor:
    """Memory of input's shape and dtype, in the order in which a kernel writes."""
    x, strides = strides_of_memory(inputs)
    memory = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
    return cpu_memory.in_huge_pages(memory)


def _code(weight: Tensor | None) -> int:
    """The code of a weight's dtype; an absent one reads as float32."""
    return staging.FLOAT32 if weight is None else CODES[weight.dtype]


# ------------------------------------------------------------------ the layout of the operands

_FIRST_ADDRESS = staging.TABLE_AT // _WORD + staging.ADDRESS
#: Where the addresses are in a `SmallRecord`, whose operands have four columns each.
INPUT_AT = _FIRST_ADDRESS + staging.SIZES * staging.INPUT
TARGET_AT = _FIRST_ADDRESS + staging.SIZES * staging.TARGET
GRADIENT_AT = staging.GRADIENT_AT


def _table(
    inputs: KernelInputs, upstream: Tensor | None, constants: bool
) -> tuple["array[int]", int]:
    """The layouts of the operands as rows of equal width, in the order that `staging` gives.

    `constants`: whether the kernel reads the constants per element.
    """
    x, y, weight, pos_weight, mask, positions, *own = inputs
    dimensions = order(inputs)
    if positions is None:
        target = _layout(y, x.shape, dimensions)
    else:
        target = [
            staging.SPARSE,
            y.data_ptr(),
            CODES[y.dtype],
            y.numel(),
            positions.data_ptr(),
        ]
    others = [upstream, weight, pos_weight, mask, *(own if constants else ())]
    rows = [_layout(x, x.shape, dimensions), target]
    rows += [_layout(t, x.shape, dimensions) for t in others]
    width = max(map(len, rows))
    return array("q", [v for row in rows for v in [*row, *[0] * (width - len(row))]]), width


def _layout(
    tensor: Tensor | None, shape: torch.Size, dimensions: Sequence[int] | None
) -> list[int]:
    if tensor is None:
        return [staging.ABSENT]
    address, code = tensor.data_ptr(), CODES[tensor.dtype]
    if dimensions is None and tensor.shape == shape and tensor.is_contiguous():
        return [staging.CONTIGUOUS, address, code, 0]
    walk = range(len(shape)) if dimensions is None else dimensions
    strides = tensor.expand(shape).stride()
    merged = _merged([shape[d] for d in walk], [strides[d] for d in walk])
    kind = staging.STRIDED
    if all(stride == 0 for _, stride in merged):
        kind = staging.SCALAR
    elif len(merged) == 1 and merged[0][1] == 1:
        kind = staging.CONTIGUOUS
    sizes, steps = [size for size, _ in merged], [stride for _, stride in merged]
    return [kind, address, code, len(merged), *sizes, *steps]


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Sizes and strides, with neighbouring dimensions merged where one stride covers both."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            size *= merged.pop()[0]
        merged.append((size, stride))
    return merged
