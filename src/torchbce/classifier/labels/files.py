"""Predict and evaluate whole files by a classifier of many labels."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from torchbce.classifier.columns.encoder import Encoded
from torchbce.classifier.columns.outcomes import RowColumns, positions
from torchbce.classifier.errors import InputError, rows_offset
from torchbce.classifier.files import Unseen, free_name
from torchbce.classifier.labels.metrics import LabelsMetrics
from torchbce.classifier.labels.model import LabelsClassifier
from torchbce.classifier.labels.sources import read_row_columns
from torchbce.classifier.labels.targets import concatenated
from torchbce.classifier.tables.carried import numeric_columns
from torchbce.classifier.tables.reading import batches, scan
from torchbce.classifier.tables.sources import Paths
from torchbce.classifier.tables.writing import row_writer


def predict_labels_file(
    classifier: LabelsClassifier,
    table: Paths,
    output: Path | None,
    overwrite: bool,
    json_lines: bool,
    separator: str | None = None,
    prefix: str = "",
    top: int | None = None,
    on_names: Callable[[Sequence[str], Sequence[str], Sequence[str]], object] = (
        lambda columns, usual, names: None
    ),
) -> dict[str, int]:
    """Write the rows of a file with the columns of `LabelsClassifier.predict` appended.

    Args:
        classifier: the model.
        table: the file to read, or several, as `read` takes them.
        output: the file to write; None writes to standard output.
        overwrite: whether to replace `output` if it exists.
        json_lines: whether standard output gets JSON lines rather than CSV.
        separator: what separates the values of a CSV; None to look at its first lines.
        prefix: what the names of the appended columns begin with. A number is added to a name that
            the table has.
        top: K, to append the K most probable labels, as `LabelsClassifier.predict`.
        on_names: called before the first row with the names of the table, the usual names of the
            new columns, and those that they get.

    Returns:
        The number of `rows`.

    Raises:
        InputError: if the file cannot be read, does not fit the model or cannot be written.
    """
    rows = 0
    names: dict[str, str] | None = None
    unseen = Unseen(classifier)
    scanned = scan(table, separator, empty=True)
    with row_writer(output, overwrite, json_lines) as writer:
        numbers = {} if writer.keeps_strings else numeric_columns(scanned)
        for batch in batches(scanned):
            with rows_offset(rows), unseen.collected(batch):
                predictions = classifier.predict(batch, writer.keeps_strings, top)
            if names is None:
                usual = [prefix + name for name in predictions.columns]
                taken = set(batch.columns)
                names = {}
                for column, name in zip(predictions.columns, usual, strict=True):
                    names[column] = free_name(name, taken)
                    taken.add(names[column])
                on_names(batch.columns, usual, list(names.values()))
            rows += len(batch)
            typed = batch.cast(numbers)  # type: ignore[arg-type]
            writer.write(pl.concat([typed, predictions.rename(names)], how="horizontal"))
    unseen.warn()
    return {"rows": rows}


def evaluate_labels_file(
    classifier: LabelsClassifier,
    table: Paths,
    separator: str | None = None,
    weight: str | None = None,
) -> LabelsMetrics:
    """The metrics of a classifier on a file that has the columns of its labels.

    Args:
        classifier: the model.
        table: the file to read, or several, as `read` takes them.
        separator: what separates the values of a CSV; None to look at its first lines.
        weight: the name of a column of weights; rows of weight 0 are left out.

    Raises:
        InputError: if the file cannot be read or does not fit the model.
    """
    RowColumns(weight).check(classifier.card.source.columns)
    parts, targets, weights = [], [], []
    rows = 0
    unseen = Unseen(classifier)
    for batch in batches(scan(table, separator)):
        with rows_offset(rows), unseen.collected(batch):
            found = read_row_columns(batch, RowColumns(weight))
            counted = np.intersect1d(found.counted(), classifier.card.source.known(batch))
            with positions(counted):
                some = batch[counted]
                targets.append(classifier.card.source.read(some))
                parts.append(classifier.encoded(some))
            if found.weight is not None:
                weights.append(found.weight[counted])
        rows += len(batch)
    unseen.warn()
    labels = concatenated(targets)
    if not len(labels):
        raise InputError("no row counts: the weight of each is 0, or its labels are unknown")
    w = np.concatenate(weights) if weights else None
    return classifier.evaluate_encoded(_together(parts), labels, w)


def _together(parts: Sequence[Encoded]) -> Encoded:
    """The rows of several batches."""
    import scipy.sparse as sp

    return Encoded(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.codes for part in parts]),
        sp.vstack([part.text for part in parts], format="csr"),
    )
