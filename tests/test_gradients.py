"""Derivatives of every order and in every mode: reverse, forward, batched and compiled."""

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from torchbce.functional import binary_cross_entropy, binary_cross_entropy_with_logits

# PyTorch 2.13 warns of its own use of torch.jit.script when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

REDUCTIONS = ["none", "mean", "sum"]
EPSILONS = [None, 1e-7]


def logits_and_weights() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, target, weight and pos_weight, (4, 3), (4, 3), (4, 1) and (3,), which require grad.

    One logit is 0, where the branches of the formula meet and agree. No other logit is so close to
    0 that a finite difference would step from one branch into the other.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64) * 3
    logits[0] = torch.tensor([0.0, 9.0, -9.0], dtype=torch.float64)
    targets = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    weight = torch.rand(4, 1, generator=generator, dtype=torch.float64) + 0.5
    pos_weight = torch.rand(3, generator=generator, dtype=torch.float64) + 0.5
    return tuple(x.requires_grad_() for x in (logits, targets, weight, pos_weight))  # type: ignore[return-value]


def probabilities_and_weight() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    targets = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    weight = torch.rand(4, 1, generator=generator, dtype=torch.float64) + 0.5
    return p.requires_grad_(), targets.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_logits_against_finite_differences(reduction: str) -> None:
    def loss(z: Tensor, y: Tensor, w: Tensor, p: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(z, y, w, pos_weight=p, reduction=reduction)

    arguments = logits_and_weights()
    assert gradcheck(loss, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(loss, arguments)


@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_hard_targets_against_finite_differences(hard: float) -> None:
    logits = logits_and_weights()[0]
    targets = torch.full((4, 3), hard, dtype=torch.float64)

    def loss(z: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(z, targets, reduction="none")

    assert gradcheck(loss, (logits,), check_forward_ad=True)
    assert gradgradcheck(loss, (logits,))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("eps", EPSILONS)
def test_probabilities_against_finite_differences(reduction: str, eps: float | None) -> None:
    def loss(p: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return binary_cross_entropy(p, y, w, reduction=reduction, eps=eps)

    arguments = probabilities_and_weight()
    assert gradcheck(loss, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(loss, arguments)


def test_first_derivatives_equal_the_formula() -> None:
    z, y, w, p = logits_and_weights()
    loss = binary_cross_entropy_with_logits(z, y, w, pos_weight=p, reduction="sum")
    got = torch.autograd.grad(loss, (z, y, w, p))

    with torch.no_grad():
        positive, negative = -torch.sigmoid(z).log(), -torch.sigmoid(-z).log()
        expected = (
            w * ((1 - y) * torch.sigmoid(z) - p * y * torch.sigmoid(-z)),
            w * (p * positive - negative),
            (p * y * positive + (1 - y) * negative).sum(1, keepdim=True),
            (w * y * positive).sum(0),
        )
    for side, true in zip(got, expected, strict=True):
        torch.testing.assert_close(side, true)


def test_terms_with_a_factor_of_zero_have_derivatives() -> None:
    # A factor of 0 (y, 1 - y, w or p) removes a term, but not its derivative by that factor.
    z = torch.linspace(-40, 40, 17, dtype=torch.float64)
    positive, negative = torch.nn.functional.softplus(-z), torch.nn.functional.softplus(z)
    for label, factor in ((0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)):
        y, w, p = (torch.full_like(z, v).requires_grad_() for v in (label, factor, factor))
        loss = binary_cross_entropy_with_logits(z, y, w, pos_weight=p, reduction="sum")
        by_target, by_weight, by_pos_weight = torch.autograd.grad(loss, (y, w, p))
        expected = factor * (factor * positive - negative)
        torch.testing.assert_close(by_target, expected, atol=1e-16, rtol=1e-7)
        expected = factor * positive if label else negative
        torch.testing.assert_close(by_weight, expected, atol=1e-14, rtol=1e-7)
        torch.testing.assert_close(by_pos_weight, factor * label * positive)

    z = torch.tensor([3.0, -30.0, 0.0], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    loss = binary_cross_entropy_with_logits(z, y, reduction="sum")
    torch.testing.assert_close(torch.autograd.grad(loss, y)[0], -z)


def test_reductions_scale_the_gradient() -> None:
    z, y, *_ = logits_and_weights()
    sums, means = (
        torch.autograd.grad(binary_cross_entropy_with_logits(z, y, reduction=r), z)[0]
        for r in ("sum", "mean")
    )
    torch.testing.assert_close(means * z.numel(), sums)
    assert sums.abs().min() > 0


def test_forward_mode() -> None:
    z, y, *_ = (x.detach() for x in logits_and_weights())
    tangent = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).reshape(z.shape)
    with fwAD.dual_level():
        dual = fwAD.make_dual(z, tangent)
        loss = binary_cross_entropy_with_logits(dual, y, reduction="none")
        derivative = fwAD.unpack_dual(loss).tangent
    torch.testing.assert_close(derivative, tangent * (torch.sigmoid(z) - y))


def test_jvp_of_probabilities() -> None:
    p, y, _ = (x.detach() for x in probabilities_and_weight())
    tangent = torch.linspace(-1, 1, p.numel(), dtype=p.dtype).reshape(p.shape)

    def loss(p: Tensor) -> Tensor:
        return binary_cross_entropy(p, y, reduction="none")

    _, derivative = torch.func.jvp(loss, (p,), (tangent,))
    torch.testing.assert_close(derivative, tangent * ((1 - y) / (1 - p) - y / p))


def test_per_sample_gradients_by_vmap() -> None:
    z, y, *_ = (x.detach() for x in logits_and_weights())

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(z, y, reduction="sum")

    rows = torch.func.vmap(torch.func.grad(loss))(z, y)
    torch.testing.assert_close(rows, torch.sigmoid(z) - y)
    torch.testing.assert_close(
        torch.func.vmap(loss)(z, y), torch.stack([loss(a, b) for a, b in zip(z, y, strict=True)])
    )


def test_vmap_over_probabilities() -> None:
    p, y, _ = (x.detach() for x in probabilities_and_weight())
    rows = torch.func.vmap(torch.func.grad(lambda p, y: binary_cross_entropy(p, y)))(p, y)
    torch.testing.assert_close(rows, ((1 - y) / (1 - p) - y / p) / 3)


def test_hessian() -> None:
    z, y, *_ = (x.detach()[0] for x in logits_and_weights())

    def loss(z: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(z, y, reduction="sum")

    hessian = torch.func.hessian(loss)(z)
    torch.testing.assert_close(hessian, torch.diag(torch.sigmoid(z) * torch.sigmoid(-z)))


def test_inputs_are_not_modified() -> None:
    arguments = logits_and_weights()
    before = [x.detach().clone() for x in arguments]
    z, y, w, p = arguments
    binary_cross_entropy_with_logits(z, y, w, pos_weight=p).backward()
    binary_cross_entropy(y, y.detach()).backward()
    assert all(torch.equal(x, old) for x, old in zip(arguments, before, strict=True))


def of_logits(z: Tensor, y: Tensor, reduction: str) -> Tensor:
    return binary_cross_entropy_with_logits(z, y, pos_weight=3.0, reduction=reduction)


def of_probabilities(z: Tensor, y: Tensor, reduction: str) -> Tensor:
    return binary_cross_entropy(torch.sigmoid(z), y, reduction=reduction)


@pytest.mark.parametrize("loss", [of_logits, of_probabilities])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compiled_equals_eager(loss: Callable[..., Tensor], reduction: str) -> None:
    # In one graph: no step may depend on the value of a tensor.
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 1, generator=generator) * 5
    targets = torch.tensor([0.0, 1.0, 0.25, 1.0, 0.0, 0.75])
    results = []
    for function in (loss, compiled):
        z = logits.clone().requires_grad_()
        value = function(z, targets, reduction)
        value.sum().backward()
        results.append((value.detach(), z.grad))
    (eager, eager_gradient), (graph, graph_gradient) = results
    # The graph is the definition, which rounds correctly; a kernel is within one unit of it.
    torch.testing.assert_close(eager, graph, rtol=2 * 2**-23, atol=0)
    torch.testing.assert_close(eager_gradient, graph_gradient, rtol=2 * 2**-23, atol=0)
    assert eager_gradient.abs().min() > 0
