"""Which elements count, and how many: all but those that a mask or a marker tells to ignore."""

from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.definition import checks, reference


def divisor(
    reduction: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    ignore_index: float | None,
) -> float | Tensor | None:
    """What a sum is divided by: a number, or one on the device where it must be counted first.

    None for what the pass over the elements itself counts: elements for "mean", weights for
    "weighted_mean".
    """
    ignores = mask is not None or ignore_index is not None
    if reduction in ("none", "sum"):
        return 1.0
    if reduction == "batch_mean":
        if input.dim() == 0:
            return 1.0
        if ignores:
            return rows(counting(input, target, mask, ignore_index))
        return float(max(input.shape[0], 1))
    if ignores or (reduction == "weighted_mean" and weight is not None):
        return None
    return float(input.numel() or 1)


def counting(
    input: Tensor, target: Tensor, mask: Tensor | None, ignore_index: float | None
) -> Tensor:
    """Which elements count, where some may be ignored: an extra pass, without arithmetic."""
    if target.layout is not torch.strided:
        valid = stored(input, target, mask, ignore_index).valid
    else:
        y = target if target.is_floating_point() else target.to(torch.float32)
        valid = which(target, y, mask, ignore_index)
    assert valid is not None  # for the type checker: something is ignored
    return valid


def rows(valid: Tensor) -> Tensor:
    """How many rows have an element that counts, at least 1."""
    found = valid.any(dim=tuple(range(1, valid.dim()))) if valid.dim() > 1 else valid
    return found.sum().clamp(min=1)


def which(
    target: Tensor, y: Tensor, mask: Tensor | None, ignore_index: float | None
) -> Tensor | None:
    """False where an element is ignored; None where none can be.

    A float is compared in the target's own dtype, where 0.1 is what the user wrote; an integer as
    a float, since -100 does not fit a uint8.
    """
    if ignore_index is None:
        return mask
    values = target if target.is_floating_point() else y
    kept = ~y.isnan() if ignore_index != ignore_index else values != ignore_index
    return kept if mask is None else kept & mask


class Stored(NamedTuple):
    """The stored elements of a sparse target: where and what; and which of all elements count."""

    at: tuple[Tensor, ...]
    y: Tensor
    valid: Tensor | None


def stored(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    ignore_index: float | None,
    check: bool | None = None,
) -> Stored:
    """What a sparse target stores, its range checked as `checks.value_range` does."""
    index, values = checks.sparse_elements(target, input)
    y = values.to(reference.compute_dtype(input.dtype))
    at = index.unbind()
    kept = which(values, y, None if mask is None else mask[at], ignore_index)
    checks.value_range("target", y, kept, index, check)
    if kept is None:
        return Stored(at, y, mask)
    zero = torch.zeros((), dtype=y.dtype, device=input.device)
    elsewhere = which(zero, zero, mask, ignore_index)
    assert elsewhere is not None  # for the type checker: something is ignored
    valid = elsewhere.expand(input.shape).index_put(at, kept)
    return Stored(at, torch.where(kept, y, 0.5), valid)
