"""Every private name of PyTorch that this package uses, and for which versions it holds.

All exist in PyTorch 2.10 and 2.15, the oldest and the newest version checked. Where they answer
differently, as `tensor_guard` does under fake tensors and make_fx, the code covers both answers.
Comments say which public function does the same where there is one, and what it costs.

Each is a plain alias where PyTorch has a C function, since a wrapper in Python would cost as much
as the function.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame as _eval_frame
from torch.autograd import forward_ad
from torch.nn import _reduction

# ------------------------------------------------------------------ what is special of a tensor

#: Whether a tensor has memory of its own; tensors of torch.func's transforms have none.
has_storage: Callable[[Tensor], bool] = torch._C._has_storage
#: Whether a tensor is a wrapper of functionalization, which torch.export and functionalize use.
is_functional: Callable[[Tensor], bool] = torch._is_functional_tensor


def is_zero_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is PyTorch's lazy representation of zeros, which has no memory."""
    return tensor._is_zerotensor()


def unwrapped(tensor: Tensor) -> Tensor:
    """The values of all rows at once, where a transform of torch.func shows one row."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def storage_uses(storage: torch.UntypedStorage) -> int:
    """How many tensors and variables hold a storage."""
    return torch._C._storage_Use_Count(storage._cdata)


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor has values at all, unlike one of the meta device and a fake one."""
    return not tensor.is_meta and not isinstance(tensor, torch._subclasses.FakeTensor)


#: A block in which tensors of a subclass are treated as plain ones, without `__torch_function__`.
without_torch_function: Callable[[], Any] = torch._C.DisableTorchFunctionSubclass


def replicates_implicitly() -> bool:
    """Whether a block of `torch.distributed.tensor.experimental.implicit_replication` is open."""
    module = sys.modules["torch.distributed.tensor"]  # where there is a DTensor
    dispatcher = module.DTensor._op_dispatcher
    return bool(getattr(dispatcher, "_allow_implicit_replication", False))


def shard_offset(dtensor: Any) -> tuple[int, ...]:
    """The index, in a DTensor, of the first element of this process' shard."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(
        dtensor.shape, dtensor.device_mesh, dtensor.placements
    )
    return offset


# ------------------------------------------------------------------------------- active modes

functorch_is_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
tracing_state: Callable[[], Any] = torch._C._get_tracing_state


def is_traced_by_proxies() -> bool:
    """Whether `make_fx` records operations, while which no value can be read."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def forward_mode_is_active() -> bool:
    """Whether a block of `torch.autograd.forward_ad.dual_level` is open."""
    return forward_ad._current_level >= 0


#: The hooks that saved tensors are packed with, None if there are none. The argument says whether
#: to look for them while PyTorch traces its own graphs too. The public way, to enter and leave
#: `torch.autograd.graph.disable_saved_tensors_hooks`, takes 3 microseconds.
saved_tensor_hooks: Callable[[bool], Any] = torch._C._autograd._top_saved_tensors_default_hooks


# ------------------------------------------------------------------------------------ autograd


def function_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` without its check for transforms of torch.func.

    The check takes 12 of 19 microseconds. The caller must make sure that none is active. The public
    function is `function.apply`.
    """
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply


def tensor_guard(*tensors: Tensor) -> Callable[..., bool] | None:
    """A function that checks, in one call, that tensors are of the same kind as these, or None.

    It compares type, dtype, device, shape, strides, requires_grad, and the keys that PyTorch
    dispatches on, including those of active modes, but not the grad mode. PyTorch uses it to guard
    compiled graphs. Without it, each property has to be compared on its own.
    """
    guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
    if guards is None or not hasattr(guards, "TensorGuards"):
        return None
    sizes = [list(tensor.shape) for tensor in tensors]
    strides = [list(tensor.stride()) for tensor in tensors]
    check: Callable[..., bool] = guards.TensorGuards(
        *tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
    ).check

    def are_same(*others: Tensor) -> bool:
        # Forward mode is not among the keys, nor are, in some versions, the modes of make_fx and
        # of fake tensors.
        return forward_ad._current_level < 0 and not dispatch_modes() and check(*others)

    return are_same


# ------------------------------------------------------------------------------ torch.profiler

profiler_is_active: Callable[[], bool] = torch._C._autograd._profiler_enabled
_no_record = contextlib.nullcontext()


def profiled(name: str) -> contextlib.AbstractContextManager[object]:
    """A record of this name in a running profiler.

    A kernel is no operator of PyTorch, and only those of a node of the graph have a name in it.
    Without a profiler, `torch.profiler.record_function` would take a microsecond for nothing.
    """
    return torch.profiler.record_function(name) if profiler_is_active() else _no_record


# ------------------------------------------------------------------------------- torch.compile


def constant_when_compiled(function: Any) -> None:
    """Let torch.compile call a function once and keep its result.

    `torch.compiler.assume_constant_result` does this too, and imports the compiler.
    """
    function._dynamo_marked_constant = True


def decompose_for_onnx(
    operator: Any, decomposition: Callable[..., Any], metadata: Callable[..., Any]
) -> None:
    """Let `torch.onnx.export` write a custom operator as PyTorch's own operators.

    The exporter applies every decomposition of PyTorch's table; torch.compile and torch.export
    apply those that they name, and keep the operator. Public is the exporter's argument
    `custom_translation_table`, which each caller would have to give.

    Args:
        operator: the operator, of one overload.
        decomposition: computes it; called with the operator's arguments.
        metadata: what was given to `register_fake`. Tensors of symbolic sizes would otherwise be
            propagated by the decomposition.
    """
    torch._decomp.decomposition_table[operator] = decomposition
    torch._decomp.meta_table[operator] = metadata


def is_in_compiled_code() -> bool:
    """Whether torch.compile traces the functions that are called, or would if it could.

    It skips a function with a sparse argument, and traces those that the function calls.
    """
    callback = _eval_frame.get_eval_frame_callback()
    return torch.compiler.is_compiling() or (callback is not None and callback is not False)


# ------------------------------------------------------------------------------ sparse tensors


def stored_indices(target: Tensor) -> Tensor:
    """The indices of a COO tensor as they are stored, [dimensions, stored]."""
    indices: Tensor = target._indices()
    return indices


# ---------------------------------------------------------- the reductions of torch.nn.functional


def reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """A reduction, where the deprecated arguments may name it, with PyTorch's own warning."""
    if size_average is not None or reduce is not None:
        return _reduction.legacy_get_string(size_average, reduce)
    return reduction


def reduction_of_three(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The same with PyTorch's own error for any but "none", "mean" and "sum"."""
    if size_average is not None or reduce is not None:
        number = _reduction.legacy_get_enum(size_average, reduce)
    else:
        number = _reduction.get_enum(reduction)
    return ("none", "mean", "sum")[number]


#: An assertion that a GPU checks when it gets there, for which the host does not wait.
assert_async: Callable[[Tensor, str], None] = torch._assert_async
