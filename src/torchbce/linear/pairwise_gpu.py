"""The sigmoid loss of pairs of bfloat16 features on a GPU, without float32 matrix products.

The inner products of bfloat16 features are computed as they are, with float32 results: each product
of two such numbers is exact in float32. One kernel multiplies them by the scale, adds the bias, and
computes losses and slopes G = d loss / d logits in float32. The gradients are products of G with
features. G is split into two parts of bfloat16, which gives a relative error of 2^-17 for two
products more, five in all. In float32 three products would take 10 to 15 times as long as three of
bfloat16. Scale and denominator multiply the products of a chunk, which are in float32.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.backends import selection
from torchbce.backends.gpu import pairs
from torchbce.linear import products
from torchbce.linear.chunks_gpu import chunk_size
from torchbce.linear.precision import in_full_precision
from torchbce.linear.records import Head


def supports(x: Tensor, y: Tensor) -> bool:
    """Whether these features are computed here."""
    return (
        x.dtype == y.dtype == torch.bfloat16
        and len(x) > 0
        and len(y) > 0
        and x.shape[1] > 0
        and not torch.compiler.is_compiling()
        and selection.active_mode() is None
        and selection.chosen(x.detach(), y.detach(), None, None, None) is selection.TRITON
    )


class PairsCall(NamedTuple):
    """A call without its tensors.

    Attributes:
        divisor: what the sum of the losses is divided by.
        chunk_pairs: the number of y per chunk, or None.
        by_definition: the loss of the four tensors in plain PyTorch, for second derivatives.
    """

    divisor: float
    chunk_pairs: int | None
    by_definition: Any


def loss_of_pairs(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, positives: Tensor | None, call: PairsCall
) -> Tensor:
    """The loss, differentiable by the first four; scale and bias are 0-dimensional."""
    value: Tensor = _apply(x, y, scale, bias, positives, call)
    return value


def loss_and_gradients(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor,
    positives: Tensor | None,
    call: PairsCall,
    needs_grad: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss and its gradients by x, y, scale and bias, in float32."""
    rows, backward = len(x), any(needs_grad)
    x, y = x.contiguous(), y.contiguous()
    positives = None if positives is None else positives.contiguous()
    scale, bias = scale.float(), bias.float()
    size = chunk_size(Head(x, y, None), call.chunk_pairs)
    inner = torch.empty(size * rows, device=x.device)
    slopes = pairs.new_slopes(x, size * rows) if backward else None
    chunks = -(-len(y) // size)
    # Rows of multiples of 16 bytes, for which Triton has one kernel.
    most = -(-pairs.count_programs(size, rows) // 4) * 4
    sums = torch.zeros(chunks, 3, most, device=x.device)
    d_x = torch.zeros(x.shape, device=x.device) if needs_grad[0] else None
    d_y = torch.empty(y.shape, device=x.device) if needs_grad[1] else None
    for number, start in enumerate(range(0, len(y), size)):
        block = y[start : start + size]
        shape, elements = (len(block), rows), len(block) * rows
        z = inner[:elements].view(shape)
        products.multiply(block, x.T, z)
        parts = None
        if slopes is not None:
            parts = slopes[0][:elements].view(shape), slopes[1][:elements].view(shape)
        pairs.launch_pairs(z, scale, bias, positives, parts, sums[number], start)
        if parts is None:
            continue
        if d_x is not None:
            for part in parts:
                products.add_product(d_x, part.T, block)
        if d_y is not None:
            of_block = d_y[start : start + size]
            products.multiply(parts[0], x, of_block)
            products.add_product(of_block, parts[1], x)
    loss, d_bias, d_scale = (sums.sum((0, 2), dtype=torch.float64) / call.divisor).unbind()
    factor = scale / call.divisor
    for of_features in (d_x, d_y):
        if of_features is not None:
            of_features.mul_(factor)
    by_numbers = (d_scale.float(), d_bias.float()) if backward else (None, None)
    return loss.float(), [d_x, d_y, *by_numbers]


class PairwiseSigmoidLossGPU(torch.autograd.Function):
    """Loss and gradients in one pass; the backward pass multiplies them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        bias: Tensor,
        positives: Tensor | None,
        call: PairsCall,
    ) -> Tensor:
        needs_grad = ctx.needs_input_grad[:4]
        with in_full_precision(x.device):
            loss, gradients = loss_and_gradients(x, y, scale, bias, positives, call, needs_grad)
        ctx.call = call
        ctx.save_for_backward(x, y, scale, bias, *gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        saved, needs_grad = ctx.saved_tensors, ctx.needs_input_grad[:4]
        given, kept = saved[:4], saved[4:]
        if torch.is_grad_enabled() or not _pytorch.has_storage(upstream):
            wanted = [t for t, needed in zip(given, needs_grad, strict=True) if needed]
            create = torch.is_grad_enabled()
            with torch.enable_grad():
                loss = ctx.call.by_definition(*given)
                found = iter(torch.autograd.grad(loss, wanted, upstream, create_graph=create))
            return *(next(found) if needed else None for needed in needs_grad), None, None
        gradients = (
            (g * upstream).to(t.dtype) if needed and g is not None else None
            for t, g, needed in zip(given, kept, needs_grad, strict=True)
        )
        return *gradients, None, None


_apply = _pytorch.function_apply(PairwiseSigmoidLossGPU)
