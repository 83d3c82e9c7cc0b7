"""A classifier of many labels: its targets, figures, files and commands."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from scipy.special import expit
from sklearn.metrics import f1_score, hamming_loss, log_loss, ndcg_score, roc_auc_score

from making import METRICS, csv_of, done, torchbce
from torchbce.classifier import (
    InputError,
    LabelsClassifier,
    TrainingOptions,
    evaluate_logits,
    fit_label_rows,
    fit_labels,
    load,
    save,
)
from torchbce.classifier.labels.metrics import auc_and_precision, evaluate_labels
from torchbce.classifier.labels.sources import choose_columns, choose_lists
from torchbce.classifier.labels.targets import LabelTargets

NAMES = ["warm", "near", "old"]
#: A few epochs show that the network learns.
QUICK = TrainingOptions(epochs=3, effort="low")


def table(rows: int = 120, seed: int = 0, unknown: float = 0.0) -> pl.DataFrame:
    """A number and a category that tell three labels; some cells are empty."""
    random = np.random.default_rng(seed)
    x, place = random.normal(size=rows), random.integers(0, 3, rows)
    y = np.stack([x > 0, place == 1, (x < -0.5) | (place == 2)], axis=1)
    columns: dict[str, Any] = {"x": x.round(3), "place": [f"p{p}" for p in place]}
    for name, own in zip(NAMES, y.T, strict=True):
        hidden = random.random(rows) < unknown
        columns[name] = [
            None if h else ("yes" if v else "no") for v, h in zip(own, hidden, strict=True)
        ]
    return pl.DataFrame(columns)


def as_lists(rows: pl.DataFrame) -> list[list[str]]:
    return [[n for n in NAMES if row[n] == "yes"] for row in rows.iter_rows(named=True)]


@pytest.fixture(scope="module")
def fitted() -> LabelsClassifier:
    return fit_labels(table(unknown=0.2), targets=NAMES, options=QUICK)


# --------------------------------------------------------------------------------------- targets


def test_the_forms_of_labels() -> None:
    dense = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    for y in (dense, dense.astype(bool), sp.csr_matrix(dense), [[0, 2], [], [1]]):
        targets = LabelTargets.of(y, 3)
        assert targets.number == 3
        assert targets.values().tolist() == dense.tolist()
        assert targets.values(1, 3).tolist() == dense[:, 1:].tolist()
        assert targets.take(np.array([2, 0])).values().tolist() == dense[[2, 0]].tolist()
        counts = targets.counts(np.array([2.0, 1.0, 0.5]))
        assert [count.tolist() for count in counts] == [[2.0, 0.5, 2.0], [3.5, 3.5, 3.5]]
    unknown = LabelTargets.of(np.array([[np.nan, 0.25], [1.0, np.nan]]))
    assert [count.tolist() for count in unknown.counts()] == [[1.0, 0.25], [1.0, 1.0]]
    with pytest.raises(InputError, match=r"y\[0, 1\] is 2; expected values in \[0, 1\]"):
        LabelTargets.of(np.array([[0, 2.0]]))
    with pytest.raises(InputError, match="labels are 0 to 2"):
        LabelTargets.of([[3]], 3)


def test_empty_cells_are_unknown() -> None:
    rows = pl.DataFrame({"a": ["yes", None, "no"], "b": ["1", "0", " "], "c": ["no", "no", "no"]})
    source = choose_columns(rows, ["a", "b", "c"], None)
    # c holds one value, which is one of the two of another column.
    assert [(t.negative, t.positive) for t in source.targets][2] == ("no", "yes")
    expected = [[1, 1, 0], [np.nan, 0, 0], [0, np.nan, 0]]
    np.testing.assert_array_equal(source.read(rows).values(), expected)
    with pytest.raises(InputError, match="holds 'maybe' in row 3"):
        source.read(rows.with_columns(a=pl.Series(["yes", None, "maybe"])))


@pytest.mark.parametrize("form", ["lists", "integers", "comma", "semicolon"])
def test_lists_of_labels(form: str) -> None:
    lists = [["2", "10"], [], ["10"], ["2", "2"]]
    values: Any = {
        "lists": lists,
        "integers": [[int(v) for v in row] for row in lists],
        "comma": [", ".join(row) for row in lists],
        "semicolon": [";".join(row) for row in lists],
    }[form]
    rows = pl.DataFrame({"tags": values})
    source = choose_lists(rows, "tags", None)
    assert source.names == ["10", "2"]
    assert source.separator == {"comma": ",", "semicolon": ";"}.get(form)
    assert source.read(rows).values().tolist() == [[1, 1], [0, 0], [1, 0], [0, 1]]
    # A label that the model does not know is left out.
    other = pl.DataFrame({"tags": [["2", "7"]] if form == "lists" else [values[0]]})
    assert source.read(other).values()[0].tolist() == ([0, 1] if form == "lists" else [1, 1])


def test_null_lists_are_unknown_and_empty_text_is_no_label() -> None:
    lists = pl.DataFrame({"tags": pl.Series([["a"], None, ["b"]])})
    assert choose_lists(lists, "tags", None).known(lists).tolist() == [0, 2]
    text = pl.DataFrame({"tags": ["a,b", None, ""]})
    source = choose_lists(text, "tags", ",")
    assert source.known(text).tolist() == [0, 1, 2]
    assert source.read(text).values().tolist() == [[1, 1], [0, 0], [0, 0]]


# --------------------------------------------------------------------------------------- metrics


def test_metrics_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    y = (random.random((200, 6)) < [0.5, 0.3, 0.1, 0.05, 0.7, 0.2]).astype(float)
    z = random.normal(2 * y - 1.5)
    thresholds = np.array([0.5, 0.4, 0.3, 0.5, 0.6, 0.5])
    p = 1 / (1 + np.exp(-z))
    best = np.argsort(-z, axis=1, kind="stable")[:, :5]
    names = list("abcdef")
    ones = np.full(6, 0.5)
    found = evaluate_labels(
        lambda i, j: z[:, i:j], best, LabelTargets.of(y), names, thresholds, ones
    )
    decided = p >= thresholds
    assert found.log_loss == pytest.approx(np.mean([log_loss(y[:, i], p[:, i]) for i in range(6)]))
    assert found.micro_f1 == pytest.approx(f1_score(y, decided, average="micro"))
    assert found.macro_f1 == pytest.approx(f1_score(y, decided, average="macro"))
    assert found.hamming_loss == pytest.approx(hamming_loss(y, decided))
    assert found.macro_roc_auc == pytest.approx(roc_auc_score(y, z, average="macro"))
    assert found.ndcg_at["3"] == pytest.approx(ndcg_score(y, z, k=3))
    hits = np.take_along_axis(y, best, 1)
    assert found.precision_at == {k: pytest.approx(hits[:, : int(k)].mean()) for k in "135"}
    # With equal propensities it is relative to the best that the number of positives allows.
    most = np.minimum(y.sum(1), 3).sum()
    assert found.psp_at["3"] == pytest.approx(hits[:, :3].sum() / most)
    for i, name in enumerate(names):
        assert found.labels[name] == evaluate_logits(z[:, i].copy(), y[:, i], thresholds[i])


def test_the_ranks_of_few_positives() -> None:
    random = np.random.default_rng(3)
    for rows, ties in ((40, 1), (200, 0)):
        y = random.random(rows) < 0.1
        y[:2] = True, False
        z = random.normal(y).round(ties) if ties else random.normal(y)
        expected = evaluate_logits(z, y.astype(float))
        found = auc_and_precision(z, y)
        assert found == pytest.approx((expected.roc_auc, expected.average_precision), rel=1e-12)


def test_unknown_labels_count_nowhere() -> None:
    random = np.random.default_rng(1)
    y = (random.random((60, 3)) < 0.4).astype(float)
    z = random.normal(y)
    hidden = random.random(y.shape) < 0.3
    best = np.argsort(-z, axis=1, kind="stable")
    half = np.full(3, 0.5)

    def of(z: np.ndarray, best: np.ndarray, y: np.ndarray) -> Any:
        targets = LabelTargets.of(np.where(hidden, np.nan, y))
        return evaluate_labels(lambda i, j: z[:, i:j], best, targets, list("abc"), half, half)

    found = of(z, best, y)
    # Whatever the hidden cells hold and predict.
    other = np.where(hidden, 9.0, z)
    changed = of(other, np.argsort(-other, axis=1, kind="stable"), np.where(hidden, 1 - y, y))
    assert msgspec.to_builtins(changed) == msgspec.to_builtins(found)
    for i, name in enumerate("abc"):
        known = ~hidden[:, i]
        assert found.labels[name] == evaluate_logits(z[known, i], y[known, i])


def test_weights_count_as_rows() -> None:
    random = np.random.default_rng(2)
    y = (random.random((50, 2)) < 0.4).astype(float)
    z = random.normal(y)
    times = random.integers(1, 4, 50)
    half = np.full(2, 0.5)

    def of(rows: np.ndarray, weight: np.ndarray | None) -> Any:
        best = np.argsort(-z[rows], axis=1, kind="stable")
        targets = LabelTargets.of(y[rows])
        return evaluate_labels(
            lambda i, j: z[rows, i:j], best, targets, ["a", "b"], half, half, weight
        )

    weighted = of(np.arange(50), times.astype(float))
    repeated = of(np.repeat(np.arange(50), times), None)
    for name in ("log_loss", "micro_f1", "macro_f1", "hamming_loss", "macro_roc_auc"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-12)


# --------------------------------------------------------------------------------------- the fit


def test_it_learns_and_is_the_same_again(fitted: LabelsClassifier) -> None:
    test = table(seed=1)
    metrics = fitted.evaluate(test)
    assert metrics.relative_log_loss is not None
    assert metrics.relative_log_loss < 0.5
    assert metrics.micro_f1 > 0.85
    again = fit_labels(table(unknown=0.2), targets=NAMES, options=QUICK)
    np.testing.assert_array_equal(again.logits(test), fitted.logits(test))
    card = fitted.card
    known = table(unknown=0.2).select(pl.col(NAMES).is_not_null().sum()).row(0)
    assert card.known == [float(count) for count in known]
    assert card.rows == 120


def test_unknown_cells_do_not_matter_to_other_labels() -> None:
    """A label whose cells are empty in most rows is learned from the rest."""
    rows = table(200)
    few = rows.with_columns(
        warm=pl.when(pl.int_range(pl.len()) < 150).then(None).otherwise(pl.col("warm"))
    )
    options = TrainingOptions(model="linear", effort="low")
    found = fit_labels(few, targets=NAMES, options=options)
    assert found.card.known == [50.0, 200.0, 200.0]
    metrics = found.evaluate(table(seed=3))
    assert metrics.labels["warm"].roc_auc is not None
    assert metrics.labels["warm"].roc_auc > 0.95


def test_lists_give_the_model_of_their_columns() -> None:
    rows = table(unknown=0.0)
    lists = rows.select("x", "place").with_columns(tags=pl.Series(as_lists(rows)))
    text = lists.with_columns(tags=pl.col("tags").list.join("|"))
    one = fit_labels(
        rows.select("x", "place", *sorted(NAMES)), targets=sorted(NAMES), options=QUICK
    )
    for other in (
        fit_labels(lists, labels="tags", options=QUICK),
        fit_labels(text, labels="tags", separator="|", options=QUICK),
    ):
        assert other.card.labels == sorted(NAMES)
        np.testing.assert_array_equal(other.logits(rows), one.logits(rows))


def test_arrays_matrices_and_weights() -> None:
    rows = table()
    y = rows.select(pl.col(NAMES) == "yes").to_numpy()
    inputs = rows.select("x", "place")
    named = fit_label_rows(inputs, y, NAMES, options=QUICK)
    from_columns = fit_labels(rows, targets=NAMES, options=QUICK)
    np.testing.assert_array_equal(named.logits(inputs), from_columns.logits(inputs))
    sparse = fit_label_rows(inputs, sp.csr_matrix(y), options=QUICK)
    assert sparse.card.labels == ["0", "1", "2"]
    np.testing.assert_array_equal(sparse.logits(inputs), named.logits(inputs))
    matrix = sp.csr_matrix(np.column_stack([rows["x"], rows["x"] > 0, rows["place"] == "p1"]))
    of_matrix = fit_label_rows(matrix, y, NAMES, options=QUICK)
    assert of_matrix.logits(matrix).shape == (120, 3)
    # A weight of 0 leaves a row out.
    weight = np.where(np.arange(120) < 90, 1.0, 0.0)
    weighted = fit_labels(rows.with_columns(w=weight), targets=NAMES, weight="w", options=QUICK)
    first = fit_labels(rows[:90], targets=NAMES, options=QUICK)
    np.testing.assert_array_equal(weighted.logits(inputs), first.logits(inputs))
    of_arrays = fit_label_rows(inputs, y, NAMES, weight=weight, options=QUICK)
    np.testing.assert_array_equal(of_arrays.logits(inputs), first.logits(inputs))


def test_a_label_without_positives_has_its_base_rate() -> None:
    rows = table().with_columns(never=pl.lit("no"))
    found = fit_labels(rows, targets=[*NAMES, "never"], options=TrainingOptions(model="linear"))
    p = found.probabilities(rows)[:, 3]
    assert p == pytest.approx(np.full(120, 0.5 / 121))
    metrics = found.evaluate(rows)
    assert metrics.labels["never"].roc_auc is None


def test_thresholds_for_f1() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=600)
    y = (random.random((600, 2)) < 1 / (1 + np.exp(2.0 - x[:, None]))).astype(int)
    rows = pl.DataFrame({"x": x, "a": y[:, 0], "b": y[:, 1]})
    options = TrainingOptions(model="linear", effort="low")
    found = fit_labels(rows, targets=["a", "b"], options=replace(options, optimize="f1"))
    plain = fit_labels(rows, targets=["a", "b"], options=options)
    assert plain.card.thresholds == [0.5, 0.5]
    assert all(0.1 < t < 0.45 for t in found.card.thresholds)
    assert found.card.optimized == "f1"
    assert found.evaluate(rows).macro_f1 > plain.evaluate(rows).macro_f1 + 0.1


def test_many_labels(tmp_path: Path) -> None:
    """600 labels, of which a row has those of its word: the network with a linear head."""
    random = np.random.default_rng(0)
    word = random.integers(0, 120, 1500)
    lists = [[f"l{w * 5 + i}" for i in range(5) if random.random() < 0.8] for w in word]
    rows = pl.DataFrame({"word": [f"w{w}" for w in word], "tags": lists})
    found = fit_labels(
        rows, labels="tags", options=TrainingOptions(epochs=20, learning_rate=0.01, effort="low")
    )
    assert found.linear is None
    metrics = found.evaluate(rows)
    assert metrics.precision_at["1"] > 0.7
    assert metrics.relative_log_loss is not None
    assert metrics.relative_log_loss < 0.6
    assert found.predict(rows).columns == [
        f"{what}_{rank}" for rank in range(1, 6) for what in ("label", "probability")
    ]
    z = found.logits(rows)
    values, indices = found.topk(rows, 3)
    np.testing.assert_array_equal(np.take_along_axis(z, indices, 1), values)
    assert np.all(values[:, -1:] >= np.partition(z, -3)[:, -3:-2])
    save(found, tmp_path / "m")
    np.testing.assert_array_equal(load(tmp_path / "m").logits(rows), z)


def test_unknown_cells_and_weights_of_many_labels() -> None:
    random = np.random.default_rng(0)
    x = random.integers(0, 4, 200)
    y = (x[:, None] == np.arange(520) % 4).astype(np.float32)
    y[random.random(y.shape) < 0.3] = np.nan
    options = TrainingOptions(epochs=4, learning_rate=0.01, effort="low", batch_size=16)
    inputs = pl.DataFrame({"x": [f"v{v}" for v in x]})
    found = fit_label_rows(inputs, y, weight=np.ones(200) + x, options=options)
    assert found.card.known == (~np.isnan(y)).sum(0).tolist()
    metrics = found.evaluate(inputs, LabelTargets.of(y))
    assert metrics.macro_roc_auc is not None
    assert metrics.macro_roc_auc > 0.95


REFUSED = [
    ({"targets": ["warm", "warm"]}, "named twice"),
    ({"targets": ["warm", "ner"]}, "did you mean 'near'"),
    ({"targets": ["warm", "x"]}, "exactly two are needed"),
    ({"targets": ["warm"]}, "at least two labels are needed"),
    ({"labels": "warm", "targets": ["near"]}, "give either targets or labels"),
    ({"labels": "x"}, "is of type Float64"),
    ({"labels": "tags"}, "label column 'tags' is not in the table"),
    ({"targets": NAMES, "options": TrainingOptions(model="trees")}, "is for a single target"),
    ({"targets": NAMES, "options": TrainingOptions(loss="focal")}, "is for a single target"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_labels(table(), **arguments)


# ------------------------------------------------------------------------------ files and commands


def test_a_saved_model_predicts_the_same(fitted: LabelsClassifier, tmp_path: Path) -> None:
    save(fitted, tmp_path / "m")
    found = load(tmp_path / "m")
    assert isinstance(found, LabelsClassifier)
    assert found.card == fitted.card
    test = table(seed=1)
    np.testing.assert_array_equal(found.logits(test), fitted.logits(test))
    assert json.loads((tmp_path / "m" / "model.json").read_text())["kind"] == "labels"


DAMAGE = [
    (lambda card: card["thresholds"].pop(), "thresholds must have a number for each"),
    (lambda card: card["thresholds"].append(1.5), "Expected `float` <= 1"),
    (lambda card: card["positives"].__setitem__(0, 1e6), "positives must be from 0"),
    (lambda card: card.update(hidden=7), "must be float32 of shape"),
    (lambda card: card.update(hidden=0), "hidden must be above 0"),
    (lambda card: card["models"].update(trees=[1, 1, 1]), "model.json"),
    (lambda card: card["models"].pop("linear"), "do not fit model.json"),
    (lambda card: card["source"]["targets"][0].update(column="near"), "each label once"),
    (lambda card: card["source"].update(kind="files"), "model.json"),
    (lambda card: card.update(kind="target"), "model.json"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_damaged_cards_are_refused(
    fitted: LabelsClassifier, tmp_path: Path, change: Any, message: str
) -> None:
    save(fitted, tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(InputError, match=message):
        load(tmp_path / "m")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, and a model of them."""
    folder = tmp_path_factory.mktemp("labels")
    rows = table(unknown=0.1)
    csv_of(rows, folder / "t.csv")
    csv_of(table(60, seed=1), folder / "test.csv")
    tags = rows.select("x", "place").with_columns(tags=pl.Series(as_lists(rows)))
    tags.write_parquet(folder / "tags.parquet")
    text = tags.with_columns(tags=pl.col("tags").list.join(","))
    csv_of(text, folder / "tags.csv")
    text.write_csv(folder / "semicolons.csv", separator=";")
    named = [part for name in NAMES for part in ("--target", name)]
    done("fit", folder / "t.csv", *named, "-o", folder / "m", "--epochs", 3, "--effort", "low")
    return folder


KEYS = ["log_loss", "micro_f1", "macro_f1", "hamming_loss", "macro_roc_auc", "precision_at"]
KEYS += ["ndcg_at", "psp_at", "labels"]


def test_evaluate_and_predict(files: Path) -> None:
    found = json.loads(done("evaluate", files / "m", files / "test.csv", "--json").stdout)
    assert set(KEYS) <= set(found)
    assert list(found["precision_at"]) == list(found["ndcg_at"]) == ["1", "3"]  # of three labels
    assert list(found["labels"]) == NAMES
    assert all(set(METRICS) <= set(own) for own in found["labels"].values())
    out = files / "p.parquet"
    done("predict", files / "m", files / "test.csv", "-o", out, "--overwrite")
    predicted = pl.read_parquet(out)
    assert predicted.columns[5:] == [
        f"{what}_{name}" for name in NAMES for what in ("probability", "predicted")
    ]
    truth = pl.read_csv(files / "test.csv")
    y = truth.select(pl.col(NAMES) == "yes").to_numpy()
    decided = predicted.select(pl.col(f"predicted_{n}") == "yes" for n in NAMES).to_numpy()
    assert f1_score(y, decided, average="micro") == pytest.approx(found["micro_f1"])
    top = done("predict", files / "m", files / "test.csv", "--top", 2).stdout.splitlines()
    assert top[0].endswith("label_1,probability_1,label_2,probability_2")
    assert "micro F1" in done("evaluate", files / "m", files / "test.csv").stdout
    assert "3 labels" in done("show", files / "m").stdout
    assert json.loads(done("show", files / "m", "--json").stdout)["kind"] == "labels"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("tags.parquet", []),
        ("tags.csv", ["--separator", ","]),
        ("tags.csv", []),
        ("semicolons.csv", ["--separator", ","]),
        ("semicolons.csv", ["--separator", ",", "--csv-separator", ";"]),
    ],
)
def test_the_command_with_label_lists(files: Path, name: str, more: list[str]) -> None:
    quick = ("--model", "linear", "--effort", "low", "-q")
    done("fit", files / name, "--labels", "tags", *more, "-o", files / "l", "--overwrite", *quick)
    found = load(files / "l")
    assert isinstance(found, LabelsClassifier)
    assert found.card.labels == sorted(NAMES)
    result = json.loads(done("evaluate", files / "l", files / name, "--json").stdout)
    assert result["micro_f1"] > 0.8


def test_refused_commands(files: Path) -> None:
    fit = ("fit", files / "t.csv", "-o", files / "x", "-q")
    two = ("--target", "warm", "--target", "near")
    for arguments, message in [
        ((*fit, *two, "--base-rate", 0.1), "--base-rate is for a single target"),
        ((*fit, *two, "--guarantee", "precision>=0.9"), "--guarantee is for a single target"),
        ((*fit, "--target", "warm", "--labels", "near"), "give either --target or --labels"),
        (("predict", files / "m", files / "test.csv", "--top", 4), "--top is 4"),
        (("predict", files / "m", files / "test.csv", "--explain", 1), "--explain is for a single"),
    ]:
        result = torchbce(*arguments)
        assert result.exit_code == 2, result.stderr
        assert message in result.stderr
    assert not (files / "x").exists()


# ------------------------------------------------------------------------------- order of time


@pytest.mark.parametrize("effort", ["low", "medium"])
def test_the_latest_rows_are_judged_by_models_that_are_weighed_on_others(effort: str) -> None:
    """With one network too, whose rows held out are all of one window."""
    random = np.random.default_rng(0)
    x = random.normal(size=600)
    y = np.column_stack([random.random(600) < expit(3 * s * x) for s in (1, -1)]).astype(float)
    found = fit_label_rows(
        {"x": x},
        y,
        ["a", "b"],
        times=np.arange(600.0),
        options=TrainingOptions(epochs=5, effort=effort, optimize="f1"),  # type: ignore[arg-type]
    )
    assert found.card.held_out.macro_roc_auc > 0.85  # type: ignore[operator]
    assert all(0.2 < threshold < 0.6 for threshold in found.card.thresholds)


# -------------------------------------------------------------------------------- wrong columns


def test_a_label_that_is_unknown_in_every_row() -> None:
    y = np.array([[1, 0, np.nan], [0, 1, np.nan]] * 20)
    with pytest.raises(InputError, match="label 'c' is unknown in every row; leave it out"):
        fit_label_rows({"x": [0.0, 1.0] * 20}, y, ["a", "b", "c"], options=QUICK)


@pytest.mark.parametrize("part", ["weight", "group", "time"])
def test_a_target_has_no_other_part(part: str) -> None:
    with pytest.raises(InputError, match=f"column 'warm' is a target; it cannot be the {part} too"):
        fit_labels(table(), targets=NAMES, options=QUICK, **{part: "warm"})
