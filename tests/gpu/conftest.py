"""Where the GPU's kernels are tested: on a GPU, or interpreted on the CPU.

It needs PyTorch, Triton, numpy and pytest alone, so that it runs on a machine that has those and a
GPU: `pytest tests/gpu --confcutdir=tests/gpu`.
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

#: What only a GPU can show; elsewhere it is not even collected.
collect_ignore = [] if DEVICE == "cuda" else ["test_device.py", "test_device_linear.py"]


@pytest.fixture
def device() -> str:
    """Where tensors have to lie for the kernels to read them."""
    return DEVICE


@pytest.fixture
def by_triton() -> Iterator[None]:
    """No other backend, which would pass these tests as well."""
    with torchbce.backend("triton"):
        yield


@pytest.fixture
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many elements at once: an interpreted tile takes the same time whatever its size."""
    from torchbce.backends.gpu import launch as gpu_launch

    if DEVICE == "cpu":
        monkeypatch.setattr(gpu_launch, "_TILE", 2**16)
        monkeypatch.setattr(gpu_launch, "_TILE_OF_64", 2**15)


@pytest.fixture
def clean_memory() -> Iterator[None]:
    """What one test held is free for the next, and for other processes."""
    yield
    torch.cuda.empty_cache()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        yield
    torch._dynamo.reset()
