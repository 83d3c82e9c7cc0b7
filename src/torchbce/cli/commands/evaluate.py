"""`torchbce evaluate`: the metrics of a model, or of a file of predictions."""

from pathlib import Path
from typing import Annotated

import typer

from torchbce.cli.arguments import Debug, Json, Positive, Separator, Tables
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.results import print_metrics


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
    separator: Separator = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model on TABLE, or score a file of predictions.

    Example: torchbce evaluate liked-model test.csv
    """
    from torchbce import classifier
    from torchbce.classifier import files

    if predictions is not None:
        if directory is not None or target is None or probability is None:
            raise classifier.InputError(
                "--predictions needs --target COLUMN and --probability COLUMN, and no DIR"
            )
        metrics = files.evaluate_predictions(predictions, target, probability, positive, separator)
    elif directory is None or not table:
        raise classifier.InputError("give DIR and TABLE, or --predictions FILE")
    elif target is not None or probability is not None or positive is not None:
        raise classifier.InputError(
            "--target, --probability and --positive go with --predictions; a model has its own"
        )
    else:
        metrics = files.evaluate_file(classifier.load(directory), table, separator)
    print_metrics(metrics, json_)
