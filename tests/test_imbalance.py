"""The helpers for rare positives, tested with the loss that they are for."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from torchbce import LinearBCELoss
from torchbce.functional import binary_cross_entropy_with_logits
from torchbce.imbalance import (
    correct_logits,
    pos_weight_from_counts,
    prior_bias,
    prior_from_counts,
)


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


from_counts = pytest.mark.parametrize(
    "helper", [pos_weight_from_counts, prior_bias, prior_from_counts]
)


@from_counts
def test_zero_positives_raise_and_name_the_remedy(helper: Any) -> None:
    words = (
        r"every count of positives must be above 0, got 0\.0; smoothing=1 adds one positive and "
        r"one negative to every count"
    )
    with pytest.raises(ValueError, match=words):
        helper(0, 10)


@from_counts
@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf])
def test_a_count_that_is_none(helper: Any, wrong: float) -> None:
    for name, counts in {"positives": (wrong, 3), "negatives": (3, wrong)}.items():
        with pytest.raises(
            ValueError, match=rf"every count of {name} must be finite and not negative, got {wrong}"
        ):
            helper(*counts, smoothing=2)


@pytest.mark.parametrize("helper", [prior_bias, prior_from_counts])
def test_zero_negatives_raise(helper: Any) -> None:
    with pytest.raises(ValueError, match=r"every count of negatives must be above 0, got 0\.0"):
        helper(1, 0)


@from_counts
@pytest.mark.parametrize("smoothing", [-1.0, math.nan, math.inf])
def test_a_smoothing_out_of_range(helper: Any, smoothing: float) -> None:
    with pytest.raises(ValueError, match=rf"smoothing must be finite .*, got {smoothing}"):
        helper(1, 1, smoothing=smoothing)


def test_errors_are_short_however_many_labels_there_are() -> None:
    counts = torch.ones(46_391)
    counts[[17, 99, 20_000]] = 0
    logits = torch.zeros(2, 46_391)
    misuses: list[tuple[str, Callable[[], object]]] = [
        ("got 0.0 at index 17 and 2 more of 46,391", call)
        for call in (
            lambda: pos_weight_from_counts(counts, counts + 1),
            lambda: prior_from_counts(counts, counts + 1),
            lambda: prior_bias(counts, counts + 1),
            lambda: prior_bias(counts + 1, counts),
            lambda: prior_bias(counts + 1, counts + 1, pos_weight=counts),
            lambda: correct_logits(logits, counts),
            lambda: LinearBCELoss(2, 46_391, prior=counts / 2),
        )
    ]
    misuses.append(
        ("got -1.0 at index 17 and", lambda: pos_weight_from_counts(counts + 1, counts - 1))
    )
    for words, misuse in misuses:
        with pytest.raises(ValueError, match=re.escape(words)) as raised:
            misuse()
        assert len(str(raised.value)) < 250


# ------------------------------------------------------------------------------------- smoothing


def test_smoothing_gives_labels_that_were_never_seen_a_weight_and_a_prior() -> None:
    positives, negatives = torch.tensor([0, 2, 100]), torch.tensor([100, 98, 0])
    p = pos_weight_from_counts(positives, negatives, smoothing=1)
    assert p.tolist() == [101 / 1, 99 / 3, 1 / 101]
    rate = prior_from_counts(positives, negatives, smoothing=1)
    assert rate.tolist() == [1 / 102, 3 / 102, 101 / 102]
    torch.testing.assert_close(prior_bias(positives, negatives, smoothing=1), torch.logit(rate))
    made = LinearBCELoss(4, 3, prior=rate)
    torch.testing.assert_close(made.bias.detach().double().sigmoid(), rate, rtol=1e-6, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 3])
def test_smoothing_is_added_to_each_count(smoothing: float) -> None:
    positives, negatives = torch.tensor([3.0, 40.0]), torch.tensor([97.0, 60.0])
    more = positives + smoothing, negatives + smoothing
    for helper in (pos_weight_from_counts, prior_from_counts, prior_bias):
        assert helper(positives, negatives, smoothing=smoothing).equal(helper(*more))


def test_the_prior_is_the_rate() -> None:
    assert prior_from_counts(20, 80).item() == 0.2
    rate = prior_from_counts(torch.tensor([1, 20, 50]), torch.tensor([99, 80, 50]))
    assert rate.dtype == torch.float64
    assert rate.tolist() == [0.01, 0.2, 0.5]


def test_counts_of_a_scipy_matrix() -> None:
    labels = scipy.sparse.csr_array(np.array([[0, 1, 0], [0, 1, 1]]))
    positives = labels.sum(0)
    rate = prior_from_counts(positives, labels.shape[0] - positives, smoothing=1)
    assert rate.tolist() == [1 / 4, 3 / 4, 2 / 4]


@from_counts
def test_unequal_shapes_raise(helper: Any) -> None:
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
