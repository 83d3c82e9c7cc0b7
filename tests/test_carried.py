"""Values that no feature is made of come back as they were written; one form of true and false."""

import datetime
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from making import done, torchbce
from torchbce.classifier import (
    BCEClassifier,
    InputError,
    InputWarning,
    fit,
    fit_labels,
    load,
    save,
)
from torchbce.classifier.columns.inference import Overrides
from torchbce.classifier.tables import reading
from torchbce.classifier.tables.carried import numeric_columns
from torchbce.classifier.tables.formats import Format
from torchbce.classifier.tables.reading import read, scan
from torchbce.classifier.tables.writing import RowWriter

X = [0.5, 1.5, 2.5, 4.5] * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of x alone."""
    path = tmp_path_factory.mktemp("model") / "m"
    save(fit(pl.DataFrame({"x": X, "y": [0, 1] * 12}), "y"), path)
    return path


# ----------------------------------------------------------------------------- numbers that return

CELLS: dict[str, tuple[list[str], Any]] = {
    "integers": (["1", "", "-20"], pl.Int64),
    "64 bits": (["9223372036854775807", "-9223372036854775808"], pl.Int64),
    "beyond 64 bits": (["9223372036854775808", "1"], None),
    "beside NaN": (["9007199254740993", "NaN"], None),
    "beside a float": (["9007199254740993", "0.5"], None),
    "zeros before": (["007", "12"], None),
    "plus": (["+5", "3"], None),
    "spaces": ([" 5", "3"], None),
    "floats": (["1.50", "2", "-0.25", "1e3", "0"], pl.Float64),
    "shortest": (["0.1234567890123456", "0.30000000000000004"], pl.Float64),
    "too fine": (["0.12345678901234567891", "1.5"], None),
    "infinite": (["1.5", "inf"], None),
    "overflow": (["1E400", "1.5"], None),
    "underflow": (["1E-400", "1.5"], None),
    "subnormal": (["4.94e-324", "1.5"], None),
    "a point": (["5.", "1.5"], None),
    "words": (["true", "1"], None),
    "nothing": (["", ""], None),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_column_is_one_of_numbers_only_where_nothing_is_lost(tmp_path: Path, name: str) -> None:
    cells, dtype = CELLS[name]
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{cell},x\n" for cell in cells))
    assert numeric_columns(scan(path)) == ({"a": dtype} if dtype else {})


def test_ids_and_infinite_numbers_in_json_lines(model: Path, tmp_path: Path) -> None:
    rows = ["9007199254740993,inf,01,5", "NaN,1E400,02,6", ",2,01,"]
    (tmp_path / "t.csv").write_text("id,big,code,n,x\n" + "".join(f"{row},1\n" for row in rows))
    done("predict", model, tmp_path / "t.csv", "--output", tmp_path / "o.jsonl")
    got = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["id"] for row in got] == ["9007199254740993", "NaN", None]
    assert [row["big"] for row in got] == ["inf", "1E400", "2"]
    assert [row["code"] for row in got] == ["01", "02", "01"]
    assert [row["n"] for row in got] == [5, 6, None]


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        (("01", "02"), ("01", "02")),
        (("1", "2"), (1, 2)),
        (("False", "True"), (False, True)),
        (("no", "yes"), ("no", "yes")),
    ],
)
def test_a_target_comes_back_as_it_was_written(
    tmp_path: Path, written: tuple[str, str], typed: tuple[Any, Any]
) -> None:
    table = pl.DataFrame({"x": [0.0, 9.0] * 12, "y": [*written] * 12})
    table.write_csv(tmp_path / "t.csv")
    save(fit(read(tmp_path / "t.csv"), "y", positive=written[1]), tmp_path / "m")
    for ending, expected in (("csv", written), ("tsv", written), ("jsonl", typed)):
        done("predict", tmp_path / "m", tmp_path / "t.csv", "--output", tmp_path / f"o.{ending}")
        got = read(tmp_path / f"o.{ending}")
        assert got["predicted"][:2].to_list() == [*expected]
        assert got["y"][:2].to_list() == [*(written if ending != "jsonl" else got["y"][:2])]
    assert load(tmp_path / "m").predict(table)["predicted"][:2].to_list() == [*typed]


# ------------------------------------------------------------------------ types that text has not

SERIES: dict[str, tuple[pl.Series, Any, Any]] = {
    "duration": (pl.Series([datetime.timedelta(hours=25.5)]), "P1DT1H30M", "P1DT1H30M"),
    "bytes": (pl.Series([b"\xff"]), None, None),
    "list": (pl.Series([[1, 2]]), None, [1, 2]),
    "array": (pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)), None, [1, 2]),
    "struct": (pl.Series([{"k": "v"}]), None, {"k": "v"}),
    "list of bytes": (pl.Series([[b"x"]]), None, None),
    "struct of bytes": (pl.Series([{"k": b"x"}]), None, None),
    "infinite": (pl.Series([float("-inf")]), "-inf", None),
    "nan": (pl.Series([float("nan")]), "NaN", ...),
    "date": (pl.Series([datetime.date(2024, 1, 2)]), "2024-01-02", "2024-01-02"),
    "time": (pl.Series([datetime.time(1, 2)]), "01:02:00.000000000", "01:02:00"),
    "decimal": (pl.Series(["1.50"]).cast(pl.Decimal(9, 2)), "1.50", "1.50"),
    "large": (pl.Series([2**64 - 1], dtype=pl.UInt64), "18446744073709551615", str(2**64 - 1)),
    "bool": (pl.Series([True]), "true", True),
    "null": (pl.Series([None]), None, ...),
    "enum": (pl.Series(["a"], dtype=pl.Enum(["a"])), "a", "a"),
}


@pytest.mark.parametrize("name", SERIES)
def test_every_type_is_written_or_refused_in_one_sentence(
    model: Path, tmp_path: Path, name: str
) -> None:
    series, as_csv, as_json = SERIES[name]
    pl.DataFrame({"x": [1.5], "extra": series}).write_parquet(tmp_path / "t.parquet")
    done("predict", model, tmp_path / "t.parquet", "--output", tmp_path / "o.parquet")
    assert pl.read_parquet(tmp_path / "o.parquet")["extra"].equals(series, null_equal=True)
    for ending, expected in (("csv", as_csv), ("jsonl", as_json)):
        output = tmp_path / f"o.{ending}"
        result = torchbce("predict", model, tmp_path / "t.parquet", "--output", output)
        if expected is None and name != "null":
            assert result.exit_code == 2, result.stdout
            assert result.stderr.count("\n") == 1
            assert "column 'extra'" in result.stderr
            assert "choose an output that ends in " in result.stderr
            assert not output.exists()
        else:
            assert result.exit_code == 0, result.stderr
            got = read(output)["extra"][0]
            got = got.to_list() if isinstance(got, pl.Series) else got
            assert got == (None if expected is ... else expected)


def test_a_list_and_a_number_in_an_unused_column(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"x": 1, "tags": [1, "a"]}\n{"x": 2, "tags": 7}\n')
    done("predict", model, tmp_path / "t.jsonl", "--output", tmp_path / "o.csv")
    assert read(tmp_path / "o.csv")["tags"].to_list() == ['[1, "a"]', "7"]


def test_a_full_temporary_folder_is_not_blamed_on_the_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    writer = RowWriter(io.BytesIO(), Format("parquet"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(pl.DataFrame, "write_ipc", full)
    with pytest.raises(
        InputError, match=r"temporary folder '.*': No space left on device; .*TMPDIR"
    ):
        writer.write(pl.DataFrame({"a": [1]}))
    writer.discard()


# ----------------------------------------------------------------------------------------- booleans

FORMS: list[Any] = [[True, False], ["True", "False"], ["TRUE", "FALSE"], ["true", "false"]]
FORMS += [[1, 0], ["1", "0"], [1.0, 0.0], ["1.0", "0.0"]]


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_true_and_false_are_the_same_in_every_format(form: list[Any]) -> None:
    train = pl.DataFrame(
        {"flag": [*form, *form[:1], form[1], None] * 20, "y": [1, 0, 1, 0, 1] * 20}
    )
    classifier = fit(train, "y")
    expected = classifier.probabilities({"flag": [*form, None]})
    assert expected[0] > 0.6 > 0.4 > expected[1]
    for other in FORMS:
        got = classifier.probabilities({"flag": [*other, None]})
        assert got.tolist() == expected.tolist(), other


def test_unseen_values_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 4)
    train = pl.DataFrame({"city": ["a", "b"] * 12, "x": X, "y": [0, 1] * 12})
    classifier = fit(train, "y")
    save(classifier, tmp_path / "m")
    sentence = "no value of column 'city' was in the rows that the model was fitted to"
    with pytest.warns(InputWarning, match=sentence):
        classifier.predict(pl.DataFrame({"city": ["A", "B", None], "x": [1, 2, 3]}))
    classifier.predict(pl.DataFrame({"city": [None, None], "x": [1, 2]}))  # an error if it warns
    classifier.predict(pl.DataFrame({"city": [*["A"] * 200, "a"], "x": [1] * 201}))
    path = tmp_path / "t.csv"
    for cities, warned in (
        (["A"] * 9, True),
        ([*["A"] * 8, "b"], False),
        (["b", *["A"] * 8], False),
    ):
        pl.DataFrame({"city": cities, "x": [1] * 9, "y": [0] * 9}).write_csv(path)
        for command in (["predict", tmp_path / "m", path], ["evaluate", tmp_path / "m", path]):
            shown = done(*command).stderr
            assert shown.count("\n") == warned
            assert shown.startswith(f"torchbce: warning: {sentence}") == warned


# ------------------------------------------------------------------------------- tables of Python


def test_every_kind_of_table() -> None:
    rows = {"x": X, "city": ["a", "b", "a", "c"] * 6, "y": ["no", "yes"] * 12}
    table = pl.DataFrame(rows)
    classifier = fit(table, "y")
    expected = classifier.predict(table)
    for other in (table.lazy(), rows, {**rows, "x": table["x"].to_numpy()}):
        assert fit(other, "y").card.columns == classifier.card.columns
        assert classifier.predict(other).equals(expected)
        assert classifier.logits(other).tolist() == classifier.logits(table).tolist()
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows, index=range(100, 124))
    for other in (frame, frame.astype({"city": "category"}), frame.convert_dtypes()):
        assert fit(other, "y").card.columns == classifier.card.columns
        assert classifier.predict(other).equals(expected)
    arrow = pytest.importorskip("pyarrow").table(rows)
    assert fit(arrow, "y").card.columns == classifier.card.columns
    assert classifier.predict(arrow).equals(expected)


def test_columns_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "when": pandas.to_datetime(["2024-01-01 10:00", None] * 12).tz_localize(
                "Europe/Berlin"
            ),
            "flag": [True, None] * 12,
            "n": pandas.array([1, None] * 12, dtype="Int64"),
            7: ["a", float("nan")] * 12,
            "y": [0, 1] * 12,
        }
    )
    kinds = {column.name: column.__struct_config__.tag for column in fit(frame, "y").card.columns}
    assert kinds == {"when": "date", "flag": "categorical", "n": "numeric", "7": "categorical"}


def test_two_columns_of_one_name() -> None:
    pandas = pytest.importorskip("pandas")
    twice = pandas.DataFrame([[1, 2, 0], [2, 1, 1]] * 12, columns=["a", "a", "y"])
    lazy = pl.LazyFrame({"a": [1], "b": [2]}).select("a", pl.col("b").alias("a"))
    classifier = fit({"a": X, "b": X[::-1], "y": [0, 1] * 12}, "y")
    options: dict[str, Any] = {"model": "linear", "effort": "low"}
    estimator = BCEClassifier(**options).fit(pl.DataFrame({"a": X, "b": X[::-1]}), [0, 1] * 12)
    calls: list[Callable[[], Any]] = [
        lambda: fit(twice, "y"),
        lambda: fit(lazy, "a"),
        lambda: fit_labels(twice, targets=["y"]),
        lambda: classifier.predict(twice),
        lambda: classifier.contributions(twice),
        lambda: BCEClassifier(**options).fit(twice[["a"]], twice["y"]),
        lambda: BCEClassifier(**options).partial_fit(twice[["a"]], twice["y"], classes=[0, 1]),
        lambda: BCEClassifier.from_model(classifier).predict(twice),
        lambda: estimator.predict(twice[["a"]]),
        lambda: estimator.score(twice[["a"]], twice["y"]),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"^the table has more than one column 'a'$"):
            call()


def test_strings_for_paths(tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    pl.DataFrame({"x": X, "y": [0, 1] * 12}).write_csv(path)
    classifier = fit(read(path), "y")
    save(classifier, str(tmp_path / "m"))
    assert load(str(tmp_path / "m")).card == classifier.card


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("t.csv", "got a str; read a file with torchbce.classifier.read"),
        (Path("t.csv"), "read a file with"),
        ([[1, 2]], "got a list; give its columns names"),
        (pl.Series([1]), "got a Series"),
        (None, "got a NoneType"),
        (7, "got an int"),
        ({"x": [1, 2], "y": [1]}, "'y' has 1 values and 'x' 2"),
        (
            {"x": 3, "y": [1]},
            "column 'x' must be a list, an array or a series of values, got a int",
        ),
        ({"x": "ab", "y": [1]}, "column 'x' must be a list"),
        ({"x": [[1, "a"]], "y": [1]}, "'x'"),
        ({"x": [object()], "y": [1]}, "column 'x' holds values of type 'object'"),
        ({"x": [1, object()], "y": [1, 0]}, "column 'x' holds values of "),
        ({1: [1], "1": [2], "y": [1]}, "more than one column '1'"),
        ({}, "target column 'y' is not in the table"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_table(table: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        fit(table, "y", overrides=Overrides())
    assert sentence in str(caught.value)
