"""The code of the GPU's kernels: instructions, registers, memory accesses. It needs no GPU.

    python benchmarks/gpu_code.py

Loss and gradient in one pass over contiguous tensors, compiled for compute capability 9.0. The
machine code holds the instructions of one tile; their number is divided by the elements of a tile.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget

import gpu_report
from common import markdown, results
from torchbce.backends.gpu import calls, kernels, launch
from torchbce.backends.gpu.operands import Flags
from torchbce.backends.request import KernelInputs, loss_spec
from torchbce.definition import family

CAPABILITY = 90
N = 2**20
THREADS = 128
LOSSES = {
    "cross-entropy of logits": family.CROSS_ENTROPY,
    "focal": family.loss("sigmoid_focal_loss", 0.25, 2.0),
    "asymmetric": family.loss("asymmetric_loss", 1.0, 4.0, 0.05),
    "Poly-1": family.loss("poly_binary_cross_entropy", 1.0, 2.0, 0.25),
    "of probabilities": family.loss("binary_cross_entropy", None),
    "of log-probabilities": family.loss("binary_cross_entropy_with_log_probs"),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Driver:
    """What Triton's compiler asks a GPU's driver."""

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(loss: family.Loss, dtype: torch.dtype) -> tuple[Any, int]:
    """The kernel that computes a loss with its gradient, and the number of elements per tile."""
    found: list[tuple[Any, int]] = []

    def compile_only(each: calls.Launch, device: torch.device) -> None:
        if each.kernel is kernels.loss_kernel:
            kernel: Any = each.kernel
            made = kernel.warmup(
                *each.arguments, grid=(each.programs,), enable_fp_fusion=False, **each.options
            )
            flags = each.options["FLAGS"]
            assert isinstance(flags, Flags)
            found.append((made, flags.block))

    with mock.patch.object(calls.Launch, "run", compile_only):
        x = torch.zeros(N, dtype=dtype)
        inputs = KernelInputs(x, torch.zeros_like(x))
        launch.value_and_gradient(loss_spec(loss), inputs, launch.new_output(inputs), N)
    return found[0]


def row(name: str, dtype: str) -> list[str]:
    """A row of the table."""
    kernel, block = compiled(LOSSES[name], DTYPES[dtype])
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
        log = subprocess.run(assembler, capture_output=True, text=True, check=True).stderr
        listing = subprocess.run(
            [tools / "nvdisasm", "-c", binary], capture_output=True, text=True, check=True
        ).stdout
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)", listing, re.MULTILINE)
    instructions = len([name for name in names if name != "NOP"])  # padding after the last one
    # Arithmetic of float64, its comparisons, conversions and first approximations.
    of_float64 = len(re.findall(r"\s(?:D[A-Z]+|MUFU\.\w*64H|[FI]2F\S*F64\S*|F2I\S*F64)", listing))
    registers = re.search(r"Used (\d+) registers", log)
    spilled = re.search(r"(\d+) bytes spill stores", log)
    assert registers
    assert spilled
    loads = re.findall(r"ld\.global[\w:.]*?\.(?:v(\d)\.)?b(\d+)", kernel.asm["ptx"])
    widths = sorted({int(vector or 1) * int(bits) // 8 for vector, bits in loads})
    bytes_moved = 3 * DTYPES[dtype].itemsize
    return [
        name,
        dtype,
        f"{instructions * THREADS / block:.0f}",
        f"{of_float64 * THREADS / block:.0f}",
        str(bytes_moved),
        registers[1],
        spilled[1],
        ", ".join(map(str, widths)),
    ]


def main() -> None:
    triton.runtime.driver.set_active(Driver())
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        rows = [row(name, dtype) for name in LOSSES for dtype in DTYPES]
    head = [
        "loss and gradient",
        "input, target",
        "instructions per element",
        "of float64",
        "bytes per element",
        "registers",
        "bytes spilled",
        "bytes per load",
    ]
    results.save("gpu_code", {"head": head, "rows": rows})
    gpu_report.show()
    print(markdown.table(head, rows))


if __name__ == "__main__":
    main()
