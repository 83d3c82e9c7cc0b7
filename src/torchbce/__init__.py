"""Binary cross-entropy for PyTorch: exact in both tails, and a road from table to classifier."""

import importlib
from typing import TYPE_CHECKING, Any

from torchbce import dropin, functional, imbalance
from torchbce.backends.cpu.memory import empty_cache
from torchbce.backends.selection import backend, backend_for
from torchbce.modules import (
    AsymmetricLoss,
    BCELoss,
    BCEWithLogitsLoss,
    BCEWithLogProbsLoss,
    PolyBCELoss,
    SigmoidFocalLoss,
)

if TYPE_CHECKING:
    from torchbce.linear.head import LinearBCELoss
    from torchbce.linear.loss import linear_binary_cross_entropy
    from torchbce.linear.optimizers import FusedRowwiseAdagrad, FusedSGD
    from torchbce.linear.pairwise import pairwise_sigmoid_loss

__all__ = [
    "AsymmetricLoss",
    "BCELoss",
    "BCEWithLogProbsLoss",
    "BCEWithLogitsLoss",
    "FusedRowwiseAdagrad",
    "FusedSGD",
    "LinearBCELoss",
    "PolyBCELoss",
    "SigmoidFocalLoss",
    "backend",
    "backend_for",
    "dropin",
    "empty_cache",
    "functional",
    "imbalance",
    "linear_binary_cross_entropy",
    "pairwise_sigmoid_loss",
]
__version__ = "0.1.0"

#: Loaded when they are first asked for: 25 ms that the import of the losses does not cost.
_WHEN_ASKED_FOR = {
    "FusedRowwiseAdagrad": "torchbce.linear.optimizers",
    "FusedSGD": "torchbce.linear.optimizers",
    "LinearBCELoss": "torchbce.linear.head",
    "linear_binary_cross_entropy": "torchbce.linear.loss",
    "pairwise_sigmoid_loss": "torchbce.linear.pairwise",
}


def __getattr__(name: str) -> Any:
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module 'torchbce' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHEN_ASKED_FOR[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHEN_ASKED_FOR})
