"""The features of a part of the rows are those of an encoder that was fitted to its own rows."""

import numpy as np
import polars as pl
import pytest

from torchbce.classifier.columns.encoder import Encoder, fit_encoder
from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.models.features import Layout, SparseRows, linear_features
from torchbce.classifier.models.vocabulary import Vocabulary, part_rows

CHOICES = [Choice("note", "text", ""), Choice("title", "text", ""), Choice("size", "numeric", "")]


def table(rows: int) -> pl.DataFrame:
    r = np.random.default_rng(3)
    words = np.array([f"w{i}" for i in range(80)])
    share = 1 / np.arange(1, 81)
    share /= share.sum()

    def texts() -> list[str]:
        return [" ".join(r.choice(words, r.integers(0, 6), p=share)) for _ in range(rows)]

    return pl.DataFrame({"note": texts(), "title": texts(), "size": r.normal(size=rows)})


def named(encoder: Encoder, rows: SparseRows) -> list[dict[tuple[str, str], float]]:
    """The features of each row by their names."""
    layout = Layout.of(encoder)
    names = [("size", f"{number}") for number in range(layout.text)]
    for text in encoder.texts:
        names += [
            (f"{text.name} {units.unit}", gram) for units in text.units for gram in units.vocabulary
        ]
    assert len(names) == layout.width
    values = np.ones(len(rows.indices)) if rows.values is None else rows.values
    return [
        {
            names[rows.indices[at]]: float(values[at])
            for at in range(start, stop)
            if rows.indices[at] >= layout.text
        }
        for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
    ]


# Below 200 rows a feature needs one row, from there on two.
@pytest.mark.parametrize(("rows", "train_rows"), [(90, 60), (230, 205), (500, 400)])
def test_a_part_has_the_features_of_an_encoder_fitted_to_its_rows(
    rows: int, train_rows: int
) -> None:
    whole = table(rows)
    encoder, encoded = fit_encoder(whole, CHOICES)
    order = np.random.default_rng(1).permutation(rows)
    train, held_out = order[:train_rows], order[train_rows:]
    found = part_rows(linear_features(encoder, encoded), Vocabulary.of(encoder), train, held_out)

    own, of_train = fit_encoder(whole[train.tolist()], CHOICES)
    expected = of_train, own.transform(whole[held_out.tolist()])
    for features, arrays in zip(found, expected, strict=True):
        pairs = zip(named(encoder, features), named(own, linear_features(own, arrays)), strict=True)
        for row, expected_row in pairs:
            # float32 values, each scaled twice and divided by a norm of such: 6 roundings of 2^-24.
            assert row == pytest.approx(expected_row, rel=6 * 2**-24)


def test_numbers_and_matrices_stay() -> None:
    r = np.random.default_rng(0)
    numbers = pl.DataFrame({"x": r.normal(size=300)})
    encoder, encoded = fit_encoder(numbers, [Choice("x", "numeric", "")])
    rows = linear_features(encoder, encoded)
    train, held_out = np.arange(250), np.arange(250, 300)
    found = part_rows(rows, Vocabulary.of(encoder), train, held_out)
    for part, index in zip(found, (train, held_out), strict=True):
        for array, expected in zip(part.matrix, rows.take(index).matrix, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_the_text_alone_has_the_same_features() -> None:
    encoder, encoded = fit_encoder(table(500), CHOICES)
    rows, vocabulary = linear_features(encoder, encoded), Vocabulary.of(encoder)
    start = Layout.of(encoder).text
    text = SparseRows(
        encoded.text.indptr.astype(np.int64),
        encoded.text.indices.astype(np.int32),
        encoded.text.data,
        encoded.text.shape[1],
    )
    train, held_out = np.arange(400), np.arange(400, 500)
    whole = part_rows(rows, vocabulary, train, held_out)
    alone = part_rows(text, vocabulary.of_text(encoder), train, held_out)
    for features, own in zip(whole, alone, strict=True):
        np.testing.assert_array_equal(features.csr()[:, start:].toarray(), own.csr().toarray())
