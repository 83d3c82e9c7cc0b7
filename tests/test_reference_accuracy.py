"""The losses compared with 60-digit arithmetic, in ulps: units in the last place of the result.

The tolerances follow from the operations: +, -, * and / are correctly rounded and add half an ulp
each; exp, log and log1p add up to one. Every formula is a sum of terms of one sign, which does not
enlarge relative errors.
"""

import math

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from numpy.typing import NDArray
from torch import Tensor

import torchbce
import truth
from torchbce.functional import binary_cross_entropy, binary_cross_entropy_with_logits

DTYPES = [torch.float64, torch.float32]
HALVES = [torch.bfloat16, torch.float16]
SOFT = [0.3, 0.999999, 1e-7]

#: exp and log1p (1 each), the sum (1/2): 2.5 at worst. Measured: 1.5.
LOSS_ULPS = 2.0
#: exp (1), 1 + e (1/2), the quotient and the product (1/2 each), the sum (1/2). Measured: 2.26.
GRADIENT_ULPS = 3.0


def logits_to_try(dtype: torch.dtype) -> list[float]:
    info = torch.finfo(dtype)
    subnormal = info.tiny * info.eps
    magnitudes = [subnormal, 1e-30, 0.5, 1, 17, 40, 88, 104, 708, 745, 1e4, info.max, math.inf]
    exact = [m for m in magnitudes if m <= info.max or m == math.inf]
    return [0.0, -0.0, *exact, *(-m for m in exact), math.nan]


def evaluate(
    logits: Tensor,
    target: float,
    weight: float | None = None,
    pos_weight: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Element losses and gradients."""
    z = logits.clone().requires_grad_()
    y = torch.full_like(logits, target)
    loss = binary_cross_entropy_with_logits(
        z, y, weight=weight, pos_weight=pos_weight, reduction="none"
    )
    (gradient,) = torch.autograd.grad(loss, z, torch.ones_like(loss))
    return loss.detach(), gradient


# ------------------------------------------------------------------------------- hard targets


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a vector"])
def test_hard_targets(target: float, dtype: torch.dtype, alone: bool) -> None:
    values = logits_to_try(dtype)
    logits = torch.tensor(values, dtype=dtype)
    if alone:
        pairs = [evaluate(z.reshape(1), target) for z in logits]
        loss, gradient = (torch.cat(side) for side in zip(*pairs, strict=True))
    else:
        logits = logits.repeat_interleave(32)
        loss, gradient = evaluate(logits, target)

    for z, l, g in zip(logits.tolist(), loss.tolist(), gradient.tolist(), strict=True):
        assert truth.ulp_error(l, truth.bce_with_logits(z, target), dtype) <= LOSS_ULPS, z
        assert truth.ulp_error(g, truth.logit_gradient(z, target), dtype) <= GRADIENT_ULPS, z


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize(("weight", "pos_weight"), [(None, 3.0), (0.625, None), (0.625, 3.0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights(
    weight: float | None, pos_weight: float | None, target: float, dtype: torch.dtype
) -> None:
    # Two more products than without weights add one ulp. The largest float is left out, since its
    # product with p overflows.
    w, p = weight or 1.0, pos_weight or 1.0
    values = [z for z in logits_to_try(dtype) if not 1e5 < abs(z) < math.inf]
    logits = torch.tensor(values, dtype=dtype).repeat_interleave(9)
    loss, gradient = evaluate(logits, target, weight, pos_weight)

    for z, l, g in zip(logits.tolist(), loss.tolist(), gradient.tolist(), strict=True):
        true_loss = truth.bce_with_logits(z, target, w, p)
        assert truth.ulp_error(l, true_loss, dtype) <= LOSS_ULPS + 1, z
        true_gradient = truth.logit_gradient(z, target, w, p)
        assert truth.ulp_error(g, true_gradient, dtype) <= GRADIENT_ULPS + 1, z


def float32_sample() -> NDArray[np.float32]:
    """Every 9973rd of the 2^32 bit patterns except NaN: both signs and every exponent."""
    patterns = np.arange(0, 2**32, 9973, dtype=np.uint32).view(np.float32)
    return patterns[~np.isnan(patterns)]


def half_logits(dtype: torch.dtype) -> Tensor:
    """Every value of a half-precision dtype except NaN."""
    logits = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    return logits[~logits.isnan()]


def truth64(z: NDArray[np.float64], target: float) -> tuple[NDArray[np.float64], ...]:
    """Loss and gradient in float64, whose error is negligible compared with a float32 ulp."""
    margin = z if target == 1 else -z
    with np.errstate(over="ignore"):
        loss = np.where(margin < 0, -margin, 0) + np.log1p(np.exp(-np.abs(z)))
        wrong = 1 / (1 + np.exp(margin))
    return loss, -wrong if target == 1 else wrong


def ulps64(value: Tensor, true: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64]:
    """`truth.ulp_error` of arrays, for finite truths within the range of `dtype`."""
    info = torch.finfo(dtype)
    exponent = np.frexp(np.abs(true))[1] - 1
    exponent = np.where(true == 0, -1074, exponent)
    spacing = np.ldexp(1.0, np.maximum(exponent, int(math.log2(info.tiny)))) * info.eps
    return np.asarray(np.abs(value.double().numpy() - true) / spacing)


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_float32_sweep(target: float, backend: str) -> None:
    logits = float32_sample()
    logits = logits[np.isfinite(logits)]
    assert logits.size > 420_000
    assert (np.abs(logits[logits != 0]) < np.finfo(np.float32).tiny).any()
    true_loss, true_gradient = truth64(logits.astype(np.float64), target)
    with torchbce.backend(backend):
        loss, gradient = evaluate(torch.from_numpy(logits), target)

    # `benchmarks/exact.py` measures 0.82 and 0.94 over all logits.
    assert ulps64(loss, true_loss, torch.float32).max() <= 1
    assert ulps64(gradient, true_gradient, torch.float32).max() <= 1


def test_vectorised_and_scalar_ulps_agree() -> None:
    values = torch.tensor([1.0, 2.0, 3e-39, 0.0, -5e-44], dtype=torch.float32)
    true = np.array([1.0000003, 1.9999999, 2.9e-39, 1e-45, -4e-44])
    expected = [
        truth.ulp_error(v, mpf(t), torch.float32)
        for v, t in zip(values.tolist(), true.tolist(), strict=True)
    ]
    assert ulps64(values, true, torch.float32).tolist() == pytest.approx(expected)


# ------------------------------------------------------------------------------ half precision


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_half_precision_logit(dtype: torch.dtype, target: float) -> None:
    # Half an ulp is the rounding; the float32 error before it is under 3 / 2^13 of an ulp.
    logits = half_logits(dtype)
    logits = logits[logits.isfinite()]
    assert logits.numel() > 63_000
    true_loss, true_gradient = truth64(logits.double().numpy(), target)
    loss, gradient = evaluate(logits, target)

    assert loss.dtype == gradient.dtype == dtype
    assert ulps64(loss, true_loss, dtype).max() <= 0.51
    assert ulps64(gradient, true_gradient, dtype).max() <= 0.51


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_weights_are_not_rounded_early(dtype: torch.dtype) -> None:
    # 1 - y, p y and w come from half-precision tensors but are multiplied in float32.
    for target in (0.0, 0.25, 1.0):
        logits = torch.tensor([v for v in logits_to_try(dtype) if abs(v) < 2e4], dtype=dtype)
        loss, gradient = evaluate(logits, target, weight=0.625, pos_weight=3.0)
        for z, l, g in zip(logits.tolist(), loss.tolist(), gradient.tolist(), strict=True):
            true_loss = truth.bce_with_logits(z, target, 0.625, 3.0)
            assert truth.ulp_error(l, true_loss, dtype) <= 0.51, (z, target)
            if target != 0.25:
                true_gradient = truth.logit_gradient(z, target, 0.625, 3.0)
                assert truth.ulp_error(g, true_gradient, dtype) <= 0.51, (z, target)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_half_precision_extremes(dtype: torch.dtype, target: float) -> None:
    logits = torch.tensor([math.inf, -math.inf, math.nan], dtype=dtype)
    loss, gradient = evaluate(logits, target)
    assert loss[:2].tolist() == ([0.0, math.inf] if target else [math.inf, 0.0])
    assert gradient[:2].tolist() == ([0.0, -1.0] if target else [1.0, 0.0])
    assert loss[2].isnan()
    assert gradient[2].isnan()


# -------------------------------------------------------------------------------- soft targets


@pytest.mark.parametrize("target", SOFT)
@pytest.mark.parametrize("pos_weight", [None, 3.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_soft_targets(target: float, pos_weight: float | None, dtype: torch.dtype) -> None:
    # The gradient is a difference, so its error is measured by its largest term.
    p = pos_weight or 1.0
    logits = torch.tensor([v for v in logits_to_try(dtype) if abs(v) <= 1e4], dtype=dtype)
    y = torch.tensor(target, dtype=dtype).item()
    loss, gradient = evaluate(logits, y, pos_weight=pos_weight)

    for z, l, g in zip(logits.tolist(), loss.tolist(), gradient.tolist(), strict=True):
        assert truth.ulp_error(l, truth.bce_with_logits(z, y, 1.0, p), dtype) <= 3, z
        terms = (1 - mpf(y)) * truth.sigmoid(z), p * mpf(y) * truth.sigmoid(-z)
        error = abs(mpf(g) - truth.logit_gradient(z, y, 1.0, p))
        assert error <= 3 * truth.ulp(max(terms), dtype), z


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_soft_target_near_one_at_a_large_logit(dtype: torch.dtype) -> None:
    # max(z, 0) - y z would cancel here: 100 - 99.9999 instead of 100 (1 - y).
    y = torch.tensor(0.999999, dtype=dtype).item()
    loss, _ = evaluate(torch.tensor([100.0], dtype=dtype), y)
    assert truth.ulp_error(loss.item(), truth.bce_with_logits(100.0, y), dtype) <= LOSS_ULPS


# --------------------------------------------------------------------------- second derivative


@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("z", [0.0, 0.5, -0.5, 17.0, -17.0, 40.0, -40.0, 100.0, -100.0])
def test_second_derivative(z: float, target: float, dtype: torch.dtype) -> None:
    logits = torch.full((17,), z, dtype=dtype, requires_grad=True)
    y = torch.full_like(logits, target, requires_grad=False)
    loss = binary_cross_entropy_with_logits(logits, y, reduction="sum", pos_weight=3.0)
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), logits)

    # In float32 the value at |z| = 100 is subnormal and has few digits.
    true = truth.logit_curvature(z, y[0].item(), 1.0, 3.0)
    errors = [truth.ulp_error(value, true, dtype) for value in second.tolist()]
    assert max(errors) <= 5


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize(("target", "slope"), [(0.0, 0.5), (1.0, -0.5)])
def test_both_derivatives_at_zero(
    target: float, slope: float, zero: float, dtype: torch.dtype
) -> None:
    # A network whose last layer starts at 0 takes its first step from here.
    z = torch.full((9,), zero, dtype=dtype, requires_grad=True)
    y = torch.full_like(z, target, requires_grad=False)
    loss = binary_cross_entropy_with_logits(z, y, reduction="sum")
    (first,) = torch.autograd.grad(loss, z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    assert first.tolist() == [slope] * 9
    assert second.tolist() == [0.25] * 9


# ---------------------------------------------------------------------------- infinity and NaN


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("z", "target", "loss", "gradient"),
    [
        (math.inf, 1.0, 0.0, 0.0),
        (-math.inf, 0.0, 0.0, 0.0),
        (-math.inf, 1.0, math.inf, -1.0),
        (math.inf, 0.0, math.inf, 1.0),
        (math.inf, 0.25, math.inf, 0.75),
    ],
)
def test_infinite_logits(
    z: float, target: float, loss: float, gradient: float, dtype: torch.dtype
) -> None:
    losses, gradients = evaluate(torch.full((11,), z, dtype=dtype), target)
    assert losses.tolist() == [loss] * 11
    assert gradients.tolist() == [gradient] * 11


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weights", [(None, None), (0.0, None), (None, 0.0), (2.0, 3.0)])
def test_nan_logits_are_not_hidden(
    target: float, weights: tuple[float | None, float | None]
) -> None:
    loss, gradient = evaluate(torch.full((9,), math.nan), target, *weights)
    assert loss.isnan().all()
    assert gradient.isnan().all()


@pytest.mark.parametrize(
    ("z", "target", "weight", "pos_weight"),
    [
        (-math.inf, 1.0, 0.0, None),
        (math.inf, 0.0, 0.0, None),
        (-math.inf, 1.0, None, 0.0),
        (-math.inf, 1.0, 0.0, 0.0),
        (-math.inf, 1.0, 0.0, 3.0),
    ],
)
def test_an_infinite_loss_with_weight_zero_is_zero(
    z: float, target: float, weight: float | None, pos_weight: float | None
) -> None:
    loss, gradient = evaluate(torch.full((9,), z), target, weight, pos_weight)
    assert loss.tolist() == [0.0] * 9
    assert gradient.tolist() == [0.0] * 9


def test_a_pos_weight_of_zero_does_not_affect_negatives() -> None:
    loss, gradient = evaluate(torch.full((9,), math.inf), 0.0, pos_weight=0.0)
    assert loss.tolist() == [math.inf] * 9
    assert gradient.tolist() == [1.0] * 9


# ------------------------------------------------------------------------------- probabilities


def evaluate_probabilities(
    probabilities: Tensor, target: float, eps: float | None = None
) -> tuple[Tensor, Tensor]:
    p = probabilities.clone().requires_grad_()
    y = torch.full_like(probabilities, target)
    loss = binary_cross_entropy(p, y, reduction="none", eps=eps)
    (gradient,) = torch.autograd.grad(loss, p, torch.ones_like(loss))
    return loss.detach(), gradient


PROBABILITIES = [0.0, 1e-300, 1e-44, 1e-40, 1e-30, 1e-7, 0.05, 0.2, 0.5, 0.8, 0.95, 0.9999, 1.0]


@pytest.mark.parametrize("eps", [None, 1e-7, 1e-12, 0.01])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3, 1e-7])
@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
def test_loss_of_probabilities(target: float, eps: float | None, dtype: torch.dtype) -> None:
    # Two logarithms (1 ulp each), the products with y and 1 - y, 1 - y itself, and the sum.
    probabilities = torch.tensor(PROBABILITIES, dtype=dtype).repeat_interleave(5)
    y = torch.tensor(target, dtype=dtype).item()
    loss, _ = evaluate_probabilities(probabilities, y, eps)
    assert loss.dtype == dtype
    for p, l in zip(probabilities.tolist(), loss.tolist(), strict=True):
        bound = 0.51 if dtype in HALVES else 2.5
        assert truth.ulp_error(l, truth.bce(p, y, eps), dtype) <= bound, p


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
def test_logarithms_are_floored_at_minus_100(dtype: torch.dtype) -> None:
    assert evaluate_probabilities(torch.zeros(9, dtype=dtype), 1.0)[0].tolist() == [100.0] * 9
    assert evaluate_probabilities(torch.ones(9, dtype=dtype), 0.0)[0].tolist() == [100.0] * 9
    assert evaluate_probabilities(torch.zeros(9, dtype=dtype), 0.25)[0].tolist() == [25.0] * 9
    assert evaluate_probabilities(torch.zeros(9, dtype=dtype), 0.0)[0].tolist() == [0.0] * 9
    assert evaluate_probabilities(torch.ones(9, dtype=dtype), 1.0)[0].tolist() == [0.0] * 9


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
@pytest.mark.parametrize("eps", [1e-7, 1e-12])
def test_eps_is_exact_where_its_complement_rounds_to_one(eps: float, dtype: torch.dtype) -> None:
    # 1 - 1e-12 is 1 in float32; a clamp into it would give log(0) for p = 1.
    expected = torch.tensor(-math.log(eps), dtype=dtype).item()
    right = torch.tensor(-math.log1p(-eps), dtype=dtype).item()
    for p, wrong_target in ((0.0, 1.0), (1.0, 0.0)):
        probability = torch.full((9,), p, dtype=dtype)
        loss, gradient = evaluate_probabilities(probability, wrong_target, eps)
        assert loss.tolist() == [expected] * 9
        assert gradient.tolist() == [0.0] * 9
        loss, gradient = evaluate_probabilities(probability, 1 - wrong_target, eps)
        assert loss.tolist() == [right] * 9
        assert gradient.tolist() == [0.0] * 9


@pytest.mark.parametrize("eps", [None, 1e-12])
@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_inside_the_unit_interval(
    dtype: torch.dtype, target: float, eps: float | None
) -> None:
    inside = torch.tensor([1e-7, 0.05, 0.2, 0.5, 0.8, 0.95, 0.9999], dtype=dtype)
    _, gradient = evaluate_probabilities(inside, target, eps)
    for p, g in zip(inside.tolist(), gradient.tolist(), strict=True):
        true = -1 / mpf(p) if target else 1 / (1 - mpf(p))
        assert truth.ulp_error(g, true, dtype) <= 1.5, p


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
@pytest.mark.parametrize(
    ("p", "target", "gradient"),
    [
        (0.0, 0.0, 1.0),
        (1.0, 1.0, -1.0),
        (0.0, 1.0, 0.0),  # floored
        (1.0, 0.0, 0.0),  # floored
        (0.0, 0.25, 0.75),  # log p is floored, log(1 - p) is not
        (1.0, 0.25, -0.25),
    ],
)
def test_gradient_at_the_ends(p: float, target: float, gradient: float, dtype: torch.dtype) -> None:
    _, got = evaluate_probabilities(torch.full((9,), p, dtype=dtype), target)
    assert got.tolist() == [gradient] * 9


def test_gradient_at_a_tiny_probability() -> None:
    # 1e-38 is subnormal in float32; PyTorch divides by max(p (1 - p), 1e-12) there.
    p = torch.full((9,), 1e-38)
    _, gradient = evaluate_probabilities(p, 1.0)
    true = -1 / mpf(p[0].item())
    assert mp.isfinite(true)
    assert max(truth.ulp_error(g, true, torch.float32) for g in gradient.tolist()) <= 1


@pytest.mark.parametrize("eps", [None, 1e-7])
def test_nan_probability_raises(eps: float | None) -> None:
    p = torch.tensor([0.5, math.nan])
    with pytest.raises(ValueError, match=r"input\[1\] is nan; NaN is not a probability"):
        binary_cross_entropy(p, torch.ones(2), eps=eps)
