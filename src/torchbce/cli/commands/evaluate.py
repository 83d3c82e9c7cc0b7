"""`torchbce evaluate`: the metrics of a model, or of a file of predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchbce.cli.arguments import (
    Abstain,
    BaseRateInUse,
    Debug,
    Decimal,
    Json,
    Positive,
    Separator,
    Soft,
    Tables,
    Threshold,
    Weight,
)
from torchbce.cli.base_rates import base_rate_of, print_estimate
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.results import print_metrics

if TYPE_CHECKING:
    from torchbce.classifier.quality.base_rates import BaseRate


@one_sentence_errors
def evaluate(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A model directory.")
    ] = None,
    table: Tables = None,
    predictions: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Predictions of any tool, instead of DIR and TABLE."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --predictions: the true values.")
    ] = None,
    probability: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --predictions: the probabilities.")
    ] = None,
    positive: Positive = None,
    soft: Soft = False,
    weight: Weight = None,
    base_rate: BaseRateInUse = None,
    threshold: Threshold = None,
    abstain: Abstain = False,
    separator: Separator = None,
    decimal: Decimal = ".",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model on TABLE, or score a file of predictions."""
    from torchbce import classifier
    from torchbce.classifier import files

    estimated: list[BaseRate] = []
    if predictions is not None:
        if directory is not None or target is None or probability is None:
            raise classifier.InputError(
                "--predictions needs --target COLUMN and --probability COLUMN, and no DIR"
            )
        if abstain:
            raise classifier.InputError("--abstain goes with DIR and TABLE, not --predictions")
        if base_rate is not None:
            raise classifier.InputError("--base-rate goes with DIR and TABLE, not --predictions")
        metrics = files.evaluate_predictions(
            predictions,
            target,
            probability,
            positive,
            separator,
            weight,
            soft,
            0.5 if threshold is None else threshold,
            decimal,
        )
    elif directory is None or not table:
        raise classifier.InputError("give DIR and TABLE, or --predictions FILE")
    elif target is not None or probability is not None or positive is not None or soft:
        raise classifier.InputError(
            "--target, --probability, --positive and --soft go with --predictions; a model has its "
            "own"
        )
    elif decimal != ".":
        raise classifier.InputError(
            "--decimal goes with --predictions; a model reads numbers as in its training rows"
        )
    else:
        rate = base_rate_of(base_rate)
        loaded = classifier.load(directory)
        if isinstance(loaded, classifier.LabelsClassifier):
            from torchbce.classifier.labels.files import evaluate_labels_file
            from torchbce.cli import many_labels

            many_labels.only_for_one(base_rate=base_rate, abstain=abstain)
            loaded = loaded.with_threshold(threshold)
            of_labels = evaluate_labels_file(loaded, table, separator, weight)
            many_labels.print_metrics(of_labels, json_)
            return
        metrics = files.evaluate_file(
            loaded,
            table,
            separator,
            weight,
            rate,
            estimated.append,
            threshold,
            abstain or None,
        )
    for found in estimated:
        print_estimate(found)
    print_metrics(metrics, json_, estimated[0] if estimated else None)
