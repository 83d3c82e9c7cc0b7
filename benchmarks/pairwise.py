"""The sigmoid loss of pairs against its formula over all logits: time, memory, error.

    python benchmarks/pairwise.py [pairs] [error] [report] [--quick]

The formula is that of open_clip (SigLIP): logits and labels of N x N, and the logsigmoid of their
product.

pairs: time of the loss and its gradients with respect to x, y, scale and bias, as medians over
    rounds in which both run once; and the peak memory above x and y, gradients included, in a
    process for each.
error: of the loss of one confident pair, against float64 with the same inputs.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import pairwise_report
import torchbce
from common import memory
from common.command import Options, main
from common.machine import machine
from common.processes import RETURN_FREED_MEMORY, in_process
from common.timing import Rounds, interleaved_medians

PAIRS, QUICK_PAIRS, WIDTH = (4_096, 16_384), (64,), 512
ROUNDS = Rounds(fewest=3, most=101, seconds=5.0)
#: Pairs of a small problem, after which the libraries have allocated what they keep.
WARM_UP_PAIRS = 512
#: Scale and bias of the confident pair. Its x and y are 1, so that the logit is their sum.
SCALE, BIAS = 10.0, 4.6


class Pairs(NamedTuple):
    """x and y, [N, D]; scale and bias, []."""

    x: Tensor
    y: Tensor
    scale: Tensor
    bias: Tensor


def pairs(n: int, width: int) -> Pairs:
    """Features like those of a model in training: each y is close to its x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=generator)
    y = x + torch.randn(n, width, generator=generator)
    x, y = (F.normalize(features) for features in (x, y))
    initial = (torch.tensor(10.0), torch.tensor(-10.0))  # those of SigLIP
    return Pairs(*(tensor.requires_grad_() for tensor in (x, y, *initial)))


def ours(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torchbce.pairwise_sigmoid_loss(x, y, scale=scale, bias=bias)


def dense(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * x @ y.T + bias
    labels = 2 * torch.eye(len(x), dtype=x.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(x)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "torchbce": ours,
    "dense": dense,
}


def gradients(name: str, p: Pairs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(LOSSES[name](*p), p)


def peak_of_pairs(name: str, n: int, width: int) -> int:
    """Bytes at the peak of loss and gradients; to be called in a process of its own."""
    for _ in range(2):
        gradients(name, pairs(min(n, WARM_UP_PAIRS), width))
    torchbce.empty_cache()
    p = pairs(n, width)
    before = memory.reset_peak()
    gradients(name, p)
    return memory.peak() - before


def seconds_of_pairs(n: int, width: int) -> dict[str, float]:
    small, p = pairs(min(n, WARM_UP_PAIRS), width), pairs(n, width)
    for name in LOSSES:
        gradients(name, small)
    return interleaved_medians(
        {name: functools.partial(gradients, name, p) for name in LOSSES}, ROUNDS
    )


def measure_pairs(options: Options) -> dict[str, Any]:
    rows = []
    for n in QUICK_PAIRS if options.quick else PAIRS:
        row = {
            "pairs": n,
            "seconds": in_process(seconds_of_pairs, n, WIDTH),
            "peak": {
                name: in_process(peak_of_pairs, name, n, WIDTH, environment=RETURN_FREED_MEMORY)
                for name in LOSSES
            },
        }
        rows.append(row)
        print(row, flush=True)
    return {"width": WIDTH, "machine": machine(), "rows": rows}


def measure_error(options: Options) -> dict[str, float]:
    """The loss of one pair in float64, and the relative error of each contender."""
    one, scale, bias = torch.ones(1, 1), torch.tensor(SCALE), torch.tensor(BIAS)
    logit = scale.double() + bias.double()
    true = math.log1p(math.exp(-float(logit)))
    errors = {name: loss(one, one, scale, bias).item() / true - 1 for name, loss in LOSSES.items()}
    return {"logit": SCALE + BIAS, "loss": true, **errors}


PARTS = {"pairs": measure_pairs, "error": measure_error}

if __name__ == "__main__":
    main(__doc__, PARTS, pairwise_report.REPORT)
