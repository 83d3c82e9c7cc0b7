"""Weights of rows: what they do to every model, and to figures."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from making import csv_of, done, numbers, torchbce
from torchbce import diagnose
from torchbce.classifier import InputError, TrainingOptions, fit
from torchbce.classifier.columns.encoder import fit_encoder
from torchbce.classifier.columns.inference import Overrides, infer_columns
from torchbce.classifier.columns.outcomes import Outcomes
from torchbce.classifier.models.boosting import Booster, Growth, hard_rows
from torchbce.classifier.models.candidates import Candidates, losses, mean_loss
from torchbce.classifier.models.data import Data
from torchbce.classifier.models.features import SparseRows
from torchbce.classifier.models.losses import ArrayLoss
from torchbce.classifier.models.mixture import mixture_weights
from torchbce.classifier.models.network_fit import Rows, train
from torchbce.classifier.models.solver import Problem
from torchbce.classifier.progress import NoProgress

QUICK = ("--model", "linear", "--effort", "low", "--no-report")
NONE_COUNTS = "every row has a weight of 0, so that no row counts"
LINEAR = TrainingOptions(model="linear", effort="low")


def weighted(rows: int = 200, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """A table with whole weights from 0 to 3, and the indices of the rows as they repeat."""
    weight = np.random.default_rng(seed).integers(0, 4, rows)
    table = numbers(rows, seed, effect=1.0).with_columns(w=weight)
    return table, np.repeat(np.arange(rows), weight)


def sparse(matrix: np.ndarray) -> SparseRows:
    csr = sp.csr_matrix(matrix.astype(np.float32))
    return SparseRows(csr.indptr.astype(np.int64), csr.indices, csr.data, csr.shape[1])


def data_of(table: pl.DataFrame, weight: np.ndarray | None, **options: object) -> Data:
    choices = infer_columns(table, "y", Overrides())
    made = TrainingOptions(**options)  # type: ignore[arg-type]
    pos_weight = float(made.pos_weight or 1.0)
    encoder, encoded = fit_encoder(table, choices)
    y = table["y"].to_numpy().astype(np.float64)
    return Data(encoder, encoded, y, pos_weight, made, NoProgress(), weight)


# ----------------------------------------------------------------------- weights are repeated rows


@pytest.mark.parametrize("loss", ["bce", "focal", "asymmetric", "poly"])
def test_linear_models(loss: str) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(300, 4)), random.random(300)
    weight = random.integers(0, 4, 300)
    again = np.repeat(np.arange(300), weight)
    used = None if loss == "bce" else ArrayLoss(TrainingOptions(model="linear", loss=loss))  # type: ignore[arg-type]
    one = Problem(sparse(x), y, weight.astype(np.float64), loss=used)
    many = Problem(sparse(x[again]), y[again], loss=used)
    found = [problem.solve(2.0, problem.start, 1e-15) for problem in (one, many)]
    # L-BFGS stops where the loss no longer falls, which leaves the weights at about its root.
    assert np.allclose(found[0].weight, found[1].weight, atol=1e-5)
    assert found[0].bias == pytest.approx(found[1].bias, abs=1e-5)


def test_trees() -> None:
    """Where leaves have more than the 20 rows that scikit-learn wants: these are not weighted."""
    random = np.random.default_rng(0)
    x = random.integers(0, 4, (400, 2)).astype(float)
    y = (random.random(400) < 0.2 + 0.2 * x[:, 0] * (x[:, 1] > 1)).astype(float)
    weight = random.integers(1, 4, 400)
    again = np.repeat(np.arange(400), weight)
    growth = Growth(learning_rate=0.1, max_leaf_nodes=4)
    one = Booster(x, 0, y, weight.astype(float), growth, 0, 1).grow(20)
    many = Booster(x[again], 0, y[again], None, growth, 0, 1).grow(20)
    # Gradients are float32 there.
    assert np.allclose(one.logits(x), many.logits(x), atol=1e-4)
    assert not np.allclose(Booster(x, 0, y, None, growth, 0, 1).grow(20).logits(x), one.logits(x))


def test_a_soft_target_is_two_weighted_rows() -> None:
    y, w = np.array([0.0, 0.25, 1.0, 0.5]), np.array([1.0, 2.0, 3.0, 4.0])
    rows, hard, weight = hard_rows(y, w)
    assert rows is not None
    assert weight is not None
    assert set(hard.tolist()) == {0.0, 1.0}
    z = np.array([0.3, -1.0, 2.0, 0.7])
    assert (weight * losses(z[rows], hard)).sum() == pytest.approx((w * losses(z, y)).sum())
    assert hard_rows(np.array([0.0, 1.0]), None) == (None, pytest.approx([0.0, 1.0]), None)


def test_the_network() -> None:
    """A row of weight 3 is not three steps, so that only the loss is that of repeated rows."""
    random = np.random.default_rng(0)
    features, y = sparse(random.normal(size=(64, 3))), (random.random(64) < 0.5).astype(np.float32)
    options = TrainingOptions(model="mlp", epochs=3, batch_size=64)
    ones = [
        train(Rows(features, y, w), None, 3, 1.0, options, NoProgress(), "stage").network
        for w in (None, np.ones(64, np.float32))
    ]
    parameters = [dict(network.named_parameters()) for network in ones]
    for name, value in parameters[0].items():
        assert torch.equal(value, parameters[1][name]), name
    weight = np.where(y > 0, 3.0, 1.0).astype(np.float32)
    weighed = train(Rows(features, y, weight), None, 1, 1.0, options, NoProgress(), "stage")
    by_class = train(Rows(features, y), None, 1, 3.0, options, NoProgress(), "stage")
    last = [list(network.network.parameters())[-1].item() for network in (weighed, by_class)]
    # The same loss but for a factor, which Adam's first step does not see.
    assert last[0] == pytest.approx(last[1], abs=1e-4)


def test_comparisons() -> None:
    random = np.random.default_rng(0)
    y, weight = (random.random(500) < 0.4).astype(float), random.integers(0, 4, 500)
    again = np.repeat(np.arange(500), weight)
    logits = {"a": 2 * y - 1 + random.normal(size=500), "b": 2 * y - 1 + random.normal(size=500)}
    candidates = Candidates(list(logits), list(logits.values()))
    assert candidates.best(y, weight.astype(float)) == candidates.best(y[again], None, again)
    assert mean_loss(logits["a"], y, weight) == pytest.approx(
        mean_loss(logits["a"][again], y[again])
    )
    one = mixture_weights(logits, 0.0, y, weight.astype(float))
    many = mixture_weights({name: z[again] for name, z in logits.items()}, 0.0, y[again])
    assert list(one) == list(many)
    assert list(one.values()) == pytest.approx(list(many.values()), abs=1e-4)


def test_a_weight_does_not_make_a_difference_more_certain() -> None:
    """A hundred times the weight is not a hundred times as many observations."""
    random = np.random.default_rng(1)
    y = (random.random(40) < 0.5).astype(float)
    noise = {"noise": 0.1 * random.normal(size=40)}
    kept = [mixture_weights(noise, 0.0, y, w) for w in (np.ones(40), np.full(40, 100.0))]
    assert kept[0] == kept[1]


# --------------------------------------------------------------------------------------- a fit


def test_rows_of_weight_0_are_ignored() -> None:
    """Whatever they hold, they change nothing."""
    table, _ = weighted()
    table = table.with_columns(pl.col("w").cast(pl.Float64))
    junk = pl.DataFrame({"a": [1e9, None], "b": [0.0, 1.0], "y": [None, 7], "w": [0.0, 0.0]})
    both = pl.concat([junk, table], how="vertical_relaxed")
    own = fit(table.filter(pl.col("w") > 0), "y", weight="w", options=LINEAR)
    found = fit(both, "y", weight="w", options=LINEAR)
    assert np.array_equal(own.logits(table), found.logits(table))
    assert own.card == found.card


def test_weights_of_1_are_no_weights() -> None:
    table = numbers(120).with_columns(w=1)
    one = fit(table, "y", weight="w", options=LINEAR)
    none = fit(table.drop("w"), "y", options=LINEAR)
    assert np.array_equal(one.logits(table), none.logits(table))
    assert one.card.weight == 120
    assert none.card.weight is None
    assert one.card.dropped == {"w": "the weight of each row"}


@pytest.mark.parametrize("model", ["linear", "trees"])
def test_weights_count_as_repeated_rows(model: str) -> None:
    """Parts differ, so that the models are alike and not equal: a copy may be held out there."""
    random = np.random.default_rng(0)
    x = random.normal(size=600)
    y = (random.random(600) < 1 / (1 + np.exp(-1.5 * x))).astype(int)
    table = pl.DataFrame({"x": x, "y": y, "w": np.where(y, 3, 1)})
    options = TrainingOptions(model=model, effort="low", epochs=5)  # type: ignore[arg-type]
    again = table[np.repeat(np.arange(600), table["w"].to_numpy())].drop("w")
    new = pl.DataFrame({"x": np.linspace(-1, 1, 21)})
    by_weight = fit(table, "y", weight="w", options=options).logits(new)
    by_rows = fit(again, "y", options=options).logits(new)
    without = fit(table.drop("w"), "y", options=options).logits(new)
    assert np.mean(by_weight - by_rows) == pytest.approx(0, abs=0.2)
    assert np.mean(by_weight - without) == pytest.approx(np.log(3), abs=0.3)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_weights_that_do_not_count_rows_are_divided_by_their_mean(scale: float) -> None:
    table, _ = weighted()
    table = table.filter(pl.col("w") > 0)
    mean = table["w"].mean()
    usual = fit(table.with_columns(pl.col("w") / mean), "y", weight="w", options=LINEAR)
    scaled = fit(table.with_columns(pl.col("w") * scale), "y", weight="w", options=LINEAR)
    assert np.allclose(usual.logits(table), scaled.logits(table), atol=1e-6)
    assert scaled.card.weight == pytest.approx(scale * table["w"].sum())


def test_the_loss_of_weighted_positives_and_soft_targets() -> None:
    table = numbers(60).with_columns(y=pl.Series(np.linspace(0, 1, 60)))
    weight = np.linspace(1, 2, 60)
    data = data_of(table, weight, pos_weight=3.0)
    z, y = np.linspace(-2, 2, 60), data.targets
    expected = weight * (3 * y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z))
    assert data.row_weight is not None
    assert np.allclose(data.row_weight * losses(z, data.training_targets), expected)
    assert data.base == pytest.approx(np.log((weight @ y) / (weight @ (1 - y))))
    hard = data_of(numbers(60), None, pos_weight=3.0)
    assert np.array_equal(hard.training_targets, hard.targets)
    assert set(hard.row_weight.tolist()) == {1.0, 3.0}  # type: ignore[union-attr]


def test_balanced_positives_are_balanced_by_weight() -> None:
    table = numbers(100).with_columns(w=pl.when(pl.col("y") == 1).then(1.0).otherwise(9.0))
    options = TrainingOptions(model="linear", effort="low", pos_weight="balanced")
    assert fit(table, "y", weight="w", options=options).card.pos_weight == pytest.approx(9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, -2.0], r"holds -2 in row 2; expected finite weights of 0 or above"),
        ([1.0, None], r"holds no value in row 2"),
        ([1.0, float("inf")], r"holds inf in row 2"),
        (["1", "heavy"], r"row 2 holds 'heavy'"),
        ([0.0, 0.0], r"every row has a weight of 0"),
    ],
)
def test_wrong_weights_are_named(values: list[object], message: str) -> None:
    table = numbers(40).with_columns(w=pl.Series(values * 20))
    with pytest.raises(InputError, match=message):
        fit(table, "y", weight="w")


def test_a_weight_is_no_input() -> None:
    table = numbers(40).with_columns(w=1.0)
    with pytest.raises(InputError, match="the weight of each row; it cannot be an input too"):
        fit(table, "y", weight="w", overrides=Overrides(numeric=["w"]))
    with pytest.raises(InputError, match="weight column 'v' is not in the table"):
        fit(table, "y", weight="v")


def test_rows_are_named_as_they_came() -> None:
    """Also where rows of weight 0 before them are left out."""
    table = numbers(40).with_columns(w=pl.Series([0] * 10 + [1] * 30))
    text = table["a"].cast(pl.String).to_list()
    text[20] = "many"
    with pytest.raises(InputError, match=r"in row 21"):
        fit(table.with_columns(a=pl.Series(text)), "y", weight="w")


def test_outcomes() -> None:
    outcomes = Outcomes(np.zeros(2), np.array([0.0, 2.0]), np.array([1, 2]), np.array([3.0, 4.0]))
    kept = outcomes.take(outcomes.counted())
    assert len(kept) == 1
    assert kept.groups is not None
    assert kept.groups.tolist() == [2]
    assert kept.times is not None
    assert kept.times.tolist() == [4.0]


# --------------------------------------------------------------------------------- command line


def test_evaluate_with_weights(tmp_path: Path) -> None:
    table, again = weighted()
    csv_of(table, tmp_path / "t.csv")
    csv_of(table[again], tmp_path / "again.csv")
    done(
        "fit",
        tmp_path / "t.csv",
        "--target",
        "y",
        "--weight",
        "w",
        "--model",
        "linear",
        "-q",
        "-o",
        tmp_path / "m",
    )
    card = json.loads((tmp_path / "m" / "model.json").read_text())
    assert card["row_columns"] == {"weight": "w", "group": None, "time": None}
    one = json.loads(
        done("evaluate", tmp_path / "m", tmp_path / "t.csv", "--weight", "w", "--json").stdout
    )
    many = json.loads(done("evaluate", tmp_path / "m", tmp_path / "again.csv", "--json").stdout)
    for name in ("log_loss", "brier", "roc_auc", "average_precision", "accuracy", "f1", "ece"):
        assert one[name] == pytest.approx(many[name]), name
    predicted = table.with_columns(p=pl.Series(np.linspace(0.01, 0.99, len(table))))
    csv_of(predicted, tmp_path / "p.csv")
    csv_of(predicted[again], tmp_path / "p_again.csv")
    columns = ["--target", "y", "--probability", "p", "--json"]
    one = json.loads(
        done("evaluate", "--predictions", tmp_path / "p.csv", *columns, "--weight", "w").stdout
    )
    many = json.loads(done("evaluate", "--predictions", tmp_path / "p_again.csv", *columns).stdout)
    assert one["log_loss"] == pytest.approx(many["log_loss"])
    message = torchbce("evaluate", tmp_path / "m", tmp_path / "t.csv", "--weight", "a").stderr
    assert "weight column 'a' holds -" in message


def test_weights_that_are_all_zero(tmp_path: Path) -> None:
    table = numbers(60).with_columns(w=0, k=0, p=0.5)
    rows = csv_of(table, tmp_path / "t.csv")
    done(
        "fit",
        csv_of(table.drop("w"), tmp_path / "u.csv"),
        "--target",
        "y",
        "-o",
        tmp_path / "m",
        *QUICK,
    )
    of_predictions = ("--target", "y", "--probability", "p", "--weight", "w")
    for arguments in (
        ("fit", rows, "--target", "y", "--weight", "w", "-o", tmp_path / "n"),
        ("fit", rows, "--positives", "k", "--trials", "w", "-o", tmp_path / "n"),
        ("evaluate", tmp_path / "m", rows, "--weight", "w"),
        ("evaluate", "--predictions", rows, *of_predictions),
        ("diagnose", rows, *of_predictions),
    ):
        result = torchbce(*arguments)
        assert (result.exit_code, NONE_COUNTS in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "n").exists()
    nothing = torch.zeros(60)
    assert diagnose(nothing, nothing, weight=nothing).findings is not None


def test_a_target_is_no_weight(tmp_path: Path) -> None:
    rows = csv_of(numbers(60).with_columns(p=0.5), tmp_path / "t.csv")
    of_predictions = ("evaluate", "--predictions", rows, "--target", "y", "--probability", "p")
    for arguments in (("fit", rows, "--target", "y", "-o", tmp_path / "m"), of_predictions):
        result = torchbce(*arguments, "--weight", "y")
        assert result.exit_code == 2
        assert "column 'y' is a target; it cannot be the weight too: leave out --weight y" in (
            " ".join(result.stderr.split())
        )


def test_votes_are_shown_by_their_share(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = numbers(90).with_columns(k=random.integers(0, 4, 90), t=3).drop("y")
    rows = csv_of(table, tmp_path / "t.csv")
    done("fit", rows, "--positives", "k", "--trials", "t", "-o", tmp_path / "m", *QUICK)
    share = table["k"].sum() / 270
    assert f"90 rows, {share:.1%} positive" in done("show", tmp_path / "m").stdout
