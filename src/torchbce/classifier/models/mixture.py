"""Weights that combine the logits of several models, fitted to rows held out."""

from collections.abc import Mapping

import numpy as np

from torchbce.classifier.models.candidates import losses

#: A larger weight would be a sign of separable rows, whose logits have no scale.
MOST = 2.0

#: With fewer rows held out, the logits of the only model that is kept are left as they are. With
#: more they get a weight that lowers the loss by more than so many standard errors of the fall. A
#: weight that is wrong by t of its own standard errors costs t^2 / 2 nats, and t / 2 standard
#: errors of the fall; to fit it costs half a nat, so that Akaike's criterion, t^2 > 2, is 0.7.
RECALIBRATED_ROWS, RECALIBRATED_ERRORS = 1000, 0.7


def mixture_weights(
    logits: Mapping[str, np.ndarray],
    base: float,
    targets: np.ndarray,
    weight: np.ndarray | None = None,
    row: np.ndarray | None = None,
) -> dict[str, float]:
    r"""Non-negative weights of the models that help.

    The combined logit is :math:`b + \sum_m w_m (z_m - b)`, where b is the logit of the base rate: a
    weight of 0 leaves a model out, weights that add up to 1 are a mean, and no weight at all is the
    base rate. Starting from the base rate, the model that lowers the loss most is added, as long as
    it lowers it by more than one standard error of the difference. A single model keeps its logits
    unless there are many rows and a weight other than 1 helps by 0.7 of it.

    Args:
        logits: of each model for the rows held out, float64 [rows].
        base: the logit of the base rate.
        targets: in [0, 1], [rows].
        weight: of each row, [rows]; None for 1.
        row: where several elements are of one row, as those of many labels are, the row of each,
            int64 [elements]; their losses are one observation. The others are [elements] then.

    Returns:
        The weights of the models that are kept; none where the base rate is as good.
    """
    kept: dict[str, float] = {}
    loss = losses(np.full(len(targets), base), targets)
    while len(kept) < len(logits):
        tried = []
        for name in logits:
            if name in kept:
                continue
            names = [*kept, name]
            weights = {name: 1.0} if not kept else _fitted(logits, names, base, targets, weight)
            new = losses(combined(logits, weights, base), targets)
            tried.append((float(np.average(new, weights=weight)), weights, new))
        _, weights, new = min(tried, key=lambda one: one[0])
        if not helps(loss, new, weight, row):
            break
        kept, loss = weights, new
    if len(kept) < 2 and len(targets) >= RECALIBRATED_ROWS:
        errors = RECALIBRATED_ERRORS if kept else 1.0
        for name in kept or logits:
            weights = _fitted(logits, [name], base, targets, weight)
            new = losses(combined(logits, weights, base), targets)
            if helps(loss, new, weight, row, errors):
                kept, loss = weights, new
    return {name: weight for name, weight in kept.items() if weight > 0}


def combined(
    logits: Mapping[str, np.ndarray], weights: Mapping[str, float], base: float
) -> np.ndarray:
    """The combined logits, float64 [rows]."""
    total = np.full(len(next(iter(logits.values()))), base)
    for name, weight in weights.items():
        total += weight * (logits[name] - base)
    return total


def helps(
    before: np.ndarray,
    after: np.ndarray,
    weight: np.ndarray | None,
    row: np.ndarray | None = None,
    errors: float = 1.0,
) -> bool:
    """Whether the mean loss falls by more than so many of its standard errors.

    With weights w the error is sqrt(sum of w^2 d^2) / sum of w for deviations d from the mean: a
    row is one observation, whatever its weight, and however many elements it has.
    """
    fall = before - after
    w = np.ones(len(fall)) if weight is None else weight
    mean = float(np.average(fall, weights=w))
    deviations = w * (fall - mean)
    if row is not None:
        deviations = np.bincount(row, deviations)
    return mean > errors * float(np.sqrt(np.sum(deviations**2)) / w.sum())


def _fitted(
    logits: Mapping[str, np.ndarray],
    names: list[str],
    base: float,
    targets: np.ndarray,
    weight: np.ndarray | None,
) -> dict[str, float]:
    from scipy.optimize import minimize

    deviations = np.column_stack([logits[name] - base for name in names])

    def value_and_grad(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = base + deviations @ weights
        slope = 1 / (1 + np.exp(-np.clip(z, -700, 700))) - targets
        if weight is None:
            return float(losses(z, targets).mean()), deviations.T @ slope / len(targets)
        value = float(np.average(losses(z, targets), weights=weight))
        return value, deviations.T @ (weight * slope) / weight.sum()

    found = minimize(
        value_and_grad,
        np.full(len(names), 1 / len(names)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, MOST)] * len(names),
    )
    return dict(zip(names, found.x.tolist(), strict=True))
