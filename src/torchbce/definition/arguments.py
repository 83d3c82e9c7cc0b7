"""A call of a loss: its options, and its tensors aligned to the input's shape, described once."""

from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.definition import checks, reference
from torchbce.definition.family import Domain
from torchbce.definition.reductions import valid_mask

STRIDED = torch.strided

#: Targets of these dtypes are checked as they are, so that an error says 255 and not 255.0.
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Options(NamedTuple):
    """The options that every loss takes, as `torchbce.functional` describes them."""

    weight: Tensor | float | None = None
    pos_weight: Tensor | float | None = None
    label_smoothing: float = 0.0
    ignore_index: float | None = None
    mask: Tensor | None = None
    reduction: str = "mean"
    check_targets: bool | None = None


class SparseEntries(NamedTuple):
    """The stored entries of a sparse target.

    Attributes:
        indices: [dimensions, stored], int64.
        values: [stored], in the target's own dtype.
    """

    indices: Tensor
    values: Tensor

    @property
    def places(self) -> tuple[Tensor, ...]:
        """The index, as it indexes a dense tensor."""
        return self.indices.unbind()

    def positions(self, shape: torch.Size) -> Tensor:
        """The positions of the entries in the flattened tensor, [stored], in the same order."""
        position = torch.zeros(self.indices.shape[1], dtype=torch.int64, device=self.indices.device)
        for places, size in zip(self.indices, shape, strict=True):
            position.mul_(size).add_(places)
        return position


class Arguments(NamedTuple):
    """The tensors of one call.

    Attributes:
        input: of any shape.
        target: of the input's shape, dense or sparse.
        weight: broadcasts to the input's shape.
        pos_weight: broadcasts to the input's shape.
        mask: bool, of the input's shape, false where an element is ignored.
        entries: of a sparse target.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    mask: Tensor | None = None
    entries: SparseEntries | None = None


def align(input: Tensor, target: Tensor, options: Options) -> Arguments:
    """The tensors of a call in the input's shape; raises where a shape or dtype does not fit."""
    weight, pos_weight, mask = options.weight, options.pos_weight, options.mask
    if weight is not None:
        weight = checks.align_weight("weight", weight, input)
    if pos_weight is not None:
        pos_weight = checks.align_weight("pos_weight", pos_weight, input)
    if mask is not None:
        mask = checks.align_mask(mask, input)
    if target.layout is STRIDED:
        target = checks.align_target(input, target)
    return aligned(input, target, weight, pos_weight, mask)


def aligned(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Arguments:
    """The arguments, of tensors that are aligned already."""
    entries = None
    if target.layout is not STRIDED:
        entries = SparseEntries(*checks.sparse_entries(target, input))
    return Arguments(input, target, weight, pos_weight, mask, entries)


class Valid(NamedTuple):
    """Which elements are valid, that is not ignored; None where none can be ignored.

    Attributes:
        elements: bool, of the input's shape.
        entries: bool, [stored], for a sparse target.
    """

    elements: Tensor | None = None
    entries: Tensor | None = None


def find_valid(arguments: Arguments, ignore_index: float | None) -> Valid:
    """Which elements a mask and `ignore_index` leave."""
    input, target, _, _, mask, entries = arguments
    if mask is None and ignore_index is None:
        return Valid()
    dtype = reference.compute_dtype(input.dtype)
    if entries is None:
        return Valid(valid_mask(target, target.to(dtype), mask, ignore_index))
    at, values = entries.places, entries.values
    stored = valid_mask(values, values.to(dtype), None if mask is None else mask[at], ignore_index)
    if ignore_index is None:
        return Valid(mask, stored)
    zero = torch.zeros((), dtype=dtype, device=input.device)
    valid = valid_mask(zero, zero, mask, ignore_index)
    assert valid is not None  # there is an ignore_index
    assert stored is not None
    return Valid(valid.expand(input.shape).index_put(at, stored), stored)


def check_ranges(domain: Domain, arguments: Arguments, valid: Valid, check: bool | None) -> None:
    """Raise if a valid target or input is outside its range, see `checks.value_range`."""
    input, target, _, _, _, entries = arguments
    values, index = (target, None) if entries is None else (entries.values, entries.indices)
    if entries is not None or target.dtype not in INTEGERS:
        values = values.to(reference.compute_dtype(input.dtype))
    kept = valid.elements if entries is None else valid.entries
    checks.value_range("target", values, kept, index, check)
    checks.value_range(domain.name, input, valid.elements, check=check)
