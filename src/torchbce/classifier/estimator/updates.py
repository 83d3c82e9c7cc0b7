"""The batches of `partial_fit`: a linear model that learns one after the other.

The logit is that of the other models of a classifier, as they were fitted, and of the linear model,
whose weights the batches move. Without a fit there are no other models.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import polars as pl
import scipy.sparse as sp

from torchbce.classifier.columns.encoder import Encoded, fit_encoder
from torchbce.classifier.columns.inference import Overrides, infer_columns
from torchbce.classifier.columns.target import Target
from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.model import FORMAT, Card, Classifier, logits_of
from torchbce.classifier.models.features import Layout, linear_features
from torchbce.classifier.models.members import LinearModel
from torchbce.classifier.models.online import BIAS_PRECISION, WEIGHT_PRECISION, Belief
from torchbce.classifier.models.search import Tried, shares_of
from torchbce.classifier.models.solver import Linear
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.quality.base_rates import check_rate
from torchbce.classifier.quality.metrics import evaluate_logits
from torchbce.classifier.rows import options_of, versions

#: The metrics are those of so many rows, the latest.
WINDOW = 10_000


@dataclass(frozen=True)
class State:
    """What is known after some batches.

    Attributes:
        others: the classifier without its linear model.
        belief: the linear model, whose logits are added to those of `others`.
        logits: of the latest rows, each from before it was learned, float64.
        targets: of these rows.
        batches: how many batches were learned.
        seconds: the time that they took.
    """

    others: Classifier
    belief: Belief
    logits: np.ndarray
    targets: np.ndarray
    batches: int = 0
    seconds: float = 0.0


def untrained(
    rows: pl.DataFrame | sp.csr_matrix,
    target: Target,
    overrides: Overrides,
    missing: Sequence[str],
    decimal: str,
    options: TrainingOptions,
    base_rate: float | None,
) -> Classifier:
    """A classifier without models, which knows what the columns are.

    Args:
        rows: the first batch; as in `fit_rows`, and so are the others.
        target: likewise.
        overrides: likewise.
        missing: likewise.
        decimal: likewise.
        options: likewise.
        base_rate: likewise.
    """
    choices = []
    if isinstance(rows, pl.DataFrame):
        choices = infer_columns(rows, target.columns, overrides, decimal)
    encoder, _ = fit_encoder(rows, choices, all_constant=True)
    card = Card(
        format=FORMAT,
        target=target,
        threshold=0.5,
        base=0.0,
        models={},
        pos_weight=float(options.pos_weight or 1.0),
        rows=0,
        positives=0,
        held_out=evaluate_logits(np.zeros(2), np.array([0.0, 1.0])),
        options=options_of(options),
        versions=versions(),
        dropped={choice.name: choice.reason for choice in choices if choice.kind == "dropped"},
        columns=encoder.columns,
        missing=list(missing),
        base_rate=None if base_rate is None else check_rate(base_rate),
    )
    return Classifier(card, encoder, (), tuple(choices))


def start(classifier: Classifier) -> State:
    """Before the first batch.

    Args:
        classifier: one that was fitted, or one without models.

    Raises:
        InputError: if it was loaded, so that the precision of its weights is not known, or keeps a
            guarantee.
    """
    if classifier.card.set_aside:
        raise InputError(
            "partial_fit would change the model that the guarantee was tested for; fit without ",
            Argument("guarantee"),
        )
    classifier = _uncalibrated(classifier)
    card = classifier.card
    width = Layout.of(classifier.encoder).width
    belief, none = Belief.prior(width), np.zeros(0)
    if card.models and classifier.curvature is None:
        raise InputError(
            "partial_fit needs what a fit leaves in memory, and a model directory does not hold "
            "it; keep the estimator with pickle or joblib instead"
        )
    if classifier.curvature is not None:
        precision = classifier.curvature + np.append(
            np.full(width, WEIGHT_PRECISION), BIAS_PRECISION
        )
        belief = Belief(belief.mean, precision[:-1], float(precision[-1]))
    for model in classifier.models:
        if isinstance(model, LinearModel):
            # The weight of the model in the combination becomes 1.
            own, linear = card.models[model.name], model.linear
            bias = own * (linear.bias - float(np.log(card.pos_weight)) - card.base)
            belief = replace(belief, mean=Linear(own * linear.weight, bias))
    kept = tuple(model for model in classifier.models if not isinstance(model, LinearModel))
    weights = {name: weight for name, weight in card.models.items() if name != LinearModel.name}
    others = replace(classifier, models=kept, card=msgspec.structs.replace(card, models=weights))
    return State(others, belief, none, none)


def _uncalibrated(classifier: Classifier) -> Classifier:
    """The classifier with its calibration as weights of the models.

    A slope s and an offset o make s (b + sum of w (z - b)) + o = b + sum of s w (z - b) + c with
    c = (s - 1) b + o, which is added to the bias of the linear model, or is one if there is none.
    A map that is no line is replaced by its tangent at the base rate.
    """
    card = classifier.card
    if card.calibration is None:
        return classifier
    slope = card.calibration.slope_near(card.base)
    constant = float(card.calibration(np.array([card.base]))[0]) - card.base
    weights = {name: slope * weight for name, weight in card.models.items()}
    width = Layout.of(classifier.encoder).width
    linear = Linear(np.zeros(width), card.base + float(np.log(card.pos_weight)))
    models = []
    for model in classifier.models:
        if isinstance(model, LinearModel):
            linear = model.linear
        else:
            models.append(model)
    own = weights.get(LinearModel.name, 0.0) or 1.0
    moved = LinearModel(Linear(linear.weight, linear.bias + constant / own))
    card = msgspec.structs.replace(card, models=weights | {LinearModel.name: own}, calibration=None)
    return replace(classifier, card=card, models=(*models, moved))


def learn(state: State, encoded: Encoded, targets: np.ndarray, weight: np.ndarray | None) -> State:
    """After one more batch.

    Args:
        state: before it.
        encoded: the arrays of its rows.
        targets: in [0, 1], float64 [rows].
        weight: of the rows, float64 [rows]; None for 1.
    """
    began = time.perf_counter()
    card = state.others.card
    rows = linear_features(state.others.encoder, encoded)
    others = logits_of(state.others, encoded) - card.base_shift
    row_weight = weight
    if card.pos_weight != 1:
        row_weight = 1 + (card.pos_weight - 1) * targets
        row_weight = row_weight if weight is None else row_weight * weight
    belief = state.belief.updated(
        rows, targets, row_weight, others + float(np.log(card.pos_weight))
    )
    before = others + state.belief.mean.logits(rows)
    keep = slice(-WINDOW, None)
    # The first batch was not predicted by anything that had learned.
    logits = before if state.batches < 2 else np.concatenate([state.logits, before])[keep]
    known = targets if state.batches < 2 else np.concatenate([state.targets, targets])[keep]
    seconds = state.seconds + time.perf_counter() - began
    return State(state.others, belief, logits, known, state.batches + 1, seconds)


def classifier_of(state: State, before: Card, encoded: Encoded, targets: np.ndarray) -> Classifier:
    """The classifier after some batches.

    Args:
        state: after them.
        before: the card before the latest batch.
        encoded: the arrays of the latest batch, on which the shares of the models are measured.
        targets: of its rows.
    """
    others, mean = state.others, state.belief.mean
    card = others.card
    rows, positives = before.rows + len(targets), before.positives + float(targets.sum())
    base = card.base
    if not others.models:  # that of all batches; half a row of each class is added
        base = float(np.log(positives + 0.5) - np.log(rows - positives + 0.5))
    shift = float(np.log(card.pos_weight))
    linear = LinearModel(Linear(mean.weight, mean.bias + shift + card.base))
    models = (*others.models, linear)
    weights = card.models | {linear.name: 1.0}
    metrics = evaluate_logits(state.logits, state.targets)
    logits = {model.name: model.logits(others.encoder, encoded) for model in models}
    shares = shares_of(logits, weights)
    tried = [
        msgspec.structs.replace(one, share=shares.get(one.model, 0.0))
        for one in others.tried
        if one.model != linear.name
    ]
    batches = f"{state.batches} batch{'es' * (state.batches > 1)}"
    seconds = round(state.seconds, 3)
    tried.append(
        Tried(linear.name, batches, 1, metrics.log_loss, 1.0, seconds, shares[linear.name])
    )
    return replace(
        others,
        card=msgspec.structs.replace(
            card,
            models=weights,
            base=base,
            rows=rows,
            positives=int(positives) if positives.is_integer() else positives,
            held_out=metrics,
        ),
        models=models,
        tried=tuple(tried),
    )
