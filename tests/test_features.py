"""Features: what scikit-learn makes of the same columns, and what it has no answer for."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from making import reviews
from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.encoder import Encoder, fit_encoder
from torchbce.classifier.columns.inference import Choice, Kind
from torchbce.classifier.columns.numeric import BIN_ROWS, BINS, NumericColumn
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.errors import InputError

RANDOM = np.random.default_rng(0)
WORDS = ["sun", "rain", "snow", "wind", "hail", "fog", "a", "Sun", "thunder-storm"]


def fitted(kind: Kind, values: Any, name: str = "c") -> tuple[Encoder, sp.csr_matrix]:
    return fit_encoder(pl.DataFrame({name: values}), [Choice(name, kind, "")])


def dense(matrix: sp.csr_matrix) -> np.ndarray:
    array: np.ndarray = matrix.toarray()
    return array


def check(encoder: Encoder, matrix: sp.csr_matrix, rows: int) -> None:
    """What holds of all features."""
    assert isinstance(matrix, sp.csr_matrix)
    assert matrix.dtype == np.float32
    assert matrix.shape == (rows, encoder.width)
    assert encoder.width == sum(column.width for column in encoder.columns)
    assert np.isfinite(matrix.data).all()


def same(one: sp.csr_matrix, other: sp.csr_matrix) -> bool:
    """Whether two matrices have the same bits."""
    one, other = one.copy(), other.copy()
    for matrix in (one, other):
        matrix.sort_indices()
    return bool(one.shape == other.shape and (one != other).nnz == 0)


# ------------------------------------------------------------------------------------------- text

SENTENCES = [" ".join(RANDOM.choice(WORDS, size=RANDOM.integers(1, 9))) for _ in range(60)]


@pytest.mark.parametrize("rows", [60, 240])
def test_text_is_scikit_learns_tf_idf(rows: int) -> None:
    texts = [*(SENTENCES * 4)[: rows - 1], "once"]
    encoder, matrix = fitted("text", texts)
    reference = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=1 if rows < 200 else 2, dtype=np.float32
    )
    expected = reference.fit_transform(texts)
    check(encoder, matrix, rows)
    (column,) = encoder.columns
    assert isinstance(column, TextColumn)
    assert column.vocabulary == reference.get_feature_names_out().tolist()
    assert ("once" in column.vocabulary) == (rows < 200)
    assert same(matrix, expected)
    new = ["Sun and rain", "", "nothing of it", "snow snow snow wind"]
    np.testing.assert_allclose(
        dense(encoder.transform(pl.DataFrame({"c": new}))),
        reference.transform(new).toarray(),
        rtol=1e-6,
    )


def test_rows_of_text_have_norm_1_or_0() -> None:
    encoder, _ = fitted("text", SENTENCES)
    table = pl.DataFrame({"c": ["sun rain", "", None, "unknown words", "...", "sun"]})
    norms = np.linalg.norm(dense(encoder.transform(table)), axis=1)
    np.testing.assert_allclose(norms, [1, 0, 0, 0, 0, 1], rtol=1e-6)


def test_text_of_numbers() -> None:
    encoder, matrix = fitted("text", [10, 20, 10, 30])
    assert encoder.width == 3
    assert same(encoder.transform(pl.DataFrame({"c": [10, 20, 10, 30]})), matrix)


def test_text_without_words_beside_a_column_that_says_something() -> None:
    table = pl.DataFrame({"t": ["!", "?", "!!", "..."], "n": [1.0, 2.0, 3.0, 4.0]})
    encoder, matrix = fit_encoder(table, [Choice("t", "text", ""), Choice("n", "numeric", "")])
    assert [column.name for column in encoder.columns] == ["n"]
    assert same(encoder.transform(table), matrix)


# ------------------------------------------------------------------------------------- categories


def test_categories_are_scikit_learns_one_hot() -> None:
    values = RANDOM.choice(["x", "y", "z", "é"], size=50)
    encoder, matrix = fitted("categorical", values)
    reference = OneHotEncoder(dtype=np.float32, handle_unknown="ignore")
    expected = reference.fit_transform(values[:, None])
    check(encoder, matrix, 50)
    assert same(matrix, expected)
    new = np.array(["y", "unseen", "z"])
    got = encoder.transform(pl.DataFrame({"c": new}))
    assert same(got, reference.transform(new[:, None]))
    assert dense(got)[1].tolist() == [0, 0, 0, 0]


def test_rare_categories_are_left_out_of_long_tables() -> None:
    for rows, kept in ((199, ["once", "x", "y"]), (200, ["x", "y"])):
        values = ["once", *("xy"[i % 2] for i in range(rows - 1))]
        (column,) = fitted("categorical", values)[0].columns
        assert isinstance(column, CategoricalColumn)
        assert column.categories == kept


def test_a_missing_category_is_flagged_where_training_had_one() -> None:
    encoder, matrix = fitted("categorical", ["x", None, "y", "NA"])
    check(encoder, matrix, 4)
    assert dense(matrix).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]]
    encoder, matrix = fitted("categorical", ["x", "y", "y"])
    assert dense(encoder.transform(pl.DataFrame({"c": ["", "y"]}))).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    "new",
    [
        pl.Series([1, 2, None]),
        pl.Series([1.0, 2.0, math.nan]),
        pl.Series(["1.0", " 2", "NA"]),
        pl.Series(["1", "2", None], dtype=pl.Categorical),
    ],
    ids=lambda s: str(s.dtype),
)
def test_a_category_is_known_by_any_type(new: pl.Series) -> None:
    encoder, _ = fitted("categorical", ["1", "2", ""])
    assert dense(encoder.transform(pl.DataFrame({"c": new}))).tolist() == np.eye(3).tolist()


# ---------------------------------------------------------------------------------------- numbers


def test_numbers_are_standardised_as_scikit_learn_does() -> None:
    values = RANDOM.normal(loc=1e3, scale=7, size=90)
    encoder, matrix = fitted("numeric", values)
    reference = StandardScaler().fit(values[:, None])
    check(encoder, matrix, 90)
    np.testing.assert_allclose(dense(matrix), reference.transform(values[:, None]), rtol=1e-5)
    (column,) = encoder.columns
    assert isinstance(column, NumericColumn)
    assert column.mean == pytest.approx(reference.mean_[0], rel=1e-12)
    assert column.scale == pytest.approx(reference.scale_[0], rel=1e-12)
    assert (column.flag_missing, column.edges) == (False, [])


def test_missing_numbers_are_the_mean_and_flagged() -> None:
    encoder, matrix = fitted("numeric", [1.0, None, 3.0, math.nan])
    check(encoder, matrix, 4)
    assert dense(matrix).tolist() == [[-1, 0], [0, 1], [1, 0], [0, 1]]
    assert dense(encoder.transform(pl.DataFrame({"c": ["2", ""]}))).tolist() == [[0, 0], [0, 1]]
    encoder, _ = fitted("numeric", [1.0, 3.0])
    assert dense(encoder.transform(pl.DataFrame({"c": [None, 3.0]}))).tolist() == [[0], [1]]


def test_one_number_or_none() -> None:
    encoder, matrix = fitted("numeric", [5.0, None, 5.0])
    assert dense(matrix).tolist() == [[0, 0], [0, 1], [0, 0]]
    assert dense(encoder.transform(pl.DataFrame({"c": [6.0]}))).tolist() == [[1, 0]]


@pytest.mark.parametrize("rows", [199, 200, 450, 1600, 5000])
def test_bins_hold_a_hundred_rows_each(rows: int) -> None:
    values = RANDOM.normal(size=rows) ** 3
    encoder, matrix = fitted("numeric", values)
    check(encoder, matrix, rows)
    (column,) = encoder.columns
    assert isinstance(column, NumericColumn)
    bins = min(BINS, rows // BIN_ROWS)
    if bins < 2:
        assert column.edges == []
        return
    assert len(column.edges) == bins - 1
    assert column.edges == sorted(column.edges)
    members = dense(matrix)[:, 1:]
    assert (members.sum(axis=1) == 1).all()
    assert members.sum(axis=0).min() >= BIN_ROWS - 1
    for edge, value in zip(column.edges, np.sort(values)[:: rows // bins][1:], strict=False):
        assert abs((values <= edge).sum() - (values <= value).sum()) <= bins


def test_a_value_at_an_edge_is_in_the_bin_above() -> None:
    encoder, _ = fitted("numeric", [0.0] * 150 + [1.0] * 150)
    (column,) = encoder.columns
    assert isinstance(column, NumericColumn)
    assert column.edges == [1.0]
    new = pl.DataFrame({"c": [-9.0, 0.0, 0.5, 1.0, 9.0, None]})
    bins = dense(encoder.transform(new))[:, 1:]
    assert bins.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 0]]


def test_ties_make_fewer_bins_and_no_empty_one() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 50.0], [1700, 20, 30, 50])
    encoder, matrix = fitted("numeric", values)
    (column,) = encoder.columns
    assert isinstance(column, NumericColumn)
    assert len(set(column.edges)) == len(column.edges) <= 3
    assert (dense(matrix)[:, 1:].sum(axis=0) > 0).all()


def test_a_row_without_a_number_is_in_no_bin() -> None:
    values = [*RANDOM.normal(size=400), *[None] * 10]
    _, matrix = fitted("numeric", values)
    assert (dense(matrix)[-10:, 2:] == 0).all()
    assert (dense(matrix)[-10:, :2] == [0, 1]).all()


def test_huge_values_are_cut() -> None:
    encoder, _ = fitted("numeric", [1.0, 2.0, 3.0])
    got = dense(encoder.transform(pl.DataFrame({"c": [1e300, -1.7e308, 2.0]})))
    assert got.tolist() == [[1e6], [-1e6], [0]]


@pytest.mark.parametrize("values", [[1e308, -1e308, 1e308], [0.0, 5e-324, 0.0]])
def test_what_cannot_be_standardised_is_told(values: list[float]) -> None:
    with pytest.raises(
        InputError, match=r"column 'c' cannot be standardised: its values range from "
    ):
        fitted("numeric", values)


def test_infinite_and_no_numbers_name_their_row() -> None:
    with pytest.raises(InputError, match=r"column 'c' holds an infinite number in row 2;"):
        fitted("numeric", ["1", "inf", "2"])
    encoder, _ = fitted("numeric", [1.0, 2.0])
    with pytest.raises(InputError, match=r"column 'c' holds an infinite number in row 2;"):
        encoder.transform(pl.DataFrame({"c": ["1", "-inf"]}))
    with pytest.raises(InputError, match=r"should hold numbers, but row 3 holds 'many'"):
        encoder.transform(pl.DataFrame({"c": ["1", "", "many"]}))


# -------------------------------------------------------------------------------------- together

KINDS = {"review": "text", "place": "categorical", "stars": "numeric", "kind": "dropped"}
CHOICES = [Choice(name, kind, "") for name, kind in KINDS.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [4, 24, 230])
def test_the_fitted_matrix_is_the_transformed_table(rows: int) -> None:
    table = reviews(rows)
    encoder, matrix = fit_encoder(table, CHOICES)
    check(encoder, matrix, rows)
    again = encoder.transform(table)
    check(encoder, again, rows)
    assert same(matrix, again)
    # A row's features do not depend on the other rows, nor on other columns and their order.
    one = encoder.transform(table[2:3].select("kind", "stars", "review", "place"))
    assert same(one, matrix[2:3])


def test_as_strings_the_table_is_the_same() -> None:
    table = reviews(24)
    encoder, matrix = fit_encoder(table, CHOICES)
    strings = table.cast(pl.String)
    other, from_strings = fit_encoder(strings, CHOICES)
    assert other.columns == encoder.columns
    assert same(from_strings, matrix)
    assert same(encoder.transform(strings), matrix)


def test_no_rows() -> None:
    encoder, _ = fit_encoder(reviews(24), CHOICES)
    assert encoder.transform(reviews(24)[:0]).shape == (0, encoder.width)


@pytest.mark.parametrize("kind", ["text", "categorical", "numeric"])
def test_a_column_that_is_missing_throughout(kind: Kind) -> None:
    encoder, _ = fitted(kind, ["10", "20", "30", "20"])
    for nothing in (pl.Series([None] * 3), pl.Series(["", "NA", None])):
        check(encoder, encoder.transform(pl.DataFrame({"c": nothing})), 3)


@pytest.mark.parametrize(
    "kinds", [{"c": "numeric"}, {"c": "categorical"}, {"c": "text"}, {"c": "text", "d": "numeric"}]
)
def test_all_features_constant(kinds: dict[str, Kind]) -> None:
    table = pl.DataFrame({"c": ["7", "7", "7.0"], "d": [1, 1, 1]}).with_columns(
        c=pl.Series(["7", "7", "7"])
    )
    with pytest.raises(InputError, match=r"^every feature is constant: .* of columns? 'c'"):
        fit_encoder(table, [Choice(name, kind, "") for name, kind in kinds.items()])


def test_text_without_any_word() -> None:
    with pytest.raises(InputError, match=r"^every feature is constant: "):
        fitted("text", ["!", "?", ""])


def test_columns_that_are_missing_are_named() -> None:
    encoder, _ = fit_encoder(reviews(24), CHOICES)
    with pytest.raises(InputError) as caught:
        encoder.transform(reviews(24).select("review", "kind"))
    assert str(caught.value) == (
        "the model reads columns 'place' and 'stars', which the table does not have; it has "
        "'review' and 'kind'"
    )
    with pytest.raises(InputError, match=r"^the model reads column 'place', which"):
        encoder.transform(reviews(24).drop("place"))


@pytest.mark.parametrize("name", ["review", "place", "stars"])
@pytest.mark.parametrize(
    "values", [[[1]] * 4, [{"k": 1}] * 4, [b"x"] * 4], ids=["list", "struct", "bytes"]
)
def test_columns_of_another_type_are_named(name: str, values: Any) -> None:
    table = reviews(24)
    encoder, _ = fit_encoder(table, CHOICES)
    wrong = table[:4].with_columns(pl.Series(name, values))
    with pytest.raises(
        InputError, match=rf"^column '{name}' is {KINDS[name]} in the model, but its"
    ):
        encoder.transform(wrong)


def test_words_where_numbers_are_read() -> None:
    encoder, _ = fit_encoder(reviews(24), CHOICES)
    with pytest.raises(InputError, match=r"^column 'stars' should hold numbers, but row 1 holds"):
        encoder.transform(reviews(24).with_columns(stars=pl.lit("good")))


# -------------------------------------------------------------------------------------- properties

CELLS = st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["x", "y", "1", "1.0", "NA"]))
FINITE = st.floats(-1e100, 1e100) | st.none()


@given(st.lists(CELLS, min_size=3, max_size=30), st.lists(CELLS, max_size=10))
@settings(max_examples=60, deadline=None)
def test_any_strings(values: list[str | None], new: list[str | None]) -> None:
    for kind in ("text", "categorical"):
        series = pl.Series(values, dtype=pl.String)
        try:
            encoder, matrix = fitted(kind, series)
        except InputError as error:
            assert "every feature is constant" in str(error)  # noqa: PT017
            continue
        check(encoder, matrix, len(values))
        assert same(encoder.transform(pl.DataFrame({"c": series})), matrix)
        unseen = pl.DataFrame({"c": pl.Series(new, dtype=pl.String)})
        check(encoder, encoder.transform(unseen), len(new))


@given(
    st.lists(FINITE, min_size=2, max_size=30),
    st.lists(st.floats(allow_infinity=False) | st.none(), max_size=10),
    st.integers(1, 12),
)
@settings(max_examples=80, deadline=None)
def test_any_numbers(values: list[float | None], new: list[float | None], times: int) -> None:
    series = pl.Series(values * times, dtype=pl.Float64)
    try:
        encoder, matrix = fitted("numeric", series)
    except InputError as error:
        assert "constant" in str(error) or "cannot be standardised" in str(error)  # noqa: PT017
        return
    check(encoder, matrix, len(series))
    assert same(encoder.transform(pl.DataFrame({"c": series})), matrix)
    unseen = pl.DataFrame({"c": pl.Series(new, dtype=pl.Float64)})
    check(encoder, encoder.transform(unseen), len(new))
