"""A kernel in as many threads as PyTorch computes with.

On Linux they are the threads of PyTorch's own OpenMP. Those keep spinning for a while after each
operation of PyTorch, so that other threads would find the cores busy: 2^20 losses and gradients
between two operations of PyTorch take 3.8 ms with threads of Python and 1.9 ms with OpenMP's.
On other systems they are threads of Python, and also in a forked child, where OpenMP would wait for
threads that exist only in the parent.

ctypes releases the GIL while a kernel runs.
"""

import ctypes
import functools
import os
import threading
from array import array
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch

_PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Kernel(Protocol):
    """A compiled kernel; it takes the address of its record, see `staging.RECORD`."""

    def __call__(self, record: int, /) -> None: ...


def kernel_at(address: int) -> Kernel:
    """The kernel whose machine code begins at an address."""
    return _PROTOTYPE(address)


_forked = False
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def run(kernel: Kernel, record: "array[int]", threads: int, memory: tuple[object, ...]) -> None:
    """Run a kernel in this thread and others, which share the work by the record's counters.

    `memory` has the tensors whose addresses are in the record. The other threads hold it, so that
    it lasts until they end even if Ctrl-C interrupts this thread while it waits for them.
    """
    address, _ = record.buffer_info()
    if threads == 1:
        kernel(address)
        return
    library = None if _forked else _openmp()
    if library is not None:
        library.GOMP_parallel(kernel, address, threads, 0)
        return
    futures = _submit(threads - 1, kernel, address, (record, memory))
    kernel(address)
    for future in futures:
        # A thread that has not begun would find no chunk left.
        if not future.cancel():
            future.result()


def has_flat_openmp() -> bool:
    """Whether `call_in_openmp` can run, and one thread computes each operation in it.

    With OMP_NESTED=true several would.
    """
    library = None if _forked else _openmp()
    return library is not None and not library.omp_get_nested()


def call_in_openmp(function: Callable[[int], None], threads: int) -> None:
    """Call a function in this thread and others of OpenMP, at the same time.

    Its argument has no meaning. It must not raise: ctypes would print the exception and go on.
    """
    callback = _PROTOTYPE(function)
    _openmp().GOMP_parallel(callback, None, threads, 0)


@functools.cache
def _openmp() -> Any:
    """The library with `GOMP_parallel(function, data, threads, flags)` that PyTorch has loaded."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.so*")):
        # One that is loaded already: another would be a second OpenMP with threads of its own.
        if path.name in _loaded():
            library = ctypes.CDLL(str(path))
            if hasattr(library, "GOMP_parallel"):
                function = library.GOMP_parallel
                function.argtypes = [_PROTOTYPE, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
                function.restype = None
                return library
    return None


def _loaded() -> str:
    maps = Path("/proc/self/maps")
    return maps.read_text() if maps.exists() else ""


def _help(kernel: Kernel, address: int, memory: tuple[object, ...]) -> None:
    kernel(address)


def _submit(helpers: int, *arguments: Any) -> list["Future[None]"]:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=256, thread_name_prefix="torchbce")
    try:
        return [_pool.submit(_help, *arguments) for _ in range(helpers)]
    except RuntimeError:
        return []  # The interpreter is shutting down: this thread computes everything.


def _in_child() -> None:
    """A forked child has only one thread of its parent, and its locks may be held."""
    global _forked, _pool, _pool_lock
    _forked, _pool, _pool_lock = True, None, threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_in_child)
