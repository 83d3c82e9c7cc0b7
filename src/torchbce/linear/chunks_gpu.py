"""`chunks.run_chunks` on a GPU, without the host waiting for the device.

It differs in where numbers are rounded. 16-bit inputs are multiplied as they are, with float32
results. One kernel adds the bias, sums the losses and writes the gradients of the logits in 16
bits, which two further products take. In bfloat16, whose range is that of float32, they include the
upstream gradient and the denominator. In float16 they are 64 times the derivative of each element,
and the remaining factor multiplies the products in float32.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.backends.gpu import launch as gpu_launch
from torchbce.backends.gpu import tiles
from torchbce.backends.gpu.operands import LinearInputs, Outputs
from torchbce.backends.request import KernelInputs, LossSpec, loss_spec
from torchbce.definition import reference
from torchbce.definition.family import CROSS_ENTROPY
from torchbce.linear import products
from torchbce.linear.records import ChunkRequest, Gradients, Head, LinearOperands

#: Numbers of float16 below 6e-5 are subnormal, and the smallest is 6e-8: scaled by 64, a derivative
#: of 1e-6 keeps all its bits. The largest is 65,504: derivatives are divided by the largest weight.
_SCALE_OF_FLOAT16 = 64.0
#: Tiles of a matrix product per multiprocessor, and numbers per tile: with fewer tiles many
#: multiprocessors would be idle during the last ones.
_WAVES, _TILE = 4, 128 * 256
#: The labels of a chunk are a multiple of this, the side of a tile.
_SIDE = 128
#: Logits and their gradients, 6 bytes per element, take at most 1/64 of the device's memory.
_MEMORY = 64 * 6
#: A chunk takes the host about 74 microseconds whatever its size. For many labels chunks are larger
#: therefore, as long as their logits take at most an eighth of the memory of the weight.
_SHARE = 8 * 6
#: Weights per chunk that are converted to 16 bits, or whose gradients are converted from float32.
_WEIGHTS = 2**25


def run_chunks(
    head: Head, operands: LinearOperands, request: ChunkRequest
) -> tuple[Tensor, Gradients]:
    """The sum of the losses and the gradients, as `records.RunChunks` describes them.

    Targets are not checked here, whatever `request.checked` says: `prepare` has checked them.
    """
    run = _Run(head, operands, request)
    backward = request.backward
    for chunk in run.chunks():
        run.compute_logits(chunk)
        run.compute_losses(chunk)
        if backward:
            run.add_gradients(chunk)
    if len(head.weight) == 0:
        run.finish_input_gradient()
    return run.total(), run.gradients


class _Chunk(NamedTuple):
    """The labels from `start` to `stop` - 1, and the memory for their logits [labels, rows]."""

    number: int
    start: int
    stop: int
    logits: Tensor
    grad_logits: Tensor | None
    losses: Tensor | None
    weight: Tensor


class _Run:
    """Buffers, partial sums and gradients of one pass over all chunks."""

    def __init__(self, head: Head, operands: LinearOperands, request: ChunkRequest):
        self.head, self.operands, self.request = head, operands, request
        x, weight, bias = head
        wide = reference.compute_dtype(x.dtype)
        # Gradients of the logits in 16 bits; but float16 has too small a range for factors per row.
        narrow = x.dtype.itemsize == 2 and not (
            x.dtype == torch.float16 and request.upstream is not None
        )
        self.narrow, self.wide = narrow, wide
        self.x = x = (x if narrow else x.to(wide)).contiguous()
        self._wide_x = x if request.update is None else x.to(wide)
        self.rows, (self.labels, width) = x.shape[0], weight.shape
        self.factors = _factors(narrow and x.dtype == torch.float16, operands, request)
        copies = weight.dtype != x.dtype
        # The dtype of a product is that of its factors, or float32; later it may be multiplied.
        exact_product = weight.dtype == wide or (
            weight.dtype == x.dtype and self.factors.of_products is None
        )
        needs = request.needs_grad
        widens = needs.weight and not exact_product
        self.size = size = chunk_size(head, request.chunk_labels, copies or widens)
        self._logits = x.new_empty(size * self.rows, dtype=wide)
        self._grad_logits = x.new_empty(size * self.rows) if request.backward else None
        self._losses = x.new_empty(size * self.rows, dtype=wide) if request.per_row else None
        self._weight = x.new_empty(size, width) if copies else None
        self._d_weight = x.new_empty(size, width, dtype=wide) if widens else None
        self.gradients = Gradients(
            torch.zeros_like(x, dtype=wide) if needs.input else None,
            weight.new_empty(weight.shape) if needs.weight else None,
            bias.new_empty(bias.shape) if bias is not None and needs.bias else None,
        )
        self.kernel = _Kernel(
            loss_spec(CROSS_ENTROPY, request.smoothing),
            self._logits,
            operands,
            self.rows,
            self.labels,
            size,
        )
        self._per_row = x.new_zeros(self.rows, dtype=torch.float64) if request.per_row else None

    def chunks(self) -> Iterator[_Chunk]:
        """The chunks in order; each overwrites the memory of the one before."""
        for number, start in enumerate(range(0, self.labels, self.size)):
            stop = min(start + self.size, self.labels)
            shape, elements = (stop - start, self.rows), (stop - start) * self.rows
            logits, grad_logits, losses = (
                None if buffer is None else buffer[:elements].view(shape)
                for buffer in (self._logits, self._grad_logits, self._losses)
            )
            assert logits is not None
            weight = self.head.weight[start:stop]
            if self._weight is not None:
                weight = self._weight[: stop - start].copy_(weight)
            yield _Chunk(number, start, stop, logits, grad_logits, losses, weight)

    def compute_logits(self, chunk: _Chunk) -> None:
        """The product of weight and input, without the bias, which the kernel adds."""
        products.multiply(chunk.weight, self.x.T, chunk.logits)

    def compute_losses(self, chunk: _Chunk) -> None:
        """The kernel: losses or their partial sums, and the gradients of the logits."""
        self.kernel.launch(chunk, self.head.bias, not self.narrow, self.factors)
        if self._per_row is not None:
            assert chunk.losses is not None
            self._per_row += chunk.losses.sum(0, dtype=torch.float64)

    def add_gradients(self, chunk: _Chunk) -> None:
        """A chunk's part of the gradients, or of the update instead."""
        g, gradients, factor = chunk.grad_logits, self.gradients, self.factors.of_products
        assert g is not None
        if gradients.input is not None:
            products.add_product(gradients.input, g.T, chunk.weight)
            if chunk.stop == self.labels:
                products.scale(gradients.input, factor)
                self.finish_input_gradient()
        if self.request.update is not None:
            wide_g = g.to(self.wide)
            wide_g = wide_g if factor is None else wide_g * factor
            self.request.update(chunk.start, chunk.stop, wide_g, self._wide_x)
        if gradients.weight is not None:
            d = gradients.weight[chunk.start : chunk.stop]
            product = d if self._d_weight is None else self._d_weight[: len(d)]
            products.multiply(g, self.x, product)
            products.scale(product, factor)
            if product is not d:
                d.copy_(product)
        if gradients.bias is not None:
            sums = g.sum(1, dtype=self.wide)
            products.scale(sums, factor)
            gradients.bias[chunk.start : chunk.stop] = sums

    def finish_input_gradient(self) -> None:
        """Pass on the input's gradient, which is complete."""
        if self.gradients.input is not None and self.request.on_input_gradient is not None:
            self.request.on_input_gradient(self.gradients.input)

    def total(self) -> Tensor:
        """The sum of the losses, in float64."""
        return self.kernel.total() if self._per_row is None else self._per_row


class _Kernel:
    """All launches of the kernel: one per chunk, and the final sum."""

    def __init__(
        self,
        spec: LossSpec,
        logits: Tensor,
        operands: LinearOperands,
        rows: int,
        labels: int,
        size: int,
    ):
        self._spec, self._operands, self._rows = spec, operands, rows
        self._parts = tiles.count_partial_sums(
            spec, logits, [min(size, labels - start) * rows for start in range(0, labels, size)]
        )
        self._sums = logits.new_zeros(sum(self._parts))
        self._used = 0
        # Searched for all chunks at once: a search per chunk would take the host longer than the
        # chunk takes the device.
        self._starts, self._ignored_starts = (
            tiles.chunk_tile_starts(spec, logits, keys, labels * rows, size * rows)
            for keys in (operands.keys, operands.ignored)
        )

    def launch(self, chunk: _Chunk, bias: Tensor | None, exact: bool, factors: "_Factors") -> None:
        """Compute losses and gradients of a chunk; operands are read where they are stored."""
        o, labels = self._operands, slice(chunk.start, chunk.stop)
        p, z, number = o.pos_weight, chunk.logits, chunk.number
        inputs = KernelInputs(
            z,
            z if o.dense is None else o.dense[:, labels].T,
            None if o.label_weight is None else o.label_weight[labels, None],
            p[labels, None] if p is not None and p.dim() else p,
            None if o.mask is None else o.mask[:, labels].T,
        )
        linear_inputs = LinearInputs(
            bias=None if bias is None else bias[labels, None],
            weight=None if o.row_weight is None else o.row_weight[None, :],
            keys=o.keys,
            values=o.values,
            ignored=o.ignored,
            tile_starts=None if self._starts is None else self._starts[number],
            ignored_tile_starts=(
                None if self._ignored_starts is None else self._ignored_starts[number]
            ),
            first_key=chunk.start * self._rows,
        )
        sums = self._sums[self._used : self._used + self._parts[number]]
        self._used += self._parts[number]
        gpu_launch.launch_loss(
            self._spec,
            inputs,
            Outputs(chunk.losses, chunk.grad_logits, sums),
            linear_inputs,
            denominator=1.0 if factors.divided_by is None else factors.divided_by,
            scale=factors.scale,
            upstream=factors.upstream,
            exact=exact,
        )

    def total(self) -> Tensor:
        """The sum of the partial sums, in float64."""
        total = self._sums.new_zeros((), dtype=torch.float64)
        if self._used:
            gpu_launch.launch_sum(self._sums, total)
        return total


class _Factors(NamedTuple):
    """What the kernel multiplies derivatives by, and what multiplies the products after it.

    Attributes:
        scale: multiplies derivatives.
        upstream: multiplies them too: 0-dimensional, or per row, [1, rows].
        divided_by: divides them, 0-dimensional.
        of_products: multiplies products with the gradients of the logits; None for 1.
    """

    scale: float = 1.0
    upstream: Tensor | None = None
    divided_by: Tensor | None = None
    of_products: float | Tensor | None = None


def _factors(in_float16: bool, operands: LinearOperands, request: ChunkRequest) -> _Factors:
    """Split the factors of the gradients between the kernel and the products."""
    scale, upstream = request.scale, request.upstream
    if in_float16:
        largest = _largest_weight(operands)
        remaining = scale / _SCALE_OF_FLOAT16 * (1.0 if largest is None else largest)
        return _Factors(_SCALE_OF_FLOAT16, None, largest, remaining)
    if not isinstance(scale, Tensor):
        return _Factors(scale, None if upstream is None else upstream[None, :])
    # The kernel reads a factor that is on the device as an upstream gradient.
    return _Factors(upstream=scale if upstream is None else (upstream * scale)[None, :])


def chunk_size(head: Head, chunk_labels: int | None, converts: bool = False) -> int:
    """The number of labels per chunk: enough to fill the device, more if the cache holds them."""
    labels, width = head.weight.shape
    rows = max(head.input.shape[0], 1)
    if chunk_labels is None:
        fill, cache, most = _device(head.input.device)
        of_weight = head.weight.numel() * head.weight.element_size() // _SHARE
        logits = max(fill, cache // 6, min(of_weight, 4 * fill))
        chunk_labels = max(-(-logits // (rows * _SIDE)), 1) * _SIDE
        chunk_labels = min(chunk_labels, max(most // rows, 1))
        if converts:
            chunk_labels = min(chunk_labels, max(_WEIGHTS // max(width, 1), _SIDE))
        chunk_labels = _even(chunk_labels, labels)
    return max(1, min(chunk_labels, labels))


def _even(chunk: int, labels: int) -> int:
    """A size of at most `chunk` labels with which the last chunk is about as large as the others.

    A last chunk of a single tile costs the host and the launches as much as a full one.
    """
    if chunk >= labels:
        return labels
    each = -(-labels // -(-labels // chunk))
    return min(chunk, -(-each // _SIDE) * _SIDE)


@functools.cache
def _device(device: torch.device) -> tuple[int, int, int]:
    """How many logits fill a device, its cache in bytes, and how many logits fit its memory."""
    if device.type != "cuda":  # Triton's interpreter
        return 2**16, 0, 2**24
    properties = torch.cuda.get_device_properties(device)
    fill = _WAVES * properties.multi_processor_count * _TILE
    return fill, properties.L2_cache_size, properties.total_memory // _MEMORY


def _largest_weight(operands: LinearOperands) -> Tensor | None:
    """An upper bound of the weight of any element, on the device; None without weights."""
    bound = None
    for weight, least in (
        (operands.pos_weight, 1.0),  # negatives have weight 1
        (operands.label_weight, 0.0),
        (operands.row_weight, 0.0),
    ):
        if weight is not None and weight.numel():
            largest = weight.abs().max().clamp(min=least)
            bound = largest if bound is None else bound * largest
    return None if bound is None else torch.where(bound > 0, bound, 1.0)
