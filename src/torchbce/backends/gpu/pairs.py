"""The kernel of the sigmoid loss of pairs: from inner products to losses and slopes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchbce.backends.gpu import formulas, launch
from torchbce.backends.gpu.calls import Launch

#: A tile of the inner products [labels, rows].
_LABELS, _ROWS = 4, 512
_WARPS = 4
#: The place of `first` among the kernel's arguments; it is another one per chunk.
_FIRST = 8


def count_programs(labels: int, rows: int) -> int:
    """How many programs visit a chunk."""
    return -(-labels // _LABELS) * -(-rows // _ROWS)


def launch_pairs(
    products: Tensor,
    scale: Tensor,
    bias: Tensor,
    positives: Tensor | None,
    slopes: tuple[Tensor, Tensor] | None,
    sums: Tensor,
    first: int,
) -> None:
    """The losses of a chunk of labels, and their derivatives by the logits.

    Args:
        products: s, the inner products [labels, rows], float32; the logits are scale s + bias.
        scale: 0-dimensional, float32.
        bias: 0-dimensional, float32.
        positives: the positive labels of each row, int64 [rows, K]; None for the label of the same
            number.
        slopes: where the derivatives go, in two parts of bfloat16 with a relative error of 2^-17,
            each of the shape of `products`; None if they are not needed.
        sums: of the losses, of their derivatives, and of the latter times s, float32
            [3, programs].
        first: the label of the first row of `products`.
    """
    labels, rows = products.shape
    hi, lo = (None, None) if slopes is None else slopes
    tensors = [t for t in (products, scale, bias, positives, hi, lo, sums) if t is not None]
    columns = 0 if positives is None else positives.shape[1]
    key = "pairs", products.device, labels, rows, columns, sums.shape, slopes is None

    def describe() -> Launch:
        options: dict[str, object] = {"LABELS": _LABELS, "ROWS": _ROWS, "num_warps": _WARPS}
        arguments = (
            *(products, scale, bias, positives, hi, lo, sums),
            columns,
            first,
            labels,
            rows,
            sums.shape[1],
        )
        programs = count_programs(labels, rows)
        return Launch(pairs_kernel, programs, arguments, options, varying=_FIRST)

    launch.run(key, tensors, describe, products.device, first)


@triton.jit
def pairs_kernel(
    products,
    scale,
    bias,
    positives,
    hi,
    lo,
    sums,
    columns,
    first: tl.int64,
    labels,
    rows,
    programs,
    LABELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """See `launch_pairs`; `programs` is the length of a row of `sums`."""
    program, across = tl.program_id(0), tl.cdiv(rows, ROWS)
    label = (program // across * LABELS + tl.arange(0, LABELS))[:, None]
    row = (program % across * ROWS + tl.arange(0, ROWS))[None, :]
    inside = (label < labels) & (row < rows)
    at = label.to(tl.int64) * rows + row
    s = tl.load(products + at, mask=inside, other=0.0, eviction_policy="evict_first")
    z = tl.fma(tl.load(scale), s, tl.load(bias))
    name = label + first
    if positives is None:
        positive = name == row
    else:
        # False for the whole tile: in a loop a variable keeps its shape.
        positive = (name < 0) & (row < 0)
        for k in range(columns):
            each = tl.load(positives + row.to(tl.int64) * columns + k, mask=row < rows, other=-1)
            positive = positive | (name == each)
    y = positive.to(tl.float32)
    loss, slope = formulas.loss_and_slope(
        z, y, y, 1 - y, None, formulas.LOGITS, False, False, True, False, True
    )
    loss, slope = tl.where(inside, loss, 0.0), tl.where(inside, slope, 0.0)
    tl.store(sums + program, tl.sum(loss))
    if hi is not None:
        tl.store(sums + programs + program, tl.sum(slope))
        tl.store(sums + 2 * programs + program, tl.sum(slope * s))
        upper = slope.to(tl.bfloat16)
        tl.store(hi + at, upper, mask=inside)
        tl.store(lo + at, (slope - upper.to(tl.float32)).to(tl.bfloat16), mask=inside)


def new_slopes(like: Tensor, elements: int) -> tuple[Tensor, Tensor]:
    """Memory for the slopes of the largest chunk."""
    return tuple(  # type: ignore[return-value]
        torch.empty(elements, dtype=torch.bfloat16, device=like.device) for _ in range(2)
    )
