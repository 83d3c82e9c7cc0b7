"""What the benchmark of the linear loss runs: heads, targets, and the losses of each contender."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import torchbce

#: Positives of each row.
POSITIVES = 20

#: Of input, weight, bias and target.
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """Input [B, D], weight [L, D], bias [L], and the positives of each row, [B, 20]."""

    input: Tensor
    weight: Tensor
    bias: Tensor
    positives: Tensor

    @property
    def head(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.input, self.weight, self.bias


def distinct_labels(rows: int, labels: int, generator: torch.Generator | None = None) -> Tensor:
    """[rows, POSITIVES]: each positive of a row is drawn from labels of its own."""
    each = labels // POSITIVES
    drawn = torch.randint(each, (rows, POSITIVES), generator=generator)
    return drawn + torch.arange(POSITIVES) * each


def problem(rows: int, width: int, labels: int, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    # At most 10,000 rows are drawn and then repeated: drawing a million takes longer than the loss.
    drawn = torch.randn(min(labels, 10_000), width, generator=generator) / width**0.5
    w = drawn.repeat(-(-labels // len(drawn)), 1)[:labels]
    b = torch.full((labels,), -5.0)
    positives = distinct_labels(rows, labels, generator)
    return Problem(x.requires_grad_(), w.requires_grad_(), b.requires_grad_(), positives)


def dense(positives: Tensor, labels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same targets as zeros and ones, [B, L]."""
    return torch.zeros(len(positives), labels, dtype=dtype).scatter_(1, positives, 1)


def ours(x: Tensor, w: Tensor, b: Tensor, target: Tensor) -> Tensor:
    return torchbce.linear_binary_cross_entropy(x, w, target, b)


def eager(x: Tensor, w: Tensor, b: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(F.linear(x, w, b), target)


def loss_of(contender: str) -> Loss:
    if contender == "compiled":
        compiled: Loss = torch.compile(eager, dynamic=False)
        return compiled
    return {"torchbce": ours, "eager": eager}[contender]


def target_of(contender: str, positives: Tensor, labels: int) -> Tensor:
    """A list of positives for torchbce, and dense targets for PyTorch."""
    return positives.clone() if contender == "torchbce" else dense(positives, labels)


def gradients(loss: Loss, head: Sequence[Tensor], target: Tensor) -> tuple[Tensor, ...]:
    """The gradients of the loss with respect to input, weight and bias."""
    x, w, b = head
    return torch.autograd.grad(loss(x, w, b, target), head)
