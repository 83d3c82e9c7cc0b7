"""The charts of a report, drawn by Altair: specifications of Vega-Lite without their data.

The page puts the numbers into the named data sets, so that one specification serves every label.
All fields have names of ours: what a table calls its columns is only ever a value.
"""

from typing import Any

import altair as alt

from torchbce.classifier.explanations.records import Explanation
from torchbce.classifier.models.search import Tried
from torchbce.classifier.reports.content import Report

#: Negatives and positives: blue and orange, which people with any colour vision tell apart.
NEGATIVE, POSITIVE = "#4c8dd6", "#e8833a"
UNIT = alt.Scale(domain=[0, 1])
FEW_TICKS = alt.Axis(tickCount=5)
HEIGHT = 260

Spec = dict[str, Any]


def charts(report: Report) -> dict[str, Spec]:
    """The charts by their places in the page; `data` of those with a name is put in there."""
    found = {
        "roc": _spec(_roc(), "ROC curve: true positive rate against false positive rate"),
        "precision_recall": _spec(_precision_recall(), "Precision against recall"),
        "reliability": _spec(
            _reliability(), "Reliability diagram: share of positives against predicted probability"
        ),
        "rows": _spec(_rows(), "Histogram of the predicted probabilities"),
        "classes": _spec(_classes(), "Histogram of the predicted probabilities by true value"),
        "net_benefit": _spec(_net_benefit(), "Net benefit against the threshold"),
    }
    if report.tried:
        found["tried"] = _spec(_tried(report.tried), "Log loss of each model on rows held out")
        if any(len(one.path) > 1 for one in report.tried):
            found["paths"] = _spec(_paths(report.tried), "Log loss of each setting that was tried")
    return found if report.explanation is None else found | _explained(report.explanation)


def _spec(chart: Any, description: str) -> Spec:
    spec: Spec = chart.properties(
        width="container", height=HEIGHT, description=description, background="transparent"
    ).to_dict()
    for name in ("config", "$schema"):  # the page has one for all, and no addresses
        spec.pop(name, None)
    return spec


def _chart(name: str) -> Any:
    return alt.Chart(alt.NamedData(name))


def _values(values: list[dict[str, Any]]) -> Any:
    return alt.Chart(alt.InlineData(values=values))


def _line(name: str, x: str, y: str) -> Any:
    return (
        _chart(name)
        .mark_line(interpolate="linear", strokeWidth=2, color=NEGATIVE)
        .encode(
            x=alt.X("x:Q", title=x, scale=UNIT, axis=FEW_TICKS),
            y=alt.Y("y:Q", title=y, scale=UNIT, axis=FEW_TICKS),
            order=alt.Order("n:Q"),
            tooltip=[
                alt.Tooltip("x:Q", title=x, format=".3f"),
                alt.Tooltip("y:Q", title=y, format=".3f"),
            ],
        )
    )


def _diagonal() -> Any:
    ends = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]
    return (
        _values(ends)
        .mark_line(strokeDash=[4, 4], strokeWidth=1, color="#888888")
        .encode(
            x=alt.X("x:Q", scale=UNIT, axis=FEW_TICKS), y=alt.Y("y:Q", scale=UNIT, axis=FEW_TICKS)
        )
    )


def _marker(name: str) -> Any:
    """Where the slider is."""
    return (
        _chart(name)
        .mark_point(filled=True, size=90, color=POSITIVE)
        .encode(
            x=alt.X("x:Q", scale=UNIT, axis=FEW_TICKS), y=alt.Y("y:Q", scale=UNIT, axis=FEW_TICKS)
        )
    )


def _roc() -> Any:
    line = _line("roc", "false positive rate", "true positive rate (recall)")
    return alt.layer(_diagonal(), line, _marker("roc_at"))


def _precision_recall() -> Any:
    return alt.layer(
        _line("precision_recall", "recall", "precision"), _marker("precision_recall_at")
    )


def _reliability() -> Any:
    x = alt.X("predicted:Q", title="mean predicted probability", scale=UNIT, axis=FEW_TICKS)
    rule = (
        _chart("reliability")
        .mark_rule(strokeWidth=2, color=NEGATIVE)
        .encode(
            x=x,
            y=alt.Y("low:Q", title="share of positives", scale=UNIT, axis=FEW_TICKS),
            y2=alt.Y2("high:Q"),
        )
    )
    point = (
        _chart("reliability")
        .mark_point(filled=True, size=60, color=NEGATIVE)
        .encode(
            x=x,
            y=alt.Y("share:Q", scale=UNIT, axis=FEW_TICKS),
            tooltip=[
                alt.Tooltip("predicted:Q", title="predicted", format=".3f"),
                alt.Tooltip("share:Q", title="positives", format=".3f"),
                alt.Tooltip("low:Q", title="from", format=".3f"),
                alt.Tooltip("high:Q", title="to", format=".3f"),
                alt.Tooltip("rows:Q", title="rows", format=",.0f"),
            ],
        )
    )
    return alt.layer(_diagonal(), rule, point)


def _rows() -> Any:
    return (
        _chart("histogram")
        .mark_bar(color=NEGATIVE)
        .encode(
            x=alt.X(
                "start:Q", title="predicted probability", scale=UNIT, bin="binned", axis=FEW_TICKS
            ),
            x2=alt.X2("stop:Q"),
            y=alt.Y("rows:Q", title="rows"),
            tooltip=[alt.Tooltip("rows:Q", format=",.0f")],
        )
    )


def _classes() -> Any:
    return (
        _chart("classes")
        .mark_bar(opacity=0.6)
        .encode(
            x=alt.X(
                "start:Q", title="predicted probability", scale=UNIT, bin="binned", axis=FEW_TICKS
            ),
            x2=alt.X2("stop:Q"),
            y=alt.Y("share:Q", title="share of the rows of each value", stack=None).axis(
                format="%"
            ),
            color=alt.Color(
                "value:N",
                title="true value",
                scale=alt.Scale(range=[NEGATIVE, POSITIVE]),
                sort=None,
            ).legend(orient="top"),
            tooltip=[alt.Tooltip("value:N"), alt.Tooltip("share:Q", format=".1%")],
        )
    )


def _net_benefit() -> Any:
    lines = (
        _chart("net_benefit")
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("threshold:Q", title="threshold", scale=UNIT, axis=FEW_TICKS),
            y=alt.Y("benefit:Q", title="net benefit per row"),
            color=alt.Color(
                "decision:N",
                title=None,
                scale=alt.Scale(
                    domain=["the model", "all positive", "none positive"],
                    range=[NEGATIVE, POSITIVE, "#888888"],
                ),
            ).legend(orient="top"),
            strokeDash=alt.StrokeDash("decision:N", legend=None, sort=None),
        )
    )
    at = (
        _chart("threshold_at")
        .mark_rule(strokeWidth=1, strokeDash=[2, 2], color=POSITIVE)
        .encode(x=alt.X("threshold:Q", scale=UNIT, axis=FEW_TICKS))
    )
    return alt.layer(lines, at)


def _tried(tried: list[Tried]) -> Any:
    best_first = sorted(tried, key=lambda one: one.held_out_loss)
    values = [{"model": one.model, "loss": one.held_out_loss} for one in best_first]
    bars = (
        _values(values)
        .mark_bar(color=NEGATIVE, height={"band": 0.6})
        .encode(
            y=alt.Y("model:N", title=None, sort=None),
            x=alt.X("loss:Q", title="log loss on rows held out (lower is better)"),
            tooltip=[alt.Tooltip("model:N"), alt.Tooltip("loss:Q", format=".4f")],
        )
    )
    text = (
        _values(values)
        .mark_text(align="left", dx=4)
        .encode(
            y=alt.Y("model:N", sort=None),
            x=alt.X("loss:Q"),
            text=alt.Text("loss:Q", format=".4f"),
        )
    )
    return alt.layer(bars, text)


def _paths(tried: list[Tried]) -> Any:
    values = [
        {"model": one.model, "n": n, "setting": setting, "loss": loss}
        for one in tried
        for n, (setting, loss) in enumerate(one.path, start=1)
    ]
    return (
        _values(values)
        .mark_line(strokeWidth=2, point=True)
        .encode(
            x=alt.X("n:Q", title="setting, in the order of trial").axis(tickMinStep=1, format="d"),
            y=alt.Y("loss:Q", title="log loss on rows held out", scale=alt.Scale(zero=False)),
            color=alt.Color("model:N", title=None).legend(orient="top"),
            tooltip=[
                alt.Tooltip("model:N"),
                alt.Tooltip("setting:N"),
                alt.Tooltip("loss:Q", format=".4f"),
            ],
        )
    )


def _explained(explanation: Explanation) -> dict[str, Spec]:
    """The charts of what weighs most, by `kind-number`."""
    found: dict[str, Spec] = {}
    for kind, weights in (
        ("words", [(one.text, one.column, one.log_odds) for one in explanation.words]),
        ("categories", [(one.value, one.column, one.log_odds) for one in explanation.categories]),
    ):
        if weights:
            found[kind] = _spec(_weights(weights), f"The {kind} with the largest weights")
    if explanation.trees:
        shares = sorted(explanation.trees.items(), key=lambda one: -one[1])
        found["trees"] = _spec(_shares(shares), "The share of each column in the trees")
    for number, curve in enumerate(explanation.curves):
        bins = list(zip(curve.bins, curve.log_odds, strict=True))
        found[f"curve-{number}"] = _spec(_curve(bins), f"Log-odds of {curve.column}")
    for number, pair in enumerate(explanation.pairs):
        cells = [
            {"row": row, "column": column, "log_odds": value}
            for row, values in zip(pair.rows, pair.log_odds, strict=True)
            for column, value in zip(pair.columns, values, strict=True)
        ]
        found[f"pair-{number}"] = _spec(
            _pair(cells, pair.first, pair.second), f"Log-odds of {pair.first} and {pair.second}"
        )
    return found


def _sign(field: str = "log_odds") -> Any:
    return alt.condition(f"datum.{field} > 0", alt.value(POSITIVE), alt.value(NEGATIVE))


def _weights(weights: list[tuple[str, str, float]]) -> Any:
    values = [
        {"name": f"{text}  ({column})", "log_odds": log_odds} for text, column, log_odds in weights
    ]
    return (
        _values(values)
        .mark_bar()
        .encode(
            y=alt.Y("name:N", title=None, sort=None).axis(labelLimit=260),
            x=alt.X("log_odds:Q", title="log-odds"),
            color=_sign(),
            tooltip=[alt.Tooltip("name:N"), alt.Tooltip("log_odds:Q", format="+.3f")],
        )
    )


def _shares(shares: list[tuple[str, float]]) -> Any:
    return (
        _values([{"name": name, "share": share} for name, share in shares])
        .mark_bar(color=NEGATIVE)
        .encode(
            y=alt.Y("name:N", title=None, sort=None).axis(labelLimit=260),
            x=alt.X("share:Q", title="share of what the trees say").axis(format="%"),
            tooltip=[alt.Tooltip("name:N"), alt.Tooltip("share:Q", format=".1%")],
        )
    )


def _curve(bins: list[tuple[str, float]]) -> Any:
    values = [{"n": n, "bin": name, "log_odds": value} for n, (name, value) in enumerate(bins)]
    return (
        _values(values)
        .mark_line(interpolate="step", point={"size": 30}, strokeWidth=2, color=NEGATIVE)
        .encode(
            x=alt.X("bin:N", title=None, sort=None).axis(labelLimit=110, labelOverlap=True),
            y=alt.Y("log_odds:Q", title="log-odds"),
            tooltip=[alt.Tooltip("bin:N"), alt.Tooltip("log_odds:Q", format="+.3f")],
        )
    )


def _pair(cells: list[dict[str, Any]], first: str, second: str) -> Any:
    return (
        _values(cells)
        .mark_rect()
        .encode(
            y=alt.Y("row:N", title=first, sort=None).axis(labelLimit=110, titleLimit=HEIGHT),
            x=alt.X("column:N", title=second, sort=None).axis(labelLimit=90, titleLimit=300),
            color=alt.Color(
                "log_odds:Q",
                title="log-odds",
                scale=alt.Scale(scheme="blueorange", domainMid=0),
            ),
            tooltip=[
                alt.Tooltip("row:N", title="row"),
                alt.Tooltip("column:N", title="column"),
                alt.Tooltip("log_odds:Q", format="+.3f"),
            ],
        )
    )
