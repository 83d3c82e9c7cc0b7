"""Checks of the arguments of the linear loss, except for the values of targets."""

import math
from numbers import Integral

import torch
from torch import Tensor

from torchbce.definition import checks
from torchbce.linear.precision import autocast_enabled
from torchbce.linear.records import LinearOptions

REDUCTIONS = ("mean", "sum", "batch_mean", "none")


def check(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    labels: int,
    options: LinearOptions,
) -> None:
    """Raise unless types, shapes, dtypes and devices match.

    `labels` are those of all processes, `weight` and `bias` may have some of them.
    """
    checks.reduction(options.reduction, REDUCTIONS)
    checks.fraction("label_smoothing", options.label_smoothing)
    check_chunk("chunk_labels", options.chunk_labels)
    check_head(input, weight, bias)
    _labels_type("target", target)
    checks.target_dtype(target)
    batch = input.shape[:-1]
    logits = torch.Size((*batch, labels))
    _target_shape(target, input, logits)
    for name, tensor in {"target": target, **options._asdict()}.items():
        if isinstance(tensor, Tensor):
            _same_device(name, tensor, input)
            _no_gradient(name, tensor)
    _weight("label_weight", options.label_weight, (labels,))
    _weight("row_weight", options.row_weight, tuple(batch))
    p = options.pos_weight
    if isinstance(p, Tensor):
        _weight("pos_weight", p, p.shape if p.numel() == 1 else (labels,))
    elif p is not None:
        checks.align_weight("pos_weight", p, input)
    if options.mask is not None:
        _mask(options.mask, logits)
    if options.ignored is not None:
        _ignored(options.ignored, logits)


def with_numbers(options: LinearOptions) -> LinearOptions:
    """The options with Python's numbers in place of those of NumPy."""
    p = options.pos_weight
    if p is not None and not isinstance(p, Tensor):
        p = checks.number("pos_weight", p, or_tensor=True)
    return options._replace(
        pos_weight=p,
        label_smoothing=checks.fraction("label_smoothing", options.label_smoothing),
        chunk_labels=check_chunk("chunk_labels", options.chunk_labels),
    )


def check_chunk(name: str, size: object) -> int | None:
    """A chunk size; raise unless it is a positive integer or None."""
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise ValueError(f"{name} must be an integer of 1 or above, or None; got {size!r}")
    return int(size)


def check_types(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise unless the arguments are floating tensors."""
    checks.input_dtype("input", input)
    checks.input_dtype("weight", weight)
    if bias is not None:
        checks.input_dtype("bias", bias)


def check_head(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise unless `torch.nn.functional.linear` takes the arguments, under autocast or not."""
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
            f"one number per label: ({weight.shape[0]},)"
        )
    dtypes = {t.dtype for t in (input, weight, bias) if t is not None}
    if len(dtypes) > 1 and (torch.float64 in dtypes or not autocast_enabled(input.device)):
        raise TypeError(
            f"input is {input.dtype}, weight {weight.dtype}"
            + ("" if bias is None else f" and bias {bias.dtype}")
            + "; they must have one dtype, or several of 32 bits or fewer under torch.autocast. "
            "Convert one: input.to(weight.dtype)"
        )


def check_finite(input: Tensor, name: str = "input") -> None:
    """Raise, on the CPU, if a value of the input is not finite."""
    values = checks.readable(input)
    # The sum of finite values is finite unless it overflows; it takes one pass and no memory.
    if values is None or math.isfinite(values.sum()) or bool(values.isfinite().all()):
        return
    index = tuple(int(i) for i in (~values.isfinite()).nonzero()[0])
    place = f"{name}[{', '.join(map(str, index))}]" if index else name
    raise ValueError(
        f"{place} is {values[index].item()}; hidden values must be finite. Look for a diverged "
        "step, a division by 0 or an overflow of half precision before this layer"
    )


def _labels_type(name: str, labels: object) -> None:
    """Raise for labels in a form that has to be converted first."""
    if isinstance(labels, Tensor):
        return
    remedy = ""
    if hasattr(labels, "__len__"):
        remedy = (
            f"; torchbce.positives_from({name}) makes label lists from lists, SciPy matrices and "
            f"NumPy arrays. Convert one value per label with torch.as_tensor({name})"
        )
    raise TypeError(f"{name} must be a torch.Tensor, got {type(labels).__name__}{remedy}")


def _target_shape(target: Tensor, input: Tensor, logits: torch.Size) -> None:
    if target.layout is torch.strided and target.dtype == torch.int64:
        _label_lists("target", target, logits)
    elif target.shape != logits:
        remedy = ""
        if target.dim() == len(logits) and not target.is_floating_point():
            remedy = "; lists of positive labels are int64, padded with -1: target.long()"
        raise ValueError(
            f"target has shape {tuple(target.shape)}; the logits of input {tuple(input.shape)} and "
            f"{logits[-1]} labels have shape {tuple(logits)}, and a dense or sparse target must "
            f"have it too{remedy}"
        )


def _label_lists(name: str, lists: Tensor, logits: torch.Size) -> None:
    batch = logits[:-1]
    if lists.dim() != len(logits) or lists.shape[:-1] != batch:
        raise ValueError(
            f"{name} has shape {tuple(lists.shape)} and dtype int64, which lists the labels of "
            f"each row: its shape must be {tuple(batch)} and one dimension more, as long as the "
            "longest list"
        )


def _same_device(name: str, tensor: Tensor, input: Tensor) -> None:
    if tensor.device != input.device and not (tensor.dim() == 0 and tensor.device.type == "cpu"):
        raise ValueError(
            f"{name} is on {tensor.device} and input on {input.device}; move one of them with "
            f".to({str(input.device)!r})"
        )


def _no_gradient(name: str, tensor: Tensor) -> None:
    if tensor.requires_grad:
        raise ValueError(
            f"{name} requires grad; the linear loss is differentiable by input, weight and bias "
            f"only. Give {name}.detach(), or compute the loss of the logits"
        )


def _weight(name: str, weight: object, shape: tuple[int, ...]) -> None:
    if weight is None:
        return
    if not isinstance(weight, Tensor) or weight.is_complex():
        got, remedy = type(weight).__name__, ""
        if isinstance(weight, Tensor):
            got = str(weight.dtype)
        elif hasattr(weight, "__len__"):
            remedy = f"; convert it with torch.as_tensor({name})"
        raise TypeError(f"{name} must be a real tensor of shape {shape}, got {got}{remedy}")
    if weight.shape != shape:
        raise ValueError(f"{name} has shape {tuple(weight.shape)}; it must have shape {shape}")


def _mask(mask: Tensor, logits: torch.Size) -> None:
    checks.mask_dtype(mask)
    if not checks.broadcasts_into(mask.shape, logits):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, which does not broadcast to the shape of the "
            f"logits, {tuple(logits)}"
        )


def _ignored(ignored: Tensor, logits: torch.Size) -> None:
    _labels_type("ignored", ignored)
    if ignored.layout is not torch.strided:
        if ignored.shape != logits:
            raise ValueError(
                f"ignored is sparse and has shape {tuple(ignored.shape)}; the logits have shape "
                f"{tuple(logits)}, and a sparse tensor of ignored labels must have it too"
            )
        return
    if ignored.dtype != torch.int64:
        raise TypeError(
            "ignored must be an int64 tensor that lists the labels of each row, padded with -1, or "
            f"a sparse tensor, got {ignored.dtype}; for one value per element use mask"
        )
    _label_lists("ignored", ignored, logits)
