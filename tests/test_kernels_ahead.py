"""The GPU's kernels, compiled without a GPU: registers, memory accesses, rounding.

Nothing runs. Triton's compiler and its ptxas show the code that a launch would run: whether the
registers suffice, how wide a memory access is, which instructions round differently from the
formula.
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

from torchbce.backends.request import KernelInputs, LossSpec, loss_spec
from torchbce.definition import family

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is set: Triton compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402 - Triton may be missing

from torchbce.backends.gpu import formulas, kernels, launch, operands, pairs  # noqa: E402
from torchbce.backends.gpu.operands import LinearInputs, Outputs  # noqa: E402

pytestmark = pytest.mark.slow

LOSSES = {
    "cross-entropy": family.CROSS_ENTROPY,
    "focal": family.loss("sigmoid_focal_loss", 0.25, 2.0),
    "asymmetric": family.loss("asymmetric_loss", 1.0, 4.0, 0.05),
    "poly": family.loss("poly_binary_cross_entropy", 1.0, 2.0, 0.25),
    "probability": family.loss("binary_cross_entropy", 1e-4),
    "log-probability": family.loss("binary_cross_entropy_with_log_probs"),
    "focal by p_t": family.loss("sigmoid_focal_loss", 0.25, 2.0, soft_targets="p_t"),
    "asymmetric by p_t": family.loss("asymmetric_loss", 1.0, 4.0, 0.05, soft_targets="p_t"),
    "poly by p_t": family.loss("poly_binary_cross_entropy", 1.0, 2.0, 0.25, soft_targets="p_t"),
}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
EACH = [(loss, dtype) for loss in LOSSES for dtype in ("float32", "bfloat16")]
EACH += [("cross-entropy", "float16"), ("cross-entropy", "float64")]
KERNELS = {
    "loss_kernel": kernels,
    "sum_kernel": kernels,
    "scale_kernel": kernels,
    "pairs_kernel": pairs,
}
ROWS, COLUMNS = 512, 256
THREADS = 128
#: Instructions that round differently from the formulas. The formulas correct the error of a
#: reciprocal square root themselves, so that it is not among them.
INEXACT = re.compile(r"\b(?:(?:div|sqrt|sin|cos|tanh)\.approx|rcp\.approx\S*f32)\S*")


class Driver:
    """What Triton's compiler asks a GPU's driver."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> str:
        # The key under which compiled code is cached, different from that of every real device.
        return f"sm_{self.arch}, ahead"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Kernel:
    """Replaces a kernel: records the arguments of each launch instead of launching."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.launches: list[functools.partial[Any]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            warm_up = functools.partial(self.kernel.warmup, *arguments, grid=grid, **options)
            self.launches.append(warm_up)

        return launch


class Compiled(NamedTuple):
    """The code of one launch: its PTX, the log of ptxas, and the options it was compiled with."""

    ptx: str
    log: str
    options: dict[str, Any]

    @property
    def flags(self) -> operands.Flags:
        found = self.options["FLAGS"]
        assert isinstance(found, operands.Flags)
        return found

    def widths(self, instruction: str) -> list[int]:
        """The bytes of each access of global memory by a thread, "ld" or "st"."""
        accesses = re.findall(rf"\b{instruction}\.global\S*", self.ptx)
        shapes = [re.search(r"(?:\.v(\d))?\.[a-z](\d+)$", access) for access in accesses]
        return [int(shape[1] or 1) * int(shape[2]) // 8 for shape in shapes if shape]


Compiler = Callable[..., Compiled]


@pytest.fixture(params=[80, 90], ids="sm_{}".format)
def arch(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def compiled(arch: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Compiler]:
    """A function that compiles the launch of one kernel that a call leads to."""
    driver = Driver(arch)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    monkeypatch.setenv("TRITON_DUMP_PTXAS_LOG", "1")

    recorded = {name: Kernel(getattr(module, name)) for name, module in KERNELS.items()}
    for name, kernel in recorded.items():
        monkeypatch.setattr(KERNELS[name], name, kernel)

    def compile_one(call: Callable[[], object], kernel: str = "loss_kernel") -> Compiled:
        call()
        (warm_up,) = recorded[kernel].launches
        with contextlib.redirect_stdout(io.StringIO()) as log:
            made = warm_up()
        return Compiled(made.asm["ptx"], log.getvalue(), warm_up.keywords)

    with mock.patch.dict(vars(triton.runtime.driver)):
        triton.runtime.driver.set_active(driver)
        yield compile_one
    for kernel in recorded.values():
        kernel.kernel.device_caches.pop(driver.get_current_device(), None)


def spec(loss: str, smoothing: float = 0.0, ignore_index: float | None = None) -> LossSpec:
    return loss_spec(LOSSES[loss], smoothing, ignore_index)


def check(made: Compiled, frame: int = 0, spilled: int = 0) -> None:
    """No atomic additions, no instructions of low accuracy, and no spilled registers.

    Args:
        made: the compiled kernel.
        frame: its stack frame may have so many bytes.
        spilled: so many bytes of registers may be spilled.
    """
    sizes = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", made.log)
    found = {name: int(size) for size, name in sizes}
    assert found.keys() == {"stack frame", "spill stores", "spill loads"}
    assert found.pop("stack frame") <= max(frame, spilled)
    assert max(found.values()) <= spilled
    # Atomic additions of floats depend on the order in which programs finish.
    assert re.findall(r"\b(?:atom|red)\.\S+", made.ptx) == []
    assert INEXACT.findall(made.ptx) == []
    # A division with an error of 2 units is used for a coordinate of each dimension that is shorter
    # than a tile. Losses of 16 bits have two per lane, except for those that begin with a sigmoid.
    # Numbers in two parts of float32 take none, and no arithmetic of float64 but for that of sums,
    # factors and constants.
    flags = made.options.get("FLAGS")
    allowed, copies_of_a_tile = 0, 1
    if flags is not None:
        allowed, copies_of_a_tile = sum(flags.short), 1 if flags.even else 2
        if not flags.exact and flags.loss > formulas.POLY.value:
            allowed += 2 * flags.block // THREADS
        if not flags.exact and flags.by_p_t:
            allowed += flags.block // THREADS
        if flags.exact:
            assert re.findall(r"\b(?:ex2|lg2)\.approx\S*", made.ptx) == []
    divisions = re.findall(r"\bdiv\.full\S*", made.ptx)
    assert len(divisions) <= copies_of_a_tile * allowed
    assert made.options["enable_fp_fusion"] is False


def check_offsets(made: Compiled) -> None:
    """Offsets are computed in 64 bits, beginning with the program's number."""
    (program,) = re.findall(r"mov\.u32\s+(%r\d+), %ctaid\.x;", made.ptx)
    uses = re.findall(rf"^\s*(\S+)\s.*,\s*{program}\b", made.ptx, re.MULTILINE)
    assert uses
    assert [use for use in uses if not re.match(r"cvt\.u64|mul\.wide|mad\.wide", use)] == []


def value_and_gradient(spec: LossSpec, inputs: KernelInputs) -> None:
    gradient = launch.new_output(inputs)
    launch.value_and_gradient(spec, inputs, gradient, denominator=3.0)


@pytest.mark.parametrize(("loss", "dtype"), EACH)
def test_contiguous_operands(loss: str, dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS * COLUMNS, dtype=DTYPES[dtype])
    made = compiled(lambda: value_and_gradient(spec(loss), KernelInputs(x, x.clone())))
    # With Triton 3.7 cross-entropy in float64 has one double on the stack, which is not spilled.
    check(made, frame=8 if (loss, dtype) == ("cross-entropy", "float64") else 0)
    check_offsets(made)
    accesses = made.flags.block // THREADS * x.itemsize // 16
    assert made.widths("ld") == [16] * 2 * accesses
    *gradient, _the_sum = made.widths("st")
    assert gradient == [16] * accesses


@pytest.mark.parametrize(
    ("arch", "loss", "dtype"),
    # On the older architecture, only those that hold the most elements in their registers.
    [(90, *each) for each in EACH] + [(80, *each) for each in EACH if each[1] != "float32"],
    indirect=["arch"],
    ids=lambda part: f"sm_{part}" if isinstance(part, int) else part,
)
def test_a_gradient_with_every_option(loss: str, dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS, COLUMNS, dtype=DTYPES[dtype])
    inputs = KernelInputs(
        input=x,
        target=x.clone(),
        weight=torch.ones(ROWS, 1),
        pos_weight=torch.ones(COLUMNS),
        mask=torch.ones(x.shape, dtype=torch.bool),
    )
    made = compiled(
        lambda: launch.launch_loss(
            spec(loss, smoothing=0.1, ignore_index=-100.0),
            inputs,
            Outputs(gradient=launch.new_output(inputs)),
            upstream=x.clone(),
        )
    )
    check(made)
    check_offsets(made)
    assert set(made.widths("st")) == {16}


@pytest.mark.parametrize("loss", [name for name in LOSSES if LOSSES[name].focus is not None])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_constants_per_column(loss: str, dtype: str, compiled: Compiler) -> None:
    x, column = torch.zeros(ROWS, COLUMNS, dtype=DTYPES[dtype]), torch.ones(COLUMNS).double()
    inputs = KernelInputs(x, x.clone(), None, None, None, None, *(5 * [column]))
    made = compiled(lambda: value_and_gradient(spec(loss), inputs))
    # With Triton 3.6 two registers of asymmetric in bfloat16 by p_t are spilled, with 3.7 none.
    check(made, spilled=8 if (loss, dtype) == ("asymmetric by p_t", "bfloat16") else 0)
    check_offsets(made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_odd_number_of_elements(dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS * COLUMNS - 1, dtype=DTYPES[dtype])
    made = compiled(lambda: value_and_gradient(spec("cross-entropy"), KernelInputs(x, x.clone())))
    check(made)
    check_offsets(made)
    # Complete tiles are accessed 16 bytes at a time, the last one element by element.
    each, widths = made.flags.block // THREADS, made.widths("ld")
    assert widths.count(16) == 2 * each * x.itemsize // 16
    assert widths.count(x.itemsize) == 2 * each
    assert made.widths("st").count(16) == each * x.itemsize // 16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_strided_input(dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS, COLUMNS, dtype=DTYPES[dtype])[:, :-1]
    inputs = KernelInputs(x, torch.zeros(x.shape, dtype=x.dtype))
    made = compiled(lambda: value_and_gradient(spec("cross-entropy"), inputs))
    check(made)
    check_offsets(made)


@pytest.mark.parametrize("arch", [80], indirect=True, ids="sm_{}".format)
@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
def test_an_odd_number_of_elements_with_every_option(loss: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS - 1, COLUMNS - 1)
    positions = torch.arange(0, x.numel(), 7)
    weight, channels = torch.ones(len(x), 1), torch.ones(COLUMNS - 1)
    mask = torch.ones(x.shape, dtype=torch.bool)
    values = torch.ones(len(positions))
    inputs = KernelInputs(x, values, weight, channels, mask, positions)
    every_option = spec(loss, smoothing=0.1, ignore_index=math.nan)
    upstream = torch.ones(x.shape[1])
    outputs = Outputs(gradient=torch.zeros_like(x))
    made = compiled(lambda: launch.launch_loss(every_option, inputs, outputs, upstream=upstream))
    check(made)
    check_offsets(made)


@pytest.mark.parametrize("shape", [(4, 6, 30, 50), (2, 3, 4, 5, 70)], ids=str)
def test_many_dimensions(shape: tuple[int, ...], compiled: Compiler) -> None:
    x = torch.zeros(shape)
    y = torch.zeros(shape).transpose(1, -1).contiguous().transpose(1, -1)
    channels = torch.ones(shape[1], *(1 for _ in shape[2:]))
    weight = torch.ones(shape[0], 1, *shape[2:])
    made = compiled(
        lambda: value_and_gradient(spec("cross-entropy"), KernelInputs(x, y, weight, channels))
    )
    check(made)
    check_offsets(made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sparse_target(dtype: str, compiled: Compiler) -> None:
    x = torch.zeros(ROWS, COLUMNS, dtype=DTYPES[dtype])
    positions = torch.arange(0, x.numel(), 7)
    inputs = KernelInputs(x, torch.ones(len(positions)), positions=positions)
    made = compiled(lambda: value_and_gradient(spec("cross-entropy"), inputs))
    check(made)
    check_offsets(made)


@pytest.mark.parametrize("values", [False, True], ids=["ones", "values"])
def test_the_logits_of_a_linear_layer(values: bool, compiled: Compiler) -> None:
    z = torch.zeros(ROWS, COLUMNS)  # [labels, rows]
    gradient = torch.zeros(z.shape, dtype=torch.bfloat16)
    keys = torch.arange(0, z.numel(), 7)
    linear = LinearInputs(
        bias=torch.zeros(ROWS, 1),
        weight=torch.ones(COLUMNS),
        keys=keys,
        values=torch.ones(len(keys)) if values else None,
        ignored=torch.arange(0, z.numel(), 11),
        first_key=z.numel(),
    )
    sums = torch.zeros(2, 10**4)
    inputs = KernelInputs(z, z, weight=torch.ones(ROWS, 1), pos_weight=torch.ones(ROWS, 1))
    made = compiled(
        lambda: launch.launch_loss(
            spec("cross-entropy"),
            inputs,
            Outputs(gradient=gradient, sums=sums),
            linear,
            denominator=None,
            weighted=True,
        )
    )
    check(made)
    check_offsets(made)


@pytest.mark.parametrize("denominator", [1.0, None], ids=["number", "sum of weights"])
def test_partial_sums(denominator: float | None, compiled: Compiler) -> None:
    sums = torch.zeros((2 if denominator is None else 1, 10**4))
    value, computed = torch.zeros(()), torch.ones(())
    made = compiled(
        lambda: launch.launch_sum(sums, value, denominator, weighted=True, computed=computed),
        kernel="sum_kernel",
    )
    check(made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_times_a_number(dtype: str, compiled: Compiler) -> None:
    gradient, factor = torch.zeros(ROWS * COLUMNS, dtype=DTYPES[dtype]), torch.ones(())
    made = compiled(lambda: launch.launch_scale(gradient, factor), kernel="scale_kernel")
    check(made)
    check_offsets(made)
    each = made.options["BLOCK"] // THREADS * gradient.itemsize // 16
    assert made.widths("ld") == [4, *[16] * each]
    assert made.widths("st") == [16] * each


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_losses_take_no_float64_per_element(loss: str, compiled: Compiler) -> None:
    """Many GPUs compute float64 at 1/64 of the rate of float32."""
    x = torch.zeros(ROWS * COLUMNS)
    made = compiled(lambda: value_and_gradient(spec(loss), KernelInputs(x, x.clone())))
    arithmetic = re.findall(r"\b(?:add|sub|mul|div|fma|rcp|neg)\.\S*f64\S*", made.ptx)
    # One division of the gradient's factor per program, with its approximation and corrections.
    assert len(arithmetic) < made.flags.block // THREADS + 2


@pytest.mark.parametrize("partners", [0, 3], ids=["one", "several"])
@pytest.mark.parametrize("sloped", [False, True], ids=["value", "slopes"])
def test_pairs(partners: int, sloped: bool, compiled: Compiler) -> None:
    products = torch.zeros(COLUMNS, ROWS)
    positives = torch.zeros(ROWS, partners, dtype=torch.int64) if partners else None
    halves = torch.zeros(2, COLUMNS, ROWS, dtype=torch.bfloat16)
    sums = torch.zeros(3, pairs.count_programs(COLUMNS, ROWS))
    slopes = (halves[0], halves[1]) if sloped else None
    one = torch.ones(())
    made = compiled(
        lambda: pairs.launch_pairs(products, one, one, positives, slopes, sums, 0),
        kernel="pairs_kernel",
    )
    check(made)
    assert made.widths("st")
    assert ("bf16" in made.ptx) == sloped
