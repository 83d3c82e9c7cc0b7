"""The kernels for a GPU, compiled ahead where there is none: what their instructions are.

Nothing runs. Triton's compiler and its ptxas say what a launch would have run: whether registers
suffice, how wide an access is, which instructions round differently from the formula.
"""

import contextlib
import functools
import io
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch

from torchbce import reference
from torchbce.kernels.elements import Elements, Program, program

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is set: Triton compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402 - Triton may be missing

from torchbce.kernels import cuda_launch, cuda_math  # noqa: E402

pytestmark = pytest.mark.slow

LOSSES: dict[str, tuple[Callable[..., Any], tuple[float | None, ...]]] = {
    "cross-entropy": (reference.logits_parts, ()),
    "focal": (reference.focal_parts, (0.25, 2.0)),
    "asymmetric": (reference.asymmetric_parts, (1.0, 4.0, 0.05)),
    "poly": (reference.poly_parts, (1.0, 2.0, 0.25)),
    "probability": (reference.probability_parts, (1e-4,)),
    "log-probability": (reference.log_probability_parts, ()),
}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
EACH = [(loss, dtype) for loss in LOSSES for dtype in ("float32", "bfloat16")]
EACH += [("cross-entropy", "float16"), ("cross-entropy", "float64")]
KERNELS = ("visit", "conclude", "times")
ROWS, COLUMNS = 512, 256
THREADS = 128
#: Rounded otherwise than the formulas say; the error of a reciprocal root is mended there.
INEXACT = re.compile(r"\b(?:(?:div|sqrt|sin|cos|tanh)\.approx|rcp\.approx\S*f32)\S*")


class Driver:
    """As much of a GPU as Triton's compiler asks for."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> str:
        # The key of what a kernel keeps compiled, which no true device has.
        return f"sm_{self.arch}, ahead"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Kernel:
    """In place of a kernel of `cuda_launch`: it keeps what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.launches: list[functools.partial[Any]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            warm_up = functools.partial(self.kernel.warmup, *arguments, grid=grid, **options)
            self.launches.append(warm_up)

        return launch


class Compiled(NamedTuple):
    """What the compilers made of a launch: PTX, and what ptxas says of the machine's code."""

    ptx: str
    log: str
    options: dict[str, Any]

    def widths(self, which: str) -> list[int]:
        """The bytes of each access of global memory by a thread, "ld" or "st"."""
        accesses = re.findall(rf"\b{which}\.global\S*", self.ptx)
        shapes = [re.search(r"(?:\.v(\d))?\.[a-z](\d+)$", access) for access in accesses]
        return [int(shape[1] or 1) * int(shape[2]) // 8 for shape in shapes if shape]


Compiler = Callable[..., Compiled]


@pytest.fixture(params=[80, 90], ids="sm_{}".format)
def arch(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def compiled(arch: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Compiler]:
    """A function that compiles the one launch of a kernel that a call of `cuda_launch` comes to."""
    driver = Driver(arch)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    monkeypatch.setenv("TRITON_DUMP_PTXAS_LOG", "1")

    kernels = {name: Kernel(getattr(cuda_launch, name)) for name in KERNELS}
    for name, kernel in kernels.items():
        monkeypatch.setattr(cuda_launch, name, kernel)

    def compile_one(call: Callable[[], object], kernel: str = "visit") -> Compiled:
        call()
        (warm_up,) = kernels[kernel].launches
        with contextlib.redirect_stdout(io.StringIO()) as log:
            made = warm_up()
        return Compiled(made.asm["ptx"], log.getvalue(), warm_up.keywords)

    with mock.patch.dict(vars(triton.runtime.driver)):
        triton.runtime.driver.set_active(driver)
        yield compile_one
    for kernel in kernels.values():
        kernel.kernel.device_caches.pop(driver.get_current_device(), None)


def asked(loss: str, smoothing: float = 0.0, ignore_index: float | None = None) -> Program:
    parts, own = LOSSES[loss]
    return program(parts, own, smoothing, ignore_index)


def check(made: Compiled) -> None:
    """What holds for every kernel."""
    sizes = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", made.log)
    assert {name: int(size) for size, name in sizes} == {
        "stack frame": 0,
        "spill stores": 0,
        "spill loads": 0,
    }
    # Floats added up in the order of their arrival would not repeat.
    assert re.findall(r"\b(?:atom|red)\.\S+", made.ptx) == []
    assert INEXACT.findall(made.ptx) == []
    # Of 2 units: coordinates take one for a dimension that ends within a tile, and what is rounded
    # to 16 bits two for each lane, but for what begins with a sigmoid alone.
    allowed = sum(made.options.get("NEAR", ()))
    if not made.options.get("EXACT", True) and made.options["LOSS"] > cuda_math.POLY.value:
        allowed += 2 * made.options["BLOCK"] // THREADS
    divisions = re.findall(r"\bdiv\.full\S*", made.ptx)
    assert len(divisions) <= (1 if made.options.get("EVEN") else 2) * allowed
    assert made.options["enable_fp_fusion"] is False
    if made.options.get("EXACT"):
        assert re.findall(r"\b(?:ex2|lg2)\.approx\S*", made.ptx) == []


def check_places(made: Compiled) -> None:
    """From a program's number on, places are computed in 64 bits."""
    (program,) = re.findall(r"mov\.u32\s+(%r\d+), %ctaid\.x;", made.ptx)
    uses = re.findall(rf"^\s*(\S+)\s.*,\s*{program}\b", made.ptx, re.MULTILINE)
    assert uses
    assert [use for use in uses if not re.match(r"cvt\.u64|mul\.wide|mad\.wide", use)] == []


def value_and_gradient(program: Program, elements: Elements) -> None:
    gradient = cuda_launch.memory(elements)
    cuda_launch.value_and_gradient(program, elements, gradient, number=3.0)


@pytest.mark.parametrize(("loss", "dtype"), EACH)
def test_a_pass_over_flat_tensors(loss: str, dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS * COLUMNS, dtype=DTYPES[dtype])
    made = compiled(lambda: value_and_gradient(asked(loss), Elements(x, x.clone())))
    check(made)
    check_places(made)
    times = made.options["BLOCK"] // THREADS * x.itemsize // 16
    assert made.widths("ld") == [16] * 2 * times
    *gradient, _the_sum = made.widths("st")
    assert gradient == [16] * times


@pytest.mark.parametrize(
    ("arch", "loss", "dtype"),
    # Of the older architecture those alone that hold the most elements in their registers.
    [(90, *each) for each in EACH] + [(80, *each) for each in EACH if each[1] != "float32"],
    indirect=["arch"],
    ids=lambda part: f"sm_{part}" if isinstance(part, int) else part,
)
def test_a_gradient_with_every_option(loss: str, dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS, COLUMNS, dtype=DTYPES[dtype])
    elements = Elements(
        input=x,
        target=x.clone(),
        weight=torch.ones(ROWS, 1),
        pos_weight=torch.ones(COLUMNS),
        mask=torch.ones(x.shape, dtype=torch.bool),
    )
    made = compiled(
        lambda: cuda_launch.launch(
            asked(loss, smoothing=0.1, ignore_index=-100.0),
            elements,
            gradient=cuda_launch.memory(elements),
            upstream=x.clone(),
        )
    )
    check(made)
    check_places(made)
    assert set(made.widths("st")) == {16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_odd_number_of_elements(dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS * COLUMNS - 1, dtype=DTYPES[dtype])
    made = compiled(lambda: value_and_gradient(asked("cross-entropy"), Elements(x, x.clone())))
    check(made)
    check_places(made)
    # All tiles but the last move 16 bytes at a time, which the last moves one by one.
    each, widths = made.options["BLOCK"] // THREADS, made.widths("ld")
    assert widths.count(16) == 2 * each * x.itemsize // 16
    assert widths.count(x.itemsize) == 2 * each
    assert made.widths("st").count(16) == each * x.itemsize // 16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_slice(dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS, COLUMNS, dtype=DTYPES[dtype])[:, :-1]
    elements = Elements(x, torch.zeros(x.shape, dtype=x.dtype))
    made = compiled(lambda: value_and_gradient(asked("cross-entropy"), elements))
    check(made)
    check_places(made)


@pytest.mark.parametrize("arch", [80], indirect=True, ids="sm_{}".format)
@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
def test_an_odd_number_with_every_option(loss: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS - 1, COLUMNS - 1)
    positions = torch.arange(0, x.numel(), 7)
    weight, channels = torch.ones(len(x), 1), torch.ones(COLUMNS - 1)
    mask = torch.ones(x.shape, dtype=torch.bool)
    values = torch.ones(len(positions))
    elements = Elements(x, values, weight, channels, mask, positions)
    asks = asked(loss, smoothing=0.1, ignore_index=math.nan)
    upstream = torch.ones(x.shape[1])
    gradient = torch.zeros_like(x)
    made = compiled(
        lambda: cuda_launch.launch(asks, elements, gradient=gradient, upstream=upstream)
    )
    check(made)
    check_places(made)


@pytest.mark.parametrize("shape", [(4, 6, 30, 50), (2, 3, 4, 5, 70)], ids=str)
def test_many_dimensions(shape: tuple[int, ...], compiled: Compiler) -> None:
    x = torch.zeros(shape)
    y = torch.zeros(shape).transpose(1, -1).contiguous().transpose(1, -1)
    channels = torch.ones(shape[1], *(1 for _ in shape[2:]))
    others = torch.ones(shape[0], 1, *shape[2:])
    made = compiled(
        lambda: value_and_gradient(asked("cross-entropy"), Elements(x, y, others, channels))
    )
    check(made)
    check_places(made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sparse_target(dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS, COLUMNS, dtype=DTYPES[dtype])
    positions = torch.arange(0, x.numel(), 7)
    elements = Elements(x, torch.ones(len(positions)), positions=positions)
    made = compiled(lambda: value_and_gradient(asked("cross-entropy"), elements))
    check(made)
    check_places(made)


@pytest.mark.parametrize("values", [False, True], ids=["ones", "values"])
def test_the_logits_of_a_linear_layer(values: bool, compiled: Compiler) -> None:
    z = torch.zeros(ROWS, COLUMNS)  # of labels and rows
    gradient = torch.zeros(z.shape, dtype=torch.bfloat16)
    keys = torch.arange(0, z.numel(), 7)
    more = cuda_launch.More(
        bias=torch.zeros(ROWS, 1),
        weight=torch.ones(COLUMNS),
        keys=keys,
        values=torch.ones(len(keys)) if values else None,
        ignored=torch.arange(0, z.numel(), 11),
        first=z.numel(),
    )
    sums = torch.zeros(2, 10**4)
    elements = Elements(z, z, weight=torch.ones(ROWS, 1), pos_weight=torch.ones(ROWS, 1))
    made = compiled(
        lambda: cuda_launch.launch(
            asked("cross-entropy"),
            elements,
            gradient=gradient,
            sums=sums,
            by=cuda_launch.BY_WEIGHTS,
            more=more,
        )
    )
    check(made)
    check_places(made)


@pytest.mark.parametrize("by", [cuda_launch.BY_NUMBER, cuda_launch.BY_WEIGHTS])
def test_the_sums(by: int, compiled: Compiler) -> None:
    sums = torch.zeros((1 if by == cuda_launch.BY_NUMBER else 2, 10**4))
    value, divisor = torch.zeros(()), torch.ones(())
    made = compiled(lambda: cuda_launch.add_up(sums, value, divisor, by=by), kernel="conclude")
    check(made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_times_a_number(dtype: str, compiled: Compiler) -> None:
    gradient, factor = torch.zeros(ROWS * COLUMNS, dtype=DTYPES[dtype]), torch.ones(())
    made = compiled(lambda: cuda_launch.multiply(gradient, factor), kernel="times")
    check(made)
    check_places(made)
    each = made.options["BLOCK"] // THREADS * gradient.itemsize // 16
    assert made.widths("ld") == [4, *[16] * each]
    assert made.widths("st") == [16] * each
