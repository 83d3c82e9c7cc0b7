"""Shapes, weights, ignored elements, saturation, gradients that vanish, and the initial loss."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from torchbce.diagnosis.records import Finding
from torchbce.diagnosis.sample import Sample
from torchbce.diagnosis.statistics import (
    FEWEST,
    constant_logit,
    entropy,
    fit_map,
    improbable,
    losses,
    rate_interval,
    sigmas,
    sigmoid,
)

#: Logits from which on 1 - sigmoid(z) is below half the distance from 1 to the next smaller value.
HIGHEST = {torch.bfloat16: 6.24, torch.float16: 8.32}
HIGHEST_FLOAT32 = 17.33
#: An initial loss above the base rate's by more than this share, or so many nats, is worth a bias.
EXCESS, EXCESS_NATS = 0.25, 0.05
#: The share of the gradient that is lost from which on it is reported.
LOST = 0.05
#: More ignored elements than this, or of weight 0, are most of them.
MOSTLY = 0.5


def broadcast(sample: Sample) -> Iterator[Finding]:
    """(N,) against (N, 1), and N by N elements that such a pair has made."""
    shape, other = sample.shapes
    if shape != other:
        z, n = sample.logits(), len(sample.input)
        evidence: dict[str, float] = {}
        if n and np.isfinite(z).all():
            a, b = sample.masses()
            rate = float(sample.y.mean())
            pairs = float(losses(z, np.full(n, rate), np.full(n, 1 - rate)).mean())
            evidence = {"loss": float(losses(z, a, b).mean()), "loss_of_all_pairs": pairs}
        yield from mismatched(shape, other, evidence)
    elif len(shape) == 2 and shape[0] == shape[1] >= 3 and not len(sample.input) % shape[1]:
        yield from _outer(sample, shape)


def mismatched(
    shape: tuple[int, ...], other: tuple[int, ...], evidence: Mapping[str, float]
) -> Iterator[Finding]:
    """Shapes that differ by dimensions of size 1."""
    yield Finding(
        "broadcast",
        "warning",
        f"The input has shape {shape} and the target {other}. The losses of torchbce align them; "
        "torch.nn's raise, and arithmetic such as `input - target` or `predicted == target` makes "
        f"{_broadcast_shape(shape, other)} of them.",
        f"Give both one shape where they are made: {_shape_remedy(shape, other)}.",
        {"input_shape": list(shape), "target_shape": list(other), **evidence},
    )


def _outer(sample: Sample, shape: tuple[int, ...]) -> Iterator[Finding]:
    """N inputs against N targets in N by N elements: each is constant along one dimension."""
    x, y = sample.input.reshape(-1, shape[1]), sample.target.reshape(-1, shape[1])
    for axis in (0, 1):
        alike = (x == x.take([0], axis)).all() and (y == y.take([0], 1 - axis)).all()
        if alike and np.ptp(x) > 0 and np.ptp(y) > 0:
            yield Finding(
                "broadcast",
                "error",
                f"Input and target are {shape[0]} by {shape[1]}, the input constant along one "
                "dimension and the target along the other: each of N inputs is compared with each "
                "of N targets.",
                "Look upstream for (N,) combined with (N, 1), and give both one shape: "
                "x.squeeze(-1), or y.unsqueeze(-1).",
                {"input_shape": list(shape), "elements": shape[0] * shape[1]},
            )
            return


def _broadcast_shape(shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    try:
        return str(np.broadcast_shapes(shape, other))
    except ValueError:
        return "an error"


def _shape_remedy(shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    if len(shape) == len(other) + 1:
        return "input.squeeze(-1), or target.unsqueeze(-1)"
    if len(other) == len(shape) + 1:
        return "target.squeeze(-1), or input.unsqueeze(-1)"
    return f"target.reshape({shape})"


def mostly_ignored(sample: Sample) -> Iterator[Finding]:
    """A mean over elements most of which are ignored, or weigh nothing and are counted."""
    every = sample.elements + sample.ignored
    if not every:
        return
    share = sample.ignored / every
    if not sample.elements:
        yield Finding(
            "mostly-ignored",
            "error",
            f"All {every:,} elements are ignored: the loss is 0, without a gradient.",
            "Check the mask (true where an element counts) and ignore_index.",
            {"elements": every, "valid": 0, "ignored_share": 1.0},
        )
        return
    zeros = sample.zero_weights / every
    if zeros > MOSTLY and sample.reduction == "mean":
        yield Finding(
            "mostly-ignored",
            "warning",
            f"{zeros:.1%} of the weights are 0, and reduction='mean' divides by all {every:,} "
            f"elements: the loss and its gradient are {1 / max(1 - zeros, 1 / every):.3g} times "
            "smaller than the mean over the others, and change with their number.",
            "Ignore elements with mask= or ignore_index=, which a mean does not count, or use "
            "reduction='weighted_mean'.",
            {"elements": every, "zero_weight_share": zeros},
        )
    elif share > MOSTLY and sample.reduction in ("mean", "weighted_mean", "batch_mean"):
        yield Finding(
            "mostly-ignored",
            "note",
            f"{share:.1%} of {every:,} elements are ignored: the mean is over {sample.elements:,}, "
            "and as noisy; a batch with few of them weighs as much as one with many.",
            "If the number varies from batch to batch, use reduction='sum' and divide by a "
            "constant, such as the mean number of valid elements.",
            {"elements": every, "valid": sample.elements, "ignored_share": share},
        )


def pos_weight_inverted(sample: Sample) -> Iterator[Finding]:
    """A pos_weight that is the number of positives per negative, and not the reverse."""
    if sample.pos_weight is None:
        return
    column = np.zeros(len(sample.y), dtype=np.int64) if sample.column is None else sample.column
    number = np.bincount(column, minlength=sample.columns)
    positive = np.bincount(column, weights=sample.y, minlength=sample.columns)
    given = np.bincount(column, weights=sample.pos_weight, minlength=sample.columns)
    inverted, right = [], 0
    for c in range(sample.columns):
        negative = number[c] - positive[c]
        if min(positive[c], negative) < 1 or given[c] <= 0:
            continue
        p, ratio = float(given[c] / number[c]), float(negative / positive[c])
        noise = 3 * math.sqrt(1 / positive[c] + 1 / negative)
        weight, balance = math.log(p), math.log(ratio)
        # Not a weight that is chosen a little smaller on purpose: the inverse itself or beyond it,
        # and the base rate so far from one half that the two can be told apart.
        beyond = abs(weight) > abs(balance) - math.log(1.5) - noise
        if weight * balance < 0 and beyond and abs(weight - balance) > noise + math.log(4):
            inverted.append((c, p, ratio))
        elif weight * balance > 0:
            right += 1
    if not inverted or right > len(inverted):
        return
    c, p, ratio = inverted[0]
    where = f" of output {c}, one of {len(inverted):,}," if sample.columns > 1 else ""
    yield Finding(
        "pos-weight-inverted",
        "warning",
        f"pos_weight{where} is {p:.3g}, with positives / negatives = {1 / ratio:.3g}: it makes "
        "the rarer class rarer still.",
        f"For classes that weigh the same, pos_weight is negatives / positives = {ratio:.3g}: "
        "torchbce.imbalance.pos_weight_from_counts(positives, negatives).",
        {
            "pos_weight": p,
            "negatives_per_positive": ratio,
            "outputs": [output for output, _, _ in inverted],
        },
    )


def saturation(sample: Sample) -> Iterator[Finding]:
    """Predictions that are certain and wrong, more often than their probabilities allow."""
    z = sample.logits()
    if sample.domain == "logits":
        limit = HIGHEST.get(sample.dtype, HIGHEST_FLOAT32)
        certain = np.abs(z) >= limit
        what = f"logits of at least {limit:.3g} in size, whose sigmoid rounds to 0 or 1"
    else:
        eps = 1.3e-7  # what clamping to float32's smallest distance from 1, or to 1e-7, leaves
        certain = np.abs(z) >= -math.log(eps)
        what = "probabilities within 1.3e-7 of 0 or 1"
    if not certain.any():
        return
    positive = z[certain] > 0
    target = sample.target[certain]
    wrong = float(np.abs(positive - target).sum())
    expected = float(sigmoid(-np.abs(z[certain])).sum())
    if wrong < 0.5 or not improbable(wrong, expected):
        return
    number = int(certain.sum())
    infinite = int((np.isinf(z[certain]) & (positive != target)).sum())
    largest = float(np.abs(z[certain][positive != target]).max(initial=0))
    worst = "infinite" if infinite else f"{largest:.3g} nats at most"
    yield Finding(
        "saturation",
        "warning",
        f"{number:,} of {len(z):,} elements are {what}; {wrong:,.4g} of them are wrong, where "
        f"{expected:.2g} would be expected. Their loss is {worst}"
        + ("." if sample.domain == "logits" else ", and clamped by PyTorch without a gradient."),
        "Train from logits with binary_cross_entropy_with_logits, lower the learning rate or the "
        "scale of the inputs, and calibrate what the model predicts; look at the wrong rows.",
        {
            "saturated": number,
            "wrong": wrong,
            "expected_wrong": expected,
            "infinite": infinite,
            "first_wrong_position": _first(sample, certain, positive, target),
        },
    )


def _first(
    sample: Sample, certain: np.ndarray, positive: np.ndarray, target: np.ndarray
) -> int | None:
    at = np.flatnonzero(np.abs(positive - target) > 0.5)
    return int(sample.positions[np.flatnonzero(certain)[at[0]]]) if len(at) else None


def vanishing_gradients(sample: Sample) -> Iterator[Finding]:
    """Gradients that PyTorch's loss rounds to 0 in half precision.

    It computes sigmoid(z) - y with sigmoid(z) rounded, and sigmoid(6.3) is 1 in bfloat16. Those of
    torchbce compute in float32 and round the gradient once, which keeps its relative precision.
    """
    if sample.dtype not in HIGHEST or sample.domain != "logits":
        return
    z, y = sample.input, sample.y
    true = np.where(y == 1, -sigmoid(-z), sigmoid(z) - y)
    half = torch.from_numpy(z).to(sample.dtype)
    rounded = torch.sigmoid(half) - torch.from_numpy(y).to(sample.dtype)
    lost = (rounded.double().numpy() == 0) & (true != 0)
    total = float(np.abs(true).sum())
    share = float(np.abs(true[lost]).sum()) / total if total > 0 else 0.0
    if share <= LOST:
        return
    name = str(sample.dtype).removeprefix("torch.")
    yield Finding(
        "vanishing-gradients",
        "warning",
        f"In {name}, torch.nn.BCEWithLogitsLoss rounds the gradients of {int(lost.sum()):,} of "
        f"{len(z):,} elements to 0, {share:.1%} of the sum of the sizes of all gradients.",
        "Use torchbce.BCEWithLogitsLoss, which computes in float32 and rounds the gradient once; "
        "or give the loss logits.float().",
        {"dtype": name, "vanished": int(lost.sum()), "elements": len(z), "gradient_share": share},
    )


def initial_loss(sample: Sample) -> Iterator[Finding]:
    """A loss before training that is far above the entropy of the base rate."""
    z = sample.logits()
    if len(z) < FEWEST or not np.isfinite(z).all():
        return
    a, b = sample.masses()
    mass = float((a + b).sum())
    if mass <= 0:
        return
    # The base rate of the weighted loss, at the end of its interval that is nearest to one half:
    # a batch of few elements may have no positives.
    effective = mass**2 / float(((a + b) ** 2).sum())
    effective = min(effective, sample.groups.number)
    low, high = rate_interval(float(a.sum()) / mass * effective, effective)
    highest = entropy(min(max(0.5, low), high))
    loss = float(losses(z, a, b).sum()) / mass
    bias = constant_logit(a, b, smoothing=0.5)
    above = losses(z, a, b) - losses(bias, a, b)
    excess = loss - highest
    if excess < max(EXCESS * highest, EXCESS_NATS) or sigmas(above, sample.groups) < 3:
        return
    softened = a + 0.5 * (a + b) / mass, b + 0.5 * (a + b) / mass
    shift = fit_map(z, *softened, sample.groups, False, slope=False).offset
    mended = float(losses(z + shift, a, b).sum()) / mass
    rate = float(sample.y.mean())
    evidence = {
        "loss": loss,
        "base_rate": rate,
        "entropy": float(losses(bias, a, b).sum()) / mass,
        "bias": bias,
        "add_to_bias": shift,
        "loss_with_bias": mended,
        "logit_mean": float(z.mean()),
        "logit_std": float(z.std()),
    }
    message = (
        f"The initial loss is {loss:.4g} nats per element; predicting the base rate "
        f"{rate:.4g} has {evidence['entropy']:.4g}."
    )
    if mended - highest < excess / 2:
        remedy = (
            f"Set the bias of the last layer to {bias:.4g}, the log-odds of the base rate (add "
            f"{shift:.4g} to what it is), with which the loss starts at {mended:.4g}: "
            "torch.nn.init.constant_(layer.bias, bias); torchbce.imbalance.prior_bias has one per "
            "output."
        )
    else:
        remedy = (
            f"The logits have a standard deviation of {z.std():.3g}, and a bias alone gives "
            f"{mended:.4g}: scale down the initial weights of the last layer and standardise the "
            f"inputs; then set its bias to {bias:.4g}."
        )
    yield Finding("initial-loss", "warning", message, remedy, evidence)
