"""Tables and plots of results/ends.json: what is lost where a prediction is confident."""

from typing import Any

import polars as pl

from common import markdown, plots
from common.markdown import Block
from common.report import Report, Results

#: Smaller errors are drawn as this: a logarithmic axis has no 0.
FLOOR = 1e-8


def shown(value: float) -> str:
    return "**0**" if value == 0 else f"{value:.3g}"


def table(found: Results, what: str, sign: str) -> str:
    """The values of loss or gradient, as they are printed."""
    dtypes = ("float32", "bfloat16")
    names = ["true", *(f"{name}, {dtype}" for dtype in dtypes for name in ("PyTorch", "torchbce"))]
    head = [f"z = {sign}m, m", *("exact" if name == "true" else name for name in names)]
    rows = [
        [f"{row['m']:g}", *(shown(row[what][name]) for name in names)] for row in found["values"]
    ]
    return markdown.table(head, rows)


def zero_table(found: Results) -> str:
    rows = [[name, f"{z:.1f}"] for name, z in found["zero"].items()]
    return markdown.table(["", "the gradient of a positive is 0 from z ="], rows)


def right_plot(found: Results) -> plots.Plot:
    right = found["right"]
    rows = [
        {
            "logit": -margin if row["of"].startswith("loss") else margin,
            "error": min(max(error, FLOOR), 1.0),
            "contender": row["contender"],
            "dtype": row["dtype"],
            "of": row["of"],
        }
        for row in right["rows"]
        for margin, error in zip(right["margins"], row["errors"], strict=True)
    ]
    return plots.Plot("ends-right.png", rows, right_chart)


def right_chart(data: Any) -> Any:
    import altair as alt

    labels = "datum.value == 1 ? 'all' : datum.value >= 0.01 ? datum.value * 100 + ' %' : "
    labels += "format(datum.value, '.0e')"
    ticks = alt.Axis(values=[1e-8, 1e-6, 1e-4, 1e-2, 1], labelExpr=labels)
    note = {"logit": 16.6, "error": 0.25, "text": "17 % at z = 15|all from z = 17"}
    scale = alt.Scale(type="log", domain=[FLOOR, 1.5], nice=False)
    panels = []
    for of, domain in (("loss of a negative", [-30, 5]), ("gradient of a positive", [-5, 30])):
        lines = (
            alt.Chart(data.filter(data["of"] == of))
            .mark_line(strokeWidth=2)
            .encode(
                x=alt.X("logit:Q", title="logit").scale(domain=domain, nice=False),
                y=alt.Y(
                    "error:Q", axis=ticks, title="share of the value that is wrong", scale=scale
                ),
                color=plots.colours(["PyTorch", "torchbce"]),
                strokeDash=alt.StrokeDash("dtype:N", sort=["float32", "bfloat16"], title=None),
            )
        )
        if of == "gradient of a positive":
            text = alt.Chart(pl.DataFrame([note])).mark_text(
                align="left", fontSize=13, lineBreak="|", color="#d95f02"
            )
            lines = lines + text.encode(x="logit:Q", y=alt.Y("error:Q", scale=scale), text="text:N")
        panels.append(lines.properties(width=330, height=230, title=of))
    return (
        alt.hconcat(*panels)
        .configure_axis(labelFontSize=12, titleFontSize=12)
        .configure_legend(orient="bottom", labelFontSize=13)
        .configure_title(fontSize=14)
    )


def wrong_plot(found: Results) -> plots.Plot:
    wrong = found["wrong"]
    rows = [
        {"logit": -margin, "value": abs(value), "way": row["way"], "of": what}
        for row in wrong["rows"]
        for what in ("loss", "gradient")
        for margin, value in zip(wrong["margins"], row[what], strict=True)
        if value is not None
    ]
    return plots.Plot("ends-wrong.png", rows, wrong_chart)


def wrong_chart(data: Any) -> Any:
    import altair as alt

    ways = data["way"].unique(maintain_order=True).to_list()
    colours = alt.Scale(domain=ways, range=["#777777", "#e6ab02", "#d95f02", "#1b6ca8"])
    dashes = alt.Scale(domain=ways, range=[[1, 3], [6, 3], [10, 3], [1, 0]])
    titles = {"loss": "loss of a positive", "gradient": "size of its gradient"}
    panels = [
        alt.Chart(data.filter(data["of"] == what))
        .mark_line(strokeWidth=2.5)
        .encode(
            x=alt.X("logit:Q", title="logit").scale(domain=[-120, 0], nice=False),
            y=alt.Y("value:Q", title=None),
            color=alt.Color("way:N", scale=colours, sort=ways, title=None),
            strokeDash=alt.StrokeDash("way:N", scale=dashes, sort=ways, title=None),
        )
        .properties(width=330, height=230, title=title)
        for what, title in titles.items()
    ]
    return (
        alt.hconcat(*panels)
        .configure_axis(labelFontSize=12, titleFontSize=12)
        .configure_legend(orient="bottom", columns=2, labelFontSize=12, labelLimit=400)
        .configure_title(fontSize=14)
    )


def blocks(found: Results) -> list[Block]:
    return [
        Block("ends-gradient", "docs/why.md", table(found, "gradient", "")),
        Block("ends-loss", "docs/why.md", table(found, "loss", "-")),
        Block("ends-zero", "docs/guide/ends.md", zero_table(found)),
    ]


def pictures(found: Results) -> list[plots.Plot]:
    return [right_plot(found), wrong_plot(found)]


REPORT = Report("ends", blocks, pictures)
