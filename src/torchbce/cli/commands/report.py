"""`torchbce report`: how good a model is, as a page for a browser."""

from pathlib import Path
from typing import Annotated

import typer

from torchbce.cli.arguments import Debug, ModelDir, Overwrite, Quiet, Separator, Tables, Weight
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.streams import visible


@one_sentence_errors
def report(
    directory: ModelDir,
    table: Tables = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The .html file to write; without it, report.html in DIR is made again.",
        ),
    ] = None,
    weight: Weight = None,
    separator: Separator = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a report of a model: one page that opens in a browser without a network.

    Its figures are of the rows of TABLE, or without it of the rows that `fit` held out.
    """
    from torchbce import classifier
    from torchbce.classifier.outputs import check_file
    from torchbce.classifier.reports.making import read_report, table_report, write_report
    from torchbce.classifier.storage import REPORT

    # The report of a model belongs to it, and is always replaced.
    path, replace = (directory / REPORT, True) if output is None else (output, overwrite)
    fitted = classifier.load(directory)
    check_file(path, replace)
    if table:
        rows = classifier.read(table, separator)
        name = visible(Path(table[0]).name) + (" and others" if len(table) > 1 else "")
        found = table_report(fitted, rows, name, weight)
    elif weight is not None or separator is not None:
        raise classifier.InputError("--weight and --separator go with TABLE")
    else:
        found = read_report(directory)
    write_report(found, path, replace)
    if not quiet:
        print(f"{visible(str(path))} written; open it in a browser")
