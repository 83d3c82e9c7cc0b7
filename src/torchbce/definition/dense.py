"""A loss with its options in plain PyTorch: differentiable any number of times, on any device."""

from typing import Any

import torch
from torch import Tensor

from torchbce.definition import checks, kinds
from torchbce.definition.arguments import (
    Arguments,
    Options,
    check_ranges,
    convert,
    find_valid,
)
from torchbce.definition.family import Loss
from torchbce.definition.reductions import (
    count,
    reduce,
    sum_of_weights,
    warn_of_empty_mean,
    warn_of_no_weight,
)


def dense_loss(loss: Loss, arguments: Arguments, options: Options) -> Tensor:
    """The loss of tensors that are already aligned. A sparse target is not made dense.

    The tensors are taken from `arguments`, everything else from `options`.
    """
    input, _, weight, pos_weight, _, entries = arguments
    reduction, smoothing = options.reduction, options.label_smoothing
    constants = loss.constants
    x, y = values = convert(arguments)
    valid, kept = which = find_valid(arguments, values, options.ignore_index)
    check_ranges(loss.domain, arguments, values, which, options.check_targets)
    if valid is not None:
        # Replaced before anything is computed, so that a NaN reaches neither sum nor gradient.
        x = torch.where(valid, x, loss.domain.neutral)
        weight, pos_weight = (_where_valid(w, valid, y.dtype) for w in (weight, pos_weight))
        constants = tuple(_where_valid(c, valid, y.dtype) for c in constants)
    if entries is None:
        if valid is not None:
            y = torch.where(valid, y, 0.5)
        losses = loss.elements(x, _smooth(y, smoothing), weight, pos_weight, constants)
    else:
        # Compute every element as a negative, then replace those of the stored entries.
        if kept is not None:
            y = torch.where(kept, y, 0.5)
        zero = torch.zeros((), dtype=y.dtype, device=input.device)
        negatives = loss.elements(x, _smooth(zero, smoothing), weight, pos_weight, constants)
        index = entries.places
        w, p, *own = (
            t.expand(input.shape)[index] if isinstance(t, Tensor) else t
            for t in (weight, pos_weight, *constants)
        )
        stored = loss.elements(x[index], _smooth(y, smoothing), w, p, tuple(own))
        losses = negatives.index_put(index, stored)
    if valid is not None:
        losses = torch.where(valid, losses, 0.0)
    weights = None
    if reduction == "weighted_mean" and weight is not None:
        weights = sum_of_weights(losses, weight, valid)
    if "mean" in reduction and _is_empty(losses, valid):
        warn_of_empty_mean(reduction)
    elif weights is not None and _is_zero(weights):
        warn_of_no_weight()
    return reduce(losses, reduction, input.dtype, weights, valid)


def _smooth(y: Tensor, smoothing: float) -> Tensor:
    return y * (1 - smoothing) + smoothing / 2 if smoothing else y


def _where_valid(value: Any, valid: Tensor, dtype: torch.dtype) -> Any:
    """A tensor, replaced by 1 in ignored elements, whose NaN would reach the gradient.

    It is broadcast in the dtype of computation, in which its gradient is then summed.
    """
    return torch.where(valid, value.to(dtype), 1.0) if isinstance(value, Tensor) else value


def _is_empty(loss: Tensor, valid: Tensor | None) -> bool:
    """Whether no element is valid, as far as the host knows."""
    if torch.compiler.is_compiling():
        return False
    if loss.numel() == 0:
        return True
    values = None if valid is None else checks.readable(valid)
    if valid is None or values is None:
        return False
    if kinds.is_distributed(valid):
        # The shard of this process tells nothing about the others: a sum over all processes, as the
        # denominator is.
        counted: Any = count(valid)
        values = counted.full_tensor()
    return not bool(values.any())


def _is_zero(weights: Tensor) -> bool:
    """Whether a sum of weights is 0, as far as the host knows; of a DTensor it does not."""
    if torch.compiler.is_compiling() or kinds.is_distributed(weights):
        return False
    values = checks.readable(weights)
    return values is not None and bool((values == 0).any())
