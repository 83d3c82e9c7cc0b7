"""Which code computes a loss: a pure function of the arguments, which can be asked and overridden.

Nothing is tried and then given up: `obstacle` says beforehand what keeps a kernel from running.
"""

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

REFERENCE, NUMBA = "reference", "numba"
BACKENDS = (REFERENCE, NUMBA)

INPUTS = frozenset((torch.float32, torch.bfloat16, torch.float16))
OPERANDS = INPUTS | {
    torch.float64,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
}

_named: ContextVar[str | None] = ContextVar("torchbce backend", default=None)
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_STRIDED, _FLOAT16 = torch.strided, torch.float16
_has_storage = torch._C._has_storage  # what no tensor of a transform has
_is_functional = torch._is_functional_tensor
_SPARSE = (torch.sparse_coo, torch.sparse_csr)


class Choice(NamedTuple):
    """A backend and why it was chosen."""

    name: str
    reason: str


def backend_for(
    input: Tensor,
    target: Tensor | None = None,
    *,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    mask: Tensor | None = None,
) -> Choice:
    r"""Which code a loss of these arguments is computed by, and why.

    .. math::
        \text{backend}(x, y, w, p, m) \in \{\texttt{reference}, \texttt{numba}\}

    "numba" is one pass over memory, compiled for this processor when it is first needed;
    "reference" is the definition in plain PyTorch, for everything else. The answer holds for every
    loss of the package, under the modes (grad, transforms, compilation) in which it is asked.

    Args:
        input: as the loss takes it.
        target: as the loss takes it; None for targets of input's dtype.
        weight: as the loss takes it.
        pos_weight: as the loss takes it.
        mask: as the loss takes it.

    Returns:
        A named tuple `(name, reason)`.

    Raises:
        RuntimeError: if `backend` names one that cannot compute this.

    Example:
        >>> import torch, torchbce
        >>> torchbce.backend_for(torch.zeros(3, dtype=torch.float64)).name
        'reference'
        >>> torchbce.backend_for(torch.zeros(3, dtype=torch.float64)).reason
        'input is torch.float64; the kernels compute float32, bfloat16 and float16'

    References:
        https://numba.readthedocs.io
    """
    target = input if target is None else target
    if torch.compiler.is_compiling():
        return Choice(REFERENCE, "torch.compile traces plain PyTorch, which it fuses")
    reason = obstacle(input, target, weight, pos_weight, mask)
    named = _named.get()
    if named is not None:
        _refuse(named, reason)
        return Choice(named, "torchbce.backend names it")
    if reason is not None:
        return Choice(REFERENCE, reason)
    return Choice(NUMBA, f"{input.dtype} on the CPU: one pass over memory")


@contextmanager
def backend(name: str) -> Iterator[None]:
    r"""Compute losses by the named backend within a `with` block, or raise where it cannot.

    .. math::
        \text{backend}(x, y, w, p, m) = \text{name}

    The choice holds for this thread (and this asyncio task). What `torch.compile` traces is the
    reference always, which the compiler fuses; the block may stand around a compiled function, and
    not within.

    Args:
        name: "reference" or "numba".

    Returns:
        A context manager whose value is None.

    Raises:
        ValueError: if there is no backend of this name.
        RuntimeError: by a loss within the block, if the backend cannot compute it.

    Example:
        >>> import torch, torchbce
        >>> with torchbce.backend("reference"):
        ...     torchbce.backend_for(torch.zeros(3)).name
        'reference'

    References:
        https://numba.readthedocs.io
    """
    if name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(BACKENDS)}")
    token = _named.set(name)
    try:
        yield
    finally:
        _named.reset(token)


def chosen(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None,
    pos_weight: Tensor | float | None,
    mask: Tensor | None,
) -> str:
    """The name alone, without words for the reason: what every call of a loss asks."""
    if torch.compiler.is_compiling():
        return REFERENCE  # before the context variable, which the compiler cannot trace
    named = _named.get()
    if named == REFERENCE:
        return REFERENCE
    reason = obstacle(input, target, weight, pos_weight, mask)
    if named is not None:
        _refuse(named, reason)
    return NUMBA if reason is None else REFERENCE


def obstacle(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    mask: Tensor | None = None,
) -> str | None:
    """What keeps the kernels from computing a loss of these arguments; None for nothing.

    Whether a graph is being compiled is asked before.
    """
    if (mode := active_mode()) is not None:
        return mode
    if not is_plain(input):
        return "input is not a plain tensor on the CPU"
    if not is_plain(target) and not _is_sparse(target):
        return "target is neither a plain tensor on the CPU nor a sparse one"
    dtype = input.dtype
    if dtype not in INPUTS:
        return f"input is {dtype}; the kernels compute float32, bfloat16 and float16"
    if target.dtype not in OPERANDS:
        return f"target is {target.dtype}, which the kernels do not read"
    grad = torch.is_grad_enabled()
    if grad and target.requires_grad:
        return "target requires grad; the kernels differentiate by the input alone"
    if not (weight is pos_weight is mask is None):
        options = {"weight": weight, "pos_weight": pos_weight, "mask": mask}
        for name, tensor in options.items():
            if not isinstance(tensor, Tensor):
                continue
            if not is_plain(tensor):
                return f"{name} is not a plain tensor on the CPU"
            if tensor.dtype not in OPERANDS:
                return f"{name} is {tensor.dtype}, which the kernels do not read"
            if grad and tensor.requires_grad:
                return f"{name} requires grad; the kernels differentiate by the input alone"
    return _missing(dtype is _FLOAT16 or target.dtype is _FLOAT16)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's memory on the CPU holds its values: no subclass, wrapper or lazy sign."""
    return (
        type(tensor) in _PLAIN
        and tensor.is_cpu
        and tensor.layout is _STRIDED
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and _has_storage(tensor)
        and not _is_functional(tensor)
    )


def _is_sparse(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.is_cpu and tensor.layout in _SPARSE


def active_mode() -> str | None:
    """A mode of PyTorch under which only operations of its own are seen."""
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a dispatch mode, such as that of fake tensors, is active"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace is active"
    return None


@functools.cache
def _missing(half: bool) -> str | None:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set"
    # On x86, half precision is converted by instructions that came with AVX2 at the latest.
    if half and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX"):
        machine = (
            os.uname().machine
            if hasattr(os, "uname")
            else os.environ.get("PROCESSOR_ARCHITECTURE", "")
        )
        if machine.lower() in ("x86_64", "amd64", "i686"):
            return "this processor has no AVX2 to convert float16"
    return None


def _refuse(named: str, reason: str | None) -> None:
    if named != REFERENCE and reason is not None:
        raise RuntimeError(
            f"the backend {named!r}, which torchbce.backend names, cannot compute this: {reason}. "
            "Leave the block, or name 'reference'."
        )
