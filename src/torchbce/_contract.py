"""What every loss of the family does with its inputs, in one place.

A loss is a pair of functions of its input (`reference.*_parts`); the options that all losses share
are a frozen record; `evaluate` checks, aligns, masks, smooths, weighs and reduces.
"""

import re
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from torchbce import _checks, reference

F = TypeVar("F", bound=Callable[..., object])
Parts = Callable[[Tensor], tuple[Tensor, Tensor]]

#: An input of each domain with a finite loss, which stands where an element is ignored.
NEUTRAL = {"logits": 0.0, "probabilities": 0.5, "log_probs": -1.0}

#: Dtypes whose targets are checked as they are, so that an error says 255 and not 255.0.
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Options:
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


def evaluate(
    parts: Parts, input: Tensor, target: Tensor, options: Options, domain: str = "logits"
) -> Tensor:
    """The loss of one member of the family: its parts, and the domain of its input."""
    _checks.input_dtype("input", input)
    _checks.reduction(options.reduction)
    _checks.fraction("label_smoothing", options.label_smoothing)
    _checks.target_dtype(target)
    weight = _checks.align_weight("weight", options.weight, input)
    pos_weight = _checks.align_weight("pos_weight", options.pos_weight, input)
    mask = None if options.mask is None else _checks.align_mask(options.mask, input)
    if target.layout != torch.strided:
        return _sparse(parts, input, target, weight, pos_weight, mask, options, domain)

    dtype = reference.compute_dtype(input.dtype)
    target = _checks.align_target(input, target)
    x, y = input.to(dtype), target.to(dtype)
    valid = _valid(target, y, mask, options.ignore_index)
    _checks.value_range("target", target if target.dtype in INTEGERS else y, valid)
    _checks.value_range(domain, x, valid)
    if valid is not None:
        # Replaced before anything is computed: a NaN there reaches neither sum nor gradient.
        x, y = torch.where(valid, x, NEUTRAL[domain]), torch.where(valid, y, 0.5)
        weight, pos_weight = _kept(weight, valid), _kept(pos_weight, valid)
    loss = reference.combine(*parts(x), _smooth(y, options), weight, pos_weight)
    return _reduced(loss, input.dtype, weight, valid, options)


def _sparse(
    parts: Parts,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    options: Options,
    domain: str,
) -> Tensor:
    """Every element as a negative, then those that the target holds in their place."""
    index, values = _checks.sparse_elements(target, input)
    dtype = reference.compute_dtype(input.dtype)
    y = values.to(dtype)
    at = index.unbind()
    zero = torch.zeros((), dtype=dtype, device=input.device)
    stored_mask = None if mask is None else mask[at]
    stored_valid = _valid(values, y, stored_mask, options.ignore_index)
    _checks.value_range("target", y, stored_valid, index)
    valid = mask
    if stored_valid is not None:
        elsewhere = _valid(zero, zero, mask, options.ignore_index)
        assert elsewhere is not None  # for the type checker: something is ignored
        valid = elsewhere.expand(input.shape).index_put(at, stored_valid)
        y = torch.where(stored_valid, y, 0.5)
    x = input.to(dtype)
    _checks.value_range(domain, x, valid)
    if valid is not None:
        x = torch.where(valid, x, NEUTRAL[domain])
        weight, pos_weight = _kept(weight, valid), _kept(pos_weight, valid)

    negatives = reference.combine(*parts(x), _smooth(zero, options), weight, pos_weight)
    stored = reference.combine(
        *parts(x[at]),
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
        warnings.warn(
            f"the {options.reduction!r} of a loss over no elements is 0: the input is empty, or "
            "every element is ignored",
            stacklevel=4,
        )
    return reference.reduce(loss, options.reduction, input_dtype, weight, valid)


def _nothing_counts(loss: Tensor, valid: Tensor | None) -> bool:
    if torch.compiler.is_compiling():
        return False
    if loss.numel() == 0:
        return True
    if valid is None:
        return False
    values = _checks.readable(valid)
    return values is not None and not bool(values.any())
