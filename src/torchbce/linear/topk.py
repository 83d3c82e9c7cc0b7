"""The largest logits of many, by chunks of labels."""

from typing import Any

import torch
from torch import Tensor

from torchbce.definition import reference
from torchbce.linear import call, sharding
from torchbce.linear.chunks import Head, chunk_size, in_full_precision


def topk(
    input: Tensor, weight: Tensor, bias: Tensor | None, k: int, chunk_labels: int | None
) -> Any:
    """As `LinearBCELoss.topk` describes it."""
    here = sharding.local(input, weight, bias)
    call.check_head(here.input, here.weight, here.bias)
    call.finite(here.input)
    with torch.no_grad(), in_full_precision(input.device):
        labels, first, group, _ = here.shard
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= labels:
            raise ValueError(
                f"k must be an integer from 1 to the number of labels, {labels}; got {k}"
            )
        x = here.input.reshape(input.shape[:-1].numel(), input.shape[-1])
        values, indices = _of_chunks(Head(x, here.weight, here.bias), k, chunk_labels)
        indices += first
        if group is not None:
            # Of a process with fewer labels than k the rest is -inf.
            missing = k - values.shape[1]
            values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
            indices = torch.nn.functional.pad(indices, (0, missing))
            values, indices = _best(_side_by_side(values, group), _side_by_side(indices, group), k)
        shape = (*input.shape[:-1], k)
        return torch.return_types.topk((values.view(shape), indices.view(shape)))


def _of_chunks(head: Head, k: int, chunk_labels: int | None) -> tuple[Tensor, Tensor]:
    """The best labels of this process, [rows, at most k]."""
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
        values, indices = _best(
            torch.cat([values, best.values], 1), torch.cat([indices, best.indices + start], 1), k
        )
    return values, indices


def _best(values: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = torch.topk(values, min(k, values.shape[1]))
    return best.values, indices.gather(1, best.indices)


def _side_by_side(best: Tensor, group: Any) -> Tensor:
    """What each process found for each row, [rows, processes k]."""
    return sharding.gathered(best, group).transpose(0, 1).flatten(1)
