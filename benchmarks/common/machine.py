"""The machine on which something was measured."""

import os
import platform
from pathlib import Path

import torch


def machine() -> dict[str, str | int]:
    """Processor, cores, threads and versions, to be saved with what was measured."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def described(found: dict[str, str | int]) -> str:
    """One line about the machine for a report."""
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, "
        f"Python {found['python']}, torch {found['torch']}"
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
