"""Optimizers that update a head chunk by chunk in the backward pass, without storing its gradient.

The gradient of L labels and D features is as large as the weight, and Adam's state twice that.
These optimizers store at most one number per label.
"""

from typing import Any

import torch
from torch import Tensor, nn

from torchbce.definition import checks
from torchbce.definition.kinds import is_distributed
from torchbce.linear.records import NeedsGrad, Update

__all__ = ["FusedRowwiseAdagrad", "FusedSGD"]


class FusedOptimizer(nn.Module):
    """Hyperparameters that may change from step to step and are in the `state_dict`."""

    hyperparameters: tuple[str, ...] = ("lr", "weight_decay")
    lr: float
    weight_decay: float

    def __init__(self, **hyperparameters: float) -> None:
        super().__init__()
        self._attached = False
        for name, value in hyperparameters.items():
            setattr(self, name, float(checks.exponent(name, value)))

    def attach(self, weight: Tensor, bias: Tensor | None) -> None:
        """Allocate the state for one head."""
        if self._attached:
            raise ValueError(
                "this optimizer belongs to another head already, and its state has one number per "
                "label of that; make one for each head"
            )
        self._attached = True

    def reset(self) -> None:
        """Set the state to zero."""
        for buffer in self.buffers():
            buffer.zero_()

    def make_update(self, weight: Tensor, bias: Tensor | None, needs_grad: NeedsGrad) -> Update:
        """The update of weight and bias, of those that are not frozen; see `records.Update`."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """The hyperparameters as a tensor, since safetensors stores nothing else."""
        values = [getattr(self, name) for name in self.hyperparameters]
        return torch.tensor(values, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Set the hyperparameters from `get_extra_state`'s tensor."""
        for name, value in zip(self.hyperparameters, state.tolist(), strict=True):
            setattr(self, name, value)

    def extra_repr(self) -> str:
        """The hyperparameters."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.hyperparameters)


class FusedSGD(FusedOptimizer):
    r"""Stochastic gradient descent inside the backward pass, for a head too large for a gradient.

    .. math::
        W \leftarrow W - \eta \, (\nabla W + \lambda W), \qquad b \leftarrow b - \eta \, \nabla b

    The same as `torch.optim.SGD` without momentum, with no weight decay of the bias. It needs no
    memory: the matrix product that would be a chunk's gradient is added to the chunk's weights.

    Args:
        lr: :math:`\eta`, the step size, 0 or above. It is an attribute that a schedule may set.
        weight_decay: :math:`\lambda`, of the weight, 0 or above.

    Returns:
        The optimizer, for the argument `fused_optimizer` of one `LinearBCELoss`.

    Raises:
        ValueError: if an argument is negative or not finite.

    Example:
        >>> import torch, torchbce
        >>> head = torchbce.LinearBCELoss(4, 1000, fused_optimizer=torchbce.FusedSGD(lr=0.5))
        >>> x, positives = torch.ones(2, 4), torch.tensor([[3], [7]])
        >>> first = head(x, positives)
        >>> first.backward()  # updates weight and bias
        >>> bool(head(x, positives) < first), head.weight.grad is None
        (True, True)

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
    """

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)

    def make_update(self, weight: Tensor, bias: Tensor | None, needs_grad: NeedsGrad) -> Update:
        """The update of weight and bias, of those that are not frozen; see `records.Update`."""

        def update(start: int, stop: int, g: Tensor, x: Tensor) -> None:
            if needs_grad.weight:
                decayed = 1 - self.lr * self.weight_decay
                weight[start:stop].addmm_(g, x, beta=decayed, alpha=-self.lr)
            if bias is not None and needs_grad.bias:
                bias[start:stop].sub_(g.sum(1), alpha=self.lr)

        return update


class FusedRowwiseAdagrad(FusedOptimizer):
    r"""Adagrad with one step size per label, inside the backward pass, for heads of many labels.

    .. math::
        g = \nabla W_l + \lambda W_l, \qquad
        s_l \leftarrow s_l + \frac{1}{D} \sum_d g_d^2, \qquad
        W_l \leftarrow W_l - \eta \, g / (\sqrt{s_l} + \epsilon)

    The bias is updated in the same way, with a sum of its own and without weight decay. The state,
    which is in the `state_dict`, is one number per label for the weight and one for the bias.

    Args:
        lr: :math:`\eta`, the step size, 0 or above. It is an attribute that a schedule may set.
        weight_decay: :math:`\lambda`, of the weight, 0 or above.
        eps: :math:`\epsilon`, added to the square root, above 0.

    Returns:
        The optimizer, for the argument `fused_optimizer` of one `LinearBCELoss`. That adds its
        state as buffers: `weight_sum` and `bias_sum`, [L].

    Raises:
        ValueError: if an argument is negative or not finite, or eps is 0.

    Example:
        >>> import torch, torchbce
        >>> optimizer = torchbce.FusedRowwiseAdagrad(lr=0.1)
        >>> head = torchbce.LinearBCELoss(4, 1000, fused_optimizer=optimizer)
        >>> head(torch.ones(2, 4), torch.tensor([[3], [7]])).backward()
        >>> optimizer.weight_sum.shape
        torch.Size([1000])

    References:
        Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic Optimization,
        JMLR 2011. The sum per row is that of FBGEMM: https://pytorch.org/FBGEMM.
    """

    hyperparameters = ("lr", "weight_decay", "eps")
    eps: float
    weight_sum: Tensor
    bias_sum: Tensor | None

    def __init__(self, lr: float, weight_decay: float = 0.0, eps: float = 1e-10) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, eps=eps)
        if eps == 0:
            raise ValueError(
                "eps must be above 0, got 0: the step of a row without a gradient would be 0 / 0"
            )

    def attach(self, weight: Tensor, bias: Tensor | None) -> None:
        """Allocate the state for one head."""
        super().attach(weight, bias)
        self.register_buffer("weight_sum", weight.new_zeros(weight.shape[0]))
        self.register_buffer("bias_sum", None if bias is None else torch.zeros_like(bias))

    def make_update(self, weight: Tensor, bias: Tensor | None, needs_grad: NeedsGrad) -> Update:
        """The update of weight and bias, of those that are not frozen; see `records.Update`."""
        weight_sum, bias_sum = _local(self.weight_sum), _local(self.bias_sum)
        assert weight_sum is not None

        def update(start: int, stop: int, g: Tensor, x: Tensor) -> None:
            if needs_grad.weight:
                w, s = weight[start:stop], weight_sum[start:stop]
                d = torch.mm(g, x)  # memory of its own, since several threads update at once
                if self.weight_decay:
                    d.add_(w, alpha=self.weight_decay)
                s.add_(torch.linalg.vector_norm(d, dim=1).square_(), alpha=1 / max(x.shape[1], 1))
                w.addcdiv_(d, s.sqrt().add_(self.eps)[:, None], value=-self.lr)
            if bias is not None and needs_grad.bias:
                assert bias_sum is not None
                d_bias, s = g.sum(1), bias_sum[start:stop]
                s.addcmul_(d_bias, d_bias)
                bias[start:stop].addcdiv_(d_bias, s.sqrt().add_(self.eps), value=-self.lr)

        return update


def _local(tensor: Any) -> Any:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if tensor is not None and is_distributed(tensor) else tensor
