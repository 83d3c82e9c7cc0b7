"""Time and memory of calls on a GPU.

Every time is a median of samples between CUDA events. In each round every contender is sampled
once, and before each sample the L2 cache is overwritten.
"""

import functools
import gc
import math
import statistics
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

OUT_OF_MEMORY, FAILED = "out of memory", "failed"
WARM_UPS = 3
#: Calls are repeated until a sample takes at least so many seconds.
SAMPLE_SECONDS = 1e-3
#: Bytes that are written before each sample: several times an L2 cache.
FLUSHED_BYTES = 256 * 2**20

#: Seconds or bytes; or the reason why there is no number.
Cell = float | str
Call = Callable[[], object]
Events = tuple[torch.cuda.Event, torch.cuda.Event]
T = TypeVar("T")


def release_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def attempt(measure: Callable[[], T]) -> T | str:
    """The result, or the reason why there is none, so that the other contenders are measured."""
    try:
        return measure()
    except Exception as error:
        # The compiler wraps the errors of its kernels in its own.
        if isinstance(error, torch.cuda.OutOfMemoryError) or OUT_OF_MEMORY in str(error).lower():
            reason = OUT_OF_MEMORY
        else:
            traceback.print_exc()
            reason = f"{FAILED}: {type(error).__name__}"
    release_memory()  # outside of `except`: the frames of the error hold tensors
    return reason


def medians(calls: dict[str, Call], samples: int) -> dict[str, Cell]:
    """Seconds per call of each contender."""
    found: dict[str, Cell] = {}
    repeats: dict[str, int] = {}
    events: dict[str, list[Events]] = {}
    for name, call in calls.items():
        count = attempt(functools.partial(_calls_per_sample, call))
        if isinstance(count, str):
            found[name] = count
        else:
            repeats[name], events[name] = count, []
    for _ in range(samples):
        for name in [name for name in repeats if name not in found]:
            pair = attempt(functools.partial(_sample, calls[name], repeats[name]))
            if isinstance(pair, str):
                found[name] = pair
            else:
                events[name].append(pair)
    for name in repeats:
        if name not in found:
            found[name] = statistics.median(map(_seconds, events[name])) / repeats[name]
    return found


def extra_bytes(call: Callable[[], Sequence[Tensor]], target: Tensor | None) -> float:
    """Peak memory in bytes, without the inputs and the returned tensors, but with the target."""
    call()  # libraries allocate memory once, which they keep
    release_memory()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    returned = call()
    peak = torch.cuda.max_memory_allocated() - before
    target_bytes = 0 if target is None else target.nbytes
    return float(peak - sum(tensor.nbytes for tensor in returned) + target_bytes)


@functools.cache
def _flushed() -> Tensor:
    return torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device="cuda")


def _event() -> torch.cuda.Event:
    made: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return made


def _sample(call: Call, repeats: int) -> Events:
    """Events before and after the calls; the host does not wait for them."""
    start, end = _event(), _event()
    _flushed().zero_()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    return start, end


def _seconds(events: Events) -> float:
    torch.cuda.synchronize()
    start, end = events
    return float(start.elapsed_time(end)) / 1e3


def _calls_per_sample(call: Call) -> int:
    for _ in range(WARM_UPS):
        call()
    repeats = 1
    for _ in range(5):
        seconds = max(_seconds(_sample(call, repeats)), 1e-7)
        if seconds >= SAMPLE_SECONDS:
            break
        repeats = math.ceil(1.2 * repeats * SAMPLE_SECONDS / seconds)
    return repeats
