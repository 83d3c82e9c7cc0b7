"""The README says what the code does: snippets, the session, the tables."""

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_snippets_print_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 4
    checked = 0
    for snippet in snippets:
        lines = snippet.splitlines()
        for statement in ast.parse(snippet).body:
            code = ast.unparse(statement)
            comment = lines[statement.end_lineno] if statement.end_lineno < len(lines) else ""
            if not comment.startswith("# "):
                exec(code, names)
                continue
            try:
                printed = repr(eval(code, names))
            except ValueError as error:
                printed = f"{type(error).__name__}: {error}"
            assert printed == comment.removeprefix("# ")
            checked += 1
    assert checked == 6


def test_the_session_is_what_the_demo_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    session = importlib.import_module("session").session()
    shown = _between("session")
    # Seconds differ from run to run, and the last digit of a figure between processors.
    number = re.compile(r"\d+\.\d+")
    without_seconds = re.compile(r"\d+\.\d s$", re.MULTILINE)
    session, shown = (without_seconds.sub("", text) for text in (session, shown))
    assert number.split(session) == number.split(shown)
    for printed, expected in zip(number.findall(session), number.findall(shown), strict=True):
        assert float(printed) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("classifier", "README.md"),
        ("cost", "README.md"),
        ("kernels", "README.md"),
        ("accuracy", "docs/losses.md"),
        ("exact", "docs/losses.md"),
        ("linear", "docs/linear.md"),
        ("linear_reach", "docs/linear.md"),
        ("linear_million", "docs/linear.md"),
        ("linear_error", "docs/linear.md"),
        ("delicious", "docs/linear.md"),
        ("pairwise", "docs/linear.md"),
        ("gpu_code", "docs/gpu.md"),
    ],
)
def test_tables_are_those_that_were_measured(name: str, document: str) -> None:
    document = (ROOT / document).read_text()
    assert _between(name, document) == (ROOT / "benchmarks" / "results" / f"{name}.md").read_text()


def test_the_tables_of_the_kernels_are_those_that_were_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    kernels = importlib.import_module("kernels")
    results = importlib.import_module("_results").load("kernels")
    document = (ROOT / "docs" / "kernels.md").read_text()
    assert _between("kernels-time", document) == kernels.time_table(results["time"])
    assert _between("kernels-memory", document) == kernels.memory_table(results["memory"])
    assert _between("kernels") == kernels.summary(results)


def test_the_table_of_the_gpu_is_what_was_measured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    goals = importlib.import_module("gpu").goals()
    assert _between("gpu", (ROOT / "docs" / "gpu.md").read_text()) == goals


def test_the_summary_of_many_labels_is_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert _between("linear_summary") == importlib.import_module("linear").summary()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def _between(name: str, document: str = README) -> str:
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- end of {name} -->", document, re.DOTALL)
    assert found is not None
    return found[1]
