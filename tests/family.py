"""One table of the losses: how each is called, where its inputs come from, and its formula.

The formulas are those of the papers, in float64 and without care for the tails: the inputs that
the table gives are moderate. The tails are tested in `test_family_accuracy.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import torchbce
from torchbce import functional


@dataclass(frozen=True)
class Loss:
    """A member of the family with its own options set."""

    name: str
    function: Callable[..., Tensor]
    module: type[nn.Module]
    parts: Callable[[Tensor], tuple[Tensor, Tensor]]
    own: dict[str, Any] = field(default_factory=dict)
    kind: str = "logits"

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


FAMILY = [
    Loss(
        "bce_with_logits",
        functional.binary_cross_entropy_with_logits,
        torchbce.BCEWithLogitsLoss,
        _focal(None, 0),
    ),
    Loss(
        "bce",
        functional.binary_cross_entropy,
        torchbce.BCELoss,
        lambda p: (-p.log(), -(1 - p).log()),
        kind="probabilities",
    ),
    Loss(
        "bce_eps",
        functional.binary_cross_entropy,
        torchbce.BCELoss,
        lambda p: (-p.clamp(1e-4, 1 - 1e-4).log(), -(1 - p.clamp(1e-4, 1 - 1e-4)).log()),
        {"eps": 1e-4},
        kind="probabilities",
    ),
    Loss(
        "bce_with_log_probs",
        functional.binary_cross_entropy_with_log_probs,
        torchbce.BCEWithLogProbsLoss,
        lambda x: (-x, -(1 - x.exp()).log()),
        kind="log_probs",
    ),
]
for _alpha, _gamma in [(None, 0.0), (None, 0.5), (None, 2.0), (0.25, 1.0), (0.25, 3.5)]:
    FAMILY.append(
        Loss(
            f"focal_{_alpha}_{_gamma}",
            functional.sigmoid_focal_loss,
            torchbce.SigmoidFocalLoss,
            _focal(_alpha, _gamma),
            {"alpha": _alpha, "gamma": _gamma},
        )
    )
for _gamma_pos, _gamma_neg, _margin in [(0.0, 0.0, 0.0), (1.0, 4.0, 0.05), (0.5, 0.5, 0.2)]:
    FAMILY.append(
        Loss(
            f"asymmetric_{_gamma_pos}_{_gamma_neg}_{_margin}",
            functional.asymmetric_loss,
            torchbce.AsymmetricLoss,
            _asymmetric(_gamma_pos, _gamma_neg, _margin),
            {"gamma_pos": _gamma_pos, "gamma_neg": _gamma_neg, "margin": _margin},
        )
    )
for _epsilon, _gamma, _alpha in [(1.0, 0.0, None), (2.0, 0.5, 0.25), (-1.0, 2.0, None)]:
    FAMILY.append(
        Loss(
            f"poly_{_epsilon}_{_gamma}_{_alpha}",
            functional.poly_binary_cross_entropy,
            torchbce.PolyBCELoss,
            _focal(_alpha, _gamma, _epsilon),
            {"epsilon": _epsilon, "gamma": _gamma, "alpha": _alpha},
        )
    )

#: One of each function, where every combination would take too long.
ONE_OF_EACH = list({loss.function: loss for loss in FAMILY}.values())
