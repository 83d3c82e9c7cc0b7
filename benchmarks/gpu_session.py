"""Everything there is to learn from a GPU, in ten minutes: tests and measurements.

    make gpu-session [PYTHON=/path/to/python3] [OUT=folder]

The steps run one after another, the ones that tell most first. Each has a time limit of its own
and writes OUT/STEP.log as it goes, so that nothing is lost if the session is cut off. Measurements
are written to OUT after each row, and to benchmarks/results. Needs PyTorch for the GPU, Triton,
numpy and pytest; the tests run in several processes if pytest-xdist is installed.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
#: Processes of the tests: each of hundreds of kernels takes a core half a second to compile.
PROCESSES = 12


class Step(NamedTuple):
    """One command of the session.

    Attributes:
        name: of its log.
        seconds: its time limit.
        command: after `python`.
        processes: of pytest.
    """

    name: str
    seconds: int
    command: tuple[str, ...]
    processes: int = 0

    def arguments(self) -> list[str]:
        has_xdist = importlib.util.find_spec("xdist") is not None
        parallel = ["-n", str(self.processes)] if self.processes and has_xdist else []
        return [sys.executable, *self.command, *parallel]


def _tests(*arguments: str) -> tuple[str, ...]:
    # A warning of another version of PyTorch or Triton is not an error here.
    return (
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"),
        *("--confcutdir=tests/gpu", "--durations=10", *arguments),
    )


def steps(out: Path) -> list[Step]:
    """The steps in their order."""
    bench = ("benchmarks/gpu.py", "--seconds", "140", "--out", str(out))
    others = "not compiles and not large"
    return [
        Step("smoke", 60, _tests("tests/gpu/test_smoke.py"), 8),
        Step("benchmark", 160, bench),
        Step("tests", 180, _tests("tests/gpu", "-m", others), PROCESSES),
        Step("large", 80, _tests("tests/gpu", "-m", "large")),
        Step("compiled", 90, _tests("tests/gpu", "-m", "compiles"), 6),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-session", help="folder for logs")
    parser.add_argument("--only", nargs="*", help="names of steps")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for step in steps(out):
        if arguments.only and step.name not in arguments.only:
            continue
        start = time.monotonic()
        status = run(step, out / f"{step.name}.log")
        line = f"{step.name}: {status} after {time.monotonic() - start:.0f} s"
        print(line, flush=True)
        with (out / "summary.log").open("a") as summary:
            summary.write(line + "\n")
        if status != "passed":
            failed.append(step.name)
    print(f"logs in {out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def run(step: Step, log: Path) -> str:
    """Run one step within its limit: "passed", "failed" or "cut off"."""
    environment = os.environ | {
        "TORCHBCE_GPU": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(ROOT / "src"),
    }
    with log.open("w") as output:
        try:
            done = subprocess.run(
                step.arguments(),
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=step.seconds,
            )
        except subprocess.TimeoutExpired:
            return "cut off"
    return "passed" if done.returncode == 0 else f"failed ({done.returncode})"


if __name__ == "__main__":
    raise SystemExit(main())
