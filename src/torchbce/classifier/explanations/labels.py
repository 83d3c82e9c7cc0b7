"""What a contribution belongs to, as text: a column with its value in a row."""

from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.encoder import Encoded, Encoder
from torchbce.classifier.explanations.scales import scaled_weights
from torchbce.classifier.explanations.sources import TOGETHER
from torchbce.classifier.model import Classifier
from torchbce.classifier.models.features import Layout
from torchbce.classifier.models.members import LinearModel, PairsModel, TreesModel

#: A value longer than this is cut.
LONGEST = 40

#: The number of words that are named of a text.
WORDS = 3


def signed(log_odds: float) -> str:
    """Log-odds with their sign, of two decimals.

    Example:
        >>> signed(0.414), signed(-0.002)
        ('+0.41', '+0.00')
    """
    return f"{round(log_odds, 2) + 0.0:+.2f}"  # -0.0 + 0.0 is 0.0


class Labels:
    """Labels of contributions: `age=39 & sex=Male`, and `review (great fun, great)` of a text.

    Args:
        classifier: the model.
        table: the rows, a polars table or a matrix.
        encoded: their arrays.
    """

    def __init__(self, classifier: Classifier, table: Any, encoded: Encoded) -> None:
        self._table, self._text = table, encoded.text
        self._values: dict[str, list[str | None]] = {}
        weights = text_weights(classifier)
        self._words: dict[str, _Words] = {}
        start = 0
        for column in classifier.encoder.texts:
            units = [(units.unit, len(units.vocabulary)) for units in column.units]
            words = np.repeat(
                [unit.startswith("words") for unit, _ in units], [n for _, n in units]
            )
            end = start + column.width
            # Pieces of words say little to a reader, unless there are no words.
            own = np.where(words, weights[start:end], 0) if words.any() else weights[start:end]
            self._words[column.name] = _Words(start, column.vocabulary, own)
            start = end

    def of(self, columns: tuple[str, ...], row: int, contribution: float) -> str:
        """The label of one or more columns in a row."""
        return TOGETHER.join(self._of_column(name, row, contribution) for name in columns)

    def _of_column(self, name: str, row: int, contribution: float) -> str:
        if name in self._words:
            words = self._words[name].largest(self._text, row, contribution)
            return f"{name} ({', '.join(words)})" if words else name
        values = self._values.get(name)
        if values is None:
            self._values[name] = values = self._table[name].cast(pl.String).to_list()
        value = values[row]
        if value is None:
            return f"{name}=missing"
        return f"{name}={value if len(value) <= LONGEST else value[: LONGEST - 3] + '...'}"


class _Words:
    """The n-grams of a text column, from a position of the text features on, and their weights."""

    def __init__(self, start: int, vocabulary: list[str], weights: np.ndarray) -> None:
        self._start, self._vocabulary, self._weights = start, vocabulary, weights

    def largest(self, text: sp.csr_matrix, row: int, contribution: float) -> list[str]:
        """The n-grams of a row that add most to a contribution, in its direction."""
        own = slice(text.indptr[row], text.indptr[row + 1])
        at = text.indices[own] - self._start
        inside = (at >= 0) & (at < len(self._weights))
        at, values = at[inside], text.data[own][inside]
        added = self._weights[at] * values * np.sign(contribution)
        order = np.lexsort((at, -added))[:WORDS]
        return [self._vocabulary[at[i]] for i in order.tolist() if added[i] > 0]


def explained_words(classifier: Classifier, table: pl.DataFrame, most: int) -> list[str | None]:
    """The words of one text that weigh most, with what each adds to the logit: `great fun +0.41`.

    Args:
        classifier: a model of one text column.
        table: one row.
        most: how many words to give; None follows where there are fewer.
    """
    text = classifier.encoder.transform(table).text
    (column,) = classifier.encoder.texts
    added = text_weights(classifier)[text.indices] * text.data
    order = np.lexsort((text.indices, -np.abs(added)))[:most].tolist()
    vocabulary = column.vocabulary
    words: list[str | None] = [
        f"{vocabulary[text.indices[at]]!r} {signed(added[at])}" for at in order if added[at]
    ]
    return words + [None] * (most - len(words))


def text_weights(classifier: Classifier) -> np.ndarray:
    """The weight of each text feature in the combined logit.

    Where only trees read the text, it is that of the linear models that read it for them.
    """
    encoder: Encoder = classifier.encoder
    start, width = Layout.of(encoder).text, encoder.text_width
    linear, read = np.zeros(width), np.zeros(width)
    for model in classifier.models:
        if isinstance(model, LinearModel | PairsModel):
            weight = scaled_weights(classifier.card)[model.name]
            linear += weight * model.linear.weight[start : start + width]
        elif isinstance(model, TreesModel):
            for _, reader in model.parts:
                read += 0.0 if reader is None else reader.weight
    return linear if linear.any() else read
