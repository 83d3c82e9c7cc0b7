"""The sigmoid loss of pairs: linear + cross-entropy, with the diagonal as positives."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchbce.backends import selection
from torchbce.definition import checks, reference
from torchbce.linear import call
from torchbce.linear.autograd import visitor
from torchbce.linear.call import Settings
from torchbce.linear.chunks import Head, Wants, in_full_precision
from torchbce.linear.loss import linear_loss
from torchbce.linear.targets import Operands

__all__ = ["pairwise_sigmoid_loss"]

REDUCTIONS = ("batch_mean", "sum", "mean")


def pairwise_sigmoid_loss(
    x: Tensor,
    y: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float,
    reduction: str = "batch_mean",
    group: Any = None,
    chunk_pairs: int | None = None,
) -> Tensor:
    r"""The sigmoid loss of pairs (SigLIP): each x against each y, of which its own alone is right.

    .. math::
        \ell = \frac{1}{N} \sum_{i, j} -\log \sigma(s_{ij} z_{ij}),
        \qquad z_{ij} = t \, x_i \cdot y_j + b, \quad s_{ij} = 1 \text{ if } i = j \text{ else } -1

    Linear + cross-entropy with y as the weight, in memory for one chunk of y: the N x N logits
    never exist. Computed in float32 (float64 for float64), whatever the dtype of x and y. Nothing
    cancels at the positives: 4.5e-7 is not 0.

    Args:
        x: features, [N, D], any floating dtype. They are taken as they are: normalise them before.
        y: features of the same pairs in the same order, [N, D], of x's dtype.
        scale: t, a number or a tensor of one element; often exp of a parameter.
        bias: b, a number or a tensor of one element.
        reduction: "batch_mean", over the number of pairs; "sum"; "mean", over the number of logits.
        group: of processes, each with pairs of its own, as many as it likes: all x meet all y.
            `torch.distributed.group.WORLD` for all; None for this process alone.
        chunk_pairs: how many y are visited at a time; None for as many as fit the caches.

    Returns:
        The loss in nats, 0-dimensional, float32 (float64 for float64). With a group it is this
        process' share, that of its x: the sum over the group is the loss of one process with all
        pairs, and gradients by x and y are of that sum, as those of scale and bias are when summed.
        Where gradients are averaged afterwards, as DistributedDataParallel does, multiply by the
        number of processes. The gradient that comes in must be the same on each.

    Raises:
        TypeError: if dtypes do not match, or scale or bias is not a tensor or a number.
        ValueError: if shapes or devices do not match or, on the CPU and not under torch.compile, a
            feature is not finite; if the processes of a group do not agree.

    Example:
        >>> import torch, torchbce
        >>> x = torch.nn.functional.normalize(torch.eye(3, 4) + 0.1)
        >>> loss = torchbce.pairwise_sigmoid_loss(x, x, scale=10.0, bias=-10.0)
        >>> round(loss.item(), 4)
        0.6938

    References:
        Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023.
    """
    if reduction not in REDUCTIONS:
        expected = ", ".join(map(repr, REDUCTIONS))
        raise ValueError(f"reduction must be one of {expected}; got {reduction!r}")
    for name, features in (("x", x), ("y", y)):
        checks.input_dtype(name, features)
        if features.dim() != 2 or features.shape[1:] != x.shape[1:] or features.device != x.device:
            raise ValueError(
                f"x has shape {tuple(x.shape)} on {x.device} and y {tuple(y.shape)} on {y.device}; "
                "both must be (N, D), on one device"
            )
    if x.shape != y.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; the rows of both are pairs, so "
            "that there must be as many"
        )
    if x.dtype != y.dtype and not call.autocasts(x.device):
        raise TypeError(f"x is {x.dtype} and y {y.dtype}; convert one: y.to(x.dtype)")
    call.check_chunk("chunk_pairs", chunk_pairs)
    numbers = {"scale": _number("scale", scale, x), "bias": _number("bias", bias, x)}
    failure = None
    if not torch.compiler.is_compiling():
        try:
            for name, tensor in {"x": x, "y": y, **numbers}.items():
                call.finite(tensor, name)
        except ValueError as error:
            if group is None:
                raise
            failure = error
    dtype = reference.compute_dtype(torch.promote_types(x.dtype, y.dtype))
    t, b = (number.to(dtype) for number in numbers.values())
    x, y = x.to(dtype) * t, y.to(dtype)
    if group is not None:
        asked = _Asked(group, _counts(y, reduction, group, failure), reduction, chunk_pairs)
        apply: Any = _OverProcesses.apply
        value: Tensor = apply(x, y, b, asked)
        return value
    pairs = torch.arange(x.shape[0], device=x.device)[:, None]
    options = Settings(reduction=reduction, chunk_labels=chunk_pairs)
    return linear_loss(x, y, pairs, b.expand(x.shape[0]), options)


def _number(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """A number or a tensor of one element as a tensor without dimensions."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{name} must be one floating number, got {value.dtype} {tuple(value.shape)}"
            )
        return value.reshape(())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a tensor or a number, got {type(value).__name__}")
    # Filled where it lies: a copy to a GPU would make the host wait.
    return torch.full((), float(value), dtype=torch.float64, device=like.device)


class _Asked(NamedTuple):
    group: Any
    counts: list[int]
    reduction: str
    chunk_pairs: int | None


class _OverProcesses(torch.autograd.Function):
    """Each process' y visits all others, one at a time, and comes home with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bias: Tensor, asked: _Asked) -> Tensor:
        group, counts, me = asked.group, asked.counts, dist.get_rank(asked.group)
        wants_x, wants_y, wants_bias = ctx.needs_input_grad[:3]
        pairs = sum(counts)
        divisor = {"sum": 1, "batch_mean": pairs, "mean": pairs * pairs}[asked.reduction] or 1
        visit = visitor(selection.chosen(x.detach(), x.detach(), None, None, None))
        total: Any = 0.0
        d_x, d_bias = torch.zeros_like(x), torch.zeros_like(bias)
        d_y = torch.zeros_like(y)
        for owner, count in enumerate(counts):
            root = dist.get_global_rank(group, owner)
            guest = y.detach().contiguous() if owner == me else y.new_empty(count, y.shape[1])
            dist.broadcast(guest, root, group=group)
            own = torch.arange(count if owner == me else 0, device=y.device)
            values = torch.ones(own.shape, dtype=torch.bool, device=y.device)
            with torch.no_grad(), in_full_precision(x.device):
                part, found = visit(
                    Head(x, guest, bias.expand(count)),
                    Operands(keys=own * (x.shape[0] + 1), values=values),
                    chunk_labels=asked.chunk_pairs,
                    wants=Wants(wants_x, wants_y, wants_bias),
                    scale=1 / divisor,
                )
            total = total + part
            if found.input is not None:
                d_x += found.input
            if found.bias is not None:
                d_bias += found.bias.sum()
            if found.weight is not None:
                dist.reduce(found.weight, root, group=group)
                if owner == me:
                    d_y.copy_(found.weight)
        ctx.save_for_backward(d_x, d_y, d_bias)
        return (torch.as_tensor(total, dtype=torch.float64) / divisor).to(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        wants = ctx.needs_input_grad[:3]
        found = zip(ctx.saved_tensors, wants, strict=True)
        return *(g * upstream if wanted else None for g, wanted in found), None


def _counts(y: Tensor, reduction: str, group: Any, failure: ValueError | None) -> list[int]:
    """How many pairs each process has, where all agree on what is asked and none has to raise."""
    dtypes = (torch.float32, torch.float64)
    wants = torch.is_grad_enabled() and y.requires_grad
    facts = [
        y.shape[0],
        int(failure is not None),
        y.shape[1],
        dtypes.index(y.dtype),
        REDUCTIONS.index(reduction),
        int(wants),
    ]
    mine = torch.tensor(facts, device=y.device)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, mine, group=group)
    if failure is not None:
        raise failure
    counts, failed, *others = torch.stack(parts).T.tolist()
    if any(failed):
        raise ValueError("another process of the group refused its features; its message says why")
    names = "the width of y", "the dtype of y", "the reduction", "whether y requires grad"
    shown: tuple[Any, ...] = (range(2**31), dtypes, REDUCTIONS, (False, True))
    for name, came, values in zip(names, others, shown, strict=True):
        if len(set(came)) > 1:
            listed = ", ".join(str(values[i]) for i in came)
            raise ValueError(f"{name} differs between the processes of the group: {listed}")
    found: list[int] = counts
    return found
