"""Checks of what a caller hands to a loss. Each raises before anything is computed."""

import math
from typing import Literal

import torch
from torch import Tensor

from torchbce import reference


def input_dtype(name: str, tensor: Tensor) -> None:
    """Raise unless `tensor` is a tensor of a real floating dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} must have a floating dtype, got {tensor.dtype}; convert it with .float()"
        )


def target_dtype(target: Tensor) -> None:
    """Raise unless `target` is a real tensor: float, bool or any integer."""
    if not isinstance(target, Tensor):
        raise TypeError(
            f"target must be a torch.Tensor, got {type(target).__name__}; "
            "convert it with torch.as_tensor(...)"
        )
    if target.is_complex():
        raise TypeError(f"target must be float, bool or integer, got {target.dtype}")


def reduction(name: str) -> None:
    """Raise unless `name` is a reduction."""
    if name not in reference.REDUCTIONS:
        expected = ", ".join(map(repr, reference.REDUCTIONS))
        raise ValueError(f"reduction must be one of {expected}; got {name!r}")


def eps(value: float | None) -> None:
    """Raise unless a clamp epsilon lies strictly between 0 and one half."""
    if value is not None and not 0 < value < 0.5:
        raise ValueError(f"eps must lie in (0, 0.5), got {value}; 1e-7 is a common choice")


def align_target(input: Tensor, target: Tensor) -> Tensor:
    """`target` in the shape of `input`: equal already, or differing by trailing ones."""
    if input.shape == target.shape:
        return target
    if _without_trailing_ones(input.shape) == _without_trailing_ones(target.shape):
        return target.reshape(input.shape)
    raise ValueError(
        f"input has shape {tuple(input.shape)} and target has shape {tuple(target.shape)}; they "
        "must be equal or differ only by trailing dimensions of size 1, as (N, 1) and (N,) do. "
        "Nothing is broadcast: reshape or expand one of them to the shape you mean."
    )


def align_weight(name: str, weight: Tensor | float | None, input: Tensor) -> Tensor | None:
    """A weight as a tensor that broadcasts to `input`'s shape and never beyond it."""
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(f"{name} must be a tensor or a number, got {type(weight).__name__}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {weight}")
        return torch.tensor(float(weight), dtype=torch.float64, device=input.device)
    if weight.is_complex():
        raise TypeError(f"{name} must be real, got {weight.dtype}")
    if _without_trailing_ones(weight.shape) == _without_trailing_ones(input.shape):
        return weight.reshape(input.shape)
    if _broadcasts_into(weight.shape, input.shape):
        return weight
    raise ValueError(
        f"{name} has shape {tuple(weight.shape)}, which does not broadcast to the input's shape "
        f"{tuple(input.shape)}; {_WEIGHT_REMEDY[name]}"
    )


_WEIGHT_REMEDY = {
    "weight": "give one number, or one weight an element, a column (C,) or a row (N, 1)",
    "pos_weight": "give one number, or one an output: shape (C,) for an input of shape (N, C)",
}


def unit_range(name: Literal["target", "input"], values: Tensor) -> None:
    """Raise if a value lies outside [0, 1], or is NaN, naming the value and its index.

    Only values that can be read without a side effect are looked at: not those of another device
    (reading would synchronise), of a compiled graph, of a functorch transform, or of a tensor
    subclass.
    """
    if values.dtype == torch.bool or not _readable(values):
        return
    values = values.detach()
    # One pass each, no temporary; NaN makes amin and amax NaN, which fails the comparison.
    if values.numel() == 0 or (bool(values.amin() >= 0) and bool(values.amax() <= 1)):
        return
    wrong = ~((values >= 0) & (values <= 1))
    index = tuple(int(i) for i in wrong.nonzero()[0])
    value = values[index].item()
    place = f"{name}[{', '.join(map(str, index))}]" if index else name
    raise ValueError(f"{place} is {value}; {_range_remedy(name, value)}")


def _range_remedy(name: str, value: float) -> str:
    if math.isnan(value):
        return (
            "NaN is not a probability: look for a division by zero or a diverged step before it."
            if name == "input"
            else "NaN is not a target: drop or impute the missing labels."
        )
    if name == "input":
        return (
            "probabilities must lie in [0, 1]. These look like logits: use "
            "binary_cross_entropy_with_logits, or apply torch.sigmoid first."
        )
    return (
        "targets must lie in [0, 1]. Divide masks of 0 and 255 by 255; one-hot encode class "
        "indices with torch.nn.functional.one_hot."
    )


def _readable(values: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and type(values) in (Tensor, torch.nn.Parameter)
        and values.device.type == "cpu"
        and not torch._C._functorch.is_functorch_wrapped_tensor(values)
    )


def _without_trailing_ones(shape: torch.Size) -> tuple[int, ...]:
    sizes = tuple(shape)
    while sizes and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _broadcasts_into(shape: torch.Size, into: torch.Size) -> bool:
    return len(shape) <= len(into) and all(
        size in (1, full) for size, full in zip(reversed(shape), reversed(into), strict=False)
    )
