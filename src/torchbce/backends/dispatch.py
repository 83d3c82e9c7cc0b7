"""Compute a loss by the chosen backend: the only place that branches on it."""

import functools
import math
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from torchbce.backends import selection
from torchbce.backends.request import (
    Call,
    KernelInputs,
    LossSpec,
    Request,
    constant_tensors,
    kernel_denominator,
    loss_spec,
)
from torchbce.definition.arguments import (
    Arguments,
    Options,
    Valid,
    aligned,
    check_ranges,
    convert,
    find_valid,
)
from torchbce.definition.dense import dense_loss
from torchbce.definition.family import Loss
from torchbce.definition.reductions import warn_of_empty_mean

#: Calls that are prepared, see `cpu.prepared`, by a key that `_contract.evaluate` builds.
prepared: dict[Hashable, Callable[[Tensor, Tensor], Tensor | None]] = {}
#: How often a key was looked up and no prepared call was used. After a few times nothing more is
#: prepared for it: its calls are of several kinds, or of one that cannot be prepared.
_missed: dict[Hashable, int] = {}
_MOST_PREPARED, _MOST_MISSES = 1024, 4


def evaluate(
    backend: str,
    loss: Loss,
    arguments: Arguments,
    options: Options,
    key: Hashable,
    given_target: Tensor,
) -> Tensor:
    """The loss of tensors that are already aligned.

    Args:
        backend: the backend that `selection` chose.
        loss: the loss.
        arguments: the tensors.
        options: the options, except for the tensors.
        key: the key under which the call may be prepared for the next time; None not to prepare it.
        given_target: the target before it was aligned.
    """
    if backend is selection.REFERENCE:
        return dense_loss(loss, arguments, options)
    arguments, options, valid = _for_kernel(backend, loss, arguments, options)
    input, target, weight, pos_weight, mask, entries = arguments
    _, _, smoothing, ignore_index, _, reduction, check = options
    if torch.compiler.is_compiling():
        spec = loss_spec(loss, smoothing, ignore_index)
        return in_graph(spec, reduction, KernelInputs(input, target, weight, pos_weight, mask))
    # A loss with tensors is not kept: they would live as long as the cache.
    call_of = _call.__wrapped__ if loss.tensors else _call
    call = call_of(loss, smoothing, ignore_index, reduction, check is not False)
    own = constant_tensors(loss)
    divisor = kernel_denominator(reduction, arguments, ignore_index, valid.elements)
    if entries is None:
        inputs = KernelInputs(input, target, weight, pos_weight, mask, None, *own)
        request = Request(call, inputs, divisor)
    else:
        positions, values = entries.positions(input.shape), entries.values
        if backend is selection.TRITON and target.layout is torch.sparse_csr:
            # The columns of a row may be in any order, and the kernel finds them by bisection.
            positions, ascending = positions.sort()
            values = values[ascending]
        inputs = KernelInputs(input, values, weight, pos_weight, mask, positions, *own)
        request = Request(call, inputs, divisor, target)
    if key is not None and not (backend is selection.TRITON and _checks_on_host(check, input)):
        _prepare(key, request, given_target, backend)
    value, count = run(backend, request)
    if count == 0 and "mean" in reduction:
        warn_of_empty_mean(reduction)
    return value


def run(backend: str, request: Request) -> tuple[Tensor, float]:
    """The loss by a kernel, and the number of valid elements (of all, if only the GPU knows it)."""
    if backend is selection.NUMBA:
        from torchbce.backends.cpu import autograd as cpu_autograd  # loads Numba

        return cpu_autograd.evaluate(request)
    from torchbce.backends.gpu import autograd as gpu_autograd  # loads Triton

    return gpu_autograd.evaluate(request), request.inputs.input.numel()


def _prepare(key: Hashable, request: Request, given_target: Tensor, backend: str) -> None:
    """Prepare a call that is made for the second time."""
    misses = _missed.get(key, 0)
    if len(_missed) >= _MOST_PREPARED and misses == 0:
        _missed.clear()
        prepared.clear()
    if misses > _MOST_MISSES:
        return
    _missed[key] = misses + 1
    if misses:
        call: Callable[[Tensor, Tensor], Tensor | None] | None
        if backend is selection.NUMBA:
            from torchbce.backends.cpu import prepared as on_cpu

            call = on_cpu.prepare(request, given_target)
        else:
            from torchbce.backends.gpu import prepared as on_gpu

            call = on_gpu.prepare(request, given_target)
        if call is not None:
            prepared[key] = call


def in_graph(spec: LossSpec, reduction: str, inputs: KernelInputs) -> Tensor:
    """The loss as a node of the graph that torch.compile is tracing."""
    from torchbce.backends import compiled  # imported with the first graph, since it takes 8 ms

    return compiled.loss(spec, reduction, *inputs[:5])


def _for_kernel(
    backend: str, loss: Loss, arguments: Arguments, options: Options
) -> tuple[Arguments, Options, Valid]:
    """Prepare a call for a kernel: check what the kernel does not check; find valid elements."""
    check, ignore_index = options.check_targets, options.ignore_index
    # The kernels of the CPU check ranges themselves.
    checks_here = backend is selection.TRITON and _checks_on_host(check, arguments.input)
    # Kernels compare targets with `ignore_index` in float32.
    wide_marker = ignore_index is not None and arguments.target.dtype == torch.float64
    valid = Valid(arguments.mask)
    if checks_here or wide_marker or options.reduction == "batch_mean":
        values = convert(arguments)
        valid = find_valid(arguments, values, ignore_index)
        if checks_here:
            check_ranges(loss.domain, arguments, values, valid, True)
    if wide_marker:
        arguments = arguments._replace(mask=valid.elements)
        options = options._replace(ignore_index=None)
    elif ignore_index is not None and ignore_index != ignore_index:
        # Always the same object, since calls are cached by it.
        options = options._replace(ignore_index=math.nan)
    return arguments, options, valid


def _checks_on_host(check: bool | None, input: Tensor) -> bool:
    """Whether ranges are checked before a kernel of Triton runs.

    Values on a GPU are read only if `check` is True, since the host has to wait for them.
    """
    return check is not False and (bool(check) or input.is_cpu)


@functools.lru_cache(maxsize=256)
def _call(
    loss: Loss, smoothing: float, ignore_index: float | None, reduction: str, checked: bool
) -> Call:
    options = Options(None, None, smoothing, ignore_index, None, reduction, checked)
    spec = loss_spec(loss, smoothing, ignore_index)
    return Call(spec, reduction, functools.partial(_definition, loss, options), checked)


def _definition(
    loss: Loss,
    options: Options,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    return dense_loss(loss, aligned(input, target, weight, pos_weight, mask), options)
