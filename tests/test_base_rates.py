"""Another share of positives in use: the shift of logits, and its estimate from rows alone."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from making import csv_of, done, torchbce
from torchbce.classifier import (
    Classifier,
    InputError,
    TrainingOptions,
    evaluate_logits,
    fit,
    load,
    save,
)
from torchbce.classifier.quality.base_rates import estimate_base_rate

LINEAR = TrainingOptions(model="linear", effort="low")


def rows_at(rate: float, rows: int, seed: int) -> pl.DataFrame:
    """Two Gaussian features whose log-odds are exactly linear, at a base rate."""
    random = np.random.default_rng(seed)
    y = (random.random(rows) < rate).astype(int)
    return pl.DataFrame({"a": random.normal(1.2 * y), "b": random.normal(0.7 * y), "y": y})


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return fit(rows_at(0.5, 4000, 0), "y", options=LINEAR)


def odds(rate: float) -> float:
    return float(np.log(rate / (1 - rate)))


def test_the_shift_is_exact(classifier: Classifier, tmp_path: Path) -> None:
    table = rows_at(0.1, 300, 1)
    moved = classifier.with_base_rate(0.1)
    shift = odds(0.1) - classifier.card.base
    assert np.allclose(moved.logits(table), classifier.logits(table) + shift, rtol=0, atol=1e-12)
    assert np.allclose(moved.contributions(table).sum_horizontal(), moved.logits(table))
    assert moved.explain().base == pytest.approx(classifier.explain().base + shift)
    save(moved, tmp_path / "m")
    assert np.array_equal(load(tmp_path / "m").logits(table), moved.logits(table))
    assert np.array_equal(moved.with_base_rate(None).logits(table), classifier.logits(table))
    again = moved.with_base_rate(0.3).with_base_rate(0.1)
    assert np.array_equal(again.logits(table), moved.logits(table))


def test_it_makes_probabilities_right(classifier: Classifier) -> None:
    table = rows_at(0.05, 20_000, 2)
    y = table["y"].to_numpy().astype(float)
    before = evaluate_logits(classifier.logits(table), y)
    after = evaluate_logits(classifier.with_base_rate(0.05).logits(table), y)
    assert before.ece > 0.1
    assert after.ece < 0.01
    assert after.log_loss < 0.6 * before.log_loss


def test_a_rate_that_is_stored_at_the_fit() -> None:
    """The figures of the rows held out stay those of the table."""
    table = rows_at(0.5, 400, 3)
    plain = fit(table, "y", options=LINEAR)
    stored = fit(table, "y", base_rate=0.02, options=LINEAR)
    assert stored.card.base_rate == 0.02
    assert stored.card.held_out == plain.card.held_out
    assert np.array_equal(stored.logits(table), plain.with_base_rate(0.02).logits(table))
    nothing = fit(
        {"x": np.random.default_rng(0).normal(size=200), "y": [0, 1] * 100}, "y", base_rate=0.2
    )
    if not nothing.models:
        assert nothing.probabilities({"x": [0.0]})[0] == pytest.approx(0.2)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.9])
def test_the_rate_is_recovered_within_its_interval(classifier: Classifier, rate: float) -> None:
    """In 95 of 100 samples, of exact logits: at least 85, which is 4.6 standard errors below."""
    every = rows_at(rate, 100 * 400, 4)
    logits = (1.2 * every["a"] + 0.7 * every["b"] - (1.2**2 + 0.7**2) / 2).to_numpy()
    hits = 0
    for part in range(100):
        found = estimate_base_rate(logits[400 * part : 400 * part + 400], 0.0)
        assert found.low <= found.rate <= found.high
        assert found.rows == 400
        hits += found.low <= rate <= found.high
    assert hits >= 85
    whole = estimate_base_rate(logits, 0.0)
    assert whole.rate == pytest.approx(rate, abs=0.01)
    assert whole.high - whole.low < 0.03
    # The classifier's logits have errors of their own, which the interval does not know.
    assert classifier.estimate_base_rate(every).rate == pytest.approx(rate, abs=0.03)


def test_it_is_the_fixed_point_of_saerens_em() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(-0.5, 2, 500)
    base, weight = 0.4, random.integers(1, 4, 500).astype(float)
    rate = 0.5
    for _ in range(5000):
        p = 1 / (1 + np.exp(-(logits - base + odds(rate))))
        rate = float(np.average(p, weights=weight))
    assert estimate_base_rate(logits, base, weight).rate == pytest.approx(rate, abs=1e-8)
    again = np.repeat(logits, weight.astype(int))
    assert estimate_base_rate(again, base).rate == pytest.approx(rate, abs=1e-8)


def test_all_of_one_value() -> None:
    found = estimate_base_rate(np.full(50, -4.0) + np.linspace(0, 1, 50), 0.0)
    assert found.rate == found.low == 0
    assert 0 < found.high < 0.1
    assert 0 < found.usable < 0.01
    assert estimate_base_rate(np.full(50, 4.0) + np.linspace(0, 1, 50), 0.0).rate == 1
    huge = estimate_base_rate(np.array([-1e9, -1e9, -1e9, 1e9]), 0.0)
    assert huge.rate == pytest.approx(0.25)


def test_wrong_rates(classifier: Classifier) -> None:
    for rate in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="base_rate must be above 0 and below 1"):
            classifier.with_base_rate(rate)
        with pytest.raises(InputError, match="base_rate must be above 0 and below 1"):
            fit(rows_at(0.5, 40, 0), "y", base_rate=rate)
    with pytest.raises(InputError, match="gives every row the same probability"):
        estimate_base_rate(np.full(9, 0.3), 0.0)
    with pytest.raises(InputError, match="without rows"):
        estimate_base_rate(np.zeros(0), 0.0)


def test_the_command_line(classifier: Classifier, tmp_path: Path) -> None:
    table = rows_at(0.1, 600, 5)
    path, model = csv_of(table, tmp_path / "t.csv"), tmp_path / "m"
    save(classifier, model)
    y = table["y"].to_numpy().astype(float)

    def evaluated(*flags: str) -> dict[str, object]:
        result = done("evaluate", model, path, "--json", *flags)
        assert ("estimated" in result.stderr) == ("estimate" in flags)
        return json.loads(result.stdout)  # type: ignore[no-any-return]

    at = evaluated("--base-rate", "0.1")
    expected = evaluate_logits(classifier.with_base_rate(0.1).logits(table), y)
    assert at["log_loss"] == pytest.approx(expected.log_loss)
    estimated = evaluated("--base-rate", "estimate")
    rate = estimated.pop("base_rate")
    assert isinstance(rate, dict)
    assert rate["low"] < 0.1 < rate["high"]
    assert estimated.keys() == at.keys() == evaluated().keys()

    out = tmp_path / "p.csv"
    counts = json.loads(
        done("predict", model, path, "-o", out, "--json", "--base-rate", "estimate").stdout
    )
    assert counts["base_rate"] == rate
    found = pl.read_csv(out)["probability"]
    assert np.allclose(found, classifier.with_base_rate(rate["rate"]).probabilities(table))
    done("predict", model, path, "-o", out, "--overwrite", "--base-rate", "0.1", "-q")
    found = pl.read_csv(out)["probability"]
    assert np.allclose(found, classifier.with_base_rate(0.1).probabilities(table))
    for flags, message in (
        (["--base-rate", "some"], "--base-rate must be 'estimate' or a number, got 'some'"),
        (["--base-rate", "2"], "--base-rate must be above 0 and below 1"),
    ):
        for command in ("predict", "evaluate"):
            assert message in torchbce(command, model, path, *flags).stderr
    stored = tmp_path / "stored"
    done("fit", path, "--target", "y", "--model", "linear", "--base-rate", "0.3", "-o", stored)
    assert load(stored).card.base_rate == 0.3
