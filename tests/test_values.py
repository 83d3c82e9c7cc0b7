"""What values say: as text, as numbers, or missing."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchbce.classifier.columns.numbers import numbers_of
from torchbce.classifier.columns.values import (
    BOOLEANS,
    MISSING,
    as_numbers,
    as_text,
    is_missing,
    without_words,
)
from torchbce.classifier.errors import InputError, rows_offset


def all_numbers(values: pl.Series) -> bool:
    """Whether there are values that are not missing, and all of those are plain numbers."""
    numbers = numbers_of(values)
    if numbers is None or numbers.null_count() == len(numbers):
        return False
    return not (numbers.is_null() & ~is_missing(values)).any()


ONES: list[pl.Series] = [
    pl.Series([1]),
    pl.Series([1], dtype=pl.UInt8),
    pl.Series([1.0]),
    pl.Series([1.0], dtype=pl.Float32),
    pl.Series(["1"]),
    pl.Series(["1.0"]),
    pl.Series([" 1.00 "]),
    pl.Series(["1.0"]).cast(pl.Categorical),
    pl.Series(["1.00"]).cast(pl.Decimal(10, 2)),
]


@pytest.mark.parametrize("values", ONES, ids=lambda s: f"{s.dtype} {s[0]!r}")
def test_a_one_is_a_one(values: pl.Series) -> None:
    assert as_text(values).to_list() == ["1"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (-3, "-3"),
        (0.5, "0.5"),
        (-0.0, "0"),
        ("x", "x"),
        ("  two words\t", "two words"),
        ("é 😀", "é 😀"),
        ("1.5", "1.5"),
        (None, None),
        (math.nan, None),
        (math.inf, "inf"),
        ("True", "true"),
        ("TRUE", "true"),
        ("true", "true"),
        ("FALSE", "false"),
        ("tRUE", "tRUE"),
    ],
)
def test_as_text(value: Any, text: str | None) -> None:
    assert as_text(pl.Series([value])).to_list() == [text]


def test_neighbouring_large_integers_stay_apart() -> None:
    whole = [2**53, 2**53 + 1, 2**60, 2**60 + 1]
    assert as_text(pl.Series(whole)).to_list() == [str(n) for n in whole]
    assert as_text(pl.Series([str(n) for n in whole])).to_list() == [str(n) for n in whole]


@pytest.mark.parametrize("marker", [*MISSING, " ", " NA ", None])
def test_missing_markers(marker: str | None) -> None:
    values = pl.Series("c", [marker, "2"], dtype=pl.String)
    assert as_text(values).to_list() == [None, "2"]
    np.testing.assert_array_equal(as_numbers(values), [math.nan, 2.0])
    assert all_numbers(values)


def test_what_is_near_a_marker_is_a_value() -> None:
    values = pl.Series(["na", "none", "-", "0", "nanny", "false"])
    assert as_text(values).null_count() == 0


def test_as_numbers() -> None:
    text = pl.Series(["1", " 2.5 ", "-3e2", "+4", ".5", "NA"])
    got = as_numbers(text)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, [1, 2.5, -300, 4, 0.5, math.nan])
    np.testing.assert_array_equal(as_numbers(pl.Series([True, False, None])), [1, 0, math.nan])
    np.testing.assert_array_equal(as_numbers(pl.Series([1.5, math.nan])), [1.5, math.nan])
    np.testing.assert_array_equal(as_numbers(pl.Series([None, None])), [math.nan, math.nan])


def test_no_number_stays_none_beside_a_number_that_is_not_plain() -> None:
    np.testing.assert_array_equal(
        as_numbers(pl.Series(["NAN", "+nan", "(5)"])), [np.nan] * 2 + [-5]
    )


def test_the_array_is_ours_to_write_to() -> None:
    values = pl.Series([1.0, 2.0])
    as_numbers(values)[0] = 9
    assert values.to_list() == [1.0, 2.0]


@pytest.mark.parametrize("word", ["x", "1,5", "1_000", "0x10", "$5", "1 000"])
def test_what_is_no_number_is_named_with_its_row(word: str) -> None:
    values = pl.Series("width", ["1", None, word, "y"])
    assert not all_numbers(values)
    with pytest.raises(InputError) as caught:
        as_numbers(values)
    assert str(caught.value) == f"column 'width' should hold numbers, but row 3 holds {word!r}"
    with pytest.raises(InputError, match=r"row 1002 holds"), rows_offset(999):
        as_numbers(values)


@pytest.mark.parametrize("value", ["inf", "-inf", "Infinity", "1e999", math.inf, -math.inf])
def test_infinite_numbers_are_named_with_their_row(value: Any) -> None:
    values = pl.Series("width", [type(value)(1), value])
    with pytest.raises(InputError, match=r"'width' holds an infinite number in row 2; replace it"):
        as_numbers(values)


@pytest.mark.parametrize(
    "values",
    [
        pl.Series("c", [[1]]),
        pl.Series("c", ["a"], dtype=pl.Categorical),
        pl.Series("c", [b"a"]),
    ],
    ids=lambda s: str(s.dtype),
)
def test_types_without_numbers(values: pl.Series) -> None:
    assert numbers_of(values) is None
    assert not all_numbers(values)
    with pytest.raises(InputError, match=r"column 'c' should hold numbers, but its type is "):
        as_numbers(values)


def test_nothing_but_missing_values_are_no_numbers() -> None:
    assert not all_numbers(pl.Series(["", "NA"]))
    assert not all_numbers(pl.Series([None, None]))
    assert not all_numbers(pl.Series([math.nan]))


@given(st.integers(-(2**62), 2**62))
def test_an_integer_reads_the_same_from_any_column(n: int) -> None:
    expected = [str(n)]
    assert as_text(pl.Series([n])).to_list() == expected
    assert as_text(pl.Series([str(n)])).to_list() == expected
    if abs(n) < 2**53:
        assert as_text(pl.Series([float(n)])).to_list() == expected
        assert as_text(pl.Series([f"{n}.0"])).to_list() == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_its_spelling(x: float) -> None:
    assert as_numbers(pl.Series([repr(x)])).tolist() == [x]


@given(st.text())
def test_any_string_is_a_value_or_missing(word: str) -> None:
    (text,) = as_text(pl.Series([word])).to_list()
    # Python strips the separators U+001C to U+001F too, which are no white space in Unicode.
    stripped = word.strip("".join(c for c in word if c.isspace() and not "\x1c" <= c <= "\x1f"))
    if text is None:
        assert stripped in MISSING
    else:
        assert text == BOOLEANS.get(stripped, stripped) or float(text) == float(word)


def test_the_words_of_pandas_are_missing_values() -> None:
    parsers = pytest.importorskip("pandas._libs.parsers")
    assert {*MISSING} == {*parsers.STR_NA_VALUES, "?"}


@pytest.mark.parametrize("dtype", [pl.String, pl.Int64, pl.Float64, pl.Float32])
def test_a_number_that_means_no_value(dtype: Any) -> None:
    table = pl.DataFrame({"a": [5, -999, 7], "kept": [1, 2, 3]}).cast(dtype)
    got = without_words(table, [" -999 "])
    assert got["a"].null_count() == 1
    assert got.schema == table.schema
    assert got["kept"].equals(table["kept"])
    assert without_words(table, []) is table


def test_words_that_mean_no_value() -> None:
    table = pl.DataFrame({"a": ["x", " none ", "none of it", None], "b": [True, False, None, True]})
    got = without_words(table, ["none", "true"])
    assert got["a"].to_list() == ["x", None, "none of it", None]
    assert got["b"].equals(table["b"])


@pytest.mark.parametrize("word", ["True", "TRUE", " true ", "true"])
def test_true_is_1_in_a_column_of_numbers(word: str) -> None:
    np.testing.assert_array_equal(as_numbers(pl.Series([word, "0", "False", "2"])), [1, 0, 0, 2])
    assert not all_numbers(pl.Series([word]))
