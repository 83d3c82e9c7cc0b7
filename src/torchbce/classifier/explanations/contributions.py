r"""What each column adds to the logit of a row.

The combined logit is :math:`b + \sum_m w_m (z_m - b)`. The logit of a model, :math:`z_m`, is a
constant and the sum of what each column adds: exactly so in the linear and the pairs model. In trees
each split on the way of a row adds the difference between the mean of the side that it takes and
the mean before the split. In a network, columns are put in one after the other, from the first to
the last and from the last to the first; what a column changes, on average of the two, is its
contribution.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.encoder import Encoded, Encoder
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.explanations.sources import TOGETHER, Sources, free_name
from torchbce.classifier.model import Classifier
from torchbce.classifier.models.features import SparseRows, linear_features
from torchbce.classifier.models.members import (
    LinearModel,
    Model,
    NetworkModel,
    PairsModel,
    TreesModel,
    products,
    text_rows,
    tree_columns,
    with_text,
)
from torchbce.classifier.models.solver import Linear

#: Contributions of about this many rows times columns are computed at a time.
CELLS = 2**21

#: A value longer than this is cut in an explanation.
VALUE = 40


class Contributions(NamedTuple):
    """What each source adds to the logit of each row, float64 [rows, sources], and the rest."""

    base: float
    values: np.ndarray


def contributions_table(classifier: Classifier, table: pl.DataFrame) -> pl.DataFrame:
    """See `Classifier.contributions`."""
    sources, parts = _in_parts(classifier, table)
    found = list(parts)
    values = np.concatenate([part.values for part in found])
    names = sources.names
    base = free_name("base", names)
    columns = {base: np.full(len(table), found[0].base)}
    return pl.DataFrame(columns | dict(zip(names, values.T, strict=True)))


def explanations(classifier: Classifier, table: pl.DataFrame, most: int) -> list[pl.Series]:
    """The columns that weigh most for each row, as text: `age=39 +0.41`.

    Args:
        classifier: the model.
        table: has the columns that the model reads.
        most: how many columns to give for each row.

    Returns:
        A series for each rank, of strings [rows]; null where a contribution rounds to 0.00.
    """
    sources, parts = _in_parts(classifier, table)
    texts = {column.name for column in classifier.encoder.columns if isinstance(column, TextColumn)}
    labels = _Labels(table, sources.columns, texts)
    ranks: list[list[str | None]] = [[] for _ in range(most)]
    start = 0
    for part in parts:
        values = part.values
        order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :most]
        found = np.take_along_axis(values, order, axis=1)
        for rank, (source, value) in enumerate(zip(order.T.tolist(), found.T.tolist(), strict=True)):
            ranks[rank] += [
                None if abs(v) < 0.005 else f"{labels.of(s, row)} {v:+.2f}"
                for row, (s, v) in enumerate(zip(source, value, strict=True), start)
            ]
        start += len(values)
    return [
        pl.Series(rank or [None] * len(table), dtype=pl.String) for rank in ranks
    ]


class _Labels:
    """A source with its value in a row, as `age=39 & sex=Male`; of a text the column alone."""

    def __init__(
        self, table: pl.DataFrame, columns: list[tuple[str, ...]], texts: set[str]
    ) -> None:
        self._table, self._columns, self._texts = table, columns, texts
        self._values: dict[str, list[str | None]] = {}

    def of(self, source: int, row: int) -> str:
        return TOGETHER.join(self._of_column(name, row) for name in self._columns[source])

    def _of_column(self, name: str, row: int) -> str:
        if name in self._texts:
            return name
        values = self._values.get(name)
        if values is None:
            self._values[name] = values = self._table[name].cast(pl.String).to_list()
        value = values[row]
        if value is None:
            return f"{name}=missing"
        return f"{name}={value if len(value) <= VALUE else value[: VALUE - 3] + '...'}"


def _in_parts(
    classifier: Classifier, table: pl.DataFrame
) -> tuple[Sources, Iterator[Contributions]]:
    """The sources, and the contributions of the rows, some rows at a time."""
    encoder = classifier.encoder
    encoded = encoder.transform(table)
    sources = Sources(encoder)
    explainers = [_explainer(model, encoder, sources) for model in classifier.models]
    step = max(1, CELLS // max(len(sources.columns), 1))
    starts = range(0, max(len(encoded), 1), step)

    def parts() -> Iterator[Contributions]:
        for start in starts:
            rows = np.arange(start, min(start + step, len(encoded)))
            yield _combined(classifier, explainers, encoded.take(rows), len(sources.columns))

    return sources, parts()


class _Explainer(NamedTuple):
    """A model, and the source of each of its features."""

    model: Model
    encoder: Encoder
    sources: np.ndarray

    def contributions(self, encoded: Encoded, width: int) -> Contributions:
        """What each source adds to the logit of the model."""
        model = self.model
        if isinstance(model, LinearModel | PairsModel):
            rows = linear_features(self.encoder, encoded)
            if isinstance(model, PairsModel):
                rows = model.crosses.features(encoded.codes, rows)
            return Contributions(
                model.linear.bias, _of_rows(model.linear, rows, self.sources, width)
            )
        if isinstance(model, TreesModel):
            base, values = _of_trees(model, self.encoder, encoded)
        else:
            assert isinstance(model, NetworkModel)
            base, values = _of_network(model, self.encoder, encoded)
        summed = np.zeros((len(encoded), width))
        for source, column in zip(self.sources.tolist(), values.T, strict=True):
            summed[:, source] += column
        return Contributions(base, summed)


def _explainer(model: Model, encoder: Encoder, sources: Sources) -> _Explainer:
    if isinstance(model, LinearModel):
        found = sources.of_linear()
    elif isinstance(model, PairsModel):
        found = sources.of_linear(model.crosses)
    elif isinstance(model, TreesModel):
        found = np.array(sources.of_trees())
    else:
        found = np.arange(len(encoder.columns))
    return _Explainer(model, encoder, found)


def _combined(
    classifier: Classifier, explainers: list[_Explainer], encoded: Encoded, width: int
) -> Contributions:
    base = classifier.card.base
    shift = float(np.log(classifier.card.pos_weight))
    total, start = np.zeros((len(encoded), width)), base
    for explainer in explainers:
        weight = classifier.card.models[explainer.model.name]
        own = explainer.contributions(encoded, width)
        total += weight * own.values
        start += weight * (own.base - shift - base)
    return Contributions(start, total)


def _of_rows(linear: Linear, rows: SparseRows, sources: np.ndarray, width: int) -> np.ndarray:
    number = len(rows.indptr) - 1
    row = np.repeat(np.arange(number), np.diff(rows.indptr))
    added = linear.weight[rows.indices]
    if rows.values is not None:
        added = added * rows.values
    at = row * width + sources[rows.indices]
    return np.bincount(at, added, number * width).reshape(number, width)


def _of_trees(model: TreesModel, encoder: Encoder, encoded: Encoded) -> Contributions:
    columns = tree_columns(encoder, encoded)
    text = text_rows(encoded)
    base, total = 0.0, np.zeros(1)
    for trees, reader in model.parts:
        table = with_text(columns, None if reader is None else products(reader, text))
        base += trees.mean / len(model.parts)
        total = total + trees.contributions(table) / len(model.parts)
    return Contributions(base, total)


def _of_network(model: NetworkModel, encoder: Encoder, encoded: Encoded) -> Contributions:
    columns = len(encoder.columns)
    values = np.zeros((len(encoded), columns))
    start = np.zeros(len(encoded))
    for order in (range(columns), range(columns - 1, -1, -1)):
        used = np.zeros(columns, dtype=bool)
        start = before = model.logits(encoder, _with_columns(encoder, encoded, used))
        for column in order:
            used[column] = True
            after = model.logits(encoder, _with_columns(encoder, encoded, used))
            values[:, column] += (after - before) / 2
            before = after
    return Contributions(float(start[0]) if len(start) else 0.0, values)


def _with_columns(encoder: Encoder, encoded: Encoded, used: np.ndarray) -> Encoded:
    """The rows with some of the columns; the others have no features."""
    sources = Sources(encoder)
    numeric, coded = used[sources.numeric], used[[*sources.numeric, *sources.categorical]]
    text = encoded.text
    if encoder.texts:
        kept = np.repeat(used[sources.texts], [column.width for column in encoder.texts])
        data = text.data * kept[text.indices]
        text = sp.csr_matrix((data, text.indices, text.indptr), shape=text.shape)
    return Encoded(
        np.where(numeric, encoded.numbers, np.nan), np.where(coded, encoded.codes, -1), text
    )
