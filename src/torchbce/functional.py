"""The losses as functions of tensors, as in `torch.nn.functional`."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchbce import _pytorch
from torchbce._contract import evaluate, register
from torchbce.definition import checks, family
from torchbce.definition.reference import Constant

if TYPE_CHECKING:
    from torchbce.linear.loss import linear_binary_cross_entropy
    from torchbce.linear.pairwise import pairwise_sigmoid_loss

__all__ = [
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_log_probs",
    "binary_cross_entropy_with_logits",
    "linear_binary_cross_entropy",
    "pairwise_sigmoid_loss",
    "poly_binary_cross_entropy",
    "sigmoid_focal_loss",
]

_LOG_PROBS = family.loss("binary_cross_entropy_with_log_probs")

#: Of `torchbce.linear`, which is imported with their first use.
_LAZY = ("linear_binary_cross_entropy", "pairwise_sigmoid_loss")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torchbce import linear

    return getattr(linear, name)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | float | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
) -> Tensor:
    r"""Binary cross-entropy of logits, accurate in both tails.

    .. math::
        \ell = w \, [\, p \, y \, (-\log \sigma(z)) + (1 - y) (-\log \sigma(-z)) \,],
        \qquad \sigma(z) = 1 / (1 + e^{-z})

    It is computed as a sum of non-negative terms, so that nothing cancels: the loss of a negative
    at z = -40 is 4.2e-18 and not 0. At infinite logits the loss is 0 for the right answer and inf
    for the wrong one. 0 * inf is 0, also in the derivatives with respect to target and weight.

    Args:
        input: logits z (log-odds, in nats), any shape, any floating dtype.
        target: targets y in [0, 1] of any float, bool or integer dtype, of input's shape or of one
            that differs from it only by trailing dimensions of size 1, such as (N, 1) and (N,). Or
            a sparse COO or CSR tensor of input's shape, whose missing entries are 0 and which is
            never made dense (not under torch.compile, which cannot trace sparse tensors).
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
        mask: bool, of input's shape or broadcasting to it; elements where it is false are ignored.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.

    Returns:
        The loss in nats. For "none" it has input's shape and dtype, and is 0 for ignored elements.
        Otherwise it is 0-dimensional, float64 for float64 input and float32 for any other. A mean
        over no elements is 0 with zero gradients, and warns where the host knows it: on the CPU, or
        for an empty input.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

    Example:
        >>> import torch
        >>> from torchbce.functional import binary_cross_entropy_with_logits
        >>> logits = torch.tensor([5.0, -2.0, 0.5], dtype=torch.float64)
        >>> round(binary_cross_entropy_with_logits(logits, torch.tensor([1, 0, 1])).item(), 15)
        0.202573447904066
        >>> five = torch.tensor([[5.0]], dtype=torch.float64)  # (1, 1) with (1,): trailing ones
        >>> round(binary_cross_entropy_with_logits(five, torch.tensor([True])).item(), 15)
        0.006715348489118

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy_with_logits.html
    """
    if size_average is not None or reduce is not None:
        reduction = _pytorch.reduction_name(size_average, reduce, reduction)
    return evaluate(
        family.CROSS_ENTROPY,
        input,
        target,
        weight,
        pos_weight,
        label_smoothing,
        ignore_index,
        mask,
        reduction,
        check_targets,
    )


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    eps: float | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
) -> Tensor:
    r"""Binary cross-entropy of probabilities. No sigmoid is applied to them.

    .. math::
        \ell = -w \, [\, p \, y \log q + (1 - y) \log(1 - q) \,]

    Each logarithm is floored at -100, as in PyTorch, so that the loss of an element is at most
    100 w. With `eps`, q is clamped to [eps, 1 - eps] instead. Where the floor or the clamp applies,
    the loss is constant and its gradient 0; elsewhere the gradient is exact (1 at q = y = 0), but
    for that of a positive with 1 / q too large for its dtype, q below 2.9e-39 in float32, which
    is 0. If you have logits, use `binary_cross_entropy_with_logits`: it stays accurate where a
    probability rounds to 1. This function is safe under autocast, since it computes in float32 at
    least.

    Args:
        input: probabilities q in [0, 1], any shape, any floating dtype.
        target: targets y in [0, 1] of any float, bool or integer dtype, of input's shape or of one
            that differs from it only by trailing dimensions of size 1, such as (N, 1) and (N,). Or
            a sparse COO or CSR tensor of input's shape, whose missing entries are 0 and which is
            never made dense (not under torch.compile, which cannot trace sparse tensors).
        weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
            number must be finite and not negative; the values of a tensor are not checked.
        size_average: deprecated as in PyTorch, see `reduction`.
        reduce: deprecated as in PyTorch, see `reduction`.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.
        eps: the clamp, in (0, 0.5). It is exact in every dtype: 1 - eps is never rounded.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
            shape, for instance (C,) for an input of shape (N, C).
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
            gradient, whatever their input, and a mean does not count them.
        mask: bool, of input's shape or broadcasting to it; elements where it is false are ignored.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.

    Returns:
        The loss in nats. For "none" it has input's shape and dtype, and is 0 for ignored elements.
        Otherwise it is 0-dimensional, float64 for float64 input and float32 for any other. A mean
        over no elements is 0 with zero gradients, and warns where the host knows it: on the CPU, or
        for an empty input.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).
            Likewise for a probability outside [0, 1] or NaN.

    Example:
        >>> import torch
        >>> from torchbce.functional import binary_cross_entropy
        >>> p = torch.tensor([0.8, 0.2, 0.95, 0.05])
        >>> round(binary_cross_entropy(p, torch.tensor([1, 0, 1, 0])).item(), 4)
        0.1372
        >>> certain = torch.tensor([1.0])
        >>> binary_cross_entropy(certain, torch.tensor([0])).item()
        100.0
        >>> round(binary_cross_entropy(certain, torch.tensor([0]), eps=1e-7).item(), 4)
        16.1181

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy.html
    """
    eps = checks.eps(eps)
    if size_average is not None or reduce is not None:
        reduction = _pytorch.reduction_name(size_average, reduce, reduction)
    return evaluate(
        family.loss("binary_cross_entropy", eps),
        input,
        target,
        weight,
        pos_weight,
        label_smoothing,
        ignore_index,
        mask,
        reduction,
        check_targets,
    )


def binary_cross_entropy_with_log_probs(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross-entropy of log-probabilities.

    .. math::
        \ell = -w \, [\, p \, y \, x + (1 - y) \log(1 - e^x) \,]

    The second logarithm is computed as :math:`\log(-\mathrm{expm1}(x))` above :math:`-\log 2` and
    as :math:`\mathrm{log1p}(-e^x)` below, so that nothing cancels.

    Args:
        input: log-probabilities x of the positive class, at most 0, any shape, any floating dtype.
        target: targets y in [0, 1] of any float, bool or integer dtype, of input's shape or of one
            that differs from it only by trailing dimensions of size 1, such as (N, 1) and (N,). Or
            a sparse COO or CSR tensor of input's shape, whose missing entries are 0 and which is
            never made dense (not under torch.compile, which cannot trace sparse tensors).
        weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
            number must be finite and not negative; the values of a tensor are not checked.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
            shape, for instance (C,) for an input of shape (N, C).
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
            gradient, whatever their input, and a mean does not count them.
        mask: bool, of input's shape or broadcasting to it; elements where it is false are ignored.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.

    Returns:
        The loss in nats. For "none" it has input's shape and dtype, and is 0 for ignored elements.
        Otherwise it is 0-dimensional, float64 for float64 input and float32 for any other. A mean
        over no elements is 0 with zero gradients, and warns where the host knows it: on the CPU, or
        for an empty input.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).
            Likewise for a log-probability above 0 or NaN.

    Example:
        >>> import torch
        >>> from torchbce.functional import binary_cross_entropy_with_log_probs
        >>> log_p = torch.log(torch.tensor([0.8, 0.2, 0.95, 0.05]))
        >>> round(binary_cross_entropy_with_log_probs(log_p, torch.tensor([1, 0, 1, 0])).item(), 4)
        0.1372
        >>> rare = torch.tensor([-200.0], dtype=torch.float64)  # p = 1e-87
        >>> f"{binary_cross_entropy_with_log_probs(rare, torch.tensor([0])).item():.4e}"
        '1.3839e-87'

    References:
        Mächler, Accurately Computing log(1 - exp(-|a|)), 2012.
    """
    return evaluate(
        _LOG_PROBS,
        input,
        target,
        weight,
        pos_weight,
        label_smoothing,
        ignore_index,
        mask,
        reduction,
        check_targets,
    )


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: Constant | None = None,
    gamma: Constant = 2.0,
    soft_targets: str = "linear",
    detach_focusing: bool = False,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Focal loss: binary cross-entropy with a smaller weight for easy examples.

    .. math::
        \ell = w \, [\, p \, \alpha \, y \, \sigma(-z)^\gamma (-\log \sigma(z))
             + (1 - \alpha) (1 - y) \, \sigma(z)^\gamma (-\log \sigma(-z)) \,]

    With `gamma` 0 and `alpha` None it is binary cross-entropy. Its derivatives are finite at every
    finite logit, for every `gamma`. This is linear in a soft target, so that it is the expected
    loss of a label that is positive with probability y. `soft_targets="p_t"` is the form of
    torchvision, keras and optax, with the probability of the target as p_t:

    .. math::
        \ell = w \, [\alpha y + (1 - \alpha) (1 - y)] \, (1 - p_t)^\gamma
             [\, p \, y (-\log \sigma(z)) + (1 - y) (-\log \sigma(-z)) \,],
        \qquad p_t = y \, \sigma(z) + (1 - y) \, \sigma(-z)

    Args:
        input: logits z, any shape, any floating dtype.
        target: targets y in [0, 1] of any float, bool or integer dtype, of input's shape or of one
            that differs from it only by trailing dimensions of size 1, such as (N, 1) and (N,). Or
            a sparse COO or CSR tensor of input's shape, whose missing entries are 0 and which is
            never made dense (not under torch.compile, which cannot trace sparse tensors).
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
        mask: bool, of input's shape or broadcasting to it; elements where it is false are ignored.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.

    Returns:
        The loss in nats. For "none" it has input's shape and dtype, and is 0 for ignored elements.
        Otherwise it is 0-dimensional, float64 for float64 input and float32 for any other. A mean
        over no elements is 0 with zero gradients, and warns where the host knows it: on the CPU, or
        for an empty input.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

    Example:
        >>> import torch
        >>> from torchbce.functional import sigmoid_focal_loss
        >>> logits, targets = torch.tensor([2.0, -1.0]), torch.tensor([1, 1])
        >>> sigmoid_focal_loss(logits, targets, reduction="none")
        tensor([0.0018, 0.7019])
        >>> sigmoid_focal_loss(logits, targets, gamma=torch.tensor([0.0, 2.0]), reduction="none")
        tensor([0.1269, 0.7019])
        >>> logit, soft = torch.tensor([1.5]), torch.tensor([0.3])
        >>> [
        ...     round(sigmoid_focal_loss(logit, soft, soft_targets=form).item(), 5)
        ...     for form in ("linear", "p_t")
        ... ]
        [0.7981, 0.49201]

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """
    loss = family.loss(
        "sigmoid_focal_loss",
        checks.alpha(alpha),
        checks.exponent("gamma", gamma),
        soft_targets=soft_targets,
        detach_focusing=detach_focusing,
    )
    return evaluate(
        loss,
        input,
        target,
        weight,
        pos_weight,
        label_smoothing,
        ignore_index,
        mask,
        reduction,
        check_targets,
    )


def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma_pos: Constant = 1.0,
    gamma_neg: Constant = 4.0,
    margin: Constant = 0.05,
    soft_targets: str = "linear",
    detach_focusing: bool = False,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Asymmetric loss: easy negatives have a smaller weight than easy positives, or none at all.

    .. math::
        \ell = w \, [\, p \, y \, \sigma(-z)^{\gamma_+} (-\log \sigma(z))
             + (1 - y) \, q^{\gamma_-} (-\log(1 - q)) \,],
        \qquad q = \max(\sigma(z) - m, 0)

    The gradient is that of the whole formula, including the focusing factors, unless
    `detach_focusing`. This is linear in a soft target; `soft_targets="p_t"` is the form of timm and
    of the authors, in which the cross-entropy with q is multiplied by one factor:

    .. math::
        [\, y \, \sigma(-z) + (1 - y) \, q \,]^{y \gamma_+ + (1 - y) \gamma_-}

    Args:
        input: logits z, any shape, any floating dtype.
        target: targets y in [0, 1] of any float, bool or integer dtype, of input's shape or of one
            that differs from it only by trailing dimensions of size 1, such as (N, 1) and (N,). Or
            a sparse COO or CSR tensor of input's shape, whose missing entries are 0 and which is
            never made dense (not under torch.compile, which cannot trace sparse tensors).
        gamma_pos: focusing exponent of positives, at least 0; a number, or a tensor that broadcasts
            to input's shape, for instance (C,) for an input of shape (N, C).
        gamma_neg: focusing exponent of negatives, likewise.
        margin: m in [0, 1), subtracted from the probability of negatives; a number, or a tensor
            that broadcasts to input's shape.
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
        mask: bool, of input's shape or broadcasting to it; elements where it is false are ignored.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.

    Returns:
        The loss in nats. For "none" it has input's shape and dtype, and is 0 for ignored elements.
        Otherwise it is 0-dimensional, float64 for float64 input and float32 for any other. A mean
        over no elements is 0 with zero gradients, and warns where the host knows it: on the CPU, or
        for an empty input.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

    Example:
        >>> import torch
        >>> from torchbce.functional import asymmetric_loss
        >>> logits, targets = torch.tensor([2.0, 2.0, -4.0]), torch.tensor([1, 0, 0])
        >>> asymmetric_loss(logits, targets, reduction="none")
        tensor([0.0151, 0.8464, 0.0000])

    References:
        Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021.
    """
    loss = family.loss(
        "asymmetric_loss",
        checks.exponent("gamma_pos", gamma_pos),
        checks.exponent("gamma_neg", gamma_neg),
        checks.margin(margin),
        soft_targets=soft_targets,
        detach_focusing=detach_focusing,
    )
    return evaluate(
        loss,
        input,
        target,
        weight,
        pos_weight,
        label_smoothing,
        ignore_index,
        mask,
        reduction,
        check_targets,
    )


def poly_binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    epsilon: Constant = 1.0,
    gamma: Constant = 0.0,
    alpha: Constant | None = None,
    soft_targets: str = "linear",
    detach_focusing: bool = False,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Poly-1 loss: cross-entropy with another coefficient of the first term of its series.

    .. math::
        \ell = \mathrm{focal}_{\alpha, \gamma}(z, y)
             + w \, \epsilon \, [\, p \, \alpha \, y \, \sigma(-z)^{\gamma + 1}
             + (1 - \alpha) (1 - y) \, \sigma(z)^{\gamma + 1} \,]

    The series is that of -log p in 1 - p. With `epsilon` 0 this is the focal loss, and with
    `gamma` 0 as well it is binary cross-entropy. This is linear in a soft target;
    `soft_targets="p_t"` is the form of timm, focused as in `sigmoid_focal_loss`.

    Args:
        input: logits z, any shape, any floating dtype.
        target: targets y in [0, 1] of any float, bool or integer dtype, of input's shape or of one
            that differs from it only by trailing dimensions of size 1, such as (N, 1) and (N,). Or
            a sparse COO or CSR tensor of input's shape, whose missing entries are 0 and which is
            never made dense (not under torch.compile, which cannot trace sparse tensors).
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
        mask: bool, of input's shape or broadcasting to it; elements where it is false are ignored.
        check_targets: whether targets (and probabilities) outside their range raise. None: on the
            CPU, where the check is part of the pass, and not on a GPU, where the host would have to
            wait for the values. True: everywhere, with an error where they cannot be read. False:
            nowhere; on the CPU, losses of probabilities are then computed by the reference backend.
        reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
            weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
            over all dimensions but the first, averaged over the first, not counting entries of
            which every element is ignored.

    Returns:
        The loss in nats. For "none" it has input's shape and dtype, and is 0 for ignored elements.
        Otherwise it is 0-dimensional, float64 for float64 input and float32 for any other. A mean
        over no elements is 0 with zero gradients, and warns where the host knows it: on the CPU, or
        for an empty input.

    Raises:
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, an option is out of its range, or a target is outside
            [0, 1] (the message names its value and index; see `check_targets`).

    Example:
        >>> import torch
        >>> from torchbce.functional import poly_binary_cross_entropy
        >>> logits, targets = torch.tensor([2.0, -1.0]), torch.tensor([1, 1])
        >>> poly_binary_cross_entropy(logits, targets, reduction="none")
        tensor([0.2461, 2.0443])

    References:
        Leng et al., PolyLoss: A Polynomial Expansion Perspective of Classification Loss
        Functions, ICLR 2022.
    """
    loss = family.loss(
        "poly_binary_cross_entropy",
        checks.epsilon(epsilon),
        checks.exponent("gamma", gamma),
        checks.alpha(alpha),
        soft_targets=soft_targets,
        detach_focusing=detach_focusing,
    )
    return evaluate(
        loss,
        input,
        target,
        weight,
        pos_weight,
        label_smoothing,
        ignore_index,
        mask,
        reduction,
        check_targets,
    )


register({name: globals()[name] for name in family.FAMILY})
