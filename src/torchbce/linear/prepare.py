"""From checked arguments to a call and its operands."""

import functools

import torch
from torch import Tensor

from torchbce.backends import selection
from torchbce.definition import reference
from torchbce.definition.reductions import Denominator, denominator, warn_of_empty_mean
from torchbce.linear import counts, targets
from torchbce.linear.arguments import check_finite
from torchbce.linear.dense import check_dense_target, dense_loss
from torchbce.linear.records import LinearCall, LinearOperands, LinearOptions, LogitsShape
from torchbce.linear.sharding import LabelShard
from torchbce.linear.sparse_input import checked_columns, is_sparse


def prepare(
    input: Tensor, target: Tensor, options: LinearOptions, shard: LabelShard
) -> tuple[LinearCall, LinearOperands]:
    """The call and its operands, of arguments that `arguments.check` has accepted.

    Raises for values out of range; a dense target on the CPU is checked as its loss is computed.
    """
    columns = None
    if is_sparse(input):
        columns = checked_columns(input)
    else:
        check_finite(input)
    shape = LogitsShape(input.shape[:-1], shard.labels, shard.first, shard.local)
    is_dense = target.layout is torch.strided and target.dtype != torch.int64
    x = input.detach()
    if columns is None:
        backend = selection.chosen(x, target if is_dense else x, None, None, options.mask)
    else:
        backend = selection.for_sparse_input()
    on_gpu, check = backend is selection.TRITON, options.check_targets
    check_target = functools.partial(check_dense_target, target, options, shape)
    if on_gpu and (check or (check is None and input.is_cpu)):
        check_target()
    if shard.group is not None and is_dense:
        # Before the chunks are computed, where only the process with the value would raise, and the
        # others would wait for its sums.
        check_target()
    mask = _mask_of_rows(options.mask, shape)
    all_ignored, ignored = targets.ignored_keys(options.ignored, shape, check, on_gpu)
    operands = LinearOperands(
        *targets.target_operands(target, shape, check, on_gpu),
        None if mask is None else mask[:, shape.first : shape.first + shape.local],
        ignored,
        *_weights(input, options, shape),
        columns,
    )
    # After the checks of values: it may warn.
    divisor = _denominator(options, shape, mask, all_ignored, on_gpu)
    call = LinearCall(
        shape.batch,
        options.reduction,
        divisor,
        options.label_smoothing,
        options.chunk_labels,
        shard.group,
        backend,
        check_target=None if check is False else check_target,
        dense_loss=functools.partial(dense_loss, target=target, options=options),
    )
    return call, operands


def _mask_of_rows(mask: Tensor | None, shape: LogitsShape) -> Tensor | None:
    """A mask as [rows, labels], a view if it is broadcast over rows or labels."""
    if mask is None:
        return None
    if mask.shape[-1:].numel() == 1:
        rows = mask.expand(*shape.batch, 1).reshape(shape.rows, 1)
        return rows.expand(shape.rows, shape.labels)
    if mask.shape[:-1].numel() == 1:
        return mask.reshape(shape.labels).expand(shape.rows, shape.labels)
    return mask.expand(shape.dense).reshape(shape.rows, shape.labels)


def _denominator(
    options: LinearOptions,
    shape: LogitsShape,
    mask: Tensor | None,
    ignored: Tensor | None,
    on_gpu: bool,
) -> Denominator:
    """The denominator; warns of a mean over no elements, if the host knows the number."""
    if options.reduction in ("sum", "none"):
        valid = None  # not needed
    elif on_gpu and ignored is not None and _is_sparse(options.ignored):
        valid = counts.valid_labels_of_keys_on_gpu(mask, ignored, shape)
    elif on_gpu:
        valid = counts.valid_labels_on_gpu(mask, options.ignored, shape)
    else:
        valid = counts.valid_labels(mask, ignored, shape)
    elements, rows = counts.elements_and_rows(shape, valid)
    if not on_gpu:
        elements, rows = float(elements), float(rows)
    if "mean" in options.reduction and not isinstance(elements, Tensor) and elements == 0:
        warn_of_empty_mean(options.reduction)
    divisor = denominator(options.reduction, elements, rows)
    return divisor.double() if isinstance(divisor, Tensor) else divisor


def _is_sparse(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.layout is not torch.strided


def _weights(
    input: Tensor, options: LinearOptions, shape: LogitsShape
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`pos_weight`, `label_weight` and `row_weight` in the dtype of computation."""
    dtype = reference.compute_dtype(input.dtype)
    local = slice(shape.first, shape.first + shape.local)
    p, u, v = options.pos_weight, options.label_weight, options.row_weight
    if p is not None:
        if not isinstance(p, Tensor) or p.device != input.device:
            # Filled on the device: a copy to a GPU would make the host wait.
            p = torch.full((), float(p), dtype=dtype, device=input.device)
        p = p.to(dtype)
        p = p.reshape(()) if p.numel() == 1 else p[local]
    return (
        p,
        None if u is None else u[local].to(dtype),
        None if v is None else v.reshape(-1).to(dtype),
    )
