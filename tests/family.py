"""The losses of the package's own table (`definition.family`), each with values of its constants.

Each case adds the formula of the paper in float64, which is not accurate in the tails: the inputs
of the cases are moderate. The tails are tested in `test_reference_accuracy.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import torchbce
from torchbce import functional
from torchbce.definition import family as records
from torchbce.definition.family import LossRecord


@dataclass(frozen=True)
class Loss:
    """A member of the family with its own options set."""

    name: str
    record: LossRecord
    parts: Callable[[Tensor], tuple[Tensor, Tensor]]
    own: dict[str, Any] = field(default_factory=dict)

    @property
    def function(self) -> Callable[..., Tensor]:
        function: Callable[..., Tensor] = getattr(functional, self.record.name)
        return function

    @property
    def module(self) -> type[nn.Module]:
        module: type[nn.Module] = getattr(torchbce, self.record.module)
        return module

    @property
    def kind(self) -> str:
        return self.record.domain.name

    def __call__(self, input: Tensor, target: Tensor, **options: Any) -> Tensor:
        return self.function(input, target, **self.own, **options)

    def inputs(self, *shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        """Inputs in the domain, away from the points where a loss is not differentiable."""
        logits = 3 * torch.randn(shape, dtype=torch.float64, generator=_generator(seed))
        if self.kind == "probabilities":
            logits = torch.sigmoid(logits).clamp(0.02, 0.98)
        elif self.kind == "log_probs":
            logits = nn.functional.logsigmoid(logits)
        return logits.to(dtype)

    def expected(self, input: Tensor, target: Tensor) -> Tensor:
        """The element losses, by the formula, in float64."""
        positive, negative = self.parts(input.double())
        return target.double() * positive + (1 - target.double()) * negative


def targets(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Targets in [0, 1]: soft ones for a float dtype, 0 and 1 for another."""
    soft = torch.rand(shape, dtype=torch.float64, generator=_generator(seed))
    return (soft if dtype.is_floating_point else soft > 0.5).to(dtype)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _focal(alpha: float | None, gamma: float, epsilon: float = 0.0) -> Callable[[Tensor], Any]:
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(z)
        positive = -((1 - p) ** gamma) * p.log() + epsilon * (1 - p) ** (gamma + 1)
        negative = -(p**gamma) * (1 - p).log() + epsilon * p ** (gamma + 1)
        return a * positive, b * negative

    return parts


def _asymmetric(gamma_pos: float, gamma_neg: float, margin: float) -> Callable[[Tensor], Any]:
    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(z)
        q = (p - margin).clamp(min=0)
        return -((1 - p) ** gamma_pos) * p.log(), -(q**gamma_neg) * (1 - q).log()

    return parts


def _case(name: str, function: str, parts: Callable[[Tensor], Any], **own: Any) -> Loss:
    record = records.FAMILY[function]
    assert set(own) <= set(record.constants)
    return Loss(name, record, parts, own)


FAMILY = [
    _case("bce_with_logits", "binary_cross_entropy_with_logits", _focal(None, 0)),
    _case("bce", "binary_cross_entropy", lambda p: (-p.log(), -(1 - p).log())),
    _case(
        "bce_eps",
        "binary_cross_entropy",
        lambda p: (-p.clamp(1e-4, 1 - 1e-4).log(), -(1 - p.clamp(1e-4, 1 - 1e-4)).log()),
        eps=1e-4,
    ),
    _case(
        "bce_with_log_probs",
        "binary_cross_entropy_with_log_probs",
        lambda x: (-x, -(1 - x.exp()).log()),
    ),
    *(
        _case(
            f"focal_{alpha}_{gamma}",
            "sigmoid_focal_loss",
            _focal(alpha, gamma),
            alpha=alpha,
            gamma=gamma,
        )
        for alpha, gamma in [(None, 0.0), (None, 0.5), (None, 2.0), (0.25, 1.0), (0.25, 3.5)]
    ),
    *(
        _case(
            f"asymmetric_{gamma_pos}_{gamma_neg}_{margin}",
            "asymmetric_loss",
            _asymmetric(gamma_pos, gamma_neg, margin),
            gamma_pos=gamma_pos,
            gamma_neg=gamma_neg,
            margin=margin,
        )
        for gamma_pos, gamma_neg, margin in [(0.0, 0.0, 0.0), (1.0, 4.0, 0.05), (0.5, 0.5, 0.2)]
    ),
    *(
        _case(
            f"poly_{epsilon}_{gamma}_{alpha}",
            "poly_binary_cross_entropy",
            _focal(alpha, gamma, epsilon),
            epsilon=epsilon,
            gamma=gamma,
            alpha=alpha,
        )
        for epsilon, gamma, alpha in [(1.0, 0.0, None), (2.0, 0.5, 0.25), (-1.0, 2.0, None)]
    ),
]

#: The last case of each function, for tests that would take too long with all cases.
ONE_OF_EACH = list({loss.record.name: loss for loss in FAMILY}.values())
assert {loss.record.name for loss in FAMILY} == set(records.FAMILY)


def once(lists: Tensor) -> Tensor:
    """Label lists without repeated labels, and with a column of padding."""
    same = lists[..., :, None] == lists[..., None, :]
    repeated = same.tril(-1).any(-1)
    return torch.nn.functional.pad(lists.masked_fill(repeated, -1), (0, 1), value=-1)
