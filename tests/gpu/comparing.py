"""Compare the kernels with the definition: how to call both, and how far apart they may be.

The expected values are those of the definition for the same inputs in float64 on the CPU. Errors
are in units in the last place (ulp) of the expected value.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from interpreting import DEVICE
from torch import Tensor

import torchbce
from family import FAMILY, ONE_OF_EACH, targets
from torchbce.definition.reductions import REDUCTIONS

BLOCK = 2048
FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
EPS = {dtype: torch.finfo(dtype).eps for dtype in FLOATS}
#: The exponents of the smallest normal number and of the last place of 1.
EXPONENTS = {
    torch.float32: (-126, -23),
    torch.bfloat16: (-126, -7),
    torch.float16: (-14, -10),
    torch.float64: (-1022, -52),
}

every_loss = pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)
_floored = next(loss for loss in FAMILY if loss.name == "bce")
one_of_each = pytest.mark.parametrize("loss", [*ONE_OF_EACH, _floored], ids=lambda loss: loss.name)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
#: Largest error for a target of 0 or 1, in ulp: half an ulp for rounding the result, and one and a
#: half for the exponential, the polynomial and their product, each rounded to float32.
UNITS = 2.0


def normal(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def to_device(x: Tensor, wide: bool = False) -> Tensor:
    """An input on the kernels' device; or, if `wide`, in float64 on the CPU for the definition."""
    return x.detach().cpu().double() if wide else x.detach().to(DEVICE)


def both(
    loss: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    upstream: Callable[[Tensor], Tensor] = torch.ones_like,
    **options: Any,
) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient by the kernels and by the definition, all returned on the CPU."""
    results = []
    for wide in (False, True):
        z = to_device(x, wide).requires_grad_()
        device = "cpu" if wide else DEVICE
        given = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
        with torchbce.backend("reference" if wide else "triton"):
            value = loss(z, y.to(device), **given)
            (gradient,) = torch.autograd.grad(value, z, upstream(value))
        assert value.dtype == (z.dtype if options.get("reduction") == "none" else wider(z.dtype))
        assert gradient.dtype == z.dtype
        assert gradient.shape == z.shape
        results.append((value.detach().cpu(), gradient.cpu()))
    return results


def wider(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def ulps(got: Tensor, true: Tensor) -> Tensor:
    """|got - true| in units in the last place; 0 where `true` rounds to `got`."""
    smallest, last = EXPONENTS[got.dtype]
    exponent = np.maximum(np.frexp(true.numpy())[1] - 1, smallest) + last
    unit = torch.from_numpy(np.ldexp(np.ones(true.shape), exponent))
    same = (got == true.to(got.dtype)) | (got.isnan() & true.isnan())
    return torch.where(same, 0.0, (got.double() - true).abs() / unit)


def worst(got: Tensor, true: Tensor) -> float:
    """The largest error, in ulp."""
    assert torch.equal(got.isnan(), true.isnan())
    return ulps(got, true).max().item()


def assert_close(results: list[tuple[Tensor, Tensor]], roundings: float = 8) -> None:
    """Both values and both gradients agree, up to rounding.

    In float32, a weight, a smoothed target, the loss and its two terms are each rounded by half an
    eps or are at most 2 ulp off. Results of 16 bits are rounded once more, at the end. A gradient
    is a difference of terms that are as large as the largest gradients.
    """
    (value, gradient), (true, true_gradient) = results
    for got, wanted in ((value, true), (gradient, true_gradient)):
        eps, wide = EPS[got.dtype], EPS[wider(gradient.dtype)]
        if wide == 2.0**-52:
            # exp(-g s) for s up to 12 and g up to 4 magnifies the rounding error of s, in both.
            wide *= 12
        rtol = roundings * wide + (eps / 2 if eps > 2.0**-20 else 0)
        finite = wanted[wanted.isfinite()].abs()
        scale = finite.max().item() if finite.numel() else 0.0
        # The smallest subnormal of float16, or of float32.
        atol = 2.0**-24 if got.dtype == torch.float16 else 2.0**-149
        if got is gradient:
            atol += 2 * wide * scale
        torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol, equal_nan=True)


def with_layout(values: Tensor, how: str) -> Tensor:
    """The same values with another layout in memory."""
    shape = values.shape
    if how == "permuted":
        return (
            values.permute(*reversed(range(values.dim())))
            .contiguous()
            .permute(*reversed(range(values.dim())))
        )
    if how == "inner":  # channels-last: the second dimension innermost
        return values.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == "sliced":
        wide = values.new_zeros(*shape[:-1], shape[-1] + 3)
        wide[..., 1:-2] = values
        return wide[..., 1:-2]
    if how == "stepped":
        wide = values.new_zeros(*shape[:-1], 2 * shape[-1])
        wide[..., ::2] = values
        return wide[..., ::2]
    if how == "offset":  # contiguous, its memory not aligned
        return torch.cat((values.new_zeros(1), values.reshape(-1)))[1:].view(shape)
    return values.contiguous()


def options_for(shape: tuple[int, ...], ignore_index: float | None) -> dict[str, Any]:
    """Every option at once."""
    return {
        "weight": normal(shape[0], 1, seed=3).abs() + 0.5,
        "pos_weight": normal(shape[1], seed=4).abs() + 0.5,
        "label_smoothing": 0.1,
        "ignore_index": ignore_index,
        "mask": targets(*shape, seed=7) > 0.2,
    }


def upstream_like(value: Tensor, how: str = "contiguous") -> Tensor:
    """Upstream gradients of several values, which every dtype represents exactly."""
    upstream = torch.arange(value.numel(), device=value.device).remainder(5).sub(1.5)
    upstream = upstream.reshape(value.shape).to(value.dtype)
    return with_layout(upstream, how) if value.dim() > 1 else upstream
