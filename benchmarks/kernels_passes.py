"""What the benchmark of the kernels runs: the inputs, a pass of a loss, and its memory traffic."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.timing import Call

Loss = Callable[[Tensor, Tensor], Tensor]

PASSES = ("forward", "forward + backward")


def eager(x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, y.to(x.dtype))


def inputs(n: int, dtype: torch.dtype, target: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits and targets, [n]."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(n, generator=generator) * 3).to(dtype)
    return x, (torch.rand(n, generator=generator) < 0.3).to(target)


def one_pass(loss: Loss, passes: str, x: Tensor, y: Tensor) -> Call:
    """The forward pass alone, or the forward and the backward pass, as a call."""
    if passes == "forward":
        return functools.partial(loss, x, y)
    z = x.detach().requires_grad_()
    return lambda: torch.autograd.grad(loss(z, y), z)


def traffic(passes: str, x: Tensor, y: Tensor) -> Call:
    """The memory traffic of a pass: read x and y, and write as many bytes as x has."""
    # As float32, because PyTorch's sum of integers is not vectorised.
    source, target, out = (tensor.view(torch.float32) for tensor in (x, y, torch.zeros_like(x)))

    def forward() -> None:
        source.sum()
        target.sum()

    def forward_and_backward() -> None:
        out.copy_(source)
        target.sum()

    return forward if passes == "forward" else forward_and_backward


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
