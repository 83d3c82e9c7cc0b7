"""The benchmark of the classifier: splits, scores, goals, and one trial of all of it."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of benchmarks/ by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def rows(count: int = 120) -> pl.DataFrame:
    """Numbers with a missing one, a category, a text, and a label that depends on the number."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=count)
    label = (x + rng.normal(size=count) > 0).astype(int)
    words = np.array(["dull", "warm"])
    table = pl.DataFrame(
        {
            "size": [None, *x[1:].tolist()],
            "kind": rng.choice(["a", "b"], size=count),
            "text": [f"{words[y]} film {k % 7}" for k, y in enumerate(label)],
            "label": label,
        }
    )
    return table.with_columns(pl.col("size").round(3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, columns in (("mammography", ["size", "kind"]), ("sms_spam", ["text"])):
        (tmp_path / name).mkdir()
        rows(420).select(*columns, "label").write_csv(tmp_path / name / "data.csv")
    return tmp_path


def test_folds_hold_out_every_row_once(module: Any, folder: Path) -> None:
    classifier = module("classifier")
    data = classifier.DATA_SETS["sms_spam"]
    tables = list(classifier.splits(folder / "sms_spam", data, False))
    assert len(tables) == 10
    whole = rows(420)["text"].sort()
    assert pl.concat([scored for _, scored in tables])["text"].sort().equals(whole)
    for fitted, scored in tables:
        assert len(fitted) + len(scored) == 420


def test_a_random_split_is_stratified(module: Any, tmp_path: Path) -> None:
    classifier = module("classifier")
    rows(400).write_parquet(tmp_path / "data.parquet")
    data = classifier.DataSet("table", "data.parquet", rows=(200, 100))
    [(fitted, scored)] = classifier.splits(tmp_path, data, False)
    assert (len(fitted), len(scored)) == (200, 100)
    share = rows(400)["label"].mean()
    assert fitted["label"].mean() == pytest.approx(share, abs=1 / 200)
    assert scored["label"].mean() == pytest.approx(share, abs=1 / 100)


def test_matrices_have_numbers_then_codes_that_mean_the_same(module: Any, tmp_path: Path) -> None:
    contenders = module("classifier_contenders")
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    pl.DataFrame({"k": ["b", "a", None], "x": [1.5, None, 3.0], "label": [0, 1, 0]}).write_csv(
        train
    )
    pl.DataFrame({"k": ["a", "c"], "x": [2.0, 4.0], "label": [0, 1]}).write_csv(test)
    matrices = contenders.Matrices(contenders.Task(train, test))
    np.testing.assert_array_equal(matrices.train, [[1.5, 1], [np.nan, 0], [3.0, np.nan]])
    np.testing.assert_array_equal(matrices.test(), [[2.0, 0], [4.0, np.nan]])
    assert matrices.coded == [1]
    dropped = contenders.Matrices(contenders.Task(train, test, ("k",)))
    assert dropped.train.shape == (3, 1)


def test_summary_pools_the_calibration_error_and_averages_the_rest(module: Any) -> None:
    classifier = module("classifier")
    cost = {"cpu_seconds": 1.0, "peak_bytes": 5.0, "predict_seconds": 1.0}
    more = {"cpu_seconds": 3.0, "peak_bytes": 4.0, "predict_seconds": 1.0}
    # In one fold all rows are positive, in the other none: p = 1/2 is right for both together.
    folds = [
        classifier.Scored(cost, np.zeros(4), np.ones(4)),
        classifier.Scored(more, np.zeros(4), np.zeros(4)),
    ]
    mixed = np.array([0.0, 1.0, 0.0, 1.0])
    found = classifier.summary([classifier.Scored(cost, np.zeros(4), mixed) for _ in range(2)])
    assert found["log_loss"] == pytest.approx(np.log(2))
    assert classifier.evaluate_logits(folds[0].logits, folds[0].targets).ece == 0.5
    targets = [np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0])]
    found = classifier.summary(
        [classifier.Scored(c, np.zeros(4), y) for c, y in zip((cost, more), targets, strict=True)]
    )
    assert found["ece"] == 0.0
    assert (found["cpu_seconds"], found["peak_bytes"]) == (2.0, 5.0)
    assert found["predicted_rows_per_second"] == 4.0


def figures(log_loss: float, cpu_seconds: float) -> dict[str, float]:
    return {
        "log_loss": log_loss,
        "roc_auc": 0.9,
        "average_precision": 0.8,
        "ece": 0.01,
        "accuracy": 0.95,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": 2.0**29,
        "predicted_rows_per_second": 20_000.0,
    }


def found(name: str = "adult_income") -> dict[str, Any]:
    return {
        name: {
            "how": "train to test",
            "machine": {"processor": "P", "cores": 2, "threads": 2, "python": "3", "torch": "2"},
            "classifiers": {
                "torchbce": figures(0.275, 20.0),
                "torchbce, effort low": figures(0.28, 5.0),
                "torchbce, linear": figures(0.282, 9.0),
                "LightGBM": figures(0.27504, 3.0),
                "TF-IDF + logistic regression": figures(0.4, 1.0),
                "TF-IDF + logistic regression, C = 10": figures(0.3, 2.0),
            },
        }
    }


def test_goals_say_what_is_reached(module: Any) -> None:
    report = module("classifier_report")
    verdicts = {
        row[0].removeprefix("adult_income: "): row[3]
        for row in report.goals("adult_income", found()["adult_income"]["classifiers"])
    }
    assert verdicts == {
        "log loss": "yes",
        "log loss, aim": "**no**",
        "ECE": "yes",
        "CPU time": "yes",
        "CPU time of `--model linear`": "**no**",
        "CPU time of `--effort low`, as a share of the default's": "**no**",
        "predicted rows a minute, reading included": "yes",
    }
    classifiers = found("rt_polarity")["rt_polarity"]["classifiers"]
    assert any("accuracy" in row[0] for row in report.goals("rt_polarity", classifiers))


def test_tables_show_the_best_in_bold(module: Any) -> None:
    report = module("classifier_report")
    # Equal in the digits that are shown: both are best.
    short = report.short_table(found())
    assert short.count("**0.2750**") == 2
    assert "0.3000, 2.0 s" in short
    assert "0.4000" not in short
    assert "| - |" in short
    whole = report.whole_table(found())
    assert "| adult_income, train to test | torchbce | **0.2750** |" in whole
    assert "512 |" in whole
    assert "2 cores, 2 threads" in whole


def test_the_plot_knows_every_classifier(module: Any) -> None:
    report, contenders = module("classifier_report"), module("classifier_contenders")
    assert report.LOOKS.keys() == contenders.CONTENDERS.keys()
    assert {name for names in report.SHORT.values() for name in names} == report.LOOKS.keys()
    assert report.GOALS.keys() == module("classifier").DATA_SETS.keys()
    drawn = report.plot(found())
    chart = drawn.chart(pl.DataFrame(drawn.rows)).to_dict()
    assert chart["encoding"]["shape"]["scale"]["domain"][0] == "torchbce"


def test_one_fit_in_a_process_of_its_own(module: Any, folder: Path) -> None:
    """The cheapest of the classifiers: its costs are its own, its logits those of the test rows."""
    classifier = module("classifier")
    data = classifier.DATA_SETS["mammography"]
    tables = list(classifier.splits(folder / "mammography", data, True))[:1]
    [scored] = classifier.scores("logistic regression", tables, data, False)
    assert scored.logits.shape == scored.targets.shape == (len(tables[0][1]),)
    assert scored.cost["cpu_seconds"] > 0.05
    # torch alone takes more than 200 MiB; this process has imported it, that one has not.
    assert scored.cost["peak_bytes"] < module("common.memory").peak()
    assert classifier.evaluate_logits(scored.logits, scored.targets).relative_log_loss < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mammography", "sms_spam"])
def test_a_quick_run(folder: Path, name: str) -> None:
    saved = (BENCHMARKS / "results" / "classifier.json").read_text()
    command = [sys.executable, str(BENCHMARKS / "classifier.py"), name, "rt_polarity", "--quick"]
    done = subprocess.run(
        [*command, "--data", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rt_polarity is not measured" in done.stdout
    assert f"{name}, 10-fold" in done.stdout
    assert (BENCHMARKS / "results" / "classifier.json").read_text() == saved
