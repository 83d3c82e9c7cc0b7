"""Text columns as TF-IDF features of words and of character n-grams."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.categorical import least_rows

#: Those of texts, and "columns" for the features of a sparse matrix.
Unit = Literal["words", "characters", "characters across spaces", "columns"]

# Words and pairs of words; single letters and digits are words too. Characters are n-grams inside
# words, punctuation included, with a space before and after; where a script has no spaces, they are
# n-grams of the whole text. Symbols as words did not help beside them: 0.0236 against 0.0240 on two
# folds of sms_spam, 0.4454 against 0.4440 on four of rt_polarity.
UNITS: dict[Unit, dict[str, Any]] = {
    "words": {"ngram_range": (1, 2), "token_pattern": r"\w+"},
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
    "characters across spaces": {"analyzer": "char", "ngram_range": (1, 4)},
}

#: The scripts that are written without spaces: Thai to Khmer, kana, Han.
UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
UNSPACED_SHARE = 0.2

# Character n-grams take four times the time of words. Above this many characters in a column words
# alone are used: the long reviews of which a table has so many are told apart by their words.
MOST_CHARACTERS = 4_000_000


class TextUnits(msgspec.Struct, frozen=True):
    """The n-grams of one unit: its vocabulary."""

    unit: Unit
    vocabulary: list[str]


class TextColumn(msgspec.Struct, frozen=True, tag_field="kind", tag="text"):
    """A text column: TF-IDF of n-grams, counts as 1 + log(count), rows of L2 norm 1 per unit."""

    name: str
    units: list[TextUnits]

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(len(units.vocabulary) for units in self.units)

    @property
    def vocabulary(self) -> list[str]:
        """The n-gram of each feature."""
        return [gram for units in self.units for gram in units.vocabulary]


class TextVectorizer:
    """scikit-learn's vectorizers of a text column.

    Args:
        column: the vocabularies.
        idf: the inverse document frequencies, float32, [width].
    """

    def __init__(self, column: TextColumn, idf: np.ndarray) -> None:
        self._vectorizers = []
        start = 0
        for units in column.units:
            vectorizer = _vectorizer(units.unit, vocabulary=units.vocabulary)
            vectorizer.idf_ = idf[start : start + len(units.vocabulary)]
            self._vectorizers.append(vectorizer)
            start += len(units.vocabulary)

    def features(self, values: pl.Series) -> sp.csr_matrix:
        """The features of some values, float32, [rows, width]."""
        texts = documents(values)
        return side_by_side([vectorizer.transform(texts) for vectorizer in self._vectorizers])


def fit_text(
    values: pl.Series, units: Sequence[Unit]
) -> tuple[TextColumn, np.ndarray, sp.csr_matrix]:
    """The description of a text column, its inverse document frequencies, and its features."""
    texts = documents(values)
    kept, idf, blocks = [], [], []
    for unit in units:
        vectorizer = _vectorizer(unit, min_df=least_rows(len(values)))
        try:
            block = vectorizer.fit_transform(texts)
        except ValueError:  # scikit-learn's error for an empty vocabulary
            continue
        kept.append(TextUnits(unit, vectorizer.get_feature_names_out().tolist()))
        idf.append(vectorizer.idf_.astype(np.float32))
        blocks.append(block)
    if not kept:
        return TextColumn(values.name, []), np.zeros(0, np.float32), _no_features(len(values))
    return TextColumn(values.name, kept), np.concatenate(idf), side_by_side(blocks)


def text_units(values: pl.Series) -> list[Unit]:
    """The units of n-grams that suit a text column."""
    texts = values.cast(pl.String).drop_nulls()
    characters = int(texts.str.len_chars().sum())
    unspaced = int(texts.str.count_matches(UNSPACED).sum())
    if unspaced > UNSPACED_SHARE * characters:
        return ["words", "characters across spaces"]
    return ["words", "characters"] if characters <= MOST_CHARACTERS else ["words"]


def documents(values: pl.Series) -> list[str]:
    """The values as strings; a missing one is an empty document."""
    return values.cast(pl.String).fill_null("").to_list()


def side_by_side(blocks: Sequence[sp.csr_matrix]) -> sp.csr_matrix:
    """Blocks of features as one matrix, float32."""
    features = blocks[0] if len(blocks) == 1 else sp.hstack(blocks, format="csr")
    return features.astype(np.float32, copy=False)


def _no_features(rows: int) -> sp.csr_matrix:
    return sp.csr_matrix((rows, 0), dtype=np.float32)


def _vectorizer(unit: Unit, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **UNITS[unit], **options)
