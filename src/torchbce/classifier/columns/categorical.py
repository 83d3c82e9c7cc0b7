"""Categorical columns as one-hot features."""

import msgspec
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.features import least_rows, one_hot
from torchbce.classifier.columns.values import as_text


class CategoricalColumn(msgspec.Struct, frozen=True, tag_field="kind", tag="categorical"):
    """A categorical column: one 0/1 feature per category, and one for a missing value.

    The feature for a missing value is there only if the training rows had any. A category that
    they did not have is all zeros.
    """

    name: str
    categories: list[str]
    flag_missing: bool

    @property
    def boolean(self) -> bool:
        """Whether the categories are true and false, of which 1 and 0 are other ways to write."""
        return set(self.categories) <= {"true", "false"}

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.categories) + self.flag_missing

    def features(self, values: pl.Series) -> sp.csr_matrix:
        """The features of some values, float32, [rows, width]."""
        text = self._text(values)
        codes = text.cast(pl.Enum(self.categories), strict=False).to_physical().cast(pl.Int32)
        if self.flag_missing:
            codes = codes.set(text.is_null(), len(self.categories))
        return one_hot(codes.fill_null(-1).to_numpy(), self.width)

    def knows(self, values: pl.Series) -> bool:
        """Whether a value is one of the categories, or all are missing."""
        text = self._text(values).drop_nulls()
        return len(text) == 0 or bool(text.is_in(self.categories).any())

    def _text(self, values: pl.Series) -> pl.Series:
        text = as_text(values)
        return text.replace({"1": "true", "0": "false"}) if self.boolean else text


def fit_categorical(values: pl.Series) -> CategoricalColumn:
    """The description of a categorical column."""
    text = as_text(values)
    counts = text.drop_nulls().alias("value").value_counts()
    frequent = counts.filter(pl.col("count") >= least_rows(len(values)))
    categories = frequent["value"].sort().to_list()
    if {*categories} <= {"true", "false", "1", "0"} and {*categories} & {"true", "false"}:
        categories = sorted({{"1": "true", "0": "false"}.get(c, c) for c in categories})
    return CategoricalColumn(values.name, categories, bool(text.null_count()))
