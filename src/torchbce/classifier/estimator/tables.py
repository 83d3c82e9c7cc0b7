"""Fit the estimator to a table, whose columns have targets, weights, groups and times."""

from collections.abc import Callable

from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.outcomes import RowColumns, check_not_all_zero
from torchbce.classifier.columns.target import Target
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.estimator.classifier import BCEClassifier
from torchbce.classifier.estimator.context import Context
from torchbce.classifier.fitting import read_target
from torchbce.classifier.model import Classifier
from torchbce.classifier.progress import NoProgress, Progress
from torchbce.classifier.tables.frames import TableLike, as_table


def fit_table(
    estimator: BCEClassifier,
    table: TableLike,
    target: str | None = None,
    *,
    positive: str | None = None,
    soft: bool = False,
    positives: str | None = None,
    trials: str | None = None,
    weight: str | None = None,
    group: str | None = None,
    time: str | None = None,
    progress: Progress | None = None,
    on_choice: Callable[[list[Choice], Target], object] = lambda choices, target: None,
) -> Classifier:
    """Fit an estimator to a table; `torchbce fit` is this.

    Args:
        estimator: has the options; its `positive` and `soft` are not read.
        table: as in `fit`, and so are the others.
        target: likewise.
        positive: likewise.
        soft: likewise.
        positives: likewise.
        trials: likewise.
        weight: likewise.
        group: likewise.
        time: likewise.
        progress: likewise.
        on_choice: likewise.

    Returns:
        The classifier of the estimator, the same as `fit` returns, bit for bit.

    Raises:
        InputError: as `fit`.
    """
    rows = without_words(as_table(table), estimator._words())
    columns = RowColumns(weight, group, time)
    chosen, outcomes = read_target(rows, target, positive, soft, positives, trials, columns)
    check_not_all_zero(outcomes.weight)
    # Columns of the target that are named as inputs are an error of their own.
    estimator._kinds(rows, rows).kinds(rows, chosen.columns)
    estimator._context = Context(chosen, columns, progress or NoProgress(), on_choice)
    estimator.fit(
        rows.drop(chosen.columns),
        outcomes.targets,
        outcomes.weight,
        groups=outcomes.groups,
        times=outcomes.times,
    )
    classifier: Classifier = estimator.classifier_
    return classifier
