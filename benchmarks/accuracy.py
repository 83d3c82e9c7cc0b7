"""The largest error of each loss and its gradient, in units in the last place, beside PyTorch.

    python benchmarks/accuracy.py [--stride N]

Logits: every N-th float32 bit pattern (97 by default, 44 million; subnormals included), every
bfloat16 and float16 one, and for float64 a grid from -700 to 700; probabilities likewise, within
[0, 1]. Targets: 0 and 1. The truth is computed in float64 without cancellation, for float64 inputs
in mpmath. "PyTorch" is `torch.nn.functional` for the losses that it has, and for the
others the form that circulates: sigmoid, then products of its powers with PyTorch's cross-entropy.
Errors above 1e6 are those of a 0 where there is a loss, or the like. Element-wise results are
rounded to the input's dtype, which costs 0.5.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import _results
from torchbce import functional

Compute = Callable[[Tensor, Tensor], Tensor]
GAMMA, GAMMA_POS, GAMMA_NEG, MARGIN, EPSILON = 2.0, 1.0, 4.0, 0.05, 1.0
BLOCK = 2**20


def focal_in_pytorch(z: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    miss = 1 - (p * y + (1 - p) * (1 - y))
    return miss**GAMMA * F.binary_cross_entropy_with_logits(z, y, reduction="none")


def poly_in_pytorch(z: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    miss = 1 - (p * y + (1 - p) * (1 - y))
    return F.binary_cross_entropy_with_logits(z, y, reduction="none") + EPSILON * miss


def asymmetric_in_pytorch(z: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    rest = (1 - p + MARGIN).clamp(max=1)
    losses = y * torch.log(p.clamp(min=1e-8)) + (1 - y) * torch.log(rest.clamp(min=1e-8))
    miss = 1 - (p * y + rest * (1 - y))
    return -losses * miss ** (GAMMA_POS * y + GAMMA_NEG * (1 - y))


@dataclass(frozen=True)
class Case:
    """A loss: ours, the other, and the truth and its slope for a target of 1 or 0."""

    name: str
    ours: Compute
    theirs: Compute
    truth: Callable[[Any, Any, bool], tuple[Any, Any]]
    domain: str = "logits"


def _logs(z: Any, m: Any) -> tuple[Any, Any, Any, Any]:
    """sigma(z), sigma(-z), -log sigma(z), -log sigma(-z), by numpy or mpmath."""
    e = m.exp(-abs(z))
    larger, smaller, tail = 1 / (1 + e), e / (1 + e), m.log1p(e)
    if m is mpmath:
        up = z >= 0
        p, q = (larger, smaller) if up else (smaller, larger)
        return p, q, tail if up else tail - z, tail + z if up else tail
    p, q = np.where(z >= 0, larger, smaller), np.where(z >= 0, smaller, larger)
    return p, q, np.maximum(-z, 0) + tail, np.maximum(z, 0) + tail


# Each truth gives the loss of a target of 1, and that of 0 by its mirror image where there is one.


def cross_entropy(z: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    p, q, loss, mirrored = _logs(z, m)
    return (loss, -q) if positive else (mirrored, p)


def focal(z: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    sign = 1 if positive else -1
    p, q, loss, _ = _logs(sign * z, m)
    return q**GAMMA * loss, -sign * q**GAMMA * (q + GAMMA * p * loss)


def poly(z: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    sign = 1 if positive else -1
    p, q, loss, _ = _logs(sign * z, m)
    return loss + EPSILON * q, -sign * (q + EPSILON * p * q)


def asymmetric(z: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    p, q, loss, _ = _logs(z, m)
    if positive:
        return q**GAMMA_POS * loss, -(q**GAMMA_POS) * (q + GAMMA_POS * p * loss)
    if m is mpmath:
        shifted = max(p - MARGIN, mpmath.mpf(0))
        log_rest = mpmath.log(1 - shifted)
    else:
        shifted = np.maximum(p - MARGIN, 0)
        log_rest = np.where(shifted > 0.5, np.log(q + MARGIN), np.log1p(-np.minimum(shifted, 0.5)))
    slope = -GAMMA_NEG * shifted ** (GAMMA_NEG - 1) * log_rest + shifted**GAMMA_NEG / (1 - shifted)
    return -(shifted**GAMMA_NEG) * log_rest, p * q * slope


def from_probability(p: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    """Within the floor of -100 on each logarithm, outside which a sweep does not look."""
    return (-m.log(p), -1 / p) if positive else (-m.log1p(-p), 1 / (1 - p))


def from_log_probability(x: Any, m: Any, positive: bool) -> tuple[Any, Any]:
    if positive:
        return -x, -1 + 0 * x
    p, rest = m.exp(x), -m.expm1(x)
    if m is mpmath:
        return -m.log(rest), p / rest
    return np.where(x > -0.7, -np.log(rest), -np.log1p(-p)), p / rest


CASES = [
    Case(
        "binary_cross_entropy_with_logits",
        lambda z, y: functional.binary_cross_entropy_with_logits(z, y, reduction="none"),
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none"),
        cross_entropy,
    ),
    Case(
        "binary_cross_entropy",
        lambda p, y: functional.binary_cross_entropy(p, y, reduction="none"),
        lambda p, y: F.binary_cross_entropy(p, y, reduction="none"),
        from_probability,
        domain="probabilities",
    ),
    Case(
        "binary_cross_entropy_with_log_probs",
        lambda x, y: functional.binary_cross_entropy_with_log_probs(x, y, reduction="none"),
        lambda x, y: -(y * x + (1 - y) * torch.log(1 - torch.exp(x))),
        from_log_probability,
        domain="log_probs",
    ),
    Case(
        "sigmoid_focal_loss",
        lambda z, y: functional.sigmoid_focal_loss(z, y, gamma=GAMMA, reduction="none"),
        focal_in_pytorch,
        focal,
    ),
    Case(
        "asymmetric_loss",
        lambda z, y: functional.asymmetric_loss(
            z, y, gamma_pos=GAMMA_POS, gamma_neg=GAMMA_NEG, margin=MARGIN, reduction="none"
        ),
        asymmetric_in_pytorch,
        asymmetric,
    ),
    Case(
        "poly_binary_cross_entropy",
        lambda z, y: functional.poly_binary_cross_entropy(z, y, epsilon=EPSILON, reduction="none"),
        poly_in_pytorch,
        poly,
    ),
]


def blocks(dtype: torch.dtype, stride: int, domain: str) -> Iterator[Tensor]:
    """Finite inputs of a dtype, a block at a time."""
    if dtype == torch.float64:
        x = torch.linspace(-700, 700, 2801, dtype=dtype)
        yield {
            "logits": x,
            "probabilities": torch.sigmoid(x / 20),
            "log_probs": F.logsigmoid(x),
        }[domain]
        return
    for start in range(0, 2**32 if dtype == torch.float32 else 2**16, BLOCK * stride):
        if dtype == torch.float32:
            bits = np.arange(start, min(start + BLOCK * stride, 2**32), stride, dtype=np.uint64)
            x = torch.from_numpy(bits.astype(np.uint32).view(np.float32))
        else:
            x = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)
        x = x[x.isfinite()]
        if domain == "probabilities":
            # Below exp(-100) a logarithm is at its floor, where the loss is 100 by definition.
            x = x[(x > 4e-44) & (x < 1)]
        yield x[x < 0] if domain == "log_probs" else x
        if dtype != torch.float32:
            return


def true_values(case: Case, x: Tensor, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    if x.dtype != torch.float64:
        with np.errstate(all="ignore"):
            loss, slope = case.truth(x.double().numpy(), np, positive)
        return loss, slope
    # exp(-700) is 1e-304: so many digits beside 1, and those of a float64.
    with mpmath.workdps(340):
        pairs = [case.truth(mpmath.mpf(value), mpmath, positive) for value in x.tolist()]
        # The difference to a float64 is formed before the rounding to one.
        return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def errors_in_ulp(value: Tensor, truth: np.ndarray) -> np.ndarray:
    """|value - truth| in units in the last place of the value's dtype, subnormals included."""
    digits, least = {
        torch.float64: (53, -1074),
        torch.float32: (24, -149),
        torch.bfloat16: (8, -133),
        torch.float16: (11, -24),
    }[value.dtype]
    largest = torch.finfo(value.dtype).max
    rounded = truth.astype(np.float64)
    _, exponent = np.frexp(rounded)
    ulp = np.ldexp(1.0, np.maximum(exponent - digits, least))
    difference = np.abs((value.double().numpy() - truth).astype(np.float64))
    # A result beyond the largest number of a dtype is rightly inf.
    return np.where((np.abs(rounded) >= largest) | ~np.isfinite(rounded), 0.0, difference / ulp)


def largest_errors(case: Case, compute: Compute, dtype: torch.dtype, stride: int) -> list[float]:
    """The largest errors of the loss and of the gradient; NaN counts as infinite."""
    worst = [0.0, 0.0]
    for x in blocks(dtype, stride, case.domain):
        if not len(x):
            continue
        for positive in (True, False):
            z = x.clone().requires_grad_()
            loss = compute(z, torch.full_like(x, float(positive)))
            (slope,) = torch.autograd.grad(loss.sum(), z)
            truths = true_values(case, x, positive)
            for i, (value, truth) in enumerate(zip((loss.detach(), slope), truths, strict=True)):
                found = errors_in_ulp(value, truth)
                worst[i] = max(worst[i], float(np.nan_to_num(found, nan=np.inf).max()))
    return worst


def shown(error: float) -> str:
    if error > 1e6:
        return "> 1e6" if np.isfinite(error) else "NaN"
    return f"{error:.3g}" if error >= 100 else f"{error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=97, metavar="N")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    rows = []
    for case in CASES:
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            ours = largest_errors(case, case.ours, dtype, options.stride)
            theirs = largest_errors(case, case.theirs, dtype, options.stride)
            name = str(dtype).removeprefix("torch.")
            results[f"{case.name} {name}"] = {
                "ours": list(map(shown, ours)),
                "pytorch": list(map(shown, theirs)),
            }
            rows.append(
                [f"`{case.name}`", name, *map(shown, [ours[0], theirs[0], ours[1], theirs[1]])]
            )
            print(*rows[-1], flush=True)
    head = ["loss", "dtype", "loss: ours", "PyTorch", "gradient: ours", "PyTorch"]
    _results.save("accuracy", results, _results.markdown(head, rows), "docs/losses.md")


if __name__ == "__main__":
    main()
