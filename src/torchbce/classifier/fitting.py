"""Fit a classifier to a table: find its target, weights, groups and times among its columns."""

from collections.abc import Callable, Collection

import polars as pl

from torchbce.classifier.columns.inference import Choice, Overrides
from torchbce.classifier.columns.outcomes import Outcomes, RowColumns, read_outcomes, read_weight
from torchbce.classifier.columns.target import Target, choose_target, named_target
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.model import Classifier
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.progress import NoProgress, Progress
from torchbce.classifier.rows import Settings, fit_rows
from torchbce.classifier.tables.frames import TableLike, as_table


def fit(
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
    base_rate: float | None = None,
    overrides: Overrides | None = None,
    missing: Collection[str] = (),
    decimal: str = ".",
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
    on_choice: Callable[[list[Choice], Target], object] = lambda choices, target: None,
) -> Classifier:
    """Fit a classifier to a table with a target column of two values, or of probabilities.

    Each model is fitted to parts of the rows, and its settings are chosen by the loss of the rows
    that the parts hold out. The weights that combine the models are fitted to these rows too, and a
    model is kept only if it helps by more than its noise. The metrics that are reported are those
    of rows held out, each with settings and weights that were chosen on other rows.

    Args:
        table: the rows, at least two of each target value: a polars, pandas or Arrow table, a
            polars LazyFrame, or a dict of columns.
        target: the name of the target column, which holds two values and none missing. None with
            `positives` and `trials`.
        positive: its positive value; needed unless the values are a known pair such as 0 and 1, or
            "no" and "yes".
        soft: whether the target column holds probabilities in [0, 1].
        positives: the name of a column with the number of positive votes, or of successes, of each
            row, in place of `target`.
        trials: the name of the column with the number of all votes: a row is as many rows, of which
            that many are positive.
        weight: the name of a column of weights: a row of weight 3 counts as three such rows, and
            one of weight 0 is left out. Rows, not weights, are counted for the size of parts, bins
            and leaves. Weights with a mean below 0.1 or above 100 are divided by it.
        group: the name of a column of groups, as patients of which each has several rows: no group
            is both among the rows to learn from and those held out.
        time: the name of a column of dates or numbers: the rows held out are later than those to
            learn from.
        base_rate: the share of positives where the classifier will be used, if it is not that of
            the table, as after leaving out negatives. The metrics are those of the table.
        overrides: the columns whose kind is given; that of the others is inferred.
        missing: words that mean "no value", besides those of pandas.
        decimal: what begins the decimals of numbers in strings, "." or ",".
        options: what to fit and how; None is `TrainingOptions()`.
        progress: receives each model and setting that is tried.
        on_choice: called before the training with the choice of each column, and the target.

    Returns:
        The classifier; `classifier.card.held_out` has its metrics on the rows held out, and
        `classifier.tried` the loss, the weight and the time of each model.

    Raises:
        InputError: if the table cannot be learned from, the options do not fit it or the machine,
            or the training diverges.

    Example:
        >>> import polars as pl
        >>> rows = {"size": [1.0, 2.0, 3.0, 8.0, 9.0, 7.0] * 20, "big": [0, 0, 0, 1, 1, 1] * 20}
        >>> classifier = fit(pl.DataFrame(rows), "big")
        >>> classifier.predict(pl.DataFrame({"size": [1.5, 8.5]}))["predicted"].to_list()
        [0, 1]

    References:
        Breiman, Stacked Regressions, 1996 (non-negative weights fitted to rows held out).
    """
    rows_given = without_words(as_table(table), missing)
    columns = RowColumns(weight, group, time)
    chosen, outcomes = read_target(rows_given, target, positive, soft, positives, trials, columns)
    settings = Settings(
        columns=columns,
        base_rate=base_rate,
        overrides=overrides or Overrides(),
        missing=missing,
        decimal=decimal,
        options=options or TrainingOptions(),
        progress=progress or NoProgress(),
        on_choice=on_choice,
    )
    return fit_rows(rows_given, outcomes, chosen, settings)


def read_target(
    table: pl.DataFrame,
    target: str | None,
    positive: str | None,
    soft: bool,
    positives: str | None,
    trials: str | None,
    columns: RowColumns,
) -> tuple[Target, Outcomes]:
    """The target of a table, and what its columns say of each row; for the rest see `fit`."""
    named = named_target(target, positive, soft, positives, trials)
    columns.check([name for name in (target, positives, trials) if name is not None])
    counted = table
    if (weights := read_weight(table, named, columns.weight)) is not None:
        counted = table.filter(weights > 0)
    chosen = named or choose_target(counted if len(counted) else table, target or "", positive)
    return chosen, read_outcomes(table, chosen, columns)
