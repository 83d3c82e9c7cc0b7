"""The options of training."""

from dataclasses import dataclass
from typing import Literal, get_args

from torchbce.classifier.errors import Argument, InputError, listing

ModelName = Literal["auto", "linear", "pairs", "trees", "mlp"]
Effort = Literal["low", "medium", "high"]
Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"]
Device = Literal["cpu", "cuda", "mps", "auto"]


@dataclass(frozen=True)
class TrainingOptions:
    """How a classifier is trained. The defaults suit most tables.

    Args:
        model: "linear", main effects of all columns; "pairs", these and the pairs of columns that
            matter; "trees", boosted trees; "mlp", a network; or "auto", the best combination of
            the models that suit the size of the table.
        effort: how much work to do: "low" takes about a fifth of the time of "medium", "high" holds
            out more parts of the rows, grows more trees and trains the network too. It is bounded
            by rows and features and not by time, so that the same seed gives the same model.
        pos_weight: the weight of the positives in the loss: "balanced" (negatives / positives), a
            number above 0, or None for 1. A weight p adds log p to the logits that are learned;
            predictions subtract it.
        seed: of the parts held out, and of whatever is random, from 0 to 2^63 - 1.
        epochs: of the network: the largest number of passes over the rows.
        batch_size: of the network: rows per step; None chooses from 16 to 512 by the number of
            rows.
        learning_rate: of the network: the initial learning rate of AdamW, which falls to 0 along
            half a cosine; None is 0.002.
        weight_decay: of the network: the decoupled weight decay of AdamW.
        patience: of the network: training stops when the held-out loss has not fallen by 0.1% for
            this many epochs.
        device: of the network: "cpu", "cuda", "mps" or "auto". On the CPU the same seed gives the
            same bits.
        precision: of the network: a precision of Lightning Fabric: "32-true", "64-true",
            "bf16-mixed", "16-mixed" or "bf16-true".

    Raises:
        InputError: if a number is out of its range.

    Example:
        >>> TrainingOptions(model="mlp", epochs=50).learning_rate is None
        True
        >>> TrainingOptions(learning_rate=0)
        Traceback (most recent call last):
            ...
        torchbce.classifier.errors.InputError: learning_rate must be above 0, got 0

    References:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019 (AdamW).
    """

    model: ModelName = "auto"
    effort: Effort = "medium"
    pos_weight: float | Literal["balanced"] | None = None
    seed: int = 0
    epochs: int = 30
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.0
    patience: int = 5
    device: Device = "cpu"
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        named = {
            "model": ModelName,
            "effort": Effort,
            "device": Device,
            "precision": Precision,
        }
        for name, words in named.items():
            if (value := getattr(self, name)) not in get_args(words):
                raise InputError(
                    Argument(name),
                    f" must be {listing(get_args(words), joiner='or')}, got {value!r}",
                )
        if isinstance(self.pos_weight, str) and self.pos_weight != "balanced":
            raise InputError(
                Argument("pos_weight"),
                f" must be 'balanced', a number or None, got {self.pos_weight!r}",
            )
        positive = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "patience": self.patience,
            "pos_weight": None if self.pos_weight == "balanced" else self.pos_weight,
        }
        for name, value in positive.items():
            if value is not None and not 0 < float(value) < float("inf"):
                raise InputError(Argument(name), f" must be above 0, got {value}")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(
                Argument("weight_decay"), f" must be 0 or above, got {self.weight_decay}"
            )
        if not 0 <= self.seed < 2**63:
            raise InputError(Argument("seed"), f" must be from 0 to 2^63 - 1, got {self.seed}")
