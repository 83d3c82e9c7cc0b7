"""A linear model for each label, with a strength of the penalty chosen for it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from torchbce.classifier.columns.encoder import Encoded, Encoder
from torchbce.classifier.models.candidates import Candidates, mean_loss
from torchbce.classifier.models.features import SparseRows, linear_features
from torchbce.classifier.models.linear import (
    PATH_TOLERANCE,
    doubts,
    first_strength,
    follow_path,
    penalty,
)
from torchbce.classifier.models.solver import STRENGTHS, Linear, Problem
from torchbce.classifier.models.vocabulary import Vocabulary, part_rows


@dataclass(frozen=True)
class LinearLabels:
    """The linear models of all labels.

    Attributes:
        weight: float32 [L, width].
        bias: float64 [L].
    """

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, encoder: Encoder, encoded: Encoded) -> np.ndarray:
        """The logits of some rows, float64 [rows, L]."""
        rows = linear_features(encoder, encoded)
        ones = np.ones(len(rows.indices), np.float32) if rows.values is None else rows.values
        matrix = sp.csr_matrix((ones, rows.indices, rows.indptr), shape=(len(encoded), rows.width))
        logits: np.ndarray = np.asarray(matrix @ self.weight.T, dtype=np.float64) + self.bias
        return logits


@dataclass(frozen=True)
class LabelOfRows:
    """One label of the rows of a table.

    Attributes:
        targets: in [0, 1], NaN where unknown, float64 [rows].
        pos_weight: the weight of the positives in the loss.
    """

    targets: np.ndarray
    pos_weight: float

    @cached_property
    def known(self) -> np.ndarray:
        """Where the label is known, as a mask."""
        known: np.ndarray = ~np.isnan(self.targets)
        return known


class LinearPaths:
    """Fits linear models of single labels on the same rows and parts.

    Args:
        encoder: the columns.
        encoded: their arrays.
        pairs: the rows to train on and the rows held out of each part.
        weight: of each row; None for 1.
    """

    def __init__(
        self,
        encoder: Encoder,
        encoded: Encoded,
        pairs: list[tuple[np.ndarray, np.ndarray]],
        weight: np.ndarray | None,
    ) -> None:
        self.rows = linear_features(encoder, encoded)
        self.weight, self.pairs = weight, pairs
        self._encoder, self._first = encoder, first_strength(encoder)
        vocabulary = Vocabulary.of(encoder)
        parts = [part_rows(self.rows, vocabulary, *pair) for pair in pairs]
        self._trained = [trained for trained, _ in parts]
        self._held_out = [held_out for _, held_out in parts]

    def path(self, label: LabelOfRows) -> tuple[Candidates, list[list[Linear]]]:
        """The logits of the rows held out, of one strength after the other, and the weights.

        As `models.linear.linear_path`, for one label, of which some rows may be unknown.
        """
        problems = [
            self._problem(rows, train, label)
            for rows, (train, _) in zip(self._trained, self.pairs, strict=True)
        ]
        candidates = Candidates()
        weights: list[list[Linear]] = []
        held_out = np.concatenate([held_out for _, held_out in self.pairs])
        known = label.known[held_out]
        targets = label.targets[held_out][known]
        own = None if self.weight is None else self.weight[held_out][known]
        shift = np.log(label.pos_weight)

        def loss_of(l2: float, start: list[Linear]) -> float:
            of_weights = penalty(self._encoder, l2)
            models = [
                problem.solve(of_weights, before, PATH_TOLERANCE)
                for problem, before in zip(problems, start, strict=True)
            ]
            logits = [m.logits(rows) for m, rows in zip(models, self._held_out, strict=True)]
            candidates.add(l2, np.concatenate(logits) - shift)
            weights.append(models)
            return mean_loss(candidates.logits[-1][known], targets, own)

        follow_path(self._first, [problem.start for problem in problems], loss_of, weights)
        rows = float(label.known.sum() if self.weight is None else self.weight[label.known].sum())
        usual = [STRENGTHS[self._first]] * len(candidates.settings)
        candidates.doubt = doubts(candidates.settings, usual, rows)
        return candidates, weights

    def solve(self, label: LabelOfRows, l2: float, parts: list[Linear]) -> Linear:
        """The weights for all rows at one strength, from the mean of those of the parts."""
        start = Linear(
            np.mean([part.weight for part in parts], axis=0),
            float(np.mean([p.bias for p in parts])),
        )
        problem = self._problem(self.rows, np.arange(len(label.targets)), label)
        return problem.solve(penalty(self._encoder, l2), start)

    def _problem(self, rows: SparseRows, index: np.ndarray, label: LabelOfRows) -> Problem:
        """The problem of those rows, `index`, whose label is known; `rows` are their features."""
        known = label.known[index]
        if not known.all():
            rows, index = rows.take(np.flatnonzero(known)), index[known]
        y, p = label.targets[index], label.pos_weight
        weight = None if self.weight is None else self.weight[index]
        if p != 1:  # see `Data.row_weight`
            share = p * y + (1 - y)
            y, weight = p * y / share, share if weight is None else weight * share
        return Problem(rows, y, weight)


def threads() -> int:
    """How many labels are fitted at a time; results do not depend on it."""
    import torch

    return torch.get_num_threads()
