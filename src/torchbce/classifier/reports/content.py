"""What a report says, as plain data: the content of `report.json`."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
from scipy.special import expit

from torchbce.classifier.decisions.deciding import Rule
from torchbce.classifier.explanations.records import Explanation
from torchbce.classifier.model import Classifier
from torchbce.classifier.models.search import Tried
from torchbce.classifier.quality.evaluation import Evaluation, evaluate_model
from torchbce.classifier.reports.curves import Curves, curves_of

#: Of each kind of mistake so many rows are shown, with so many columns and characters of a value.
WRONG, WRONG_COLUMNS, CHARACTERS = 10, 8, 160
#: How many words, categories, numbers, pairs and columns of trees are drawn at most.
MOST = 15


class WrongRow(msgspec.Struct, frozen=True):
    """A row that the model is wrong about.

    Attributes:
        row: its number in the table, from 1.
        probability: of the positive value, as predicted.
        positive: whether it is positive.
        values: the columns that weigh most for it, with what they add to its logit, or its first
            columns.
    """

    row: int
    probability: float
    positive: bool
    values: dict[str, str]


class Part(msgspec.Struct, frozen=True):
    """The report of one target, or of one label of many.

    Attributes:
        name: the target column, or the label.
        positive: its positive value.
        negative: its negative value.
        figures: the metrics and their intervals.
        curves: the numbers of the charts.
        wrong: the rows with the largest losses.
    """

    name: str
    positive: str
    negative: str
    figures: Evaluation
    curves: Curves
    wrong: list[WrongRow]


class LabelRow(msgspec.Struct, frozen=True):
    """The figures of one of many labels."""

    name: str
    positives: float
    log_loss: float
    roc_auc: float | None
    average_precision: float | None
    f1: float


class Report(msgspec.Struct, frozen=True):
    """What a report says.

    Attributes:
        title: what is predicted.
        source: which rows the figures are of.
        parts: the target, or labels of many.
        card: the card of the classifier, as `model.json` has it, without vocabularies.
        tried: the models that were tried.
        explanation: what weighs most; None for many labels.
        labels: the figures of each of many labels; empty for one target.
        summary: a sentence on all labels; "" for one target.
    """

    title: str
    source: str
    parts: list[Part]
    card: dict[str, Any]
    tried: list[Tried]
    explanation: Explanation | None = None
    labels: list[LabelRow] = []
    summary: str = ""


def report_of(
    classifier: Classifier,
    source: str,
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    table: pl.DataFrame | None = None,
) -> Report:
    """The report of a classifier on some rows that it was not fitted to.

    Args:
        classifier: the model.
        source: which rows they are, as "rows held out".
        logits: of these rows, as calibrated, float64 [rows].
        targets: in [0, 1], [rows].
        weight: how much each row counts, [rows]; None is 1.
        rows: where each row is in `table`, [rows]; None where it has just these rows.
        table: the rows' columns, to show those that the model is wrong about; None shows none.
    """
    card = classifier.card
    rule = Rule.of(card.threshold, card.decision)
    p = np.asarray(expit(logits))
    part = Part(
        card.target.column,
        card.target.positive,
        card.target.negative,
        evaluate_model(logits, targets, rule, weight),
        curves_of(p, targets, weight),
        _wrong(classifier, logits, targets, p, rows, table),
    )
    return Report(
        repr(card.target.column),
        source,
        [part],
        plain_card(card),
        list(classifier.tried),
        classifier.explain(MOST),
    )


def plain_card(card: msgspec.Struct) -> dict[str, Any]:
    """The card without what is long: vocabularies and categories are counted."""
    plain: dict[str, Any] = msgspec.to_builtins(card)
    plain["columns"] = [_schema(column) for column in plain["columns"]]
    return plain


def _schema(column: dict[str, Any]) -> dict[str, Any]:
    """The name and the kind of a column, and what says most about its values."""
    found = {"name": column["name"], "kind": column["kind"]}
    if "units" in column:
        sizes = [f"{len(unit['vocabulary']):,} {unit['unit']}" for unit in column["units"]]
        found["values"] = " and ".join(sizes) + " (n-grams)"
    elif "categories" in column:
        found["values"] = f"{len(column['categories']):,} categories"
    elif "edges" in column:
        bins = len(column["edges"]) + 1
        found["values"] = f"mean {column['mean']:.4g}" + (f", {bins} bins" if bins > 1 else "")
    elif "parts" in column:
        found["values"] = ", ".join(part["name"] for part in column["parts"])
    return found


def _wrong(
    classifier: Classifier,
    logits: np.ndarray,
    targets: np.ndarray,
    p: np.ndarray,
    rows: np.ndarray | None,
    table: pl.DataFrame | None,
) -> list[WrongRow]:
    """The rows with the largest losses of each value of the target, the largest first."""
    if table is None or not len(table):
        return []
    losses = np.logaddexp(0, logits) - targets * logits
    order = np.argsort(-losses, kind="stable")
    # Wrong means on the other side of one half; the threshold may be anywhere.
    wrong = order[(p[order] >= 0.5) != (targets[order] >= 0.5)]
    positive = targets[wrong] >= 0.5
    kept = np.concatenate([wrong[positive][:WRONG], wrong[~positive][:WRONG]])
    at = kept if rows is None else rows[kept]
    shown = table[at]
    values = _values(classifier, shown)
    return [
        WrongRow(int(row) + 1, float(p[i]), bool(targets[i] >= 0.5), own)
        for row, i, own in zip(at, kept, values, strict=True)
    ]


def _values(classifier: Classifier, table: pl.DataFrame) -> Sequence[dict[str, str]]:
    names = [column.name for column in classifier.card.columns][:WRONG_COLUMNS]
    return [
        {name: _short(value) for name, value in row.items()}
        for row in table.select(names).iter_rows(named=True)
    ]


def _short(value: object) -> str:
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
