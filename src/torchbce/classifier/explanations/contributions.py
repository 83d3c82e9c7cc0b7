r"""What each column adds to the logit of a row.

Where the combined logit is calibrated, by the map c, what each column adds is multiplied by
:math:`(c(z) - c(z_0)) / (z - z_0)`, where :math:`z_0` is the logit before any column adds to it, so
that the contributions add up to the calibrated logit.

The combined logit is :math:`b + \sum_m w_m (z_m - b)`. The logit of a model, :math:`z_m`, is a
constant and the sum of what each column adds: exactly so in the linear and the pairs model. In
trees each split on the way of a row adds the difference between the mean of the side that it takes
and the mean before the split. In a network, columns are put in one after the other, from the first
to the last and from the last to the first; what a column changes, on average of the two, is its
contribution.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.encoder import Encoded, Encoder
from torchbce.classifier.explanations.labels import Labels, signed
from torchbce.classifier.explanations.sources import Sources, free_name
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

#: A smaller contribution is written as 0.00.
ROUNDS_TO_0 = 0.005


class Contributions(NamedTuple):
    """What each source adds to the logit of each row, float64 [rows, sources], and the rest."""

    base: float
    values: np.ndarray


def contributions_table(classifier: Classifier, table: Any) -> pl.DataFrame:
    """See `Classifier.contributions`."""
    explainer = _Explainer(classifier)
    found = [part for _, part in explainer.parts(classifier.encoder.transform(table))]
    values = np.concatenate([part.values for part in found])
    names = explainer.sources.names
    base = free_name("base", names)
    columns = {base: np.full(len(values), found[0].base)}
    return pl.DataFrame(columns | dict(zip(names, values.T, strict=True)))


def explanations(classifier: Classifier, table: Any, most: int) -> list[pl.Series]:
    """The columns that weigh most for each row, as text: `age=39 +0.41`.

    Args:
        classifier: the model.
        table: has the columns that the model reads; or a matrix, if it reads one.
        most: how many columns to give for each row.

    Returns:
        A series for each rank, of strings [rows]; null where a contribution rounds to 0.00.
    """
    encoded = classifier.encoder.transform(table)
    explainer = _Explainer(classifier)
    labels = Labels(classifier, table, encoded)
    columns = explainer.sources.columns
    ranks: list[list[str | None]] = [[] for _ in range(most)]
    for start, part in explainer.parts(encoded):
        order = np.argsort(-np.abs(part.values), axis=1, kind="stable")[:, :most]
        found = np.take_along_axis(part.values, order, axis=1)
        for rank, (source, value) in enumerate(
            zip(order.T.tolist(), found.T.tolist(), strict=True)
        ):
            ranks[rank] += [
                None if abs(v) < ROUNDS_TO_0 else f"{labels.of(columns[s], row, v)} {signed(v)}"
                for row, (s, v) in enumerate(zip(source, value, strict=True), start)
            ]
    return [pl.Series(rank or [None] * len(encoded), dtype=pl.String) for rank in ranks]


class _Explainer:
    """The contributions to the combined logit of a classifier."""

    def __init__(self, classifier: Classifier) -> None:
        self._card, self._encoder = classifier.card, classifier.encoder
        self.sources = Sources(classifier.encoder)
        self._models = [(model, self._features(model)) for model in classifier.models]

    def parts(self, encoded: Encoded) -> Iterator[tuple[int, Contributions]]:
        """Where each part of the rows begins, and its contributions; one part at least."""
        step = max(1, CELLS // max(len(self.sources.columns), 1))
        for start in range(0, max(len(encoded), 1), step):
            yield start, self._combined(encoded.take(np.arange(len(encoded))[start : start + step]))

    def _features(self, model: Model) -> np.ndarray:
        """The source of each feature that a model reads."""
        if isinstance(model, PairsModel):
            return self.sources.of_linear(model.crosses)
        if isinstance(model, LinearModel):
            return self.sources.of_linear()
        if isinstance(model, TreesModel):
            return np.array(self.sources.of_trees())
        return np.arange(len(self._encoder.columns))

    def _combined(self, encoded: Encoded) -> Contributions:
        base = self._card.base
        shift = float(np.log(self._card.pos_weight))
        start, total = base, np.zeros((len(encoded), len(self.sources.columns)))
        for model, features in self._models:
            weight = self._card.models[model.name]
            own = self._of_model(model, features, encoded)
            total += weight * own.values
            start += weight * (own.base - shift - base)
        start, total = self._calibrated(start, total)
        return Contributions(start + self._card.base_shift, total)

    def _calibrated(self, start: float, values: np.ndarray) -> tuple[float, np.ndarray]:
        calibration = self._card.calibration
        if calibration is None:
            return start, values
        added = values.sum(1)
        base = float(calibration(np.array([start]))[0])
        scale = np.full(len(values), calibration.slope_near(start))
        np.divide(calibration(start + added) - base, added, out=scale, where=abs(added) > 1e-9)
        return base, values * scale[:, None]

    def _of_model(self, model: Model, features: np.ndarray, encoded: Encoded) -> Contributions:
        width = len(self.sources.columns)
        if isinstance(model, LinearModel | PairsModel):
            rows = linear_features(self._encoder, encoded)
            if isinstance(model, PairsModel):
                rows = model.crosses.features(encoded.codes, rows)
            return Contributions(model.linear.bias, _of_rows(model.linear, rows, features, width))
        if isinstance(model, TreesModel):
            base, values = _of_trees(model, self._encoder, encoded)
        else:
            assert isinstance(model, NetworkModel)
            base, values = _of_network(model, self._encoder, encoded, self.sources)
        summed = np.zeros((len(encoded), width))
        for source, column in zip(features.tolist(), values.T, strict=True):
            summed[:, source] += column
        return Contributions(base, summed)


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
    width = columns.shape[1] + bool(encoder.texts)
    base, total = 0.0, np.zeros((len(encoded), width))
    for trees, reader in model.parts:
        table = with_text(columns, None if reader is None else products(reader, text))
        base += trees.mean / len(model.parts)
        total += trees.contributions(table) / len(model.parts)
    return Contributions(base, total)


def _of_network(
    model: NetworkModel, encoder: Encoder, encoded: Encoded, sources: Sources
) -> Contributions:
    columns = len(encoder.columns)
    values = np.zeros((len(encoded), columns))
    start = np.zeros(len(encoded))
    for order in (range(columns), range(columns - 1, -1, -1)):
        used = np.zeros(columns, dtype=bool)
        start = before = model.logits(encoder, _with_columns(encoder, encoded, sources, used))
        for column in order:
            used[column] = True
            after = model.logits(encoder, _with_columns(encoder, encoded, sources, used))
            values[:, column] += (after - before) / 2
            before = after
    return Contributions(float(start[0]) if len(start) else 0.0, values)


def _with_columns(
    encoder: Encoder, encoded: Encoded, sources: Sources, used: np.ndarray
) -> Encoded:
    """The rows with some of the columns; the others have no features."""
    numeric, coded = used[sources.numeric], used[[*sources.numeric, *sources.categorical]]
    text = encoded.text
    if encoder.texts:
        kept = np.repeat(used[sources.texts], [column.width for column in encoder.texts])
        data = text.data * kept[text.indices]
        text = sp.csr_matrix((data, text.indices, text.indptr), shape=text.shape)
    return Encoded(
        np.where(numeric, encoded.numbers, np.nan), np.where(coded, encoded.codes, -1), text
    )
