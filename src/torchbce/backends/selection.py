"""Which backend computes a loss. It depends on the arguments; users can query and override it.

There is no fallback after an error: `obstacle` says beforehand why a kernel cannot compute a loss.
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
from torchbce.definition import kinds

REFERENCE, NUMBA, TRITON = "reference", "numba", "triton"
BACKENDS = (REFERENCE, NUMBA, TRITON)

_HALF = frozenset((torch.bfloat16, torch.float16))
#: The dtypes of the input that each backend computes.
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
#: How many blocks of `backend` are open, in any thread. While it is 0, the context variable, which
#: takes longer to read, is not needed.
open_blocks = 0
_lock = threading.Lock()
_STRIDED, _FLOAT16 = torch.strided, torch.float16
_SPARSE = (torch.sparse_coo, torch.sparse_csr)
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


class Choice(NamedTuple):
    """A backend and the reason why it was chosen."""

    name: str
    reason: str


def backend_for(
    input: Tensor,
    target: Tensor | None = None,
    *,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    mask: Tensor | None = None,
    **own: Tensor | float | str | None,
) -> Choice:
    """Which backend computes a loss of these arguments, and why.

    "numba" on the CPU and "triton" on a GPU are kernels that make one pass over memory, compiled
    for this machine when they are first needed. "reference" is the definition in plain PyTorch, for
    everything else. The answer is for the modes that are active when the function is called
    (gradients, transforms of torch.func, torch.compile).

    Args:
        input: as the loss takes it.
        target: as the loss takes it; None for targets of input's dtype.
        weight: as the loss takes it.
        pos_weight: as the loss takes it.
        mask: as the loss takes it.
        **own: further arguments of the loss, such as `alpha` or `gamma`.

    Returns:
        A named tuple `(name, reason)`.

    Raises:
        RuntimeError: inside a `torchbce.backend` block, if that backend cannot compute this.

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
    target = input.detach() if target is None else target
    if not torch.compiler.is_compiling():
        input, target, weight, pos_weight, mask = map(
            kinds.plain, (input, target, weight, pos_weight, mask)
        )
    if torch.compiler.is_compiling():
        if traced(input, target, weight, pos_weight, mask, *own.values()) == TRITON:
            return Choice(TRITON, "a custom operator, which torch.compile does not trace")
        return Choice(REFERENCE, "torch.compile traces plain PyTorch, which it fuses")
    named = _named.get()
    if named == REFERENCE:
        return Choice(REFERENCE, "chosen by torchbce.backend")
    kernel = named or fitting(input)
    reason = obstacle(kernel, input, target, weight, pos_weight, mask, **own)
    if named is not None:
        _refuse(named, reason)
        return Choice(named, "chosen by torchbce.backend")
    if reason is not None:
        return Choice(REFERENCE, reason)
    place = "the CPU" if kernel == NUMBA else "the GPU"
    return Choice(kernel, f"{input.dtype} on {place}: one pass over memory")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Compute losses by the named backend inside a `with` block, or raise if it cannot.

    The choice is for this thread (and this asyncio task). It does not change what `torch.compile`
    traces: the block may be around a compiled function, but not in it. If `TRITON_INTERPRET=1` was
    set before Triton was imported, "triton" computes tensors on the CPU too, by Triton's
    interpreter: slowly, for tests.

    Args:
        name: "reference", "numba" or "triton".

    Returns:
        A context manager whose value is None.

    Raises:
        ValueError: if there is no backend of this name.
        RuntimeError: from a loss inside the block that the backend cannot compute, unless a
            function that `torch.compile` has compiled calls it.

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
        raise ValueError(f"there is no backend {name!r}; choose one of {', '.join(BACKENDS)}")
    global open_blocks
    # The string object of this module, since names are compared by `is`.
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
    **own: Tensor | float | None,
) -> str:
    """The backend for a call of a loss.

    `unchecked`: whether the input may be outside the domain of the loss. `own`: arguments of this
    loss only that may be tensors, such as `alpha`.
    """
    if torch.compiler.is_compiling():
        # before the context variable, which the compiler cannot trace
        return traced(input, target, weight, pos_weight, mask, *own.values())
    named = _named.get()
    if named == REFERENCE:
        return REFERENCE
    kernel = named or fitting(input)
    reason = obstacle(kernel, input, target, weight, pos_weight, mask, **own)
    if unchecked and kernel == NUMBA and reason is None:
        reason = "check_targets is False; the kernels of the CPU compute inputs in their range only"
    if named is not None:
        _refuse(named, reason)
    return kernel if reason is None else REFERENCE


def for_sparse_input() -> str:
    """The backend for a linear layer with a sparse input on the CPU."""
    named, reason = _named.get(), active_mode() or _missing(False)
    if named == TRITON:
        reason = "input is sparse, which the kernels of the CPU compute"
    if named is not None:
        _refuse(named, reason)
    return REFERENCE if named == REFERENCE or reason is not None else NUMBA


def fitting(input: Tensor) -> str:
    """The kernels for the device of a tensor."""
    return TRITON if getattr(input, "is_cuda", False) else NUMBA


def traced(
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None = None,
    pos_weight: Tensor | float | None = None,
    mask: Tensor | None = None,
    *own: object,
) -> str:
    """The backend in a graph: on a GPU under torch.compile an operator, else the definition."""
    if any(isinstance(constant, Tensor) for constant in own):
        return REFERENCE  # which the compiler fuses
    if not _TRITON_INSTALLED or not input.is_cuda or target.layout is not _STRIDED:
        return REFERENCE
    if torch.compiler.is_exporting():  # a program that other runtimes and devices may run
        return REFERENCE
    if _pytorch.functorch_is_active() or _lacks_triton(input.device.index):
        return REFERENCE
    for tensor in (input, target, weight, pos_weight, mask):
        if not isinstance(tensor, Tensor):
            continue
        if type(tensor) not in kinds.PLAIN or tensor.device != input.device:
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
    **own: object,
) -> str | None:
    """Why `kernel` cannot compute a loss of these arguments; None if it can.

    Not for a graph that is being compiled, see `traced`.
    """
    if (mode := active_mode()) is not None:
        return mode
    on_gpu = kernel == TRITON and not (getattr(input, "is_cpu", False) and _interprets())
    place = "the GPU" if on_gpu else "the CPU"
    if not is_plain(input, on_gpu):
        return f"input is not a plain tensor on {place}"
    if not is_plain(target, on_gpu) and not _is_sparse(target, on_gpu):
        return f"target is neither a plain tensor on {place} nor a sparse one"
    dtype = input.dtype
    if dtype not in INPUTS[kernel]:
        names = "float32, bfloat16 and float16" + (" and float64" if kernel == TRITON else "")
        return f"input is {dtype}; the kernels compute {names}"
    if target.dtype not in OPERANDS:
        return f"target is {target.dtype}, which the kernels do not read"
    grad = torch.is_grad_enabled()
    if grad and target.requires_grad:
        return "target requires grad; the kernels compute the gradient of the input only"
    if own or not (weight is pos_weight is mask is None):
        options = {"weight": weight, "pos_weight": pos_weight, "mask": mask, **own}
        for name, tensor in options.items():
            if not isinstance(tensor, Tensor):
                continue
            if not is_plain(tensor, on_gpu):
                return f"{name} is not a plain tensor on {place}"
            if tensor.dtype not in OPERANDS:
                return f"{name} is {tensor.dtype}, which the kernels do not read"
            if grad and tensor.requires_grad:
                return f"{name} requires grad; the kernels compute the gradient of the input only"
    if kernel == TRITON:
        return _on_another_device(
            input, target, weight, pos_weight, mask, *own.values()
        ) or _missing_for_triton(input.device.index if on_gpu else None)
    return _missing(dtype is _FLOAT16 or target.dtype is _FLOAT16)


def is_plain(tensor: Tensor, on_gpu: bool = False) -> bool:
    """Whether a tensor's values are in its memory: no subclass, wrapper, lazy negation or zeros.

    `on_gpu`: whether it must be on a GPU instead of the CPU.
    """
    return (
        type(tensor) in kinds.PLAIN
        and (tensor.is_cuda if on_gpu else tensor.is_cpu)
        and tensor.layout is _STRIDED
        and not tensor.is_neg()
        and not _pytorch.is_zero_tensor(tensor)
        and _pytorch.has_storage(tensor)
        and not _pytorch.is_functional(tensor)
    )


def _is_sparse(tensor: Tensor, on_gpu: bool) -> bool:
    return (
        type(tensor) is Tensor
        and (tensor.is_cuda if on_gpu else tensor.is_cpu)
        and tensor.layout in _SPARSE
    )


def active_mode() -> str | None:
    """An active mode of PyTorch that must see PyTorch's own operations; None if there is none."""
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
    # On x86, the instructions that convert half precision certainly exist with AVX2.
    if half and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX"):
        machine = (
            os.uname().machine
            if hasattr(os, "uname")
            else os.environ.get("PROCESSOR_ARCHITECTURE", "")
        )
        if machine.lower() in ("x86_64", "amd64", "i686"):
            return "this processor has no AVX2 to convert float16"
    return None


def _on_another_device(input: Tensor, *others: object) -> str | None:
    """Which tensor is on another device than the input; None if there is none."""
    for tensor in others:
        if isinstance(tensor, Tensor) and tensor.device != input.device:
            return f"input is on {input.device} and another tensor on {tensor.device}"
    return None


@functools.cache
def _missing_for_triton(device: int | None) -> str | None:
    """Why Triton cannot be used, on a GPU or (None) in the interpreter; None if it can."""
    if not _TRITON_INSTALLED:
        return "triton is not installed"
    from torchbce.backends import probe

    if (version := probe.too_old()) is not None:
        return version
    if device is None:
        return None
    if torch.version.cuda is not None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:  # no instruction rounds to bfloat16
            return f"the GPU has compute capability {major}.{minor}, below 8.0"
    return probe.failure(device)


def _lacks_triton(device: int | None) -> bool:
    return _missing_for_triton(device) is not None


_pytorch.constant_when_compiled(_lacks_triton)


def _interprets() -> bool:
    """Whether Triton interprets its kernels; the variable is read as Triton reads it."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def _refuse(named: str, reason: str | None) -> None:
    if named != REFERENCE and reason is not None:
        raise RuntimeError(
            f"the backend {named!r}, chosen by torchbce.backend, cannot compute this: {reason}. "
            "Leave the block, or choose 'reference'."
        )
