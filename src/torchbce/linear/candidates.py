"""The k largest numbers of each row, without a full search of all of them."""

import math

import torch
from torch import Tensor

#: Columns per tile. With fewer, torch.topk of all columns is as fast; with more, searching the
#: tiles that are found takes longer than their maxima save.
_NARROWEST, _WIDEST = 4, 32
#: Of fewer numbers, torch.topk finds the largest in 1 ms, and tiles take seven operations.
_FEWEST = 2**20
#: Room for the candidates of several blocks where k is small.
_ROOM = 64


def largest(
    numbers: Tensor, k: int, in_order: bool = True, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their columns, as torch.topk finds them, and in its order.

    They are in the k tiles with the largest maxima. Of n columns in tiles of w, torch.topk has to
    search n / w maxima and k w numbers instead of n: of 128 rows of 46,391 it finds the 1,000
    largest in 39 ms instead of 63 on one thread, the five largest in 6 instead of 12.
    """
    width = _tile_width(numbers, k)
    if width < _NARROWEST:
        values, columns = torch.topk(numbers, k, sorted=in_order, out=out)
        return values, columns
    values, columns = _select(*_Tiles(numbers, width).largest(k), k, in_order)
    if out is None:
        return values, columns
    return out[0].copy_(values), out[1].copy_(columns)


class Candidates:
    """The numbers that may be among the k largest of each row, of blocks of columns that follow.

    Of each block, those above the threshold are added, the smallest of the k largest so far; of
    numbers in random order, block j has about k / j of them. Where the host would have to wait for
    their count, the k largest of the block are added. When the memory is full, the k largest stay.
    """

    def __init__(self, like: Tensor, k: int):
        """For numbers of the rows, dtype and device of `like`."""
        shape = len(like), 2 * k + _ROOM
        self._k, self._width, self._seen = k, 0, 0
        self._values = like.new_empty(shape)
        self._columns = like.new_empty(shape, dtype=torch.int64)
        self._threshold: Tensor | None = None  # [rows, 1]

    def add(self, block: Tensor) -> None:
        """Add the next block of columns, [rows, n]."""
        n = block.shape[1]
        if block.is_cpu and self._threshold is None and self._width >= self._k:
            self._keep_largest()
        found = self._above_threshold(block)
        values, columns = found or largest(block, min(self._k, n), in_order=False)
        count = values.shape[1]
        if self._width + count > self._values.shape[1]:
            self._keep_largest()
        added = slice(self._width, self._width + count)
        self._values[:, added] = values
        torch.add(columns, self._seen, out=self._columns[:, added])
        self._width += count
        self._seen += n

    def largest(self, in_order: bool = True) -> tuple[Tensor, Tensor]:
        """The k largest in descending order and their columns; all if there are fewer."""
        values, columns = self._values[:, : self._width], self._columns[:, : self._width]
        return _select(values, columns, min(self._k, self._width), in_order)

    def _above_threshold(self, block: Tensor) -> tuple[Tensor, Tensor] | None:
        """What is above the threshold, and in rows with less of it more; None if it is much."""
        if self._threshold is None:
            return None
        expected = -(-self._k * block.shape[1] // (self._seen + block.shape[1]))
        width = _tile_width(block, expected)
        if width < _NARROWEST:
            return None
        tiles = _Tiles(block, width)
        count = _most_above(tiles.maxima, self._threshold)
        if count > tiles.maxima.shape[1] // _NARROWEST:
            return None
        values, columns = tiles.largest(count)
        return _select(values, columns, min(_most_above(values, self._threshold), self._k), False)

    def _keep_largest(self) -> None:
        values, columns = self.largest(in_order=False)
        self._width = values.shape[1]
        self._values[:, : self._width] = values
        self._columns[:, : self._width] = columns
        if values.is_cpu:
            # NaN is larger than any number, as in torch.topk.
            numbers = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
            self._threshold = numbers.amin(1, keepdim=True)


class _Tiles:
    """Of [rows, n] numbers, tile j of m has the columns j, j + m, j + 2 m and so on.

    The columns that remain, fewer than a tile has, belong to none.
    """

    def __init__(self, numbers: Tensor, width: int):
        self._numbers, self._width = numbers, width
        rows, count = numbers.shape[0], numbers.shape[1] // width
        #: The largest number of each tile, [rows, m]; NaN if one is NaN.
        self.maxima = numbers[:, : count * width].view(rows, width, count).amax(1)

    def largest(self, count: int) -> tuple[Tensor, Tensor]:
        """What is in the tiles with the largest maxima and in no tile, and the columns of these."""
        m, (rows, n) = self.maxima.shape[1], self._numbers.shape
        tiles = torch.topk(self.maxima, count, sorted=False).indices
        columns = (tiles[:, None, :] + torch.arange(0, self._width * m, m)[:, None]).flatten(1)
        if self._width * m < n:
            columns = torch.cat([columns, torch.arange(self._width * m, n).expand(rows, -1)], 1)
        return self._numbers.gather(1, columns), columns


def _tile_width(numbers: Tensor, k: int) -> int:
    """The columns per tile that make the search for the k largest short; 0 to search all columns.

    On a GPU, torch.topk takes few passes over all columns.
    """
    if not numbers.is_cpu or numbers.numel() < _FEWEST:
        return 0
    return min(math.isqrt(numbers.shape[1] // k), _WIDEST)


def _most_above(numbers: Tensor, threshold: Tensor) -> int:
    """How many numbers of a row are above its threshold, at most."""
    above = (numbers <= threshold).logical_not_()  # NaN is
    return int(above.sum(1, dtype=torch.int32).max())


def _select(values: Tensor, columns: Tensor, k: int, in_order: bool) -> tuple[Tensor, Tensor]:
    """The k largest values of each row and their columns."""
    best = torch.topk(values, k, sorted=in_order)
    return best.values, columns.gather(1, best.indices)
