"""Elementary functions in a form that exported graphs keep accurate.

The losses are computed in float64, from log1p and expm1 near 0. ONNX has neither: its exporter
writes log(1 + u) and exp(x) - 1, which lose every digit where u or x is below 1e-16, and a Softplus
that onnxruntime does not compute in float64. In a graph that is exported, or traced by
`torch.jit.trace`, they are replaced by exp and log and a term for the rounding error of 1 + u and
exp(x). The term is a constant for autograd, as the derivatives do not need it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchbce import _pytorch


def log1p(u: Tensor) -> Tensor:
    """log(1 + u)."""
    if not _leaves_pytorch():
        return torch.log1p(u)
    # log(1 + u) = log(w) + log(1 + e / w), w = 1 + u rounded and e = u - (w - 1) exactly.
    w = 1 + u
    return torch.log(w) + ((u - (w - 1)) / w).detach()


def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1."""
    if not _leaves_pytorch():
        return torch.expm1(x)
    # exp(x) = w exp(e), w = exp(x) rounded and e = x - log(w).
    w = torch.exp(x)
    return (w - 1) + (w * (x - torch.log(w))).detach()


def log1p_exp(x: Tensor) -> Tensor:
    """log(1 + exp(x)) of x <= 0."""
    return log1p(torch.exp(x)) if _leaves_pytorch() else F.softplus(x)


def _leaves_pytorch() -> bool:
    """Whether a graph is recorded that another runtime may run."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return _pytorch.tracing_state() is not None
