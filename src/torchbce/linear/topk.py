"""The labels with the largest logits, by chunks of labels."""

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchbce import _pytorch
from torchbce.definition import kinds, reference
from torchbce.definition.sparse import refuse_in_compiled_code
from torchbce.linear import arguments, sharding, sparse_input
from torchbce.linear.candidates import Candidates, largest
from torchbce.linear.precision import no_autocast
from torchbce.linear.records import Head

#: So few logits, 4 MiB in float32, are computed at once and searched by torch.topk, which finds the
#: largest in about 1 ms: what chunks add to that took up to a third of the time of a call.
_AT_ONCE = 2**20
#: Logits per chunk, and its rows if there are more labels than fit: on the CPU 16 MiB in float32,
#: elsewhere more, so that each product fills the device.
_LOGITS, _ROWS = 2**22, 128
_LOGITS_ON_GPU, _ROWS_ON_GPU = 2**24, 1024
#: A chunk has at least so many labels per logit that is wanted, or all: searching each chunk and
#: then what was found in them takes no longer than searching all logits.
_LABELS_PER_K = 16
#: With fewer rows, reading the weight once per chunk takes longer than the product.
_FEWEST_ROWS = 64
#: On a CPU, large products are faster in parts: on one thread, 256 rows and features and 46,391
#: labels take 114 ms in parts of 2,048 labels and 161 ms at once.
_LABELS_OF_PRODUCT, _LARGE = 2048, 2**20
#: Weights that are converted from half precision at a time: 8 MiB of float32.
_CONVERTED_WEIGHTS = 2**21


def topk(
    input: Tensor, weight: Tensor, bias: Tensor | None, k: Any, chunk_labels: int | None
) -> Any:
    """As `LinearBCELoss.topk` describes it."""
    if found := _small(input, weight, bias, k):
        return found
    kinds.check_kinds({"input": input, "weight": weight, "bias": bias}, ("input",))
    if sparse_input.is_sparse(input):
        refuse_in_compiled_code(input, "input")
        sparse_input.check(input, weight, fused=False)
    if has_torch_function_variadic(input, weight, bias):
        return kinds.overridden(topk, (input, weight, bias), input, weight, bias, k, chunk_labels)
    input, weight, bias = map(kinds.plain, (input, weight, bias))
    chunk_labels = arguments.check_chunk("chunk_labels", chunk_labels)
    local = sharding.local_head(input, weight, bias)
    arguments.check_head(local.input, local.weight, local.bias)
    labels, first, _, group = local.shard
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= int(k) <= labels:
        raise ValueError(f"k must be an integer from 1 to the number of labels, {labels}; got {k}")
    k = int(k)
    if group is None and _is_traced():
        with torch.no_grad(), no_autocast(input.device):
            values, indices = _at_once(Head(input, weight, bias), k)
            # torch.jit.trace does not record that gradients are off.
            return torch.return_types.topk((values.detach(), indices))
    if sparse_input.is_sparse(input):
        sparse_input.check_values(input)
        x = input
    else:
        arguments.check_finite(local.input)
        x = local.input.reshape(input.shape[:-1].numel(), input.shape[-1])
    with torch.no_grad(), no_autocast(input.device):
        values, indices = _topk_of_chunks(Head(x, local.weight, local.bias), k, chunk_labels)
        if first:
            indices += first
        if group is not None:
            sharding.check_shard_size(local)
            found = [_of_all_processes(t, k, local.shard) for t in (values, indices)]
            values, indices = _largest(found[0], found[1], k)
        shape = (*input.shape[:-1], k)
        return torch.return_types.topk((values.view(shape), indices.view(shape)))


def _small(input: Tensor, weight: Tensor, bias: Tensor | None, k: Any) -> Any:
    """The result of a small plain call; None for any other, and for one that is wrong.

    For 8 rows and 1,000 labels the dense way takes 0.04 ms, the checks of the general way 0.1 ms
    more, and those here 0.03 ms.
    """
    head = (input, weight) if bias is None else (input, weight, bias)
    if (
        has_torch_function_variadic(*head)
        or not kinds.are_plain(head)
        or input.dim() != 2
        or weight.dim() != 2
        or not 0 < input.shape[0] * weight.shape[0] <= _AT_ONCE
        or input.shape[1] != weight.shape[1]
        or not all(map(_is_float32_on_cpu, head))
        or (bias is not None and bias.shape != weight.shape[:1])
        or type(k) is not int
        or not 1 <= k <= weight.shape[0]
        or _is_traced()
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    with torch.no_grad():
        z = torch.nn.functional.linear(input, weight, bias)
        return torch.topk(z, k) if math.isfinite(input.sum()) else None


def _is_float32_on_cpu(tensor: Tensor) -> bool:
    return tensor.dtype is torch.float32 and tensor.is_cpu


def _topk_of_chunks(head: Head, k: int, chunk_labels: int | None) -> tuple[Tensor, Tensor]:
    """The largest logits of this process and their labels, both [rows, at most k]."""
    x, weight, bias = head
    x = x.to(reference.compute_dtype(x.dtype))
    rows, labels = x.shape[0], weight.shape[0]
    k = min(k, labels)
    if chunk_labels is None and rows * labels <= _AT_ONCE and weight.dtype == x.dtype:
        return _at_once(Head(x, weight, bias), k)
    shape = _chunk_shape(head, k, chunk_labels)
    memory = weight.new_empty(shape.numel(), dtype=x.dtype)
    rows_of_chunk, size = shape
    if shape == (rows, labels) and k:
        return largest(_logits(head._replace(input=x), memory), k)
    values = memory.new_empty(rows, k)
    indices = torch.empty(rows, k, dtype=torch.int64, device=x.device)
    parts = [slice(start, start + rows_of_chunk) for start in range(0, rows, rows_of_chunk)]
    if size == labels:
        for part in parts:
            z = _logits(Head(sparse_input.rows_of(x, part), weight, bias), memory)
            largest(z, k, out=(values[part], indices[part]))
        return values, indices
    candidates = [Candidates(values[part], k) for part in parts]
    inputs = [sparse_input.rows_of(x, part) for part in parts]
    for first in range(0, labels, size):
        of_labels = slice(first, first + size)
        w, b = weight[of_labels], None if bias is None else bias[of_labels]
        for rows_of_part, found in zip(inputs, candidates, strict=True):
            found.add(_logits(Head(rows_of_part, w, b), memory))
    for part, found in zip(parts, candidates, strict=True):
        values[part], indices[part] = found.largest()
    return values, indices


def _is_traced() -> bool:
    """Whether a graph is recorded, in which there are neither chunks nor checks of values."""
    jit: Any = torch.jit
    return torch.compiler.is_compiling() or jit.is_tracing() or _pytorch.is_traced_by_proxies()


def _at_once(head: Head, k: int) -> tuple[Tensor, Tensor]:
    """The largest of all logits and their labels, [..., k], in the dtype of computation."""
    dtype = reference.compute_dtype(head.input.dtype)
    b = None if head.bias is None else head.bias.to(dtype)
    z = torch.nn.functional.linear(head.input.to(dtype), head.weight.to(dtype), b)
    values, indices = torch.topk(z, k)
    return values, indices


def _chunk_shape(head: Head, k: int, chunk_labels: int | None) -> torch.Size:
    """The shape of a chunk of logits, [rows, labels]."""
    rows, labels = head.input.shape[0], head.weight.shape[0]
    on_cpu = head.input.is_cpu
    logits, wanted_rows = (_LOGITS, _ROWS) if on_cpu else (_LOGITS_ON_GPU, _ROWS_ON_GPU)
    if chunk_labels is None:
        least = max(logits // max(min(rows, wanted_rows), 1), _LABELS_PER_K * k)
        chunk_labels = _equal_part(labels, least)
    size = max(min(chunk_labels, labels), 1)
    return torch.Size((_equal_part(rows, max(logits // size, _FEWEST_ROWS)), size))


def _equal_part(count: int, least: int) -> int:
    """The size of equal parts, each at least so large where there are several; 1 or above."""
    return max(-(-count // max(count // least, 1)), 1)


def _logits(head: Head, memory: Tensor) -> Tensor:
    """The logits, [rows, labels], in x's dtype and in the memory that all chunks share."""
    x, weight, bias = head
    labels = weight.shape[0]
    z = memory[: len(x) * labels].view(len(x), labels)
    size = labels
    if weight.dtype != x.dtype:
        size = max(1, _CONVERTED_WEIGHTS // max(x.shape[1], 1))
    if x.is_cpu and len(x) >= _FEWEST_ROWS and z.numel() >= _LARGE:
        size = min(size, _LABELS_OF_PRODUCT)
    if size >= labels:
        return _product(x, weight, bias, z)
    for start in range(0, labels, size):
        part = slice(start, start + size)
        _product(x, weight[part], None if bias is None else bias[part], z[:, part])
    return z


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    w = weight.to(x.dtype).T
    return torch.mm(x, w, out=out) if bias is None else torch.addmm(bias.to(x.dtype), x, w, out=out)


def _largest(values: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = torch.topk(values, min(k, values.shape[1]))
    return best.values, indices.gather(1, best.indices)


def _of_all_processes(found: Tensor, k: int, shard: sharding.LabelShard) -> Tensor:
    """The columns of all processes next to each other, [rows, columns].

    A process with fewer than k labels fills up what it sends, and nothing of that is kept: logits
    may be -inf, and cannot be told from any padding.
    """
    filled = torch.nn.functional.pad(found, (0, k - found.shape[1]))
    parts = sharding.all_gather(filled, shard.group)
    part = -(-shard.labels // len(parts))
    counts = [min(max(shard.labels - i * part, 0), part, k) for i in range(len(parts))]
    return torch.cat([p[:, :count] for p, count in zip(parts, counts, strict=True)], 1)
