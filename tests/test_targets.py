"""Which of two values is positive, and what makes a column no target."""

import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from torchbce.classifier.columns.target import KNOWN_PAIRS, Target, choose_target
from torchbce.classifier.errors import InputError


def target_of(values: Any, positive: str | None = None) -> Target:
    return choose_target(pl.DataFrame({"x": range(len(values)), "y": values}), "y", positive)


@pytest.mark.parametrize(("no", "yes"), KNOWN_PAIRS, ids=lambda v: str(v))
@pytest.mark.parametrize("spell", [str, str.upper, str.title, lambda v: f" {v} "])
def test_evident_pairs(no: str, yes: str, spell: Any) -> None:
    for values in ([spell(no), spell(yes)], [spell(yes), spell(no), spell(no)]):
        target = target_of(values)
        assert (target.negative, target.positive) == (spell(no).strip(), spell(yes).strip())
        assert target.reason == f"{yes} against {no}"
        assert target.array(pl.Series(values)).tolist() == [v == spell(yes) for v in values]


@pytest.mark.parametrize(
    "values",
    [
        [0, 1],
        [0.0, 1.0],
        [-1, 1],
        [False, True],
        pl.Series(["no", "yes"], dtype=pl.Categorical),
        pl.Series([0, 1], dtype=pl.Int8),
        ["0.0", "1.0"],
        ["0", "1.0"],
    ],
    ids=repr,
)
def test_any_type_will_do(values: Any) -> None:
    target = target_of(values)
    array = target.array(pl.Series(values))
    assert array.dtype == np.float32
    assert array.tolist() == [0, 1]


@pytest.mark.parametrize("positive", ["spam", " spam "])
def test_the_user_names_the_positive_value(positive: str) -> None:
    target = target_of(["ham", "spam", "ham"], positive)
    assert (target.negative, target.positive, target.reason) == ("ham", "spam", "as you said")
    assert target_of([0, 1], "0").positive == "0"
    assert target_of([0, 1], "0.0").positive == "0"
    assert target_of([1.5, 2.5], "1.5").negative == "2.5"


def error(values: Any, positive: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        target_of(values, positive)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "spelled"),
    [
        (["Yes", "yes", "No", "no", "yes", "No"], ("No", "yes")),
        (["T", "t", "F", "F", "t"], ("F", "t")),
        (["TRUE", "tRuE", "False", "false", "False"], ("False", "TRUE")),
        (["Pos", "POS", "pos", "POS", "neg"], ("neg", "POS")),
    ],
)
def test_words_of_a_pair_in_upper_and_lower_case(
    values: list[str], spelled: tuple[str, str]
) -> None:
    target = target_of(values)
    assert (target.negative, target.positive) == spelled
    expected = [value.lower() == spelled[1].lower() for value in values]
    for dtype in (pl.String, pl.Categorical):
        assert target.array(pl.Series(values, dtype=dtype)).tolist() == expected
    assert target_of(values, spelled[0].title()).positive == spelled[0]
    labels = target.labels(np.array([False, True]), as_written=True)
    assert labels.to_list() == [*spelled]


def test_other_words_keep_their_case() -> None:
    assert "holds 4 values" in error(["Ham", "ham", "Spam", "spam"])
    assert "holds 3 values" in error(["Yes", "yes", "on"])
    assert error(["Yes", "yes", "YES", "yes"]).startswith("target column 'y' holds 'yes' in every")


def test_constant() -> None:
    assert error([1, 1]) == "target column 'y' holds '1' in every row; two values are needed"
    assert error(["1", "1.0"]).startswith("target column 'y' holds '1' in every row")


def test_missing_values_are_counted() -> None:
    sentence = "target column 'y' has no value in 2 rows, the first is row 3; drop or fill them"
    assert error([0, 1, None, 1, None]) == sentence
    sentence = sentence.replace("row 3", "row 3, which holds 'NA'")
    assert error(["a", "b", "NA", "?", "a"]) == sentence


def test_three_values_are_listed() -> None:
    sentence = error(["a", "b", "c", "a", "a", "b"])
    assert sentence.startswith("target column 'y' holds 3 values, 'a', 'b' and 'c'; exactly two")
    sentence = error(list("abcdefghij"))
    assert "holds 10 values" in sentence
    assert "and 4 more" in sentence
    assert len(error([f"{'long ' * 50}{i}" for i in range(9)])) < 500


def test_unknown_positive() -> None:
    assert error(["ham", "spam"], "Spam").startswith(
        "positive='Spam' is not a value of target column 'y', which holds "
    )
    assert "positive=''" in error(["ham", "spam"], "")


def test_what_is_not_evident_is_asked_for() -> None:
    for values in (["ham", "spam"], [1, 2], ["on", "off"], ["1", "yes"], ["no", "1"]):
        sentence = error(values)
        assert sentence.startswith("target column 'y' holds '")
        assert "say which is the positive one, for instance positive='" in sentence
        assert all(repr(str(value)) in sentence for value in values)


def test_the_sentence_is_the_same_each_time() -> None:
    assert len({error(["ham", "spam", "spam", "ham"]) for _ in range(20)}) == 1


def test_unknown_column() -> None:
    with pytest.raises(InputError, match=r"^target column 'Y' is not in the table; did you mean"):
        choose_target(pl.DataFrame({"y": [0, 1]}), "Y", None)
    with pytest.raises(InputError, match=r"the names are 'y' and 'z'$"):
        choose_target(pl.DataFrame({"y": [0, 1], "z": [0, 1]}), "label", None)


@pytest.mark.parametrize(
    "values", [[[1], [0]], [{"k": 1}, {"k": 0}], [datetime.date(2024, 1, 1)] * 2, [b"a", b"b"]]
)
def test_types_that_are_no_target(values: Any) -> None:
    assert error(values).startswith("target column 'y' is of type ")


def test_new_data_must_hold_the_same_two_values() -> None:
    target = Target("y", "no", "yes")
    assert target.array(pl.Series("y", ["yes", " no", "yes"])).tolist() == [1, 0, 1]
    assert target.array(pl.Series("y", ["no", "no"])).tolist() == [0, 0]
    with pytest.raises(InputError, match=r"^target column 'y' holds 'maybe' in row 2; expected"):
        target.array(pl.Series("y", ["no", "maybe"]))
    with pytest.raises(InputError, match=r"has no value in 1 row, the first is row 1;"):
        target.array(pl.Series("y", [None, "no"]))


@pytest.mark.parametrize(
    ("negative", "positive", "expected"),
    [
        ("no", "yes", ["no", "yes"]),
        ("0", "1", [0, 1]),
        ("-1", "1", [-1, 1]),
        ("0", "x", ["0", "x"]),
        ("1.5", "2.5", ["1.5", "2.5"]),
        ("false", "true", [False, True]),
        ("FALSE", "TRUE", [False, True]),
        ("true", "false", [True, False]),
        ("01", "02", ["01", "02"]),
        ("1", "02", ["1", "02"]),
        ("0.0", "1.0", ["0.0", "1.0"]),
    ],
)
def test_labels(negative: str, positive: str, expected: list[Any]) -> None:
    target = Target("y", negative, positive)
    labels = target.labels(np.array([False, True, True]))
    assert labels.name == "predicted"
    assert labels.to_list() == [expected[0], expected[1], expected[1]]
    assert len(target.labels(np.zeros(0, dtype=bool))) == 0
    written = target.labels(np.array([False, True]), as_written=True)
    assert written.to_list() == [negative, positive]


@pytest.mark.parametrize(
    ("values", "spelled"),
    [
        (["01", "02", "02"], ("01", "02")),
        (["01", "2", "02", "02"], ("01", "02")),
        (["True", "FALSE", "False", "False"], ("False", "True")),
        ([0.0, 1.0], ("0", "1")),
        (["0.0", "1.0", "0"], ("0.0", "1.0")),
    ],
)
def test_the_values_are_as_they_are_written_most_often(
    values: list[Any], spelled: tuple[str, str]
) -> None:
    target = target_of(values, None if spelled[0] != "01" else "02")
    assert (target.negative, target.positive) == spelled
    assert target.array(pl.Series(values)).sum() == sum(
        str(v) not in ("01", "0") for v in values
    ) - (sum(str(v) in ("0.0", "False", "FALSE") for v in values))


BOOLEANS: list[Any] = [[False, True], [0, 1], [0.0, 1.0], ["False", "True"], ["FALSE", "TRUE"]]
BOOLEANS += [["0", "1"], ["false", "true"]]


@pytest.mark.parametrize("one", BOOLEANS, ids=repr)
@pytest.mark.parametrize("other", BOOLEANS, ids=repr)
def test_a_bool_is_the_same_target_in_every_format(one: Any, other: Any) -> None:
    assert target_of(one).array(pl.Series(other)).tolist() == [0, 1]
    with pytest.raises(InputError, match="holds 'yes' in row 1"):
        target_of(one).array(pl.Series(["yes"]))
