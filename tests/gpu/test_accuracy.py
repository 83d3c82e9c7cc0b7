"""Errors in units in the last place: sweeps, all inputs of 16 bits, special values."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comparing import (
    EPS,
    EXPONENTS,
    UNITS,
    both,
    every_float,
    one_of_each,
    to_device,
    worst,
)
from interpreting import DEVICE
from torch import Tensor

import torchbce
from family import FAMILY, Loss, targets
from torchbce.functional import binary_cross_entropy_with_logits as bce

pytestmark = pytest.mark.usefixtures("by_triton")


def sweep() -> Tensor:
    """Float32 numbers of every magnitude: bit patterns a prime apart."""
    patterns = np.arange(0, 2**32, 65_521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return torch.from_numpy(patterns[~np.isnan(patterns)].copy())


def curved() -> Tensor:
    """Logits where the loss is neither 0 nor the logit, and where subnormals begin and end."""
    parts = [torch.linspace(-111, 111, 20_000), torch.linspace(-1.5, 1.5, 20_000)]
    return torch.cat((*parts, torch.linspace(87, 105, 5000), -torch.linspace(87, 105, 5000)))


@pytest.mark.parametrize("numbers", [sweep, curved], ids=lambda numbers: numbers.__name__)
@pytest.mark.parametrize("target", [0, 1])
def test_cross_entropy_of_any_float32(
    numbers: Callable[[], Tensor],
    target: int,
    large_tiles: None,
    record_property: Callable[[str, object], None],
) -> None:
    x = numbers()
    y = torch.full(x.shape, target, dtype=torch.uint8)
    (value, gradient), (true, true_gradient) = both(bce, x, y, reduction="none")
    for name, got, wanted in (("loss", value, true), ("gradient", gradient, true_gradient)):
        found = worst(got, wanted)
        record_property(f"units_of_{name}", found)
        print(f"{numbers.__name__}, y = {target}, {name}: {found:.3f} units")
        assert found <= UNITS


@pytest.mark.parametrize("target", [0.5, 0.25, 2.0**-20])
def test_cross_entropy_of_soft_targets(target: float, large_tiles: None) -> None:
    x = torch.cat((sweep(), curved()))
    (value, gradient), (true, true_gradient) = both(
        bce, x, torch.full(x.shape, target), reduction="none"
    )
    # A share times a logit is exact or rounded once more.
    assert worst(value, true) <= UNITS + 0.5
    # The gradient is a difference of y and a sigmoid: 1.5 ulp of the sigmoid and half an ulp of y.
    terms = torch.maximum(true_gradient.abs(), torch.tensor(target).double())
    error = (gradient.double() - true_gradient).abs() / (terms * 2.0**-23)
    assert error.max() <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("target", [0, 1])
def test_all_logits_of_16_bits(dtype: torch.dtype, target: int, large_tiles: None) -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    y = torch.full(x.shape, target, dtype=torch.bool)
    (value, gradient), (true, true_gradient) = both(bce, x, y, reduction="none")
    # The error of float32 before the only rounding, at least 2^-15 ulp, matters only near ties.
    assert worst(value, true) <= 0.51
    assert worst(gradient, true_gradient) <= 0.51
    # The gradient that is kept from the forward pass is computed by another kernel.
    z = to_device(x).clone().requires_grad_()
    (kept,) = torch.autograd.grad(bce(z, to_device(y), reduction="sum"), z)
    assert torch.equal(kept.cpu().nan_to_num(7.0), gradient.nan_to_num(7.0))


#: A margin for which p - margin loses all bits but one.
_steep = dataclasses.replace(
    next(loss for loss in FAMILY if loss.name == "asymmetric_0.5_0.5_0.2"),
    own={"gamma_pos": 1.0, "gamma_neg": 3.0, "margin": 0.5000001},
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", [*FAMILY[1:], _steep], ids=lambda loss: loss.name)
def test_all_inputs_of_16_bits_of_the_family(
    dtype: torch.dtype, loss: Loss, large_tiles: None
) -> None:
    """They are computed in float32, where a power multiplies its logarithm's error by up to 100."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    if loss.kind == "probabilities":
        x = x[(x > 3e-39) & (x <= 1)]  # below, 1 / p exceeds float32
    elif loss.kind == "log_probs":
        x = x[x < 0]
    x = x.repeat(2)
    y = torch.arange(len(x)) < len(x) // 2
    (value, gradient), (true, true_gradient) = both(loss, x, y, reduction="none")
    assert worst(value, true) <= 0.51
    assert worst(gradient, true_gradient) <= 0.51


@pytest.mark.parametrize("loss", FAMILY[1:], ids=lambda loss: loss.name)
@pytest.mark.parametrize("target", [0, 1])
def test_the_family_of_any_float32(loss: Loss, target: int, large_tiles: None) -> None:
    x = sweep()[::2] if DEVICE == "cpu" else sweep()
    x = torch.cat((x, curved()[:: 5 if DEVICE == "cpu" else 1]))
    x = x[x.isfinite()]
    if loss.kind == "probabilities":
        x = x[(x > 1e-38) & (x < 1)]
    elif loss.kind == "log_probs":
        x = x[x < -1e-38]  # above, 1 / (1 - exp(x)) exceeds float32
    assert len(x) > 7000
    y = torch.full(x.shape, target, dtype=torch.bool)
    (value, gradient), (true, true_gradient) = both(loss, x, y, reduction="none")
    assert worst(value, true) <= UNITS
    assert worst(gradient, true_gradient) <= UNITS


@one_of_each
@every_float
@pytest.mark.parametrize("target", [0.0, 1.0, 0.5])
def test_special_values(loss: Loss, dtype: torch.dtype, target: float) -> None:
    values = [0.0, 17.0, 104.0, 1e4, math.inf, 1e-40, 2.0**-149, 88.5, 103.3]
    values = [sign * value for value in values for sign in (1, -1)] + [math.nan]
    if loss.kind == "probabilities":
        values = [0.0, 1.0, 1e-40, 1e-45, 1e-44, 3e-39, 0.5, 1 - 2**-24, 1e-4, 1 - 1e-4]
    elif loss.kind == "log_probs":
        values = [0.0, -0.0, -1e-40, -17.0, -104.0, -1e4, -0.6931472, -0.6931471, -math.inf]
    x = torch.tensor(values, dtype=torch.float64).to(dtype)
    (value, gradient), (true, true_gradient) = both(
        loss, x, torch.full(x.shape, target).to(dtype), reduction="none"
    )
    if dtype == torch.float64:
        finite = true.isfinite()
        assert torch.equal(value[~finite].nan_to_num(7.0), true[~finite].nan_to_num(7.0))
        # exp(-g s) magnifies the rounding error of s, in both results.
        magnified = 2.0**-50 * (1 + x[finite].abs().clamp(max=700) * 5)
        error = (value[finite] - true[finite]).abs()
        assert bool((error <= magnified * true[finite].abs() + 1e-303).all())
    else:
        assert worst(value, true) <= UNITS + 0.5
    # At infinity, autograd of the focused losses' definition gives NaN; the kernels' is finite.
    defined = true_gradient.isfinite()
    assert torch.equal(gradient.isnan() & x.isnan(), x.isnan())
    assert not gradient[~x.isnan()].isnan().any()
    slopes, wanted = gradient[defined].double(), true_gradient[defined]
    # For a soft target two terms nearly cancel: the error is relative to 0.25 at least.
    terms = wanted.abs() if target != 0.5 else wanted.abs().clamp(min=0.25)
    largest = torch.finfo(dtype).max
    representable = wanted.abs() <= largest
    allowed = terms * 2 * EPS[dtype] + 2.0 ** sum(EXPONENTS[dtype])
    if dtype == torch.float64:
        allowed = allowed * 1000 + 1e-303  # exp(-x) is limited to exp(-700)
    close = (slopes - wanted).abs() <= allowed
    assert bool((close | ~representable).all()), (
        x[defined][~close],
        slopes[~close],
        wanted[~close],
    )


@every_float
def test_a_gradient_beyond_the_dtype_is_zero(dtype: torch.dtype) -> None:
    # 1 / p overflows below 2.94e-39 in float32, in which inputs of 16 bits are computed.
    values = [1e-40, 2.9e-39, 3e-39, 1e-38, 4e-44] if dtype != torch.float64 else [5e-309, 6e-309]
    x = torch.tensor(values, dtype=torch.float64).to(dtype).to(DEVICE)
    y = torch.ones_like(x)
    slopes = []
    for name in ("triton", "reference"):
        z = x.clone().requires_grad_()
        with torchbce.backend(name):
            losses = torchbce.functional.binary_cross_entropy(z, y, reduction="none")
        slopes.append(torch.autograd.grad(losses.sum(), z)[0])
    # Both are rounded once.
    torch.testing.assert_close(slopes[0], slopes[1], rtol=EPS[dtype], atol=0)


@one_of_each
def test_minus_zero_is_a_target(loss: Loss) -> None:
    x = loss.inputs(6, dtype=torch.float32).to(DEVICE)
    y = torch.tensor([-0.0, 0.0, 1.0, -0.0, 1.0, 0.0], device=DEVICE)
    assert torch.equal(loss(x, y, reduction="none"), loss(x, y.abs(), reduction="none"))


@one_of_each
def test_nan_is_not_hidden_unless_ignored(loss: Loss) -> None:
    x, y = loss.inputs(5, dtype=torch.float32), torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0])
    x[1:3] = math.nan
    x, y = x.to(DEVICE), y.to(DEVICE)
    if loss.kind == "logits":
        for weight in (1.0, 0.0):
            z = x.clone().requires_grad_()
            value = loss(z, y, reduction="none", weight=weight)
            assert value.isnan().tolist() == [False, True, True, False, False]
            (gradient,) = torch.autograd.grad(value.sum(), z)
            assert gradient.isnan().tolist() == [False, True, True, False, False]
    z = x.clone().requires_grad_()
    kept = loss(z, y, reduction="none", mask=~x.isnan())
    assert kept[1:3].tolist() == [0.0, 0.0]
    assert kept.isfinite().all()
    (gradient,) = torch.autograd.grad(kept.sum(), z)
    assert gradient[1:3].tolist() == [0.0, 0.0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_zero_times_infinity(dtype: torch.dtype) -> None:
    infinite = torch.tensor([-math.inf, math.inf, -math.inf, math.inf], dtype=dtype, device=DEVICE)
    y = torch.tensor([1, 0, 0, 1], dtype=torch.uint8, device=DEVICE)
    z = infinite.clone().requires_grad_()
    # The wrong class has an infinite loss, the right one a loss of 0.
    assert bce(z, y, reduction="none").tolist() == [math.inf, math.inf, 0.0, 0.0]
    weight = torch.tensor([0.0, 0.0, 2.0, 2.0], device=DEVICE)
    value = bce(z, y, weight=weight, reduction="none")
    assert value.tolist() == [0.0] * 4
    assert torch.autograd.grad(value.sum(), z)[0].tolist() == [0.0] * 4
    assert bce(z, y, weight=weight, reduction="sum").item() == 0.0
    # A pos_weight of 0 removes positives only: the wrong negative keeps its infinite loss.
    assert bce(z, y, pos_weight=0.0, reduction="none").tolist() == [0.0, math.inf, 0.0, 0.0]
    assert bce(z, y, mask=weight > 0).item() == 0.0


@pytest.mark.parametrize(
    ("weight", "pos_weight"), [(1e30, 1e10), (math.inf, 1.0), (0.0, 2.0), (-2.0, 1.0)]
)
@one_of_each
def test_extreme_weights(loss: Loss, weight: float, pos_weight: float) -> None:
    if weight == math.inf and loss.function is torchbce.functional.asymmetric_loss:
        return  # infinity times a loss that is 0 in one computation and 1e-50 in the other
    x, y = loss.inputs(50, dtype=torch.float32).to(DEVICE), targets(50, dtype=torch.bool).to(DEVICE)
    options: dict[str, Any] = {
        "weight": torch.tensor(weight, device=DEVICE),
        "pos_weight": torch.tensor(pos_weight, device=DEVICE),
    }
    with torchbce.backend("reference"):
        expected = loss(x, y, reduction="none", **options)
    torch.testing.assert_close(loss(x, y, reduction="none", **options), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("pos_weight", [math.inf, math.nan])
def test_pos_weight_does_not_affect_negatives(pos_weight: float) -> None:
    x = torch.ones(2, device=DEVICE, requires_grad=True)
    y, weights = torch.tensor([0.0, 1.0], device=DEVICE), torch.full((2,), pos_weight).to(DEVICE)
    losses = bce(x, y, pos_weight=weights, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    # As in the CPU's kernel; at most 2 ulp off.
    assert losses[0].item() == pytest.approx(math.log1p(math.e), rel=2.0**-22)
    assert gradient[0].item() == pytest.approx(1 / (1 + math.exp(-1)), rel=2.0**-22)
    assert not losses[1].isfinite()
    assert not gradient[1].isfinite()
