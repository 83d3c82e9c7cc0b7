"""Tests that need a GPU: synchronization, CUDA graphs, streams, memory, large tensors."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import UNITS
from devices import bits, captured, free_bytes, never_waiting
from torch import Tensor, nn

import torchbce
from family import FAMILY, ONE_OF_EACH, Loss, targets
from torchbce.backends.gpu.calls import PreparedLaunch
from torchbce.definition import reference
from torchbce.definition.reductions import REDUCTIONS
from torchbce.functional import binary_cross_entropy_with_logits as bce

every_loss = pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)
one_of_each = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.name)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)

pytestmark = pytest.mark.usefixtures("clean_memory")


def on_gpu(loss: Loss, *shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return loss.inputs(*shape, dtype=dtype).cuda(), targets(*shape).float().cuda()


@every_loss
@every_reduction
def test_the_host_does_not_wait(loss: Loss, reduction: str) -> None:
    x, y = on_gpu(loss, 300, 70)
    mask, weight = y > 0.2, torch.rand(70, device="cuda")
    x.requires_grad_()
    upstream = torch.ones((), device="cuda")

    def step(**options: Any) -> None:
        value = loss(x, y, reduction=reduction, **options)
        torch.autograd.grad(value, x, upstream.expand(value.shape))

    given: list[dict[str, Any]] = [
        {},
        {"pos_weight": 2.0, "weight": 0.5},
        {"mask": mask, "weight": weight},
        {"ignore_index": -100, "label_smoothing": 0.1},
    ]
    for options in given:
        step(**options)  # compiles
        with never_waiting():
            step(**options)


def test_modules_and_the_drop_in_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    launched, run = [], PreparedLaunch.__call__
    monkeypatch.setattr(PreparedLaunch, "__call__", lambda *a: launched.append(a) or run(*a))
    x, y = on_gpu(FAMILY[0], 300, 70)
    p = torch.sigmoid(x).requires_grad_()
    x.requires_grad_()
    # The module stores its pos_weight on the CPU.
    own = torchbce.BCEWithLogitsLoss(pos_weight=2.0)
    cases = [(own, x), (nn.BCEWithLogitsLoss(), x), (nn.BCELoss(), p)]
    with torchbce.dropin.installed():
        for criterion, z in cases:
            for _ in range(2):  # the first compiles, the second adds gradients
                criterion(z, y).backward()
            launched.clear()
            with never_waiting():
                criterion(z, y).backward()
            # Otherwise PyTorch's own loss was computed, which does not wait either.
            assert launched, criterion


def test_triton_is_the_default_backend() -> None:
    x = torch.zeros(3, device="cuda")
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        assert torchbce.backend_for(x.to(dtype)).name == "triton"
    assert torchbce.backend_for(x, x.cpu()).name == "reference"
    assert torchbce.backend_for(x, mask=torch.ones(3, dtype=torch.bool)).name == "reference"
    refused = pytest.raises(RuntimeError, match=r"'triton'.* cannot compute this: input is not a")
    with torchbce.backend("triton"), refused:
        bce(x.cpu(), x.cpu())


@one_of_each
@every_reduction
def test_capture_into_a_graph(loss: Loss, reduction: str) -> None:
    x, y = on_gpu(loss, 150, 70)
    others = loss.inputs(150, 70, dtype=torch.float32, seed=5).cuda(), targets(150, 70, seed=6)
    mask = y > 0.2
    x.requires_grad_()

    def step(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        value = loss(z, target, reduction=reduction, mask=mask, pos_weight=2.0)
        return value, torch.autograd.grad(value.sum() * 3, z)[0]

    graph, results = captured(lambda: step(x, y))
    with torch.no_grad():
        x.copy_(others[0])
        y.copy_(others[1])
    graph.replay()
    torch.cuda.synchronize()
    z = others[0].clone().requires_grad_()
    # The same kernels on the same numbers.
    assert bits(results) == bits(step(z, y))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("reduction", ["none", "mean", "batch_mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_is_eager(mode: str, reduction: str, masked: bool, fresh_compiler: None) -> None:
    x, y = on_gpu(FAMILY[0], 150, 70)
    mask = y > 0.2 if masked else None

    def step(z: Tensor) -> Tensor:
        return bce(z * 2, y, reduction=reduction, mask=mask)

    compiled = torch.compile(step, mode=mode, fullgraph=True)
    for _ in range(4):  # the later ones replay a CUDA graph
        results = []
        for function in (step, compiled):
            z = x.clone().requires_grad_()
            value = function(z)
            results.append([t.clone() for t in (value, *torch.autograd.grad(value.sum(), z))])
        # The product with 2 is exact.
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["none", "mean", "weighted_mean"])
def test_results_are_deterministic_on_every_stream(reduction: str) -> None:
    n = 2**22 + 3
    x, y = torch.randn(n, device="cuda"), (torch.rand(n, device="cuda") > 0.5).float()
    weight = torch.rand(n, device="cuda")

    def step() -> tuple[Tensor, Tensor]:
        z = x.clone().requires_grad_()
        value = bce(z, y, weight=weight, reduction=reduction)
        return value.detach(), torch.autograd.grad(value.sum(), z)[0]

    once = step()
    torch.cuda.synchronize()
    streams = [torch.cuda.current_stream(), *(torch.cuda.Stream() for _ in range(3))]
    results = []
    for run in range(20):
        with torch.cuda.stream(streams[run % 4]):
            results.append(step())
    torch.cuda.synchronize()
    for result in results:
        assert all(map(torch.equal, result, once))


@one_of_each
def test_sums_of_many_elements(loss: Loss) -> None:
    n = 2**24
    x, y = on_gpu(loss, n)
    losses = loss(x, y, reduction="none")
    total = losses.double().sum().item()
    got = loss(x, y, reduction="sum").item()
    # A tile is added up pairwise in float32, the sums of tiles in float64.
    assert abs(got - total) <= 2.0 ** (math.frexp(total)[1] - 24)
    mean = loss(x, y).item()
    assert abs(mean - total / n) <= 2.0 ** (math.frexp(total / n)[1] - 24)


@pytest.mark.parametrize("n", [2**22 - 1, 2**22, 2**22 + 3])
def test_sizes_around_the_first_with_several_tiles_per_program(n: int) -> None:
    x, y = torch.randn(n, device="cuda"), torch.rand(n, device="cuda")
    mask = y > 0.3
    results = []
    for name in ("triton", "reference"):
        z = (x.clone() if name == "triton" else x.double()).requires_grad_()
        with torchbce.backend(name):
            value = bce(z, y, mask=mask)
        results.append((value.double().detach(), torch.autograd.grad(value, z)[0].double() * n))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=2.0**-22, atol=0)
    # A gradient is a difference of terms below 1, each at most 2 ulp off.
    torch.testing.assert_close(results[0][1], results[1][1], rtol=8 * 2.0**-23, atol=4 * 2.0**-23)


@one_of_each
def test_peak_memory_is_that_of_the_gradient(loss: Loss) -> None:
    n = 2**24
    x, y = on_gpu(loss, n)
    x.requires_grad_()
    for options in ({}, {"mask": y > 0.2}, {"weight": y}):
        for _ in range(2):
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            value = loss(x, y, **options)
            (gradient,) = torch.autograd.grad(value, x)
            extra = torch.cuda.max_memory_allocated() - before
            # In addition the partial sums: two of 4 bytes per 512 elements or more.
            assert extra <= 4 * n + 8 * n // 512 + 2**20
            del value, gradient


@pytest.mark.large
def test_more_than_2_to_the_31_elements() -> None:
    n = 2**31 + 16
    # Logits, targets, losses and a gradient: 2 + 1 + 2 + 2 bytes per element.
    if free_bytes() < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    x = torch.full((n,), -2.0, dtype=torch.bfloat16, device="cuda")
    y = torch.zeros(n, dtype=torch.uint8, device="cuda")
    x[-5:] = torch.arange(5.0, device="cuda")
    y[-3:] = 1
    x.requires_grad_()
    losses = bce(x, y, reduction="none")
    (gradient,) = torch.autograd.grad(losses, x, torch.ones_like(losses))
    z = x.detach()[-5:].double().requires_grad_()
    with torchbce.backend("reference"):
        expected = bce(z, y[-5:], reduction="none")
    (slopes,) = torch.autograd.grad(expected.sum(), z)
    assert torch.equal(losses[-5:], expected.bfloat16())
    assert torch.equal(gradient[-5:], slopes.bfloat16())
    each = torch.tensor(math.log1p(math.exp(-2))).bfloat16().item()
    assert (losses[:-5] == each).all()
    del losses, gradient
    total = (n - 5) * math.log1p(math.exp(-2)) + expected.sum().item()
    assert bce(x.detach(), y, reduction="sum").item() == pytest.approx(total, rel=2e-6)
    value = bce(x, y, ignore_index=0)
    assert value.item() == pytest.approx(expected[-3:].mean().item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, x)
    assert not gradient[:-3].any()
    torch.testing.assert_close(gradient[-3:].double(), slopes[-3:] / 3, rtol=2.0**-8, atol=0)


@pytest.mark.large
def test_strides_beyond_32_bits() -> None:
    if free_bytes() < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    # Neighbouring columns of the last dimension are 2^31 elements apart in memory.
    tall = torch.zeros(2, 2**31 + 16, dtype=torch.bfloat16, device="cuda")
    tall[:, -4:] = torch.arange(8.0, device="cuda").view(2, 4)
    x, y = tall[:, -4:], torch.tensor([[0, 1, 0, 1]] * 2, device="cuda")
    with torchbce.backend("reference"):
        expected = bce(x.double(), y, reduction="none")
    assert torch.equal(bce(x, y, reduction="none"), expected.bfloat16())
    # A strided dimension that is longer than 2^30.
    y = torch.zeros(2**31 + 16, 1, dtype=torch.uint8, device="cuda").expand(-1, 2)
    losses = bce(tall.T, y, reduction="none")
    assert torch.equal(
        losses[-4:, 1], torch.nn.functional.softplus(tall[1, -4:].float()).bfloat16()
    )
    weight = torch.arange(2.0, device="cuda")
    del losses
    value = bce(tall.T, y, weight=weight, reduction="sum").item()
    exact = (2**31 + 12) * math.log(2) + sum(math.log1p(math.exp(z)) for z in (4, 5, 6, 7))
    # Equal numbers are rounded in the same direction: half an eps at each of the 13 levels of a
    # program's sum.
    assert value == pytest.approx(exact, rel=2e-6)


def worst(got: Tensor, true: Tensor) -> float:
    """The largest error in units in the last place of float32, computed on the GPU."""
    exponent = torch.frexp(true).exponent.clamp(min=-125) - 24
    # 2 to these exponents, -149 at least, is a normal number in float64: set its bits.
    unit = ((exponent.long() + 1023) << 52).view(torch.float64)
    same = (got == true.float()) | (got.isnan() & true.isnan())
    error = torch.where(same, 0.0, (got.double() - true).abs() / unit)
    return math.inf if bool(error.isnan().any()) else error.max().item()


@pytest.mark.large
@pytest.mark.parametrize("target", [0, 1])
def test_every_float32(target: int, capsys: pytest.CaptureFixture[str]) -> None:
    chunk = 2**26
    y = torch.full((chunk,), target, dtype=torch.bool, device="cuda")
    largest = [0.0, 0.0]
    for start in range(-(2**31), 2**31, chunk):
        pattern = torch.arange(start, start + chunk, dtype=torch.int64, device="cuda")
        x = pattern.to(torch.int32).view(torch.float32).requires_grad_()
        del pattern
        value = bce(x, y, reduction="none")
        (gradient,) = torch.autograd.grad(value, x, torch.ones_like(value))
        z = x.detach().double()
        sign = 1 - 2 * target
        true = reference.logits_parts(z)[1 - target]
        slope = sign * torch.sigmoid(sign * z)
        for i, pair in enumerate(((value.detach(), true), (gradient, slope))):
            largest[i] = max(largest[i], worst(*pair))
        del x, value, gradient, z, true, slope
    with capsys.disabled():
        print(f"\ny = {target}: loss {largest[0]:.3f} ulp, gradient {largest[1]:.3f} ulp")
    assert max(largest) <= UNITS


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("criterion", [torchbce.BCEWithLogitsLoss, torchbce.SigmoidFocalLoss])
def test_a_training_step_under_autocast(
    dtype: torch.dtype, criterion: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    model, lossy = nn.Linear(20, 3).cuda(), criterion()
    x, y = torch.randn(256, 20, device="cuda"), (torch.rand(256, 3, device="cuda") > 0.5).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    found = []
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype):
            logits = model(x)
            assert logits.dtype == dtype
            loss = lossy(logits, y)
        assert loss.dtype == torch.float32
        found.append(loss.item())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert found[-1] < found[0]
    assert scaler.get_scale() == (2.0**16 if dtype == torch.float16 else 1.0)  # no step overflowed
    assert not any(map(torch.equal, model.parameters(), before))


def test_another_gpu_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, y = on_gpu(FAMILY[0], 5000)
    results = []
    for device in ("cuda:0", "cuda:1"):
        z = x.to(device).requires_grad_()
        with torchbce.backend("triton"):
            value = bce(z, y.to(device), pos_weight=2.0)
        assert value.device == z.device
        results.append((value.detach(), torch.autograd.grad(value, z)[0]))
    assert torch.cuda.current_device() == 0
    assert bits(results[0]) == bits(results[1])


def test_a_target_of_another_gpu_is_not_read() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = torch.zeros(3, device="cuda:0")
    elsewhere = x.to("cuda:1")

    def compute(y: Tensor, **options: Tensor) -> None:
        bce(x, y, **options)
        torch.cuda.synchronize()

    for y, options in (
        (elsewhere, {}),
        (x, {"weight": elsewhere}),
        (x, {"mask": elsewhere == 0}),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            compute(y, **options)
