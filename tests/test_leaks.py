"""What is said of columns that copy the target, and of models that found nothing."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from making import csv_of, done, numbers
from torchbce.classifier import evaluate_probabilities
from torchbce.classifier.columns.inference import Overrides, infer_columns
from torchbce.classifier.columns.target import choose_target
from torchbce.classifier.quality.baseline import no_better_than_base_rate, of_base_rate
from torchbce.classifier.quality.leaks import find_leaks

ROWS = 600


def leaks(overrides: Overrides | None = None, rows: int = ROWS, **columns: object) -> list[str]:
    table = pl.DataFrame({**columns, "y": target(rows).astype(np.int64)})
    choices = infer_columns(table, "y", overrides or Overrides())
    return [leak.column for leak in find_leaks(table, choices, choose_target(table, "y", None))]


def target(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(rows) < 0.3


def noise(rows: int = ROWS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows)


def test_copies_of_the_target_are_named() -> None:
    y = target()
    gap = np.where(y, 1.0, 3.0) + 0.01 * noise()
    late, early = (pl.Series(noise()).set(pl.Series(y == at), None) for at in (True, False))
    cases: dict[str, object] = {
        "the same": y.astype(np.int64),
        "upside down": 1 - y.astype(np.int64),
        "as words": np.where(y, "paid", "defaulted"),
        "as a bool": y,
        "by a threshold": gap,
        "at both ends": np.where(y, 5.0, 1.0) * np.sign(noise()) + 0.01 * noise(),
        "missing for negatives": early,
        "missing for positives": late,
        "a date of one value": [f"day {i % 5}" if yes else None for i, yes in enumerate(y)],
    }
    for name, values in cases.items():
        assert leaks(a=noise(), **{name: values}) == [name], name


def test_nearly_a_copy() -> None:
    """99.5% of the rows."""
    y = target(4000)
    flipped = y ^ (np.random.default_rng(3).random(4000) < 0.002)
    assert leaks(rows=4000, copy=flipped, a=noise(4000)) == ["copy"]


def test_what_is_not_a_leak() -> None:
    y = target()
    strong = 1.5 * y + noise()
    assert leaks(a=noise(), strong=strong) == []
    # An identifier, or a category of one or two rows, tells nothing of other rows.
    identifiers = Overrides(categorical=["id", "pair"])
    pairs = [f"p{i // 2}" for i in range(ROWS)]
    assert leaks(identifiers, id=[f"k{i}" for i in range(ROWS)], pair=pairs) == []
    # Few rows of many columns: one of them is a copy by chance.
    few = {f"c{i}": np.random.default_rng(i).random(12) for i in range(2000)}
    assert leaks(rows=12, **few) == []


def test_a_sample_of_a_large_table() -> None:
    y = target(100_000)
    assert leaks(rows=100_000, copy=y + 0.1 * noise(100_000), a=noise(100_000)) == ["copy"]


def test_fit_warns_of_a_leak(tmp_path: Path) -> None:
    table = numbers(200)
    table = table.with_columns(out_come=table["y"] * 2 + 0.001)
    csv_of(table, tmp_path / "t.csv")
    fit = [
        "fit",
        tmp_path / "t.csv",
        "--target",
        "y",
        "--model",
        "linear",
        "--effort",
        "low",
        "--overwrite",
        "--json",
    ]
    result = done(*fit, "-o", tmp_path / "m")
    (warning,) = json.loads(result.stdout)["warnings"]
    assert re.match("column 'out_come' alone predicts 'y' almost perfectly", warning)
    assert warning.endswith("--drop out_come")
    assert f"torchbce: warning: {warning}" in result.stderr.splitlines()
    result = done(*fit, "-o", tmp_path / "m", "--drop", "out_come")
    assert json.loads(result.stdout)["warnings"] == []


# --------------------------------------------------------------------------------------- base rate


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8, 0.0, 1.0])
def test_figures_of_the_base_rate(rate: float) -> None:
    """They are those of the metrics of a constant probability."""
    y = (np.arange(40) < 40 * rate).astype(np.float64)
    got = of_base_rate(evaluate_probabilities(np.linspace(0.1, 0.9, 40), y))
    expected = evaluate_probabilities(np.full(40, rate), y)
    for name in got.__struct_fields__:
        if name == "confusion":
            assert got.confusion == expected.confusion
        elif getattr(expected, name) is None:
            assert getattr(got, name) is None
        else:
            assert getattr(got, name) == pytest.approx(getattr(expected, name), abs=1e-15)


def test_a_model_that_found_nothing_says_so(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    table = pl.DataFrame({"a": random.normal(size=60), "b": random.normal(size=60), "y": y})
    csv_of(table, tmp_path / "t.csv")
    result = done("fit", tmp_path / "t.csv", "--target", "y", "-o", tmp_path / "m")
    assert re.search("warning: nothing .*better than the base rate was found", result.stderr)
    table = numbers(60)
    csv_of(table, tmp_path / "t.csv")
    result = done("fit", tmp_path / "t.csv", "--target", "y", "-o", tmp_path / "n")
    assert "warning" not in result.stderr


def test_chance_is_told_from_a_signal() -> None:
    """With 30 rows of each value an AUC of 0.65 is within two standard errors, 0.15, of 0.5."""
    y = np.repeat([0.0, 1.0], 30)
    p = np.full(60, 0.49)
    p[30:39] = 0.6  # AUC 0.5 + 0.5 * 9 / 30
    assert "certainly" in str(no_better_than_base_rate(evaluate_probabilities(p, y)))
    many = evaluate_probabilities(np.tile(p, 10), np.tile(y, 10))
    assert no_better_than_base_rate(many) is None
    # Weights of 100 are no more rows.
    heavy = evaluate_probabilities(p, y, weight=np.full(60, 100.0))
    assert no_better_than_base_rate(heavy) is None
    assert "certainly" in str(no_better_than_base_rate(heavy, 60))
    one_class = evaluate_probabilities(p[:30], y[:30])
    assert no_better_than_base_rate(one_class) is None


def test_figures_show_the_base_rate_and_the_direction(tmp_path: Path) -> None:
    table = numbers(60)
    csv_of(table, tmp_path / "t.csv")
    done("fit", tmp_path / "t.csv", "--target", "y", "-o", tmp_path / "m", "--epochs", "3")
    lines = done("evaluate", tmp_path / "m", tmp_path / "t.csv").stdout.splitlines()
    assert lines[0].split() == ["95%", "interval", "base", "rate", "better", "is"]
    number = r"\d\.\d{4}"
    for label, base, better in (
        ("log loss (nats)", "0.6931", "lower"),
        ("ROC-AUC", "0.5000", "higher"),
        ("accuracy", "0.5000", "higher"),
        ("Brier score", "0.2500", "lower"),
    ):
        (line,) = [line for line in lines if line.startswith(label)]
        assert re.search(rf" \d\.\d{{4}} +{number}-{number} +{base} +{better}$", line)
