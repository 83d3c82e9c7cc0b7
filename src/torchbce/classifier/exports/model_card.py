"""A README.md that describes a classifier, with the metadata that the Hugging Face Hub reads."""

import html
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.dates import FORMATS, DateColumn
from torchbce.classifier.columns.encoder import Column
from torchbce.classifier.columns.numeric import NumericColumn
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.exports.combination import check_classifier
from torchbce.classifier.model import Card, Classifier
from torchbce.classifier.quality.baseline import of_base_rate
from torchbce.classifier.quality.metrics import Metrics

#: The metrics of the card: the Hub's identifier, a name, and which is better.
METRICS = {
    "log_loss": ("log_loss", "log loss (nats)", "lower"),
    "brier": ("brier_score", "Brier score", "lower"),
    "roc_auc": ("roc_auc", "ROC-AUC", "higher"),
    "average_precision": ("average_precision", "average precision", "higher"),
    "accuracy": ("accuracy", "accuracy", "higher"),
    "f1": ("f1", "F1", "higher"),
    "ece": ("expected_calibration_error", "expected calibration error", "lower"),
}

#: Columns that are listed; of more, the rest is counted.
COLUMNS = 50


def model_card(classifier: Classifier) -> bytes:
    """The content of the file."""
    check_classifier(classifier)
    card = classifier.card
    parts = [
        _metadata(card),
        f"# Predicts {_code(card.target.column)}\n",
        _what(card),
        "## Figures\n",
        _figures(card),
        "## Data\n",
        _data(card),
        "## Limits\n",
        _limits(card),
        "## Use\n",
        _use(card),
    ]
    return "\n".join(parts).encode()


def _metadata(card: Card) -> str:
    """The metadata in YAML. A JSON string is one of YAML too, whatever it holds."""
    task = "text-classification" if _only_text(card) else "tabular-classification"
    found = [(name, value) for name, value in _values(card.held_out).items() if value is not None]
    lines = [
        "---",
        "library_name: torchbce",
        f"pipeline_tag: {task}",
        "tags:",
        *(f"- {tag}" for tag in ("torchbce", "binary-classification", "calibrated-probabilities")),
        "metrics:",
        *(f"- {METRICS[name][0]}" for name, _ in found),
        "model-index:",
        f"- name: {_yaml(f'{card.target.column}: {card.target.positive}')}",
        "  results:",
        "  - task:",
        f"      type: {task}",
        "      name: Binary classification",
        "    dataset:",
        f"      name: {_yaml(f'rows held out of the table with {card.target.column}')}",
        "      type: tabular",
        "    metrics:",
    ]
    for name, value in found:
        identifier, title, _ = METRICS[name]
        lines += [f"    - type: {identifier}", f"      value: {value!r}", f"      name: {title}"]
    return "\n".join([*lines, "---", ""])


def _yaml(text: str) -> str:
    return json.dumps(_flat(text), ensure_ascii=False)


def _only_text(card: Card) -> bool:
    return all(isinstance(column, TextColumn) for column in card.columns)


def _values(metrics: Metrics) -> dict[str, float | None]:
    found = {name: getattr(metrics, name) for name in METRICS}
    return {n: None if v is None or not math.isfinite(v) else float(v) for n, v in found.items()}


def _what(card: Card) -> str:
    target = card.target
    names = {
        "linear": "a linear model",
        "pairs": "a linear model with pairs of columns",
        "trees": "boosted trees",
        "mlp": "a neural network",
    }
    models = " and ".join(names[name] for name in card.models) or "the base rate alone"
    steps = f" and calibrates it ({card.calibration.kind})" if card.calibration is not None else ""
    shifted = ""
    if card.base_rate is not None:
        shifted = (
            f" The probabilities are for use where {card.base_rate:.4g} of the rows are positive."
        )
    return (
        f"A binary classifier of tables. It gives the probability that {_code(target.column)} is "
        f"{_code(target.positive)} rather than {_code(target.negative)}, from "
        f"{len(card.columns):,} {'column' if len(card.columns) == 1 else 'columns'}. It combines "
        f"the log-odds of {models}{steps}.{shifted} From a probability of {card.threshold:.4g} on, "
        f"{_code(target.positive)} is predicted.\n"
    )


def _figures(card: Card) -> str:
    values, base = _values(card.held_out), _values(of_base_rate(card.held_out))
    rows = [
        [METRICS[name][1], _figure(value), _figure(base[name]), METRICS[name][2]]
        for name, value in values.items()
        if value is not None
    ]
    counts = card.held_out.confusion
    return (
        "On rows that were held out, whose settings and weights were chosen on other rows; beside "
        "them those of predicting the share of positives for every row.\n\n"
        + _table(["metric", "model", "share of positives", "better"], rows)
        + f"\nAt the threshold: {counts.tp:,} true positives, {counts.fp:,} false positives, "
        f"{counts.fn:,} false negatives, {counts.tn:,} true negatives.\n"
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _data(card: Card) -> str:
    share = card.positives / (card.weight or card.rows)
    shown = [[_code(column.name), _kind(column)] for column in card.columns[:COLUMNS]]
    rest = len(card.columns) - len(shown)
    parts = [
        f"Fitted to {card.rows:,} rows, of which {share:.2%} are positive.\n",
        _table(["column", "read as"], shown),
    ]
    if rest:
        parts.append(f"and {rest:,} more.\n")
    if card.dropped:
        names = ", ".join(_code(name) for name in list(card.dropped)[:COLUMNS])
        parts.append(f"Not read: {names}.\n")
    return "\n".join(parts)


def _kind(column: Column) -> str:
    if isinstance(column, NumericColumn):
        words = column.written.words()
        return f"number {_plain(words)}" if words else "number"
    if isinstance(column, DateColumn):
        return f"date, as {FORMATS[column.written]}"
    if isinstance(column, TextColumn):
        return f"text, {column.width:,} words and n-grams"
    if isinstance(column, CategoricalColumn):
        return f"category, {len(column.categories):,} values"
    return f"{column.width:,} columns of a sparse matrix"


def _limits(card: Card) -> str:
    lines = [
        "The figures hold for rows that are drawn as the training rows were. Where the share of "
        "positives, or the way a column is measured, is another one, measure again: `torchbce "
        "evaluate`.",
        "Categories and words that were not in the training rows are ignored. A linear model cuts "
        "numbers off at 10 standard deviations from their mean, and trees at the largest and the "
        "smallest of the training rows.",
        "What a column adds to a prediction says what the model computes, not what causes the "
        "target.",
        "Whether the target or a column treats groups of people unfairly was not examined.",
    ]
    if card.rows < 1000:
        lines.append(f"{card.rows:,} rows are few: the figures are uncertain.")
    if card.decision is not None:
        lines += [_plain(note) for note in card.decision.notes]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _use(card: Card) -> str:
    versions = ", ".join(f"{_plain(name)} {_plain(v)}" for name, v in card.versions.items())
    return (
        "```sh\npip install 'torchbce[cli]'\n"
        "torchbce predict DIR rows.csv --output predicted.csv\n```\n\n"
        "```python\nfrom torchbce.classifier import load, read\n\n"
        'classifier = load("DIR")  # of model.json, model.safetensors and history.json\n'
        'classifier.probabilities(read("rows.csv"))\n```\n\n'
        f"Loading a model runs no code from it. Fitted with {versions}.\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _flat(text: str) -> str:
    """A text on one line, without characters that are not printed."""
    return "".join(c if c.isprintable() else " " for c in text)


def _plain(text: str) -> str:
    """A text that Markdown and HTML show as it is."""
    escaped = re.sub(r"([\\`*_{}\[\]()#+!|~$:-])", r"\\\1", _flat(text))
    return html.escape(escaped, quote=False)


def _code(text: str) -> str:
    """A text as code. Backticks could not hold every text, as one with backticks in a table."""
    return f"<code>{_plain(text)}</code>"
