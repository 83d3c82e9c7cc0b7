"""The loop over rows and trees, compiled by Numba when a model with trees first predicts."""

from typing import Any

import numba
import numpy as np

#: Rows at a time, so that their values stay in the cache while all trees read them.
BLOCK = 256


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _child(
    x: float,
    node: int,
    threshold: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    missing_left: np.ndarray,
    categories: np.ndarray,
    sets: np.ndarray,
) -> Any:
    """The child that a row with the value x goes to."""
    if np.isnan(x):
        goes_left = missing_left[node]
    elif categories[node] >= 0:
        code = np.int64(x)
        word = sets[categories[node], code >> 5]
        goes_left = (word >> np.uint32(code & 31)) & np.uint32(1) != 0
    else:
        goes_left = x <= threshold[node]
    return left[node] if goes_left else right[node]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def add_trees(
    table: np.ndarray,
    starts: np.ndarray,
    first: int,
    last: int,
    feature: np.ndarray,
    threshold: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    missing_left: np.ndarray,
    categories: np.ndarray,
    value: np.ndarray,
    sets: np.ndarray,
    total: np.ndarray,
) -> Any:
    """Add the trees from `first` to `last` to `total`; the arrays are those of `Trees`."""
    rows = len(table)
    for begin in range(0, rows, BLOCK):
        end = min(begin + BLOCK, rows)
        for tree in range(first, last):
            root = starts[tree]
            for row in range(begin, end):
                node = root
                while feature[node] >= 0:
                    x = table[row, feature[node]]
                    node = _child(x, node, threshold, left, right, missing_left, categories, sets)
                total[row] += value[node]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def add_paths(
    table: np.ndarray,
    starts: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    missing_left: np.ndarray,
    categories: np.ndarray,
    node_values: np.ndarray,
    sets: np.ndarray,
    total: np.ndarray,
) -> Any:
    """Add what each split on the way of each row changes to the column of the split in `total`."""
    rows = len(table)
    for begin in range(0, rows, BLOCK):
        end = min(begin + BLOCK, rows)
        for root in starts[:-1]:
            for row in range(begin, end):
                node = root
                while feature[node] >= 0:
                    column = feature[node]
                    child = _child(
                        table[row, column],
                        node,
                        threshold,
                        left,
                        right,
                        missing_left,
                        categories,
                        sets,
                    )
                    total[row, column] += node_values[child] - node_values[node]
                    node = child
