"""Compiled kernels: from this process, from disk, or compiled now."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

from numba import cfunc, types

from torchbce.backends.cpu import loops, threads

_SIGNATURE = types.void(types.int64)

_compiling = threading.RLock()
_alive: list[Any] = []  # Numba frees the code with the object.
_compiled: dict[tuple[str, int, int, tuple[int, int] | None], threads.Kernel] = {}


def compiled_kernel(
    loss: str, input: int, target: int, weights: tuple[int, int] | None
) -> threads.Kernel:
    """The kernel of a loss for the codes of dtypes, see `loops.specialised`."""
    key = loss, input, target, weights
    kernel = _compiled.get(key)
    if kernel is None:
        with _compiling:
            kernel = _compiled.get(key)
            if kernel is None:
                kernel = _compiled[key] = _compile(*key)
    return kernel


def _compile(loss: str, input: int, target: int, weights: tuple[int, int] | None) -> threads.Kernel:
    codes = [input, target, *(weights or ())]
    name = "_".join(["kernel", loss, *map(str, codes), _FINGERPRINT or ""])
    function = loops.specialised(loss, input, target, weights, name)
    try:
        compiled = cfunc(_SIGNATURE, cache=_FINGERPRINT is not None, error_model="numpy")(function)
    except Exception:
        # The cache cannot be written or read. An error of the kernel itself shows without it too.
        compiled = cfunc(_SIGNATURE, error_model="numpy")(function)
    _alive.append(compiled)
    return threads.kernel_at(compiled.address)


def _fingerprint() -> str | None:
    """A hash of the kernels' sources as they were imported; None where there are no sources.

    It is part of the names of compiled kernels: Numba looks for changes in a single file.
    """
    folder = Path(__file__).parent
    names = ("intrinsics.py", "formulas.py", "staging.py", "blocks.py", "loops.py")
    try:
        sources = b"".join((folder / name).read_bytes() for name in names)
    except OSError:
        return None
    return hashlib.sha256(sources).hexdigest()[:16]


_FINGERPRINT = _fingerprint()

if hasattr(os, "register_at_fork"):  # nothing forks on Windows
    # A child forked in the middle of a compilation would wait for Numba's locks for ever.
    os.register_at_fork(
        before=_compiling.acquire,
        after_in_parent=_compiling.release,
        after_in_child=_compiling.release,
    )
