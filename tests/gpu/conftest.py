"""Fixtures for the tests of the GPU's kernels, which run on a GPU or are interpreted on the CPU.

The tests need only PyTorch, Triton, numpy and pytest: `pytest tests/gpu --confcutdir=tests/gpu`.
"""

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `family`

from interpreting import DEVICE, interpret

import torchbce

pytest.register_assert_rewrite("comparing", "devices")
if importlib.util.find_spec("triton") is None:
    pytest.exit("tests/gpu needs Triton, which is not installed: pip install triton", 1)
if DEVICE == "cpu":
    if os.environ.get("TORCHBCE_GPU") == "1":
        pytest.exit("TORCHBCE_GPU=1 asks for a GPU, and PyTorch finds none on this machine", 1)
    interpret()

#: Tests that need a GPU are not collected without one.
collect_ignore = [] if DEVICE == "cuda" else ["test_device.py", "test_device_linear.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "fresh_compiler" in getattr(item, "fixturenames", ()):
            item.add_marker("compiles")


@pytest.fixture
def device() -> str:
    """The device of the tensors that the kernels read."""
    return DEVICE


@pytest.fixture
def by_triton() -> Iterator[None]:
    """Without this, another backend could compute the losses, and the tests would pass."""
    with torchbce.backend("triton"):
        yield


@pytest.fixture
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer tiles: interpreting one takes the same time whatever its size."""
    from torchbce.backends.gpu import tiles

    if DEVICE == "cpu":
        monkeypatch.setattr(tiles, "BLOCK", 2**16)
        monkeypatch.setattr(tiles, "SMALL_BLOCK", 2**15)


@pytest.fixture
def clean_memory() -> Iterator[None]:
    """Release the memory of a test for the next one and for other processes."""
    yield
    torch.cuda.empty_cache()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        yield
    torch._dynamo.reset()
