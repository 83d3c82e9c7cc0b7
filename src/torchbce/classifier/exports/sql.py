"""A classifier as a SELECT that DuckDB runs."""

from typing import Any

import numpy as np

from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.errors import Argument, InputError, name_columns
from torchbce.classifier.exports.combination import columns_of, combination_of
from torchbce.classifier.exports.sql_cells import Stage, cell_stages
from torchbce.classifier.exports.sql_models import (
    groups_of,
    linear_logit,
    pairs_logit,
    trees_logit,
)
from torchbce.classifier.exports.sql_words import choice, name, number, text, total
from torchbce.classifier.model import Classifier
from torchbce.classifier.models.calibration import Calibration
from torchbce.classifier.models.members import LinearModel, PairsModel, TreesModel

#: The table that the SELECT reads.
TABLE = "data"

#: exp(-700) is 1e-304; some databases raise an error where exp underflows.
LARGEST = 700.0

HEADER = """\
-- A binary classifier, written by `torchbce export --to sql`, for DuckDB.
--
-- Appends two columns to the rows of the table {table}: the probability of the positive value, and
-- the predicted value of the target, the positive one from a probability of {threshold} on. To read
-- another table, change its name in the line that begins with FROM {table}. Columns may be of
-- strings or typed. A row with a cell that the model cannot read, such as a word among numbers, has
-- NULL in both, and an undecided row in the second.
"""


def sql_file(classifier: Classifier) -> bytes:
    """The content of the file.

    Raises:
        InputError: if the model reads text, or has a network.
    """
    combination = combination_of(classifier)
    if texts := columns_of(classifier, TextColumn):
        raise InputError(
            f"SQL cannot read the text of {name_columns(texts)} as the model does; export with ",
            Argument("to", "numpy"),
        )
    logits, groups = {}, {}
    for model in classifier.models:
        encoder = classifier.encoder
        if isinstance(model, LinearModel):
            logits[model.name] = linear_logit(encoder, model)
        elif isinstance(model, PairsModel):
            logits[model.name] = total([linear_logit(encoder, model), pairs_logit(model)])
            groups = groups_of(encoder, model)
        elif isinstance(model, TreesModel):
            logits[model.name] = trees_logit(encoder, model)
        else:
            raise InputError(
                f"the model has a network ({model.name}), which would be too long in SQL; export "
                "with ",
                Argument("to", "onnx"),
                " or ",
                Argument("to", "numpy"),
            )
    terms = [number(combination.offset)]
    terms += [f"{number(weight)} * model.{key}" for key, weight in combination.weights.items()]
    one, half = number(1), choice([("whole.logit >= 0", number(1))], "tail.small")
    stages = {
        **cell_stages(classifier.encoder, classifier.card.missing),
        "pair": groups,
        "model": logits,
        "mixed": {"logit": total(terms)},
        "soft": {"tail": f"LN({one} + {_small('mixed.logit')})"},
        "whole": {"logit": f"{_calibrated(combination.calibration)} + {number(combination.shift)}"},
        "tail": {"small": _small("whole.logit")},
        "final": {"p": choice([("NOT seen.unread", f"{half} / ({one} + tail.small)")])},
    }
    target, rule = classifier.card.target, classifier.rule()
    negative, positive = map(_value, target.labels(np.array([False, True])).to_list())
    cases = [(f"final.p >= {number(rule.threshold)}", positive), ("final.p IS NOT NULL", negative)]
    if rule.undecided is not None:
        low, high = map(number, rule.undecided)
        cases.insert(0, (f"final.p >= {low} AND final.p < {high}", "NULL"))
    label = choice(cases)
    joined = "\n".join(_lateral(alias, stage) for alias, stage in stages.items() if stage)
    header = HEADER.format(table=name(TABLE), threshold=f"{rule.threshold:g}")
    return (
        f"{header}SELECT t.*,\n final.p AS probability,\n {label} AS predicted\n"
        f"FROM {name(TABLE)} AS t\n{joined};\n"
    ).encode()


def _lateral(alias: str, stage: Stage) -> str:
    """A stage, which reads the columns of those before it.

    Each is joined by itself: the time to plan subqueries inside of one another doubles with each.
    """
    made = ",\n".join(f" {expression} AS {key}" for key, expression in stage.items())
    return f"CROSS JOIN LATERAL (SELECT\n{made}\n) AS {alias}"


def _small(logit: str) -> str:
    """exp(-|z|)."""
    return f"EXP(-LEAST(ABS({logit}), {number(LARGEST)}))"


def _calibrated(calibration: Calibration | None) -> str:
    """The calibrated logit; `soft.tail` is log(1 + exp(-|z|))."""
    z, zero = "mixed.logit", number(0.0)
    if calibration is None:
        return z
    functions = [z]
    if calibration.kind == "beta":
        functions = [f"(LEAST({z}, {zero}) - soft.tail)", f"(GREATEST({z}, {zero}) + soft.tail)"]
    elif calibration.kind == "quadratic":
        assert calibration.low is not None
        assert calibration.high is not None
        low, high = number(calibration.low), number(calibration.high)
        above = f"(LEAST(GREATEST({z}, {low}), {high}) - {low})"
        width = number(2 * (calibration.high - calibration.low))
        rising = f"({above} * {above} / {width} + GREATEST({z} - {high}, {zero}))"
        functions = [f"({z} - {rising})", rising]
    terms = [f"{number(s)} * {f}" for s, f in zip(calibration.slopes, functions, strict=True)]
    return total([*terms, number(calibration.offset)])


def _value(value: Any) -> str:
    """A value of the target."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return str(value) if isinstance(value, int) else text(value)
