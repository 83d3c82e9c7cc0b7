"""Timing: all contenders in each round, and the median over rounds of each."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Call = Callable[[], object]


@dataclass(frozen=True)
class Rounds:
    """How many rounds to time.

    Attributes:
        fewest: rounds that are timed however long they take.
        most: rounds that are timed at most.
        seconds: no further round starts after this time, once `fewest` are done.
    """

    fewest: int
    most: int
    seconds: float


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and the seconds that it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def interleaved_medians(
    calls: Mapping[str, Call], rounds: Rounds, sample_seconds: float = 0.0
) -> dict[str, float]:
    """Median seconds per call of each contender.

    Each round runs every contender once, so that a change in the load of the machine affects all
    of them alike.

    Args:
        calls: what to time, by contender.
        rounds: how many rounds to time.
        sample_seconds: a contender is called repeatedly until one sample takes about this long; 0
            times single calls, without a warm-up.
    """
    repeats = {name: _calls_per_sample(call, sample_seconds) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for number in range(1, rounds.most + 1):
        for name, call in calls.items():
            _, seconds = timed(functools.partial(_repeat, call, repeats[name]))
            samples[name].append(seconds / repeats[name])
        if number >= rounds.fewest and time.perf_counter() - start > rounds.seconds:
            break
    return {name: statistics.median(values) for name, values in samples.items()}


def _repeat(call: Call, count: int) -> None:
    for _ in range(count):
        call()


def _calls_per_sample(call: Call, sample_seconds: float) -> int:
    if not sample_seconds:
        return 1
    call()  # compiles and allocates
    _, seconds = timed(call)
    return max(1, round(sample_seconds / seconds))
