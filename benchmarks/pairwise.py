"""The sigmoid loss of pairs beside its formula over all logits: time, memory, error.

    python benchmarks/pairwise.py

The formula is that of open_clip (SigLIP): logits and labels of N x N, and logsigmoid of their
product. Time of the loss and its gradients by x, y, scale and bias: the median of rounds in which
both ran in turn. Memory: the peak above x and y, gradients and all, in a process for each. Error:
of one pair that is surely right, beside float64 from the same numbers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import _results
import torchbce
from kernels import resident
from linear import in_process, medians, size

SIZES, WIDTH = (4_096, 16_384), 512
CONTENDERS = ("torchbce", "dense")
#: The number of pairs with which the libraries get what they keep.
WARM = 512
#: The logit of the pair whose error is measured, and how it comes about.
CONFIDENT = {"scale": 10.0, "bias": 4.6}


class Pairs(NamedTuple):
    x: Tensor
    y: Tensor
    scale: Tensor
    bias: Tensor


def pairs(n: int, width: int) -> Pairs:
    """Features as of a model in training: each y near its x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=generator)
    y = x + torch.randn(n, width, generator=generator)
    x, y = (F.normalize(features) for features in (x, y))
    start = (torch.tensor(10.0), torch.tensor(-10.0))  # those of SigLIP
    return Pairs(*(tensor.requires_grad_() for tensor in (x, y, *start)))


def ours(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torchbce.pairwise_sigmoid_loss(x, y, scale=scale, bias=bias)


def dense(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * x @ y.T + bias
    labels = 2 * torch.eye(len(x), dtype=x.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(x)


LOSSES: dict[str, Callable[..., Tensor]] = {"torchbce": ours, "dense": dense}


def gradients(name: str, p: Pairs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(LOSSES[name](*p), p)


def peak_of_pairs(name: str, n: int, width: int) -> int:
    """Bytes at the peak of loss and gradients."""
    for _ in range(2):
        gradients(name, pairs(min(n, WARM), width))
    torchbce.empty_cache()
    p = pairs(n, width)
    before = resident(reset=True)
    gradients(name, p)
    return resident("VmHWM") - before


def seconds_of_pairs(n: int, width: int) -> dict[str, float]:
    small, p = pairs(min(n, WARM), width), pairs(n, width)
    for name in CONTENDERS:
        gradients(name, small)
    return medians({name: functools.partial(gradients, name, p) for name in CONTENDERS})


def measure_error() -> dict[str, float]:
    """The loss of one pair in float64, and each contender's relative error."""
    one = torch.ones(1, 1)
    numbers = [torch.tensor(value) for value in CONFIDENT.values()]
    scale, bias = (number.double().item() for number in numbers)
    true = math.log1p(math.exp(-(scale + bias)))
    errors = {name: LOSSES[name](one, one, *numbers).item() / true - 1 for name in CONTENDERS}
    return {"loss": true, **errors}


def measure() -> dict[str, Any]:
    results: dict[str, Any] = {"width": WIDTH, "rows": [], "error": measure_error()}
    print(results["error"], flush=True)
    for n in SIZES:
        row = {
            "pairs": n,
            "seconds": in_process(seconds_of_pairs, n, WIDTH),
            "peak": {name: in_process(peak_of_pairs, name, n, WIDTH) for name in CONTENDERS},
        }
        results["rows"].append(row)
        print(row, flush=True)
    return results


def table(results: dict[str, Any]) -> str:
    head = ["pairs", "torchbce", "dense", "ratio"]
    head += ["torchbce, peak MiB", "dense, peak MiB", "ratio"]
    rows = []
    for row in results["rows"]:
        seconds, peak = row["seconds"], row["peak"]
        rows.append(
            [
                f"{row['pairs']:,}",
                *(f"{seconds[name]:.2f} s" for name in CONTENDERS),
                f"{seconds['dense'] / seconds['torchbce']:.2f}",
                *(size(peak[name]) for name in CONTENDERS),
                f"{peak['dense'] / peak['torchbce']:.0f}",
            ]
        )
    error, logit = results["error"], sum(CONFIDENT.values())
    said = (
        f"\nOf one pair with the logit {logit:g} the loss is {error['loss']:.3e}: "
        f"torchbce's relative error is {error['torchbce']:.0e}, the dense formula's "
        f"{error['dense']:.0e}.\n"
    )
    return _results.markdown(head, rows) + said


def main() -> None:
    results = measure()
    _results.save("pairwise", results, table(results), "docs/linear.md")


if __name__ == "__main__":
    main()
