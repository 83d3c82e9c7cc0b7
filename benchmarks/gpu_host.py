"""Host time of a loss on a GPU, forward and backward, without a GPU.

    python benchmarks/gpu_host.py

NVIDIA's driver is stubbed, see `common.stubbed_gpu`: its own part of a launch, 2 to 3 microseconds,
is not included, and tensors are allocated on the CPU.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import stubbed_gpu
from torchbce import functional

WARM_UP, ROUNDS, CALLS = 50, 30, 200


def microseconds(call: Callable[[], object]) -> float:
    """The least time of a call over many rounds, in which this thread computes."""
    for _ in range(WARM_UP):
        call()
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        best = min(best, time.thread_time() - start)
    return best / CALLS * 1e6


def step(size: int, dtype: torch.dtype, scale: float | None, **options: object) -> Callable[[], object]:
    x, y = torch.zeros(size, dtype=dtype, requires_grad=True), torch.zeros(size, dtype=dtype)
    upstream = None if scale is None else torch.tensor(scale)

    def call() -> None:
        functional.binary_cross_entropy_with_logits(x, y, check_targets=False, **options).backward(upstream)
        x.grad = None

    return call


def main() -> None:
    torch.set_num_threads(1)
    mask, weight = torch.ones(10_000, dtype=torch.bool), torch.ones(10_000)
    cases = {
        "one tile": step(1000, torch.float32, None),
        "two launches": step(10_000, torch.float32, None),
        "two launches, bfloat16": step(10_000, torch.bfloat16, None),
        "upstream gradient": step(10_000, torch.float32, 3.0),
        "pos_weight": step(10_000, torch.float32, None, pos_weight=torch.tensor(2.0)),
        "mask": step(10_000, torch.float32, None, mask=mask),
        "weight, ignore_index": step(10_000, torch.float32, None, weight=weight, ignore_index=-100),
        "none": step(10_000, torch.float32, None, reduction="sum"),
    }
    with tempfile.TemporaryDirectory() as folder, stubbed_gpu.installed(Path(folder)):
        for name, call in cases.items():
            print(f"{name}: {microseconds(call):.0f} us")


if __name__ == "__main__":
    main()
