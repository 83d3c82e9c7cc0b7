"""Launches on a GPU, without a GPU: NVIDIA's driver is stubbed, see `common.stubbed_gpu`.

Triton compiles the kernels; nothing computes. A `PreparedLaunch` must launch the kernel that Triton
itself would launch for the same tensors, with the same parameters.
"""

import gc
import importlib
import re
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is set: Triton launches nothing", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("there is a GPU, whose driver is already loaded", allow_module_level=True)
if shutil.which("cc") is None and shutil.which("gcc") is None:
    pytest.skip("there is no C compiler for the stub of the driver", allow_module_level=True)

from torchbce.backends.gpu import calls, launch  # noqa: E402 - Triton may be missing
from torchbce.backends.gpu.operands import LinearInputs, Outputs  # noqa: E402
from torchbce.backends.request import KernelInputs, loss_spec  # noqa: E402
from torchbce.definition import family  # noqa: E402
from torchbce.functional import binary_cross_entropy_with_logits as bce  # noqa: E402

pytestmark = pytest.mark.slow

SPEC = loss_spec(family.CROSS_ENTROPY)
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        stubbed_gpu = importlib.import_module("common.stubbed_gpu")
        with stubbed_gpu.installed(tmp_path_factory.mktemp("stub")) as stub:
            yield stub


@pytest.fixture(autouse=True)
def nothing_prepared() -> None:
    launch._prepared.clear()


@pytest.fixture
def by_triton(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each launch by Triton itself compiled or found."""
    found: list[Any] = []
    run = calls.Launch.run

    def recorded(self: calls.Launch, device: torch.device) -> Any:
        found.append(run(self, device))
        return found[-1]

    monkeypatch.setattr(calls.Launch, "run", recorded)
    return found


def parameters(compiled: Any) -> list[int]:
    """The bits of each parameter of a kernel."""
    header = compiled.asm["ptx"].split(".entry")[1].split("{")[0]
    return [int(bits) for bits in re.findall(r"\.param \.[a-z](\d+)", header)]


def assert_as_by_triton(stub: Any, by_triton: list[Any], call: Callable[[], object]) -> None:
    """The first and the second call launch what Triton launches; the second does not ask it."""
    call()
    first = stub.last().function
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "_is_observed", lambda: True)
        stub.last(words=0)
        call()
        widths = parameters(by_triton[-1])
        stub.last(words=len(widths))
        call()
        expected = stub.last(words=len(widths))
    before = len(by_triton)
    call()
    found = stub.last()
    assert len(by_triton) == before
    assert first == found.function == expected.function
    if by_triton[-1].name != "scale_kernel":  # whose number of programs may be any
        assert found[1:4] == expected[1:4]
    masks = [2**bits - 1 for bits in widths]
    cut = [
        [number & mask for number, mask in zip(each.parameters, masks, strict=True)]
        for each in (found, expected)
    ]
    assert cut[0] == cut[1]


def shifted(tensor: Tensor, by: int = 1) -> Tensor:
    """The same values where addresses are not multiples of 16."""
    wide = torch.zeros(tensor.numel() + by, dtype=tensor.dtype)
    return wide[by:].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_alignment(dtype: torch.dtype, stub: Any, by_triton: list[Any]) -> None:
    """Tensors of the same shapes at other addresses: another kernel, the one of that alignment."""
    x, y = torch.zeros(4096, dtype=dtype), torch.zeros(4096, dtype=dtype)
    gradient, sums = torch.zeros_like(x), torch.zeros(4)
    functions = set()
    for tensors in (
        (x, y, gradient),
        (shifted(x), y, gradient),
        (x, shifted(y), gradient),
        (x, y, shifted(gradient)),
        (shifted(x), shifted(y), shifted(gradient)),
        (x, y, gradient),
    ):
        inputs, outputs = KernelInputs(*tensors[:2]), Outputs(gradient=tensors[2], sums=sums)
        assert_as_by_triton(
            stub, by_triton, lambda i=inputs, o=outputs: launch.launch_loss(SPEC, i, o)
        )
        functions.add(stub.last().function)
    assert len(functions) == 5
    assert len(launch._prepared) == 1


def test_every_kind_of_operand(stub: Any, by_triton: list[Any]) -> None:
    x = torch.zeros(64, 48)
    every = KernelInputs(
        x, x.long(), torch.ones(64, 1), torch.ones(48), torch.ones(x.shape, dtype=torch.bool)
    )
    spec = loss_spec(family.CROSS_ENTROPY, 0.1, -100.0)
    losses, gradient, sums = torch.zeros_like(x), torch.zeros_like(x), torch.zeros(2, 16)
    upstream, divisor, value = torch.ones(48), torch.tensor(3.0), torch.zeros(())
    every_call: list[Callable[[], object]] = [
        lambda: launch.launch_loss(spec, every, Outputs(losses=losses)),
        lambda: launch.launch_loss(
            spec, every, Outputs(gradient=gradient), denominator=divisor, upstream=upstream
        ),
        lambda: launch.launch_loss(
            SPEC, KernelInputs(x.T, x.T), Outputs(gradient=gradient, sums=sums), denominator=None
        ),
        lambda: launch.launch_loss(
            SPEC, KernelInputs(x[:, :-1], x[:, 1:]), Outputs(gradient=gradient), scale=0.25
        ),
        lambda: launch.launch_sum(sums, value, None, True, divisor),
        lambda: launch.launch_sum(sums, value, 7.0),
        lambda: launch.launch_sum(sums, value, divisor),
        lambda: launch.launch_scale(gradient, divisor),
        lambda: launch.launch_scale(gradient, divisor, divisor, ignores=True),
    ]
    for call in every_call:
        assert_as_by_triton(stub, by_triton, call)
    assert len(launch._prepared) == len(every_call)


def test_chunks_of_a_linear_layer(stub: Any, by_triton: list[Any]) -> None:
    """The first key differs from chunk to chunk: 0, 1 and a multiple of 16 have their kernels."""
    z = torch.zeros(16, 64)
    keys, gradient = torch.arange(0, 4096, 7), torch.zeros(z.shape, dtype=torch.bfloat16)
    sums = torch.zeros(4)
    starts = torch.zeros(8, dtype=torch.int64)
    for first_key in (0, 1, 1024, 1025, 2048):
        linear = LinearInputs(
            bias=torch.zeros(16, 1), keys=keys, tile_starts=starts, first_key=first_key
        )
        assert_as_by_triton(
            stub,
            by_triton,
            lambda linear=linear: launch.launch_loss(
                SPEC, KernelInputs(z, z), Outputs(gradient=gradient, sums=sums), linear
            ),
        )
    assert len(launch._prepared) == 1


def test_streams(stub: Any, by_triton: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    gradient, factor = torch.zeros(4096), torch.ones(())
    for stream in (0, 5, 7):
        monkeypatch.setattr(stub.driver, "stream", stream)
        launch.launch_scale(gradient, factor)
        assert stub.last().stream == stream
    assert len(by_triton) == 1


def test_a_backward_pass_launches_as_many_programs_as_run_at_once(
    stub: Any, by_triton: list[Any]
) -> None:
    """With 64 registers per thread, 8 programs on each of the 4 multiprocessors."""
    n = 2**20
    x, upstream = torch.zeros(n, dtype=torch.bfloat16, requires_grad=True), torch.ones(())
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.zeros(n, dtype=dtype, requires_grad=True)
        for _ in range(4):
            bce(x, torch.zeros(n), check_targets=False).backward(upstream)
            programs = stub.last().programs
        assert programs == 32
    x = torch.zeros(4096, requires_grad=True)
    for _ in range(4):
        bce(x, torch.zeros(4096), check_targets=False).backward(upstream)
    assert stub.last().programs == 2  # as many as there are tiles


def test_prepared_launches_keep_no_tensors(stub: Any) -> None:
    kept = []
    for _ in range(4):
        x, y = torch.zeros(4096, requires_grad=True), torch.zeros(4096)
        bce(x, y, check_targets=False).backward()
        assert x.grad is not None
        kept += [weakref.ref(t) for t in (x, y, x.grad)]
        del x, y
    gc.collect()
    assert [each() for each in kept] == [None] * len(kept)


def test_a_profiler_of_triton_sees_every_launch(stub: Any) -> None:
    seen: list[Any] = []
    gradient, factor = torch.zeros(4096), torch.ones(())
    hooks = triton.knobs.runtime.launch_enter_hook
    launch.launch_scale(gradient, factor)
    hooks.add(seen.append)
    try:
        for _ in range(3):
            launch.launch_scale(gradient, factor)
    finally:
        hooks.remove(seen.append)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("size", "options", "most"),
    [
        (1000, {}, 120),
        (10_000, {}, 140),
        (10_000, {"pos_weight": torch.tensor(2.0)}, 295),
        (10_000, {"mask": torch.ones(10_000, dtype=torch.bool)}, 295),
    ],
    ids=["one tile", "two launches", "pos_weight", "mask"],
)
def test_function_calls_per_step(
    size: int, options: dict[str, Tensor], most: int, stub: Any, by_triton: list[Any]
) -> None:
    """Host time, which cannot be tested on a busy machine: a call takes about half a microsecond.

    Launched by Triton, a step of two launches took 660.
    """
    x, y, upstream = torch.zeros(size, requires_grad=True), torch.zeros(size), torch.tensor(2.0)

    def step() -> None:
        bce(x, y, check_targets=False, **options).backward(upstream)

    for _ in range(5):
        step()
    by_triton.clear()
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    assert not by_triton
    assert count <= most, count
