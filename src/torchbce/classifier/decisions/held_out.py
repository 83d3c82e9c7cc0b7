"""What decisions take from rows held out: thresholds, their honest figures, and rows set aside."""

from typing import NamedTuple

import msgspec
import numpy as np

from torchbce.classifier.decisions.thresholds import ChosenThreshold, choose_threshold
from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.quality.metrics import Metrics, confusion_at, decision_figures

#: Parts of the rows, each with a threshold that is chosen on the others, for the figures.
PARTS = 5
#: The part of the rows that tests guarantees.
TESTING = 0.25


class Chosen(NamedTuple):
    """A threshold for an objective.

    Attributes:
        threshold: chosen on all rows held out; None where no objective is given.
        honest: for each row a threshold that was chosen without its target, [rows] or a number.
    """

    threshold: ChosenThreshold | None
    honest: np.ndarray | float


def chosen_at(
    objective: str | None,
    logits: np.ndarray,
    targets: np.ndarray,
    weight: np.ndarray | None,
    shift: float = 0.0,
    groups: np.ndarray | None = None,
) -> Chosen:
    """The threshold for an objective, and thresholds for the figures of the rows held out.

    Args:
        objective: as `Objective.parse` reads it; None for the threshold 0.5.
        logits: of the rows held out, shifted to the base rate in use, float64 [rows].
        targets: in [0, 1], [rows].
        weight: how much each row counts, [rows]; None for 1.
        shift: of the logits: the objective is that of rows with the base rate in use, so that
            positives weigh e^shift times as much.
        groups: the group of each row, which no part divides, [rows]; None without groups.
    """
    if objective is None:
        return Chosen(None, 0.5)
    if shift:
        moved = targets * np.exp(shift) + (1 - targets)
        weight = moved if weight is None else weight * moved
        targets = targets * np.exp(shift) / moved
    own_group = np.arange(len(logits)) if groups is None else groups
    part = (np.random.default_rng(0).permutation(int(own_group.max()) + 1) % PARTS)[own_group]
    honest = np.full(len(logits), 0.5)
    for number in range(PARTS):
        other = part != number
        if other.all() or not other.any():
            continue
        own = None if weight is None else weight[other]
        found = choose_threshold(logits[other], targets[other], objective, own)
        honest[~other] = found.threshold
    if shift:  # the figures are of the rows as they are
        inside = np.clip(honest, 1e-300, 1 - 1e-16)
        honest = 1 / (1 + (1 - inside) / inside * np.exp(shift))
    return Chosen(choose_threshold(logits, targets, objective, weight), honest)


def at_threshold(
    metrics: Metrics,
    logits: np.ndarray,
    targets: np.ndarray,
    threshold: np.ndarray | float,
    weight: np.ndarray | None = None,
) -> Metrics:
    """The metrics with the figures of decisions at another threshold, or one for each row."""
    from scipy.special import expit

    # p >= t for a threshold of each row, as one for all.
    above = (expit(logits) >= threshold).astype(np.float64)
    confusion = confusion_at(above, np.asarray(targets, np.float64), 0.5, weight)
    return msgspec.structs.replace(metrics, confusion=confusion, **decision_figures(confusion))


def set_aside(rows: int, times: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows to learn from, and the quarter that tests guarantees.

    They are drawn at random, and not in strata, so that they are exchangeable with rows to come;
    with times they are the latest.

    Raises:
        InputError: if there are fewer than 8 rows.
    """
    testing = int(rows * TESTING)
    if testing < 2:
        raise InputError(Argument("guarantee"), f" needs many more than {rows} rows")
    if times is None:
        order = np.random.default_rng(seed).permutation(rows)
    else:
        order = np.argsort(times, kind="stable")
    return np.sort(order[: rows - testing]), np.sort(order[rows - testing :])
