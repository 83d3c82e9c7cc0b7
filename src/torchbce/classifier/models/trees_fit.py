"""Trees grown on parts of the rows, until the loss of the rows held out stops falling."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from torchbce.classifier.columns.encoder import Encoded, Encoder
from torchbce.classifier.models.boosting import Booster, Growth
from torchbce.classifier.models.candidates import Candidates, losses
from torchbce.classifier.models.members import TreesModel, text_rows, tree_columns, with_text
from torchbce.classifier.models.parts import Parts
from torchbce.classifier.models.solver import Linear, Problem
from torchbce.classifier.models.trees import Trees

#: The loss of the rows held out is looked at every so many trees.
STAGE = 10

#: Parts of the training rows that give them the logits of their text without having seen them.
TEXT_PARTS = 3

# Small tables want few leaves and small steps; large ones, in which interactions of a high order
# can be learned, want many. From `RACE_ROWS` rows on, two sizes run for `RACE_TREES` trees.
SMALL = Growth(learning_rate=0.05, max_leaf_nodes=15)
MIDDLE = Growth(learning_rate=0.07, max_leaf_nodes=31)
LARGE = (Growth(learning_rate=0.1, max_leaf_nodes=31), Growth(learning_rate=0.1, max_leaf_nodes=127))
MIDDLE_ROWS, RACE_ROWS, RACE_TREES = 20_000, 50_000, 50


class Work(NamedTuple):
    """How many trees at most, how many are grown at a time, and how many without a gain end it."""

    most: int
    chunk: int
    patience: int


WORK = {"low": Work(100, 50, 20), "medium": Work(600, 100, 50), "high": Work(1500, 100, 100)}


class GrownPart(NamedTuple):
    """The trees of one part, the model of its text, and staged logits of its rows held out."""

    trees: Trees
    reader: Linear | None
    stages: np.ndarray


def grow_parts(
    encoder: Encoder,
    encoded: Encoded,
    targets: np.ndarray,
    row_weight: np.ndarray | None,
    parts: Parts,
    text_l2: float,
    effort: str,
    seed: int,
    threads: int,
    on_step: Callable[[int, float], object] = lambda trees, loss: None,
) -> tuple[Candidates, Callable[[int], TreesModel]]:
    """Trees of each part.

    Returns:
        The candidates, whose settings are numbers of trees; and the model of a number of trees.
    """
    work, growth = WORK[effort], None
    columns = tree_columns(encoder, encoded)
    grown: list[GrownPart] = []
    for train, held_out in parts.pairs:
        part = _Part(encoder, encoded, columns, targets, row_weight, train, held_out, seed, threads)
        part.read_text(text_l2)
        if growth is None:
            growth = part.choose_growth(len(targets), effort)
        grown.append(part.grow(growth, work, on_step))
    stages = min(len(part.stages) for part in grown)
    candidates = Candidates()
    for stage in range(stages):
        logits = np.concatenate([part.stages[stage] for part in grown])
        candidates.add((stage + 1) * STAGE, logits)

    def model(trees: int) -> TreesModel:
        return TreesModel(tuple((part.trees.first(trees), part.reader) for part in grown))

    return candidates, model


class _Part:
    """The rows of one part."""

    def __init__(
        self,
        encoder: Encoder,
        encoded: Encoded,
        columns: np.ndarray,
        targets: np.ndarray,
        row_weight: np.ndarray | None,
        train: np.ndarray,
        held_out: np.ndarray,
        seed: int,
        threads: int,
    ) -> None:
        self._categorical = len(encoder.categorical)
        self._text = text_rows(encoded) if encoder.texts else None
        self._train, self._held_out = train, held_out
        self._columns, self._held_columns = columns[train], columns[held_out]
        self._targets, self._held_targets = targets[train], targets[held_out]
        self._row_weight = None if row_weight is None else row_weight[train]
        self._seed, self._threads = seed, threads
        self._reader: Linear | None = None

    def read_text(self, l2: float) -> None:
        """Add the logits of the text to the columns.

        A training row gets the logit of a model that has not seen it, since trees would trust one
        that has too much. Any other row gets the mean of these models.
        """
        if self._text is None:
            return
        rows = self._text.take(self._train)
        order = np.random.default_rng(self._seed).permutation(len(self._train))
        logits = np.zeros(len(self._train))
        models = []
        for part in range(TEXT_PARTS):
            unseen = order[part::TEXT_PARTS]
            seen = np.setdiff1d(order, unseen)
            weight = None if self._row_weight is None else self._row_weight[seen]
            targets = self._targets[seen]
            if targets.min() == targets.max():
                continue
            problem = Problem(rows.take(seen), targets, weight, self._threads)
            models.append(problem.solve(l2, problem.start, 1e-5))
            logits[unseen] = models[-1].logits(rows.take(unseen), self._threads)
        self._reader = Linear(
            np.mean([model.weight for model in models], axis=0),
            float(np.mean([model.bias for model in models])),
        )
        held_out = self._reader.logits(self._text.take(self._held_out), self._threads)
        self._columns = with_text(self._columns, logits)
        self._held_columns = with_text(self._held_columns, held_out)

    def choose_growth(self, rows: int, effort: str) -> Growth:
        """The size of the trees, and the learning rate."""
        if rows < MIDDLE_ROWS:
            return SMALL
        if rows < RACE_ROWS:
            return MIDDLE
        if effort == "low":
            return LARGE[0]
        return min(LARGE, key=lambda growth: self._loss(self._booster(growth).grow(RACE_TREES)))

    def grow(
        self, growth: Growth, work: Work, on_step: Callable[[int, float], object]
    ) -> GrownPart:
        """Grow trees until the loss of the rows held out stops falling."""
        booster = self._booster(growth)
        trees = 0
        while True:
            trees += work.chunk
            grown = booster.grow(trees)
            stages = np.array(list(grown.staged(self._held_columns, STAGE)))
            loss = losses(stages, self._held_targets).mean(axis=1)
            best = (int(loss.argmin()) + 1) * STAGE
            on_step(trees, float(loss.min()))
            if trees >= work.most or trees - best >= work.patience:
                return GrownPart(grown, self._reader, stages)

    def _booster(self, growth: Growth) -> Booster:
        return Booster(
            self._columns,
            self._categorical,
            self._targets,
            self._row_weight,
            growth,
            self._seed,
            self._threads,
        )

    def _loss(self, trees: Trees) -> float:
        return float(losses(trees.logits(self._held_columns), self._held_targets).mean())
