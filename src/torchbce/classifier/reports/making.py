"""Make the report of a classifier, from the rows held out of its fit or from another table."""

from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.outcomes import RowColumns, positions, read_outcomes
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.errors import Argument, InputError, file_error
from torchbce.classifier.labels.model import LabelsClassifier
from torchbce.classifier.model import Classifier
from torchbce.classifier.outputs import written
from torchbce.classifier.reports.content import Report, report_of
from torchbce.classifier.reports.labels import held_out_labels_report, labels_table_report
from torchbce.classifier.reports.page import render
from torchbce.classifier.storage import REPORT, REPORT_DATA
from torchbce.classifier.tables.frames import TableLike, as_table


def held_out_report(
    classifier: Classifier | LabelsClassifier, table: pl.DataFrame | None = None
) -> Report:
    """The report of the rows held out when a classifier was fitted.

    Args:
        classifier: as `fit` or `fit_labels` returns it.
        table: what it was fitted to, to show rows that it is wrong about; None shows none.

    Returns:
        The report, for `write_report` or `report_files`.

    Raises:
        InputError: if it was loaded, so that these rows are not known.

    Example:
        >>> from torchbce.classifier import fit
        >>> table = pl.DataFrame({"x": [0.5, 1.5, 2.5, 3.5] * 20, "y": [0, 0, 1, 1] * 20})
        >>> held_out_report(fit(table, "y"), table).source
        'On 80 rows held out, with settings and weights chosen on other rows.'
    """
    if isinstance(classifier, LabelsClassifier):
        return held_out_labels_report(classifier)
    held_out = classifier.held_out
    if held_out is None:
        raise InputError(
            "the rows held out are known right after a fit only; give a table with the target"
        )
    source = (
        f"On {len(held_out.rows):,} rows held out, with settings and weights chosen on other rows."
    )
    logits = held_out.logits + classifier.card.base_shift
    return report_of(
        classifier, source, logits, held_out.targets, held_out.weight, held_out.rows, table
    )


def table_report(
    classifier: Classifier | LabelsClassifier,
    table: TableLike,
    name: str = "a table",
    weight: str | None = None,
) -> Report:
    """The report of a classifier on a table.

    Args:
        classifier: the model.
        table: has its columns and its target.
        name: what the report calls the table.
        weight: the name of a column of weights; rows of weight 0 are left out. Not for many labels.

    Returns:
        The report, for `write_report` or `report_files`.

    Raises:
        InputError: if the table has no rows, or does not fit the model.

    Example:
        >>> from torchbce.classifier import fit
        >>> table = pl.DataFrame({"x": [0.5, 1.5, 2.5, 3.5] * 20, "y": [0, 0, 1, 1] * 20})
        >>> table_report(fit(table, "y"), table, "the test rows").source
        'On 80 rows of the test rows.'
    """
    if isinstance(classifier, LabelsClassifier):
        if weight is not None:
            raise InputError(Argument("weight"), " is for a model of one target")
        return labels_table_report(classifier, table, name)
    rows = without_words(as_table(table), classifier.card.missing)
    outcomes = read_outcomes(rows, classifier.card.target, RowColumns(weight))
    counted = outcomes.counted()
    if not len(counted):
        raise InputError("no row counts: the table is empty, or every weight is 0")
    own = outcomes.take(counted)
    with positions(counted):
        logits = np.asarray(classifier.logits(rows[counted]))
    source = f"On {len(counted):,} rows of {name}."
    return report_of(classifier, source, logits, own.targets, own.weight, counted, rows)


def report_files(report: Report) -> dict[str, bytes]:
    """The files of a report, for `save` to write beside a model.

    Args:
        report: of `held_out_report` or `table_report`.

    Returns:
        The page and its data, by the names of the files.

    Raises:
        ImportError: if altair or vl-convert-python is not installed.

    Example:
        >>> from torchbce.classifier import fit
        >>> table = pl.DataFrame({"x": [0.5, 1.5, 2.5, 3.5] * 20, "y": [0, 0, 1, 1] * 20})
        >>> list(report_files(held_out_report(fit(table, "y"))))
        ['report.html', 'report.json']
    """
    return {REPORT: render(report), REPORT_DATA: msgspec.json.encode(report)}


def read_report(directory: Path) -> Report:
    """The report that was written with a model.

    Args:
        directory: the model directory.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    path = directory / REPORT_DATA
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except FileNotFoundError as error:
        raise InputError(
            f"{str(directory)!r} has no {REPORT_DATA}, so that its report cannot be made again; "
            "give a table with the target"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from error
    except OSError as error:
        raise file_error("read", path, error) from error


def write_report(report: Report, path: str | Path, overwrite: bool = False) -> None:
    """Write a report as one HTML file, completely or not at all.

    Args:
        report: of `held_out_report`, `table_report` or `read_report`.
        path: the file.
        overwrite: whether to replace it if it exists.

    Raises:
        InputError: if it exists and `overwrite` is False, or cannot be written.

    Example:
        >>> import tempfile
        >>> from torchbce.classifier import fit
        >>> table = pl.DataFrame({"x": [0.5, 1.5, 2.5, 3.5] * 20, "y": [0, 0, 1, 1] * 20})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(held_out_report(fit(table, "y")), Path(folder) / "report.html")
        ...     (Path(folder) / "report.html").stat().st_size > 500_000
        True
    """
    with written(Path(path), overwrite) as partial:
        partial.write_bytes(render(report))
