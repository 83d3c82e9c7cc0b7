"""One record per loss: its formula, its domain, its constants and the kernel that computes it.

Kernels, the drop-in, the functions, modules, tests and benchmarks read this table. A kernel is
named by a string and takes five constants, so that one compiled kernel serves every value of them:
the weights of the positive and the negative part, and up to three more.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbce.definition import reference

#: The loss of a positive and of a negative, see `reference`.
Parts = Callable[..., tuple[Tensor, Tensor]]


class Domain(NamedTuple):
    """The values that the input of a loss may have.

    Attributes:
        name: its name in error messages and in the documentation.
        low: the smallest value allowed.
        high: the largest value allowed.
        neutral: a value with a finite loss, which replaces the input of an ignored element.
    """

    name: str
    low: float
    high: float
    neutral: float


LOGITS = Domain("logits", -math.inf, math.inf, 0.0)
PROBABILITIES = Domain("probabilities", 0.0, 1.0, 0.5)
LOG_PROBS = Domain("log_probs", -math.inf, 0.0, -1.0)


class Kernel(NamedTuple):
    """A kernel with its constants: see `KERNELS` for the names."""

    name: str
    constants: tuple[float, float, float, float, float]


#: The kernels, and the domain of the input of each.
KERNELS = {
    "logits": LOGITS,
    "focal": LOGITS,
    "poly": LOGITS,
    "asymmetric": LOGITS,
    "probability": PROBABILITIES,
    "log_probability": LOG_PROBS,
}


class LossRecord(NamedTuple):
    """A loss of the family.

    Attributes:
        name: the name of its function in `torchbce.functional`.
        module: the name of its module in `torchbce`.
        parts: the formulas in `reference`.
        domain: the domain of the input.
        constants: the names of its own arguments, in the order in which `parts` takes them.
        kernel: returns the kernel that computes the loss, from the values of the constants.
    """

    name: str
    module: str
    parts: Parts
    domain: Domain
    constants: tuple[str, ...]
    kernel: Callable[..., Kernel]


def _kernel(name: str, *constants: float) -> Kernel:
    filled = (*map(float, constants), 0.0, 0.0, 0.0, 0.0, 0.0)[:5]
    return Kernel(name, filled)  # type: ignore[arg-type]


def _cross_entropy() -> Kernel:
    return _kernel("logits", 1, 1)


def _focused(
    name: str, alpha: float | None, gamma_pos: float, gamma_neg: float, last: float
) -> Kernel:
    """A loss with focusing exponents; with exponents of 0 it is cross-entropy."""
    if alpha is None and gamma_pos == gamma_neg == last == 0:
        return _cross_entropy()
    weights = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return _kernel(name, *weights, gamma_pos, gamma_neg, last)


def _focal(alpha: float | None, gamma: float) -> Kernel:
    return _focused("focal", alpha, gamma, gamma, 0)


def _asymmetric(gamma_pos: float, gamma_neg: float, margin: float) -> Kernel:
    return _focused("asymmetric" if margin else "focal", None, gamma_pos, gamma_neg, margin)


def _poly(epsilon: float, gamma: float, alpha: float | None) -> Kernel:
    return _focused("poly", alpha, gamma, gamma, epsilon)


def _probability(eps: float | None) -> Kernel:
    logs = (0, 0, 0) if eps is None else (eps, -math.log(eps), -math.log1p(-eps))
    return _kernel("probability", 1, 1, *logs)


def _log_probability() -> Kernel:
    return _kernel("log_probability", 1, 1)


FAMILY = {
    record.name: record
    for record in (
        LossRecord(
            "binary_cross_entropy_with_logits",
            "BCEWithLogitsLoss",
            reference.logits_parts,
            LOGITS,
            (),
            _cross_entropy,
        ),
        LossRecord(
            "binary_cross_entropy",
            "BCELoss",
            reference.probability_parts,
            PROBABILITIES,
            ("eps",),
            _probability,
        ),
        LossRecord(
            "binary_cross_entropy_with_log_probs",
            "BCEWithLogProbsLoss",
            reference.log_probability_parts,
            LOG_PROBS,
            (),
            _log_probability,
        ),
        LossRecord(
            "sigmoid_focal_loss",
            "SigmoidFocalLoss",
            reference.focal_parts,
            LOGITS,
            ("alpha", "gamma"),
            _focal,
        ),
        LossRecord(
            "asymmetric_loss",
            "AsymmetricLoss",
            reference.asymmetric_parts,
            LOGITS,
            ("gamma_pos", "gamma_neg", "margin"),
            _asymmetric,
        ),
        LossRecord(
            "poly_binary_cross_entropy",
            "PolyBCELoss",
            reference.poly_parts,
            LOGITS,
            ("epsilon", "gamma", "alpha"),
            _poly,
        ),
    )
}


class Loss(NamedTuple):
    """A loss with values for its constants.

    Attributes:
        parts: the formulas in `reference`.
        domain: the domain of the input.
        constants: the arguments of `parts` after the input.
        kernel: the kernel that computes it; None if a constant is a tensor, which only the
            definition supports.
        name: the name of its function in `torchbce.functional`.
    """

    parts: Parts
    domain: Domain
    constants: tuple[Any, ...]
    kernel: Kernel | None
    name: str = ""

    def positive_and_negative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a positive and of a negative, for each input."""
        return self.parts(x, *self.constants)


def loss(name: str, *constants: float | Tensor | None) -> Loss:
    """The loss of this name."""
    if torch.compiler.is_compiling() or any(isinstance(c, Tensor) for c in constants):
        return _make(name, *constants)
    return _cached(name, *constants)


def _make(name: str, *constants: Any) -> Loss:
    record = FAMILY[name]
    has_kernel = not any(isinstance(constant, Tensor) for constant in constants)
    kernel = record.kernel(*constants) if has_kernel else None
    return Loss(record.parts, record.domain, constants, kernel, name)


_cached = functools.lru_cache(maxsize=256)(_make)

#: Cross-entropy of logits, and its derivative with respect to them. Linear layers compute both.
CROSS_ENTROPY = loss("binary_cross_entropy_with_logits")
CROSS_ENTROPY_SLOPE = Loss(reference.logits_slope_parts, LOGITS, (), None)
