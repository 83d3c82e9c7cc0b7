"""The losses as modules, which store the options and call the function.

Those that PyTorch has are subclasses of PyTorch's, so that `isinstance` and `state_dict` agree.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from torchbce import functional
from torchbce.definition import checks, family, kinds
from torchbce.definition.buffers import ModuleWithWeights
from torchbce.definition.reference import Constant

__all__ = [
    "AsymmetricLoss",
    "BCELoss",
    "BCEWithLogProbsLoss",
    "BCEWithLogitsLoss",
    "PolyBCELoss",
    "SigmoidFocalLoss",
]

Weight = Tensor | float | None


class _Loss(ModuleWithWeights):
    """Weights as buffers, other options as attributes; `forward` calls the function with them all.

    Weights are buffers as in PyTorch: `.to(...)` moves them, and the `state_dict` has them. A
    number becomes a 0-dimensional buffer, see `ModuleWithWeights`. Other options that are tensors,
    such as `alpha` per class, are buffers too; an `nn.Parameter` is a parameter.
    """

    label_smoothing: float
    ignore_index: float | None
    check_targets: bool | None
    reduction: str
    _function: str
    _options: tuple[str, ...]

    def _store(self, weight: Weight, pos_weight: Weight, **options: Any) -> None:
        checks.reduction(str(options["reduction"]))
        options["label_smoothing"] = checks.fraction("label_smoothing", options["label_smoothing"])
        if options["ignore_index"] is not None:
            options["ignore_index"] = checks.number("ignore_index", options["ignore_index"])
        if "soft_targets" in options:
            checks.choice("soft_targets", options["soft_targets"], family.SOFT_TARGETS)
        self._register_weight("weight", weight)
        self._register_weight("pos_weight", pos_weight)
        for name, value in options.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self._options = tuple(options)

    def forward(self, input: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of one batch; elements where `mask` is false are ignored."""
        function = getattr(functional, self._function)
        options = {name: getattr(self, name) for name in self._options}
        loss: Tensor = function(
            input, target, weight=self.weight, pos_weight=self.pos_weight, mask=mask, **options
        )
        return loss

    def __prepare_scriptable__(self) -> Any:
        """Raise, since `torch.jit.script` cannot compile the losses."""
        raise kinds.not_scriptable(type(self).__name__)

    def extra_repr(self) -> str:
        """The reduction and the options that differ from their defaults."""
        defaults = inspect.signature(type(self)).parameters
        shown = []
        for name in ("weight", "pos_weight", *self._options):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                value = value.item() if value.dim() == 0 and not value.is_meta else value.shape
                shown.append(f"{name}={tuple(value) if isinstance(value, torch.Size) else value}")
            elif name == "reduction" or value != defaults[name].default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)


class BCEWithLogitsLoss(_Loss, nn.BCEWithLogitsLoss):
    """`torchbce.functional.binary_cross_entropy_with_logits` as a module.

    The function has the formula. `mask` is an argument of the call.

    Args:
        weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
            number must be finite and not negative; the values of a tensor are not checked.
        size_average: deprecated as in PyTorch, see `reduction`.
        reduce: deprecated as in PyTorch, see `reduction`.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
            shape, for instance (C,) for an input of shape (N, C).
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
            gradient, whatever their input, and a mean does not count them.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.

    Returns:
        A module. Called with `input`, `target` and, by keyword, `mask`, it returns the loss.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

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


class BCELoss(_Loss, nn.BCELoss):
    """`torchbce.functional.binary_cross_entropy` as a module. It takes probabilities.

    The function has the formula. `mask` is an argument of the call.

    Args:
        weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
            number must be finite and not negative; the values of a tensor are not checked.
        size_average: deprecated as in PyTorch, see `reduction`.
        reduce: deprecated as in PyTorch, see `reduction`.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.
        eps: clamp probabilities to [eps, 1 - eps] instead of flooring each logarithm at -100.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
            shape, for instance (C,) for an input of shape (N, C).
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
            gradient, whatever their input, and a mean does not count them.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.

    Returns:
        A module. Called with `input`, `target` and, by keyword, `mask`, it returns the loss.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

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
        eps = checks.eps(eps)
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


class BCEWithLogProbsLoss(_Loss):
    """`torchbce.functional.binary_cross_entropy_with_log_probs` as a module.

    The function has the formula. `mask` is an argument of the call.

    Args:
        weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
            number must be finite and not negative; the values of a tensor are not checked.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
            shape, for instance (C,) for an input of shape (N, C).
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
            gradient, whatever their input, and a mean does not count them.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.

    Returns:
        A module. Called with `input`, `target` and, by keyword, `mask`, it returns the loss.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

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


class SigmoidFocalLoss(_Loss):
    """`torchbce.functional.sigmoid_focal_loss` as a module.

    The function has the formula. `mask` is an argument of the call.

    Args:
        alpha: in [0, 1], the weight of positives; negatives have the weight 1 - alpha. A number,
            or a tensor that broadcasts to input's shape, for instance (C,) for (N, C). None for no
            such weights.
        gamma: focusing exponent, at least 0; a number, or a tensor that broadcasts to input's
            shape.
        soft_targets: the loss of a target between 0 and 1: "linear" in the target, or "p_t", as
            other libraries compute it. Targets of 0 and 1 have the same loss in both forms.
        detach_focusing: whether the focusing weights (the factors with an exponent gamma) are
            constants in derivatives. The loss itself is the same.
        weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
            number must be finite and not negative; the values of a tensor are not checked.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
            shape, for instance (C,) for an input of shape (N, C).
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
            gradient, whatever their input, and a mean does not count them.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.

    Returns:
        A module. Called with `input`, `target` and, by keyword, `mask`, it returns the loss.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

    Example:
        >>> import torch, torchbce
        >>> criterion = torchbce.SigmoidFocalLoss(gamma=2.0)
        >>> round(criterion(torch.tensor([2.0, -1.0]), torch.tensor([1, 1])).item(), 4)
        0.3518

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """

    alpha: Constant | None
    gamma: Constant
    soft_targets: str
    detach_focusing: bool
    _function = "sigmoid_focal_loss"

    def __init__(
        self,
        *,
        alpha: Constant | None = None,
        gamma: Constant = 2.0,
        soft_targets: str = "linear",
        detach_focusing: bool = False,
        weight: Weight = None,
        pos_weight: Weight = None,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        alpha = checks.alpha(alpha)
        gamma = checks.exponent("gamma", gamma)
        self._store(
            weight,
            pos_weight,
            alpha=alpha,
            gamma=gamma,
            soft_targets=soft_targets,
            detach_focusing=detach_focusing,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=reduction,
        )


class AsymmetricLoss(_Loss):
    """`torchbce.functional.asymmetric_loss` as a module.

    The function has the formula. `mask` is an argument of the call.

    Args:
        gamma_pos: focusing exponent of positives, at least 0; a number, or a tensor that broadcasts
            to input's shape, for instance (C,) for an input of shape (N, C).
        gamma_neg: focusing exponent of negatives, likewise.
        margin: in [0, 1), subtracted from the probability of negatives; a number, or a tensor that
            broadcasts to input's shape.
        soft_targets: the loss of a target between 0 and 1: "linear" in the target, or "p_t", as
            other libraries compute it. Targets of 0 and 1 have the same loss in both forms.
        detach_focusing: whether the focusing weights (the factors with an exponent gamma) are
            constants in derivatives. The loss itself is the same.
        weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
            number must be finite and not negative; the values of a tensor are not checked.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
            shape, for instance (C,) for an input of shape (N, C).
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
            gradient, whatever their input, and a mean does not count them.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.

    Returns:
        A module. Called with `input`, `target` and, by keyword, `mask`, it returns the loss.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

    Example:
        >>> import torch, torchbce
        >>> criterion = torchbce.AsymmetricLoss(reduction="sum")
        >>> round(criterion(torch.tensor([2.0, 2.0]), torch.tensor([1, 0])).item(), 4)
        0.8615

    References:
        Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021.
    """

    gamma_pos: Constant
    gamma_neg: Constant
    margin: Constant
    soft_targets: str
    detach_focusing: bool
    _function = "asymmetric_loss"

    def __init__(
        self,
        *,
        gamma_pos: Constant = 1.0,
        gamma_neg: Constant = 4.0,
        margin: Constant = 0.05,
        soft_targets: str = "linear",
        detach_focusing: bool = False,
        weight: Weight = None,
        pos_weight: Weight = None,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        gamma_pos = checks.exponent("gamma_pos", gamma_pos)
        gamma_neg = checks.exponent("gamma_neg", gamma_neg)
        margin = checks.margin(margin)
        self._store(
            weight,
            pos_weight,
            gamma_pos=gamma_pos,
            gamma_neg=gamma_neg,
            margin=margin,
            soft_targets=soft_targets,
            detach_focusing=detach_focusing,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=reduction,
        )


class PolyBCELoss(_Loss):
    """`torchbce.functional.poly_binary_cross_entropy` as a module.

    The function has the formula. `mask` is an argument of the call.

    Args:
        epsilon: added to the coefficient of the first term, at least -1; a number, or a tensor that
            broadcasts to input's shape.
        gamma: focusing exponent, at least 0; a number, or a tensor that broadcasts to input's
            shape.
        alpha: in [0, 1], the weight of positives; negatives have the weight 1 - alpha. A number,
            or a tensor that broadcasts to input's shape, for instance (C,) for (N, C). None for no
            such weights.
        soft_targets: the loss of a target between 0 and 1: "linear" in the target, or "p_t", as
            other libraries compute it. Targets of 0 and 1 have the same loss in both forms.
        detach_focusing: whether the focusing weights (the factors with an exponent gamma) are
            constants in derivatives. The loss itself is the same.
        weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
            number must be finite and not negative; the values of a tensor are not checked.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
            shape, for instance (C,) for an input of shape (N, C).
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
            gradient, whatever their input, and a mean does not count them.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.

    Returns:
        A module. Called with `input`, `target` and, by keyword, `mask`, it returns the loss.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

    Example:
        >>> import torch, torchbce
        >>> criterion = torchbce.PolyBCELoss(epsilon=1.0)
        >>> round(criterion(torch.tensor([2.0, -1.0]), torch.tensor([1, 1])).item(), 4)
        1.1452

    References:
        Leng et al., PolyLoss, ICLR 2022.
    """

    epsilon: Constant
    gamma: Constant
    alpha: Constant | None
    soft_targets: str
    detach_focusing: bool
    _function = "poly_binary_cross_entropy"

    def __init__(
        self,
        *,
        epsilon: Constant = 1.0,
        gamma: Constant = 0.0,
        alpha: Constant | None = None,
        soft_targets: str = "linear",
        detach_focusing: bool = False,
        weight: Weight = None,
        pos_weight: Weight = None,
        label_smoothing: float = 0.0,
        ignore_index: float | None = None,
        check_targets: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        alpha = checks.alpha(alpha)
        gamma = checks.exponent("gamma", gamma)
        epsilon = checks.epsilon(epsilon)
        self._store(
            weight,
            pos_weight,
            epsilon=epsilon,
            gamma=gamma,
            alpha=alpha,
            soft_targets=soft_targets,
            detach_focusing=detach_focusing,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            check_targets=check_targets,
            reduction=reduction,
        )
