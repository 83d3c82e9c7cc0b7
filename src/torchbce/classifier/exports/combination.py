"""How the logits of the models become one logit, as every export computes it."""

from dataclasses import dataclass

import numpy as np

from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.dates import DateColumn
from torchbce.classifier.columns.numeric import NumericColumn
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.errors import InputError, listing
from torchbce.classifier.model import Classifier


@dataclass(frozen=True)
class Combination:
    r"""The logit :math:`z = b + \sum_m w_m (z_m - \log p - b)` as an offset and weights.

    Attributes:
        offset: :math:`b - \sum_m w_m (\log p + b)`, where p is `pos_weight` and b the base.
        weights: of the models' logits, by their names.
    """

    offset: float
    weights: dict[str, float]


def combination_of(classifier: Classifier) -> Combination:
    """The combination of a classifier's models.

    Raises:
        InputError: if it is not a classifier of a table with two target values.
    """
    if not isinstance(classifier, Classifier):
        raise InputError(
            f"a classifier of one target column can be exported, got a {type(classifier).__name__}"
        )
    kinds = NumericColumn | CategoricalColumn | DateColumn | TextColumn
    if others := [c.name for c in classifier.encoder.columns if not isinstance(c, kinds)]:
        raise InputError(
            f"a model of a matrix cannot be exported, as {listing(others)}: its features have no "
            "columns; fit it to a table"
        )
    card = classifier.card
    shift = float(np.log(card.pos_weight)) + card.base
    offset = card.base - shift * sum(card.models.values())
    return Combination(offset, dict(card.models))


def columns_of(classifier: Classifier, kind: type) -> list[str]:
    """The names of the columns of a kind."""
    return [column.name for column in classifier.encoder.columns if isinstance(column, kind)]
