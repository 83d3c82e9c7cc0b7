"""Every loss with every option, reduction, dtype and `ignore_index`, against the definition."""

import math
from typing import Any

import pytest
import torch
from comparing import (
    FLOATS,
    INTEGERS,
    assert_close,
    both,
    every_float,
    every_loss,
    every_reduction,
    normal,
    one_of_each,
    options_for,
    to_device,
)
from interpreting import DEVICE
from torch import Tensor

import torchbce
from family import FAMILY, Loss, targets
from torchbce import functional
from torchbce.definition.reductions import REDUCTIONS
from torchbce.functional import binary_cross_entropy_with_logits as bce

pytestmark = pytest.mark.usefixtures("by_triton")


@every_loss
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_family(loss: Loss, reduction: str) -> None:
    assert_close(both(loss, *elements(loss), reduction=reduction))


@every_loss
@every_reduction
def test_the_family_with_all_options(loss: Loss, reduction: str) -> None:
    x, y = elements(loss)
    # Each ignore_index is combined with each loss and each reduction.
    index = FAMILY.index(loss) + REDUCTIONS.index(reduction)
    ignore_index = (-100.0, math.nan)[index % 2]
    y[3] = y[5, 6] = ignore_index
    x[5, 6] = math.nan
    options = options_for(tuple(x.shape), ignore_index)
    options["mask"][7] = False
    assert_close(both(loss, x, y, reduction=reduction, **options))


def elements(loss: Loss) -> tuple[Tensor, Tensor]:
    """More elements than a tile of a loss that is computed in float64."""
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
        y = y.float().double()  # the kernel converts it to float32
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


@pytest.mark.parametrize("ignore_index", [0, 255, -100, 0.1, 1])
def test_ignore_index_of_any_dtype(ignore_index: float) -> None:
    x = normal(6)
    for y_dtype in (torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int64):
        y = torch.tensor([0, 1, 0, 1, 1, 0]).to(y_dtype)
        if ignore_index != -100 or y_dtype != torch.uint8:
            y[2] = ignore_index
        results = both(bce, x, y, reduction="none", ignore_index=ignore_index)
        assert_close(results)
        number = torch.tensor(ignore_index, dtype=y_dtype if y_dtype.is_floating_point else None)
        assert torch.equal(results[0][0] == 0, y == number)


def test_ignore_index_is_compared_in_float64_with_a_target_of_float64() -> None:
    y = torch.tensor([0.1, 0.1 + 1e-12, 0.5], dtype=torch.float64, device=DEVICE)
    losses = bce(torch.zeros(3, device=DEVICE), y, ignore_index=0.1, reduction="none")
    assert (losses > 0).tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_probabilities_that_are_not_checked_are_not_clipped(dtype: torch.dtype) -> None:
    """Logits given by mistake must not have a loss of 0, with which training would go on."""
    p = torch.tensor([1.5, -0.5, 2.0, -3.0, math.inf, 0.25])
    for y in (0.0, 0.5, 1.0):
        found = []
        for wide in (False, True):
            x = to_device(p.to(dtype), wide).requires_grad_()
            with torchbce.backend("reference" if wide else "triton"):
                loss = functional.binary_cross_entropy(
                    x, torch.full_like(x, y).detach(), reduction="none", check_targets=False
                )
                (gradient,) = torch.autograd.grad(loss.sum(), x)
            found.append((loss.detach().cpu().double(), gradient.cpu().double()))
        for got, true in zip(*found, strict=True):
            torch.testing.assert_close(got, true, rtol=2**-8, atol=0, equal_nan=True)


def test_check_targets_names_values_out_of_range() -> None:
    x, y = torch.zeros(2, 3, device=DEVICE), torch.zeros(2, 3, device=DEVICE)
    y[1, 2] = 255
    sparse = y.to_sparse()
    for target in (y, y.long(), sparse):
        with pytest.raises(ValueError, match=r"target\[1, 2\] is 255"):
            functional.binary_cross_entropy_with_logits(x, target, check_targets=True)
        # The GPU can still be used after the error.
        loss = functional.binary_cross_entropy_with_logits(x, target, check_targets=False)
        assert loss.isfinite()
    functional.binary_cross_entropy_with_logits(x, y, mask=y == 0, check_targets=True)
    with pytest.raises(ValueError, match=r"input\[1, 2\] is 255"):
        functional.binary_cross_entropy(y, x, check_targets=True)
