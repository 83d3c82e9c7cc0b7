"""How the logits of the models become one logit, as every export computes it."""

from dataclasses import dataclass

import numpy as np

from torchbce.classifier.errors import InputError
from torchbce.classifier.model import Classifier
from torchbce.classifier.models.calibration import Calibration


@dataclass(frozen=True)
class Combination:
    r"""From the logits of the models to the final logit, in three steps.

    The combined logit :math:`b + \sum_m w_m (z_m - \log p - b)` is an offset and a sum of products.
    A calibration maps it, and a shift to another base rate is added.

    Attributes:
        offset: :math:`b - \sum_m w_m (\log p + b)`, where p is `pos_weight` and b the base.
        weights: of the models' logits, by their names.
        calibration: the map of the combined logit; None for none.
        shift: what is added for the base rate in use.
    """

    offset: float
    weights: dict[str, float]
    calibration: Calibration | None
    shift: float


def combination_of(classifier: Classifier) -> Combination:
    """The combination of a classifier's models.

    Raises:
        InputError: if it is not a classifier of a table with two target values.
    """
    check_classifier(classifier)
    if classifier.encoder.matrix is not None:
        raise InputError(
            "the model reads a sparse matrix, and exports read tables of named columns; fit it to "
            "a frame, or to an array"
        )
    card = classifier.card
    each = float(np.log(card.pos_weight)) + card.base
    offset = card.base - each * sum(card.models.values())
    calibration = card.calibration if card.models else None
    return Combination(offset, dict(card.models), calibration, card.base_shift)


def check_classifier(classifier: object) -> Classifier:
    """The classifier. Raises `InputError` for anything but one of a single target."""
    if isinstance(classifier, Classifier):
        return classifier
    labels = getattr(getattr(classifier, "card", None), "labels", None)
    if labels is not None:
        raise InputError(
            f"only a model of a single target can be exported, and this one has {len(labels):,} "
            "labels; torchbce predict writes their probabilities"
        )
    raise InputError(f"only a Classifier can be exported, got {type(classifier).__name__}")


def columns_of(classifier: Classifier, kind: type) -> list[str]:
    """The names of the columns of a kind."""
    return [column.name for column in classifier.encoder.columns if isinstance(column, kind)]
