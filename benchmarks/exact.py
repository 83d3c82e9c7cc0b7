"""The largest error of the CPU kernels over every logit, against float64.

    python benchmarks/exact.py [DTYPE ...] [report] [--quick]

float32: all 2^32 bit patterns, subnormals and infinities included, NaN excluded; bfloat16 and
float16: all 65,536. Targets: 0 and 1. The loss is computed with the reduction "none", the gradient
with "sum". The truth is log1p(exp(-|z|)), e / (1 + e) and the like in float64 by the C library,
whose error is 2^-29 of a float32 unit. Errors are in units in the last place of the true value;
correct rounding has an error of 0.5. All of float32 takes some minutes.
"""

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

import exact_report
import torchbce
from common.command import Options, main
from torchbce.functional import binary_cross_entropy_with_logits

#: Bits of the significand, and the exponent of the smallest subnormal.
FORMATS = {torch.float32: (24, -149), torch.bfloat16: (8, -133), torch.float16: (11, -24)}
BLOCK = 2**22
QUICK_STRIDE = 2**17 + 1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _truths(z: float) -> tuple[float, float, float, float]:
    """Loss and gradient for a target of 0, then for a target of 1."""
    e = math.exp(-abs(z))
    tail, smaller, larger = math.log1p(e), e / (1 + e), 1 / (1 + e)
    if z >= 0:
        return z + tail, larger, tail, -smaller
    return tail, smaller, tail - z, -larger


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _update_largest(
    z: Any, values: Any, bits: int, smallest: int, largest: float, errors: Any, logits: Any
) -> int:
    """Update the largest errors and their logits, and return the number of logits but NaN."""
    compared = 0
    for i in range(z.size):
        if z[i] != z[i]:
            continue
        compared += 1
        for k, truth in enumerate(_truths(z[i])):
            value = values[k, i]
            if math.isinf(truth):
                error = 0.0 if value == truth else math.inf
            elif math.isinf(value):
                # Correct if the truth is past the middle between `largest` and the next power of 2.
                past = abs(truth) >= largest + math.ldexp(0.5, math.frexp(largest)[1] - bits)
                error = 0.0 if past and (value > 0) == (truth > 0) else math.inf
            else:
                exponent = smallest
                if truth != 0:
                    exponent = max(math.frexp(truth)[1] - bits, smallest)
                error = abs(value - truth) / math.ldexp(1.0, exponent)
            if not error <= errors[k]:
                errors[k], logits[k] = error, z[i]
    return compared


def computed(z: Tensor) -> np.ndarray:
    """Losses and gradients in the order of `_truths`, [4, N] in float64."""
    columns = []
    for y in (0.0, 1.0):
        logits, target = z.clone().requires_grad_(), torch.full_like(z, y)
        columns.append(binary_cross_entropy_with_logits(z, target, reduction="none"))
        total = binary_cross_entropy_with_logits(logits, target, reduction="sum")
        columns += torch.autograd.grad(total, logits)
    return torch.stack(columns).double().numpy()


def patterns(dtype: torch.dtype, start: int, stride: int) -> Tensor:
    """A block of logits, made from their bits."""
    if dtype == torch.float32:
        stop = min(start + BLOCK * stride, 2**32)
        bits = np.arange(start, stop, stride, dtype=np.uint64).astype(np.uint32)
        return torch.from_numpy(bits.view(np.float32))
    return torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)


def sweep(name: str, options: Options) -> dict[str, Any]:
    """The number of logits, the largest errors in the order of `_truths`, and their logits."""
    dtype = getattr(torch, name)
    bits, smallest = FORMATS[dtype]
    largest = torch.finfo(dtype).max
    size = 2**32 if dtype == torch.float32 else 1
    stride = QUICK_STRIDE if options.quick else 1

    def block(start: int) -> tuple[int, np.ndarray, np.ndarray]:
        torch.set_num_threads(1)  # of this thread, because the blocks are computed in parallel
        z = patterns(dtype, start, stride)
        errors, logits = np.full(4, -1.0), np.zeros(4)
        wide = z.double().numpy()
        compared = _update_largest(wide, computed(z), bits, smallest, largest, errors, logits)
        return compared, errors, logits

    choice = torchbce.backend_for(torch.zeros(1, dtype=dtype))
    assert choice.name == "numba", choice.reason
    block(0)  # compiles, before the threads start
    total, errors, logits = 0, np.full(4, -1.0), np.zeros(4)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for compared, found, where in pool.map(block, range(0, size, BLOCK * stride)):
            total += compared
            larger = found > errors
            errors[larger], logits[larger] = found[larger], where[larger]
    return {"logits": total, "errors": errors.tolist(), "at": logits.tolist()}


PARTS = {name: functools.partial(sweep, name) for name in ("float32", "bfloat16", "float16")}

if __name__ == "__main__":
    main(__doc__, PARTS, exact_report.REPORT)
