"""Linear + cross-entropy under autograd: gradients with the loss, or when they are asked for.

In one visit where that is exact: three products. Where it is not, the forward visit computes the
loss alone and the backward visit the gradients, four products: with a number from above for each
row ("none"), in float16, which a loss scale is to keep from underflow, under saved-tensor hooks,
which offload or forget, and for an update that takes the place of the gradient.
"""

import ctypes
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.backends import selection
from torchbce.definition import reference
from torchbce.linear import sharding
from torchbce.linear.chunks import (
    NOTHING,
    Gradients,
    Head,
    InvalidTargetError,
    Update,
    Wants,
    in_full_precision,
    visit,
)
from torchbce.linear.targets import Operands

#: Makes, of weight, bias and which of them are not frozen, what changes them chunk by chunk.
Updates = Callable[[Tensor, Tensor | None, Wants], Update]


class Call(NamedTuple):
    """What is asked for, beside the tensors.

    Attributes:
        lead: the shape of the losses of "none".
        reduction: its name.
        divisor: what the sum of the losses is divided by; a tensor of one element where a GPU has
            counted it.
        smoothing: of the targets.
        chunk_labels: how many labels to a chunk, or None.
        group: of the processes that hold the other labels, or None.
        backend: by which a chunk is visited, see `_backends`.
        updates: makes what is done with gradients of weight and bias; None to return them.
        look_at_targets: raises for a dense target outside its range; None where none is looked at.
        definition: the loss of input, weight and bias in plain PyTorch, for derivatives of
            derivatives.
    """

    lead: torch.Size
    reduction: str
    divisor: float | Tensor
    smoothing: float = 0.0
    chunk_labels: int | None = None
    group: Any = None
    backend: str = selection.REFERENCE
    updates: Callable[[Wants], Update] | None = None
    look_at_targets: Callable[[], None] | None = None
    definition: Callable[..., Tensor] | None = None


def evaluate(call: Call, head: Head, operands: Operands) -> Tensor:
    """The loss, differentiable by input, weight and bias. The input is [..., features]."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in head):
        apply: Any = _Linear.apply
        value: Tensor = apply(*head, call, operands)
        return value
    value, _ = run(call, head, operands, NOTHING)
    return value


def run(call: Call, head: Head, operands: Operands, wants: Wants) -> tuple[Tensor, Gradients]:
    """The loss, and gradients by an incoming gradient of 1."""
    by_row = call.reduction == "none"
    total, found = _visit(call, head, operands, wants, 1.0, None, by_row)
    dtype = reference.compute_dtype(head.input.dtype)
    if not isinstance(total, Tensor):
        # Infinite where float32 is: PyTorch would raise. A sum in float64 comes as a tensor.
        loss = ctypes.c_float(total / float(call.divisor)).value
        return head.input.new_full((), loss, dtype=dtype), found
    return (total / call.divisor).to(dtype).view(call.lead if by_row else ()), found


def gradients(
    call: Call, head: Head, operands: Operands, wants: Wants, upstream: Tensor, update: Any = None
) -> Gradients:
    """The gradients by an incoming one: of the loss' shape."""
    dtype = reference.compute_dtype(head.input.dtype)
    scale: float | Tensor = 1.0
    above = None
    if call.reduction == "none":
        above = upstream.reshape(-1).to(dtype)
    else:
        scale = upstream.to(dtype) if call.backend is selection.TRITON else float(upstream)
    _, found = _visit(call, head, operands, wants, scale, above, False, update)
    return _rounded(found, head)


def _visit(
    call: Call,
    head: Head,
    operands: Operands,
    wants: Wants,
    scale: float | Tensor,
    upstream: Tensor | None,
    by_row: bool,
    update: Update | None = None,
) -> tuple[Tensor | float, Gradients]:
    x = head.input.reshape(call.lead.numel(), head.input.shape[-1])
    sums = sharding.Sums(call.group)
    try:
        with torch.no_grad(), in_full_precision(x.device):
            total, found = visitor(call.backend)(
                Head(x, *head[1:]),
                operands,
                smoothing=call.smoothing,
                chunk_labels=call.chunk_labels,
                wants=wants,
                scale=scale / call.divisor,
                upstream=upstream,
                by_row=by_row,
                update=update,
                input_is_done=sums.begin,
                checked=call.look_at_targets is not None,
            )
            if call.group is not None:
                total = torch.as_tensor(total, dtype=torch.float64, device=x.device)
                sums.begin(total)
            sums.finish()
    except InvalidTargetError as error:
        wrong = error
    else:
        return total, found
    assert call.look_at_targets is not None
    call.look_at_targets()
    raise wrong


def visitor(backend: str) -> Callable[..., tuple[Tensor | float, Gradients]]:
    """What visits the chunks, on the CPU or on a GPU."""
    if backend is selection.TRITON:
        from torchbce.linear import chunks_gpu

        return chunks_gpu.visit
    return visit


def _rounded(found: Gradients, head: Head) -> Gradients:
    """The input's gradient in its own shape and dtype."""
    if found.input is None:
        return found
    return found._replace(input=found.input.to(head.input.dtype).view(head.input.shape))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        call: Call,
        operands: Operands,
    ) -> Tensor:
        head = Head(input, weight, bias)
        keeps = (
            call.reduction != "none"
            and call.updates is None
            and all(t is None or t.dtype != torch.float16 for t in head)
            and _pytorch.saved_tensor_hooks(True) is None
        )
        wants = Wants(*ctx.needs_input_grad[:3]) if keeps else NOTHING
        loss, found = run(call, head, operands, wants)
        ctx.call, ctx.found = call, found if keeps else None
        ctx.save_for_backward(*head, *operands)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        call, saved = ctx.call, ctx.saved_tensors
        head, operands = Head(*saved[:3]), Operands(*saved[3:])
        wants = Wants(*ctx.needs_input_grad[:3])
        # A tensor of several incoming gradients at once has no memory of its own.
        plain = _pytorch.has_storage(upstream) and not upstream.requires_grad
        plain = plain and not upstream.is_neg() and not _pytorch.is_zero_tensor(upstream)
        if torch.is_grad_enabled() or selection.active_mode() is not None or not plain:
            return *_by_definition(call, head, wants, upstream), None, None
        if call.updates is not None:
            update = _updating(call, wants, upstream)
            found = gradients(call, head, operands, Wants(wants.input), upstream, update)
            return found.input, None, None, None, None
        # Taken by the first of several backward passes; others compute their own, since whoever
        # asked may write into what he got.
        kept = ctx.__dict__.pop("found", None)
        if kept is not None and _scale(call, kept, upstream):
            return *_rounded(kept, head), None, None
        return *gradients(call, head, operands, wants, upstream), None, None


def _scale(call: Call, found: Gradients, upstream: Tensor) -> bool:
    """Multiply gradients in place, if that rounds none of them a second time.

    On a GPU it may: bfloat16 by a number that is no power of two. The host does not look at it, and
    the products would take longer.
    """
    if call.backend is selection.TRITON:
        from torchbce.backends.gpu import launch as gpu_launch

        for tensor in found:
            if tensor is not None:
                gpu_launch.multiply(tensor, upstream)
        return True
    factor = upstream.item() if upstream.device.type == "cpu" else None
    if factor == 1:
        return True
    half = any(t is not None and t.dtype == torch.bfloat16 for t in found)
    if half and (factor is None or abs(math.frexp(factor)[0]) != 0.5):
        return False
    for tensor in found:
        if tensor is not None:
            tensor.mul_(upstream if factor is None else factor)
    return True


def _updating(call: Call, wants: Wants, upstream: Tensor) -> Update | None:
    """What changes the parameters that are not frozen."""
    assert call.updates is not None
    # On a GPU the host would have to wait for the answer.
    if upstream.is_cpu and not upstream.isfinite().all():
        raise RuntimeError(
            f"the gradient that comes in is {upstream.tolist()}, and a fused optimizer would write "
            "it into the weight, which is left as it was. Do not scale the loss of such a head by "
            "torch.amp.GradScaler; look for a diverged step before it"
        )
    return call.updates(wants) if wants.weight or wants.bias else None


def _by_definition(call: Call, head: Head, wants: Wants, upstream: Tensor) -> tuple[Any, ...]:
    """For derivatives of derivatives, and batched ones: the dense form, differentiated."""
    if call.definition is None:
        raise RuntimeError(
            "this head has first derivatives alone: it is sharded, or updated by a fused "
            "optimizer. Call backward without create_graph, or give the whole weight"
        )
    create = torch.is_grad_enabled()
    asked = [t for t, wanted in zip(head, wants, strict=True) if wanted and t is not None]
    with torch.enable_grad(), in_full_precision(head.input.device):
        found = iter(
            torch.autograd.grad(call.definition(*head), asked, upstream, create_graph=create)
        )
    return tuple(next(found) if wanted else None for wanted in wants)
