"""Trees grown on parts of the rows, until the loss of the rows held out stops falling."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from torchbce.classifier.models.boosting import Booster, Growth
from torchbce.classifier.models.candidates import Candidates, losses
from torchbce.classifier.models.data import Data, Fitted
from torchbce.classifier.models.features import SparseRows
from torchbce.classifier.models.members import TreesModel, text_rows, tree_columns, with_text
from torchbce.classifier.models.mixture import helps
from torchbce.classifier.models.solver import Linear, Problem
from torchbce.classifier.models.trees import Trees
from torchbce.classifier.models.vocabulary import part_rows
from torchbce.classifier.progress import Progress

#: The loss of the rows held out is looked at every so many trees.
STAGE = 10

#: Parts of the training rows that give them the logits of their text without having seen them.
TEXT_PARTS = 3

# Small tables want few leaves and small steps; large ones, in which interactions of a high order
# can be learned, want many. Below `MIDDLE_ROWS` rows the first part grows trees of both sizes, and
# the larger ones are taken if they help by more than noise: with 5,000 rows and an interaction of
# four numbers the log loss of new rows was 0.64 with 15 leaves and is 0.31 with 31, which are worse
# by 1% without such interactions. From `RACE_ROWS` rows on, two sizes run for `RACE_TREES` trees.
SMALL = Growth(learning_rate=0.05, max_leaf_nodes=15)
MIDDLE = Growth(learning_rate=0.07, max_leaf_nodes=31)
LARGE = (
    Growth(learning_rate=0.1, max_leaf_nodes=31),
    Growth(learning_rate=0.1, max_leaf_nodes=127),
)
MIDDLE_ROWS, RACE_ROWS, RACE_TREES = 20_000, 50_000, 50

#: With few rows a few trees are often enough, so that fewer are grown at a time, by each part.
SMALL_ROWS, SMALL_CHUNK = 5000, 50

#: From this many rows on, two threads grow a tree; before, they would wait for each other.
THREADED_ROWS = 200_000


class Work(NamedTuple):
    """How many trees at most, how many are grown at a time, and how many without a gain end it."""

    most: int
    chunk: int
    patience: int


WORK = {"low": Work(100, 50, 20), "medium": Work(600, 100, 50), "high": Work(1500, 100, 100)}


def fit_trees(data: Data, text_l2: float) -> Fitted:
    """Boosted trees of each part, which together are the model.

    Args:
        data: the table.
        text_l2: the strength of the penalty of the linear model of the text.
    """
    work = WORK[data.options.effort]
    if len(data.targets) < SMALL_ROWS:
        work = work._replace(chunk=SMALL_CHUNK)
    columns = tree_columns(data.encoder, data.encoded)
    data.progress.start("trees", work.most // work.chunk)
    parts = [_Part(data, columns, *pair) for pair in data.parts.pairs]
    for part in parts:
        part.read_text(text_l2)
    growth = _choose_growth(parts[0], data.options.effort, work)
    parts[0].keep(growth)
    stages = _grow(parts, growth, work, data.progress)
    data.progress.end()
    candidates = Candidates()
    for stage, logits in enumerate(stages):
        candidates.add(stage * STAGE, data.unweighted(logits))

    def model(at: int) -> TreesModel:
        trees = at * STAGE
        if data.parts.kind == "time":
            # The trees of the parts have not seen the latest rows, which are most like new ones.
            rows = np.arange(len(data.targets))
            part = _Part(data, columns, rows, rows[:1])
            part.read_text(text_l2)
            return TreesModel((part.first(growth, trees),))
        return TreesModel(tuple(part.first(growth, trees) for part in parts))

    return Fitted(candidates, model, lambda trees: f"{trees} trees", len(candidates.settings))


def _choose_growth(first: "_Part", effort: str, work: Work) -> Growth:
    """The size of the trees, and the learning rate, by the rows that the first part holds out."""
    if first.rows < MIDDLE_ROWS:
        if effort == "low":
            return SMALL
        best = []
        for growth in (SMALL, MIDDLE):
            every = first.losses(_grow([first], growth, work))
            best.append(every[int(first.mean(every).argmin())])
        return MIDDLE if helps(best[0], best[1], first.held_weight) else SMALL
    if first.rows < RACE_ROWS:
        return MIDDLE
    if effort == "low":
        return LARGE[0]

    def loss_of(growth: Growth) -> float:
        return float(first.mean(first.losses(first.grow(growth, RACE_TREES)))[-1])

    return min(LARGE, key=loss_of)


def _grow(
    parts: list["_Part"], growth: Growth, work: Work, progress: Progress | None = None
) -> np.ndarray:
    """Grow trees in some parts until the loss of all rows that these hold out stops falling.

    Returns:
        The logits of the rows held out, before the first tree and after each `STAGE` trees, float64
        [stages, rows].
    """
    weight = None
    if parts[0].held_weight is not None:
        weight = np.concatenate([part.held_weight for part in parts])
    for trees in range(work.chunk, work.most + 1, work.chunk):
        logits = [part.grow(growth, trees) for part in parts]
        every = [part.losses(own) for part, own in zip(parts, logits, strict=True)]
        loss = np.average(np.concatenate(every, axis=1), axis=1, weights=weight)
        best = int(loss.argmin()) * STAGE
        if progress is not None:
            progress.tried(f"{best} trees", float(loss.min()))
        if trees - best >= work.patience:
            break
    return np.concatenate(logits, axis=1)


@dataclass
class _Grown:
    """Trees of one size, and the logits of the rows held out, before and after them."""

    booster: Booster
    trees: Trees | None = None
    stages: list[np.ndarray] = field(default_factory=list)


class _Part:
    """The rows of one part.

    Attributes:
        rows: the number of rows of the table.
        held_weight: the weight of each row held out; None for 1.
    """

    def __init__(
        self, data: Data, columns: np.ndarray, train: np.ndarray, held_out: np.ndarray
    ) -> None:
        self._categorical = len(data.encoder.categorical)
        self._text: tuple[SparseRows, SparseRows] | None = None
        if data.encoder.texts:
            vocabulary = data.vocabulary.of_text(data.encoder)
            self._text = part_rows(text_rows(data.encoded), vocabulary, train, held_out)
        self._train, self._held_out = train, held_out
        self._columns, self._held_columns = columns[train], columns[held_out]
        self._targets, self._held_targets = data.training_targets[train], data.targets[held_out]
        self._row_weight = data.weight_of(train)
        self.held_weight = None if data.weight is None else data.weight[held_out]
        self._seed, self.rows = data.options.seed, len(columns)
        self._threads = 2 if len(columns) >= THREADED_ROWS else 1
        self._unweighted = data.unweighted
        self._reader: Linear | None = None
        self._grown: dict[Growth, _Grown] = {}

    def read_text(self, l2: float) -> None:
        """Add the logits of the text to the columns.

        A training row gets the logit of a model that has not seen it, since trees would trust one
        that has too much. Any other row gets the mean of these models.
        """
        if self._text is None:
            return
        rows, held_out_rows = self._text
        order = np.random.default_rng(self._seed).permutation(len(self._train))
        logits = np.zeros(len(self._train))
        models = []
        for part in range(TEXT_PARTS):
            unseen = order[part::TEXT_PARTS]
            seen = np.setdiff1d(order, unseen)
            weight = None if self._row_weight is None else self._row_weight[seen]
            targets = self._targets[seen]
            if not 0 < targets.sum() < len(targets):
                continue
            problem = Problem(rows.take(seen), targets, weight, self._threads)
            models.append(problem.solve(l2, problem.start, 1e-5))
            logits[unseen] = models[-1].logits(rows.take(unseen), self._threads)
        self._reader = Linear(
            np.mean([model.weight for model in models], axis=0),
            float(np.mean([model.bias for model in models])),
        )
        held_out = self._reader.logits(held_out_rows, self._threads)
        self._columns = with_text(self._columns, logits)
        self._held_columns = with_text(self._held_columns, held_out)

    def grow(self, growth: Growth, trees: int) -> np.ndarray:
        """Grow so many trees, after those that there are.

        Returns:
            The logits of the rows held out after each `STAGE` trees, float64 [stages, rows].
        """
        if growth not in self._grown:
            self._grown[growth] = _Grown(self._booster(growth))
        grown = self._grown[growth]
        if grown.trees is None or len(grown.trees) < trees:
            grown.trees = grown.booster.grow(trees)
            grown.stages += grown.trees.staged(self._held_columns, STAGE, grown.stages)
        return np.array(grown.stages[: trees // STAGE + 1])

    def keep(self, growth: Growth) -> None:
        """Free the memory of trees of other sizes."""
        self._grown = {one: grown for one, grown in self._grown.items() if one == growth}

    def first(self, growth: Growth, trees: int) -> tuple[Trees, Linear | None]:
        """The first trees, and the model of the text that they read."""
        self.grow(growth, max(trees, 1))
        grown = self._grown[growth].trees
        assert grown is not None
        return grown.first(trees), self._reader

    def losses(self, stages: np.ndarray) -> np.ndarray:
        """The loss of each row held out at each stage, [stages, rows]."""
        return losses(self._unweighted(stages), self._held_targets)

    def mean(self, every: np.ndarray) -> np.ndarray:
        """The mean of the losses at each stage."""
        means: np.ndarray = np.average(every, axis=1, weights=self.held_weight)
        return means

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
