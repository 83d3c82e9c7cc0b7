"""The labels with the largest logits, by chunks of labels."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbce.definition import reference
from torchbce.linear import arguments, sharding
from torchbce.linear.candidates import Candidates
from torchbce.linear.precision import no_autocast
from torchbce.linear.records import Head

#: Logits per chunk: 8 MiB in float32, which stay in the third-level cache until their largest are
#: found; on other devices more, so that each product fills the device.
_LOGITS, _LOGITS_ON_GPU = 2**21, 2**24
#: A chunk has at least so many labels and rows, without which its product is slow; and at least so
#: many labels per logit that is wanted, so that finding the k largest of each chunk and then of all
#: chunks takes little longer than finding those of all logits.
_MIN_LABELS, _MIN_ROWS, _LABELS_PER_K = 1024, 256, 8
#: Weights that are converted from half precision at a time: 8 MiB of float32.
_CONVERTED_WEIGHTS = 2**21


def topk(
    input: Tensor, weight: Tensor, bias: Tensor | None, k: int, chunk_labels: int | None
) -> Any:
    """As `LinearBCELoss.topk` describes it."""
    local = sharding.local_head(input, weight, bias)
    arguments.check_head(local.input, local.weight, local.bias)
    arguments.check_finite(local.input)
    with torch.no_grad(), no_autocast(input.device):
        labels, first, _, group = local.shard
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= labels:
            raise ValueError(
                f"k must be an integer from 1 to the number of labels, {labels}; got {k}"
            )
        x = local.input.reshape(input.shape[:-1].numel(), input.shape[-1])
        values, indices = _topk_of_chunks(Head(x, local.weight, local.bias), k, chunk_labels)
        indices += first
        if group is not None:
            # A process with fewer than k labels is padded with -inf.
            missing = k - values.shape[1]
            values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
            indices = torch.nn.functional.pad(indices, (0, missing))
            values, indices = _largest(_gathered(values, group), _gathered(indices, group), k)
        shape = (*input.shape[:-1], k)
        return torch.return_types.topk((values.view(shape), indices.view(shape)))


class _Chunk(NamedTuple):
    """The size of a chunk of logits."""

    rows: int
    labels: int


def _chunk_of(rows: int, labels: int, k: int, chunk_labels: int | None, on_cpu: bool) -> _Chunk:
    size = chunk_labels
    logits = _LOGITS if on_cpu else _LOGITS_ON_GPU
    if size is None:
        size = max(logits // max(rows, 1), _MIN_LABELS, _LABELS_PER_K * k)
    size = min(size, labels)
    return _Chunk(min(max(logits // max(size, 1), _MIN_ROWS), rows), size)


def _topk_of_chunks(head: Head, k: int, chunk_labels: int | None) -> tuple[Tensor, Tensor]:
    """The largest logits of this process and their labels, both [rows, at most k]."""
    x, weight, bias = head
    x = x.to(reference.compute_dtype(x.dtype))
    rows, labels = x.shape[0], weight.shape[0]
    k = min(k, labels)
    values = x.new_empty(rows, k)
    indices = torch.empty(rows, k, dtype=torch.int64, device=x.device)
    if values.numel() == 0:
        return values, indices
    chunk = _chunk_of(rows, labels, k, chunk_labels, x.is_cpu)
    memory = x.new_empty(chunk.rows * chunk.labels)
    parts = [slice(start, start + chunk.rows) for start in range(0, rows, chunk.rows)]
    candidates = [Candidates(x[part], k) for part in parts] if chunk.labels < labels else []
    for first in range(0, labels, chunk.labels):
        of_labels = slice(first, first + chunk.labels)
        w, b = weight[of_labels], None if bias is None else bias[of_labels]
        for i, part in enumerate(parts):
            z = _logits(Head(x[part], w, b), memory)
            if candidates:
                candidates[i].add(z, first)
            else:
                values[part], indices[part] = torch.topk(z, k)
    for part, found in zip(parts, candidates, strict=False):
        values[part], indices[part] = found.largest()
    return values, indices


def _logits(head: Head, memory: Tensor) -> Tensor:
    """The logits, [rows, labels], in x's dtype and in the memory that all chunks share."""
    x, weight, bias = head
    labels = weight.shape[0]
    z = memory[: len(x) * labels].view(len(x), labels)
    # Half precision is converted a part at a time.
    size = labels if weight.dtype == x.dtype else max(1, _CONVERTED_WEIGHTS // max(x.shape[1], 1))
    for start in range(0, labels, size):
        part = slice(start, start + size)
        w = weight[part].to(x.dtype).T
        if bias is None:
            torch.mm(x, w, out=z[:, part])
        else:
            torch.addmm(bias[part].to(x.dtype), x, w, out=z[:, part])
    return z


def _largest(values: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = torch.topk(values, min(k, values.shape[1]))
    return best.values, indices.gather(1, best.indices)


def _gathered(per_process: Tensor, group: Any) -> Tensor:
    """The columns of all processes next to each other, [rows, processes * k]."""
    return sharding.all_gather(per_process, group).transpose(0, 1).flatten(1)
