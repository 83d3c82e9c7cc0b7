"""The command line: what goes to which stream, in which order, with which exit status."""

import errno
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from typer.testing import Result

from making import METRICS, csv_of, done, names_in, numbers, reviews, torchbce
from torchbce.classifier import files, load
from torchbce.classifier.model import FORMAT
from torchbce.classifier.storage import CARD, TENSORS
from torchbce.classifier.tables import reading
from torchbce.classifier.tables.reading import read
from torchbce.classifier.tables.writing import row_writer

TABLE = reviews(24)
#: Where any model will do.
FAST = ("--model", "linear", "--effort", "low")
PROCESS = [sys.executable, "-m", "torchbce.cli"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a model of it, and a model of one text column."""
    folder = tmp_path_factory.mktemp("place")
    csv_of(TABLE, folder / "t.csv")
    csv_of(TABLE.select("review", "kind"), folder / "text.csv")
    done("fit", folder / "t.csv", "--target", "kind", "--output", folder / "model", *FAST)
    done("fit", folder / "text.csv", "--target", "kind", "--output", folder / "text", *FAST)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(result: Result, *words: str, table_first: bool = False) -> str:
    """Exit status 2, nothing on stdout, and one sentence on stderr, which holds the words."""
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    if table_first:
        assert "used as" in "".join(lines[:2])
        lines = lines[-1:]
    (line,) = lines
    assert line.startswith("torchbce: ")
    assert "internal" not in line
    for word in words:
        assert word in line
    return line


# ------------------------------------------------------------------------------------- end to end


def test_fit(place: Path, here: Path) -> None:
    result = done("fit", place / "t.csv", "--target", "kind", "--output", "m")
    assert names_in(here) == {"m"}
    assert "used as" in "".join(result.stderr.splitlines()[:2])
    for line in (
        r"^ ?review +text +\d",
        r"^ ?place +categorical +2 distinct in 24, as ",
        r"^ ?stars +numeric +numbers, \d+ distinct",
        r"^ ?kind +target +'yes' is positive, 'no' negative: yes against no",
    ):
        assert re.search(line, result.stderr, re.MULTILINE), line
    stages = re.findall(r"^(\w+): .*, held-out loss 0\.\d{4}$", result.stderr, re.MULTILINE)
    assert {*stages} <= {"linear", "pairs"}
    assert stages.count("linear") == 1  # one line each, and not one for each setting
    heading, linear = result.stdout.splitlines()[:2]
    assert heading.split() == ["model", "held-out", "loss", "weight", "seconds", "best", "of"]
    assert re.fullmatch(
        r"linear +0\.\d{4} +\d\.\d\d +\d+\.\d  \d+: L2 [\d.]+(, numbers too)?", linear
    )
    assert re.search(r"^m: (linear|pairs|the base rate).*; 24 rows, ", result.stdout, re.MULTILINE)
    assert "log loss (nats)" in result.stdout


def test_fit_json(place: Path, here: Path) -> None:
    result = done("fit", place / "t.csv", "--target", "kind", "--output", "m", "--json", *FAST)
    answer = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert (answer["output"], answer["rows"], answer["positives"]) == ("m", 24, 12)
    assert answer["target"]["positive"] == "yes"
    assert [(c["name"], c["kind"]) for c in answer["columns"]] == [
        ("review", "text"),
        ("place", "categorical"),
        ("stars", "numeric"),
    ]
    assert list(answer["held_out"]) == METRICS
    assert answer["models"] == load(here / "m").card.models == {"linear": 1.0}
    (tried,) = answer["tried"]
    names = ["model", "setting", "settings", "held_out_loss", "weight", "seconds", "share", "path"]
    assert list(tried) == names
    assert (tried["model"], tried["weight"]) == ("linear", 1.0)
    assert 0 < tried["held_out_loss"] < 1


def test_fit_uses_the_options_of_the_user(here: Path) -> None:
    csv_of(TABLE.with_columns(id=pl.Series(range(24))), here / "t.csv")
    arguments = "--text place --categorical stars --categorical id --drop review --positive no"
    done("fit", "t.csv", "--target", "kind", "--output", "m", *shlex.split(arguments), *FAST)
    card = load(here / "m").card
    kinds = {c.name: c.__struct_config__.tag for c in card.columns}
    assert kinds == {"place": "text", "stars": "categorical", "id": "categorical"}
    assert card.dropped == {"review": "as you said"}
    assert (card.target.positive, card.target.reason) == ("no", "as you said")


def test_fit_options_reach_the_training(here: Path) -> None:
    csv_of(numbers(), here / "t.csv")
    arguments = (
        "--model mlp --pos-weight 2.5 --epochs 3 --batch-size 7 --learning-rate 0.01 "
        "--weight-decay 0.1 --patience 2 --seed 9 --precision 64-true --effort low"
    )
    done("fit", "t.csv", "--target", "y", "--output", "m", *shlex.split(arguments))
    card = load(here / "m").card
    assert (
        card.options.items()
        >= {
            "model": "mlp",
            "effort": "low",
            "pos_weight": 2.5,
            "epochs": 3,
            "batch_size": 7,
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "patience": 2,
            "seed": 9,
            "device": "cpu",
            "precision": "64-true",
        }.items()
    )
    assert (list(card.models), card.pos_weight) == (["mlp"], 2.5)
    for model in ("linear", "pairs", "trees"):
        table = ("t.csv", "--target", "y", "--output", model)
        done("fit", *table, "--model", model, "--effort", "low", "-q")
        # Where no pair of columns matters, the pairs model is the linear one.
        assert {*load(here / model).card.models} <= {model, "linear"}
    wrong = torchbce("fit", "t.csv", "--target", "y", "--output", "o", "--model", "forest")
    assert wrong.exit_code == 2
    assert "--model" in wrong.stderr
    done("fit", "t.csv", "--target", "y", "--output", "n", "--pos-weight", "balanced", *FAST)
    assert load(here / "n").card.options["pos_weight"] == "balanced"


def test_evaluate(place: Path) -> None:
    result = done("evaluate", place / "model", place / "t.csv", "--json")
    assert list(json.loads(result.stdout))[: len(METRICS)] == METRICS
    assert result.stderr == ""
    loaded = load(place / "model")
    expected = files.evaluate_file(loaded, place / "t.csv")
    assert json.loads(result.stdout) == json.loads(msgspec.json.encode(expected))
    table = done("evaluate", place / "model", place / "t.csv").stdout
    assert f"{expected.log_loss:.4f}" in table
    assert re.search(r"relative to the base rate +0\.\d{4}", table)


def test_evaluate_in_batches(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = done("evaluate", place / "model", place / "t.csv", "--json").stdout
    monkeypatch.setattr(reading, "BATCH_ROWS", 5)
    again = done("evaluate", place / "model", place / "t.csv", "--json").stdout
    assert json.loads(again)["confusion"] == json.loads(once)["confusion"]
    assert json.loads(again)["log_loss"] == pytest.approx(json.loads(once)["log_loss"], rel=1e-6)


def test_evaluate_one_class(place: Path, here: Path) -> None:
    csv_of(TABLE.filter(pl.col("kind") == "no"), here / "no.csv")
    answer = json.loads(done("evaluate", place / "model", "no.csv", "--json").stdout)
    assert [k for k in METRICS if answer[k] is None] == [
        "relative_log_loss",
        "roc_auc",
        "average_precision",
    ]
    assert "not defined" in done("evaluate", place / "model", "no.csv").stdout


def test_evaluate_predictions_of_another_tool(here: Path) -> None:
    table = pl.DataFrame({"truth": ["spam", "ham", "ham", "spam"], "p": [0.8, 0.1, 0.4, 0.35]})
    for ending in ("csv", "csv.gz", "parquet", "jsonl"):
        with row_writer(here / f"p.{ending}", False, False) as writer:
            writer.write(table)
        result = done(
            "evaluate",
            *("--predictions", f"p.{ending}", "--target", "truth", "--probability", "p"),
            *("--positive", "spam", "--json"),
        )
        answer = json.loads(result.stdout)
        assert answer["roc_auc"] == 0.75
        assert answer["confusion"] == {"tn": 2, "fp": 0, "fn": 1, "tp": 1}


def test_scores_of_a_predictions_file_equal_those_of_the_model(place: Path, here: Path) -> None:
    done("predict", place / "model", place / "t.csv", "--output", "p.csv")
    again = done(
        "evaluate", "--predictions", "p.csv", "--target", "kind", "--probability", "probability",
        "--json",
    )  # fmt: skip
    direct = json.loads(done("evaluate", place / "model", place / "t.csv", "--json").stdout)
    scores = json.loads(again.stdout)
    assert scores.pop("confusion") == direct.pop("confusion")
    for one, other in zip(scores.pop("thresholds"), direct.pop("thresholds"), strict=True):
        assert _defined(one) == pytest.approx(_defined(other), rel=1e-6)
    intervals = direct.pop("intervals")
    for name, ends in scores.pop("intervals").items():
        assert ends == pytest.approx(intervals[name], rel=1e-4, abs=1e-9)
    assert _defined(scores) == pytest.approx(_defined(direct), rel=1e-6)


def _defined(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if value is not None}


def test_demo(here: Path) -> None:
    result = done("demo")
    commands = re.findall(r"^\$ torchbce (.*)$", result.stdout, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["fit", "predict", "evaluate"]
    assert names_in(here / "torchbce-demo") == {"train.csv", "test.csv", "model", "predictions.csv"}
    first = (here / "torchbce-demo" / "predictions.csv").read_bytes()
    # They are the commands that it ran: by hand they do the same.
    for command in commands:
        again = [] if command.startswith("evaluate") else ["--overwrite"]
        done(*shlex.split(command), *again)
    assert (here / "torchbce-demo" / "predictions.csv").read_bytes() == first
    answer = json.loads(done(*shlex.split(commands[2]), "--json").stdout)
    assert answer["roc_auc"] > 0.98
    refused(torchbce("demo"), "'torchbce-demo' exists; pass --overwrite to replace")
    done("demo", "--overwrite")


def test_version_and_help() -> None:
    assert re.fullmatch(r"torchbce \d+\.\d+\.\d+\n", done("--version").stdout)
    for command in ("fit", "predict", "evaluate", "demo"):
        assert command in done("--help").stdout
        assert "--debug" in done(command, "--help").stdout


# ----------------------------------------------------------------------------------------- predict


STRANGE = 'review,code,stars,price,note,🎬\n"a good, warm film",007,,1.50, x ,"say ""hi"""\n' + (
    "a bad film,1e3,0.50,-0.0,NA,[red]\n,,1.0,,,\n"
)


def strange(folder: Path) -> Path:
    path = folder / "strange.csv"
    rows = STRANGE.replace("code", "place").replace("007", "south").replace("1e3", "nowhere")
    path.write_text(rows, encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_predict_does_not_change_the_values(place: Path, here: Path, ending: str) -> None:
    result = done("predict", place / "model", strange(here), "--output", f"out.{ending}")
    assert result.stdout.startswith(f"3 rows written to out.{ending}, ")
    assert result.stderr == ""
    before, after = read(here / "strange.csv"), read(here / f"out.{ending}")
    assert after.columns == [*before.columns, "probability", "predicted"]
    assert after.drop("probability", "predicted").equals(before)
    assert names_in(here) == {"strange.csv", f"out.{ending}"}


def test_predict_to_standard_output(place: Path, here: Path) -> None:
    done("predict", place / "model", strange(here), "--output", "out.csv")
    result = done("predict", place / "model", "strange.csv")
    assert result.stdout == (here / "out.csv").read_text(encoding="utf-8")
    lines = done("predict", place / "model", "strange.csv", "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["note"] for row in rows] == [" x ", "NA", None]
    assert all(0 <= row["probability"] <= 1 for row in rows)
    assert {row["predicted"] for row in rows} <= {"yes", "no"}


@pytest.mark.parametrize("source", ["csv", "csv.gz", "parquet", "jsonl"])
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "jsonl"])
def test_predict_every_format(
    place: Path, here: Path, source: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From and to every format, in several batches: the same numbers, in the order of the rows."""
    with row_writer(here / f"in.{source}", False, False) as writer:
        writer.write(TABLE)
    monkeypatch.setattr(reading, "BATCH_ROWS", 7)
    done("predict", place / "model", f"in.{source}", "--output", f"out.{ending}")
    got = read(here / f"out.{ending}")
    assert got["review"].to_list() == TABLE["review"].to_list()
    assert got["stars"].cast(pl.Float64).to_list() == TABLE["stars"].to_list()
    expected = load(place / "model").predict(TABLE)
    assert got["predicted"].to_list() == expected["predicted"].to_list()
    assert got["probability"].cast(pl.Float64).to_list() == pytest.approx(
        expected["probability"].to_list(), rel=1e-6
    )
    if ending in ("parquet", "jsonl"):
        assert got.schema["stars"] == pl.Float64
        assert got.schema["probability"] == pl.Float64


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_predict_keeps_numbers_exact_in_another_format(
    place: Path, here: Path, ending: str
) -> None:
    """A column of a CSV is a number in a typed format only where nothing of it is lost."""
    codes = ["007", "012", "100"]
    large = ["9" * 45, "1", "2"]
    fine = ["0.12345678901234567891", "1", "2"]
    extra = {"code": codes, "large": large, "fine": fine}
    csv_of(TABLE[:3].with_columns(**{k: pl.Series(v) for k, v in extra.items()}), here / "in.csv")
    done("predict", place / "model", "in.csv", "--output", f"out.{ending}")
    got = read(here / f"out.{ending}")
    assert got["large"].null_count() == 0
    assert [int(float(v)) for v in got["large"]] == pytest.approx([10**45 - 1, 1, 2])
    assert [float(v) for v in got["fine"]] == [0.12345678901234568, 1, 2]
    assert [int(v) for v in got["code"]] == [7, 12, 100]


def test_predict_nested_values(place: Path, here: Path) -> None:
    """Columns that the model does not read may be nested; a CSV cannot hold them."""
    nested = TABLE[:4].with_columns(tags=pl.Series([["a"], [], ["b", "c"], None]))
    nested.write_ndjson(here / "in.jsonl")
    done("predict", place / "model", "in.jsonl", "--output", "out.jsonl")
    assert read(here / "out.jsonl")["tags"].to_list() == nested["tags"].to_list()
    refused(torchbce("predict", place / "model", "in.jsonl", "--output", "out.csv"), "'tags'")
    refused(torchbce("predict", place / "model", "in.jsonl"), "'tags'")
    assert names_in(here) == {"in.jsonl", "out.jsonl"}


def test_predict_can_overwrite_its_input(
    place: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 5)
    for ending in ("csv", "parquet", "jsonl"):
        with row_writer(here / f"t.{ending}", False, False) as writer:
            writer.write(TABLE)
        done("predict", place / "model", f"t.{ending}", "--output", f"t.{ending}", "--overwrite")
        got = read(here / f"t.{ending}")
        assert got["review"].to_list() == TABLE["review"].to_list()
        assert got.columns[-2:] == ["probability", "predicted"]


def test_predict_summary(place: Path, here: Path) -> None:
    result = done("predict", place / "model", place / "t.csv", "--output", "o.csv", "--json")
    answer = json.loads(result.stdout)
    positives = read(here / "o.csv")["predicted"].to_list().count("yes")
    assert answer == {"rows": 24, "positives": positives, "output": "o.csv"}


def test_predict_unseen_values(place: Path, here: Path) -> None:
    new = pl.DataFrame({"review": ["zzz qqq", None], "place": ["moon", None], "stars": [1e9, None]})
    csv_of(new, here / "new.csv")
    assert len(done("predict", place / "model", "new.csv").stdout.splitlines()) == 3


def test_predict_one_text(place: Path) -> None:
    result = done("predict", place / "text", "--text", "a great and lovely film")
    assert re.fullmatch(r"probability 0\.\d{4}  predicted (yes|no)\n", result.stdout)
    answer = json.loads(done("predict", place / "text", "--text", "a great film", "--json").stdout)
    assert set(answer) == {"probability", "predicted"}
    kind, unkind = (
        json.loads(done("predict", place / "text", "--text", t, "--json").stdout)["probability"]
        for t in ("great lovely warm fine", "awful dull cold poor")
    )
    assert kind > unkind
    for text in ("", "   ", "?!", "never seen", "\x00", "é" * 100_000):
        done("predict", place / "text", "--text", text)
    refused(
        torchbce("predict", place / "model", "--text", "x"),
        "torchbce: --text needs a model of one text column",
    )


# --------------------------------------------------------------------------------------- bad input


def csv_with(**columns: list[Any]) -> Callable[[Path], None]:
    return lambda path: pl.DataFrame(columns).write_csv(path)


def content(data: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data.encode() if isinstance(data, str) else data)


X = [0.5, 1.5, 2.5, 4.5] * 6
Y = [0, 1] * 12
GOOD = csv_with(x=X, y=Y)

#: What is wrong, the table, more arguments, whether the choice was printed, words of the sentence.
BAD_FIT: dict[str, tuple[Callable[[Path], Any], list[str], bool, list[str]]] = {
    "no such file": (lambda path: None, [], False, ["there is no file 't.csv'"]),
    "a directory": (lambda path: path.mkdir(), [], False, ["'t.csv' is a directory"]),
    "empty": (content(""), [], False, ["'t.csv' is empty"]),
    "header only": (content("x,y\n"), [], False, ["has a header and no rows"]),
    "malformed": (content("x,y\n1,0\n2\n"), [], False, ["line 3"]),
    "not UTF-8": (content(b"x,y\n\xe9,0\n"), [], False, ["is not UTF-8"]),
    "repeated names": (content("x,x,y\n1,2,0\n"), [], False, ["more than one column 'x'"]),
    "no target": (csv_with(x=X, Yes=Y), ["--target", "yes"], False, ["did you mean 'Yes'?"]),
    "constant target": (csv_with(x=X, y=[1] * 24), [], False, ["'1' in every row"]),
    "missing target": (
        csv_with(x=X, y=[*Y[:22], None, None]),
        [],
        False,
        ["no value in 2 rows", "row 23"],
    ),
    "three values": (
        csv_with(x=X, y=["a", "b", "c"] * 8),
        [],
        False,
        ["holds 3 values", "'a'", "'b'", "'c'"],
    ),
    "not evident": (csv_with(x=X, y=["a", "b"] * 12), [], False, ["--positive"]),
    "unknown positive": (GOOD, ["--positive", "7"], False, ["--positive 7 is not a value"]),
    "one positive": (csv_with(x=X, y=[1, *[0] * 23]), [], True, ["only 1 row"]),
    "infinite": (csv_with(x=["inf", *map(str, X[1:])], y=Y), [], True, ["infinite", "row 1"]),
    "not numbers": (
        csv_with(x=["a", "b"] * 12, y=Y),
        ["--numeric", "x"],
        True,
        ["row 1 holds 'a'"],
    ),
    "constant features": (csv_with(x=[1] * 24, y=Y), ["--numeric", "x"], True, ["constant"]),
    "constant column": (csv_with(x=[1] * 24, y=Y), [], False, ["no column is left", "constant"]),
    "unknown column": (GOOD, ["--drop", "xx"], False, ["'xx'", "did you mean 'x'?"]),
    "two kinds": (
        GOOD,
        ["--drop", "x", "--text", "x"],
        False,
        ["named in both --text and --drop;"],
    ),
    "the target as input": (GOOD, ["--numeric", "y"], False, ["is the target"]),
    "no epochs": (GOOD, ["--epochs", "0"], False, ["torchbce: --epochs must be above 0, got 0"]),
    "pos-weight": (GOOD, ["--pos-weight", "much"], False, ["--pos-weight must be 'balanced'"]),
    "pos-weight nan": (GOOD, ["--pos-weight", "nan"], False, ["--pos-weight must be above 0"]),
    "seed": (GOOD, ["--seed", "-1"], False, ["--seed must be from 0"]),
    "no folder": (GOOD, ["--output", "no/m"], False, ["there is no folder 'no'"]),
}


@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["", "json"])
@pytest.mark.parametrize(
    ("make", "arguments", "printed", "words"), BAD_FIT.values(), ids=BAD_FIT.keys()
)
def test_bad_input_to_fit(
    here: Path,
    make: Callable[[Path], Any],
    arguments: list[str],
    printed: bool,
    words: list[str],
    json_: list[str],
) -> None:
    make(here / "t.csv")
    before = names_in(here)
    target = [] if "--target" in arguments else ["--target", "y"]
    command = ["fit", "t.csv", *target, "--output", "m", *FAST, *arguments, *json_]
    refused(torchbce(*command), *words, table_first=printed)
    assert names_in(here) == before
    trace = torchbce(*command, "--debug")
    assert trace.exit_code != 0
    assert trace.exception is not None
    assert not isinstance(trace.exception, SystemExit)


@pytest.mark.parametrize("name", ["t.json", "t", "t.xlsx"])
def test_unknown_format(place: Path, here: Path, name: str) -> None:
    GOOD(here / name)
    refused(torchbce("fit", name, "--target", "y", "--output", "m"), "no known format", "'.csv'")
    refused(torchbce("predict", place / "model", name), "no known format")
    refused(torchbce("predict", place / "model", place / "t.csv", "--output", "p" + name))
    assert names_in(here) == {name}


BAD_TABLES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no such file": (lambda path: None, ["there is no file"]),
    "empty": (content(""), ["is empty"]),
    "a column is missing": (
        lambda p: csv_of(TABLE.drop("stars"), p),
        ["reads column 'stars', which the table does not have"],
    ),
    "another type": (
        lambda p: csv_of(TABLE.with_columns(stars=pl.lit("many")), p),
        ["column 'stars' should hold numbers, but row 1 holds 'many'"],
    ),
    "infinite": (
        lambda p: csv_of(TABLE.with_columns(stars=pl.lit("inf")), p),
        ["'stars' holds an infinite number in row 1"],
    ),
    "malformed": (content("review,place,stars,kind\na,b\n"), ["line 2"]),
}


@pytest.mark.parametrize(("make", "words"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_bad_tables(place: Path, here: Path, make: Callable[[Path], Any], words: list[str]) -> None:
    make(here / "t.csv")
    before = names_in(here)
    refused(torchbce("predict", place / "model", "t.csv"), *words)
    refused(torchbce("predict", place / "model", "t.csv", "--output", "out.parquet"), *words)
    refused(torchbce("evaluate", place / "model", "t.csv"), *words)
    assert names_in(here) == before


@pytest.mark.parametrize("source", ["csv", "parquet"])
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "parquet", "tsv"])
def test_a_table_without_rows_is_an_empty_answer(
    place: Path, here: Path, source: str, ending: str
) -> None:
    with row_writer(here / f"t.{source}", False, False) as writer:
        writer.write(TABLE[:0])
    result = done("predict", place / "model", f"t.{source}", "--output", f"o.{ending}")
    assert result.stdout.startswith("0 rows written to ")
    if ending != "jsonl":
        frame = reading.scan(here / f"o.{ending}", empty=True).frame.collect()
        assert frame.shape == (0, 6)
        assert frame.columns == [*TABLE.columns, "probability", "predicted"]
    assert done("predict", place / "model", f"t.{source}").stdout.startswith("review,place,stars,")
    refused(torchbce("evaluate", place / "model", f"t.{source}"), "has a header and no rows")
    refused(
        torchbce("fit", f"t.{source}", "--target", "kind", "--output", "m"),
        "has a header and no rows",
    )
    with row_writer(here / f"u.{source}", False, False) as writer:
        writer.write(TABLE[:0].drop("stars"))
    refused(torchbce("predict", place / "model", f"u.{source}"), "reads column 'stars'")


def test_a_bad_row_in_a_later_batch(
    place: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is that of the whole table, and the rows before it leave no file."""
    monkeypatch.setattr(reading, "BATCH_ROWS", 5)
    stars = [*(str(v or "") for v in TABLE["stars"][:17]), "many", *[""] * 6]
    csv_of(TABLE.with_columns(stars=pl.Series(stars)), here / "t.csv")
    for output in ("o.csv", "o.parquet", "o.jsonl", "o.csv.gz"):
        result = torchbce("predict", place / "model", "t.csv", "--output", output)
        refused(result, "row 18 holds 'many'")
    assert names_in(here) == {"t.csv"}


def test_evaluate_needs_the_target(place: Path, here: Path) -> None:
    cases = {
        "target column 'kind' is not in the table; did you mean 'Kind'?": TABLE.rename(
            {"kind": "Kind"}
        ),
        "holds 'maybe' in row 24": TABLE.with_columns(kind=pl.Series(["yes"] * 23 + ["maybe"])),
        "the first is row 24": TABLE.with_columns(kind=pl.Series(["yes"] * 23 + [None])),
    }
    for words, table in cases.items():
        refused(torchbce("evaluate", place / "model", csv_of(table, here / "t.csv")), words)


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (["0.5", "1.5"], "'p' holds 1.5 in row 2; expected probabilities in [0, 1]"),
        (["-0.1", "1"], "'p' holds -0.1 in row 1"),
        (["0.5", ""], "'p' holds no value in row 2"),
        (["0.5", "high"], "row 2 holds 'high'"),
        (["0.5", "inf"], "infinite number in row 2"),
    ],
)
def test_predictions_that_are_not_probabilities(here: Path, p: list[str], words: str) -> None:
    csv_with(p=p, y=[0, 1])(here / "p.csv")
    base = ["evaluate", "--predictions", "p.csv", "--target", "y", "--probability"]
    refused(torchbce(*base, "p"), words)
    refused(torchbce(*base, "P"), "column 'P' is not in the table; did you mean 'p'?")


def test_the_model_directory_is_damaged(place: Path, here: Path) -> None:
    refused(torchbce("predict", "no", place / "t.csv"), "there is no model directory 'no'")
    card = json.loads((place / "model" / CARD).read_bytes())
    weights = (place / "model" / TENSORS).read_bytes()
    cases = {
        "it has no model.json": (None, weights),
        "it has no model.safetensors": (card, None),
        "model.safetensors' is damaged": (card, weights[:-9]),
        "from a newer torchbce": ({**card, "format": FORMAT + 1}, weights),
        "model.json' is damaged": ({**card, "columns": 7}, weights),
        "is damaged: tensor 'linear.weight' must be": (
            {**card, "columns": card["columns"][:1]},
            weights,
        ),
        "do not fit model.json": ({**card, "models": {}}, weights),
    }
    for number, (words, (json_, tensors)) in enumerate(cases.items()):
        directory = here / f"m{number}"
        directory.mkdir()
        if json_ is not None:
            (directory / CARD).write_text(json.dumps(json_))
        if tensors is not None:
            (directory / TENSORS).write_bytes(tensors)
        refused(torchbce("predict", directory, place / "t.csv", "--output", "o.csv"), words)
        refused(torchbce("evaluate", directory, place / "t.csv"), words)
    assert "o.csv" not in names_in(here)


def test_outputs_that_exist(place: Path, here: Path) -> None:
    csv_of(TABLE, here / "t.csv")
    (here / "m").mkdir()
    (here / "m" / "thesis.txt").write_text("precious")
    (here / "o.csv").write_text("precious")
    fit = ["fit", "t.csv", "--target", "kind", "--output", "m"]
    for more in ((), ("--overwrite",)):
        refused(
            torchbce(*fit, *more),
            "'m' is not a model directory, so --overwrite does not",
            "another --output",
        )
    predict = ["predict", place / "model", "t.csv", "--output", "o.csv"]
    refused(torchbce(*predict), "'o.csv' exists; pass --overwrite to replace")
    assert (here / "m" / "thesis.txt").read_text() == "precious"
    assert (here / "o.csv").read_text() == "precious"
    done(*predict, "--overwrite")
    assert names_in(here) == {"t.csv", "m", "o.csv"}


def test_columns_of_the_names_that_predict_appends(place: Path, here: Path) -> None:
    """A feature may have them: the names of the appended columns give way, and `fit` says so."""
    for name, other in (("probability", "predicted"), ("predicted", "probability")):
        table = TABLE.rename({"stars": name})
        csv_of(table, here / "t.csv")
        said = f"torchbce: the table has column '{name}': predict appends"
        fitted = done(*("fit", "t.csv", "--target", "kind", "--output", "m", "--overwrite", *FAST))
        assert said in fitted.stderr
        result = done("predict", "m", "t.csv", "--output", "o.csv", "--overwrite")
        assert said in result.stderr
        assert f"'{name}_2'" in result.stderr
        got = read(here / "o.csv")
        assert set(got.columns) == {*table.columns, f"{name}_2", other}
        assert got.select(table.columns).equals(read(here / "t.csv"))
        # Once more, on its own output.
        done("predict", "m", "o.csv", "--output", "p.csv", "--overwrite")
        assert {f"{name}_3", f"{other}_2"} <= set(read(here / "p.csv").columns)
    result = done("predict", "m", "t.csv", "--prefix", "our_", "--json")
    row = json.loads(result.stdout.splitlines()[0])
    assert list(row)[-2:] == ["our_probability", "our_predicted"]
    assert result.stderr == ""


def test_contradictory_arguments(place: Path) -> None:
    model, table = place / "model", place / "t.csv"
    refused(torchbce("predict", model), "give either TABLE or --text")
    refused(torchbce("predict", model, table, "--text", "x"), "give either TABLE or --text")
    refused(torchbce("evaluate", model), "give DIR and TABLE, or --predictions FILE")
    refused(torchbce("evaluate"), "give DIR and TABLE, or --predictions FILE")
    refused(torchbce("evaluate", model, table, "--target", "kind"), "go with --predictions")
    refused(torchbce("evaluate", "--predictions", table), "--target COLUMN and --probability")
    for wrong in (
        ["fit"],
        ["fit", table],
        ["fit", "--modle"],
        ["fot"],
        ["fit", "a", "--epochs", "x"],
    ):
        result = torchbce(*wrong)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "Traceback" not in result.stderr


def test_an_internal_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise AssertionError("not as planned")

    monkeypatch.setattr(files, "evaluate_file", broken)
    result = torchbce("evaluate", place / "model", place / "t.csv")
    assert result.exit_code == 1
    assert "internal error: AssertionError: not as planned" in result.stderr
    assert "--debug" in result.stderr
    with pytest.raises(AssertionError, match="not as planned"):
        raise (
            torchbce("evaluate", place / "model", place / "t.csv", "--debug").exception or Exception
        )
    monkeypatch.setattr(files, "evaluate_file", lambda *_: (_ for _ in ()).throw(MemoryError))
    refused(torchbce("evaluate", place / "model", place / "t.csv"), "out of memory")


def test_the_table_of_choices_counts_plain_numbers(here: Path) -> None:
    wide = {f"n{i}": [(i + j) % 7 + 0.5 for j in range(24)] for i in range(1, 60)}
    words = {f"w{i}": ["a", "b", "b", "a"] * 6 for i in range(12)}
    price = {"price": [f"${j % 5}" for j in range(24)]}
    csv_of(pl.DataFrame({**wide, **words, **price, "y": [0, 1] * 12}), here / "t.csv")
    shown = done("fit", "t.csv", "--target", "y", "--output", "m", *FAST).stderr
    assert "price" in shown
    assert re.search(r"^ ?\(59 more\) +numeric", shown, re.MULTILINE)
    assert re.search(r"^ ?\(4 more\) +categorical", shown, re.MULTILINE)
    assert re.search(r"^ ?w7 +categorical", shown, re.MULTILINE)
    assert "w8" not in shown
    assert "n1 " not in shown


def test_names_are_not_markup(here: Path) -> None:
    table = TABLE.rename({"place": "[red]place[/red]", "kind": "[/b]"})
    csv_of(table, here / "t.csv")
    result = done("fit", "t.csv", "--target", "[/b]", "--output", "m", *FAST)
    assert "[red]place[/red]" in result.stderr
    assert re.search(r"^ ?\[/b\] +target", result.stderr, re.MULTILINE)


# --------------------------------------------------------------------------------------- processes


def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*PROCESS, *map(str, arguments)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        **options,
    )


def test_commands_in_separate_processes(place: Path, here: Path) -> None:
    """Nothing but the results on stdout, and nothing from the libraries on stderr."""
    fit = ["fit", place / "t.csv", "--target", "kind", "--output", "m", "--json", *FAST]
    good, bad = start(*fit), start("predict", place / "model", place / "no.csv")
    out, err = good.communicate(timeout=60)
    assert good.returncode == 0
    assert json.loads(out)["output"] == "m"
    shown = r"^( ?(column|review|place|stars|kind) |[ ─]*$|linear: L2 .*, held-out loss )"
    assert [line for line in err.splitlines() if not re.match(shown, line)] == []

    out, err = bad.communicate(timeout=60)
    assert (bad.returncode, out) == (2, "")
    assert re.fullmatch(r"torchbce: there is no file '.*no\.csv'\n", err)


@pytest.mark.slow
def test_a_reader_that_closes_the_pipe(place: Path, here: Path) -> None:
    long = pl.concat([TABLE] * 2000)
    csv_of(long, here / "long.csv")
    process = start("predict", place / "model", "long.csv")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("review,place,stars,kind,probability")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_control_c(here: Path) -> None:
    csv_of(numbers(3000), here / "t.csv")
    process = start(
        *("fit", "t.csv", "--target", "y", "--output", "m", "--epochs", "10000"),
        *("--patience", "9999"),
        stdout=subprocess.DEVNULL,
    )
    assert process.stderr is not None
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process.stderr as stream:
        while " target " not in (line := stream.readline()):
            assert line, "it ended, or was ended, before it chose the columns"
        time.sleep(2)  # it trains by now
        process.send_signal(signal.SIGINT)
        rest = stream.read().splitlines()
    watchdog.cancel()
    assert process.wait(timeout=30) == 130
    assert rest[-1] == "torchbce: interrupted"
    assert not any("Traceback" in line for line in rest)
    assert names_in(here) == {"t.csv"}


@pytest.mark.slow
def test_a_progress_bar_on_a_terminal(here: Path) -> None:
    csv_of(numbers(2400), here / "t.csv")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROCESS, "fit", "t.csv", "--target", "y", "--output", "m", "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux says that nobody holds the other end
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert "\x1b[" in text
    for model, setting in (("linear", r"L2 [\d.]+"), ("trees", r"\d+ trees")):
        assert re.search(rf"{model}.*━.*\d+%.*{setting}: .*0\.\d{{4}}", text)
    assert "held-out loss" not in text
    assert b"\x1b" not in out
    assert json.loads(out)["rows"] == 2400


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["typer", "polars", "sklearn"])
def test_a_library_is_missing(here: Path, missing: str) -> None:
    """Only `pip install torchbce`: a sentence says what to install."""
    csv_of(numbers(40), here / "t.csv")
    script = f"""
import sys
sys.modules[{missing!r}] = None
from torchbce.cli import main
sys.argv = ["torchbce", "fit", "t.csv", "--target", "y", "--output", "m"]
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert missing in ended.stderr
    assert "pip install 'torchbce[cli]'" in ended.stderr


@pytest.mark.slow
def test_a_full_disk_for_predictions(place: Path, here: Path) -> None:
    csv_of(pl.concat([TABLE] * 50), here / "t.csv")
    script = """
import resource, signal, sys
from torchbce.cli import main
import polars, sklearn, torch, torchbce.classifier
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.argv = ["torchbce", *sys.argv[1:]]
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, "predict", place / "model", "t.csv", "--output", "o.csv"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"torchbce: .*File too large.*\n", ended.stderr)
    assert names_in(here) == {"t.csv"}


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "parquet"])
def test_a_full_disk_at_the_end(
    place: Path, here: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (here / f"o.{ending}").write_text("precious")
    result = torchbce(
        "predict", place / "model", place / "t.csv", "--output", f"o.{ending}", "--overwrite"
    )
    refused(result, f"cannot write 'o.{ending}': No space left on device")
    refused(
        torchbce("fit", place / "t.csv", "--target", "kind", "--output", "m", *FAST),
        "cannot write",
        "No space left on device",
        table_first=True,
    )
    assert names_in(here) == {f"o.{ending}"}
    assert (here / f"o.{ending}").read_text() == "precious"
