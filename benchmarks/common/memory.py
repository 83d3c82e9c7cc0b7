"""Resident memory of this process, as Linux counts it."""

import importlib
from pathlib import Path


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes that were in memory since the start or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> int:
    """Let `peak` count from now on, and return the bytes that are in memory."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def peak_after_importing(module: str) -> int:
    """The peak of a process that imports a module; to be called in a process of its own."""
    importlib.import_module(module)
    return peak()


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
