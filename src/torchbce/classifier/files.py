"""Whole files through a classifier, a batch of rows at a time, in the order of the input."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from torchbce.classifier.columns.encoder import TextColumn
from torchbce.classifier.columns.target import choose_target
from torchbce.classifier.columns.values import as_numbers
from torchbce.classifier.errors import InputError, listing, unknown_name
from torchbce.classifier.model import Classifier
from torchbce.classifier.quality.metrics import Metrics, evaluate_logits, evaluate_probabilities
from torchbce.classifier.tables.reading import batches, numeric_columns, read, scan
from torchbce.classifier.tables.writing import row_writer

APPENDED = ("probability", "predicted")


def predict_file(
    classifier: Classifier, table: Path, output: Path | None, overwrite: bool, json_lines: bool
) -> dict[str, int]:
    """Write the rows of `table` with `probability` and `predicted` appended.

    Without an `output` they go to standard output, as CSV or as JSON lines. Returns how many
    `rows` there were and how many `positives` were predicted. Raises `InputError`.
    """
    rows = positives = 0
    frame = scan(table)
    with row_writer(output, overwrite, json_lines) as writer:
        numbers = {} if writer.keeps_strings else numeric_columns(table)
        for first_row, batch in _numbered(batches(table, frame)):
            if taken := [name for name in APPENDED if name in batch.columns]:
                raise InputError(
                    f"the table already has {'a column' if len(taken) == 1 else 'columns'} "
                    f"{listing(taken)}; rename or drop it"
                )
            answers = classifier.predict(batch, first_row)
            rows += len(batch)
            positives += int((answers["probability"] >= classifier.card.threshold).sum())
            kept = batch.cast(numbers)  # type: ignore[arg-type]
            writer.write(pl.concat([kept, answers], how="horizontal"))
    return {"rows": rows, "positives": positives}


def predict_text(classifier: Classifier, text: str) -> dict[str, Any]:
    """`probability` and `predicted` of one text, by a model of one text column and no other."""
    columns = classifier.encoder.columns
    if len(columns) != 1 or not isinstance(columns[0], TextColumn):
        names = listing([column.name for column in columns])
        raise InputError(f"--text needs a model of one text column; this one reads {names}")
    return classifier.predict(pl.DataFrame({columns[0].name: [text]})).row(0, named=True)


def evaluate_file(classifier: Classifier, table: Path) -> Metrics:
    """The figures of a classifier on a table with its target column."""
    target = classifier.card.target
    logits, truth = [], []
    for first_row, batch in _numbered(batches(table)):
        if target.column not in batch.columns:
            raise unknown_name("target column", target.column, batch.columns)
        truth.append(target.array(batch[target.column], first_row))
        logits.append(classifier.logits(batch, first_row))
    return evaluate_logits(np.concatenate(logits), np.concatenate(truth), classifier.card.threshold)


def evaluate_predictions(
    path: Path, target: str, probability: str, positive: str | None
) -> Metrics:
    """The figures of a file of probabilities, from whatever tool."""
    table = read(path)
    chosen = choose_target(table, target, positive)
    if probability not in table.columns:
        raise unknown_name("column", probability, table.columns)
    p = as_numbers(table[probability])
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        at = int(wrong.argmax())
        holds = "no value" if np.isnan(p[at]) else f"{p[at]:g}"
        raise InputError(
            f"column {probability!r} holds {holds} in row {at + 1}; probabilities lie in [0, 1]"
        )
    return evaluate_probabilities(p, chosen.array(table[target]))


def _numbered(tables: Iterator[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Each batch with the number of its first row, counted from 1."""
    first_row = 1
    for batch in tables:
        yield first_row, batch
        first_row += len(batch)
