"""The figures of `torchbce fit` on real data, with the defaults, beside logistic regression.

    python benchmarks/classifier.py [--data DIR] [NAME ...]

Writes benchmarks/results/classifier.json and classifier.md. Data sets without a given split are
scored by stratified 10-fold cross-validation (shuffled, seed 0), the mean over folds. The data is
not part of this project: DIR holds one folder a data set, and without it there is nothing to do.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from sklearn.model_selection import StratifiedKFold

from torchbce.classifier import Metrics, Overrides, evaluate_logits, fit, read

RESULTS = Path(__file__).parent / "results"
SHOWN = ("log_loss", "relative_log_loss", "accuracy", "roc_auc", "average_precision", "ece")


@dataclass(frozen=True)
class DataSet:
    """Files of one data set, what to leave out, and the figures it should reach."""

    train: str
    test: str | None = None
    drop: tuple[str, ...] = ()
    at_most: tuple[tuple[str, float], ...] = ()
    at_least: tuple[tuple[str, float], ...] = ()


DATA_SETS = {
    "rt_polarity": DataSet(
        "data.csv", at_most=(("log_loss", 0.46),), at_least=(("accuracy", 0.78),)
    ),
    "sms_spam": DataSet("data.csv", at_most=(("log_loss", 0.055),)),
    "adult_income": DataSet(
        "train.csv", "test.csv", at_most=(("log_loss", 0.318),), at_least=(("roc_auc", 0.905),)
    ),
    "census_income_kdd": DataSet(
        "train.parquet",
        "test.parquet",
        drop=("instance_weight",),
        at_most=(("log_loss", 0.124),),
    ),
    "mammography": DataSet("data.csv", at_most=(("log_loss", 0.058),)),
}


def pairs(folder: Path, data: DataSet) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Tables to fit and tables to score."""
    table = read(folder / data.train)
    if data.test is not None:
        yield table, read(folder / data.test)
        return
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    for train, test in folds.split(np.zeros(len(table)), table["label"].to_numpy()):
        yield table[train], table[test]


def score(folder: Path, data: DataSet) -> tuple[list[Metrics], float]:
    """The figures of each pair, and the median seconds of a fit."""
    figures, seconds = [], []
    for train, test in pairs(folder, data):
        start = time.perf_counter()
        classifier = fit(train, "label", overrides=Overrides(drop=data.drop))
        seconds.append(time.perf_counter() - start)
        targets = classifier.card.target.array(test["label"])
        figures.append(evaluate_logits(classifier.logits(test), targets))
    return figures, statistics.median(seconds)


def mean(figures: list[Metrics], name: str) -> float:
    return statistics.fmean(msgspec.to_builtins(figure)[name] for figure in figures)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"no data at {options.data}: nothing measured")
        return

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "classifier.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name, data in DATA_SETS.items():
        if options.names and name not in options.names:
            continue
        figures, seconds = score(options.data / name, data)
        row = {figure: mean(figures, figure) for figure in SHOWN}
        goals = [(f, bound, row[f] <= bound, "<=") for f, bound in data.at_most]
        goals += [(f, bound, row[f] >= bound, ">=") for f, bound in data.at_least]
        results[name] = {
            "how": "train to test" if data.test else "10-fold",
            **row,
            "goals": [f"{f} {sign} {bound:g}" for f, bound, _, sign in goals],
            "reached": all(met for _, _, met, _ in goals),
            "fit_seconds": seconds,
        }
        path.write_text(json.dumps(results, indent=2) + "\n")
        print(name, results[name], flush=True)
    (RESULTS / "classifier.md").write_text(table(results))


def table(results: dict[str, dict[str, object]]) -> str:
    head = ["data", "how", *(name.replace("_", " ") for name in SHOWN), "goal", "reached"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name in (n for n in DATA_SETS if n in results):
        row = results[name]
        goals = row["goals"]
        assert isinstance(goals, list)
        cells = [name, str(row["how"]), *(f"{row[figure]:.4f}" for figure in SHOWN)]
        cells += [", ".join(goal.replace("_", " ") for goal in goals)]
        cells += ["yes" if row["reached"] else "no"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
