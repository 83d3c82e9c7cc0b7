"""Loss and gradients of all labels, one chunk of labels at a time.

Binary cross-entropy has no normalisation over the labels, so that chunks are independent. With
G = d loss / d logits of a chunk, [labels, rows], its part of the gradients is

    dX += G^T W,   dW = G X,   db = G 1.

These products are PyTorch's, in float32 (float64 for float64). Half-precision tensors are converted
exactly, and gradients are rounded once, at the end.
"""

import torch
from torch import Tensor

from torchbce.backends.cpu import memory
from torchbce.definition import reference
from torchbce.linear.chunk_loss import ChunkLoss, chunk_loss, sum_dtype
from torchbce.linear.records import ChunkRequest, Gradients, Head, LinearOperands
from torchbce.linear.slices import ChunkSlices

#: Logits per chunk on a CPU: as many as fit the second-level caches, or 1/72 of all, which with
#: their gradients is below 3 % of their memory; but no more than fit the third-level cache.
_LOGITS, _FRACTION, _MAX_LOGITS = 7 * 2**16, 72, 2**21
#: On other devices more, so that each product fills the device.
_LOGITS_ON_GPU = 2**24
#: Products of fewer labels run at a fraction of their speed (1,024 rows, 128 features: 1.3 times
#: the bare products' time with 256 labels per chunk, 1.1 with 1,024), except for very many rows.
_MIN_LABELS, _LOGITS_OF_MIN_LABELS = 1024, 2**22
#: Weights per chunk: 32 MiB in float32, or 8 MiB of float32 converted from half precision.
_WEIGHTS, _CONVERTED_WEIGHTS = 2**23, 2**21


def chunk_size(head: Head, chunk_labels: int | None) -> int:
    """The number of labels per chunk."""
    labels, width = head.weight.shape
    rows = max(head.input.shape[0], 1)
    if chunk_labels is None:
        on_cpu = min(max(rows * labels // _FRACTION, _LOGITS), _MAX_LOGITS)
        logits = on_cpu if head.input.device.type == "cpu" else _LOGITS_ON_GPU
        weights = _WEIGHTS if head.weight.dtype.itemsize >= 4 else _CONVERTED_WEIGHTS
        least = min(_MIN_LABELS, _LOGITS_OF_MIN_LABELS // rows)
        chunk_labels = max(least, min(logits // rows, weights // max(width, 1)))
    return max(1, min(chunk_labels, labels))


def run_chunks(
    head: Head, operands: LinearOperands, request: ChunkRequest
) -> tuple[float | Tensor, Gradients]:
    """The sum of the losses and the gradients, as `records.RunChunks` describes them."""
    weight, bias = head.weight, head.bias
    x = head.input.to(reference.compute_dtype(head.input.dtype)).contiguous()
    rows, labels = x.shape[0], weight.shape[0]
    size = chunk_size(head, request.chunk_labels)
    slices = ChunkSlices(operands, rows, labels, size)
    buffers = _Buffers(x, weight, size, request)
    gradients = _allocate(x, head, request)
    total: float | Tensor = 0.0
    if request.per_row:
        total = x.new_zeros(rows, dtype=sum_dtype(x.device))
    loss: ChunkLoss | None = None
    backward = request.backward

    for number, start in enumerate(range(0, labels, size)):
        stop = min(start + size, labels)
        z, out = buffers.elements(stop - start)
        w = buffers.converted(weight[start:stop])
        if bias is None:
            torch.mm(w, x.T, out=z)
        else:
            torch.addmm(bias[start:stop, None].to(x.dtype), w, x.T, out=z)
        chunk = slices.chunk(number, start, stop)
        if loss is None:
            loss = chunk_loss(z, chunk, request)
        total = total + loss(z, chunk, request, out)
        if backward:
            assert out is not None
            if gradients.input is not None:
                gradients.input.addmm_(out.T, w)
                if stop == labels and request.on_input_gradient is not None:
                    request.on_input_gradient(gradients.input)
            if request.update is not None:
                request.update(start, stop, out, x)
            _write_gradients(out, x, start, stop, gradients, buffers)
    if labels == 0 and gradients.input is not None and request.on_input_gradient is not None:
        request.on_input_gradient(gradients.input)
    return total, gradients


class _Buffers:
    """Memory that all chunks share."""

    def __init__(self, x: Tensor, weight: Tensor, size: int, request: ChunkRequest):
        self._rows, width = x.shape
        # Logits; and their gradients, or their losses where these are summed per row.
        self._elements = x.new_empty(2 if request.backward or request.per_row else 1, size * len(x))
        converts = weight.dtype != x.dtype
        self._weight = x.new_empty(size, width) if converts else None
        self._d_weight = (
            x.new_empty(size, width) if converts and request.needs_grad.weight else None
        )

    def elements(self, labels: int) -> tuple[Tensor, Tensor | None]:
        """Memory for the logits of a chunk, and for their gradients or losses if one is needed."""
        shape = labels, self._rows
        z, *out = (buffer[: labels * self._rows].view(shape) for buffer in self._elements)
        return z, out[0] if out else None

    def converted(self, weight: Tensor) -> Tensor:
        """A slice of the weight in the dtype of computation."""
        return weight if self._weight is None else self._weight[: len(weight)].copy_(weight)

    def write_product(self, g: Tensor, x: Tensor, out: Tensor) -> None:
        """Compute g @ x in the dtype of computation, and round it once into `out`."""
        if self._d_weight is None:
            torch.mm(g, x, out=out)
        else:
            out.copy_(torch.mm(g, x, out=self._d_weight[: len(g)]))


def _write_gradients(
    g: Tensor, x: Tensor, start: int, stop: int, gradients: Gradients, buffers: _Buffers
) -> None:
    """Write a chunk's slice of the gradients of weight and bias."""
    if gradients.weight is not None:
        buffers.write_product(g, x, gradients.weight[start:stop])
    if gradients.bias is not None:
        gradients.bias[start:stop] = g.sum(1)


def _allocate(x: Tensor, head: Head, request: ChunkRequest) -> Gradients:
    weight, bias, needs = head.weight, head.bias, request.needs_grad
    return Gradients(
        torch.zeros_like(x) if needs.input else None,
        memory_like(weight) if needs.weight else None,
        bias.new_empty(bias.shape) if bias is not None and needs.bias else None,
    )


def memory_like(weight: Tensor) -> Tensor:
    """Memory for the gradient of a weight: that of an earlier gradient if it is free."""
    if weight.device.type == "cpu" and weight.is_contiguous():
        return memory.reused(weight, weight.stride())
    return torch.empty_like(weight, memory_format=torch.contiguous_format)
