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

from torchbce.backends import selection
from torchbce.backends.request import Call, KernelInputs, program
from torchbce.definition import checks, reductions, reference

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
    check_targets: bool | None = None


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
    "check_targets": """\
        check_targets: whether targets (and probabilities) outside their range raise; None for "on
            the CPU", where that costs nothing. On a GPU the host has to wait for the answer. With
            False, losses of probabilities on the CPU are the definition's.""",
    "returns": """\
        The loss in nats. For "none" of input's shape and dtype, 0 where ignored; otherwise
        0-dimensional, float64 for float64 input and float32 for every other. A mean over nothing
        is 0 with zero gradients, and with a warning where the host knows it: on the CPU, or of an
        empty input.""",
    "raises": """\
        TypeError: if input is not floating, or an argument is not a tensor or a number.
        ValueError: if shapes do not match, a target on the CPU lies outside [0, 1] (the value and
            its index are named; see `check_targets`), or an option is out of its range.""",
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
    weight, pos_weight, smoothing, ignore_index, mask, reduction, check = options
    checks.reduction(reduction)
    checks.fraction("label_smoothing", smoothing)
    if not torch.compiler.is_compiling():
        weight = checks.beside(weight, input)
        pos_weight = checks.beside(pos_weight, input)
    unchecked = check is False and loss.domain != "logits"
    backend = selection.chosen(input, target, weight, pos_weight, mask, unchecked)
    if any(map(torch.is_tensor, loss.constants)):
        backend = selection.REFERENCE  # a number that may change, or be differentiated by
    if backend is selection.REFERENCE:  # kernels take floating input and real targets alone
        checks.input_dtype("input", input)
        checks.target_dtype(target)
    if weight is not None:
        weight = checks.align_weight("weight", weight, input)
    if pos_weight is not None:
        pos_weight = checks.align_weight("pos_weight", pos_weight, input)
    if mask is not None:
        mask = checks.align_mask(mask, input)
    if target.layout is _STRIDED:
        target = checks.align_target(input, target)
    if backend is selection.REFERENCE:
        return by_reference(loss, options, input, target, weight, pos_weight, mask)
    if ignore_index is not None and target.dtype == torch.float64:
        # A kernel compares in float32.
        mask, ignore_index = reductions.counting(input, target, mask, ignore_index), None
    if ignore_index is not None and ignore_index != ignore_index:
        ignore_index = math.nan  # one object, which the cache of calls finds again
    checked = check is not False
    if backend is selection.TRITON and (check or (checked and input.is_cpu)):
        _look(loss.domain, input, target, mask, ignore_index)
    if torch.compiler.is_compiling():
        from torchbce.backends import compiled  # with the first graph: it takes 8 ms

        asked = program(loss.parts, loss.constants, smoothing, ignore_index)
        return compiled.loss(asked, reduction, input, target, weight, pos_weight, mask)
    call = _call(loss, smoothing, ignore_index, reduction, checked)
    return _by_kernel(backend, call, input, target, weight, pos_weight, mask)


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
    check = options.check_targets
    dtype = reference.compute_dtype(input.dtype)
    x, y = input.to(dtype), target.to(dtype)
    valid = reductions.which(target, y, mask, options.ignore_index)
    checks.value_range("target", target if target.dtype in INTEGERS else y, valid, check=check)
    checks.value_range(loss.domain, x, valid, check=check)
    if valid is not None:
        # Replaced before anything is computed: a NaN there reaches neither sum nor gradient.
        x, y = torch.where(valid, x, NEUTRAL[loss.domain]), torch.where(valid, y, 0.5)
        weight, pos_weight = _kept(weight, valid), _kept(pos_weight, valid)
    positive, negative = loss.parts(x, *loss.constants)
    losses = reference.combine(positive, negative, _smooth(y, options), weight, pos_weight)
    return _reduced(losses, input.dtype, weight, valid, options)


def _look(
    domain: str, input: Tensor, target: Tensor, mask: Tensor | None, ignore_index: float | None
) -> None:
    """Raise if a value that counts is outside its range, wherever it lies."""
    if target.layout is not _STRIDED:
        valid = reductions.stored(input, target, mask, ignore_index, True).valid
    else:
        dtype = reference.compute_dtype(input.dtype)
        values = target if target.dtype in INTEGERS else target.to(dtype)
        valid = reductions.which(target, target.to(dtype), mask, ignore_index)
        checks.value_range("target", values, valid, check=True)
    checks.value_range(domain, input, valid, check=True)


@functools.lru_cache(maxsize=256)
def _call(
    loss: Loss, smoothing: float, ignore_index: float | None, reduction: str, checked: bool
) -> Call:
    """All of a call but its tensors: the same at every step of a training."""
    asked = program(loss.parts, loss.constants, smoothing, ignore_index)
    options = Options(None, None, smoothing, ignore_index, None, reduction, checked)
    definition = functools.partial(by_reference, loss, options)
    return Call(asked, reduction, definition, checked)


def _by_kernel(
    backend: str,
    call: Call,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """The loss by a kernel, of tensors that are aligned."""
    reduction, ignore_index = call.reduction, call.program.ignore_index
    by = reductions.divisor(reduction, input, target, weight, mask, ignore_index)
    sparse = positions = None
    if target.layout is not _STRIDED:
        sparse = target
        index, target = checks.sparse_elements(sparse, input)
        positions = _positions(index, input.shape)
        if backend is selection.TRITON and sparse.layout is torch.sparse_csr:
            # Its columns may stand in any order, and the kernel looks for them by halving.
            positions, order = positions.sort()
            target = target[order]
    read = KernelInputs(input, target, weight, pos_weight, mask, positions)
    count: float
    if backend is selection.NUMBA:
        from torchbce.backends.cpu import autograd as cpu_autograd

        value, count = cpu_autograd.evaluate(
            call, float(by) if isinstance(by, Tensor) else by, read, sparse
        )
    else:
        from torchbce.backends.gpu import autograd as gpu_autograd

        value, count = gpu_autograd.evaluate(call, by, read, sparse), input.numel()
    if count == 0 and "mean" in reduction:
        warn_of_nothing(reduction)
    return value


def _positions(index: Tensor, shape: torch.Size) -> Tensor:
    """Where sparse elements stand in the flattened tensor, which their order follows."""
    position = torch.zeros(index.shape[1], dtype=torch.int64, device=index.device)
    for places, size in zip(index, shape, strict=True):
        position.mul_(size).add_(places)
    return position


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
    check = options.check_targets
    at, y, valid = reductions.stored(input, target, mask, options.ignore_index, check)
    x = input.to(y.dtype)
    checks.value_range(loss.domain, x, valid, check=check)
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
    values = checks.readable(valid)
    return values is not None and not bool(values.any())
