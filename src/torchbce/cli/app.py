"""The command line: what it is called, and its commands."""

from collections.abc import Callable
from typing import Annotated

import typer

from torchbce import __version__
from torchbce.cli.commands.demo import demo
from torchbce.cli.commands.diagnose import diagnose
from torchbce.cli.commands.evaluate import evaluate
from torchbce.cli.commands.export import export
from torchbce.cli.commands.fit import fit
from torchbce.cli.commands.predict import predict
from torchbce.cli.commands.report import report
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


#: Shown at the end of `--help`.
EXAMPLES: dict[Callable[..., None], list[str]] = {
    fit: [
        "torchbce fit reviews.csv --target liked --output model",
        "torchbce fit 'day-*.csv' --target churned --positive yes --drop id --output model",
        "torchbce fit table.parquet --target y --model linear --effort low --output model",
    ],
    predict: [
        "torchbce predict model new.csv --output predicted.csv",
        "torchbce predict model new.parquet --explain 3 --output predicted.parquet",
        'torchbce predict model --text "a warm and funny film"',
    ],
    evaluate: [
        "torchbce evaluate model labelled.csv",
        "torchbce evaluate --predictions scores.csv --target y --probability p --json",
    ],
    show: [
        "torchbce show model",
        "torchbce show model --most 50 --json",
    ],
    export: [
        "torchbce export model --to numpy --output model.py",
        "torchbce export model --to onnx --output model.onnx",
        "torchbce export model --to card --output README.md",
    ],
    report: [
        "torchbce report model",
        "torchbce report model labelled.csv --output labelled.html",
    ],
    diagnose: [
        "torchbce diagnose scores.csv --target y --logit z",
        "torchbce diagnose scores.csv --target y --probability p --json",
    ],
    demo: ["torchbce demo", "torchbce demo --overwrite"],
}

for command, examples in EXAMPLES.items():
    # The \b keeps the lines as they are.
    epilog = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
    app.command(epilog=epilog)(command)
