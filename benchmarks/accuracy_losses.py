"""The losses whose accuracy is measured: torchbce's, PyTorch's or the usual formula, and the truth.

The truths are written without cancellation, for numpy (float64) and for mpmath alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchbce import functional

Compute = Callable[[Tensor, Tensor], Tensor]
GAMMA, GAMMA_POS, GAMMA_NEG, MARGIN, EPSILON = 2.0, 1.0, 4.0, 0.05, 1.0


def focal_in_pytorch(z: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    miss = 1 - (p * y + (1 - p) * (1 - y))
    return miss**GAMMA * F.binary_cross_entropy_with_logits(z, y, reduction="none")


def poly_in_pytorch(z: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    miss = 1 - (p * y + (1 - p) * (1 - y))
    return F.binary_cross_entropy_with_logits(z, y, reduction="none") + EPSILON * miss


def asymmetric_in_pytorch(z: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    rest = (1 - p + MARGIN).clamp(max=1)
    losses = y * torch.log(p.clamp(min=1e-8)) + (1 - y) * torch.log(rest.clamp(min=1e-8))
    miss = 1 - (p * y + rest * (1 - y))
    return -losses * miss ** (GAMMA_POS * y + GAMMA_NEG * (1 - y))


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes:
        name: of the function.
        ours: torchbce's, element by element.
        theirs: PyTorch's, or the usual formula written with PyTorch's functions.
        truth: from inputs, the module that computes (numpy or mpmath), and whether the target is 1,
            to the loss and its derivative.
        domain: of the inputs: "logits", "probabilities" or "log_probs".
    """

    name: str
    ours: Compute
    theirs: Compute
    truth: Callable[[Any, Any, bool], tuple[Any, Any]]
    domain: str = "logits"


def _logs(z: Any, m: Any) -> tuple[Any, Any, Any, Any]:
    """sigma(z), sigma(-z), -log sigma(z), -log sigma(-z), computed by numpy or mpmath."""
    e = m.exp(-abs(z))
    larger, smaller, tail = 1 / (1 + e), e / (1 + e), m.log1p(e)
    if m is mpmath:
        if z >= 0:
            return larger, smaller, tail, tail + z
        return smaller, larger, tail - z, tail
    p, q = np.where(z >= 0, larger, smaller), np.where(z >= 0, smaller, larger)
    return p, q, np.maximum(-z, 0) + tail, np.maximum(z, 0) + tail


def cross_entropy(z: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    p, q, loss, mirrored = _logs(z, m)
    return (loss, -q) if positive else (mirrored, p)


def focal(z: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    sign = 1 if positive else -1
    p, q, loss, _ = _logs(sign * z, m)
    return q**GAMMA * loss, -sign * q**GAMMA * (q + GAMMA * p * loss)


def poly(z: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    sign = 1 if positive else -1
    p, q, loss, _ = _logs(sign * z, m)
    return loss + EPSILON * q, -sign * (q + EPSILON * p * q)


def asymmetric(z: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    p, q, loss, _ = _logs(z, m)
    if positive:
        return q**GAMMA_POS * loss, -(q**GAMMA_POS) * (q + GAMMA_POS * p * loss)
    if m is mpmath:
        shifted = max(p - MARGIN, mpmath.mpf(0))
        log_rest = mpmath.log(1 - shifted)
    else:
        shifted = np.maximum(p - MARGIN, 0)
        log_rest = np.where(shifted > 0.5, np.log(q + MARGIN), np.log1p(-np.minimum(shifted, 0.5)))
    slope = -GAMMA_NEG * shifted ** (GAMMA_NEG - 1) * log_rest + shifted**GAMMA_NEG / (1 - shifted)
    return -(shifted**GAMMA_NEG) * log_rest, p * q * slope


def from_probability(p: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    """Without the clamp of the logarithms to -100: the inputs are within its range."""
    return (-m.log(p), -1 / p) if positive else (-m.log1p(-p), 1 / (1 - p))


def from_log_probability(x: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    if positive:
        return -x, -1 + 0 * x
    p, rest = m.exp(x), -m.expm1(x)
    if m is mpmath:
        return -m.log(rest), p / rest
    return np.where(x > -0.7, -np.log(rest), -np.log1p(-p)), p / rest


LOSSES = [
    Loss(
        "binary_cross_entropy_with_logits",
        lambda z, y: functional.binary_cross_entropy_with_logits(z, y, reduction="none"),
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none"),
        cross_entropy,
    ),
    Loss(
        "binary_cross_entropy",
        lambda p, y: functional.binary_cross_entropy(p, y, reduction="none"),
        lambda p, y: F.binary_cross_entropy(p, y, reduction="none"),
        from_probability,
        domain="probabilities",
    ),
    Loss(
        "binary_cross_entropy_with_log_probs",
        lambda x, y: functional.binary_cross_entropy_with_log_probs(x, y, reduction="none"),
        lambda x, y: -(y * x + (1 - y) * torch.log(1 - torch.exp(x))),
        from_log_probability,
        domain="log_probs",
    ),
    Loss(
        "sigmoid_focal_loss",
        lambda z, y: functional.sigmoid_focal_loss(z, y, gamma=GAMMA, reduction="none"),
        focal_in_pytorch,
        focal,
    ),
    Loss(
        "asymmetric_loss",
        lambda z, y: functional.asymmetric_loss(
            z, y, gamma_pos=GAMMA_POS, gamma_neg=GAMMA_NEG, margin=MARGIN, reduction="none"
        ),
        asymmetric_in_pytorch,
        asymmetric,
    ),
    Loss(
        "poly_binary_cross_entropy",
        lambda z, y: functional.poly_binary_cross_entropy(z, y, epsilon=EPSILON, reduction="none"),
        poly_in_pytorch,
        poly,
    ),
]
