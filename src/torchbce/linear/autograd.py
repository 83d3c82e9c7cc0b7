"""The linear loss under autograd: gradients computed with the loss, or in the backward pass.

Where it is exact, the forward pass computes loss and gradients from three matrix products, and the
backward pass multiplies the gradients by the upstream one. Otherwise the forward pass computes
only the loss, and the backward pass the gradients, with four products in all:

- for reduction "none", whose upstream gradient is a number per row;
- in float16, where only the upstream gradient (a loss scale) keeps gradients from underflow;
- under saved-tensor hooks, which offload or recompute what is saved;
- with a fused optimizer, whose step takes the place of the gradient.
"""

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.backends import selection
from torchbce.definition import checks, reference
from torchbce.linear import chunks, sharding, sparse_input
from torchbce.linear.precision import no_autocast
from torchbce.linear.records import (
    NO_GRADIENTS,
    ChunkRequest,
    Gradients,
    Head,
    InvalidTargetError,
    LinearCall,
    LinearOperands,
    NeedsGrad,
    RunChunks,
    Update,
)


def differentiable_loss(call: LinearCall, head: Head, operands: LinearOperands) -> Tensor:
    """The loss, differentiable by input, weight and bias."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in head):
        # `loss` has seen that no transform of torch.func is active.
        value: Tensor = _apply(*head, call, operands)
        return value
    with _pytorch.profiled(LinearBinaryCrossEntropy.__name__):
        value, _ = loss_and_gradients(call, head, operands, NO_GRADIENTS)
    return value


def loss_and_gradients(
    call: LinearCall, head: Head, operands: LinearOperands, needs_grad: NeedsGrad
) -> tuple[Tensor, Gradients]:
    """The loss, and its gradients for an upstream gradient of 1.

    The input's gradient is [rows, features], in the dtype of computation.
    """
    per_row = call.reduction == "none"
    request = _request(call)._replace(needs_grad=needs_grad, per_row=per_row)
    total, gradients = _run(call, head, operands, request)
    dtype = reference.compute_dtype(head.input.dtype)
    if not isinstance(total, Tensor):
        # Infinite if float32 overflows, where PyTorch would raise. A sum of float64 is a tensor.
        loss = ctypes.c_float(total / float(call.denominator)).value
        return head.input.new_full((), loss, dtype=dtype), gradients
    return (total / call.denominator).to(dtype).view(call.batch if per_row else ()), gradients


def gradients_for(
    call: LinearCall,
    head: Head,
    operands: LinearOperands,
    needs_grad: NeedsGrad,
    upstream: Tensor,
    update: Update | None = None,
) -> Gradients:
    """The gradients for an upstream gradient, which has the loss' shape."""
    dtype = reference.compute_dtype(head.input.dtype)
    request = _request(call)._replace(needs_grad=needs_grad, update=update)
    if call.reduction == "none":
        request = request._replace(upstream=upstream.reshape(-1).to(dtype))
    else:
        scale = upstream.to(dtype) if call.backend is selection.TRITON else float(upstream)
        request = request._replace(scale=scale / call.denominator)
    _, gradients = _run(call, head, operands, request)
    return _as_input(gradients, head)


def _request(call: LinearCall) -> ChunkRequest:
    return ChunkRequest(
        call.smoothing,
        call.chunk_labels,
        scale=1.0 / call.denominator,
        checked=call.check_target is not None,
    )


def _run(
    call: LinearCall, head: Head, operands: LinearOperands, request: ChunkRequest
) -> tuple[Tensor | float, Gradients]:
    """Run the chunks of this process, and sum over the process group."""
    x = head.input
    if x.layout is torch.strided:
        x = x.reshape(call.batch.numel(), x.shape[-1])
    sums = sharding.AsyncSums(call.group)
    request = request._replace(on_input_gradient=sums.start)
    try:
        with torch.no_grad(), no_autocast(x.device):
            run_chunks = chunk_runner(call.backend, sparse=x.layout is not torch.strided)
            total, gradients = run_chunks(head._replace(input=x), operands, request)
            if call.group is not None:
                total = torch.as_tensor(total, dtype=torch.float64, device=x.device)
                sums.start(total)
            sums.wait()
    except InvalidTargetError as error:
        invalid = error
    else:
        return total, gradients
    assert call.check_target is not None
    call.check_target()
    raise invalid


def chunk_runner(backend: str, sparse: bool = False) -> RunChunks:
    """What computes the chunks of a dense or sparse input by a backend."""
    if sparse:
        from torchbce.linear import sparse_chunks  # loads Numba

        return sparse_chunks.run_chunks
    if backend is selection.TRITON:
        from torchbce.linear import chunks_gpu

        return chunks_gpu.run_chunks
    return chunks.run_chunks


def _as_input(gradients: Gradients, head: Head) -> Gradients:
    """The gradients, with that of the input in the input's shape and dtype."""
    if gradients.input is None:
        return gradients
    of_input = gradients.input.to(head.input.dtype)
    if head.input.layout is torch.strided:
        of_input = of_input.view(head.input.shape)
    else:
        of_input = sparse_input.with_values(head.input.detach(), of_input)
    return gradients._replace(input=of_input)


class LinearBinaryCrossEntropy(torch.autograd.Function):
    """The loss as a node of the graph; profilers and `grad_fn` show its name."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        call: LinearCall,
        operands: LinearOperands,
    ) -> Tensor:
        head = Head(input, weight, bias)
        in_forward = (
            call.reduction != "none"
            and call.make_update is None
            and all(t is None or t.dtype != torch.float16 for t in head)
            and _pytorch.saved_tensor_hooks(True) is None
        )
        needs_grad = NeedsGrad(*ctx.needs_input_grad[:3]) if in_forward else NO_GRADIENTS
        loss, gradients = loss_and_gradients(call, head, operands, needs_grad)
        ctx.call, ctx.gradients = call, gradients if in_forward else None
        ctx.captured = call.backend is selection.TRITON and _captures()
        ctx.save_for_backward(*head, *operands)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        call, saved = ctx.call, ctx.saved_tensors
        head, operands = Head(*saved[:3]), LinearOperands(*saved[3:])
        needs_grad = NeedsGrad(*ctx.needs_input_grad[:3])
        # Batched upstream gradients (is_grads_batched) are a tensor without memory of its own.
        plain = _pytorch.has_storage(upstream) and not upstream.requires_grad
        plain = plain and not upstream.is_neg() and not _pytorch.is_zero_tensor(upstream)
        if torch.is_grad_enabled() or selection.active_mode() is not None or not plain:
            return *_by_dense_loss(call, head, needs_grad, upstream), None, None
        if call.make_update is not None:
            update = _update(call, needs_grad, upstream)
            needs_grad = NeedsGrad(input=needs_grad.input)
            gradients = gradients_for(call, head, operands, needs_grad, upstream, update)
            return gradients.input, None, None, None, None
        # The first of several backward passes returns the gradients of the forward pass. Later
        # ones compute their own, since the caller may have changed what the first returned.
        kept = ctx.__dict__.pop("gradients", None)
        scaled = None if kept is None else _scaled(call, kept, upstream, ctx.captured)
        if scaled is not None:
            return *_as_input(scaled, head), None, None
        return *gradients_for(call, head, operands, needs_grad, upstream), None, None


def _scaled(
    call: LinearCall, gradients: Gradients, upstream: Tensor, captured: bool
) -> Gradients | None:
    """The gradients times the upstream one, in place; None if that rounds any a second time.

    On a GPU a second rounding is accepted, of bfloat16 by a factor that is no power of two: the
    host does not wait to read the factor, and computing the products again would take longer.
    `captured`: whether the forward pass, which writes the gradients, is in a CUDA graph.
    """
    if call.backend is selection.TRITON:
        if _captures() and not captured:
            # Each replay of the backward pass alone would multiply the same memory once more.
            return Gradients(*(None if t is None else t * upstream for t in gradients))
        from torchbce.backends.gpu import launch as gpu_launch

        for tensor in gradients:
            if tensor is not None:
                gpu_launch.launch_scale(tensor, upstream)
        return gradients
    factor = upstream.item() if upstream.device.type == "cpu" else None
    if factor == 1:
        return gradients
    rounds = any(t is not None and t.dtype == torch.bfloat16 for t in gradients)
    if rounds and (factor is None or abs(math.frexp(factor)[0]) != 0.5):
        return None
    for tensor in gradients:
        if tensor is not None:
            tensor.mul_(upstream if factor is None else factor)
    return gradients


def _captures() -> bool:
    """Whether the work of this thread is captured into a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _update(call: LinearCall, needs_grad: NeedsGrad, upstream: Tensor) -> Update | None:
    """The update of the parameters that are not frozen."""
    assert call.make_update is not None
    # On the CPU only: on a GPU the host would have to wait for the value.
    found = checks.first_wrong(upstream, upstream.isfinite()) if upstream.is_cpu else None
    if found is not None:
        raise RuntimeError(
            f"the upstream gradient of the loss is {found}; a fused optimizer would "
            "write it into the weight, which is left as it was. Do not scale the loss of such a "
            "head by torch.amp.GradScaler; look for a step that diverged before this one"
        )
    return call.make_update(needs_grad) if needs_grad.weight or needs_grad.bias else None


def _by_dense_loss(
    call: LinearCall, head: Head, needs_grad: NeedsGrad, upstream: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that are differentiable or batched: those of the dense form."""
    if call.dense_loss is None:
        raise RuntimeError(
            "this head supports first derivatives only, since it is sharded or has a fused "
            "optimizer. Call backward without create_graph, or use a head without either"
        )
    create = torch.is_grad_enabled()
    inputs = [t for t, needed in zip(head, needs_grad, strict=True) if needed and t is not None]
    with torch.enable_grad(), no_autocast(head.input.device):
        loss = call.dense_loss(*head)
        gradients = iter(torch.autograd.grad(loss, inputs, upstream, create_graph=create))
    return tuple(next(gradients) if needed else None for needed in needs_grad)


_apply = _pytorch.function_apply(LinearBinaryCrossEntropy)
