"""The README and the pages say what was measured: tables, the session, plots."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import pages
from pages import DOCS, ROOT

BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
README = (ROOT / "README.md").read_text()
PAGES = [page.read_text() for page in pages.PAGES]


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


def test_the_sessions_are_what_the_demo_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    session = importlib.import_module("session")
    # Seconds differ from run to run, and the last digit of a figure between processors.
    number = re.compile(r"\d+\.\d+")
    seconds = re.compile(
        r"\d+\.\d s$|(?<=\d\.\d\d) +\d+\.\d(?=  \d+: )",  # at the end, and of each model
        re.MULTILINE,
    )
    for block in session.blocks(session.session()):
        shown = _between(block.marker, (ROOT / block.document).read_text())
        printed, shown = (seconds.sub("", text) for text in (block.content, shown))
        assert number.split(printed) == number.split(shown)
        for value, expected in zip(number.findall(printed), number.findall(shown), strict=True):
            assert float(value) == pytest.approx(float(expected), abs=2e-3)


def test_every_table_is_written_from_the_measurements(reports: list[Any]) -> None:
    found = {block.marker: block for block in blocks(reports)}
    assert len(found) == len(blocks(reports)) - 1  # `linear_summary`, also of delicious
    for block in blocks(reports):
        text = (ROOT / block.document).read_text()
        assert _between(block.marker, text) == block.content, block.marker
    written_elsewhere = {"session", "session-short", "gpu", "gpu_code", "gpu_host"}
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
    shown = {path for page in PAGES for path in re.findall(r"!\[[^]]*\]\((.*?)\)", page)}
    pictures = {*drawn, "report.png"}  # by tools/report_picture.py
    assert {Path(path).name for path in shown} == pictures
    assert {path.name for path in (DOCS / "images").glob("*.png")} == pictures


def test_every_measurement_is_shown(reports: list[Any]) -> None:
    names = {path.stem for path in RESULTS.glob("*.json") if not path.stem.startswith("gpu")}
    assert names == {report.name for report in reports} | {"plots"}


def test_the_tables_of_the_gpu_are_what_was_measured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for block in importlib.import_module("gpu_report").blocks():
        assert _between(block.marker, (ROOT / block.document).read_text()) == block.content


def test_links_of_the_readme_work_on_the_package_index() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        file = pages.target(link)
        assert file is not None, f"{link}: a link of the README is absolute"
        assert file.exists(), link


def test_the_ends_are_what_the_losses_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables and plots of confident predictions, computed again."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    ends = importlib.import_module("ends")
    shown = json.loads((RESULTS / "ends.json").read_text())
    for computed, expected in zip(ends.measure_values(), shown["values"], strict=True):
        for what in ("loss", "gradient"):
            for name, value in computed[what].items():
                # PyTorch's vectors round exp differently on other processors: by one step of 1 + e.
                tolerance = 1e-2 if name.startswith("torchbce") else 0.5
                assert value == pytest.approx(expected[what][name], rel=tolerance), name
    for name, zero in ends.measure_zero().items():
        assert zero == pytest.approx(shown["zero"][name], abs=0.5), name


def _between(name: str, document: str = README) -> str:
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- end of {name} -->", document, re.DOTALL)
    assert found is not None
    return found[1]
