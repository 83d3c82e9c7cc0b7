"""Helpers of the tests that need a GPU: synchronization, CUDA graphs, memory."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def never_waiting() -> Iterator[None]:
    """Raise if the host waits for the device."""
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(
    step: Callable[[], tuple[Tensor, ...]],
) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    """A CUDA graph of a step, and the tensors to which it writes its results."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


def extra_bytes(step: Callable[[], tuple[Tensor, ...]]) -> int:
    """The peak of a step's memory, in bytes, without the tensors that it returns."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = step()
    returned = sum(t.numel() * t.element_size() for t in results)
    return torch.cuda.max_memory_allocated() - before - returned


def free_bytes() -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def bits(results: Iterable[Tensor]) -> list[bytes]:
    flat = (t.detach().cpu().reshape(-1) for t in results)
    return [t.view(torch.uint8).numpy().tobytes() for t in flat]
