"""Memory for gradients: in huge pages, and reused once nobody else holds it.

The system fills new memory with zeros at the first touch, page by page. For a gradient of 64 MiB
that takes 15 to 35 ms on two cores, as long as computing it.
"""

import ctypes
import functools
import os
import sys
import threading

import torch
from torch import Tensor

from torchbce import _pytorch

#: The C library keeps smaller memory itself.
LARGE = 4 * 2**20
_MADV_HUGEPAGE = 14

_lock = threading.Lock()
_kept: list[torch.UntypedStorage] = []  # one at most


def reused(like: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Uninitialised memory for a gradient: that of the last gradient if it is free.

    Args:
        like: has the shape and dtype.
        strides: those of a contiguous tensor, with its dimensions in any order.
    """
    size = like.nbytes
    if size < LARGE:
        if like.is_contiguous():
            return torch.empty_like(like)  # 2 microseconds faster than empty_strided
        return torch.empty_strided(like.shape, strides, dtype=like.dtype, device=like.device)
    with _lock:
        if _kept and _kept[0].nbytes() == size and _is_free(_kept):
            memory = torch.empty(0, dtype=like.dtype, device=like.device)
            return memory.set_(_kept[0], 0, like.shape, strides)
        fresh = torch.empty_strided(like.shape, strides, dtype=like.dtype, device=like.device)
        memory = in_huge_pages(fresh)
        _kept[:] = [memory.untyped_storage()]
        return memory


def empty_cache() -> None:
    """Free the memory that is kept for the next gradient.

    The memory of the last gradient of 4 MiB or more that was computed on the CPU is kept and reused
    when no tensor holds it any longer. Memory that a tensor still holds is freed with the tensor.

    Returns:
        None.

    Example:
        >>> import torchbce
        >>> torchbce.empty_cache()

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.cuda.memory.empty_cache.html
    """
    with _lock:
        _kept.clear()


def in_huge_pages(memory: Tensor) -> Tensor:
    """Ask the system for pages of 2 MiB, as numpy does."""
    if memory.nbytes >= LARGE and sys.platform.startswith("linux"):
        page = os.sysconf("SC_PAGESIZE")
        start = -(-memory.data_ptr() // page) * page
        length = (memory.data_ptr() + memory.nbytes - start) // page * page
        # A hint, which a system without huge pages ignores.
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)
    return memory


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _is_free(kept: list[torch.UntypedStorage]) -> bool:
    """Whether no tensor, no variable and no other process uses the storage."""
    storage_uses = _pytorch.storage_uses(kept[0])
    return storage_uses == 1 and _references(kept) == _unheld() and not kept[0].is_shared()


def _references(kept: list[torch.UntypedStorage]) -> int:
    return sys.getrefcount(kept[0])


@functools.cache
def _unheld() -> int:
    """The reference count of a storage that nobody else holds; it depends on Python's version."""
    return _references([torch.empty(0, device="cpu").untyped_storage()])


def _in_child() -> None:
    """A forked child has the lock in any state, and shares the memory with its parent."""
    global _lock
    _lock = threading.Lock()
    _kept.clear()


if hasattr(os, "register_at_fork"):  # nothing forks on Windows
    os.register_at_fork(after_in_child=_in_child)
