"""For rare positives: weights, priors and biases from counts, and the correction of logits."""

import torch
from torch import Tensor

from torchbce.definition import checks, reference

__all__ = ["correct_logits", "pos_weight_from_counts", "prior_bias", "prior_from_counts"]


def pos_weight_from_counts(
    positives: Tensor | float, negatives: Tensor | float, *, smoothing: float = 0.0
) -> Tensor:
    """The `pos_weight` with which all positives together weigh as much as all negatives.

    `p = (negatives + s) / (positives + s)`

    Args:
        positives: the number of positives: a number, or a tensor with one per output.
        negatives: the number of negatives, of the same shape.
        smoothing: s, finite and not negative: how many positives and negatives are added to the
            counts of every output. With s > 0 an output without positives has a weight too.

    Returns:
        p, float64, of the counts' shape.

    Raises:
        ValueError: if a count of positives is 0 and `smoothing` too, or a count or `smoothing` is
            below 0 or not finite.

    Example:
        >>> import torch
        >>> pos_weight_from_counts(20, 80).item()
        4.0
        >>> pos_weight_from_counts(torch.tensor([20, 0]), torch.tensor([80, 100]), smoothing=1)
        tensor([  3.8571, 101.0000], dtype=torch.float64)

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html
    """
    positives, negatives = _counts(positives, negatives, smoothing)
    _check_positive("positives", positives)
    return negatives / positives


def prior_from_counts(
    positives: Tensor | float, negatives: Tensor | float, *, smoothing: float = 0.0
) -> Tensor:
    """The rate of positives, for the argument `prior` of `torchbce.LinearBCELoss`.

    `(positives + s) / (positives + negatives + 2 s)`

    Args:
        positives: the number of positives: a number, or a tensor with one per output.
        negatives: the number of negatives, of the same shape.
        smoothing: s, finite and not negative: how many positives and negatives are added to the
            counts of every output (Laplace's rule for 1, Jeffreys' for 0.5). With s > 0 the rate
            of an output without positives is above 0.

    Returns:
        The rate in (0, 1), float64, of the counts' shape.

    Raises:
        ValueError: if a count is 0 and `smoothing` too, or a count or `smoothing` is below 0 or not
            finite.

    Example:
        >>> import torch
        >>> prior_from_counts(torch.tensor([20, 0]), torch.tensor([78, 98]), smoothing=1)
        tensor([0.2100, 0.0100], dtype=torch.float64)

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4.1, for the prior.
    """
    positives, negatives = _counts(positives, negatives, smoothing)
    _check_positive("positives", positives)
    _check_positive("negatives", negatives)
    return positives / (positives + negatives)


def prior_bias(
    positives: Tensor | float,
    negatives: Tensor | float,
    pos_weight: Tensor | float = 1.0,
    *,
    smoothing: float = 0.0,
) -> Tensor:
    """The output bias with which an untrained network predicts the base rate.

    `b = log(p (positives + s) / (negatives + s))`: the constant logit that minimises the loss.

    Args:
        positives: the number of positives: a number, or a tensor with one per output.
        negatives: the number of negatives, of the same shape.
        pos_weight: p, the weight that the loss puts on positives.
        smoothing: s, finite and not negative: how many positives and negatives are added to the
            counts of every output.

    Returns:
        b in nats, float64, of the counts' shape.

    Raises:
        ValueError: if a count is 0 and `smoothing` too, a count or `smoothing` is below 0 or not
            finite, or a pos_weight is not above 0.

    Example:
        >>> round(prior_bias(1, 99).item(), 4)
        -4.5951

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4.1.
    """
    positives, negatives = _counts(positives, negatives, smoothing)
    _check_positive("positives", positives)
    _check_positive("negatives", negatives)
    p = torch.as_tensor(pos_weight, dtype=torch.float64)
    checks.every("every pos_weight must be above 0", p, p > 0)
    return torch.log(p * positives / negatives)


def correct_logits(logits: Tensor, pos_weight: Tensor | float) -> Tensor:
    """Logits without the effect of `pos_weight` on the network that was trained with it.

    `z - log p`: a network trained with the weight p of positives learns odds that are p times the
    true odds.

    Args:
        logits: logits z of a network trained with `pos_weight`, any shape, any floating dtype.
        pos_weight: p > 0, a number or a tensor that broadcasts to the logits' shape.

    Returns:
        The corrected logits, of the logits' shape and dtype.

    Raises:
        TypeError: if the logits are not floating.
        ValueError: if a pos_weight does not broadcast to the logits' shape or, on the CPU, is not
            above 0.

    Example:
        >>> import torch
        >>> torch.sigmoid(correct_logits(torch.tensor(0.0), pos_weight=4.0)).item()
        0.20000000298023224

    References:
        Elkan, The Foundations of Cost-Sensitive Learning, IJCAI 2001, theorem 2.
    """
    checks.input_dtype("logits", logits)
    p = checks.align_weight("pos_weight", pos_weight, logits)
    assert p is not None  # for the type checker: only None gives None
    if logits.device.type == "cpu":
        checks.every("every pos_weight must be above 0", p, p > 0)
    return logits - torch.log(p.to(reference.compute_dtype(logits.dtype))).to(logits.dtype)


def _counts(
    positives: Tensor | float, negatives: Tensor | float, smoothing: float
) -> tuple[Tensor, Tensor]:
    """The counts in float64, with `smoothing` added to each."""
    pair = (
        torch.as_tensor(positives, dtype=torch.float64),
        torch.as_tensor(negatives, dtype=torch.float64),
    )
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"positives has shape {tuple(pair[0].shape)} and negatives has shape "
            f"{tuple(pair[1].shape)}; they must be equal"
        )
    if not 0 <= smoothing < float("inf"):
        raise ValueError(f"smoothing must be finite and not negative, got {smoothing}")
    for name, counts in zip(("positives", "negatives"), pair, strict=True):
        fine = (counts >= 0) & counts.isfinite()
        checks.every(f"every count of {name} must be finite and not negative", counts, fine)
    return pair[0] + smoothing, pair[1] + smoothing


def _check_positive(name: str, counts: Tensor) -> None:
    remedy = "; smoothing=1 adds one positive and one negative to every count"
    checks.every(f"every count of {name} must be above 0", counts, counts > 0, remedy)
