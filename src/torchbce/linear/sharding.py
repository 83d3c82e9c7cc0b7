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
        here: how many should be here; None for all.
    """

    labels: int
    first: int = 0
    group: Any = None
    here: int | None = None


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
                "DistributedDataParallel(model, device_mesh=...) do the rows"
            )
        input = x.to_local()
    here_weight = whole.to_local()
    here_bias = None if bias is None else b.to_local()
    return Local(input, here_weight, here_bias, Shard(labels, first, group, here), mesh)


def check_size(here: Local) -> None:
    """Raise unless this process holds the labels that it should."""
    held, expected = here.weight.shape[0], here.shard.here
    if expected is not None and held != expected:
        raise ValueError(
            f"this process holds {held} of {here.shard.labels} labels, where {expected} were "
            "expected: shards must be those of torch.chunk, which distribute_tensor makes"
        )


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


def placed_as(tensor: Tensor, like: Any) -> Tensor:
    """A tensor that every process has, spread as another is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements)


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


def agree(
    group: Any, input: Tensor, target: Tensor, wants: bool, failure: ValueError | None
) -> None:
    """Raise on every process of a group if one has to, or if they were not given the same batch.

    Of rows that differ, the sum over the labels of each process would be a number without meaning;
    and one that raises alone leaves the others waiting. Looked at are the input, lists of labels
    and stored values, by a sum with other weights at each place, and whether the input's gradient
    is wanted. On the CPU alone: elsewhere it would synchronise.
    """
    if input.device.type != "cpu":
        if failure is not None:
            raise failure
        return
    shown = [input.detach()]
    if target.layout != torch.strided:
        target = target.to_sparse().coalesce()
        shown += [target.indices(), target.values()]
    elif target.dtype == torch.int64:
        shown += [target]
    sums = (
        [_fingerprint(tensor) for tensor in shown] if failure is None else [(0.0, 0.0)] * len(shown)
    )
    sizes = [float(tensor.numel()) for tensor in shown]
    facts = torch.tensor(
        [float(failure is not None), float(wants), *sizes, *(value for value, _ in sums)],
        dtype=torch.float64,
    )
    both = torch.stack([facts, facts.square()])
    torch.distributed.all_reduce(both, group=group)
    if failure is not None:
        raise failure
    means, squares = both / torch.distributed.get_world_size(group)
    if means[0] > 0:
        raise ValueError(
            "another of the processes that hold the labels refused its arguments; its message says "
            "why"
        )
    _, wanted, *spread = (squares - means.square()).clamp(min=0).sqrt().tolist()
    if wanted > 0:
        raise ValueError(
            "input requires grad on some of the processes that hold the labels and not on others, "
            "or is under no_grad there; its gradient is a sum over all of them"
        )
    # Two processors may round differently; two batches differ by about the norm of one.
    norms = [norm for _, norm in sums]
    for at, (size, value) in enumerate(
        zip(spread[: len(shown)], spread[len(shown) :], strict=True)
    ):
        if size > 0.4 or not value <= 1e-5 * norms[at]:
            raise ValueError(
                f"{'target' if at else 'input'} differs between the processes that hold the "
                "labels; each of them must be given the same batch, in the same order"
            )


def _fingerprint(tensor: Tensor) -> tuple[float, float]:
    """A sum that depends on where each value stands, and the norm."""
    flat = tensor.reshape(-1).double()
    places = torch.arange(1, flat.numel() + 1, dtype=torch.float64)
    return float(flat.dot(places.cos_())), float(flat.norm())
