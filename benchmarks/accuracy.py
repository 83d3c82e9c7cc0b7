"""The largest error of each loss and its gradient, in units in the last place, against PyTorch.

    python benchmarks/accuracy.py [LOSS ...] [report] [--quick]

Logits: every 97th float32 bit pattern (44 million, subnormals included), every bfloat16 and float16
value, and for float64 a grid from -700 to 700. Probabilities and log-probabilities: likewise within
[0, 1] and below 0. Targets: 0 and 1.

The truth is computed in float64 without cancellation, and for float64 inputs in mpmath. "PyTorch"
is `torch.nn.functional` where it has the loss, and otherwise the usual formula: sigmoid, then
products of its powers with PyTorch's cross-entropy. Errors are capped at 1e6, which a result of 0
reaches where the loss is not 0. Correct rounding of a result to its dtype has an error of 0.5.
"""

import functools
from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import accuracy_report
from accuracy_losses import LOSSES, Compute, Loss
from common.command import Options, main

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
#: Bits of the significand, and the exponent of the smallest subnormal.
FORMATS = {
    torch.float64: (53, -1074),
    torch.float32: (24, -149),
    torch.bfloat16: (8, -133),
    torch.float16: (11, -24),
}
BLOCK = 2**20
STRIDE, QUICK_STRIDE = 97, 2**17 + 1
CAP = 1e6


def blocks(dtype: torch.dtype, domain: str, quick: bool) -> Iterator[Tensor]:
    """Finite inputs of a dtype, in blocks."""
    if dtype == torch.float64:
        x = torch.linspace(-700, 700, 29 if quick else 2801, dtype=dtype)
        in_domain = {
            "logits": x,
            "probabilities": torch.sigmoid(x / 20),
            "log_probs": F.logsigmoid(x),
        }
        yield in_domain[domain]
        return
    if dtype == torch.float32:
        all_values = float32_blocks(QUICK_STRIDE if quick else STRIDE)
    else:
        all_values = iter([torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)])
    for x in all_values:
        x = x[x.isfinite()]
        if domain == "probabilities":
            # Below exp(-100) the logarithm is clamped to -100, and the loss is 100 by definition.
            x = x[(x > 4e-44) & (x < 1)]
        yield x[x < 0] if domain == "log_probs" else x


def float32_blocks(stride: int) -> Iterator[Tensor]:
    for start in range(0, 2**32, BLOCK * stride):
        bits = np.arange(start, min(start + BLOCK * stride, 2**32), stride, dtype=np.uint64)
        yield torch.from_numpy(bits.astype(np.uint32).view(np.float32))


def true_values(loss: Loss, x: Tensor, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """The loss and its derivative, for a target of 1 or 0."""
    if x.dtype != torch.float64:
        with np.errstate(all="ignore"):
            value, slope = loss.truth(x.double().numpy(), np, positive)
        return value, slope
    # exp(-700) is 1e-304: added to 1 it takes 304 digits, and 16 more for a float64.
    with mpmath.workdps(340):
        pairs = [loss.truth(mpmath.mpf(value), mpmath, positive) for value in x.tolist()]
    # Arrays of mpmath numbers, so that the difference to a float64 is formed before it is rounded.
    return np.array([value for value, _ in pairs]), np.array([slope for _, slope in pairs])


def errors_in_ulp(value: Tensor, truth: np.ndarray) -> np.ndarray:
    """|value - truth| in units in the last place of the value's dtype, subnormals included."""
    bits, smallest = FORMATS[value.dtype]
    largest = torch.finfo(value.dtype).max
    rounded = truth.astype(np.float64)
    _, exponent = np.frexp(rounded)
    ulp = np.ldexp(1.0, np.maximum(exponent - bits, smallest))
    difference = np.abs((value.double().numpy() - truth).astype(np.float64))
    # A true value beyond the largest number of the dtype is correctly inf.
    return np.where((np.abs(rounded) >= largest) | ~np.isfinite(rounded), 0.0, difference / ulp)


def largest_errors(
    loss: Loss, compute: Compute, dtype: torch.dtype, quick: bool
) -> list[float | None]:
    """The largest errors of the loss and of the gradient, at most `CAP`; None for a NaN."""
    largest = [0.0, 0.0]
    for x in blocks(dtype, loss.domain, quick):
        if not len(x):
            continue
        for positive in (True, False):
            z = x.clone().requires_grad_()
            value = compute(z, torch.full_like(x, float(positive)))
            (slope,) = torch.autograd.grad(value.sum(), z)
            truths = true_values(loss, x, positive)
            for i, (found, truth) in enumerate(zip((value.detach(), slope), truths, strict=True)):
                errors = np.nan_to_num(errors_in_ulp(found, truth), nan=np.inf)
                largest[i] = max(largest[i], float(errors.max()))
    return [min(error, CAP) if np.isfinite(error) else None for error in largest]


def measure(loss: Loss, options: Options) -> dict[str, Any]:
    """Errors by dtype, of loss and gradient."""
    found = {}
    for name, dtype in DTYPES.items():
        found[name] = {
            "torchbce": largest_errors(loss, loss.ours, dtype, options.quick),
            "PyTorch": largest_errors(loss, loss.theirs, dtype, options.quick),
        }
        print(loss.name, name, found[name], flush=True)
    return found


PARTS = {loss.name: functools.partial(measure, loss) for loss in LOSSES}

if __name__ == "__main__":
    main(__doc__, PARTS, accuracy_report.REPORT)
