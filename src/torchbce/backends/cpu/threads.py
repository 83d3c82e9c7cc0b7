"""A kernel in as many threads as PyTorch computes with.

Those are PyTorch's own where they can be had: OpenMP's threads keep spinning for a while after an
operation, and others beside them would find the cores taken (2^20 losses and gradients between two
operations of PyTorch: 3.8 ms with threads of Python, 1.9 alone). Elsewhere, and in a forked child,
whose OpenMP waits for threads that the child does not have, they are threads of Python.

ctypes releases the GIL while a kernel runs.
"""

import ctypes
import functools
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

#: A kernel takes the address of its record, see `cpu_loops.RECORD`.
Kernel = ctypes.CFUNCTYPE(None, ctypes.c_char_p)

_forked = False
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def run(kernel: Any, record: bytes, threads: int, memory: tuple[object, ...]) -> None:
    """Run a kernel in this thread and others, which share the work by the record's counters.

    `memory` is what the record has the addresses of: a helper holds it, so that it is there until
    the end if Ctrl-C takes this thread out of its waiting.
    """
    if threads == 1:
        kernel(record)
        return
    parallel = None if _forked else _openmp()
    if parallel is not None:
        parallel(kernel, record, threads, 0)
        return
    futures = _submit(threads - 1, kernel, record, memory)
    kernel(record)
    for future in futures:
        # One that has not begun would find nothing left to do.
        if not future.cancel():
            future.result()


@functools.cache
def _openmp() -> Any:
    """`GOMP_parallel(function, data, threads, flags)` of the library that PyTorch has loaded."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.so*")):
        # Opened already: this gives the same one again. Without the first, another copy would run.
        if path.name in _loaded():
            library = ctypes.CDLL(str(path))
            if hasattr(library, "GOMP_parallel"):
                function = library.GOMP_parallel
                function.argtypes = [Kernel, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint]
                function.restype = None
                return function
    return None


def _loaded() -> str:
    maps = Path("/proc/self/maps")
    return maps.read_text() if maps.exists() else ""


def _help(kernel: Any, record: bytes, memory: tuple[object, ...]) -> None:
    kernel(record)


def _submit(helpers: int, *arguments: Any) -> list["Future[None]"]:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=256, thread_name_prefix="torchbce")
    try:
        return [_pool.submit(_help, *arguments) for _ in range(helpers)]
    except RuntimeError:
        return []  # the interpreter is shutting down: this thread does it alone


def _in_child() -> None:
    """A forked child has none of its parent's threads, and locks as they happened to be."""
    global _forked, _pool, _pool_lock
    _forked, _pool, _pool_lock = True, None, threading.Lock()


if hasattr(os, "register_at_fork"):  # nothing forks on Windows
    os.register_at_fork(after_in_child=_in_child)
