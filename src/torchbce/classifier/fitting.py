"""From a table to a classifier: choose, encode, find when to stop, train on every row."""

import dataclasses
import platform
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import polars as pl
import torch

from torchbce.classifier.columns.encoder import fit_encoder
from torchbce.classifier.columns.inference import Choice, Overrides, infer_columns
from torchbce.classifier.columns.target import Target, choose_target
from torchbce.classifier.errors import InputError
from torchbce.classifier.model import FORMAT, Card, Classifier
from torchbce.classifier.quality.metrics import evaluate_logits
from torchbce.classifier.training.loop import Rows, Trained, train
from torchbce.classifier.training.options import TrainingOptions
from torchbce.classifier.training.progress import Progress, Silent
from torchbce.classifier.training.splits import splits
from torchbce.imbalance import correct_logits, pos_weight_from_counts

LIBRARIES = ("torch", "scikit-learn", "polars", "numpy")


def fit(
    table: pl.DataFrame,
    target: str,
    *,
    positive: str | None = None,
    overrides: Overrides | None = None,
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
    on_choice: Callable[[list[Choice], Target], object] = lambda choices, target: None,
) -> Classifier:
    """Fit a classifier to a table with a column of two values.

    The network is trained first with a tenth of the rows held out (below 2,000 rows: five parts
    in turn), which tells when to stop and how good it is, and then on all rows for as many epochs.
    The features are fitted to the inputs of all rows, never to their targets.

    Args:
        table: at least two rows of each value.
        target: the name of the target column.
        positive: its positive value, where that is not evident.
        overrides: the columns whose kind is given.
        options: how to train.
        progress: told while the training runs.
        on_choice: told what each column and the target were taken for, before the training.

    Returns:
        The classifier; `classifier.card.held_out` has its figures on the rows held out.

    Raises:
        InputError: if the table cannot be learned from; the message says why.

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
    progress = progress or Silent()
    chosen_target = choose_target(table, target, positive)
    choices = infer_columns(table, target, overrides or Overrides())
    on_choice(choices, chosen_target)

    y = chosen_target.array(table[target])
    positives = int(y.sum())
    for label, count in (
        (chosen_target.positive, positives),
        (chosen_target.negative, len(y) - positives),
    ):
        if count < 2:
            raise InputError(
                f"only {count} row of target column {target!r} holds {label!r}; at least 2 rows "
                "of each value are needed, one to learn from and one to check with"
            )
    encoder, matrix = fit_encoder(table, choices)
    rows = Rows(matrix, y)
    pos_weight = _pos_weight(options, positives, len(y))

    pairs = list(splits(y, options.seed))
    trials: list[Trained] = []
    logits = np.full(len(y), np.nan)
    for number, (train_on, held_out) in enumerate(pairs, start=1):
        stage = "held out" if len(pairs) == 1 else f"held out {number}/{len(pairs)}"
        trial = train(
            rows.take(train_on),
            rows.take(held_out),
            options.epochs,
            pos_weight,
            options,
            progress,
            stage,
        )
        trials.append(trial)
        raw = torch.from_numpy(trial.held_out_logits)
        logits[held_out] = correct_logits(raw, pos_weight).numpy()
    epochs = round(float(np.mean([trial.epochs for trial in trials])))
    final = train(rows, None, epochs, pos_weight, options, progress, "all rows")

    seen = ~np.isnan(logits)
    card = Card(
        format=FORMAT,
        target=chosen_target,
        threshold=0.5,
        architecture=options.model,
        pos_weight=pos_weight,
        rows=len(y),
        positives=positives,
        epochs=epochs,
        held_out=evaluate_logits(logits[seen], y[seen]),
        training=dataclasses.asdict(options),
        versions={
            "torchbce": version("torchbce"),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        dropped={choice.name: choice.reason for choice in choices if choice.kind == "dropped"},
        columns=encoder.columns,
    )
    return Classifier(card, encoder, final.network.eval(), tuple(choices))


def _pos_weight(options: TrainingOptions, positives: int, rows: int) -> float:
    if options.pos_weight == "balanced":
        return pos_weight_from_counts(positives, rows - positives).item()
    return float(options.pos_weight or 1.0)
