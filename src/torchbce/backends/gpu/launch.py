"""Launch the Triton kernels on PyTorch tensors. The host never waits for the device."""

import ctypes
import math
from collections.abc import Callable, Hashable, Sequence

import torch
import triton
from torch import Tensor

from torchbce.backends.gpu import formulas, kernels, tiles
from torchbce.backends.gpu.calls import Launch, PreparedLaunch
from torchbce.backends.gpu.numbers import Number
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
#: The place of `first_key` among the arguments of the loss kernel; it is another one per chunk.
_FIRST_KEY = 3
#: Partial sums that `sum_kernel` adds up at a time: 8 per thread of the largest program.
_SUM_BLOCK = 8192


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
    outside: Tensor | None = None,
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
        outside: see `Outputs`.

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
        outputs = Outputs(None, gradient, None, value, computed, outside)
        launch_loss(loss_spec, inputs, outputs, denominator=denominator, weighted=weighted)
        return value, computed
    sums = input.new_empty((1 if denominator is not None else 2, programs), dtype=dtype)
    outputs = Outputs(gradient=gradient, sums=sums, outside=outside)
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
    further = linear or _NO_LINEAR
    keys, sparse_values = _sparse_keys(inputs, further, block)
    tensors = _operands(inputs, further, upstream, keys.target, sparse_values)
    source, on_device, number = _denominator(denominator, weighted)
    kinds = [None if t is None else (t.dtype, t.shape, t.stride()) for t in tensors]
    others = *keys, *outputs, on_device
    dtypes = [None if t is None else t.dtype for t in others]
    device = inputs.input.device
    given = loss_spec, inputs.target.dtype, source, number, scale, skip_if_one, exact
    key = "loss", device, linear is None, inputs.positions is None, *given, *kinds, *dtypes

    def describe() -> Launch:
        return describe_loss(
            loss_spec,
            inputs,
            outputs,
            tensors,
            keys,
            further.first_key,
            (source, on_device, number),
            scale,
            skip_if_one,
            exact,
            block,
        )

    present = [t for t in (*tensors, *others) if t is not None]
    run(key, present, describe, device, further.first_key)


def describe_plain(
    loss_spec: LossSpec,
    inputs: KernelInputs,
    outputs: Outputs,
    denominator: float,
    upstream: Tensor | None = None,
) -> Launch:
    """The launch of `launch_loss` for an input and a target without options.

    With `upstream`, it is that of a backward pass, which does nothing if `upstream` is 1.
    """
    return describe_loss(
        loss_spec,
        inputs,
        outputs,
        _operands(inputs, _NO_LINEAR, upstream, None, None),
        SparseKeys(None, None, None, None),
        0,
        _denominator(denominator, False),
        1.0,
        upstream is not None,
        None,
        tiles.block_size(loss_spec, inputs),
    )


def describe_loss(
    loss_spec: LossSpec,
    inputs: KernelInputs,
    outputs: Outputs,
    tensors: Operands[Tensor | None],
    keys: SparseKeys,
    first_key: int,
    denominator: tuple[int, Tensor | None, float],
    scale: float,
    skip_if_one: bool,
    exact: bool | None,
    block: int,
) -> Launch:
    """A launch of the loss kernel; the arguments are those of `launch_loss`, sorted."""
    n = inputs.input.numel()
    dense = tensors if keys.target is None else tensors._replace(target=None)
    kinds, layout = layout_of(dense, inputs)
    if keys.target is not None:
        kinds = kinds._replace(target=SPARSE)
    ignore, ignore_index = _ignored_targets(loss_spec.ignore_index, inputs.target)
    source, on_device, number = denominator
    exact = _exceeds_16_bits(inputs.input, outputs) if exact is None else exact
    flags = Flags(
        kinds=kinds,
        loss=_LOSSES[loss_spec.loss],
        by_p_t=loss_spec.loss.endswith(BY_P_T),
        attached=loss_spec.constants[5] != 0,
        neutral=KERNELS[loss_spec.loss].neutral,
        ignore=ignore,
        ignores=(ignore != IGNORE_NONE or inputs.mask is not None or keys.ignored is not None),
        smooth=loss_spec.smoothing != 0,
        exact=exact,
        two_parts=exact or loss_spec.loss == "probability",
        short=tuple(size < block for size in layout.sizes),
        wide_index=n >= 2**31 - block * tiles.tiles_per_program(n),
        whole=n % (block * tiles.tiles_per_program(n)) == 0,
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
        first_key,
        outputs,
        on_device,
        n,
        *loss_spec.constants[:5],
        _in_parts(loss_spec),
        float(loss_spec.smoothing),
        ignore_index,
        scale / number,
        number,
    )
    options: dict[str, object] = {"FLAGS": flags, "num_warps": _WARPS}
    if not (flags.even and keys.target is None) and torch.version.hip is None:
        # Such a kernel holds the code of a tile twice, or searches for keys. Without this limit
        # ptxas spills a few bytes instead of using one more register.
        options["maxnreg"] = 255
    programs = -(-n // block) if skip_if_one else tiles.count_programs(n, block)
    return Launch(kernels.loss_kernel, programs, arguments, options, skip_if_one, _FIRST_KEY)


def _in_parts(loss_spec: LossSpec) -> tuple[Number, ...]:
    """The constants of a loss, and the logit of the margin, in two parts of float32."""
    margin = loss_spec.constants[4]
    is_margin = loss_spec.loss.startswith("asymmetric") and 0 < margin < 1
    logit = math.log(margin) - math.log1p(-margin) if is_margin else 0.0
    return tuple(map(_split, (*loss_spec.constants[:5], logit)))


def _split(number: float) -> Number:
    hi = ctypes.c_float(number).value
    return Number(hi, number - hi if math.isfinite(hi) else 0.0)


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
    source, on_device, number = _denominator(denominator, weighted)
    tensors = [t for t in (sums, value, computed, on_device) if t is not None]
    device = sums.device
    key = "sum", device, source, number, sums.shape[-1], *(t.dtype for t in tensors)

    def describe() -> Launch:
        return describe_sum(sums, value, denominator, weighted, computed)

    run(key, tensors, describe, device)


def describe_sum(
    sums: Tensor,
    value: Tensor,
    denominator: Denominator | None = 1.0,
    weighted: bool = False,
    computed: Tensor | None = None,
) -> Launch:
    """The launch of `launch_sum`, with the same arguments."""
    programs = sums.shape[-1]
    block = min(max(triton.next_power_of_2(programs), 128), _SUM_BLOCK)
    source, on_device, number = _denominator(denominator, weighted)
    arguments = Outputs(sums=sums, value=value, denominator=computed), on_device, programs, number
    options: dict[str, object] = {
        "DENOMINATOR": source,
        "BLOCK": block,
        "num_warps": tiles.sum_warps(block, sums.device),
    }
    return Launch(kernels.sum_kernel, 1, arguments, options)


def launch_scale(
    values: Tensor, factor: Tensor, divisor: Denominator = 1.0, ignores: bool = False
) -> None:
    """Multiply contiguous memory in place by `factor / divisor`.

    Args:
        values: the memory; may be of any shape whose elements fill it.
        factor: of one element.
        divisor: a number, or a tensor of one element.
        ignores: whether a value may be 0 for being ignored. It stays 0 then, even if the factor is
            infinite or NaN.
    """
    n = values.numel()
    if n == 0:
        return
    _, on_device, number = _denominator(divisor, False)
    tensors = [t for t in (values, factor, on_device) if t is not None]
    device = values.device
    key = "scale", device, n, number, ignores, *(t.dtype for t in tensors)

    def describe() -> Launch:
        return describe_scale(values, factor, divisor, ignores)

    run(key, tensors, describe, device)


def describe_scale(
    values: Tensor, factor: Tensor, divisor: Denominator = 1.0, ignores: bool = False
) -> Launch:
    """The launch of `launch_scale`, with the same arguments."""
    n = values.numel()
    _, on_device, number = _denominator(divisor, False)
    options: dict[str, object] = {"IGNORES": ignores, "BLOCK": tiles.BLOCK, "num_warps": _WARPS}
    arguments = values, factor, on_device, n, number
    programs = -(-n // tiles.BLOCK)
    return Launch(kernels.scale_kernel, programs, arguments, options, persistent=True)


#: Launches by everything that their arguments depend on, except for addresses.
_prepared: dict[Hashable, PreparedLaunch] = {}
_MOST_PREPARED = 1024


def run(
    key: Hashable,
    tensors: Sequence[Tensor],
    describe: Callable[[], Launch],
    device: torch.device,
    varying: int = 0,
) -> None:
    """Launch a kernel that `describe` describes the first time."""
    prepared = _prepared.get(key)
    if prepared is not None:
        prepared(tensors, varying)
        return
    prepared = PreparedLaunch(describe(), device)
    prepared(tensors, varying)
    if prepared.is_compiled:
        if len(_prepared) >= _MOST_PREPARED:
            _prepared.clear()
        _prepared[key] = prepared


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
) -> Operands[Tensor | None]:
    """The tensors that the kernel reads; as the target, the values of a sparse one."""
    input, target, weight, pos_weight, mask, _, *constants = inputs
    return Operands(
        input,
        target if keys is None else sparse_values,
        weight,
        pos_weight,
        mask,
        upstream,
        linear.bias,
        linear.weight,
        *constants,
    )


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
