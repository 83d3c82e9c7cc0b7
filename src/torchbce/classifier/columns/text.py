"""Text columns as TF-IDF features."""

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.features import least_rows

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer


class TextColumn(msgspec.Struct, frozen=True, tag_field="kind", tag="text"):
    """A text column: TF-IDF of word 1- and 2-grams, counts as 1 + log(count), rows of L2 norm 1."""

    name: str
    vocabulary: list[str]

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.vocabulary)

    def vectorizer(self, idf: np.ndarray) -> "TfidfVectorizer":
        """scikit-learn's vectorizer with this vocabulary and inverse document frequencies."""
        vectorizer = _vectorizer(vocabulary=self.vocabulary)
        vectorizer.idf_ = idf
        return vectorizer


def fit_text(values: pl.Series) -> tuple[TextColumn, np.ndarray, sp.csr_matrix]:
    """The description of a text column, its inverse document frequencies, and its features.

    A column without a single word has no features.
    """
    vectorizer = _vectorizer(min_df=least_rows(len(values)))
    try:
        features = vectorizer.fit_transform(documents(values))
    except ValueError:  # scikit-learn's error for an empty vocabulary
        empty = np.zeros(0, dtype=np.float32)
        return TextColumn(values.name, []), empty, sp.csr_matrix((len(values), 0))
    vocabulary = vectorizer.get_feature_names_out().tolist()
    return TextColumn(values.name, vocabulary), vectorizer.idf_.astype(np.float32), features


def documents(values: pl.Series) -> list[str]:
    """The values as strings; a missing one is an empty document."""
    return values.cast(pl.String).fill_null("").to_list()


def _vectorizer(**options: Any) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes 1.4 s

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32, **options)
