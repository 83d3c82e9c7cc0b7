"""Whether Triton works on a machine: its version, and a kernel that does nothing.

Triton needs a C compiler, a directory that it can write to and a GPU that it supports, and finds
out at the first launch of a kernel. A launch that fails here is the reason why the reference
computes the losses of that GPU; without it, the first loss would raise.
"""

import re
import warnings

import torch
import triton

#: Older versions cannot compile the kernels: 3.2 to 3.5 refuse tuples of tensors and constants.
OLDEST = (3, 6)


def too_old() -> str | None:
    """Why the installed version of Triton cannot be used; None if it can."""
    found = tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:2])
    if found >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return f"triton is {triton.__version__}; the kernels need {oldest} or later"


def failure(device: int) -> str | None:
    """What Triton raises when it compiles and launches a kernel on a GPU; None if it works."""
    try:
        with torch.cuda.device(device):
            _launch()
    except Exception as error:
        (first, *_) = str(error).strip().splitlines() or [""]
        reason = f"triton cannot launch a kernel on cuda:{device}: {type(error).__name__}: {first}"
        warnings.warn(f"torchbce computes in plain PyTorch, since {reason}", stacklevel=2)
        return reason
    return None


@triton.jit
def _nothing(n):  # type: ignore[no-untyped-def]
    pass


def _launch() -> None:
    _nothing[(1,)](2)
