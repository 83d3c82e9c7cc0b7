"""Binary cross-entropy for PyTorch: exact in both tails, and a road from table to classifier."""

from torchbce import dropin, functional, imbalance
from torchbce._backends import backend, backend_for
from torchbce.kernels.cpu_memory import empty_cache
from torchbce.linear.head import LinearBCELoss
from torchbce.linear.loss import linear_binary_cross_entropy
from torchbce.linear.optimizers import FusedRowwiseAdagrad, FusedSGD
from torchbce.linear.pairwise import pairwise_sigmoid_loss
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
