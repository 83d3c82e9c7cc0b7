"""The losses on a GPU, compared with PyTorch, eager and compiled, a copy, and matrix products.

    PYTHONPATH=src python benchmarks/gpu.py [--name NAME] [--seconds 450] [--out FOLDER]
    PYTHONPATH=src python benchmarks/gpu.py --show  # write docs/gpu.md from the saved results

Needs only torch, triton and numpy. Rows with goals are measured first; once the time is used up, no
further row begins, and the rest is "not measured". `gpu_cases` says what is computed, `gpu_timing`
how it is timed, and `gpu_report` writes the tables.
"""

import argparse
import datetime
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from gpu_cases import FORWARD, NOT_MEASURED, OURS, Row, in_order, measure, plan
from gpu_report import goals_table, save, show
from gpu_timing import FAILED


def main() -> int:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", help="of the results; by default that of the card")
    parser.add_argument("--show", action="store_true", help="measure nothing, write docs/gpu.md")
    parser.add_argument(
        "--seconds", type=float, default=450, help="from the start, after which no row begins"
    )
    parser.add_argument("--out", type=Path, help="a second folder for the results")
    arguments = parser.parse_args()
    if arguments.show:
        show()
        return 0
    if not torch.cuda.is_available():
        print("PyTorch finds no GPU on this machine: nothing was measured.", file=sys.stderr)
        return 1
    results = plan()
    results["header"] = _header()
    name = _slug(arguments.name or torch.cuda.get_device_name())
    for function, row in in_order(results):
        if time.monotonic() - start > arguments.seconds:
            print(f"no row begins after {arguments.seconds:.0f} s; the rest is {NOT_MEASURED}")
            break
        measure(function, row)
        save(name, results, arguments.out)
        print(f"{time.monotonic() - start:.0f} s", row, flush=True)
    show()
    print(goals_table(results))
    return int(any(_has_failed(row) for _, row in in_order(results)))


def _header() -> dict[str, str]:
    import triton  # not installed everywhere where `--show` is used

    return {
        "card": torch.cuda.get_device_name(),
        "memory": f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB",
        "driver": _driver(),
        "CUDA": str(torch.version.cuda),
        "PyTorch": str(torch.__version__),
        "Triton": str(triton.__version__),
        "date": datetime.date.today().isoformat(),
    }


def _driver() -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _has_failed(row: Row) -> bool:
    """Whether torchbce raised an error."""
    cells = row["seconds"][OURS], *(row.get("extra", {}).get(name) for name in (OURS, FORWARD))
    return any(isinstance(cell, str) and cell.startswith(FAILED) for cell in cells)


if __name__ == "__main__":
    raise SystemExit(main())
