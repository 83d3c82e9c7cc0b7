"""Binary cross-entropy for PyTorch, exact in both tails; and binary classifiers of tables."""

import importlib

TYPE_CHECKING = False  # as `typing` has it, whose import takes longer than this whole file

if TYPE_CHECKING:
    from typing import Any

    from torchbce import calibration as calibration
    from torchbce import classifier as classifier
    from torchbce import diagnosis as diagnosis
    from torchbce import dropin as dropin
    from torchbce import functional as functional
    from torchbce import imbalance as imbalance
    from torchbce import linear as linear
    from torchbce import ranking as ranking
    from torchbce.backends.cpu.memory import empty_cache
    from torchbce.backends.selection import backend, backend_for
    from torchbce.diagnosis.diagnose import diagnose
    from torchbce.diagnosis.watch import watch
    from torchbce.linear.head import LinearBCELoss
    from torchbce.linear.loss import linear_binary_cross_entropy
    from torchbce.linear.optimizers import FusedAdagrad, FusedRowwiseAdagrad, FusedSGD
    from torchbce.linear.pairwise import pairwise_sigmoid_loss
    from torchbce.linear.pairwise_module import PairwiseSigmoidLoss
    from torchbce.linear.parallel import LabelParallel
    from torchbce.linear.positives import collate_positives, positives_from
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
    "FusedAdagrad",
    "FusedRowwiseAdagrad",
    "FusedSGD",
    "LabelParallel",
    "LinearBCELoss",
    "PairwiseSigmoidLoss",
    "PolyBCELoss",
    "SigmoidFocalLoss",
    "backend",
    "backend_for",
    "calibration",
    "collate_positives",
    "diagnose",
    "dropin",
    "empty_cache",
    "functional",
    "imbalance",
    "linear_binary_cross_entropy",
    "pairwise_sigmoid_loss",
    "positives_from",
    "ranking",
    "watch",
]
__version__ = "0.2.0"

#: The module of each name (None for a module itself), imported with the name's first use: the
#: command line answers `--help` without PyTorch, whose import takes 2 s, and the losses need none
#: of the libraries of `classifier`.
_LAZY = {
    "AsymmetricLoss": "torchbce.modules",
    "BCELoss": "torchbce.modules",
    "BCEWithLogProbsLoss": "torchbce.modules",
    "BCEWithLogitsLoss": "torchbce.modules",
    "FusedAdagrad": "torchbce.linear.optimizers",
    "FusedRowwiseAdagrad": "torchbce.linear.optimizers",
    "FusedSGD": "torchbce.linear.optimizers",
    "LabelParallel": "torchbce.linear.parallel",
    "LinearBCELoss": "torchbce.linear.head",
    "PairwiseSigmoidLoss": "torchbce.linear.pairwise_module",
    "PolyBCELoss": "torchbce.modules",
    "SigmoidFocalLoss": "torchbce.modules",
    "backend": "torchbce.backends.selection",
    "backend_for": "torchbce.backends.selection",
    "calibration": None,
    "classifier": None,
    "collate_positives": "torchbce.linear.positives",
    "diagnose": "torchbce.diagnosis.diagnose",
    "diagnosis": None,
    "dropin": None,
    "empty_cache": "torchbce.backends.cpu.memory",
    "functional": None,
    "imbalance": None,
    "linear": None,
    "linear_binary_cross_entropy": "torchbce.linear.loss",
    "pairwise_sigmoid_loss": "torchbce.linear.pairwise",
    "positives_from": "torchbce.linear.positives",
    "ranking": None,
    "watch": "torchbce.diagnosis.watch",
}


def __getattr__(name: str) -> "Any":
    if name not in _LAZY:
        raise AttributeError(f"module 'torchbce' has no attribute {name!r}")
    module = _LAZY[name]
    if module is None:
        return importlib.import_module(f"torchbce.{name}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
