"""Faster ways to compute what `torchbce.reference` defines: one pass over memory.

`elements` says what a kernel is asked for. On the CPU, by Numba: `cpu_intrinsics` has the
instructions that Numba lacks, `cpu_math` the formulas of one element, `cpu_loops` the loops over a
block, `cpu_launch` the call from PyTorch. On a GPU, by Triton: `cuda_math` has the formulas of one
tile, `cuda_launch` the kernels and the calls from PyTorch.
"""

import functools
from typing import Any


@functools.cache
def cpu() -> Any:
    """The module `cpu_launch`, with which Numba is loaded: 0.3 s that an import does not cost."""
    from torchbce.kernels import cpu_launch

    return cpu_launch


@functools.cache
def gpu() -> Any:
    """The module `cuda_launch`, with which Triton is loaded."""
    from torchbce.kernels import cuda_launch

    return cuda_launch
