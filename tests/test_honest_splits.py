"""Groups that no split divides, rows that are later than those learned from, and what is said."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from making import csv_of, done, numbers, torchbce
from torchbce.calibration.choosing import cross_validated
from torchbce.classifier import InputError, TrainingOptions, fit
from torchbce.classifier.columns.inference import Overrides, infer_columns
from torchbce.classifier.columns.target import choose_target
from torchbce.classifier.decisions.held_out import chosen_at
from torchbce.classifier.models.parts import MANY_GROUPS, Parts, make_parts
from torchbce.classifier.quality.splits import find_cases, find_repeats

LINEAR = TrainingOptions(model="linear", effort="low")


def outcomes(rows: int, groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets and groups, which have targets of their own."""
    random = np.random.default_rng(seed)
    group = random.integers(0, groups, rows)
    rate = random.random(groups)[group]
    return (random.random(rows) < rate).astype(np.float64), group


def disjoint(values: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    return not np.intersect1d(values[one], values[other]).size


def check_honest(parts: Parts) -> None:
    """No row is judged by what was chosen on it, nor twice."""
    held_out = parts.held_out
    judged: list[int] = []
    for choosing, part in parts.honest:
        assert disjoint(held_out, choosing, part)
        judged += np.unique(held_out[part]).tolist()
    assert len(judged) == len(set(judged)) == len(np.unique(held_out[parts.judged]))


# -------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(("rows", "groups"), [(60, 2), (300, 17), (4000, 40), (4000, 1500)])
@pytest.mark.parametrize("effort", ["low", "medium"])
def test_no_part_divides_a_group(rows: int, groups: int, effort: str) -> None:
    y, group = outcomes(rows, groups)
    assert (groups > MANY_GROUPS) == (rows == 4000 and groups == 1500)
    parts = make_parts(y, 10_000, 0, effort, groups=group)
    assert parts.kind == "group"
    for train, held_out in parts.pairs:
        assert len(train) + len(held_out) == rows
        assert disjoint(group, train, held_out)
        assert 0 < y[train].sum() < len(train)
        assert len(held_out) < (rows * 0.75 if groups == 2 else rows / 3)
    held_out = parts.held_out
    for choosing, part in parts.honest:
        if len(np.unique(group[held_out])) > 1:
            assert disjoint(group, held_out[choosing], held_out[part])
    check_honest(parts)


def test_calibration_and_thresholds_do_not_divide_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from torchbce.calibration import choosing

    random = np.random.default_rng(0)
    group = random.integers(0, 30, 600)
    z = torch.from_numpy(random.normal(size=600))
    y, ones = torch.from_numpy((random.random(600) < 0.5).astype(float)), torch.ones(600).double()
    fitted: list[set[float]] = []

    class Recorded(choosing.CLASSES["platt"]):  # type: ignore[misc, name-defined]
        def _fit(self, z: torch.Tensor, *more: torch.Tensor) -> None:
            fitted.append(set(z.tolist()))
            super()._fit(z, *more)

    monkeypatch.setitem(choosing.CLASSES, "platt", Recorded)
    cross_validated(z, y, ones, ["platt"], group)
    assert len(fitted) == choosing.FOLDS
    of_group = dict(zip(z.tolist(), group.tolist(), strict=True))
    for seen in fitted:
        unseen = set(z.tolist()) - seen
        assert not {of_group[one] for one in seen} & {of_group[one] for one in unseen}

    chosen = chosen_at("f1", z.numpy(), y.numpy(), None, groups=group)
    assert isinstance(chosen.honest, np.ndarray)
    assert len(np.unique(chosen.honest)) > 1
    for one in range(30):
        assert len(np.unique(chosen.honest[group == one])) == 1


def cases(rows: int = 900, groups: int = 90, seed: int = 0) -> pl.DataFrame:
    """Cases of several rows with the same target, and a number that tells the case, not the target.

    Rows of known cases are easy, and those of new ones a matter of luck.
    """
    random = np.random.default_rng(seed)
    case = np.arange(rows) % groups
    y = (random.random(groups) < 0.5)[case]
    mark = random.permutation(groups)[case] + 0.01 * random.normal(size=rows)
    return pl.DataFrame({"case": [f"c{i}" for i in case], "mark": mark, "y": y.astype(int)})


def test_figures_of_new_groups() -> None:
    table = cases()
    options = TrainingOptions(model="trees", effort="low")
    known = fit(table.drop("case"), "y", options=options).card
    new = fit(table, "y", group="case", options=options).card
    assert known.held_out.roc_auc is not None
    assert known.held_out.roc_auc > 0.9
    assert new.held_out.roc_auc is not None
    assert new.held_out.roc_auc < 0.7
    assert new.dropped == {"case": "the group of each row"}
    assert new.split is not None
    assert (new.split.kind, new.split.figures) == ("group", 900)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a"] * 40, r"'g' holds 'a' in every row; at least 2 groups are needed"),
        (["a", None] * 20, r"'g' has no value in 20 rows, the first is row 2"),
        (["a", "b"] * 20, r"all positive rows are in one group; at least 2 groups with positive"),
    ],
)
def test_wrong_groups(values: list[str | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(numbers(40).with_columns(g=pl.Series(values)), "y", group="g")
    with pytest.raises(InputError, match="group column 'h' is not in the table"):
        fit(numbers(40), "y", group="h")


# --------------------------------------------------------------------------------------- times


@pytest.mark.parametrize("rows", [50, 400, 3000])
@pytest.mark.parametrize("effort", ["low", "medium"])
def test_rows_held_out_are_later(rows: int, effort: str) -> None:
    random = np.random.default_rng(0)
    y, times = (random.random(rows) < 0.4).astype(float), random.integers(0, rows, rows) / 3
    parts = make_parts(y, 10_000, 0, effort, times=times)
    assert parts.kind == "time"
    # Of 3,000 rows "low" holds out four parts of a tenth, with 1,000 rows together.
    assert len(parts.pairs) == (4 if effort == "low" and rows >= 1000 else 5)
    latest = parts.pairs[0][1]
    assert len(latest) == pytest.approx(rows / 10, abs=5)
    assert times[latest].min() > np.delete(times, latest).max()
    for train, held_out in parts.pairs:
        assert times[train].max() < times[held_out].min()
        # An expanding window: all rows before it.
        assert len(train) == (times < times[held_out].min()).sum()
    check_honest(parts)
    if len(parts.pairs) > 1:
        held_out = parts.held_out
        for choosing, part in parts.honest:
            assert times[held_out[choosing]].max() < times[held_out[part]].min()
        assert not parts.judged[-len(parts.pairs[-1][1]) :].any()


def test_rows_of_one_time_are_not_divided() -> None:
    y = np.arange(90) % 2 * 1.0
    for times in (np.repeat([1.0, 2.0], [80, 10]), np.repeat([1.0, 2.0, 5.0], 30)):
        for train, held_out in make_parts(y, 100, 0, times=times).pairs:
            assert disjoint(times, train, held_out)


def test_groups_and_times() -> None:
    y, group = outcomes(800, 60)
    times = np.arange(800.0)
    for train, held_out in make_parts(y, 100, 0, groups=group, times=times).pairs:
        assert disjoint(group, train, held_out)
        assert times[train].max() < times[held_out].min()


def test_windows_without_both_values_are_left_out() -> None:
    """There is nothing to learn from before the first positive."""
    y, times = (np.arange(100) >= 75) * (np.arange(100) % 2) * 1.0, np.arange(100.0)
    parts = make_parts(y, 100, 0, times=times)
    assert len(parts.pairs) == 2
    with pytest.raises(InputError, match=r"the rows that are earlier .* not of both target values"):
        make_parts((np.arange(100) >= 90) * 1.0, 100, 0, times=times)
    with pytest.raises(InputError, match="latest rows, which are held out, are all of one target"):
        make_parts((np.arange(100) < 40) * (np.arange(100) % 2) * 1.0, 100, 0, times=times)
    with pytest.raises(InputError, match="every row has the same time"):
        make_parts(np.arange(100) % 2 * 1.0, 100, 0, times=np.ones(100))


@pytest.mark.parametrize(
    "written",
    [
        lambda day: day,
        lambda day: f"{day}",
        lambda day: f"2024-{1 + day // 28:02d}-{1 + day % 28:02d}",
        lambda day: f"{1 + day % 28:02d}.{1 + day // 28:02d}.2024",
    ],
    ids=["numbers", "strings", "ISO", "German"],
)
def test_times_are_dates_or_numbers(written: object) -> None:
    """In any order of the rows: the same rows are held out."""
    days = np.random.default_rng(0).permutation(120)
    table = numbers(120).with_columns(day=pl.Series([written(int(day)) for day in days]))  # type: ignore[operator]
    card = fit(table, "y", time="day", options=LINEAR).card
    assert card.split is not None
    assert (card.split.kind, card.split.parts, card.split.figures) == ("time", 5, 48)
    assert card.held_out == _of_numbers().held_out
    assert card.dropped == {"day": "the time of each row"}


def _of_numbers() -> object:
    days = np.random.default_rng(0).permutation(120)
    return fit(numbers(120).with_columns(day=days), "y", time="day", options=LINEAR).card


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None], r"time column 't' has no value in 20 rows, the first is row 2"),
        (["2024-05-01", "soon"], r"'t' holds 'soon' in row 2; expected dates in one format"),
        (["now", "then"], r"'t' holds 'now' in row 1; expected dates"),
        ([True, False], r"is of type Boolean; expected dates or numbers"),
        ([1.0, float("inf")], r"'t' holds inf in row 2; expected finite numbers"),
    ],
)
def test_wrong_times(values: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(numbers(40).with_columns(t=pl.Series(values * 20)), "y", time="t")


def test_the_trees_learn_from_the_latest_rows_too() -> None:
    table = numbers(400).with_columns(t=np.arange(400))
    options = TrainingOptions(model="trees", effort="low")
    found = fit(table, "y", time="t", options=options)
    ((trees, _),) = found.models[0].parts  # type: ignore[attr-defined]
    assert trees.cover[0] == 400
    assert found.card.held_out.roc_auc is not None
    assert found.card.held_out.roc_auc > 0.85


# ------------------------------------------------------------------------------- what is said


def repeats(**columns: object) -> float:
    table = pl.DataFrame(columns)
    found = find_repeats(table, infer_columns(table, "y", Overrides()))
    return 0.0 if found is None else found.share


def test_repeated_rows_are_told() -> None:
    random = np.random.default_rng(0)
    x, text = random.normal(size=1000), [f"some words and number {i}" for i in range(1000)]
    y = random.integers(0, 2, 1000)
    assert repeats(x=x, text=text, y=y) == 0
    x[:60], text[:60] = x[60:120], text[60:120]
    assert repeats(x=x, text=text, y=y) == pytest.approx(0.12)
    assert repeats(text=text, y=y) == pytest.approx(0.12)
    assert repeats(x=np.round(x, 2), y=y) == 0  # numbers of one column are equal by chance
    # A few coarse columns have equal rows by chance.
    coarse = {name: random.integers(0, 4, 1000) for name in "abc"}
    assert repeats(**coarse, y=y) == 0


def found_cases(table: pl.DataFrame) -> list[str]:
    choices = infer_columns(table, "y", Overrides())
    return [one.column for one in find_cases(table, choices, choose_target(table, "y", None))]


def test_columns_of_cases_are_told() -> None:
    table = cases()
    random = np.random.default_rng(1)
    number = np.arange(900) % 90
    born = random.normal(size=90).round(3)[number]
    assert found_cases(table.rename({"case": "patient_id"})) == ["patient_id"]
    assert found_cases(table.with_columns(userId=pl.Series(number)).drop("case")) == ["userId"]
    # By what is the same in all of its rows.
    assert found_cases(table.drop("mark").with_columns(born=born)) == ["case"]
    # A column that tells nothing of the target, a measurement, a few values, an ordinary category.
    assert (
        found_cases(table.with_columns(y=random.integers(0, 2, 900), user=number).drop("case"))
        == []
    )
    assert found_cases(table.with_columns(key=pl.Series(number) + 0.5).drop("case")) == []
    assert found_cases(table.with_columns(user=pl.Series(number % 5)).drop("case")) == []
    assert found_cases(table.with_columns(noise=random.normal(size=900))) == []


def test_what_the_command_line_says(tmp_path: Path) -> None:
    table = cases().rename({"case": "patient"}).with_columns(day=np.arange(900))
    path = csv_of(table, tmp_path / "t.csv")
    few = ["--target", "y", "--model", "linear", "--effort", "low"]
    found = done("fit", path, *few, "-o", tmp_path / "m", "--drop", "day")
    assert re.search(
        r"warning: column 'patient' looks like an identifier.*--group patient", found.stderr
    )
    grouped = done("fit", path, *few, "-o", tmp_path / "g", "--drop", "day", "--group", "patient")
    assert "warning: column" not in grouped.stderr
    assert "none of the same patient:" in grouped.stdout
    assert "none of the same patient:" in done("show", tmp_path / "g").stdout
    timed = done("fit", path, *few, "-o", tmp_path / "d", "--time", "day", "--json")
    split = json.loads(timed.stdout)["split"]
    assert split == {"kind": "time", "folds": 5, "repeats": 1, "parts": 5, "figures": 360}
    assert "On the latest 360 rows by day, with settings and weights chosen on earlier ones:" in (
        done("show", tmp_path / "d").stdout
    )
    again = csv_of(pl.concat([table, table]), tmp_path / "again.csv")
    twice = done("fit", again, *few, "-o", tmp_path / "t", "--drop", "day")
    assert "100.0% of the rows have the same inputs as another row" in twice.stderr
    assert torchbce("fit", path, *few, "-o", tmp_path / "x", "--time", "patient").exit_code == 2
