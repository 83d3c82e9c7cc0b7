"""The tables of the GPU's benchmarks in Markdown: results/gpu-NAME.md and those of docs/gpu.md."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import markdown, results
from common.markdown import Block, verdict
from gpu_cases import (
    COMPILED,
    COPY,
    EAGER,
    FORWARD,
    LOSS_POWER,
    NOT_MEASURED,
    OURS,
    POSITIVES,
    PRODUCTS,
    Row,
    bytes_moved,
    has_goal,
)
from gpu_timing import Cell

COMMAND, DOCUMENT = "make gpu-bench", "docs/gpu.md"
NOTHING = (
    "Nothing was measured on a GPU yet: on a machine that has one, `make gpu-check` runs the tests "
    "and\n`make gpu-bench` measures and writes its tables here.\n"
)
RATES = ("time", "GB/s", "GB/s of the copy", "share of the copy")


def save(name: str, found: dict[str, Any], copies: Path | None = None) -> None:
    """Write results/gpu-NAME.json and the report next to it, and copies to another folder."""
    for folder in (results.RESULTS, *([copies] if copies else [])):
        results.save(f"gpu-{name}", found, folder)
        (folder / f"gpu-{name}.md").write_text(document(found))


def show() -> None:
    """Write the tables of docs/gpu.md."""
    for block in blocks():
        markdown.insert(block)


def blocks() -> list[Block]:
    """The tables of docs/gpu.md."""
    return [
        Block("gpu", DOCUMENT, goals()),
        Block("gpu_code", DOCUMENT, markdown.table(**results.load("gpu_code"))),
        Block("gpu_host", DOCUMENT, markdown.table(**results.load("gpu_host"))),
    ]


def goals() -> str:
    """The goals of each card that was measured."""
    names = sorted(path.stem for path in results.RESULTS.glob("gpu-*.json"))
    measured = map(results.load, names)
    tables = [f"{each['header']['card']}:\n\n{goals_table(each)}" for each in measured]
    return "\n".join(tables) or NOTHING


def document(found: dict[str, Any]) -> str:
    head = found["header"]
    return f"""# On a GPU: {head["card"]}

{markdown.table([*head, "command"], [[*head.values(), f"`{COMMAND}`"]])}
## Goals

{goals_table(found)}
## Cross-entropy of logits

The mean; targets have the logits' dtype; the gradient is that of the logits. Bytes are those that
must move: the forward pass reads logits and targets, the backward pass also writes the gradient.
The copy, `dst.copy_(src)`, moves as many bytes: it reads half of them and writes half. The last
columns are PyTorch's time, eager and by `torch.compile`, over that of torchbce. Small tensors stay
in the L2 cache while a call is repeated within a sample, and their times contain the host's time
for a call.

{elementwise_table(found)}
## Other losses

Forward + backward of 2^{LOSS_POWER} elements, compared with the same copy and with the usual
formulas in eager PyTorch.

{losses_table(found)}
## Linear + cross-entropy

Loss and gradients of input and weight, in bfloat16. The targets of torchbce are lists of positives,
int64 [B, {POSITIVES}] padded with -1. Those of PyTorch are dense, in bfloat16; creating them is not
timed. The products are W x^T, g^T W and g x alone, without a loss; TFLOP/s count these three. Extra
memory is the peak above input, weight and their gradients; it contains the target.

{linear_table(found)}"""


def goals_table(found: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    for row in filter(has_goal, found["elementwise"]):
        rows += _elementwise_goals(row)
    for row in found["linear"]:
        rows += _linear_goals(row)
    return markdown.goals(rows)


def elementwise_table(found: dict[str, Any]) -> str:
    head = ["dtype", "pass", "n", *RATES, "eager / torchbce", "compiled / torchbce"]
    rows = [
        [row["dtype"], row["what"], f"2^{row['power']}", *_rates(row, (EAGER, COMPILED))]
        for row in found["elementwise"]
    ]
    return markdown.table(head, rows)


def losses_table(found: dict[str, Any]) -> str:
    return markdown.table(
        ["loss", "dtype", *RATES, "eager / torchbce"],
        [[row["loss"], row["dtype"], *_rates(row, (EAGER,))] for row in found["losses"]],
    )


def linear_table(found: dict[str, Any]) -> str:
    rows = []
    for row in found["linear"]:
        b, d, labels = row["shape"]
        seconds, memory, chunk = row["seconds"], row["extra"], row["chunk"]
        chunks = {None: "", labels: ", all labels at once"}.get(
            chunk, f", {chunk} labels at a time"
        )
        for name, label in (
            (OURS, "torchbce"),
            (PRODUCTS, f"three matrix products{chunks}"),
            (EAGER, "eager PyTorch"),
            (COMPILED, "compiled PyTorch"),
        ):
            rows.append(
                [
                    _sizes(row["shape"]),
                    label,
                    _shown(seconds[name], _milliseconds),
                    _shown(_ratio(6.0 * b * d * labels / 1e12, seconds[name]), "{:,.0f}".format),
                    _shown(_ratio(seconds[PRODUCTS], seconds[name]), _percent),
                    _shown(memory[name], _megabytes),
                ]
            )
        forward = _shown(memory[FORWARD], _megabytes)
        rows.append([_sizes(row["shape"]), "torchbce, forward only", "-", "-", "-", forward])
    return markdown.table(
        ["sizes", "contender", "time", "TFLOP/s", "share of the products' rate", "extra memory"],
        rows,
    )


def _elementwise_goals(row: Row) -> list[list[str]]:
    seconds = row["seconds"]
    what = f"{row['what']} of 2^{row['power']} {row['dtype']} logits"
    share, speed = _ratio(seconds[COPY], seconds[OURS]), _ratio(seconds[EAGER], seconds[OURS])
    return [
        _goal(
            f"{what}: share of a device copy's bandwidth",
            share,
            _percent,
            ">= 85 %",
            lambda value: value >= 0.85,
        ),
        _goal(
            f"{what}: eager PyTorch's time / torchbce's",
            speed,
            "{:.2f}".format,
            ">= 3",
            lambda value: value >= 3,
        ),
    ]


def _linear_goals(row: Row) -> list[list[str]]:
    what = f"linear + cross-entropy, bfloat16, {_sizes(row['shape'])}"
    share = _ratio(row["seconds"][PRODUCTS], row["seconds"][OURS])
    rows = [
        _goal(
            f"{what}: share of the rate of the three matrix products alone",
            share,
            _percent,
            ">= 70 %",
            lambda value: value >= 0.7,
        )
    ]
    for kind, name in (("extra memory", OURS), ("extra memory, forward only", FORWARD)):
        rows.append(
            _goal(
                f"{what}: {kind}",
                row["extra"][name],
                _megabytes,
                "< 1 GB",
                lambda value: value < 1e9,
            )
        )
    return rows


def _goal(
    what: str,
    value: Cell,
    format: Callable[[float], str],
    limit: str,
    reached: Callable[[float], bool],
) -> list[str]:
    if isinstance(value, str):
        return [what, value, limit, NOT_MEASURED if value == NOT_MEASURED else "-"]
    return [what, format(value), limit, verdict(reached(value))]


def _rates(row: Row, peers: Sequence[str]) -> list[str]:
    """Time, bytes per second, those of the copy, their ratio, and the peers' times over ours."""
    seconds = row["seconds"]
    moved = float(bytes_moved(row))
    return [
        _shown(seconds[OURS], _milliseconds),
        _shown(_ratio(moved, seconds[OURS]), _gigabytes),
        _shown(_ratio(moved, seconds[COPY]), _gigabytes),
        _shown(_ratio(seconds[COPY], seconds[OURS]), _percent),
        *(_shown(_ratio(seconds[name], seconds[OURS]), "{:.2f}".format) for name in peers),
    ]


def _ratio(a: Cell, b: Cell) -> Cell:
    """a / b, or the reason why there is none."""
    if isinstance(a, str):
        return a
    return b if isinstance(b, str) else a / b


def _shown(cell: Cell, format: Callable[[float], str]) -> str:
    return cell if isinstance(cell, str) else format(cell)


def _sizes(shape: Sequence[int]) -> str:
    rows, width, labels = shape
    return f"B = {rows:,}, D = {width:,}, L = {labels:,}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.1f} MB"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:,.0f}"


def _milliseconds(value: float) -> str:
    return f"{value * 1e3:,.3f} ms"
