"""The commands: `torchbce fit`, `predict`, `evaluate`, `show` and `demo`."""

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from torchbce import __version__
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.results import print_file, print_fit, print_metrics, print_text
from torchbce.cli.streams import visible

app = typer.Typer(
    name="torchbce",
    help="From a table with a yes/no column to a binary classifier that predicts probabilities.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelDir = Annotated[Path, typer.Argument(metavar="DIR", help="A model directory.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings and errors, and JSON if asked for.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a stack trace with an error.")]
Positive = Annotated[
    str | None,
    typer.Option(help="The positive value of the target; not needed for yes/no, 1/0 and the like."),
]
TABLES = (
    "A .csv, .tsv, .txt, .parquet or .jsonl file, a folder of .parquet files, or - for standard "
    "input; several are one table."
)
Tables = Annotated[list[str] | None, typer.Argument(metavar="TABLE...", help=TABLES)]
Separator = Annotated[
    str | None,
    typer.Option(
        metavar="CHARACTER", help="What separates the values of a CSV, as ; or tab, if not seen."
    ),
]


@app.callback(invoke_without_command=True)
def torchbce(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"torchbce {__version__}")
        raise typer.Exit


@app.command()
@one_sentence_errors
def fit(
    table: Annotated[list[str], typer.Argument(metavar="TABLE...", help=TABLES)],
    target: Annotated[str, typer.Option(help="The column to predict, of two values.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The model directory to write.")
    ],
    positive: Positive = None,
    text: Annotated[list[str], typer.Option(metavar="COLUMN", help="Use as text.")] = [],  # noqa: B006
    numeric: Annotated[list[str], typer.Option(metavar="COLUMN", help="Use as numbers.")] = [],  # noqa: B006
    categorical: Annotated[
        list[str], typer.Option(metavar="COLUMN", help="Use as categories.")
    ] = [],  # noqa: B006
    drop: Annotated[list[str], typer.Option(metavar="COLUMN", help="Leave out.")] = [],  # noqa: B006
    missing: Annotated[
        list[str], typer.Option(metavar="WORD", help="A word that means that there is no value.")
    ] = [],  # noqa: B006
    decimal: Annotated[
        str, typer.Option(metavar=".|,", help="What begins the decimals of numbers.")
    ] = ".",
    separator: Separator = None,
    model: Annotated[
        Literal["auto", "linear", "pairs", "trees", "mlp"],
        typer.Option(help="One model, or the best combination of those that suit the table."),
    ] = "auto",
    effort: Annotated[
        Literal["low", "medium", "high"],
        typer.Option(help="How much work: low takes a fifth of the time of medium."),
    ] = "medium",
    pos_weight: Annotated[
        str,
        typer.Option(
            metavar="balanced|NUMBER|none", help="The weight of the positives in the loss."
        ),
    ] = "none",
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of the mlp: passes over the rows at most.")] = 30,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Of the mlp: rows per step; by default from 16 to 512."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the mlp: the initial one of AdamW; by default 0.002."),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of the mlp: that of AdamW.")] = 0.0,
    patience: Annotated[
        int, typer.Option(help="Of the mlp: epochs without a lower held-out loss before it stops.")
    ] = 5,
    device: Annotated[
        Literal["cpu", "cuda", "mps", "auto"], typer.Option(help="Where to train the mlp.")
    ] = "cpu",
    precision: Annotated[
        Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"],
        typer.Option(help="Of the mlp: the floating-point format of the training."),
    ] = "32-true",
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fit a classifier to TABLE and write it to a model directory.

    Whether a column is text, categorical or numeric is inferred from its values; --text, --numeric,
    --categorical and --drop override that, and may be given several times.

    Example: torchbce fit reviews.csv --target liked --output liked-model
    """
    started = time.perf_counter()
    from torchbce import classifier
    from torchbce.classifier.tables.reading import scan
    from torchbce.cli import notes
    from torchbce.cli.terminal import training_progress

    options = classifier.TrainingOptions(
        model,
        effort,
        _pos_weight(pos_weight),
        seed,
        epochs,
        batch_size,
        learning_rate,
        weight_decay,
        patience,
        device,
        precision,
    )
    classifier.check_output(output, overwrite)
    scanned = scan(table, separator)
    if not quiet:
        for note in scanned.notes:
            print(visible(note), file=sys.stderr)
    rows = classifier.read(scanned)
    warnings: list[str] = []
    with training_progress(quiet) as progress:
        fitted = classifier.fit(
            rows,
            target,
            positive=positive,
            overrides=classifier.Overrides(text, numeric, categorical, drop),
            missing=missing,
            decimal=decimal,
            options=options,
            progress=progress,
            on_choice=lambda choices, chosen: warnings.extend(
                notes.before_training(rows, choices, chosen, quiet)
            ),
        )
    classifier.save(fitted, output, overwrite)
    warnings += notes.after_training(fitted.card.held_out)
    if json_ or not quiet:
        print_fit(fitted, output, time.perf_counter() - started, warnings, json_)


@app.command()
@one_sentence_errors
def predict(
    directory: ModelDir,
    table: Tables = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The .csv, .csv.gz, .parquet or .jsonl file to write; without it, CSV goes to "
            "standard output.",
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Predict for this one text instead of a table.")
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Begin the names of the appended columns with this.")
    ] = "",
    explain: Annotated[
        int,
        typer.Option(
            metavar="K", min=0, help="Append the K columns that weigh most for each row, as text."
        ),
    ] = 0,
    separator: Separator = None,
    overwrite: Overwrite = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON; rows as JSON lines.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Predict for the rows of TABLE, or for one --text.

    The columns `probability` and `predicted` are appended to the rows. Where TABLE has one of that
    name already, a number is added to the appended one: `probability_2`. With --explain, columns
    such as `explanation_1` say what weighs most for a row: `age=39 +0.41`, in log-odds.

    Example: torchbce predict liked-model new.csv --output predictions.csv
    """
    from torchbce import classifier
    from torchbce.classifier import files, outputs
    from torchbce.cli import notes

    if (not table) == (text is None):
        raise classifier.InputError("give either TABLE or --text")
    if output is not None:
        outputs.check_file(output, overwrite)
    fitted = classifier.load(directory)
    if text is not None:
        print_text(files.predict_text(fitted, text, explain), json_)
        return
    assert table
    counts = files.predict_file(
        fitted,
        table,
        output,
        overwrite,
        json_,
        separator,
        prefix,
        explain,
        on_names=lambda columns, names: notes.renamed(columns, names, prefix, explain),
    )
    if output is not None and str(output) != "-" and (json_ or not quiet):
        print_file(counts, output, fitted.card.target.positive, json_)


@app.command()
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


@app.command()
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

    Example: torchbce show liked-model
    """
    from torchbce.classifier import load
    from torchbce.cli.showing import print_model

    print_model(load(directory), directory, most, json_)


@app.command()
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


def _pos_weight(text: str) -> float | Literal["balanced"] | None:
    from torchbce.classifier import InputError

    if text == "balanced":
        return "balanced"
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"--pos-weight must be 'balanced', 'none' or a number, got {text!r}"
        ) from None
