"""Fit a classifier to inputs, and to targets, weights, groups and times that are arrays."""

import dataclasses
import platform
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeAlias

import msgspec
import numpy as np
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.encoder import fit_encoder
from torchbce.classifier.columns.inference import Choice, Overrides, infer_columns
from torchbce.classifier.columns.outcomes import (
    Outcomes,
    RowColumns,
    check_not_all_zero,
    check_weight,
    positions,
)
from torchbce.classifier.columns.target import Target
from torchbce.classifier.decisions.deciding import decide
from torchbce.classifier.decisions.guarantees import certify
from torchbce.classifier.decisions.held_out import at_threshold, chosen_at, set_aside
from torchbce.classifier.errors import Argument, InputError, InputWarning
from torchbce.classifier.model import FORMAT, Card, Classifier, HeldOut, split_of
from torchbce.classifier.models.data import Data
from torchbce.classifier.models.online import curvature
from torchbce.classifier.models.search import search
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.progress import NoProgress, Progress
from torchbce.classifier.quality.base_rates import check_rate, log_odds
from torchbce.classifier.quality.metrics import Metrics, evaluate_logits

LIBRARIES = ("torch", "scikit-learn", "polars", "numpy")

#: A table, or a sparse matrix whose columns are all numbers.
Inputs: TypeAlias = pl.DataFrame | sp.csr_matrix


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How rows are read, fitted and reported; each argument is that of `fit`.

    Attributes:
        columns: the names of the columns of weights, groups and times, for `Classifier.card`.
        base_rate: the base rate where the model is used.
        overrides: the columns whose kind is given.
        missing: words that mean "no value"; they are null in the inputs already.
        decimal: what begins the decimals of numbers in strings.
        options: what to fit and how.
        progress: receives each model and setting that is tried.
        on_choice: called before the training; not for a matrix.
        all_constant: whether rows that are all alike are no error but have the base rate.
    """

    columns: RowColumns = field(default_factory=RowColumns)
    base_rate: float | None = None
    overrides: Overrides = field(default_factory=Overrides)
    missing: Collection[str] = ()
    decimal: str = "."
    options: TrainingOptions = field(default_factory=TrainingOptions)
    progress: Progress = field(default_factory=NoProgress)
    on_choice: Callable[[list[Choice], Target], object] = lambda choices, target: None
    all_constant: bool = False


def fit_rows(inputs: Inputs, outcomes: Outcomes, target: Target, settings: Settings) -> Classifier:
    """Fit a classifier to inputs and outcomes.

    `fit` and the estimator read these from tables and arrays, and call this.

    Args:
        inputs: the rows, a table or a sparse matrix; columns of the target, and those of
            `settings.columns`, are not read.
        outcomes: what is known of each row beside its inputs.
        target: the names of the two values.
        settings: how to fit.

    Returns:
        The classifier.

    Raises:
        InputError: as `fit`.
    """
    if settings.base_rate is not None:
        check_rate(settings.base_rate)
    if outcomes.weight is not None:
        check_weight(outcomes.weight)
    counted = outcomes.counted()
    check_not_all_zero(outcomes.weight)
    if len(counted) < len(outcomes):
        with positions(counted):
            fitted = fit_rows(inputs[counted], outcomes.take(counted), target, settings)
        return _in_table(fitted, counted)
    if not settings.options.guarantees:
        return _fit_part(inputs, outcomes, target, settings)
    _check_guarantee(target, outcomes, settings.base_rate)
    train, aside = set_aside(len(outcomes), outcomes.times, settings.options.seed)
    with positions(train):
        fitted = _in_table(_fit_part(inputs[train], outcomes.take(train), target, settings), train)
    with positions(aside), warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        tested = fitted.logits(inputs[aside]), outcomes.targets[aside]
    return _with_guarantees(fitted, tested, settings.options)


def _in_table(classifier: Classifier, rows: np.ndarray) -> Classifier:
    """The classifier of some rows of a table, whose rows held out are those of the table."""
    assert classifier.held_out is not None
    held_out = classifier.held_out._replace(rows=rows[classifier.held_out.rows])
    return dataclasses.replace(classifier, held_out=held_out)


def _with_guarantees(
    classifier: Classifier, tested: tuple[np.ndarray, np.ndarray], options: TrainingOptions
) -> Classifier:
    """The classifier with thresholds that pass their tests on rows that it has not seen.

    `tested` has the logits and the targets of these rows.
    """
    card = classifier.card
    assert classifier.held_out is not None
    held_out = classifier.held_out.logits, classifier.held_out.targets
    found = [certify(wanted, held_out, tested) for wanted in options.guarantees]
    optimized = None if card.decision is None else card.decision.optimized
    threshold, decision = decide(optimized, found, options.abstain)
    card = msgspec.structs.replace(
        card,
        threshold=threshold,
        decision=decision,
        held_out=at_threshold(card.held_out, *held_out, threshold),
        set_aside=len(tested[1]),
    )
    return dataclasses.replace(classifier, card=card)


def _check_guarantee(target: Target, outcomes: Outcomes, base_rate: float | None) -> None:
    """Refuse what the binomial bound of a guarantee does not hold for."""
    for wrong, what in (
        (outcomes.weight is not None and (outcomes.weight != 1).any(), Argument("weight")),
        (target.kind != "values", Argument("soft")),
        (outcomes.groups is not None, Argument("group")),
        (base_rate is not None, Argument("base_rate")),
    ):
        if wrong:
            raise InputError(
                Argument("guarantee"),
                " counts rows that are drawn independently, each with one target value, from where "
                "the model is used; it does not go with ",
                what,
            )


def _fit_part(inputs: Inputs, outcomes: Outcomes, target: Target, settings: Settings) -> Classifier:
    """The classifier of some rows."""
    options = settings.options
    base_rate = None if settings.base_rate is None else check_rate(settings.base_rate)
    choices = []
    if isinstance(inputs, pl.DataFrame):
        choices = infer_columns(
            inputs, target.columns, settings.overrides, settings.decimal, settings.columns.dropped()
        )
        settings.on_choice(choices, target)

    y, weight = outcomes.targets, outcomes.scaled()
    _check_counts(target, y)
    encoder, encoded = fit_encoder(inputs, choices, settings.all_constant)
    positives, negatives = _mass(y, outcomes.weight)
    pos_weight = _pos_weight(options, positives, negatives)
    data = Data(
        encoder,
        encoded,
        y,
        pos_weight,
        options,
        settings.progress,
        weight,
        outcomes.groups,
        outcomes.times,
    )
    found = search(data)
    held_out = outcomes.take(found.rows)
    shift = 0.0 if base_rate is None else log_odds(base_rate) - found.base
    chosen = chosen_at(
        options.optimize,
        found.logits + shift,
        held_out.targets,
        held_out.weight,
        shift,
        held_out.groups,
    )
    threshold, decision = decide(chosen.threshold, [], options.abstain)

    card = Card(
        format=FORMAT,
        target=target,
        threshold=threshold,
        base=found.base,
        models={
            model.name: weight for model, weight in zip(found.models, found.weights, strict=True)
        },
        pos_weight=pos_weight,
        rows=len(y),
        positives=positives,
        held_out=_evaluate(found.logits, held_out, chosen.honest),
        options=options_of(options),
        versions=versions(),
        dropped={choice.name: choice.reason for choice in choices if choice.kind == "dropped"},
        columns=encoder.columns,
        missing=list(settings.missing),
        decimal=settings.decimal,
        row_columns=settings.columns,
        weight=None if outcomes.weight is None else float(outcomes.weight.sum()),
        split=split_of(data.parts, found.rows),
        base_rate=base_rate,
        calibration=found.calibration,
        decision=decision,
    )
    return Classifier(
        card,
        encoder,
        tuple(found.models),
        tuple(choices),
        tuple(found.tried),
        curvature(data.rows, y, weight),
        HeldOut(found.rows, found.logits, held_out.targets, held_out.weight),
    )


def options_of(options: TrainingOptions) -> dict[str, Any]:
    """The options for `Classifier.card`, as they are read from `model.json`: a tuple is a list."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dataclasses.asdict(options)))
    return found


def versions() -> dict[str, str]:
    """The versions of torchbce, Python and the libraries that fit a model."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"torchbce": version("torchbce"), "python": platform.python_version(), **libraries}


def _check_counts(target: Target, y: np.ndarray) -> None:
    for value, count in ((target.positive, (y > 0).sum()), (target.negative, (y < 1).sum())):
        if count < 2:
            raise InputError(
                f"only {count} row of target column {target.column!r} holds {value!r}; at least "
                "2 rows of each value are needed, one to learn from and one to check with"
                if target.kind == "values"
                else f"target column {target.column!r} says {target.negative!r} or "
                f"{target.positive!r} for certain in all rows but {count}; there is nothing to "
                "learn"
            )
    if (y == y[0]).all():
        raise InputError(
            f"target column {target.column!r} holds the probability {y[0]:g} in every row; there "
            "is nothing to learn"
        )


def _mass(y: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """The weights of all positives and of all negatives; whole numbers where they count rows."""
    weight = np.ones(len(y)) if weight is None else weight
    positives, negatives = float(weight @ y), float(weight @ (1 - y))
    whole = positives.is_integer() and negatives.is_integer()
    return (int(positives), int(negatives)) if whole else (positives, negatives)


def _evaluate(logits: np.ndarray, held_out: Outcomes, thresholds: np.ndarray | float) -> Metrics:
    """The metrics of rows held out, each at its own threshold."""
    metrics = evaluate_logits(logits, held_out.targets, weight=held_out.weight)
    return at_threshold(metrics, logits, held_out.targets, thresholds, held_out.weight)


def _pos_weight(options: TrainingOptions, positives: float, negatives: float) -> float:
    if options.pos_weight == "balanced":
        from torchbce.imbalance import pos_weight_from_counts  # an estimator loads without torch

        return pos_weight_from_counts(positives, negatives).item()
    return float(options.pos_weight or 1.0)
