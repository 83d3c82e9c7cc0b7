"""Fit a classifier to a table: infer the columns, encode them, fit models, combine them."""

import dataclasses
import platform
from collections.abc import Callable, Collection
from importlib.metadata import version

import numpy as np

from torchbce.classifier.columns.encoder import fit_encoder
from torchbce.classifier.columns.inference import Choice, Overrides, infer_columns
from torchbce.classifier.columns.target import Target, choose_target
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.errors import InputError
from torchbce.classifier.model import FORMAT, Card, Classifier
from torchbce.classifier.models.data import Data
from torchbce.classifier.models.search import search
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.progress import NoProgress, Progress
from torchbce.classifier.quality.metrics import evaluate_logits
from torchbce.classifier.tables.frames import TableLike, as_table
from torchbce.imbalance import pos_weight_from_counts

LIBRARIES = ("torch", "scikit-learn", "polars", "numpy")


def fit(
    table: TableLike,
    target: str,
    *,
    positive: str | None = None,
    overrides: Overrides | None = None,
    missing: Collection[str] = (),
    decimal: str = ".",
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
    on_choice: Callable[[list[Choice], Target], object] = lambda choices, target: None,
) -> Classifier:
    """Fit a classifier to a table with a target column of two values.

    Each model is fitted to parts of the rows, and its settings are chosen by the loss of the rows
    that the parts hold out. The weights that combine the models are fitted to these rows too, and a
    model is kept only if it helps by more than its noise. The metrics that are reported are those
    of rows held out, each with settings and weights that were chosen on other rows.

    Args:
        table: the rows, at least two of each target value: a polars, pandas or Arrow table, a
            polars LazyFrame, or a dict of columns.
        target: the name of the target column, which holds two values and none missing.
        positive: its positive value; needed unless the values are a known pair such as 0 and 1, or
            "no" and "yes".
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
    options = options or TrainingOptions()
    rows_given = without_words(as_table(table), missing)
    chosen_target = choose_target(rows_given, target, positive)
    choices = infer_columns(rows_given, target, overrides or Overrides(), decimal)
    on_choice(choices, chosen_target)

    y = chosen_target.array(rows_given[target]).astype(np.float64)
    positives = int(y.sum())
    _check_counts(chosen_target, positives, len(y) - positives)
    encoder, encoded = fit_encoder(rows_given, choices)
    pos_weight = _pos_weight(options, positives, len(y))
    found = search(Data(encoder, encoded, y, pos_weight, options, progress or NoProgress()))

    card = Card(
        format=FORMAT,
        target=chosen_target,
        threshold=0.5,
        base=found.base,
        models={
            model.name: weight for model, weight in zip(found.models, found.weights, strict=True)
        },
        pos_weight=pos_weight,
        rows=len(y),
        positives=positives,
        held_out=evaluate_logits(found.logits, y[found.rows]),
        options=dataclasses.asdict(options),
        versions={
            "torchbce": version("torchbce"),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        dropped={choice.name: choice.reason for choice in choices if choice.kind == "dropped"},
        columns=encoder.columns,
        missing=list(missing),
    )
    return Classifier(card, encoder, tuple(found.models), tuple(choices), tuple(found.tried))


def _check_counts(target: Target, positives: int, negatives: int) -> None:
    for value, count in ((target.positive, positives), (target.negative, negatives)):
        if count < 2:
            raise InputError(
                f"only {count} row of target column {target.column!r} holds {value!r}; at least "
                "2 rows of each value are needed, one to learn from and one to check with"
            )


def _pos_weight(options: TrainingOptions, positives: int, rows: int) -> float:
    if options.pos_weight == "balanced":
        return pos_weight_from_counts(positives, rows - positives).item()
    return float(options.pos_weight or 1.0)
