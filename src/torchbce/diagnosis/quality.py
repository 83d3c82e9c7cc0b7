"""Predictions that are worse than the base rate, or not calibrated."""

import math
from collections.abc import Iterator

import numpy as np

from torchbce.diagnosis.records import Finding
from torchbce.diagnosis.sample import Sample
from torchbce.diagnosis.statistics import (
    DEVIANCE,
    FEWEST,
    FEWEST_PER_CLASS,
    Map,
    constant_logit,
    fit_map,
    losses,
    ranking,
    sigmas,
    sigmoid,
)

#: The share of the base rate's loss by which a loss must be higher.
SHARE = 0.03
#: Standard errors of that, and nats of all elements together. No calibrated model comes near: the
#: constant 1 / 2 of 500 balanced targets is 0.5 nats above the rate that they happen to have.
WORSE_SIGMAS, WORSE_NATS = 3.0, 5.0
#: That by which a map must lower the loss; and where probabilities change by so much on average.
GAIN, LEAST_GAIN, LEAST_ERROR = 0.05, 0.02, 0.03
#: The deviance beside which the offset, or the slope, is not needed: 3 standard errors.
ONE = 9.0


def enough(sample: Sample) -> bool:
    """Whether there are enough elements of both classes to judge predictions."""
    y = sample.y
    per_class = min(float(y.sum()), float((1 - y).sum()))
    return len(y) >= FEWEST and per_class >= FEWEST_PER_CLASS


def finite_logits(sample: Sample) -> np.ndarray:
    """The logits, with those of probabilities 0 and 1 a factor of 2 beyond the largest finite odds.

    They may be shares of n votes or of n rows of a leaf, which is as much as such odds can tell.
    """
    z = sample.logits()
    finite = z[np.isfinite(z)]
    limit = max(float(np.abs(finite).max(initial=0)), math.log(2 * len(z))) + math.log(2)
    clipped: np.ndarray = np.clip(z, -limit, limit)
    return clipped


def base_losses(sample: Sample, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The losses of the base rate, of each output its own."""
    if sample.column is None:
        return losses(constant_logit(a, b, 1e-12), a, b)
    positive = np.bincount(sample.column, weights=a, minlength=sample.columns)
    negative = np.bincount(sample.column, weights=b, minlength=sample.columns)
    logit = np.log((positive + 1e-12) / (negative + 1e-12))
    return losses(logit[sample.column], a, b)


def worse_than_base_rate(sample: Sample) -> Iterator[Finding]:
    """A loss above that of predicting the base rate for every element."""
    if not enough(sample):
        return
    a, b = sample.masses()
    z = finite_logits(sample)
    loss, base = losses(z, a, b), base_losses(sample, a, b)
    mass = float((a + b).sum())
    mean, mean_base = float(loss.sum()) / mass, float(base.sum()) / mass
    above = sigmas(loss - base, sample.groups)
    excess = float((loss - base).sum()) / mass * len(z)
    if mean < (1 + SHARE) * mean_base or above < WORSE_SIGMAS or excess < WORSE_NATS:
        return
    found = ranking(z, sample.y, sample.groups.number)
    unrelated = abs(found.sigmas) < 3
    if not unrelated and found.auc < 0.5:
        remedy = (
            f"They rank the targets the wrong way round (AUC {found.auc:.3f}): check which class "
            "is 1 in the targets, the sign of the logits, and that a probability is that of class "
            "1."
        )
    elif not unrelated:
        remedy = (
            f"They rank the targets (AUC {found.auc:.3f}), so that calibration mends it: see "
            "miscalibration."
        )
    else:
        remedy = (
            f"They do not rank the targets either (AUC {found.auc:.3f}): check that input and "
            "target are in the same order of rows, and that the model has been trained; until "
            "then predict the base rate."
        )
    taken = ""
    if np.isinf(sample.logits()).any():
        taken = f" (infinite logits are taken as {float(np.abs(z).max()):.3g} and its negative)"
    yield Finding(
        "worse-than-base-rate",
        "warning",
        f"The loss is {mean:.4g} nats per element{taken}, above the {mean_base:.4g} of predicting "
        f"the base rate for each ({above:.1f} standard errors).",
        remedy,
        {
            "loss": mean,
            "base_loss": mean_base,
            "base_rate": float(sample.y.mean()),
            "standard_errors": above if math.isfinite(above) else None,
            "auc": found.auc,
            "unrelated": unrelated,
        },
    )


def miscalibration(sample: Sample) -> Iterator[Finding]:
    """Logits whose loss a logistic map z -> slope z + offset lowers."""
    if not enough(sample):
        return
    a, b = sample.masses()
    z = finite_logits(sample)
    mass = float((a + b).sum())
    base = float(base_losses(sample, a, b).sum())
    found = best_map(sample, z)
    if found.deviance < DEVIANCE or found.slope <= 0:
        return
    slope, offset = found.slope, found.offset
    error = float(np.abs(sigmoid(slope * z + offset) - sigmoid(z)).mean())
    # Of rare positives the error is small however wrong the odds are; elsewhere it is what users
    # of probabilities see.
    if found.gain < (LEAST_GAIN if error >= LEAST_ERROR else GAIN) * base:
        return
    loss = float(losses(z, a, b).sum()) / mass
    mended = loss - found.gain / mass
    bias = float((sigmoid(z) - sigmoid(slope * z + offset)).mean())
    if abs(bias) > error / 2:
        kind = "too low" if bias < 0 else "too high"
    else:
        kind = "too extreme" if slope < 1 else "not extreme enough"
    text = f"z -> {slope:.3g} z" if slope != 1 else "z -> z"
    if offset:
        text += f" {'+' if offset > 0 else '-'} {abs(offset):.3g}"
    yield Finding(
        "miscalibration",
        "warning",
        f"The probabilities are {kind}: on these elements the map {text} of the logits lowers the "
        f"loss from {loss:.4g} to {mended:.4g} nats.",
        _map_remedy(slope, offset),
        {
            "slope": slope,
            "offset": offset,
            "temperature": 1 / slope,
            "loss": loss,
            "loss_with_map": mended,
            "deviance": found.deviance,
            "probability_error": error,
            "mean_probability": float(sigmoid(z).mean()),
            "base_rate": float(sample.y.mean()),
        },
    )


def best_map(sample: Sample, z: np.ndarray) -> Map:
    """The logistic map of these logits, with an offset or a slope only where it matters."""
    a, b = sample.masses()
    offset = fit_map(z, a, b, sample.groups, sample.hard, slope=False)
    if not has_spread(sample, z):
        return offset
    both = fit_map(z, a, b, sample.groups, sample.hard)
    slope = fit_map(z, a, b, sample.groups, sample.hard, offset=False)
    for one in (slope, offset):
        if 2 * (both.gain - one.gain) / both.inflation < ONE:
            return one
    return both


def has_spread(sample: Sample, z: np.ndarray) -> bool:
    """Whether logits differ enough for a slope to mean anything.

    Base rates out of fold differ by 1 / n from row to row: they are lower where a positive was left
    out, and separate the classes the wrong way round.
    """
    rarer = min(float(sample.y.sum()), float((1 - sample.y).sum()))
    return float(z.std()) > max(0.05, 3 / rarer)


def _map_remedy(slope: float, offset: float) -> str:
    fitted = "fitted on rows that the model was not trained on"
    if slope == 1:
        return (
            f"Add {offset:.3g} to the logits (the bias of the last layer). If the model was "
            f"trained with pos_weight or on sampled negatives, that is its trace: "
            f"torchbce.imbalance.correct_logits(logits, {math.exp(-offset):.3g})."
        )
    if not offset:
        return (
            f"Divide the logits by a temperature, here {1 / slope:.3g}, {fitted}: "
            "torchbce.calibration.Temperature."
        )
    text = f"{slope:.3g} z {'-' if offset < 0 else '+'} {abs(offset):.3g}"
    return f"Apply a map, here {text}, {fitted}: torchbce.calibration.Platt."
