"""Targets that are probabilities, votes, and several rows for each case."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from making import csv_of, done, torchbce
from torchbce.classifier import InputError, TrainingOptions, evaluate_logits, fit, load
from torchbce.classifier.models.parts import make_parts

LINEAR = TrainingOptions(model="linear", effort="low")
VADER = Path(__file__).parents[2] / "shared" / "data" / "vader_soft_labels" / "data_soft.csv"


def votes(rows: int = 300, seed: int = 0) -> pl.DataFrame:
    """A number, how many of up to eight votes are positive, and their share."""
    random = np.random.default_rng(seed)
    x = random.normal(size=rows)
    trials = random.integers(0, 9, rows)
    hits = random.binomial(trials, 1 / (1 + np.exp(-x)))
    share = np.divide(hits, trials, out=np.zeros(rows), where=trials > 0)
    return pl.DataFrame({"x": x, "hits": hits, "trials": trials, "share": share})


@pytest.mark.parametrize("model", ["linear", "trees", "mlp"])
def test_votes_are_shares_with_weights(model: str) -> None:
    table = votes()
    options = TrainingOptions(model=model, effort="low", epochs=3)  # type: ignore[arg-type]
    by_votes = fit(table.drop("share"), positives="hits", trials="trials", options=options)
    by_share = fit(table.drop("hits"), "share", soft=True, weight="trials", options=options)
    assert np.array_equal(by_votes.logits(table), by_share.logits(table))
    assert by_votes.card.held_out == by_share.card.held_out
    assert by_votes.card.weight == table["trials"].sum()
    assert by_votes.card.rows == (table["trials"] > 0).sum()


def test_votes_are_several_rows_of_a_case() -> None:
    table = votes(200)
    rows = [
        (x, y)
        for x, hits, trials, _ in table.iter_rows()
        for y in [1] * hits + [0] * (trials - hits)
    ]
    several = pl.DataFrame(rows, schema=["x", "y"], orient="row")
    by_votes = fit(table.drop("share"), positives="hits", trials="trials", options=LINEAR)
    by_rows = fit(several, "y", options=LINEAR)
    new = pl.DataFrame({"x": np.linspace(-1.5, 1.5, 31)})
    # The bins are those of 200 rows there, and of 800 here.
    assert np.abs(by_votes.probabilities(new) - by_rows.probabilities(new)).max() < 0.08
    assert by_votes.card.base == pytest.approx(by_rows.card.base)
    assert by_votes.card.held_out.log_loss == pytest.approx(
        by_rows.card.held_out.log_loss, abs=0.01
    )


@pytest.mark.parametrize("model", ["auto", "mlp"])
def test_soft_targets_of_0_and_1_are_hard_ones(model: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=150)
    table = pl.DataFrame({"x": x, "y": (random.random(150) < 1 / (1 + np.exp(-2 * x))).astype(int)})
    options = TrainingOptions(model=model, effort="low", epochs=3)  # type: ignore[arg-type]
    soft, hard = fit(table, "y", soft=True, options=options), fit(table, "y", options=options)
    assert np.array_equal(soft.logits(table), hard.logits(table))
    assert soft.card.held_out == hard.card.held_out


@pytest.mark.parametrize("model", ["linear", "pairs", "trees", "mlp"])
def test_probabilities_are_learned(model: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 2))
    p = 1 / (1 + np.exp(-x[:, 0] - x[:, 0] * x[:, 1]))
    table = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "p": p})
    options = TrainingOptions(model=model, effort="low", epochs=10, pos_weight=2.0)  # type: ignore[arg-type]
    fitted = fit(table, "p", soft=True, options=options)
    found = fitted.probabilities(table)
    assert np.abs(found - p).mean() < 0.11
    assert found.mean() == pytest.approx(p.mean(), abs=0.03)
    entropy = float(np.mean(-p * np.log(p) - (1 - p) * np.log1p(-p)))
    assert entropy < fitted.card.held_out.log_loss < entropy + 0.07
    assert fitted.card.positives == pytest.approx(p.sum())
    assert fitted.predict(table)["predicted"].to_list() == (found >= 0.5).astype(int).tolist()


def test_parts_of_soft_targets() -> None:
    """Each part has targets above and below the median."""
    y = np.random.default_rng(0).beta(0.5, 5, 100)
    for train, held_out in make_parts(y, 100, 0).pairs:
        assert 0 < (y[held_out] > np.median(y)).sum() < len(held_out)
        assert len(train) + len(held_out) == 100
    mostly_0 = np.where(np.arange(60) < 6, 0.4, 0.0)
    for train, held_out in make_parts(mostly_0, 100, 0).pairs:
        assert (mostly_0[train] > 0).any()
        assert (mostly_0[held_out] > 0).any()


def test_soft_targets_beat_hard_ones() -> None:
    """In the loss of probabilities: the mean of 20 people's opinions of a snippet."""
    if not VADER.exists():
        pytest.skip(f"{VADER} is not there")
    table = pl.read_csv(VADER).sample(3500, seed=0, shuffle=True)
    train, test = table[:1500], table[1500:]
    y = test["label"].to_numpy().copy()
    soft = fit(train, "label", soft=True, options=LINEAR)
    hard = fit(train.with_columns((pl.col("label") > 0.5).cast(int)), "label", options=LINEAR)
    loss = [evaluate_logits(one.logits(test), y).log_loss for one in (soft, hard)]
    assert loss[0] < 0.98 * loss[1]  # 0.648 against 0.685 with 2,000 rows


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.1, 1.2], r"'y' holds 1.2 in row 2; expected numbers in \[0, 1\], probabilities"),
        ([0.1, -0.2], r"holds -0.2 in row 2"),
        ([0.1, None], r"has no value in 20 rows, the first is row 2"),
        (["0.1", "yes"], r"row 2 holds 'yes'"),
        ([0.5, 0.5], r"the probability 0.5 in every row"),
        ([0.0, 0.0], r"says '0' or '1' for certain in all rows but 0"),
    ],
)
def test_wrong_probabilities_are_named(values: list[object], message: str) -> None:
    table = pl.DataFrame({"x": np.arange(40) % 7, "y": pl.Series(values * 20)})
    with pytest.raises(InputError, match=message):
        fit(table, "y", soft=True)


@pytest.mark.parametrize(
    ("hits", "trials", "message"),
    [
        (
            [1, 5],
            [3, 4],
            r"'hits' holds 5 in row 2; expected numbers in \[0, 4\], that of 'trials'",
        ),
        ([1, 1], [3, -4], r"'trials' holds -4 in row 2; expected numbers of trials, 0 or above"),
        ([1, None], [3, 4], r"'hits' has no value in 20 rows"),
        ([0, 0], [0, 0], r"every row has a weight of 0"),
    ],
)
def test_wrong_votes_are_named(hits: list[object], trials: list[object], message: str) -> None:
    table = {"x": np.arange(40) % 7, "hits": hits * 20, "trials": trials * 20}
    with pytest.raises(InputError, match=message):
        fit(table, positives="hits", trials="trials")


def test_names_that_do_not_go_together() -> None:
    table = votes(60)
    for arguments, message in (
        ({"positives": "hits"}, "positives needs trials too"),
        ({"trials": "trials"}, "trials needs positives too"),
        ({"target": "x", "positives": "hits", "trials": "trials"}, "leave out target"),
        ({"positives": "hits", "trials": "hits"}, "are both 'hits'"),
        ({}, "give the column to predict, target, or positives and trials"),
        ({"target": "share", "soft": True, "positive": "1"}, "leave out positive"),
        ({"target": "share"}, "if they are probabilities, pass soft=True"),
        (
            {"positives": "hits", "trials": "trails"},
            "column of trials 'trails' is not in the table",
        ),
    ):
        with pytest.raises(InputError, match=message):
            fit(table, **arguments)


# ------------------------------------------------------------------------------- command line


def test_soft_targets_and_votes_from_the_command_line(tmp_path: Path) -> None:
    table = votes(120)
    path, soft, voted = csv_of(table, tmp_path / "t.csv"), tmp_path / "soft", tmp_path / "votes"
    few = ["--model", "linear", "--effort", "low"]
    done("fit", path, "--target", "share", "--soft", *few, "--drop", "hits", "-o", soft)
    shown = done(
        "fit",
        path,
        "--positives",
        "hits",
        "--trials",
        "trials",
        *few,
        "--drop",
        "share",
        "-o",
        voted,
    )
    assert "its share of trials" in shown.stderr
    assert load(voted).card.target.columns == ["hits", "trials"]
    found = json.loads(done("evaluate", voted, path, "--json").stdout)
    counted = table.filter(pl.col("trials") > 0)
    expected = evaluate_logits(
        load(voted).logits(counted),
        counted["share"].to_numpy().copy(),
        weight=counted["trials"].to_numpy().astype(float),
    )
    assert found["log_loss"] == pytest.approx(expected.log_loss)
    of_soft = json.loads(done("evaluate", soft, path, "--weight", "trials", "--json").stdout)
    assert of_soft["log_loss"] == pytest.approx(found["log_loss"], abs=0.02)
    csv_of(table.with_columns(p=0.5), tmp_path / "p.csv")
    flat = json.loads(
        done(
            "evaluate",
            "--predictions",
            tmp_path / "p.csv",
            "--target",
            "share",
            "--soft",
            "--probability",
            "p",
            "--json",
        ).stdout
    )
    assert flat["log_loss"] == pytest.approx(np.log(2))
    assert "--soft go with --predictions" in torchbce("evaluate", soft, path, "--soft").stderr
