"""Other projects' own tests of these losses, out of their wheels, with the drop-in installed.

Each suite runs in a process of its own, so that neither its settings nor the drop-in reach the
tests beside it. None of their expectations had to be changed; PyTorch's samples in half precision
are compared with float64, because PyTorch's own results there are not a measure.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.slow

PEERS = Path(__file__).parent / "peers"
LOGITS, PROBABILITIES = "binary_cross_entropy_with_logits", "binary_cross_entropy"


def test_pytorch_on_its_own_samples_modules_and_criteria():
    run = run_suite(PEERS / "pytorch_losses.py", flags=["--noconftest"])
    assert run.unsuccessful == [], run.output
    assert len(run.passed) == 60, run.output
    # The three tables, each there: OpInfo, ModuleInfo, criterion_tests and its older sibling.
    assert sum("GradientsCPU" in name for name in run.passed) == 6
    assert sum("ModulesCPU" in name for name in run.passed) == 10
    assert sum("Criteria" in name for name in run.passed) == 13
    assert sum("no_batch_dim" in name for name in run.passed) == 6
    assert run.computed[LOGITS] > 1000
    assert run.computed[PROBABILITIES] > 1000


def test_skorch_binary_classifier():
    run = run_suite(installed("skorch", "tests/test_classifier.py"), select="Binary")
    assert run.unsuccessful == [], run.output
    assert len(run.passed) >= 25, run.output
    assert run.computed[LOGITS] > 20
    assert run.computed[PROBABILITIES] > 20


def test_keras_losses_on_its_torch_backend(tmp_path):
    run = run_suite(
        installed("keras", "src/losses/losses_test.py"),
        installed("keras", "src/ops/nn_test.py"),
        select="Binary or binary_crossentropy",
        environment={"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)},
    )
    # Keras skips what it does not test on this backend.
    assert [name for name, outcome in run.unsuccessful if outcome != "skipped"] == [], run.output
    assert len(run.passed) >= 25, run.output
    assert len(run.unsuccessful) <= 2, run.output
    assert run.computed[LOGITS] > 5
    assert run.computed[PROBABILITIES] > 5


@dataclass(frozen=True)
class Run:
    passed: list[str]
    unsuccessful: list[tuple[str, str]]  # name, and "failure", "error" or "skipped"
    computed: dict[str, int]  # how often the drop-in computed each loss
    output: str


def run_suite(*files, select="", flags=(), environment=None):
    """Run test files of somebody else under pytest, with `peers/dropin_plugin.py` loaded."""
    # Not under this project's pytest settings: their warnings are theirs.
    inherited = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    path = os.pathsep.join([str(PEERS), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-p", "dropin_plugin", "-p", "no:cacheprovider"]
        command += ["-c", os.devnull, f"--rootdir={folder}", f"--junit-xml={report}"]
        done = subprocess.run(
            [*command, "-k", select, *flags, *map(str, files)],
            env={**inherited, "PYTHONPATH": path, **(environment or {})},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert report.exists(), done.stdout
        cases = ElementTree.parse(report).getroot().findall(".//testcase")
    passed, unsuccessful = [], []
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        unsuccessful += [(name, outcome) for outcome in outcomes]
        passed += [] if outcomes else [name]
    computed = dict(re.findall(r"^drop-in computed (\w+): (\d+)$", done.stdout, re.MULTILINE))
    assert done.returncode == (1 if any(o != "skipped" for _, o in unsuccessful) else 0), (
        done.stdout
    )
    return Run(passed, unsuccessful, {k: int(v) for k, v in computed.items()}, done.stdout)


def installed(package, file):
    """The path of a file of an installed package, which is not imported."""
    return Path(importlib.util.find_spec(package).origin).parent / file
