"""Labels sharded over processes, pairs over processes: what one process computes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchbce.linear.chunks import run_chunks
from torchbce.linear.records import ChunkRequest, Head, LinearOperands, NeedsGrad

SCRIPT = Path(__file__).parent / "linear_over_processes.py"


@pytest.mark.slow
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


@pytest.mark.parametrize("labels", [0, 5, 6])
def test_the_gradient_of_the_input_can_travel_before_that_of_the_last_labels(labels: int) -> None:
    events: list[str] = []
    request = ChunkRequest(
        chunk_labels=2,
        needs_grad=NeedsGrad(input=True),
        update=lambda start, stop, g, x: events.append(f"{start} to {stop}"),
        on_input_gradient=lambda gradient: events.append("input"),
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # several compute the chunks in any order: test_linear_threads.py
        run_chunks(
            Head(torch.ones(4, 3), torch.ones(labels, 3), None),
            LinearOperands(dense=torch.zeros(4, labels)),
            request,
        )
    finally:
        torch.set_num_threads(threads)
    assert (
        events
        == {
            0: ["input"],
            5: ["0 to 2", "2 to 4", "input", "4 to 5"],
            6: ["0 to 2", "2 to 4", "input", "4 to 6"],
        }[labels]
    )
