"""Why Triton cannot be used on a machine: the answers of `backend_for` without a GPU."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from torchbce.backends import probe, selection  # noqa: E402 - needs Triton
from torchbce.backends.gpu import tiles  # noqa: E402
from torchbce.linear import products  # noqa: E402


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The answers are kept: forget them before and after a test."""
    selection._missing_for_triton.cache_clear()
    yield
    selection._missing_for_triton.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of compute capability 9.0, as far as the probe asks for it."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())


@pytest.mark.parametrize("version", ["3.2.0", "3.3.1", "3.5.1+git", "2.1.0"])
def test_an_old_version_is_the_reason(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    reason = selection._missing_for_triton(0)
    assert reason == f"triton is {version}; the kernels need 3.6 or later"


@pytest.mark.parametrize("version", ["3.6.0", "3.7.1+rocm7", "4.0.0", "3.10.0a1"])
def test_newer_versions_are_used(version: str, monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(probe, "_launch", lambda: None)
    assert selection._missing_for_triton(0) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        PermissionError(13, "Permission denied", "/nonexistent/cache"),
        AssertionError(),
    ],
)
def test_a_launch_that_fails_is_the_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch, gpu: None
) -> None:
    """It is launched once, the reference computes, and a warning says so once."""
    launches = []

    def launch() -> None:
        launches.append(1)
        raise error

    monkeypatch.setattr(probe, "_launch", launch)
    with pytest.warns(UserWarning, match="torchbce computes in plain PyTorch"):
        reason = selection._missing_for_triton(0)
    assert reason is not None
    assert reason.startswith(f"triton cannot launch a kernel on cuda:0: {type(error).__name__}")
    assert str(error) in reason
    assert selection._missing_for_triton(0) == reason
    assert launches == [1]


@pytest.mark.parametrize("warp", [32, 64])
def test_the_sum_kernel_has_at_most_1024_threads(
    warp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_warp_size", lambda device: warp)
    cuda = torch.device("cuda", 0)
    for block in (128, 256, 1024, 8192):
        warps = tiles.sum_warps(block, cuda)
        assert warps >= 1
        assert warps & (warps - 1) == 0
        assert warps * warp <= 1024


def test_which_products_have_float32_results(monkeypatch: pytest.MonkeyPatch) -> None:
    out = torch.empty(0)

    def widens(dtype: torch.dtype) -> bool:
        factor: Any = SimpleNamespace(is_cuda=True, dtype=dtype)
        return products._widens(factor, out)

    assert widens(torch.bfloat16)
    assert widens(torch.float16)
    assert not widens(torch.float32)
    in_16_bits = SimpleNamespace(allow_fp16_accumulation=True)
    monkeypatch.setattr(torch.backends.cuda, "matmul", in_16_bits)
    assert widens(torch.bfloat16)
    assert not widens(torch.float16)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not widens(torch.bfloat16)
