"""The CPU kernels against PyTorch, eager and compiled: time, first call, memory, error.

    python benchmarks/kernels.py [time] [small] [calls] [first] [memory] [error] [report] [--quick]

All parts measure binary cross-entropy of logits with the reduction "mean". Times are medians over
rounds in which every contender runs once; the gradient is that of `torch.autograd.grad`.

time: forward alone and forward + backward of 2^5 to 2^24 elements, for four pairs of dtypes.
    PyTorch does not take bool targets: they are converted to the dtype of the logits.
    "Memory traffic alone" reads what a pass reads and writes what it writes into memory that is
    allocated already. `torch.compile` compiles for each size.
small: the same for float32 and every power of two from 2^5 to 2^12, against eager PyTorch, with
    many more samples.
calls: calls of Python and built-in functions in one step.
first: the first call of a new process, with and without compiled kernels on disk.
memory: the peak above the inputs, for 2^24 elements, in a process per contender.
error: the largest relative errors of loss and gradient over the logits of float32.

Run it on an idle machine: threads wait for each other, also those of PyTorch at 32 elements, so
other programs slow the contenders down by different factors.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import kernels_report
from common import memory
from common.command import Options, main
from common.machine import machine
from common.processes import in_process
from common.timing import Rounds, interleaved_medians
from kernels_passes import PASSES, Loss, eager, inputs, named, one_pass, traffic
from torchbce.functional import binary_cross_entropy_with_logits as ours

DTYPES = (
    (torch.float32, torch.float32),
    (torch.float32, torch.bool),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.bool),
)
#: Elements of the step whose calls are counted.
STEP = 32


class Sizes(NamedTuple):
    """Powers of two of the numbers of elements, rounds, and repetitions."""

    powers: tuple[int, ...] = (5, 8, 10, 12, 16, 20, 24)
    small_powers: tuple[int, ...] = tuple(range(5, 13))
    memory_power: int = 24
    rounds: Rounds = Rounds(fewest=9, most=21, seconds=1.5)
    sample_seconds: float = 0.01
    small_rounds: Rounds = Rounds(fewest=201, most=201, seconds=0.0)
    small_sample_seconds: float = 0.005
    steps: int = 3000
    processes: int = 5
    #: Logits in each unit of the axis whose largest error is kept.
    logits_per_unit: int = 64


QUICK = Sizes(
    powers=(5, 10),
    small_powers=(5, 12),
    memory_power=16,
    rounds=Rounds(3, 3, 0.0),
    sample_seconds=0.001,
    small_rounds=Rounds(5, 5, 0.0),
    small_sample_seconds=0.0005,
    steps=10,
    processes=1,
    logits_per_unit=2,
)


def sizes(options: Options) -> Sizes:
    return QUICK if options.quick else Sizes()


def microseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value * 1e6, 2) for name, value in seconds.items()}


def measure_time(options: Options) -> dict[str, Any]:
    wanted = sizes(options)
    rows = []
    for dtype, target in DTYPES:
        for power in wanted.powers:
            x, y = inputs(2**power, dtype, target)
            torch._dynamo.reset()  # it stops compiling after some sizes
            losses: dict[str, Loss] = {
                "torchbce": ours,
                "PyTorch": eager,
                "compiled": torch.compile(eager, dynamic=False),
            }
            for passes in PASSES:
                calls = {name: one_pass(loss, passes, x, y) for name, loss in losses.items()}
                calls["memory"] = traffic(passes, x, y)
                seconds = interleaved_medians(calls, wanted.rounds, wanted.sample_seconds)
                row = {
                    "input": named(dtype),
                    "target": named(target),
                    "n": 2**power,
                    "what": passes,
                    "microseconds": microseconds(seconds),
                }
                rows.append(row)
                print(row, flush=True)
    return {"machine": machine(), "rows": rows}


def measure_small(options: Options) -> dict[str, Any]:
    wanted = sizes(options)
    losses: dict[str, Loss] = {"torchbce": ours, "PyTorch": F.binary_cross_entropy_with_logits}
    rows = []
    for power in wanted.small_powers:
        x, y = inputs(2**power, torch.float32, torch.float32)
        for passes in PASSES:
            calls = {name: one_pass(loss, passes, x, y) for name, loss in losses.items()}
            seconds = interleaved_medians(calls, wanted.small_rounds, wanted.small_sample_seconds)
            rows.append({"n": 2**power, "what": passes, "microseconds": microseconds(seconds)})
            print(rows[-1], flush=True)
    return {"machine": machine(), "rows": rows}


def measure_calls(options: Options) -> dict[str, Any]:
    steps = sizes(options).steps
    found = {
        "torchbce": calls_per_step(ours, steps),
        "PyTorch": calls_per_step(F.binary_cross_entropy_with_logits, steps),
    }
    return {"elements": STEP, "steps": steps, "calls": found}


def calls_per_step(loss: Loss, steps: int) -> dict[str, float]:
    """Calls of Python functions and of built-in functions in one forward and backward pass."""
    x, y = inputs(STEP, torch.float32, torch.float32)
    x.requires_grad_()

    def step() -> None:
        x.grad = None
        loss(x, y).backward()  # type: ignore[no-untyped-call]

    for _ in range(10):
        step()
    counts = {"call": 0, "c_call": 0}

    def profile(frame: object, event: str, argument: object) -> None:
        if event in counts:
            counts[event] += 1

    sys.setprofile(profile)
    for _ in range(steps):
        step()
    sys.setprofile(None)
    # Without the calls of `step` and the last one of `setprofile`.
    return {
        "python": round(counts["call"] / steps - 1, 2),
        "built_in": round((counts["c_call"] - 1) / steps, 2),
    }


FIRST_CALL = """
import time, torch
x, y = torch.zeros(8, requires_grad=True), torch.ones(8)
import torchbce
start = time.perf_counter()
torchbce.BCEWithLogitsLoss()(x, y).backward()
print(time.perf_counter() - start)
"""


def first_call(cache: str) -> float:
    """Seconds of the first call of a new process."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure_first(options: Options) -> dict[str, float]:
    cold, warm = [], []
    for _ in range(sizes(options).processes):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_call(cache))
            warm.append(first_call(cache))
    return {"cold": statistics.median(cold), "warm": statistics.median(warm)}


def measure_memory(options: Options) -> list[dict[str, Any]]:
    power = sizes(options).memory_power
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for passes in PASSES:
            rows.append(
                {
                    "input": named(dtype),
                    "what": passes,
                    "gradient": 2**power * dtype.itemsize,
                    "peak": {
                        name: in_process(peak_of_pass, name, named(dtype), passes, power)
                        for name in ("torchbce", "PyTorch", "compiled")
                    },
                }
            )
            print(rows[-1], flush=True)
    return rows


def peak_of_pass(name: str, dtype_name: str, passes: str, power: int) -> int:
    """Bytes at the peak of a pass above those of its inputs; to be called in its own process."""
    losses: dict[str, Loss] = {
        "torchbce": ours,
        "PyTorch": eager,
        "compiled": torch.compile(eager),
    }
    dtype = getattr(torch, dtype_name)

    def peak_above_inputs(n: int) -> int:
        call = one_pass(losses[name], passes, *inputs(n, dtype, dtype))
        before = memory.reset_peak()
        call()
        return memory.peak() - before

    for _ in range(2):
        peak_above_inputs(2**16)  # what the first calls load and keep
    return peak_above_inputs(2**power)


def measure_error(options: Options) -> dict[str, Any]:
    """The largest relative errors in each unit of the logit, against float64."""
    first, last, per_unit = -105, 105, sizes(options).logits_per_unit
    x = first + torch.arange((last - first) * per_unit) / per_unit
    losses: dict[str, Any] = {"PyTorch": F.binary_cross_entropy_with_logits, "torchbce": ours}
    rows = []
    for target in (0, 1):
        y, margin = torch.full_like(x, target), (1 - 2 * target) * x.double()
        # -log sigma(-z) and its derivative for y = 0; for y = 1 those of -z, but for the sign.
        true = {"loss": F.softplus(margin, threshold=1000), "gradient": torch.sigmoid(margin)}
        for name, loss in losses.items():
            z = x.clone().requires_grad_()
            losses_of_z = loss(z, y, reduction="none")
            (gradient,) = torch.autograd.grad(losses_of_z.sum(), z)
            values = {"loss": losses_of_z.detach(), "gradient": gradient * (1 - 2 * target)}
            for what, value in values.items():
                error = (value.double() - true[what]).abs() / true[what]
                largest = error.reshape(-1, per_unit).amax(1)
                rows.append(
                    {
                        "target": target,
                        "contender": name,
                        "what": what,
                        "errors": [float(f"{e:.2e}") for e in largest.tolist()],
                    }
                )
    return {"first_logit": first, "rows": rows}


PARTS = {
    "time": measure_time,
    "small": measure_small,
    "calls": measure_calls,
    "first": measure_first,
    "memory": measure_memory,
    "error": measure_error,
}

if __name__ == "__main__":
    main(__doc__, PARTS, kernels_report.REPORT)
