"""A report as one HTML file."""

import json
from importlib.resources import files
from typing import Any

import msgspec

from torchbce.classifier.reports import sections
from torchbce.classifier.reports.charts import charts
from torchbce.classifier.reports.content import Report
from torchbce.classifier.reports.sections import escape
from torchbce.classifier.reports.vega import scripts


def render(report: Report) -> bytes:
    """The HTML of a report, which asks nothing of any other file or host."""
    drawn = charts(report)
    found = {
        "labels": ("Labels", sections.all_labels(report)),
        "figures": ("Figures", ""),
        "decisions": ("Decisions", ""),
        "weights": ("What weighs most", sections.weights(report, drawn)),
        "wrong": ("Wrong rows", sections.wrong(report)),
        "models": ("Models tried", sections.models(report, drawn)),
        "model": ("The model", sections.model(report)),
    }
    places = {name: sections.section(name, title, text) for name, (title, text) in found.items()}
    if report.parts:
        of_parts = {
            "source": escape(report.source),
            "cards": sections.cards(report),
            "figures": sections.figures(report),
        }
        places["charts"] = _filled(_resource("charts.html"), of_parts)
    else:
        places["charts"] = f"<p>{escape(report.source)}</p>"
    there = {name for name, text in places.items() if text}
    if report.parts:
        there |= {"figures", "decisions"}
    versions = report.card["versions"]
    places |= {
        "title": escape(f"Classifier of {report.title}"),
        "css": _resource("page.css"),
        "sentence": escape(sections.sentence(report)),
        "choose": sections.choose(report.parts),
        "sections": "".join(
            f'<li><a href="#{name}">{title}</a></li>'
            for name, (title, _) in found.items()
            if name in there
        ),
        "footer": escape(
            f"Made by torchbce {versions['torchbce']} with Python {versions['python']}, and drawn "
            "by Vega-Lite. This file needs no network."
        ),
        "data": _script_data(report, drawn),
        "vega": scripts(),
        "js": _resource("page.js"),
    }
    return _filled(_resource("page.html"), places).encode()


def _filled(template: str, places: dict[str, str]) -> str:
    """The template with texts for its {{places}}, in one pass: a text may hold "{{" too."""
    head, *rest = template.split("{{")
    for piece in rest:
        name, text = piece.split("}}", 1)
        head += places[name] + text
    return head


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _script_data(report: Report, drawn: dict[str, Any]) -> str:
    """JSON inside a script element, which a "<" of the data could end."""
    parts = [
        {
            "name": part.name,
            "positive": part.positive,
            "negative": part.negative,
            "threshold": part.figures.threshold,
            "curves": msgspec.to_builtins(part.curves),
        }
        for part in report.parts
    ]
    text = json.dumps({"parts": parts, "charts": drawn}, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
