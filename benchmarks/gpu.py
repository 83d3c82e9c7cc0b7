"""The losses on a GPU beside PyTorch, eager and compiled, a device copy, and bare products.

    PYTHONPATH=src python benchmarks/gpu.py [--name NAME]
    PYTHONPATH=src python benchmarks/gpu.py --show  # the tables of docs/gpu.md from saved results

Needs torch, triton and numpy alone. Every time is a median of samples between CUDA events, in
rounds in which each contender ran in turn, with the L2 cache written over before each sample. What
the goals ask for is measured first; once the budget is spent no row begins, and the rest stays "not
yet measured". Without a GPU all of it does.
"""

import argparse
import datetime
import functools
import gc
import json
import math
import re
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

import _results
import torchbce
from torchbce import functional

DEVICE = "cuda"
COMMAND = "make gpu-bench"
NOT_YET, OUT, FAILED = "not yet measured", "out of memory", "failed"

#: Seconds from the start after which no row begins.
BUDGET = 450.0
SAMPLES, LINEAR_SAMPLES, WARM_UPS = 21, 9, 3
#: Seconds of a sample at least: calls are repeated until it takes as long.
SAMPLE = 1e-3
#: Bytes, several times those of an L2 cache.
FLUSH = 256 * 2**20

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORWARD, BACKWARD = "forward", "forward + backward"
#: Powers of two: of elements, of those that there are goals for, of the other losses'.
POWERS, GOAL_POWER, LOSS_POWER = (20, 22, 24, 26, 28, 30), 28, 26
#: Rows, width and labels.
SHAPES = ((4096, 4096, 131_072), (1024, 768, 1_000_000))
POSITIVES = 5

#: Seconds or bytes; or why there are none.
Cell = float | str
Row = dict[str, Any]
Loss = Callable[[Tensor, Tensor], Tensor]
Call = Callable[[], object]
T = TypeVar("T")

OURS, EAGER, COMPILED, COPY, PRODUCTS = "torchbce", "PyTorch", "compiled", "copy", "products"


def clean() -> None:
    """Give back what nothing refers to."""
    gc.collect()
    torch.cuda.empty_cache()


def attempt(measure: Callable[[], T]) -> T | str:
    """What it returns; or why it did not, so that the others are measured all the same."""
    try:
        return measure()
    except Exception as error:
        # The compiler wraps what its kernels raise.
        if isinstance(error, torch.cuda.OutOfMemoryError) or OUT in str(error).lower():
            reason = OUT
        else:
            traceback.print_exc()
            reason = f"{FAILED}: {type(error).__name__}"
    clean()  # not before the error is gone, whose frames hold tensors
    return reason


@functools.cache
def flushing() -> Tensor:
    return torch.empty(FLUSH, dtype=torch.uint8, device=DEVICE)


Events = tuple[torch.cuda.Event, torch.cuda.Event]


def event() -> torch.cuda.Event:
    made: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return made


def sample(call: Call, repeats: int) -> Events:
    """Two events around the calls; nothing waits for them."""
    start, end = event(), event()
    flushing().zero_()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    return start, end


def elapsed(events: Events) -> float:
    """Seconds, once all that is queued is done."""
    torch.cuda.synchronize()
    start, end = events
    return float(start.elapsed_time(end)) / 1e3


def warmed(call: Call) -> int:
    """How many calls make a sample."""
    for _ in range(WARM_UPS):
        call()
    repeats = 1
    for _ in range(5):
        took = max(elapsed(sample(call, repeats)), 1e-7)
        if took >= SAMPLE:
            break
        repeats = math.ceil(1.2 * repeats * SAMPLE / took)
    return repeats


def medians(calls: dict[str, Call], samples: int) -> dict[str, Cell]:
    """Seconds a call of each, by rounds in turn."""
    found: dict[str, Cell] = {}
    repeats: dict[str, int] = {}
    events: dict[str, list[Events]] = {}
    for name, call in calls.items():
        count = attempt(functools.partial(warmed, call))
        if isinstance(count, str):
            found[name] = count
        else:
            repeats[name], events[name] = count, []
    for _ in range(samples):
        for name in [name for name in repeats if name not in found]:
            pair = attempt(functools.partial(sample, calls[name], repeats[name]))
            if isinstance(pair, str):
                found[name] = pair
            else:
                events[name].append(pair)
    for name in repeats:
        if name not in found:
            found[name] = statistics.median(map(elapsed, events[name])) / repeats[name]
    return found


def extra(call: Callable[[], Sequence[Tensor]], target: Tensor | None) -> float:
    """Bytes at the peak above the inputs and what is returned; the target is in them."""
    call()  # what the libraries take for good
    clean()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients = call()
    peak = torch.cuda.max_memory_allocated() - before
    of_target = 0 if target is None else target.nbytes
    return float(peak - sum(gradient.nbytes for gradient in gradients) + of_target)


def with_gradient(loss: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(x, y), x)


def eager(x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, y)


def memory_of(n: int, dtype: torch.dtype) -> Tensor:
    """Logits and targets, [2, n]."""
    both = torch.empty(2, n, dtype=dtype, device=DEVICE)
    both[0].normal_(0, 3)
    both[1].bernoulli_(0.3)
    return both


def moved(row: Row) -> int:
    """Bytes that must move: logits and targets are read, the gradient is written."""
    item = DTYPES[row["dtype"]].itemsize
    return int((3 if row["what"] == BACKWARD else 2) * item * 2 ** row["power"])


def copied(both: Tensor, size: int) -> Call:
    """A copy that moves as many bytes: it reads half of them and writes half."""
    source = both.view(-1).view(torch.uint8)[: size // 2]
    return lambda: torch.empty_like(source).copy_(source)


def calls_of(losses: dict[str, Loss], row: Row, both: Tensor) -> dict[str, Call]:
    x, y = both.unbind()
    calls: dict[str, Call] = {}
    for name, loss in losses.items():
        if row["what"] == BACKWARD:
            calls[name] = functools.partial(with_gradient, loss, x.detach().requires_grad_(), y)
        else:
            calls[name] = functools.partial(loss, x, y)
    calls[COPY] = copied(both, moved(row))
    return calls


def measure_elementwise(row: Row) -> None:
    torch._dynamo.reset()  # else it ceases to compile after some sizes
    both = memory_of(2 ** row["power"], DTYPES[row["dtype"]])
    losses: dict[str, Loss] = {
        OURS: functional.binary_cross_entropy_with_logits,
        EAGER: eager,
        COMPILED: torch.compile(eager, dynamic=False),
    }
    row["seconds"].update(medians(calls_of(losses, row, both), SAMPLES))


def eager_focal(x: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(x)
    p_t = p * y + (1 - p) * (1 - y)
    alpha_t = 0.25 * y + 0.75 * (1 - y)
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    return (alpha_t * (1 - p_t) ** 2 * ce).mean()


def eager_asymmetric(x: Tensor, y: Tensor) -> Tensor:
    positive = torch.sigmoid(x)
    negative = (1 - positive + 0.05).clamp(max=1)
    ce = y * positive.clamp(min=1e-8).log() + (1 - y) * negative.clamp(min=1e-8).log()
    p_t = positive * y + negative * (1 - y)
    return -(ce * (1 - p_t) ** (1 * y + 4 * (1 - y))).mean()


def eager_poly(x: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(x)
    p_t = p * y + (1 - p) * (1 - y)
    return (F.binary_cross_entropy_with_logits(x, y, reduction="none") + (1 - p_t)).mean()


def eager_log_probs(x: Tensor, y: Tensor) -> Tensor:
    return -(y * x + (1 - y) * torch.log(-torch.expm1(x))).mean()


#: Ours, the ordinary formula, and what makes its input of logits.
LOSSES: dict[str, tuple[Loss, Loss, Callable[[Tensor], Tensor] | None]] = {
    "focal": (functools.partial(functional.sigmoid_focal_loss, alpha=0.25), eager_focal, None),
    "asymmetric": (functional.asymmetric_loss, eager_asymmetric, None),
    "poly": (functional.poly_binary_cross_entropy, eager_poly, None),
    "probabilities": (functional.binary_cross_entropy, F.binary_cross_entropy, torch.sigmoid),
    "log-probabilities": (
        functional.binary_cross_entropy_with_log_probs,
        eager_log_probs,
        F.logsigmoid,
    ),
}


def measure_loss(row: Row) -> None:
    ours, peer, made_by = LOSSES[row["loss"]]
    both = memory_of(2 ** row["power"], DTYPES[row["dtype"]])
    if made_by is not None:
        both[0].copy_(made_by(both[0]))
    row["seconds"].update(medians(calls_of({OURS: ours, EAGER: peer}, row, both), SAMPLES))


def ours_linear(x: Tensor, w: Tensor, positives: Tensor) -> Tensor:
    return torchbce.linear_binary_cross_entropy(x, w, positives)


def eager_linear(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(F.linear(x, w), y)


def gradients_of(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, w: Tensor, target: Tensor
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(x, w, target), (x, w))


def forward_alone(x: Tensor, w: Tensor, positives: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        ours_linear(x, w, positives)
    return ()


def products(x: Tensor, w: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Those of logits and both gradients; the logits stand for their gradient."""
    d_w, d_x = torch.empty_like(w), torch.empty_like(x)
    for start in range(0, len(w), chunk):
        part = w[start : start + chunk]
        z = torch.mm(part, x.T)
        if start == 0:
            torch.mm(z.T, part, out=d_x)
        else:
            d_x.addmm_(z.T, part)
        torch.mm(z, x, out=d_w[start : start + chunk])
    return d_x, d_w


def fitting_products(x: Tensor, w: Tensor) -> tuple[int, Cell]:
    """The most labels a chunk, of all and halves of them, with which they fit, and their memory."""
    chunk = len(w)
    while True:
        call = functools.partial(products, x, w, chunk)
        found = attempt(functools.partial(extra, call, None))
        if found != OUT or chunk <= 1024:
            return chunk, found
        chunk = -(-chunk // 2)


def lists_of_positives(rows: int, labels: int) -> Tensor:
    """Half of the rows have one positive fewer."""
    positives = torch.randint(labels, (rows, POSITIVES), device=DEVICE)
    positives[::2, -1] = -1
    return positives


def dense(positives: Tensor, labels: int, dtype: torch.dtype) -> Tensor:
    y = torch.zeros(len(positives), labels, dtype=dtype, device=DEVICE)
    row, place = (positives >= 0).nonzero(as_tuple=True)
    y[row, positives[row, place]] = 1
    return y


def measure_linear(row: Row) -> None:
    torch._dynamo.reset()
    rows, width, labels = row["shape"]
    x = torch.randn(rows, width, dtype=torch.bfloat16, device=DEVICE)
    w = torch.empty(labels, width, dtype=torch.bfloat16, device=DEVICE)
    w.normal_(0, width**-0.5)
    head = x.detach().requires_grad_(), w.detach().requires_grad_()
    positives = lists_of_positives(rows, labels)
    y = attempt(lambda: dense(positives, labels, x.dtype))

    row["extra"][FORWARD] = attempt(
        lambda: extra(lambda: forward_alone(x, w, positives), positives)
    )
    row["chunk"], row["extra"][PRODUCTS] = fitting_products(x, w)
    calls: dict[str, Call] = {}
    contenders = {
        OURS: (ours_linear, positives),
        EAGER: (eager_linear, y),
        COMPILED: (torch.compile(eager_linear, dynamic=False), y),
    }
    for name, (loss, target) in contenders.items():
        if isinstance(target, str):
            row["seconds"][name] = row["extra"][name] = target
            continue
        call = functools.partial(gradients_of, loss, *head, target)
        row["extra"][name] = attempt(functools.partial(extra, call, target))
        calls[name] = call
    calls[PRODUCTS] = functools.partial(products, x, w, row["chunk"])
    row["seconds"].update(medians(calls, LINEAR_SAMPLES))


def unmeasured(*names: str) -> dict[str, Cell]:
    return dict.fromkeys(names, NOT_YET)


def plan() -> dict[str, Any]:
    """All rows, none of them measured."""
    names = ("card", "memory", "driver", "CUDA", "PyTorch", "Triton", "date")
    return {
        "header": {**unmeasured(*names), "card": "none"},
        "elementwise": [
            {
                "dtype": dtype,
                "power": power,
                "what": what,
                "seconds": unmeasured(OURS, EAGER, COMPILED, COPY),
            }
            for dtype in DTYPES
            for what in (FORWARD, BACKWARD)
            for power in POWERS
        ],
        "losses": [
            {
                "loss": loss,
                "dtype": dtype,
                "power": LOSS_POWER,
                "what": BACKWARD,
                "seconds": unmeasured(OURS, EAGER, COPY),
            }
            for loss in LOSSES
            for dtype in DTYPES
        ],
        "linear": [
            {
                "shape": list(shape),
                "chunk": None,
                "seconds": unmeasured(OURS, PRODUCTS, EAGER, COMPILED),
                "extra": unmeasured(OURS, PRODUCTS, EAGER, COMPILED, FORWARD),
            }
            for shape in SHAPES
        ],
    }


def is_goal(row: Row) -> bool:
    return bool(row["power"] == GOAL_POWER and row["what"] == BACKWARD)


def in_order(results: dict[str, Any]) -> list[tuple[Callable[[Row], None], Row]]:
    """The rows that there are goals for, then tables by what they cost."""
    grid = results["elementwise"]
    others = sorted((row for row in grid if not is_goal(row)), key=lambda row: -row["power"])
    return [
        *((measure_elementwise, row) for row in grid if is_goal(row)),
        *((measure_linear, row) for row in results["linear"]),
        *((measure_loss, row) for row in results["losses"]),
        *((measure_elementwise, row) for row in others),
    ]


def measure(function: Callable[[Row], None], row: Row) -> None:
    """Fill in a row, with the reason where there is nothing else to be said."""
    clean()
    reason = attempt(lambda: function(row))
    if isinstance(reason, str):
        for cells in (row["seconds"], row.get("extra", {})):
            cells.update({name: reason for name, cell in cells.items() if cell == NOT_YET})


def driver() -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.split("\n")[0].strip()


def header() -> dict[str, str]:
    import triton  # which is not everywhere where there is no GPU

    return {
        "card": torch.cuda.get_device_name(),
        "memory": f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB",
        "driver": driver(),
        "CUDA": str(torch.version.cuda),
        "PyTorch": str(torch.__version__),
        "Triton": str(triton.__version__),
        "date": datetime.date.today().isoformat(),
    }


def shown(cell: Cell, words: Callable[[float], str]) -> str:
    return cell if isinstance(cell, str) else words(cell)


def over(a: Cell, b: Cell) -> Cell:
    """a / b, or why there is none."""
    if isinstance(a, str):
        return a
    return b if isinstance(b, str) else a / b


def times(value: float) -> str:
    return f"{value:.2f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def megabytes(value: float) -> str:
    return f"{value / 1e6:,.1f} MB"


def milliseconds(value: float) -> str:
    return f"{value * 1e3:,.3f} ms"


def rate(row: Row, name: str) -> Cell:
    """Bytes a second."""
    return over(float(moved(row)), row["seconds"][name])


def gigabytes(value: float) -> str:
    return f"{value / 1e9:,.0f}"


def least(what: str, value: Cell, words: Callable[[float], str], goal: float) -> list[str]:
    """A row of what has to be as much as the goal, a share below 1."""
    limit = f">= {goal:.0%}".replace("%", " %") if goal < 1 else f">= {goal:g} times"
    return judged(what, value, words, limit, lambda found: found >= goal)


def judged(
    what: str,
    value: Cell,
    words: Callable[[float], str],
    limit: str,
    reached: Callable[[float], bool],
) -> list[str]:
    if isinstance(value, str):
        return [what, value, limit, NOT_YET if value == NOT_YET else "-"]
    return [what, words(value), limit, "yes" if reached(value) else "**no**"]


def elementwise_goals(row: Row) -> list[list[str]]:
    seconds = row["seconds"]
    where = f"{row['what']} of 2^{row['power']} {row['dtype']} logits"
    of_copy, of_eager = over(seconds[COPY], seconds[OURS]), over(seconds[EAGER], seconds[OURS])
    return [
        least(f"{where}: share of a device copy's bandwidth", of_copy, percent, 0.85),
        least(f"{where}: as fast as eager PyTorch", of_eager, lambda v: f"{v:.2f} times", 3),
    ]


def named(shape: Sequence[int]) -> str:
    rows, width, labels = shape
    return f"B = {rows:,}, D = {width:,}, L = {labels:,}"


def linear_goals(row: Row) -> list[list[str]]:
    where = f"linear + cross-entropy, bfloat16, {named(row['shape'])}"
    share = over(row["seconds"][PRODUCTS], row["seconds"][OURS])
    rows = [least(f"{where}: share of the rate of the three bare products", share, percent, 0.7)]
    for what, name in (("extra memory", OURS), ("extra memory of forward alone", FORWARD)):
        found = row["extra"][name]
        rows.append(
            judged(f"{where}: {what}", found, megabytes, "< 1 GB", lambda found: found < 1e9)
        )
    return rows


def goals_table(results: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    for row in filter(is_goal, results["elementwise"]):
        rows += elementwise_goals(row)
    for row in results["linear"]:
        rows += linear_goals(row)
    return _results.markdown(["what", "measured", "goal", "reached"], rows)


def by_bandwidth(row: Row, peers: Sequence[str]) -> list[str]:
    """Time, rate, share of a copy's, and how many times the peers' time is ours."""
    seconds = row["seconds"]
    return [
        shown(seconds[OURS], milliseconds),
        shown(rate(row, OURS), gigabytes),
        shown(rate(row, COPY), gigabytes),
        shown(over(seconds[COPY], seconds[OURS]), percent),
        *(shown(over(seconds[name], seconds[OURS]), times) for name in peers),
    ]


RATES = ("time", "GB/s", "copy, GB/s", "share of the copy")


def elementwise_table(results: dict[str, Any]) -> str:
    head = ["dtype", "what", "n", *RATES, "as fast as eager", "as fast as compiled"]
    return _results.markdown(
        head,
        [
            [
                row["dtype"],
                row["what"],
                f"2^{row['power']}",
                *by_bandwidth(row, (EAGER, COMPILED)),
            ]
            for row in results["elementwise"]
        ],
    )


def losses_table(results: dict[str, Any]) -> str:
    return _results.markdown(
        ["loss", "dtype", *RATES, "as fast as eager"],
        [[row["loss"], row["dtype"], *by_bandwidth(row, (EAGER,))] for row in results["losses"]],
    )


def linear_table(results: dict[str, Any]) -> str:
    rows = []
    for row in results["linear"]:
        b, d, labels = row["shape"]
        seconds, memory, chunk = row["seconds"], row["extra"], row["chunk"]
        pieces = {None: "", labels: ", in one piece"}.get(chunk, f", by chunks of {chunk} labels")
        for name, words in (
            (OURS, "torchbce"),
            (PRODUCTS, f"three bare products{pieces}"),
            (EAGER, "eager PyTorch"),
            (COMPILED, "compiled PyTorch"),
        ):
            rows.append(
                [
                    named(row["shape"]),
                    words,
                    shown(seconds[name], milliseconds),
                    shown(over(6.0 * b * d * labels / 1e12, seconds[name]), lambda v: f"{v:,.0f}"),
                    shown(over(seconds[PRODUCTS], seconds[name]), percent),
                    shown(memory[name], megabytes),
                ]
            )
        alone = shown(memory[FORWARD], megabytes)
        rows.append([named(row["shape"]), "torchbce, forward alone", "-", "-", "-", alone])
    return _results.markdown(
        ["sizes", "what", "time", "TFLOP/s", "share of the products' rate", "extra memory"], rows
    )


def document(results: dict[str, Any]) -> str:
    head = results["header"]
    return f"""# On a GPU: {head["card"]}

{_results.markdown([*head, "made by"], [[*head.values(), f"`{COMMAND}`"]])}
## Goals

{goals_table(results)}
## Cross-entropy of logits

Mean; targets of the logits' dtype; the gradient is by the logits. Bytes are those that must move:
forward reads logits and targets, the backward pass adds the gradient that is written. The copy is
`dst.copy_(src)`, which reads half as many and writes half as many. "As fast as": how many times
ours the time of PyTorch is, eager and by `torch.compile`. Small sizes stay in the L2 cache while a
call is repeated within a sample, and the time that the host takes for a call counts.

{elementwise_table(results)}
## Other losses

Forward + backward of 2^{LOSS_POWER} elements, beside the same copy and, eager, the ordinary
formulas.

{losses_table(results)}
## Linear + cross-entropy

Loss and gradients by input and weight, bfloat16; targets of torchbce are lists of positives, int64
[B, {POSITIVES}] padded with -1, those of PyTorch dense bfloat16, whose making is not timed. The
bare products are W x^T, g^T W and g x, without a loss between them; TFLOP/s count these three
alone. Extra memory is the peak above input, weight and their gradients; the target, list or dense,
is in it.

{linear_table(results)}"""


def goals() -> str:
    """The goals by card, of all that were measured; or what is still to be measured."""
    names = sorted(path.stem for path in _results.RESULTS.glob("gpu-*.json"))
    measured = [name for name in names if name != "gpu-none"]
    found = [_results.load(name) for name in measured or names]
    parts = [f"{each['header']['card']}:\n\n{goals_table(each)}" for each in found if measured]
    return "\n".join(parts) if measured else goals_table(found[0])


def show() -> None:
    """Put the goals into the document."""
    _results.insert("gpu", goals(), "docs/gpu.md")


def save(name: str, results: dict[str, Any]) -> None:
    """Write the results and their tables."""
    _results.RESULTS.mkdir(exist_ok=True)
    path = _results.RESULTS / f"gpu-{name}"
    path.with_name(f"{path.name}.json").write_text(json.dumps(results, indent=2) + "\n")
    path.with_name(f"{path.name}.md").write_text(document(results))


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def has_failed(row: Row) -> bool:
    """Whether torchbce itself did."""
    cells = row["seconds"][OURS], *(row.get("extra", {}).get(name) for name in (OURS, FORWARD))
    return any(isinstance(cell, str) and cell.startswith(FAILED) for cell in cells)


def main() -> int:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", help="of the results; the card's if not given")
    parser.add_argument("--show", action="store_true", help="measure nothing, write docs/gpu.md")
    asked = parser.parse_args()
    if asked.show:
        show()
        return 0
    name, results = asked.name, plan()
    if not torch.cuda.is_available():
        save("none", results)
        show()
        print("There is no GPU here, so that nothing was measured.")
        return 0
    results["header"] = header()
    name = slug(name or torch.cuda.get_device_name())
    for function, row in in_order(results):
        if time.monotonic() - begin > BUDGET:
            print(f"no row begins after {BUDGET:.0f} s; the rest is {NOT_YET}")
            break
        measure(function, row)
        save(name, results)
        print(f"{time.monotonic() - begin:.0f} s", row, flush=True)
    show()
    print(goals_table(results))
    return int(any(has_failed(row) for _, row in in_order(results)))


if __name__ == "__main__":
    raise SystemExit(main())
