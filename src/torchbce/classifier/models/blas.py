"""Linear algebra of NumPy and SciPy on one thread."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_blocks = 0
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread in a block, which several threads may be in at a time.

    L-BFGS is products of two vectors, one after the other, between which the threads of OpenBLAS
    spin: fitting 10,000 short texts took 26 CPU seconds with two of them and takes 14 with one, and
    22 seconds of the clock against 16.
    """
    global _blocks, _limit
    with _lock:
        if _blocks == 0:
            _limit = _libraries().limit(limits=1)
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _limit.restore_original_limits()


@functools.cache
def _libraries() -> Any:
    """The loaded libraries of linear algebra; finding them takes 10 ms."""
    import scipy.linalg  # noqa: F401 - brings its own, beside NumPy's
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
