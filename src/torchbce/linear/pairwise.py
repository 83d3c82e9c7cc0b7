"""The sigmoid loss of pairs: the linear loss whose positives are the diagonal."""

import functools
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import has_torch_function_variadic

from torchbce.backends import selection
from torchbce.definition import checks, kinds, reference
from torchbce.definition.reductions import denominator
from torchbce.linear import arguments
from torchbce.linear.autograd import chunk_runner
from torchbce.linear.loss import linear_loss
from torchbce.linear.precision import autocast_enabled, in_full_precision
from torchbce.linear.records import ChunkRequest, Head, LinearOperands, LinearOptions, NeedsGrad

__all__ = ["pairwise_sigmoid_loss"]

REDUCTIONS = ("batch_mean", "sum", "mean")


def pairwise_sigmoid_loss(
    x: Tensor,
    y: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    positives: Tensor | None = None,
    reduction: str = "batch_mean",
    group: Any = None,
    chunk_pairs: int | None = None,
) -> Tensor:
    r"""The sigmoid loss of pairs (SigLIP): every x against every y, of which one is its partner.

    .. math::
        \ell = \frac{1}{N} \sum_{i, j} -\log \sigma(s_{ij} z_{ij}),
        \qquad z_{ij} = t \, x_i \cdot y_j + b, \quad s_{ij} = 1 \text{ if } i = j \text{ else } -1

    This is `linear_binary_cross_entropy` with y as the weight, in the memory of one chunk of y: the
    N x N logits are never stored. It is computed in float32 (float64 for float64 features),
    whatever the dtype of x and y, and without TF32. Losses of confident positives are accurate:
    4.5e-7 does not become 0. On a GPU, inner products of bfloat16 features are products of bfloat16
    with float32 results, which is exact for each factor, and gradients are products of two parts
    of bfloat16, with a relative error of 2^-17.

    Args:
        x: features, [N, D], of any floating dtype. They are not normalised here.
        y: the features of the partners in the same order, [N, D], of x's dtype (under autocast of
            any). With `positives`, any number M of them, [M, D].
        scale: t, a number or a tensor of one element, often exp of a parameter.
        bias: b, a number or a tensor of one element; None for 0.
        positives: for an x with several partners, or none: which y are the partners of each x,
            int64 [N, K], padded with -1. s is then 1 for these. None for partners in the same
            order. Not with `group`.
        reduction: "batch_mean", the sum divided by N, the number of x; "sum"; "mean", the sum
            divided by the number of logits, N x N or N x M.
        group: a process group in which each process has pairs of its own, any number of them: every
            x is compared with every y of the group. `torch.distributed.group.WORLD` for all
            processes; None for this process only.
        chunk_pairs: the number of y per chunk; None for a size that suits the device.

    Returns:
        The loss in nats, 0-dimensional, float32 (float64 for float64 features). With a group it is
        the share of this process' x: the sum over the group is the loss of one process with all
        pairs. The gradients by x and y are those of that sum; those by scale and bias are too, once
        they are summed over the group. If gradients are averaged afterwards, as
        DistributedDataParallel does, multiply the loss by the number of processes. The upstream
        gradient must be the same on every process.

    Raises:
        TypeError: if dtypes do not match, or scale or bias is not a tensor or a number.
        ValueError: if shapes or devices do not match; if a feature on the CPU is not finite; if
            `positives` names a y that does not exist (on the CPU), or is given with `group`; or if
            the processes of a group do not agree on width, dtype or reduction.

    Example:
        >>> import torch, torchbce
        >>> x = torch.nn.functional.normalize(torch.eye(3, 4) + 0.1)
        >>> loss = torchbce.pairwise_sigmoid_loss(x, x, scale=10.0, bias=-10.0)
        >>> round(loss.item(), 4)
        0.6938

    References:
        Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023.
    """
    tensors = {"x": x, "y": y, "scale": scale, "bias": bias, "positives": positives}
    kinds.check_kinds(tensors)
    if has_torch_function_variadic(x, y, scale, bias, positives):
        return kinds.overridden(
            pairwise_sigmoid_loss,
            (x, y, scale, bias, positives),
            x,
            y,
            scale=scale,
            bias=bias,
            positives=positives,
            reduction=reduction,
            group=group,
            chunk_pairs=chunk_pairs,
        )
    if not torch.compiler.is_compiling():
        x, y, scale, bias, positives = map(kinds.plain, (x, y, scale, bias, positives))
    _check_not_distributed(tensors)
    checks.reduction(reduction, REDUCTIONS)
    _check_features(x, y, positives)
    _check_positives(positives, x, group)
    chunk_pairs = arguments.check_chunk("chunk_pairs", chunk_pairs)
    t = _number("scale", scale, x)
    b = _number("bias", 0.0 if bias is None else bias, x)
    failure = None
    if not torch.compiler.is_compiling():
        try:
            for name, tensor in {"x": x, "y": y, "scale": t, "bias": b}.items():
                arguments.check_finite(tensor, name)
        except ValueError as error:
            if group is None:
                raise
            failure = error
    if group is None and not torch.compiler.is_compiling() and x.dtype == torch.bfloat16:
        from torchbce.linear import pairwise_gpu

        if pairwise_gpu.supports(x, y):
            divisor = float(denominator(reduction, len(x) * len(y), len(x)))
            by_definition = functools.partial(
                _by_linear_loss,
                positives=positives,
                reduction=reduction,
                chunk_pairs=chunk_pairs,
            )
            call = pairwise_gpu.PairsCall(divisor, chunk_pairs, by_definition)
            return pairwise_gpu.loss_of_pairs(x, y, t, b, positives, call)
    if group is None:
        return _by_linear_loss(x, y, t, b, positives, reduction, chunk_pairs)
    x, y, b = _scaled(x, y, t, b)
    pairs_per_process = _agreed_counts(y, reduction, group, failure)
    of_group = _GroupCall(group, pairs_per_process, reduction, chunk_pairs)
    apply: Any = PairwiseSigmoidLossOverGroup.apply
    value: Tensor = apply(x, y, b, of_group)
    return value


def _scaled(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """scale x, y and bias in the dtype of computation."""
    dtype = reference.compute_dtype(torch.promote_types(x.dtype, y.dtype))
    return x.to(dtype) * scale.to(dtype), y.to(dtype), bias.to(dtype)


def _by_linear_loss(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor,
    positives: Tensor | None,
    reduction: str,
    chunk_pairs: int | None,
) -> Tensor:
    """The loss of one process, as that of a linear layer."""
    x, y, b = _scaled(x, y, scale, bias)
    partners = (
        torch.arange(x.shape[0], device=x.device)[:, None] if positives is None else positives
    )
    if partners.shape[1] == len(y):
        # Lists with as many columns as there are labels may be a dense target.
        partners = torch.nn.functional.pad(partners, (0, 1), value=-1)
    options = LinearOptions(reduction=reduction, chunk_labels=chunk_pairs)
    if torch.compiler.is_compiling():
        return linear_loss(x, y, partners, b.expand(y.shape[0]), options)
    with in_full_precision(x.device):
        return linear_loss(x, y, partners, b.expand(y.shape[0]), options)


def _check_not_distributed(tensors: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        if kinds.is_distributed(tensor):
            raise TypeError(
                f"{name} is a DTensor; give the pairs of this process, x.to_local() and "
                "y.to_local(), with group=x.device_mesh.get_group(), and scale and bias as plain "
                "tensors"
            )


def _check_features(x: Tensor, y: Tensor, positives: Tensor | None) -> None:
    for name, features in (("x", x), ("y", y)):
        checks.input_dtype(name, features)
        if features.dim() != 2 or features.shape[1:] != x.shape[1:] or features.device != x.device:
            raise ValueError(
                f"x has shape {tuple(x.shape)} on {x.device} and y {tuple(y.shape)} on {y.device}; "
                "both must be (N, D), on one device"
            )
    if positives is None and x.shape != y.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; row i of x and row i of y are a "
            "pair, so that there must be as many rows in both. For several partners of an x, or "
            "none, give torchbce.pairwise_sigmoid_loss their rows in y: positives="
        )
    if x.dtype != y.dtype and not autocast_enabled(x.device):
        raise TypeError(f"x is {x.dtype} and y {y.dtype}; convert one: y.to(x.dtype)")


def _check_positives(positives: Tensor | None, x: Tensor, group: Any) -> None:
    if positives is None:
        return
    if group is not None:
        raise ValueError("positives cannot be given with group; the partners are in the same order")
    if positives.dtype != torch.int64 or positives.dim() != 2 or len(positives) != len(x):
        raise ValueError(
            f"positives is {positives.dtype} {tuple(positives.shape)}; it must be int64 "
            f"({len(x)}, K): for each x the rows of its partners in y, padded with -1"
        )
    if positives.device != x.device:
        raise ValueError(f"positives is on {positives.device} and x on {x.device}")


def _number(name: str, value: Tensor | float, x: Tensor) -> Tensor:
    """A number or a tensor of one element as a 0-dimensional tensor."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{name} must be one floating number, got {value.dtype} {tuple(value.shape)}"
            )
        return value.reshape(())
    value = checks.number(name, value, or_tensor=True)
    # Filled on the device: a copy to a GPU would make the host wait.
    return torch.full((), float(value), dtype=torch.float64, device=x.device)


class _GroupCall(NamedTuple):
    """A call over a process group, without its tensors."""

    group: Any
    pairs_per_process: list[int]
    reduction: str
    chunk_pairs: int | None


class PairwiseSigmoidLossOverGroup(torch.autograd.Function):
    """Each process broadcasts its y in turn, and receives the sum of the gradients by it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bias: Tensor, call: _GroupCall) -> Tensor:
        group, rank, pairs = call.group, dist.get_rank(call.group), sum(call.pairs_per_process)
        needs_grad = NeedsGrad(*ctx.needs_input_grad[:3])
        divisor = float(denominator(call.reduction, pairs * pairs, pairs))
        request = ChunkRequest(
            chunk_labels=call.chunk_pairs, needs_grad=needs_grad, scale=1 / divisor
        )
        run_chunks = chunk_runner(selection.chosen(x.detach(), x.detach(), None, None, None))
        total: float | Tensor = 0.0
        d_x, d_y, d_bias = torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(bias)
        for owner, count in enumerate(call.pairs_per_process):
            root = dist.get_global_rank(group, owner)
            block = y.detach().contiguous() if owner == rank else y.new_empty(count, y.shape[1])
            dist.broadcast(block, root, group=group)
            # Positives are the diagonal of this process' own block: key i * rows + i.
            diagonal = torch.arange(count if owner == rank else 0, device=y.device)
            ones = torch.ones(diagonal.shape, dtype=torch.bool, device=y.device)
            operands = LinearOperands(keys=diagonal * (x.shape[0] + 1), values=ones)
            with torch.no_grad(), in_full_precision(x.device):
                head = Head(x, block, bias.expand(count))
                loss, gradients = run_chunks(head, operands, request)
            total = total + loss
            if gradients.input is not None:
                d_x += gradients.input
            if gradients.bias is not None:
                d_bias += gradients.bias.sum()
            if gradients.weight is not None:
                dist.reduce(gradients.weight, root, group=group)
                if owner == rank:
                    d_y.copy_(gradients.weight)
        ctx.save_for_backward(d_x, d_y, d_bias)
        return (torch.as_tensor(total, dtype=torch.float64) / divisor).to(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        saved, needs_grad = ctx.saved_tensors, ctx.needs_input_grad[:3]
        gradients = zip(saved, needs_grad, strict=True)
        return *(g * upstream if needed else None for g, needed in gradients), None


def _agreed_counts(y: Tensor, reduction: str, group: Any, failure: ValueError | None) -> list[int]:
    """The number of pairs of each process; raises on all if they differ or one has failed."""
    dtypes = (torch.float32, torch.float64)
    facts = [
        y.shape[0],
        int(failure is not None),
        y.shape[1],
        dtypes.index(y.dtype),
        REDUCTIONS.index(reduction),
        int(torch.is_grad_enabled() and y.requires_grad),
    ]
    local = torch.tensor(facts, device=y.device)
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, local, group=group)
    if failure is not None:
        raise failure
    counts: list[int]
    counts, failed, *others = torch.stack(parts).T.tolist()
    if any(failed):
        raise ValueError("another process of the group refused its features; its message says why")
    names = "the width of y", "the dtype of y", "the reduction", "whether y requires grad"
    meanings: tuple[Any, ...] = (range(2**31), dtypes, REDUCTIONS, (False, True))
    for name, codes, values in zip(names, others, meanings, strict=True):
        if len(set(codes)) > 1:
            listed = ", ".join(str(values[i]) for i in codes[:8])
            if len(codes) > 8:  # of more processes the first ones that differ from the first
                other = next(i for i, code in enumerate(codes) if code != codes[0])
                listed = f"{values[codes[0]]} on process 0, {values[codes[other]]} on {other}"
            raise ValueError(f"{name} differs between the processes of the group: {listed}")
    return counts
