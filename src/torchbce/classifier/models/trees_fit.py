"""Trees grown on parts of the rows, until the loss of the rows held out stops falling."""

from typing import NamedTuple

import numpy as np

from torchbce.classifier.models.boosting import Booster, Growth
from torchbce.classifier.models.candidates import Candidates, losses, mean_loss
from torchbce.classifier.models.data import Data, Fitted
from torchbce.classifier.models.features import SparseRows
from torchbce.classifier.models.members import TreesModel, text_rows, tree_columns, with_text
from torchbce.classifier.models.mixture import helps
from torchbce.classifier.models.solver import Linear, Problem
from torchbce.classifier.models.trees import Trees
from torchbce.classifier.models.vocabulary import part_rows

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


class GrownPart(NamedTuple):
    """The trees of one part, the model of its text, and staged logits of its rows held out."""

    trees: Trees
    reader: Linear | None
    stages: np.ndarray


def fit_trees(data: Data, text_l2: float) -> Fitted:
    """Boosted trees of each part, which together are the model.

    Args:
        data: the table.
        text_l2: the strength of the penalty of the linear model of the text.
    """
    work, growth = WORK[data.options.effort], None
    if len(data.targets) < SMALL_ROWS:
        work = work._replace(chunk=SMALL_CHUNK)
    columns = tree_columns(data.encoder, data.encoded)
    data.progress.start("trees", (len(data.parts.pairs) + 1) * work.most // work.chunk)
    grown: list[GrownPart] = []
    for number in range(len(data.parts.pairs)):
        part = _Part(data, columns, *data.parts.pairs[number])
        part.read_text(text_l2)
        if growth is None:
            growth = part.choose_growth(data.options.effort, work)
        grown.append(part.grow(growth, work))
    data.progress.end()
    candidates = Candidates()
    for stage in range(min(len(part.stages) for part in grown)):
        logits = np.concatenate([part.stages[stage] for part in grown])
        candidates.add(stage * STAGE, data.unweighted(logits))

    def model(at: int) -> TreesModel:
        trees = at * STAGE
        if data.parts.kind == "time":
            # The trees of the parts have not seen the latest rows, which are most like new ones.
            rows = np.arange(len(data.targets))
            part = _Part(data, columns, rows, rows[:1])
            part.read_text(text_l2)
            assert growth is not None
            return TreesModel((part.all_at_once(growth, trees),))
        return TreesModel(tuple((part.trees.first(trees), part.reader) for part in grown))

    return Fitted(candidates, model, lambda trees: f"{trees} trees", len(candidates.settings))


class _Part:
    """The rows of one part."""

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
        self._held_weight = None if data.weight is None else data.weight[held_out]
        self._seed, self._rows, self._progress = data.options.seed, len(columns), data.progress
        self._threads = 2 if len(columns) >= THREADED_ROWS else 1
        self._unweighted = data.unweighted
        self._reader: Linear | None = None
        self._boosters: dict[Growth, Booster] = {}
        self._grown: dict[Growth, GrownPart] = {}

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

    def choose_growth(self, effort: str, work: Work) -> Growth:
        """The size of the trees, and the learning rate."""
        rows = self._rows
        if rows < MIDDLE_ROWS:
            if effort == "low":
                return SMALL
            self._grown = {growth: self.grow(growth, work) for growth in (SMALL, MIDDLE)}
            small, middle = (self._lowest(grown.stages) for grown in self._grown.values())
            return MIDDLE if helps(small, middle, self._held_weight) else SMALL
        if rows < RACE_ROWS:
            return MIDDLE
        if effort == "low":
            return LARGE[0]
        self._boosters = {growth: self._booster(growth) for growth in LARGE}
        return min(LARGE, key=lambda growth: self._loss(self._boosters[growth].grow(RACE_TREES)))

    def grow(self, growth: Growth, work: Work) -> GrownPart:
        """Grow trees until the loss of the rows held out stops falling."""
        if growth in self._grown:
            return self._grown[growth]
        booster = self._boosters.pop(growth, None) or self._booster(growth)
        trees = 0
        logits: list[np.ndarray] = []
        while True:
            trees += work.chunk
            grown = booster.grow(trees)
            logits += grown.staged(self._held_columns, STAGE, logits)
            stages = np.array(logits)
            loss = self._losses(stages)
            best = int(loss.argmin()) * STAGE
            self._progress.tried(f"{best} trees of one part", float(loss.min()))
            if trees >= work.most or trees - best >= work.patience:
                return GrownPart(grown, self._reader, stages)

    def all_at_once(self, growth: Growth, trees: int) -> tuple[Trees, Linear | None]:
        """So many trees, whatever the rows held out say."""
        grown = self._booster(growth).grow(max(trees, 1))
        return grown.first(trees), self._reader

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

    def _losses(self, stages: np.ndarray) -> np.ndarray:
        """The mean loss of the rows held out at each stage."""
        every = losses(self._unweighted(stages), self._held_targets)
        means: np.ndarray = np.average(every, axis=1, weights=self._held_weight)
        return means

    def _lowest(self, stages: np.ndarray) -> np.ndarray:
        """The losses of the rows held out at the best stage, [rows]."""
        best = stages[int(self._losses(stages).argmin())]
        return losses(self._unweighted(best), self._held_targets)

    def _loss(self, trees: Trees) -> float:
        logits = self._unweighted(trees.logits(self._held_columns))
        return mean_loss(logits, self._held_targets, self._held_weight)
