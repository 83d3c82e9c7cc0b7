"""The maps of logits as modules, with a parameter of each kind for each label."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from torchbce.calibration import maps
from torchbce.calibration.solver import solve
from torchbce.definition.reductions import warn

Array = TypeVar("Array", Tensor, np.ndarray)

#: Larger logits are fitted as this: one wrong row among them weighs as much as 1,400 undecided.
LARGEST = 1e3
#: The slope of `Quadratic` changes between these quantiles of the logits, since a few rows in the
#: tails say nothing of it.
TAILS = (0.005, 0.995)
#: Labels are fitted so many at a time that a block has at most this many elements.
BLOCK = 2**21


class Calibrator(nn.Module):
    r"""A map of logits that does not reverse their order, the base of all of them.

    .. math:: c(z) = \sum_k s_k f_k(z) + b, \quad s_k \ge 0

    Where a slope is 0, different logits may become equal. If all slopes are 0, every row gets the
    same probability; `fit` warns of it. Before it is fitted the map is the identity.

    Attributes:
        slopes: the slopes s, [K] or [K, L], float64 (float32 on a device without it).
        offset: b in nats, 0-dimensional or [L].

    Example:
        >>> Platt()(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  2.])
    """

    kind: ClassVar[str]
    slopes: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        number, _ = maps.KINDS[self.kind]
        self.register_buffer("slopes", torch.ones(number, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))

    def fit(
        self,
        logits: Array,
        targets: Array,
        weight: Array | None = None,
        *,
        ignore_index: float | None = None,
    ) -> Self:
        """Fit the map to logits of rows that the model was not fitted to.

        The loss is `torchbce.functional.binary_cross_entropy_with_logits`, and Newton's method
        finds its minimum. A weak prior, of the weight of a twentieth of a row, keeps the map finite
        where the logits separate the targets, or all targets are equal.

        If all slopes are 0, which is the minimum for logits that rank the targets the wrong way
        round, it warns (`UserWarning`): every row then gets the same probability.

        Args:
            logits: in nats, [N] of one label or [N, L] of many, a tensor or a NumPy array of any
                floating dtype. They may be infinite.
            targets: in [0, 1], of the same shape, of any real dtype; NaN where they are missing.
            weight: how much each element counts, at least 0, of the logits' shape, or [N] for all
                labels of a row; None is 1.
            ignore_index: elements with this target are left out too.

        Returns:
            The module itself.

        Raises:
            TypeError: if the logits are not floating.
            ValueError: if shapes do not match, a logit is NaN, a target is outside [0, 1], or a
                weight is negative or not finite.

        Example:
            >>> logits = torch.tensor([-6.0, -2.0, 1.0, -3.0, 4.0, 5.0, -4.0, 6.0])
            >>> targets = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0])
            >>> round(Temperature().fit(logits, targets).temperature.item(), 1)
            4.5
        """
        z, y, w = elements(logits, targets, weight, ignore_index)
        self._fit(z, y, w)
        self._warn_if_constant()
        return self.to(logits.device) if isinstance(logits, Tensor) else self

    def _fit(self, z: Tensor, y: Tensor, w: Tensor) -> None:
        """Fit the map to checked elements, [N] or [N, L]; see `elements`."""
        number, has_offset = maps.KINDS[self.kind]
        one = z.ndim == 1
        z, y, w = (t[:, None] if one else t for t in (z, y, w))
        self._place(z, w)
        found = []
        width = max(1, BLOCK // max(1, len(z)))
        for first in range(0, z.shape[1], width):
            part = slice(first, first + width)
            bounds = [bound if one else bound[part] for bound in self._bounds()]
            columns = maps.functions(self.kind, z[:, part], *bounds)
            if has_offset:
                columns.append(torch.ones_like(z[:, part]))
            found.append(solve(torch.stack(columns), y[:, part], w[:, part], number))
        theta = torch.cat(found, 1) if found else z.new_ones(number + has_offset, 0)
        theta = theta[:, 0] if one else theta
        self.slopes = theta[:number]
        self.offset = theta[number] if has_offset else torch.zeros_like(theta[0])

    def _warn_if_constant(self) -> None:
        """Warn if every slope is 0, of the map or of one of its labels."""
        constant = (self.slopes == 0).all(0) if len(self.slopes) else torch.zeros(())
        labels = constant.reshape(-1).nonzero().flatten()
        if not len(labels):
            return
        of = ""
        if constant.dim():
            of = f" for {len(labels)} of {len(constant)} labels, first for label {int(labels[0])}"
        warn(
            f"the fitted slope is 0{of}, so that every row gets the same probability: the logits "
            "rank the targets the wrong way round or not at all, or a large one (as an infinite "
            "one) is wrong. Give -logits if their sign is flipped, 1 - targets if the values are "
            "swapped, or leave out the wrong rows"
        )

    def _place(self, z: Tensor, w: Tensor) -> None:
        """Choose what is not fitted, from logits and weights [N, L]."""

    def _bounds(self) -> tuple[Tensor, ...]:
        return ()

    def forward(self, logits: Array) -> Array:
        """The calibrated logits.

        Args:
            logits: in nats, [N] of one label or [..., L] of the labels that it was fitted to; a
                tensor or a NumPy array.

        Returns:
            Logits of the same type, shape, dtype and device. Infinite ones stay infinite where the
            slope there is above 0.
        """
        z = _tensor("logits", logits) if isinstance(logits, np.ndarray) else logits
        if not isinstance(z, Tensor) or not z.is_floating_point():
            raise TypeError(
                "logits must be a tensor or a NumPy array of a floating dtype, got "
                f"{z.dtype if isinstance(z, Tensor) else type(logits).__name__}"
            )
        labels = self.slopes.shape[1:] or self.offset.shape
        if labels and z.shape[-1:] != labels:
            raise ValueError(
                f"logits must have {labels[0]} labels in their last dimension, as those that the "
                f"map was fitted to; got shape {tuple(z.shape)}"
            )
        compute = z.dtype if z.dtype in (torch.float32, torch.float64) else torch.float32
        slopes, offset, *bounds = (
            t.to(z.device, compute) for t in (self.slopes, self.offset, *self._bounds())
        )
        mapped: Tensor = maps.apply(self.kind, z.to(compute), slopes, offset, *bounds).to(z.dtype)
        return mapped.numpy() if isinstance(logits, np.ndarray) else mapped

    def keep(self, labels: Tensor) -> None:
        """Make the map the identity for the labels that are false in `labels`, bool [L]."""
        self.slopes = torch.where(labels, self.slopes, 1.0)
        self.offset = torch.where(labels, self.offset, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The map as plain numbers and lists, for JSON; `from_dict` reads it.

        Example:
            >>> Temperature().to_dict()
            {'kind': 'temperature', 'slopes': [1.0], 'offset': 0.0}
        """
        return {"kind": self.kind, **{name: t.tolist() for name, t in self.named_buffers()}}

    def extra_repr(self) -> str:
        shape = tuple(self.offset.shape)
        if shape:
            return f"labels={shape[0]}"
        slopes = ", ".join(f"{slope:.4g}" for slope in self.slopes.tolist())
        return f"slopes=[{slopes}], offset={self.offset.item():.4g}" if slopes else ""

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A fresh module has the shapes of one label, and takes those of what is loaded.
        for name, buffer in list(self.named_buffers()):
            loaded = state_dict.get(prefix + name)
            if isinstance(loaded, Tensor) and loaded.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Identity(Calibrator):
    """The map that changes nothing, which `choose` returns where none helps.

    Example:
        >>> Identity()(torch.tensor([0.5]))
        tensor([0.5000])
    """

    kind = "identity"

    def _fit(self, z: Tensor, y: Tensor, w: Tensor) -> None:
        """Nothing is fitted."""


class Temperature(Calibrator):
    r"""A scale of the logits.

    .. math:: c(z) = z / T

    Attributes:
        temperature: T, 0-dimensional or [L].

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> logits = torch.randn(4000, generator=random)
        >>> targets = torch.bernoulli(torch.sigmoid(logits), generator=random)
        >>> calibrator = Temperature().fit(3 * logits, targets)  # three times too confident
        >>> round(calibrator.temperature.item(), 1)
        3.2

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """

    kind = "temperature"

    @property
    def temperature(self) -> Tensor:
        """T, the inverse of the slope, 0-dimensional or [L]."""
        return 1 / self.slopes[0]


class Platt(Calibrator):
    r"""A slope and an offset.

    .. math:: c(z) = s z + b, \quad s \ge 0

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> logits = torch.randn(4000, generator=random)
        >>> targets = torch.bernoulli(torch.sigmoid(logits), generator=random)
        >>> calibrator = Platt().fit(logits + 2, targets)  # as if positives had a weight of e^2
        >>> round(calibrator.offset.item(), 1)
        -1.9

    References:
        Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """

    kind = "platt"


class Beta(Calibrator):
    r"""Two slopes, one of the logarithm of each probability, and an offset.

    .. math:: c(z) = s_1 \log p - s_2 \log(1 - p) + b, \quad p = \sigma(z), \; s_1, s_2 \ge 0

    Below 0 the slope tends to :math:`s_1`, above it to :math:`s_2`.

    Example:
        >>> Beta().fit(torch.tensor([-2.0, -1.0, 1.0, 3.0]), torch.tensor([0, 1, 0, 1])).kind
        'beta'

    References:
        Kull, Silva Filho and Flach, Beta calibration, AISTATS 2017.
    """

    kind = "beta"


class Quadratic(Calibrator):
    r"""A slope that changes linearly with the logit, and an offset.

    .. math::
        c'(z) = s_1 + (s_2 - s_1) \, u(z), \quad
        u(z) = \min(\max((z - l) / (h - l), 0), 1), \quad s_1, s_2 \ge 0

    Between l and h, the 0.5% and 99.5% quantiles of the logits it is fitted to, it is a quadratic
    function; outside it goes on as a straight line. Its value at 0 is not b in general.

    Attributes:
        low: l in nats, 0-dimensional or [L].
        high: h in nats.

    Example:
        >>> calibrator = Quadratic().fit(torch.linspace(-3, 3, 9), torch.arange(9) % 2)
        >>> calibrator.slopes.shape
        torch.Size([2])

    References:
        CalArena, arXiv:2605.30188, 2026 (quadratic logistic calibration).
    """

    kind = "quadratic"
    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("high", torch.tensor(1.0, dtype=torch.float64))

    def _place(self, z: Tensor, w: Tensor) -> None:
        bounds = [_quantiles(z[:, label][w[:, label] > 0]) for label in range(z.shape[1])]
        low, high = torch.stack(bounds, 1) if bounds else z.new_zeros(2, 0)
        high = torch.maximum(high, low + 1e-3)  # of logits that are all equal
        self.low, self.high = (low[0], high[0]) if self._one else (low, high)

    def _fit(self, z: Tensor, y: Tensor, w: Tensor) -> None:
        self._one = z.ndim == 1
        super()._fit(z, y, w)

    def _bounds(self) -> tuple[Tensor, ...]:
        return self.low, self.high


def _quantiles(z: Tensor) -> Tensor:
    """The quantiles between which the slope changes; of no logits, -1 and 1."""
    if not len(z):
        return z.new_tensor([-1.0, 1.0])
    ordered = torch.sort(z).values
    at = [round(q * (len(z) - 1)) for q in TAILS]
    return ordered[at]


CLASSES: dict[str, Callable[[], Calibrator]] = {
    c.kind: c for c in (Identity, Temperature, Platt, Beta, Quadratic)
}


def from_dict(record: Mapping[str, Any]) -> Calibrator:
    """The map that `to_dict` wrote.

    Args:
        record: `kind`, and the numbers of the map.

    Raises:
        ValueError: if the kind is not one, or a number is missing.

    Example:
        >>> from_dict({"kind": "platt", "slopes": [0.5], "offset": -1.0})(torch.tensor([2.0]))
        tensor([0.])
    """
    kind = record.get("kind")
    if kind not in CLASSES:
        raise ValueError(f"kind must be one of {', '.join(CLASSES)}, got {kind!r}")
    calibrator = CLASSES[kind]()
    for name, _ in list(calibrator.named_buffers()):
        if name not in record:
            raise ValueError(f"the record of a {kind} map has no {name!r}")
        setattr(calibrator, name, torch.tensor(record[name], dtype=torch.float64))
    return calibrator


def elements(
    logits: Array, targets: Array, weight: Array | None, ignore_index: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Checked logits, targets and weights, float64 and of one shape; missing ones weigh 0.

    The weights are divided by their mean, so that the prior of `solver.solve` weighs the same
    whatever their scale.
    """
    z, y = _tensor("logits", logits), _tensor("targets", targets)
    if not z.is_floating_point():
        raise TypeError(f"logits must have a floating dtype, got {z.dtype}")
    if z.ndim not in (1, 2) or y.shape != z.shape:
        raise ValueError(
            "logits and targets must have one shape, [N] or [N, L]; got "
            f"{tuple(z.shape)} and {tuple(y.shape)}"
        )
    device = torch.device("cpu") if z.device.type == "mps" else z.device  # which has no float64
    z, y = z.detach().to(device, torch.float64), y.detach().to(device, torch.float64)
    known = ~torch.isnan(y)
    if ignore_index is not None:
        known &= y != ignore_index
    if bool((torch.isnan(z) & known).any()):
        raise ValueError("logits must not be NaN; leave these rows out, or make their targets NaN")
    wrong = known & ~((y >= 0) & (y <= 1))
    if bool(wrong.any()):
        raise ValueError(f"targets must be in [0, 1] or NaN, got {y[wrong][0].item():g}")
    w = known.to(torch.float64)
    if weight is not None:
        given = _tensor("weight", weight).detach().to(device, torch.float64)
        if given.shape == z.shape[:1] and z.ndim == 2:
            given = given[:, None].expand(z.shape)
        if given.shape != z.shape:
            raise ValueError(
                f"weight must have the logits' shape {tuple(z.shape)} or one value for each row, "
                f"got {tuple(given.shape)}"
            )
        if not bool(((given >= 0) & torch.isfinite(given)).all()):
            raise ValueError("every weight must be finite and at least 0")
        total, rows = (given * w).sum(0), w.sum(0)
        w = w * given * torch.where(total > 0, rows / total, 0.0)
    z = torch.where(known, z, 0.0).clamp(-LARGEST, LARGEST)
    return z, torch.where(known, y, 0.0), w


def _tensor(name: str, values: Tensor | np.ndarray) -> Tensor:
    if isinstance(values, Tensor):
        return values
    if isinstance(values, np.ndarray):
        # PyTorch warns of an array that is read only.
        return torch.from_numpy(np.require(values, requirements=("C", "W")))
    raise TypeError(f"{name} must be a tensor or a NumPy array, got {type(values).__name__}")
