"""Loss and gradients of all labels for a sparse input, by the kernels of sparse rows.

With the rows X in CSR, each stored element is read once for the logits and once for the gradients
of a panel of labels; the input is never made dense. See `backends.cpu.sparse_rows`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbce.backends.cpu import sparse_launch
from torchbce.backends.cpu import sparse_rows as kernels
from torchbce.backends.cpu.sparse_lines import WIDTH
from torchbce.linear.chunks import memory_like
from torchbce.linear.records import (
    ChunkRequest,
    Gradients,
    Head,
    InvalidTargetError,
    LinearOperands,
)
from torchbce.linear.slices import Chunk, ChunkSlices
from torchbce.linear.sparse_input import pointers_of

#: Labels from which on panels are of `WIDTH` instead of 1.
_FEWEST_IN_PANELS = 3
#: Bytes of a chunk's panels and targets: they share the third-level cache with the matrix.
_CHUNK_BYTES = 2**24
#: Items that a chunk is split into, panels times blocks of rows, if the problem is large enough.
_ITEMS = 16


def run_chunks(
    head: Head, operands: LinearOperands, request: ChunkRequest
) -> tuple[float | Tensor, Gradients]:
    """The sum of the losses and the gradients, as `records.RunChunks` describes them.

    The input's gradient has the values at the places that the input stores, [stored].
    """
    matrix = _Matrix(head, operands)
    labels, rows = head.weight.shape[0], head.input.shape[0]
    size = min(matrix.width * matrix.panels_per_chunk(request, labels), max(labels, 1))
    plain = operands._replace(pos_weight=None, label_weight=None, row_weight=None)
    slices = ChunkSlices(plain, rows, labels, size).with_buffers()
    weights = _Weights(head, operands, request)
    gradients = _Gradients(head, matrix, request)
    total = torch.zeros(rows if request.per_row else (), dtype=torch.float64)
    for number, start in enumerate(range(0, labels, size)):
        stop = min(start + size, labels)
        chunk = slices.chunk(number, start, stop)
        total += matrix.run(start, stop, chunk, weights, gradients, request)
    return total, gradients.rounded(head)


class _Weights:
    """The bias and the weights of the loss in float64."""

    def __init__(self, head: Head, operands: LinearOperands, request: ChunkRequest):
        labels = head.weight.shape[0]
        p = operands.pos_weight
        self._of_labels = {
            kernels.BIAS_AT: _double(head.bias),
            kernels.LABEL_WEIGHT_AT: _double(operands.label_weight),
            kernels.POS_WEIGHT_AT: None if p is None else _double(p.expand(labels)),
        }
        self._of_rows = {
            kernels.ROW_WEIGHT_AT: _double(operands.row_weight),
            kernels.UPSTREAM_AT: _double(request.upstream),
        }

    def fields(self, start: int, stop: int) -> dict[int, Any]:
        """Those of the labels of a chunk."""
        of_labels = {k: None if t is None else t[start:stop] for k, t in self._of_labels.items()}
        return of_labels | self._of_rows


class _Gradients:
    """Memory for the gradients that are needed."""

    def __init__(self, head: Head, matrix: "_Matrix", request: ChunkRequest):
        needs = request.needs_grad
        self.weight = memory_like(head.weight) if needs.weight else None
        if self.weight is not None and matrix.numbers is not None:
            self.weight.zero_()  # the columns that are not stored
        self.values = torch.zeros(matrix.stored, dtype=torch.float64) if needs.input else None
        self.bias = head.weight.new_zeros(len(head.weight), dtype=torch.float64)

    def rounded(self, head: Head) -> Gradients:
        """The gradients in the dtypes of their tensors."""
        dtype, needs_bias = head.weight.dtype, head.bias is not None
        return Gradients(
            None if self.values is None else self.values.to(head.input.dtype),
            self.weight,
            self.bias.to(dtype) if needs_bias else None,
        )


class _Matrix:
    """The matrix as the kernels read it.

    Attributes:
        width: labels per panel.
        stored: the number of stored elements.
        numbers: the columns that are stored, ascending, which the panels have; None for all.
    """

    def __init__(self, head: Head, operands: LinearOperands):
        assert operands.columns is not None  # of a sparse input
        x = head.input.detach()
        labels, columns = head.weight.shape
        self._weight = head.weight.detach().resolve_neg()
        self._pointers, self._threads = pointers_of(x), torch.get_num_threads()
        self.width = 1 if labels < _FEWEST_IN_PANELS else WIDTH
        indices, self.numbers = operands.columns.numpy(), None
        self.stored = len(indices)
        if labels > 1 and self.stored < columns:
            # Panels of the columns that this batch has: a batch of text has few of all words.
            indices, self.numbers = _renumbered(indices, columns)
            columns = len(self.numbers)
        values = x.values().resolve_neg().contiguous().numpy()
        self._dtype, self._columns = values.dtype.name, columns
        self._fields = {
            **sparse_launch.matrix_fields(self._pointers, indices, values, columns),
            kernels.NUMBERS_AT: self.numbers,
        }

    def panels_per_chunk(self, request: ChunkRequest, labels: int) -> int:
        """How many panels are computed at a time."""
        if request.needs_grad.input:
            return 1  # the gradient of a value is a sum over labels
        if request.chunk_labels is not None:
            return -(-request.chunk_labels // self.width)
        rows = len(self._pointers) - 1
        of_panel = 8 * self.width * (2 * self._columns + rows)
        return max(1, min(_CHUNK_BYTES // max(of_panel, 1), -(-labels // self.width)))

    def run(
        self,
        start: int,
        stop: int,
        chunk: Chunk,
        weights: _Weights,
        gradients: _Gradients,
        request: ChunkRequest,
    ) -> Tensor:
        """The losses of the labels from `start` to `stop` - 1; their gradients are written."""
        rows, columns, width = len(self._pointers) - 1, self._columns, self.width
        panels = -(-(stop - start) // width)
        blocks = self._row_blocks(panels)
        items = panels * blocks
        target = _dense_target(chunk, stop - start, rows)
        weight = self._weight[start:stop]
        sums = np.zeros((items, kernels.SUMS + width))
        row_losses = np.empty((panels, rows)) if request.per_row else None
        of_weight = None if gradients.weight is None else np.empty((items, columns, width))
        fields = {
            kernels.ITEMS: items,
            kernels.ROW_BLOCKS: blocks,
            kernels.LABELS: stop - start,
            kernels.EDGES_AT: sparse_launch.row_edges(self._pointers, blocks),
            kernels.PANELS_AT: np.empty((panels, columns, width)),
            **_strided(target, kernels.TARGET_AT, kernels.TARGET_LABEL, kernels.TARGET_ROW),
            **_strided(chunk.mask, kernels.MASK_AT, kernels.MASK_LABEL, kernels.MASK_ROW),
            **weights.fields(start, stop),
            kernels.ROW_LOSSES_AT: row_losses,
            kernels.VALUE_GRADIENTS_AT: gradients.values,
            kernels.GRADIENTS_AT: of_weight,
            kernels.SUMS_AT: sums,
            **_strided(weight, kernels.WEIGHT_AT, kernels.WEIGHT_ROW, kernels.WEIGHT_COLUMN),
            kernels.SMOOTHING: float(request.smoothing),
            kernels.SCALE: float(request.scale),
        }
        record = sparse_launch.RowsRecord(self._fields | fields)
        pieces = sparse_launch.pieces(stop - start, columns, width)
        dtype = str(weight.dtype).removeprefix("torch.")
        numbers, products = columns * (stop - start), self.stored * width * panels
        record.run(sparse_launch.pack_kernel(dtype, width), pieces, self._threads, numbers)
        record.run(sparse_launch.rows_kernel(self._dtype, width), items, self._threads, products)
        if request.checked and sums[:, kernels.WRONG].any():
            raise InvalidTargetError
        if gradients.weight is not None:
            part = gradients.weight[start:stop]
            for field, value in _strided(
                part, kernels.WEIGHT_AT, kernels.WEIGHT_ROW, kernels.WEIGHT_COLUMN
            ).items():
                record.set(field, value)
            record.run(sparse_launch.unpack_kernel(dtype, width), pieces, self._threads, numbers)
        of_bias = sums[:, kernels.SUMS :].reshape(panels, blocks, width).sum(1).reshape(-1)
        gradients.bias[start:stop] = torch.from_numpy(of_bias[: stop - start])
        if row_losses is not None:
            return torch.from_numpy(row_losses).sum(0)
        return torch.tensor(sum(sums[:, kernels.LOSS_SUM].tolist(), 0.0), dtype=torch.float64)

    def _row_blocks(self, panels: int) -> int:
        """Into how many blocks the rows are split, for as many panels."""
        if self.width == 1:
            return sparse_launch.row_blocks(self.stored, self._columns)
        most = 1 << (max(_ITEMS // panels, 1).bit_length() - 1)
        return sparse_launch.row_blocks(self.stored, self._columns, self.width, most)


def _dense_target(chunk: Chunk, labels: int, rows: int) -> Tensor:
    """The targets of a chunk in float64, [labels, rows]."""
    if chunk.positions is None:
        # Rows by labels, as a dense target is: the copy then reads and writes in order.
        target = torch.empty(rows, labels, dtype=torch.float64).copy_(chunk.target.T)
        return target.T
    target = torch.zeros(labels, rows, dtype=torch.float64)
    target.view(-1)[chunk.positions] = chunk.target.to(torch.float64)
    return target


def _renumbered(indices: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns as numbers among those that occur, and these."""
    occurs = np.zeros(columns, bool)
    occurs[indices] = True
    numbers = np.flatnonzero(occurs)
    number_of = np.empty(columns, np.int32)
    number_of[numbers] = np.arange(len(numbers), dtype=np.int32)
    return number_of[indices], numbers


def _strided(tensor: Tensor | None, at: int, first: int, second: int) -> dict[int, Any]:
    """The fields of a tensor of two dimensions: its address and strides."""
    if tensor is None:
        return {at: None}
    strides = tensor.stride()
    return {at: tensor, first: strides[0], second: strides[1]}


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(torch.float64).contiguous()
