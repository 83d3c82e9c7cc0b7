"""The linear loss in plain PyTorch, of all logits at once: its definition."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchbce._contract import evaluate
from torchbce.definition import checks, family, reference
from torchbce.definition.arguments import INTEGERS
from torchbce.definition.sparse import sparse_entries
from torchbce.linear import targets
from torchbce.linear.precision import no_autocast
from torchbce.linear.records import LinearOptions, LogitsShape


def dense_loss(
    input: Tensor, weight: Tensor, bias: Tensor | None, *, target: Tensor, options: LinearOptions
) -> Tensor:
    """The loss of arguments that `arguments.check` has accepted, with logits [..., labels]."""
    dtype = reference.compute_dtype(input.dtype)
    if input.layout is not torch.strided:
        input = input.to_dense()
    with no_autocast(input.device):
        b = None if bias is None else bias.to(dtype)
        logits = F.linear(input.to(dtype), weight.to(dtype), b)
    labels = weight.shape[0]
    shape = LogitsShape(input.shape[:-1], labels, 0, labels)
    if target.layout is torch.strided:
        if target.dtype == torch.int64:
            targets.check_label_lists("target", target, shape, options.check_targets)
        target = dense_target(target, shape)
    if options.ignored is not None and options.ignored.layout is torch.strided:
        targets.check_label_lists("ignored", options.ignored, shape, options.check_targets)
    mask = valid_mask(options, shape)
    u, v = (w if w is None else w.to(dtype) for w in (options.label_weight, options.row_weight))
    w = u
    if v is not None:
        w = v[..., None] if u is None else v[..., None] * u
    reduction = options.reduction
    if reduction == "batch_mean" and input.dim() == 1:
        reduction = "sum"  # one row
    p, smoothing = options.pos_weight, options.label_smoothing
    if isinstance(p, Tensor) and p.numel() == 1:
        p = p.reshape(())
    check = options.check_targets
    loss = evaluate(
        family.CROSS_ENTROPY, logits, target, w, p, smoothing, None, mask, reduction, check
    )
    return loss.sum(-1) if reduction == "none" else loss


def dense_target(target: Tensor, shape: LogitsShape) -> Tensor:
    """A target that is not sparse with one value per logit, also under a functorch transform."""
    if target.dtype != torch.int64:
        return target.reshape(shape.dense)
    # Padding goes to a column of its own, which is cut off.
    index = torch.where(target < 0, shape.labels, target)
    columns = (*shape.batch, shape.labels + 1)
    dense = torch.zeros(columns, dtype=torch.bool, device=target.device)
    ones = torch.ones_like(index, dtype=torch.bool)
    return dense.scatter(-1, index, ones)[..., : shape.labels]


def valid_mask(options: LinearOptions, shape: LogitsShape) -> Tensor | None:
    """True where an element is valid, [..., labels]; None where all are."""
    mask = options.mask
    if mask is not None:
        mask = mask.expand(shape.dense)
    if options.ignored is not None:
        valid = ~_dense_ignored(options.ignored, shape, options.check_targets)
        mask = valid if mask is None else valid & mask
    return mask


def _dense_ignored(ignored: Tensor, shape: LogitsShape, check: bool | None) -> Tensor:
    """True where an element is ignored, [..., labels]."""
    if ignored.layout is torch.strided:
        return dense_target(ignored, shape)
    logits = torch.empty(shape.dense, device="meta")
    index, values = sparse_entries(ignored, logits, check, "ignored")
    dense = torch.zeros(shape.dense, dtype=torch.bool, device=ignored.device)
    dense[tuple(index)] = values != 0
    return dense


def check_dense_target(target: Tensor, options: LinearOptions, shape: LogitsShape) -> None:
    """Raise if a valid element of a dense target is outside [0, 1], naming its index."""
    if target.layout is not torch.strided or target.dtype == torch.int64:
        return
    comparable = target.dtype in INTEGERS or target.is_floating_point()
    values = target if comparable else target.to(torch.float64)
    checks.value_range("target", values, valid_mask(options, shape), check=options.check_targets)
