"""For rare positives: `pos_weight` from counts, the initial bias, and the correction of logits."""

import torch
from torch import Tensor

from torchbce.definition import checks, reference

__all__ = ["correct_logits", "pos_weight_from_counts", "prior_bias"]


def pos_weight_from_counts(positives: Tensor | float, negatives: Tensor | float) -> Tensor:
    """The `pos_weight` with which all positives together weigh as much as all negatives.

    `p = negatives / positives`

    Args:
        positives: the number of positives: a number, or a tensor with one per output.
        negatives: the number of negatives, of the same shape.

    Returns:
        p, float64, of the counts' shape.

    Raises:
        ValueError: if a count of positives is not above 0, or one of negatives below 0.

    Example:
        >>> pos_weight_from_counts(20, 80).item()
        4.0

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html
    """
    positives, negatives = _counts(positives, negatives)
    if not bool((positives > 0).all()):
        raise ValueError(f"every count of positives must be above 0, got {positives.tolist()}")
    return negatives / positives


def prior_bias(
    positives: Tensor | float, negatives: Tensor | float, pos_weight: Tensor | float = 1.0
) -> Tensor:
    """The output bias with which an untrained network predicts the base rate.

    `b = log(p positives / negatives)`: the constant logit that minimises the loss.

    Args:
        positives: the number of positives: a number, or a tensor with one per output.
        negatives: the number of negatives, of the same shape.
        pos_weight: p, the weight that the loss puts on positives.

    Returns:
        b in nats, float64, of the counts' shape.

    Raises:
        ValueError: if a count or a pos_weight is not above 0.

    Example:
        >>> round(prior_bias(1, 99).item(), 4)
        -4.5951

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4.1.
    """
    positives, negatives = _counts(positives, negatives)
    if not bool(((positives > 0) & (negatives > 0)).all()):
        raise ValueError(
            "every count must be above 0, got "
            f"positives {positives.tolist()} and negatives {negatives.tolist()}"
        )
    p = torch.as_tensor(pos_weight, dtype=torch.float64)
    if not bool((p > 0).all()):
        raise ValueError(f"every pos_weight must be above 0, got {p.tolist()}")
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
    if logits.device.type == "cpu" and not bool((p > 0).all()):
        raise ValueError(f"every pos_weight must be above 0, got {p.tolist()}")
    return logits - torch.log(p.to(reference.compute_dtype(logits.dtype))).to(logits.dtype)


def _counts(positives: Tensor | float, negatives: Tensor | float) -> tuple[Tensor, Tensor]:
    pair = (
        torch.as_tensor(positives, dtype=torch.float64),
        torch.as_tensor(negatives, dtype=torch.float64),
    )
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"positives has shape {tuple(pair[0].shape)} and negatives has shape "
            f"{tuple(pair[1].shape)}; they must be equal"
        )
    if not bool((pair[1] >= 0).all()):
        raise ValueError(f"no count of negatives may be below 0, got {pair[1].tolist()}")
    return pair
