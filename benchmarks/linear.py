"""A linear layer with its loss, against PyTorch's logits and dense targets: time, memory, error.

    python benchmarks/linear.py [PART ...] [--quick]

PARTs: grid, reach, busy, error, million, topk, sparse, report.

Loss and gradients with respect to input, weight and bias, in float32, with 20 positives per row:
torchbce takes a list of them, PyTorch dense targets, and the time to make these is not included.
Times are medians over rounds in which every contender runs once, in a process per size. Memory is
the peak above the input, weight, bias and their gradients, in a process per size and contender; it
includes the targets.

grid: time and memory for 64 to 1,024 rows and 1,000 to 1,000,000 labels.
reach: time against the three matrix products without which there are no gradients.
busy: time alone, and beside processes that use the cores too.
error: against float64 with the same rounded inputs.
million: the memory of a million labels, also in training with a fused optimizer.
topk: the k largest logits of each row, against all logits and torch.topk.
sparse: sparse rows instead of hidden values, against SciPy and torch.sparse; see linear_sparse.py.

Run it on an idle machine: other programs slow both down, and not alike.
"""

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import linear_report
import linear_sparse
import torchbce
from common import memory
from common.command import Options, main
from common.machine import machine
from common.processes import RETURN_FREED_MEMORY, in_process
from common.timing import Call, Rounds, interleaved_medians, timed
from linear_heads import (
    Loss,
    Problem,
    dense,
    distinct_labels,
    eager,
    gradients,
    loss_of,
    ours,
    problem,
    target_of,
)

CONTENDERS = ("torchbce", "eager", "compiled")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: PyTorch is not run above this memory.
LIMIT_BYTES = 10 * 2**30
#: PyTorch is not compiled above this number of labels: it computes the same matrix products as
#: eager PyTorch, with fewer passes over the logits.
LIMIT_COMPILED = 131_072
ROUNDS = Rounds(fewest=3, most=101, seconds=5.0)
#: Enough for medians of times that depend on which process has a core.
BUSY_ROUNDS = Rounds(fewest=15, most=101, seconds=20.0)
#: How many processes use the cores beside the measured one.
BUSY_PROCESSES = (0, 2)
REACH_ROUNDS = Rounds(fewest=15, most=101, seconds=2.0)
TOPK_ROUNDS = Rounds(fewest=7, most=101, seconds=2.0)
#: Labels of a small problem, after which the libraries have allocated what they keep.
WARM_UP_LABELS = 4096
#: The upstream gradient in the errors: a loss scale, without which float16 gradients underflow.
LOSS_SCALE = 2.0**15
#: A process that uses a core, and ends when the one that started it has ended.
SPIN = "import os; p = os.getppid()\nwhile os.getppid() == p: sum(range(10**5))"
#: Steps of training whose time is measured.
STEPS = 3


class Sizes(NamedTuple):
    """B, D and L stand for rows, width and labels."""

    rows: tuple[int, ...] = (64, 256, 1024)
    widths: tuple[int, ...] = (128, 768)
    labels: tuple[int, ...] = (1_000, 10_000, 131_072, 1_000_000)
    #: B, D, L.
    reach: tuple[int, int, int] = (256, 256, 131_072)
    busy: tuple[int, int, int] = (256, 128, 46_391)
    error: tuple[int, int, int] = (252, 123, 5_071)
    seeds: int = 5
    #: D, L.
    million: tuple[int, int] = (256, 1_000_000)
    million_rows: tuple[int, ...] = (64, 1024)
    trained_rows: int = 256
    #: B, D, L, and for each k.
    topk: tuple[tuple[int, int, int], ...] = (
        (1, 256, 46_391),
        (8, 64, 1_000),
        (64, 128, 10_000),
        (256, 128, 4_000),
        (256, 256, 46_391),
        (64, 256, 1_000_000),
    )
    largest: tuple[int, ...] = (1, 5, 100, 1_000)


QUICK = Sizes(
    rows=(8,),
    widths=(16,),
    labels=(1_000,),
    reach=(16, 16, 1_000),
    busy=(16, 16, 1_000),
    error=(12, 13, 71),
    seeds=1,
    million=(16, 10_000),
    million_rows=(64,),
    trained_rows=8,
    topk=((4, 16, 500),),
    largest=(1, 5),
)


def sizes(options: Options) -> Sizes:
    return QUICK if options.quick else Sizes()


# ---------------------------------------------------------------------------------- grid and reach


def bytes_needed(rows: int, width: int, labels: int) -> int:
    """The least that PyTorch needs: targets, logits, their gradient, the weight, its gradient."""
    return 4 * (3 * rows * labels + 2 * width * labels)


def contenders(rows: int, width: int, labels: int) -> list[str]:
    if bytes_needed(rows, width, labels) > LIMIT_BYTES:
        return ["torchbce"]
    return [name for name in CONTENDERS if name != "compiled" or labels <= LIMIT_COMPILED]


def measure_grid(options: Options) -> dict[str, Any]:
    wanted = sizes(options)
    rows = []
    for b in wanted.rows:
        for d in wanted.widths:
            for n in wanted.labels:
                names = contenders(b, d, n)
                row = {
                    "rows": b,
                    "width": d,
                    "labels": n,
                    "fits": bytes_needed(b, d, n) <= LIMIT_BYTES,
                    "seconds": in_process(seconds_of_steps, names, b, d, n),
                    "extra": {name: extra_memory(name, b, d, n) for name in names},
                }
                rows.append(row)
                print(row, flush=True)
    limits = {"bytes": LIMIT_BYTES, "compiled_labels": LIMIT_COMPILED}
    return {
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "limits": limits,
        "rows": rows,
    }


def seconds_of_steps(names: list[str], rows: int, width: int, labels: int) -> dict[str, float]:
    p, small = problem(rows, width, labels), problem(rows, width, min(labels, WARM_UP_LABELS))
    calls: dict[str, Call] = {}
    for name in names:
        loss = loss_of(name)
        target = target_of(name, p.positives, labels)
        calls[name] = functools.partial(gradients, loss, p.head, target)
        if name == "compiled":  # for one size
            calls[name]()
        else:
            gradients(loss, small.head, target_of(name, small.positives, len(small.weight)))
    return interleaved_medians(calls, ROUNDS)


def extra_memory(name: str, rows: int, width: int, labels: int) -> int:
    """Bytes at the peak above inputs and gradients, measured in a process of its own."""
    sizes = rows, width, labels
    return int(in_process(peak_of_step, name, *sizes, environment=RETURN_FREED_MEMORY))


def peak_of_step(name: str, rows: int, width: int, labels: int) -> int:
    loss = loss_of(name)

    def step(p: Problem) -> int:
        before = memory.reset_peak()
        target = target_of(name, p.positives, len(p.weight))
        found = gradients(loss, p.head, target)
        return memory.peak() - before - sum(gradient.nbytes for gradient in found)

    # What is compiled is compiled for one size, so only that size warms it up.
    for size in [labels] if name == "compiled" else [min(labels, WARM_UP_LABELS)] * 2:
        step(problem(rows, width, size))
    # The next gradient would otherwise use the memory of the last one, and not raise the peak.
    torchbce.empty_cache()
    return step(problem(rows, width, labels))


def measure_reach(options: Options) -> dict[str, Any]:
    wanted = sizes(options).reach
    return {
        "sizes": wanted,
        "seconds": in_process(seconds_against_products, *wanted),
        "extra": extra_memory("torchbce", *wanted),
    }


def seconds_against_products(rows: int, width: int, labels: int) -> dict[str, float]:
    p = problem(rows, width, labels)
    x, w = p.input.detach(), p.weight.detach()
    z, d_x, d_w = torch.zeros(rows, labels), torch.zeros_like(x), torch.zeros_like(w)

    def products() -> None:
        torch.mm(x, w.T, out=z)
        torch.mm(z, w, out=d_x)
        torch.mm(z.T, x, out=d_w)

    calls: dict[str, Call] = {
        "torchbce": functools.partial(gradients, ours, p.head, p.positives),
        "products": products,
    }
    for call in calls.values():
        call()
    return interleaved_medians(calls, REACH_ROUNDS)


def measure_busy(options: Options) -> dict[str, Any]:
    wanted = sizes(options).busy
    load = os.getloadavg()[0]
    rows = []
    for processes in BUSY_PROCESSES:
        row = {"processes": processes, "seconds": in_process(seconds_beside, processes, *wanted)}
        rows.append(row)
        print(row, flush=True)
    return {"sizes": wanted, "machine": machine(), "load": load, "rows": rows}


def seconds_beside(processes: int, rows: int, width: int, labels: int) -> dict[str, float]:
    """Median seconds of a step beside processes that do nothing but use a core."""
    p = problem(rows, width, labels)
    targets = dense(p.positives, labels)
    calls: dict[str, Call] = {
        "lists": functools.partial(gradients, ours, p.head, p.positives),
        "dense": functools.partial(gradients, ours, p.head, targets),
        "eager": functools.partial(gradients, eager, p.head, targets),
    }
    for call in calls.values():
        call()
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        time.sleep(1.0 if processes else 0.0)  # until they have started
        return interleaved_medians(calls, BUSY_ROUNDS)
    finally:
        for other in others:
            other.kill()
        for other in others:
            other.wait()


# ------------------------------------------------------------------------------------------- error


def loss_and_gradients(loss: Loss, head: Sequence[Tensor], target: Tensor) -> list[Tensor]:
    """The loss and its gradients with respect to input, weight and bias, in float64."""
    x, w, b = (tensor.detach().requires_grad_() for tensor in head)
    value = loss(x, w, b, target)
    found = torch.autograd.grad(value, (x, w, b), torch.full_like(value, LOSS_SCALE))
    return [tensor.detach().double() for tensor in (value, *found)]


def relative_errors(found: Tensor, true: Tensor) -> dict[str, float]:
    """The largest error over the largest value, and the same of their root mean squares."""
    error = found - true
    return {
        "largest": float(error.abs().max() / true.abs().max()),
        "rms": float(error.square().mean().sqrt() / true.square().mean().sqrt()),
    }


def measure_error(options: Options) -> dict[str, Any]:
    wanted = sizes(options)
    rows = []
    for name, dtype in DTYPES.items():
        by_seed = [errors_of(problem(*wanted.error, seed=s), dtype) for s in range(wanted.seeds)]
        for of in by_seed[0]:
            row: dict[str, Any] = {"dtype": name, "of": of}
            for contender in ("torchbce", "eager"):
                row[contender] = {
                    kind: statistics.fmean(errors[of][contender][kind] for errors in by_seed)
                    for kind in ("largest", "rms")
                }
            rows.append(row)
            print(row, flush=True)
    return {"sizes": wanted.error, "seeds": wanted.seeds, "rows": rows}


def errors_of(p: Problem, dtype: torch.dtype) -> dict[str, dict[str, dict[str, float]]]:
    """Errors by loss or gradient, contender and kind."""
    head = [tensor.to(dtype) for tensor in p.head]
    target = dense(p.positives, len(p.weight), torch.float64)
    true = loss_and_gradients(eager, [tensor.double() for tensor in head], target)
    found = {
        "torchbce": loss_and_gradients(ours, head, p.positives),
        "eager": loss_and_gradients(eager, head, target.to(dtype)),
    }
    return {
        of: {name: relative_errors(values[i], true[i]) for name, values in found.items()}
        for i, of in enumerate(("loss", "input", "weight", "bias"))
    }


# ----------------------------------------------------------------------------------------- million


def measure_million(options: Options) -> dict[str, Any]:
    wanted = sizes(options)
    width, labels = wanted.million
    extra = []
    for rows in wanted.million_rows:
        fits = bytes_needed(rows, width, labels) <= LIMIT_BYTES
        row = {
            "rows": rows,
            "torchbce": extra_memory("torchbce", rows, width, labels),
            # Where it does not fit: target, logits and their gradient, which it needs at least.
            "dense": extra_memory("eager", rows, width, labels) if fits else 12 * rows * labels,
            "measured": fits,
        }
        extra.append(row)
        print(row, flush=True)
    trained = {}
    for optimizer in ("FusedSGD", "FusedRowwiseAdagrad"):
        in_process(train, optimizer, wanted.trained_rows, width, 1000)  # compiles the kernels
        trained[optimizer] = in_process(train, optimizer, wanted.trained_rows, width, labels)
        print(optimizer, trained[optimizer], flush=True)
    return {
        "sizes": wanted.million,
        "extra": extra,
        "bare": in_process(memory.peak_after_importing, "torch"),
        "trained_rows": wanted.trained_rows,
        "trained": trained,
    }


def train(optimizer: str, rows: int, width: int, labels: int) -> dict[str, float]:
    """The peak of a process that trains a head for some steps, and the median seconds of a step."""
    fused = {
        "FusedSGD": torchbce.FusedSGD,
        "FusedRowwiseAdagrad": torchbce.FusedRowwiseAdagrad,
    }[optimizer](lr=0.1)
    head = torchbce.LinearBCELoss(width, labels, fused_optimizer=fused)
    seconds = []
    for _ in range(STEPS):
        # The input requires a gradient, as it does after other layers.
        x = torch.randn(rows, width, requires_grad=True)
        positives = distinct_labels(rows, labels)
        _, taken = timed(functools.partial(one_step, head, x, positives))
        seconds.append(taken)
    return {"peak": memory.peak(), "seconds": statistics.median(seconds)}


def measure_sparse(options: Options) -> dict[str, Any]:
    return linear_sparse.measure(options.quick)


def one_step(head: torch.nn.Module, x: Tensor, positives: Tensor) -> None:
    """Gradients and, with a fused optimizer, the update of the parameters."""
    head(x, positives).backward()


# -------------------------------------------------------------------------------------------- topk


def measure_topk(options: Options) -> dict[str, Any]:
    wanted = sizes(options)
    load = os.getloadavg()[0]
    rows = []
    for b, d, n in wanted.topk:
        for k in wanted.largest:
            if k <= n:
                row = {"rows": b, "width": d, "labels": n, "k": k}
                row["seconds"] = in_process(seconds_of_topk, b, d, n, k)
                rows.append(row)
                print(row, flush=True)
    return {
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "load": load,
        "rows": rows,
    }


def seconds_of_topk(rows: int, width: int, labels: int, k: int) -> dict[str, float]:
    p = problem(rows, width, labels)
    head = torchbce.LinearBCELoss(width, labels)
    assert head.bias is not None
    with torch.no_grad():
        head.weight.copy_(p.weight)
        head.bias.copy_(p.bias)
        # The repeated rows of the weight would give equal logits.
        head.bias.add_(torch.rand(labels, generator=torch.Generator().manual_seed(1)))
    x, w, b = p.input.detach(), head.weight.detach(), head.bias.detach()
    calls: dict[str, Call] = {
        "torchbce": lambda: head.topk(x, k),
        "dense": lambda: torch.topk(torch.nn.functional.linear(x, w, b), k),
    }
    for call in calls.values():
        call()
    return interleaved_medians(calls, TOPK_ROUNDS, sample_seconds=0.005)


PARTS = {
    "grid": measure_grid,
    "reach": measure_reach,
    "busy": measure_busy,
    "error": measure_error,
    "million": measure_million,
    "topk": measure_topk,
    "sparse": measure_sparse,
}

if __name__ == "__main__":
    main(__doc__, PARTS, linear_report.REPORT)
