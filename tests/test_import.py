"""Importing the package costs what importing PyTorch costs, and changes nothing."""

import json
import subprocess
import sys

HEAVY = {
    "polars",
    "sklearn",
    "scipy",
    "typer",
    "rich",
    "safetensors",
    "lightning",
    "lightning_fabric",
    "msgspec",
    "numba",
    "triton",
    "pandas",
    "matplotlib",
}

SCRIPT = """
import json, sys, warnings
import torch

def state():
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "random state": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "flush denormal": (torch.tensor([1e-40]) * 1).item(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "warning filters": len(warnings.filters),
    }

state()  # whatever the questions themselves load
modules, before = set(sys.modules), state()
import torchbce
lazy = sorted(set(sys.modules) - modules)
torchbce.BCEWithLogitsLoss, torchbce.dropin, torchbce.imbalance, torchbce.backend_for
print(json.dumps({
    "lazy": lazy,
    "loaded": sorted(set(sys.modules) - modules), "before": before, "after": state(),
}))
"""


def test_import_is_light_and_changes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)

    loaded = {name.partition(".")[0] for name in report["loaded"]}
    assert {"torchbce", "torchbce.modules", "torchbce.dropin"} <= set(report["loaded"])
    assert not any(name.startswith("torchbce.") for name in report["lazy"])
    assert loaded & HEAVY == set()
    assert report["before"] == report["after"]


def test_subpackages_are_attributes_that_load_when_they_are_used() -> None:
    script = (
        "import sys, torchbce; assert 'torchbce.linear' not in sys.modules; "
        "print(torchbce.linear.__name__, torchbce.classifier.__name__, "
        "torchbce.functional.linear_binary_cross_entropy.__name__, "
        "torchbce.functional.pairwise_sigmoid_loss.__name__); "
        "assert {'classifier', 'linear'} <= set(dir(torchbce)); torchbce.other"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split() == [
        "torchbce.linear",
        "torchbce.classifier",
        "linear_binary_cross_entropy",
        "pairwise_sigmoid_loss",
    ]
    assert done.stderr.endswith("module 'torchbce' has no attribute 'other'\n")
