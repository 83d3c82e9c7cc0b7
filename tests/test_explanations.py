"""What weighs most in a classifier, and what each column adds to a prediction."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from making import done, torchbce
from torchbce.classifier import (
    Classifier,
    Explanation,
    InputWarning,
    TrainingOptions,
    fit,
    load,
    save,
)
from torchbce.classifier.explanations.labels import signed
from torchbce.classifier.explanations.sources import Sources
from torchbce.classifier.models.boosting import Booster, Growth
from torchbce.classifier.models.members import TreesModel, tree_columns
from torchbce.classifier.models.search import shares_of
from torchbce.classifier.models.trees import Trees
from torchbce.classifier.tables.reading import read

MODELS = ["linear", "pairs", "trees", "mlp"]
WORDS = ["good fun", "bad dull", "a warm lovely day", "poor awful cold"]


def people(rows: int = 1200, seed: int = 0) -> pl.DataFrame:
    """A number, a category, a date and two texts; age and sex act together."""
    random = np.random.default_rng(seed)
    age, sex = random.integers(18, 80, rows), random.choice(["f", "m"], rows)
    note = random.choice(WORDS, rows)
    z = (np.abs(age - 45) / 10 - 1.5) * np.where(sex == "m", 1.5, -1.5) + (age - 45) / 20
    z += np.where([word in (WORDS[0], WORDS[2]) for word in note], 1, -1)
    return pl.DataFrame(
        {
            "age": [None if i % 50 == 7 else int(value) for i, value in enumerate(age)],
            "sex": sex,
            "seen": [f"20{10 + i % 9}-0{1 + i % 7}-11" for i in range(rows)],
            "note": [f"{words} {i}" for i, words in enumerate(note)],
            "title": [f"{words} here {i}" for i, words in enumerate(random.permuted(note))],
            "y": (random.random(rows) < 1 / (1 + np.exp(-z))).astype(int),
        }
    )


PEOPLE = people()
#: Rows with a missing value, an unseen category and words that training did not have.
NEW = PEOPLE.head(40).with_columns(
    age=pl.Series([None, -1000, 10**6, *PEOPLE["age"][3:40].to_list()], dtype=pl.Int64),
    sex=pl.Series(["x", None, *PEOPLE["sex"][2:40].to_list()]),
    note=pl.Series(["", None, "unheard of", *PEOPLE["note"][3:40].to_list()]),
)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Classifier]:
    """A classifier of each model, and one of all of them."""
    made = {
        name: fit(
            PEOPLE,
            "y",
            options=TrainingOptions(model=name, effort="low", epochs=2, pos_weight=3.0),  # type: ignore[arg-type]
        )
        for name in MODELS
    }
    weights = {"linear": 0.5, "pairs": 0.25, "trees": 0.75, "mlp": 0.125}
    card = msgspec.structs.replace(made["pairs"].card, models=weights)
    models = tuple(made[name].models[0] for name in weights)
    tried = tuple(made[name].tried[-1] for name in weights)
    return made | {"all": Classifier(card, made["pairs"].encoder, models, (), tried)}


# ------------------------------------------------------------- the contributions to a prediction


@pytest.mark.parametrize("name", [*MODELS, "all"])
def test_base_and_contributions_add_up_to_the_logit(
    fitted: dict[str, Classifier], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = fitted[name]
    # Sums of some hundred float64 terms; trees and the mlp are summed in another order too.
    found = classifier.contributions(NEW)
    np.testing.assert_allclose(
        found.sum_horizontal().to_numpy(), classifier.logits(NEW), rtol=0, atol=1e-9
    )
    assert found.columns[:6] == ["base", "age", "sex", "seen", "note", "title"]
    assert found["base"].n_unique() == 1
    # A few rows at a time are the same, but for float32 sums of the mlp in another order.
    monkeypatch.setattr("torchbce.classifier.explanations.contributions.CELLS", 50)
    again = classifier.contributions(NEW)
    atol = 1e-5 if name in ("mlp", "all") else 0
    np.testing.assert_allclose(again.to_numpy(), found.to_numpy(), rtol=0, atol=atol)


def test_contributions_of_the_linear_model_are_those_of_its_columns(
    fitted: dict[str, Classifier],
) -> None:
    """A change of one column changes its contribution alone, by as much as the logit."""
    classifier = fitted["linear"]
    other = NEW.with_columns(sex=pl.lit("m"))
    before, after = classifier.contributions(NEW), classifier.contributions(other)
    change = classifier.logits(other) - classifier.logits(NEW)
    assert np.abs(change).max() > 1e-3
    np.testing.assert_allclose((after["sex"] - before["sex"]).to_numpy(), change, atol=1e-12)
    assert after.drop("sex").equals(before.drop("sex"))
    seen = NEW.with_columns(seen=pl.lit("2012-02-11"))
    assert classifier.contributions(seen).drop("seen").equals(before.drop("seen"))


def test_a_pair_is_listed_as_the_pair(fitted: dict[str, Classifier]) -> None:
    found = fitted["pairs"].contributions(NEW)
    assert "age & sex" in found.columns
    # An unseen category has no cell of its own with age.
    assert found["age & sex"][0] == 0
    assert found["age & sex"].abs().max() > 0.3
    # Parts of one date that act together are the date.
    assert "seen & seen" not in found.columns


def test_contributions_of_trees_by_hand() -> None:
    """The root splits on column 0, its left child on column 1."""
    trees = Trees(
        starts=np.array([0, 5]),
        feature=np.array([0, 1, -1, -1, -1], dtype=np.int32),
        threshold=np.array([0.5, 1.5, 0, 0, 0]),
        left=np.array([1, 2, -1, -1, -1], dtype=np.int32),
        right=np.array([4, 3, -1, -1, -1], dtype=np.int32),
        missing_left=np.array([True, False, False, False, False]),
        categories=np.full(5, -1, dtype=np.int32),
        value=np.array([0.0, 0.0, 1.0, 4.0, -2.0]),
        cover=np.array([10, 6, 2, 4, 4], dtype=np.int32),
        sets=np.zeros((0, 8), dtype=np.uint32),
        baseline=0.25,
    )
    left = (2 * 1 + 4 * 4) / 6
    root = (6 * left + 4 * -2) / 10
    assert trees.mean == pytest.approx(0.25 + root)
    found = trees.contributions(np.array([[0.0, 1.0], [np.nan, np.nan], [1.0, 0.0]]))
    expected = [[left - root, 1 - left], [left - root, 4 - left], [-2 - root, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-15)
    first = 6 * (left - root) ** 2 + 4 * (-2 - root) ** 2
    second = 2 * (1 - left) ** 2 + 4 * (4 - left) ** 2
    np.testing.assert_allclose(trees.gains(3), [first / 10, second / 10, 0], atol=1e-15)


@pytest.mark.parametrize("categorical", [0, 2])
def test_the_mean_of_trees_is_that_of_their_training_rows(categorical: int) -> None:
    """The numbers of rows of the nodes are scikit-learn's, also where it splits by categories."""
    random = np.random.default_rng(0)
    x = random.integers(0, 9, (2000, 4)).astype(float)
    x[random.random(x.shape) < 0.1] = np.nan
    z = np.nan_to_num(x[:, 0] % 3) - np.nan_to_num(x[:, 3] > 4)
    y = (random.random(2000) < 1 / (1 + np.exp(-z))).astype(float)
    trees = Booster(x, categorical, y, None, Growth(0.1, 15), 0, 1).grow(20)
    logits = trees.logits(x)
    assert trees.mean == pytest.approx(logits.mean(), abs=1e-10)
    found = trees.contributions(x)
    np.testing.assert_allclose(trees.mean + found.sum(axis=1), logits, atol=1e-10)
    # Over the training rows each column's contributions have a mean of 0.
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-10)
    gains = trees.gains(4)
    assert set(np.argsort(gains)[2:].tolist()) == {0, 3}
    part = trees.first(5)
    np.testing.assert_allclose(
        part.mean + part.contributions(x).sum(axis=1), part.logits(x), atol=1e-10
    )


def test_the_network_without_a_column(fitted: dict[str, Classifier]) -> None:
    """Of two columns the contributions are the Shapley values, from the four sets of columns."""
    random = np.random.default_rng(0)
    a, b = random.choice(["p", "q"], 300), random.choice(["r", "s"], 300)
    y = ((a == "p") ^ (b == "r")).astype(int)
    table = pl.DataFrame({"a": a, "b": b, "y": y})
    classifier = fit(table, "y", options=TrainingOptions(model="mlp", epochs=3))
    row = pl.DataFrame({"a": ["p"], "b": ["r"]})

    def logit(a: str, b: str) -> float:  # an unseen category has no features
        return float(classifier.logits(pl.DataFrame({"a": [a], "b": [b]}))[0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        none, only_a, only_b = logit("?", "?"), logit("p", "?"), logit("?", "r")
    both = logit("p", "r")
    found = classifier.contributions(row)
    assert found["base"][0] == pytest.approx(none, abs=1e-6)  # float32
    expected = ((only_a - none) + (both - only_b)) / 2
    assert found["a"][0] == pytest.approx(expected, abs=1e-6)


def test_names_of_contributions_are_each_there_once() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 4, (2, 2000)).astype(str)
    y = ((a > "1") ^ (b > "1")).astype(int)
    noise = random.choice(["u", "v"], 2000)
    table = pl.DataFrame({"a": a, "b": b, "a & b": noise, "base": noise[::-1], "y": y})
    classifier = fit(table, "y", options=TrainingOptions(model="pairs"))
    found = classifier.contributions(table)
    assert {"base_2", "a", "b", "a & b", "base", "a & b_2"} <= set(found.columns)
    assert found["a & b_2"].abs().min() > 0.5
    np.testing.assert_allclose(
        found.sum_horizontal().to_numpy(), classifier.logits(table), atol=1e-9
    )


def test_contributions_of_no_rows_and_of_no_model() -> None:
    noise = pl.DataFrame({"x": np.random.default_rng(0).normal(size=200), "y": [0, 1] * 100})
    classifier = fit(noise, "y")
    base = msgspec.structs.replace(classifier.card, models={})
    without = Classifier(base, classifier.encoder, ())
    found = without.contributions(noise)
    assert found.columns == ["base", "x"]
    assert found.row(0) == (classifier.card.base, 0.0)
    predicted = without.predict(noise, explain=2)
    assert predicted["explanation_1"].null_count() == 200
    assert without.explain().models == {}
    linear = fit(PEOPLE, "y", options=TrainingOptions(model="linear"))
    assert linear.contributions(PEOPLE.head(0)).shape == (0, 6)
    assert linear.predict(PEOPLE.head(0), explain=2).shape == (0, 4)


# ------------------------------------------------------------------ explanations of predictions


@pytest.mark.parametrize("name", [*MODELS, "all"])
def test_explanations_are_the_largest_contributions(
    fitted: dict[str, Classifier], name: str
) -> None:
    classifier = fitted[name]
    plain, explained = classifier.predict(NEW), classifier.predict(NEW, explain=2)
    assert explained.select(plain.columns).equals(plain)
    assert explained.columns[2:] == ["explanation_1", "explanation_2"]
    contributions = classifier.contributions(NEW).drop("base")
    for row, values in enumerate(contributions.iter_rows(named=True)):
        ranked = sorted(values.items(), key=lambda item: -abs(item[1]))[:2]
        for (source, value), found in zip(ranked, explained.row(row)[2:], strict=True):
            if abs(value) < 0.005:
                assert found is None
                continue
            label, shown = found.rsplit(" ", 1)
            assert shown == signed(value)
            for column in source.split(" & "):
                cell = "missing" if NEW[column][row] is None else NEW[column][row]
                assert f"{column}={cell}" in label or (
                    column in ("note", "title") and column in label
                )


def test_the_words_of_a_text_that_weigh_most() -> None:
    table = pl.DataFrame(
        {
            "note": [f"{WORDS[i % 2]} thing {i}" for i in range(400)],
            "x": np.random.default_rng(0).normal(size=400),
            "y": [i % 2 for i in range(400)],
        }
    )
    for model in ("linear", "trees"):
        classifier = fit(table, "y", options=TrainingOptions(model=model))
        found = classifier.predict(table.head(2), explain=1)["explanation_1"].to_list()
        assert found[0].startswith("note (fun") or found[0].startswith("note (good")
        assert found[1].startswith("note (bad") or found[1].startswith("note (dull")
        words = found[0].removeprefix("note (").rsplit(")", 1)[0].split(", ")
        assert {"fun", "good"} & {*words}
        assert "thing" not in words
        assert " -" in found[0]
        assert " +" in found[1]


def test_a_long_value_is_cut() -> None:
    values = ["long " * 20, "short"]
    table = pl.DataFrame({"x": values * 50, "y": [0, 1] * 50})
    classifier = fit(table, "y", options=TrainingOptions(model="linear"))
    found = classifier.predict(table.head(1), explain=1)["explanation_1"][0]
    label = found.rsplit(" ", 1)[0]
    assert label.endswith("...")
    assert len(label) == len("x=") + 40


# ------------------------------------------------------------------------ what weighs most


def test_effects_are_the_weights_of_the_combined_logit(fitted: dict[str, Classifier]) -> None:
    """The difference of two predictions that differ in one value is the difference of weights."""
    classifier = fitted["linear"]
    explanation = classifier.explain(most=10**6)
    categories = {(one.column, one.value): one.log_odds for one in explanation.categories}
    row = PEOPLE.head(1)
    f, m = (classifier.logits(row.with_columns(sex=pl.lit(s)))[0] for s in "fm")
    assert categories["sex", "m"] - categories["sex", "f"] == pytest.approx(m - f, abs=1e-9)
    (curve,) = [curve for curve in explanation.curves if curve.column == "age"]
    assert curve.bins[-1] == "missing"
    assert len(curve.bins) == len(curve.log_odds)
    (age,) = [c for c in classifier.encoder.numeric if c.name == "age"]
    middles = [(low + high) / 2 for low, high in zip(age.edges[:-1], age.edges[1:], strict=True)]
    values = [age.edges[0], *middles, age.edges[-1], None]
    rows = pl.concat([row] * len(values)).with_columns(age=pl.Series(values, dtype=pl.Float64))
    found = classifier.logits(rows)[1:]
    # The first edge belongs to the second bin, so the first point is compared with none.
    expected = np.array(curve.log_odds[1:]) - curve.log_odds[1]
    np.testing.assert_allclose(found - found[0], expected, atol=1e-7)  # float32 features
    words = {(word.column, word.unit, word.text) for word in explanation.words}
    assert ("note", "words", "fun") in words
    assert explanation.words[0].log_odds == max((w.log_odds for w in explanation.words), key=abs)
    assert not explanation.pairs
    assert not explanation.trees


def test_main_effects_of_linear_and_pairs_are_added(fitted: dict[str, Classifier]) -> None:
    alone = {name: fitted[name].explain(10**6).categories for name in ("linear", "pairs")}
    assert [len(found) for found in alone.values()] == [2, 2]
    both = {(c.column, c.value): c.log_odds for c in fitted["all"].explain(10**6).categories}
    weights = fitted["all"].card.models
    for key, value in both.items():
        parts = [
            weights[name] * c.log_odds
            for name, found in alone.items()
            for c in found
            if (c.column, c.value) == key
        ]
        assert value == pytest.approx(sum(parts), abs=1e-12)
    assert len(both) == 2


def test_cells_of_a_pair(fitted: dict[str, Classifier]) -> None:
    classifier = fitted["pairs"]
    tables = {(t.first, t.second): t for t in classifier.explain().pairs}
    table = tables["age", "sex"]
    assert set(table.columns) == {"f", "m"}
    at = table.columns.index("m")
    assert table.rows[0].startswith("below ")
    assert table.rows[-1].endswith(" or more")
    weight = classifier.card.models["pairs"]
    assert weight == 1
    # The contribution of the pair in a row is the cell of its groups.
    low = float(table.rows[0].removeprefix("below "))
    row = PEOPLE.head(1).with_columns(age=pl.lit(low - 1), sex=pl.lit("m"))
    assert classifier.contributions(row)["age & sex"][0] == pytest.approx(
        table.log_odds[0][at], abs=1e-12
    )
    at_edge = row.with_columns(age=pl.lit(low))
    assert classifier.contributions(at_edge)["age & sex"][0] == pytest.approx(
        table.log_odds[1][at], abs=1e-12
    )
    assert any(any(cell is not None for cell in cells) for cells in table.log_odds)


def test_shares_of_the_columns_in_trees(fitted: dict[str, Classifier]) -> None:
    shares = fitted["trees"].explain(10**6).trees
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert {"age", "sex", "note & title"} <= set(shares)
    assert shares["age"] > shares.get("seen, month", 0)
    assert fitted["trees"].explain().categories == []


def test_shares_of_the_models() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(3000, 3))
    y = (random.random(3000) < 1 / (1 + np.exp(-2 * x[:, 0] * x[:, 1] - x[:, 2]))).astype(int)
    table = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y})
    classifier = fit(table, "y")
    shares = {one.model: one.share for one in classifier.tried}
    assert sum(shares.values()) == pytest.approx(1)
    for one in classifier.tried:
        assert (one.share > 0) == (one.weight > 0)
    assert classifier.explain().models == {name: shares[name] for name in classifier.card.models}
    again = {one.model: one.share for one in fit(table, "y").tried}
    assert again == shares


def test_the_share_is_that_of_the_spread() -> None:
    logits = {"a": np.array([0.0, 2.0]), "b": np.array([5.0, 1.0]), "c": np.array([9.0, 0.0])}
    # Standard deviations of 1 and 2, times the weights; c has none.
    assert shares_of(logits, {"a": 3.0, "b": 0.5}) == {"a": 0.75, "b": 0.25}
    assert shares_of(logits, {}) == {}
    assert shares_of({"a": np.ones(3)}, {"a": 1.0}) == {"a": 0.0}


def test_most_limits_every_list(fitted: dict[str, Classifier]) -> None:
    explanation = fitted["all"].explain(most=1)
    for name in ("words", "categories", "curves", "pairs", "trees"):
        assert len(getattr(explanation, name)) == 1, name
    all_words = fitted["all"].explain(10**6).words
    assert explanation.words == all_words[:1]
    assert fitted["all"].explain(most=0).words == []
    with pytest.raises(ValueError, match="at least 0"):
        fitted["all"].explain(most=-1)


def test_explanations_are_plain_data(fitted: dict[str, Classifier], tmp_path: Path) -> None:
    for name in (*MODELS, "all"):
        explanation = fitted[name].explain()
        content = msgspec.json.encode(explanation)
        assert msgspec.json.decode(content, type=Explanation) == explanation
        save(fitted[name], tmp_path / name)
        loaded = load(tmp_path / name)
        assert loaded.explain() == explanation
        assert loaded.contributions(NEW).equals(fitted[name].contributions(NEW))


def test_numbers_without_bins() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=60)
    table = pl.DataFrame({"x": x, "y": (x + random.normal(size=60) > 0).astype(int)})
    classifier = fit(table, "y", options=TrainingOptions(model="linear"))
    (curve,) = classifier.explain().curves
    assert curve.bins == [f"{x.mean() + step * x.std():g}" for step in (-1, 0, 1)]
    points = pl.DataFrame({"x": x.mean() + np.array([-1, 0, 1]) * x.std()})
    logits = classifier.logits(points)
    np.testing.assert_allclose(np.diff(curve.log_odds), np.diff(logits), atol=1e-6)


def test_the_sources_of_tree_columns_are_those_that_trees_read(
    fitted: dict[str, Classifier],
) -> None:
    encoder = fitted["trees"].encoder
    (model,) = fitted["trees"].models
    assert isinstance(model, TreesModel)
    columns = tree_columns(encoder, encoder.transform(NEW))
    assert len(Sources(encoder).of_trees()) == columns.shape[1] + 1  # and the text


# -------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def place(fitted: dict[str, Classifier], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    for name in (*MODELS, "all"):
        save(fitted[name], folder / name)
    NEW.write_csv(folder / "new.csv")
    return folder


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_predict_explain_in_every_format(place: Path, tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"out.{ending}"
    done("predict", place / "all", place / "new.csv", "--explain", "3", "-o", output)
    found = read(output) if ending != "parquet" else pl.read_parquet(output)
    names = ["explanation_1", "explanation_2", "explanation_3"]
    assert found.columns[-3:] == names
    expected = load(place / "all").predict(read(place / "new.csv"), explain=3)
    assert found.select(names).rows() == expected.select(names).rows()
    assert found.schema["explanation_1"] == pl.String


def test_names_of_explanations_that_are_taken(place: Path, tmp_path: Path) -> None:
    NEW.with_columns(explanation_1=pl.lit("mine")).write_csv(tmp_path / "t.csv")
    result = done("predict", place / "linear", tmp_path / "t.csv", "--explain", "1")
    names = "y,explanation_1,probability,predicted,explanation_1_2"
    assert result.stdout.splitlines()[0].endswith(names)
    assert "explanation_1_2" in result.stderr
    renamed = ["--explain", "1", "--prefix", "p_"]
    result = done("predict", place / "linear", tmp_path / "t.csv", *renamed)
    assert result.stdout.splitlines()[0].endswith("p_probability,p_predicted,p_explanation_1")
    result = torchbce("predict", place / "linear", tmp_path / "t.csv", "--explain", "-1")
    assert result.exit_code == 2


def test_predict_explain_of_one_text(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"note": [f"{WORDS[i % 2]} thing {i}" for i in range(200)], "y": [0, 1] * 100}
    )
    classifier = fit(table, "y", options=TrainingOptions(model="linear"))
    save(classifier, tmp_path / "m")
    result = done("predict", tmp_path / "m", "--text", "good fun", "--explain", "2")
    first, *words = result.stdout.splitlines()
    assert first.startswith("probability 0.")
    assert len(words) == 2
    assert all(line.startswith("  '") and " -" in line for line in words)
    result = done("predict", tmp_path / "m", "--text", "good fun", "--explain", "500", "--json")
    answer = json.loads(result.stdout)
    total = sum(float(v.rsplit(" ", 1)[1]) for k, v in answer.items() if k[:4] == "expl" and v)
    logit = float(np.log(answer["probability"] / (1 - answer["probability"])))
    base = classifier.contributions({"note": ["good fun"]})["base"][0]
    assert total == pytest.approx(logit - base, abs=0.005 * 40)  # each is rounded
    plain = json.loads(done("predict", tmp_path / "m", "--text", "good fun", "--json").stdout)
    assert list(plain) == ["probability", "predicted"]


def shown(monkeypatch: pytest.MonkeyPatch, width: int, *arguments: object) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    return done("show", *arguments).stdout


def test_show(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = shown(monkeypatch, 100, place / "all", "--most", "3")
    explanation = load(place / "all").explain(3)
    for line in (
        "target y: '1' is positive, '0' negative",
        "age     numeric      the number and 16 bins, missing",
        "seen    date         year, month",
        "log loss (nats)",
        "base rate   better is",
        "model    held-out loss  weight  seconds",
        "words and n-grams, per unit of TF-IDF",
        "age & sex, beside what each adds by itself",
        "share of each column in the splits of the trees",
        "The mlp has no weights to list",
    ):
        assert line in output, line
    for name, share in explanation.models.items():
        assert f"{name} {share:.0%}" in output
    for word in explanation.words:
        assert f"  {signed(word.log_odds)}  {word.column}" in output
    for cells in next(t for t in explanation.pairs if t.second == "sex").log_odds:
        for cell in cells:
            assert cell is None or signed(cell) in output


@pytest.mark.parametrize("width", [10, 40, 100])
def test_show_cuts_no_figure(place: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    output = shown(monkeypatch, width, place / "all", "--most", "2")
    explanation = load(place / "all").explain(2)
    for curve in explanation.curves:
        at = int(np.argmax(curve.log_odds))
        for position in (0, at, -1):
            assert f"{curve.bins[position]}: {signed(curve.log_odds[position])}" in output
    table = explanation.pairs[0]
    largest = max((c for row in table.log_odds for c in row if c is not None), key=abs)
    assert signed(largest) in output
    assert f"{load(place / 'all').card.held_out.log_loss:.4f}" in output


def test_show_json(place: Path) -> None:
    answer = json.loads(done("show", place / "all", "--json", "--most", "4").stdout)
    classifier = load(place / "all")
    assert answer["explanation"] == msgspec.to_builtins(classifier.explain(4))
    assert [column["name"] for column in answer["columns"]] == [
        column.name for column in classifier.card.columns
    ]
    assert answer["held_out"] == msgspec.to_builtins(classifier.card.held_out)
    assert answer["base_rate"]["roc_auc"] == 0.5
    assert answer["models"] == classifier.card.models
    assert [one["model"] for one in answer["tried"]] == list(classifier.card.models)
    assert answer["target"]["positive"] == "1"


def test_show_escapes_control_characters(tmp_path: Path) -> None:
    rows: dict[str, Any] = {"a\x1b[31m": ["p\x1b]0;x\x07", "q\nr"] * 60, "b\x9b": [1.0, 2.0] * 60}
    table = pl.DataFrame(rows | {"y\x1b": ["yes", "no"] * 60})
    save(fit(table, "y\x1b", options=TrainingOptions(model="linear")), tmp_path / "m")
    output = done("show", tmp_path / "m").stdout
    assert not set(output) & set("\x1b\x07\x9b")
    assert r"a\x1b[31m" in output
    assert r"q\nr" in output
    output = done("predict", tmp_path / "m", "--help").stdout
    assert "--explain" in output


def test_show_of_many_columns(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 50))
    table = pl.DataFrame({f"x{i}": x[:, i] for i in range(50)} | {"y": (x[:, 0] > 0).astype(int)})
    save(fit(table, "y", options=TrainingOptions(model="linear")), tmp_path / "m")
    output = done("show", tmp_path / "m", "--most", "1").stdout
    assert sum(line.startswith("x") for line in output.splitlines()) == 8
    assert "(42 more)  numeric" in output
    columns = json.loads(done("show", tmp_path / "m", "--json").stdout)["columns"]
    assert len(columns) == 50


def test_show_of_a_model_that_found_nothing(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=200)
    classifier = fit(pl.DataFrame({"x": x, "y": [0, 1] * 100}), "y")
    card = msgspec.structs.replace(classifier.card, models={})
    save(Classifier(card, classifier.encoder, (), (), classifier.tried), tmp_path / "m")
    assert "No model is better than the base rate" in done("show", tmp_path / "m").stdout


def test_show_of_no_model(tmp_path: Path) -> None:
    result = torchbce("show", tmp_path / "none")
    assert result.exit_code == 2
    assert "there is no model directory" in result.stderr


@pytest.mark.parametrize("name", ["linear", "pairs", "trees"])
def test_show_and_predict_import_no_more_than_they_need(place: Path, name: str) -> None:
    code = (
        "import sys; from torchbce.cli.app import app; app(sys.argv[1:], standalone_mode=False);"
        "found = [m for m in ('torch', 'torchbce.classifier.explanations', 'sklearn') "
        "if m in sys.modules]; print(found, file=sys.stderr)"
    )

    def imported(*arguments: object) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        return run.stderr.splitlines()[-1]

    assert imported("show", place / name) == "['torchbce.classifier.explanations']"
    assert "explanations" not in imported("predict", place / name, place / "new.csv")
