"""`torchbce demo`: fit, predict and evaluate on data that need no network."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from torchbce.cli.arguments import Debug, Overwrite
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.streams import visible


@one_sentence_errors
def demo(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where to write the tables and the model."
        ),
    ] = Path("torchbce-demo"),
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Run fit, predict and evaluate on scikit-learn's breast cancer data."""
    from torchbce.classifier import InputError
    from torchbce.cli import demo_data
    from torchbce.cli.app import app

    if output.exists() and not overwrite:
        raise InputError(f"{str(output)!r} exists; pass --overwrite to replace its demo files")
    train, test = demo_data.write(output)
    model, predicted = str(output / "model"), str(output / "predictions.csv")
    again = ["--overwrite"] if overwrite else []
    target = ["--target", "diagnosis", "--positive", "malignant"]
    commands = [
        ["fit", train, *target, "--output", model, *again],
        ["predict", model, test, "--output", predicted, *again],
        ["evaluate", model, test],
    ]
    for command in commands:
        print()
        print(visible(f"$ torchbce {shlex.join(command)}"), flush=True)
        if status := app(command, standalone_mode=False):
            raise typer.Exit(status)
    print(f"\nThe tables, the model and the predictions are in {visible(str(output))}.")
