"""The records that the steps of the linear loss pass to each other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbce.backends import selection


class LinearOptions(NamedTuple):
    """The options of the linear loss, as `linear_binary_cross_entropy` describes them."""

    pos_weight: Tensor | float | None = None
    label_weight: Tensor | None = None
    row_weight: Tensor | None = None
    mask: Tensor | None = None
    ignored: Tensor | None = None
    label_smoothing: float = 0.0
    reduction: str = "mean"
    chunk_labels: int | None = None
    check_targets: bool | None = None


class Head(NamedTuple):
    """A linear layer and its input.

    Attributes:
        input: X, [..., features]; [rows, features] where chunks are computed.
        weight: W, [labels, features].
        bias: b, [labels].
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None


class NeedsGrad(NamedTuple):
    """Which gradients are needed, as in `ctx.needs_input_grad`."""

    input: bool = False
    weight: bool = False
    bias: bool = False


NO_GRADIENTS = NeedsGrad()


class Gradients(NamedTuple):
    """The gradients that are needed; that of the input in the dtype of computation."""

    input: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


class LogitsShape(NamedTuple):
    """The shape of all logits, and which of the labels this process holds.

    Attributes:
        batch: the shape of the input without its last dimension.
        labels: the number of labels over all processes.
        first: the first label of this process.
        local: the number of labels of this process.
    """

    batch: torch.Size
    labels: int
    first: int
    local: int

    @property
    def rows(self) -> int:
        """The number of rows of the input."""
        return self.batch.numel()

    @property
    def dense(self) -> tuple[int, ...]:
        """The shape of a dense target."""
        return (*self.batch, self.labels)


class LinearOperands(NamedTuple):
    """Targets and weights of the labels of this process.

    The key of an element is `label * rows + row`, its index in the flattened logits [labels, rows].

    Attributes:
        dense: targets, [rows, labels]; None where keys are given.
        keys: of the targets that are not 0, [nnz], int64, ascending. On a GPU they may repeat, and
            those below 0 or beyond the last label are skipped.
        values: the targets at the keys, [nnz]; None for ones, on a GPU.
        mask: bool, [rows, labels], false where an element is ignored.
        ignored: keys of ignored elements, [nnz], int64, ascending.
        pos_weight: 0-dimensional or [labels].
        label_weight: [labels].
        row_weight: [rows].
        columns: of the stored elements of a sparse input, int32 [stored].
    """

    dense: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    mask: Tensor | None = None
    ignored: Tensor | None = None
    pos_weight: Tensor | None = None
    label_weight: Tensor | None = None
    row_weight: Tensor | None = None
    columns: Tensor | None = None


#: Called with the first label of a chunk, the label after its last, G = d loss / d logits of the
#: chunk, [labels, rows], and the input, [rows, features]: updates weight and bias of these labels.
#: On the CPU several threads call it at once, for different labels, in any order.
Update = Callable[[int, int, Tensor, Tensor], None]

#: Makes the update of a weight and a bias, of which some may be frozen.
MakeUpdate = Callable[[Tensor, Tensor | None, NeedsGrad], Update]


class ChunkRequest(NamedTuple):
    """What to compute of the chunks.

    Attributes:
        smoothing: label smoothing.
        chunk_labels: labels per chunk; None for a size that suits the device.
        needs_grad: which gradients are needed.
        scale: a factor of all gradients; a 0-dimensional tensor where only a GPU knows it.
        upstream: a further factor per row, [rows], in the dtype of computation.
        per_row: whether to sum the losses per row, [rows], instead of over all elements. Without
            gradients.
        update: called with each chunk's part of the gradients instead of storing those of weight
            and bias, after the chunk is added to the input's gradient.
        on_input_gradient: called with the input's gradient as soon as it is complete, before the
            part of the weight's gradient is computed of the chunk that completes it. On the CPU by
            the thread that computes this chunk.
        checked: whether a dense target outside [0, 1] raises `InvalidTargetError`, on the CPU.
    """

    smoothing: float = 0.0
    chunk_labels: int | None = None
    needs_grad: NeedsGrad = NO_GRADIENTS
    scale: float | Tensor = 1.0
    upstream: Tensor | None = None
    per_row: bool = False
    update: Update | None = None
    on_input_gradient: Callable[[Tensor], None] | None = None
    checked: bool = True

    @property
    def backward(self) -> bool:
        """Whether the gradient of the logits is needed."""
        return any(self.needs_grad) or self.update is not None


#: The sum of the losses, and the gradients of `ChunkRequest.scale` times that sum.
RunChunks = Callable[[Head, LinearOperands, ChunkRequest], tuple[float | Tensor, Gradients]]


class InvalidTargetError(Exception):
    """A dense target of some chunk is outside [0, 1]."""


class LinearCall(NamedTuple):
    """A call of the linear loss without its tensors.

    Attributes:
        batch: the shape of the losses of the reduction "none".
        reduction: its name.
        denominator: what the sum of the losses is divided by; a 0-dimensional tensor where a GPU
            has counted the elements.
        smoothing: label smoothing.
        chunk_labels: labels per chunk, or None.
        group: the process group over which the labels are sharded, or None.
        backend: which backend computes the chunks, see `backends.selection`.
        make_update: makes the update of weight and bias from which of them needs a gradient; None
            to return the gradients.
        check_target: raises for a dense target outside [0, 1], naming its index; None to accept any
            target.
        dense_loss: the loss of input, weight and bias in plain PyTorch, for second derivatives.
    """

    batch: torch.Size
    reduction: str
    denominator: float | Tensor
    smoothing: float = 0.0
    chunk_labels: int | None = None
    group: Any = None
    backend: str = selection.REFERENCE
    make_update: Callable[[NeedsGrad], Update] | None = None
    check_target: Callable[[], None] | None = None
    dense_loss: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None
