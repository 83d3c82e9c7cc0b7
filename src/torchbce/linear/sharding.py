"""A weight that is sharded over labels: what of it is here, and what is summed over the others.

Labels are independent, so that the loss and the gradient of the input are the only sums.
"""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Shard(NamedTuple):
    """The labels that this process holds.

    Attributes:
        labels: how many there are in all.
        first: the first that is here.
        group: of the processes that hold the others; None where all are here.
    """

    labels: int
    first: int = 0
    group: Any = None


class Local(NamedTuple):
    """The tensors of a linear layer, without the mesh that they are on."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    shard: Shard
    mesh: Any = None


def is_distributed(tensor: Tensor | None) -> bool:
    """Whether a tensor is a DTensor, whose module is loaded where there is one."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(input: Tensor, weight: Tensor, bias: Tensor | None) -> Local:
    """What is here of a layer, differentiably: of each tensor the gradient is placed as it is."""
    whole: Any = weight  # a DTensor, whose type is not known without its module
    x: Any = input
    b: Any = bias
    if not is_distributed(weight):
        for name, tensor in (("input", input), ("bias", bias)):
            if is_distributed(tensor):
                raise TypeError(
                    f"{name} is a DTensor and weight is not; shard weight over labels with "
                    f"distribute_tensor(weight, mesh, [Shard(0)]), or give {name}.full_tensor()"
                )
        return Local(input, weight, bias, Shard(weight.shape[0]))
    mesh, placements = whole.device_mesh, whole.placements
    dim = _label_dimension(placements)
    labels, group = weight.shape[0], None if dim is None else mesh.get_group(dim)
    first, here = 0, labels
    if dim is not None:
        # As torch.chunk cuts: each part of the size of the first, until nothing is left.
        part = -(-labels // mesh.size(dim))
        first = min(mesh.get_local_rank(dim) * part, labels)
        here = min(part, labels - first)
    if bias is not None:
        if not is_distributed(bias):
            raise TypeError(
                f"weight is a DTensor with placements {placements} and bias is not one; place both "
                "alike: distribute_tensor(bias, mesh, weight.placements)"
            )
        if b.device_mesh != mesh or tuple(b.placements) != tuple(placements):
            raise ValueError(
                f"weight is on {mesh} with placements {placements} and bias on {b.device_mesh} "
                f"with {b.placements}; place both alike"
            )
    if is_distributed(input):
        if x.device_mesh != mesh:
            raise ValueError(
                f"input is on {x.device_mesh} and weight on {mesh}; place both on one mesh"
            )
        if not all(p.is_replicate() for p in x.placements):
            raise ValueError(
                f"input has placements {x.placements}; every process that holds labels needs "
                "every row: input.redistribute(placements=[Replicate()] * mesh.ndim). For rows "
                "that are spread over processes too, shard weight over a submesh and let "
                "DistributedDataParallel do the rows"
            )
        input = x.to_local()
    here_weight = whole.to_local()
    if here_weight.shape[0] != here:
        raise ValueError(
            f"this process holds {here_weight.shape[0]} of {labels} labels, where {here} were "
            "expected: shards must be those of torch.chunk, which distribute_tensor makes"
        )
    here_bias = None if bias is None else b.to_local()
    return Local(input, here_weight, here_bias, Shard(labels, first, group), mesh)


def _label_dimension(placements: Any) -> int | None:
    """The dimension of the mesh over which labels are sharded; None where all are everywhere."""
    from torch.distributed.tensor import Shard as ShardOf

    found = None
    for dim, placement in enumerate(placements):
        if placement.is_replicate():
            continue
        if type(placement) is not ShardOf or placement.dim != 0 or found is not None:
            raise ValueError(
                f"weight has placements {tuple(placements)}; a head is sharded over labels, its "
                "first dimension, by one dimension of the mesh and replicated over the others: "
                "[Shard(0)]"
            )
        found = dim
    return found


def on_mesh(loss: Tensor, mesh: Any) -> Tensor:
    """A loss that every process has as a DTensor, where the input is one."""
    from torch.distributed.tensor import DTensor, Replicate

    placed = DTensor.from_local(loss, mesh, [Replicate()] * mesh.ndim, run_check=False)
    assert isinstance(placed, Tensor)
    return placed


class Sums:
    """Sums over the processes of a group, each begun as soon as what is summed is there."""

    def __init__(self, group: Any):
        self._group = group
        self._pending: list[Any] = []

    def begin(self, tensor: Tensor) -> None:
        """Sum a tensor in place; it is not to be read before `finish`."""
        if self._group is not None:
            work = torch.distributed.all_reduce(tensor, group=self._group, async_op=True)
            self._pending.append(work)

    def finish(self) -> None:
        """Wait for every sum."""
        while self._pending:
            self._pending.pop().wait()


def gathered(tensor: Tensor, group: Any) -> Tensor:
    """The tensors of every process of a group, which are of one shape, stacked."""
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(parts, tensor.contiguous(), group=group)
    return torch.stack(parts)


def agree_on(input: Tensor, group: Any) -> None:
    """Raise on every process of a group unless all have the same input, but for rounding.

    Of rows that differ, the sum over the labels of each process would be a number without meaning.
    On the CPU alone: elsewhere it would synchronise.
    """
    if input.device.type != "cpu":
        return
    values = input.detach().double()
    facts = torch.stack([torch.tensor(float(input.numel())).double(), values.sum()])
    both = torch.stack([facts, facts.square()])
    torch.distributed.all_reduce(both, group=group)
    means, squares = both / torch.distributed.get_world_size(group)
    size, total = (squares - means.square()).clamp(min=0).sqrt().tolist()
    # Two processors may round differently; two batches differ by about a root of their size.
    if size > 0.1 or total > 1e-5 * max(1.0, float(values.abs().sum())):
        raise ValueError(
            f"input differs between the processes that hold the labels: here it has shape "
            f"{tuple(input.shape)} and the sum {values.sum().item():g}, and sums differ by "
            f"{total:g} in the root mean square. Each of them must be given the same batch"
        )
