"""A classifier as a Python file, a SELECT, an ONNX graph and a model card, against the classifier.

The Python file and the SELECT compute in float64 what the classifier does, and round to float32
where it does, so that they differ by the order of sums; 1e-6 is what is promised. In ONNX the
ensemble of trees and the network are float32; 1e-5 is promised.
"""

import datetime
import importlib.util
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from making import done, torchbce
from torchbce.classifier import (
    Classifier,
    InputError,
    Overrides,
    TrainingOptions,
    export,
    fit,
    save,
)
from torchbce.classifier.columns.dates import FORMATS, DateColumn, moments_of
from torchbce.classifier.columns.numeric import NumericColumn
from torchbce.classifier.columns.values import as_numbers
from torchbce.classifier.decisions.deciding import Decision
from torchbce.classifier.models.calibration import Calibration

MODELS = ["linear", "pairs", "trees", "mlp", "auto"]
CATEGORIES = ["it's", 'a "b"', "Zoë—ü", "<script>", "1.0", "2", "x|y", "--", "\\"]
WORDS = [
    "good",
    "great",
    "fine",
    "bad",
    "poor",
    "awful",
    "the",
    "Straße",
    "ΟΔΟΣ",
    "naïve",
    "don't",
    "2nd",
    "日本",
    "a",
]


def mixed(rows: int = 900) -> dict[str, list[Any]]:
    """All kinds of columns but text, with missing values; sex and age act together."""
    random = np.random.default_rng(0)
    age, sex = random.integers(18, 80, rows), random.choice(["f", "m"], rows)
    category = random.choice(CATEGORIES, rows)
    price = random.uniform(10, 99999, rows)
    start = datetime.datetime(2020, 1, 1)
    when = [start + datetime.timedelta(minutes=int(m)) for m in random.integers(0, 10**6, rows)]
    z = np.where((age > 45) == (sex == "m"), 1.3, -1.3) + (category == "it's") + (price > 50000)
    z += np.array([moment.hour > 12 for moment in when])
    return {
        "age": [None if random.random() < 0.1 else float(value) for value in age],
        'the "sex"': sex.tolist(),
        "category": [None if random.random() < 0.1 else value for value in category],
        "price": [f"${value:,.2f}" for value in price],
        "when": [f"{moment:%m/%d/%Y %H:%M}" for moment in when],
        "flag": (random.random(rows) < 0.5).tolist(),
        "y": np.where(random.random(rows) < 1 / (1 + np.exp(-z)), "yes", "no").tolist(),
    }


def texts(rows: int = 500) -> dict[str, list[Any]]:
    random = np.random.default_rng(1)
    found = [" ".join(random.choice(WORDS, random.integers(0, 9))) for _ in range(rows)]
    z = [2 * ("good" in text) - 2 * ("bad" in text) for text in found]
    number = random.normal(size=rows)
    y = random.random(rows) < 1 / (1 + np.exp(-np.array(z) - number))
    return {"review": found, "number": number.tolist(), "y": y.tolist()}


def unspaced(rows: int = 300) -> dict[str, list[Any]]:
    random = np.random.default_rng(2)
    found = ["".join(random.choice(list("日本語のテキスト良悪。 "), 12)) for _ in range(rows)]
    y = [int(("良" in text) != (random.random() < 0.2)) for text in found]
    return {"text": found, "y": y}


def wide(rows: int = 400, columns: int = 60) -> dict[str, list[Any]]:
    random = np.random.default_rng(3)
    values = random.normal(size=(rows, columns)).round(2)
    y = (values[:, 0] + values[:, 1] + random.normal(size=rows) > 0).astype(int)
    return {f"x{i}": values[:, i].tolist() for i in range(columns)} | {"y": y.tolist()}


TABLES = {"mixed": mixed, "texts": texts, "unspaced": unspaced, "wide": wide}


@cache
def fitted(table: str, model: str) -> tuple[Classifier, dict[str, list[Any]]]:
    """A classifier of a table, and rows of it."""
    columns = TABLES[table]()
    options = TrainingOptions(model=model, effort="low", epochs=2 if model == "mlp" else 30)
    overrides = Overrides(categorical=["category"]) if table == "mixed" else None
    classifier = fit(columns, "y", overrides=overrides, options=options)
    return classifier, {name: values[:300] for name, values in columns.items() if name != "y"}


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"exported_{uuid.uuid4().hex}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_numpy(classifier: Classifier, folder: Path) -> ModuleType:
    """The exported Python file as a module."""
    path = folder / f"{uuid.uuid4().hex}.py"
    export(classifier, path, to="numpy")
    return module_of(path)


def in_sql(classifier: Classifier, folder: Path) -> Callable[[pl.DataFrame, dict[str, str]], Any]:
    """A function from a table, and the types of its columns, to what the SELECT returns."""
    duckdb = pytest.importorskip("duckdb")
    path = folder / f"{uuid.uuid4().hex}.sql"
    export(classifier, path, to="sql")
    query = path.read_text(encoding="utf-8")
    connection = duckdb.connect(config={"threads": 1})

    def run(table: pl.DataFrame, types: dict[str, str]) -> Any:
        names = ['"' + name.replace('"', '""') + '"' for name in table.columns]
        given = [types.get(name, "VARCHAR") for name in table.columns]
        declared = ", ".join(f"{n} {t}" for n, t in zip(names, given, strict=True))
        connection.execute(f"CREATE OR REPLACE TABLE data ({declared}, row_number BIGINT)")
        rows = [(*row, number) for number, row in enumerate(table.rows())]
        marks = ", ".join("?" * (table.width + 1))
        connection.execute("BEGIN")
        connection.executemany(f"INSERT INTO data VALUES ({marks})", rows)
        connection.execute("COMMIT")
        ordered = (
            f"SELECT probability, predicted FROM ({query.rstrip().rstrip(';')}) ORDER BY row_number"
        )
        return connection.execute(ordered).fetchall()

    return run


def in_onnx(classifier: Classifier, folder: Path) -> Callable[[pl.DataFrame], list[Any]]:
    """A function from a table to the outputs of the graph."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = folder / f"{uuid.uuid4().hex}.onnx"
    export(classifier, path, to="onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options)

    def run(table: pl.DataFrame) -> list[Any]:
        feed = {}
        for column in classifier.encoder.columns:
            values = table[column.name]
            if isinstance(column, NumericColumn):
                feed[column.name] = as_numbers(values, column.written)
            elif isinstance(column, DateColumn):
                moments = moments_of(values, column.written).to_numpy()
                feed[column.name] = moments.astype("datetime64[s]").astype(np.int64)
            else:
                text = values.cast(pl.String).fill_null("").to_numpy()
                feed[column.name] = text.astype(object)
        return session.run(None, feed)

    return run


def refused(result: Any, sentence: str) -> None:
    assert result.exit_code == 2
    assert sentence in result.stderr


def probabilities(found: Any) -> np.ndarray:
    return np.array([row[0] for row in found], dtype=np.float64)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("model", MODELS)
def test_numpy_agrees(table: str, model: str, tmp_path: Path) -> None:
    classifier, columns = fitted(table, model)
    module = in_numpy(classifier, tmp_path)
    expected = classifier.probabilities(columns)
    np.testing.assert_allclose(module.predict_proba(columns), expected, rtol=0, atol=1e-6)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    np.testing.assert_allclose(module.predict_proba(rows), expected, rtol=0, atol=1e-6)
    assert module.predict(rows) == classifier.predict(columns)["predicted"].to_list()


@pytest.mark.parametrize("table", ["mixed", "wide"])
@pytest.mark.parametrize("model", ["linear", "pairs", "trees", "auto"])
def test_sql_agrees(table: str, model: str, tmp_path: Path) -> None:
    classifier, columns = fitted(table, model)
    run = in_sql(classifier, tmp_path)
    frame = pl.DataFrame(columns)
    strings = frame.cast(pl.String).with_columns(pl.col(pl.String).str.replace("^true$", "True"))
    found = run(strings, {})
    np.testing.assert_allclose(
        probabilities(found), classifier.probabilities(columns), rtol=0, atol=1e-6
    )
    assert [row[1] for row in found] == classifier.predict(columns)["predicted"].to_list()


def test_sql_reads_typed_columns(tmp_path: Path) -> None:
    classifier, columns = fitted("mixed", "auto")
    run = in_sql(classifier, tmp_path)
    moments = pl.Series(columns["when"]).str.to_datetime("%m/%d/%Y %H:%M")
    typed = pl.DataFrame(columns).with_columns(moments.alias("when"))
    found = run(typed, {"age": "DOUBLE", "when": "TIMESTAMP", "flag": "BOOLEAN"})
    expected = classifier.probabilities(columns)
    np.testing.assert_allclose(probabilities(found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("table", ["mixed", "wide"])
@pytest.mark.parametrize("model", MODELS)
def test_onnx_agrees(table: str, model: str, tmp_path: Path) -> None:
    classifier, columns = fitted(table, model)
    run = in_onnx(classifier, tmp_path)
    probability, predicted, logit = run(pl.DataFrame(columns))
    np.testing.assert_allclose(probability, classifier.probabilities(columns), rtol=0, atol=1e-5)
    np.testing.assert_allclose(logit, classifier.logits(columns), rtol=0, atol=1e-4)
    assert predicted.tolist() == classifier.predict(columns)["predicted"].to_list()


def test_pairs_and_trees_are_among_the_models() -> None:
    """What is compared above is what its name says."""
    for model in ("pairs", "trees", "mlp"):
        assert set(fitted("mixed", model)[0].card.models) == {model}
    assert fitted("mixed", "pairs")[0].models[0].crosses.width > 0  # type: ignore[union-attr]


#: Ways to write a value of each column of `mixed`, some of which the model cannot read.
ODD: dict[str, st.SearchStrategy[str | None]] = {
    "age": st.one_of(
        st.floats(allow_infinity=False).map(repr),
        st.integers(-(10**20), 10**20).map(str),
        st.sampled_from(
            [
                None,
                "",
                " NA ",
                "nan",
                "NAN",
                "?",
                "\u22125",
                "\u2013.5",
                "+7",
                "5.",
                ".5",
                "-.5e-3",
                "1_000",
                "1,000",
                "abc",
                "True",
                "FALSE",
                "5 kg",
                "(43)",
                "(43",
                "- 5",
                "+\xa05",
                "-(5)",
                "(-5)",
                "- -5",
                "4e\u22121",
                "5 e1",
                "\xa042\u3000",
                "1e400",
                "inf",
                "٣",
            ]
        ),
    ),
    "category": st.one_of(
        st.sampled_from(
            [None, *CATEGORIES, "1", "1.00", "2.0", "1e0", " 2\t", "unseen", "N/A", "True"]
        ),
        st.text(max_size=5).filter(lambda text: "\0" not in text),
    ),
    "price": st.one_of(
        st.floats(-1e9, 1e9).map(lambda value: f"${value:,.2f}"),
        st.sampled_from(
            [
                None,
                "$5",
                "-$1,234.5",
                "$-7",
                "($1,000.00)",
                "($5",
                "$ 12",
                "$1e3",
                "$1,2,3",
                "12",
                "\u2212$12",
                "€5",
                "US$5",
                "-$-5",
                "$12,34,567",
                "$.5",
                "$5.",
                "$5 kg",
                "true",
                "$1\xa0000",
            ]
        ),
    ),
    "when": st.one_of(
        st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)).map(
            lambda moment: f"{moment.month}/{moment.day}/{moment.year:04} {moment:%H:%M:%S}"
        ),
        st.sampled_from(
            [
                None,
                "2/29/2023",
                "2/29/2024",
                "13/1/2020",
                "01/02/2020",
                "1/2/2020 5 PM",
                "NA",
                "1/2/2020T05:06:07.5Z",
                "1/2/2020 12:00 am",
                "12/31/2020 23:59:60",
                "1/2/2020 24:00",
                "1/2/2020 5:06 p.m.",
                "1/2/2020 05:06 +0200",
                "2/29/1900",
                "2/29/2000",
                "1/1/1960 1:02",
            ]
        ),
    ),
    "flag": st.sampled_from([None, "True", "false", "1", "0", "1.0", "TRUE", "yes", "2"]),
}

few = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@cache
def odd_in_numpy(model: str) -> tuple[Classifier, ModuleType]:
    import tempfile

    classifier, _ = fitted("mixed", model)
    with tempfile.TemporaryDirectory() as folder:
        return classifier, in_numpy(classifier, Path(folder))


@cache
def odd_in_sql(model: str) -> tuple[Classifier, Any]:
    import tempfile

    classifier, _ = fitted("mixed", model)
    with tempfile.TemporaryDirectory() as folder:
        return classifier, in_sql(classifier, Path(folder))


def odd_row(data: st.DataObject) -> dict[str, str | None]:
    return {'the "sex"': "f"} | {name: data.draw(values, name) for name, values in ODD.items()}


@pytest.mark.filterwarnings("ignore::torchbce.classifier.InputWarning")
@pytest.mark.parametrize("model", ["linear", "pairs", "trees"])
@few
@given(data=st.data())
def test_odd_values_in_numpy(model: str, data: st.DataObject) -> None:
    classifier, module = odd_in_numpy(model)
    row = odd_row(data)
    table = pl.DataFrame(
        {name: [value] for name, value in row.items()}, dict.fromkeys(row, pl.String)
    )
    try:
        expected = classifier.probabilities(table)
    except InputError:
        with pytest.raises(ValueError, match="should hold"):
            module.predict_proba([row])
    else:
        np.testing.assert_allclose(module.predict_proba([row]), expected, rtol=0, atol=1e-6)


# DuckDB takes longer to plan the query than to run it: many rows at a time.
@pytest.mark.filterwarnings("ignore::torchbce.classifier.InputWarning")
@pytest.mark.parametrize("model", ["linear", "trees"])
@settings(max_examples=3, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.fixed_dictionaries(ODD), min_size=20, max_size=20))
def test_odd_values_in_sql(model: str, rows: list[dict[str, str | None]]) -> None:
    classifier, run = odd_in_sql(model)
    rows = [{'the "sex"': "f"} | {name: row[name] for name in ODD} for row in rows]
    tables = [pl.DataFrame([row], dict.fromkeys(row, pl.String)) for row in rows]
    for table, (probability, predicted) in zip(tables, run(pl.concat(tables), {}), strict=True):
        try:
            expected = classifier.predict(table)
        except InputError:
            assert probability is None, table.row(0)
            assert predicted is None
        else:
            assert probability == pytest.approx(expected["probability"][0], abs=1e-6), table.row(0)
            assert predicted == expected["predicted"][0]


@few
@given(
    texts=st.lists(
        st.one_of(st.none(), st.text(), st.text("goodbadßΣ'2 \t\u2003日本a", max_size=30))
    )
)
def test_odd_texts_in_numpy(texts: list[str | None]) -> None:
    classifier, module = odd_text()
    columns = {"review": [*texts, "good"], "number": [0.5] * (len(texts) + 1)}
    expected = classifier.probabilities(columns)
    np.testing.assert_allclose(module.predict_proba(columns), expected, rtol=0, atol=1e-6)


@cache
def odd_text() -> tuple[Classifier, ModuleType]:
    import tempfile

    classifier, _ = fitted("texts", "auto")
    with tempfile.TemporaryDirectory() as folder:
        return classifier, in_numpy(classifier, Path(folder))


@pytest.mark.parametrize("written", FORMATS)
def test_every_way_to_write_a_date(written: str, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    start = datetime.datetime(1969, 3, 1)
    moments = [start + datetime.timedelta(hours=int(h)) for h in random.integers(0, 480_000, 200)]
    cells = [f"{moment:{written}}" for moment in moments]
    y = [int((moment.month > 6) != (random.random() < 0.1)) for moment in moments]
    if written == "%H:%M":
        y = [int((moment.hour > 12) != (random.random() < 0.1)) for moment in moments]
    classifier = fit(
        {"d": cells, "y": y}, "y", options=TrainingOptions(model="linear", effort="low")
    )
    column = classifier.encoder.columns[0]
    assert isinstance(column, DateColumn)
    expected = classifier.probabilities({"d": cells})
    found = in_numpy(classifier, tmp_path).predict_proba({"d": cells})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    table = pl.DataFrame({"d": cells})
    in_duckdb = probabilities(in_sql(classifier, tmp_path)(table, {}))
    np.testing.assert_allclose(in_duckdb, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(in_onnx(classifier, tmp_path)(table)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "cells",
    [
        ["5 kg", "7 kg", "-12.5 kg", "(3 kg)", "1e2 kg"],
        ["12 %", "0.5%", "-3 %", "100 %"],
        ["1 234,5", "12 000", "-3", "7,25", "\u22121 000"],
        ["1_000", "25", "1_234.5"],
        ["kr 5", "kr 1'000", "-kr 7", "kr -2.5"],
        ["EUR 5", "EUR -7.5", "EUR 12"],
        ["5 m2", "12.5 m2", "100 m2"],
        ["(43)", "12", "- 7", "+ 5", "40e\u22122", "-\u00a09", "\u2212 8", "( 6.5 )"],
    ],
)
def test_written_numbers(cells: list[str], tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    chosen = random.integers(0, len(cells), 120)
    table = {"n": [cells[i] for i in chosen], "other": random.normal(size=120).tolist()}
    y = [int((i > 1) != (random.random() < 0.1)) for i in chosen]
    classifier = fit(
        table | {"y": y},
        "y",
        overrides=Overrides(numeric=["n"]),
        decimal="," if "," in "".join(cells) else ".",
        options=TrainingOptions(model="linear", effort="low"),
    )
    expected = classifier.probabilities(table)
    found = in_numpy(classifier, tmp_path).predict_proba(table)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    in_duckdb = in_sql(classifier, tmp_path)(pl.DataFrame(table), {"other": "DOUBLE"})
    np.testing.assert_allclose(probabilities(in_duckdb), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration("temperature", [0.7]),
        Calibration("platt", [1.3], -0.4),
        Calibration("beta", [0.6, 1.4], 0.2),
        Calibration("quadratic", [0.5, 1.5], 0.1, -1.0, 1.5),
    ],
    ids=lambda one: one.kind,
)
def test_calibration_base_rate_and_undecided_rows(calibration: Calibration, tmp_path: Path) -> None:
    classifier, columns = fitted("mixed", "linear")
    card = msgspec.structs.replace(
        classifier.card,
        calibration=calibration,
        base_rate=0.2,
        decision=Decision(undecided=(0.2, 0.45), abstain=True),
    )
    changed = Classifier(card, classifier.encoder, classifier.models)
    expected = changed.predict(columns)
    assert expected["predicted"].null_count()
    assert np.abs(expected["probability"] - classifier.probabilities(columns)).max() > 0.1
    labels = expected["predicted"].to_list()
    module = in_numpy(changed, tmp_path)
    np.testing.assert_allclose(module.predict_proba(columns), expected["probability"], atol=1e-6)
    assert module.predict(columns) == labels
    table = pl.DataFrame(columns)
    probability, predicted, _ = in_onnx(changed, tmp_path)(table)
    np.testing.assert_allclose(probability, expected["probability"], atol=1e-5)
    assert predicted.tolist() == [label or "" for label in labels]
    rows = in_sql(changed, tmp_path)(table.cast(pl.String), {})
    np.testing.assert_allclose(probabilities(rows), expected["probability"], atol=1e-6)
    assert [row[1] for row in rows] == labels


def test_large_logits(tmp_path: Path) -> None:
    classifier, columns = fitted("mixed", "linear")
    for shift in (-800.0, 800.0):
        model = classifier.models[0]
        linear = model.linear._replace(bias=shift)  # type: ignore[union-attr]
        far = Classifier(classifier.card, classifier.encoder, (type(model)(linear),))  # type: ignore[call-arg]
        expected = far.probabilities(columns)
        with np.errstate(over="raise", invalid="raise"):
            found = in_numpy(far, tmp_path).predict_proba(columns)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        table = pl.DataFrame(columns)
        np.testing.assert_allclose(in_onnx(far, tmp_path)(table)[0], expected, atol=1e-12)
        rows = in_sql(far, tmp_path)(table.cast(pl.String), {})
        np.testing.assert_allclose(probabilities(rows), expected, atol=1e-12)


def test_words_for_no_value_and_pos_weight(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    x = np.where(random.random(400) < 0.2, -999.0, random.normal(size=400).round(3))
    kind = random.choice(["a", "b", "none given"], 400)
    y = (x + (kind == "a") + random.normal(size=400) > 0.5).astype(int)
    table = {"x": [str(v) for v in x], "kind": kind.tolist()}
    options = TrainingOptions(model="linear", effort="low", pos_weight="balanced")
    classifier = fit(table | {"y": y}, "y", missing=["-999", "none given"], options=options)
    assert classifier.card.pos_weight != 1
    expected = classifier.probabilities(table)
    found = in_numpy(classifier, tmp_path).predict_proba(table)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    numbers = table | {"x": x}
    found = in_numpy(classifier, tmp_path).predict_proba(numbers)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    rows = in_sql(classifier, tmp_path)(pl.DataFrame(table), {})
    np.testing.assert_allclose(probabilities(rows), expected, rtol=0, atol=1e-6)
    frame = pl.DataFrame(table).cast({"x": pl.Float64})
    np.testing.assert_allclose(in_onnx(classifier, tmp_path)(frame)[0], expected, atol=1e-5)


def test_the_base_rate_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    table = {"x": random.normal(size=80).tolist()}
    classifier = fit(table | {"y": [0, 0, 0, 1] * 20}, "y")
    card = msgspec.structs.replace(classifier.card, models={})
    base = Classifier(card, classifier.encoder, ())
    expected = base.probabilities(table)
    np.testing.assert_allclose(in_numpy(base, tmp_path).predict_proba(table), expected)
    np.testing.assert_allclose(in_onnx(base, tmp_path)(pl.DataFrame(table))[0], expected)
    rows = in_sql(base, tmp_path)(pl.DataFrame(table), {"x": "DOUBLE"})
    np.testing.assert_allclose(probabilities(rows), expected)


def test_python_types_in_numpy(tmp_path: Path) -> None:
    classifier, columns = fitted("mixed", "auto")
    module = in_numpy(classifier, tmp_path)
    when = [datetime.datetime.strptime(text, "%m/%d/%Y %H:%M") for text in columns["when"]]
    typed: dict[str, Any] = columns | {
        "age": np.array([np.nan if v is None else v for v in columns["age"]]),
        "when": when,
        "flag": np.array(columns["flag"]),
    }
    expected = classifier.probabilities(typed)
    np.testing.assert_allclose(module.predict_proba(typed), expected, rtol=0, atol=1e-6)
    typed["when"] = np.array(when, dtype="datetime64[us]")
    np.testing.assert_allclose(module.predict_proba(typed), expected, rtol=0, atol=1e-6)
    empty = {name: [] for name in columns}
    assert module.predict_proba(empty).shape == module.predict_proba([]).shape == (0,)
    with pytest.raises(ValueError, match=r"the model reads \['age'\], which the rows do not have"):
        module.predict_proba({name: v for name, v in columns.items() if name != "age"})
    with pytest.raises(ValueError, match="column 'age' should hold numbers, but row 2 holds 'old'"):
        module.predict_proba([{**dict.fromkeys(columns), "age": age} for age in (1, "old")])


#: None in `sys.modules` makes the import of a module fail.
BLOCKED = (
    "import runpy, sys; sys.modules.update(dict.fromkeys(['torch', 'torchbce', 'polars', 'scipy',"
    "'sklearn', 'msgspec', 'numba'])); sys.argv = sys.argv[1:];"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def test_the_python_file_runs_alone(tmp_path: Path) -> None:
    classifier, columns = fitted("texts", "auto")
    export(classifier, tmp_path / "model.py", to="numpy")
    table = pl.DataFrame(columns)
    table.write_csv(tmp_path / "rows.csv")
    command = [sys.executable, "-I", "-c", BLOCKED, str(tmp_path / "model.py")]
    expected = classifier.predict(table, as_written=True)
    for arguments, content in (([str(tmp_path / "rows.csv")], None), ([], "rows.csv")):
        given = None if content is None else (tmp_path / content).read_bytes()
        run = subprocess.run([*command, *arguments], input=given, capture_output=True, check=True)
        found = pl.read_csv(run.stdout)
        assert found.columns == [*columns, "probability", "predicted"]
        np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-6)
        assert found["predicted"].cast(pl.String).str.to_titlecase().to_list() == (
            expected["predicted"].str.to_titlecase().to_list()
        )
    (tmp_path / "short.csv").write_text("review,number\nonly\n")
    failed = subprocess.run([*command, str(tmp_path / "short.csv")], capture_output=True)
    assert failed.returncode == 1
    assert failed.stderr.decode().strip() == "row 1 has 1 values, and the header has 2"


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    classifier, _ = fitted("mixed", "auto")
    for to in ("numpy", "sql", "card"):
        for name in ("one", "two"):
            export(classifier, tmp_path / f"{name}.{to}", to=to)  # type: ignore[arg-type]
        assert (tmp_path / f"one.{to}").read_bytes() == (tmp_path / f"two.{to}").read_bytes()


def test_what_a_format_cannot_express(tmp_path: Path) -> None:
    classifier, _ = fitted("texts", "linear")
    with pytest.raises(InputError, match=r"SQL cannot read the text of column 'review'.*numpy"):
        export(classifier, tmp_path / "m.sql", to="sql")
    with pytest.raises(InputError, match="no operator that splits the text of column 'review'"):
        export(classifier, tmp_path / "m.onnx", to="onnx")
    network, _ = fitted("mixed", "mlp")
    with pytest.raises(InputError, match=r"has a network .*; export with to='onnx' or to='numpy'"):
        export(network, tmp_path / "m.sql", to="sql")
    with pytest.raises(InputError, match="to must be one of onnx, numpy, sql, card, got 'pmml'"):
        export(classifier, tmp_path / "m", to="pmml")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got list"):
        export([], tmp_path / "m", to="card")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_onnx_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'torchbce\[onnx\]'"):
        export(fitted("mixed", "linear")[0], tmp_path / "m.onnx", to="onnx")


def test_names_that_a_graph_has_itself(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    names = ["probability", "logit", "constant_1", "add_2"]
    table = {name: random.normal(size=200).tolist() for name in names}
    y = (np.array(table["logit"]) > 0).astype(int)
    classifier = fit(table | {"y": y}, "y", options=TrainingOptions(model="linear", effort="low"))
    found = in_onnx(classifier, tmp_path)(pl.DataFrame(table))
    np.testing.assert_allclose(found[0], classifier.probabilities(table), atol=1e-5)


def test_a_fitted_estimator(tmp_path: Path) -> None:
    from torchbce.classifier import BCEClassifier

    random = np.random.default_rng(9)
    x = random.normal(size=(200, 3))
    estimator = BCEClassifier(effort="low").fit(x, x[:, 0] > 0)
    export(estimator, tmp_path / "m.py", to="numpy")
    names = [column.name for column in estimator.classifier_.encoder.columns]
    found = module_of(tmp_path / "m.py").predict_proba(dict(zip(names, x.T, strict=True)))
    np.testing.assert_allclose(found, estimator.predict_proba(x)[:, 1], atol=1e-6)


def test_the_model_card(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    columns = mixed(300)
    odd = "<script>|`*x*`\n"
    columns[odd] = columns.pop("flag")
    classifier = fit(columns, "y", options=TrainingOptions(model="linear", effort="low"))
    export(classifier, tmp_path / "README.md", to="card")
    _, metadata, body = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    read = yaml.safe_load(metadata)
    assert read["library_name"] == "torchbce"
    assert read["pipeline_tag"] == "tabular-classification"
    [result] = read["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["log_loss"] == classifier.card.held_out.log_loss
    assert set(read["metrics"]) == set(values)
    assert "<script>" not in body
    assert "| <code>&lt;script&gt;\\|\\`\\*x\\*\\` </code> | category, 2 values |" in body
    assert f"{classifier.card.held_out.roc_auc:.4f}" in body


def test_the_command(tmp_path: Path) -> None:
    classifier, columns = fitted("mixed", "linear")
    save(classifier, tmp_path / "model")
    output = tmp_path / "model.py"
    arguments = ["export", str(tmp_path / "model"), "--to", "numpy", "--output", str(output)]
    assert f"{output}: " in done(*arguments).stdout
    found = module_of(output).predict_proba(columns)
    np.testing.assert_allclose(found, classifier.probabilities(columns), rtol=0, atol=1e-6)
    refused(torchbce(*arguments), "exists; pass --overwrite to replace it")
    result = json.loads(done(*arguments, "--overwrite", "--json").stdout)
    assert result == {"output": str(output), "to": "numpy", "bytes": output.stat().st_size}
    arguments[3] = "pmml"
    refused(torchbce(*arguments, "--overwrite"), "--to must be one of onnx, numpy, sql, card")


def test_a_reader_that_stops_early(tmp_path: Path) -> None:
    classifier, _ = fitted("mixed", "linear")
    export(classifier, tmp_path / "m.py", to="numpy")
    names = [column.name for column in classifier.encoder.columns]
    rows = ",".join(names) + "\n" + (",".join("" for _ in names) + "\n") * 20_000
    command = [sys.executable, str(tmp_path / "m.py")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(rows.encode())
        process.stdin.close()
        assert process.stdout.readline().endswith(b"probability,predicted\n")
        process.stdout.close()
        assert process.stderr.read() == b""
