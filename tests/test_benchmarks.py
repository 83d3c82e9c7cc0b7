"""What the benchmarks share: times, tables, places in documents, processes."""

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of benchmarks/common by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return lambda name: importlib.import_module(f"common.{name}")


def test_contenders_are_timed_in_turn(common: Any) -> None:
    timing = common("timing")
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = timing.interleaved_medians(calls, timing.Rounds(fewest=3, most=3, seconds=0.0))
    assert order == list("ababab")
    assert seconds.keys() == calls.keys()
    assert all(value >= 0 for value in seconds.values())


def test_rounds_stop_at_the_time_limit(common: Any) -> None:
    timing = common("timing")
    count = 0

    def call() -> None:
        nonlocal count
        count += 1

    timing.interleaved_medians({"a": call}, timing.Rounds(fewest=2, most=1000, seconds=0.0))
    assert count == 2
    # Two calls to find the repetitions, then samples of many calls.
    timing.interleaved_medians({"a": call}, timing.Rounds(3, 3, 0.0), sample_seconds=1e-3)
    assert count > 2 + 2 + 3


def test_blocks_are_inserted_between_their_markers(
    common: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    markdown = common("markdown")
    monkeypatch.setattr(markdown, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n")
    table = markdown.table(["a", "b"], [["1", r"\2"]])
    markdown.insert(markdown.Block("x", "page.md", table))
    assert table == "| a | b |\n| --- | --- |\n| 1 | \\2 |\n"
    assert page.read_text() == f"before\n<!-- x -->\n{table}<!-- end of x -->\nafter\n"
    with pytest.raises(ValueError, match="has 0 places for 'y'"):
        markdown.insert(markdown.Block("y", "page.md", table))


def test_results_are_read_as_they_were_written(
    common: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = common("results")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    found = {"a": {"numbers": [1, 2.5e-9, -3.0], "text": ["x [ 1 ]"], "none": [None, []]}}
    results.save("name", found)
    assert results.load("name") == found
    assert "[1, 2.5e-09, -3.0]" in (tmp_path / "name.json").read_text()
    assert results.load("other") == {}


def test_a_process_of_its_own_has_memory_of_its_own(common: Any) -> None:
    processes, memory = common("processes"), common("memory")
    peak = processes.in_process(memory.peak_after_importing, "json")
    assert 0 < peak < memory.peak()
