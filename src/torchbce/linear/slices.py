"""Targets and weights of each chunk of labels."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.linear.records import LinearOperands


class Chunk(NamedTuple):
    """Targets and weights of logits [labels, rows], to whose shape all of them broadcast.

    Attributes:
        target: dense, or the targets that are not 0, [nnz].
        positions: their indices in the flattened logits, [nnz]; None for a dense target.
        weight: per element.
        pos_weight: of the positive part.
        mask: false where an element is ignored.
    """

    target: Tensor
    positions: Tensor | None
    weight: Tensor | None
    pos_weight: Tensor | None
    mask: Tensor | None


class ChunkSlices:
    """The operands of each chunk of `size` labels."""

    def __init__(self, operands: LinearOperands, rows: int, labels: int, size: int):
        self._operands, self._rows, self._size = operands, rows, size
        self._edges = [min(start, labels) * rows for start in range(0, labels + size, size)]
        self._target_edges = self._edges_in(operands.keys)
        self._ignored_edges = self._edges_in(operands.ignored)
        self._mask: Tensor | None = None
        self._weight: Tensor | None = None

    def with_buffers(self) -> "ChunkSlices":
        """The same, with buffers of their own for one chunk after the other."""
        own, operands, elements = copy.copy(self), self._operands, self._size * self._rows
        if operands.ignored is not None:
            own._mask = operands.ignored.new_empty(elements, dtype=torch.bool)
        if operands.label_weight is not None and operands.row_weight is not None:
            own._weight = operands.row_weight.new_empty(elements)
        return own

    def chunk(self, number: int, start: int, stop: int) -> Chunk:
        """The chunk of this number, which has the labels from `start` to `stop` - 1."""
        p = self._operands.pos_weight
        return Chunk(
            *self._target_of(number, start, stop),
            self._weight_of(start, stop),
            p[start:stop, None] if p is not None and p.dim() else p,
            self._mask_of(number, start, stop),
        )

    def _target_of(self, number: int, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        dense, keys, values = self._operands[:3]
        if dense is not None:
            return dense[:, start:stop].T, None
        assert keys is not None  # where there is no dense target
        assert values is not None
        part = slice(*self._target_edges[number : number + 2])
        positions = keys[part]
        return values[part], positions - start * self._rows if start else positions

    def _mask_of(self, number: int, start: int, stop: int) -> Tensor | None:
        mask, ignored = self._operands.mask, self._operands.ignored
        if mask is not None:
            mask = mask[:, start:stop].T
        if ignored is None:
            return mask
        assert self._mask is not None
        shape = stop - start, self._rows
        valid = self._mask[: shape[0] * shape[1]]
        if mask is None:
            valid.fill_(True)
        else:
            valid.view(shape).copy_(mask)
        keys = ignored[slice(*self._ignored_edges[number : number + 2])]
        valid[keys - start * self._rows] = False
        return valid.view(shape)

    def _weight_of(self, start: int, stop: int) -> Tensor | None:
        label_weight, row_weight = self._operands.label_weight, self._operands.row_weight
        of_labels = None if label_weight is None else label_weight[start:stop, None]
        of_rows = None if row_weight is None else row_weight[None, :]
        if of_labels is None or of_rows is None:
            return of_rows if of_labels is None else of_labels
        assert self._weight is not None
        shape = stop - start, self._rows
        return torch.mul(of_labels, of_rows, out=self._weight[: shape[0] * shape[1]].view(shape))

    def _edges_in(self, keys: Tensor | None) -> list[int]:
        """Where the keys of each chunk begin, and where those of the last end."""
        if keys is None:
            return []
        if len(self._edges) == 2:
            return [0, keys.numel()]
        edges = torch.tensor(self._edges, device=keys.device)
        places: list[int] = torch.searchsorted(keys, edges).tolist()
        return places
