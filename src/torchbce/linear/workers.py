"""Chunks in several threads, each of which computes whole chunks.

If all threads share every product and every pass, each of these ends with a barrier, which waits
for the slowest thread. Where other programs use the cores too, the system takes the core of some
thread away in most of them.

The threads are those of PyTorch's OpenMP, inside one parallel region. OpenMP does not nest by
default: each product in the region is computed by the thread that calls it. No setting of PyTorch
does the same: `torch.set_num_threads(1)` in one thread also holds for threads that begin later.
"""

import heapq
import threading
from collections.abc import Callable, Sequence

import torch

from torchbce.backends.cpu import threads as cpu_threads

#: More threads would wait for the interpreter's lock, which each holds for up to 0.13 of the 4 to 8
#: milliseconds that a chunk takes. They share each product instead.
MOST_THREADS = 8
#: Each thread computes the next chunk of some lane. A lane's chunks are computed one after the
#: other, and two spare lanes let a thread go on while another is without a core.
_FEWEST_LANES, _SPARE_LANES = 4, 2

#: Computes the chunk of a number, in memory that no other thread uses.
Worker = Callable[[int], None]


def shares_chunks() -> bool:
    """Whether threads share each product instead of computing chunks of their own."""
    threads = torch.get_num_threads()
    return threads > 1 and (threads > MOST_THREADS or not cpu_threads.has_flat_openmp())


def thread_count(chunks: int) -> int:
    """How many threads are to compute chunks of their own."""
    return 1 if shares_chunks() else max(1, min(torch.get_num_threads(), chunks))


def lane_count(chunks: int, threads: int) -> int:
    """How many lanes there are: chunk i is in lane i mod the number of lanes."""
    return max(1, min(chunks, max(_FEWEST_LANES, threads + _SPARE_LANES)))


def run_workers(workers: Sequence[Worker], chunks: int, lanes: int) -> None:
    """Compute all chunks, those of a lane one after the other, in as many threads as workers.

    If a thread fails, the others stop after their chunk, and its error is raised here.
    """
    # The next chunk of each lane in which no thread is. One call of a heap's functions is atomic,
    # and no thread ever waits for another here: an exception at any place, such as that of Ctrl-C,
    # leaves nothing locked.
    free = list(range(lanes)) if chunks else []
    if len(workers) == 1:
        _work(workers[0], free, chunks, lanes, [])
        return
    unused, failures, finished = list(workers), list[BaseException](), list[int]()
    # These modes are a thread's own, as is the treatment of subnormal numbers by the processor.
    inference, flushes = torch.is_inference_mode_enabled(), _flushes_subnormal()

    def run(_: int) -> None:
        try:
            with torch.inference_mode() if inference else torch.no_grad():
                flushed = _flushes_subnormal()
                try:
                    if flushed != flushes:
                        torch.set_flush_denormal(flushes)
                    _work(unused.pop(), free, chunks, lanes, failures)
                finally:
                    if flushed != flushes:
                        torch.set_flush_denormal(flushed)
            finished.append(threading.get_ident())
        except BaseException as error:  # that of Ctrl-C too
            failures.append(error)

    cpu_threads.call_in_openmp(run, len(workers))
    if failures:
        error = next((e for e in failures if not isinstance(e, Exception)), failures[0])
        failures.clear()
        try:
            raise error
        finally:
            del error  # which holds this frame
    if threading.get_ident() not in finished:
        # A signal's handler raised before `run` began to catch; ctypes has printed the exception.
        raise KeyboardInterrupt


def _work(
    worker: Worker, free: list[int], chunks: int, lanes: int, failures: list[BaseException]
) -> None:
    """Compute chunks until no lane is free."""
    number = _popped(free)
    while number is not None and not failures:
        worker(number)
        # First another lane: the one that is furthest behind is not to stay with a slow thread.
        after, number = number + lanes, _popped(free)
        if after < chunks:
            if number is None:
                number = after
            else:
                heapq.heappush(free, after)


def _popped(free: list[int]) -> int | None:
    try:
        return heapq.heappop(free)
    except IndexError:
        return None


def _flushes_subnormal() -> bool:
    """Whether this thread computes 0 instead of subnormal numbers, see torch.set_flush_denormal."""
    return not torch.full((), 2.0**-126, dtype=torch.float32, device="cpu").mul_(0.5).item()
