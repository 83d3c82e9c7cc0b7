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
from torchbce.classifier.columns.bins import BIN_ROWS, BINS, MANY_BINS, MANY_ROWS, bin_edges
from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.encoder import Encoder, fit_encoder
from torchbce.classifier.columns.inference import Choice, Kind
from torchbce.classifier.columns.numeric import CLIP, NumericColumn
from torchbce.classifier.columns.text import UNITS, TextColumn, text_units
from torchbce.classifier.errors import InputError
from torchbce.classifier.models.features import Layout, SparseRows, linear_features

RANDOM = np.random.default_rng(0)
WORDS = ["sun", "rain", "snow", "wind", "hail", "fog", "a", "Sun", "thunder-storm"]


def matrix_of(rows: SparseRows) -> sp.csr_matrix:
    values = np.ones(len(rows.indices), np.float32) if rows.values is None else rows.values
    return sp.csr_matrix((values, rows.indices, rows.indptr), (len(rows.indptr) - 1, rows.width))


def transform(encoder: Encoder, table: pl.DataFrame) -> sp.csr_matrix:
    """The features of the linear model."""
    return matrix_of(linear_features(encoder, encoder.transform(table)))


def fit_features(table: pl.DataFrame, choices: list[Choice]) -> tuple[Encoder, sp.csr_matrix]:
    encoder, encoded = fit_encoder(table, choices)
    return encoder, matrix_of(linear_features(encoder, encoded))


def fitted(kind: Kind, values: Any, name: str = "c") -> tuple[Encoder, sp.csr_matrix]:
    return fit_features(pl.DataFrame({name: values}), [Choice(name, kind, "")])


def width(encoder: Encoder) -> int:
    return Layout.of(encoder).width


def dense(matrix: sp.csr_matrix) -> np.ndarray:
    array: np.ndarray = matrix.toarray()
    return array


def check(encoder: Encoder, matrix: sp.csr_matrix, rows: int) -> None:
    """What holds of all features."""
    assert isinstance(matrix, sp.csr_matrix)
    assert matrix.dtype == np.float32
    assert matrix.shape == (rows, width(encoder))
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
def test_text_features_equal_scikit_learns_tf_idf(rows: int) -> None:
    texts = [*(SENTENCES * 4)[: rows - 1], "once"]
    encoder, matrix = fitted("text", texts)
    check(encoder, matrix, rows)
    (column,) = encoder.columns
    assert isinstance(column, TextColumn)
    assert [units.unit for units in column.units] == ["words", "characters"]
    least = 1 if rows < 200 else 2
    new = ["Sun and rain", "", "nothing of it", "snow snow snow wind"]
    start = 0
    for units in column.units:
        reference = TfidfVectorizer(
            sublinear_tf=True, min_df=least, dtype=np.float32, **UNITS[units.unit]
        )
        expected = reference.fit_transform(texts)
        assert units.vocabulary == reference.get_feature_names_out().tolist()
        assert ("once" in units.vocabulary) == (rows < 200)
        stop = start + len(units.vocabulary)
        assert same(matrix[:, start:stop], expected)
        np.testing.assert_allclose(
            dense(transform(encoder, pl.DataFrame({"c": new})))[:, start:stop],
            reference.transform(new).toarray(),
            rtol=1e-6,
        )
        start = stop


def test_rows_of_text_have_norm_1_or_0_in_each_unit() -> None:
    encoder, _ = fitted("text", SENTENCES)
    (column,) = encoder.columns
    assert isinstance(column, TextColumn)
    words = len(column.units[0].vocabulary)
    table = pl.DataFrame({"c": ["sun rain", "", None, "unknown words", "...", "sun"]})
    norms = np.linalg.norm(dense(transform(encoder, table))[:, :words], axis=1)
    np.testing.assert_allclose(norms, [1, 0, 0, 0, 0, 1], rtol=1e-6)


def test_text_of_numbers() -> None:
    encoder, matrix = fitted("text", [10, 20, 10, 30])
    assert same(transform(encoder, pl.DataFrame({"c": [10, 20, 10, 30]})), matrix)


def distance(one: str, other: str, texts: list[str]) -> float:
    """Between the features of two texts, of a column with these."""
    encoder, _ = fitted("text", texts)
    rows = dense(transform(encoder, pl.DataFrame({"c": [one, other]})))
    return float(np.linalg.norm(rows[0] - rows[1]))


def test_single_characters_and_symbols_count() -> None:
    texts = [f"{kind} of {i}" for i, kind in enumerate(["grade A", "grade F", "C", "C++"] * 20)]
    for one, other in (("grade A", "grade F"), ("C", "C++")):
        assert distance(f"{one} of 1", f"{other} of 1", texts) > 0.3
    assert distance("a :)", "a :(", ["a :)", "a :(", "b :)", "b :("] * 10) > 0.3


def test_scripts_without_spaces() -> None:
    good, bad = "这部电影非常好看", "这部电影非常难看"
    texts = [f"{(good, bad)[i % 2]}第{i}次" for i in range(60)]
    assert text_units(pl.Series(texts)) == ["words", "characters across spaces"]
    assert distance(good, bad, texts) > 0.3
    assert text_units(pl.Series(SENTENCES)) == ["words", "characters"]
    assert text_units(pl.Series(["a long text " * 1000] * 400)) == ["words"]


# ------------------------------------------------------------------------------------- categories


def test_category_features_equal_scikit_learns_one_hot() -> None:
    values = RANDOM.choice(["x", "y", "z", "é"], size=50)
    encoder, matrix = fitted("categorical", values)
    (column,) = encoder.categorical
    counts = [int((values == category).sum()) for category in column.categories]
    assert counts == sorted(counts, reverse=True)
    known = [np.array(column.categories)]
    reference = OneHotEncoder(categories=known, dtype=np.float32, handle_unknown="ignore")
    expected = reference.fit_transform(values[:, None])
    check(encoder, matrix, 50)
    assert same(matrix, expected)
    new = np.array(["y", "unseen", "z"])
    got = transform(encoder, pl.DataFrame({"c": new}))
    assert same(got, reference.transform(new[:, None]))
    assert dense(got)[1].tolist() == [0, 0, 0, 0]


def test_categories_are_in_the_order_of_their_rows() -> None:
    """Also those of a single row, in a table of any length; equal counts in alphabetical order."""
    values = ["once", "again", *("xyx"[i % 3] for i in range(600))]
    (column,) = fitted("categorical", values)[0].columns
    assert isinstance(column, CategoricalColumn)
    assert column.categories == ["x", "y", "again", "once"]


def test_a_missing_category_is_flagged_where_training_had_one() -> None:
    encoder, matrix = fitted("categorical", ["x", None, "y", "NA"])
    check(encoder, matrix, 4)
    assert dense(matrix).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]]
    encoder, matrix = fitted("categorical", ["x", "y", "y"])
    assert dense(transform(encoder, pl.DataFrame({"c": ["", "y"]}))).tolist() == [[0, 0], [1, 0]]


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
def test_a_category_is_recognised_in_any_type(new: pl.Series) -> None:
    encoder, _ = fitted("categorical", ["1", "2", ""])
    assert dense(transform(encoder, pl.DataFrame({"c": new}))).tolist() == np.eye(3).tolist()


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
    assert dense(matrix).tolist() == [[0, -1], [1, 0], [0, 1], [1, 0]]
    table = pl.DataFrame({"c": ["2", ""]})
    assert dense(transform(encoder, table)).tolist() == [[0, 0], [1, 0]]
    encoder, _ = fitted("numeric", [1.0, 3.0])
    assert dense(transform(encoder, pl.DataFrame({"c": [None, 3.0]}))).tolist() == [[0], [1]]


def test_one_number_or_none() -> None:
    encoder, matrix = fitted("numeric", [5.0, None, 5.0])
    assert dense(matrix).tolist() == [[0, 0], [1, 0], [0, 0]]
    assert dense(transform(encoder, pl.DataFrame({"c": [6.0]}))).tolist() == [[0, 1]]


@pytest.mark.parametrize("rows", [99, 100, 450, 1600, 5000, MANY_ROWS])
def test_bins_share_the_rows(rows: int) -> None:
    values = RANDOM.normal(size=rows) ** 3
    encoder, matrix = fitted("numeric", values)
    check(encoder, matrix, rows)
    (column,) = encoder.columns
    assert isinstance(column, NumericColumn)
    bins = min(MANY_BINS if rows >= MANY_ROWS else BINS, rows // BIN_ROWS)
    if bins < 2:
        assert column.edges == []
        return
    assert len(column.edges) == bins - 1
    assert column.edges == sorted(column.edges)
    members = dense(matrix)[:, :-1]
    assert (members.sum(axis=1) == 1).all()
    counts = members.sum(axis=0)
    assert counts.min() >= rows / bins - 1
    assert counts.max() <= rows / bins + 1


def test_a_heavy_value_has_a_bin_of_its_own() -> None:
    """Quantiles of all rows would leave the other values almost without edges."""
    other = np.sort(RANDOM.normal(loc=50, size=1000))
    values = np.concatenate([np.zeros(9000), other, np.full(700, 49.5)])
    edges = bin_edges(values)
    code = np.searchsorted(edges, values, side="right")
    assert (code[:9000] == 0).all()
    assert len(set(code[-700:])) == 1
    assert not np.isin(code[9000:10000], [0, code[-1]]).any()
    counts = np.bincount(code)
    assert len(counts) >= BINS // 2
    assert counts.min() >= 20
    assert counts[1:].max() <= 710


def test_few_values_have_a_bin_each() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 50.0], [1500, 120, 130, 150])
    assert bin_edges(values).tolist() == [0.5, 1.5, 26.0]
    encoder, _ = fitted("numeric", values)
    new = pl.DataFrame({"c": [-9.0, 0.0, 0.4, 0.5, 30.0, None]})
    assert encoder.transform(new).codes[:, 0].tolist() == [0, 0, 0, 1, 3, -1]


def test_edges_are_between_neighbouring_numbers() -> None:
    one = 1.0
    above = np.nextafter(one, 2)
    values = np.repeat([one, above], 100)
    (edge,) = bin_edges(values)
    assert one < edge <= above
    (edge,) = bin_edges(np.repeat([-1.7e308, 1.7e308], 100))
    assert edge == 0


def test_a_row_without_a_number_is_in_no_bin() -> None:
    values = [*RANDOM.normal(size=400), *[None] * 10]
    _, matrix = fitted("numeric", values)
    assert (dense(matrix)[-10:, :-2] == 0).all()
    assert (dense(matrix)[-10:, -2:] == [1, 0]).all()


def test_huge_values_are_clipped() -> None:
    encoder, _ = fitted("numeric", [1.0, 2.0, 3.0])
    got = dense(transform(encoder, pl.DataFrame({"c": [1e300, -1.7e308, 2.0]})))
    assert got.tolist() == [[CLIP], [-CLIP], [0]]


@pytest.mark.parametrize("values", [[1e308, -1e308, 1e308], [0.0, 5e-324, 0.0]])
def test_columns_that_cannot_be_standardised_raise(values: list[float]) -> None:
    with pytest.raises(
        InputError, match=r"column 'c' cannot be standardised: its values range from "
    ):
        fitted("numeric", values)


def test_errors_name_the_row_of_an_infinite_or_non_numeric_value() -> None:
    with pytest.raises(InputError, match=r"column 'c' holds an infinite number in row 2;"):
        fitted("numeric", ["1", "inf", "2"])
    encoder, _ = fitted("numeric", [1.0, 2.0])
    with pytest.raises(InputError, match=r"column 'c' holds an infinite number in row 2;"):
        transform(encoder, pl.DataFrame({"c": ["1", "-inf"]}))
    with pytest.raises(InputError, match=r"should hold numbers, but row 3 holds 'many'"):
        transform(encoder, pl.DataFrame({"c": ["1", "", "many"]}))


# -------------------------------------------------------------------------------------- together

KINDS = {"review": "text", "place": "categorical", "stars": "numeric", "kind": "dropped"}
CHOICES = [Choice(name, kind, "") for name, kind in KINDS.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [4, 24, 230])
def test_the_fitted_matrix_is_the_transformed_table(rows: int) -> None:
    table = reviews(rows)
    encoder, matrix = fit_features(table, CHOICES)
    check(encoder, matrix, rows)
    again = transform(encoder, table)
    check(encoder, again, rows)
    assert same(matrix, again)
    # A row's features do not depend on the other rows, nor on other columns and their order.
    one = transform(encoder, table[2:3].select("kind", "stars", "review", "place"))
    assert same(one, matrix[2:3])


def test_a_table_of_strings_has_the_same_features() -> None:
    table = reviews(24)
    encoder, matrix = fit_features(table, CHOICES)
    strings = table.cast(pl.String)
    other, from_strings = fit_features(strings, CHOICES)
    assert other.columns == encoder.columns
    assert same(from_strings, matrix)
    assert same(transform(encoder, strings), matrix)


def test_no_rows() -> None:
    encoder, _ = fit_encoder(reviews(24), CHOICES)
    assert transform(encoder, reviews(24)[:0]).shape == (0, width(encoder))


@pytest.mark.parametrize("kind", ["text", "categorical", "numeric"])
def test_a_column_that_is_missing_throughout(kind: Kind) -> None:
    encoder, _ = fitted(kind, ["10", "20", "30", "20"])
    for nothing in (pl.Series([None] * 3), pl.Series(["", "NA", None])):
        check(encoder, transform(encoder, pl.DataFrame({"c": nothing})), 3)


@pytest.mark.parametrize(
    "kinds", [{"c": "numeric"}, {"c": "categorical"}, {"c": "text"}, {"c": "text", "d": "numeric"}]
)
def test_all_features_constant(kinds: dict[str, Kind]) -> None:
    table = pl.DataFrame({"c": ["7", "7", "7.0"], "d": [1, 1, 1]}).with_columns(
        c=pl.Series(["7", "7", "7"])
    )
    with pytest.raises(InputError, match=r"^every feature is constant: .* of columns? 'c'"):
        fit_encoder(table, [Choice(name, kind, "") for name, kind in kinds.items()])


def test_text_without_any_character() -> None:
    with pytest.raises(InputError, match=r"^every feature is constant: "):
        fitted("text", ["", " ", ""])


def test_columns_that_are_missing_are_named() -> None:
    encoder, _ = fit_encoder(reviews(24), CHOICES)
    with pytest.raises(InputError) as caught:
        transform(encoder, reviews(24).select("review", "kind"))
    assert str(caught.value) == (
        "the model reads columns 'place' and 'stars', which the table does not have; it has "
        "'review' and 'kind'"
    )
    with pytest.raises(InputError, match=r"^the model reads column 'place', which"):
        transform(encoder, reviews(24).drop("place"))


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
        transform(encoder, wrong)


def test_words_where_numbers_are_read() -> None:
    encoder, _ = fit_encoder(reviews(24), CHOICES)
    with pytest.raises(InputError, match=r"^column 'stars' should hold numbers, but row 1 holds"):
        transform(encoder, reviews(24).with_columns(stars=pl.lit("good")))


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
        assert same(transform(encoder, pl.DataFrame({"c": series})), matrix)
        unseen = pl.DataFrame({"c": pl.Series(new, dtype=pl.String)})
        check(encoder, transform(encoder, unseen), len(new))


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
    assert same(transform(encoder, pl.DataFrame({"c": series})), matrix)
    unseen = pl.DataFrame({"c": pl.Series(new, dtype=pl.Float64)})
    check(encoder, transform(encoder, unseen), len(new))
