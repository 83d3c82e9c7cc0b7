"""A linear head on the 983 tags of delicious, beside nn.Linear with dense targets.

    python benchmarks/delicious.py [--data DIR]

Precision of the 1, 3 and 5 best labels of the test rows. Learning rate and weight decay are those
that are best on rows held out of the training rows; the test rows are looked at once, at the end.
Both heads begin with the same numbers and see the same rows in the same order. Seconds are medians
of trainings in turn. The data (arrays of 0 and 1 as scipy.sparse, X and Y by train and test) is not
part of this project: where there is none, nothing is measured.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import _results
import linear
import torchbce

BATCH, EPOCHS = 256, 10
LEARNING_RATES, WEIGHT_DECAYS = (0.03, 0.1), (0.03, 0.1, 0.3)
HELD_OUT, RUNS, SEED = 2000, 3, 0
BEST = (1, 3, 5)
GOAL = 0.66


class Rows(NamedTuple):
    """Features [N, D], dense targets [N, L], and the same as positives, padded with -1."""

    features: Tensor
    dense: Tensor
    positives: Tensor

    def at(self, index: Tensor) -> "Rows":
        return Rows(*(tensor[index] for tensor in self))


class Recipe(NamedTuple):
    learning_rate: float
    weight_decay: float


def read(folder: Path, part: str) -> Rows:
    x, y = (scipy.sparse.load_npz(folder / f"{name}.{part}.npz").toarray() for name in "XY")
    # A page has more words or fewer; its tags are no surer for that.
    features = F.normalize(torch.tensor(x, dtype=torch.float32))
    dense = torch.tensor(y != 0)
    listed = [row.nonzero().flatten() for row in dense]
    return Rows(features, dense.float(), nn.utils.rnn.pad_sequence(listed, True, -1))


def ours(rows: Rows) -> tuple[nn.Module, Callable[[Rows], Any]]:
    head = torchbce.LinearBCELoss(rows.features.shape[1], rows.dense.shape[1])
    return head, lambda batch: head(batch.features, batch.positives)


def peer(rows: Rows) -> tuple[nn.Module, Callable[[Rows], Any]]:
    start, _ = ours(rows)
    layer, criterion = (
        nn.Linear(rows.features.shape[1], rows.dense.shape[1]),
        nn.BCEWithLogitsLoss(),
    )
    layer.load_state_dict(start.state_dict())
    return layer, lambda batch: criterion(layer(batch.features), batch.dense)


HEADS = {"torchbce.LinearBCELoss": ours, "nn.Linear, nn.BCEWithLogitsLoss": peer}


def train(rows: Rows, name: str, recipe: Recipe) -> tuple[nn.Module, float]:
    """A trained head, and the seconds that it took."""
    torch.manual_seed(SEED)
    head, loss = HEADS[name](rows)
    optimizer = torch.optim.AdamW(
        head.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = EPOCHS * -(-len(rows.features) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(SEED)
    start = time.perf_counter()
    for _ in range(EPOCHS):
        order = torch.randperm(len(rows.features), generator=generator)
        for first in range(0, len(order), BATCH):
            optimizer.zero_grad()
            loss(rows.at(order[first : first + BATCH])).backward()
            optimizer.step()
            schedule.step()
    return head, time.perf_counter() - start


def precisions(head: nn.Module, rows: Rows) -> dict[str, float]:
    """What share of the k best labels is right."""
    with torch.no_grad():
        if isinstance(head, torchbce.LinearBCELoss):
            best = head.topk(rows.features, max(BEST)).indices
        else:
            best = head(rows.features).topk(max(BEST)).indices
    right = rows.dense.gather(1, best)
    return {f"P@{k}": right[:, :k].mean().item() for k in BEST}


def choose(rows: Rows) -> Recipe:
    """The recipe that is best on rows held out."""
    order = torch.randperm(len(rows.features), generator=torch.Generator().manual_seed(SEED))
    held_out, others = rows.at(order[:HELD_OUT]), rows.at(order[HELD_OUT:])
    found = {}
    for recipe in (Recipe(rate, decay) for rate in LEARNING_RATES for decay in WEIGHT_DECAYS):
        head, _ = train(others, "torchbce.LinearBCELoss", recipe)
        scores = precisions(head, held_out)
        found[recipe] = sum(scores.values())
        print(recipe, scores, flush=True)
    return max(found, key=lambda recipe: found[recipe])


def measure(folder: Path) -> dict[str, Any]:
    training, test = read(folder, "train"), read(folder, "test")
    recipe = choose(training)
    results: dict[str, Any] = {"recipe": recipe._asdict(), "goal": GOAL, "heads": {}}
    seconds: dict[str, list[float]] = {name: [] for name in HEADS}
    for _ in range(RUNS):
        for name in HEADS:
            head, taken = train(training, name, recipe)
            seconds[name].append(taken)
            results["heads"][name] = precisions(head, test)
    for name, figures in results["heads"].items():
        figures["seconds"] = statistics.median(seconds[name])
        print(name, figures, flush=True)
    return results


def table(results: dict[str, Any]) -> str:
    head = ["head", *(f"P@{k}" for k in BEST), "training", "goal", "reached"]
    rows = [
        [
            name,
            *(f"{figures[f'P@{k}']:.3f}" for k in BEST),
            f"{figures['seconds']:.1f} s",
            f"P@1 >= {GOAL}",
            "yes" if figures["P@1"] >= GOAL else "**no**",
        ]
        for name, figures in results["heads"].items()
    ]
    recipe = results["recipe"]
    said = (
        f"\nAdamW, {EPOCHS} epochs of batches of {BATCH}, learning rate "
        f"{recipe['learning_rate']:g} falling to 0, weight decay {recipe['weight_decay']:g}, both "
        f"chosen on {HELD_OUT:,} of the training rows; rows of length 1.\n"
    )
    return _results.markdown(head, rows) + said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="DIR")
    folder = parser.parse_args().data / "delicious"
    if not folder.is_dir():
        print(f"no data at {folder}: nothing measured")
        return
    results = measure(folder)
    _results.save("delicious", results, table(results), "docs/linear.md")
    _results.insert("linear_summary", linear.summary())


if __name__ == "__main__":
    main()
