"""Host time of a loss on a GPU, forward and backward, without a GPU.

    python benchmarks/gpu_host.py

NVIDIA's driver is stubbed, see `common.stubbed_gpu`: its own part of a launch, 2 to 3 microseconds,
is not included, and tensors are allocated on the CPU.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import gpu_report
from common import markdown, results, stubbed_gpu
from torchbce import functional
from torchbce.backends import dispatch
from torchbce.backends.gpu import calls

SIZE = 10_000
WARM_UP, ROUNDS, CALLS = 50, 60, 50
Call = Callable[[], object]
#: A call, and what is entered around it.
Timed = tuple[Call, Callable[[], AbstractContextManager[object]]]


def medians(every: Sequence[Timed]) -> list[float]:
    """The median time of each call, in which this thread computes; the calls take turns."""
    for call, context in every:
        with context():
            for _ in range(WARM_UP):
                call()
    times: list[list[float]] = [[] for _ in every]
    for _ in range(ROUNDS):
        for (call, context), found in zip(every, times, strict=True):
            with context():
                call()
                start = time.thread_time()
                for _ in range(CALLS):
                    call()
                found.append((time.thread_time() - start) / CALLS * 1e6)
    return [statistics.median(found) for found in times]


def by_triton() -> AbstractContextManager[object]:
    """Launched by Triton itself, every time, and described anew."""
    stack = ExitStack()
    stack.enter_context(mock.patch.object(calls, "_is_observed", stubbed_gpu.always(True)))
    stack.enter_context(mock.patch.object(dispatch, "prepared", {}))
    stack.enter_context(mock.patch.object(dispatch, "_MOST_MISSES", 0))
    return stack


def step(size: int, dtype: torch.dtype, scale: float, **options: Any) -> Callable[[], object]:
    """Forward and backward of cross-entropy of logits."""
    x, y = torch.zeros(size, dtype=dtype, requires_grad=True), torch.zeros(size, dtype=dtype)
    upstream = torch.tensor(scale)

    def call() -> None:
        loss = functional.binary_cross_entropy_with_logits(x, y, check_targets=False, **options)
        torch.autograd.grad(loss, x, upstream)

    return call


def main() -> None:
    torch.set_num_threads(1)
    mask, weight = torch.ones(SIZE, dtype=torch.bool), torch.ones(SIZE)
    cases = {
        "one tile": step(1000, torch.float32, 1.0),
        "several tiles": step(SIZE, torch.float32, 1.0),
        "bfloat16": step(SIZE, torch.bfloat16, 1.0),
        "`pos_weight`": step(SIZE, torch.float32, 1.0, pos_weight=torch.tensor(2.0)),
        "`mask`": step(SIZE, torch.float32, 1.0, mask=mask),
        "`weight` and `ignore_index`": step(
            SIZE, torch.float32, 1.0, weight=weight, ignore_index=-100
        ),
    }
    with tempfile.TemporaryDirectory() as folder, stubbed_gpu.installed(Path(folder)) as stub:
        timed: list[Timed] = [(eager(), nullcontext)]
        for call in cases.values():
            timed += [(call, nullcontext), (call, by_triton)]
        of_pytorch, *found = medians(timed)
        rows = []
        for (name, call), prepared, anew in zip(
            cases.items(), found[::2], found[1::2], strict=True
        ):
            before = stub.launches
            call()
            launches = stub.launches - before
            rows.append([name, str(launches), f"{prepared:.0f}", f"{anew:.0f}"])
    rows.append(["PyTorch on the CPU, 1 logit", "-", f"{of_pytorch:.0f}", "-"])
    head = ["forward and backward", "launches", "microseconds", "launched by Triton itself"]
    results.save("gpu_host", {"head": head, "rows": rows})
    gpu_report.show()
    print(markdown.table(head, rows))


def eager() -> Callable[[], object]:
    """PyTorch's own loss of one logit, to compare: nearly all of it is its dispatch."""
    x, y, one = torch.zeros(1, requires_grad=True), torch.zeros(1), torch.ones(())

    def call() -> None:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x, y)
        torch.autograd.grad(loss, x, one)

    return call


if __name__ == "__main__":
    main()
