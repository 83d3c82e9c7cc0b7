"""Fit a classifier to a table: infer the columns, encode them, fit models, combine them."""

import dataclasses
import platform
from collections.abc import Callable, Collection
from importlib.metadata import version

import numpy as np
import polars as pl

from torchbce.classifier.columns.encoder import fit_encoder
from torchbce.classifier.columns.inference import Choice, Overrides, infer_columns
from torchbce.classifier.columns.outcomes import (
    Outcomes,
    RowColumns,
    check_weight,
    positions,
    read_outcomes,
    read_weight,
)
from torchbce.classifier.columns.target import Target, choose_target, named_target
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.errors import InputError
from torchbce.classifier.model import FORMAT, Card, Classifier, split_of
from torchbce.classifier.models.data import Data
from torchbce.classifier.models.search import search
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.progress import NoProgress, Progress
from torchbce.classifier.quality.base_rates import check_rate
from torchbce.classifier.quality.metrics import Metrics, evaluate_logits
from torchbce.classifier.tables.frames import TableLike, as_table
from torchbce.imbalance import pos_weight_from_counts

LIBRARIES = ("torch", "scikit-learn", "polars", "numpy")


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
    named = named_target(target, positive, soft, positives, trials)
    counted = rows_given
    if (weights := read_weight(rows_given, named, weight)) is not None:
        counted = rows_given.filter(weights > 0)
    chosen = named or choose_target(counted if len(counted) else rows_given, target or "", positive)
    return fit_rows(
        rows_given,
        read_outcomes(rows_given, chosen, columns),
        chosen,
        columns=columns,
        base_rate=base_rate,
        overrides=overrides,
        missing=missing,
        decimal=decimal,
        options=options,
        progress=progress,
        on_choice=on_choice,
    )


def fit_rows(
    inputs: pl.DataFrame,
    outcomes: Outcomes,
    target: Target,
    *,
    columns: RowColumns | None = None,
    base_rate: float | None = None,
    overrides: Overrides | None = None,
    missing: Collection[str] = (),
    decimal: str = ".",
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
    on_choice: Callable[[list[Choice], Target], object] = lambda choices, target: None,
) -> Classifier:
    """Fit a classifier to inputs, and targets, weights, groups and times that are arrays.

    `fit` reads these from columns of the table, and calls this.

    Args:
        inputs: the rows; columns of the target, and those of `columns`, are not read.
        outcomes: what is known of each row beside its inputs.
        target: the names of the two values.
        columns: the names of the columns of weights, groups and times, for `Classifier.card`.
        base_rate: as in `fit`.
        overrides: as in `fit`, and so are the others.
        missing: words that mean "no value", for `Classifier.card`; they are null in `inputs`.
        decimal: likewise.
        options: likewise.
        progress: likewise.
        on_choice: likewise.

    Returns:
        The classifier.

    Raises:
        InputError: as `fit`.
    """
    options, columns = options or TrainingOptions(), columns or RowColumns()
    if base_rate is not None:
        check_rate(base_rate)
    if outcomes.weight is not None:
        check_weight(outcomes.weight)
    counted = outcomes.counted()
    if not len(counted):
        raise InputError("every row has a weight of 0, so that no row counts")
    if len(counted) < len(outcomes):
        with positions(counted):
            return fit_rows(
                inputs[counted],
                outcomes.take(counted),
                target,
                columns=columns,
                base_rate=base_rate,
                overrides=overrides,
                missing=missing,
                decimal=decimal,
                options=options,
                progress=progress,
                on_choice=on_choice,
            )
    choices = infer_columns(
        inputs, target.columns, overrides or Overrides(), decimal, columns.dropped()
    )
    on_choice(choices, target)

    y, weight = outcomes.targets, outcomes.scaled()
    _check_counts(target, y)
    encoder, encoded = fit_encoder(inputs, choices)
    positives, negatives = _mass(y, outcomes.weight)
    pos_weight = _pos_weight(options, positives, negatives)
    data = Data(
        encoder,
        encoded,
        y,
        pos_weight,
        options,
        progress or NoProgress(),
        weight,
        outcomes.groups,
        outcomes.times,
    )
    found = search(data)

    card = Card(
        format=FORMAT,
        target=target,
        threshold=0.5,
        base=found.base,
        models={
            model.name: weight for model, weight in zip(found.models, found.weights, strict=True)
        },
        pos_weight=pos_weight,
        rows=len(y),
        positives=positives,
        held_out=_evaluate(found.logits, outcomes.take(found.rows)),
        options=dataclasses.asdict(options),
        versions={
            "torchbce": version("torchbce"),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        dropped={choice.name: choice.reason for choice in choices if choice.kind == "dropped"},
        columns=encoder.columns,
        missing=list(missing),
        row_columns=columns,
        weight=None if outcomes.weight is None else float(outcomes.weight.sum()),
        split=split_of(data.parts, found.rows),
        base_rate=base_rate,
    )
    return Classifier(card, encoder, tuple(found.models), tuple(choices), tuple(found.tried))


def _check_counts(target: Target, y: np.ndarray) -> None:
    for value, count in ((target.positive, (y > 0).sum()), (target.negative, (y < 1).sum())):
        if count < 2:
            raise InputError(
                f"only {count} row of target column {target.column!r} holds {value!r}; at least "
                "2 rows of each value are needed, one to learn from and one to check with"
                if target.kind == "values"
                else f"target column {target.column!r} says {target.negative!r} or "
                f"{target.positive!r} for certain in all rows but {count}; there is nothing to "
                "learn"
            )
    if (y == y[0]).all():
        raise InputError(
            f"target column {target.column!r} holds the probability {y[0]:g} in every row; there "
            "is nothing to learn"
        )


def _mass(y: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """The weights of all positives and of all negatives; whole numbers where they count rows."""
    weight = np.ones(len(y)) if weight is None else weight
    positives, negatives = float(weight @ y), float(weight @ (1 - y))
    whole = positives.is_integer() and negatives.is_integer()
    return (int(positives), int(negatives)) if whole else (positives, negatives)


def _evaluate(logits: np.ndarray, outcomes: Outcomes) -> Metrics:
    return evaluate_logits(logits, outcomes.targets, weight=outcomes.weight)


def _pos_weight(options: TrainingOptions, positives: float, negatives: float) -> float:
    if options.pos_weight == "balanced":
        return pos_weight_from_counts(positives, negatives).item()
    return float(options.pos_weight or 1.0)
