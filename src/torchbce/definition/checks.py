"""Checks of the arguments of a loss. Each raises before anything is computed."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.definition import kinds, reference
from torchbce.definition.reductions import REDUCTIONS
from torchbce.definition.reference import Constant


def input_dtype(name: str, tensor: Tensor, target: object = None) -> None:
    """Raise unless `tensor` is a tensor of a real floating dtype.

    `target`: the argument that follows it, with which it may have been swapped.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(tensor).__name__}; convert it with "
            "torch.as_tensor(...)"
        )
    if tensor.is_floating_point():
        return
    got = f"{name} must have a floating dtype, got {tensor.dtype}"
    if isinstance(target, Tensor) and target.is_floating_point() and not tensor.is_complex():
        raise TypeError(
            f"{got}, and target is {target.dtype}: the two may be swapped. The input comes first, "
            f"then the target; if they are not, convert {name} with .float()"
        )
    raise TypeError(f"{got}; convert it with .float()")


def target_dtype(target: Tensor) -> None:
    """Raise unless `target` is a real tensor: float, bool or any integer."""
    if not isinstance(target, Tensor):
        raise TypeError(
            f"target must be a torch.Tensor, got {type(target).__name__}; "
            "convert it with torch.as_tensor(...)"
        )
    if target.is_complex():
        raise TypeError(f"target must be float, bool or integer, got {target.dtype}")


def reduction(name: str, allowed: Sequence[str] = REDUCTIONS) -> None:
    """Raise unless `name` is one of the allowed reductions."""
    if name not in allowed:
        expected = ", ".join(map(repr, allowed))
        raise ValueError(f"reduction must be one of {expected}; got {name!r}")


def eps(value: float | None) -> float | None:
    """A clamp epsilon; raise unless it is strictly between 0 and one half."""
    if value is None:
        return None
    value = number("eps", value)
    if not 0 < value < 0.5:
        raise ValueError(f"eps must be in (0, 0.5), got {value}; 1e-7 is a common choice")
    return value


def align_target(input: Tensor, target: Tensor) -> Tensor:
    """`target` in the shape of `input`, from which its own may differ by trailing ones."""
    if input.shape == target.shape:
        return target
    if _without_trailing_ones(input.shape) == _without_trailing_ones(target.shape):
        return target.reshape(input.shape)
    raise ValueError(
        f"input has shape {tuple(input.shape)} and target has shape {tuple(target.shape)}; they "
        "must be equal or differ only by trailing dimensions of size 1, as (N, 1) and (N,) do. "
        "Nothing is broadcast: reshape or expand one of them to the shape you mean."
        + _one_hot_remedy(input.shape, target)
    )


def _one_hot_remedy(shape: torch.Size, target: Tensor) -> str:
    """What to do with a target that may hold a class index instead of one value per class."""
    if len(shape) < 2 or target.dtype == torch.bool:
        return ""
    per_class = (*shape[:1], *shape[2:])
    if _without_trailing_ones(target.shape) not in (per_class, _without_trailing_ones(per_class)):
        return ""
    indices = "target" if target.dtype == torch.int64 else "target.long()"
    if tuple(target.shape) != per_class:
        indices += f".reshape({per_class})"
    move = ".movedim(-1, 1)" if len(shape) > 2 else ""
    return (
        " If target holds class indices, one-hot encode them: "
        f"torch.nn.functional.one_hot({indices}, {shape[1]}){move}"
    )


def align_weight(name: str, weight: Tensor | float | None, input: Tensor) -> Tensor | None:
    """A weight as a tensor that broadcasts to `input`'s shape and never beyond it."""
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        weight = number(name, weight, or_tensor=True)
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {weight}")
        # Filled on the device: a copy from the host to a GPU would make the host wait.
        return torch.full(
            (), float(weight), dtype=reference.compute_dtype(input.dtype), device=input.device
        )
    if weight.is_complex():
        raise TypeError(f"{name} must be real, got {weight.dtype}")
    if weight.dtype == torch.float64 and weight.dim() == 0:
        # A number that a module keeps. Kernels are compiled for it in the dtype of computation.
        return weight.to(reference.compute_dtype(input.dtype))
    if broadcasts_into(weight.shape, input.shape):
        return weight
    if _without_trailing_ones(weight.shape) == _without_trailing_ones(input.shape):
        return weight.reshape(input.shape)
    raise ValueError(
        f"{name} has shape {tuple(weight.shape)}, which does not broadcast to the input's shape "
        f"{tuple(input.shape)}; {_broadcast_remedy(name, weight, input.shape)}"
    )


def _broadcast_remedy(name: str, tensor: Tensor, shape: torch.Size) -> str:
    """The shapes that a weight or mask of an input of this shape may have, with its own sizes."""
    per_output = (*shape[1:2], *(1 for _ in shape[2:]))
    per_row = (*shape[:1], *(1 for _ in shape[1:]))
    letters = ", ".join(("C", *("1" for _ in shape[2:]))) + ("," if len(shape) == 2 else "")
    outputs = f"one per output, ({letters}), here {per_output}"
    elements = f"one per element, {tuple(shape)}"
    if len(shape) < 2:
        expected = elements
    elif name == "pos_weight":
        expected = f"{outputs}, or {elements}"
    else:
        expected = f"{elements}, {outputs}, or one per row, {per_row}"
    expected = f"give {'' if name == 'mask' else 'one number, '}{expected}"
    given = tuple(tensor.shape)
    if len(shape) > 2 and given == per_output[:1]:
        return f"{expected}: {name}.reshape{per_output}"
    if len(shape) > 1 and given == per_row[:1] and name != "pos_weight":
        return f"{expected}: {name}.reshape{per_row}"
    if len(shape) > 2 and given == (*shape[:1], *shape[2:]):
        return f"{expected}: {name}.unsqueeze(1)"
    return expected


def number(name: str, value: object, or_tensor: bool = False) -> float:
    """An argument as a Python number: a real number of any library, or one element in a container.

    Args:
        name: of the argument.
        value: the argument.
        or_tensor: whether the argument may be a tensor of several elements too.
    """
    if type(value) is float or type(value) is int:
        return value
    found: Any = _only_element(value)
    if not isinstance(found, bool) and isinstance(found, Real):
        return int(found) if isinstance(found, Integral) else float(found)
    expected = "a tensor or a number" if or_tensor else "a number"
    several = hasattr(value, "__len__") and not isinstance(value, (str, bytes, Tensor))
    remedy = f"; convert it with torch.as_tensor({name})" if or_tensor and several else ""
    got = type(value).__name__
    if isinstance(value, Tensor):
        got = f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    raise TypeError(f"{name} must be {expected}, got {got}{remedy}")


def _only_element(value: Any) -> object:
    """The element of a list, array or tensor of one; anything else as it is."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return _only_element(value[0])
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value
    if getattr(value, "size", None) == 1 and hasattr(value, "item"):
        return value.item()
    return value


def scalar_to_device(weight: Tensor | float | None, input: Tensor) -> Tensor | float | None:
    """Copy a 0-dim CPU weight to the input's GPU, as PyTorch's type promotion allows."""
    if not (isinstance(weight, Tensor) and weight.dim() == 0 and getattr(input, "is_cuda", False)):
        return weight
    if not weight.is_cpu or weight.requires_grad or type(weight) is not Tensor:
        return weight
    return torch.full((), weight.item(), dtype=weight.dtype, device=input.device)


def mask_dtype(mask: object) -> None:
    """Raise unless `mask` is a bool tensor."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got, remedy = type(mask).__name__, "convert it with torch.as_tensor(mask)"
        if isinstance(mask, Tensor):
            got, remedy = str(mask.dtype), "convert it with mask.bool()"
        raise TypeError(
            f"mask must be a bool tensor, false where an element is ignored; got {got}; {remedy}"
        )


def align_mask(mask: Tensor, input: Tensor) -> Tensor:
    """A mask in the shape of `input`; it broadcasts to it, or differs by trailing ones."""
    mask_dtype(mask)
    if broadcasts_into(mask.shape, input.shape):
        return mask.expand(input.shape)
    if _without_trailing_ones(mask.shape) == _without_trailing_ones(input.shape):
        return mask.reshape(input.shape)
    raise ValueError(
        f"mask has shape {tuple(mask.shape)}, which does not broadcast to the input's shape "
        f"{tuple(input.shape)}; {_broadcast_remedy('mask', mask, input.shape)}"
    )


def fraction(name: str, value: float) -> float:
    """An option; raise unless it is in [0, 1]."""
    value = number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return value


def choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise unless an option is one of the allowed words."""
    if value not in allowed:
        expected = " or ".join(map(repr, allowed))
        raise ValueError(f"{name} must be {expected}; got {value!r}")


# The constants of a loss are numbers, or tensors that broadcast to the input. Each function raises
# unless every value is in its range; those of a tensor are read on the CPU, and not where the host
# would have to wait for them. A float, which is usual, takes one comparison: on few elements each
# function call is a percent of a step.


def alpha(value: Constant | None) -> Constant | None:
    """The weight of positives: None or in [0, 1]."""
    if value is None or (type(value) is float and 0 <= value <= 1):
        return value
    remedy = (
        ": it is the weight of positives, and 1 - alpha that of negatives. To weight only "
        "positives use pos_weight; for no weight alpha=None."
    )
    return _constant("alpha", value, "in [0, 1]", lambda v: (v >= 0) & (v <= 1), remedy)


def margin(value: Constant) -> Constant:
    """A margin of probability, in [0, 1)."""
    if type(value) is float and 0 <= value < 1:
        return value
    return _constant("margin", value, "in [0, 1)", lambda v: (v >= 0) & (v < 1))


def epsilon(value: Constant) -> Constant:
    """What is added to the coefficient of the first term: finite, and at least -1."""
    if type(value) is float and -1 <= value < math.inf:
        return value
    return _constant(
        "epsilon",
        value,
        "finite and at least -1",
        lambda v: (v >= -1) & (v < math.inf),
    )


def exponent(name: str, value: Constant) -> Constant:
    """A focusing exponent: finite, and at least 0."""
    if type(value) is float and 0 <= value < math.inf:
        return value
    return _constant(name, value, "finite and not negative", lambda v: (v >= 0) & (v < math.inf))


def _constant(
    name: str,
    value: Constant,
    requirement: str,
    inside: Callable[[Any], Any],
    remedy: str = "",
) -> Constant:
    if not isinstance(value, Tensor):
        value = number(name, value, or_tensor=True)
        if not inside(value):
            raise ValueError(f"{name} must be {requirement}, got {value}{remedy}")
        return value
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {value.dtype}")
    plain = None if torch.compiler.is_compiling() else readable(value)
    if plain is not None:
        every(f"{name} must be {requirement}", plain, inside(plain), remedy)
    return value


def align_constant(name: str, value: Tensor, input: Tensor) -> Tensor:
    """A constant that is a tensor, in a shape that broadcasts to `input`'s."""
    input_dtype("input", input)
    moved: Any = value
    if not torch.compiler.is_compiling():
        moved = scalar_to_device(kinds.plain(value), input)
    if moved.dim() == 0:
        scalar: Tensor = moved
        return scalar
    aligned = align_weight(name, moved, input)
    assert aligned is not None  # for the type checker: only None gives None
    return aligned


def every(rule: str, values: Tensor, fine: Tensor, remedy: str = "") -> None:
    """Raise unless a rule holds for every value, that is, unless `fine` is true everywhere."""
    found = first_wrong(values, fine)
    if found is not None:
        raise ValueError(f"{rule}, got {found}{remedy}")


def first_wrong(values: Tensor, fine: Tensor) -> str | None:
    """The first value where `fine` is false, its index, and the number of others; None if none is.

    The text is short however many values there are: a head has as many as labels.
    """
    if bool(fine.all()):
        return None
    wrong = (~fine).nonzero()
    at = tuple(int(i) for i in wrong[0])
    found = str(values[at].item())
    if at:
        found += f" at index {', '.join(map(str, at))}"
    if len(wrong) > 1:
        found += f" and {len(wrong) - 1:,} more of {values.numel():,}"
    return found


def value_range(
    name: str,
    values: Tensor,
    valid: Tensor | None = None,
    index: Tensor | None = None,
    check: bool | None = None,
) -> None:
    """Raise if a value is outside its range or NaN, naming the value and its index.

    Values on the CPU are checked by default. Those on another device are checked only if `check` is
    True, since the host has to wait for them. A compiled graph makes the check when it runs.

    Args:
        name: "target" or "probabilities", in [0, 1]; "log_probs", in [-inf, 0]; or "logits", which
            may have any value.
        values: the values to check.
        valid: false where an element is ignored.
        index: the indices of the values in a sparse tensor, [dimensions, values].
        check: True to check values on every device, False to check none.
    """
    if check is False or name == "logits" or values.dtype == torch.bool:
        return
    values = values.detach() if valid is None else torch.where(valid, values.detach(), 0)
    if torch.compiler.is_compiling() or _pytorch.is_traced_by_proxies():
        if check or values.device.type == "cpu":
            # An operator of the shard: it has no rule for how a DTensor is distributed.
            own: Any = kinds.local_part(values) if kinds.is_distributed(values) else values
            if own is not None:
                _check_range_when_run(own, name)
        return
    plain = readable(values, anywhere=bool(check))
    if plain is None:
        if check:
            unreadable("target" if name == "target" else "input", values)
        return
    offset = _pytorch.shard_offset(values) if kinds.is_distributed(values) else None
    _check_range(plain, name, index, offset)


def _check_range(
    values: Tensor, name: str, index: Tensor | None = None, offset: Sequence[int] | None = None
) -> None:
    low, high = (-math.inf, 0) if name == "log_probs" else (0, 1)
    # One pass each, without a temporary. NaN makes both NaN, and the comparisons false.
    if values.numel() == 0 or (bool(values.amin() >= low) and bool(values.amax() <= high)):
        return
    wrong = ~((values >= low) & (values <= high))
    at = tuple(int(i) for i in wrong.nonzero()[0])
    value = values[at].item()
    remedy = _range_remedy(name, value)
    if index is not None:
        at = tuple(int(i) for i in index[:, at[0]])
    if offset is not None:  # of a shard
        at = tuple(i + first for i, first in zip(at, offset, strict=True))
    name = "target" if name == "target" else "input"
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    raise ValueError(f"{place} is {value}; {remedy}")


@torch.library.custom_op("torchbce::check_range", mutates_args=())
def _check_range_when_run(values: Tensor, name: str) -> None:
    _check_range(values, name)


@_check_range_when_run.register_fake
def _(values: Tensor, name: str) -> None:
    return None


@_check_range_when_run.register_vmap
def _(info: object, in_dims: object, values: Tensor, name: str) -> tuple[None, None]:
    _check_range_when_run(values, name)
    return None, None


def _no_check(values: Tensor, name: str) -> None:
    """ONNX has no operator that raises."""


# An operator without a result would be removed as dead code.
torch.fx.node.has_side_effect(torch.ops.torchbce.check_range.default)
_pytorch.decompose_for_onnx(torch.ops.torchbce.check_range.default, _no_check, _no_check)


def _range_remedy(name: str, value: float) -> str:
    if math.isnan(value):
        return (
            "NaN is not a target: drop or impute the missing labels, or give ignore_index=nan."
            if name == "target"
            else "NaN is not a probability: look for a division by 0 or a diverged step before it."
        )
    if name == "log_probs":
        return (
            "log-probabilities are at most 0. These look like logits: use "
            "binary_cross_entropy_with_logits, or apply torch.nn.functional.logsigmoid first."
        )
    if name == "probabilities":
        return (
            "probabilities must be in [0, 1]. These look like logits: use "
            "binary_cross_entropy_with_logits, or apply torch.sigmoid first."
        )
    return (
        "targets must be in [0, 1]. Divide masks of 0 and 255 by 255; one-hot encode class "
        "indices with torch.nn.functional.one_hot; name a marker such as -100 with ignore_index."
    )


def readable(values: Tensor, anywhere: bool = False) -> Tensor | None:
    """The values without gradients and transforms; None where they cannot be read.

    Of a DTensor they are those of this process. Values on another device than the CPU are read only
    with `anywhere`: the host has to wait.
    """
    reachable = values.device.type == "cpu" or (anywhere and values.device.type != "meta")
    if not reachable or _pytorch.is_traced_by_proxies():
        return None
    read: Any = kinds.plain(_pytorch.unwrapped(values))
    if kinds.is_distributed(read):
        read = kinds.local_part(read)
    readable: Tensor | None = read.detach() if type(read) in kinds.PLAIN else None
    return readable


def unreadable(name: str, values: Tensor) -> None:
    """Raise, where `check_targets` is True, if there are values that cannot be read.

    Tensors on the meta device and fake tensors have none.
    """
    if not _pytorch.has_values(values) or _pytorch.is_traced_by_proxies():
        return
    kind = type(_pytorch.unwrapped(values)).__name__
    remedy = "; redistribute it first" if kinds.is_distributed(values) else ""
    raise TypeError(
        f"check_targets is True, and the values of {name}, a {kind}, cannot be read{remedy}. Check "
        "them before, and give check_targets=None or False"
    )


def _without_trailing_ones(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape)
    while sizes and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def broadcasts_into(shape: torch.Size, into: torch.Size) -> bool:
    """Whether a shape broadcasts to another without enlarging it."""
    return len(shape) <= len(into) and all(
        size in (1, full) for size, full in zip(reversed(shape), reversed(into), strict=False)
    )
