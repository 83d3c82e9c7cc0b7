"""The arguments of linear + cross-entropy: checked, and brought into the form that is computed."""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torchbce._contract import evaluate
from torchbce.backends import selection
from torchbce.definition import checks, reference
from torchbce.definition.arguments import INTEGERS
from torchbce.definition.reductions import warn_of_empty_mean
from torchbce.linear import targets
from torchbce.linear.autograd import Call
from torchbce.linear.chunks import LOSS, in_full_precision
from torchbce.linear.sharding import Shard
from torchbce.linear.targets import Labels, Operands

REDUCTIONS = ("mean", "sum", "batch_mean", "none")


class Settings(NamedTuple):
    """The options of linear + cross-entropy, as `linear_binary_cross_entropy` describes them."""

    pos_weight: Tensor | float | None = None
    label_weight: Tensor | None = None
    row_weight: Tensor | None = None
    mask: Tensor | None = None
    ignored: Tensor | None = None
    label_smoothing: float = 0.0
    reduction: str = "mean"
    chunk_labels: int | None = None
    check_targets: bool | None = None


def check(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    labels: int,
    options: Settings,
) -> None:
    """Raise unless types, shapes, dtypes and devices fit; values are looked at in `prepare`."""
    _reduction(options.reduction)
    checks.fraction("label_smoothing", options.label_smoothing)
    check_chunk("chunk_labels", options.chunk_labels)
    check_head(input, weight, bias)
    checks.target_dtype(target)
    lead = input.shape[:-1]
    logits = (*lead, labels)
    if target.layout is torch.strided and target.dtype == torch.int64:
        _listed("target", target, lead, logits)
    elif target.shape != logits:
        lists = ""
        if target.dim() == len(logits) and not target.is_floating_point():
            lists = "; lists of positive labels are int64, padded with -1: target.long()"
        raise ValueError(
            f"target has shape {tuple(target.shape)}; the logits of input {tuple(input.shape)} and "
            f"{labels} labels have shape {logits}, and a dense or sparse target must too{lists}"
        )
    given = {name: getattr(options, name) for name in Settings._fields[:5]}
    for name, tensor in {"target": target, **given}.items():
        if not isinstance(tensor, Tensor):
            continue
        _same_device(name, tensor, input)
        if tensor.requires_grad:
            raise ValueError(
                f"{name} requires grad; linear + cross-entropy is differentiated by input, "
                f"weight and bias alone. Give {name}.detach(), or take the loss of logits"
            )
    _weight("label_weight", options.label_weight, (labels,))
    _weight("row_weight", options.row_weight, tuple(lead))
    p = options.pos_weight
    if isinstance(p, Tensor):
        _weight("pos_weight", p, p.shape if p.numel() == 1 else (labels,))
    elif p is not None:
        checks.align_weight("pos_weight", p, input)
    mask = options.mask
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            came = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(
                f"mask must be a bool tensor, false where an element is ignored; got {came}"
            )
        if not checks.broadcasts_into(mask.shape, torch.Size(logits)):
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}, which does not broadcast to the shape of "
                f"the logits, {logits}"
            )
    if options.ignored is not None:
        if not isinstance(options.ignored, Tensor) or options.ignored.dtype != torch.int64:
            raise TypeError(
                "ignored must be an int64 tensor that lists labels by row, padded with -1; for one "
                "value an element use mask"
            )
        _listed("ignored", options.ignored, lead, logits)


def check_chunk(name: str, size: object) -> None:
    """Raise unless this is how many to a chunk, or None."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"{name} must be an integer of 1 or above, or None; got {size!r}")


def check_types(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise unless these are floating tensors."""
    for name, tensor in {"input": input, "weight": weight, "bias": bias}.items():
        if tensor is not None or name != "bias":
            checks.input_dtype(name, tensor)  # type: ignore[arg-type]


def check_head(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise unless a linear layer takes these."""
    check_types(input, weight, bias)
    for name, tensor in {"weight": weight, "bias": bias}.items():
        if tensor is not None:
            _same_device(name, tensor, input)
    if weight.dim() != 2 or input.dim() < 1 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"input has shape {tuple(input.shape)} and weight {tuple(weight.shape)}; they must be "
            "(..., D) and (L, D), as torch.nn.functional.linear takes them"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias has shape {tuple(bias.shape)} and weight {tuple(weight.shape)}; bias must have "
            f"one number a label: ({weight.shape[0]},)"
        )
    dtypes = {t.dtype for t in (input, weight, bias) if t is not None}
    if len(dtypes) > 1 and (torch.float64 in dtypes or not autocasts(input.device)):
        raise TypeError(
            f"input is {input.dtype}, weight {weight.dtype}"
            + ("" if bias is None else f" and bias {bias.dtype}")
            + "; they must be of one dtype, or of several of 32 bits or fewer under "
            "torch.autocast. Convert one: input.to(weight.dtype)"
        )


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device, which may have none."""
    available = torch.amp.is_autocast_available(device.type)
    return available and torch.is_autocast_enabled(device.type)


def _reduction(name: str) -> None:
    if name not in REDUCTIONS:
        expected = ", ".join(map(repr, REDUCTIONS))
        raise ValueError(f"reduction must be one of {expected}; got {name!r}")


def _listed(name: str, lists: Tensor, lead: torch.Size, logits: tuple[int, ...]) -> None:
    if lists.dim() != len(logits) or lists.shape[:-1] != lead:
        raise ValueError(
            f"{name} has shape {tuple(lists.shape)} and dtype int64, which lists labels by row: "
            f"its shape must be {tuple(lead)} and one dimension more, of the longest row's length"
        )


def _same_device(name: str, tensor: Tensor, input: Tensor) -> None:
    if tensor.device != input.device and not (tensor.dim() == 0 and tensor.device.type == "cpu"):
        raise ValueError(
            f"{name} is on {tensor.device} and input on {input.device}; move one of them with "
            f".to({str(input.device)!r})"
        )


def _weight(name: str, weight: object, shape: tuple[int, ...]) -> None:
    if weight is None:
        return
    if not isinstance(weight, Tensor) or weight.is_complex():
        raise TypeError(
            f"{name} must be a real tensor of shape {shape}, got {type(weight).__name__}"
        )
    if weight.shape != shape:
        raise ValueError(f"{name} has shape {tuple(weight.shape)}; it must have shape {shape}")


def prepare(
    input: Tensor,
    target: Tensor,
    options: Settings,
    shard: Shard,
) -> tuple[Call, Operands]:
    """A call and its operands, of arguments that `check` let pass; raises for bad values."""
    finite(input)
    here = shard.labels if shard.here is None else shard.here
    labels = Labels(input.shape[:-1], shard.labels, shard.first, here)
    x = input.detach()
    dense = target if target.dtype != torch.int64 and target.layout is torch.strided else x
    backend = selection.chosen(x, dense, None, None, options.mask)
    on_gpu, check = backend is selection.TRITON, options.check_targets
    if on_gpu and (check or (check is None and input.is_cpu)):
        _look_at(target, options, labels)
    if shard.group is not None and target.layout is torch.strided and target.dtype != torch.int64:
        # Before the visit, in which one process alone would find it and leave the others waiting.
        _look_at(target, options, labels)
    part = slice(shard.first, shard.first + here)
    dtype = reference.compute_dtype(input.dtype)
    mask = _masked(options.mask, labels)
    everywhere, ignored = targets.ignored_keys(options.ignored, labels, check, on_gpu)
    if on_gpu:
        counts = targets.counted_on_gpu(mask, options.ignored, labels)
    else:
        counts = targets.counted(mask, everywhere, labels)
    p = options.pos_weight
    if p is not None:
        if not isinstance(p, Tensor) or p.device != input.device:
            # Filled where it is read: a copy to a GPU would make the host wait.
            p = torch.full((), float(p), dtype=dtype, device=input.device)
        p = p.to(dtype)
        p = p.reshape(()) if p.numel() == 1 else p[part]
    u, v = options.label_weight, options.row_weight
    operands = Operands(
        *targets.positives(target, labels, check, on_gpu),
        None if mask is None else mask[:, part],
        ignored,
        p,
        None if u is None else u[part].to(dtype),
        None if v is None else v.reshape(-1).to(dtype),
    )
    divisor = _divisor(options.reduction, labels, counts)
    if isinstance(divisor, Tensor) and not on_gpu:
        divisor = float(divisor)
    if isinstance(divisor, Tensor):
        divisor = divisor.clamp(min=1).double()
    elif divisor == 0:
        warn_of_empty_mean(options.reduction)
    call = Call(
        labels.lead,
        options.reduction,
        divisor if isinstance(divisor, Tensor) else divisor or 1.0,
        options.label_smoothing,
        options.chunk_labels,
        shard.group,
        backend,
        look_at_targets=(
            None if check is False else functools.partial(_look_at, target, options, labels)
        ),
        definition=functools.partial(dense_loss, target=target, options=options),
    )
    return call, operands


def _look_at(target: Tensor, options: Settings, labels: Labels) -> None:
    """Raise if a dense target that counts lies outside [0, 1], naming its own index."""
    if target.layout is not torch.strided or target.dtype == torch.int64:
        return
    plain = target.dtype in INTEGERS or target.is_floating_point()
    values = target if plain else target.to(torch.float64)
    check = options.check_targets
    checks.value_range("target", values, _counting(options, labels), check=check)


def _counting(options: Settings, labels: Labels) -> Tensor | None:
    """Which elements count, one value a logit; None where all do."""
    mask = options.mask
    if mask is not None:
        mask = mask.expand(labels.shape)
    if options.ignored is not None:
        counts = ~targets.dense(options.ignored, labels)
        mask = counts if mask is None else counts & mask
    return mask


def finite(input: Tensor, name: str = "input") -> None:
    """Raise, on the CPU, if a value of the input is not finite."""
    plain = checks.readable(input)
    # A sum of finite values is finite but where it overflows; it takes one pass and no memory.
    if plain is None or math.isfinite(plain.sum()) or bool(plain.isfinite().all()):
        return
    at = tuple(int(i) for i in (~plain.isfinite()).nonzero()[0])
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    raise ValueError(
        f"{place} is {plain[at].item()}; hidden values must be finite. Look for a diverged step, a "
        "division by 0 or an overflow of half precision before this layer"
    )


def _masked(mask: Tensor | None, labels: Labels) -> Tensor | None:
    """A mask as [rows, labels], without memory of that size where it is broadcast."""
    if mask is None:
        return None
    if mask.shape[-1:].numel() == 1:
        rows = mask.expand(*labels.lead, 1).reshape(labels.rows, 1)
        return rows.expand(labels.rows, labels.all)
    if mask.shape[:-1].numel() == 1:
        return mask.reshape(labels.all).expand(labels.rows, labels.all)
    return mask.expand(labels.shape).reshape(labels.rows, labels.all)


def _divisor(reduction: str, labels: Labels, counts: Tensor | None) -> float | Tensor:
    """What the sum is divided by; 0 for a mean over nothing."""
    if reduction in ("sum", "none"):
        return 1.0
    if reduction == "mean":
        return float(labels.rows * labels.all) if counts is None else counts.sum()
    first = labels.lead[:1].numel()
    if counts is None:
        return float(first if labels.rows * labels.all else 0)
    by_first = counts.view(first, labels.lead[1:].numel()).sum(1)
    return (by_first > 0).sum()


def dense_loss(
    input: Tensor, weight: Tensor, bias: Tensor | None, *, target: Tensor, options: Settings
) -> Tensor:
    """The definition: the loss of all logits at once, in plain PyTorch."""
    dtype = reference.compute_dtype(input.dtype)
    with in_full_precision(input.device):
        b = None if bias is None else bias.to(dtype)
        logits = F.linear(input.to(dtype), weight.to(dtype), b)
    labels = Labels(input.shape[:-1], weight.shape[0], 0, weight.shape[0])
    if target.layout is torch.strided:
        if target.dtype == torch.int64:
            targets.check_listed("target", target, labels, options.check_targets)
        target = targets.dense(target, labels)
    if options.ignored is not None:
        targets.check_listed("ignored", options.ignored, labels, options.check_targets)
    mask = _counting(options, labels)
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
    loss = evaluate(LOSS, logits, target, w, p, smoothing, None, mask, reduction, check)
    return loss.sum(-1) if reduction == "none" else loss
