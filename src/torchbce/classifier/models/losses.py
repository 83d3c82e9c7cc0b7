"""The loss that a model is fitted by: binary cross-entropy, or one that focuses on hard rows.

Any of them is linear in the target and in the weight of the positives. All but binary cross-entropy
give logits whose probabilities are not those of the targets, see `recalibration`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from torchbce.classifier.options import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor

#: The name in `torchbce.functional` of each loss.
FUNCTIONS = {
    "bce": "binary_cross_entropy_with_logits",
    "focal": "sigmoid_focal_loss",
    "asymmetric": "asymmetric_loss",
    "poly": "poly_binary_cross_entropy",
}


def loss_function(options: TrainingOptions) -> "Callable[..., Tensor]":
    """The loss of tensors: logits, targets, and what `torchbce.functional` takes by name."""
    import functools

    from torchbce import functional

    function: Any = getattr(functional, FUNCTIONS[options.loss])
    return functools.partial(function, **options.loss_arguments)


class ArrayLoss:
    """The loss of arrays and its derivative.

    Args:
        options: which loss, and its parameters.
    """

    def __init__(self, options: TrainingOptions) -> None:
        self._function = loss_function(options)

    def value_and_grad(
        self, logits: np.ndarray, targets: np.ndarray, weight: np.ndarray | None
    ) -> tuple[float, np.ndarray]:
        """The sum of the losses, and the derivative by each logit.

        Args:
            logits: float64, [rows].
            targets: in [0, 1], float64, [rows].
            weight: of each row, float64 [rows]; None for 1.
        """
        import torch

        from torchbce import backend

        z = torch.from_numpy(logits).requires_grad_()
        w = None if weight is None else torch.from_numpy(weight)
        with backend("reference"):  # compiling a kernel takes longer than a small fit
            loss = self._function(z, torch.from_numpy(targets), weight=w, reduction="sum")
            (grad,) = torch.autograd.grad(loss, z)
        return loss.item(), grad.numpy()
