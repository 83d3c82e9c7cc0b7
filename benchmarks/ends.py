"""What the formulas of cross-entropy compute at the ends, where a prediction is confident.

    python benchmarks/ends.py

right: the largest relative errors of loss and gradient where the prediction is right, against
    float64, for PyTorch and torchbce in float32 and bfloat16.
values: loss and gradient at some logits, as they are printed.
wrong: losses of a positive whose logit is negative, by the ways of writing the formula that
    tutorials show, in float32.
zero: the logit from which each gradient of a positive is exactly 0.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ends_report
import torchbce
from common import results

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LOSSES: dict[str, Callable[..., Tensor]] = {
    "PyTorch": F.binary_cross_entropy_with_logits,
    "torchbce": torchbce.functional.binary_cross_entropy_with_logits,
}
#: Of the plot: the largest error in each interval of this width, of this many logits.
FIRST, LAST, WIDTH, PER_INTERVAL = -5.0, 30.0, 0.5, 64
#: Logits of the table: those of the README, and where float32 ends.
SHOWN = (2.0, 5.0, 10.0, 15.0, 17.0, 20.0, 40.0, 80.0)


def loss_and_gradient(loss: Callable[..., Tensor], z: Tensor, y: float) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    value = loss(z, torch.full_like(z, y), reduction="none")
    (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient


def margins_and_truth(margin: Tensor) -> tuple[Tensor, Tensor]:
    """-log sigma(m) and sigma(-m) in float64: loss and size of the gradient of a right answer."""
    m = margin.double()
    return torch.log1p(torch.exp(-m)), 1 / (1 + torch.exp(m))


def measure_right() -> dict[str, Any]:
    """Relative errors of the loss of a negative at -m and of the gradient of a positive at m."""
    intervals = round((LAST - FIRST) / WIDTH)
    step = WIDTH / PER_INTERVAL
    m = FIRST + step * (torch.arange(intervals * PER_INTERVAL, dtype=torch.float64) + 0.5)
    rows = []
    for name, loss in LOSSES.items():
        for dtype_name, dtype in DTYPES.items():
            margin = m.to(dtype)  # the errors are those of the loss, not of rounding its input
            true_loss, true_gradient = margins_and_truth(margin)
            value, _ = loss_and_gradient(loss, -margin, 0.0)
            _, gradient = loss_and_gradient(loss, margin, 1.0)
            of = {
                "loss of a negative": (value.double() - true_loss).abs() / true_loss,
                "gradient of a positive": (-gradient.double() - true_gradient).abs()
                / true_gradient,
            }
            rows += [
                {
                    "contender": name,
                    "dtype": dtype_name,
                    "of": what,
                    "errors": [float(f"{error:.2e}") for error in largest.tolist()],
                }
                for what, errors in of.items()
                for largest in [errors.reshape(intervals, PER_INTERVAL).amax(1)]
            ]
    middles = [FIRST + WIDTH * (i + 0.5) for i in range(intervals)]
    return {"margins": middles, "rows": rows}


def measure_values() -> list[dict[str, Any]]:
    """Loss of a negative at -m and gradient of a positive at m, as they are printed."""
    rows = []
    for m in SHOWN:
        true_loss, true_gradient = margins_and_truth(torch.tensor(m))
        row: dict[str, Any] = {"m": m, "loss": {}, "gradient": {}}
        row["loss"]["true"], row["gradient"]["true"] = float(true_loss), -float(true_gradient)
        for name, loss in LOSSES.items():
            for dtype_name, dtype in DTYPES.items():
                z = torch.tensor(m, dtype=dtype)
                value, _ = loss_and_gradient(loss, -z, 0.0)
                _, gradient = loss_and_gradient(loss, z, 1.0)
                row["loss"][f"{name}, {dtype_name}"] = value.item()
                row["gradient"][f"{name}, {dtype_name}"] = gradient.item()
        rows.append(row)
    return rows


def measure_zero() -> dict[str, float]:
    """The smallest logit from which the gradient of a positive is 0, to 1/64."""
    z = torch.arange(0, 120, 1 / 64)
    found = {}
    for name, loss in LOSSES.items():
        for dtype_name, dtype in DTYPES.items():
            _, gradient = loss_and_gradient(loss, z.to(dtype), 1.0)
            nonzero = gradient.nonzero()
            found[f"{name}, {dtype_name}"] = z[int(nonzero.max()) + 1].item()
    return found


def by_hand(z: Tensor) -> Tensor:
    return -torch.log(1 / (1 + torch.exp(-z)))


def clamped(z: Tensor) -> Tensor:
    return -torch.log(torch.sigmoid(z).clamp(1e-7, 1 - 1e-7))


def of_probabilities(z: Tensor) -> Tensor:
    return F.binary_cross_entropy(torch.sigmoid(z), torch.ones_like(z), reduction="none")


def of_logits(z: Tensor) -> Tensor:
    return LOSSES["torchbce"](z, torch.ones_like(z), reduction="none")


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "-log(sigmoid(z)) by hand": by_hand,
    "the same, clamped to [1e-7, 1 - 1e-7]": clamped,
    "BCELoss of sigmoid(z)": of_probabilities,
    "BCEWithLogitsLoss": of_logits,
}


def measure_wrong() -> dict[str, Any]:
    """Loss and gradient of a positive at -m; the true loss is m, and the true gradient -1."""
    m = torch.arange(0.0, 121.0, 1.0)
    rows = []
    for name, way in WAYS.items():
        z = (-m).requires_grad_()
        value = way(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        rows.append(
            {
                "way": name,
                "loss": [x if math.isfinite(x) else None for x in value.tolist()],
                "gradient": [x if math.isfinite(x) else None for x in gradient.tolist()],
            }
        )
    return {"margins": m.tolist(), "rows": rows}


def measure() -> dict[str, Any]:
    return {
        "right": measure_right(),
        "values": measure_values(),
        "zero": measure_zero(),
        "wrong": measure_wrong(),
    }


if __name__ == "__main__":
    results.save("ends", measure())
    ends_report.REPORT.write()
