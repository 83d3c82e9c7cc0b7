"""Linear algebra of NumPy and SciPy on one thread."""

import functools
from contextlib import AbstractContextManager
from typing import Any


def one_blas_thread() -> AbstractContextManager[Any]:
    """A block in which BLAS keeps to one thread.

    L-BFGS is products of two vectors, one after the other, between which the threads of OpenBLAS
    spin: fitting 10,000 short texts took 26 CPU seconds with two of them and takes 9 with one, and
    22 seconds of the clock against 8. The limit is that of the process, so that a block belongs
    around threads and not into them.
    """
    limit: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return limit


@functools.cache
def _libraries() -> Any:
    """The loaded libraries of linear algebra; finding them takes 10 ms."""
    import scipy.linalg  # noqa: F401 - brings its own, beside NumPy's
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
