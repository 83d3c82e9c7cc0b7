"""Targets and inputs outside their range, and inputs of another domain than they are said to be."""

from collections.abc import Iterator

import numpy as np
import torch

from torchbce.diagnosis.records import Finding
from torchbce.diagnosis.sample import Sample, as_logits
from torchbce.diagnosis.statistics import DEVIANCE, FEWEST, fit_map, losses, ranking, sigmas

#: The values of a sigmoid of probabilities: from sigmoid(0) to sigmoid(1).
TWICE = 0.5, 1 / (1 + np.exp(-1.0))
#: By how many standard errors the ranks have to know something before a domain is doubted, since
#: the outputs of an untrained model may lie in [0, 1] by chance; and by how many the other reading
#: has to be better. Small logits that are calibrated are far from it.
INFORMED = BETTER = 3.0

#: The share of values within `END` of 0 and of 1 that fills [0, 1]. Of logits with a bell-shaped
#: distribution, which happens to fit, some would lie beyond.
END, FILLED = 0.1, 0.02
#: The slope of a logistic map of logits that are trained and not bounded is near 1.
STEEP = 2.0

LOSS = {
    "logits": "binary_cross_entropy_with_logits",
    "probabilities": "binary_cross_entropy",
    "log_probs": "binary_cross_entropy_with_log_probs",
}


def target_range(sample: Sample) -> Iterator[Finding]:
    """Targets outside [0, 1], or NaN."""
    y = sample.target
    outside = ~((y >= 0) & (y <= 1))
    if not outside.any():
        return
    number, values = int(outside.sum()), np.unique(y[outside])
    at = int(outside.argmax())
    finite = y[np.isfinite(y)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (np.nan, np.nan)
    yield Finding(
        "target-range",
        "error",
        f"{number:,} of {len(y):,} targets are outside [0, 1], the first is {y[at]:g}"
        f"{sample.place(at)}; cross-entropy has no lower limit there.",
        _target_remedy(sample, values, low, high),
        {
            "outside": number,
            "first": float(y[at]),
            "first_position": int(sample.positions[at]),
            "smallest": low,
            "largest": high,
        },
    )


def target_extremes(low: float, high: float) -> Iterator[Finding]:
    """Targets outside [0, 1] of which only the smallest and the largest are known."""
    if not (low >= 0 and high <= 1):
        yield Finding(
            "target-range",
            "error",
            f"Some targets are outside [0, 1]: they are in [{low:g}, {high:g}], and cross-entropy "
            "has no lower limit there.",
            "Give check_targets=True to a loss of torchbce, which raises and says where.",
            {"smallest": low, "largest": high},
        )


def _target_remedy(sample: Sample, outside: np.ndarray, low: float, high: float) -> str:
    every = set(np.unique(sample.target).tolist())
    if np.isnan(outside).all():
        return "Drop or fill the missing labels, or give ignore_index=nan."
    if sample.domain != "log_probs" and set(np.unique(sample.input).tolist()) <= {0.0, 1.0}:
        return "The input holds only 0 and 1: the input and the target seem to be swapped."
    if every == {-1.0, 1.0}:
        return "Map -1 and 1 to 0 and 1: target = (target + 1) / 2."
    if every == {1.0, 2.0}:
        return "Map 1 and 2 to 0 and 1: target = target - 1."
    if high > 1 and low >= 0 and high in (100.0, 255.0):
        return f"Divide by {high:g}: target = target / {high:g}."
    if len(outside) == 1 and (outside[0] < 0 or outside[0] == 255):
        return (
            f"If {outside[0]:g} marks elements without a label, give ignore_index={outside[0]:g}."
        )
    if low >= 0 and all(float(value).is_integer() for value in every):
        return (
            "If these are class indices, one-hot encode them with torch.nn.functional.one_hot, "
            "or use torch.nn.CrossEntropyLoss if each row has one class."
        )
    return "Scale the targets to [0, 1]; give check_targets=True to have the losses raise."


def target_constant(sample: Sample, initial: bool = False) -> Iterator[Finding]:
    """Targets that are all equal; a first batch may have no positives by chance."""
    y = sample.target
    if len(y) < 2 or not (y == y[0]).all():
        return
    value = float(y[0])
    z = np.clip(sample.logits(), -700, 700)
    # The probability of it by the model's own probabilities: rare positives may all be missing from
    # a small sample.
    surprise = float(losses(z, value * np.ones_like(z), (1 - value) * np.ones_like(z)).sum())
    expected = value in (0.0, 1.0) and (initial or surprise < -np.log(1e-3))
    yield Finding(
        "target-constant",
        "note" if expected else "warning",
        f"All {len(y):,} targets are {value:g}: nothing can be learned or judged from them.",
        "Check how the targets are made: the comparison, the column and the positive value. If "
        "positives are rare, look at more elements.",
        {"value": value, "elements": len(y), "log_probability": -surprise},
    )


def input_values(sample: Sample) -> Iterator[Finding]:
    """Inputs that are NaN, or outside the range of probabilities or log-probabilities."""
    x = sample.input
    nan = np.isnan(x)
    if nan.any():
        at = int(nan.argmax())
        yield Finding(
            "input-nan",
            "error",
            f"{int(nan.sum()):,} of {len(x):,} inputs are NaN, the first{sample.place(at)}.",
            "Look for a division by 0, the logarithm of a negative number or a diverged step "
            "before the loss: torch.autograd.set_detect_anomaly(True) names the operation.",
            {"nan": int(nan.sum()), "first_position": int(sample.positions[at])},
        )
    if sample.domain == "logits":
        return
    low, high = (0.0, 1.0) if sample.domain == "probabilities" else (-np.inf, 0.0)
    outside = (x < low) | (x > high)
    if outside.any():
        at = int(outside.argmax())
        remedy = f"If they are logits, use {LOSS['logits']}"
        if sample.domain == "log_probs" and (x[~nan] >= 0).all() and (x[~nan] <= 1).all():
            remedy = f"They lie in [0, 1]: if they are probabilities, use {LOSS['probabilities']}"
        yield Finding(
            "logits-as-probabilities",
            "error",
            f"{int(outside.sum()):,} of {len(x):,} {_words(sample.domain)} are outside "
            f"[{low:g}, {high:g}], the first is {x[at]:g}{sample.place(at)}.",
            f"{remedy}, without a sigmoid, and diagnose them as logits.",
            {
                "outside": int(outside.sum()),
                "first": float(x[at]),
                "smallest": float(np.nanmin(x)),
                "largest": float(np.nanmax(x)),
            },
        )


def _words(domain: str) -> str:
    return "log-probabilities" if domain == "log_probs" else domain


def other_domain(sample: Sample) -> Iterator[Finding]:
    """Logits that are probabilities, and probabilities to which a sigmoid was applied twice.

    The range says that it may be so, and the targets, which the values rank, that it is. Either the
    values read as probabilities have a lower loss, by more than the noise of the difference. Or
    they fill [0, 1] up to both ends, since a model that was trained through one sigmoid too many
    has saturated, and are not as far apart as the targets are. Small logits of a model that knows
    little are not taken for probabilities.
    """
    if len(sample.input) < FEWEST:
        return
    as_given = sample.logits()
    if not np.isfinite(as_given).all():
        return
    tolerance = float(torch.finfo(sample.dtype).eps) if sample.dtype.is_floating_point else 0.0
    if sample.domain == "logits":
        readings = [("probabilities-as-logits", as_given, 1)]
        if _within(as_given, *TWICE, tolerance):
            inner = as_logits(as_given, "probabilities")
            readings.append(("double-sigmoid", np.clip(inner, 0, 1), 2))
    else:
        readings = [("double-sigmoid", as_given, 1)]
    best: tuple[float, str, np.ndarray, int] | None = None
    a, b = sample.masses()
    loss_given = losses(as_given, a, b)
    independent = sample.groups.number
    if ranking(as_given, sample.y, independent).sigmas < INFORMED:
        return
    for code, p, times in readings:
        if not _within(p, 0.0, 1.0, 4 * tolerance):
            continue
        # A probability of exactly 0 or 1 would have an infinite loss.
        edge = max(tolerance, 1e-7)
        z = as_logits(np.clip(p, edge, 1 - edge), "probabilities")
        loss = losses(z, a, b)
        lower = loss_given - loss
        # Predicted classes are no probabilities: one wrong class would have an infinite loss.
        classes = times == 1 and sample.domain == "logits" and set(np.unique(p)) == {0.0, 1.0}
        better = classes or sigmas(lower, sample.groups) > BETTER or _bounded(p, sample)
        if better and (best is None or loss.mean() < best[0]):
            best = float(loss.mean()), code, p, times
    if best is None:
        return
    mean, code, p, times = best
    upstream = "a model with a sigmoid at its end" if times == 1 else "a model with two sigmoids"
    if sample.domain == "logits":
        message = (
            f"All {len(p):,} logits lie in [{as_given.min():.3g}, {as_given.max():.3g}], as the "
            f"outputs of {upstream} do: the loss applies one more."
        )
        remedy = (
            f"Remove the sigmoid from the model, and keep {LOSS['logits']}; or keep one sigmoid, "
            f"and use {LOSS['probabilities']}."
        )
    else:
        message = (
            f"All {len(p):,} probabilities lie in [{sample.input.min():.4g}, "
            f"{sample.input.max():.4g}], within [sigmoid(0), sigmoid(1)] = [0.5, 0.7311]: a "
            "sigmoid was applied to probabilities."
        )
        remedy = f"Apply one sigmoid and not two; or none, and use {LOSS['logits']}."
    yield Finding(
        code,
        "error",
        message,
        remedy,
        {
            "smallest": float(sample.input.min()),
            "largest": float(sample.input.max()),
            "loss": float(loss_given.mean()),
            "loss_as_probabilities": mean,
        },
    )


def _bounded(p: np.ndarray, sample: Sample) -> bool:
    """Whether values fill [0, 1] up to both ends, where the targets ask for more than it allows."""
    if min(float((p < END).mean()), float((p > 1 - END).mean())) < FILLED:
        return False
    found = fit_map(p, *sample.masses(), sample.groups, sample.hard)
    return found.slope > STEEP and found.deviance > DEVIANCE


def _within(values: np.ndarray, low: float, high: float, tolerance: float) -> bool:
    return bool(values.min() >= low - tolerance and values.max() <= high + tolerance)
