"""The kinds of columns, and how the user overrides them."""

import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.encoder import fit_encoder
from torchbce.classifier.columns.inference import Choice, Overrides, infer_columns
from torchbce.classifier.columns.target import choose_target
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.errors import InputError
from torchbce.classifier.models.features import Layout

ROWS = 24
WORDS = ["red", "green", "blue"]


def look(values: Any, name: str = "c", overrides: Overrides | None = None, **more: Any) -> Choice:
    """The choice for a column, in a table with another one that is always kept."""
    column = values if isinstance(values, pl.Series) else pl.Series(values, **more)
    table = pl.DataFrame({name: column, "kept": [0.5, 1.5] * (len(column) // 2)})
    table = table.with_columns(pl.Series("y", [0, 1] * (len(column) // 2)))
    chosen, kept = infer_columns(table, "y", overrides or Overrides())
    assert (chosen.name, kept.name, kept.kind) == (name, "kept", "numeric")
    return chosen


def cycle(*values: Any) -> list[Any]:
    return [values[i % len(values)] for i in range(ROWS)]


SENTENCES = [f"this is sentence number {i}" for i in range(ROWS)]

KINDS: list[tuple[str, Any, str, str]] = [
    ("floats", [i / 7 for i in range(ROWS)], "numeric", "numbers, 24 distinct"),
    ("integers", cycle(3, 1, 2), "numeric", "numbers, 3 distinct"),
    ("0 and 1", cycle(0, 1), "numeric", "numbers, 2 distinct"),
    ("numbers as strings", [f"{i * i}.5" for i in range(ROWS)], "numeric", "numbers, 24 distinct"),
    ("with markers", ["?", "NA", *map(str, range(ROWS - 2))], "numeric", "numbers, 22 distinct"),
    ("one number, or missing", cycle(5, None), "numeric", "numbers, 1 distinct"),
    ("decimals", pl.Series(cycle("1.50", "2.25")).cast(pl.Decimal(9, 2)), "numeric", "2 distinct"),
    ("words", cycle(*WORDS), "categorical", "3 distinct in 24, as 'red' or 'green'"),
    ("words, some missing", cycle("red", "blue", None), "categorical", "2 distinct in 16"),
    ("a word, or missing", cycle("red", ""), "categorical", "1 distinct in 12, as 'red'"),
    ("booleans", cycle(True, False), "categorical", "2 distinct in 24, as 'true' or 'false'"),
    ("numbers and words", cycle("1", "x", "2"), "categorical", "3 distinct in 24"),
    ("enum", pl.Series(cycle(*WORDS), dtype=pl.Enum(WORDS)), "categorical", "3 distinct in 24"),
    ("long names that repeat", cycle(*SENTENCES[:3]), "categorical", "3 distinct in 24"),
    ("text", SENTENCES, "text", "5.0 words on average, 24 distinct in 24"),
    ("text, some missing", [*SENTENCES[:12], *[None] * 12], "text", "12 distinct in 12"),
    ("constant number", cycle(1.0), "dropped", "constant"),
    ("constant word", cycle("x"), "dropped", "constant"),
    ("one number, two spellings", cycle("1", "1.0"), "dropped", "constant"),
    ("constant boolean", cycle(True), "dropped", "constant"),
    ("null", pl.Series([None] * ROWS), "dropped", "empty"),
    ("nan", cycle(float("nan")), "dropped", "empty"),
    ("markers alone", cycle("", "NA", " ?"), "dropped", "empty"),
    ("identifier", [f"k{i}" for i in range(ROWS)], "dropped", "no value repeats: an identifier"),
    ("counter from 0", list(range(ROWS)), "dropped", "counts the rows"),
    ("counter from 1", [str(i + 1) for i in range(ROWS)], "dropped", "counts the rows"),
    ("counter as floats", [i + 100.0 for i in range(ROWS)], "dropped", "counts the rows"),
    ("backwards", list(range(ROWS, 0, -1)), "numeric", "numbers, 24 distinct"),
    ("dates", [datetime.date(2024, 1, i) for i in range(1, ROWS + 1)], "date", "dates, 24 dis"),
    ("times", cycle(datetime.time(1), datetime.time(2)), "date", "dates, 2 distinct"),
    ("a constant date", [datetime.date(2024, 1, 1)] * ROWS, "dropped", "constant"),
    ("durations", cycle(datetime.timedelta(1)), "dropped", "values of type Duration"),
    ("lists", cycle([1], [2, 3]), "dropped", "values of type List(Int64) are not used"),
    ("objects", cycle({"k": 1}), "dropped", "values of type Struct"),
    ("bytes", cycle(b"x", b"y"), "dropped", "values of type Binary are not used"),
]


@pytest.mark.parametrize(
    ("values", "kind", "why"), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS]
)
def test_kinds(values: Any, kind: str, why: str) -> None:
    choice = look(values)
    assert choice.kind == kind
    assert why in choice.reason


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 12"])
def test_an_index_without_a_name_is_dropped(name: str) -> None:
    choice = look([i / 7 for i in range(ROWS)], name)
    assert (choice.kind, choice.reason) == ("dropped", "a row index without a name")


def test_small_tables_have_no_identifiers() -> None:
    assert look([f"k{i}" for i in range(18)]).kind == "categorical"
    assert look(list(range(18))).kind == "numeric"
    assert look([f"k{i}" for i in range(20)]).kind == "dropped"
    assert look(list(range(20))).kind == "dropped"


def test_a_counter_with_a_gap_is_a_number() -> None:
    assert look([*range(12), *range(13, 25)]).kind == "numeric"
    assert look([*range(23), None]).kind == "numeric"


def test_the_order_and_the_target() -> None:
    table = pl.DataFrame({"b": [1.5, 2.5], "y": [0, 1], "a": ["x", "z"]})
    assert [c.name for c in infer_columns(table, "y", Overrides())] == ["b", "a"]


# ------------------------------------------------------------------------------ what the user says


@pytest.mark.parametrize("kind", ["text", "categorical", "numeric"])
def test_overrides(kind: str) -> None:
    overrides = Overrides(**{kind: ["c"]})
    for values in (list(range(ROWS)), cycle("1", "2"), cycle(1.0)):
        assert look(values, overrides=overrides) == Choice("c", kind, "as you said")  # type: ignore[arg-type]


def test_drop() -> None:
    assert look(cycle(1, 2), overrides=Overrides(drop=["c"])) == Choice(
        "c", "dropped", "as you said"
    )


def test_a_repeated_override_is_accepted() -> None:
    assert look(cycle(1, 2), overrides=Overrides(text=["c", "c"])).kind == "text"


TABLE = pl.DataFrame({"length": [1.5, 2.5], "Width": ["a", "b"], "y": [0, 1]})

WRONG: list[tuple[Overrides, str]] = [
    (
        Overrides(text=["lenght"]),
        "column 'lenght' is not in the table; did you mean 'length'?",
    ),
    (Overrides(drop=["WIDTH"]), "column 'WIDTH' is not in the table; did you mean 'Width'?"),
    (
        Overrides(numeric=["q"]),
        "column 'q' is not in the table; the names are 'length', 'Width' and 'y'",
    ),
    (Overrides(numeric=["y"]), "column 'y' is the target; it cannot be an input too"),
    (Overrides(drop=["y"]), "column 'y' is the target; it cannot be an input too"),
    (
        Overrides(text=["length"], numeric=["length"]),
        "column 'length' is named in both text and numeric; name it in one of them",
    ),
    (
        Overrides(categorical=["length"], drop=["length"]),
        "column 'length' is named in both categorical and drop; name it in one of them",
    ),
]


@pytest.mark.parametrize(("overrides", "sentence"), WRONG, ids=[s for _, s in WRONG])
def test_wrong_overrides(overrides: Overrides, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        infer_columns(TABLE, "y", overrides)
    assert str(caught.value) == sentence


def test_nothing_to_learn_from() -> None:
    with pytest.raises(
        InputError, match=r"^no column is left to learn from; the table has only its target column$"
    ):
        infer_columns(TABLE.select("y"), "y", Overrides())
    with pytest.raises(InputError, match=r"learn from \('length': as you said; 'Width': as you"):
        infer_columns(TABLE, "y", Overrides(drop=["length", "Width"]))
    constant = TABLE.with_columns(length=1.0).drop("Width")
    with pytest.raises(InputError, match=r"learn from \('length': constant\)$"):
        infer_columns(constant, "y", Overrides())


def test_a_wide_table() -> None:
    wide = pl.DataFrame(np.random.default_rng(0).normal(size=(4, 500)))
    choices = infer_columns(wide.with_columns(y=pl.Series([0, 1, 0, 1])), "y", Overrides())
    assert len(choices) == 500


def test_columns_of_numbers_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """polars takes 0.1 to 0.4 ms for an operation, so one per column is minutes for 30,000."""
    values = np.random.default_rng(0).normal(size=(30, 300)).round(3)
    table = pl.DataFrame(values).with_columns(pl.all().cast(pl.String))
    table = table.with_columns(pl.col("column_7").replace({table["column_7"][3]: " NA "}))
    table = table.with_columns(y=pl.Series([0, 1] * 15))
    calls = 0
    collect = pl.LazyFrame.collect

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return collect(*arguments, **options)

    monkeypatch.setattr(pl.LazyFrame, "collect", counted)
    choices = infer_columns(table, "y", Overrides())
    encoder, encoded = fit_encoder(table, choices)
    again = encoder.transform(table)
    assert calls < 60
    assert {choice.kind for choice in choices} == {"numeric"}
    np.testing.assert_array_equal(encoded.numbers, again.numbers)
    np.testing.assert_array_equal(encoded.codes, again.codes)
    assert Layout.of(encoder).width == 301  # one value is missing


def test_text_of_numbers_stays_as_it_was_written() -> None:
    table = pl.DataFrame({"a": ["1.50", "007"] * 4, "b": ["1.50", "007"] * 4, "y": [0, 1] * 4})
    choices = infer_columns(table, "y", Overrides(text=["a"], categorical=["b"]))
    encoder, _ = fit_encoder(table, choices)
    text, categories = encoder.columns
    assert isinstance(text, TextColumn)
    assert isinstance(categories, CategoricalColumn)
    assert text.units[0].vocabulary == ["007", "1", "1 50", "50"]
    assert {" 007 ", "1.50 "} <= {*text.units[1].vocabulary}
    assert categories.categories == ["1.5", "7"]


PHRASES = [
    f"{a} {b}"
    for a in ("Senior", "Junior", "Lead", "Chief")
    for b in ("A", "B", "C", "D", "E", "F")
]
CHINESE = [f"这部电影非常好看第{chr(0x4E00 + i)}集" for i in range(ROWS)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (CHINESE, "text"),
        ([f"映画はとても良かった{chr(0x4E00 + i)}" for i in range(ROWS)], "text"),
        ([f"หนังเรื่องนี้ดีมาก{chr(0x0E01 + i)}" for i in range(ROWS)], "text"),
        (PHRASES, "text"),
        (cycle(*PHRASES[:16]), "text"),
        (cycle(*PHRASES[:6]), "categorical"),
        (cycle("C", "C++", "C#"), "categorical"),
        (cycle("grade A", "grade F"), "categorical"),
        ([f"ID {i}" for i in range(ROWS)], "dropped"),
        ([f"user{i}@example.org" for i in range(ROWS)], "dropped"),
        ([chr(0x4E00 + i) * 2 for i in range(ROWS)], "dropped"),  # names of two characters
    ],
    ids=lambda value: str(value)[:24],
)
def test_phrases_and_scripts_without_spaces(values: list[str], kind: str) -> None:
    assert look(values).kind == kind


@pytest.mark.parametrize("name", ["count", "value", "literal", ""])
def test_any_column_name(name: str) -> None:
    """polars names columns of its own results "count" and "literal"."""
    table = pl.DataFrame({name: ["a", "b"] * ROWS, "y": [0, 1] * ROWS})
    encoder, _ = fit_encoder(table, [Choice(name, "categorical", "")])
    assert Layout.of(encoder).width == 2
    assert choose_target(table, name, "b").negative == "a"
