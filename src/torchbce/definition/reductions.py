"""The valid mask, the denominator of a mean, and the reductions.

Means divide a sum by a global count, so that they stay right when tensors are sharded unevenly.
"""

import os
import sys
import warnings

import torch
from torch import Tensor

#: Directories whose lines a warning does not point at: this package's and PyTorch's.
_LIBRARIES = tuple(
    os.path.dirname(file) + os.sep for file in (os.path.dirname(__file__), torch.__file__)
)

REDUCTIONS = ("none", "mean", "sum", "weighted_mean", "batch_mean")

#: A number, or a tensor of one element where it is counted on the device.
Denominator = float | Tensor


def valid_mask(
    target: Tensor, y: Tensor, mask: Tensor | None, ignore_index: float | None
) -> Tensor | None:
    """Which elements are valid: false where one is ignored; None where none can be.

    Args:
        target: targets of any dtype.
        y: the targets in the dtype of computation.
        mask: false where an element is ignored.
        ignore_index: the target that is ignored. A floating target is compared in its own dtype,
            where 0.1 is rounded as the user's targets are; an integer one as `y`, since a uint8
            cannot be -100.
    """
    if ignore_index is None:
        return mask
    values = target if target.is_floating_point() else y
    valid = ~y.isnan() if ignore_index != ignore_index else values != ignore_index
    return valid if mask is None else valid & mask


def count(valid: Tensor) -> Tensor:
    """The number of valid elements."""
    return valid.sum()


def count_rows(valid: Tensor) -> Tensor:
    """The number of rows (first dimension) that have a valid element."""
    if valid.dim() > 1:
        # A sum and a comparison: of a mask sharded over labels, any() would count a row per shard.
        valid = valid.sum(dim=tuple(range(1, valid.dim()))) > 0
    return valid.sum()


def denominator(
    reduction: str,
    elements: float | Tensor,
    rows: float | Tensor,
    weights: float | Tensor | None = None,
) -> Denominator:
    """What a reduction divides the sum of the losses by; 1 where that would be 0.

    Args:
        reduction: its name.
        elements: the number of valid elements.
        rows: the number of rows that have one.
        weights: the sum of the weights of the valid elements; None without weights.
    """
    if reduction in ("none", "sum"):
        return 1.0
    if reduction == "batch_mean":
        divisor = rows
    elif reduction == "weighted_mean" and weights is not None:
        divisor = weights
    else:
        divisor = elements
    if isinstance(divisor, Tensor):
        return torch.where(divisor == 0, 1, divisor)
    return max(divisor, 1) if isinstance(divisor, int) else divisor or 1.0


def reduce(
    loss: Tensor,
    reduction: str,
    input_dtype: torch.dtype,
    weights: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Apply one of `REDUCTIONS` to element losses in the dtype of computation.

    Args:
        loss: element losses; those of ignored elements are 0.
        reduction: its name.
        input_dtype: the dtype of the result of "none".
        weights: the sum of the weights of the valid elements, by which "weighted_mean" divides.
        valid: bool, of the loss' shape, false where an element is ignored.

    A mean over no elements is 0, attached to the graph, so that an empty batch trains on instead of
    spreading NaN.
    """
    if reduction == "none":
        return loss.to(input_dtype)
    total = loss.sum()
    if reduction == "sum":
        return total
    if valid is None:
        rows: float | Tensor = loss.shape[0] if loss.dim() else 1
        return total / denominator(reduction, loss.numel(), rows, weights)
    by_rows = reduction == "batch_mean" and loss.dim() > 0
    rows = count_rows(valid) if by_rows else 1
    return total / denominator(reduction, count(valid), rows, weights)


def sum_of_weights(loss: Tensor, weight: Tensor, valid: Tensor | None) -> Tensor:
    """The sum of the weights, which broadcast to the loss, of the valid elements."""
    weights = weight.to(loss.dtype).expand(loss.shape)
    return (weights if valid is None else torch.where(valid, weights, 0.0)).sum()


def warn_of_no_weight() -> None:
    warn(
        "the 'weighted_mean' with weights whose sum is 0 is the sum of the losses, not divided: 0 "
        "if every weight is 0"
    )


def warn_of_empty_mean(reduction: str) -> None:
    warn(
        f"the {reduction!r} of a loss over no elements is 0: the input is empty, or every element "
        "is ignored"
    )


def warn(message: str) -> None:
    """Warn at the line that called the loss: the first outside this package and PyTorch."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
