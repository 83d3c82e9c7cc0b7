"""`torchbce export`: a model as a file that other programs run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from torchbce.cli.arguments import Debug, Json, ModelDir, Overwrite, Quiet
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.streams import visible


@one_sentence_errors
def export(
    directory: ModelDir,
    to: Annotated[
        str,
        typer.Option(
            metavar="onnx|numpy|sql|card",
            help="An ONNX graph, a Python file that needs NumPy alone, a SELECT for DuckDB, "
            "or a README.md for the Hugging Face Hub.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")
    ],
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a model as a file that predicts without PyTorch, or that describes the model.

    The predictions are those of `torchbce predict`. Models of text are written with --to numpy.
    """
    from torchbce import classifier

    # `export` says itself which models and formats there are.
    model: Any = classifier.load(directory)
    form: Any = to
    classifier.export(model, output, form, overwrite)
    size = output.stat().st_size
    if json_:
        print(json.dumps({"output": str(output), "to": to, "bytes": size}))
    elif not quiet:
        print(f"{visible(str(output))}: {size:,} bytes")
