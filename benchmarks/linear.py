"""Linear + cross-entropy beside PyTorch's logits and dense targets: time, memory, error.

    python benchmarks/linear.py [grid] [reach] [error] [million] [tables]

Grid: loss and gradients by input, weight and bias, float32, with 20 positives a row: for torchbce a
list of them, for its peers a dense target, whose making is not timed. Each time is the median of
rounds in which every contender ran in turn, in a process for each size. Memory is the peak above
the input, weight, bias and their gradients, in a process for each size and contender, once the
libraries have what they take; targets are in it, lists as well as dense ones. Reach: beside the
three matrix products that there are no gradients without. Error: beside float64 from the same
rounded inputs. Million: the memory of a million labels, and of training them with a fused
optimiser. Waits at a barrier grow where other programs run on the same cores: leave the machine
alone.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import _results
import torchbce
from kernels import named, resident

DOCUMENT = "docs/linear.md"

ROWS, WIDTHS, LABELS = (64, 256, 1024), (128, 768), (1_000, 10_000, 131_072, 1_000_000)
POSITIVES = 20
CONTENDERS = ("torchbce", "eager", "compiled")
#: Bytes above which a dense contender is not run, and labels above which nothing is compiled, since
#: a compiled function computes the same products, with fewer passes over the logits.
LIMIT, COMPILED = 10 * 2**30, 131_072
#: Seconds after which no round begins, and the fewest and most rounds; fewer where one takes long.
SECONDS, FEWEST, MOST = 2.0, 5, 101
LONG, FEWEST_LONG = 2.0, 3

#: Rows, width and labels.
REACH = (256, 256, 131_072)
REACH_ROUNDS = 15

ERROR = (252, 123, 5_071)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SEEDS = 5
#: The gradient that comes in: that of a loss scale, without which float16 underflows everywhere.
SCALE = 2.0**15

#: Width and labels.
MILLION = (256, 1_000_000)
TRAINED_ROWS, STEPS = 256, 3


class Problem(NamedTuple):
    """A head with its input, and the positives of each row."""

    input: Tensor
    weight: Tensor
    bias: Tensor
    positives: Tensor

    @property
    def head(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.input, self.weight, self.bias


def problem(rows: int, width: int, labels: int, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    # The same ten thousand again and again: to draw a million takes longer than their loss.
    some = torch.randn(min(labels, 10_000), width, generator=generator) / width**0.5
    w = some.repeat(-(-labels // len(some)), 1)[:labels]
    b = torch.full((labels,), -5.0)
    positives = torch.randint(labels, (rows, POSITIVES), generator=generator)
    return Problem(x.requires_grad_(), w.requires_grad_(), b.requires_grad_(), positives)


def dense(positives: Tensor, labels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(len(positives), labels, dtype=dtype).scatter_(1, positives, 1)


#: Of input, weight, bias and target.
Loss = Callable[..., Tensor]


def ours(x: Tensor, w: Tensor, b: Tensor, target: Tensor) -> Tensor:
    return torchbce.linear_binary_cross_entropy(x, w, target, b)


def eager(x: Tensor, w: Tensor, b: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(F.linear(x, w, b), target)


def contender(name: str) -> Loss:
    if name == "compiled":
        compiled: Loss = torch.compile(eager, dynamic=False)
        return compiled
    return ours if name == "torchbce" else eager


def target_for(name: str, positives: Tensor, labels: int) -> Tensor:
    return positives.clone() if name == "torchbce" else dense(positives, labels)


def gradients(loss: Loss, head: Sequence[Tensor], target: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(*head, target), head)


# ------------------------------------------------------------------------- rounds and processes


def medians(calls: dict[str, Callable[[], object]], fewest: int = 0) -> dict[str, float]:
    """Seconds a call of each, by rounds in turn, so that all have the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for number in range(1, max(MOST, fewest) + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
        taken = time.perf_counter() - begin
        enough = fewest or (FEWEST_LONG if taken > number * LONG else FEWEST)
        if taken > SECONDS and number >= enough:
            break
    return {name: statistics.median(values) for name, values in seconds.items()}


IN_PROCESS = """
import importlib, json, sys
sys.path.insert(0, {folder!r})
found = getattr(importlib.import_module({module!r}), {function!r})(*json.loads(sys.argv[1]))
print(json.dumps(found))
"""


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function of a module of this folder returns in a process of its own."""
    module = Path(sys.modules[function.__module__].__file__ or "").stem
    code = IN_PROCESS.format(
        folder=str(Path(__file__).parent), module=module, function=function.__name__
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        # What is freed goes back to the system, and does not hide what is allocated after it.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        if function.__name__.startswith("peak")
        else None,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


#: Labels of the small problem with which the libraries get what they keep.
WARM = 4096


def peak_of_step(name: str, rows: int, width: int, labels: int) -> int:
    """Bytes at the peak of loss and gradients, with the target, without the gradients."""
    loss = contender(name)

    def step(p: Problem) -> int:
        before = resident(reset=True)
        target = target_for(name, p.positives, len(p.weight))
        found = gradients(loss, p.head, target)
        return resident("VmHWM") - before - sum(gradient.nbytes for gradient in found)

    # What is compiled is so for one size.
    for size in [labels] if name == "compiled" else [min(labels, WARM)] * 2:
        step(problem(rows, width, size))
    torchbce.empty_cache()  # else the last gradient's memory is counted as the next one's
    return step(problem(rows, width, labels))


def yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def size(bytes: float) -> str:
    return f"{bytes / 2**20:,.1f}"


def megabytes(bytes: float) -> str:
    return f"{bytes / 1e6:,.1f} MB"


# ---------------------------------------------------------------------------------------- grid


def need(rows: int, width: int, labels: int) -> int:
    """Bytes that a dense contender cannot do without: targets, logits, their gradient, weights."""
    return 4 * (3 * rows * labels + 2 * width * labels)


def contenders(rows: int, width: int, labels: int) -> list[str]:
    if need(rows, width, labels) > LIMIT:
        return ["torchbce"]
    return [name for name in CONTENDERS if name != "compiled" or labels <= COMPILED]


def seconds_of_steps(names: list[str], rows: int, width: int, labels: int) -> dict[str, float]:
    p, small = problem(rows, width, labels), problem(rows, width, min(labels, WARM))
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        loss = contender(name)
        target = target_for(name, p.positives, labels)
        calls[name] = functools.partial(gradients, loss, p.head, target)
        if name == "compiled":
            calls[name]()
        else:
            gradients(loss, small.head, target_for(name, small.positives, len(small.weight)))
    return medians(calls)


def measure_grid() -> dict[str, Any]:
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "rows": []}
    for rows in ROWS:
        for width in WIDTHS:
            for labels in LABELS:
                names, sizes = contenders(rows, width, labels), (rows, width, labels)
                row = {
                    "rows": rows,
                    "width": width,
                    "labels": labels,
                    "fits": need(*sizes) <= LIMIT,
                    "seconds": in_process(seconds_of_steps, names, *sizes),
                    "extra": {name: in_process(peak_of_step, name, *sizes) for name in names},
                }
                results["rows"].append(row)
                print(row, flush=True)
    return results


def grid_table(results: dict[str, Any]) -> str:
    head = ["B", "D", "L", "torchbce", "eager", "compiled"]
    head += [f"{name}, MiB" for name in CONTENDERS]
    rows = []
    for row in results["rows"]:
        seconds, extra = row["seconds"], row["extra"]
        none = "" if row["fits"] else "-"
        rows.append(
            [
                str(row["rows"]),
                str(row["width"]),
                f"{row['labels']:,}",
                f"{seconds['torchbce'] * 1000:,.1f} ms",
                *(
                    f"{seconds[name] / seconds['torchbce']:.2f}" if name in seconds else none
                    for name in CONTENDERS[1:]
                ),
                *(size(extra[name]) if name in extra else none for name in CONTENDERS),
            ]
        )
    said = (
        f"\nOn {results['threads']} threads. A dash: the dense form does not fit, since targets, "
        "logits, their gradient, the weight and its gradient alone are above "
        f"{LIMIT / 2**30:.0f} GiB. Left empty: not compiled, above {COMPILED:,} labels.\n"
    )
    return _results.markdown(head, rows) + said


# --------------------------------------------------------------------------------------- reach


def seconds_of_reach(rows: int, width: int, labels: int) -> dict[str, float]:
    p = problem(rows, width, labels)
    x, w = p.input.detach(), p.weight.detach()
    z, d_x, d_w = torch.zeros(rows, labels), torch.zeros_like(x), torch.zeros_like(w)

    def products() -> None:
        torch.mm(x, w.T, out=z)
        torch.mm(z, w, out=d_x)
        torch.mm(z.T, x, out=d_w)

    calls: dict[str, Callable[[], object]] = {
        "torchbce": functools.partial(gradients, ours, p.head, p.positives),
        "products": products,
    }
    for call in calls.values():
        call()
    return medians(calls, REACH_ROUNDS)


def measure_reach() -> dict[str, Any]:
    found = {
        "sizes": REACH,
        "seconds": in_process(seconds_of_reach, *REACH),
        "extra": in_process(peak_of_step, "torchbce", *REACH),
    }
    print(found, flush=True)
    return found


#: Of tables of what was to be reached.
GOALS = ("what", "measured", "goal", "reached")


def reach_rows(found: dict[str, Any]) -> list[list[str]]:
    rows, width, labels = found["sizes"]
    ratio = found["seconds"]["torchbce"] / found["seconds"]["products"]
    logits = 4 * rows * labels
    share = found["extra"] / logits
    where = f"B = {rows}, D = {width}, L = {labels:,}"
    return [
        [
            f"loss and gradients beside three matrix products, {where}",
            f"{ratio:.2f} times their {found['seconds']['products'] * 1000:,.0f} ms",
            "<= 1.15 times",
            yes(ratio <= 1.15),
        ],
        [
            "peak memory of that above the inputs and their gradients",
            f"{100 * share:.1f} % of the logits' {logits / 2**20:.0f} MiB",
            "<= 3 %",
            yes(share <= 0.03),
        ],
    ]


def reach_table(found: dict[str, Any]) -> str:
    return _results.markdown(GOALS, reach_rows(found))


# --------------------------------------------------------------------------------------- error


def outcome(loss: Loss, head: Sequence[Tensor], target: Tensor) -> list[Tensor]:
    """The loss and the gradients by input, weight and bias, in float64."""
    head = [tensor.detach().requires_grad_() for tensor in head]
    value = loss(*head, target)
    found = torch.autograd.grad(value, head, torch.full_like(value, SCALE))
    return [tensor.detach().double() for tensor in (value, *found)]


def relative_errors(found: Tensor, true: Tensor) -> tuple[float, float]:
    """The largest error to the largest value, and their root mean squares."""
    error = found - true
    largest = error.abs().max() / true.abs().max()
    return float(largest), float(error.square().mean().sqrt() / true.square().mean().sqrt())


def measure_error() -> dict[str, Any]:
    results: dict[str, Any] = {"sizes": ERROR, "seeds": SEEDS, "rows": []}
    for dtype in DTYPES:
        errors: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for seed in range(SEEDS):
            p = problem(*ERROR, seed=seed)
            head = [tensor.to(dtype) for tensor in p.head]
            full = dense(p.positives, ERROR[-1], torch.float64)
            true = outcome(eager, [tensor.double() for tensor in head], full)
            for name, loss, target in (
                ("torchbce", ours, p.positives),
                ("eager", eager, full.to(dtype)),
            ):
                values = outcome(loss, head, target)
                for what, value, right in zip(
                    ("loss", "input", "weight", "bias"), values, true, strict=True
                ):
                    errors.setdefault((what, name), []).append(relative_errors(value, right))
        for what in ("loss", "input", "weight", "bias"):
            row: dict[str, Any] = {"dtype": named(dtype), "of": what}
            for name in CONTENDERS[:2]:
                largest, rms = zip(*errors[what, name], strict=True)
                row[name] = {"largest": statistics.fmean(largest), "rms": statistics.fmean(rms)}
            results["rows"].append(row)
            print(row, flush=True)
            for kind in ("largest", "rms"):
                if row["torchbce"][kind] > row["eager"][kind]:
                    print(f"*** {named(dtype)} {what}: the {kind} error is above eager's")
    return results


def error_table(results: dict[str, Any]) -> str:
    head = ["dtype", "of"]
    for kind in ("largest", "rms"):
        head += [f"torchbce, {kind}", f"eager, {kind}"]
    rows = []
    for row in results["rows"]:
        cells = [row["dtype"], row["of"] if row["of"] == "loss" else f"gradient by {row['of']}"]
        for kind in ("largest", "rms"):
            one, other = row["torchbce"][kind], row["eager"][kind]
            cells.append(f"{one:.1e}" if one <= other else f"**{one:.1e}**")
            cells.append(f"{other:.1e}")
        rows.append(cells)
    return _results.markdown([*head], rows)


# ------------------------------------------------------------------------------------- million


BARE = """
import torch
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def bare() -> int:
    """The peak of a process that imports torch and nothing else."""
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, check=True)
    return 1024 * int(done.stdout)


def trained(optimizer: str, rows: int, width: int, labels: int) -> dict[str, float]:
    """The peak of a process that trains a head for some steps, and the seconds of each."""
    fused = {
        "FusedSGD": torchbce.FusedSGD,
        "FusedRowwiseAdagrad": torchbce.FusedRowwiseAdagrad,
    }[optimizer](lr=0.1)
    head = torchbce.LinearBCELoss(width, labels, fused_optimizer=fused)
    seconds = []
    for _ in range(STEPS):
        x = torch.randn(rows, width, requires_grad=True)  # as from the layers before
        positives = torch.randint(labels, (rows, POSITIVES))
        start = time.perf_counter()
        head(x, positives).backward()
        seconds.append(time.perf_counter() - start)
    return {"peak": resident("VmHWM"), "seconds": statistics.median(seconds)}


def measure_million() -> dict[str, Any]:
    width, labels = MILLION
    results: dict[str, Any] = {"sizes": MILLION, "extra": [], "bare": bare(), "trained": {}}
    for rows in (64, 1024):
        fits = need(rows, width, labels) <= LIMIT
        row = {
            "rows": rows,
            "torchbce": in_process(peak_of_step, "torchbce", rows, width, labels),
            # By arithmetic, where it does not fit: the least that a dense form can do with.
            "dense": in_process(peak_of_step, "eager", rows, width, labels)
            if fits
            else 3 * 4 * rows * labels,
            "measured": fits,
        }
        results["extra"].append(row)
        print(row, flush=True)
    for optimizer in ("FusedSGD", "FusedRowwiseAdagrad"):
        in_process(trained, optimizer, TRAINED_ROWS, width, 1000)  # kernels to disk
        found = in_process(trained, optimizer, TRAINED_ROWS, width, labels)
        results["trained"][optimizer] = found
        print(optimizer, found, flush=True)
    return results


def million_rows(results: dict[str, Any]) -> list[list[str]]:
    width, labels = results["sizes"]
    rows = []
    for row in results["extra"]:
        what = f"peak memory above the inputs and their gradients, B = {row['rows']}, D = {width}"
        what += f", L = {labels:,}"
        goal = row["rows"] == 64
        rows.append(
            [
                what,
                megabytes(row["torchbce"]),
                "< 64 MB" if goal else "",
                yes(row["torchbce"] < 64e6) if goal else "",
            ]
        )
        how = "" if row["measured"] else ": target, logits and their gradient, by arithmetic"
        rows.append([f"the same of the dense form{how}", megabytes(row["dense"]), "", ""])
    for name, found in results["trained"].items():
        above = found["peak"] - results["bare"]
        rows.append(
            [
                f"peak memory of a process that trains {labels:,} labels with {name}, B = "
                f"{TRAINED_ROWS}, above one that imports torch; the weight has "
                f"{4 * width * labels / 1e9:.2f} GB",
                f"{above / 1e9:.2f} GB; {found['seconds']:.1f} s a step",
                "<= 1.3 GB",
                yes(above <= 1.3e9),
            ]
        )
    return rows


def million_table(results: dict[str, Any]) -> str:
    return _results.markdown(GOALS, million_rows(results))


# ------------------------------------------------------------------------------------- summary


def summary() -> str:
    """What there were goals for, of what has been measured so far."""
    rows = []
    if reach := _results.load("linear_reach"):
        rows += reach_rows(reach)
    if million := _results.load("linear_million"):
        rows += [row for row in million_rows(million) if row[2]]
    if delicious := _results.load("delicious"):
        figures = delicious["heads"]["torchbce.LinearBCELoss"]
        rows.append(
            [
                "a linear head on the 983 tags of delicious: the share of rows whose best label is "
                "right",
                f"{figures['P@1']:.3f} in {figures['seconds']:.1f} s",
                f">= {delicious['goal']}",
                yes(figures["P@1"] >= delicious["goal"]),
            ]
        )
    return _results.markdown(GOALS, rows)


MEASURES: dict[str, tuple[str, Callable[[], Any], Callable[[Any], str]]] = {
    "grid": ("linear", measure_grid, grid_table),
    "reach": ("linear_reach", measure_reach, reach_table),
    "error": ("linear_error", measure_error, error_table),
    "million": ("linear_million", measure_million, million_table),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*MEASURES, "tables"]))
    names = parser.parse_args().names
    if unknown := set(names) - {*MEASURES, "tables"}:
        parser.error(f"no measure is called {', '.join(sorted(unknown))}")
    again = names == ["tables"]  # of what was measured before
    for name, (saved, measure, table) in MEASURES.items():
        if not names or again or name in names:
            results = _results.load(saved) if again else measure()
            _results.save(saved, results, table(results), DOCUMENT)
        _results.insert("linear_summary", summary())


if __name__ == "__main__":
    main()
