"""Faster ways to compute what `torchbce.reference` defines: one pass over memory.

`cpu_intrinsics` has the instructions that Numba lacks, `cpu_math` the formulas of one element,
`cpu_loops` the loops over a block, `cpu_launch` the call from PyTorch.
"""

import functools
from typing import Any


@functools.cache
def cpu() -> Any:
    """The module `cpu_launch`, with which Numba is loaded: 0.3 s that an import does not cost."""
    from torchbce.kernels import cpu_launch

    return cpu_launch
