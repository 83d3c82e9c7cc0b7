"""From a table to numbers: what every model of a classifier reads.

An `Encoder` is a list of column descriptions, which are plain data saved in `model.json`, and the
inverse document frequencies of each text column, which are saved as arrays. It has no other state,
so a loaded encoder runs the same code as a fitted one. It is fitted to the inputs of a table only,
never to its targets.

A sparse matrix is a table of a single column, `MatrixColumn`: its features take the place of those
of a text. The linear model, the pairs model and the network read them as they are, trees the logit
that a linear model gives them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.categorical import CategoricalColumn, fit_categorical
from torchbce.classifier.columns.dates import ISO, DateColumn, date_parts, fit_date, is_date
from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.matrix import MatrixColumn, as_matrix, fit_matrix, scaled
from torchbce.classifier.columns.numbers import PLAIN, Notation
from torchbce.classifier.columns.numeric import NumericColumn, fit_numeric
from torchbce.classifier.columns.text import (
    TextColumn,
    TextVectorizer,
    fit_text,
    side_by_side,
    text_units,
)
from torchbce.classifier.columns.values import is_unsupported, plain_numbers
from torchbce.classifier.errors import InputError, listing, name_columns

Column = TextColumn | CategoricalColumn | NumericColumn | DateColumn | MatrixColumn


@dataclass(frozen=True)
class Encoded:
    """The columns of some rows as arrays.

    Attributes:
        numbers: of the numeric columns, float64 [rows, N]; NaN where missing.
        codes: of the numeric columns and then the categorical ones, int32 [rows, N + C]: the bin or
            the category, and -1 where a value has none.
        text: TF-IDF features of the text columns, or the features of a sparse matrix, float32 CSR,
            [rows, T].
    """

    numbers: np.ndarray
    codes: np.ndarray
    text: sp.csr_matrix

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray) -> "Encoded":
        """The rows at some indices, in their order."""
        return Encoded(self.numbers[rows], self.codes[rows], self.text[rows])


class Encoder:
    """Turns tables into arrays.

    Args:
        columns: the columns that the model reads, in their order in the table.
        idf: the inverse document frequencies of each text column, by its name, or the scales of the
            features of a matrix, float32, [width].
    """

    def __init__(self, columns: Sequence[Column], idf: dict[str, np.ndarray]) -> None:
        self.columns = list(columns)
        self.idf = idf
        self.dates = [column for column in columns if isinstance(column, DateColumn)]
        # The parts of a date are numeric columns of their own, after the others.
        self.numeric = [column for column in columns if isinstance(column, NumericColumn)]
        self.numeric += [
            msgspec.structs.replace(part, name=f"{date.name}, {part.name}")
            for date in self.dates
            for part in date.parts
        ]
        self.categorical = [column for column in columns if isinstance(column, CategoricalColumn)]
        self.texts = [c for c in columns if isinstance(c, TextColumn | MatrixColumn)]

    @property
    def coded(self) -> list[NumericColumn | CategoricalColumn]:
        """The columns that have codes, in the order of `Encoded.codes`."""
        return [*self.numeric, *self.categorical]

    @property
    def text_width(self) -> int:
        """The number of text features."""
        return sum(column.width for column in self.texts)

    @property
    def matrix(self) -> MatrixColumn | None:
        """The only column, where the encoder reads a matrix and no tables."""
        first = self.columns[0] if self.columns else None
        return first if isinstance(first, MatrixColumn) else None

    def transform(self, table: pl.DataFrame | sp.csr_matrix) -> Encoded:
        """The arrays of a table.

        Args:
            table: has at least the encoder's columns; others are ignored. A matrix, where the
                encoder reads one.

        Raises:
            InputError: if a column is missing, or its values are of another kind.
        """
        if self.matrix is not None:
            return self._of_matrix(as_matrix(table, self.matrix.width))
        self._check(table)
        text = [self._vectorizers[c.name].features(table[c.name]) for c in self.texts if len(table)]
        return self._arrays(table, text, _plain_columns(table, self.columns))

    def _arrays(
        self, table: pl.DataFrame, text: Sequence[sp.csr_matrix], plain: dict[str, pl.Series]
    ) -> Encoded:
        rows = len(table)
        numbers = []
        for column in self.columns:
            if isinstance(column, NumericColumn):
                numbers.append(column.numbers(plain.get(column.name, table[column.name])))
        for date in self.dates:
            parts = date_parts(table[date.name], date.written)
            numbers += [parts[part.name].fill_null(np.nan).to_numpy() for part in date.parts]
        codes = [c.encode(x) for c, x in zip(self.numeric, numbers, strict=True)]
        codes += [column.encode(table[column.name]) for column in self.categorical]
        return Encoded(
            np.column_stack(numbers) if numbers else np.zeros((rows, 0)),
            np.column_stack(codes) if codes else np.zeros((rows, 0), dtype=np.int32),
            side_by_side(text)
            if text
            else sp.csr_matrix((rows, self.text_width), dtype=np.float32),
        )

    def _of_matrix(self, matrix: sp.csr_matrix) -> Encoded:
        rows = matrix.shape[0]
        codes = np.zeros((rows, 0), dtype=np.int32)
        return Encoded(np.zeros((rows, 0)), codes, scaled(matrix, self.idf[self.columns[0].name]))

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
            for column in self.categorical
            if (names is None or column.name in names)
            # The first rows say it, as a rule.
            and not column.knows(table[column.name].head(100))
            and not column.knows(table[column.name])
        ]

    @cached_property
    def _vectorizers(self) -> dict[str, TextVectorizer]:
        texts = [column for column in self.texts if isinstance(column, TextColumn)]
        return {column.name: TextVectorizer(column, self.idf[column.name]) for column in texts}


def fit_encoder(
    table: pl.DataFrame | sp.csr_matrix, choices: Sequence[Choice], all_constant: bool = False
) -> tuple[Encoder, Encoded]:
    """Fit an encoder to the columns of a table.

    Args:
        table: has the columns of `choices`; or a sparse matrix.
        choices: the kind of each column; a matrix has none.
        all_constant: whether rows that are all alike are no error.

    Returns:
        The encoder, and the table's arrays.

    Raises:
        InputError: if the values of a column do not fit its kind, or no two rows differ.
    """
    if not isinstance(table, pl.DataFrame):
        return _matrix_encoder(table)
    columns: list[Column] = []
    idf: dict[str, np.ndarray] = {}
    text = []
    plain = _plain_columns(table, choices)
    for choice in choices:
        values = plain.get(choice.name, table[choice.name])
        column: Column | None = None
        if choice.kind == "text":
            column, frequencies, block = fit_text(values, text_units(values))
            if not column.width:
                continue
            idf[choice.name] = frequencies
            text.append(block)
        elif choice.kind == "categorical":
            column = fit_categorical(values)
            if not column.codes:
                continue
        elif choice.kind == "date":
            column = fit_date(values, choice.written if isinstance(choice.written, str) else ISO)
            if not column.parts:
                continue
        elif choice.kind == "numeric":
            written = choice.written if isinstance(choice.written, Notation) else PLAIN
            column = fit_numeric(values, written)
        if column is not None:
            columns.append(column)
    encoder = Encoder(columns, idf)
    encoded = encoder._arrays(table, text, plain)
    if not all_constant and not _varies(encoded):
        used = [choice.name for choice in choices if choice.kind != "dropped"]
        raise InputError(
            f"every feature is constant: every row has the same features of {name_columns(used)}, "
            "so there is nothing to learn from"
        )
    return encoder, encoded


def _matrix_encoder(matrix: sp.csr_matrix) -> tuple[Encoder, Encoded]:
    """Fit an encoder to a sparse matrix; the encoder and the matrix's arrays."""
    column, scale = fit_matrix(matrix)
    encoder = Encoder([column], {column.name: scale})
    return encoder, encoder.transform(matrix)


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


def _varies(encoded: Encoded) -> bool:
    """Whether any two rows differ."""
    for array in (encoded.codes, np.nan_to_num(encoded.numbers, nan=np.inf)):
        if len(array) and (array != array[:1]).any():
            return True
    text = encoded.text
    if 0 in text.shape:
        return False
    return bool((text.min(axis=0).toarray() != text.max(axis=0).toarray()).any())
