"""Metrics of `torchbce fit` with its defaults on real data, against their goals.

    python benchmarks/classifier.py [DATA_SET ...] [report] [--data DIR] [--quick]

Data sets without a given split are scored by stratified 10-fold cross-validation (shuffled, seed
0), as the mean over folds. The data sets are not part of this project: DIR holds one folder for
each, and a data set without a folder is not measured.
"""

import functools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from sklearn.model_selection import StratifiedKFold

import classifier_report
from classifier_report import METRICS
from common.command import Options, main
from common.timing import timed
from torchbce.classifier import Metrics, Overrides, evaluate_logits, fit, read

FOLDS, QUICK_FOLDS, QUICK_ROWS = 10, 2, 400


@dataclass(frozen=True)
class DataSet:
    """The files of a data set, the columns to drop, and the goals by metric."""

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


def splits(
    folder: Path, data: DataSet, options: Options
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Tables to fit, each with a table to score."""

    def table(file: str) -> pl.DataFrame:
        whole = read(folder / file)
        return whole.sample(QUICK_ROWS, seed=0) if options.quick else whole

    train = table(data.train)
    if data.test is not None:
        yield train, table(data.test)
        return
    folds = StratifiedKFold(QUICK_FOLDS if options.quick else FOLDS, shuffle=True, random_state=0)
    for fitted, scored in folds.split(np.zeros(len(train)), train["label"].to_numpy()):
        yield train[fitted], train[scored]


def score(data: DataSet, train: pl.DataFrame, test: pl.DataFrame) -> tuple[Metrics, float]:
    """The metrics on the test table, and the seconds of the fit."""
    overrides = Overrides(drop=data.drop)
    classifier, seconds = timed(lambda: fit(train, "label", overrides=overrides))
    targets = classifier.card.target.array(test["label"])
    return evaluate_logits(classifier.logits(test), targets), seconds


def measure(name: str, options: Options) -> dict[str, Any] | None:
    data, folder = DATA_SETS[name], options.data / name
    if not folder.is_dir():
        return None
    scores = [score(data, *tables) for tables in splits(folder, data, options)]
    columns = [msgspec.to_builtins(metrics) for metrics, _ in scores]
    means = {metric: statistics.fmean(column[metric] for column in columns) for metric in METRICS}
    return {
        "how": "train to test" if data.test else "10-fold",
        **means,
        "goals": [f"{metric} <= {bound:g}" for metric, bound in data.at_most]
        + [f"{metric} >= {bound:g}" for metric, bound in data.at_least],
        "reached": all(means[metric] <= bound for metric, bound in data.at_most)
        and all(means[metric] >= bound for metric, bound in data.at_least),
        "fit_seconds": statistics.median(seconds for _, seconds in scores),
    }


PARTS = {name: functools.partial(measure, name) for name in DATA_SETS}

if __name__ == "__main__":
    main(__doc__, PARTS, classifier_report.REPORT)
