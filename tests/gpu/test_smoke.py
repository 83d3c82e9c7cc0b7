"""One call of everything: what runs first on a GPU, in less than half a minute."""

import pytest
import torch
from comparing import (
    assert_close,
    both,
    every_float,
    every_loss,
    one_of_each,
    with_layout,
)
from interpreting import DEVICE

import torchbce
from family import Loss, targets

pytestmark = pytest.mark.usefixtures("by_triton")

ROWS, COLUMNS = 7, 301  # more than one tile


@every_loss
@every_float
def test_every_loss_and_dtype(loss: Loss, dtype: torch.dtype) -> None:
    x = loss.inputs(ROWS, COLUMNS, dtype=dtype)
    assert_close(both(loss, x, targets(ROWS, COLUMNS).float()))


@one_of_each
@pytest.mark.parametrize("how", ["offset", "sliced"])
def test_memory_at_an_odd_offset(loss: Loss, how: str) -> None:
    x = with_layout(loss.inputs(ROWS, COLUMNS), how)
    assert_close(both(loss, x, targets(ROWS, COLUMNS).float()))


@one_of_each
def test_a_weight_per_row(loss: Loss) -> None:
    x, weight = loss.inputs(ROWS, COLUMNS), torch.linspace(0, 2, ROWS)[:, None]
    assert_close(both(loss, x, targets(ROWS, COLUMNS).float(), weight=weight))


@every_float
def test_a_linear_layer(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    head = [torch.randn(*shape, generator=generator) for shape in ((9, 5), (50, 5), (50,))]
    lists = torch.tensor([[i, 2 * i + 9, -1] for i in range(9)], device=DEVICE)
    x, w, b = (t.to(DEVICE, dtype).requires_grad_() for t in head)
    found = torchbce.linear_binary_cross_entropy(x, w, lists, b)
    found.backward()
    wide = [t.detach().cpu().double().requires_grad_() for t in (x, w, b)]
    with torchbce.backend("reference"):
        expected = torchbce.linear_binary_cross_entropy(wide[0], wide[1], lists.cpu(), wide[2])
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=2e-6)
    eps = torch.finfo(dtype).eps
    for got, true in zip((x, w, b), wide, strict=True):
        # Products of 16 bits round the gradients of the logits, and each gradient once more.
        largest = true.grad.abs().max().item()
        torch.testing.assert_close(
            got.grad.cpu().double(), true.grad, rtol=0, atol=max(2 * eps, 5e-7) * largest
        )
