"""The losses as modules: PyTorch's own classes, so that `isinstance` and `state_dict` agree."""

import torch
from torch import Tensor, nn

from torchbce import _checks, functional

__all__ = ["BCELoss", "BCEWithLogitsLoss"]


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """`torchbce.functional.binary_cross_entropy_with_logits` as a module.

    The formula, shapes and errors are the function's. Weights are buffers, as in PyTorch: they
    move with `.to(...)` and stand in the `state_dict`.

    Args:
        weight: a number or a tensor that broadcasts to the input's shape.
        size_average: deprecated, as in PyTorch: use `reduction`.
        reduce: deprecated, as in PyTorch: use `reduction`.
        reduction: "none", "mean" or "sum".
        pos_weight: a number or a tensor that broadcasts to the input's shape.

    Raises:
        ValueError: if the reduction is unknown or a number given as weight is negative.

    Example:
        >>> import torch, torchbce
        >>> criterion = torchbce.BCEWithLogitsLoss(pos_weight=3.0)
        >>> round(criterion(torch.tensor([[0.0], [0.0]]), torch.tensor([1, 0])).item(), 4)
        1.3863
        >>> isinstance(criterion, torch.nn.BCEWithLogitsLoss)
        True

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html
    """

    def __init__(
        self,
        weight: Tensor | float | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | float | None = None,
    ) -> None:
        _checks.reduction(reduction)
        super().__init__(
            _as_buffer("weight", weight),
            size_average,
            reduce,
            reduction,
            _as_buffer("pos_weight", pos_weight),
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class BCELoss(nn.BCELoss):
    """`torchbce.functional.binary_cross_entropy` as a module: it takes probabilities.

    The formula, shapes and errors are the function's.

    Args:
        weight: a number or a tensor that broadcasts to the input's shape.
        size_average: deprecated, as in PyTorch: use `reduction`.
        reduce: deprecated, as in PyTorch: use `reduction`.
        reduction: "none", "mean" or "sum".
        eps: clamp probabilities into [eps, 1 - eps] instead of flooring each logarithm at -100.

    Raises:
        ValueError: if the reduction is unknown, eps is outside (0, 0.5), or a number given as
            weight is negative.

    Example:
        >>> import torch, torchbce
        >>> p = torch.sigmoid(torch.tensor([0.0, 2.0]))
        >>> round(torchbce.BCELoss()(p, torch.tensor([0.0, 1.0])).item(), 4)
        0.41

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html
    """

    def __init__(
        self,
        weight: Tensor | float | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        eps: float | None = None,
    ) -> None:
        _checks.reduction(reduction)
        _checks.eps(eps)
        super().__init__(_as_buffer("weight", weight), size_average, reduce, reduction)
        self.eps = eps

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy(
            input, target, self.weight, reduction=self.reduction, eps=self.eps
        )


def _as_buffer(name: str, weight: Tensor | float | None) -> Tensor | None:
    """A number becomes a 0-dimensional buffer of the default dtype."""
    if weight is None or isinstance(weight, Tensor):
        return weight
    checked = _checks.align_weight(name, weight, torch.empty(()))
    assert checked is not None  # for the type checker: only None gives None
    return checked.to(torch.get_default_dtype())
