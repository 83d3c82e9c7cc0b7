"""What the GPU's kernels compile to, which needs no GPU: instructions, registers, widths.

    python benchmarks/gpu_code.py

Loss and gradient in one pass over flat tensors, compiled ahead for compute capability 9.0. The
instructions are those of the machine code, which stand once for each tile, over its elements.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

import _results
from torchbce.backends.gpu import launch
from torchbce.backends.request import KernelInputs, program
from torchbce.definition import reference

CAPABILITY = 90
N = 2**20
THREADS = 128
Parts = Callable[..., tuple[Tensor, Tensor]]
LOSSES: dict[str, tuple[Parts, tuple[float | None, ...]]] = {
    "cross-entropy of logits": (reference.logits_parts, ()),
    "focal": (reference.focal_parts, (0.25, 2.0)),
    "asymmetric": (reference.asymmetric_parts, (1.0, 4.0, 0.05)),
    "Poly-1": (reference.poly_parts, (1.0, 2.0, 0.25)),
    "of probabilities": (reference.probability_parts, (None,)),
    "of log-probabilities": (reference.log_probability_parts, ()),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Absent:
    """A GPU that is not there, to compile for."""

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(parts: Parts, own: tuple[float | None, ...], dtype: torch.dtype) -> tuple[Any, int]:
    """The kernel that a loss with its gradient launches, and how many elements a tile has."""
    found: list[tuple[Any, int]] = []

    def compile_only(
        kernel: Any, programs: int, where: Tensor, arguments: Any, facts: dict[str, Any], warps: int
    ) -> None:
        if kernel is launch.visit:
            options = {**facts, "num_warps": warps, "enable_fp_fusion": False}
            found.append((kernel.warmup(*arguments, grid=(programs,), **options), facts["BLOCK"]))

    run, launch._run = launch._run, compile_only
    try:
        x = torch.zeros(N, dtype=dtype)
        elements = KernelInputs(x, torch.zeros_like(x))
        asked = program(parts, own, 0.0, None)
        launch.value_and_gradient(asked, elements, launch.memory(elements), number=N)
    finally:
        launch._run = run
    return found[0]


def row(name: str, dtype: str) -> list[str]:
    """A line of the table."""
    parts, own = LOSSES[name]
    kernel, block = compiled(parts, own, DTYPES[dtype])
    tools = Path(triton.knobs.nvidia.ptxas.path).parent
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(kernel.asm["ptx"])
        assembler: list[str | Path] = [
            tools / "ptxas",
            "-v",
            f"--gpu-name=sm_{CAPABILITY}a",
            source,
            "-o",
            binary,
        ]
        said = subprocess.run(assembler, capture_output=True, text=True, check=True).stderr
        listing = subprocess.run(
            [tools / "nvdisasm", "-c", binary], capture_output=True, text=True, check=True
        ).stdout
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", listing, re.MULTILINE))
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.search(r"(\d+) bytes spill stores", said)
    assert registers
    assert spilled
    loads = re.findall(r"ld\.global[\w:.]*?\.(?:v(\d)\.)?b(\d+)", kernel.asm["ptx"])
    widths = sorted({int(vector or 1) * int(bits) // 8 for vector, bits in loads})
    moved = 3 * DTYPES[dtype].itemsize
    return [
        name,
        dtype,
        f"{instructions * THREADS / block:.0f}",
        str(moved),
        registers[1],
        spilled[1],
        ", ".join(map(str, widths)),
    ]


def main() -> None:
    triton.runtime.driver.set_active(Absent())
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        rows = [row(name, dtype) for name in LOSSES for dtype in DTYPES]
    head = [
        "loss and gradient",
        "input, target",
        "instructions an element",
        "bytes an element",
        "registers",
        "bytes spilled",
        "bytes a load",
    ]
    table = _results.markdown(head, rows)
    _results.save("gpu_code", {"head": head, "rows": rows}, table, "docs/gpu.md")
    print(table)


if __name__ == "__main__":
    main()
