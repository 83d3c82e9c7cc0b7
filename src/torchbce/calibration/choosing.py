"""Choose a map by cross-validation, and keep it only where it helps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from torchbce.backends.selection import backend
from torchbce.calibration.modules import CLASSES, Array, Calibrator, Identity, elements
from torchbce.functional import binary_cross_entropy_with_logits

#: What is tried, the simplest first.
TRIED = ("temperature", "platt", "beta", "quadratic")
#: Folds of the cross-validation: many rows need no more than two.
FOLDS, FOLDS_OF_MANY, MANY = 5, 2, 20_000
#: With fewer rows, or fewer positives or negatives, than this a label keeps its logits: on 200
#: calibrated rows, 20 of them positive, one choice in five was a loss of up to 6% on new rows.
FEWEST_ROWS, FEWEST_OF_A_VALUE = 50, 25
#: A map is kept if the mean loss falls by more than so many standard errors of the fall. On 1,000
#: calibrated rows none was kept then, and 28 of 30 where logits were off by 0.5 or by 30%.
NOISE = 1.5


def choose(
    logits: Array,
    targets: Array,
    weight: Array | None = None,
    *,
    ignore_index: float | None = None,
    kinds: str | Sequence[str] = TRIED,
    groups: np.ndarray | None = None,
) -> Calibrator:
    """The map of logits that lowers the log loss of rows it was not fitted to, if one does.

    Each kind of map is fitted to all folds of the rows but one, in turn, and its loss measured on
    that one: five folds, or two from 20,000 rows on. The simplest map whose loss is within one
    standard error of the lowest is fitted to all rows. It is kept where the loss falls by more than
    1.5 standard errors of the fall; of many labels, all have the same kind of map, and those that
    it does not help keep their logits. With fewer than 50 rows, or 25 of either value, nothing is
    changed. If all slopes of the map that is kept are 0, it warns as `Calibrator.fit` does.

    Args:
        logits: in nats, of rows that the model was not fitted to, [N] of one label or [N, L] of
            many; a tensor or a NumPy array of any floating dtype.
        targets: in [0, 1], of the same shape; NaN where they are missing.
        weight: how much each element counts, at least 0, of the logits' shape or [N]; None is 1.
        ignore_index: elements with this target are left out too.
        kinds: what is tried, the simplest first: "temperature", "platt", "beta", "quadratic"; or
            one of them.
        groups: the group of each row, integers or strings [N]; rows of a group are in one fold.

    Returns:
        The fitted map; an `Identity` if none helps.

    Raises:
        TypeError: if the logits are not floating.
        ValueError: if shapes do not match, a value is out of its range, or a kind is not one.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> logits = torch.randn(2000, generator=random)
        >>> targets = torch.bernoulli(torch.sigmoid(logits), generator=random)
        >>> choose(3 * logits, targets)
        Temperature(slopes=[0.3778], offset=0)
        >>> choose(logits, targets)
        Identity()

    References:
        CalArena, arXiv:2605.30188, 2026 (which maps help, and how much the wrong one harms).
    """
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    for kind in kinds:
        if kind not in TRIED:
            raise ValueError(f"kinds must be among {', '.join(TRIED)}, got {kind!r}")
    calibrator = chosen(*elements(logits, targets, weight, ignore_index), kinds, groups)
    calibrator._warn_if_constant()
    return calibrator.to(logits.device) if isinstance(logits, Tensor) else calibrator


def chosen(
    z: Tensor,
    y: Tensor,
    w: Tensor,
    kinds: Sequence[str] = TRIED,
    groups: np.ndarray | None = None,
) -> Calibrator:
    """What `choose` returns, without a warning.

    Args:
        z: logits, as `elements` returns them, [N] or [N, L].
        y: their targets.
        w: their weights.
        kinds: as `choose`, names of maps.
        groups: as `choose`.
    """
    if len(z) < FEWEST_ROWS or not kinds:
        return Identity()
    held_out = cross_validated(z, y, w, kinds, groups)
    before = held_out["identity"]
    means = {kind: float(_total(held_out[kind]).mean()) for kind in kinds}
    lowest = held_out[min(means, key=means.__getitem__)]
    kind = next(
        kind for kind in kinds if not _falls(_total(held_out[kind]) - _total(lowest), 1.0).any()
    )
    positives, negatives = ((w > 0) * y).sum(0), ((w > 0) * (1 - y)).sum(0)
    enough = torch.minimum(positives, negatives) >= FEWEST_OF_A_VALUE
    helped = enough & _falls(before - held_out[kind], NOISE)
    if not bool(helped.any()):
        return Identity()
    calibrator = CLASSES[kind]()
    calibrator._fit(z, y, w)
    if z.ndim == 2:
        calibrator.keep(helped)
    return calibrator


def cross_validated(
    z: Tensor,
    y: Tensor,
    w: Tensor,
    kinds: Sequence[str] = TRIED,
    groups: np.ndarray | None = None,
) -> dict[str, Tensor]:
    """The weighted loss of each element by maps that were fitted to other rows, for each kind.

    Args:
        z: logits, as `elements` returns them, [N] or [N, L].
        y: their targets.
        w: their weights.
        kinds: the kinds of map.
        groups: the group of each row; None for one of its own.

    Returns:
        Losses in nats of "identity" and of each kind, float64 of the shape of z.
    """
    found = {"identity": _losses(z, y, w)}
    folds = FOLDS if len(z) < MANY else FOLDS_OF_MANY
    # In random order, the same each time, without touching PyTorch's own generator.
    group = np.arange(len(z)) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = (np.random.default_rng(0).permutation(int(group.max()) + 1) % folds)[group.ravel()]
    fold = torch.from_numpy(order).to(z.device)
    for kind in kinds:
        losses = torch.empty_like(z)
        for number in range(folds):
            own = fold == number
            calibrator = CLASSES[kind]()
            calibrator._fit(z[~own], y[~own], w[~own])
            losses[own] = _losses(calibrator(z[own]), y[own], w[own])
        found[kind] = losses
    return found


def _losses(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
    with backend("reference"):  # a few calls do not repay compiling a kernel
        return binary_cross_entropy_with_logits(z, y, w, reduction="none", check_targets=False)


def _total(losses: Tensor) -> Tensor:
    """The loss of each row, [N]."""
    return losses if losses.ndim == 1 else losses.sum(1)


def _falls(fall: Tensor, errors: float) -> Tensor:
    """Whether the mean over rows is above so many standard errors, 0-dimensional or [L]."""
    noise = fall.std(0) / len(fall) ** 0.5
    return torch.gt(fall.mean(0), errors * noise)
