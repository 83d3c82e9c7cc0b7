"""The helpers for rare positives, tested with the loss that they are for."""

import math

import pytest
import torch

from torchbce.functional import binary_cross_entropy_with_logits
from torchbce.imbalance import correct_logits, pos_weight_from_counts, prior_bias


def labels(positives: int, negatives: int) -> torch.Tensor:
    return torch.cat([torch.ones(positives), torch.zeros(negatives)]).double()


def fit_bias(targets: torch.Tensor, pos_weight: torch.Tensor | float | None) -> torch.Tensor:
    """The logit that minimises the loss when it is the whole model, by Newton's method."""
    logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(12):
        loss = binary_cross_entropy_with_logits(
            logit.expand_as(targets), targets, pos_weight=pos_weight
        )
        (slope,) = torch.autograd.grad(loss, logit, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, logit)
        with torch.no_grad():
            logit -= slope / curvature
    assert abs(slope.item()) < 1e-12
    return logit.detach()


# ------------------------------------------------------------------------------ from the counts


@pytest.mark.parametrize(("positives", "negatives", "expected"), [(20, 80, 4), (3, 1, 1 / 3)])
def test_pos_weight(positives: int, negatives: int, expected: float) -> None:
    got = pos_weight_from_counts(positives, negatives)
    assert got.dtype == torch.float64
    assert got.shape == ()
    assert got.item() == expected


def test_pos_weight_of_many_labels() -> None:
    got = pos_weight_from_counts(torch.tensor([1, 20, 50]), torch.tensor([99, 80, 50]))
    assert got.tolist() == [99.0, 4.0, 1.0]


def test_pos_weight_without_negatives_is_zero() -> None:
    assert pos_weight_from_counts(5, 0).item() == 0.0


def test_pos_weight_balances_the_two_classes() -> None:
    y = labels(20, 80)
    loss = binary_cross_entropy_with_logits(
        torch.zeros_like(y), y, pos_weight=pos_weight_from_counts(20, 80), reduction="none"
    )
    assert loss[:20].sum().item() == pytest.approx(loss[20:].sum().item())


@pytest.mark.parametrize("positives", [0, -1, math.nan])
def test_a_count_of_zero_positives_raises(positives: float) -> None:
    with pytest.raises(ValueError, match=r"every count of positives must be above 0, got "):
        pos_weight_from_counts(positives, 10)
    with pytest.raises(ValueError, match=r"every count must be above 0, got positives"):
        prior_bias(positives, 10)


def test_the_error_shows_the_count_of_every_label() -> None:
    with pytest.raises(ValueError, match=r"got \[3\.0, 0\.0\]"):
        pos_weight_from_counts(torch.tensor([3, 0]), torch.tensor([1, 1]))


def test_a_negative_count_raises() -> None:
    with pytest.raises(ValueError, match=r"no count of negatives may be below 0, got -1"):
        pos_weight_from_counts(1, -1)
    with pytest.raises(ValueError, match=r"every count must be above 0, got .* negatives 0"):
        prior_bias(1, 0)


@pytest.mark.parametrize("helper", [pos_weight_from_counts, prior_bias])
def test_unequal_shapes_raise(helper) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        ValueError, match=r"positives has shape \(2,\) and negatives has shape \(\)"
    ):
        helper(torch.tensor([1, 2]), 3)


# ---------------------------------------------------------------------------------- prior bias


@pytest.mark.parametrize("pos_weight", [None, 4.0])
def test_prior_bias_predicts_the_base_rate(pos_weight: float | None) -> None:
    y = labels(2, 98)
    bias = prior_bias(2, 98) if pos_weight is None else prior_bias(2, 98, pos_weight)
    layer = torch.nn.Linear(5, 1, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(bias)
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = layer(x)
    binary_cross_entropy_with_logits(logits, y, pos_weight=pos_weight).backward()

    assert layer.bias.grad.item() == pytest.approx(0, abs=1e-15)
    odds = (pos_weight or 1.0) * 2 / 98
    assert torch.sigmoid(logits).mean().item() == pytest.approx(odds / (1 + odds))


def test_prior_bias_of_many_labels() -> None:
    positives = torch.tensor([1.0, 50.0, 80.0])
    bias = prior_bias(positives, 100 - positives)
    assert bias.shape == (3,)
    torch.testing.assert_close(torch.sigmoid(bias), positives.double() / 100)
    weighted = prior_bias(positives, 100 - positives, pos_weight=torch.tensor([1.0, 2.0, 4.0]))
    shift = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).log()
    torch.testing.assert_close(weighted - bias, shift)


# ----------------------------------------------------------------------------- undoing a weight


@pytest.mark.parametrize("pos_weight", [0.25, 4.0, 49.0])
def test_correction_undoes_the_weight(pos_weight: float) -> None:
    y = labels(20, 980)
    weighted = fit_bias(y, pos_weight)
    assert weighted.item() == pytest.approx(prior_bias(20, 980, pos_weight).item(), abs=1e-9)
    assert abs(torch.sigmoid(weighted).item() - 0.02) > 0.01
    corrected = correct_logits(weighted, pos_weight)
    assert torch.sigmoid(corrected).item() == pytest.approx(0.02, abs=1e-10)
    assert corrected.item() == pytest.approx(fit_bias(y, None).item(), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_correction_keeps_shape_and_dtype(dtype: torch.dtype) -> None:
    logits = torch.zeros(4, 2, dtype=dtype)
    for pos_weight in (2.0, torch.tensor([2.0, 2.0]), torch.tensor(2)):
        got = correct_logits(logits, pos_weight)
        assert got.dtype == dtype
        expected = torch.full((4, 2), -math.log(2), dtype=torch.float64).to(dtype)
        assert torch.equal(got, expected)


def test_correction_per_label_is_differentiable() -> None:
    logits = torch.zeros(4, 2, requires_grad=True)
    got = correct_logits(logits, torch.tensor([1.0, math.e]))
    torch.testing.assert_close(got.detach(), torch.tensor([0.0, -1.0]).expand(4, 2))
    got.sum().backward()
    assert torch.equal(logits.grad, torch.ones(4, 2))


@pytest.mark.parametrize("pos_weight", [0.0, -1.0, math.nan])
def test_correction_needs_a_positive_weight(pos_weight: float) -> None:
    with pytest.raises(
        ValueError, match=r"pos_weight must be (above 0|finite and not negative), got "
    ):
        correct_logits(torch.zeros(2), pos_weight)
