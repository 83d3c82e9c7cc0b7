"""A call that is repeated takes a short way; it gives what the first call gives, bit for bit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comparing import BLOCK, normal
from interpreting import DEVICE
from torch import Tensor

import torchbce
from family import FAMILY, Loss, targets
from torchbce.backends import dispatch, selection
from torchbce.backends.gpu.prepared import PreparedLoss
from torchbce.functional import binary_cross_entropy_with_logits as bce

TIMES = 4


@pytest.fixture(autouse=True)
def as_by_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls are prepared outside blocks of `backend` only: Triton is the default on the CPU too."""
    monkeypatch.setattr(selection, "fitting", lambda input: selection.TRITON)
    dispatch.prepared.clear()
    dispatch._missed.clear()
    yield
    dispatch.prepared.clear()


@pytest.fixture
def short_ways(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The losses that were computed the short way."""
    found: list[Tensor] = []
    compute = PreparedLoss.compute

    def counted(self: Any, *arguments: Any) -> Tensor:
        found.append(compute(self, *arguments))
        return found[-1]

    monkeypatch.setattr(PreparedLoss, "compute", counted)
    return found


def step(loss: Any, x: Tensor, y: Tensor, upstream: float, **options: Any) -> list[Tensor]:
    x = x.detach().clone().requires_grad_()
    value = loss(x, y, check_targets=False, **options)
    (gradient,) = torch.autograd.grad(value, x, torch.full_like(value, upstream))
    return [value.detach(), gradient]


def assert_repeated(
    short_ways: list[Tensor], loss: Any, x: Tensor, y: Tensor, upstream: float = 1.0, **options: Any
) -> None:
    first, *others = (step(loss, x, y, upstream, **options) for _ in range(TIMES))
    assert len(short_ways) == TIMES - 2
    for other in others:
        assert all(map(torch.equal, other, first))
        assert [t.dtype for t in other] == [t.dtype for t in first]


@pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)
def test_every_loss(loss: Loss, short_ways: list[Tensor]) -> None:
    x, y = loss.inputs(7, 3, dtype=torch.float32).to(DEVICE), targets(7, 3).float().to(DEVICE)
    assert_repeated(short_ways, loss, x, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, BLOCK, 2 * BLOCK + 1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_dtypes_sizes_and_upstream_gradients(
    dtype: torch.dtype, size: int, reduction: str, short_ways: list[Tensor]
) -> None:
    x, y = normal(size).to(DEVICE, dtype), targets(size).to(DEVICE).long()
    assert_repeated(short_ways, bce, x, y, 3.0, reduction=reduction)


def test_a_column_of_targets(short_ways: list[Tensor]) -> None:
    assert_repeated(short_ways, bce, normal(9, 1).to(DEVICE), targets(9).float().to(DEVICE))


def test_other_calls_are_not_prepared(short_ways: list[Tensor]) -> None:
    x, y = normal(9, 4).to(DEVICE), targets(9, 4).float().to(DEVICE)
    for options in ({"mask": y > 0.5}, {"weight": 2.0}, {"reduction": "none"}):
        for _ in range(TIMES):
            step(bce, x, y, 1.0, **options)
    for _ in range(TIMES):
        step(bce, x.T, y.T, 1.0)
    assert not short_ways


def test_another_kind_of_tensor(short_ways: list[Tensor]) -> None:
    x, y = normal(9, 9).to(DEVICE), targets(9, 9).float().to(DEVICE)
    for _ in range(TIMES):
        expected = step(bce, x, y, 1.0)
    assert len(short_ways) == 2
    other = step(bce, x, y.T.contiguous().T, 1.0)
    assert len(short_ways) == 2
    assert torch.equal(other[1], expected[1])
    with torchbce.backend("reference"):
        step(bce, x, y, 1.0)
    assert len(short_ways) == 2


def test_values_are_checked_where_asked() -> None:
    x, y = normal(9).to(DEVICE), targets(9).float().to(DEVICE)
    for _ in range(TIMES):
        step(bce, x, y, 1.0)
    y[3] = 2.0
    for _ in range(TIMES):
        step(bce, x, y, 1.0)
        with pytest.raises(ValueError, match="2"):
            bce(x, y, check_targets=True)
