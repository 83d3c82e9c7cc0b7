"""A fitted classifier: an encoder, a network, and the card that describes them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import polars as pl
import torch

from torchbce.classifier.columns.encoder import Column, Encoder
from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.target import Target
from torchbce.classifier.quality.metrics import Metrics
from torchbce.classifier.training.network import Architecture, Network, predict_logits
from torchbce.imbalance import correct_logits

#: Raised whenever an older reader would misread the card.
FORMAT: Literal[1] = 1


class Card(msgspec.Struct, frozen=True):
    """`model.json`: everything about a classifier that is not a tensor."""

    format: Literal[1]
    target: Target
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    architecture: Architecture
    pos_weight: Annotated[float, msgspec.Meta(gt=0)]
    rows: int
    positives: int
    epochs: int
    held_out: Metrics
    training: dict[str, Any]
    versions: dict[str, str]
    dropped: dict[str, str]
    columns: list[Column]


@dataclass(frozen=True)
class Classifier:
    """What `fit` returns and `load` reads.

    Attributes:
        card: the columns, the target and its positive value, the threshold, how it was trained
            and its figures on rows held out.
        encoder: table to features.
        network: features to logits.
        choices: what each column was taken for, and why; empty in a loaded classifier.
    """

    card: Card
    encoder: Encoder
    network: Network
    choices: tuple[Choice, ...] = ()

    def logits(self, table: pl.DataFrame, first_row: int = 1) -> np.ndarray:
        """Log-odds of the positive value, float64, [rows]; what `pos_weight` added is taken off.

        Raises:
            InputError: if a column that the model reads is missing or of another type.
        """
        raw = predict_logits(self.network, self.encoder.transform(table, first_row))
        return correct_logits(torch.from_numpy(raw), self.card.pos_weight).numpy()

    def probabilities(self, table: pl.DataFrame, first_row: int = 1) -> np.ndarray:
        """Probabilities of the positive value, float64, [rows]. Raises as `logits` does."""
        return torch.sigmoid(torch.from_numpy(self.logits(table, first_row))).numpy()

    def predict(self, table: pl.DataFrame, first_row: int = 1) -> pl.DataFrame:
        """Columns `probability` and `predicted`, a value of the target. Raises as `logits` does."""
        probabilities = self.probabilities(table, first_row)
        return pl.DataFrame(
            {
                "probability": probabilities,
                "predicted": self.card.target.labels(probabilities >= self.card.threshold),
            }
        )
