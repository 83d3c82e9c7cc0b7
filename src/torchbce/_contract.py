"""What every loss does with its arguments: check them, align them once, hand them to a backend."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchbce.backends import dispatch, selection
from torchbce.definition import checks, kinds
from torchbce.definition.arguments import Options, align
from torchbce.definition.family import Loss

_TENSORS = "input", "target", "weight", "pos_weight", "mask"
#: The public function of each loss, which the `__torch_function__` of a tensor is given.
_functions: dict[str, Callable[..., Tensor]] = {}


def register(functions: dict[str, Callable[..., Tensor]]) -> None:
    """Name the public functions of the losses, which are defined in a later module."""
    _functions.update(functions)


def evaluate(
    loss: Loss,
    input: Tensor,
    target: Tensor,
    weight: Tensor | float | None,
    pos_weight: Tensor | float | None,
    label_smoothing: float,
    ignore_index: float | None,
    mask: Tensor | None,
    reduction: str,
    check_targets: bool | None,
) -> Tensor:
    """The loss of one member of the family; the arguments are those of its function."""
    # A call without options that was made before, with tensors of the same kind, is prepared: see
    # `cpu.prepared` and `gpu.prepared`. It is looked up with as few function calls as possible,
    # since on few elements each of them is a percent of the time of a step.
    key = None
    if (
        weight is pos_weight is None
        and mask is None
        and ignore_index is None
        and type(label_smoothing) in (float, int)
        and not label_smoothing
        and not loss.tensors
        and not torch.compiler.is_dynamo_compiling()
    ):
        try:
            kind = input.shape, input.dtype, input.requires_grad, target.shape, target.dtype
            key = (
                loss,
                reduction,
                check_targets is False,
                check_targets is None,
                input.is_cuda,
                kind,
            )
            prepared = dispatch.prepared[key]
        except (KeyError, TypeError, AttributeError, RuntimeError):
            prepared = None
        if prepared is not None and selection.open_blocks == 0:
            value = prepared(input, target)
            if value is not None:
                return value
    tensors = input, target, weight, pos_weight, mask
    every: tuple[object, ...] = tensors
    if loss.tensors:
        every += tuple(constant for _, constant in loss.tensors)
    plain = kinds.are_plain(every)
    if not plain:
        named: dict[str, object] = dict(zip(_TENSORS, tensors, strict=True))
        named.update(loss.tensors)
        kinds.check_kinds(named)
        kinds.check_distributed(named)
    if has_torch_function_variadic(*every):
        return kinds.overridden(
            _functions[loss.name],
            every,
            input,
            target,
            **loss.own_options(),
            weight=weight,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            mask=mask,
            reduction=reduction,
            check_targets=check_targets,
        )
    if not plain and not torch.compiler.is_compiling():
        input, target, weight, pos_weight, mask = map(kinds.plain, tensors)
        if input is not tensors[0] or target is not tensors[1]:
            key = None  # the next call comes with a subclass too
    checks.reduction(reduction)
    label_smoothing = checks.fraction("label_smoothing", label_smoothing)
    if ignore_index is not None:
        ignore_index = checks.number("ignore_index", ignore_index)
    if not torch.compiler.is_compiling():
        weight = checks.scalar_to_device(weight, input)
        pos_weight = checks.scalar_to_device(pos_weight, input)
    if loss.tensors:
        loss = loss.aligned(input)
    unchecked = check_targets is False and loss.domain.name != "logits"
    own = dict(loss.tensors)
    backend = selection.chosen(input, target, weight, pos_weight, mask, unchecked, **own)
    if loss.kernel is None:
        backend = selection.REFERENCE
    if backend is selection.REFERENCE:  # kernels take only floating inputs and real targets
        checks.input_dtype("input", input, target)
        checks.target_dtype(target)
    if loss.of_hard_targets and not label_smoothing and not target.is_floating_point():
        loss = loss.of_hard_targets
    options = Options(
        weight, pos_weight, label_smoothing, ignore_index, mask, reduction, check_targets
    )
    arguments = align(input, target, options)
    return dispatch.evaluate(backend, loss, arguments, options, key, target)
