"""A weight that is sharded over labels: the part of this process, and sums over all processes.

Labels are independent, so that only the loss and the gradient of the input are sums over processes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchbce.definition.kinds import is_distributed


class LabelShard(NamedTuple):
    """The labels of this process.

    Attributes:
        labels: the number of labels over all processes.
        first: the first label of this process.
        local: the number of labels of this process.
        group: the processes over which the labels are sharded; None if this process has all.
    """

    labels: int
    first: int
    local: int
    group: Any = None


class LocalHead(NamedTuple):
    """The plain tensors of a linear layer on this process, and the mesh of its DTensors."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    shard: LabelShard
    mesh: Any = None


def local_head(input: Tensor, weight: Tensor, bias: Tensor | None) -> LocalHead:
    """This process' part of a layer, differentiably: a gradient is placed as its tensor is."""
    if not is_distributed(weight):
        for name, tensor in (("input", input), ("bias", bias)):
            if is_distributed(tensor):
                raise TypeError(
                    f"{name} is a DTensor and weight is not; shard weight over labels with "
                    f"distribute_tensor(weight, mesh, [Shard(0)]), or give {name}.full_tensor()"
                )
        labels = weight.shape[0] if weight.dim() else 0  # `arguments.check` refuses the latter
        return LocalHead(input, weight, bias, LabelShard(labels, 0, labels))
    dtensor: Any = weight  # whose type is not known without its module
    b: Any = bias
    mesh = dtensor.device_mesh
    shard = _label_shard(weight.shape[0], mesh, dtensor.placements)
    if bias is not None:
        _check_bias(dtensor, b)
    if is_distributed(input):
        input = _replicated_input(input, mesh)
    local_bias = None if bias is None else b.to_local()
    return LocalHead(input, dtensor.to_local(), local_bias, shard, mesh)


def local_operand(name: str, value: Any) -> Any:
    """The plain tensor of a target, mask or weight that every process has as a whole."""
    if not is_distributed(value):
        return value
    if not all(placement.is_replicate() for placement in value.placements):
        raise TypeError(
            f"{name} has placements {tuple(value.placements)}; every process needs the whole of "
            f"it, whether labels are sharded or not: {name}.full_tensor()"
        )
    return value.to_local()


def _label_shard(labels: int, mesh: Any, placements: Any) -> LabelShard:
    """The labels of this process, as `torch.chunk` splits them into equal parts and a remainder."""
    dim = _label_dimension(placements)
    if dim is None:
        return LabelShard(labels, 0, labels)
    part = -(-labels // mesh.size(dim))
    first = min(mesh.get_local_rank(dim) * part, labels)
    return LabelShard(labels, first, min(part, labels - first), mesh.get_group(dim))


def _label_dimension(placements: Any) -> int | None:
    """The dimension of the mesh over which labels are sharded; None if they are replicated."""
    from torch.distributed.tensor import Shard

    sharded = None
    for dim, placement in enumerate(placements):
        if placement.is_replicate():
            continue
        if type(placement) is not Shard or placement.dim != 0 or sharded is not None:
            raise ValueError(
                f"weight has placements {tuple(placements)}; a head is sharded over labels, its "
                "first dimension, by one dimension of the mesh and replicated over the others: "
                "[Shard(0)]"
            )
        sharded = dim
    return sharded


def _check_bias(weight: Any, bias: Any) -> None:
    mesh, placements = weight.device_mesh, weight.placements
    if not is_distributed(bias):
        raise TypeError(
            f"weight is a DTensor with placements {placements} and bias is not one; place both "
            "in the same way: distribute_tensor(bias, mesh, weight.placements)"
        )
    if bias.device_mesh != mesh or tuple(bias.placements) != tuple(placements):
        raise ValueError(
            f"weight is on {mesh} with placements {placements} and bias on {bias.device_mesh} "
            f"with {bias.placements}; place both in the same way"
        )


def _replicated_input(input: Any, mesh: Any) -> Tensor:
    """The plain tensor of an input that is a DTensor, of which every process must have all rows."""
    if input.device_mesh != mesh:
        raise ValueError(
            f"input is on {input.device_mesh} and weight on {mesh}; place both on one mesh"
        )
    if not all(placement.is_replicate() for placement in input.placements):
        raise ValueError(
            f"input has placements {input.placements}; every process that holds labels needs "
            "every row: input.redistribute(placements=[Replicate()] * mesh.ndim). To spread rows "
            "over processes as well, shard weight over a submesh and use "
            "DistributedDataParallel(model, device_mesh=...) for the rows"
        )
    local: Tensor = input.to_local()
    return local


def check_shard_size(local: LocalHead) -> None:
    """Raise unless this process holds as many labels as `torch.chunk` would give it."""
    held, expected = local.weight.shape[0], local.shard.local
    if held != expected:
        raise ValueError(
            f"this process holds {held} of {local.shard.labels} labels, where {expected} were "
            "expected: shards must be those of torch.chunk, which distribute_tensor makes"
        )


def replicated(loss: Tensor, mesh: Any) -> Tensor:
    """A loss that every process has, as a DTensor."""
    from torch.distributed.tensor import DTensor, Replicate

    dtensor = DTensor.from_local(loss, mesh, [Replicate()] * mesh.ndim, run_check=False)
    assert isinstance(dtensor, Tensor)
    return dtensor


def distributed_as(tensor: Tensor, other: Any) -> Tensor:
    """A tensor that every process has, distributed as another DTensor is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements)


def shard_parameters(module: nn.Module, mesh: Any, dim: int, buffers: bool = False) -> None:
    """Replace a module's own parameters, and buffers, by DTensors sharded over the first dimension.

    Over the other dimensions of the mesh they are replicated.
    """
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placements = [Shard(0) if i == dim else Replicate() for i in range(mesh.ndim)]
    for name, parameter in module.named_parameters(recurse=False):
        dtensor = distribute_tensor(parameter.detach(), mesh, placements)
        setattr(module, name, nn.Parameter(dtensor, parameter.requires_grad))
    if buffers:
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, distribute_tensor(buffer, mesh, placements))


class AsyncSums:
    """Sums over a process group, each started as soon as its tensor is complete."""

    def __init__(self, group: Any):
        self._group = group
        self._pending: list[Any] = []

    def start(self, tensor: Tensor) -> None:
        """Sum a tensor in place, which must not be read before `wait` returns."""
        if self._group is not None:
            work = torch.distributed.all_reduce(tensor, group=self._group, async_op=True)
            self._pending.append(work)

    def wait(self) -> None:
        """Wait for every sum."""
        while self._pending:
            self._pending.pop().wait()


def all_gather(tensor: Tensor, group: Any) -> Tensor:
    """The tensors of all processes of a group, which have one shape, stacked."""
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(parts, tensor.contiguous(), group=group)
    return torch.stack(parts)
