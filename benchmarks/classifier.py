"""`torchbce fit` beside other classifiers: quality, CPU time and memory on real data.

    python benchmarks/classifier.py [DATA_SET ...] [report] [--data DIR] [--quick]

Each fit is a process of its own. All classifiers have the same splits: the training and the test
file, one random split, or stratified 10-fold cross-validation (shuffled, seed 0). The data sets are
not part of this project: DIR holds one folder for each, and a data set without a folder is not
measured. fastText is left out where it is not installed (`pip install fasttext` compiles it).
"""

import functools
import importlib.util
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from sklearn.model_selection import StratifiedKFold, train_test_split

import classifier_report
from classifier_contenders import CONTENDERS, LABEL, OWN, Contender, cost
from common.command import Options, main
from common.machine import machine
from common.processes import in_process
from torchbce.classifier import evaluate_logits

FOLDS, QUICK_FOLDS, QUICK_ROWS = 10, 2, 400
#: Rows of the fits before the measurement, which compile the kernels that are not on disk yet.
WARM_UP_ROWS = 1_000
METRICS = ("log_loss", "roc_auc", "average_precision", "accuracy", "brier")


@dataclass(frozen=True)
class DataSet:
    """The files of a data set, and how it is split.

    Attributes:
        kind: numbers and categories, or one column of text.
        train: the file of the training rows, or of all rows.
        test: the file of the test rows, if they have one.
        rows: of the training and of the test part of one random split; otherwise, without a test
            file, the rows are split in ten folds.
        drop: columns to leave out.
    """

    kind: Literal["table", "text"]
    train: str
    test: str | None = None
    rows: tuple[int, int] | None = None
    drop: tuple[str, ...] = ()

    @property
    def how(self) -> str:
        if self.rows is not None:
            return "{:,} to {:,} rows".format(*self.rows)
        return "train to test" if self.test else f"{FOLDS}-fold"


DATA_SETS = {
    "adult_income": DataSet("table", "train.csv", "test.csv"),
    "census_income_kdd": DataSet(
        "table", "train.parquet", "test.parquet", drop=("instance_weight",)
    ),
    "mammography": DataSet("table", "data.csv"),
    "flights_2001_3m": DataSet("table", "data.parquet", rows=(300_000, 100_000)),
    "rt_polarity": DataSet("text", "data.csv"),
    "sms_spam": DataSet("text", "data.csv"),
}


# ------------------------------------------------------------------------------------- the splits


def splits(folder: Path, data: DataSet, quick: bool) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Tables to fit, each with a table to score."""

    def table(file: str) -> pl.DataFrame:
        # The values of a CSV stay as they are written: each classifier reads the file itself.
        path = folder / file
        csv = path.suffix == ".csv"
        whole = pl.read_csv(path, infer_schema=False) if csv else pl.read_parquet(path)
        return whole.sample(QUICK_ROWS, seed=0) if quick else whole

    train = table(data.train)
    if data.test is not None:
        yield train, table(data.test)
        return
    labels = train[LABEL].to_numpy()
    if data.rows is not None:
        sizes = (QUICK_ROWS // 2, QUICK_ROWS // 2) if quick else data.rows
        fitted, scored = train_test_split(
            np.arange(len(train)),
            train_size=sizes[0],
            test_size=sizes[1],
            stratify=labels,
            random_state=0,
        )
        yield train[fitted], train[scored]
        return
    folds = StratifiedKFold(QUICK_FOLDS if quick else FOLDS, shuffle=True, random_state=0)
    for fitted, scored in folds.split(np.zeros(len(train)), labels):
        yield train[fitted], train[scored]


def write(table: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)


# ---------------------------------------------------------------------------------- one data set


@dataclass(frozen=True)
class Scored:
    """One fit of a classifier: what it took, and its logits of the rows held out."""

    cost: dict[str, float]
    logits: np.ndarray
    targets: np.ndarray


def scores(
    name: str, tables: Sequence[tuple[pl.DataFrame, pl.DataFrame]], data: DataSet, warm_up: bool
) -> list[Scored]:
    """The fits of one classifier, in processes of their own."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        suffix = Path(data.train).suffix
        train, test = (Path(directory) / f"{part}{suffix}" for part in ("train", "test"))
        logits = Path(directory) / "logits.npy"

        def fit(fitted: pl.DataFrame, scored: pl.DataFrame) -> Scored:
            write(fitted, train)
            write(scored, test)
            used = in_process(cost, name, str(train), str(test), list(data.drop), str(logits))
            targets = np.array(scored[LABEL].cast(pl.Float64))
            return Scored(used, np.load(logits), targets)

        if warm_up:
            fitted, scored = tables[0]
            fit(fitted.sample(min(WARM_UP_ROWS, len(fitted)), seed=0), scored.head(1000))
        for number, (fitted, scored) in enumerate(tables, 1):
            found.append(fit(fitted, scored))
            seconds = found[-1].cost["cpu_seconds"]
            print(f"  {name}, fit {number} of {len(tables)}: {seconds:.1f} CPU s", flush=True)
    return found


def summary(found: Sequence[Scored]) -> dict[str, float]:
    """Means over fits. Of the memory, the most; of the calibration error, that of all rows."""
    metrics = [evaluate_logits(fit.logits, fit.targets) for fit in found]
    every = evaluate_logits(
        np.concatenate([fit.logits for fit in found]),
        np.concatenate([fit.targets for fit in found]),
    )
    rows = sum(len(fit.targets) for fit in found)
    return {
        **{name: statistics.fmean(getattr(of, name) for of in metrics) for name in METRICS},
        # The bins of one fold hold so few rows that their shares of positives alone differ from
        # exact probabilities by more than the error: by .03 in folds of 1,000 rows.
        "ece": every.ece,
        "cpu_seconds": statistics.fmean(fit.cost["cpu_seconds"] for fit in found),
        "peak_bytes": max(fit.cost["peak_bytes"] for fit in found),
        "predicted_rows_per_second": rows / sum(fit.cost["predict_seconds"] for fit in found),
    }


def missing(contender: Contender) -> bool:
    return contender.needs is not None and importlib.util.find_spec(contender.needs) is None


def measure(name: str, options: Options) -> dict[str, Any] | None:
    data, folder = DATA_SETS[name], options.data / name
    if not folder.is_dir():
        return None
    tables = list(splits(folder, data, options.quick))[: 1 if options.quick else None]
    print(name, flush=True)
    results = {}
    for contender, of in CONTENDERS.items():
        if data.kind not in of.kinds:
            continue
        if missing(of):
            print(f"  {contender} is not measured: {of.needs} is not installed", flush=True)
            continue
        warm_up = contender in OWN and not options.quick
        results[contender] = summary(scores(contender, tables, data, warm_up))
    return {"how": data.how, "machine": machine(), "classifiers": results}


PARTS = {name: functools.partial(measure, name) for name in DATA_SETS}

if __name__ == "__main__":
    main(__doc__, PARTS, classifier_report.REPORT)
