"""Launch the Triton kernels on PyTorch tensors. The host never waits for the device."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import triton
from torch import Tensor

from torchbce.backends.gpu import formulas, kernels, tiles
from torchbce.backends.gpu.operands import (
    BY_NUMBER,
    BY_TENSOR,
    BY_VALID_COUNT,
    BY_WEIGHT_SUM,
    IGNORE_EQUAL,
    IGNORE_NAN,
    IGNORE_NONE,
    SPARSE,
    Flags,
    Layout,
    LinearInputs,
    Operands,
    Outputs,
    SparseKeys,
    layout_of,
)
from torchbce.backends.request import KernelInputs, LossSpec, as_in, strides_of_memory
from torchbce.definition import reference
from torchbce.definition.family import BY_P_T, FORMS, KERNELS
from torchbce.definition.reductions import Denominator

#: The kernel reads constants per element wherever there are tensors.
_LOSSES: dict[str, int] = {
    "logits": formulas.LOGITS.value,
    **{"focal" + form: formulas.FOCAL.value for form in FORMS},
    **{"poly" + form: formulas.POLY.value for form in FORMS},
    **{"asymmetric" + form: formulas.ASYMMETRIC.value for form in FORMS},
    "probability": formulas.PROBABILITY.value,
    "log_probability": formulas.LOG_PROBABILITY.value,
}
_NO_LINEAR = LinearInputs()
_WARPS = 4
#: Partial sums that `sum_kernel` adds up at a time: 8 per thread of the largest program.
_SUM_BLOCK = 8192


class Kernel(Protocol):
    """A function compiled by Triton: `kernel[grid](*arguments, **options)` launches it."""

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., object]: ...


class Launch(NamedTuple):
    """A kernel, its number of programs, and its arguments.

    Attributes:
        kernel: one of `kernels`.
        programs: the number of programs.
        arguments: tensors, records of them, and numbers.
        options: parameters that are known at compile time, and options of Triton's compiler.
    """

    kernel: Kernel
    programs: int
    arguments: tuple[object, ...]
    options: dict[str, object]


def new_output(inputs: KernelInputs) -> Tensor:
    """Memory for losses or a gradient: the input's shape and dtype, in the kernel's order."""
    input, strides = strides_of_memory(inputs)
    return torch.empty_strided(input.shape, strides, dtype=input.dtype, device=input.device)


def value_and_gradient(
    loss_spec: LossSpec,
    inputs: KernelInputs,
    gradient: Tensor | None,
    denominator: Denominator | None = 1.0,
    weighted: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses over a denominator, and the gradient of that value.

    Args:
        loss_spec: the loss and its options.
        inputs: what the kernel reads.
        gradient: where the gradient goes, from `new_output`; None if it is not needed. It requires
            a denominator that is known beforehand.
        denominator: a number, a tensor of one element, or None if the kernel computes it: the
            number of valid elements or, if `weighted`, the sum of their weights.
        weighted: see `denominator`.

    Returns:
        The value, 0-dimensional, and the denominator if the kernel computed it.
    """
    input = inputs.input
    dtype = reference.compute_dtype(input.dtype)
    n = input.numel()
    if n == 0:
        one = input.new_ones((), dtype=dtype) if denominator is None else None
        return input.new_zeros((), dtype=dtype), one
    value = input.new_empty((), dtype=dtype)
    computed = input.new_empty((), dtype=dtype) if denominator is None else None
    programs = tiles.count_programs(n, tiles.block_size(loss_spec, inputs))
    if programs == 1:
        outputs = Outputs(gradient=gradient, value=value, denominator=computed)
        launch_loss(loss_spec, inputs, outputs, denominator=denominator, weighted=weighted)
        return value, computed
    sums = input.new_empty((1 if denominator is not None else 2, programs), dtype=dtype)
    outputs = Outputs(gradient=gradient, sums=sums)
    launch_loss(loss_spec, inputs, outputs, denominator=denominator, weighted=weighted)
    launch_sum(sums, value, denominator, weighted, computed)
    return value, computed


def launch_loss(
    loss_spec: LossSpec,
    inputs: KernelInputs,
    outputs: Outputs,
    linear: LinearInputs | None = None,
    *,
    denominator: Denominator | None = 1.0,
    weighted: bool = False,
    scale: float = 1.0,
    upstream: Tensor | None = None,
    skip_if_one: bool = False,
    exact: bool | None = None,
) -> None:
    """One pass over the elements.

    Args:
        loss_spec: the loss and its options.
        inputs: what the kernel reads.
        outputs: where the results go.
        linear: further inputs for the logits of a linear layer.
        denominator: divides value and gradient: a number, or a tensor of one element. None if the
            kernel computes it, which is too late for the gradient.
        weighted: whether the kernel computes the sum of the weights instead of the number of
            valid elements.
        scale: multiplies the gradient.
        upstream: the upstream gradient, broadcasting to the shape of the input.
        skip_if_one: whether to do nothing if `upstream`, of one element, is 1.
        exact: false where the accuracy of 16 bits is enough; None to decide by the outputs' dtypes.
    """
    n = inputs.input.numel()
    if n == 0:
        return
    block = tiles.block_size(loss_spec, inputs, linear is not None)
    linear = linear or _NO_LINEAR
    keys, sparse_values = _sparse_keys(inputs, linear, block)
    tensors, kinds, layout = _operands(inputs, linear, upstream, keys.target, sparse_values)
    ignore, ignore_index = _ignored_targets(loss_spec.ignore_index, inputs.target)
    source, on_device, number = _denominator(denominator, weighted)
    flags = Flags(
        kinds=kinds,
        loss=_LOSSES[loss_spec.loss],
        by_p_t=loss_spec.loss.endswith(BY_P_T),
        attached=loss_spec.constants[5] != 0,
        neutral=KERNELS[loss_spec.loss].neutral,
        ignore=ignore,
        ignores=(ignore != IGNORE_NONE or inputs.mask is not None or keys.ignored is not None),
        smooth=loss_spec.smoothing != 0,
        exact=_exceeds_16_bits(inputs.input, outputs) if exact is None else exact,
        short=tuple(size < block for size in layout.sizes),
        wide_index=n >= 2**31 - block * tiles.tiles_per_program(n),
        even=n % 16 == 0,
        denominator=source,
        skip_if_one=skip_if_one,
        tiles=tiles.tiles_per_program(n),
        block=block,
    )
    arguments = (
        tensors,
        layout,
        keys,
        linear.first_key,
        outputs,
        on_device,
        n,
        *loss_spec.constants[:5],
        float(loss_spec.smoothing),
        ignore_index,
        scale / number,
        number,
    )
    options: dict[str, object] = {"FLAGS": flags, "num_warps": _WARPS}
    if not flags.even and torch.version.hip is None:
        # Such a kernel holds the code of a tile twice. Without this limit ptxas spills a few
        # bytes instead of using one more register.
        options["maxnreg"] = 255
    programs = tiles.count_programs(n, block)
    _run(Launch(kernels.loss_kernel, programs, arguments, options), inputs.input)


def launch_sum(
    sums: Tensor,
    value: Tensor,
    denominator: Denominator | None = 1.0,
    weighted: bool = False,
    computed: Tensor | None = None,
) -> None:
    """The value from the partial sums that `launch_loss` left, [programs] or [2, programs].

    Args:
        sums: of the losses and, if the kernel computes the denominator, its parts.
        value: where the value goes, 0-dimensional.
        denominator: a number, a tensor of one element, or None if the kernel computes it.
        weighted: as in `launch_loss`.
        computed: where the denominator goes that the kernel computes, 0-dimensional.
    """
    programs = sums.shape[-1]
    block = min(max(triton.next_power_of_2(programs), 128), _SUM_BLOCK)
    source, on_device, number = _denominator(denominator, weighted)
    arguments = Outputs(sums=sums, value=value, denominator=computed), on_device, programs, number
    options: dict[str, object] = {
        "DENOMINATOR": source,
        "BLOCK": block,
        "num_warps": tiles.sum_warps(block, sums.device),
    }
    _run(Launch(kernels.sum_kernel, 1, arguments, options), sums)


def launch_scale(values: Tensor, factor: Tensor) -> None:
    """Multiply contiguous memory in place by a tensor of one element."""
    n = values.numel()
    if n:
        options: dict[str, object] = {"BLOCK": tiles.BLOCK, "num_warps": _WARPS}
        programs = -(-n // tiles.BLOCK)
        _run(Launch(kernels.scale_kernel, programs, (values, factor, n), options), values)


def _sparse_keys(
    inputs: KernelInputs, linear: LinearInputs, block: int
) -> tuple[SparseKeys, Tensor | None]:
    """The keys of a sparse target and of ignored elements; and the values of that target."""
    _, _, keys, values, ignored, starts, ignored_starts, first = linear
    if inputs.positions is not None:
        keys, values = inputs.positions, inputs.target
    n = inputs.input.numel()
    if keys is not None and starts is None:
        starts = tiles.search_tile_starts(keys, first, n, block)
    if ignored is not None and ignored_starts is None:
        ignored_starts = tiles.search_tile_starts(ignored, first, n, block)
    return SparseKeys(keys, starts, ignored, ignored_starts), values


def _operands(
    inputs: KernelInputs,
    linear: LinearInputs,
    upstream: Tensor | None,
    keys: Tensor | None,
    sparse_values: Tensor | None,
) -> tuple[Operands[Tensor | None], Operands[int], Layout]:
    """The tensors that the kernel reads, their kinds, and their strides."""
    input, target, weight, pos_weight, mask, _, *constants = inputs
    tensors = Operands[Tensor | None](
        input,
        target if keys is None else None,
        weight,
        pos_weight,
        mask,
        upstream,
        linear.bias,
        linear.weight,
        *constants,
    )
    kinds, layout = layout_of(tensors, inputs)
    if keys is not None:
        kinds = kinds._replace(target=SPARSE)
        tensors = tensors._replace(target=sparse_values)
    return tensors, kinds, layout


def _ignored_targets(ignore_index: float | None, target: Tensor) -> tuple[int, float]:
    """Which targets are ignored, and the number that they equal in the target's dtype."""
    if ignore_index is None:
        return IGNORE_NONE, 0.0
    if math.isnan(ignore_index):
        return IGNORE_NAN, 0.0
    return IGNORE_EQUAL, as_in(ignore_index, target.dtype)


def _exceeds_16_bits(input: Tensor, outputs: Outputs) -> bool:
    written = [t for t in (outputs.losses, outputs.gradient) if t is not None] or [input]
    return any(t.dtype.itemsize > 2 for t in written)


def _denominator(
    denominator: Denominator | None, weighted: bool
) -> tuple[int, Tensor | None, float]:
    """Where the denominator comes from; the tensor, if it is one; the number, or else 1."""
    if denominator is None:
        return (BY_WEIGHT_SUM if weighted else BY_VALID_COUNT), None, 1.0
    if isinstance(denominator, Tensor):
        return BY_TENSOR, denominator, 1.0
    return BY_NUMBER, None, float(denominator)


def _run(launch: Launch, tensor: Tensor) -> None:
    """Launch on the device of a tensor."""
    # Contraction to fused multiply-adds would break the remainders that `formulas` computes.
    kernel = functools.partial(launch.kernel[(launch.programs,)], enable_fp_fusion=False)
    device = tensor.device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel(*launch.arguments, **launch.options)
    else:
        kernel(*launch.arguments, **launch.options)
