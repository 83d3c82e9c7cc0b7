"""Optimisers that change a head chunk by chunk in the backward pass, so that it has no gradient.

A head of L labels and D features has a gradient as large as itself, and Adam's state is twice that.
These keep one number a label at most.
"""

from typing import Any

import torch
from torch import Tensor, nn

from torchbce.linear.chunks import Update, Wants
from torchbce.linear.sharding import is_distributed

__all__ = ["FusedRowwiseAdagrad", "FusedSGD"]


class FusedOptimizer(nn.Module):
    """Numbers that may change from step to step, and are in the `state_dict`: `lr` first."""

    numbers: tuple[str, ...] = ("lr", "weight_decay")
    lr: float
    weight_decay: float

    def __init__(self, **numbers: float) -> None:
        super().__init__()
        self._attached = False
        for name, value in numbers.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {value}")
            setattr(self, name, float(value))

    def attach(self, weight: Tensor, bias: Tensor | None) -> None:
        """Make what is kept by label, for one head."""
        if self._attached:
            raise ValueError(
                "this optimizer belongs to another head already, and keeps a number for each of "
                "its labels; make one for each head"
            )
        self._attached = True

    def reset(self) -> None:
        """Begin anew with what is kept."""
        for kept in self.buffers():
            kept.zero_()

    def updates(self, weight: Tensor, bias: Tensor | None, wants: Wants) -> Update:
        """What changes rows of weight and bias, if wanted; see `chunks.visit`."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """The numbers, as a tensor: safetensors holds nothing else."""
        return torch.tensor(
            [getattr(self, name) for name in self.numbers], dtype=torch.float64, device="cpu"
        )

    def set_extra_state(self, state: Tensor) -> None:
        """Set the numbers."""
        for name, value in zip(self.numbers, state.tolist(), strict=True):
            setattr(self, name, value)

    def extra_repr(self) -> str:
        """The numbers."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.numbers)


class FusedSGD(FusedOptimizer):
    r"""Gradient descent inside the backward pass, for a head too large for a gradient.

    .. math::
        W \leftarrow W - \eta \, (\nabla W + \lambda W), \qquad b \leftarrow b - \eta \, \nabla b

    As `torch.optim.SGD` without momentum, but that the bias does not decay. No memory at all: the
    product that would be the gradient of a chunk is added to its weights.

    Args:
        lr: the step size, 0 or above; an attribute, which a schedule may set.
        weight_decay: of the weight, 0 or above.

    Returns:
        What `LinearBCELoss` takes as `fused_optimizer`.

    Raises:
        ValueError: if a number is negative or not finite.

    Example:
        >>> import torch, torchbce
        >>> head = torchbce.LinearBCELoss(4, 1000, fused_optimizer=torchbce.FusedSGD(lr=0.5))
        >>> x, positives = torch.ones(2, 4), torch.tensor([[3], [7]])
        >>> first = head(x, positives)
        >>> first.backward()  # the step is taken
        >>> bool(head(x, positives) < first), head.weight.grad is None
        (True, True)

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
    """

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)

    def updates(self, weight: Tensor, bias: Tensor | None, wants: Wants) -> Update:
        """What changes rows of weight and bias, if wanted; see `chunks.visit`."""

        def update(start: int, stop: int, g: Tensor, x: Tensor) -> None:
            if wants.weight:
                kept = 1 - self.lr * self.weight_decay
                weight[start:stop].addmm_(g, x, beta=kept, alpha=-self.lr)
            if bias is not None and wants.bias:
                bias[start:stop].sub_(g.sum(1), alpha=self.lr)

        return update


class FusedRowwiseAdagrad(FusedOptimizer):
    r"""Adagrad with one step size a label, inside the backward pass, for heads of many labels.

    .. math::
        g = \nabla W_l + \lambda W_l, \qquad
        s_l \leftarrow s_l + \frac{1}{D} \sum_d g_d^2, \qquad
        W_l \leftarrow W_l - \eta \, g / (\sqrt{s_l} + \epsilon)

    and as much for the bias, which has a sum of its own and does not decay. It keeps one float32 a
    label for the weight and one for the bias, which the `state_dict` holds.

    Args:
        lr: the step size, 0 or above; an attribute, which a schedule may set.
        weight_decay: of the weight, 0 or above.
        eps: added to the root, above 0.

    Returns:
        What `LinearBCELoss` takes as `fused_optimizer`.

    Raises:
        ValueError: if a number is negative or not finite, or eps is 0.

    Example:
        >>> import torch, torchbce
        >>> optimizer = torchbce.FusedRowwiseAdagrad(lr=0.1)
        >>> head = torchbce.LinearBCELoss(4, 1000, fused_optimizer=optimizer)
        >>> head(torch.ones(2, 4), torch.tensor([[3], [7]])).backward()
        >>> optimizer.weight_sum.shape
        torch.Size([1000])

    References:
        Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic Optimization,
        JMLR 2011; with a sum a row, https://pytorch.org/FBGEMM.
    """

    numbers = ("lr", "weight_decay", "eps")
    eps: float
    weight_sum: Tensor
    bias_sum: Tensor | None

    def __init__(self, lr: float, weight_decay: float = 0.0, eps: float = 1e-10) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, eps=eps)
        if eps == 0:
            raise ValueError("eps must be above 0, got 0: a row without a gradient would be 0 / 0")

    def attach(self, weight: Tensor, bias: Tensor | None) -> None:
        """Make what is kept by label, for one head."""
        super().attach(weight, bias)
        self.register_buffer("weight_sum", weight.new_zeros(weight.shape[0]))
        self.register_buffer("bias_sum", None if bias is None else torch.zeros_like(bias))

    def updates(self, weight: Tensor, bias: Tensor | None, wants: Wants) -> Update:
        """What changes rows of weight and bias, if wanted; see `chunks.visit`."""
        sums, bias_sums = _here(self.weight_sum), _here(self.bias_sum)
        assert sums is not None
        memory: list[Tensor] = []

        def update(start: int, stop: int, g: Tensor, x: Tensor) -> None:
            if wants.weight:
                if not memory:
                    memory.append(x.new_empty(stop - start, x.shape[1]))
                d, w, s = memory[0][: stop - start], weight[start:stop], sums[start:stop]
                torch.mm(g, x, out=d)
                if self.weight_decay:
                    d.add_(w, alpha=self.weight_decay)
                s.add_(torch.linalg.vector_norm(d, dim=1).square_(), alpha=1 / max(x.shape[1], 1))
                w.addcdiv_(d, s.sqrt().add_(self.eps)[:, None], value=-self.lr)
            if bias is not None and wants.bias:
                assert bias_sums is not None
                d_bias, s = g.sum(1), bias_sums[start:stop]
                s.addcmul_(d_bias, d_bias)
                bias[start:stop].addcdiv_(d_bias, s.sqrt().add_(self.eps), value=-self.lr)

        return update


def _here(tensor: Any) -> Any:
    """What of a tensor this process holds."""
    return tensor.to_local() if tensor is not None and is_distributed(tensor) else tensor
