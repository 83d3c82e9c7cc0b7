"""From a call of a loss to the code that computes it: the only branch on the backend."""

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
    kernel_denominator,
    loss_spec,
)
from torchbce.definition.arguments import (
    Arguments,
    Options,
    Valid,
    aligned,
    check_ranges,
    find_valid,
)
from torchbce.definition.dense import dense_loss
from torchbce.definition.family import Loss
from torchbce.definition.reductions import warn_of_empty_mean

#: Calls that were made before, by what `_contract.evaluate` can compare without a function call;
#: None for a call that was made once. See `cpu.prepared`.
prepared: dict[Hashable, Callable[[Tensor, Tensor], Tensor | None] | None] = {}
_MOST_PREPARED = 1024


def evaluate(
    backend: str, loss: Loss, arguments: Arguments, options: Options, key: Hashable = None
) -> Tensor:
    """The loss, of tensors that are aligned.

    Args:
        backend: that `selection` chose.
        loss: which.
        arguments: the tensors.
        options: the options; its tensors are those of `arguments`.
        key: under which the call may be prepared for the next time; None for never.
    """
    if backend is selection.REFERENCE:
        return dense_loss(loss, arguments, options)
    arguments, options, valid = _for_kernel(backend, loss, arguments, options)
    input, target, weight, pos_weight, mask, entries = arguments
    _, _, smoothing, ignore_index, _, reduction, check = options
    if torch.compiler.is_compiling():
        spec = loss_spec(loss, smoothing, ignore_index)
        return in_graph(spec, reduction, KernelInputs(input, target, weight, pos_weight, mask))
    call = _call(loss, smoothing, ignore_index, reduction, check is not False)
    by = kernel_denominator(reduction, arguments, ignore_index, valid.elements)
    if entries is None:
        request = Request(call, KernelInputs(input, target, weight, pos_weight, mask), by)
    else:
        positions, values = entries.positions(input.shape), entries.values
        if backend is selection.TRITON and target.layout is torch.sparse_csr:
            # The columns of a row may be in any order, and the kernel finds them by bisection.
            positions, ascending = positions.sort()
            values = values[ascending]
        inputs = KernelInputs(input, values, weight, pos_weight, mask, positions)
        request = Request(call, inputs, by, target)
    if key is not None and backend is selection.NUMBA:
        _prepare(key, request)
    value, count = run(backend, request)
    if count == 0 and "mean" in reduction:
        warn_of_empty_mean(reduction)
    return value


def run(backend: str, request: Request) -> tuple[Tensor, float]:
    """The loss by a kernel, and how many elements are valid (all, where the host does not know)."""
    if backend is selection.NUMBA:
        from torchbce.backends.cpu import autograd as cpu_autograd  # loads Numba

        return cpu_autograd.evaluate(request)
    from torchbce.backends.gpu import autograd as gpu_autograd  # loads Triton

    return gpu_autograd.evaluate(request), request.inputs.input.numel()


def _prepare(key: Hashable, request: Request) -> None:
    """Prepare a call that is made for the second time."""
    if len(prepared) >= _MOST_PREPARED:
        prepared.clear()
    if key not in prepared:
        prepared[key] = None
    else:
        from torchbce.backends.cpu.prepared import prepare

        prepared[key] = prepare(request)


def in_graph(spec: LossSpec, reduction: str, inputs: KernelInputs) -> Tensor:
    """The loss as a node of the graph that torch.compile is tracing."""
    from torchbce.backends import compiled  # with the first graph: it takes 8 ms

    return compiled.loss(spec, reduction, *inputs[:5])


def _for_kernel(
    backend: str, loss: Loss, arguments: Arguments, options: Options
) -> tuple[Arguments, Options, Valid]:
    """A call as kernels take it, its values checked where the kernel does not; what is valid."""
    check, ignore_index = options.check_targets, options.ignore_index
    # The CPU's kernels check ranges in their pass. Triton's do not: values on a GPU are read only
    # when asked for, since the host has to wait.
    looks = backend is selection.TRITON and check is not False and (check or arguments.input.is_cpu)
    # Kernels compare with the marker in float32.
    wide_marker = ignore_index is not None and arguments.target.dtype == torch.float64
    valid = Valid(arguments.mask)
    if looks or wide_marker or options.reduction == "batch_mean":
        valid = find_valid(arguments, ignore_index)
    if looks:
        check_ranges(loss.domain, arguments, valid, True)
    if wide_marker:
        arguments = arguments._replace(mask=valid.elements)
        options = options._replace(ignore_index=None)
    elif ignore_index is not None and ignore_index != ignore_index:
        options = options._replace(ignore_index=math.nan)  # one object: calls are cached by it
    return arguments, options, valid


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
