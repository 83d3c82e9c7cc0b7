"""Boosted trees as plain arrays, and the loop that evaluates them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

#: Rows that a thread evaluates at a time, and the most threads.
SHARE, MOST_THREADS = 4096, 8


@dataclass(frozen=True)
class Trees:
    """Trees that add up to a logit, as arrays over the nodes of all trees.

    A row goes from a node to its left child if its value is at most the threshold, or its category
    is in the node's set; a missing value, or a category that training did not have, goes where the
    node says.

    Attributes:
        starts: the root of each tree, and the end of the last one, int64 [trees + 1].
        feature: the column that is compared, int32; -1 at a leaf.
        threshold: float64.
        left: the left child, int32, as an index into all nodes; the right one follows in `right`.
        right: int32.
        missing_left: whether a missing value goes left, bool.
        categories: the row of the node's set in `sets`, int32; -1 if it compares numbers.
        value: what a leaf adds to the logit, float64.
        cover: the number of training rows that came to the node, int32.
        sets: bit sets of 256 categories, uint32 [sets, 8].
        baseline: what is added to the sum of all trees.
    """

    starts: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    categories: np.ndarray
    value: np.ndarray
    cover: np.ndarray
    sets: np.ndarray
    baseline: float

    def __len__(self) -> int:
        return len(self.starts) - 1

    def first(self, trees: int) -> "Trees":
        """The first trees alone."""
        end = int(self.starts[trees])
        nodes = {name: getattr(self, name)[:end] for name in NODE_FIELDS}
        sets = self.sets[: nodes["categories"].max(initial=-1) + 1]  # in the order of the trees
        return replace(self, starts=self.starts[: trees + 1], sets=sets, **nodes)

    def staged(
        self, table: np.ndarray, every: int, known: Sequence[np.ndarray] = ()
    ) -> list[np.ndarray]:
        """The logits before the first tree and after each `every` trees; see `logits`.

        Args:
            table: as in `logits`.
            every: how many trees are between two results.
            known: the first results, from when there were fewer trees; they are not returned.
        """
        if known:
            total = known[-1].copy()
            found = []
        else:
            total = np.full(len(table), self.baseline)
            found = [total.copy()]
        for tree in range(max(len(known) - 1, 0) * every, len(self), every):
            self._add(table, tree, min(tree + every, len(self)), total)
            found.append(total.copy())
        return found

    def logits(self, table: np.ndarray) -> np.ndarray:
        """The logits of some rows.

        Args:
            table: values and categories, float64 [rows, columns], NaN where missing or unknown.

        Returns:
            float64, [rows].
        """
        total = np.full(len(table), self.baseline)
        self._add(table, 0, len(self), total)
        return total

    def contributions(self, table: np.ndarray) -> np.ndarray:
        """What each column adds to the logit of each row, by the splits on the way of the row.

        A split adds the difference between the mean of the side that the row takes and the mean
        before the split, so that a row's contributions and `mean` add up to its logit.

        Args:
            table: as `logits` takes it.

        Returns:
            float64, [rows, columns].

        References:
            Saabas, Interpreting random forests, 2014.
        """
        from torchbce.classifier.models.tree_loop import add_paths

        total = np.zeros(table.shape)
        loop = [getattr(self, name) for name in LOOP_FIELDS[:-1]]
        table = np.ascontiguousarray(table)
        add_paths(table, self.starts, *loop, self.node_values, self.sets, total)
        return total

    @property
    def mean(self) -> float:
        """The mean logit of the training rows."""
        return self.baseline + float(self.node_values[self.starts[:-1]].sum())

    @cached_property
    def node_values(self) -> np.ndarray:
        """What a leaf adds to the logit, and the mean of that over the rows of an inner node."""
        levels, nodes = [], self.starts[:-1]
        while len(nodes):
            inner = nodes[self.feature[nodes] >= 0]
            levels.append(inner)
            nodes = np.concatenate([self.left[inner], self.right[inner]])
        values = self.value.copy()
        for inner in reversed(levels):
            left, right = self.left[inner], self.right[inner]
            share = self.cover[left] / (self.cover[left] + self.cover[right].astype(np.float64))
            values[inner] = share * values[left] + (1 - share) * values[right]
        return values

    def gains(self, columns: int) -> np.ndarray:
        """How much the splits of each column move the rows apart, in squared log-odds.

        The sum over the splits of :math:`c_l (v_l - v)^2 + c_r (v_r - v)^2`, per row of the tree,
        where v are the means of the node and its children and c the children's numbers of rows.

        Args:
            columns: the number of columns.

        Returns:
            float64, [columns].
        """
        inner = np.flatnonzero(self.feature >= 0)
        rows = np.repeat(self.cover[self.starts[:-1]], np.diff(self.starts))[inner]
        moved = np.zeros(len(inner))
        for child in (self.left[inner], self.right[inner]):
            moved += self.cover[child] * (self.node_values[child] - self.node_values[inner]) ** 2
        return np.bincount(self.feature[inner], moved / rows, columns)

    def _add(self, table: np.ndarray, first: int, last: int, total: np.ndarray) -> None:
        from torchbce.classifier.models.tree_loop import add_trees

        nodes = [getattr(self, name) for name in LOOP_FIELDS]
        table = np.ascontiguousarray(table)

        def add(begin: int) -> None:
            rows = slice(begin, begin + SHARE)
            add_trees(table[rows], self.starts, first, last, *nodes, self.sets, total[rows])

        shares = range(0, len(table), SHARE)
        if len(shares) < 2:
            for begin in shares:
                add(begin)
            return
        with ThreadPoolExecutor(min(len(shares), MOST_THREADS, os.cpu_count() or 1)) as threads:
            list(threads.map(add, shares))


#: The arrays that the loops read, in the order of the fields.
LOOP_FIELDS = (
    "feature",
    "threshold",
    "left",
    "right",
    "missing_left",
    "categories",
    "value",
)
#: The arrays with an element for each node, in the order of the fields.
NODE_FIELDS = (*LOOP_FIELDS, "cover")
