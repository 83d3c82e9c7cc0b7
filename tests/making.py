"""Small tables, and the command line run in this process, for the tests of the classifier."""

from pathlib import Path

import numpy as np
import polars as pl
from typer.testing import CliRunner, Result

from torchbce.cli.app import app

KIND = ["good", "great", "lovely", "fine", "warm"]
UNKIND = ["bad", "awful", "dull", "poor", "cold"]

#: The figures of `torchbce evaluate --json`, in their order.
METRICS = [
    "log_loss",
    "relative_log_loss",
    "brier",
    "roc_auc",
    "average_precision",
    "accuracy",
    "f1",
    "ece",
    "confusion",
]


def reviews(rows: int = 24, seed: int = 0) -> pl.DataFrame:
    """A text, a category and a number (some missing), each of which tells the target a little."""
    random = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    words = [KIND if label else UNKIND for label in y]
    text = [
        f"a {random.choice(w)} and {random.choice(w)} film, number {i}" for i, w in enumerate(words)
    ]
    stars = [None if i % 7 == 3 else round(float(v), 2) for i, v in enumerate(random.normal(y))]
    place = [f"{'north' if (label + (i % 5 == 0)) % 2 else 'south'}" for i, label in enumerate(y)]
    return pl.DataFrame(
        {"review": text, "place": place, "stars": stars, "kind": np.where(y, "yes", "no")}
    )


def numbers(rows: int = 40, seed: int = 0, effect: float = 2.0) -> pl.DataFrame:
    """Two numbers, the first of which tells the target."""
    random = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    return pl.DataFrame(
        {"a": random.normal(effect * y), "b": random.normal(size=rows), "y": y.astype(np.int64)}
    )


def csv_of(table: pl.DataFrame, path: Path) -> Path:
    table.write_csv(path)
    return path


def torchbce(*arguments: object) -> Result:
    """`torchbce ARGUMENTS` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    """The same, when it must succeed."""
    result = torchbce(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def names_in(folder: Path) -> set[str]:
    """The names in a folder, hidden files too."""
    return {entry.name for entry in folder.iterdir()}
