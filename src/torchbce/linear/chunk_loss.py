"""The loss of a chunk's logits and its gradient: by the CPU's kernel, or by the definition."""

import functools
from typing import Protocol

import torch
from torch import Tensor

from torchbce.backends import selection
from torchbce.backends.request import KernelInputs, LossSpec, loss_spec
from torchbce.definition.arguments import Options, aligned
from torchbce.definition.dense import dense_loss
from torchbce.definition.family import CROSS_ENTROPY, CROSS_ENTROPY_SLOPE
from torchbce.linear.records import ChunkRequest, InvalidTargetError, LinearOperands
from torchbce.linear.slices import Chunk

#: One thread may write gradients that begin this many elements in front of the logits that it
#: reads: the kernel's `staging.BLOCK`. In the place of the logits themselves it would take 4 times
#: as long, without vector instructions, which are for memory that does not overlap in a block.
SHIFT = 1024


class ChunkLoss(Protocol):
    """The losses of logits [labels, rows], summed over all elements or per row.

    Writes into `out`, of the logits' shape, the gradient by the logits; or the losses, where they
    are summed per row. If one thread computes it, `out` may overlap the logits, see `SHIFT`.
    """

    def __call__(
        self, logits: Tensor, chunk: Chunk, request: ChunkRequest, out: Tensor | None
    ) -> float | Tensor: ...


def chunk_loss(
    x: Tensor, operands: LinearOperands, request: ChunkRequest, most_threads: int | None
) -> ChunkLoss:
    """What computes the losses of chunks of these operands.

    To be called in the thread of the caller, which may have chosen a backend.
    """
    target = operands.values if operands.dense is None else operands.dense
    assert target is not None  # None on a GPU only
    weights = operands.label_weight, operands.pos_weight, operands.mask
    backend = selection.chosen(x, target, *weights, row_weight=operands.row_weight)
    if backend is selection.NUMBA:
        spec = loss_spec(CROSS_ENTROPY, request.smoothing)
        return functools.partial(_by_kernel, spec, most_threads)
    return _by_definition


def compile_kernel(loss: ChunkLoss, logits: Tensor, chunk: Chunk) -> None:
    """Compile the kernel of a loss, if it has one that is new."""
    if isinstance(loss, functools.partial):
        from torchbce.backends.cpu import launch as cpu_launch

        cpu_launch.kernel_for(loss.args[0], _inputs(logits, chunk))


def sum_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which losses are summed: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _inputs(logits: Tensor, chunk: Chunk) -> KernelInputs:
    weights = chunk.weight, chunk.pos_weight, chunk.mask
    return KernelInputs(logits, chunk.target, *weights, chunk.positions)


def _by_kernel(
    spec: LossSpec,
    most_threads: int | None,
    logits: Tensor,
    chunk: Chunk,
    request: ChunkRequest,
    out: Tensor | None,
) -> float | Tensor:
    from torchbce.backends.cpu import launch as cpu_launch  # loads Numba

    losses, gradient = (out, None) if request.per_row else (None, out)
    upstream = None if request.upstream is None else request.upstream[None, :]
    total, _, _, invalid = cpu_launch.launch(
        spec,
        _inputs(logits, chunk),
        losses,
        gradient,
        float(request.scale),
        upstream,
        not request.per_row,
        most_threads,
    )
    if invalid and request.checked:
        raise InvalidTargetError
    return float(total) if losses is None else losses.sum(0, dtype=torch.float64)


def _by_definition(
    logits: Tensor, chunk: Chunk, request: ChunkRequest, out: Tensor | None
) -> Tensor:
    target = chunk.target
    if chunk.positions is not None:
        target = torch.zeros_like(logits)
        target.view(-1)[chunk.positions] = chunk.target.to(target.dtype)
    options = Options(
        label_smoothing=request.smoothing,
        reduction="none",
        check_targets=None if request.checked else False,
    )
    arguments = aligned(logits, target, chunk.weight, chunk.pos_weight, chunk.mask)
    try:
        loss = dense_loss(CROSS_ENTROPY, arguments, options)
    except ValueError as error:
        raise InvalidTargetError from error
    if out is not None and not request.per_row:
        gradient = dense_loss(CROSS_ENTROPY_SLOPE, arguments, options)
        if request.upstream is not None:
            gradient = gradient * request.upstream
            if chunk.mask is not None:  # an infinite upstream gradient times 0 would be NaN
                gradient = torch.where(chunk.mask, gradient, 0.0)
        torch.mul(gradient, request.scale, out=out)
    return loss.sum(0 if request.per_row else None, dtype=sum_dtype(logits.device))
