"""The sections of a report's page as HTML. Every text of the data is escaped here."""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from torchbce.classifier.reports.content import Part, Report

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

escape = html.escape


def sentence(report: Report) -> str:
    """What the model is and how good, in one sentence."""
    card = report.card
    fitted = f"Fitted to {card['rows']:,} rows by {' and '.join(card['models']) or 'no model'}"
    if report.labels or not report.parts:
        return f"{fitted}. {report.summary}"
    part = report.parts[0]
    figures = part.figures
    relative, auc = figures.relative_log_loss, figures.roc_auc
    start = f"{fitted}, it gives each row the probability of {part.positive!r}"
    if relative is None or auc is None:
        return f"{start}; all {figures.rows:,} rows here have the same target, which tells little."
    interval = figures.intervals.get("relative_log_loss")
    if relative >= 1 or (interval is not None and interval[1] >= 1):
        return (
            f"{start}, but is not shown to be better than the base rate: its log loss is "
            f"{figures.log_loss:.4f}, {relative:.2f} times that of one probability for every row."
        )
    return (
        f"{start}, with a log loss of {figures.log_loss:.4f}, {1 - relative:.0%} below that of the "
        f"base rate, and ranks a positive above a negative in {auc:.1%} of cases."
    )


def section(name: str, title: str, text: str) -> str:
    """A section with a heading; nothing without a text."""
    if not text:
        return ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title}</h2>{text}</section>'
    )


def choose(parts: Sequence[Part]) -> str:
    """The choice of a label, where there are several."""
    if len(parts) < 2:
        return ""
    options = "".join(
        f'<option value="{n}">{escape(part.name)}</option>' for n, part in enumerate(parts)
    )
    label = '<label for="label">Charts of the label</label>'
    return f'<p>{label} <select id="label">{options}</select></p>'


def cards(report: Report) -> str:
    """The metrics of each target that say most."""
    return "".join(_of_part(n, _cards(part)) for n, part in enumerate(report.parts))


def figures(report: Report) -> str:
    """All metrics of each target."""
    return "".join(_of_part(n, _figures(part)) for n, part in enumerate(report.parts))


def all_labels(report: Report) -> str:
    """The metrics of many labels."""
    if not report.labels:
        return ""
    rows = [
        (
            one.name,
            f"{one.positives:,.0f}",
            f"{one.log_loss:.4f}",
            _or_none(one.roc_auc),
            _or_none(one.average_precision),
            f"{one.f1:.3f}",
        )
        for one in report.labels
    ]
    head = ("label", "positives in training", "log loss", "ROC-AUC", "average precision", "F1")
    return _table(f"{len(rows):,} labels", head, rows, numbers=(1, 2, 3, 4, 5))


def weights(report: Report, drawn: dict[str, Any]) -> str:
    """What weighs most, as charts."""
    explanation = report.explanation
    if explanation is None:
        return ""
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
        f'Shares of the answer: {escape(shares)}.</p><div class="grid">{"".join(found)}</div>'
    )


def wrong(report: Report) -> str:
    """The rows that the model is most wrong about."""
    parts = [_of_part(n, _wrong(part)) for n, part in enumerate(report.parts) if part.wrong]
    return "".join(parts)


def models(report: Report, drawn: dict[str, Any]) -> str:
    """The models that were tried."""
    if not report.tried:
        return ""
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
        text = "Each setting that was tried: a number of trees, of pairs, a penalty or an epoch."
        found.append(_place("paths", "Loss curves", text))
    return f'{table}<div class="grid">{"".join(found)}</div>'


def model(report: Report) -> str:
    """The schema, the options and the card."""
    card = report.card
    schema = _table(
        "Columns that the model reads",
        ("column", "kind", "values"),
        [(one.get("name", ""), one["kind"], one.get("values", "")) for one in card["columns"]],
    )
    dropped = ""
    if card["dropped"]:
        dropped = _table("Columns left out", ("column", "reason"), list(card["dropped"].items()))
    options = _table(
        "Options",
        ("option", "value"),
        [(name, json.dumps(value)) for name, value in card["options"].items()],
    )
    text = escape(json.dumps(card, indent=2, ensure_ascii=False))
    return (
        f"{schema}{dropped}<details><summary>Options of the training</summary>{options}</details>"
        f"<details><summary>The whole card</summary><pre>{text}</pre></details>"
    )


def _of_part(number: int, inner: str) -> str:
    """What the page shows while this target is chosen."""
    return f'<div data-part="{number}"{" hidden" if number else ""}>{inner}</div>'


def _cards(part: Part) -> str:
    found: dict[str, Any] = msgspec.to_builtins(part.figures)
    items = "".join(
        f"<li>{escape(FIGURES[name][0])}<b>{found[name]:.4g}</b></li>"
        for name in CARDS
        if found[name] is not None
    )
    return f'<ul class="cards">{items}</ul>'


def _figures(part: Part) -> str:
    found: dict[str, Any] = msgspec.to_builtins(part.figures)
    rows = []
    for name, (title, meaning) in FIGURES.items():
        if found[name] is not None:
            interval = found["intervals"].get(name)
            ends = "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
            rows.append((title, f"{found[name]:.4f}", ends, meaning))
    return _table(
        f"Figures of {part.figures.rows:,} rows, with 95% bootstrap intervals",
        ("figure", "value", "interval", "meaning"),
        rows,
        numbers=(1, 2),
    )


def _wrong(part: Part) -> str:
    return _table(
        "The rows with the largest losses, on the wrong side of 0.5",
        ("row", "true value", "probability", *part.wrong[0].values),
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


def _or_none(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _place(name: str, title: str, text: str = "") -> str:
    explained = f"<p>{escape(text)}</p>" if text else ""
    return (
        f"<figure><figcaption><h3>{escape(title)}</h3>{explained}</figcaption>"
        f'<div class="chart" id="chart-{name}"></div></figure>'
    )


def _table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()
) -> str:
    """A table of texts; the columns at the positions `numbers` are aligned to the right."""

    def kind(position: int) -> str:
        return ' class="number"' if position in numbers else ""

    names = "".join(f'<th scope="col"{kind(n)}>{escape(name)}</th>' for n, name in enumerate(head))
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td{kind(n)}>{escape(text)}</td>" for n, text in enumerate(rest, start=1))
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{names}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
