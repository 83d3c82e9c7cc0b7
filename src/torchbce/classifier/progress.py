"""What a fit reports while it runs."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Progress(Protocol):
    """Receives the progress of `torchbce.classifier.fit`."""

    def start(self, stage: str, steps: int) -> None:
        """A model begins: its name, and the number of its steps at most."""

    def tried(self, setting: str, held_out: float) -> None:
        """A step is done: a setting, and the log loss that it has on the rows held out."""

    def step(self, loss_sum: "torch.Tensor", rows: int) -> None:
        """A step of a network is done: the loss summed over the `rows` rows of this epoch so far.

        The sum is on the training device, so reading it waits for the device.
        """

    def epoch(self, number: int, loss: float, held_out: float | None) -> None:
        """An epoch is done: its number from 1, its mean loss, and the loss on rows held out."""

    def end(self) -> None:
        """The model is done."""


class NoProgress:
    """A `Progress` that shows nothing."""

    def start(self, stage: str, steps: int) -> None: ...
    def tried(self, setting: str, held_out: float) -> None: ...
    def step(self, loss_sum: "torch.Tensor", rows: int) -> None: ...
    def epoch(self, number: int, loss: float, held_out: float | None) -> None: ...
    def end(self) -> None: ...
