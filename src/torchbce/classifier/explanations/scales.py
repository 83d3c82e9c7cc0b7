"""What calibration does to weights and to the base rate."""

import numpy as np

from torchbce.classifier.model import Card


def scaled_weights(card: Card) -> dict[str, float]:
    """The weight of each model's logits in the calibrated logit, near the base rate.

    The map from combined to calibrated logits is a straight line (temperature, Platt) or bends
    slowly, so that its slope at the base rate is that of all weights.
    """
    if card.calibration is None:
        return dict(card.models)
    slope = card.calibration.slope_near(card.base)
    return {name: slope * weight for name, weight in card.models.items()}


def calibrated_base(card: Card) -> float:
    """The calibrated logit of the base rate."""
    if card.calibration is None or not card.models:
        return card.base
    return float(card.calibration(np.array([card.base]))[0])
