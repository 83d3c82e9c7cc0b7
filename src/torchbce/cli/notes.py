"""What `fit` and `predict` say on standard error about a table and a model."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchbce.classifier.columns.outcomes import RowColumns, read_weight
from torchbce.classifier.errors import listing, name_columns
from torchbce.classifier.files import appended_names
from torchbce.classifier.quality.baseline import no_better_than_base_rate
from torchbce.classifier.quality.leaks import find_leaks
from torchbce.classifier.quality.splits import find_cases, find_repeats
from torchbce.cli.errors import flag
from torchbce.cli.streams import visible, warn
from torchbce.cli.terminal import print_choices

if TYPE_CHECKING:
    import polars as pl

    from torchbce.classifier import Card, Choice
    from torchbce.classifier.columns.target import Target
    from torchbce.classifier.options import TrainingOptions


def before_training(
    table: "pl.DataFrame",
    choices: "Sequence[Choice]",
    target: "Target",
    quiet: bool,
    columns: "RowColumns | None" = None,
) -> list[str]:
    """Print the kind of each column, and warn of what makes figures too good.

    These are columns that tell the target by themselves, rows that repeat and, unless groups or
    times are given, columns that identify cases with several rows.

    Returns:
        The warnings.
    """
    if not quiet:
        print_choices(choices, target)
    columns = columns or RowColumns()
    weight = read_weight(table, target, columns.weight)
    counted = table if weight is None else table.filter(weight > 0)
    warnings = [l.sentence(target.column, flag) for l in find_leaks(counted, choices, target)]
    if columns.group is None and columns.time is None:
        if repeats := find_repeats(counted, choices):
            warnings.append(repeats.sentence(flag))
        else:
            cases = find_cases(counted, choices, target)
            warnings += [one.sentence(target.column, flag) for one in cases]
    for sentence in warnings:
        warn(sentence)
    if not quiet:
        renamed(table.columns, appended_names(table.columns))
    return warnings


def without_trees(options: "TrainingOptions") -> None:
    """Say that a loss leaves the trees out of the models that are tried."""
    if options.loss != "bce" and options.model == "auto":
        print(
            f"torchbce: trees know only the loss bce and are left out with {options.loss}",
            file=sys.stderr,
        )


def after_training(card: "Card") -> list[str]:
    """Warn of a model that found nothing, and of thresholds that are not what was wanted.

    Returns:
        The warnings.
    """
    rows = None if card.split is None else card.split.figures
    warnings = list(filter(None, [no_better_than_base_rate(card.held_out, rows)]))
    warnings += [] if card.decision is None else card.decision.notes
    for sentence in warnings:
        warn(sentence)
    return warnings


def renamed(
    columns: Sequence[str], names: Sequence[str], prefix: str = "", explain: int = 0
) -> None:
    """Say under which names `predict` appends its columns, if the table has their usual names."""
    if taken := [name for name in appended_names([], prefix, explain) if name in columns]:
        sentence = f"the table has {name_columns(taken)}: predict appends {listing(names)}"
        print(f"torchbce: {visible(sentence)}", file=sys.stderr)
