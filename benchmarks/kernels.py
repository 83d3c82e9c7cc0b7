"""The kernels beside PyTorch, eager and compiled, and beside memory itself: time, memory, error.

    python benchmarks/kernels.py [time] [first] [memory] [plots]

Time: cross-entropy of logits, mean, forward alone and with the gradient (`torch.autograd.grad`),
for 2^5 to 2^24 elements; each figure is the median of rounds in which every contender ran in turn.
Targets of bool are converted for PyTorch, which does not take them. "Memory" reads what a pass must
read, and writes what it must write into memory that is there already. `torch.compile` compiles for
each size. "First" is the first call of a fresh process, without and with compiled kernels on disk.
Memory: the peak above what the inputs and the libraries take, for 2^24 elements, in a process each.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import _results
from torchbce.functional import binary_cross_entropy_with_logits as ours

SIZES = (5, 8, 10, 12, 16, 20, 24)
KINDS = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bool),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.bool),
]
CONTENDERS = ("torchbce", "PyTorch", "compiled", "memory")
#: Seconds that one contender runs in a round, and how many rounds.
ROUND, ROUNDS = 0.01, 21

PLOTS = Path(__file__).parent / "results"


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def eager(x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, y.to(x.dtype))


def inputs(n: int, dtype: torch.dtype, target: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(n, generator=generator) * 3).to(dtype)
    return x, (torch.rand(n, generator=generator) < 0.3).to(target)


def with_gradient(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> None:
    torch.autograd.grad(loss(x, y), x)


def floor(x: Tensor, y: Tensor, out: Tensor | None) -> None:
    """Read x and y; write `out`, of x's size."""
    words = torch.float32  # whose sum is vectorised, as that of integers is not
    if out is None:
        x.view(words).sum()
    else:
        out.view(words).copy_(x.view(words))
    y.view(words).sum()


# ---------------------------------------------------------------------------------------- time


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds a call of each, by rounds in turn."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(ROUND / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    slowest = max(repeats, key=lambda name: -repeats[name])
    rounds = ROUNDS if repeats[slowest] > 1 else 9
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_time() -> dict[str, Any]:
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "rows": []}
    for dtype, target in KINDS:
        for power in SIZES:
            x, y = inputs(2**power, dtype, target)
            z = x.clone().requires_grad_()
            out = torch.zeros_like(x)
            torch._dynamo.reset()
            compiled = torch.compile(eager, dynamic=False)
            for what in ("forward", "forward + backward"):
                calls: dict[str, Callable[[], object]] = {}
                for name, loss in (("torchbce", ours), ("PyTorch", eager), ("compiled", compiled)):
                    if what == "forward":
                        calls[name] = functools.partial(loss, x, y)
                    else:
                        calls[name] = functools.partial(with_gradient, loss, z, y)
                calls["memory"] = functools.partial(floor, x, y, None if what == "forward" else out)
                row = {
                    "input": named(dtype),
                    "target": named(target),
                    "n": 2**power,
                    "what": what,
                    "microseconds": {k: round(v * 1e6, 2) for k, v in medians(calls).items()},
                }
                results["rows"].append(row)
                print(row, flush=True)
    return results


def time_table(results: dict[str, Any]) -> str:
    """Ratios of PyTorch's and the compiler's time, and of memory's, to that of torchbce."""
    head = [
        "input, target",
        "n",
        "forward",
        "compiled",
        "memory",
        "+ backward",
        "compiled",
        "memory",
    ]
    cells: dict[tuple[str, int], list[str]] = {}
    for row in results["rows"]:
        ours_took = row["microseconds"]["torchbce"]
        key = (f"{row['input']}, {row['target']}", row["n"])
        cells.setdefault(key, []).extend(
            f"{row['microseconds'][name] / ours_took:.2f}" for name in CONTENDERS[1:]
        )
    rows = [[kind, f"2^{n.bit_length() - 1}", *values] for (kind, n), values in cells.items()]
    return _results.markdown(head, rows)


# ------------------------------------------------------------------------------ the first call

FIRST = """
import time, torch
x, y = torch.zeros(8, requires_grad=True), torch.ones(8)
import torchbce
start = time.perf_counter()
torchbce.BCEWithLogitsLoss()(x, y).backward()
print(time.perf_counter() - start)
"""


def first_call(cache: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", FIRST],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure_first() -> dict[str, float]:
    cold, warm = [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_call(cache))
            warm.append(first_call(cache))
    found = {"cold": statistics.median(cold), "warm": statistics.median(warm)}
    print(found, flush=True)
    return found


# -------------------------------------------------------------------------------------- memory

MEMORY = """
import sys, torch
sys.path.insert(0, {folder!r})
import kernels as b
dtype, target = getattr(torch, sys.argv[1]), getattr(torch, sys.argv[2])
loss = {{"torchbce": b.ours, "PyTorch": b.eager, "compiled": torch.compile(b.eager)}}[sys.argv[3]]
backward = sys.argv[4] != "forward"

def step(n):
    x, y = b.inputs(n, dtype, target)
    x.requires_grad_(backward)
    before = b.resident(reset=True)
    if backward:
        gradient = torch.autograd.grad(loss(x, y), x)
    else:
        loss(x, y)
    return b.resident("VmHWM") - before

for _ in range(2):
    step(2**16)  # whatever the first calls load
print(step(2**24))
"""


def resident(field: str = "VmRSS", reset: bool = False) -> int:
    """Bytes that this process has in memory; or had, at most, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field)
    )


def measure_memory() -> list[dict[str, Any]]:
    rows = []
    folder = str(Path(__file__).parent)
    for dtype, target in KINDS[:3:2]:
        for what in ("forward", "forward + backward"):
            peaks = {}
            for name in CONTENDERS[:3]:
                done = subprocess.run(
                    [
                        sys.executable,
                        "-c",
                        MEMORY.format(folder=folder),
                        named(dtype),
                        named(target),
                        name,
                        what,
                    ],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                peaks[name] = int(done.stdout)
            gradient = 2**24 * dtype.itemsize
            rows.append({"input": named(dtype), "what": what, "gradient": gradient, "peak": peaks})
            print(rows[-1], flush=True)
    return rows


def memory_table(rows: list[dict[str, Any]]) -> str:
    head = ["input", "what", "gradient", *(f"{name}, peak" for name in CONTENDERS[:3])]
    return _results.markdown(
        head,
        [
            [
                row["input"],
                row["what"],
                f"{row['gradient'] / 2**20:.0f} MiB" if "backward" in row["what"] else "-",
                *(f"{row['peak'][name] / 2**20:.1f} MiB" for name in CONTENDERS[:3]),
            ]
            for row in rows
        ],
    )


# ------------------------------------------------------------------------------------ in README


def summary(results: dict[str, Any]) -> str:
    """The goals, for float32 logits and targets, and whether they are reached."""
    rows = []

    def took(power: int, what: str, dtype: str = "float32") -> dict[str, float]:
        return next(
            dict(row["microseconds"])
            for row in results["time"]["rows"]
            if (row["n"], row["what"], row["input"], row["target"])
            == (2**power, what, dtype, dtype)
        )

    def ratio(power: int, peer: str, goal: float) -> None:
        times = took(power, "forward + backward")
        value = times[peer] / times["torchbce"]
        named = "PyTorch" if peer == "PyTorch" else "compiled PyTorch"
        rows.append(
            [
                f"loss and gradient of 2^{power} float32 logits, beside {named}",
                f"{value:.1f} times as fast",
                f">= {goal:g} times",
                "yes" if value >= goal else "**no**",
            ]
        )

    ratio(24, "PyTorch", 8)
    ratio(24, "compiled", 3)
    ratio(20, "PyTorch", 4)
    for what in ("forward", "forward + backward"):
        small = [took(power, what) for power in SIZES if power <= 12]
        worst = max(times["torchbce"] / times["PyTorch"] for times in small)
        rows.append(
            [
                f"{what} of 2^5 to 2^12, the slowest beside PyTorch",
                f"{worst:.2f} times its time",
                "<= 1.1 times",
                "yes" if worst <= 1.1 else "**no**",
            ]
        )
    for row in results["memory"]:
        if row["input"] == "float32":
            peak = row["peak"]["torchbce"]
            backward = "backward" in row["what"]
            value = peak / row["gradient"] if backward else peak / 2**20
            limit = 1.05 if backward else 1
            rows.append(
                [
                    f"peak memory above the inputs, {row['what']} of 2^24",
                    f"{value:.2f} times the gradient" if backward else f"{value:.2f} MiB",
                    "<= 1.05 times" if backward else "< 1 MiB",
                    "yes" if value <= limit else "**no**",
                ]
            )
    for name, words, limit in (("warm", "kernels on disk", 1.5), ("cold", "nothing on disk", 5)):
        value = results["first"][name]
        rows.append(
            [
                f"first call of a process, {words}",
                f"{value:.1f} s",
                f"<= {limit:g} s",
                "yes" if value <= limit else "**no**",
            ]
        )
    return _results.markdown(["what", "measured", "goal", "reached"], rows)


def draw_time(results: dict[str, Any]) -> None:
    import altair as alt
    import polars as pl

    rows = [
        {
            "n": row["n"],
            "what": row["what"],
            "who": {"compiled": "PyTorch, compiled", "memory": "reading and writing"}.get(who, who),
            "nanoseconds": microseconds * 1000 / row["n"],
        }
        for row in results["rows"]
        if row["input"] == row["target"] == "float32"
        for who, microseconds in row["microseconds"].items()
    ]
    order = ["PyTorch", "PyTorch, compiled", "torchbce", "reading and writing"]
    colours = ["#d95f02", "#e6ab02", "#1b6ca8", "#999999"]
    chart = (
        alt.Chart(pl.DataFrame(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("n:Q").scale(type="log", base=2).title("elements (float32)"),
            y=alt.Y("nanoseconds:Q").scale(type="log").title("nanoseconds an element"),
            color=alt.Color("who:N").sort(order).scale(domain=order, range=colours).title(None),
            column=alt.Column("what:N").title(None),
        )
        .properties(width=330, height=260)
    )
    chart.save(str(PLOTS / "kernels-time.png"), scale_factor=2)


def draw_error() -> None:
    """The relative error of loss and gradient for y = 0 over the logits of float32."""
    import altair as alt
    import polars as pl

    x = torch.linspace(-105, 105, 1401)
    y = torch.zeros_like(x)
    wide = x.double()
    true = {"loss": F.softplus(wide, threshold=1000), "gradient": torch.sigmoid(wide)}
    rows = []
    for who, loss in (("PyTorch", F.binary_cross_entropy_with_logits), ("torchbce", ours)):
        z = x.clone().requires_grad_()
        values = loss(z, y, reduction="none")
        found = {"loss": values.detach(), "gradient": torch.autograd.grad(values.sum(), z)[0]}
        for what, value in found.items():
            error = (value.double() - true[what]).abs() / true[what]
            # A line through zeros has no place on a logarithmic axis.
            for logit, e in zip(x.tolist(), error.clamp(min=1e-9).tolist(), strict=True):
                rows.append({"logit": logit, "error": e, "who": who, "what": what})
    order, colours = ["PyTorch", "torchbce"], ["#d95f02", "#1b6ca8"]
    chart = (
        alt.Chart(pl.DataFrame(rows))
        .mark_line(strokeWidth=1.2)
        .encode(
            x=alt.X("logit:Q").title("logit of a negative (float32)"),
            y=alt.Y("error:Q")
            .scale(type="log", domain=[1e-9, 2])
            .axis(format=".0e", values=[1e-8, 1e-6, 1e-4, 1e-2, 1])
            .title("relative error"),
            color=alt.Color("who:N").sort(order).scale(domain=order, range=colours).title(None),
            column=alt.Column("what:N").sort(["loss", "gradient"]).title(None),
        )
        .properties(width=330, height=260)
    )
    chart.save(str(PLOTS / "kernels-error.png"), scale_factor=2)


MEASURES: dict[str, Callable[[], Any]] = {
    "time": measure_time,
    "first": measure_first,
    "memory": measure_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*MEASURES, "plots"]))
    names = parser.parse_args().names or [*MEASURES, "plots"]
    results = _results.load("kernels")
    for name, measure in MEASURES.items():
        if name in names:
            results[name] = measure()
    _results.save("kernels", results, summary(results))
    _results.insert("kernels-time", time_table(results["time"]), "docs/kernels.md")
    _results.insert("kernels-memory", memory_table(results["memory"]), "docs/kernels.md")
    if "plots" in names:
        draw_time(results["time"])
        draw_error()


if __name__ == "__main__":
    main()
