"""The largest error of the kernels over every logit that there is, against float64.

    python benchmarks/exact.py [--stride N]

Float32: all 2^32 bit patterns, subnormals and infinities included, NaN left out; bfloat16 and
float16: all 65,536. Targets: 0 and 1. Loss ("none") and gradient ("sum") come from the public
function. The truth is log1p(exp(-|z|)), e / (1 + e) and their like in float64 by the C library,
whose error is 2^-29 of a float32 unit. An error is counted in units in the last place of the true
value; 0.5 is correct rounding. Takes some minutes for all of float32.
"""

import argparse
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

import _results
import torchbce
from torchbce.functional import binary_cross_entropy_with_logits

#: Digits of the significand and the exponent of the least subnormal.
FORMATS = {torch.float32: (24, -149), torch.bfloat16: (8, -133), torch.float16: (11, -24)}
BLOCK = 2**22
#: Loss and gradient for targets of 0 and 1.
COLUMNS = ("loss, y = 0", "gradient, y = 0", "loss, y = 1", "gradient, y = 1")


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _truths(z: float) -> tuple[float, float, float, float]:
    e = math.exp(-abs(z))
    tail, smaller, larger = math.log1p(e), e / (1 + e), 1 / (1 + e)
    if z >= 0:
        return z + tail, larger, tail, -smaller
    return tail, smaller, tail - z, -larger


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _worst(
    z: Any, values: Any, digits: int, least: int, largest: float, errors: Any, places: Any
) -> int:
    """Raise `errors` to the largest found, note their logits, and count what was looked at."""
    looked = 0
    for i in range(z.size):
        if z[i] != z[i]:
            continue
        looked += 1
        for k, truth in enumerate(_truths(z[i])):
            value = values[k, i]
            if math.isinf(truth):
                error = 0.0 if value == truth else math.inf
            elif math.isinf(value):
                # Rightly so where the truth is past the middle to the next power of 2.
                past = abs(truth) >= largest + math.ldexp(0.5, math.frexp(largest)[1] - digits)
                error = 0.0 if past and (value > 0) == (truth > 0) else math.inf
            else:
                exponent = max(math.frexp(truth)[1] - digits, least) if truth != 0 else least
                error = abs(value - truth) / math.ldexp(1.0, exponent)
            if not error <= errors[k]:
                errors[k], places[k] = error, z[i]
    return looked


def computed(z: Tensor) -> np.ndarray:
    """Losses and gradients, in the order of `COLUMNS`, as float64."""
    columns = []
    for y in (0.0, 1.0):
        logits, target = z.clone().requires_grad_(), torch.full_like(z, y)
        columns.append(binary_cross_entropy_with_logits(z, target, reduction="none"))
        total = binary_cross_entropy_with_logits(logits, target, reduction="sum")
        columns += torch.autograd.grad(total, logits)
    return torch.stack(columns).double().numpy()


def patterns(dtype: torch.dtype, start: int, stride: int) -> Tensor:
    """A block of logits, from their bits."""
    if dtype == torch.float32:
        stop = min(start + BLOCK * stride, 2**32)
        bits = np.arange(start, stop, stride, dtype=np.uint64).astype(np.uint32)
        return torch.from_numpy(bits.view(np.float32))
    return torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)


def sweep(dtype: torch.dtype, stride: int) -> dict[str, Any]:
    digits, least = FORMATS[dtype]
    largest = torch.finfo(dtype).max
    size = 2**32 if dtype == torch.float32 else 1

    def block(start: int) -> tuple[int, np.ndarray, np.ndarray]:
        torch.set_num_threads(1)  # of this thread: the blocks are computed side by side
        z = patterns(dtype, start, stride)
        errors, places = np.full(4, -1.0), np.zeros(4)
        wide = z.double().numpy()
        looked = _worst(wide, computed(z), digits, least, largest, errors, places)
        return looked, errors, places

    z = torch.zeros(1, dtype=dtype)
    assert torchbce.backend_for(z).name == "numba", torchbce.backend_for(z).reason
    block(0)  # compiled once, before the threads ask for it
    looked, errors, places = 0, np.full(4, -1.0), np.zeros(4)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for count, found, where in pool.map(block, range(0, size, BLOCK * stride)):
            looked += count
            larger = found > errors
            errors[larger], places[larger] = found[larger], where[larger]
    return {"logits": looked, "errors": errors.tolist(), "at": places.tolist()}


def table(results: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['logits']:,}", *(f"{error:.4f}" for error in row["errors"])]
        for name, row in results.items()
    ]
    return _results.markdown(["dtype", "logits", *COLUMNS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1, metavar="N")
    stride = parser.parse_args().stride
    results = {}
    for dtype in FORMATS:
        name = str(dtype).removeprefix("torch.")
        results[name] = sweep(dtype, stride)
        print(name, results[name], flush=True)
    if stride == 1:  # a part is a look, not a result
        _results.save("exact", results, table(results), "docs/losses.md")


if __name__ == "__main__":
    main()
