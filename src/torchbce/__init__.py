"""Binary cross-entropy for PyTorch: exact in both tails, and a road from table to classifier."""

from torchbce import functional, imbalance
from torchbce.modules import BCELoss, BCEWithLogitsLoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "functional", "imbalance"]
__version__ = "0.1.0"
