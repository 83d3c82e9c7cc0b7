"""The arguments of a loss: its options, and its tensors aligned to the shape of the input."""

from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.definition import checks, reference, sparse
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
        """The index of each dimension, with which to index a dense tensor."""
        return self.indices.unbind()

    def positions(self, shape: torch.Size) -> Tensor:
        """The positions of the entries in the flattened tensor, [stored], in the same order."""
        return sparse.flattened(self.indices, shape)


class Arguments(NamedTuple):
    """The tensors of one call.

    Attributes:
        input: of any shape.
        target: of the input's shape, dense or sparse.
        weight: broadcasts to the input's shape.
        pos_weight: broadcasts to the input's shape.
        mask: bool, of the input's shape, false where an element is ignored.
        entries: the stored entries of a sparse target.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    mask: Tensor | None = None
    entries: SparseEntries | None = None


def align(input: Tensor, target: Tensor, options: Options) -> Arguments:
    """The tensors of a call in the input's shape; raises if a shape or dtype does not match."""
    weight, pos_weight, mask = options.weight, options.pos_weight, options.mask
    if weight is not None:
        weight = checks.align_weight("weight", weight, input)
    if pos_weight is not None:
        pos_weight = checks.align_weight("pos_weight", pos_weight, input)
    if mask is not None:
        mask = checks.align_mask(mask, input)
    if target.layout is STRIDED:
        target = checks.align_target(input, target)
    return aligned(input, target, weight, pos_weight, mask, options.check_targets)


def aligned(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    mask: Tensor | None = None,
    check: bool | None = None,
) -> Arguments:
    """The arguments from tensors that are already aligned.

    `check`: whether the indices of a sparse target are checked on every device.
    """
    entries = None
    if target.layout is not STRIDED:
        entries = SparseEntries(*sparse.sparse_entries(target, input, check))
    return Arguments(input, target, weight, pos_weight, mask, entries)


class Valid(NamedTuple):
    """Which elements are valid, that is not ignored; None where none can be ignored.

    Attributes:
        elements: bool, of the input's shape.
        entries: bool, [stored], for a sparse target.
    """

    elements: Tensor | None = None
    entries: Tensor | None = None


class Converted(NamedTuple):
    """The values of a call in the dtype of computation.

    Attributes:
        input: of the input's shape.
        target: of the input's shape; for a sparse target the values of its entries, [stored].
    """

    input: Tensor
    target: Tensor


def convert(arguments: Arguments) -> Converted:
    """The input and the target in the dtype of computation."""
    dtype = reference.compute_dtype(arguments.input.dtype)
    entries = arguments.entries
    target = arguments.target if entries is None else entries.values
    return Converted(arguments.input.to(dtype), target.to(dtype))


def find_valid(arguments: Arguments, values: Converted, ignore_index: float | None) -> Valid:
    """The elements that neither the mask nor `ignore_index` excludes."""
    input, target, _, _, mask, entries = arguments
    if mask is None and ignore_index is None:
        return Valid()
    if entries is None:
        return Valid(valid_mask(target, values.target, mask, ignore_index))
    at = entries.places
    mask_at = None if mask is None else mask[at]
    stored = valid_mask(entries.values, values.target, mask_at, ignore_index)
    if ignore_index is None:
        return Valid(mask, stored)
    zero = torch.zeros((), dtype=values.target.dtype, device=input.device)
    valid = valid_mask(zero, zero, mask, ignore_index)
    assert valid is not None  # there is an ignore_index
    assert stored is not None
    return Valid(valid.expand(input.shape).index_put(at, stored), stored)


def check_ranges(
    domain: Domain, arguments: Arguments, values: Converted, valid: Valid, check: bool | None
) -> None:
    """Raise if a valid target or input is outside its range, see `checks.value_range`."""
    target, entries = arguments.target, arguments.entries
    if entries is None:
        checked = target if target.dtype in INTEGERS else values.target
        checks.value_range("target", checked, valid.elements, check=check)
    else:
        checks.value_range("target", values.target, valid.entries, entries.indices, check)
    checks.value_range(domain.name, values.input, valid.elements, check=check)
