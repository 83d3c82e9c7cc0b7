"""The report of a classifier of many labels."""

import numpy as np
from scipy.special import expit

from torchbce.classifier.decisions.deciding import Rule
from torchbce.classifier.errors import InputError
from torchbce.classifier.labels.metrics import LabelsMetrics
from torchbce.classifier.labels.model import LabelsClassifier, LabelsHeldOut
from torchbce.classifier.labels.sources import LabelColumns
from torchbce.classifier.quality.evaluation import evaluate_model
from torchbce.classifier.reports.content import LabelRow, Part, Report, plain_card
from torchbce.classifier.reports.curves import curves_of
from torchbce.classifier.tables.frames import TableLike, as_table

#: The labels in the table of the page, those with most positives.
LISTED = 200


def held_out_labels_report(classifier: LabelsClassifier) -> Report:
    """The report of the rows held out when a classifier was fitted.

    Raises:
        InputError: if it was loaded, so that these rows are not known.
    """
    if classifier.held_out is None:
        raise InputError(
            "the rows held out are known right after a fit only; give a table with the labels"
        )
    rows = len(classifier.held_out.logits)
    source = f"On {rows:,} rows held out, with settings and weights chosen on other rows."
    return _report(classifier, source, classifier.card.held_out, classifier.held_out)


def labels_table_report(
    classifier: LabelsClassifier, table: TableLike, name: str = "a table"
) -> Report:
    """The report of a classifier on a table.

    Args:
        classifier: the model.
        table: has its columns and its labels.
        name: what the report calls the table.

    Raises:
        InputError: if the table has no rows, or does not fit the model.
    """
    rows = as_table(table)
    if not len(rows):
        raise InputError("the table has no rows")
    targets, encoded = classifier.card.source.read(rows), classifier.encoded(rows)
    metrics = classifier.evaluate_encoded(encoded, targets)
    shown = LabelsHeldOut.of(classifier.logits_of(encoded), targets, None)
    return _report(classifier, f"On {len(rows):,} rows of {name}.", metrics, shown)


def _report(
    classifier: LabelsClassifier, source: str, metrics: LabelsMetrics, shown: LabelsHeldOut
) -> Report:
    card = classifier.card
    positives = dict(zip(card.labels, card.positives, strict=True))
    listed = sorted(metrics.labels.items(), key=lambda one: -positives[one[0]])[:LISTED]
    columns = zip(shown.labels, shown.logits.T, shown.targets.T, strict=True)
    parts = [
        part
        for label, logits, targets in columns
        if (part := _part(classifier, label, logits, targets, shown.weight)) is not None
    ]
    return Report(
        f"{len(card.labels):,} labels",
        source,
        parts,
        plain_card(card),
        list(classifier.tried),
        labels=[
            LabelRow(
                name,
                positives[name],
                own.log_loss,
                own.roc_auc,
                own.average_precision,
                own.f1,
            )
            for name, own in listed
        ],
        summary=_summary(metrics),
    )


def _part(
    classifier: LabelsClassifier,
    label: int,
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray | None,
) -> Part | None:
    """The report of one label; None where it is known of no row."""
    known = ~np.isnan(targets)
    if weight is not None:
        known &= weight > 0
    if not known.any():
        return None
    card = classifier.card
    z, y, w = logits[known], targets[known], None if weight is None else weight[known]
    positive, negative = "yes", "no"
    if isinstance(card.source, LabelColumns):
        target = card.source.targets[label]
        positive, negative = target.positive, target.negative
    return Part(
        card.labels[label],
        positive,
        negative,
        evaluate_model(z, y, Rule(card.thresholds[label]), w),
        curves_of(np.asarray(expit(z)), y, w),
        [],
    )


def _summary(metrics: LabelsMetrics) -> str:
    sentence = f"The mean log loss of the labels is {metrics.log_loss:.4f}"
    if metrics.relative_log_loss is not None:
        sentence += f", {metrics.relative_log_loss:.2f} times that of their base rates"
    best = metrics.precision_at.get("1")
    if best is not None:
        sentence += f"; the most probable label of a row is right in {best:.1%} of rows"
    return f"{sentence}; micro-F1 is {metrics.micro_f1:.3f} and macro-F1 {metrics.macro_f1:.3f}."
