"""Binary cross-entropy for PyTorch: exact in both tails, and a road from table to classifier."""

from torchbce import dropin, functional, imbalance
from torchbce._backends import backend, backend_for
from torchbce.kernels.cpu_memory import empty_cache
from torchbce.modules import (
    AsymmetricLoss,
    BCELoss,
    BCEWithLogitsLoss,
    BCEWithLogProbsLoss,
    PolyBCELoss,
    SigmoidFocalLoss,
)

__all__ = [
    "AsymmetricLoss",
    "BCELoss",
    "BCEWithLogProbsLoss",
    "BCEWithLogitsLoss",
    "PolyBCELoss",
    "SigmoidFocalLoss",
    "backend",
    "backend_for",
    "dropin",
    "empty_cache",
    "functional",
    "imbalance",
]
__version__ = "0.1.0"
