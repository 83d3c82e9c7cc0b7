"""From a table to a sparse matrix of features.

An `Encoder` is a list of column descriptions, which are plain data saved in `model.json`, and the
inverse document frequencies of each text column, which are saved as tensors. It has no other state,
so a loaded encoder runs the same code as a fitted one.
"""

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np
import polars as pl
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from torchbce.classifier.columns.categorical import CategoricalColumn, fit_categorical
from torchbce.classifier.columns.dates import ISO, DateColumn, fit_date, is_date
from torchbce.classifier.columns.features import concatenate
from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.numbers import PLAIN, Notation
from torchbce.classifier.columns.numeric import NumericColumn, fit_numeric
from torchbce.classifier.columns.text import TextColumn, documents, fit_text
from torchbce.classifier.columns.values import is_unsupported, plain_numbers
from torchbce.classifier.errors import InputError, listing, name_columns

Column = TextColumn | CategoricalColumn | NumericColumn | DateColumn


class Encoder:
    """Turns tables into CSR matrices of features, float32, [rows, width].

    Args:
        columns: the columns that the model reads, in the order of their features.
        idf: the inverse document frequencies of each text column, by its name, float32, [width].
    """

    def __init__(self, columns: Sequence[Column], idf: dict[str, np.ndarray]) -> None:
        self.columns = list(columns)
        self.idf = idf

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(column.width for column in self.columns)

    def transform(self, table: pl.DataFrame) -> sp.csr_matrix:
        """The features of a table.

        Args:
            table: has at least the encoder's columns; others are ignored.

        Returns:
            A CSR matrix, float32, [rows, width].

        Raises:
            InputError: if a column is missing, or its values are of another kind.
        """
        self._check(table)
        if len(table) == 0:
            return sp.csr_matrix((0, self.width), dtype=np.float32)
        plain = _plain_columns(table, self.columns)
        return concatenate(
            [
                self._block(column, plain.get(column.name, table[column.name]))
                for column in self.columns
            ]
        )

    def _check(self, table: pl.DataFrame) -> None:
        schema = table.schema
        missing = [column.name for column in self.columns if column.name not in schema]
        if missing:
            raise InputError(
                f"the model reads {name_columns(missing)}, which the table does not have; it has "
                f"{listing(table.columns, most=12)}"
            )
        for column in self.columns:
            dtype = schema[column.name]
            if is_unsupported(dtype) or (is_date(dtype) and isinstance(column, NumericColumn)):
                kind = column.__struct_config__.tag
                raise InputError(
                    f"column {column.name!r} is {kind} in the model, but its type here is {dtype}"
                )

    def unseen(self, table: pl.DataFrame, names: Collection[str] | None = None) -> list[str]:
        """The categorical columns none of whose values was in the training rows.

        Args:
            table: the rows.
            names: the columns to look at; None is all of them.
        """
        return [
            column.name
            for column in self.columns
            if isinstance(column, CategoricalColumn)
            and (names is None or column.name in names)
            # The first rows say it, as a rule.
            and not column.knows(table[column.name].head(100))
            and not column.knows(table[column.name])
        ]

    def _block(self, column: Column, values: pl.Series) -> sp.csr_matrix:
        if isinstance(column, TextColumn):
            return self._vectorizers[column.name].transform(documents(values))
        return column.features(values)

    @cached_property
    def _vectorizers(self) -> dict[str, TfidfVectorizer]:
        return {
            column.name: column.vectorizer(self.idf[column.name])
            for column in self.columns
            if isinstance(column, TextColumn)
        }


def fit_encoder(table: pl.DataFrame, choices: Sequence[Choice]) -> tuple[Encoder, sp.csr_matrix]:
    """Fit an encoder to the columns of a table.

    Args:
        table: has the columns of `choices`.
        choices: the kind of each column.

    Returns:
        The encoder, and the table's features, float32, [rows, width].

    Raises:
        InputError: if the values of a column do not fit its kind, or every feature is constant.
    """
    columns: list[Column] = []
    idf: dict[str, np.ndarray] = {}
    blocks: list[sp.csr_matrix] = []
    plain = _plain_columns(table, choices)
    for choice in choices:
        values = plain.get(choice.name, table[choice.name])
        column: Column | None = None
        if choice.kind == "text":
            column, frequencies, block = fit_text(values)
            if column.width:
                idf[choice.name] = frequencies
        elif choice.kind == "categorical":
            column = fit_categorical(values)
            block = column.features(values)
        elif choice.kind == "date":
            column = fit_date(values, choice.written if isinstance(choice.written, str) else ISO)
            block = column.features(values)
        elif choice.kind == "numeric":
            written = choice.written if isinstance(choice.written, Notation) else PLAIN
            if column := fit_numeric(values, written):
                block = column.features(values)
        if column is not None and column.width:
            columns.append(column)
            blocks.append(block)
    features = concatenate(blocks) if blocks else sp.csr_matrix((len(table), 0), dtype=np.float32)
    if not _varies(features):
        used = [choice.name for choice in choices if choice.kind != "dropped"]
        raise InputError(
            f"every feature is constant: every row has the same features of {name_columns(used)}, "
            "so there is nothing to learn from"
        )
    return Encoder(columns, idf), features


def _plain_columns(
    table: pl.DataFrame, columns: Sequence[Choice] | Sequence[Column]
) -> dict[str, pl.Series]:
    """The columns of plain numbers as float64, where they are strings."""
    schema = table.schema
    names = [
        column.name
        for column in columns
        if (isinstance(column, NumericColumn) or getattr(column, "kind", "") == "numeric")
        and column.written == PLAIN  # type: ignore[union-attr]
        and schema[column.name] == pl.String
    ]
    return {column.name: column for column in plain_numbers(table, names)}


def _varies(features: sp.csr_matrix) -> bool:
    """Whether any two rows differ."""
    if features.shape[1] == 0:
        return False
    lowest = features.min(axis=0).toarray()
    return bool((lowest != features.max(axis=0).toarray()).any())
