"""When to stop: the held-out loss no longer falls."""

import numpy as np

#: The relative fall of the held-out loss that restarts the patience.
MIN_GAIN = 1e-3


class EarlyStopping:
    """The epoch with the lowest held-out loss, and whether the loss still falls.

    Args:
        loss: the held-out loss of the initial weights.
        logits: their logits of the held-out rows.
        patience: the number of epochs to wait for a loss that is lower by `MIN_GAIN`.
    """

    def __init__(self, loss: float, logits: np.ndarray, patience: int) -> None:
        self.loss, self.epoch, self.logits = loss, 0, logits
        self._patience = patience
        self._gained_loss, self._gained_epoch = loss, 0

    def stops(self, epoch: int, loss: float, logits: np.ndarray) -> bool:
        """Record the held-out loss and logits of an epoch; return whether to stop after it."""
        if loss < self.loss:
            self.loss, self.epoch, self.logits = loss, epoch, logits
        if loss < self._gained_loss * (1 - MIN_GAIN):
            self._gained_loss, self._gained_epoch = loss, epoch
        return epoch - self._gained_epoch >= self._patience
