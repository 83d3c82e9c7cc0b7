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

from torchbce.backends import selection
from torchbce.backends.cpu import memory
from torchbce.backends.request import KernelInputs, loss_spec
from torchbce.definition import family, reference
from torchbce.definition.arguments import Options, aligned
from torchbce.definition.dense import dense_loss
from torchbce.linear.targets import Chunk, Chunks, Operands

LOSS, SLOPE = family.CROSS_ENTROPY, family.CROSS_ENTROPY_SLOPE

#: Logits of a chunk on a CPU: as many as the second-level caches hold, or a 72nd of all, which with
#: their slopes is below 3 % of them; but no more than the third-level cache holds. Elsewhere,
#: where each product has to fill the device, more.
_LOGITS, _SHARE, _MOST_LOGITS, _LOGITS_FAR = 7 * 2**16, 72, 2**21, 2**24
#: Products of fewer labels run at a fraction of their speed (1,024 rows, 128 features: 1.3 times
#: the bare products' time with 256 labels a chunk, 1.1 with 1,024), but for very many rows.
_FEWEST, _LOGITS_OF_FEWEST = 1024, 2**22
#: Weights of a chunk: 32 MiB as they lie, of half precision 8 MiB in float32.
_WEIGHTS, _WIDE_WEIGHTS = 2**23, 2**21


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
    rows = max(head.input.shape[0], 1)
    if chosen is None:
        near = min(max(rows * labels // _SHARE, _LOGITS), _MOST_LOGITS)
        logits = near if head.input.device.type == "cpu" else _LOGITS_FAR
        weights = _WEIGHTS if head.weight.dtype.itemsize >= 4 else _WIDE_WEIGHTS
        fewest = min(_FEWEST, _LOGITS_OF_FEWEST // rows)
        chosen = max(fewest, min(logits // rows, weights // max(width, 1)))
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
    checked: bool = True,
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
        checked: whether a dense target outside its range raises.
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
    wide = x.new_empty(size, width) if narrow else None
    d_wide = x.new_empty(size, width) if narrow and wants.weight else None
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
        if wide is not None:
            w = wide[: shape[0]].copy_(w)
        if bias is None:
            torch.mm(w, x.T, out=z)
        else:
            torch.addmm(bias[start:stop, None].to(dtype), w, x.T, out=z)
        chunk = chunks(number, start, stop)
        if elements is None:
            elements = _elements(z, chunk, smoothing, checked)
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
            if d_wide is not None:
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
        return memory.reused(weight, weight.stride())
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _elements(z: Tensor, chunk: Chunk, smoothing: float, checked: bool) -> Callable[..., Any]:
    """What computes losses and slopes of a chunk: the kernel, or the definition."""
    by = selection.chosen(z, chunk.target, chunk.weight, chunk.pos_weight, chunk.mask)
    if by is selection.NUMBA:
        asked = loss_spec(family.CROSS_ENTROPY, smoothing, None)
        return functools.partial(_by_kernel, asked, checked)
    return functools.partial(_by_definition, smoothing, checked)


class InvalidTargetError(Exception):
    """A dense target of some chunk is outside its range."""


def _by_kernel(
    program: Any,
    checked: bool,
    z: Tensor,
    chunk: Chunk,
    scale: float,
    upstream: Tensor | None,
    by_row: bool,
    out: Tensor | None = None,
) -> float | Tensor:
    from torchbce.backends.cpu import launch as cpu

    elements = KernelInputs(z, chunk.target, *chunk[2:], chunk.positions)
    losses, slopes = (out, None) if by_row else (None, out)
    above = None if upstream is None else upstream[None, :]
    total, _, _, wrong = cpu.launch(program, elements, losses, slopes, scale, above, not by_row)
    if wrong and checked:
        raise InvalidTargetError
    return float(total) if losses is None else losses.sum(0, dtype=torch.float64)


def _by_definition(
    smoothing: float,
    checked: bool,
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
    check = None if checked else False
    options = Options(label_smoothing=smoothing, reduction="none", check_targets=check)
    others = z, y, chunk.weight, chunk.pos_weight, chunk.mask
    try:
        loss = dense_loss(LOSS, aligned(*others), options)
    except ValueError as error:
        raise InvalidTargetError from error
    if out is not None and not by_row:
        slopes = dense_loss(SLOPE, aligned(*others), options)
        if upstream is not None:
            slopes = slopes * upstream
            if chunk.mask is not None:
                slopes = torch.where(chunk.mask, slopes, 0.0)  # 0 whatever comes from above
        torch.mul(slopes, scale, out=out)
    return loss.sum(0 if by_row else None, dtype=_sum_dtype(z))
