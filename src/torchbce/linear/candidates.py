"""The k largest numbers of each row, of numbers that come in blocks of columns."""

import torch
from torch import Tensor

#: Room for the candidates of several blocks where k is small.
_ROOM = 64
#: Above this share of a block, selecting the k largest is faster than listing what is above the
#: threshold (256 rows of 8,192: a sixteenth of them is listed in 2.6 ms and half in 7.4; the 1,000
#: largest of each row are selected in 11.5).
_MOST_LISTED = 1 / 4


class Candidates:
    """The numbers that may be among the k largest of each row, with their columns.

    Each block adds at most k numbers per row. On the CPU these are the ones above the threshold,
    the smallest of the k largest so far; of numbers in random order, block j has about k / j of
    them. On other devices, where the host would have to wait to count them, they are the k largest
    of the block. Whenever the memory is full, only the k largest are kept.
    """

    def __init__(self, like: Tensor, k: int):
        """For numbers of the rows, dtype and device of `like`."""
        shape = len(like), 2 * k + _ROOM
        self._k, self._width = k, 0
        self._values = like.new_empty(shape)
        self._columns = like.new_empty(shape, dtype=torch.int64)
        # [rows, 1]; None where it is not known, or -inf for some row.
        self._threshold: Tensor | None = None

    def add(self, block: Tensor, first: int) -> None:
        """Add a block of numbers, [rows, n], whose first column is column `first` of all."""
        if block.is_cpu and self._threshold is None and self._width >= self._k:
            self._keep_largest()
        if self._threshold is not None and self._listed(block, first, self._threshold):
            return
        best = torch.topk(block, min(self._k, block.shape[1]), sorted=False)
        values, columns = self._room(best.values.shape[1])
        values.copy_(best.values)
        torch.add(best.indices, first, out=columns)

    def largest(self) -> tuple[Tensor, Tensor]:
        """The k largest in descending order and their columns; all if there are fewer."""
        return self._selected(in_order=True)

    def _listed(self, block: Tensor, first: int, threshold: Tensor) -> bool:
        """Add the numbers of a block that are above the threshold, unless they are many."""
        # Not `block > threshold`: as in torch.topk, NaN is larger than any number.
        above = (block <= threshold).logical_not_()
        counts = above.count_nonzero(1)
        most = int(counts.max())
        if most > self._k or int(counts.sum()) > _MOST_LISTED * block.numel():
            return False
        if most:
            values, columns = self._room(most)
            # Rows with fewer are filled up with less than any candidate.
            values.fill_(-torch.inf)
            places = above.view(-1).nonzero().view(-1)
            rows = torch.repeat_interleave(counts)
            within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
            values[rows, within] = block.view(-1)[places]
            columns[rows, within] = places - rows * block.shape[1] + first
        return True

    def _room(self, count: int) -> tuple[Tensor, Tensor]:
        """Memory for `count` more candidates per row, at most k."""
        if self._width + count > self._values.shape[1]:
            self._keep_largest()
        added = slice(self._width, self._width + count)
        self._width += count
        return self._values[:, added], self._columns[:, added]

    def _keep_largest(self) -> None:
        values, columns = self._selected(in_order=False)
        self._width = values.shape[1]
        self._values[:, : self._width] = values
        self._columns[:, : self._width] = columns
        if values.is_cpu:
            threshold = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
            threshold = threshold.amin(1, keepdim=True)
            self._threshold = None if bool((threshold == -torch.inf).any()) else threshold

    def _selected(self, in_order: bool) -> tuple[Tensor, Tensor]:
        values, columns = self._values[:, : self._width], self._columns[:, : self._width]
        best = torch.topk(values, min(self._k, self._width), sorted=in_order)
        return best.values, columns.gather(1, best.indices)
