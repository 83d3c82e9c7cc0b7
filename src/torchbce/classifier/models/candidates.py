"""The logits that a model gives the rows held out, for each of its settings that was tried."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


def losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Binary cross-entropy in nats of each logit, float64; logits broadcast to the targets."""
    # log(1 + e^z) - y z; the kernels' last bits do not matter for a comparison of settings.
    return np.asarray(np.logaddexp(0.0, logits) - targets * logits)


def mean_loss(logits: np.ndarray, targets: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The mean binary cross-entropy of logits, by the weight of each row; None for 1."""
    return float(np.average(losses(logits, targets), weights=weight))


@dataclass
class Candidates:
    """The settings of one model, and the logits of the rows held out, with each of them.

    Attributes:
        settings: what was tried, [S].
        logits: float64, [S, held-out rows].
        doubt: what is added to the loss of each setting before they are compared, [S]; none if
            empty.
    """

    settings: list[Any] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    doubt: list[float] = field(default_factory=list)

    def add(self, setting: Any, logits: np.ndarray) -> None:
        """Add the logits that one setting gives."""
        self.settings.append(setting)
        self.logits.append(logits)

    def best(
        self,
        targets: np.ndarray,
        weight: np.ndarray | None = None,
        rows: np.ndarray | slice = slice(None),
    ) -> int:
        """The position of the setting with the lowest loss, on all rows or on some of them.

        Args:
            targets: in [0, 1], [held-out rows].
            weight: of each row, [held-out rows]; None for 1.
            rows: some of them, as a mask.
        """
        own = None if weight is None else weight[rows]
        means = [mean_loss(z[rows], targets[rows], own) for z in self.logits]
        return int(np.argmin(np.add(means, self.doubt) if self.doubt else means))
