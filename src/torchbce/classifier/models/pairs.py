"""The pairs model: the linear model and a weight for each cell of the pairs that matter.

A cell is a combination of a group of one column's codes and a group of another's.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.columns.numeric import NumericColumn
from torchbce.classifier.models.features import SparseRows, beside

#: Groups of a numeric column, of about equal numbers of rows, and of a categorical one: its most
#: frequent categories, the others together.
NUMERIC_GROUPS, CATEGORY_GROUPS = 8, 24

#: A cell with fewer rows has no weight.
CELL_ROWS = 25

#: Pairs are ranked on this many rows at most, and among this many columns.
RANKING_ROWS, RANKING_COLUMNS = 50_000, 64


@dataclass(frozen=True)
class Pair:
    """Two columns, by their positions in `Encoded.codes`, and the feature of each cell.

    Attributes:
        first: the position of one column.
        second: the position of the other.
        cells: the number of the feature of each cell, int32 [groups of first, groups of second];
            -1 for a cell without a weight.
    """

    first: int
    second: int
    cells: np.ndarray


@dataclass(frozen=True)
class Crosses:
    """The pairs of a model.

    Attributes:
        groups: for each column the group of each code, int32 [codes + 1]; the last one is that of
            the code -1.
        pairs: the pairs, whose features follow one another.
    """

    groups: list[np.ndarray]
    pairs: list[Pair]

    @property
    def width(self) -> int:
        """The number of cells with a weight."""
        return sum(int((pair.cells >= 0).sum()) for pair in self.pairs)

    def features(self, codes: np.ndarray, linear: SparseRows) -> SparseRows:
        """The features of the linear model, and after them a 1 at the cell of each pair."""
        if not self.pairs:
            return linear
        found = np.column_stack(
            [
                pair.cells[self.group(pair.first, codes), self.group(pair.second, codes)]
                for pair in self.pairs
            ]
        )
        stored = found >= 0
        indptr = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
        indices = found[stored] + linear.width
        return beside(linear, indptr, indices, None, linear.width + self.width)

    def group(self, column: int, codes: np.ndarray) -> np.ndarray:
        """The group of each row in one column, int32 [rows]."""
        groups: np.ndarray = self.groups[column][codes[:, column]]
        return groups


def code_groups(encoder: Encoder, codes: np.ndarray) -> list[np.ndarray]:
    """For each column the group of each code, from the numbers of rows of the codes."""
    groups = []
    for column, values in zip(encoder.coded, codes.T, strict=True):
        counts = np.bincount(values[values >= 0], minlength=column.codes)
        if isinstance(column, NumericColumn):
            bins = column.codes - column.flag_missing
            share = (np.cumsum(counts[:bins]) - counts[:bins] / 2) / max(counts[:bins].sum(), 1)
            wanted = np.floor(share * NUMERIC_GROUPS)
            group = np.unique(wanted, return_inverse=True)[1].ravel() if bins else np.zeros(0)
            rest = int(group.max(initial=-1)) + 1
            tail = [rest] * (column.flag_missing + 1)  # a missing value, and no value
        else:
            order = np.argsort(-counts, kind="stable")
            group = np.full(column.codes, min(CATEGORY_GROUPS, column.codes))
            group[order[:CATEGORY_GROUPS]] = np.arange(min(CATEGORY_GROUPS, column.codes))
            tail = [min(CATEGORY_GROUPS, column.codes)]
        groups.append(np.concatenate([group, tail]).astype(np.int32))
    return groups


def ranked_pairs(
    groups: list[np.ndarray],
    codes: np.ndarray,
    residuals: np.ndarray,
    curvature: np.ndarray,
    seed: int,
) -> list[tuple[int, int]]:
    """The pairs of columns whose cells explain the residuals of the linear model, best first.

    The gain of a pair is the sum over its cells of :math:`R^2 / (H + 1) - 1`, where R is the sum of
    the residuals y - p of the cell's rows and H that of p (1 - p): twice the fall of the loss by a
    Newton step, less what noise alone would give. Pairs without a gain are left out.

    Args:
        groups: of `code_groups`.
        codes: of the rows that the linear model was fitted to.
        residuals: y - p, [rows].
        curvature: p (1 - p), [rows].
        seed: of the sample of rows.
    """
    if len(codes) > RANKING_ROWS:
        sample = np.random.default_rng(seed).choice(len(codes), RANKING_ROWS, replace=False)
        codes, residuals, curvature = codes[sample], residuals[sample], curvature[sample]
    grouped = [group[codes[:, column]] for column, group in enumerate(groups)]
    sizes = [int(group.max()) + 1 for group in groups]
    columns = [column for column, size in enumerate(sizes) if size > 1]
    if len(columns) > RANKING_COLUMNS:
        single = {c: _gain(grouped[c], sizes[c], residuals, curvature) for c in columns}
        columns = sorted(sorted(columns, key=lambda c: -single[c])[:RANKING_COLUMNS])
    gains = []
    for first, second in itertools.combinations(columns, 2):
        cell = grouped[first] * sizes[second] + grouped[second]
        gain = _gain(cell, sizes[first] * sizes[second], residuals, curvature)
        if gain > 0:
            gains.append((-gain, first, second))
    return [(first, second) for _, first, second in sorted(gains)]


def _gain(cell: np.ndarray, cells: int, residuals: np.ndarray, curvature: np.ndarray) -> float:
    r = np.bincount(cell, residuals, cells)
    h = np.bincount(cell, curvature, cells)
    return float((r * r / (h + 1)).sum() - (h > 0).sum())


def make_crosses(
    groups: list[np.ndarray], codes: np.ndarray, pairs: list[tuple[int, int]]
) -> Crosses:
    """The crosses of some pairs, with a feature for each cell that has enough of the rows."""
    made: list[Pair] = []
    start = 0
    for first, second in pairs:
        shape = int(groups[first].max()) + 1, int(groups[second].max()) + 1
        cell = groups[first][codes[:, first]] * shape[1] + groups[second][codes[:, second]]
        counts = np.bincount(cell, minlength=shape[0] * shape[1])
        kept = counts >= CELL_ROWS
        numbers = np.where(kept, start + np.cumsum(kept) - 1, -1).astype(np.int32)
        made.append(Pair(first, second, numbers.reshape(shape)))
        start += int(kept.sum())
    return Crosses(groups, made)
