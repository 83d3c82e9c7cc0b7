"""One visit to each chunk of labels on a GPU, of which the host does not wait for anything.

As `chunks.visit`, but for where numbers are rounded. Inputs of 16 bits are multiplied as they are,
with results in float32; one kernel adds the bias, sums losses and leaves slopes in 16 bits, which
two products take. Slopes in bfloat16 have the incoming gradient and the divisor in them, since it
reaches as far as float32 does; those in float16 are 64 times the bare ones, and what is missing
multiplies the products in float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchbce.backends.gpu import launch as gpu_launch
from torchbce.backends.request import KernelInputs, loss_spec
from torchbce.definition import family, reference
from torchbce.linear.chunks import NOTHING, Gradients, Head, Update, Wants
from torchbce.linear.targets import Operands

#: float16 begins at 6e-8, subnormal to 6e-5: a slope of 1e-6 keeps all its bits this way. It ends
#: at 65,504: slopes that weights make larger are divided by the largest weight.
_SCALE_OF_FLOAT16 = 64.0
#: Tiles of a matrix product a multiprocessor, 128 x 256 numbers each: of fewer the last would
#: leave many idle.
_WAVES, _TILE = 4, 128 * 256
#: Labels of a chunk are a multiple of this, the side of a tile.
_SIDE = 128
#: Of the device's memory, at most this share for logits and slopes, 6 bytes.
_MEMORY = 64 * 6
#: Weights of a chunk that have to be copied into 16 bits, or their gradients out of float32.
_WEIGHTS = 2**25


def visit(
    head: Head,
    operands: Operands,
    *,
    smoothing: float = 0.0,
    chunk_labels: int | None = None,
    wants: Wants = NOTHING,
    scale: float | Tensor = 1.0,
    upstream: Tensor | None = None,
    by_row: bool = False,
    update: Update | None = None,
    input_is_done: Callable[[Tensor], None] | None = None,
    checked: bool = False,
) -> tuple[Tensor, Gradients]:
    """As `chunks.visit`; a `scale` may be a tensor of one element, and the sum is a tensor.

    Nothing is checked here, whatever `checked` says: `call.prepare` has looked where it was to.
    """
    x, weight, bias = head
    wide = reference.compute_dtype(x.dtype)
    # What the slopes of each row are multiplied by would leave float16.
    narrow = x.dtype.itemsize == 2 and not (x.dtype == torch.float16 and upstream is not None)
    x = (x if narrow else x.to(wide)).contiguous()
    wide_x = x if update is None else x.to(wide)
    rows, (labels, width) = x.shape[0], weight.shape
    asked = loss_spec(family.CROSS_ENTROPY, smoothing, None)

    slopes = any(wants) or update is not None
    copies = weight.dtype != x.dtype
    late = narrow and x.dtype == torch.float16  # the scale multiplies products, not slopes
    # A product is of the dtype of its factors, or of float32.
    fits = weight.dtype == wide or (weight.dtype == x.dtype and not late)
    widens = wants.weight and not fits
    size = chunk_size(head, chunk_labels, copies or widens)
    logits = x.new_empty(size * rows, dtype=wide)
    g_memory = x.new_empty(size * rows) if slopes else None
    losses = x.new_empty(size * rows, dtype=wide) if by_row else None
    w_memory = x.new_empty(size, width) if copies else None
    d_memory = x.new_empty(size, width, dtype=wide) if widens else None
    d_input = torch.zeros_like(x, dtype=wide) if wants.input else None
    d_weight = weight.new_empty(weight.shape) if wants.weight else None
    d_bias = bias.new_empty(labels) if bias is not None and wants.bias else None
    by_rows = x.new_zeros(rows, dtype=torch.float64) if by_row else None

    of_slopes, factor = _factors(late, operands, scale, upstream)

    parts = gpu_launch.parts_of(
        asked, logits, [min(size, labels - s) * rows for s in range(0, labels, size)]
    )
    sums = x.new_zeros(sum(parts), dtype=wide)
    # For all chunks at once: a search for each would keep the host busier than the device.
    sought = (asked, logits, operands.keys), (asked, logits, operands.ignored)
    found = [gpu_launch.places_of(*each, labels * rows, size * rows) for each in sought]
    used = 0
    for number, start in enumerate(range(0, labels, size)):
        stop = min(start + size, labels)
        shape = stop - start, rows
        z = logits[: shape[0] * rows].view(shape)
        g = None if g_memory is None else g_memory[: shape[0] * rows].view(shape)
        l = None if losses is None else losses[: shape[0] * rows].view(shape)
        w = weight[start:stop]
        if w_memory is not None:
            w = w_memory[: shape[0]].copy_(w)
        _multiply(w, x.T, z)
        places = [None if rows_of is None else rows_of[number] for rows_of in found]
        gpu_launch.launch(
            asked,
            *_read(z, operands, bias, start, stop, places),
            losses=l,
            gradient=g,
            sums=sums[used : used + parts[number]],
            exact=not narrow,
            **of_slopes,
        )
        used += parts[number]
        if by_rows is not None:
            assert l is not None
            by_rows += l.sum(0, dtype=torch.float64)
        if not slopes:
            continue
        assert g is not None
        if d_input is not None:
            _add_product(d_input, g.T, w)
            if stop == labels:
                _finish(d_input, factor)
                if input_is_done is not None:
                    input_is_done(d_input)
        if update is not None:
            wide_g = g.to(wide)
            update(start, stop, wide_g if factor is None else wide_g * factor, wide_x)
        if d_weight is not None:
            d = d_weight[start:stop]
            product = d if d_memory is None else d_memory[: shape[0]]
            _multiply(g, x, product)
            _finish(product, factor)
            if product is not d:
                d.copy_(product)
        if d_bias is not None:
            sums_of_rows = g.sum(1, dtype=wide)
            _finish(sums_of_rows, factor)
            d_bias[start:stop] = sums_of_rows
    if labels == 0 and d_input is not None and input_is_done is not None:
        input_is_done(d_input)
    total = by_rows
    if total is None:
        total = x.new_zeros((), dtype=torch.float64)
        if used:
            gpu_launch.add_up(sums, total)
    return total, Gradients(d_input, d_weight, d_bias)


def _factors(
    late: bool, operands: Operands, scale: float | Tensor, upstream: Tensor | None
) -> tuple[dict[str, Any], float | Tensor | None]:
    """What the kernel multiplies slopes by, and what is left for the products.

    A factor that lies on the device is an incoming gradient to the kernel.
    """
    if late:
        most = _largest_weight(operands)
        left = scale / _SCALE_OF_FLOAT16 * (1.0 if most is None else most)
        return {"scale": _SCALE_OF_FLOAT16, "divided_by": most}, left
    if not isinstance(scale, Tensor):
        return {"scale": scale, "upstream": None if upstream is None else upstream[None, :]}, None
    return {"upstream": scale if upstream is None else (upstream * scale)[None, :]}, None


def chunk_size(head: Head, chosen: int | None, copies: bool = False) -> int:
    """How many labels to a chunk: enough to fill the device, more if logits then fit its cache."""
    labels, width = head.weight.shape
    rows = max(head.input.shape[0], 1)
    if chosen is None:
        fill, cache, most = _device(head.input.device)
        logits = max(fill, cache // 6)
        chosen = max(-(-logits // (rows * _SIDE)), 1) * _SIDE
        chosen = min(chosen, max(most // rows, 1))
        if copies:
            chosen = min(chosen, max(_WEIGHTS // max(width, 1), _SIDE))
    return max(1, min(chosen, labels))


@functools.cache
def _device(device: torch.device) -> tuple[int, int, int]:
    """How many logits fill a device, its cache in bytes, how many logits it has room for."""
    if device.type != "cuda":  # the interpreter's
        return 2**16, 0, 2**24
    facts = torch.cuda.get_device_properties(device)
    fill = _WAVES * facts.multi_processor_count * _TILE
    return fill, facts.L2_cache_size, facts.total_memory // _MEMORY


def _read(
    z: Tensor,
    o: Operands,
    bias: Tensor | None,
    start: int,
    stop: int,
    places: list[Tensor | None],
) -> tuple[KernelInputs, Any]:
    """What the kernel reads of a chunk; nothing is made dense or copied."""
    first = start * z.shape[1]
    p = o.pos_weight
    elements = KernelInputs(
        z,
        z if o.dense is None else o.dense[:, start:stop].T,
        None if o.label_weight is None else o.label_weight[start:stop, None],
        p[start:stop, None] if p is not None and p.dim() else p,
        None if o.mask is None else o.mask[:, start:stop].T,
    )
    more = gpu_launch.LinearInputs(
        bias=None if bias is None else bias[start:stop, None],
        weight=None if o.row_weight is None else o.row_weight[None, :],
        keys=o.keys,
        values=o.values,
        ignored=o.ignored,
        places=places[0],
        ignored_places=places[1],
        first=first,
    )
    return elements, more


def _largest_weight(o: Operands) -> Tensor | None:
    """What no weight of an element exceeds, on the device; None where nothing weighs."""
    most = None
    # That of positives stands beside the 1 of negatives.
    for weight, least in ((o.pos_weight, 1.0), (o.label_weight, 0.0), (o.row_weight, 0.0)):
        if weight is not None and weight.numel():
            largest = weight.abs().max().clamp(min=least)
            most = largest if most is None else most * largest
    return None if most is None else torch.where(most > 0, most, 1.0)


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """The product, of 16 bits with results in float32 where `out` is."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif _widens(a, out) and hasattr(torch.ops.aten.mm, "dtype_out"):
        torch.ops.aten.mm.dtype_out(a, b, out.dtype, out=out)
    else:
        torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    elif _widens(a, out) and hasattr(torch.ops.aten.addmm, "dtype_out"):
        torch.ops.aten.addmm.dtype_out(out, a, b, out.dtype, out=out)
    else:
        out.addmm_(a.to(out.dtype), b.to(out.dtype))


def _widens(a: Tensor, out: Tensor) -> bool:
    """Whether PyTorch has a product for it."""
    return a.is_cuda and a.dtype.itemsize == 2 and out.dtype == torch.float32


def _finish(product: Tensor, factor: float | Tensor | None) -> None:
    if factor is not None:
        product.mul_(factor)
