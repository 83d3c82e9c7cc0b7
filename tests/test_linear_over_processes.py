"""Labels sharded over processes, pairs over processes: what one process computes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "linear_over_processes.py"


@pytest.mark.parametrize("processes", [2, 4])
def test_many_processes_compute_what_one_does(processes: int) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ran = subprocess.run(
        [*launcher, f"--nproc-per-node={processes}", str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "one process and many agree" in ran.stdout
