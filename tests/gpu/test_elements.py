"""The GPU's kernels against the definition: losses, dtypes, sizes, strides, and both directions.

The truth is the same loss by the definition, of float64 inputs on the CPU. Units in the last place
are those of the truth.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from interpreting import DEVICE
from torch import Tensor

import torchbce
from family import FAMILY, ONE_OF_EACH, Loss, targets
from torchbce import _operator, kernels, reference
from torchbce.functional import binary_cross_entropy_with_logits as bce
from torchbce.kernels.elements import Elements, Program

BLOCK = 2048
FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
EPS = {dtype: torch.finfo(dtype).eps for dtype in FLOATS}
#: The exponents of the least normal number and of the last place of 1.
EXPONENTS = {
    torch.float32: (-126, -23),
    torch.bfloat16: (-126, -7),
    torch.float16: (-14, -10),
    torch.float64: (-1022, -52),
}

every_loss = pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)
_floored = next(loss for loss in FAMILY if loss.name == "bce")
one_of_each = pytest.mark.parametrize("loss", [*ONE_OF_EACH, _floored], ids=lambda loss: loss.name)
every_reduction = pytest.mark.parametrize("reduction", reference.REDUCTIONS)
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)


@pytest.fixture(autouse=True)
def by_triton() -> Iterator[None]:
    """No other backend, which would pass these tests as well."""
    with torchbce.backend("triton"):
        yield


@pytest.fixture
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many elements at once: an interpreted tile takes the same time whatever its size."""
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels.gpu(), "_TILE", 2**16)
        monkeypatch.setattr(kernels.gpu(), "_TILE_OF_64", 2**15)


def normal(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moved(x: Tensor, wide: bool = False) -> Tensor:
    """An input as the kernels read it; or, wide, as the truth is computed from it."""
    return x.detach().cpu().double() if wide else x.detach().to(DEVICE)


def both(
    loss: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    upstream: Callable[[Tensor], Tensor] = torch.ones_like,
    **options: Any,
) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient, by the kernels and by the definition; both on the CPU."""
    results = []
    for wide in (False, True):
        z = moved(x, wide).requires_grad_()
        place = "cpu" if wide else DEVICE
        given = {k: v.to(place) if isinstance(v, Tensor) else v for k, v in options.items()}
        with torchbce.backend("reference" if wide else "triton"):
            value = loss(z, y.to(place), **given)
            (gradient,) = torch.autograd.grad(value, z, upstream(value))
        assert value.dtype == (z.dtype if options.get("reduction") == "none" else wider(z.dtype))
        assert gradient.dtype == z.dtype
        assert gradient.shape == z.shape
        results.append((value.detach().cpu(), gradient.cpu()))
    return results


def wider(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def ulps(got: Tensor, true: Tensor) -> Tensor:
    """|got - true| in units of the last place; 0 where the truth rounds to what was got."""
    least, last = EXPONENTS[got.dtype]
    exponent = np.maximum(np.frexp(true.numpy())[1] - 1, least) + last
    unit = torch.from_numpy(np.ldexp(np.ones(true.shape), exponent))
    same = (got == true.to(got.dtype)) | (got.isnan() & true.isnan())
    return torch.where(same, 0.0, (got.double() - true).abs() / unit)


def worst(got: Tensor, true: Tensor) -> float:
    assert torch.equal(got.isnan(), true.isnan())
    return ulps(got, true).max().item()


def assert_close(results: list[tuple[Tensor, Tensor]], roundings: float = 8) -> None:
    """That both values and both gradients are the same, but for what is rounded on the way.

    A weight, a target smoothed, the loss and its two terms: each is rounded by half an eps or is 2
    units off at most, in float32; 16 bits add one rounding, at the end. A gradient is a difference
    of terms as large as the largest gradients.
    """
    (value, gradient), (true, true_gradient) = results
    for got, wanted in ((value, true), (gradient, true_gradient)):
        eps, wide = EPS[got.dtype], EPS[wider(gradient.dtype)]
        if wide == 2.0**-52:
            # exp(-g s) for s up to 12 and g up to 4 magnifies what s is rounded by, in both.
            wide *= 12
        rtol = roundings * wide + (eps / 2 if eps > 2.0**-20 else 0)
        finite = wanted[wanted.isfinite()].abs()
        scale = finite.max().item() if finite.numel() else 0.0
        # The least subnormal of float16, or of float32: values beyond them are rounded to those.
        atol = 2.0**-24 if got.dtype == torch.float16 else 2.0**-149
        if got is gradient:
            atol += 2 * wide * scale
        torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol, equal_nan=True)


def laid(values: Tensor, how: str) -> Tensor:
    """The same values, laid out in another way."""
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


def options_for(shape: tuple[int, ...], marker: float | None) -> dict[str, Any]:
    """Every option at once."""
    return {
        "weight": normal(shape[0], 1, seed=3).abs() + 0.5,
        "pos_weight": normal(shape[1], seed=4).abs() + 0.5,
        "label_smoothing": 0.1,
        "ignore_index": marker,
        "mask": targets(*shape, seed=7) > 0.2,
    }


# --------------------------------------------------------------------------------- the family


@every_loss
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_family(loss: Loss, reduction: str) -> None:
    assert_close(both(loss, *elements(loss), reduction=reduction))


@every_loss
@every_reduction
def test_the_family_with_all_options(loss: Loss, reduction: str) -> None:
    x, y = elements(loss)
    # Each marker meets each loss, and each reduction.
    index = FAMILY.index(loss) + reference.REDUCTIONS.index(reduction)
    marker = (-100.0, math.nan)[index % 2]
    y[3] = y[5, 6] = marker
    x[5, 6] = math.nan
    options = options_for(tuple(x.shape), marker)
    options["mask"][7] = False
    assert_close(both(loss, x, y, reduction=reduction, **options))


def elements(loss: Loss) -> tuple[Tensor, Tensor]:
    """More than a block of what is computed in float64."""
    return loss.inputs(23, 29, dtype=torch.float32), targets(23, 29).float()


@one_of_each
@pytest.mark.parametrize("dtype", FLOATS[1:], ids=str)
@pytest.mark.parametrize("optional", [False, True])
def test_dtypes_of_inputs(loss: Loss, dtype: torch.dtype, optional: bool) -> None:
    rows, columns = 9, 70
    x, y = loss.inputs(rows, columns, dtype=dtype), targets(rows, columns).to(dtype)
    options: dict[str, Any] = {}
    if optional:
        y[3] = y[5, 6] = -100
        options = options_for((rows, columns), -100)
    reduction = "weighted_mean" if optional else "none"
    assert_close(both(loss, x, y, reduction=reduction, **options))


@every_float
@pytest.mark.parametrize("y_dtype", [*FLOATS, *INTEGERS], ids=str)
def test_dtypes_of_targets(dtype: torch.dtype, y_dtype: torch.dtype) -> None:
    x, y = normal(71, scale=20).to(dtype), targets(71, dtype=y_dtype)
    if y_dtype == torch.float64 and dtype != torch.float64:
        y = y.float().double()  # as the kernel has it
    assert_close(both(bce, x, y, reduction="none"))
    if y_dtype.is_signed:
        y[5] = y[70] = -100
        assert_close(both(bce, x, y, ignore_index=-100))


@pytest.mark.parametrize("w_dtype", [*FLOATS, *INTEGERS], ids=str)
def test_dtypes_of_weights(w_dtype: torch.dtype) -> None:
    x, y = normal(8, 6), targets(8, 6).float()
    weight = torch.arange(8).view(8, 1).to(w_dtype)
    pos_weight = torch.arange(6).to(w_dtype)
    for dtype in (torch.float32, torch.float64):
        for reduction in ("mean", "weighted_mean"):
            results = both(
                bce, x.to(dtype), y, weight=weight, pos_weight=pos_weight, reduction=reduction
            )
            assert_close(results)


@pytest.mark.parametrize("marker", [0, 255, -100, 0.1, 1])
def test_markers_of_any_dtype(marker: float) -> None:
    x = normal(6)
    for y_dtype in (torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int64):
        y = torch.tensor([0, 1, 0, 1, 1, 0]).to(y_dtype)
        if marker != -100 or y_dtype != torch.uint8:
            y[2] = marker
        results = both(bce, x, y, reduction="none", ignore_index=marker)
        assert_close(results)
        dropped = (
            y == torch.tensor(marker, dtype=y_dtype) if y_dtype.is_floating_point else (y == marker)
        )
        assert torch.equal(results[0][0] == 0, dropped)


def test_a_marker_of_float64_is_compared_in_float64() -> None:
    y = torch.tensor([0.1, 0.1 + 1e-12, 0.5], dtype=torch.float64, device=DEVICE)
    losses = bce(torch.zeros(3, device=DEVICE), y, ignore_index=0.1, reduction="none")
    assert (losses > 0).tolist() == [False, True, True]


# ------------------------------------------------------------------------------------- numbers

#: Largest error for a target of 0 or 1: half a unit for the result, and one and a half for the
#: exponential, the polynomial and the product before it, each rounded in float32.
UNITS = 2.0


def sweep() -> Tensor:
    """Float32 numbers of every magnitude: bit patterns a prime apart."""
    patterns = np.arange(0, 2**32, 65_521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return torch.from_numpy(patterns[~np.isnan(patterns)].copy())


def curved() -> Tensor:
    """Logits where the loss is neither 0 nor the logit, and where subnormals begin and end."""
    places = [torch.linspace(-111, 111, 20_000), torch.linspace(-1.5, 1.5, 20_000)]
    return torch.cat((*places, torch.linspace(87, 105, 5000), -torch.linspace(87, 105, 5000)))


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
    # Of the difference of y and a sigmoid, 1.5 units of the sigmoid and half a unit of y stay.
    terms = torch.maximum(true_gradient.abs(), torch.tensor(target).double())
    error = (gradient.double() - true_gradient).abs() / (terms * 2.0**-23)
    assert error.max() <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("target", [0, 1])
def test_all_logits_of_16_bits(dtype: torch.dtype, target: int, large_tiles: None) -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    y = torch.full(x.shape, target, dtype=torch.bool)
    (value, gradient), (true, true_gradient) = both(bce, x, y, reduction="none")
    # What float32 leaves before the one rounding, 2^-15 of a unit or more, decides but near ties.
    assert worst(value, true) <= 0.51
    assert worst(gradient, true_gradient) <= 0.51
    # The gradient that is kept from the first pass is that of another kernel.
    z = moved(x).clone().requires_grad_()
    (kept,) = torch.autograd.grad(bce(z, moved(y), reduction="sum"), z)
    assert torch.equal(kept.cpu().nan_to_num(7.0), gradient.nan_to_num(7.0))


#: A margin where p - margin loses all but a bit.
_steep = dataclasses.replace(
    next(loss for loss in FAMILY if loss.name == "asymmetric_0.5_0.5_0.2"),
    own={"gamma_pos": 1.0, "gamma_neg": 3.0, "margin": 0.5000001},
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", [*FAMILY[1:], _steep], ids=lambda loss: loss.name)
def test_all_inputs_of_16_bits_of_the_family(
    dtype: torch.dtype, loss: Loss, large_tiles: None
) -> None:
    """In float32, where a power multiplies the error of its logarithm by up to 100."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    if loss.kind == "probabilities":
        x = x[(x > 3e-39) & (x <= 1)]  # below it 1 / p is beyond float32
    elif loss.kind == "log_probs":
        x = x[x < 0]
    x = x.repeat(2)
    y = torch.arange(len(x)) < len(x) // 2
    (value, gradient), (true, true_gradient) = both(loss, x, y, reduction="none")
    assert worst(value, true) <= 0.51
    assert worst(gradient, true_gradient) <= 0.51


@pytest.mark.parametrize("loss", FAMILY[1:], ids=lambda loss: loss.name)
@pytest.mark.parametrize("target", [0, 1])
def test_the_family_is_rounded_correctly(loss: Loss, target: int, large_tiles: None) -> None:
    x = sweep()[::2] if DEVICE == "cpu" else sweep()
    x = x[x.isfinite()]
    if loss.kind == "probabilities":
        x = x[(x > 1e-38) & (x < 1)]
    elif loss.kind == "log_probs":
        x = x[x < 0]
    assert len(x) > 7000
    y = torch.full(x.shape, target, dtype=torch.bool)
    (value, gradient), (true, true_gradient) = both(loss, x, y, reduction="none")
    # Without a factor that focuses they are cross-entropy of logits, and computed in float32.
    plain = loss.kind == "logits" and torch.equal(true, both(bce, x, y, reduction="none")[1][0])
    # Float64 leaves 2^-29 of a unit times what it loses: that decides but near ties.
    units = UNITS if plain else 0.501
    assert worst(value, true) <= units
    assert worst(gradient, true_gradient) <= units


@one_of_each
@every_float
@pytest.mark.parametrize("target", [0.0, 1.0, 0.5])
def test_specials(loss: Loss, dtype: torch.dtype, target: float) -> None:
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
        # exp(-g s) magnifies what s is rounded by, and both sides have rounded it.
        magnified = 2.0**-50 * (1 + x[finite].abs().clamp(max=700) * 5)
        error = (value[finite] - true[finite]).abs()
        assert bool((error <= magnified * true[finite].abs() + 1e-303).all())
    else:
        assert worst(value, true) <= UNITS + 0.5
    # At infinity the definition of focused losses differentiates to NaN; the kernels' is finite.
    defined = true_gradient.isfinite()
    assert torch.equal(gradient.isnan() & x.isnan(), x.isnan())
    assert not gradient[~x.isnan()].isnan().any()
    slopes, wanted = gradient[defined].double(), true_gradient[defined]
    # Of a soft target two terms nearly cancel: units are those of a quarter at least.
    terms = wanted.abs() if target != 0.5 else wanted.abs().clamp(min=0.25)
    largest = torch.finfo(dtype).max
    representable = wanted.abs() <= largest
    # 1 / p is steep: an input of float16 is what the definition has in float64 all the same.
    allowed = terms * 2 * EPS[dtype] + 2.0 ** sum(EXPONENTS[dtype])
    if dtype == torch.float64:
        allowed = allowed * 1000 + 1e-303  # exp(-700) stands for what is below it
    close = (slopes - wanted).abs() <= allowed
    assert bool((close | ~representable).all()), (
        x[defined][~close],
        slopes[~close],
        wanted[~close],
    )


@every_float
def test_a_slope_beyond_the_dtype_is_zero(dtype: torch.dtype) -> None:
    # 1 / p overflows below 2.94e-39 in float32, which 16 bits are computed in; see `reference`.
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
    # A wrong answer costs infinity, a right one nothing.
    assert bce(z, y, reduction="none").tolist() == [math.inf, math.inf, 0.0, 0.0]
    weight = torch.tensor([0.0, 0.0, 2.0, 2.0], device=DEVICE)
    value = bce(z, y, weight=weight, reduction="none")
    assert value.tolist() == [0.0] * 4
    assert torch.autograd.grad(value.sum(), z)[0].tolist() == [0.0] * 4
    assert bce(z, y, weight=weight, reduction="sum").item() == 0.0
    # And no weight of positives at all silences those that are wrong.
    assert bce(z, y, pos_weight=0.0, reduction="none").tolist() == [0.0, math.inf, 0.0, 0.0]
    assert bce(z, y, mask=weight > 0).item() == 0.0


@pytest.mark.parametrize(
    ("weight", "pos_weight"), [(1e30, 1e10), (math.inf, 1.0), (0.0, 2.0), (-2.0, 1.0)]
)
@one_of_each
def test_extreme_weights(loss: Loss, weight: float, pos_weight: float) -> None:
    if weight == math.inf and loss.function is torchbce.functional.asymmetric_loss:
        return  # infinity times a loss of 0, or of 1e-50 before it is rounded
    x, y = loss.inputs(50, dtype=torch.float32).to(DEVICE), targets(50, dtype=torch.bool).to(DEVICE)
    options: dict[str, Any] = {
        "weight": torch.tensor(weight, device=DEVICE),
        "pos_weight": torch.tensor(pos_weight, device=DEVICE),
    }
    with torchbce.backend("reference"):
        expected = loss(x, y, reduction="none", **options)
    torch.testing.assert_close(loss(x, y, reduction="none", **options), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("pos_weight", [math.inf, math.nan])
def test_a_weight_of_positives_leaves_negatives_alone(pos_weight: float) -> None:
    x = torch.ones(2, device=DEVICE, requires_grad=True)
    y, weights = torch.tensor([0.0, 1.0], device=DEVICE), torch.full((2,), pos_weight).to(DEVICE)
    losses = bce(x, y, pos_weight=weights, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    # As the CPU's kernel has it; two units off, as everywhere.
    assert losses[0].item() == pytest.approx(math.log1p(math.e), rel=2.0**-22)
    assert gradient[0].item() == pytest.approx(1 / (1 + math.exp(-1)), rel=2.0**-22)
    assert not losses[1].isfinite()
    assert not gradient[1].isfinite()


# ------------------------------------------------------------------------------ sizes and sums


@pytest.mark.parametrize("n", [0, 1, 7, 16, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 4 * BLOCK])
@pytest.mark.filterwarnings("ignore:the 'mean' of a loss over no elements")
def test_sizes(n: int) -> None:
    x, y = normal(n), targets(n, dtype=torch.bool)
    for reduction in ("none", "mean"):
        assert_close(both(bce, x, y, reduction=reduction))


@pytest.mark.parametrize("by", ["sum", "mean", "weighted_mean", "batch_mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_sums_over_several_programs(by: str, masked: bool) -> None:
    x, y = normal(3, BLOCK + 5), targets(3, BLOCK + 5).float()
    options: dict[str, Any] = {"weight": normal(3, 1, seed=3).abs(), "reduction": by}
    if masked:
        options["mask"] = targets(3, BLOCK + 5, seed=7) > 0.4
        options["mask"][1] = False
    assert_close(both(bce, x, y, **options))


@pytest.mark.parametrize("n", [1, 64 * 5 + 3, 64 * 8])
def test_programs_that_visit_several_tiles(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.gpu(), "_MANY", 1)
    monkeypatch.setattr(kernels.gpu(), "_TILE", 64)
    x, y = normal(n), targets(n).float()
    mask = targets(n, seed=7) > 0.3
    mask[0] = True
    for options in (
        {"reduction": "none"},
        {"reduction": "mean", "mask": mask},
        {"reduction": "weighted_mean", "weight": normal(n, seed=3).abs() + 0.1},
    ):
        assert_close(both(bce, x, y, **options))


@pytest.mark.parametrize("programs", [1, 127, 128, 129, 300])
def test_more_sums_than_are_added_at_once(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = kernels.gpu()
    monkeypatch.setattr(gpu, "_SUMS", 128)
    sums = torch.arange(1.0, 2 * programs + 1).reshape(2, programs).to(DEVICE)
    value, divisor = sums.new_empty(()), sums.new_empty(())
    for by in (gpu.BY_COUNT, gpu.BY_WEIGHTS):
        gpu.add_up(sums, value, divisor, by=by)
        total, others = sums.double().sum(1)
        assert divisor.item() == others.item()  # small integers, which no sum rounds
        assert value.item() == (total / others).float().item()
    gpu.add_up(sums[0], value, number=3.0)
    assert value.item() == (total / 3).float().item()
    gpu.add_up(sums[0], value, divided_by=torch.tensor(7, device=DEVICE), by=gpu.BY_TENSOR)
    assert value.item() == (total / 7).float().item()


def test_a_sum_beyond_float32_is_infinite() -> None:
    x, y = torch.full((8,), -3e38, device=DEVICE), torch.ones(8, device=DEVICE)
    assert bce(x, y, reduction="sum") == math.inf
    assert bce(x[:1], y[:1]).item() == pytest.approx(3e38)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batch_mean"])
def test_a_mean_over_nothing_is_zero(reduction: str) -> None:
    x = normal(BLOCK + 1, 2).to(DEVICE).requires_grad_()
    y = torch.full((BLOCK + 1, 2), -100.0, device=DEVICE)
    none = torch.zeros(BLOCK + 1, 2, dtype=torch.bool, device=DEVICE)
    for options in ({"ignore_index": -100}, {"mask": none, "ignore_index": -100}):
        value = bce(x, y, reduction=reduction, weight=2.0, **options)
        assert value.item() == 0
        assert not torch.autograd.grad(value, x)[0].any()
    for shape in ((0,), (0, 3), (3, 0)):
        empty = torch.zeros(shape, device=DEVICE, requires_grad=True)
        with pytest.warns(UserWarning, match="over no elements"):
            value = bce(empty, empty.detach(), reduction=reduction)
        assert value.item() == 0
        assert torch.autograd.grad(value, empty)[0].shape == shape


def test_weights_that_are_all_zero_divide_nothing() -> None:
    x = normal(5).to(DEVICE).requires_grad_()
    value = bce(x, x.detach() > 0, weight=torch.zeros(5, device=DEVICE), reduction="weighted_mean")
    assert value.item() == 0
    assert not torch.autograd.grad(value, x)[0].any()


# ------------------------------------------------------------------------------------- strides

LAYOUTS = ["contiguous", "permuted", "inner", "sliced", "stepped", "offset"]


@pytest.mark.parametrize("of_input", LAYOUTS)
@pytest.mark.parametrize("of_others", LAYOUTS)
def test_strides(of_input: str, of_others: str) -> None:
    shape, dtype = (3, 4, 5, 7), torch.bfloat16 if of_others == "inner" else torch.float32
    x, y = laid(normal(*shape).to(dtype), of_input), laid(targets(*shape).float(), of_others)
    options: dict[str, Any] = {
        "mask": laid(targets(*shape, seed=7) > 0.3, of_others),
        "weight": laid(normal(4, 1, 7, seed=3).abs(), "permuted"),
        "pos_weight": normal(3, 1, 1, 1, seed=4).abs(),
    }
    reduction = "none" if of_input != "offset" else "weighted_mean"
    results = both(
        bce, x, y, lambda value: steps_like(value, of_others), **options, reduction=reduction
    )
    assert_close(results)
    assert (results[0][0].stride() == laid(x, of_input).stride()) == (
        reduction == "none" and of_input not in ("sliced", "stepped")
    )


def steps_like(value: Tensor, how: str = "contiguous") -> Tensor:
    """Incoming gradients that differ, and that every dtype has."""
    steps = torch.arange(value.numel(), device=value.device).remainder(5).sub(1.5)
    steps = steps.reshape(value.shape).to(value.dtype)
    return laid(steps, how) if value.dim() > 1 else steps


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("size", [(), (1,), (7,), (5, 1), (4, 1, 1), (1, 5, 1), (3, 1, 5, 7)])
def test_weights_broadcast(name: str, size: tuple[int, ...]) -> None:
    shape = 3, 4, 5, 7
    weight = normal(*size, seed=3).abs() + 0.5
    for how, reduction in (("contiguous", "weighted_mean"), ("inner", "none")):
        x, y = laid(normal(*shape), how), targets(*shape).float()
        assert_close(both(bce, x, y, reduction=reduction, **{name: weight}))


def test_repeated_inputs() -> None:
    y, mask = targets(6, 5).float(), targets(6, 5, seed=7) > 0.4
    for x in (normal(1, 5).expand(6, 5), normal(6, 1).expand(6, 5), normal(1, 1).expand(6, 5)):
        for reduction in ("none", "mean"):
            assert_close(both(bce, x, y, reduction=reduction))
            assert_close(both(bce, x, y, reduction=reduction, mask=mask))


def test_shapes_that_differ_by_trailing_ones() -> None:
    x, y, mask = normal(9, 1), targets(9).float(), targets(9, seed=7) > 0.4
    for reduction in ("none", "batch_mean"):
        assert_close(both(bce, x, y, reduction=reduction, weight=normal(9).abs(), mask=mask))
    assert_close(both(bce, normal(), targets().float(), reduction="batch_mean"))
    assert_close(both(bce, normal(), targets().float(), reduction="none", weight=torch.tensor(2)))


def test_results_lie_as_their_input() -> None:
    x = laid(normal(3, 5, 4, 6), "inner").to(DEVICE).requires_grad_()
    y = torch.ones(3, 5, 4, 6, device=DEVICE)
    assert bce(x, y, reduction="none").stride() == x.stride()
    assert torch.autograd.grad(bce(x, y), x)[0].stride() == x.stride()
    z = laid(normal(3, 5, 4, 6), "stepped").to(DEVICE)
    assert bce(z, y, reduction="none").is_contiguous()


# ------------------------------------------------------------------------------------ backward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [3.0, -0.5, 0.0, 1.0])
def test_incoming_gradients(dtype: torch.dtype, scale: float) -> None:
    x, y = normal(BLOCK + 3).to(dtype), targets(BLOCK + 3).float()
    options = {"weight": normal(BLOCK + 3, seed=3).abs()}
    for reduction in ("mean", "weighted_mean"):
        results = both(
            bce, x, y, lambda value: torch.full_like(value, scale), reduction=reduction, **options
        )
        assert_close(results)


def test_the_kept_gradient_is_handed_out_or_computed_anew_in_its_memory() -> None:
    gpu, places = kernels.gpu(), []
    memory = gpu.memory
    x, y = normal(50).to(DEVICE).requires_grad_(), targets(50).float().to(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "memory", lambda read: places.append(memory(read)) or places[-1])
        for scale in (1.0, 3.0):
            (gradient,) = torch.autograd.grad(scale * bce(x, y), x)
            assert len(places) == 1
            assert gradient.data_ptr() == places.pop().data_ptr()
            # One that must be counted first is computed in the backward pass alone.
            loss = bce(x, y, mask=y > 0.1)
            assert not places
            torch.autograd.grad(scale * loss, x)
            assert len(places) == 1
            places.clear()


def test_a_second_backward_leaves_what_the_first_gave() -> None:
    x, y = normal(5000).to(DEVICE).requires_grad_(), torch.ones(5000, device=DEVICE)
    for scales in ((1.0, 3.0, 1.0), (3.0, 1.0, 3.0)):
        loss = bce(x, y)
        found = [torch.autograd.grad(s * loss, x, retain_graph=True)[0] for s in scales]
        assert len({gradient.data_ptr() for gradient in found}) == 3
        assert torch.equal(found[0], found[2])
        once, thrice = found[:2] if scales[0] == 1 else found[1::-1]
        # Each is rounded once, and the product with 3 before.
        torch.testing.assert_close(thrice, 3 * once, rtol=2 * EPS[torch.float32], atol=0)


def test_what_is_handed_out_may_be_written_to() -> None:
    x, y = normal(50).to(DEVICE).requires_grad_(), torch.ones(50, device=DEVICE)
    loss = bce(x, y, reduction="sum")
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.zero_()
    assert torch.equal(torch.autograd.grad(loss, x)[0], kept)


def test_accumulation() -> None:
    x, y = normal(50).to(DEVICE).requires_grad_(), torch.ones(50, device=DEVICE)
    (once,) = torch.autograd.grad(bce(x, y), x)
    for _ in range(3):
        bce(x, y).backward()
    torch.testing.assert_close(x.grad, 3 * once)


def test_an_expanded_gradient_from_above() -> None:
    x, y = normal(7, 9), targets(7, 9).float()
    for upstream in (
        lambda value: value.new_full((), 3.0).expand(value.shape),
        lambda value: torch.arange(9.0).to(value).expand(value.shape),
        lambda value: torch.arange(7.0).to(value)[:, None].expand(value.shape),
    ):
        for layout in ("contiguous", "permuted"):
            assert_close(both(bce, laid(x, layout), y, upstream, reduction="none"))


def test_half_precision_is_scaled_before_it_is_rounded() -> None:
    # The gradient of an easy negative is below every float16, times the scale of AMP it is not.
    z = torch.full((1024,), -20.0, dtype=torch.float16, device=DEVICE, requires_grad=True)
    y = torch.zeros(1024, device=DEVICE)
    exact = torch.tensor(2.0**10 / (1 + math.exp(20.0)), dtype=torch.float16).item()
    for options in ({}, {"ignore_index": -1}, {"weight": 1.0, "reduction": "weighted_mean"}):
        (gradient,) = torch.autograd.grad(bce(z, y, **options) * 2.0**20, z)
        assert gradient.unique().tolist() == [exact]


def test_nothing_from_above_reaches_ignored_elements() -> None:
    x = normal(4).to(DEVICE).requires_grad_()
    y, mask = torch.ones(4, device=DEVICE), torch.tensor([1, 1, 0, 1], device=DEVICE).bool()
    (gradient,) = torch.autograd.grad(bce(x, y, mask=mask) * math.inf, x)
    assert gradient[2] == 0
    losses = bce(x, y, mask=mask, reduction="none")
    above = torch.full((4,), math.nan, device=DEVICE)
    (gradient,) = torch.autograd.grad(losses, x, above)
    assert gradient.isnan().tolist() == [True, True, False, True]


def test_gradients_of_gradients_are_the_definitions() -> None:
    x, y = normal(50).to(DEVICE).requires_grad_(), targets(50).float().to(DEVICE)
    p = torch.sigmoid(x.detach().double())
    for reduction in ("sum", "none"):
        value = bce(x * 1, y, reduction=reduction).sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        torch.testing.assert_close(second.double(), p * (1 - p), rtol=1e-6, atol=0)


def test_batched_gradients() -> None:
    x, y = normal(6).to(DEVICE).requires_grad_(), targets(6).float().to(DEVICE)
    losses = bce(x, y, reduction="none")
    eye = torch.eye(6, device=DEVICE)
    (jacobian,) = torch.autograd.grad(losses, x, eye, is_grads_batched=True)
    torch.testing.assert_close(jacobian.diagonal(), torch.sigmoid(x.detach()) - y)
    assert jacobian.count_nonzero() == 6


def test_without_gradients() -> None:
    x, y = normal(50).to(DEVICE).requires_grad_(), targets(50).float().to(DEVICE)
    attached = bce(x, y)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            value = bce(x, y)
            assert not value.requires_grad
            assert value == attached
            assert bce(x, y.clone().requires_grad_()) == attached


def test_an_input_changed_before_the_backward_raises() -> None:
    z = normal(10).to(DEVICE).requires_grad_() * 1
    loss = bce(z, torch.ones(10, device=DEVICE))
    z.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_saved_tensor_hooks_and_checkpointing() -> None:
    x, y = normal(300).to(DEVICE).requires_grad_(), torch.ones(300, device=DEVICE)
    (expected,) = torch.autograd.grad(bce(x, y), x)
    gpu, places = kernels.gpu(), []
    memory = gpu.memory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "memory", lambda read: places.append(read) or memory(read))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            loss = bce(x, y)
        assert not places  # a gradient that is kept would not go through the hooks
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)
    for reentrant in (False, True):
        loss = torch.utils.checkpoint.checkpoint(bce, x, y, use_reentrant=reentrant)
        assert torch.equal(
            torch.autograd.grad(loss, x)[0] if not reentrant else back(loss, x), expected
        )


def back(loss: Tensor, x: Tensor) -> Tensor:
    """The gradient by `backward`, which reentrant checkpointing needs."""
    x.grad = None
    loss.backward()
    assert x.grad is not None
    return x.grad


def test_the_same_bits_every_time() -> None:
    x, y = normal(3, BLOCK + 5).to(DEVICE), targets(3, BLOCK + 5).float().to(DEVICE)
    results = []
    for _ in range(3):
        z = x.clone().requires_grad_()
        value = bce(z, y, reduction="weighted_mean", weight=y + 0.1)
        results.append((value.item(), torch.autograd.grad(value, z)[0]))
    for value, gradient in results[1:]:
        assert value == results[0][0]
        assert torch.equal(gradient, results[0][1])


# -------------------------------------------------------------------------------------- sparse


def sparse_of(dense: Tensor, layout: str) -> Tensor:
    if layout == "csr":
        return dense.to_sparse_csr()
    if layout == "coo":
        return dense.to_sparse()
    # Half of each value at a place that comes twice, in descending order.
    index, values = dense.to_sparse().indices().flip(1), dense.to_sparse().values().flip(0)
    return torch.sparse_coo_tensor(
        torch.cat((index, index), 1), torch.cat((values, values)) / 2, dense.shape
    )


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        *(("coo", name) for name in ("plain", "all", "zero", "nan")),
        ("csr", "all"),
        ("duplicates", "all"),
    ],
)
def test_sparse_targets_are_the_dense_ones(layout: str, name: str) -> None:
    rows, columns = 13, 211  # more than a tile, whose edge is within a row
    dense = torch.where(targets(rows, columns) > 0.8, targets(rows, columns, seed=5), 0.0).float()
    dense[4] = 0
    dense[9, 100:150] = 1
    options: dict[str, Any] = {}
    if name != "plain":
        marker = {"all": -100.0, "zero": 0.0, "nan": math.nan}[name]
        if name != "zero":
            dense[2, 5] = dense[12, 210] = marker
        options = options_for((rows, columns), marker)
    x = normal(rows, columns)
    given = {k: v.to(DEVICE) if isinstance(v, Tensor) else v for k, v in options.items()}
    for how, reduction in (
        ("contiguous", "weighted_mean"),
        ("permuted", "none"),
    ):
        z = laid(x, how).to(DEVICE).requires_grad_()
        results = []
        for y in (dense.to(DEVICE), sparse_of(dense.to(DEVICE), layout)):
            value = bce(z, y, reduction=reduction, **given)
            results.append((value, *torch.autograd.grad(value, z, steps_like(value))))
        # The same operations on the same numbers in the same order.
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    expected = both(bce, x, dense, reduction="none", **options)[1]
    torch.testing.assert_close(
        bce(x.to(DEVICE), y, reduction="none", **given).cpu().double(),
        expected[0],
        rtol=1e-6,
        atol=1e-30,
    )


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
def test_sparse_targets_of_all_sorts() -> None:
    dense = targets(5, 7) > 0.6
    for y_dtype in (torch.float64, torch.float16, torch.uint8, torch.int64):
        y = dense.to(y_dtype).to(DEVICE)
        for dtype in FLOATS:
            z = normal(5, 7).to(dtype).to(DEVICE).requires_grad_()
            results = []
            for target in (y, y.to_sparse()):
                value = bce(z, target)
                results.append((value, torch.autograd.grad(value, z)[0]))
            assert torch.equal(results[0][0], results[1][0])
            assert torch.equal(results[0][1], results[1][1])
    nothing = torch.zeros(5, 7, device=DEVICE)
    assert bce(z, nothing.to_sparse()) == bce(z, nothing)
    assert bce(z, (nothing + 1).to_sparse()) == bce(z, nothing + 1)


# ------------------------------------------------------------------------- what is around a loss


def test_autocast() -> None:
    w, x = normal(5, 4, scale=1.0).to(DEVICE).requires_grad_(), normal(9, 5, seed=2).to(DEVICE)
    y = targets(9, 4).float().to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        logits = x @ w
        assert logits.dtype == torch.bfloat16
        value = bce(logits, y)
        probabilities = torchbce.functional.binary_cross_entropy(torch.sigmoid(logits), y)
    for got in (value, probabilities):
        assert got.dtype == torch.float32
        (gradient,) = torch.autograd.grad(got, w, retain_graph=True)
        assert gradient.dtype == torch.float32
    with torchbce.backend("reference"):
        torch.testing.assert_close(value, bce(logits, y), rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_drop_in(reduction: str) -> None:
    x, y = normal(6, 5), targets(6, 5)
    weight, pos_weight = normal(5, seed=3).abs() + 0.5, normal(6, 1, seed=4).abs() + 0.5
    p = torch.sigmoid(x)
    for dtype in FLOATS:
        results: list[list[Tensor]] = []
        for wide in (False, True):
            place, to = ("cpu", torch.float64) if wide else (DEVICE, dtype)
            z, q, target, w, pw = (t.to(dtype).to(place, to) for t in (x, p, y, weight, pos_weight))
            z.requires_grad_()
            q.requires_grad_()
            with torchbce.dropin.installed(), torchbce.backend("reference" if wide else "triton"):
                logits = torch.nn.BCEWithLogitsLoss(w, reduction=reduction, pos_weight=pw)
                value = logits(z, target)
                other = torch.nn.BCELoss(w, reduction=reduction)(q, target)
            assert value.dtype == other.dtype == to
            results.append(
                [value.cpu(), *(t.cpu() for t in torch.autograd.grad(value, z, steps_like(value)))]
            )
            results[-1] += [other.cpu()]
            results[-1] += [t.cpu() for t in torch.autograd.grad(other, q, steps_like(other))]
        for got, true in zip(*results, strict=True):
            rtol = 8 * 2.0**-23 + EPS[dtype] / 2 if dtype != torch.float64 else 1e-14
            atol = 2 * rtol if got.dim() else 0.0  # of gradients about 1 in size
            torch.testing.assert_close(got.double(), true, rtol=rtol, atol=atol)


def test_the_drop_in_takes_targets_outside_the_range_and_of_other_dtypes() -> None:
    x, y = normal(40), normal(40, seed=1)
    for y_dtype in (torch.float32, torch.bfloat16):
        target = y.to(y_dtype)
        z, wide = x.to(DEVICE).requires_grad_(), x.double().requires_grad_()
        with torchbce.dropin.installed():
            value = torch.nn.functional.binary_cross_entropy_with_logits(z, target.to(DEVICE))
            with torchbce.backend("reference"):
                true = torch.nn.functional.binary_cross_entropy_with_logits(wide, target.double())
        assert value.dtype == y_dtype
        torch.testing.assert_close(value.cpu().double(), true, rtol=EPS[y_dtype] * 2, atol=0)
        slopes = torch.autograd.grad(value, z)[0].cpu().double()
        # Terms of up to 8 / 40, the largest |y| over the number of elements.
        expected = torch.autograd.grad(true, wide)[0]
        torch.testing.assert_close(slopes, expected, rtol=4 * 2.0**-23, atol=2.0**-24)


def test_the_choice_and_its_reason() -> None:
    x, y = torch.zeros(3, device=DEVICE), torch.zeros(3, device=DEVICE)
    for dtype in FLOATS:
        for target in (None, *(y.to(t) for t in (*FLOATS, *INTEGERS))):
            assert torchbce.backend_for(x.to(dtype), target).name == "triton"
    assert torchbce.backend_for(x, y.to_sparse()).name == "triton"
    assert torchbce.backend_for(x, weight=2.0, pos_weight=y, mask=y > 0).name == "triton"
    grad = torch.zeros(3, device=DEVICE, requires_grad=True)
    refused: dict[str, tuple[tuple[Tensor, ...], dict[str, Any]]] = {
        "target requires grad": ((x, grad), {}),
        "weight requires grad": ((x, y), {"weight": grad}),
        "pos_weight requires grad": ((x, y), {"pos_weight": grad}),
        "input is torch.complex64": ((x.to(torch.complex64), y), {}),
        "target is torch.complex64": ((x, y.to(torch.complex64)), {}),
        "target is torch.uint16": ((x, y.to(torch.uint16)), {}),
        "weight is torch.uint16": ((x, y), {"weight": y.to(torch.uint16)}),
        "input is not a plain tensor": ((x.to("meta"), y), {}),
        "target is neither a plain tensor": ((x, y.to("meta")), {}),
        "mask is not a plain tensor": ((x, y), {"mask": (y > 0).to("meta")}),
    }
    for words, (arguments, options) in refused.items():
        with pytest.raises(RuntimeError, match=rf"'triton'.* cannot compute this: {words}"):
            torchbce.backend_for(*arguments, **options)
        with pytest.raises(RuntimeError, match=rf"'triton'.* cannot compute this: {words}"):
            bce(*arguments, **options)
    with torch.no_grad():
        assert torchbce.backend_for(x, grad).name == "triton"

    def asked(z: Tensor) -> Tensor:
        with pytest.raises(RuntimeError, match=r"torch\.func is active"):
            torchbce.backend_for(z)
        return z.sum()

    torch.func.grad(asked)(x)


def test_the_choice_reaches_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    gpu = kernels.gpu()
    launch = gpu.launch
    monkeypatch.setattr(gpu, "launch", lambda *a, **k: calls.append(a) or launch(*a, **k))
    x, y = torch.zeros(3, device=DEVICE), torch.zeros(3, device=DEVICE)
    with torchbce.backend("reference"):
        bce(x, y)
    assert not calls
    bce(x, y)
    torchbce.BCELoss()(x, y)
    with torchbce.dropin.installed():
        torch.nn.BCEWithLogitsLoss()(x, y)
    assert len(calls) == 3


# ------------------------------------------------------------------------- in a compiled graph


def asked(
    x: Tensor,
    y: Tensor,
    reduction: str,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    marker: float | None = None,
) -> Tensor:
    program = Program("focal", (0.25, 0.75, 2.0, 2.0, 0.0), 0.1, marker)
    return _operator.loss(program, reduction, x, y, weight, None, mask)


def by_function(
    x: Tensor,
    y: Tensor,
    reduction: str,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    marker: float | None = None,
) -> Tensor:
    focal = torchbce.functional.sigmoid_focal_loss
    return focal(
        x,
        y,
        alpha=0.25,
        label_smoothing=0.1,
        reduction=reduction,
        weight=weight,
        mask=mask,
        ignore_index=marker,
    )


@pytest.mark.parametrize(
    ("reduction", "name"),
    [
        *((reduction, "plain") for reduction in reference.REDUCTIONS),
        *((reduction, "masked") for reduction in ("none", "mean", "batch_mean")),
        *((reduction, "marked") for reduction in ("mean", "batch_mean")),
        *((reduction, "transposed") for reduction in ("none", "mean")),
        *((reduction, "weighed") for reduction in ("none", "weighted_mean")),
    ],
)
def test_the_operator_in_a_compiled_graph(reduction: str, name: str, fresh_compiler: None) -> None:
    x, y = normal(7, 9).to(DEVICE), targets(7, 9).float().to(DEVICE)
    weight = mask = marker = None
    if name == "masked":
        mask = (targets(7, 9, seed=7) > 0.3).to(DEVICE)
        mask[3] = False
    if name == "marked":
        y[3], y[4, 5], marker = -100, -100, -100.0
    if name == "transposed":
        x = laid(x, "permuted")
    if name == "weighed":
        weight = (normal(9, seed=3).abs() + 0.5).to(DEVICE)
    compiled = torch.compile(
        asked, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager"
    )
    results = []
    for function in (compiled, by_function):
        z = x.clone(memory_format=torch.preserve_format).requires_grad_()
        value = function(z, y, reduction, weight, mask, marker)
        (gradient,) = torch.autograd.grad(value, z, steps_like(value))
        assert gradient.stride() == x.stride()
        results.append((value, gradient))
    assert results[0][0].stride() == results[1][0].stride()
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("reduction", "dtype"),
    [
        ("none", torch.float32),
        ("none", torch.bfloat16),
        ("mean", torch.float64),
        ("weighted_mean", torch.float32),
        ("batch_mean", torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_the_operators_keep_what_they_promise(reduction: str, dtype: torch.dtype) -> None:
    x, y = laid(normal(4, 5), "permuted").to(dtype).to(DEVICE), targets(4, 5).float().to(DEVICE)
    weight, mask = targets(5, seed=3).float().to(DEVICE), (targets(4, 5, seed=7) > 0.3).to(DEVICE)
    others = ("logits", [1.0, 1.0, 0.0, 0.0, 0.0], 0.1, -100.0, reduction)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if (reduction, dtype) == ("none", torch.float32):
        checks.append("test_aot_dispatch_dynamic")
    for given in ((None, None), (weight, mask)):
        read = (y, given[0], None, given[1])
        z = x.clone(memory_format=torch.preserve_format).requires_grad_()
        torch.library.opcheck(
            torch.ops.torchbce.binary_loss.default, (z, *read, *others), test_utils=checks
        )
        value, divisor = torch.ops.torchbce.binary_loss(x, *read, *others)
        arguments = (torch.ones_like(value), divisor, x, *read, *others)
        torch.library.opcheck(
            torch.ops.torchbce.binary_loss_backward.default, arguments, test_utils=checks
        )


def test_a_compiled_loss_has_first_derivatives_alone() -> None:
    x, y = normal(4).to(DEVICE).requires_grad_(), targets(4).float().to(DEVICE)
    (first,) = torch.autograd.grad(asked(x, y, "sum"), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), x)


# -------------------------------------------------------------- what a linear layer asks besides


@pytest.mark.parametrize("valued", [False, True])
def test_what_the_logits_of_a_linear_layer_need(valued: bool) -> None:
    gpu = kernels.gpu()
    rows, columns, first = 6, 401, 2**33  # a tile and a part of the next
    x, bias = normal(rows, columns), normal(columns, seed=2)
    weight, more = normal(rows, 1, seed=3).abs(), normal(columns, seed=4).abs()
    y = (targets(rows, columns) > 0.7).float()
    if valued:
        y *= targets(rows, columns, seed=5).float()
    dropped = targets(rows, columns, seed=8) > 0.8
    keys = y.view(-1).nonzero()[:, 0] + first
    # A key may come twice, with one value.
    twice = keys if valued else torch.cat((keys, keys)).sort()[0]
    read = Elements(x.to(DEVICE), torch.zeros((), device=DEVICE), weight.to(DEVICE))
    besides = gpu.More(
        bias=bias.to(DEVICE),
        weight=more.to(DEVICE),
        keys=twice.to(DEVICE),
        values=y[y != 0].to(DEVICE) if valued else None,
        ignored=(dropped.view(-1).nonzero()[:, 0] + first).to(DEVICE),
        first=first,
    )
    losses, gradient = gpu.memory(read), gpu.memory(read)
    program = Program("logits", (1.0, 1.0, 0.0, 0.0, 0.0))
    gpu.launch(program, read, losses=losses, gradient=gradient, scale=0.5, more=besides)
    z = (x + bias).double().requires_grad_()
    with torchbce.backend("reference"):
        expected = bce(z, y, weight=weight * more, mask=~dropped, reduction="none")
    (slopes,) = torch.autograd.grad(0.5 * expected.sum(), z)
    losses, gradient = losses.cpu().double(), gradient.cpu().double()
    # 8 roundings, as everywhere; a slope is a difference of terms of size 1 times the weights.
    torch.testing.assert_close(losses, expected.detach(), rtol=8 * 2.0**-23, atol=2.0**-149)
    largest = slopes.abs().max().item()
    torch.testing.assert_close(gradient, slopes, rtol=8 * 2.0**-23, atol=2 * 2.0**-23 * largest)


def test_a_gradient_of_a_wider_dtype_has_its_accuracy(large_tiles: None) -> None:
    gpu = kernels.gpu()
    x = torch.arange(-(2**15), 2**15, 3).to(torch.int16).view(torch.bfloat16)
    x = x[x.isfinite()].to(DEVICE)
    gradient = torch.empty(x.shape, device=DEVICE)
    program = Program("logits", (1.0, 1.0, 0.0, 0.0, 0.0))
    gpu.launch(program, Elements(x, torch.zeros_like(x)), gradient=gradient)
    assert worst(gradient.cpu(), torch.sigmoid(x.cpu().double())) <= UNITS
