"""The focal, asymmetric and Poly-1 losses with constants per class, by p_t, and detached."""

import itertools
from typing import Any

import pytest
import torch
from comparing import assert_close, both, every_float, normal, options_for, to_device, with_layout
from torch import Tensor

from family import targets
from torchbce.backends import compiled
from torchbce.backends.request import loss_spec
from torchbce.definition import family
from torchbce.functional import (
    asymmetric_loss,
    poly_binary_cross_entropy,
    sigmoid_focal_loss,
)

pytestmark = pytest.mark.usefixtures("by_triton")

ROWS, CLASSES = 23, 5
GAMMA = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.3], dtype=torch.float64)
ALPHA = torch.tensor([0.1, 0.25, 0.5, 0.9, 0.75])
MARGIN = torch.tensor([0.0, 0.05, 0.3, 0.001, 0.6], dtype=torch.float64)
EPSILON = torch.tensor([-1.0, -0.5, 0.0, 1.0, 2.5])

LOSSES: list[tuple[Any, dict[str, Any]]] = [
    (sigmoid_focal_loss, {"alpha": 0.25, "gamma": 2.0}),
    (asymmetric_loss, {}),
    (poly_binary_cross_entropy, {"gamma": 0.5, "alpha": 0.25}),
    (sigmoid_focal_loss, {"alpha": ALPHA, "gamma": GAMMA}),
    (asymmetric_loss, {"gamma_pos": 0.5, "gamma_neg": GAMMA, "margin": MARGIN}),
    (poly_binary_cross_entropy, {"epsilon": EPSILON, "gamma": GAMMA.roll(2), "alpha": ALPHA}),
]
every_loss = pytest.mark.parametrize(("loss", "own"), LOSSES)
every_form = pytest.mark.parametrize(
    ("soft_targets", "detach_focusing"), list(itertools.product(("linear", "p_t"), (False, True)))
)


@every_loss
@every_form
@every_float
def test_values_and_gradients(
    loss: Any, own: dict[str, Any], soft_targets: str, detach_focusing: bool, dtype: torch.dtype
) -> None:
    x, y = normal(ROWS, CLASSES).to(dtype), targets(ROWS, CLASSES).to(dtype)
    x[0], x[1] = 104.0, -104.0
    y[::4], y[1::4] = 0.0, 1.0
    form = {"soft_targets": soft_targets, "detach_focusing": detach_focusing}
    assert_close(both(loss, x, y, reduction="none", **form, **own))


@every_loss
@every_form
@pytest.mark.parametrize("reduction", ["none", "weighted_mean"])
def test_all_options(
    loss: Any, own: dict[str, Any], soft_targets: str, detach_focusing: bool, reduction: str
) -> None:
    x, y = normal(ROWS, CLASSES), targets(ROWS, CLASSES).float()
    y[3] = y[5, 2] = -100
    x[5, 2] = torch.nan
    form = {"soft_targets": soft_targets, "detach_focusing": detach_focusing}
    options = options_for((ROWS, CLASSES), -100)
    assert_close(both(loss, x, y, reduction=reduction, **form, **options, **own))


@pytest.mark.parametrize("layout", ["permuted", "inner", "sliced", "contiguous"])
def test_layouts(layout: str) -> None:
    x = with_layout(normal(3, CLASSES, 8, 30), layout)
    y = with_layout(targets(3, CLASSES, 8, 30).float(), "contiguous")
    own = {"gamma": GAMMA[:, None, None], "alpha": targets(3, 1, 1, 30).float()}
    for form in ("linear", "p_t"):
        assert_close(both(sigmoid_focal_loss, x, y, soft_targets=form, **own))


def test_a_constant_of_an_ignored_element_may_be_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values on a GPU are not checked."""
    monkeypatch.setattr("torchbce.definition.checks.readable", lambda *_, **__: None)
    monkeypatch.setattr("torchbce.definition.checks.unreadable", lambda *_, **__: None)
    x, y, gamma = normal(4, 3), targets(4, 3).float(), torch.ones(4, 3)
    mask = torch.ones(4, 3, dtype=torch.bool)
    gamma[1, 1], mask[1, 1] = torch.nan, False
    results = both(sigmoid_focal_loss, x, y, gamma=gamma, mask=mask, check_targets=False)
    assert_close(results)
    assert results[0][1][1, 1] == 0


def test_the_operator_of_a_compiled_graph() -> None:
    """It is given the form and the detached weights by its name and constants."""
    x, y = normal(ROWS, CLASSES), targets(ROWS, CLASSES).float()
    options: dict[str, Any] = {"soft_targets": "p_t", "detach_focusing": True}
    spec = loss_spec(family.loss("asymmetric_loss", 1.0, 4.0, 0.05, **options))
    results = []
    for by_operator in (True, False):
        z, target = to_device(x).requires_grad_(), to_device(y)
        if by_operator:
            value = compiled.loss(spec, "mean", z, target, None, None, None)
        else:
            value = asymmetric_loss(z, target, **options)
        results.append((value.detach(), torch.autograd.grad(value, z)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("y", [-torch.inf, torch.inf])
def test_infinite_logits(y: float) -> None:
    x = to_device(torch.full((2, CLASSES), y))
    right = torch.full_like(x, float(y > 0))
    own = {
        name: to_device(value) for name, value in LOSSES[4][1].items() if isinstance(value, Tensor)
    }
    for form in ("linear", "p_t"):
        losses = asymmetric_loss(x, right, soft_targets=form, reduction="none", **own)
        assert (losses[:, 0] == 0).all()  # without a margin
        wrong = asymmetric_loss(x, 1 - right, soft_targets=form, reduction="none", **own)
        assert wrong[:, 0].isinf().all()
