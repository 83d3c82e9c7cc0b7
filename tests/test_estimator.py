"""The scikit-learn estimator: scikit-learn's own checks, its tools, and the command line."""

import inspect
import json
import pickle
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
from scipy.special import expit
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from making import done, numbers, reviews, torchbce
from torchbce.classifier import (
    BCEClassifier,
    InputError,
    Overrides,
    TrainingOptions,
    evaluate_logits,
    fit,
    load,
    save,
)
from torchbce.classifier.columns.matrix import MatrixColumn
from torchbce.classifier.estimator.inputs import DENSE_COLUMNS
from torchbce.classifier.estimator.updates import _uncalibrated
from torchbce.classifier.exports.writing import export
from torchbce.classifier.models.calibration import Calibration
from torchbce.classifier.models.linear import fit_linear
from torchbce.classifier.models.members import LinearModel

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "scikit-learn.md"

LINEAR = {"model": "linear", "effort": "low"}

#: The one limit, which docs/how-to/scikit-learn.md names.
ROWS_ARE_HELD_OUT = "rows, not weights, are divided into those to learn from and those held out"
LIMITS = {
    "check_sample_weight_equivalence_on_dense_data": ROWS_ARE_HELD_OUT,
    "check_sample_weight_equivalence_on_sparse_data": ROWS_ARE_HELD_OUT,
}


def arrays(rows: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three numbers, the first of which tells the label."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 3))
    return X, (X[:, 0] + random.normal(scale=0.5, size=rows) > 0).astype(np.int64)


def wide(rows: int = 120, columns: int = 1000, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts, of which the first columns tell the label."""
    random = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    X = sp.random(rows, columns, 0.02, random_state=seed, format="lil")
    X[np.arange(rows), y + 2 * random.integers(0, 3, rows)] = 5.0
    return X.tocsr(), y


def proba(estimator: BCEClassifier, X: Any) -> np.ndarray:
    found: np.ndarray = estimator.predict_proba(X)[:, 1]
    return found


# ---------------------------------------------------------------------------- scikit-learn's checks


def checks_of(estimator: BCEClassifier) -> pytest.MarkDecorator:
    """scikit-learn's checks as parameters; of 1.6 they are a generator, which pytest warns of."""
    found = parametrize_with_checks([estimator], expected_failed_checks=lambda one: LIMITS)
    names, cases = found.args
    return pytest.mark.parametrize(names, list(cases), **found.kwargs)


@checks_of(BCEClassifier(model="linear"))
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that the checks themselves bring about
        check(estimator)


@pytest.mark.slow
@checks_of(BCEClassifier())
def test_checks_of_scikit_learn_of_all_models(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_the_limit_is_documented() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert ROWS_ARE_HELD_OUT in text
    for name in LIMITS:
        assert name in text


# ----------------------------------------------------------------- the same model as `torchbce fit`


def contents(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in ("model.json", "model.safetensors")]


@pytest.mark.parametrize("model", ["auto", "linear"])
def test_the_command_line_the_function_and_the_estimator_make_the_same_bytes(
    tmp_path: Path, model: Any
) -> None:
    table = reviews(120)
    table.write_csv(tmp_path / "table.csv")
    read = pl.read_csv(tmp_path / "table.csv", infer_schema=False)
    done(
        *("fit", tmp_path / "table.csv", "--target", "kind", "--output", tmp_path / "cli"),
        *("--model", model, "--seed", 3, "--categorical", "stars", "--missing", "north"),
        *("--pos-weight", "balanced"),
    )
    given: dict[str, Any] = {"model": model, "seed": 3, "pos_weight": "balanced"}
    estimator = BCEClassifier(**given, categorical=["stars"], missing=["north"])
    estimator.fit(read.drop("kind"), read["kind"])
    save(estimator.classifier_, tmp_path / "estimator")
    fitted = fit(
        read,
        "kind",
        overrides=Overrides(categorical=["stars"]),
        missing=["north"],
        options=TrainingOptions(**given),
    )
    save(fitted, tmp_path / "function")
    assert contents(tmp_path / "cli") == contents(tmp_path / "estimator")
    assert contents(tmp_path / "function") == contents(tmp_path / "estimator")


def test_the_estimator_has_every_option_of_a_fit_and_its_default() -> None:
    parameters = inspect.signature(BCEClassifier).parameters
    for field in fields(TrainingOptions):
        assert parameters[field.name].default == field.default, field.name
    others = {*inspect.signature(fit).parameters} & {"positive", "missing", "decimal", "soft"}
    assert others <= {*parameters}
    assert {field.name for field in fields(Overrides)} <= {*parameters}


# ------------------------------------------------------------------------------------------- inputs


def test_frames_of_polars_and_pandas_keep_the_kinds_of_their_columns() -> None:
    pandas = pytest.importorskip("pandas")
    table = reviews(60)
    X, y = table.drop("kind"), table["kind"]
    one = BCEClassifier(**LINEAR).fit(X, y)
    kinds = [column.__struct_config__.tag for column in one.classifier_.encoder.columns]
    assert kinds == ["text", "categorical", "numeric"]
    assert one.feature_names_in_.tolist() == ["review", "place", "stars"]
    assert one.n_features_in_ == 3
    assert one.classes_.tolist() == ["no", "yes"]
    frame = pandas.DataFrame(X.to_dict(as_series=False))
    other = BCEClassifier(**LINEAR).fit(frame, pandas.Series(y.to_list(), name="kind"))
    assert np.array_equal(proba(one, X), proba(other, frame))
    assert one.classifier_.card == other.classifier_.card
    assert np.array_equal(proba(one, frame), proba(other, X))


def test_dicts_and_lazy_frames() -> None:
    table = reviews(40)
    X, y = table.drop("kind"), table["kind"].to_list()
    expected = BCEClassifier(**LINEAR).fit(X, y)
    for given in (X.to_dict(as_series=False), X.lazy()):
        estimator = BCEClassifier(**LINEAR).fit(given, y)
        assert estimator.feature_names_in_.tolist() == X.columns
        assert np.array_equal(proba(estimator, given), proba(expected, X))
        updated = BCEClassifier().partial_fit(given, y, classes=["no", "yes"])
        assert updated.classifier_.card.rows == 40


def test_names_are_checked_as_scikit_learn_does() -> None:
    table = reviews(40)
    X = table.drop("kind")
    estimator = BCEClassifier(**LINEAR).fit(X, table["kind"])
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(X.rename({"place": "town"}))
    with pytest.raises(ValueError, match="same order"):
        estimator.predict(X.select("place", "review", "stars"))
    with pytest.raises(ValueError, match="missing"):
        estimator.predict(X.drop("stars"))


def test_every_column_of_an_array_is_numeric() -> None:
    X, y = arrays()
    counting = np.arange(len(X), dtype=np.float64)
    with_missing = np.where(X[:, 2] > 1, np.nan, X[:, 2])
    X = np.column_stack([X[:, 0], np.ones(len(X)), counting, with_missing])
    estimator = BCEClassifier(**LINEAR).fit(X, y)
    columns = estimator.classifier_.encoder.columns
    assert [column.name for column in columns] == ["x0", "x2", "x3"]  # x1 is constant
    assert {column.__struct_config__.tag for column in columns} == {"numeric"}
    assert estimator.score(X, y) > 0.8
    coded = BCEClassifier(**LINEAR, categorical=[1], drop=["x2"]).fit(np.round(X), y)
    assert [c.__struct_config__.tag for c in coded.classifier_.encoder.columns] == [
        "numeric",
        "categorical",
        "numeric",
    ]
    X[3, 0] = np.inf
    for wrong in (X, sp.csr_matrix(X)):
        with pytest.raises(ValueError, match="infinity"):
            BCEClassifier(**LINEAR).fit(wrong, y)


def test_columns_that_are_all_constant_leave_the_base_rate(tmp_path: Path) -> None:
    y = np.arange(30) % 3 == 0
    estimator = BCEClassifier().fit(np.ones((30, 2)), y)
    assert proba(estimator, np.zeros((2, 2))) == pytest.approx(1 / 3)
    save(estimator.classifier_, tmp_path / "model")
    again = BCEClassifier.from_model(tmp_path / "model")
    assert proba(again, {"x0": [1.0], "x1": [1.0]}) == pytest.approx(1 / 3)
    assert again.classifier_.explain().models == {}


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_array, sp.coo_array])
def test_a_narrow_sparse_matrix_is_read_as_an_array(kind: Any) -> None:
    X, y = arrays()
    X[np.abs(X) < 0.5] = 0
    dense = BCEClassifier(**LINEAR).fit(X, y)
    sparse = BCEClassifier(**LINEAR).fit(kind(X), y)
    assert np.array_equal(proba(dense, X), proba(sparse, kind(X)))


@pytest.mark.parametrize("model", ["auto", "linear", "pairs", "trees", "mlp"])
def test_a_wide_sparse_matrix_stays_sparse(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = wide()
    monkeypatch.setattr(sp.csr_matrix, "toarray", None)
    monkeypatch.setattr(sp.csr_array, "toarray", None)
    estimator = BCEClassifier(model=model, effort="low", epochs=3).fit(X, y)
    monkeypatch.undo()
    assert isinstance(estimator.classifier_.encoder.columns[0], MatrixColumn)
    assert estimator.n_features_in_ == X.shape[1] > DENSE_COLUMNS
    p = proba(estimator, X)
    assert evaluate_logits(np.log(p / (1 - p)), y.astype(np.float64)).roc_auc > 0.95
    assert np.allclose(proba(estimator, X.toarray()), p, atol=1e-12)
    save(estimator.classifier_, tmp_path / "model")
    again = BCEClassifier.from_model(tmp_path / "model")
    assert np.array_equal(proba(again, X), p)
    classifier = again.classifier_
    parts = classifier.contributions(X[:5])
    assert np.allclose(parts.sum_horizontal(), classifier.logits(X[:5]))
    words = {word.text for word in classifier.explain(6).words}
    if model in ("auto", "linear", "pairs"):
        assert words == {f"x{i}" for i in range(6)}
    assert len(classifier.predict(X[:5], explain=2)) == 5
    with pytest.raises(InputError, match="matrix of 1,000 columns, got one of 999"):
        classifier.logits(X[:, 1:])
    with pytest.raises(InputError, match="reads a matrix"):
        classifier.logits({"x0": [1.0]})


def test_a_model_of_a_sparse_matrix_on_the_command_line(tmp_path: Path) -> None:
    X, y = wide()
    save(BCEClassifier(**LINEAR).fit(X, y).classifier_, tmp_path / "model")
    shown = done("show", tmp_path / "model", "--most", 2).stdout
    assert "matrix" in shown
    assert "1,000 columns" in shown
    numbers(10).write_csv(tmp_path / "table.csv")
    wrong = torchbce("predict", tmp_path / "model", tmp_path / "table.csv")
    assert wrong.exit_code == 2
    assert "reads a matrix of 1,000 columns and no table" in wrong.stderr
    with pytest.raises(InputError, match="reads a sparse matrix, and exports read tables"):
        export(load(tmp_path / "model"), tmp_path / "model.py", to="numpy")


def test_counts_are_scaled_and_stored_nan_is_zero() -> None:
    X, y = wide()
    scaled = BCEClassifier(**LINEAR).fit(X, y)
    most = np.maximum(np.asarray(abs(X).max(axis=0).todense()).ravel(), 1)
    assert most.max() == 5
    other = BCEClassifier(**LINEAR).fit(X @ sp.diags(1 / most), y)
    assert np.allclose(proba(scaled, X), proba(other, X @ sp.diags(1 / most)), atol=1e-6)
    missing = X.copy()
    missing.data[7] = np.nan
    zero = X.copy()
    zero.data[7] = 0
    one, other = (BCEClassifier(**LINEAR).fit(M, y) for M in (missing, zero))
    assert np.array_equal(proba(one, missing), proba(other, zero))


def test_a_sparse_matrix_is_as_good_as_the_text_it_comes_from() -> None:
    """TF-IDF in a pipeline, and a frame whose column of text is found."""
    table = reviews(200, seed=3)
    train, rest = table[:120], table[120:]
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 3)), BCEClassifier(model="linear"))
    pipeline.fit(train["review"].to_list(), train["kind"].to_list())
    assert isinstance(pipeline[-1].classifier_.encoder.columns[0], MatrixColumn)
    assert pipeline.score(rest["review"].to_list(), rest["kind"].to_list()) > 0.95


# ------------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize(
    ("labels", "positive", "first"),
    [
        (["no", "yes"], None, "yes"),
        (["b", "a"], None, "b"),
        (["b", "a"], "a", "a"),
        (["Y", "n"], None, "Y"),  # sorted, Y comes first
        ([1, 0], None, 1),
        ([2, 7], 2, 2),
        ([True, False], None, True),
        ([1.0, 2.0], None, 2.0),
        (["NA", "EU"], None, "NA"),
        (["1", "1.0"], None, "1.0"),  # labels, not numbers
    ],
)
def test_classes_and_which_is_positive(labels: list[Any], positive: Any, first: Any) -> None:
    X, y = arrays(80)
    given = np.array([labels[1 - value] if first == labels[0] else labels[value] for value in y])
    estimator = BCEClassifier(**LINEAR, positive=positive, pos_weight=3.0).fit(X, given)
    assert estimator.classes_.tolist() == sorted(labels)
    assert estimator.classes_.dtype == given.dtype
    names = estimator.classifier_.card.target
    assert names.positive == {"True": "true", "2.0": "2"}.get(str(first), str(first))
    assert estimator.score(X, given) > 0.8
    at = sorted(labels).index(first)
    p = estimator.predict_proba(X)
    assert np.array_equal(p.argmax(axis=1), np.searchsorted(sorted(labels), estimator.predict(X)))
    assert np.allclose(p[:, at], estimator.classifier_.probabilities(_table(X)))
    assert np.array_equal(estimator.decision_function(X) > 0, p[:, 1] > 0.5)
    assert np.allclose(np.exp(estimator.predict_log_proba(X)), p)


def _table(X: np.ndarray) -> dict[str, np.ndarray]:
    return {f"x{i}": column for i, column in enumerate(X.T)}


def test_probabilities_are_accurate_in_both_tails() -> None:
    X = np.array([[-1.0], [1.0]] * 50)
    estimator = BCEClassifier(model="linear").fit(X, X[:, 0] > 0)
    linear = estimator.classifier_.models[0]
    assert isinstance(linear, LinearModel)
    linear.linear.weight[:] = 50.0
    p, log_p = estimator.predict_proba(X[:2]), estimator.predict_log_proba(X[:2])
    assert (p > 0).all()
    assert np.allclose(log_p, np.log(p), rtol=1e-12)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 2] * 20, "Only binary classification is supported"),
        (np.linspace(0, 1, 60), "Unknown label type"),
        ([1] * 60, r"1 class, \[1\]; two are needed"),
        ([0] + [1] * 59, "at least 2 rows of each value"),
        (None, "requires y to be passed"),
        ([0, 1] * 20, "inconsistent numbers of samples"),
        ([0.0, np.nan] * 30, "NaN"),
    ],
)
def test_wrong_targets(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BCEClassifier(**LINEAR).fit(arrays()[0], y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "forest"}, "model must be 'auto', 'linear', 'pairs', 'trees' or 'mlp'"),
        ({"effort": 3}, "effort must be 'low', 'medium' or 'high', got 3"),
        ({"pos_weight": "even"}, "pos_weight must be 'balanced', a number above 0 or None"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"positive": 3}, r"positive=3 is not a class of y, \[0, 1\]"),
        ({"drop": "x0"}, r"drop must be names or positions of columns, as \['x0'\]"),
        ({"drop": [3]}, "drop names column 3 of 3"),
        ({"text": ["x7"]}, "column 'x7' is not in the table"),
        ({"missing": "NA"}, r"missing must be a list of words, as \['NA'\]"),
        ({"missing": 3}, r"missing must be a list of words, as \[3\]"),
        ({"decimal": ";"}, "decimal must be"),
        ({"decimal": None}, "decimal must be .*, got None"),
        ({"base_rate": "x"}, "base_rate must be above 0 and below 1, .* got 'x'"),
    ],
)
def test_options_are_checked_in_fit(options: dict[str, Any], message: str) -> None:
    estimator = BCEClassifier(**options)
    with pytest.raises(InputError, match=message):
        estimator.fit(*arrays())
    with pytest.raises(NotFittedError):
        estimator.predict(arrays()[0])


def test_soft_targets() -> None:
    X, _ = arrays(300)
    p = 1 / (1 + np.exp(-2 * X[:, 0]))
    estimator = BCEClassifier(model="linear", soft=True).fit(X, p)
    assert estimator.classes_.tolist() == [0, 1]
    assert np.abs(proba(estimator, X) - p).mean() < 0.02
    assert set(estimator.predict(X)) == {0, 1}
    with pytest.raises(ValueError, match=r"y holds 1\.5; with soft=True"):
        BCEClassifier(soft=True).fit(X, p + 0.5 * (p == p.max()) + (p == p.max()) * (1 - p))


# --------------------------------------------------------------------------- weights, groups, times


def test_a_weight_counts_rows_and_zero_leaves_them_out() -> None:
    X, y = arrays(200)
    weight = np.where(np.arange(200) < 150, 1.0, 0.0)
    one = BCEClassifier(**LINEAR).fit(X, y, sample_weight=weight)
    other = BCEClassifier(**LINEAR).fit(X[:150], y[:150])
    assert np.array_equal(proba(one, X), proba(other, X))
    heavy = BCEClassifier(**LINEAR).fit(X, y, sample_weight=np.where(y == 1, 9.0, 1.0))
    assert proba(heavy, X).mean() > proba(one, X).mean() + 0.15
    for wrong, message in [
        (np.zeros(200), "zero in every row"),
        (-weight, "0 or above"),
        (weight[1:], r"sample_weight.shape == \(199,\), expected \(200,\)"),
        ((y == 1) * 1.0, "one class"),
    ]:
        with pytest.raises(ValueError, match=message):
            BCEClassifier(**LINEAR).fit(X, y, sample_weight=wrong)


def test_groups_and_times_are_held_out_together() -> None:
    X, y = arrays(200)
    groups = np.array([f"patient {i // 5}" for i in range(200)])
    estimator = BCEClassifier(**LINEAR).fit(X, y, groups=groups)
    assert estimator.classifier_.card.split.kind == "group"
    days = np.datetime64("2024-01-01") + np.arange(200)
    for times in (days, np.arange(200), pl.Series(days), days.astype(object)):
        estimator = BCEClassifier(**LINEAR).fit(X, y, times=times)
        assert estimator.classifier_.card.split.kind == "time"
    with pytest.raises(ValueError, match="groups has 3 values, expected 200"):
        BCEClassifier(**LINEAR).fit(X, y, groups=[1, 2, 3])
    with pytest.raises(InputError, match="times must be numbers or dates"):
        BCEClassifier(**LINEAR).fit(X, y, times=groups)


def test_weights_and_groups_are_routed() -> None:
    X, y = arrays(120)
    groups = np.arange(120) // 4
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = BCEClassifier(**LINEAR).set_fit_request(groups=True, sample_weight=True)
        estimator.set_score_request(sample_weight=True)
        search = GridSearchCV(estimator, {"pos_weight": [None, 2.0]}, cv=GroupKFold(3))
        search.fit(X, y, groups=groups, sample_weight=np.ones(120))
    assert search.best_estimator_.classifier_.card.split.kind == "group"
    assert search.best_estimator_.classifier_.card.weight == 120


# ----------------------------------------------------------------------------- scikit-learn's tools


def test_clone_and_pickle() -> None:
    X, y = arrays(120)
    estimator = BCEClassifier(seed=4, drop=[2]).fit(X, y)
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    assert not hasattr(copy, "classifier_")
    assert is_classifier(copy)
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(proba(again, X), proba(estimator, X))
    assert again.classifier_.card == estimator.classifier_.card


def test_search_and_scores() -> None:
    X, y = arrays(90)
    search = GridSearchCV(
        BCEClassifier(effort="low"),
        {"model": ["linear"], "pos_weight": [1.0, "balanced"], "seed": np.arange(2)},
        cv=3,
        scoring="neg_log_loss",
    ).fit(X, y)
    assert search.best_score_ > -0.5
    json.dumps(search.best_estimator_.classifier_.card.options)  # numbers of NumPy are none of JSON
    table = reviews(60)
    scores = cross_val_score(
        BCEClassifier(**LINEAR), table.drop("kind"), table["kind"], cv=3, scoring="roc_auc"
    )
    assert scores.mean() > 0.9


def test_calibration_and_thresholds() -> None:
    X, y = arrays(150)
    calibrated = CalibratedClassifierCV(BCEClassifier(**LINEAR), cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.8
    tuned = TunedThresholdClassifierCV(BCEClassifier(**LINEAR), scoring="f1", cv=3).fit(X, y)
    assert 0 < tuned.best_threshold_ < 1
    assert tuned.score(X, y) > 0.8


@pytest.mark.parametrize("output", ["default", "pandas", "polars"])
def test_pipelines(output: str) -> None:
    if output == "pandas":
        pytest.importorskip("pandas")
    X, y = arrays(80)
    X[5, 1] = np.nan
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(), BCEClassifier(**LINEAR))
    pipeline.set_output(transform=output)
    pipeline.fit(X, y)
    assert pipeline.score(X, y) > 0.8
    assert hasattr(pipeline[-1], "feature_names_in_") == (output != "default")


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9),
    reason="a ColumnTransformer of scikit-learn before 1.9 does not take frames of polars 2",
)
def test_columns_that_pass_through_a_transformer() -> None:
    table = reviews(60)
    X, y = table.drop("kind"), table["kind"].to_list()
    transformer = make_column_transformer(
        (TfidfVectorizer(), "review"), (SimpleImputer(), ["stars"]), sparse_threshold=1.0
    )
    pipeline = make_pipeline(transformer, BCEClassifier(**LINEAR)).fit(X, y)
    assert pipeline.score(X, y) > 0.95


# ------------------------------------------------------------------------------------- saved models


def test_an_estimator_of_a_saved_model(tmp_path: Path) -> None:
    table = reviews(60).with_columns(row=pl.arange(60))
    fitted = fit(table, "kind", options=TrainingOptions("linear", seed=5))
    save(fitted, tmp_path / "model")
    for given in (tmp_path / "model", str(tmp_path / "model"), load(tmp_path / "model"), fitted):
        estimator = BCEClassifier.from_model(given)
        assert estimator.classes_.tolist() == ["no", "yes"]
        assert estimator.get_params()["seed"] == 5
        shuffled = table.select(sorted(table.columns))  # more columns, in another order
        expected = fitted.predict(table)["predicted"].to_list()
        assert estimator.predict(shuffled).tolist() == expected
    assert estimator.n_features_in_ == 3
    refitted = clone(estimator).fit(table.drop("kind"), table["kind"])
    assert np.array_equal(proba(refitted, table.drop("kind")), fitted.probabilities(table))


# -------------------------------------------------------------------------------------- partial_fit


def loss(estimator: BCEClassifier, X: Any, y: np.ndarray) -> float:
    logits = estimator.decision_function(X)
    return evaluate_logits(logits, y.astype(np.float64)).log_loss


@pytest.mark.parametrize("size", [20, 100, 400])
def test_batches_come_to_what_one_fit_comes_to(size: int) -> None:
    (X, y), (new, labels) = arrays(800), arrays(2000, seed=1)
    whole = BCEClassifier(model="linear").fit(X, y)
    estimator = BCEClassifier()
    for start in range(0, len(X), size):
        batch = slice(start, start + size)
        estimator.partial_fit(X[batch], y[batch], classes=[0, 1])
    # `Belief` has what was measured: 1.3%.
    assert loss(estimator, new, labels) < 1.03 * loss(whole, new, labels)
    card = estimator.classifier_.card
    assert (card.rows, card.positives, card.models) == (800, y.sum(), {"linear": 1.0})
    # The figures are those of rows that were not learned yet.
    assert card.held_out.log_loss == pytest.approx(loss(whole, new, labels), rel=0.35)


def test_batches_after_a_fit_move_its_linear_part() -> None:
    (X, y), (new, labels) = arrays(400), arrays(1000, seed=1)
    estimator = BCEClassifier().fit(X, y)
    before = loss(estimator, new, labels)
    logits = estimator.decision_function(new)
    drifted = 1 - labels  # the world has turned around
    estimator.partial_fit(new[:1], labels[:1])
    assert np.abs(estimator.decision_function(new) - logits).max() < 0.5
    for _ in range(10):
        estimator.partial_fit(new, drifted)
    assert loss(estimator, new, drifted) < loss(BCEClassifier().fit(X, y), new, drifted) / 2
    assert before < 0.5
    again = pickle.loads(pickle.dumps(estimator)).partial_fit(new, drifted)
    assert np.array_equal(
        again.decision_function(new), estimator.partial_fit(new, drifted).decision_function(new)
    )
    estimator.fit(X, y)
    assert loss(estimator, new, labels) == before  # a fit begins anew


def test_the_first_batch_says_what_the_columns_are(tmp_path: Path) -> None:
    table = reviews(200, seed=2)
    estimator = BCEClassifier()
    for start in range(0, 160, 40):
        batch = table[start : start + 40]
        estimator.partial_fit(batch.drop("kind"), batch["kind"], classes=["no", "yes"])
    rest = table[160:]
    assert estimator.score(rest.drop("kind"), rest["kind"]) > 0.9
    save(estimator.classifier_, tmp_path / "model")
    again = BCEClassifier.from_model(tmp_path / "model")
    assert np.array_equal(proba(again, rest), proba(estimator, rest.drop("kind")))
    assert "linear" in again.classifier_.explain().models
    with pytest.raises(InputError, match="keep the estimator with pickle"):
        again.partial_fit(rest, rest["kind"])


def test_batches_with_weights_soft_targets_and_sparse_rows() -> None:
    X, y = arrays(300)
    twice = BCEClassifier(pos_weight=3.0)
    weighted = BCEClassifier(pos_weight=3.0)
    for start in (0, 150):
        batch = slice(start, start + 150)
        double = np.repeat(X[batch], 2, axis=0), np.repeat(y[batch], 2)
        if start == 0:  # the columns are those of the first batch
            twice.partial_fit(X[batch], y[batch], classes=[0, 1])
            weighted.partial_fit(X[batch], y[batch], classes=[0, 1])
        else:
            twice.partial_fit(*double)
            weighted.partial_fit(X[batch], y[batch], sample_weight=np.full(150, 2.0))
    assert np.allclose(proba(twice, X), proba(weighted, X), atol=1e-3)
    assert abs(proba(twice, X).mean() - y.mean()) < 0.05  # pos_weight is taken out again
    soft = BCEClassifier(soft=True).partial_fit(X, 1 / (1 + np.exp(-X[:, 0])))
    assert np.abs(proba(soft, X) - 1 / (1 + np.exp(-X[:, 0]))).mean() < 0.05
    M, labels = wide(200)
    sparse = BCEClassifier()
    for start in range(0, 200, 50):
        sparse.partial_fit(M[start : start + 50], labels[start : start + 50], classes=[0, 1])
    assert sparse.score(M, labels) > 0.95


def test_what_partial_fit_refuses() -> None:
    X, y = arrays()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        BCEClassifier().partial_fit(X, y)
    for options in ({"model": "trees"}, {"pos_weight": "balanced"}):
        with pytest.raises(InputError, match="partial_fit updates a linear model"):
            BCEClassifier(**options).partial_fit(X, y, classes=[0, 1])
    estimator = BCEClassifier().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="not the same as on last call"):
        estimator.partial_fit(X, y, classes=[0, 2])
    with pytest.raises(ValueError, match=r"classes \[5\] that are not in \[0, 1\]"):
        estimator.partial_fit(X, np.where(y == 1, 5, 0))


@pytest.mark.parametrize("model", ["linear", "trees"])
def test_the_calibration_becomes_weights_before_the_first_batch(model: Any) -> None:
    X, y = arrays(120)
    fitted = BCEClassifier(model=model, effort="low", pos_weight=2.0).fit(X, y).classifier_
    card = msgspec.structs.replace(fitted.card, calibration=Calibration("platt", [1.4], -0.3))
    calibrated = replace(fitted, card=card)
    shift = np.abs(calibrated.logits(_table(X)) - fitted.logits(_table(X)))
    assert shift.max() > 0.5
    without = _uncalibrated(calibrated)
    assert without.card.calibration is None
    assert np.allclose(without.logits(_table(X)), calibrated.logits(_table(X)), atol=1e-12)


def test_an_update_takes_no_guarantee_along() -> None:
    X, y = arrays(300)
    estimator = BCEClassifier(**LINEAR, guarantee="precision>=0.6").fit(X, y)
    with pytest.raises(InputError, match="the guarantee was tested for"):
        estimator.partial_fit(X, y)


def test_other_uses_of_the_fitted_linear_model_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """`partial_fit` without `fit` never searches for settings."""
    monkeypatch.setattr("torchbce.classifier.models.search.fit_linear", None)
    assert fit_linear is not None
    BCEClassifier().partial_fit(*arrays(), classes=[0, 1])


def test_small_numbers_of_rows() -> None:
    table = numbers(12)
    X, y = table.drop("y"), table["y"]
    estimator = BCEClassifier().fit(X, y)
    assert estimator.predict_proba(X).shape == (12, 2)
    assert estimator.predict(X[:0]).tolist() == []


# ------------------------------------------------------------------------------------- many labels


def many(rows: int = 120) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    X = random.normal(size=(rows, 4))
    return X, (X[:, :3] + 0.5 * random.normal(size=(rows, 3)) > 0).astype(int)


def test_many_labels_in_every_form() -> None:
    X, Y = many()
    expected = BCEClassifier(model="linear").fit(X, Y)
    assert expected.classes_.tolist() == [0, 1, 2]
    probabilities = expected.predict_proba(X)
    assert probabilities.shape == (120, 3)
    np.testing.assert_allclose(expit(expected.decision_function(X)), probabilities)
    np.testing.assert_allclose(np.exp(expected.predict_log_proba(X)), probabilities)
    np.testing.assert_array_equal(expected.predict(X), probabilities >= 0.5)
    for form in (Y.tolist(), list(Y), Y.astype(float), Y > 0):
        again = BCEClassifier(model="linear").fit(X, form)
        np.testing.assert_array_equal(again.predict_proba(X), probabilities)
    named = BCEClassifier(model="linear").fit(X, pl.DataFrame(Y, schema=["a", "b", "c"]))
    assert named.classes_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(named.predict_proba(X), probabilities)
    sparse = BCEClassifier(model="linear").fit(X, sp.csr_matrix(Y))
    np.testing.assert_allclose(sparse.predict_proba(X), probabilities, atol=0.02)


def test_many_labels_are_those_of_fit_label_rows() -> None:
    from torchbce.classifier.labels.fitting import fit_label_rows

    X, Y = many()
    names = [f"x{n}" for n in range(4)]
    own = BCEClassifier(model="linear", optimize="f1").fit(X, Y)
    options = TrainingOptions(model="linear", optimize="f1")
    overrides = Overrides(numeric=names)
    table = pl.DataFrame(X, schema=names)
    other = fit_label_rows(
        table, Y.astype(float), ["0", "1", "2"], options=options, overrides=overrides
    )
    np.testing.assert_array_equal(own.classifier_.logits(table), other.logits(table))
    decided = own.predict_proba(X) >= np.array(other.card.thresholds)
    np.testing.assert_array_equal(own.predict(X), decided)


def test_unknown_labels_and_weights() -> None:
    X, Y = many()
    unknown = Y.astype(float)
    unknown[::3, 1] = np.nan
    assert BCEClassifier(model="linear").fit(X, unknown).predict_proba(X).shape == (120, 3)
    w = np.ones(120)
    weighted = BCEClassifier(model="linear").fit(X, Y, sample_weight=w)
    plain = BCEClassifier(model="linear").fit(X, Y)
    np.testing.assert_array_equal(weighted.predict_proba(X), plain.predict_proba(X))


def test_many_labels_in_scikit_learn() -> None:
    X, Y = many()
    estimator = BCEClassifier(model="linear")
    scores = cross_val_score(estimator, X, Y, cv=3, scoring="f1_micro")
    assert scores.min() > 0.7
    fitted = pickle.loads(pickle.dumps(clone(estimator).fit(X, Y)))
    assert fitted.score(X, Y) == accuracy_score(Y, fitted.predict(X))


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (lambda Y: Y + 1, "holds 2; expected 0 and 1, or probabilities with soft=True"),
        (lambda Y: Y * 0.5, "holds 0.5; expected 0 and 1"),
        (lambda Y: Y[:50], "inconsistent numbers of samples"),
    ],
)
def test_labels_that_cannot_be_learned(y: Any, sentence: str) -> None:
    X, Y = many()
    with pytest.raises(ValueError, match=sentence):
        BCEClassifier(model="linear").fit(X, y(Y))


def test_options_of_one_label() -> None:
    X, Y = many()
    for options in (
        {"model": "trees"},
        {"loss": "focal"},
        {"base_rate": 0.3},
        {"positive": "zebra"},
    ):
        with pytest.raises(ValueError, match="is for a single target"):
            BCEClassifier(**options).fit(X, Y)
    for estimator in (BCEClassifier(), BCEClassifier(model="linear").fit(X, Y)):
        with pytest.raises(ValueError, match="partial_fit is for a single target"):
            estimator.partial_fit(X, Y)
    with pytest.raises(ValueError, match="partial_fit does not learn several labels"):
        estimator.partial_fit(X, Y[:, 0])


def test_many_labels_from_a_directory(tmp_path: Path) -> None:
    X, Y = many()
    estimator = BCEClassifier(model="linear", optimize="f1").fit(X, Y)
    save(estimator.classifier_, tmp_path / "m")
    again = BCEClassifier.from_model(tmp_path / "m")
    assert np.array_equal(again.predict_proba(X), estimator.predict_proba(X))
    assert np.array_equal(again.predict(X), estimator.predict(X))
    assert again.get_params()["optimize"] == "f1"
    assert clone(again).fit(X, Y).classes_.tolist() == estimator.classes_.tolist()
