"""Tables of results/linear.json, and the summary of the README, which includes the real labels."""

from typing import Any

from common import markdown, results
from common.machine import described
from common.markdown import Block, goal, mebibytes
from common.report import Report, Results

DOCUMENT = "docs/linear.md"
CONTENDERS = ("torchbce", "eager", "compiled")


def grid_table(grid: Results) -> str:
    """Time of torchbce, the others' as multiples of it, and the extra memory of each."""
    head = ["B", "D", "L", "torchbce", "eager / torchbce", "compiled / torchbce"]
    head += [f"{name}, MiB" for name in CONTENDERS]
    rows = []
    for row in grid["rows"]:
        seconds, extra = row["seconds"], row["extra"]
        missing = "" if row["fits"] else "-"
        rows.append(
            [
                f"{row['rows']:,}",
                str(row["width"]),
                f"{row['labels']:,}",
                f"{seconds['torchbce'] * 1000:,.1f} ms",
                *(
                    f"{seconds[name] / seconds['torchbce']:.2f}" if name in seconds else missing
                    for name in CONTENDERS[1:]
                ),
                *(mebibytes(extra[name]) if name in extra else missing for name in CONTENDERS),
            ]
        )
    limits = grid["limits"]
    note = (
        f"\nOn {grid['threads']} threads. A dash: PyTorch was not run, because targets, logits, "
        "their gradient, the weight and its gradient alone take more than "
        f"{limits['bytes'] / 2**30:.0f} GiB. An empty cell: PyTorch was not compiled, above "
        f"{limits['compiled_labels']:,} labels.\n"
    )
    return markdown.table(head, rows) + note


def reach_goals(reach: Results) -> list[list[str]]:
    rows, width, labels = reach["sizes"]
    seconds = reach["seconds"]
    ratio = seconds["torchbce"] / seconds["products"]
    logits = 4 * rows * labels
    share = reach["extra"] / logits
    return [
        goal(
            f"loss and gradients, against the three matrix products alone; B = {rows}, "
            f"D = {width}, L = {labels:,}",
            f"{ratio:.2f} times their {seconds['products'] * 1000:,.0f} ms",
            "<= 1.15 times",
            ratio <= 1.15,
        ),
        goal(
            "peak memory above the inputs and their gradients, same sizes",
            f"{100 * share:.1f} % of the logits' {logits / 2**20:.0f} MiB",
            "<= 3 %",
            share <= 0.03,
        ),
    ]


def busy_table(busy: Results) -> str:
    """Seconds of a step alone and beside other processes, and eager PyTorch as a multiple."""
    head = ["other processes", "torchbce, lists", "torchbce, dense", "eager, dense"]
    head += ["eager / torchbce, lists"]
    rows = []
    for row in busy["rows"]:
        seconds = row["seconds"]
        times = [f"{seconds[name] * 1000:,.0f} ms" for name in ("lists", "dense", "eager")]
        ratio = f"{seconds['eager'] / seconds['lists']:.2f}"
        rows.append([str(row["processes"] or "none"), *times, ratio])
    b, d, n = busy["sizes"]
    note = f"\nB = {b}, D = {d}, L = {n:,}. {described(busy['machine'])}."
    if busy.get("load", 1.0) > 0.5:
        note += " **Programs that do not belong to this ran at the same time.**"
    note += "\n"
    return markdown.table(head, rows) + note


def error_table(error: Results) -> str:
    head = ["dtype", "of"]
    for kind in ("largest", "rms"):
        head += [f"torchbce, {kind}", f"eager, {kind}"]
    rows = []
    for row in error["rows"]:
        of = row["of"] if row["of"] == "loss" else f"gradient of the {row['of']}"
        cells = [row["dtype"], of]
        for kind in ("largest", "rms"):
            ours, eager = row["torchbce"][kind], row["eager"][kind]
            cells.append(f"{ours:.1e}" if ours <= eager else f"**{ours:.1e}**")
            cells.append(f"{eager:.1e}")
        rows.append(cells)
    return markdown.table(head, rows)


def million_goals(million: Results) -> list[list[str]]:
    """Rows of measurements; goal and verdict are empty where there is no goal."""
    width, labels = million["sizes"]
    rows = []
    for row in million["extra"]:
        what = (
            f"peak memory above the inputs and their gradients, B = {row['rows']:,}, "
            f"D = {width}, L = {labels:,}"
        )
        measured = megabytes(row["torchbce"])
        if row["rows"] == 64:
            rows.append(goal(what, measured, "< 64 MB", row["torchbce"] < 64e6))
        else:
            rows.append([what, measured, "", ""])
        how = "" if row["measured"] else ", computed: targets, logits and their gradient"
        rows.append(
            [f"the same with dense targets and PyTorch{how}", megabytes(row["dense"]), "", ""]
        )
    rows += [trained_goal(million, name) for name in million["trained"]]
    return rows


def trained_goal(million: Results, optimizer: str) -> list[str]:
    width, labels = million["sizes"]
    found = million["trained"][optimizer]
    above = found["peak"] - million["bare"]
    return goal(
        f"peak memory of training {labels:,} labels with {optimizer}, B = "
        f"{million['trained_rows']}, above a process that imports torch; the weight takes "
        f"{4 * width * labels / 1e9:.2f} GB",
        f"{above / 1e9:.2f} GB; {found['seconds']:.1f} s per step",
        "<= 1.3 GB",
        above <= 1.3e9,
    )


def topk_table(topk: Results) -> str:
    """Time of torchbce, and that of all logits and torch.topk as a multiple of it."""
    head = ["B", "D", "L", "k", "head.topk", "all logits", "all logits / head.topk"]
    rows = []
    for row in topk["rows"]:
        ours, dense = row["seconds"]["torchbce"], row["seconds"]["dense"]
        sizes = (f"{row[name]:,}" for name in ("rows", "width", "labels", "k"))
        times = (f"{seconds * 1000:,.2f} ms" for seconds in (ours, dense))
        rows.append([*sizes, *times, f"{dense / ours:.2f}"])
    threads = "1 thread" if topk["threads"] == 1 else f"{topk['threads']} threads"
    note = f"\nOn {threads}, in float32; the load average was {topk['load']:.1f} before.\n"
    return markdown.table(head, rows) + note


def sparse_table(sparse: Results) -> str:
    """Time of torchbce, on one thread and on several, and the other's as a multiple of it."""
    head = ["input", "B", "D", "not 0, per row", "L", "torchbce", "one thread", "compared with"]
    head += ["its time / torchbce"]
    rows = []
    for row in sparse["rows"]:
        seconds = row["seconds"]
        one = seconds.get("torchbce, one thread")
        rows.append(
            [
                row["name"],
                *(f"{row[size]:,}" for size in ("rows", "columns", "per_row", "labels")),
                f"{seconds['torchbce'] * 1000:,.1f} ms",
                "" if one is None else f"{one * 1000:,.1f} ms",
                "SciPy and NumPy" if row["labels"] == 1 else "torch.sparse.mm, eager loss",
                f"{seconds['other'] / seconds['torchbce']:.1f}",
            ]
        )
    return markdown.table(head, rows) + f"\nOn {sparse['threads']} threads; SciPy uses one.\n"


def megabytes(bytes: float) -> str:
    return f"{bytes / 1e6:,.1f} MB"


def summary(linear: Results, delicious: Results) -> str:
    """The measurements that have goals."""
    rows = reach_goals(linear["reach"])
    rows += [row for row in million_goals(linear["million"]) if row[2]]
    tags = delicious["tags"]
    figures: dict[str, Any] = tags["heads"]["torchbce.LinearBCELoss"]
    rows.append(
        goal(
            "a linear head on the 983 tags of delicious: share of rows whose highest-scored label "
            "is correct",
            f"{figures['P@1']:.3f} in {figures['seconds']:.1f} s",
            f">= {tags['goal']}",
            figures["P@1"] >= tags["goal"],
        )
    )
    return markdown.goals(rows)


def sparse_blocks(found: Results) -> list[Block]:
    """The table of sparse inputs, once it is measured."""
    if "sparse" not in found:
        return []
    return [Block("linear_sparse", DOCUMENT, sparse_table(found["sparse"]))]


def summary_block(linear: Results, delicious: Results) -> Block:
    return Block("linear_summary", DOCUMENT, summary(linear, delicious))


def blocks(found: Results) -> list[Block]:
    return [
        Block("linear", DOCUMENT, grid_table(found["grid"])),
        Block("linear_reach", DOCUMENT, markdown.goals(reach_goals(found["reach"]))),
        Block("linear_busy", DOCUMENT, busy_table(found["busy"])),
        Block("linear_error", DOCUMENT, error_table(found["error"])),
        Block("linear_million", DOCUMENT, markdown.goals(million_goals(found["million"]))),
        Block("linear_topk", DOCUMENT, topk_table(found["topk"])),
        *sparse_blocks(found),
        summary_block(found, results.load("delicious")),
    ]


REPORT = Report("linear", blocks)
