"""Loss and gradients of all labels, by chunks of labels.

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
from torchbce.linear.chunk_loss import SHIFT, chunk_loss, compile_kernel, sum_dtype
from torchbce.linear.records import ChunkRequest, Gradients, Head, LinearOperands
from torchbce.linear.slices import ChunkSlices
from torchbce.linear.workers import Worker, lane_count, run_workers, shares_chunks, thread_count

#: Logits per chunk on a CPU where each thread computes chunks of its own. More make no product
#: faster: of 256 rows, 128 features and 24,000 labels one thread takes 96 ms, as with 2 and 4 times
#: as many logits per chunk; with a quarter 118 ms.
_LOGITS = 7 * 2**16
#: Where threads share each chunk, as many or 1/72 of all, which with their gradients is below 3 %
#: of their memory, but no more than fit the third-level cache.
_FRACTION, _MAX_LOGITS = 72, 2**21
#: The number of chunks is a multiple of this, so that two or four threads finish together.
_MULTIPLE = 4
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
    if chunk_labels is not None:
        return max(1, min(chunk_labels, labels))
    on_cpu = head.input.is_cpu
    logits = _LOGITS if on_cpu else _LOGITS_ON_GPU
    if on_cpu and shares_chunks():
        logits = min(max(rows * labels // _FRACTION, _LOGITS), _MAX_LOGITS)
    weights = _WEIGHTS if head.weight.dtype.itemsize >= 4 else _CONVERTED_WEIGHTS
    least = min(_MIN_LABELS, _LOGITS_OF_MIN_LABELS // rows)
    size = max(1, least, min(logits // rows, weights // max(width, 1)))
    chunks = -(-labels // size)
    if on_cpu and chunks > 1:
        chunks = -(-chunks // _MULTIPLE) * _MULTIPLE
        size = -(-labels // chunks)
    return max(1, min(size, labels))


def run_chunks(
    head: Head, operands: LinearOperands, request: ChunkRequest
) -> tuple[float | Tensor, Gradients]:
    """The sum of the losses and the gradients, as `records.RunChunks` describes them."""
    run = _Run(head, operands, request)
    run_workers(run.workers(), run.chunks, run.lanes)
    return run.total(), run.gradients


class _Run:
    """What all chunks share."""

    def __init__(self, head: Head, operands: LinearOperands, request: ChunkRequest):
        self.head, self.request = head, request
        self.x = x = head.input.to(reference.compute_dtype(head.input.dtype)).contiguous()
        rows, labels = x.shape[0], head.weight.shape[0]
        self.size = size = chunk_size(head, request.chunk_labels)
        self.chunks = chunks = -(-labels // size)
        self.threads = thread_count(chunks) if x.is_cpu else 1
        self.lanes = lane_count(chunks, self.threads) if x.is_cpu else 1
        #: Whether one thread computes each chunk.
        self.alone = self.threads > 1 or torch.get_num_threads() == 1
        self.slices = ChunkSlices(operands, rows, labels, size)
        self.loss = chunk_loss(x, operands, request, 1 if self.alone else None)
        self.losses: list[float | Tensor] = [0.0] * chunks
        needs, weight, bias = request.needs_grad, head.weight, head.bias
        self.input_sums = [torch.empty_like(x) for _ in range(self.lanes if needs.input else 0)]
        self.gradients = Gradients(
            self.input_sums[0] if needs.input else None,
            memory_like(weight) if needs.weight else None,
            bias.new_empty(bias.shape) if bias is not None and needs.bias else None,
        )
        # Whether a number is the last one that a thread takes, without a lock.
        self._left = iter(range(chunks - 1, -1, -1))
        if chunks == 0 and self.input_sums:
            self.input_sums[0].zero_()
            self._pass_on_input_gradient()

    def workers(self) -> list[Worker]:
        """What computes a chunk in memory of its own, for each thread."""
        workers = [_Chunks(self) for _ in range(self.threads)]
        if self.threads > 1:  # those of OpenMP may have too small a stack for the compiler
            workers[0].compile()
        return [worker.compute for worker in workers]

    def add_input_gradient(self, number: int, g: Tensor, w: Tensor) -> None:
        """Add a chunk's part of the input's gradient to the sum of the chunk's lane."""
        lane = self.input_sums[number % self.lanes]
        if number < self.lanes:
            torch.mm(g.T, w, out=lane)
        else:
            lane.addmm_(g.T, w)
        if next(self._left) == 0:
            # In a fixed order, whichever threads computed the chunks.
            total, *others = self.input_sums
            for other in others:
                total += other
            self._pass_on_input_gradient()

    def _pass_on_input_gradient(self) -> None:
        if self.request.on_input_gradient is not None:
            self.request.on_input_gradient(self.input_sums[0])

    def total(self) -> float | Tensor:
        """The sum of the losses, over all elements or per row, in the order of the chunks."""
        total: float | Tensor = 0.0
        if self.request.per_row:
            total = self.x.new_zeros(len(self.x), dtype=sum_dtype(self.x.device))
        for loss in self.losses:
            total = total + loss
        return total


class _Chunks:
    """Chunks that are computed one after the other in the same memory."""

    def __init__(self, run: _Run):
        self._run, self._slices = run, run.slices.with_buffers()
        x, weight, request = run.x, run.head.weight, run.request
        elements = run.size * len(x)
        # Logits; and their gradients, or their losses where these are summed per row, which begin
        # in front of the logits and overwrite them if one thread computes both.
        self._writes = request.backward or request.per_row
        self._shift = (SHIFT if run.alone else elements) if self._writes else 0
        self._elements = x.new_empty(elements + self._shift)
        self._weight: Tensor | None = None
        self._d_weight: Tensor | None = None
        if weight.dtype != x.dtype:
            self._weight = x.new_empty(run.size, x.shape[1])
            if request.needs_grad.weight:
                self._d_weight = x.new_empty(run.size, x.shape[1])

    def compile(self) -> None:
        """Compile the kernel for the first chunk, and thereby for all."""
        chunk = self._slices.chunk(0, 0, self._run.size)
        compile_kernel(self._run.loss, self._logits_and_out(self._run.size)[0], chunk)

    def compute(self, number: int) -> None:
        """Losses and gradients of the chunk of this number."""
        run = self._run
        x, request, (_, weight, bias) = run.x, run.request, run.head
        start, stop = number * run.size, min((number + 1) * run.size, len(weight))
        z, out = self._logits_and_out(stop - start)
        w = self._converted(weight[start:stop])
        if bias is None:
            torch.mm(w, x.T, out=z)
        else:
            torch.addmm(bias[start:stop, None].to(x.dtype), w, x.T, out=z)
        chunk = self._slices.chunk(number, start, stop)
        run.losses[number] = run.loss(z, chunk, request, out)
        if not request.backward:
            return
        assert out is not None
        if run.input_sums:
            run.add_input_gradient(number, out, w)
        if request.update is not None:
            request.update(start, stop, out, x)
        if run.gradients.weight is not None:
            self._write_product(out, x, run.gradients.weight[start:stop])
        if run.gradients.bias is not None:
            run.gradients.bias[start:stop] = out.sum(1)

    def _logits_and_out(self, labels: int) -> tuple[Tensor, Tensor | None]:
        """Memory for the logits of a chunk, and for their gradients or losses if one is needed."""
        shape = labels, len(self._run.x)
        elements = shape[0] * shape[1]
        z = self._elements[self._shift : self._shift + elements].view(shape)
        return z, self._elements[:elements].view(shape) if self._writes else None

    def _converted(self, weight: Tensor) -> Tensor:
        """A slice of the weight in the dtype of computation."""
        return weight if self._weight is None else self._weight[: len(weight)].copy_(weight)

    def _write_product(self, g: Tensor, x: Tensor, out: Tensor) -> None:
        """Compute g @ x in the dtype of computation, and round it once into `out`."""
        if self._d_weight is None:
            torch.mm(g, x, out=out)
        else:
            out.copy_(torch.mm(g, x, out=self._d_weight[: len(g)]))


def memory_like(weight: Tensor) -> Tensor:
    """Memory for the gradient of a weight: that of an earlier gradient if it is free."""
    if weight.device.type == "cpu" and weight.is_contiguous():
        return memory.reused(weight, weight.stride())
    return torch.empty_like(weight, memory_format=torch.contiguous_format)
