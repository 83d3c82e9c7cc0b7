"""Whether autocast is on, and how to compute without it and without TF32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def autocast_enabled(device: torch.device) -> bool:
    """Whether autocast is on for a device; false for a device that has no autocast."""
    available = torch.amp.is_autocast_available(device.type)
    return available and torch.is_autocast_enabled(device.type)


def no_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context in which products keep their dtype, under autocast too."""
    if autocast_enabled(device):
        off: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
        return off
    return nullcontext()


def in_full_precision(device: torch.device) -> AbstractContextManager[None]:
    """A context without autocast, and on a GPU also without TF32, which rounds factors to 11 bits.

    TF32 is a setting of the whole process: products of other threads are in full precision too
    while it lasts.
    """
    return _without_tf32() if device.type == "cuda" else no_autocast(device)


@contextmanager
def _without_tf32() -> Iterator[None]:
    settings = torch.backends.cuda.matmul
    # `allow_tf32` is the older name of the same setting. PyTorch refuses to read it after the newer
    # one was set, unless both say the same again, as here when the block is left.
    before = settings.fp32_precision
    with no_autocast(torch.device("cuda")):
        if before == "ieee":
            yield
            return
        settings.fp32_precision = "ieee"
        try:
            yield
        finally:
            settings.fp32_precision = before
