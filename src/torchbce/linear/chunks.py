"""One visit to each chunk of labels: logits, loss and gradients, of which only the sums remain.

Cross-entropy has no normaliser over labels, so that a chunk needs nothing of another. With
G = d loss / d logits of the chunk, its share of the gradients are products with what is at hand:
dX += G^T W, dW = G X, db = G 1. They are PyTorch's own, in float32 (float64 for float64): those of
half precision take its values as they are, and round once, at the end.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbce import _backends, kernels, reference
from torchbce._contract import Loss, Options, by_reference
from torchbce.kernels import cpu_memory
from torchbce.linear.targets import Chunk, Chunks, Operands

LOSS, SLOPE = Loss(reference.logits_parts), Loss(reference.logits_slope_parts)

#: Logits of a chunk: 1 MiB of float32, which two cores' second-level caches hold. Where memory is
#: far (not a CPU) more, since each product has to fill the device.
_LOGITS, _LOGITS_FAR = 2**18, 2**24
#: Weights of a chunk, 8 MiB of float32, which stay in the third-level cache between the products.
_WEIGHTS = 2**21
#: With fewer labels a product runs at a fraction of its speed.
_FEWEST = 64


def in_full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Products as they are asked for, whatever autocast surrounds them."""
    if torch.amp.is_autocast_available(device.type):
        off: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
        return off
    return nullcontext()


class Head(NamedTuple):
    """The tensors of a linear layer and its input.

    Attributes:
        input: X, [rows, features].
        weight: W, [labels, features].
        bias: b, [labels].
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None


class Wants(NamedTuple):
    """Which gradients are wanted."""

    input: bool = False
    weight: bool = False
    bias: bool = False


NOTHING = Wants()


class Gradients(NamedTuple):
    """Those that were wanted; that of the input in the dtype of computation."""

    input: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


#: Takes start, stop, G and X, and changes weight and bias instead of giving their gradients.
Update = Callable[[int, int, Tensor, Tensor], None]


def chunk_size(head: Head, chosen: int | None) -> int:
    """How many labels to a chunk."""
    labels, width = head.weight.shape
    rows = head.input.shape[0]
    if chosen is None:
        logits = _LOGITS if head.input.device.type == "cpu" else _LOGITS_FAR
        chosen = max(_FEWEST, min(logits // max(rows, 1), _WEIGHTS // max(width, 1)))
    return max(1, min(chosen, labels))


def visit(
    head: Head,
    operands: Operands,
    *,
    smoothing: float = 0.0,
    chunk_labels: int | None = None,
    wants: Wants = NOTHING,
    scale: float = 1.0,
    upstream: Tensor | None = None,
    by_row: bool = False,
    update: Update | None = None,
    input_is_done: Callable[[Tensor], None] | None = None,
) -> tuple[Tensor | float, Gradients]:
    """The sum of the losses, and gradients of `scale` times their sum.

    Args:
        head: input, weight and bias, on one device.
        operands: targets and options.
        smoothing: of the targets.
        chunk_labels: how many labels to a chunk; None for a size that fits the caches.
        wants: which gradients.
        scale: what multiplies the gradients.
        upstream: what multiplies those of each row too, [rows], in the dtype of computation.
        by_row: whether losses are summed by row, [rows], instead of over all; without gradients.
        update: what to do with the gradient of the weight and bias of a chunk, in place of keeping
            it. It is called when the chunk has given its share to the input's gradient.
        input_is_done: called with the input's gradient when that is whole, before the weight's is.
    """
    x, weight, bias = head
    dtype = reference.compute_dtype(x.dtype)
    x = x.to(dtype).contiguous()
    rows, (labels, width) = x.shape[0], weight.shape
    size = chunk_size(head, chunk_labels)
    chunks = Chunks(operands, rows, labels, size)

    # Logits, and behind them their slopes, or their losses where rows are summed.
    slopes = any(wants) or update is not None
    memory = x.new_empty(2 if slopes or by_row else 1, size * rows)
    narrow = weight.dtype != dtype
    wide = x.new_empty((size if narrow else 0, width))
    d_wide = x.new_empty((size if narrow and wants.weight else 0, width))
    d_input = torch.zeros_like(x) if wants.input else None
    d_weight = _like(weight) if wants.weight else None
    d_bias = bias.new_empty(labels) if bias is not None and wants.bias else None
    total: Any = x.new_zeros(rows, dtype=_sum_dtype(x)) if by_row else 0.0
    elements: Any = None

    for number, start in enumerate(range(0, labels, size)):
        stop = min(start + size, labels)
        shape = stop - start, rows
        z, *out = (part[: shape[0] * rows].view(shape) for part in memory)
        w = weight[start:stop]
        if narrow:
            w = wide[: shape[0]].copy_(w)
        if bias is None:
            torch.mm(w, x.T, out=z)
        else:
            torch.addmm(bias[start:stop, None].to(dtype), w, x.T, out=z)
        chunk = chunks(number, start, stop)
        if elements is None:
            elements = _elements(z, chunk, smoothing)
        total = total + elements(z, chunk, scale, upstream, by_row, *out)
        if not slopes:
            continue
        (g,) = out
        if d_input is not None:
            d_input.addmm_(g.T, w)
            if stop == labels and input_is_done is not None:
                input_is_done(d_input)
        if update is not None:
            update(start, stop, g, x)
        if d_weight is not None:
            if narrow:
                d_weight[start:stop] = torch.mm(g, x, out=d_wide[: shape[0]])
            else:
                torch.mm(g, x, out=d_weight[start:stop])
        if d_bias is not None:
            d_bias[start:stop] = g.sum(1)
    if labels == 0 and d_input is not None and input_is_done is not None:
        input_is_done(d_input)
    return total, Gradients(d_input, d_weight, d_bias)


def _like(weight: Tensor) -> Tensor:
    """Memory for the gradient of a weight, the last one's if that is free again."""
    if weight.device.type == "cpu" and weight.is_contiguous():
        return cpu_memory.reused(weight, weight.stride())
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _elements(z: Tensor, chunk: Chunk, smoothing: float) -> Callable[..., Any]:
    """What computes losses and slopes of a chunk: the kernel, or the definition."""
    by = _backends.chosen(z, chunk.target, chunk.weight, chunk.pos_weight, chunk.mask)
    if by is _backends.NUMBA:
        program = kernels.cpu().program(LOSS.parts, LOSS.constants, smoothing, None)
        return functools.partial(_by_kernel, program)
    return functools.partial(_by_definition, smoothing)


class InvalidTargetError(Exception):
    """A dense target of some chunk is outside its range."""


def _by_kernel(
    program: Any,
    z: Tensor,
    chunk: Chunk,
    scale: float,
    upstream: Tensor | None,
    by_row: bool,
    out: Tensor | None = None,
) -> float | Tensor:
    cpu = kernels.cpu()
    elements = cpu.Elements(z, chunk.target, *chunk[2:], chunk.positions)
    losses, slopes = (out, None) if by_row else (None, out)
    above = None if upstream is None else upstream[None, :]
    total, _, _, wrong = cpu.launch(program, elements, losses, slopes, scale, above, not by_row)
    if wrong:
        raise InvalidTargetError
    return float(total) if losses is None else losses.sum(0, dtype=torch.float64)


def _by_definition(
    smoothing: float,
    z: Tensor,
    chunk: Chunk,
    scale: float,
    upstream: Tensor | None,
    by_row: bool,
    out: Tensor | None = None,
) -> Tensor:
    y = chunk.target
    if chunk.positions is not None:
        y = torch.zeros_like(z)
        y.view(-1)[chunk.positions] = chunk.target.to(y.dtype)
    options = Options(label_smoothing=smoothing, reduction="none")
    others = z, y, chunk.weight, chunk.pos_weight, chunk.mask
    try:
        loss = by_reference(LOSS, options, *others)
    except ValueError as error:
        raise InvalidTargetError from error
    if out is not None and not by_row:
        slopes = by_reference(SLOPE, options, *others)
        torch.mul(slopes if upstream is None else slopes * upstream, scale, out=out)
    return loss.sum(0 if by_row else None, dtype=_sum_dtype(z))
