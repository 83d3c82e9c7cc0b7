"""The pairs model: how many pairs, and how strong the penalty, chosen on rows held out."""

import itertools

import numpy as np

from torchbce.classifier.models.candidates import Candidates
from torchbce.classifier.models.data import Data, Fitted
from torchbce.classifier.models.features import SparseRows
from torchbce.classifier.models.linear import (
    PATH_TOLERANCE,
    LinearPath,
    calibrated,
    centred,
    penalty,
    solve_all,
)
from torchbce.classifier.models.members import PairsModel
from torchbce.classifier.models.pairs import Crosses, code_groups, make_crosses, ranked_pairs
from torchbce.classifier.models.recalibration import fit_line
from torchbce.classifier.models.solver import Linear

# What is tried: numbers of pairs and strengths of the penalty. Cells have few rows: with a strength
# of 1 one table got worse with every pair that was added, with 3 better.
COUNTS, STRENGTHS = (10, 30, 100), (1.0, 3.0, 10.0, 30.0)


def fit_pairs(data: Data, path: LinearPath) -> Fitted | None:
    """The pairs model; None if no pair explains what the linear model leaves.

    The number of pairs and the strength are chosen on the first part, and fitted to all of them.
    """
    groups = code_groups(data.encoder, data.encoded.codes)
    counts = COUNTS[:2] if data.options.effort == "low" else COUNTS
    first = _Part(data, path, groups, 0)
    if not first.ranked:
        return None
    data.progress.start("pairs", len(counts) + 2 + len(data.parts.pairs) - 1)
    logits: dict[tuple[int, float], np.ndarray] = {}
    tried: dict[tuple[int, float], float] = {}

    def loss_of(count: int, l2: float) -> float:
        setting = count, l2
        if setting not in tried:
            logits[setting] = first.held_out_logits(count, l2)
            tried[setting] = first.loss(logits[setting])
            data.progress.tried(f"{count} pairs, L2 {l2:g}", tried[setting])
        return tried[setting]

    # The count first, at a middle strength; then the strength, up or down as long as it helps.
    for count in counts:
        loss_of(count, STRENGTHS[1])
        if count >= len(first.ranked):
            break
    count = min(tried, key=lambda setting: tried[setting])[0]
    for strengths in (STRENGTHS[1:], STRENGTHS[1::-1]):
        for before, l2 in itertools.pairwise(strengths):
            if loss_of(count, l2) > loss_of(count, before):
                break
    l2 = min(tried, key=lambda setting: tried[setting])[1]
    parts = [logits[count, l2]]
    for number in range(1, len(data.parts.pairs)):
        parts.append(_Part(data, path, groups, number).held_out_logits(count, l2))
    data.progress.end()
    candidates = Candidates()
    raw = np.concatenate(parts)
    candidates.add((count, l2), data.comparable(raw))

    def model(_: int) -> PairsModel:
        main = solve_all(data, path, path.best)
        every = np.arange(len(data.targets))
        crosses = make_crosses(
            groups, data.encoded.codes, _ranked(data, groups, data.rows, every, main)[:count]
        )
        rows = crosses.features(data.encoded.codes, data.rows)
        problem = data.problem(rows)
        found = problem.solve(_penalty(data, path, crosses, l2), _start(main, crosses))
        return PairsModel(calibrated(centred(found, data), data, rows, raw), crosses)

    return Fitted(candidates, model, lambda s: f"{s[0]} pairs, L2 {s[1]:g}", len(tried))


class _Part:
    """The pairs of one part, ranked by what the linear model of its training rows leaves."""

    def __init__(self, data: Data, path: LinearPath, groups: list[np.ndarray], number: int) -> None:
        self._data, self._path, self._groups = data, path, groups
        self._train, self._held_out = data.parts.pairs[number]
        self._main = path.weights[path.best][number]
        self._rows = data.part_rows(number)
        self.ranked = _ranked(data, groups, self._rows[0], self._train, self._main)

    def loss(self, logits: np.ndarray) -> float:
        """The mean loss of logits of the rows held out."""
        return self._data.loss_on(self._held_out, logits)

    def held_out_logits(self, count: int, l2: float) -> np.ndarray:
        """The logits of the rows held out, with the best pairs and a strength."""
        data = self._data
        codes = data.encoded.codes[self._train]
        crosses = make_crosses(self._groups, codes, self.ranked[:count])
        problem = data.problem(crosses.features(codes, self._rows[0]), self._train)
        found = problem.solve(
            _penalty(data, self._path, crosses, l2),
            _start(self._main, crosses),
            PATH_TOLERANCE,
        )
        held_out = crosses.features(data.encoded.codes[self._held_out], self._rows[1])
        return found.logits(held_out, data.threads)


def _penalty(data: Data, path: LinearPath, crosses: Crosses, l2: float) -> np.ndarray:
    """The strength of each weight: that of the linear model for main effects, `l2` for cells."""
    return np.append(penalty(data.encoder, path.l2, path.share), np.full(crosses.width, l2))


def _start(main: Linear, crosses: Crosses) -> Linear:
    return Linear(np.append(main.weight, np.zeros(crosses.width)), main.bias)


def _ranked(
    data: Data, groups: list[np.ndarray], features: SparseRows, rows: np.ndarray, main: Linear
) -> list[tuple[int, int]]:
    logits = main.logits(features, data.threads)
    weight, targets = data.weight_of(rows), data.training_targets[rows]
    if data.loss is not None:
        logits = fit_line(logits, targets, weight)(logits)
    p = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    scale = 1.0 if weight is None else weight
    return ranked_pairs(
        groups,
        data.encoded.codes[rows],
        scale * (targets - p),
        scale * p * (1 - p),
        data.options.seed,
    )
