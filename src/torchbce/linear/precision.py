"""Whether autocast is on, and how to compute without it."""

from contextlib import AbstractContextManager, nullcontext

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
