"""Numbers as people write them, words for missing values, and cells that do not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from making import done, torchbce
from torchbce.classifier import InputError, TrainingOptions, fit, load, read
from torchbce.classifier.columns.inference import Choice, Overrides, infer_columns
from torchbce.classifier.columns.numbers import PLAIN, Notation, notation_of, numbers_of
from torchbce.classifier.columns.values import as_numbers

FAST = ("--model", "linear", "--effort", "low")
MINUS, NARROW, NO_BREAK, APOSTROPHE = "\u2212", "\u202f", "\u00a0", "\u2019"

WRITTEN: list[tuple[list[str], list[float], Notation]] = [
    (["$1.20", "$ 3", "-$4.5", "$-6", "($7)"], [1.2, 3, -4.5, -6, -7], Notation(before="$")),
    (["€5", "€1,000"], [5, 1000], Notation(thousands=",", before="€")),
    (["5 €", "7€"], [5, 7], Notation(after="€")),
    (["USD 5", "USD 1,000.50"], [5, 1000.5], Notation(thousands=",", before="USD")),
    (["US$5", "US$6"], [5, 6], Notation(before="US$")),
    (["12%", "3.5 %", "-1%"], [12, 3.5, -1], Notation(after="%")),
    (["1,234.50", "7", "12,345,678"], [1234.5, 7, 12345678], Notation(thousands=",")),
    (["12,34,567", "1,000"], [1234567, 1000], Notation(thousands=",")),
    (["1 234", "5.5"], [1234, 5.5], Notation(thousands=" ")),
    ([f"1{NARROW}234", f"5{NO_BREAK}678"], [1234, 5678], Notation(thousands=" ")),
    (["1'234", f"5{APOSTROPHE}678.9"], [1234, 5678.9], Notation(thousands="'")),
    (["1_000", "20", "1_0000"], [1000, 20, 10000], Notation(thousands="_")),
    ([f"{MINUS}5", "3", "\u20137.5"], [-5, 3, -7.5], PLAIN),
    (["(43)", "12", "(43.50)", "( 9 )"], [-43, 12, -43.5, -9], PLAIN),
    (["- 43", "+ 43", "+4", f"{MINUS} 5", f"-{NO_BREAK}6"], [-43, 43, 4, -5, -6], PLAIN),
    ([f"40e{MINUS}3", "2E+1", f"(1e{MINUS}1)"], [0.04, 20, -0.1], PLAIN),
    (["5 kg", "7kg", "1.5e1 kg"], [5, 7, 15], Notation(after="kg")),
    (["20 km/h", "30 km/h"], [20, 30], Notation(after="km/h")),
    (["5 m2", "7 m2"], [5, 7], Notation(after="m2")),
    (["10°C", f"{MINUS}3 °C"], [10, -3], Notation(after="°C")),
    (["2 years", "30 years"], [2, 30], Notation(after="years")),
]
COMMAS: list[tuple[list[str], list[float], Notation]] = [
    (["1,5", "2", "-0,25"], [1.5, 2, -0.25], Notation(",")),
    (["1.234,50", "1.000", "7,5"], [1234.5, 1000, 7.5], Notation(",", ".")),
    (["1 234,5", "2"], [1234.5, 2], Notation(",", " ")),
    (["1,5 €", "1.000,00 €"], [1.5, 1000], Notation(",", ".", after="€")),
    (["0.5", "12.25"], [0.5, 12.25], PLAIN),  # no comma, and no groups of three
    (["1.000", "2.500"], [1000, 2500], Notation(",", ".")),
]


@pytest.mark.parametrize(
    ("cells", "values", "written", "decimal"),
    [(*case, ".") for case in WRITTEN] + [(*case, ",") for case in COMMAS],
    ids=lambda value: str(value)[:30],
)
def test_notations(cells: list[str], values: list[float], written: Notation, decimal: str) -> None:
    column = pl.Series("x", [*cells, None, " NA "])
    reading = notation_of(column.head(len(cells)), decimal)
    assert (reading.written, reading.numbers) == (written, len(cells))
    np.testing.assert_allclose(as_numbers(column, written), [*values, np.nan, np.nan], rtol=1e-15)
    table = pl.DataFrame({"x": [*cells] * 12, "y": [0, 1] * (6 * len(cells))})
    (choice,) = infer_columns(table, "y", Overrides(), decimal)
    assert (choice.kind, choice.written) == ("numeric", written)
    assert all(part in choice.reason for part in (written.before, written.after))
    assert ("for thousands" in choice.reason) == bool(written.thousands)
    # Each cell alone is read in the same way.
    for cell, value in zip(cells, values, strict=True):
        assert as_numbers(pl.Series([cell]), written) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "cells",
    [
        ["A12", "B13"], ["12A", "13A"], ["1.2.3", "1.2.4"], ["192.168.0.1", "10.0.0.1"],
        ["555-1234", "555-9999"], ["1st", "2nd"], ["3/4", "1/2"], ["10-20", "20-30"],
        ["ward 1", "ward 2"], ["1,2,3", "4,5"], ["0x10", "0x20"], ["1,,000", "2"], ["5:3", "2:1"],
        ["12,34", "1,5,7"], ["$", "%"], ["--5", "5"], ["(5", "6)"], ["1,2345", "3"],
    ],
)  # fmt: skip
def test_what_is_no_column_of_numbers(cells: list[str]) -> None:
    reading = notation_of(pl.Series(cells), ".")
    assert reading.numbers < len(cells)


DIGITS = st.from_regex(r"[0-9]{1,4}([.,' _][0-9]{1,3}){0,3}[.,]?|[.,][0-9]{1,3}", fullmatch=True)
SIGNS = st.sampled_from(["", "", "-", "+", MINUS, "\u2013"])
BLANKS = st.sampled_from(["", "", " ", NO_BREAK, NARROW])
CURRENCIES = st.sampled_from(["", "", "$", "US$", "EUR", "kr"])
CELL = st.tuples(
    st.sampled_from(["", "("]), SIGNS, BLANKS, CURRENCIES, BLANKS, SIGNS, DIGITS,
    st.sampled_from(["", "e", "E-", f"e{MINUS}", "e\u2013", "e+"]), BLANKS,
    st.sampled_from(["", "", "$", "%", "kg"]), st.sampled_from(["", ")"]),
).map(lambda parts: "".join((*parts[:7], parts[7] and f"{parts[7]}12", *parts[8:])))  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(cells=st.lists(CELL, min_size=1, max_size=4), decimal=st.sampled_from([".", ","]))
def test_what_counts_as_a_number_is_read_as_one(cells: list[str], decimal: str) -> None:
    for column in (pl.Series(cells), *(pl.Series([cell]) for cell in cells)):
        reading = notation_of(column, decimal)
        numbers = numbers_of(column, reading.written)
        assert numbers is not None
        if reading.numbers:  # with none there is no notation either
            assert numbers.is_finite().sum() == reading.numbers, (cells, reading)


@given(st.floats(-1e15, 1e15), st.sampled_from([",", " ", "'", "_"]), st.sampled_from(["", "$"]))
def test_a_number_survives_its_groups(x: float, between: str, before: str) -> None:
    cell = f"{before}{x:,.3f}".replace(",", between)
    got = as_numbers(pl.Series([cell]), Notation(".", between, before))
    assert got == pytest.approx(float(f"{x:.3f}"), rel=1e-15)


def test_new_values_are_read_as_those_of_the_training_rows() -> None:
    with pytest.raises(InputError, match=r"should hold numbers with %, but row 2 holds '12'"):
        as_numbers(pl.Series("x", ["3%", "12"]), Notation(after="%"))
    with pytest.raises(InputError, match=r"should hold numbers, but row 1 holds '\$5'"):
        as_numbers(pl.Series("x", ["$5"]))
    assert as_numbers(pl.Series([1.5]), Notation(before="$")).tolist() == [1.5]  # from Parquet
    assert numbers_of(pl.Series(["$5", "x"]), Notation(before="$")).to_list() == [5, None]  # type: ignore[union-attr]


# --------------------------------------------------------------------------- one cell of a column


def table_with(cell: str, rows: int = 400) -> pl.DataFrame:
    """A number that nearly tells the target, with one cell that is something else."""
    random = np.random.default_rng(0)
    x = random.normal(size=rows)
    # Without noise any large weight would do, and "about an average row" would mean nothing.
    y = (x + 0.1 * random.normal(size=rows) > 0).astype(int)
    cells = [f"{v:.4f}" for v in x]
    cells[6] = cell
    return pl.DataFrame({"income": cells, "k": ["a", "b"] * (rows // 2), "y": y})


@pytest.mark.parametrize("cell", ["None", "NA", "", "<NA>", "#N/A", "-nan", "?", " null "])
def test_a_usual_word_for_missing_ruins_nothing(cell: str) -> None:
    (income, _) = infer_columns(table_with(cell), "y", Overrides())
    assert income.kind == "numeric"
    assert income.reason == "numbers, 399 distinct" or "distinct" in income.reason


@pytest.mark.parametrize(
    "cell", ["n.a.", "-", "#DIV/0!", "missing", "$1.20", "1,5", "12 %", "ab 1"]
)
def test_one_other_cell_is_told_of(cell: str) -> None:
    table = table_with(cell)
    with pytest.raises(InputError) as caught:
        infer_columns(table, "y", Overrides())
    first = table["income"][0]
    assert str(caught.value) == (
        f"column 'income' holds numbers, as {first!r}, in 399 of 400 cells, and 1 other: {cell!r} "
        f"in row 7; correct it, pass missing={cell!r} if that means no value, or "
        "categorical='income', text='income' or drop='income'"
    )
    classifier = fit(table, "y", missing=[cell], options=TrainingOptions("linear", effort="low"))
    assert classifier.card.held_out.roc_auc > 0.99
    assert classifier.card.missing == [cell]
    probability = classifier.predict(table)["probability"]
    assert probability[6] == pytest.approx(0.5, abs=0.3)
    for kind in ("categorical", "text", "drop"):
        choice = infer_columns(table, "y", Overrides(**{kind: ["income"]}))[0]
        assert choice.kind == {"drop": "dropped"}.get(kind, kind)


def test_an_infinite_cell_among_numbers_that_are_not_plain() -> None:
    table = pl.DataFrame({"x": ["(5)", "6"] * 10 + ["inf"], "y": [0, 1] * 10 + [1]})
    with pytest.raises(InputError, match=r"in 20 of 21 cells, and 1 other: 'inf' in row 21"):
        infer_columns(table, "y", Overrides())


def test_several_other_cells_and_numbers_in_two_ways() -> None:
    table = pl.DataFrame(
        {"x": [*["1.5", "$2"] * 2, *[f"{i}.5" for i in range(96)]], "y": [0, 1] * 50}
    )
    with pytest.raises(
        InputError, match=r"in 98 of 100 cells, and 2 others: the first is '\$2' in"
    ):
        infer_columns(table, "y", Overrides())
    half = pl.DataFrame({"x": ["$1.5", "2.5"] * 50, "y": [0, 1] * 50})
    with pytest.raises(InputError, match=r"in 50 of 100 cells, and 50 others"):
        infer_columns(half, "y", Overrides())


def test_fewer_numbers_are_categories() -> None:
    table = pl.DataFrame({"x": [*["1", "2"] * 44, *["a"] * 12], "y": [0, 1] * 50})
    assert infer_columns(table, "y", Overrides())[0].kind == "categorical"


def test_a_decimal_comma_is_asked_for() -> None:
    table = pl.DataFrame({"x": ["1,5", "2,25"] * 10, "y": [0, 1] * 10})
    with pytest.raises(
        InputError, match=r"a decimal comma, as '1,5'; pass decimal=',' to read them, or categ"
    ):
        infer_columns(table, "y", Overrides())
    assert infer_columns(table, "y", Overrides(), ",")[0].kind == "numeric"
    with pytest.raises(InputError, match=r"^decimal must be '\.' or ',', got ';'$"):
        infer_columns(table, "y", Overrides(), ";")


def test_the_example_of_a_decimal_comma_has_one() -> None:
    table = pl.DataFrame({"x": ["-2", "3", "1,5", "2,25"] * 10, "y": [0, 1] * 20})
    for overrides in (Overrides(), Overrides(numeric=["x"])):
        with pytest.raises(InputError, match=r"comma, as '1,5'; pass decimal=',' to read them, or"):
            infer_columns(table, "y", overrides)
        assert infer_columns(table, "y", overrides, ",")[0].kind == "numeric"


def test_no_number_of_thousands_begins_with_zero() -> None:
    """Of 0,126 and 1,234 neither is a number of thousands where a whole number is 2."""
    cells = ["0,126", "-0,132", "1,234", "2"] * 10
    table = pl.DataFrame({"x": cells, "y": [0, 1] * 20})
    with pytest.raises(InputError, match="a decimal comma"):
        infer_columns(table, "y", Overrides())
    (choice,) = infer_columns(table, "y", Overrides(), ",")
    assert choice.written is not None
    values = numbers_of(table["x"], choice.written)  # type: ignore[arg-type]
    assert values is not None
    assert values.to_list()[:4] == [0.126, -0.132, 1.234, 2.0]


def test_the_user_says_numeric() -> None:
    table = pl.DataFrame({"x": ["$1.5", "$2"] * 10, "y": [0, 1] * 10})
    (choice,) = infer_columns(table, "y", Overrides(numeric=["x"]))
    assert choice == Choice("x", "numeric", "as you said", Notation(before="$"))


# -------------------------------------------------------------------------------- the command line


def write(path: Path, **columns: list[Any]) -> Path:
    pl.DataFrame(columns).write_csv(path)
    return path


def test_a_price_from_the_file_to_the_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(1).normal(0, 3000, 200)
    y = (x > 0).astype(int).tolist()
    plain, price = [f"{v:.2f}" for v in x], [f"${v:,.2f}".replace("$-", "-$") for v in x]
    write(tmp_path / "plain.csv", x=plain, y=y)
    write(tmp_path / "price.csv", x=price, y=y)
    shown = done("fit", "price.csv", "--target", "y", "--output", "m", *FAST).stderr
    assert "numbers with $ and ',' for thousands, 200 distinct" in shown
    done("fit", "plain.csv", "--target", "y", "--output", "n", *FAST)
    expected = load("n").predict(read("plain.csv"))["probability"]
    assert load("m").predict(read("price.csv"))["probability"].equals(expected)
    assert json.loads((tmp_path / "m" / "model.json").read_text())["columns"][0]["written"] == {
        "decimal": ".",
        "thousands": ",",
        "before": "$",
        "after": "",
    }


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_brackets_from_the_file_to_the_prediction(format: str, tmp_path: Path) -> None:
    balance = np.random.default_rng(2).integers(-99, 99, 200)
    cells = [f"({-v})" if v < 0 else f"+ {v}" if v % 2 else f"{v}e{MINUS}0" for v in balance]
    y = (balance > 0).astype(int).tolist()
    path = tmp_path / f"t.{format}"
    getattr(pl.DataFrame({"x": cells, "y": y}), f"write_{format}")(path)
    fast = TrainingOptions("linear", effort="low")
    classifier = fit(read(path), "y", options=fast)
    plain = pl.DataFrame({"x": balance, "y": y})
    expected = fit(plain, "y", options=fast).predict(plain)["probability"]
    assert classifier.predict(read(path))["probability"].equals(expected)
    assert classifier.predict(plain)["probability"].equals(expected)


def test_predictions_with_a_decimal_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    p = np.random.default_rng(3).uniform(0.01, 0.99, 80).round(3)
    y = (np.random.default_rng(4).random(80) < p).astype(int).tolist()
    soft = np.where(np.arange(80) == 0, 0.5, y)
    columns = {"p": p, "w": np.arange(80) % 3 + 0.5, "s": soft}
    write(tmp_path / "point.csv", y=y, **{k: [f"{v:.3f}" for v in c] for k, c in columns.items()})
    commas = {k: [f"{v:.3f}".replace(".", ",") for v in c] for k, c in columns.items()}
    write(tmp_path / "comma.csv", y=y, **commas)
    evaluate = ("--target", "y", "--probability", "p", "--weight", "w", "--json")
    of_soft = ("--target", "s", "--probability", "p", "--soft", "--json")
    for start in (("evaluate", "--predictions"), ("diagnose",)):
        for more in (evaluate, of_soft) if start[0] == "evaluate" else (evaluate,):
            expected = done(*start, "point.csv", *more).stdout
            assert done(*start, "comma.csv", *more, "--decimal", ",").stdout == expected
        refused = torchbce(*start, "comma.csv", *evaluate)
        assert refused.exit_code == 2
        assert "holds numbers with a decimal comma, as '0," in refused.stderr
        assert refused.stderr.endswith("; pass --decimal , to read them\n")
        refused = torchbce(*start, "comma.csv", *evaluate, "--decimal", ";")
        assert "--decimal must be '.' or ','" in refused.stderr
    refused = torchbce("evaluate", "m", "comma.csv", "--decimal", ",")
    assert "--decimal goes with --predictions" in refused.stderr


def test_options_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    numbers = [f"{i % 17},{i % 7}" for i in range(99)]
    write(tmp_path / "t.csv", x=[*numbers, "n.a."], y=[0, 1] * 50)
    fit_ = ["fit", "t.csv", "--target", "y", "--output", "m", *FAST]
    result = torchbce(*fit_, "--decimal", ",")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "torchbce: column 'x' holds numbers, as '0,0', in 99 of 100 cells"
    )
    assert "pass --missing n.a. if that means no value, or --categorical x, --text x or --dr" in (
        result.stderr
    )
    assert (
        "pass --decimal , to read them, or --categorical x"
        in torchbce(*fit_, "--missing", "n.a.").stderr
    )
    shown = done(*fit_, "--decimal", ",", "--missing", "n.a.").stderr
    assert "numbers with a decimal comma" in shown
    assert load("m").card.missing == ["n.a."]
    done("predict", "m", "t.csv", "--output", "o.csv")
    assert read("o.csv")["x"].to_list() == [*numbers, "n.a."]  # as it was written
    assert "--decimal must be '.' or ','" in torchbce(*fit_, "--overwrite", "--decimal", "x").stderr
