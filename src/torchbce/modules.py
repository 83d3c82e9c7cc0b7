"""The losses as modules, which store the options and call the function.

Those that PyTorch has subclass PyTorch's, so that `isinstance` and `state_dict` agree.
"""

import torch
from torch import Tensor, nn

from torchbce import functional
from torchbce._contract import documented
from torchbce.definition import checks

__all__ = [
    "AsymmetricLoss",
    "BCELoss",
    "BCEWithLogProbsLoss",
    "BCEWithLogitsLoss",
    "PolyBCELoss",
    "SigmoidFocalLoss",
]

Weight = Tensor | float | None


class _Loss(nn.Module):
    """Weights as buffers, other options as attributes, and the function called with them all.

    Weights are buffers as in PyTorch: they move with `.to(...)` and stand in the `state_dict`. A
    number becomes one of the default dtype.
    """

    label_smoothing: float
    ignore_index: float | None
    check_targets: bool | None
    reduction: str
    _function: str
    _options: tuple[str, ...]

    def _store(self, weight: Weight, pos_weight: Weight, **options: float | str | None) -> None:
        checks.reduction(str(options["reduction"]))
        checks.fraction("label_smoothing", float(options["label_smoothing"] or 0))
        self.register_buffer("weight", _as_buffer("weight", weight))
        self.register_buffer("pos_weight", _as_buffer("pos_weight", pos_weight))
        for name, value in options.items():
            setattr(self, name, value)
        self._options = tuple(options)

    def forward(self, input: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of one batch; `mask` is false where an element is ignored."""
        function = getattr(functional, self._function)
        options = {name: getattr(self, name) for name in self._options}
        loss: Tensor = function(
            input, target, weight=self.weight, pos_weight=self.pos_weight, mask=mask, **options
        )
        return loss


@documented
class BCEWithLogitsLoss(_Loss, nn.BCEWithLogitsLoss):
    """`torchbce.functional.binary_cross_entropy_with_logits` as a module.

    The formula and the errors are the function's; `mask` is an argument of the call.

    Args:
        <weight>
        size_average: deprecated, as in PyTorch: use `reduction`.
        reduce: deprecated, as in PyTorch: use `reduction`.
        <reduction>
        <pos_weight>
        <ignoring>
        <check_targets>

    Returns:
        Called with `input`, `target` and, by name, `mask`: the loss, as the function returns it.

    Raises:
        <raises>

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

    _function = "binary_cross_entropy_with_logits"

    def __init__(
        self,
        weight: Weight = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Weight = None,
        *,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
    ) -> None:
        nn.BCEWithLogitsLoss.__init__(self, None, size_average, reduce, reduction)
        self._store(
            weight,
            pos_weight,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=self.reduction,
        )


@documented
class BCELoss(_Loss, nn.BCELoss):
    """`torchbce.functional.binary_cross_entropy` as a module: it takes probabilities.

    The formula and the errors are the function's; `mask` is an argument of the call.

    Args:
        <weight>
        size_average: deprecated, as in PyTorch: use `reduction`.
        reduce: deprecated, as in PyTorch: use `reduction`.
        <reduction>
        eps: clamp probabilities into [eps, 1 - eps] instead of flooring each logarithm at -100.
        <pos_weight>
        <ignoring>
        <check_targets>

    Returns:
        Called with `input`, `target` and, by name, `mask`: the loss, as the function returns it.

    Raises:
        <raises>

    Example:
        >>> import torch, torchbce
        >>> p = torch.sigmoid(torch.tensor([0.0, 2.0]))
        >>> round(torchbce.BCELoss()(p, torch.tensor([0.0, 1.0])).item(), 4)
        0.41

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html
    """

    eps: float | None
    _function = "binary_cross_entropy"

    def __init__(
        self,
        weight: Weight = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        eps: float | None = None,
        pos_weight: Weight = None,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
    ) -> None:
        checks.eps(eps)
        nn.BCELoss.__init__(self, None, size_average, reduce, reduction)
        self._store(
            weight,
            pos_weight,
            eps=eps,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=self.reduction,
        )


@documented
class BCEWithLogProbsLoss(_Loss):
    """`torchbce.functional.binary_cross_entropy_with_log_probs` as a module.

    The formula and the errors are the function's; `mask` is an argument of the call.

    Args:
        <weight>
        <pos_weight>
        <ignoring>
        <check_targets>
        <reduction>

    Returns:
        Called with `input`, `target` and, by name, `mask`: the loss, as the function returns it.

    Raises:
        <raises>

    Example:
        >>> import torch, torchbce
        >>> log_p = torch.log(torch.tensor([0.8, 0.2]))
        >>> round(torchbce.BCEWithLogProbsLoss()(log_p, torch.tensor([1, 0])).item(), 4)
        0.2231

    References:
        Mächler, Accurately Computing log(1 - exp(-|a|)), 2012.
    """

    _function = "binary_cross_entropy_with_log_probs"

    def __init__(
        self,
        *,
        weight: Weight = None,
        pos_weight: Weight = None,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self._store(
            weight,
            pos_weight,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=reduction,
        )


@documented
class SigmoidFocalLoss(_Loss):
    """`torchbce.functional.sigmoid_focal_loss` as a module.

    The formula and the errors are the function's; `mask` is an argument of the call.

    Args:
        alpha: in [0, 1], the weight of positives against 1 - alpha of negatives; or None.
        gamma: the focusing exponent, 0 or above.
        <weight>
        <pos_weight>
        <ignoring>
        <check_targets>
        <reduction>

    Returns:
        Called with `input`, `target` and, by name, `mask`: the loss, as the function returns it.

    Raises:
        <raises>

    Example:
        >>> import torch, torchbce
        >>> criterion = torchbce.SigmoidFocalLoss(gamma=2.0)
        >>> round(criterion(torch.tensor([2.0, -1.0]), torch.tensor([1, 1])).item(), 4)
        0.3518

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """

    alpha: float | None
    gamma: float
    _function = "sigmoid_focal_loss"

    def __init__(
        self,
        *,
        alpha: float | None = None,
        gamma: float = 2.0,
        weight: Weight = None,
        pos_weight: Weight = None,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        checks.alpha(alpha)
        checks.exponent("gamma", gamma)
        self._store(
            weight,
            pos_weight,
            alpha=alpha,
            gamma=gamma,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=reduction,
        )


@documented
class AsymmetricLoss(_Loss):
    """`torchbce.functional.asymmetric_loss` as a module.

    The formula and the errors are the function's; `mask` is an argument of the call.

    Args:
        gamma_pos: the focusing exponent of positives, 0 or above.
        gamma_neg: the focusing exponent of negatives, 0 or above.
        margin: in [0, 1), taken off the probability of negatives; 0 takes nothing off.
        <weight>
        <pos_weight>
        <ignoring>
        <check_targets>
        <reduction>

    Returns:
        Called with `input`, `target` and, by name, `mask`: the loss, as the function returns it.

    Raises:
        <raises>

    Example:
        >>> import torch, torchbce
        >>> criterion = torchbce.AsymmetricLoss(reduction="sum")
        >>> round(criterion(torch.tensor([2.0, 2.0]), torch.tensor([1, 0])).item(), 4)
        0.8615

    References:
        Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021.
    """

    gamma_pos: float
    gamma_neg: float
    margin: float
    _function = "asymmetric_loss"

    def __init__(
        self,
        *,
        gamma_pos: float = 1.0,
        gamma_neg: float = 4.0,
        margin: float = 0.05,
        weight: Weight = None,
        pos_weight: Weight = None,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        checks.exponent("gamma_pos", gamma_pos)
        checks.exponent("gamma_neg", gamma_neg)
        checks.margin(margin)
        self._store(
            weight,
            pos_weight,
            gamma_pos=gamma_pos,
            gamma_neg=gamma_neg,
            margin=margin,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=reduction,
        )


@documented
class PolyBCELoss(_Loss):
    """`torchbce.functional.poly_binary_cross_entropy` as a module.

    The formula and the errors are the function's; `mask` is an argument of the call.

    Args:
        epsilon: what is added to the coefficient of the first term, -1 or above.
        gamma: the focusing exponent, 0 or above.
        alpha: in [0, 1], the weight of positives against 1 - alpha of negatives; or None.
        <weight>
        <pos_weight>
        <ignoring>
        <check_targets>
        <reduction>

    Returns:
        Called with `input`, `target` and, by name, `mask`: the loss, as the function returns it.

    Raises:
        <raises>

    Example:
        >>> import torch, torchbce
        >>> criterion = torchbce.PolyBCELoss(epsilon=1.0)
        >>> round(criterion(torch.tensor([2.0, -1.0]), torch.tensor([1, 1])).item(), 4)
        1.1452

    References:
        Leng et al., PolyLoss, ICLR 2022.
    """

    epsilon: float
    gamma: float
    alpha: float | None
    _function = "poly_binary_cross_entropy"

    def __init__(
        self,
        *,
        epsilon: float = 1.0,
        gamma: float = 0.0,
        alpha: float | None = None,
        weight: Weight = None,
        pos_weight: Weight = None,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        checks.alpha(alpha)
        checks.exponent("gamma", gamma)
        checks.epsilon(epsilon)
        self._store(
            weight,
            pos_weight,
            epsilon=epsilon,
            gamma=gamma,
            alpha=alpha,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=reduction,
        )


def _as_buffer(name: str, weight: Weight) -> Tensor | None:
    """A number becomes a 0-dimensional buffer of the default dtype."""
    if weight is None or isinstance(weight, Tensor):
        return weight
    checked = checks.align_weight(name, weight, torch.empty(()))
    assert checked is not None  # for the type checker: only None gives None
    return checked.to(torch.get_default_dtype())
