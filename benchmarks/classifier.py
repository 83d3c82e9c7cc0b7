"""The figures of `torchbce fit` with its defaults on real data, against their goals.

    python benchmarks/classifier.py [--data DIR] [NAME ...]

Data sets without a given split are scored by stratified 10-fold cross-validation (shuffled, seed
0): the mean over folds. The data is not part of this project: DIR holds one folder a data set,
and where there is none, nothing is measured.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from sklearn.model_selection import StratifiedKFold

import _results
from torchbce.classifier import Metrics, Overrides, evaluate_logits, fit, read

SHOWN = ("log_loss", "relative_log_loss", "accuracy", "roc_auc", "average_precision", "ece")


@dataclass(frozen=True)
class DataSet:
    """Files of one data set, what to leave out, and the figures to reach."""

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
        "train.parquet", "test.parquet", ("instance_weight",), at_most=(("log_loss", 0.124),)
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


def summary(data: DataSet, figures: list[Metrics], seconds: float) -> dict[str, Any]:
    columns = [msgspec.to_builtins(figure) for figure in figures]
    means = {name: statistics.fmean(column[name] for column in columns) for name in SHOWN}
    return {
        "how": "train to test" if data.test else "10-fold",
        **means,
        "goals": [f"{name} <= {bound:g}" for name, bound in data.at_most]
        + [f"{name} >= {bound:g}" for name, bound in data.at_least],
        "reached": all(means[name] <= bound for name, bound in data.at_most)
        and all(means[name] >= bound for name, bound in data.at_least),
        "fit_seconds": seconds,
    }


def table(results: dict[str, Any]) -> str:
    head = ["data", "how", *SHOWN, "goal", "reached"]
    rows = [
        [
            name,
            row["how"],
            *(f"{row[figure]:.4f}" for figure in SHOWN),
            ", ".join(row["goals"]),
            "yes" if row["reached"] else "**no**",
        ]
        for name, row in results.items()
    ]
    return _results.markdown([cell.replace("_", " ") for cell in head], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DATA_SETS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="DIR")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"no data at {options.data}: nothing measured")
        return
    results = _results.load("classifier")
    for name in options.names or DATA_SETS:
        results[name] = summary(DATA_SETS[name], *score(options.data / name, DATA_SETS[name]))
        print(name, results[name], flush=True)
        ordered = {name: results[name] for name in DATA_SETS if name in results}
        _results.save("classifier", ordered, table(ordered))


if __name__ == "__main__":
    main()
