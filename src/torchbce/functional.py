"""The losses as functions: the formula, the options, and one call."""

from torch import Tensor
from torch.nn import _reduction as _torch_reduction

from torchbce._contract import Loss, Options, documented, evaluate
from torchbce.definition import checks, reference

__all__ = [
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_log_probs",
    "binary_cross_entropy_with_logits",
    "poly_binary_cross_entropy",
    "sigmoid_focal_loss",
]

_LOGITS = Loss(reference.logits_parts)
_LOG_PROBS = Loss(reference.log_probability_parts, domain="log_probs")


@documented
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

    computed as a sum of non-negative terms, so that nothing cancels: the loss of a negative at
    z = -40 is 4.2e-18 and not 0. A right answer of infinite confidence costs 0, a wrong one inf;
    0 * inf is 0, in the derivatives by target and weight too.

    Args:
        input: logits z (log-odds, in nats), any shape, any floating dtype.
        <target>
        <weight>
        size_average: deprecated, as in PyTorch: use `reduction`.
        reduce: deprecated, as in PyTorch: use `reduction`.
        <reduction>
        <pos_weight>
        <ignoring>
        <mask>
        <check_targets>

    Returns:
        <returns>

    Raises:
        <raises>

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
    reduction = _reduction_name(size_average, reduce, reduction)
    options = Options(
        weight, pos_weight, label_smoothing, ignore_index, mask, reduction, check_targets
    )
    return evaluate(_LOGITS, input, target, options)


@documented
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
    r"""Binary cross-entropy of probabilities, which it takes as they are: it applies no sigmoid.

    .. math::
        \ell = -w \, [\, p \, y \log q + (1 - y) \log(1 - q) \,]

    Each logarithm is at least -100, as in PyTorch, so that no element costs more than 100 w; with
    `eps`, q is clamped into [eps, 1 - eps] instead. Where the floor or the clamp holds, the loss
    is flat and its gradient 0; elsewhere the gradient is exact, 1 at q = y = 0 included. Where
    there are logits, `binary_cross_entropy_with_logits` is accurate beyond the point at which a
    probability rounds to 1. Safe under autocast: it computes in float32 at least.

    Args:
        input: probabilities q in [0, 1], any shape, any floating dtype.
        <target>
        <weight>
        size_average: deprecated, as in PyTorch: use `reduction`.
        reduce: deprecated, as in PyTorch: use `reduction`.
        <reduction>
        eps: the clamp, in (0, 0.5), exact in every dtype: 1 - eps is never rounded.
        <pos_weight>
        <ignoring>
        <mask>
        <check_targets>

    Returns:
        <returns>

    Raises:
        <raises>
            Likewise if a probability on the CPU lies outside [0, 1]; NaN is told apart.

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
    checks.eps(eps)
    reduction = _reduction_name(size_average, reduce, reduction)
    options = Options(
        weight, pos_weight, label_smoothing, ignore_index, mask, reduction, check_targets
    )
    return evaluate(
        Loss(reference.probability_parts, (eps,), "probabilities"), input, target, options
    )


@documented
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

    with the second logarithm as :math:`\log(-\mathrm{expm1}(x))` above :math:`-\log 2` and
    :math:`\mathrm{log1p}(-e^x)` below, where neither cancels.

    Args:
        input: log-probabilities x of the positive class, at most 0, any shape, any floating dtype.
        <target>
        <weight>
        <pos_weight>
        <ignoring>
        <mask>
        <check_targets>
        <reduction>

    Returns:
        <returns>

    Raises:
        <raises>
            Likewise if a log-probability on the CPU is above 0 or NaN.

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
    options = Options(
        weight, pos_weight, label_smoothing, ignore_index, mask, reduction, check_targets
    )
    return evaluate(_LOG_PROBS, input, target, options)


@documented
def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float | None = None,
    gamma: float = 2.0,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The focal loss: binary cross-entropy with easy examples weighed down.

    .. math::
        \ell = w \, [\, p \, \alpha \, y \, \sigma(-z)^\gamma (-\log \sigma(z))
             + (1 - \alpha) (1 - y) \, \sigma(z)^\gamma (-\log \sigma(-z)) \,]

    With `gamma` 0 and no `alpha` it is binary cross-entropy. It is linear in a soft target. Its
    derivatives are finite at every finite logit, for every gamma.

    Args:
        input: logits z, any shape, any floating dtype.
        <target>
        alpha: in [0, 1], the weight of positives against 1 - alpha of negatives; None weighs
            neither.
        gamma: the focusing exponent, 0 or above.
        <weight>
        <pos_weight>
        <ignoring>
        <mask>
        <check_targets>
        <reduction>

    Returns:
        <returns>

    Raises:
        <raises>

    Example:
        >>> import torch
        >>> from torchbce.functional import sigmoid_focal_loss
        >>> logits, targets = torch.tensor([2.0, -1.0]), torch.tensor([1, 1])
        >>> sigmoid_focal_loss(logits, targets, reduction="none")
        tensor([0.0018, 0.7019])

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """
    checks.alpha(alpha)
    checks.exponent("gamma", gamma)
    options = Options(
        weight, pos_weight, label_smoothing, ignore_index, mask, reduction, check_targets
    )
    return evaluate(Loss(reference.focal_parts, (alpha, gamma)), input, target, options)


@documented
def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    margin: float = 0.05,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The asymmetric loss: easy negatives weighed down more than positives, the easiest to 0.

    .. math::
        \ell = w \, [\, p \, y \, \sigma(-z)^{\gamma_+} (-\log \sigma(z))
             + (1 - y) \, q^{\gamma_-} (-\log(1 - q)) \,],
        \qquad q = \max(\sigma(z) - m, 0)

    The gradient is that of the formula, through the focusing factors too.

    Args:
        input: logits z, any shape, any floating dtype.
        <target>
        gamma_pos: the focusing exponent of positives, 0 or above.
        gamma_neg: the focusing exponent of negatives, 0 or above.
        margin: m in [0, 1), taken off the probability of negatives; 0 takes nothing off.
        <weight>
        <pos_weight>
        <ignoring>
        <mask>
        <check_targets>
        <reduction>

    Returns:
        <returns>

    Raises:
        <raises>

    Example:
        >>> import torch
        >>> from torchbce.functional import asymmetric_loss
        >>> logits, targets = torch.tensor([2.0, 2.0, -4.0]), torch.tensor([1, 0, 0])
        >>> asymmetric_loss(logits, targets, reduction="none")
        tensor([0.0151, 0.8464, 0.0000])

    References:
        Ridnik et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021.
    """
    checks.exponent("gamma_pos", gamma_pos)
    checks.exponent("gamma_neg", gamma_neg)
    checks.margin(margin)
    options = Options(
        weight, pos_weight, label_smoothing, ignore_index, mask, reduction, check_targets
    )
    own = (gamma_pos, gamma_neg, margin)
    return evaluate(Loss(reference.asymmetric_parts, own), input, target, options)


@documented
def poly_binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    epsilon: float = 1.0,
    gamma: float = 0.0,
    alpha: float | None = None,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    ignore_index: float | None = None,
    mask: Tensor | None = None,
    check_targets: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The Poly-1 loss: the first term of cross-entropy's series in 1 - p weighed anew.

    .. math::
        \ell = \mathrm{focal}_{\alpha, \gamma}(z, y)
             + w \, \epsilon \, [\, p \, \alpha \, y \, \sigma(-z)^{\gamma + 1}
             + (1 - \alpha) (1 - y) \, \sigma(z)^{\gamma + 1} \,]

    With `epsilon` 0 it is the focal loss, with `gamma` 0 as well binary cross-entropy.

    Args:
        input: logits z, any shape, any floating dtype.
        <target>
        epsilon: what is added to the coefficient of the first term, -1 or above.
        gamma: the focusing exponent, 0 or above.
        alpha: in [0, 1], the weight of positives against 1 - alpha of negatives; None weighs
            neither.
        <weight>
        <pos_weight>
        <ignoring>
        <mask>
        <check_targets>
        <reduction>

    Returns:
        <returns>

    Raises:
        <raises>

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
    checks.alpha(alpha)
    checks.exponent("gamma", gamma)
    checks.epsilon(epsilon)
    options = Options(
        weight, pos_weight, label_smoothing, ignore_index, mask, reduction, check_targets
    )
    return evaluate(Loss(reference.poly_parts, (epsilon, gamma, alpha)), input, target, options)


def _reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is not None or reduce is not None:
        return _torch_reduction.legacy_get_string(size_average, reduce)
    return reduction
