"""What every loss of the family does with its inputs, in one place.

A loss is a pair of functions of its input (`reference.*_parts`) with constants of its own; the
options that all losses share are a frozen record; `evaluate` checks and aligns, then either hands
on to a kernel or, in `by_reference`, masks, smooths, weighs and reduces in plain PyTorch.
"""

import functools
import math
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from torchbce import _autograd, _backends, _checks, kernels, reference

F = TypeVar("F", bound=Callable[..., object])

_STRIDED = torch.strided
_LIBRARIES = tuple(os.path.dirname(file) + os.sep for file in (__file__, torch.__file__))

#: An input of each domain with a finite loss, which stands where an element is ignored.
NEUTRAL = {"logits": 0.0, "probabilities": 0.5, "log_probs": -1.0}

#: Dtypes whose targets are checked as they are, so that an error says 255 and not 255.0.
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Loss(NamedTuple):
    """A member of the family.

    Attributes:
        parts: the loss of a positive and of a negative, see `reference`.
        constants: its arguments after the input.
        domain: of the input: "logits", "probabilities" or "log_probs".
    """

    parts: Callable[..., tuple[Tensor, Tensor]]
    constants: tuple[float | None, ...] = ()
    domain: str = "logits"


class Options(NamedTuple):
    """The options that every loss takes; `OPTIONS` says what each means."""

    weight: Tensor | float | None = None
    pos_weight: Tensor | float | None = None
    label_smoothing: float = 0.0
    ignore_index: float | None = None
    mask: Tensor | None = None
    reduction: str = "mean"


#: Shared by the docstrings of functions and modules, which have an option or two of their own.
OPTIONS = {
    "target": """\
        target: y in [0, 1], of input's shape or differing from it by trailing dimensions of size
            1 only, as (N,) and (N, 1); any float, bool or integer dtype; or a sparse COO or CSR
            tensor of input's shape, whose missing elements are 0 and which is never made dense (not
            under torch.compile, which PyTorch 2.13 cannot trace with one).""",
    "weight": """\
        weight: w, a number or a tensor that broadcasts to input's shape. The values of a tensor
            are used as they are; a number must be finite and not negative.""",
    "reduction": """\
        reduction: "none"; "sum"; "mean", over the number of elements, weights or not;
            "weighted_mean", over the sum of `weight`; "batch_mean", the sum over all dimensions
            but the first and the mean over that.""",
    "pos_weight": """\
        pos_weight: p, the weight of the positive part: a number or a tensor that broadcasts to
            input's shape, for instance (C,) for an input of shape (N, C).""",
    "ignoring": """\
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        ignore_index: elements with this target (NaN allowed) are ignored: no loss, no gradient,
            and no part in the denominator of a mean, whatever their logit.""",
    "mask": """\
        mask: bool, of input's shape as a target: false where an element is ignored.""",
    "returns": """\
        The loss in nats. For "none" of input's shape and dtype, 0 where ignored; otherwise
        0-dimensional, float64 for float64 input and float32 for every other. A mean over nothing
        is 0 with a warning and zero gradients.""",
    "raises": """\
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, a target on the CPU lies outside [0, 1] (the value and
            its index are named), or an option is out of its range.""",
}


def documented(function: F) -> F:
    """Put the shared descriptions into a docstring, where it names them in <angle brackets>."""

    def described(place: re.Match[str]) -> str:
        return textwrap.indent(textwrap.dedent(OPTIONS[place[2]]), place[1])

    # Python 3.13 takes the common indentation off a docstring, earlier ones leave it.
    function.__doc__ = re.sub(
        r"^( *)<(\w+)>$", described, function.__doc__ or "", flags=re.MULTILINE
    )
    return function


def evaluate(loss: Loss, input: Tensor, target: Tensor, options: Options) -> Tensor:
    """The loss of one member of the family."""
    weight, pos_weight, smoothing, ignore_index, mask, reduction = options
    _checks.reduction(reduction)
    _checks.fraction("label_smoothing", smoothing)
    by_kernel = _backends.chosen(input, target, weight, pos_weight, mask) is _backends.NUMBA
    if any(map(torch.is_tensor, loss.constants)):
        by_kernel = False  # a number that may change, or be differentiated by
    if not by_kernel:  # which takes floating input and real targets alone
        _checks.input_dtype("input", input)
        _checks.target_dtype(target)
    if weight is not None:
        weight = _checks.align_weight("weight", weight, input)
    if pos_weight is not None:
        pos_weight = _checks.align_weight("pos_weight", pos_weight, input)
    if mask is not None:
        mask = _checks.align_mask(mask, input)
    if target.layout is _STRIDED:
        target = _checks.align_target(input, target)
    if not by_kernel:
        return by_reference(loss, options, input, target, weight, pos_weight, mask)
    if ignore_index is not None and target.dtype == torch.float64:
        # A kernel compares in float32.
        mask, ignore_index = _counting(input, target, mask, options), None
    if ignore_index is not None and ignore_index != ignore_index:
        ignore_index = math.nan  # one object, which the cache of calls finds again
    call = _call(loss, smoothing, ignore_index, reduction)
    return _by_kernel(call, input, target, weight, pos_weight, mask)


def by_reference(
    loss: Loss,
    options: Options,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The loss in plain PyTorch, of tensors that are aligned."""
    if target.layout is not _STRIDED:
        return _sparse(loss, input, target, weight, pos_weight, mask, options)
    dtype = reference.compute_dtype(input.dtype)
    x, y = input.to(dtype), target.to(dtype)
    valid = _valid(target, y, mask, options.ignore_index)
    _checks.value_range("target", target if target.dtype in INTEGERS else y, valid)
    _checks.value_range(loss.domain, x, valid)
    if valid is not None:
        # Replaced before anything is computed: a NaN there reaches neither sum nor gradient.
        x, y = torch.where(valid, x, NEUTRAL[loss.domain]), torch.where(valid, y, 0.5)
        weight, pos_weight = _kept(weight, valid), _kept(pos_weight, valid)
    positive, negative = loss.parts(x, *loss.constants)
    elements = reference.combine(positive, negative, _smooth(y, options), weight, pos_weight)
    return _reduced(elements, input.dtype, weight, valid, options)


@functools.lru_cache(maxsize=256)
def _call(
    loss: Loss, smoothing: float, ignore_index: float | None, reduction: str
) -> _autograd.Call:
    """All of a call but its tensors: the same at every step of a training."""
    program = kernels.cpu().program(loss.parts, loss.constants, smoothing, ignore_index)
    options = Options(None, None, smoothing, ignore_index, None, reduction)
    return _autograd.Call(program, reduction, functools.partial(by_reference, loss, options))


def _by_kernel(
    call: _autograd.Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The loss by a kernel, of tensors that are aligned."""
    sparse = positions = None
    if target.layout is not _STRIDED:
        sparse = target
        index, target = _checks.sparse_elements(sparse, input)
        positions = _positions(index, input.shape)
    reduction, ignore_index = call.reduction, call.program.ignore_index
    ignores = mask is not None or ignore_index is not None
    divisor: float | None = None
    if reduction == "mean" and not ignores:
        divisor = float(input.numel() or 1)
    elif reduction == "none" or reduction == "sum":
        divisor = 1.0
    elif reduction == "batch_mean":
        divisor = float(max(input.shape[0], 1)) if input.dim() else 1.0
        if ignores:
            options = Options(ignore_index=ignore_index)
            counting = _counting(input, target if sparse is None else sparse, mask, options)
            divisor = _rows(counting)
    elif weight is None and not ignores:  # "weighted_mean"
        divisor = float(input.numel() or 1)

    elements = (input, target, weight, pos_weight, mask, positions)
    value, count = _autograd.evaluate(call, divisor, elements, sparse)
    if count == 0 and "mean" in reduction:
        warn_of_nothing(reduction)
    return value


def _positions(index: Tensor, shape: torch.Size) -> Tensor:
    """Where sparse elements stand in the flattened tensor, which their order follows."""
    position = torch.zeros(index.shape[1], dtype=torch.int64, device=index.device)
    for places, size in zip(index, shape, strict=True):
        position.mul_(size).add_(places)
    return position


def _counting(input: Tensor, target: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Which elements count, where some may be ignored: an extra pass, without arithmetic."""
    if target.layout is not _STRIDED:
        valid = _stored(input, target, mask, options).valid
    else:
        y = target if target.is_floating_point() else target.to(torch.float32)
        valid = _valid(target, y, mask, options.ignore_index)
    assert valid is not None  # for the type checker: something is ignored
    return valid


def _rows(valid: Tensor) -> float:
    """How many rows have an element that counts, at least 1."""
    if valid.dim() == 0:
        return 1.0
    rows = valid.any(dim=tuple(range(1, valid.dim()))) if valid.dim() > 1 else valid
    return max(float(rows.sum().item()), 1.0)


class _Stored(NamedTuple):
    """The stored elements of a sparse target: where and what; and which of all elements count."""

    at: tuple[Tensor, ...]
    y: Tensor
    valid: Tensor | None


def _stored(input: Tensor, target: Tensor, mask: Tensor | None, options: Options) -> _Stored:
    index, values = _checks.sparse_elements(target, input)
    y = values.to(reference.compute_dtype(input.dtype))
    at = index.unbind()
    kept = _valid(values, y, None if mask is None else mask[at], options.ignore_index)
    _checks.value_range("target", y, kept, index)
    if kept is None:
        return _Stored(at, y, mask)
    zero = torch.zeros((), dtype=y.dtype, device=input.device)
    elsewhere = _valid(zero, zero, mask, options.ignore_index)
    assert elsewhere is not None  # for the type checker: something is ignored
    valid = elsewhere.expand(input.shape).index_put(at, kept)
    return _Stored(at, torch.where(kept, y, 0.5), valid)


def _sparse(
    loss: Loss,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    options: Options,
) -> Tensor:
    """Every element as a negative, then those that the target holds in their place."""
    at, y, valid = _stored(input, target, mask, options)
    x = input.to(y.dtype)
    _checks.value_range(loss.domain, x, valid)
    if valid is not None:
        x = torch.where(valid, x, NEUTRAL[loss.domain])
        weight, pos_weight = _kept(weight, valid), _kept(pos_weight, valid)

    zero = torch.zeros((), dtype=y.dtype, device=input.device)
    parts = loss.parts(x, *loss.constants)
    negatives = reference.combine(*parts, _smooth(zero, options), weight, pos_weight)
    stored = reference.combine(
        *loss.parts(x[at], *loss.constants),
        _smooth(y, options),
        None if weight is None else weight.expand(input.shape)[at],
        None if pos_weight is None else pos_weight.expand(input.shape)[at],
    )
    return _reduced(negatives.index_put(at, stored), input.dtype, weight, valid, options)


def _valid(
    target: Tensor, y: Tensor, mask: Tensor | None, ignore_index: float | None
) -> Tensor | None:
    """False where an element is ignored; None where none can be.

    A float is compared in the target's own dtype, where 0.1 is what the user wrote; an integer as
    a float, since -100 does not fit a uint8.
    """
    if ignore_index is None:
        return mask
    values = target if target.is_floating_point() else y
    kept = ~y.isnan() if ignore_index != ignore_index else values != ignore_index
    return kept if mask is None else kept & mask


def _kept(weight: Tensor | None, valid: Tensor) -> Tensor | None:
    """The weight, 1 where an element is ignored: a NaN there reaches no gradient either."""
    return None if weight is None else torch.where(valid, weight, 1.0)


def _smooth(y: Tensor, options: Options) -> Tensor:
    s = options.label_smoothing
    return y if s == 0 else y * (1 - s) + s / 2


def _reduced(
    loss: Tensor,
    input_dtype: torch.dtype,
    weight: Tensor | None,
    valid: Tensor | None,
    options: Options,
) -> Tensor:
    if valid is not None:
        loss = torch.where(valid, loss, 0.0)
    if "mean" in options.reduction and _nothing_counts(loss, valid):
        warn_of_nothing(options.reduction)
    return reference.reduce(loss, options.reduction, input_dtype, weight, valid)


def warn_of_nothing(reduction: str) -> None:
    """Warn at the line that asked for the loss: the first outside this package and PyTorch."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"the {reduction!r} of a loss over no elements is 0: the input is empty, or every element "
        "is ignored",
        stacklevel=level,
    )


def _nothing_counts(loss: Tensor, valid: Tensor | None) -> bool:
    if torch.compiler.is_compiling():
        return False
    if loss.numel() == 0:
        return True
    if valid is None:
        return False
    values = _checks.readable(valid)
    return values is not None and not bool(values.any())
