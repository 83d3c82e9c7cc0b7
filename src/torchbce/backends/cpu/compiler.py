"""Compiled kernels: compiled earlier in this process, loaded from disk, or compiled now."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import cfunc, types

from torchbce.backends.cpu import loops, threads

_SIGNATURE = types.void(types.int64)

_compiling = threading.RLock()
_alive: list[Any] = []  # Numba frees the code with the object.
_compiled: dict[tuple[str, int, int, tuple[int, int] | None], threads.Kernel] = {}
_others: dict[str, threads.Kernel] = {}


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


def compiled_once(key: str, sources: tuple[str, ...], made: Callable[[str], Any]) -> threads.Kernel:
    """A kernel of another file than `loops`.

    Args:
        key: which kernel it is; it begins the name of the function.
        sources: the files of this folder that the kernel's code is in.
        made: makes the function of a name.
    """
    kernel = _others.get(key)
    if kernel is None:
        with _compiling:
            kernel = _others.get(key)
            if kernel is None:
                fingerprint = _fingerprint(sources)
                function = made("_".join(["kernel", key, fingerprint or ""]))
                kernel = _others[key] = _compile_function(function, fingerprint is not None)
    return kernel


def _compile(loss: str, input: int, target: int, weights: tuple[int, int] | None) -> threads.Kernel:
    codes = [input, target, *(weights or ())]
    name = "_".join(["kernel", loss, *map(str, codes), _FINGERPRINT or ""])
    function = loops.specialised(loss, input, target, weights, name)
    return _compile_function(function, _FINGERPRINT is not None)


def _compile_function(function: Any, cached: bool) -> threads.Kernel:
    try:
        compiled = cfunc(_SIGNATURE, cache=cached, error_model="numpy")(function)
    except Exception:
        # The cache cannot be written or read. An error of the kernel itself shows without it too.
        compiled = cfunc(_SIGNATURE, error_model="numpy")(function)
    _alive.append(compiled)
    return threads.kernel_at(compiled.address)


def _fingerprint(names: tuple[str, ...]) -> str | None:
    """A hash of the kernels' sources as they were imported; None where there are no sources.

    It is part of the names of compiled kernels: Numba looks for changes in a single file.
    """
    folder = Path(__file__).parent
    try:
        sources = b"".join((folder / name).read_bytes() for name in names)
    except OSError:
        return None
    return hashlib.sha256(sources).hexdigest()[:16]


_FINGERPRINT = _fingerprint(("intrinsics.py", "formulas.py", "staging.py", "blocks.py", "loops.py"))

if hasattr(os, "register_at_fork"):  # Windows has no fork
    # A child forked in the middle of a compilation would wait for Numba's locks forever.
    os.register_at_fork(
        before=_compiling.acquire,
        after_in_parent=_compiling.release,
        after_in_child=_compiling.release,
    )
