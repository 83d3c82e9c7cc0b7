"""Kinds of tensors: subclasses, DTensors, and those that no loss takes.

A subclass without a `__torch_dispatch__` has its values in its own memory: MONAI's `MetaTensor`,
the `tv_tensors` of torchvision, `x.as_subclass(...)`. Its `__torch_function__` is given the whole
loss, as it is given PyTorch's own losses, so that results have the type that PyTorch's have.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from torchbce import _pytorch

T = TypeVar("T")
PLAIN = frozenset((Tensor, torch.nn.Parameter))


def are_plain(tensors: Iterable[object]) -> bool:
    """Whether all tensors are of PyTorch's own type and strided, as they nearly always are.

    One pass instead of the checks below: on few elements they take a fifth of the time of a loss.
    """
    for tensor in tensors:
        if isinstance(tensor, Tensor) and (
            type(tensor) not in PLAIN or tensor.layout is not torch.strided or tensor.is_nested
        ):
            return False
    return True


def plain(tensor: Any) -> Any:
    """A subclass whose values are in its memory as a plain tensor; anything else as it is."""
    kind = type(tensor)
    if kind in PLAIN or not isinstance(tensor, Tensor):
        return tensor
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor
    with _pytorch.without_torch_function():
        return tensor.as_subclass(Tensor)


def overridden(
    function: Callable[..., T], tensors: tuple[object, ...], *arguments: Any, **options: Any
) -> T:
    """What the `__torch_function__` of these tensors, or an active mode, makes of a call.

    This is how PyTorch's own functions treat subclasses, and how torch.fx records a call.
    """
    try:
        return handle_torch_function(function, tensors, *arguments, **options)
    except TypeError as error:
        if not str(error).startswith("no implementation found"):
            raise
        raise TypeError(
            f"{error}. None of these types takes the others; convert the tensors to one type, for "
            "instance with .as_subclass(torch.Tensor)"
        ) from None


def not_scriptable(module: str) -> TypeError:
    """The error of `torch.jit.script`, which PyTorch has deprecated, for a module."""
    return TypeError(
        f"torch.jit.script cannot compile torchbce.{module}. Script the model without its loss; or "
        "use torch.compile, torch.export, torch.fx.symbolic_trace or torch.jit.trace, which take it"
    )


# ------------------------------------------------------------------------------------- DTensor


def is_distributed(tensor: object) -> bool:
    """Whether a tensor is a DTensor; its module is not imported to find out."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Any) -> Tensor | None:
    """The shard of a DTensor on this process, without communication.

    None if it is one of several terms whose sum is the value.
    """
    if any(placement.is_partial() for placement in tensor.placements):
        return None
    local: Tensor = tensor.detach().to_local()
    return local


def check_distributed(tensors: Mapping[str, object]) -> None:
    """Raise if some tensors are DTensors and others are not, except for those of one element."""
    distributed = {name: is_distributed(tensor) for name, tensor in tensors.items()}
    if not any(distributed.values()):
        return
    first: Any
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or distributed[name] or tensor.numel() == 1:
            continue
        if _pytorch.replicates_implicitly():  # last, since torch.compile cannot trace it
            return
        other, first = next((n, t) for n, t in tensors.items() if distributed[n])
        if name == "input":
            raise TypeError(
                f"{other} is a DTensor and input is not; distribute the input in the same way, "
                f"distribute_tensor(input, mesh, {list(first.placements)}), or give "
                f"{other}.full_tensor()"
            )
        same = tuple(tensor.shape) == tuple(first.shape)
        placements = f"{list(first.placements)}" if same else "[Replicate()] * mesh.ndim"
        raise TypeError(
            f"{other} is a DTensor and {name} is not; distribute it too, with "
            f"torch.distributed.tensor.distribute_tensor({name}, mesh, {placements}), mesh being "
            f"{other}.device_mesh"
        )


# ------------------------------------------------------------------- tensors that no loss takes


_MAY_BE_SPARSE = ("target", "ignored")


def is_masked(tensor: object) -> bool:
    """Whether a tensor is a `torch.masked.MaskedTensor`."""
    return isinstance(tensor, torch.masked.MaskedTensor)


def check_kinds(
    tensors: Mapping[str, object], may_be_sparse: Collection[str] = _MAY_BE_SPARSE
) -> None:
    """Raise for a kind of tensor that no loss takes."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            continue
        if type(tensor) not in PLAIN and is_masked(tensor):
            raise TypeError(
                f"{name} is a MaskedTensor, which PyTorch's losses do not take either; give "
                f"{name}.get_data(), and {name}.get_mask() as the argument mask of a loss"
            )
        if tensor.is_nested:
            padding = 0.0 if tensor.is_floating_point() else -1
            lists = ""
            if name in _MAY_BE_SPARSE and not tensor.is_floating_point():
                lists = f"; for a head, torchbce.positives_from({name}) makes label lists"
            raise TypeError(
                f"{name} is a nested tensor, which losses do not take. Pad it, "
                f"torch.nested.to_padded_tensor({name}, {padding}), and mask or ignore the "
                f"padding; or give the values of all rows, {name}.values() for a jagged one{lists}"
            )
        if tensor.layout is not torch.strided and name not in may_be_sparse:
            raise TypeError(
                f"{name} has layout {tensor.layout}; only a target may be sparse. Give "
                f"{name}.to_dense()"
            )
