"""The command line: what it is called, and its commands."""

from typing import Annotated

import typer

from torchbce import __version__
from torchbce.cli.commands.demo import demo
from torchbce.cli.commands.diagnose import diagnose
from torchbce.cli.commands.evaluate import evaluate
from torchbce.cli.commands.fit import fit
from torchbce.cli.commands.predict import predict
from torchbce.cli.commands.show import show

app = typer.Typer(
    name="torchbce",
    help="From a table with a yes/no column to a binary classifier that predicts probabilities.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def torchbce(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"torchbce {__version__}")
        raise typer.Exit


for command in (fit, predict, evaluate, show, diagnose, demo):
    app.command()(command)
