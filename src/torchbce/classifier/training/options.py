"""The options of a training."""

from dataclasses import dataclass
from typing import Literal

from torchbce.classifier.errors import InputError
from torchbce.classifier.training.network import Architecture

Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"]
Device = Literal["cpu", "cuda", "mps", "auto"]


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained. The defaults are meant to be left alone.

    Args:
        model: "linear", or "mlp" with 64 and 32 hidden ReLU units.
        pos_weight: the weight of positives: "balanced" (negatives / positives), a number, or None.
            What it adds to the logits is taken off again at prediction.
        epochs: passes over the rows, at most.
        batch_size: rows a step; None chooses from 16 to 512 by the number of rows.
        learning_rate: of AdamW, at the start; it falls to 0 along half a cosine. None is 0.02 for
            linear and 0.001 for mlp.
        weight_decay: of AdamW, decoupled.
        patience: epochs without a held-out loss 0.1% better after which training stops.
        seed: of the split, the shuffling and the initial weights.
        device: "cpu", "cuda", "mps" or "auto". On the CPU the same seed gives the same bits.
        precision: as Lightning Fabric names it, "32-true" or "bf16-mixed" for instance.
    """

    model: Architecture = "linear"
    pos_weight: float | Literal["balanced"] | None = None
    epochs: int = 30
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.0
    patience: int = 5
    seed: int = 0
    device: Device = "cpu"
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        positive = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "patience": self.patience,
            "pos_weight": None if self.pos_weight == "balanced" else self.pos_weight,
        }
        for name, value in positive.items():
            if value is not None and not 0 < float(value) < float("inf"):
                raise InputError(f"{name.replace('_', '-')} must be above 0, got {value}")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"weight-decay must be 0 or above, got {self.weight_decay}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")
