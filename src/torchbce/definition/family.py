"""One record per loss: its formula, its domain, its constants and the kernel that computes it.

Kernels, the drop-in, the functions, modules, tests and benchmarks read this table. A kernel is
named by a string and takes six constants, so that one compiled kernel serves every value of them:
the weights of the positive and the negative part, up to three more, and what multiplies the
derivative of a focusing weight: 1, or 0 where that weight is a constant.

Constants of the focal, asymmetric and Poly-1 losses may be tensors, one value per class for
instance. Two further kernels of each of them read the constants per element: `*_by_element`, and
`*_by_p_t`, which computes the other form for soft targets, see `reference.combine_focused`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbce.definition import checks, reference
from torchbce.definition.reference import Constant

#: The loss of a positive and of a negative, see `reference`; of a focused loss, its terms.
Parts = Callable[..., Any]


class Domain(NamedTuple):
    """The values that the input of a loss may have.

    Attributes:
        name: its name in error messages and in the documentation.
        low: the smallest value allowed.
        high: the largest value allowed.
        neutral: a value with a finite loss, which replaces the input of an ignored element.
    """

    name: str
    low: float
    high: float
    neutral: float


LOGITS = Domain("logits", -math.inf, math.inf, 0.0)
PROBABILITIES = Domain("probabilities", 0.0, 1.0, 0.5)
LOG_PROBS = Domain("log_probs", -math.inf, 0.0, -1.0)


#: How the focusing weight of a target between 0 and 1 is computed, see `reference`.
SOFT_TARGETS = ("linear", "p_t")

Constants = tuple[Constant, Constant, Constant, Constant, Constant, float]


class Kernel(NamedTuple):
    """A kernel with its constants: see `KERNELS` for the names. Tensors are in float64."""

    name: str
    constants: Constants


BY_ELEMENT, BY_P_T = "_by_element", "_by_p_t"
FORMS = ("", BY_ELEMENT, BY_P_T)
_FOCUSED = ("focal", "poly", "asymmetric")
#: The kernels, and the domain of the input of each.
KERNELS = {
    "logits": LOGITS,
    **{name + form: LOGITS for name in _FOCUSED for form in FORMS},
    "probability": PROBABILITIES,
    "log_probability": LOG_PROBS,
}


def reads_constants(kernel: str) -> bool:
    """Whether a kernel reads the constants of the loss per element."""
    return kernel.endswith((BY_ELEMENT, BY_P_T))


class Focus(NamedTuple):
    """The options of the losses that are focused.

    Attributes:
        by_p_t: whether soft targets are in the form with p_t, see `reference.combine_focused`.
        detached: whether the focusing weights are constants in derivatives.
    """

    by_p_t: bool = False
    detached: bool = False


class LossRecord(NamedTuple):
    """A loss of the family.

    Attributes:
        name: the name of its function in `torchbce.functional`.
        module: the name of its module in `torchbce`.
        parts: the formulas in `reference`.
        domain: the domain of the input.
        constants: the names of its own arguments, in the order in which `parts` takes them.
        kernel: returns the kernel that computes the loss, from the values of the constants and, of
            a focused loss, `Focus`.
        focused: whether it is focused, and takes `soft_targets` and `detach_focusing`.
    """

    name: str
    module: str
    parts: Parts
    domain: Domain
    constants: tuple[str, ...]
    kernel: Callable[..., Kernel]
    focused: bool = False


def _kernel(name: str, *constants: Constant, slope: float = 1.0) -> Kernel:
    wide = (reference.widened(c.detach()) if isinstance(c, Tensor) else float(c) for c in constants)
    filled = (*wide, 0.0, 0.0, 0.0, 0.0, 0.0)[:5]
    return Kernel(name, (*filled, slope))  # type: ignore[arg-type]


def _cross_entropy() -> Kernel:
    return _kernel("logits", 1, 1)


def _focused(
    name: str,
    alpha: Constant | None,
    gamma_pos: Constant,
    gamma_neg: Constant,
    last: Constant,
    focus: Focus,
) -> Kernel:
    """A loss with focusing exponents; with exponents of 0 it is cross-entropy."""
    by_element = any(isinstance(c, Tensor) for c in (alpha, gamma_pos, gamma_neg, last))
    # Without focusing and weights, both forms of soft targets are the same.
    flat = not by_element and alpha is None and gamma_pos == gamma_neg == 0
    if flat and last == 0:
        return _cross_entropy()
    if focus.by_p_t and not flat:
        name += BY_P_T
    elif by_element:
        name += BY_ELEMENT
    weights: tuple[Constant, Constant] = (1.0, 1.0)
    if alpha is not None:
        alpha = reference.widened(alpha.detach()) if isinstance(alpha, Tensor) else alpha
        weights = (alpha, 1 - alpha)
    slope = 0.0 if focus.detached else 1.0
    return _kernel(name, *weights, gamma_pos, gamma_neg, last, slope=slope)


def _focal(alpha: Constant | None, gamma: Constant, focus: Focus) -> Kernel:
    return _focused("focal", alpha, gamma, gamma, 0, focus)


def _asymmetric(gamma_pos: Constant, gamma_neg: Constant, margin: Constant, focus: Focus) -> Kernel:
    shifted = isinstance(margin, Tensor) or margin
    name = "asymmetric" if shifted else "focal"
    return _focused(name, None, gamma_pos, gamma_neg, margin, focus)


def _poly(epsilon: Constant, gamma: Constant, alpha: Constant | None, focus: Focus) -> Kernel:
    return _focused("poly", alpha, gamma, gamma, epsilon, focus)


def _probability(eps: float | None) -> Kernel:
    logs = (0, 0, 0) if eps is None else (eps, -math.log(eps), -math.log1p(-eps))
    return _kernel("probability", 1, 1, *logs)


def _log_probability() -> Kernel:
    return _kernel("log_probability", 1, 1)


FAMILY = {
    record.name: record
    for record in (
        LossRecord(
            "binary_cross_entropy_with_logits",
            "BCEWithLogitsLoss",
            reference.logits_parts,
            LOGITS,
            (),
            _cross_entropy,
        ),
        LossRecord(
            "binary_cross_entropy",
            "BCELoss",
            reference.probability_parts,
            PROBABILITIES,
            ("eps",),
            _probability,
        ),
        LossRecord(
            "binary_cross_entropy_with_log_probs",
            "BCEWithLogProbsLoss",
            reference.log_probability_parts,
            LOG_PROBS,
            (),
            _log_probability,
        ),
        LossRecord(
            "sigmoid_focal_loss",
            "SigmoidFocalLoss",
            reference.focal_terms,
            LOGITS,
            ("alpha", "gamma"),
            _focal,
            focused=True,
        ),
        LossRecord(
            "asymmetric_loss",
            "AsymmetricLoss",
            reference.asymmetric_terms,
            LOGITS,
            ("gamma_pos", "gamma_neg", "margin"),
            _asymmetric,
            focused=True,
        ),
        LossRecord(
            "poly_binary_cross_entropy",
            "PolyBCELoss",
            reference.poly_terms,
            LOGITS,
            ("epsilon", "gamma", "alpha"),
            _poly,
            focused=True,
        ),
    )
}


class Loss(NamedTuple):
    """A loss with values for its constants.

    Attributes:
        parts: the formulas in `reference`.
        domain: the domain of the input.
        constants: the arguments of `parts` after the input. A tensor broadcasts to the input.
        kernel: the kernel that computes it; None if only the definition does, or before tensors
            are `aligned`.
        focus: its options, if it is focused.
        tensors: the constants that are tensors, with their names.
        of_hard_targets: the loss in the other form, which is the same for targets of 0 and 1; None
            if it is this one.
        name: the name of its function in `torchbce.functional`.
    """

    parts: Parts
    domain: Domain
    constants: tuple[Any, ...]
    kernel: Kernel | None
    focus: Focus | None = None
    tensors: tuple[tuple[str, Tensor], ...] = ()
    of_hard_targets: "Loss | None" = None
    name: str = ""

    def own_options(self) -> dict[str, Any]:
        """The arguments of its function in `torchbce.functional` that only this loss has."""
        options = dict(zip(FAMILY[self.name].constants, self.constants, strict=True))
        if self.focus is not None:
            options["soft_targets"] = "p_t" if self.focus.by_p_t else "linear"
            options["detach_focusing"] = self.focus.detached
        return options

    def aligned(self, input: Tensor) -> "Loss":
        """The loss with its tensors in a shape that broadcasts to the input, and its kernel."""
        own = self.own_options()
        for name, tensor in self.tensors:
            own[name] = checks.align_constant(name, tensor, input)
        form, detached = own.pop("soft_targets"), own.pop("detach_focusing")
        return _make(self.name, form, detached, tuple(own.values()), True)

    def elements(
        self,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        constants: tuple[Any, ...] | None = None,
    ) -> Tensor:
        """The loss of each element; `constants` replace those of the loss."""
        constants = self.constants if constants is None else constants
        if self.focus is not None:
            return reference.combine_focused(
                self.parts, constants, x, y, weight, pos_weight, *self.focus
            )
        positive, negative = self.parts(x, *constants)
        return reference.combine(positive, negative, y, weight, pos_weight)


def loss(
    name: str,
    *constants: Constant | None,
    soft_targets: str = "linear",
    detach_focusing: bool = False,
) -> Loss:
    """The loss of this name; the options are those of focused losses."""
    tensors = any(isinstance(c, Tensor) for c in constants)
    make = _make if tensors or torch.compiler.is_compiling() else _cached
    return make(name, soft_targets, detach_focusing, constants, not tensors)


def _make(
    name: str, soft_targets: str, detached: bool, constants: tuple[Any, ...], aligned: bool
) -> Loss:
    """A loss; `aligned`: whether its tensors are, so that a kernel may compute it."""
    checks.choice("soft_targets", soft_targets, SOFT_TARGETS)
    record = FAMILY[name]
    named = zip(record.constants, constants, strict=True)
    tensors = tuple((name, value) for name, value in named if isinstance(value, Tensor))
    focus, other = None, None
    if record.focused:
        focus = Focus(soft_targets == "p_t", detached)
        if focus.by_p_t:
            other = _make(name, "linear", detached, constants, aligned)
    options = () if focus is None else (focus,)
    kernel = record.kernel(*constants, *options) if aligned else None
    return Loss(record.parts, record.domain, constants, kernel, focus, tensors, other, name)


_cached = functools.lru_cache(maxsize=256)(_make)

#: Cross-entropy of logits, and its derivative with respect to them. Linear layers compute both.
CROSS_ENTROPY = loss("binary_cross_entropy_with_logits")
CROSS_ENTROPY_SLOPE = Loss(reference.logits_slope_parts, LOGITS, (), None)
