"""A loss with its options in plain PyTorch: differentiable any number of times, on any device."""

import torch
from torch import Tensor

from torchbce.definition import checks, reference
from torchbce.definition.arguments import (
    Arguments,
    Options,
    check_ranges,
    convert,
    find_valid,
)
from torchbce.definition.family import Loss
from torchbce.definition.reductions import reduce, warn_of_empty_mean


def dense_loss(loss: Loss, arguments: Arguments, options: Options) -> Tensor:
    """The loss of tensors that are already aligned. A sparse target is not made dense.

    The tensors are taken from `arguments`, everything else from `options`.
    """
    input, _, weight, pos_weight, _, entries = arguments
    reduction, smoothing = options.reduction, options.label_smoothing
    x, y = values = convert(arguments)
    valid, kept = which = find_valid(arguments, values, options.ignore_index)
    check_ranges(loss.domain, arguments, values, which, options.check_targets)
    if valid is not None:
        # Replaced before anything is computed, so that a NaN reaches neither sum nor gradient.
        x = torch.where(valid, x, loss.domain.neutral)
        weight, pos_weight = (_where_valid(w, valid, y.dtype) for w in (weight, pos_weight))
    if entries is None:
        if valid is not None:
            y = torch.where(valid, y, 0.5)
        losses = _elements(loss, x, y, weight, pos_weight, smoothing)
    else:
        # Compute every element as a negative, then replace those of the stored entries.
        if kept is not None:
            y = torch.where(kept, y, 0.5)
        zero = torch.zeros((), dtype=y.dtype, device=input.device)
        negatives = _elements(loss, x, zero, weight, pos_weight, smoothing)
        index = entries.places
        w, p = (t if t is None else t.expand(input.shape)[index] for t in (weight, pos_weight))
        stored = _elements(loss, x[index], y, w, p, smoothing)
        losses = negatives.index_put(index, stored)
    if valid is not None:
        losses = torch.where(valid, losses, 0.0)
    if "mean" in reduction and _is_empty(losses, valid):
        warn_of_empty_mean(reduction)
    return reduce(losses, reduction, input.dtype, weight, valid)


def _elements(
    loss: Loss,
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    smoothing: float,
) -> Tensor:
    """The loss of each element."""
    if smoothing:
        y = y * (1 - smoothing) + smoothing / 2
    return reference.combine(*loss.positive_and_negative(x), y, weight, pos_weight)


def _where_valid(weight: Tensor | None, valid: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The weight, replaced by 1 in ignored elements, whose NaN would reach the gradient.

    It is broadcast in the dtype of computation, in which its gradient is then summed.
    """
    return None if weight is None else torch.where(valid, weight.to(dtype), 1.0)


def _is_empty(loss: Tensor, valid: Tensor | None) -> bool:
    """Whether no element is valid, as far as the host knows."""
    if torch.compiler.is_compiling():
        return False
    if loss.numel() == 0:
        return True
    values = None if valid is None else checks.readable(valid)
    return values is not None and not bool(values.any())
