"""Tables and plots of results/kernels.json."""

from typing import Any

from common import markdown, plots
from common.machine import described
from common.markdown import Block, goal
from common.report import Report, Results

DOCUMENT = "docs/kernels.md"
PASSES = ("forward", "forward + backward")
Times = dict[str, float]


# ------------------------------------------------------------------------------------ docs/kernels


def time_table(time: Results) -> str:
    """The time of the others, divided by that of torchbce."""
    others = ("PyTorch", "compiled", "memory")
    head = ["input, target", "n"]
    head += [f"forward: {others[0]}", *others[1:], f"forward + backward: {others[0]}", *others[1:]]
    cells: dict[tuple[str, int], list[str]] = {}
    for row in time["rows"]:
        taken = row["microseconds"]
        key = (f"{row['input']}, {row['target']}", row["n"])
        cells.setdefault(key, []).extend(
            f"{taken[name] / taken['torchbce']:.2f}" for name in others
        )
    rows = [[dtypes, markdown.power(n), *values] for (dtypes, n), values in cells.items()]
    return markdown.table(head, rows)


def small_table(small: Results) -> str:
    """Microseconds of torchbce and eager PyTorch, and their ratio."""
    head = ["n"]
    for passes in PASSES:
        head += [f"{passes}: torchbce", "PyTorch", "torchbce / PyTorch"]
    cells: dict[int, list[str]] = {}
    for row in small["rows"]:
        taken = row["microseconds"]
        cells.setdefault(row["n"], []).extend(
            [
                f"{taken['torchbce']:.1f} us",
                f"{taken['PyTorch']:.1f} us",
                f"{ratio_to_eager(taken):.2f}",
            ]
        )
    rows = [[markdown.power(n), *values] for n, values in cells.items()]
    return markdown.table(head, rows) + f"\nMeasured on {described(small['machine'])}.\n"


def calls_table(calls: Results) -> str:
    """Calls in one forward and backward pass."""
    rows = [
        [
            name,
            *(f"{found[kind]:.0f}" for kind in ("python", "built_in")),
            f"{total_calls(found):.0f}",
        ]
        for name, found in calls["calls"].items()
    ]
    return markdown.table(["loss of", "Python functions", "built-in functions", "all"], rows)


def total_calls(found: dict[str, float]) -> float:
    return sum(found.values())


def memory_table(rows: list[Any]) -> str:
    contenders = ("torchbce", "PyTorch", "compiled")
    return markdown.table(
        ["input", "pass", "gradient", *(f"{name}, peak" for name in contenders)],
        [
            [
                row["input"],
                row["what"],
                f"{row['gradient'] / 2**20:.0f} MiB" if "backward" in row["what"] else "-",
                *(f"{markdown.mebibytes(row['peak'][name])} MiB" for name in contenders),
            ]
            for row in rows
        ],
    )


# ------------------------------------------------------------------------------------------ README


def summary(found: Results) -> str:
    """The goals for float32 logits and targets, and whether they are reached."""
    return markdown.goals(
        [
            *speed_goals(found),
            *(small_goal(found, passes) for passes in PASSES),
            *calls_goals(found),
            *(memory_goal(row) for row in found["memory"] if row["input"] == "float32"),
            first_goal(found, "warm", "compiled kernels on disk", 1.5),
            first_goal(found, "cold", "nothing on disk", 5),
        ]
    )


def ratio_to_eager(times: Times) -> float:
    return times["torchbce"] / times["PyTorch"]


def float32_times(found: Results, passes: str) -> dict[int, Times]:
    """Microseconds of each contender, by number of elements."""
    return {
        row["n"]: row["microseconds"]
        for row in found["time"]["rows"]
        if row["input"] == row["target"] == "float32" and row["what"] == passes
    }


#: Power of two of the number of elements, contender, its name in words, how many times as fast.
SPEED_GOALS = (
    (24, "PyTorch", "eager PyTorch", 8),
    (24, "compiled", "compiled PyTorch", 3),
    (20, "PyTorch", "eager PyTorch", 4),
)


def speed_goals(found: Results) -> list[list[str]]:
    by_size = float32_times(found, "forward + backward")
    rows = []
    for power, contender, words, limit in SPEED_GOALS:
        if times := by_size.get(2**power):
            value = times[contender] / times["torchbce"]
            what = f"loss and gradient of 2^{power} float32 logits, against {words}"
            measured = f"{value:.1f} times as fast"
            rows.append(goal(what, measured, f">= {limit} times", value >= limit))
    return rows


def small_goal(found: Results, passes: str) -> list[str]:
    if "small" in found:
        rows = found["small"]["rows"]
        times = [row["microseconds"] for row in rows if row["what"] == passes]
    else:
        times = [value for n, value in float32_times(found, passes).items() if n <= 2**12]
    worst = max(map(ratio_to_eager, times))
    return goal(
        f"{passes} of 2^5 to 2^12 float32 logits and targets, the slowest against eager PyTorch",
        f"{worst:.2f} times its time",
        "<= 1.1 times",
        worst <= 1.1,
    )


def calls_goals(found: Results) -> list[list[str]]:
    if "calls" not in found:
        return []
    calls = found["calls"]
    value, eager = (total_calls(calls["calls"][name]) for name in ("torchbce", "PyTorch"))
    return [
        goal(
            f"function calls in one forward + backward of {calls['elements']} elements",
            f"{value:.0f} (eager PyTorch: {eager:.0f})",
            "<= 60",
            value <= 60,
        )
    ]


def memory_goal(row: Results) -> list[str]:
    what = f"peak memory above the inputs, {row['what']} of 2^24 elements"
    peak = row["peak"]["torchbce"]
    if "backward" in row["what"]:
        share = peak / row["gradient"]
        return goal(what, f"{share:.2f} times the gradient", "<= 1.05 times", share <= 1.05)
    return goal(what, f"{peak / 2**20:.2f} MiB", "< 1 MiB", peak < 2**20)


def first_goal(found: Results, name: str, words: str, limit: float) -> list[str]:
    value = found["first"][name]
    what = f"first call of a process, {words}"
    return goal(what, f"{value:.1f} s", f"<= {limit:g} s", value <= limit)


# ------------------------------------------------------------------------------------------- plots


def time_plot(time: Results) -> plots.Plot:
    """Nanoseconds per element against the number of elements."""
    names = {"compiled": "PyTorch, compiled", "memory": "memory traffic alone"}
    rows = [
        {
            "power": row["n"].bit_length() - 1,
            "pass": row["what"],
            "contender": names.get(name, name),
            "nanoseconds": microseconds * 1000 / row["n"],
        }
        for row in time["rows"]
        if row["input"] == row["target"] == "float32"
        for name, microseconds in row["microseconds"].items()
    ]
    return plots.Plot("kernels-time.png", rows, time_chart)


def time_chart(data: Any) -> Any:
    import altair as alt

    powers = alt.Axis(values=list(range(5, 25, 3)), labelExpr="'2^' + datum.value")
    return (
        alt.Chart(data)
        .mark_line(point=True)
        .encode(
            x=alt.X("power:Q", axis=powers, title="elements (float32)").scale(domain=[4.5, 24.5]),
            y=alt.Y("nanoseconds:Q", title="nanoseconds per element").scale(type="log"),
            color=plots.colours(list(plots.COLOURS)),
            column=alt.Column("pass:N", title=None),
        )
        .properties(width=330, height=260)
    )


#: Smaller errors are drawn as this: a logarithmic axis has no 0.
FLOOR = 1e-9


def error_plot(error: Results) -> plots.Plot:
    """Relative errors against the logit, for negatives and positives."""
    rows = [
        {
            "logit": error["first_logit"] + index + 0.5,
            "error": max(value, FLOOR),
            "contender": row["contender"],
            "of": f"{row['what']}, target {row['target']}",
        }
        for row in error["rows"]
        for index, value in enumerate(row["errors"])
    ]
    return plots.Plot("kernels-error.png", rows, error_chart)


def error_chart(data: Any) -> Any:
    import altair as alt

    facets = [f"{what}, target {target}" for target in (0, 1) for what in ("loss", "gradient")]
    ticks = alt.Axis(format=".0e", values=[10.0**exponent for exponent in range(-8, 1, 2)])
    return (
        alt.Chart(data)
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("logit:Q", title="logit (float32)").scale(domain=[-105, 105], nice=False),
            y=alt.Y("error:Q", axis=ticks, title="largest relative error (at least 1e-9)").scale(
                type="log", domain=[FLOOR, 2]
            ),
            color=plots.colours(["PyTorch", "torchbce"]),
            facet=alt.Facet("of:N", sort=facets, columns=2, title=None),
        )
        .properties(width=330, height=190)
    )


# ------------------------------------------------------------------------------------------ report


def blocks(found: Results) -> list[Block]:
    return [
        Block("kernels", DOCUMENT, summary(found)),
        Block("kernels-time", DOCUMENT, time_table(found["time"])),
        Block("kernels-small", DOCUMENT, small_table(found["small"]) if "small" in found else ""),
        Block("kernels-calls", DOCUMENT, calls_table(found["calls"]) if "calls" in found else ""),
        Block("kernels-memory", DOCUMENT, memory_table(found["memory"])),
    ]


def pictures(found: Results) -> list[plots.Plot]:
    return [time_plot(found["time"]), error_plot(found["error"])]


REPORT = Report("kernels", blocks, pictures)
