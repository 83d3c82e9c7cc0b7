"""Numbers in two parts of float32, compared with float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from interpreting import DEVICE
from torch import Tensor

from torchbce.backends.gpu import numbers
from torchbce.backends.gpu.numbers import Number

BLOCK = 4096


@triton.jit
def _kernel(x, x_low, y, y_low, out, out_low, OPERATION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    a = Number(tl.load(x + at), tl.load(x_low + at))
    b = Number(tl.load(y + at), tl.load(y_low + at))
    if OPERATION == "add":
        found = numbers.add(a, b)
    elif OPERATION == "subtract":
        found = numbers.subtract(a, b)
    elif OPERATION == "multiply":
        found = numbers.multiply(a, b)
    elif OPERATION == "divide":
        found = numbers.divide(a, b)
    elif OPERATION == "exp_neg":
        found = numbers.exp_neg(a)
    elif OPERATION == "exp_neg_scaled":
        found, factor = numbers.exp_neg_scaled(a)
        found = Number(found.hi * factor, found.lo * factor)
    elif OPERATION == "one_minus_exp_neg":
        found = numbers.one_minus_exp_neg(a, numbers.exp_neg(a))
    elif OPERATION == "one_plus":
        found = numbers.one_plus(a)
    else:
        found = numbers.log(a)
    tl.store(out + at, found.hi)
    tl.store(out_low + at, found.lo)


def uniform(low: float, high: float, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(BLOCK, generator=g, dtype=torch.float64)


def split(wide: Tensor) -> tuple[Tensor, Tensor]:
    hi = wide.float()
    return hi, (wide - hi.double()).float()


def computed(operation: str, x: Tensor, y: Tensor) -> Tensor:
    """The result of float64 numbers that are given in two parts, in float64."""
    parts: list[Any] = [t.to(DEVICE) for t in (*split(x), *split(y))]
    out = [torch.empty(BLOCK, device=DEVICE) for _ in range(2)]
    _kernel[(1,)](*parts, *out, operation, BLOCK, enable_fp_fusion=False)
    hi, lo = (t.cpu().double() for t in out)
    return hi + lo


def narrowed(x: Tensor) -> Tensor:
    """What two parts hold."""
    hi, lo = split(x)
    return hi.double() + lo.double()


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, float]] = {
    "add": (torch.add, uniform(-3, 3), uniform(-1, 1, 1), 2.0**-44),
    "subtract": (torch.sub, uniform(-3, 3), uniform(-1, 1, 1), 2.0**-44),
    "multiply": (torch.mul, uniform(-3, 3), uniform(-1, 1, 1), 2.0**-45),
    "divide": (torch.div, uniform(-3, 3), uniform(0.1, 9, 1), 2.0**-41),
    "one_plus": (lambda x, _: 1 + x, uniform(-1, 1), uniform(0, 1), 2.0**-44),
    # The terms from the third on have 24 bits, and are at most 0.0078.
    "exp_neg": (lambda x, _: torch.exp(-x), uniform(0, 70), uniform(0, 1), 2.0**-28),
    "exp_neg_scaled": (lambda x, _: torch.exp(-x), uniform(0, 70), uniform(0, 1), 2.0**-28),
    "one_minus_exp_neg": (lambda x, _: -torch.expm1(-x), uniform(0, 3), uniform(0, 1), 2.0**-27),
    # The terms from the third on are at most 0.024.
    "log": (lambda x, _: torch.log(x), uniform(0, 4), uniform(0, 1), 2.0**-26.5),
}


@pytest.mark.parametrize("operation", CASES)
def test_accuracy(operation: str) -> None:
    exact, x, y, allowed = CASES[operation]
    true = exact(narrowed(x), narrowed(y))
    error = (computed(operation, x, y) - true).abs()
    scale = true.abs() if operation not in ("add", "subtract") else torch.ones_like(true) * 4
    if operation == "log":
        scale = true.abs().clamp(min=0.3)
    print(operation, torch.log2((error / scale).max()).item())
    assert (error / scale).max() <= allowed
