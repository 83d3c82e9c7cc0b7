"""The sigmoid loss of pairs of bfloat16 features, compared with float64."""

from typing import Any

import pytest
import torch
from interpreting import DEVICE
from torch import Tensor

import torchbce
from torchbce.backends.gpu import pairs
from torchbce.linear import pairwise_gpu, products

pytestmark = pytest.mark.usefixtures("by_triton")

N, D = 23, 7
POSITIVES = torch.full((N, 3), -1)
POSITIVES[:, 0] = torch.arange(N).flip(0)
POSITIVES[::2, 1] = torch.arange(N)[::2].roll(2)
POSITIVES[4] = -1
every_positives = pytest.mark.parametrize(
    "positives", [None, POSITIVES, POSITIVES[:, :1]], ids=["diagonal", "several", "one"]
)


def features(n: int = N, width: int = D) -> list[Tensor]:
    g = torch.Generator().manual_seed(n)
    pair = (torch.randn(n, width, generator=g) for _ in range(2))
    unit = (torch.nn.functional.normalize(t, dim=1).bfloat16().to(DEVICE) for t in pair)
    return [t.requires_grad_() for t in unit]


def truth(
    leaves: list[Tensor], positives: Tensor | None, divisor: float
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Loss and gradients in float64, and the sum of the absolute terms of each gradient."""
    x, y, t, b = (leaf.detach().cpu().double().requires_grad_() for leaf in leaves)
    n, m = len(x), len(y)
    target = torch.eye(n, m, dtype=torch.float64)
    if positives is not None:
        lists = torch.where(positives < 0, m, positives)
        target = torch.zeros(n, m + 1, dtype=torch.float64).scatter_(1, lists, 1.0)[:, :m]
    s = x @ y.T
    z = t * s + b
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, target, reduction="sum")
    slope = (torch.sigmoid(z) - target).abs().detach() / divisor
    size = t.abs().detach()
    terms = [
        size * slope @ y.detach().abs(),
        size * slope.T @ x.detach().abs(),
        (slope * s.detach().abs()).sum(),
        slope.sum(),
    ]
    gradients = torch.autograd.grad(loss / divisor, (x, y, t, b))
    return (loss / divisor).detach(), list(gradients), terms


@every_positives
@pytest.mark.parametrize("chunk", [None, 1, 6, N])
@pytest.mark.parametrize("reduction", ["batch_mean", "sum", "mean"])
def test_accuracy(positives: Tensor | None, chunk: int | None, reduction: str) -> None:
    check_accuracy([*features()], positives, chunk, reduction)


@pytest.mark.parametrize("chunk", [None, 1, 6])
@pytest.mark.parametrize("reduction", ["batch_mean", "sum", "mean"])
@pytest.mark.parametrize(("n", "m"), [(5, N), (N, 5)])
def test_other_numbers_of_x_and_y(n: int, m: int, chunk: int | None, reduction: str) -> None:
    """Label i is a partner of row i % n."""
    x, y = features()
    lists = torch.full((n, -(-m // n)), -1)
    for label in range(m):
        lists[label % n, label // n] = label
    check_accuracy([x[:n], y[:m]], lists, chunk, reduction)


def check_accuracy(
    pair: list[Tensor], positives: Tensor | None, chunk: int | None, reduction: str
) -> None:
    leaves = [*pair, torch.tensor(10.0), torch.tensor(-6.0)]
    leaves = [leaf.detach().to(DEVICE).requires_grad_() for leaf in leaves]
    x, y, scale, bias = leaves
    given = None if positives is None else positives.to(DEVICE)
    loss = torchbce.pairwise_sigmoid_loss(
        x, y, scale=scale, bias=bias, positives=given, reduction=reduction, chunk_pairs=chunk
    )
    assert loss.dtype == torch.float32
    assert type(loss.grad_fn).__name__ == "PairwiseSigmoidLossGPUBackward"
    divisor = {"batch_mean": len(x), "sum": 1, "mean": len(x) * len(y)}[reduction]
    for upstream in (1.0, -0.3):
        true, wanted, terms = truth(leaves, positives, divisor)
        torch.testing.assert_close(loss.detach().cpu().double(), true, rtol=2.0**-21, atol=0)
        weight = torch.tensor(upstream, device=DEVICE)
        got = torch.autograd.grad(loss, leaves, weight, retain_graph=True)
        for leaf, gradient, expected, size in zip(leaves, got, wanted, terms, strict=True):
            assert gradient.dtype == leaf.dtype
            error = (gradient.cpu().double() - upstream * expected).abs()
            # Two parts of bfloat16 hold 16 bits; features' gradients are rounded once, to 8.
            rounding = 2.0**-8 * expected.abs() if leaf.dtype == torch.bfloat16 else 0
            assert bool((error <= abs(upstream) * (rounding + 2.0**-17 * size)).all())


def test_the_gradients_before_they_are_rounded() -> None:
    """A single part of bfloat16 would have an error of 2^-9 per term."""
    leaves = [*features(64), torch.tensor(10.0, device=DEVICE), torch.tensor(-6.0, device=DEVICE)]
    call = pairwise_gpu.PairsCall(64.0, 16, None)
    _, found = pairwise_gpu.loss_and_gradients(
        *(leaf.detach() for leaf in leaves), None, call, (True,) * 4
    )
    _, wanted, terms = truth(leaves, None, 64.0)
    worst = []
    for gradient, expected, size in zip(found, wanted, terms, strict=True):
        assert gradient is not None
        assert gradient.dtype == torch.float32
        worst.append(((gradient.cpu().double() - expected).abs() / size).max().item())
    print("relative errors:", worst)
    assert max(worst) <= 2.0**-17


def test_there_are_five_products_of_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the memory is that of one chunk: 8 bytes per logit."""
    count: list[torch.dtype] = []
    allocated: list[int] = []
    multiply, add, slopes = products.multiply, products.add_product, pairs.new_slopes

    def recorded(a: Tensor, b: Tensor, out: Tensor) -> None:
        count.append(a.dtype)
        assert a.dtype == b.dtype
        assert out.dtype == torch.float32
        multiply(a, b, out)

    def added(out: Tensor, a: Tensor, b: Tensor) -> None:
        count.append(a.dtype)
        add(out, a, b)

    def measured(like: Tensor, elements: int) -> Any:
        allocated.append(elements)
        return slopes(like, elements)

    monkeypatch.setattr(products, "multiply", recorded)
    monkeypatch.setattr(products, "add_product", added)
    monkeypatch.setattr(pairs, "new_slopes", measured)
    x, y = features()
    loss = torchbce.pairwise_sigmoid_loss(x, y, scale=10.0, bias=-6.0, chunk_pairs=12)
    loss.backward()
    assert count == [torch.bfloat16] * 5 * 2  # two chunks
    assert allocated == [12 * N]
    count.clear()
    torchbce.pairwise_sigmoid_loss(x.detach(), y, scale=10.0, bias=-6.0)
    assert len(count) == 3
    count.clear()
    torchbce.pairwise_sigmoid_loss(x.detach(), y.detach(), scale=10.0, bias=-6.0)
    assert len(count) == 1
    assert allocated == [12 * N, N * N]


@every_positives
def test_second_derivatives_are_those_of_the_definition(positives: Tensor | None) -> None:
    x, y = features(5 if positives is None else N)
    given = None if positives is None else positives.to(DEVICE)
    found = []
    for wide in (False, True):
        leaves = [t.detach().double().requires_grad_() if wide else t for t in (x, y)]
        with torchbce.backend("reference" if wide else "triton"):
            loss = torchbce.pairwise_sigmoid_loss(*leaves, scale=3.0, bias=-1.0, positives=given)
        (first,) = torch.autograd.grad(loss, leaves[0], create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), leaves[1])[0])
    torch.testing.assert_close(found[0].double(), found[1], rtol=2.0**-6, atol=1e-4)


def test_extremes() -> None:
    one = torch.ones(1, 1, dtype=torch.bfloat16, device=DEVICE)
    for z in (20.0, 104.0, -104.0, 1e4, -1e4):
        bias = torch.tensor(z, device=DEVICE, requires_grad=True)
        loss = torchbce.pairwise_sigmoid_loss(one, one, scale=0.0, bias=bias)
        wide = torch.tensor(z, dtype=torch.float64)
        torch.testing.assert_close(
            loss.detach().cpu().double(),
            -torch.nn.functional.logsigmoid(wide),
            rtol=2.0**-22,
            atol=2.0**-149,
        )
        (slope,) = torch.autograd.grad(loss, bias)
        torch.testing.assert_close(
            slope.cpu().double(), -torch.sigmoid(-wide), rtol=2.0**-22, atol=2.0**-149
        )
    x, y = features()
    x.data[3, 2] = torch.nan  # values on a GPU are not checked
    if DEVICE == "cuda":
        assert torchbce.pairwise_sigmoid_loss(x, y, scale=1.0).isnan()
