"""`torchbce show`: what a model reads, and what weighs most in it."""

from typing import Annotated

import typer

from torchbce.cli.arguments import Debug, Json, ModelDir
from torchbce.cli.errors import one_sentence_errors


@one_sentence_errors
def show(
    directory: ModelDir,
    most: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many words, values and so on to list.")
    ] = 10,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a model reads, how good it is, and what weighs most in it.

    Weights are log-odds: +0.69 doubles the odds of the positive value, and -0.69 halves them.
    """
    from torchbce.classifier import load
    from torchbce.classifier.model import Classifier
    from torchbce.cli import showing

    loaded = load(directory)
    if isinstance(loaded, Classifier):
        showing.print_model(loaded, directory, most, json_)
        return
    from torchbce.cli import many_labels

    many_labels.print_model(loaded, directory, json_, showing.kind_of, showing.features_of)
