"""`torchbce predict`: probabilities for the rows of a table, or for one text."""

from pathlib import Path
from typing import Annotated

import typer

from torchbce.cli.arguments import (
    Abstain,
    BaseRateInUse,
    Debug,
    ModelDir,
    Overwrite,
    Quiet,
    Separator,
    Tables,
    Threshold,
)
from torchbce.cli.base_rates import base_rate_of, print_estimate
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.results import print_file, print_text


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
    top: Annotated[
        int | None,
        typer.Option(
            metavar="K", min=1, help="Of many labels: append the K most probable ones of each row."
        ),
    ] = None,
    base_rate: BaseRateInUse = None,
    threshold: Threshold = None,
    abstain: Abstain = False,
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

    A model of many labels appends `probability_LABEL` and `predicted_LABEL` for each of up to 200
    labels, or with --top K, and of more labels, `label_1`, `probability_1` and so on.
    """
    from torchbce import classifier
    from torchbce.classifier import files, outputs
    from torchbce.cli import notes

    if (not table) == (text is None):
        raise classifier.InputError("give either TABLE or --text")
    rate = base_rate_of(base_rate)
    if output is not None:
        outputs.check_file(output, overwrite)
    fitted = classifier.load(directory)
    if isinstance(fitted, classifier.LabelsClassifier):
        from torchbce.cli import many_labels

        many_labels.only_for_one(explain=explain, base_rate=base_rate, abstain=abstain)
        fitted = fitted.with_threshold(threshold)
        many_labels.predict(
            fitted, table, text, output, overwrite, json_, separator, prefix, top, quiet
        )
        return
    if top is not None:
        raise classifier.InputError("--top is for a model of many labels")
    if text is not None:
        if rate == "estimate":
            raise classifier.InputError(
                "--base-rate estimate needs the rows of a table; give a number with --text"
            )
        moved = fitted if rate is None else fitted.with_base_rate(rate)
        print_text(files.predict_text(moved, text, explain, threshold, abstain or None), json_)
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
        rate,
        threshold,
        abstain or None,
        on_names=lambda columns, names: notes.renamed(columns, names, prefix, explain),
    )
    if estimate := counts.get("base_rate"):
        print_estimate(estimate)
    if output is not None and str(output) != "-" and (json_ or not quiet):
        print_file(counts, output, fitted.card.target.positive, json_)
