r"""Fit the slopes and the offset of a map by Newton's method, for many labels at a time."""

import torch
from torch import Tensor

from torchbce.backends.selection import backend
from torchbce.functional import binary_cross_entropy_with_logits

#: The prior weighs as much as the information of this many rows with logits of the mean square. It
#: keeps the slopes finite where logits separate the targets, or all targets are equal.
PRIOR = 0.05
STEPS, HALVINGS = 60, 40


def solve(columns: Tensor, targets: Tensor, weight: Tensor, slopes: int) -> Tensor:
    r"""The coefficients :math:`\theta` of the lowest penalised loss.

    .. math::
        \sum_i w_i \, \ell(\theta \cdot f_i, y_i)
        + \sum_k \frac{\lambda_k}{2} (\theta_k - \theta_k^0)^2

    with the cross-entropy of logits for :math:`\ell`, 1 for the slope :math:`\theta_k^0` and 0 for
    the offset, and :math:`\lambda_k = 0.05 \, \overline{f_k^2}`. Slopes stay at 0 or above:
    Newton's step is computed without those that are 0 and would fall, and projected (Bertsekas).

    Args:
        columns: the functions f, float64 [K, N, L]; the offset's is 1.
        targets: y in [0, 1], [N, L].
        weight: w at least 0, [N, L].
        slopes: how many of the K are slopes; the rest is the offset.

    Returns:
        Float64 [K, L].

    References:
        Bertsekas, Projected Newton Methods for Optimization Problems with Simple Constraints, 1982.
    """
    number = len(columns)
    bounded = torch.arange(number, device=columns.device) < slopes
    start = bounded.to(columns.dtype)[:, None].expand(number, targets.shape[1])
    rows = weight.sum(0).clamp(min=1e-300)
    strength = PRIOR * (weight * columns**2).sum(1) / rows + 1e-12

    def value(theta: Tensor) -> Tensor:
        z = torch.einsum("knl,kl->nl", columns, theta)
        with backend("reference"):
            loss = binary_cross_entropy_with_logits(
                z, targets, weight, reduction="none", check_targets=False
            )
        return loss.sum(0) + (strength * (theta - start) ** 2).sum(0) / 2

    theta = start.clone()
    loss = value(theta)
    for _ in range(STEPS):
        p = torch.sigmoid(torch.einsum("knl,kl->nl", columns, theta))
        slope = torch.einsum("knl,nl->kl", columns, weight * (p - targets))
        slope += strength * (theta - start)
        curvature = torch.einsum("knl,jnl,nl->lkj", columns, columns, weight * p * (1 - p))
        curvature += torch.diag_embed(strength.T)
        fixed = bounded[:, None] & (theta <= 0) & (slope > 0)
        free = (~fixed).to(theta.dtype)
        curvature = curvature * free.T[:, :, None] * free.T[:, None, :]
        curvature += torch.diag_embed(1 - free.T)
        step = torch.linalg.solve(curvature, (slope * free).T).T
        gain = (slope * step).sum(0)  # twice the fall that the quadratic model expects
        if bool((gain <= 1e-10 * (loss + 1)).all()):
            # So near to the minimum a last step is as good as exact, and its fall in the loss is
            # within the rounding of the loss.
            theta = theta - step
            return torch.where(bounded[:, None], theta.clamp(min=0), theta)
        theta, loss, moved = _descend(value, theta, loss, step, gain, bounded)
        if not moved:
            break
    return theta


def _descend(
    value: "object", theta: Tensor, loss: Tensor, step: Tensor, gain: Tensor, bounded: Tensor
) -> tuple[Tensor, Tensor, bool]:
    """The longest of the steps 1, 1/2, 1/4, ... that lowers the loss of a label, for each label."""
    assert callable(value)
    length = torch.ones_like(gain)
    waiting = gain > 0
    moved = False
    for _ in range(HALVINGS):
        new = theta - length * step
        new = torch.where(bounded[:, None], new.clamp(min=0), new)
        lower = value(new)
        accepted = waiting & (lower < loss)
        theta = torch.where(accepted, new, theta)
        loss = torch.where(accepted, lower, loss)
        moved = moved or bool(accepted.any())
        waiting = waiting & ~accepted
        if not bool(waiting.any()):
            break
        length = torch.where(waiting, length / 2, length)
    return theta, loss, moved
