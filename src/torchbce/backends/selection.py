"""Which code computes a loss: a pure function of the arguments, which can be asked and overridden.

Nothing is tried and then given up: `obstacle` says beforehand what keeps a kernel from running.
"""

import functools
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from torchbce import _pytorch

REFERENCE, NUMBA, TRITON = "reference", "numba", "triton"
BACKENDS = (REFERENCE, NUMBA, TRITON)

_HALF = frozenset((torch.bfloat16, torch.float16))
#: Dtypes of inputs that each computes.
INPUTS = {NUMBA: _HALF | {torch.float32}, TRITON: _HALF | {torch.float32, torch.float64}}
OPERANDS = INPUTS[TRITON] | {
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
}

_named: ContextVar[str | None] = ContextVar("torchbce backend", default=None)
#: How many blocks of `backend` are open, in any thread. Reading it costs less than a context
#: variable, of which nothing has to be known while it is 0.
open_blocks = 0
_lock = threading.Lock()
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_STRIDED, _FLOAT16 = torch.strided, torch.float16
_SPARSE = (torch.sparse_coo, torch.sparse_csr)
_TRITON_IS_THERE = importlib.util.find_spec("triton") is not None


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
        \text{backend}(x, y, w, p, m) \in
            \{\texttt{reference}, \texttt{numba}, \texttt{triton}\}

    "numba" on the CPU and "triton" on a GPU are one pass over memory, compiled for this machine
    when it is first needed; "reference" is the definition in plain PyTorch, for everything else.
    The answer holds for every loss of the package, under the modes (grad, transforms, compilation)
    in which it is asked.

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
        https://triton-lang.org
    """
    target = input if target is None else target
    if torch.compiler.is_compiling():
        if traced(input, target, weight, pos_weight, mask) == TRITON:
            return Choice(TRITON, "an operator that torch.compile takes as it is")
        return Choice(REFERENCE, "torch.compile traces plain PyTorch, which it fuses")
    named = _named.get()
    if named == REFERENCE:
        return Choice(REFERENCE, "torchbce.backend names it")
    kernel = named or fitting(input)
    reason = obstacle(kernel, input, target, weight, pos_weight, mask)
    if named is not None:
        _refuse(named, reason)
        return Choice(named, "torchbce.backend names it")
    if reason is not None:
        return Choice(REFERENCE, reason)
    place = "the CPU" if kernel == NUMBA else "the GPU"
    return Choice(kernel, f"{input.dtype} on {place}: one pass over memory")


@contextmanager
def backend(name: str) -> Iterator[None]:
    r"""Compute losses by the named backend within a `with` block, or raise where it cannot.

    .. math::
        \text{backend}(x, y, w, p, m) = \text{name}

    The choice holds for this thread (and this asyncio task). What `torch.compile` traces does not
    depend on it; the block may stand around a compiled function, and not within. "triton" computes
    tensors on the CPU too, by its interpreter, where `TRITON_INTERPRET=1` was set before Triton was
    imported: for tests, and slowly.

    Args:
        name: "reference", "numba" or "triton".

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
        https://triton-lang.org
    """
    if name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(BACKENDS)}")
    global open_blocks
    # The string of this module itself, with which the others are compared by `is`.
    token = _named.set(BACKENDS[BACKENDS.index(name)])
    with _lock:
        open_blocks += 1
    try:
        yield
    finally:
        with _lock:
            open_blocks -= 1
        _named.reset(token)


def chosen(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None,
    pos_weight: Tensor | float | None,
    mask: Tensor | None,
    unchecked: bool = False,
) -> str:
    """The name alone, without words for the reason: what every call of a loss asks.

    `unchecked`: the input may lie outside the domain of the loss.
    """
    if torch.compiler.is_compiling():
        # before the context variable, which the compiler cannot trace
        return traced(input, target, weight, pos_weight, mask)
    named = _named.get()
    if named == REFERENCE:
        return REFERENCE
    kernel = named or fitting(input)
    reason = obstacle(kernel, input, target, weight, pos_weight, mask)
    if unchecked and kernel == NUMBA and reason is None:
        reason = "check_targets is False; on the CPU a kernel takes probabilities in [0, 1] alone"
    if named is not None:
        _refuse(named, reason)
    return kernel if reason is None else REFERENCE


def fitting(input: Tensor) -> str:
    """The kernels for the device of a tensor."""
    return TRITON if getattr(input, "is_cuda", False) else NUMBA


def traced(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    mask: Tensor | None = None,
) -> str:
    """What stands in a compiled graph: on a GPU the kernel, as an operator, else the definition."""
    if not _TRITON_IS_THERE or not input.is_cuda or target.layout is not _STRIDED:
        return REFERENCE
    if _pytorch.functorch_is_active() or _lacks_triton(input.device.index):
        return REFERENCE
    for tensor in (input, target, weight, pos_weight, mask):
        if not isinstance(tensor, Tensor):
            continue
        if type(tensor) not in _PLAIN or tensor.device != input.device:
            return REFERENCE
        if tensor.dtype not in OPERANDS:
            return REFERENCE
        if tensor is not input and tensor.requires_grad and torch.is_grad_enabled():
            return REFERENCE
    return TRITON if input.dtype in INPUTS[TRITON] else REFERENCE


def obstacle(
    kernel: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    mask: Tensor | None = None,
) -> str | None:
    """What keeps `kernel` from computing a loss of these arguments; None for nothing.

    Whether a graph is being compiled is asked before.
    """
    if (mode := active_mode()) is not None:
        return mode
    far = kernel == TRITON and not (getattr(input, "is_cpu", False) and _interprets())
    place = "the GPU" if far else "the CPU"
    if not is_plain(input, far):
        return f"input is not a plain tensor on {place}"
    if not is_plain(target, far) and not _is_sparse(target, far):
        return f"target is neither a plain tensor on {place} nor a sparse one"
    dtype = input.dtype
    if dtype not in INPUTS[kernel]:
        names = "float32, bfloat16 and float16" + (" and float64" if kernel == TRITON else "")
        return f"input is {dtype}; the kernels compute {names}"
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
            if not is_plain(tensor, far):
                return f"{name} is not a plain tensor on {place}"
            if tensor.dtype not in OPERANDS:
                return f"{name} is {tensor.dtype}, which the kernels do not read"
            if grad and tensor.requires_grad:
                return f"{name} requires grad; the kernels differentiate by the input alone"
    if kernel == TRITON:
        return _elsewhere(input, target, weight, pos_weight, mask) or _missing_for_triton(
            input.device.index if far else None
        )
    return _missing(dtype is _FLOAT16 or target.dtype is _FLOAT16)


def is_plain(tensor: Tensor, far: bool = False) -> bool:
    """Whether a tensor's memory holds its values: no subclass, wrapper or lazy sign.

    `far` asks for memory of a GPU instead of the CPU's.
    """
    return (
        type(tensor) in _PLAIN
        and (tensor.is_cuda if far else tensor.is_cpu)
        and tensor.layout is _STRIDED
        and not tensor.is_neg()
        and not _pytorch.is_zero_tensor(tensor)
        and _pytorch.has_storage(tensor)
        and not _pytorch.is_functional(tensor)
    )


def _is_sparse(tensor: Tensor, far: bool) -> bool:
    return (
        type(tensor) is Tensor
        and (tensor.is_cuda if far else tensor.is_cpu)
        and tensor.layout in _SPARSE
    )


def active_mode() -> str | None:
    """A mode of PyTorch under which only operations of its own are seen."""
    if _pytorch.functorch_is_active():
        return "a transform of torch.func is active"
    if _pytorch.forward_mode_is_active():
        return "forward-mode differentiation is active"
    if _pytorch.dispatch_modes() > 0:
        return "a dispatch mode, such as that of fake tensors, is active"
    if _pytorch.tracing_state() is not None:
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


def _elsewhere(input: Tensor, *others: Tensor | float | None) -> str | None:
    """A kernel would read the memory of another GPU as if it were its own."""
    for tensor in others:
        if isinstance(tensor, Tensor) and tensor.device != input.device:
            return f"input is on {input.device} and another tensor on {tensor.device}"
    return None


@functools.cache
def _missing_for_triton(device: int | None) -> str | None:
    """Of a GPU, or of the interpreter for None."""
    if not _TRITON_IS_THERE:
        return "triton is not installed"
    if device is not None and torch.version.cuda is not None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:  # which cannot round to bfloat16
            return f"the GPU has compute capability {major}.{minor}, below 8.0"
    return None


def _lacks_triton(device: int | None) -> bool:
    return _missing_for_triton(device) is not None


_pytorch.constant_when_compiled(_lacks_triton)


def _interprets() -> bool:
    """Whether Triton was told to interpret its kernels, as it reads the variable itself."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def _refuse(named: str, reason: str | None) -> None:
    if named != REFERENCE and reason is not None:
        raise RuntimeError(
            f"the backend {named!r}, which torchbce.backend names, cannot compute this: {reason}. "
            "Leave the block, or name 'reference'."
        )
