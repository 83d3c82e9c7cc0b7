"""Accurate replacements of PyTorch's own two losses.

`install()` replaces `torch.nn.functional.binary_cross_entropy_with_logits` and
`torch.nn.functional.binary_cross_entropy` by the functions below. `nn.BCEWithLogitsLoss` and
`nn.BCELoss` look these up at every call, so that they use the replacements too, including instances
that exist already and classes that were imported by name.

The interface is PyTorch's, not this package's: signature, broadcasting, dtype of the result, errors
and warnings, NaN for the mean over no elements. Arguments that PyTorch refuses are passed on to
PyTorch's function, which raises its own error. Only the numbers differ: accurate tails, limits at
infinite logits, correct second derivatives, a single rounding in half precision.

What is not replaced:

- names imported with `from torch.nn.functional import ...` before `install()`, for example in
  `torch.distributions` (Bernoulli, Geometric). A name imported while the drop-in is installed keeps
  the replacement after `uninstall()`;
- `torch.binary_cross_entropy_with_logits`, calls from C++, and losses written in another way, with
  `logsigmoid` or `softplus` for example;
- a `__torch_function__` that looks functions up in a table: it is called with the replacement, and
  a table made before `install()` has PyTorch's function;
- TorchScript, since `torch.jit.script` compiles PyTorch's function; and programs traced or
  exported before. (`torch.compile` sees the change and compiles again.)
- complex targets, which PyTorch accepts.

Profilers and graphs (`torch.compile`, `torch.export`, ONNX) no longer show
`aten::binary_cross_entropy_with_logits` and `aten::binary_cross_entropy`. A profiler shows
`BinaryCrossEntropy` where a kernel computes the loss, and element-wise operators elsewhere.

Gradients of `binary_cross_entropy` differ. PyTorch divides by p (1 - p) or 1e-12, whichever is
larger. Here they are exact: 1 at p = y = 0, for example. Where the floor of -100 applies (p = 0 for
y = 1, p = 1 for y = 0) the gradient is that of the floored loss, 0 and not 1e12. It is 0 too where
1 / p would overflow, for p below 2.9e-39 in float32.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_variadic

from torchbce import _pytorch
from torchbce.backends import dispatch, selection
from torchbce.backends.request import Call, KernelInputs, Request, loss_spec
from torchbce.definition import checks, family, kinds, reductions, reference
from torchbce.definition.family import Loss

__all__ = ["install", "installed", "uninstall"]

#: With a floor of -100 and without a clamp, as in PyTorch.
_PROBABILITIES = family.loss("binary_cross_entropy", None)

_pytorch_binary_cross_entropy = F.binary_cross_entropy
_pytorch_binary_cross_entropy_with_logits = F.binary_cross_entropy_with_logits


def install() -> None:
    r"""Replace PyTorch's binary cross-entropies in the whole process, until `uninstall()`.

    .. math::
        \ell = w \, [\, p \, y \, (-\log \sigma(z)) + (1 - y) (-\log \sigma(-z)) \,],
        \qquad \ell = -w \, [\, y \log p + (1 - y) \log(1 - p) \,]

    A second call changes nothing. The description of this module lists what is not replaced.

    Returns:
        None.

    Example:
        >>> import torch, torchbce.dropin
        >>> criterion = torch.nn.BCEWithLogitsLoss()
        >>> logits, targets = torch.tensor([-40.0]), torch.tensor([0.0])
        >>> criterion(logits, targets).item()
        0.0
        >>> torchbce.dropin.install()
        >>> f"{criterion(logits, targets).item():.4g}"
        '4.248e-18'
        >>> torchbce.dropin.uninstall()

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html
    """
    with _patch.lock:
        _patch.permanent = True
        _patch.apply()


def uninstall() -> None:
    """Restore the functions that `install()` replaced, also inside `installed()` blocks.

    If the drop-in is not installed this does nothing.

    Returns:
        None.

    Example:
        >>> import torch, torchbce.dropin
        >>> before = torch.nn.functional.binary_cross_entropy
        >>> torchbce.dropin.install()
        >>> torchbce.dropin.uninstall()
        >>> torch.nn.functional.binary_cross_entropy is before
        True
    """
    with _patch.lock:
        _patch.permanent = False
        _patch.revert()


@contextmanager
def installed() -> Iterator[None]:
    """Install the drop-in for a `with` block, or, as a decorator, for a call.

    Blocks may be nested, and several threads may be in one at the same time. The drop-in is
    installed for the whole process, and removed when the last block ends, unless `install()` was
    called.

    Returns:
        A context manager whose value is None.

    Example:
        >>> import torch, torchbce.dropin
        >>> with torchbce.dropin.installed():
        ...     torch.nn.BCEWithLogitsLoss()(torch.tensor(float("inf")), torch.tensor(1.0)).item()
        0.0
        >>> torch.nn.BCEWithLogitsLoss()(torch.tensor(float("inf")), torch.tensor(1.0)).item()
        nan
    """
    with _patch.lock:
        _patch.blocks += 1
        _patch.apply()
    try:
        yield
    finally:
        with _patch.lock:
            _patch.blocks -= 1
            if _patch.blocks == 0 and not _patch.permanent:
                _patch.revert()


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy of logits with PyTorch's interface.

    .. math::
        \ell = w \, [\, p \, y \, (-\log \sigma(z)) + (1 - y) (-\log \sigma(-z)) \,]

    Targets outside [0, 1] are allowed, as in PyTorch; the loss may then be negative.

    Args:
        input: logits z of a floating dtype.
        target: y of input's shape and a floating dtype; any values.
        weight: w, broadcasting to input's shape; it must not require grad.
        size_average: deprecated: use `reduction`.
        reduce: deprecated: use `reduction`.
        reduction: "none", "mean" or "sum".
        pos_weight: p, broadcasting to input's shape; it must not require grad.

    Returns:
        The loss in target's dtype, whatever the dtypes of the others. Under autocast, which
        converts half-precision tensors to float32, it is never in half precision.

    Raises:
        Exception: whatever PyTorch's function raises for the same arguments.

    Example:
        >>> import torch
        >>> loss = binary_cross_entropy_with_logits(torch.tensor([-40.0]), torch.tensor([0.0]))
        >>> f"{loss.item():.4g}"
        '4.248e-18'

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy_with_logits.html
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _pytorch_binary_cross_entropy_with_logits(
            input, target, weight, size_average, reduce, reduction, pos_weight
        )
    if has_torch_function_variadic(input, target, weight, pos_weight):
        return handle_torch_function(
            binary_cross_entropy_with_logits,
            (input, target, weight, pos_weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            pos_weight=pos_weight,
        )
    reduction = _pytorch.reduction_of_three(size_average, reduce, reduction)
    if not (
        target.size() == input.size()
        and _is_real(input)
        and _is_real(target)
        and _is_weight_of(input, weight)
        and _is_weight_of(input, pos_weight)
        # PyTorch subtracts 1 from it, which it has not defined for bool.
        and (pos_weight is None or pos_weight.dtype != torch.bool)
    ):
        return _pytorch_binary_cross_entropy_with_logits(
            input, target, weight, reduction=reduction, pos_weight=pos_weight
        )

    z, y = _autocast(input), _autocast(target)
    return _value(family.CROSS_ENTROPY, z, y, weight, pos_weight, reduction).to(y.dtype)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross-entropy of probabilities with PyTorch's interface.

    .. math::
        \ell = -w \, [\, y \log p + (1 - y) \log(1 - p) \,]

    Each logarithm is floored at -100, as in PyTorch.

    Args:
        input: probabilities p in [0, 1], of a floating dtype.
        target: y in [0, 1], of input's shape and dtype.
        weight: w, broadcasting to input's shape; it must not require grad.
        size_average: deprecated: use `reduction`.
        reduce: deprecated: use `reduction`.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss in input's dtype. Under autocast, which converts half-precision tensors to
        float32, it is never in half precision.

    Raises:
        Exception: whatever PyTorch's function raises for the same arguments.

    Example:
        >>> import torch
        >>> p = torch.tensor([0.8, 0.2, 0.95, 0.05])
        >>> round(binary_cross_entropy(p, torch.tensor([1.0, 0.0, 1.0, 0.0])).item(), 4)
        0.1372

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy.html
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _pytorch_binary_cross_entropy(input, target, weight, size_average, reduce, reduction)
    if has_torch_function_variadic(input, target, weight):
        return handle_torch_function(
            binary_cross_entropy,
            (input, target, weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
        )
    reduction = _pytorch.reduction_of_three(size_average, reduce, reduction)
    if not (
        target.size() == input.size()
        and _is_real(input)
        and _is_real(target)
        and _autocast(input).dtype == _autocast(target).dtype
        and _is_weight_of(input, weight)
        # On every other device autocast refuses this loss.
        and (input.device.type == "cpu" or not _autocasts(input))
    ):
        return _pytorch_binary_cross_entropy(input, target, weight, reduction=reduction)

    p, y = _autocast(input), _autocast(target)
    return _value(_PROBABILITIES, p, y, weight, None, reduction).to(p.dtype)


def _value(
    loss: Loss,
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: str,
) -> Tensor:
    """The loss, by a kernel where there is one, before it is rounded to the dtype of the result."""
    # A kernel rounds element-wise losses to x's dtype, and computes sums in no wider dtype.
    fits = x.dtype == y.dtype or (x.dtype == torch.float32 and y.dtype != torch.float64)
    backend = selection.REFERENCE
    if fits and x.numel():
        backend = selection.chosen(x, y, weight, pos_weight, None)
    if backend is selection.REFERENCE:
        return _definition(loss, reduction, x, y, weight, pos_weight, None)
    inputs = KernelInputs(x, y, weight, pos_weight)
    if torch.compiler.is_compiling():
        return dispatch.in_graph(loss_spec(loss), reduction, inputs)
    by = reductions.denominator(reduction, x.numel(), 1)
    request = Request(_call(loss, reduction), inputs, by)
    if backend is not selection.TRITON or loss.domain is not family.PROBABILITIES:
        return dispatch.run(backend, request)[0]
    # The kernel looks at the values that it reads anyway, and the host does not wait for them.
    outside = torch.zeros((), dtype=torch.int32, device=x.device)
    value, _ = dispatch.run(backend, request._replace(outside=outside))
    _pytorch.assert_async(outside == 0, "all elements of input and target " + _IN_UNIT_RANGE)
    return value


@functools.cache
def _call(loss: Loss, reduction: str) -> Call:
    definition = functools.partial(_definition, loss, reduction)
    return Call(loss_spec(loss), reduction, definition, checked=loss.domain is family.PROBABILITIES)


def _definition(
    loss: Loss,
    reduction: str,
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: None,
) -> Tensor:
    dtype = reference.compute_dtype(torch.promote_types(x.dtype, y.dtype))
    if loss.domain is family.PROBABILITIES:
        _assert_unit_ranges(x, y)
    losses = loss.elements(x.to(dtype), y.to(dtype), weight, pos_weight)
    # The mean over no elements is NaN, as in PyTorch.
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


class _Patch:
    """Which functions are replaced, and by how many blocks. Use it while holding `lock`."""

    def __init__(self, *replacements: Callable[..., Tensor]) -> None:
        self.lock = threading.Lock()
        self.permanent = False
        self.blocks = 0
        self.replacements = {function.__name__: function for function in replacements}
        self.found: dict[str, Callable[..., Tensor]] = {}

    def apply(self) -> None:
        if not self.found:
            self.found = {name: getattr(F, name) for name in self.replacements}
            for name, function in self.replacements.items():
                setattr(F, name, function)

    def revert(self) -> None:
        for name, function in self.found.items():
            setattr(F, name, function)
        self.found = {}


_patch = _Patch(binary_cross_entropy, binary_cross_entropy_with_logits)


def _is_real(tensor: Tensor) -> bool:
    """Whether PyTorch's function takes the tensor: dense, and of one of four dtypes."""
    return (
        tensor.layout == torch.strided
        and tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        and not kinds.is_masked(tensor)
    )


def _is_weight_of(input: Tensor, weight: Tensor | None) -> bool:
    """Whether PyTorch's function takes it: real, without gradient, broadcasting to `input`."""
    if weight is None:
        return True
    return (
        isinstance(weight, Tensor)
        and not kinds.is_masked(weight)
        and weight.layout == torch.strided
        and not weight.is_complex()
        and not (weight.requires_grad and torch.is_grad_enabled())
        and checks.broadcasts_into(weight.size(), input.size())
    )


def _autocasts(tensor: Tensor) -> bool:
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _autocast(tensor: Tensor) -> Tensor:
    """The tensor as autocast converts it: both losses are on its float32 list."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half and _autocasts(tensor) else tensor


def _assert_unit_ranges(x: Tensor, y: Tensor) -> None:
    """PyTorch's error for an input or a target outside [0, 1]: of the first element that is."""
    try:
        _assert_unit_range("input", x)
    except RuntimeError:
        values = [checks.readable(t) for t in (x, y)]
        outside = [((t >= 0) & (t <= 1)).logical_not_().flatten() for t in values if t is not None]
        if len(outside) == 2 and outside[1].any():
            of_input, of_target = (int(o.to(torch.uint8).argmax()) for o in outside)
            if of_target < of_input:
                _assert_unit_range("target", y)
        raise
    _assert_unit_range("target", y)


_IN_UNIT_RANGE = "should be between 0 and 1"


def _assert_unit_range(name: str, values: Tensor) -> None:
    """PyTorch's error for a value outside [0, 1]; on a GPU, a failed assertion of the device."""
    # A compiled graph checks nothing in PyTorch either.
    if torch.compiler.is_compiling() or values.numel() == 0:
        return
    # Both are NaN if a value is, and then neither comparison holds.
    low, high = _pytorch.unwrapped(values).detach().aminmax()
    _pytorch.assert_async((low >= 0) & (high <= 1), f"all elements of {name} {_IN_UNIT_RANGE}")
