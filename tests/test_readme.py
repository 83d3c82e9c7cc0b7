"""The README says what the code does: snippets, the session, the tables."""

import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those of all benchmarks but the GPU's."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    found: list[Any] = importlib.import_module("report").REPORTS
    return found


def load(report: Any) -> dict[str, Any]:
    """The measurements of a report."""
    found: dict[str, Any] = json.loads((RESULTS / f"{report.name}.json").read_text())
    return found


def blocks(reports: list[Any]) -> list[Any]:
    return [block for report in reports for block in report.blocks(load(report))]


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
    monkeypatch.syspath_prepend(BENCHMARKS)
    session = importlib.import_module("session").session()
    shown = _between("session")
    # Seconds differ from run to run, and the last digit of a figure between processors.
    number = re.compile(r"\d+\.\d+")
    seconds = re.compile(
        r"\d+\.\d s$|(?<=\d\.\d\d) +\d+\.\d(?=  \d+: )",  # at the end, and of each model
        re.MULTILINE,
    )
    session, shown = (seconds.sub("", text) for text in (session, shown))
    assert number.split(session) == number.split(shown)
    for printed, expected in zip(number.findall(session), number.findall(shown), strict=True):
        assert float(printed) == pytest.approx(float(expected), abs=2e-3)


def test_every_table_is_written_from_the_measurements(reports: list[Any]) -> None:
    found = {block.marker: block for block in blocks(reports)}
    assert len(found) == len(blocks(reports)) - 1  # `linear_summary`, also of delicious
    for block in blocks(reports):
        text = (ROOT / block.document).read_text()
        assert _between(block.marker, text) == block.content, block.marker
    written_elsewhere = {"session", "gpu", "gpu_code", "gpu_host"}
    shown = {marker for page in PAGES for marker in re.findall("<!-- end of (.*?) -->", page)}
    assert shown == found.keys() | written_elsewhere


def test_every_plot_is_drawn_from_the_measurements(
    reports: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    plots = importlib.import_module("common.plots")
    drawn = {plot.file: plot for report in reports for plot in report.pictures(load(report))}
    for plot in drawn.values():
        assert plots.is_current(plot), f"{plot.file}: run python benchmarks/report.py"
    shown = {path for page in PAGES for path in re.findall(r"!\[.*?\]\((.*?)\)", page)}
    assert {Path(path).name for path in shown} == drawn.keys()
    assert {path.name for path in RESULTS.glob("*.png")} == drawn.keys()


def test_every_measurement_is_shown(reports: list[Any]) -> None:
    names = {path.stem for path in RESULTS.glob("*.json") if not path.stem.startswith("gpu")}
    assert names == {report.name for report in reports} | {"plots"}


def test_the_tables_of_the_gpu_are_what_was_measured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for block in importlib.import_module("gpu_report").blocks():
        assert _between(block.marker, (ROOT / block.document).read_text()) == block.content


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def _between(name: str, document: str = README) -> str:
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- end of {name} -->", document, re.DOTALL)
    assert found is not None
    return found[1]
