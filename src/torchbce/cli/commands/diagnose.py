"""`torchbce diagnose`: what is wrong with a file of predictions, of any tool."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from torchbce.cli.arguments import TABLES, Debug, Decimal, Json, Positive, Separator
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.streams import visible

if TYPE_CHECKING:
    import numpy as np
    import polars as pl


@one_sentence_errors
def diagnose(
    table: Annotated[list[str], typer.Argument(metavar="FILE...", help=TABLES)],
    target: Annotated[str, typer.Option(metavar="COLUMN", help="The true values.")],
    logit: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The predictions, if they are logits.")
    ] = None,
    probability: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The predictions, if they are probabilities."),
    ] = None,
    positive: Positive = None,
    weight: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The weight of each row.")
    ] = None,
    pos_weight: Annotated[
        float | None, typer.Option(help="The pos_weight that the model was trained with.")
    ] = None,
    initial: Annotated[
        bool, typer.Option("--initial", help="The model is untrained: look at its initial loss.")
    ] = False,
    separator: Separator = None,
    decimal: Decimal = ".",
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Say what is wrong with predictions, given the true values: domains, labels, calibration.

    Numbers in the target column are taken as they are, and may be probabilities; of two words, and
    with --positive, one is 1 and the other 0. Every finding has a code, figures, a remedy and a
    page of the documentation. The exit status is 0 whatever is found.
    """
    from torchbce import diagnose
    from torchbce.classifier import InputError, read
    from torchbce.classifier.errors import Argument

    if (logit is None) == (probability is None):
        raise InputError("give either --logit COLUMN or --probability COLUMN")
    rows = read(table, separator)
    if pos_weight is not None and not 0 < pos_weight < float("inf"):
        raise InputError(Argument("pos_weight"), f" must be finite and above 0, got {pos_weight}")
    found = diagnose(
        _numbers(rows, logit or probability or "", decimal),
        _targets(rows, target, positive, decimal),
        domain="probabilities" if logit is None else "logits",
        weight=None if weight is None else _weights(rows, weight, decimal),
        pos_weight=pos_weight,
        initial=initial,
    )
    print(json.dumps(found.as_dict()) if json_ else visible_lines(str(found)))


def visible_lines(text: str) -> str:
    """A text of several lines whose other control characters are shown and not obeyed."""
    return "\n".join(visible(line) for line in text.split("\n"))


def _numbers(rows: "pl.DataFrame", name: str, decimal: str) -> "np.ndarray":
    from torchbce.classifier.columns.inference import with_decimal
    from torchbce.classifier.columns.values import as_numbers
    from torchbce.classifier.errors import unknown_name

    if name not in rows.columns:
        raise unknown_name("column", name, rows.columns)
    return as_numbers(with_decimal(rows[name], decimal))


def _weights(rows: "pl.DataFrame", name: str, decimal: str) -> "np.ndarray":
    from torchbce.classifier import InputError
    from torchbce.classifier.columns.outcomes import check_not_all_zero
    from torchbce.classifier.errors import Row

    weights = _numbers(rows, name, decimal)
    wrong = ~(weights >= 0)
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(
            f"column {name!r} holds {weights[at]:g} in ", Row(at), "; weights are at least 0"
        )
    check_not_all_zero(weights)
    return weights


def _targets(rows: "pl.DataFrame", name: str, positive: str | None, decimal: str) -> "np.ndarray":
    """The numbers of the target column as they are, or 0 and 1 for two words."""
    from torchbce.classifier import InputError
    from torchbce.classifier.columns.target import choose_target

    if positive is None:
        try:
            return _numbers(rows, name, decimal)
        except InputError:
            if name not in rows.columns:
                raise
    chosen = choose_target(rows, name, positive)
    return chosen.array(rows[name])
