"""The arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
Soft = Annotated[bool, typer.Option("--soft", help="The target holds probabilities, from 0 to 1.")]
Weight = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="How much each row counts; 0 leaves it out."),
]
BaseRateInUse = Annotated[
    str | None,
    typer.Option(
        metavar="P|estimate",
        help="The share of positives among the rows of TABLE, if it differs from that of the "
        "fit; estimate finds it without their targets.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="P", help="Predict positive from this probability on, instead of the model's."
    ),
]
Abstain = Annotated[
    bool,
    typer.Option(
        "--abstain", help="Predict nothing for rows that the model's guarantee does not cover."
    ),
]
TABLES = (
    "A .csv, .tsv, .txt, .parquet or .jsonl file, a folder of .parquet files, or - for standard "
    "input; several are one table."
)
Tables = Annotated[list[str] | None, typer.Argument(metavar="TABLE...", help=TABLES)]
Separator = Annotated[
    str | None,
    typer.Option(
        "--separator",
        "--csv-separator",
        metavar="CHARACTER",
        help="What separates the values of a CSV, as ; or tab, if not seen.",
    ),
]
Decimal = Annotated[str, typer.Option(metavar=".|,", help="What begins the decimals of numbers.")]
