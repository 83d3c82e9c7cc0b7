"""scikit-learn's histogram gradient boosting, and its trees as arrays.

The arrays of a fitted tree are private to scikit-learn. They are read here and nowhere else;
`tests/test_trees.py` compares what `Trees` computes from them with scikit-learn's own predictions.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from torchbce.classifier.models.trees import Trees

#: As many categories of a column as scikit-learn takes; less frequent ones are missing values.
MOST_CATEGORIES = 254


class Growth(NamedTuple):
    """How trees are grown: the arguments of scikit-learn's `HistGradientBoostingClassifier`."""

    learning_rate: float
    max_leaf_nodes: int
    l2_regularization: float = 1.0


class Booster:
    """Trees that are grown a number at a time.

    Args:
        table: the categories of the first columns, as codes from 0, and then the numbers of the
            others, float64 [rows, columns]; NaN where missing.
        categorical: how many columns hold categories.
        targets: in [0, 1], [rows]. A row between 0 and 1 is grown as two, see `hard_rows`.
        row_weight: the weight of each row, [rows]; None for 1.
        growth: how trees are grown.
        seed: of scikit-learn's subsample of rows that gives the bins.
        threads: how many threads compute; the trees do not depend on it.
    """

    def __init__(
        self,
        table: np.ndarray,
        categorical: int,
        targets: np.ndarray,
        row_weight: np.ndarray | None,
        growth: Growth,
        seed: int,
        threads: int,
    ) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        # scikit-learn numbers the categories that it sees. Where codes are absent from these rows
        # those above them move down, so that the numbering is ours and scikit-learn's alike.
        self._known = [_known_codes(table[:, column]) for column in range(categorical)]
        if categorical:
            table = table.copy()
        for column, known in enumerate(self._known):
            table[:, column] = _renumbered(table[:, column], known)
        rows, hard, weight = hard_rows(targets, row_weight)
        self._data = (table if rows is None else table[rows]), hard, weight
        self._threads = threads
        self._model: Any = HistGradientBoostingClassifier(
            **growth._asdict(),
            categorical_features=np.arange(table.shape[1]) < categorical,
            early_stopping=False,
            warm_start=True,
            random_state=seed % 2**32,
            max_iter=1,
        )

    def grow(self, trees: int) -> Trees:
        """Grow more trees, up to this number in all."""
        table, targets, row_weight = self._data
        self._model.max_iter = trees
        with _threads(self._threads):
            self._model.fit(table, targets, row_weight)
        return self._arrays()

    def _arrays(self) -> Trees:
        predictors = [trees[0] for trees in self._model._predictors]
        nodes = [predictor.nodes for predictor in predictors]
        starts = np.concatenate([[0], np.cumsum([len(n) for n in nodes])]).astype(np.int64)
        shift = np.repeat(starts[:-1], np.diff(starts))
        all_nodes = np.concatenate(nodes)
        leaf = all_nodes["is_leaf"].astype(bool)
        split_by_set = all_nodes["is_categorical"].astype(bool) & ~leaf
        sets = [predictor.raw_left_cat_bitsets for predictor in predictors]
        set_starts = np.concatenate([[0], np.cumsum([len(s) for s in sets])])[:-1]
        set_shift = np.repeat(set_starts, np.diff(starts))
        categories = np.where(split_by_set, all_nodes["bitset_idx"] + set_shift, -1)
        feature = np.where(leaf, -1, all_nodes["feature_idx"])
        all_sets = np.concatenate(sets).astype("<u4")
        missing_left = all_nodes["missing_go_to_left"].astype(bool)
        for node in np.flatnonzero(split_by_set).tolist():
            all_sets[categories[node]] = self._set_of_codes(
                all_sets[categories[node]], self._known[feature[node]], missing_left[node]
            )
        return Trees(
            starts,
            feature.astype(np.int32),
            all_nodes["num_threshold"].astype(np.float64),
            np.where(leaf, -1, all_nodes["left"] + shift).astype(np.int32),
            np.where(leaf, -1, all_nodes["right"] + shift).astype(np.int32),
            missing_left,
            categories.astype(np.int32),
            np.where(leaf, all_nodes["value"], 0.0),
            all_nodes["count"].astype(np.int32),
            all_sets,
            float(np.ravel(self._model._baseline_prediction)[0]),
        )

    @staticmethod
    def _set_of_codes(numbered: np.ndarray, known: np.ndarray, missing_left: bool) -> np.ndarray:
        """A set by the codes that came, not by the numbers of those in the training rows.

        A category that the training rows did not have goes where missing values go.
        """
        bits = np.unpackbits(numbered.view(np.uint8), bitorder="little")
        codes = np.full(256, missing_left, dtype=np.uint8)
        codes[known] = bits[: len(known)]
        return np.packbits(codes, bitorder="little").view("<u4")


def hard_rows(
    targets: np.ndarray, row_weight: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """Rows with targets of 0 and 1 whose loss is that of some rows with targets in [0, 1].

    A row with a target y between 0 and 1 and a weight w becomes two: a positive one of weight w y,
    in its place, and after all rows a negative one of weight w (1 - y).

    Args:
        targets: in [0, 1], [rows].
        row_weight: the weight of each row, [rows]; None for 1.

    Returns:
        The indices of the rows, None if they stay as they are; their targets; their weights.
    """
    soft = np.flatnonzero((targets > 0) & (targets < 1))
    if not len(soft):
        return None, targets, row_weight
    weight = np.ones(len(targets)) if row_weight is None else row_weight
    rows = np.concatenate([np.arange(len(targets)), soft])
    hard = np.concatenate([np.ceil(targets), np.zeros(len(soft))])
    positive = weight.copy()
    positive[soft] *= targets[soft]
    return rows, hard, np.concatenate([positive, weight[soft] * (1 - targets[soft])])


def _known_codes(column: np.ndarray) -> np.ndarray:
    return np.unique(column[~np.isnan(column)]).astype(np.int64)


def _renumbered(column: np.ndarray, known: np.ndarray) -> np.ndarray:
    missing = np.isnan(column)
    at = np.searchsorted(known, np.where(missing, 0, column))
    return np.where(missing, np.nan, at.astype(np.float64))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Limit the threads of OpenMP: on a busy machine threads wait for each other."""
    with _controller().limit(limits=number, user_api="openmp"):
        yield


@functools.cache
def _controller() -> Any:
    """The libraries with threads; finding them takes 10 ms, as long as four small trees."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
