"""Fit a classifier to a table: infer the columns, encode them, find when to stop, train."""

import dataclasses
import platform
from collections.abc import Callable, Collection
from importlib.metadata import version

import numpy as np
import torch

from torchbce.classifier.columns.encoder import fit_encoder
from torchbce.classifier.columns.inference import Choice, Overrides, infer_columns
from torchbce.classifier.columns.target import Target, choose_target
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.errors import InputError
from torchbce.classifier.model import FORMAT, Card, Classifier
from torchbce.classifier.quality.metrics import Metrics, evaluate_logits
from torchbce.classifier.tables.frames import TableLike, as_table
from torchbce.classifier.training.loop import train
from torchbce.classifier.training.options import TrainingOptions
from torchbce.classifier.training.progress import NoProgress, Progress
from torchbce.classifier.training.rows import Rows
from torchbce.classifier.training.splits import splits
from torchbce.imbalance import correct_logits, pos_weight_from_counts

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

    The network is trained twice: first with a tenth of the rows held out (each of five parts in
    turn for fewer than 2,000 rows), whose loss determines when to stop and whose metrics are
    reported; then on all rows, for the best number of epochs. The features are fitted to the inputs
    of all rows, without the targets.

    Args:
        table: the rows, at least two of each target value: a polars, pandas or Arrow table, a
            polars LazyFrame, or a dict of columns.
        target: the name of the target column, which holds two values and none missing.
        positive: its positive value; needed unless the values are a known pair such as 0 and 1, or
            "no" and "yes".
        overrides: the columns whose kind is given; that of the others is inferred.
        missing: words that mean "no value", besides those of pandas.
        decimal: what begins the decimals of numbers in strings, "." or ",".
        options: how to train; None is `TrainingOptions()`.
        progress: receives each training, step and epoch.
        on_choice: called before the training with the choice of each column, and the target.

    Returns:
        The classifier; `classifier.card.held_out` has its metrics on the rows held out.

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
        Prechelt, Early Stopping - But When?, 1998.
    """
    options = options or TrainingOptions()
    progress = progress or NoProgress()
    rows_given = without_words(as_table(table), missing)
    chosen_target = choose_target(rows_given, target, positive)
    choices = infer_columns(rows_given, target, overrides or Overrides(), decimal)
    on_choice(choices, chosen_target)

    y = chosen_target.array(rows_given[target])
    positives = int(y.sum())
    _check_counts(chosen_target, positives, len(y) - positives)
    encoder, features = fit_encoder(rows_given, choices)
    rows = Rows(features, y)
    pos_weight = _pos_weight(options, positives, len(y))
    epochs, held_out = _train_held_out(rows, pos_weight, options, progress)
    final = train(rows, None, epochs, pos_weight, options, progress, "all rows")

    card = Card(
        format=FORMAT,
        target=chosen_target,
        threshold=0.5,
        architecture=options.model,
        pos_weight=pos_weight,
        rows=len(y),
        positives=positives,
        epochs=epochs,
        held_out=held_out,
        training=dataclasses.asdict(options),
        versions={
            "torchbce": version("torchbce"),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        dropped={choice.name: choice.reason for choice in choices if choice.kind == "dropped"},
        columns=encoder.columns,
        missing=list(missing),
    )
    return Classifier(card, encoder, final.network.eval(), tuple(choices))


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


def _train_held_out(
    rows: Rows, pos_weight: float, options: TrainingOptions, progress: Progress
) -> tuple[int, Metrics]:
    """The best number of epochs, averaged over the splits, and the metrics of held-out rows."""
    pairs = list(splits(rows.targets, options.seed))
    epochs = []
    logits = np.full(len(rows), np.nan)
    for number, (train_on, held_out) in enumerate(pairs, start=1):
        stage = "held out" if len(pairs) == 1 else f"held out {number}/{len(pairs)}"
        trained = train(
            rows.take(train_on),
            rows.take(held_out),
            options.epochs,
            pos_weight,
            options,
            progress,
            stage,
        )
        epochs.append(trained.epochs)
        raw = torch.from_numpy(trained.held_out_logits)
        logits[held_out] = correct_logits(raw, pos_weight).numpy()
    seen = ~np.isnan(logits)
    return round(float(np.mean(epochs))), evaluate_logits(logits[seen], rows.targets[seen])
