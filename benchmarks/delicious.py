"""A linear head on the 983 tags of delicious, against nn.Linear with dense targets.

    python benchmarks/delicious.py [report] [--data DIR] [--quick]

Precision of the 1, 3 and 5 highest-scored labels of the test rows. Learning rate and weight decay
are those that are best on rows held out of the training rows; the test rows are used once, at the
end. Both heads start from the same parameters and see the same batches in the same order. Seconds
are medians over trainings that alternate between the heads. The data (arrays of 0 and 1 of
scipy.sparse, X and Y for train and test) is not part of this project; without it nothing is
measured.
"""

import functools
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import delicious_report
import torchbce
from common.command import Options, main
from common.timing import timed

BATCH, SEED = 256, 0
BEST = (1, 3, 5)
GOAL = 0.66


class Sizes(NamedTuple):
    """How much is trained."""

    rows: int | None = None
    epochs: int = 10
    learning_rates: tuple[float, ...] = (0.03, 0.1)
    weight_decays: tuple[float, ...] = (0.03, 0.1, 0.3)
    held_out: int = 2000
    runs: int = 3


QUICK = Sizes(
    rows=400, epochs=1, learning_rates=(0.1,), weight_decays=(0.03,), held_out=100, runs=1
)


class Rows(NamedTuple):
    """Features [N, D], dense targets [N, L], and the same as positives, padded with -1."""

    features: Tensor
    dense: Tensor
    positives: Tensor

    def at(self, index: Tensor) -> "Rows":
        return Rows(*(tensor[index] for tensor in self))


class Recipe(NamedTuple):
    """Hyperparameters."""

    learning_rate: float
    weight_decay: float
    epochs: int


Head = tuple[nn.Module, Callable[[Rows], Any]]


def read(folder: Path, part: str, rows: int | None) -> Rows:
    x, y = (scipy.sparse.load_npz(folder / f"{name}.{part}.npz").toarray()[:rows] for name in "XY")
    # Rows of length 1, so that a page with more words does not get larger logits.
    features = F.normalize(torch.tensor(x, dtype=torch.float32))
    dense = torch.tensor(y != 0)
    lists = [row.nonzero().flatten() for row in dense]
    return Rows(features, dense.float(), nn.utils.rnn.pad_sequence(lists, True, -1))


def ours(rows: Rows) -> Head:
    head = torchbce.LinearBCELoss(rows.features.shape[1], rows.dense.shape[1])
    return head, lambda batch: head(batch.features, batch.positives)


def theirs(rows: Rows) -> Head:
    initial, _ = ours(rows)
    layer = nn.Linear(rows.features.shape[1], rows.dense.shape[1])
    layer.load_state_dict(initial.state_dict())
    criterion = nn.BCEWithLogitsLoss()
    return layer, lambda batch: criterion(layer(batch.features), batch.dense)


OURS = "torchbce.LinearBCELoss"
HEADS = {OURS: ours, "nn.Linear, nn.BCEWithLogitsLoss": theirs}


def train(rows: Rows, name: str, recipe: Recipe) -> tuple[nn.Module, float]:
    """A trained head, and the seconds of its training."""
    torch.manual_seed(SEED)
    head, loss = HEADS[name](rows)
    _, seconds = timed(functools.partial(train_epochs, head, loss, rows, recipe))
    return head, seconds


def train_epochs(head: nn.Module, loss: Callable[[Rows], Any], rows: Rows, recipe: Recipe) -> None:
    """AdamW with a learning rate that falls linearly to 0."""
    optimizer = torch.optim.AdamW(
        head.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * -(-len(rows.features) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(rows.features), generator=generator)
        for batch in torch.split(order, BATCH):
            optimizer.zero_grad()
            loss(rows.at(batch)).backward()
            optimizer.step()
            schedule.step()


def precisions(head: nn.Module, rows: Rows) -> dict[str, float]:
    """The share of the k highest-scored labels that are correct."""
    with torch.no_grad():
        if isinstance(head, torchbce.LinearBCELoss):
            best = head.topk(rows.features, max(BEST)).indices
        else:
            best = head(rows.features).topk(max(BEST)).indices
    correct = rows.dense.gather(1, best)
    return {f"P@{k}": correct[:, :k].mean().item() for k in BEST}


def choose(rows: Rows, sizes: Sizes) -> Recipe:
    """The recipe with the highest precisions on held-out rows."""
    order = torch.randperm(len(rows.features), generator=torch.Generator().manual_seed(SEED))
    held_out, others = rows.at(order[: sizes.held_out]), rows.at(order[sizes.held_out :])
    totals = {}
    for rate, decay in itertools.product(sizes.learning_rates, sizes.weight_decays):
        recipe = Recipe(rate, decay, sizes.epochs)
        head, _ = train(others, OURS, recipe)
        scores = precisions(head, held_out)
        totals[recipe] = sum(scores.values())
        print(recipe, scores, flush=True)
    return max(totals, key=lambda recipe: totals[recipe])


def measure(options: Options) -> dict[str, Any] | None:
    folder, sizes = options.data / "delicious", QUICK if options.quick else Sizes()
    if not folder.is_dir():
        return None
    training, test = (read(folder, part, sizes.rows) for part in ("train", "test"))
    recipe = choose(training, sizes)
    figures: dict[str, dict[str, float]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in HEADS}
    for _ in range(sizes.runs):
        for name in HEADS:
            head, taken = train(training, name, recipe)
            seconds[name].append(taken)
            figures[name] = precisions(head, test)
    for name, values in seconds.items():
        figures[name]["seconds"] = statistics.median(values)
    return {
        "recipe": {**recipe._asdict(), "batch": BATCH, "held_out": sizes.held_out},
        "goal": GOAL,
        "heads": figures,
    }


if __name__ == "__main__":
    main(__doc__, {"tags": measure}, delicious_report.REPORT)
