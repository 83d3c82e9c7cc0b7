"""Thresholds, guarantees, undecided rows and calibration of a fitted classifier."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from making import csv_of, done, torchbce
from torchbce.classifier import (
    Classifier,
    InputError,
    InputWarning,
    TrainingOptions,
    evaluate_logits,
    fit,
    load,
    save,
)
from torchbce.classifier.decisions.deciding import NEVER, Decision, Rule, decide
from torchbce.classifier.decisions.guarantees import Certified
from torchbce.classifier.decisions.thresholds import ChosenThreshold
from torchbce.classifier.models.calibration import Calibration, calibration_of


def table(rows: int = 2000, seed: int = 0, shift: float = -2.0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 2))
    y = random.random(rows) < expit(2.5 * x[:, 0] + x[:, 1] + shift)
    return pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y.astype(int)})


def fitted(rows: pl.DataFrame, **options: Any) -> Classifier:
    return fit(rows, "y", options=TrainingOptions(model="linear", **options))


def guaranteed(threshold: float | None, text: str = "precision>=0.9") -> Certified:
    return Certified(text, threshold, 0.95, 100, None)


# ---------------------------------------------------------------------- objectives


@pytest.mark.parametrize("objective", ["f1", "mcc", "balanced-accuracy", "cost:1,5", "recall@0.7"])
def test_the_chosen_threshold_is_better_on_new_rows(objective: str) -> None:
    classifier = fitted(table(), optimize=objective)
    assert classifier.card.threshold != 0.5
    decision = classifier.card.decision
    assert decision is not None
    assert decision.optimized is not None
    assert decision.optimized.threshold == classifier.card.threshold
    assert decision.optimized.objective == objective
    assert decision.notes == []
    new = table(20_000, seed=1)
    predicted = classifier.predict(new)
    assert (predicted["predicted"] == (predicted["probability"] >= classifier.card.threshold)).all()
    if objective == "f1":
        z, y = classifier.logits(new), new["y"].to_numpy().astype(float)
        plain = evaluate_logits(z, y).f1
        assert evaluate_logits(z, y, classifier.card.threshold).f1 > plain + 0.01


def test_figures_of_rows_held_out_are_at_thresholds_chosen_on_others() -> None:
    """With a target of pure noise the balanced accuracy is that of chance."""
    random = np.random.default_rng(0)
    noise = pl.DataFrame({"a": random.normal(size=400), "y": random.integers(0, 2, 400)})
    counts = fitted(noise, optimize="balanced-accuracy").card.held_out.confusion
    balanced = (counts.tp / (counts.tp + counts.fn) + counts.tn / (counts.tn + counts.fp)) / 2
    assert balanced < 0.54
    rare = table(4000, shift=-5.0)
    plain = fitted(rare)
    chosen = fitted(rare, optimize="f1")
    assert chosen.card.held_out.f1 > plain.card.held_out.f1
    assert chosen.card.held_out.log_loss == plain.card.held_out.log_loss
    f1 = chosen.card.decision.optimized.value  # type: ignore[union-attr]
    assert chosen.card.held_out.f1 <= f1 + 0.01  # type: ignore[operator]


def test_few_rows_keep_their_threshold() -> None:
    classifier = fitted(table(40), optimize="f1")
    assert classifier.card.threshold == 0.5
    decision = classifier.card.decision
    assert decision is not None
    assert "too few" in decision.notes[0]
    assert fitted(table(3000), optimize="accuracy").card.threshold == 0.5
    assert fitted(table(200)).card.decision is None


def test_a_threshold_for_another_base_rate() -> None:
    """Costs have their threshold at every base rate, F1 has another one."""
    rows = table(4000)
    card = fit(
        rows, "y", base_rate=0.02, options=TrainingOptions("linear", optimize="cost:1,4")
    ).card
    assert card.threshold == pytest.approx(0.2, abs=0.1)
    options = TrainingOptions("linear", optimize="f1")
    rare = fit(rows, "y", base_rate=0.02, options=options)
    usual = fit(rows, "y", options=options)
    share = (rare.probabilities(rows) >= rare.card.threshold).mean()
    assert share < (usual.probabilities(rows) >= usual.card.threshold).mean() / 2


# ---------------------------------------------------------------------- guarantees


@pytest.mark.parametrize("text", ["precision>=0.75", "recall>=0.8", "fpr<=0.1"])
def test_a_guarantee_is_kept_by_new_rows(text: str) -> None:
    classifier = fitted(table(6000), guarantee=text)
    card = classifier.card
    assert (card.rows, card.set_aside) == (4500, 1500)
    (found,) = card.decision.guarantees  # type: ignore[union-attr]
    assert found.threshold == card.threshold
    assert found.rows == 1500
    new = table(50_000, seed=1)
    predicted, y = classifier.predict(new)["predicted"].to_numpy(), new["y"].to_numpy()
    if text.startswith("precision"):
        assert 0.75 <= y[predicted == 1].mean() < 0.95
    elif text.startswith("recall"):
        assert 0.8 <= predicted[y == 1].mean() < 0.9
    else:
        assert 0.05 < predicted[y == 0].mean() <= 0.1


@pytest.mark.slow
def test_guarantees_hold_in_95_of_100_fits() -> None:
    """Of 100 fits, 90 or more: with exactly 95% fewer have a probability of 1%."""
    new = table(100_000, seed=12345)
    y, kept = new["y"].to_numpy(), 0
    for seed in range(100):
        classifier = fitted(table(2500, seed), guarantee="precision>=0.8", seed=seed)
        (found,) = classifier.card.decision.guarantees  # type: ignore[union-attr]
        positive = classifier.probabilities(new) >= classifier.card.threshold
        kept += found.threshold is None or y[positive].mean() >= 0.8
    assert kept >= 90


def test_no_threshold_is_said_and_the_plain_one_stays() -> None:
    random = np.random.default_rng(0)
    noise = pl.DataFrame({"a": random.normal(size=800), "y": random.integers(0, 2, 800)})
    card = fitted(noise, guarantee="precision>=0.9").card
    assert card.threshold == 0.5
    (note,) = card.decision.notes  # type: ignore[union-attr]
    assert note.startswith("no threshold keeps precision>=0.9 with 95% confidence on the 200 rows")


def test_rows_between_two_guarantees_stay_undecided() -> None:
    rows = table(6000)
    classifier = fitted(rows, guarantee=("precision>=0.8", "recall>=0.95"), abstain=True)
    low, high = classifier.card.decision.undecided  # type: ignore[union-attr, misc]
    assert 0 < low < high == classifier.card.threshold
    new = table(30_000, seed=1)
    answer = classifier.predict(new)
    p, predicted, y = (v.to_numpy() for v in (*answer, new["y"]))
    assert np.array_equal(np.isnan(predicted), (p >= low) & (p < high))
    assert y[predicted == 1].mean() >= 0.8
    assert (predicted[y == 1] == 0).mean() <= 0.05
    assert classifier.predict(new, abstain=False)["predicted"].null_count() == 0
    assert classifier.predict(new, threshold=0.3)["predicted"].null_count() == 0


def test_the_rows_set_aside_are_the_latest() -> None:
    rows = table(400).with_columns(day=pl.Series(range(400)))
    classifier = fit(
        rows.with_columns(y=pl.when(pl.col("day") >= 300).then(1).otherwise(pl.col("y"))),
        "y",
        time="day",
        options=TrainingOptions("linear", guarantee="recall>=0.5"),
    )
    assert classifier.card.positives < 250  # none of the 100 latest rows, which are all positive
    assert classifier.card.set_aside == 100


def test_what_has_no_guarantee() -> None:
    options = TrainingOptions("linear", guarantee="recall>=0.9")
    rows = table(300).with_columns(
        w=pl.Series([1.0, 2.0] * 150), g=pl.Series([i % 30 for i in range(300)]), p=0.5
    )
    cases: list[tuple[dict[str, Any], str]] = [
        ({"weight": "w"}, "weight"),
        ({"group": "g"}, "group"),
        ({"base_rate": 0.1}, "base_rate"),
    ]
    for arguments, name in cases:
        with pytest.raises(InputError, match=f"^guarantee counts rows .* with {name}$"):
            fit(rows, "y", options=options, **arguments)
    with pytest.raises(InputError, match="needs many more than 7 rows"):
        fit(table(7), "y", options=options)
    classifier = fit(table(400), "y", options=options)
    with pytest.warns(InputWarning, match="does not hold where the base rate is another one"):
        classifier.with_base_rate(0.3)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"optimize": "f2"}, "optimize must be accuracy"),
    ({"guarantee": "f1>=0.9"}, "guarantee must be precision>=P"),
    ({"abstain": True}, "abstain=True needs|abstain needs a guarantee"),
    ({"optimize": "f1", "guarantee": "recall>=0.9"}, "choose one threshold each"),
    ({"guarantee": ("recall>=0.9", "fpr<=0.1")}, "two guarantees need two thresholds"),
    ({"guarantee": ("precision>=0.9", "fpr<=0.1"), "abstain": True}, "may be given once"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG)
def test_wishes_that_exclude_each_other(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TrainingOptions(**options)


# ---------------------------------------------------------------------- rules


def test_decisions() -> None:
    f1 = ChosenThreshold(0.3, "f1", 0.5, 100)
    assert decide(None, [], False) == (0.5, None)
    assert decide(f1, [], False) == (0.3, Decision(f1))
    cases = [
        # precision, recall, the threshold of f1 or 0.5, and the rows between
        ([guaranteed(0.8)], None, (0.8, (0.5, 0.8))),
        ([guaranteed(0.4)], None, (0.4, (0.4, 0.4))),
        ([guaranteed(0.8)], f1, (0.8, (0.3, 0.8))),
        ([guaranteed(None)], None, (1.0, (0.5, NEVER))),
        ([guaranteed(0.1, "recall>=0.9")], None, (0.5, (0.1, 0.5))),
        ([guaranteed(0.7, "recall>=0.9")], None, (0.7, (0.7, 0.7))),
        ([guaranteed(None, "recall>=0.9")], None, (0.5, (0.0, 0.5))),
        ([guaranteed(0.8), guaranteed(0.2, "recall>=0.9")], None, (0.8, (0.2, 0.8))),
        ([guaranteed(0.4), guaranteed(0.6, "recall>=0.9")], None, (0.4, (0.4, 0.4))),
    ]
    for guarantees, optimized, (threshold, undecided) in cases:
        got, decision = decide(optimized, guarantees, True)
        assert (got, decision.undecided) == (threshold, undecided)  # type: ignore[union-attr]
    # Without abstaining the threshold is the guaranteed one, or stays.
    assert decide(None, [guaranteed(0.8)], False)[0] == 0.8
    assert decide(None, [guaranteed(None)], False)[0] == 0.5


def test_rules() -> None:
    p = np.array([0.1, 0.3, 0.6, 0.9])
    decision = Decision(undecided=(0.2, 0.7), abstain=True)
    assert Rule.of(0.7, decision).is_undecided(p).tolist() == [False, True, True, False]
    assert Rule.of(0.7, decision, abstain=False) == Rule(0.7)
    assert Rule.of(0.7, decision, 0.4) == Rule(0.4)
    assert Rule.of(0.7, msgspec.structs.replace(decision, abstain=False)) == Rule(0.7)
    assert Rule.of(0.5, None) == Rule(0.5)
    nothing = Rule.of(1.0, Decision(undecided=(0.5, NEVER), abstain=True))
    assert nothing.is_undecided(np.array([0.4, 0.5, 1.0])).tolist() == [False, True, True]
    labels = pl.Series("predicted", [0, 0, 0, 1])
    assert Rule.of(0.7, decision).decided(labels, p).to_list() == [0, None, None, 1]
    for arguments, sentence in (
        ({"other": 1.5}, r"threshold must be in \[0, 1\]"),
        ({"other": 0.5, "abstain": True}, "exclude each other"),
        ({"abstain": True}, "needs a model that was fitted with a guarantee"),
    ):
        with pytest.raises(InputError, match=sentence):
            Rule.of(0.5, None, **arguments)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- calibration


BENT = Calibration("quadratic", [0.6, 1.8], 0.3, -2.0, 1.0)


def test_the_map_of_skewed_logits() -> None:
    z = np.random.default_rng(0).normal(size=4000)
    y = (np.random.default_rng(1).random(4000) < expit(z)).astype(float)
    found = calibration_of(3 * z, y, None)
    assert found is not None
    np.testing.assert_allclose(found(3 * z), z, atol=0.5)
    assert calibration_of(z, y, None) is None
    assert calibration_of(3 * z[:999], y[:999], None) is None


def test_the_figures_of_rows_held_out_are_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(5000)
    plain = fitted(rows)
    seen = []

    def bent(logits: np.ndarray, *more: object) -> Calibration:
        seen.append(len(logits))
        return BENT

    monkeypatch.setattr("torchbce.classifier.models.search.calibration_of", bent)
    classifier = fitted(rows)
    assert plain.card.calibration is None
    assert classifier.card.calibration == BENT
    np.testing.assert_allclose(classifier.logits(rows), BENT(plain.logits(rows)))
    assert classifier.card.held_out.log_loss > plain.card.held_out.log_loss
    assert classifier.card.held_out.roc_auc == pytest.approx(plain.card.held_out.roc_auc)
    # Once on all rows held out, and for each fifth of them on the others.
    assert seen == [1000, *[800] * 5]


def test_a_calibrated_classifier(tmp_path: Path) -> None:
    rows = table(1200)
    plain = fit(rows, "y", options=TrainingOptions(effort="low"))
    card = msgspec.structs.replace(plain.card, calibration=BENT, base_rate=0.3)
    classifier = replace(plain, card=card)
    z = classifier.logits(rows)
    np.testing.assert_allclose(z, BENT(plain.logits(rows)) + card.base_shift)
    save(classifier, tmp_path / "model")
    assert np.array_equal(load(tmp_path / "model").logits(rows), z)
    np.testing.assert_allclose(classifier.contributions(rows).sum_horizontal(), z, atol=1e-9)
    scale = BENT.slope_near(card.base)
    assert classifier.explain().base == pytest.approx(
        BENT(np.array([card.base]))[0] + card.base_shift
    )
    after, before = classifier.explain().curves, plain.explain().curves
    for one, other in zip(after, before, strict=True):
        # A sum of a float32 weight and a float32 slope times a number may cancel.
        np.testing.assert_allclose(one.log_odds, scale * np.array(other.log_odds), rtol=1e-5)


def test_a_damaged_calibration_is_refused() -> None:
    for record in (
        {"kind": "platt", "slopes": []},
        {"kind": "platt", "slopes": [-1.0]},
        {"kind": "isotonic", "slopes": [1.0]},
        {"kind": "quadratic", "slopes": [1.0, 1.0]},
        {"kind": "quadratic", "slopes": [1.0, 1.0], "low": 1.0, "high": 1.0},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(record, Calibration)
    bent = Calibration("quadratic", [0.5, 2.0], 0.0, -1.0, 1.0)
    assert bent.slope_near(-5) == pytest.approx(0.5)
    assert bent.slope_near(5) == pytest.approx(2.0)


# ---------------------------------------------------------------------- the command line


def test_the_commands(tmp_path: Path) -> None:
    train, test = (
        csv_of(table(3000), tmp_path / "train.csv"),
        csv_of(table(300, 1), tmp_path / "test.csv"),
    )
    model, out = str(tmp_path / "model"), tmp_path / "out.csv"
    fit_it = ["fit", train, "--target", "y", "--output", model, "--model", "linear", "--json"]
    answer = json.loads(done(*fit_it, "--optimize", "f1").stdout)
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    assert answer["threshold"] == card["threshold"] != 0.5
    assert answer["decision"]["optimized"]["objective"] == "f1"

    def predicted(*options: str) -> pl.DataFrame:
        done("predict", model, test, "--output", str(out), "--overwrite", *options)
        return pl.read_csv(out)

    rows = predicted()
    assert (rows["predicted"] == (rows["probability"] >= card["threshold"])).all()
    assert (predicted("--threshold", "0.9")["predicted"] == (rows["probability"] >= 0.9)).all()
    shown = done("evaluate", model, test).stdout
    assert f"{card['threshold']:.4f}*" in shown
    assert "calibration loss" in shown
    assert "threshold for f1" in done("show", model).stdout
    figures = json.loads(done("evaluate", model, test, "--json", "--threshold", "0.9").stdout)
    assert figures["threshold"] == 0.9
    file = ["evaluate", "--predictions", str(out), "--target", "y", "--probability", "probability"]
    by_file = json.loads(done(*file, "--threshold", "0.9", "--json").stdout)
    assert by_file["confusion"] == figures["confusion"]

    wishes = ["--guarantee", "precision>=0.75", "--guarantee", "recall>=0.9", "--abstain"]
    answer = json.loads(done(*fit_it, *wishes, "--overwrite").stdout)
    assert [one["guarantee"] for one in answer["decision"]["guarantees"]] == [
        "precision>=0.75",
        "recall>=0.9",
    ]
    low, high = answer["decision"]["undecided"]
    rows = predicted()
    between = (rows["probability"] >= low) & (rows["probability"] < high)
    assert (rows["predicted"].is_null() == between).all()
    assert between.any()
    counts = json.loads(
        done("predict", model, test, "--output", str(out), "--overwrite", "--json").stdout
    )
    assert counts["undecided"] == between.sum()
    lines = done("predict", model, test, "--json").stdout.splitlines()
    assert {json.loads(line)["predicted"] for line in lines} == {0, 1, None}
    figures = json.loads(done("evaluate", model, test, "--json").stdout)
    assert figures["undecided"]["share"] == pytest.approx(between.mean())
    assert "undecided" in done("evaluate", model, test).stdout

    result = torchbce(*fit_it, "--guarantee", "precision>=0.9999", "--overwrite")
    assert result.exit_code == 0
    assert "no threshold keeps precision>=0.9999" in json.loads(result.stdout)["warnings"][0]
    for wrong, sentence in (
        (["--optimize", "f3"], "--optimize must be accuracy"),
        (["--guarantee", "x"], "--guarantee must be precision>=P"),
        (["--abstain"], "--abstain needs a guarantee"),
    ):
        result = torchbce(*fit_it, *wrong, "--overwrite")
        assert result.exit_code == 2
        assert sentence in result.stderr
    assert (
        "--threshold must be in [0, 1]"
        in torchbce("predict", model, test, "--threshold", "2").stderr
    )
