"""The labels with the largest logits, by chunks of labels."""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchbce.definition import kinds, reference
from torchbce.linear import arguments, sharding
from torchbce.linear.chunks import chunk_size
from torchbce.linear.precision import no_autocast
from torchbce.linear.records import Head


def topk(
    input: Tensor, weight: Tensor, bias: Tensor | None, k: Any, chunk_labels: int | None
) -> Any:
    """As `LinearBCELoss.topk` describes it."""
    kinds.check_kinds({"input": input, "weight": weight, "bias": bias})
    if has_torch_function_variadic(input, weight, bias):
        return kinds.overridden(topk, (input, weight, bias), input, weight, bias, k, chunk_labels)
    input, weight, bias = map(kinds.plain, (input, weight, bias))
    chunk_labels = arguments.check_chunk("chunk_labels", chunk_labels)
    local = sharding.local_head(input, weight, bias)
    arguments.check_head(local.input, local.weight, local.bias)
    arguments.check_finite(local.input)
    with torch.no_grad(), no_autocast(input.device):
        labels, first, _, group = local.shard
        if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= int(k) <= labels:
            raise ValueError(
                f"k must be an integer from 1 to the number of labels, {labels}; got {k}"
            )
        k = int(k)
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


def _topk_of_chunks(head: Head, k: int, chunk_labels: int | None) -> tuple[Tensor, Tensor]:
    """The largest logits of this process and their labels, both [rows, at most k]."""
    x, weight, bias = head
    dtype = reference.compute_dtype(x.dtype)
    x = x.to(dtype)
    size = chunk_size(head, chunk_labels)
    values = x.new_empty(x.shape[0], 0)
    indices = torch.empty(x.shape[0], 0, dtype=torch.int64, device=x.device)
    for start in range(0, weight.shape[0], size):
        z = x @ weight[start : start + size].to(dtype).T
        if bias is not None:
            z += bias[start : start + size].to(dtype)
        best = torch.topk(z, min(k, z.shape[1]))
        values, indices = _largest(
            torch.cat([values, best.values], 1), torch.cat([indices, best.indices + start], 1), k
        )
    return values, indices


def _largest(values: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = torch.topk(values, min(k, values.shape[1]))
    return best.values, indices.gather(1, best.indices)


def _gathered(per_process: Tensor, group: Any) -> Tensor:
    """The columns of all processes next to each other, [rows, processes * k]."""
    return sharding.all_gather(per_process, group).transpose(0, 1).flatten(1)
