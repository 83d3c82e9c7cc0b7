"""A report as one HTML file."""

import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import msgspec

from torchbce.classifier.explanations.records import Explanation
from torchbce.classifier.reports.charts import charts
from torchbce.classifier.reports.content import Part, Report
from torchbce.classifier.reports.vega import scripts

#: The figures that are shown, with what they mean and which way is better.
FIGURES = {
    "log_loss": ("log loss", "mean binary cross-entropy in nats; lower is better"),
    "relative_log_loss": ("relative to the base rate", "below 1 is better than the base rate"),
    "roc_auc": ("ROC-AUC", "a positive is ranked above a negative so often; 0.5 is chance"),
    "average_precision": ("average precision", "area under precision and recall; higher is better"),
    "brier": ("Brier score", "mean squared error of the probabilities; lower is better"),
    "ece": ("expected calibration error", "in 15 bins of equal width; lower is better"),
    "smooth_ece": ("smooth calibration error", "the same without bins; lower is better"),
    "calibration_loss": (
        "calibration loss",
        "what a better calibration would save of the log loss",
    ),
    "accuracy": ("accuracy", "rows predicted right at the threshold"),
    "f1": ("F1", "of precision and recall at the threshold; higher is better"),
}
CARDS = ("log_loss", "roc_auc", "average_precision", "ece", "accuracy")


def render(report: Report) -> bytes:
    """The HTML of a report, which asks nothing of any other file or host."""
    drawn = charts(report)
    data = {
        "parts": [
            {
                "name": part.name,
                "positive": part.positive,
                "negative": part.negative,
                "threshold": part.figures.threshold,
                "curves": msgspec.to_builtins(part.curves),
            }
            for part in report.parts
        ],
        "charts": drawn,
    }
    title = f"Classifier of {report.title}"
    versions = report.card["versions"]
    places = {
        "title": html.escape(title),
        "css": _resource("page.css"),
        "sentence": html.escape(sentence(report)),
        "choose": _choose(report.parts),
        "all_labels": _all_labels(report),
        "source": html.escape(report.source),
        "figures": "".join(_of_part(n, _figures(part)) for n, part in enumerate(report.parts)),
        "weights": _weights(report.explanation, drawn),
        "wrong": "".join(_of_part(n, _wrong(part)) for n, part in enumerate(report.parts)),
        "models": _models(report, drawn),
        "model": _model(report),
        "footer": html.escape(
            f"Made by torchbce {versions['torchbce']} with Python {versions['python']}, and drawn "
            "by Vega-Lite. This file needs no network."
        ),
        "data": _script_data(data),
        "vega": scripts(),
        "js": _resource("page.js"),
    }
    page = _resource("page.html")
    # In one pass: what is put in may hold the name of another place.
    head, *rest = page.split("{{")
    for piece in rest:
        name, text = piece.split("}}", 1)
        head += places[name] + text
    return head.encode()


def sentence(report: Report) -> str:
    """What the model is and how good, in one sentence."""
    card = report.card
    models = " and ".join(card["models"]) or "no model"
    size = f"{card['rows']:,} rows"
    if len(report.parts) != 1:
        return f"{report.summary} It was fitted to {size} by {models}."
    part = report.parts[0]
    figures = part.figures
    relative, auc = figures.relative_log_loss, figures.roc_auc
    start = f"Fitted to {size} by {models}, it gives each row the probability of {part.positive!r}"
    if relative is None or auc is None:
        return f"{start}; all {figures.rows:,} rows here have the same target, which tells little."
    low = figures.intervals.get("relative_log_loss")
    if relative >= 1 or (low is not None and low[1] >= 1):
        return (
            f"{start}, but no better than the base rate: its log loss is {figures.log_loss:.4f}, "
            f"{relative:.2f} times that of predicting the same share for every row."
        )
    return (
        f"{start}, with a log loss of {figures.log_loss:.4f}, {1 - relative:.0%} below that of the "
        f"base rate, and ranks a positive above a negative in {auc:.1%} of cases."
    )


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _script_data(data: Any) -> str:
    """JSON inside a script element, which a "<" of the data could end."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _of_part(number: int, inner: str) -> str:
    hidden = " hidden" if number else ""
    return f'<div data-part="{number}"{hidden}>{inner}</div>'


def _choose(parts: Sequence[Part]) -> str:
    if len(parts) < 2:
        return ""
    options = "".join(
        f'<option value="{n}">{html.escape(part.name)}</option>' for n, part in enumerate(parts)
    )
    return f'<p><label for="label">Label</label> <select id="label">{options}</select></p>'


def _table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> str:
    """A table of texts; the columns at the positions `numbers` are aligned to the right."""
    cells = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = ""
    for first, *rest in rows:
        body += f'<tr><th scope="row">{html.escape(first)}</th>'
        for n, text in enumerate(rest, start=1):
            kind = ' class="number"' if n in numbers else ""
            body += f"<td{kind}>{html.escape(text)}</td>"
        body += "</tr>"
    return (
        f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figures(part: Part) -> str:
    found: dict[str, Any] = msgspec.to_builtins(part.figures)
    cards = "".join(
        f"<li>{html.escape(FIGURES[name][0])}<b>{found[name]:.4g}</b></li>"
        for name in CARDS
        if found[name] is not None
    )
    rows = []
    for name, (title, meaning) in FIGURES.items():
        if found[name] is not None:
            interval = found["intervals"].get(name)
            ends = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
            rows.append((title, f"{found[name]:.4f}", ends, meaning))
    table = _table(
        f"Figures of {part.figures.rows:,} rows, with 95% bootstrap intervals",
        ("figure", "value", "interval", "meaning"),
        rows,
        numbers=(1, 2),
    )
    return f'<ul class="cards">{cards}</ul><details open><summary>All figures</summary>{table}</details>'


def _all_labels(report: Report) -> str:
    if not report.labels:
        return ""
    rows = [
        (
            one.name,
            f"{one.positives:,.0f}",
            f"{one.log_loss:.4f}",
            "–" if one.roc_auc is None else f"{one.roc_auc:.3f}",
            "–" if one.average_precision is None else f"{one.average_precision:.3f}",
            f"{one.f1:.3f}",
        )
        for one in report.labels
    ]
    table = _table(
        f"{len(rows):,} labels",
        ("label", "positives", "log loss", "ROC-AUC", "average precision", "F1"),
        rows,
        numbers=(1, 2, 3, 4, 5),
    )
    return (
        '<section id="labels" aria-labelledby="labels-title"><h2 id="labels-title">Labels</h2>'
        f"{table}</section>"
    )


def _place(name: str, title: str, text: str = "") -> str:
    explained = f"<p>{html.escape(text)}</p>" if text else ""
    return (
        f"<figure><figcaption><h3>{html.escape(title)}</h3>{explained}</figcaption>"
        f'<div class="chart" id="chart-{name}"></div></figure>'
    )


def _weights(explanation: Explanation | None, drawn: dict[str, Any]) -> str:
    if explanation is None:
        return "<p>Weights are shown for models of one target.</p>"
    found = [
        _place(name, title, text)
        for name, title, text in (
            ("words", "Words", "Words and pieces of words of the texts."),
            ("categories", "Categories", ""),
            ("trees", "Columns in the trees", "What share of the trees' answer each has."),
        )
        if name in drawn
    ]
    found += [_place(f"curve-{n}", curve.column) for n, curve in enumerate(explanation.curves)]
    found += [
        _place(f"pair-{n}", f"{pair.first} and {pair.second}", "Beside what each adds by itself.")
        for n, pair in enumerate(explanation.pairs)
    ]
    if not found:
        return "<p>No column weighs anything that can be drawn.</p>"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in explanation.models.items())
    return (
        "<p>In log-odds of the positive value: +0.69 doubles the odds, -0.69 halves them. "
        f"Shares of the answer: {html.escape(shares) or 'none'}.</p>"
        f'<div class="grid">{"".join(found)}</div>'
    )


def _wrong(part: Part) -> str:
    if not part.wrong:
        return "<p>No rows are shown.</p>"
    names = list(part.wrong[0].values)
    return _table(
        "The rows with the largest losses, on the wrong side of 0.5",
        ("row", "true value", "probability", *names),
        [
            (
                f"{one.row:,}",
                part.positive if one.positive else part.negative,
                f"{one.probability:.4f}",
                *one.values.values(),
            )
            for one in part.wrong
        ],
        numbers=(2,),
    )


def _models(report: Report, drawn: dict[str, Any]) -> str:
    if not report.tried:
        return "<p>None is recorded.</p>"
    table = _table(
        "What each model reached on rows held out",
        ("model", "log loss", "best setting", "settings", "weight", "share", "seconds"),
        [
            (
                one.model,
                f"{one.held_out_loss:.4f}",
                one.setting,
                f"{one.settings}",
                f"{one.weight:.2f}",
                f"{one.share:.0%}",
                f"{one.seconds:.1f}",
            )
            for one in report.tried
        ],
        numbers=(1, 3, 4, 5, 6),
    )
    found = [_place("tried", "Log loss of each model")]
    if "paths" in drawn:
        found.append(
            _place(
                "paths",
                "Loss curves",
                "Each setting that was tried, as a number of "
                "trees, a strength of the penalty or an epoch.",
            )
        )
    return f'{table}<div class="grid">{"".join(found)}</div>'


def _model(report: Report) -> str:
    card = report.card
    schema = _table(
        "Columns that the model reads",
        ("column", "kind", "values"),
        [(one["name"], one["kind"], one.get("values", "")) for one in card["columns"]],
    )
    dropped = ""
    if card["dropped"]:
        dropped = _table("Columns left out", ("column", "reason"), list(card["dropped"].items()))
    options = _table(
        "Options",
        ("option", "value"),
        [(name, json.dumps(value)) for name, value in card["options"].items()],
    )
    text = html.escape(json.dumps(card, indent=2, ensure_ascii=False))
    return (
        f"{schema}{dropped}<details><summary>Options of the training</summary>{options}</details>"
        f"<details><summary>The whole card</summary><pre>{text}</pre></details>"
    )
