"""Whether all processes that share the labels of a head were given the same batch."""

from typing import Any

import torch
from torch import Tensor


def check_agreement(
    group: Any, input: Tensor, target: Tensor, needs_grad: bool, failure: ValueError | None
) -> None:
    """Raise on every process if one has refused its arguments, or if their batches differ.

    Otherwise a process that raises leaves the others waiting for it, and the loss of different
    batches is a sum without meaning. The processes compare fingerprints of the input, label lists
    and sparse targets, and whether the input needs a gradient. This is done on the CPU only: on a
    GPU the host would have to wait for the values.

    Args:
        group: the processes.
        input: of this process.
        target: of this process.
        needs_grad: whether this process needs the input's gradient.
        failure: why this process has refused its arguments, or None.
    """
    if input.device.type != "cpu":
        if failure is not None:
            raise failure
        return
    # A target that was refused may be unreadable: PyTorch does not check a sparse tensor.
    refused = failure is not None
    tensors = [] if refused else _compared(input, target)
    fingerprints = [_fingerprint(t) for t in tensors] or [(0.0, 0.0)] * _count_compared(target)
    sizes = [float(tensor.numel()) for tensor in tensors] or [0.0] * _count_compared(target)
    facts = [float(refused), float(needs_grad), *sizes, *(f for f, _ in fingerprints)]
    means, deviations = _statistics(facts, group)
    if failure is not None:
        raise failure
    if means[0] > 0:
        raise ValueError(
            "another of the processes that hold the labels refused its arguments; its message says "
            "why"
        )
    if deviations[1] > 0:
        raise ValueError(
            "input requires grad on some of the processes that hold the labels and not on others, "
            "or is under no_grad there; its gradient is a sum over all of them"
        )
    of_sizes, of_fingerprints = deviations[2 : 2 + len(sizes)], deviations[2 + len(sizes) :]
    for i, (_, norm) in enumerate(fingerprints):
        # Two processors may round differently; the fingerprints of two batches differ by about
        # the norm of one.
        if of_sizes[i] > 0.4 or not of_fingerprints[i] <= 1e-5 * norm:
            raise ValueError(
                f"{'target' if i else 'input'} differs between the processes that hold the labels; "
                "each of them must be given the same batch, in the same order"
            )


def _count_compared(target: Tensor) -> int:
    """The number of tensors that `_compared` returns, without reading them."""
    if target.layout != torch.strided:
        return 3
    return 2 if target.dtype == torch.int64 else 1


def _compared(input: Tensor, target: Tensor) -> list[Tensor]:
    """The tensors that must be equal; a dense target is too large to compare."""
    if target.layout != torch.strided:
        target = target.to_sparse().coalesce()
        return [input.detach(), target.indices(), target.values()]
    return [input.detach(), target] if target.dtype == torch.int64 else [input.detach()]


def _statistics(facts: list[float], group: Any) -> tuple[list[float], list[float]]:
    """The mean and the standard deviation of each number over the processes."""
    values = torch.tensor(facts, dtype=torch.float64)
    both = torch.stack([values, values.square()])
    torch.distributed.all_reduce(both, group=group)
    means, squares = both / torch.distributed.get_world_size(group)
    return means.tolist(), (squares - means.square()).clamp(min=0).sqrt().tolist()


def _fingerprint(tensor: Tensor) -> tuple[float, float]:
    """A sum with another weight for each place, which depends on the order, and the norm."""
    flat = tensor.reshape(-1).double()
    places = torch.arange(1, flat.numel() + 1, dtype=torch.float64)
    return float(flat.dot(places.cos_())), float(flat.norm())
