"""Two processes, inputs sharded unevenly: a mean is over all elements, not a mean of means."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "sharded_losses.py"


@pytest.mark.slow
def test_uneven_shards_over_two_processes() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [*command, str(SCRIPT)], capture_output=True, text=True, timeout=240, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "all losses agree" in ran.stdout
