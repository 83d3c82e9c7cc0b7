"""How well probabilities are calibrated: the smooth error, and the parts of the log loss."""

import numpy as np

#: Nodes of the grid on which residuals are smoothed, and the narrowest kernel, two cells of it.
NODES = 2049
NARROWEST = 2 / (NODES - 1)
#: Bisections of the width, from 1 on: the last digit is then the seventh.
BISECTIONS = 24


def smooth_calibration_error(
    p: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None
) -> float:
    r"""The smooth expected calibration error, which needs no bins.

    .. math::
        \mathrm{smECE}_\sigma = \int_0^1 \Bigl| \sum_i w_i (y_i - p_i)
        K_\sigma(t, p_i) \Bigr| dt \Big/ \sum_i w_i

    with a Gaussian kernel K of width :math:`\sigma` that is reflected at 0 and 1. The width is the
    one at which the error equals it. The residuals are spread on a grid of 2,049 nodes, where the
    reflected Gaussian is a factor :math:`e^{-(\pi k \sigma)^2 / 2}` of the k-th cosine.

    Args:
        p: probabilities, [rows].
        y: targets in [0, 1], [rows].
        weight: how much each row counts, [rows]; None is 1.

    Returns:
        The error, from 0 to 1; below 0.001 it is that of the width 0.001.

    References:
        Błasiok and Nakkiran, Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing,
        ICLR 2024.
    """
    w = np.ones(len(p)) if weight is None else weight
    spread = on_grid(p, w * (y - p) / w.sum())
    width = smoothing_width(spread)
    return float(smoothed_error(spread, width))


def smoothing_width(spread: np.ndarray) -> float:
    """The width that equals the error of residuals on the grid; see `on_grid`."""
    low, high = NARROWEST, 1.0
    if smoothed_error(spread, low) <= low:
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if smoothed_error(spread, middle) > middle:
            low = middle
        else:
            high = middle
    return high


def on_grid(p: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """The residuals divided between the two nodes next to each probability, [NODES]."""
    place = p * (NODES - 1)
    left = np.minimum(place.astype(np.int64), NODES - 2)
    right_share = place - left
    below = np.bincount(left, residuals * (1 - right_share), NODES)
    above = np.bincount(left + 1, residuals * right_share, NODES)
    return below + above


def smoothed_error(spread: np.ndarray, width: float) -> np.ndarray:
    """The integral of the absolute smoothed residuals, of [..., NODES] residuals on the grid."""
    from scipy.fft import dct

    ends = spread.copy()
    ends[..., [0, -1]] *= 2  # the transform of type I halves them
    factor = np.exp(-((np.pi * np.arange(NODES) * width) ** 2) / 2)
    smoothed = np.abs(dct(dct(ends, type=1) / 2 * factor, type=1))
    # The trapezoid rule.
    integral: np.ndarray = (smoothed.sum(-1) - (smoothed[..., 0] + smoothed[..., -1]) / 2) / (
        NODES - 1
    )
    return integral


def refinement_loss(
    logits: np.ndarray, targets: np.ndarray, weight: np.ndarray | None
) -> float | None:
    """The log loss that is left when the logits are calibrated as well as can be.

    Each map of `torchbce.calibration` is fitted to other rows than those it is judged by, and the
    lowest loss is taken; that of the logits as they are is among them.

    Args:
        logits: in nats, float64 [rows].
        targets: in [0, 1], [rows].
        weight: how much each row counts, [rows]; None is 1.

    Returns:
        The loss in nats, a mean over rows; None with fewer than 50 rows, or fewer than 25 of either
        value.
    """
    from torchbce.calibration.choosing import (
        FEWEST_OF_A_VALUE,
        FEWEST_ROWS,
        cross_validated,
    )
    from torchbce.calibration.modules import elements

    z, y, w = elements(logits, np.asarray(targets, dtype=np.float64), weight, None)
    if len(z) < FEWEST_ROWS or min(float(y.sum()), float((1 - y).sum())) < FEWEST_OF_A_VALUE:
        return None
    losses = cross_validated(z, y, w)
    return min(float(loss.sum() / w.sum()) for loss in losses.values())
