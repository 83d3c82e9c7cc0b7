"""A call that is repeated takes a short way; it must give what the first call gives, bit for bit.

From the third call of one kind on, `cpu.prepared` computes the loss.
"""

import math
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import torchbce
from family import FAMILY, Loss, targets
from torchbce.backends import dispatch
from torchbce.backends.cpu import prepared
from torchbce.functional import binary_cross_entropy_with_logits as bce

# PyTorch itself loads its forward-mode rules by the deprecated torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")

TIMES = 4
every_loss = pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)


@pytest.fixture(autouse=True)
def nothing_prepared() -> None:
    dispatch.prepared.clear()
    dispatch._missed.clear()


@pytest.fixture
def short_ways(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The losses that were computed the short way."""
    found: list[Tensor] = []
    compute = prepared.PreparedLoss.compute

    def counted(self: Any, *arguments: Any) -> Tensor:
        found.append(compute(self, *arguments))
        return found[-1]

    monkeypatch.setattr(prepared.PreparedLoss, "compute", counted)
    return found


def step(loss: Any, x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = loss(x, y, **options)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "sum", "batch_mean", "weighted_mean"])
def test_every_loss(loss: Loss, reduction: str, short_ways: list[Tensor]) -> None:
    x, y = loss.inputs(7, 3, dtype=torch.float32), targets(7, 3).float()
    first, *others = (step(loss, x, y, reduction=reduction) for _ in range(TIMES))
    assert len(short_ways) == TIMES - 2
    for other in others:
        assert torch.equal(other[0], first[0])
        assert torch.equal(other[1], first[1])
    with torch.no_grad():
        assert all(torch.equal(loss(x, y, reduction=reduction), first[0]) for _ in range(TIMES))
    assert len(short_ways) == 2 * (TIMES - 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("target", [torch.float32, torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize("size", [1, 1023, 1025, 32 * 1024 + 1, 2**17 - 1])
def test_dtypes_and_sizes(
    dtype: torch.dtype, target: torch.dtype, size: int, short_ways: list[Tensor]
) -> None:
    x = torch.linspace(-60, 60, size).to(dtype)
    for name in ("mean", "sum"):
        first, *others = (step(bce, x, targets(size, dtype=target), reduction=name) for _ in "1234")
        assert all(torch.equal(a, b) for o in others for a, b in zip(o, first, strict=True))
    assert len(short_ways) == 2 * (TIMES - 2)


def test_large_and_empty_calls_take_the_usual_way(short_ways: list[Tensor]) -> None:
    for size in (0, 2**17):
        for _ in range(TIMES):
            with pytest.warns(UserWarning, match="over no elements") if not size else _nothing():
                step(bce, torch.zeros(size), torch.zeros(size))
    assert short_ways == []


class _nothing:  # noqa: N801 - used as a context manager
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def special(x: Tensor) -> Tensor:
    x = x.clone()
    x[:6] = torch.tensor([math.inf, -math.inf, math.nan, 104.0, -1e4, 1e-40])
    return x


def test_special_values(short_ways: list[Tensor]) -> None:
    x, y = special(torch.randn(9)), targets(9, dtype=torch.bool)
    first, *others = (step(bce, x, y, reduction="sum") for _ in range(TIMES))
    assert len(short_ways) == TIMES - 2
    for value, gradient in others:
        torch.testing.assert_close(value, first[0], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(gradient, first[1], rtol=0, atol=0, equal_nan=True)
    huge = torch.full((40,), 3e38)
    assert [bce(huge, torch.zeros(40), reduction="sum").item() for _ in "1234"] == [math.inf] * 4


def test_a_value_out_of_range_raises_every_time() -> None:
    x, y = torch.zeros(5), torch.tensor([0.0, 1.0, 0.0, 255.0, 1.0])
    for _ in range(TIMES):
        bce(x, torch.ones(5))
    for _ in range(TIMES):
        with pytest.raises(ValueError, match=r"target\[3\] is 255"):
            bce(x, y)


@pytest.mark.parametrize("upstream", [1.0, 3.0, 0.0, math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_upstream_gradients(upstream: float, dtype: torch.dtype, short_ways: list[Tensor]) -> None:
    x, y = torch.randn(10).to(dtype), targets(10).float()

    def gradient() -> Tensor:
        z = x.clone().requires_grad_()
        return torch.autograd.grad(bce(z, y), z, torch.tensor(upstream))[0]

    first, *others = (gradient() for _ in range(TIMES))
    assert len(short_ways) == TIMES - 2
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0, equal_nan=True)


def test_several_backward_passes_do_not_share_memory(short_ways: list[Tensor]) -> None:
    for _ in range(TIMES):
        x = torch.randn(10, requires_grad=True)
        loss = bce(x, torch.ones(10))
        (first,) = torch.autograd.grad(loss, x, retain_graph=True)
        kept = first.clone()
        first.zero_()
        assert torch.equal(torch.autograd.grad(loss, x)[0], kept)
    assert len(short_ways) == TIMES - 2


def test_an_input_changed_before_the_backward_raises() -> None:
    for _ in range(TIMES):
        x = torch.randn(10, requires_grad=True)
        z = x * 1
        loss = bce(z, torch.ones(10))
        z.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def prepare_call(x: Tensor, y: Tensor, needs_gradient: bool) -> None:
    for _ in range(TIMES):
        bce(x.detach().clone().requires_grad_(needs_gradient), y)


class Logged(TorchDispatchMode):
    def __init__(self) -> None:
        self.seen: list[str] = []
        super().__init__()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


class Subclass(Tensor):
    pass


def _vmap(x: Tensor, y: Tensor) -> Any:
    return torch.func.vmap(bce)(torch.stack([x, x]), torch.stack([y, y]))[1]


def _jvp(x: Tensor, y: Tensor) -> Any:
    with forward_ad.dual_level():
        loss = bce(forward_ad.make_dual(x, torch.ones_like(x)), y)
        tangent = forward_ad.unpack_dual(loss).tangent
        torch.testing.assert_close(tangent, (torch.sigmoid(x) - y).mean())
        return forward_ad.unpack_dual(loss).primal


def _mode(x: Tensor, y: Tensor) -> Any:
    with Logged() as mode:
        loss = bce(x, y)
    assert any("softplus" in name for name in mode.seen)
    return loss


def _double(x: Tensor, y: Tensor) -> Any:
    x = x.clone().requires_grad_()
    loss = bce(x, y)
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    p = torch.sigmoid(x.detach())
    torch.testing.assert_close(second, p * (1 - p) / x.numel())
    return loss


def _batched(x: Tensor, y: Tensor) -> Any:
    x = x.clone().requires_grad_()
    loss = bce(x, y)
    (rows,) = torch.autograd.grad(loss, x, torch.tensor([1.0, 2.0]), is_grads_batched=True)
    torch.testing.assert_close(rows[1], 2 * (torch.sigmoid(x.detach()) - y) / x.numel())
    return loss


def _checkpoint(x: Tensor, y: Tensor) -> Any:
    x = x.clone().requires_grad_()
    loss = checkpoint(bce, x, y, use_reentrant=False)
    loss.backward()
    torch.testing.assert_close(x.grad, (torch.sigmoid(x.detach()) - y) / x.numel())
    return loss


def _reference(x: Tensor, y: Tensor) -> Any:
    with torchbce.backend("reference"), Logged() as mode:
        loss = bce(x, y)
    assert any("softplus" in name for name in mode.seen)
    return loss


WAYS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "vmap": _vmap,
    "func.grad": lambda x, y: torch.func.grad_and_value(bce)(x, y)[1],
    "forward mode": _jvp,
    "dispatch mode": _mode,
    "double backward": _double,
    "batched gradients": _batched,
    "checkpoint": _checkpoint,
    "backend block": _reference,
    "subclass": lambda x, y: bce(x.as_subclass(Subclass), y),
    "parameter": lambda x, y: bce(torch.nn.Parameter(x), y),
    "strided": lambda x, y: bce(torch.stack([x, x], 1)[:, 0], y),
    "negative": lambda x, y: bce(torch.complex(y, -x).conj().imag, y),
    "float64": lambda x, y: bce(x.double(), y),
    "autocast": lambda x, y: _with(torch.autocast("cpu"), x, y),
    "inference": lambda x, y: _with(torch.inference_mode(), x, y),
    "weight": lambda x, y: bce(x, y, weight=torch.ones(())),
    "differentiable target": lambda x, y: bce(x, y.clone().requires_grad_()),
    "functionalize": lambda x, y: torch.func.functionalize(bce)(x, y),
}


def _with(context: Any, x: Tensor, y: Tensor) -> Tensor:
    with context:
        return bce(x.clone(), y.clone())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_what_is_not_plain_takes_the_usual_way(way: str, needs_gradient: bool) -> None:
    x, y = torch.randn(6), targets(6).float()
    prepare_call(x, y, needs_gradient)
    expected = bce(x.double(), y.double())
    got = WAYS[way](x, y)
    assert torch.isclose(got.detach().as_subclass(Tensor).double(), expected, rtol=1e-6)


@pytest.mark.parametrize("parameter", [False, True])
def test_a_repeated_call_without_gradients_has_them_later(parameter: bool) -> None:
    x, y = torch.randn(6).requires_grad_(), targets(6).float()
    x = torch.nn.Parameter(x) if parameter else x
    for _ in range(2):
        with torch.no_grad():
            assert not any(bce(x, y).requires_grad for _ in range(TIMES))
        for _ in range(TIMES):
            (gradient,) = torch.autograd.grad(bce(x, y), x)
            torch.testing.assert_close(gradient, (x.detach().sigmoid() - y) / 6)


def test_fake_tensors_and_graphs(fresh_compiler: None) -> None:
    x, y = torch.randn(6), targets(6).float()
    prepare_call(x, y, False)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert bce(torch.zeros(6), torch.zeros(6)).shape == ()
    compiled: Any = torch.compile(bce, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), bce(x, y))
    traced = torch.jit.trace(bce, (x, y), check_trace=False)
    other = torch.randn(6)
    torch.testing.assert_close(traced(other, y), bce(other, y))


@pytest.mark.parametrize("of", ["input", "target"])
def test_a_call_without_gradients_is_not_reused_with_them(of: str) -> None:
    x, y = torch.randn(8), torch.rand(8)
    (x if of == "input" else y).requires_grad_()
    with torch.no_grad():
        for _ in range(TIMES):
            bce(x, y)
    for _ in range(TIMES):
        loss = bce(x, y)
        (gradient,) = torch.autograd.grad(loss, x if of == "input" else y)
        assert gradient.abs().sum() > 0


def test_a_column_with_flat_targets(short_ways: list[Tensor]) -> None:
    x, y = torch.randn(9, 1), targets(9).float()
    first, *others = (step(bce, x, y) for _ in range(TIMES))
    assert len(short_ways) == TIMES - 2
    assert all(torch.equal(a, b) for o in others for a, b in zip(o, first, strict=True))
    for _ in range(TIMES):
        z = x.clone().requires_grad_()
        loss = bce(z, y)
        (slope,) = torch.autograd.grad(loss, z, create_graph=True)
        assert torch.allclose(slope, first[1])
        slope.sum().backward()
        p = torch.sigmoid(x)
        torch.testing.assert_close(z.grad, p * (1 - p) / 9)


def test_options_that_may_change_are_read_every_time() -> None:
    x, y = torch.randn(6), torch.full((6,), 2.0)
    for _ in range(TIMES):
        bce(x, y, check_targets=False)
    for _ in range(TIMES):
        with pytest.raises(ValueError, match="target"):
            bce(x, y, check_targets=0)  # type: ignore[arg-type]
    smoothing: Any = torch.tensor(0.0)
    before = [bce(x, torch.ones(6), label_smoothing=smoothing) for _ in range(TIMES)]
    smoothing.fill_(0.5)
    assert bce(x, torch.ones(6), label_smoothing=smoothing) != before[-1]


def test_a_call_of_several_kinds_is_not_prepared_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    prepare = prepared.prepare
    monkeypatch.setattr(prepared, "prepare", lambda *a: made.append(a) or prepare(*a))
    x, y = torch.randn(8), targets(8).float()
    for _ in range(20):
        bce(x, y)
        bce(torch.nn.Parameter(x, requires_grad=False), y)
        bce(x.new_zeros(16)[::2], y)
    assert len(made) <= dispatch._MOST_MISSES


def test_threads_share_a_prepared_call() -> None:
    x, y = torch.randn(100), targets(100).float()
    expected = [step(bce, x + i, y) for i in range(8)]
    got: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def work(i: int) -> None:
        got[i] = [step(bce, x + i, y) for _ in range(50)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, results in got.items():
        for value, gradient in results:
            assert torch.equal(value, expected[i][0])
            assert torch.equal(gradient, expected[i][1])


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_MOST_PREPARED", 8)
    for size in range(1, 40):
        for _ in range(3):
            bce(torch.zeros(size), torch.zeros(size))
    assert len(dispatch.prepared) <= 8


@pytest.mark.skipif(
    not hasattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards"),
    reason="this PyTorch has no TensorGuards, without which nothing is prepared",
)
def test_a_step_on_few_elements_makes_few_calls() -> None:
    """Calls of Python and C functions in a step of forward and backward, by `sys.setprofile`."""
    x, y = torch.randn(32, requires_grad=True), targets(32).float()
    for _ in range(TIMES):
        bce(x, y).backward()
    events: Counter[str] = Counter()
    steps = 100

    def count(frame: object, event: str, argument: object) -> None:
        events[event] += 1

    sys.setprofile(count)
    try:
        for _ in range(steps):
            bce(x, y).backward()
    finally:
        sys.setprofile(None)
    # Any `torch.autograd.Function` makes about 40. The half is for the calls after the last step.
    assert (events["call"] + events["c_call"]) / steps < 60.5
