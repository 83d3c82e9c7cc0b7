"""The command line: `torchbce fit`, `predict`, `evaluate` and `demo`.

A thin face on `torchbce.classifier`. Results go to standard output, progress and errors to
standard error. Exit status 0: done; 2: the input is wrong, and one sentence says how; 130:
interrupted; 1: a fault of this program.
"""

import dataclasses
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

try:
    import typer
    from rich.console import Console
except ImportError as error:
    raise SystemExit(
        f"torchbce: {error}. The command line needs more than the library: "
        "pip install 'torchbce[cli]'"
    ) from error

from torchbce import __version__
from torchbce.cli.terminal import choices_table, metrics_table, training_progress

if TYPE_CHECKING:
    from torchbce.classifier import Classifier, Metrics

INSTALL = "Install it with the rest of the command line: pip install 'torchbce[cli]'"

app = typer.Typer(
    name="torchbce",
    help="From a table with a yes/no column to a calibrated binary classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

P = ParamSpec("P")

ModelDir = Annotated[Path, typer.Argument(metavar="DIR", help="A model directory.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a stack trace with an error.")]
Positive = Annotated[str | None, typer.Option(help="The target's positive value, if not evident.")]
TABLES = "A .csv, .csv.gz, .parquet or .jsonl file."


def answers(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what can go wrong in a command into one sentence and an exit status."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except (KeyboardInterrupt, typer.Abort):
            _say("torchbce: interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Whoever read the results has read enough. Python flushes once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            if kwargs.get("debug"):
                raise
            sentence, status = _explain(error)
            _say(f"torchbce: {sentence}")
            raise typer.Exit(status) from None

    return wrapper


def _explain(error: Exception) -> tuple[str, int]:
    """What went wrong, and the exit status that says whose fault it is."""
    if isinstance(error, ImportError):
        return f"{error}. {INSTALL}", 2
    # Not before: it loads the classifier's libraries, of which one may be missing.
    from torchbce.classifier import InputError

    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, OSError):
        place = f" {error.filename!r}" if error.filename else ""
        return f"{error.strerror or error}{place}", 2
    if isinstance(error, MemoryError):
        return "out of memory; give fewer rows or columns, or a machine with more", 2
    return (
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a fault of torchbce; run again with --debug to see where.",
        1,
    )


@app.callback(invoke_without_command=True)
def torchbce(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"torchbce {__version__}")
        raise typer.Exit


@app.command()
@answers
def fit(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help=TABLES)],
    target: Annotated[str, typer.Option(help="The column to predict, of two values.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the model goes.")],
    positive: Positive = None,
    text: Annotated[list[str], typer.Option(metavar="COLUMN", help="Take as text.")] = [],  # noqa: B006
    numeric: Annotated[list[str], typer.Option(metavar="COLUMN", help="Take as numbers.")] = [],  # noqa: B006
    categorical: Annotated[
        list[str], typer.Option(metavar="COLUMN", help="Take as categories.")
    ] = [],  # noqa: B006
    drop: Annotated[list[str], typer.Option(metavar="COLUMN", help="Leave out.")] = [],  # noqa: B006
    model: Annotated[
        Literal["linear", "mlp"], typer.Option(help="mlp: 64 and 32 hidden ReLU units.")
    ] = "linear",
    pos_weight: Annotated[
        str,
        typer.Option(metavar="balanced|NUMBER|none", help="The weight of positives in the loss."),
    ] = "none",
    epochs: Annotated[int, typer.Option(help="Passes over the rows, at most.")] = 30,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Rows a step; by default from 16 to 512, by the number of rows."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of AdamW; by default 0.02 for linear, 0.001 for mlp.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better held-out loss before stopping.")
    ] = 5,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    device: Annotated[Literal["cpu", "cuda", "mps", "auto"], typer.Option()] = "cpu",
    precision: Annotated[
        Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"], typer.Option()
    ] = "32-true",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Fit a classifier to TABLE, and write it to a model directory.

    Columns are taken as text, categories or numbers by looking at them; --text, --numeric,
    --categorical and --drop overrule, and may be given several times.
    """
    from torchbce import classifier

    started = time.perf_counter()
    options = classifier.TrainingOptions(
        model,
        _pos_weight(pos_weight),
        epochs,
        batch_size,
        learning_rate,
        weight_decay,
        patience,
        seed,
        device,
        precision,
    )
    classifier.check_output(output, overwrite)
    console = Console(stderr=True)
    rows = classifier.read(table)
    with training_progress(console) as progress:
        fitted = classifier.fit(
            rows,
            target,
            positive=positive,
            overrides=classifier.Overrides(text, numeric, categorical, drop),
            options=options,
            progress=progress,
            on_choice=lambda choices, chosen: console.print(choices_table(choices, chosen)),
        )
    classifier.save(fitted, output, overwrite)
    _report_fit(fitted, output, time.perf_counter() - started, json_)


@app.command()
@answers
def predict(
    directory: ModelDir,
    table: Annotated[Path | None, typer.Argument(metavar="TABLE", help=TABLES)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .csv, .csv.gz, .parquet or .jsonl file; CSV to standard output without it.",
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Answer for this one text instead of a table.")
    ] = None,
    overwrite: Overwrite = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON; rows as JSON lines.")] = False,
    debug: Debug = False,
) -> None:
    """Append `probability` and `predicted` to the rows of TABLE, or answer for one --text."""
    from torchbce import classifier
    from torchbce.classifier import files

    if (table is None) == (text is None):
        raise classifier.InputError("give a TABLE or --text, one of the two")
    fitted = classifier.load(directory)
    if text is not None:
        answer = files.predict_text(fitted, text)
        if json_:
            print(json.dumps(answer))
        else:
            print(f"probability {answer['probability']:.4f}  predicted {answer['predicted']}")
        return
    assert table is not None
    summary = files.predict_file(fitted, table, output, overwrite, json_)
    if output is not None:
        if json_:
            print(json.dumps({**summary, "output": str(output)}))
        else:
            label = fitted.card.target.positive
            print(
                f"{summary['rows']:,} rows written to {output}, "
                f"{summary['positives']:,} of them predicted {label}"
            )


@app.command()
@answers
def evaluate(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A model directory.")
    ] = None,
    table: Annotated[Path | None, typer.Argument(metavar="TABLE", help=TABLES)] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Predictions of any tool, instead of DIR and TABLE."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --predictions: the true values.")
    ] = None,
    probability: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --predictions: the probabilities.")
    ] = None,
    positive: Positive = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model on TABLE, or a file of predictions."""
    from torchbce import classifier
    from torchbce.classifier import files

    if predictions is not None:
        if directory is not None or target is None or probability is None:
            raise classifier.InputError(
                "--predictions takes --target COLUMN and --probability COLUMN, and no DIR"
            )
        metrics = files.evaluate_predictions(predictions, target, probability, positive)
    elif directory is None or table is None:
        raise classifier.InputError("give DIR and TABLE, or --predictions FILE")
    elif target is not None or probability is not None or positive is not None:
        raise classifier.InputError(
            "--target, --probability and --positive go with --predictions; a model knows its own"
        )
    else:
        metrics = files.evaluate_file(classifier.load(directory), table)
    _report(metrics, json_)


@app.command()
@answers
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go.")] = Path(
        "torchbce-demo"
    ),
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Fit, predict and evaluate on breast cancer data that ships inside scikit-learn."""
    from torchbce.classifier import InputError
    from torchbce.cli import demo_data

    if output.exists() and not overwrite:
        raise InputError(f"{str(output)!r} exists; give --overwrite to replace its demo files")
    train, test = demo_data.write(output)
    model, predicted = str(output / "model"), str(output / "predictions.csv")
    again = ["--overwrite"] if overwrite else []
    commands = [
        [
            "fit",
            train,
            "--target",
            "diagnosis",
            "--positive",
            "malignant",
            "--output",
            model,
            *again,
        ],
        ["predict", model, test, "--output", predicted, *again],
        ["evaluate", model, test],
    ]
    for command in commands:
        print(f"\n$ torchbce {shlex.join(command)}", flush=True)
        if status := app(command, standalone_mode=False):
            raise typer.Exit(status)
    print(f"\nThe tables, the model and the predictions are in {output}.")


def main() -> None:
    """The entry point."""
    app()


def _pos_weight(said: str) -> float | Literal["balanced"] | None:
    from torchbce.classifier import InputError

    if said == "balanced":
        return "balanced"
    if said == "none":
        return None
    try:
        return float(said)
    except ValueError:
        raise InputError(f"--pos-weight is 'balanced', 'none' or a number, got {said!r}") from None


def _report_fit(fitted: "Classifier", output: Path, seconds: float, as_json: bool) -> None:
    import msgspec

    card = fitted.card
    if as_json:
        result: dict[str, Any] = {
            "output": str(output),
            "seconds": round(seconds, 3),
            "rows": card.rows,
            "positives": card.positives,
            "features": fitted.encoder.width,
            "epochs": card.epochs,
            "target": msgspec.to_builtins(card.target),
            "columns": [dataclasses.asdict(choice) for choice in fitted.choices],
            "held_out": msgspec.to_builtins(card.held_out),
        }
        print(json.dumps(result))
        return
    print("On rows held out, before the last training on all rows:")
    _print(metrics_table(card.held_out))
    print(
        f"{output}: {card.architecture} model of {fitted.encoder.width:,} features, "
        f"{card.rows:,} rows, {card.epochs} epochs, {seconds:.1f} s"
    )


def _report(metrics: "Metrics", as_json: bool) -> None:
    import msgspec

    if as_json:
        print(msgspec.json.encode(metrics).decode())
    else:
        _print(metrics_table(metrics))


def _print(what: object) -> None:
    Console(highlight=False).print(what)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


if __name__ == "__main__":
    main()
