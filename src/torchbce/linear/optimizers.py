"""Optimizers that update a head chunk by chunk in the backward pass, without storing its gradient.

The gradient of L labels and D features is as large as the weight, and Adam's state twice that.
These optimizers store nothing, one number per label, or one per weight.
"""

from typing import Any

import torch
from torch import Tensor

from torchbce.definition.kinds import is_distributed
from torchbce.linear.fused import FusedOptimizer, hyperparameter
from torchbce.linear.records import NeedsGrad, Update

__all__ = ["FusedAdagrad", "FusedRowwiseAdagrad", "FusedSGD"]


class FusedSGD(FusedOptimizer):
    r"""Stochastic gradient descent inside the backward pass, for a head too large for a gradient.

    .. math::
        W \leftarrow W - \eta \, (\nabla W + \lambda W), \qquad b \leftarrow b - \eta \, \nabla b

    The same as `torch.optim.SGD` without momentum, with no weight decay of the bias. It needs no
    memory: the matrix product that would be a chunk's gradient is added to the chunk's weights.

    Args:
        lr: :math:`\eta`, the step size, 0 or above. It is an attribute, and `param_groups[0]["lr"]`
            is the same number: a schedule of `torch.optim.lr_scheduler` sets it.
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

    def rule(self, weight: Tensor, bias: Tensor | None, needs_grad: NeedsGrad) -> Update:
        """What `make_update` does with each chunk."""

        def update(start: int, stop: int, g: Tensor, x: Tensor) -> None:
            if needs_grad.weight:
                decayed = 1 - self.lr * self.weight_decay
                weight[start:stop].addmm_(g, x, beta=decayed, alpha=-self.lr)
            if bias is not None and needs_grad.bias:
                bias[start:stop].sub_(g.sum(1), alpha=self.lr)

        return update


class _Adagrad(FusedOptimizer):
    """The state and the bias of both ways to sum squares."""

    hyperparameters: tuple[str, ...] = ("lr", "weight_decay", "eps")
    eps: float = hyperparameter("eps")
    weight_sum: Tensor
    bias_sum: Tensor | None

    def __init__(self, lr: float, eps: float, **others: float) -> None:
        super().__init__(lr=lr, eps=eps, **others)
        if self.eps == 0:
            raise ValueError(
                "eps must be above 0, got 0: the step of a row without a gradient would be 0 / 0"
            )

    def attach(self, weight: Tensor, bias: Tensor | None) -> None:
        """Allocate the state for one head."""
        super().attach(weight, bias)
        self.register_buffer("weight_sum", self.sums_of(weight))
        self.register_buffer("bias_sum", None if bias is None else torch.zeros_like(bias))
        self.reset()

    def sums_of(self, weight: Tensor) -> Tensor:
        """The sums of squares of a weight, all 0."""
        raise NotImplementedError

    def rule(self, weight: Tensor, bias: Tensor | None, needs_grad: NeedsGrad) -> Update:
        """What `make_update` does with each chunk."""
        weight_sum, bias_sum = _local(self.weight_sum), _local(self.bias_sum)

        def update(start: int, stop: int, g: Tensor, x: Tensor) -> None:
            if needs_grad.weight:
                w = weight[start:stop]
                d = torch.mm(g, x)  # memory of its own, since several threads update at once
                if self.weight_decay:
                    d.add_(w, alpha=self.weight_decay)
                root = self.root_of_sum(d, weight_sum[start:stop])
                w.addcdiv_(d, root.add_(self.eps), value=-self.lr)
            if bias is not None and needs_grad.bias:
                d_bias, s = g.sum(1), bias_sum[start:stop]
                s.addcmul_(d_bias, d_bias)
                bias[start:stop].addcdiv_(d_bias, s.sqrt().add_(self.eps), value=-self.lr)

        return update

    def root_of_sum(self, d: Tensor, weight_sum: Tensor) -> Tensor:
        """Add the squares of a chunk's gradient to their sums; a tensor of the roots of these."""
        raise NotImplementedError


class FusedAdagrad(_Adagrad):
    r"""Adagrad inside the backward pass, as `torch.optim.Adagrad` computes it.

    .. math::
        g = \nabla W + \lambda W, \qquad
        s \leftarrow s + g^2, \qquad
        W \leftarrow W - \eta \, g / (\sqrt{s} + \epsilon)

    Each weight has a sum of its own, so that the state is as large as the weight. The gradient,
    which is as large again, is not stored. The bias is updated in the same way, without weight
    decay: this is `torch.optim.Adagrad` with two parameter groups.

    Args:
        lr: :math:`\eta`, the step size, 0 or above. It is an attribute, and `param_groups[0]["lr"]`
            is the same number: a schedule of `torch.optim.lr_scheduler` sets it.
        weight_decay: :math:`\lambda`, of the weight, 0 or above.
        initial_accumulator_value: the value of each s before the first step, 0 or above.
        eps: :math:`\epsilon`, added to the square root, above 0.

    Returns:
        The optimizer, for the argument `fused_optimizer` of one `LinearBCELoss`. That adds its
        state as buffers: `weight_sum`, [L, D], and `bias_sum`, [L].

    Raises:
        ValueError: if an argument is negative or not finite, or eps is 0.

    Example:
        >>> import torch, torchbce
        >>> optimizer = torchbce.FusedAdagrad(lr=0.1)
        >>> head = torchbce.LinearBCELoss(4, 1000, fused_optimizer=optimizer)
        >>> schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> head(torch.ones(2, 4), torch.tensor([[3], [7]])).backward()  # a step
        >>> schedule.step()
        >>> optimizer.lr, optimizer.weight_sum.shape
        (0.05, torch.Size([1000, 4]))

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html
        Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic Optimization,
        JMLR 2011.
    """

    hyperparameters = (*_Adagrad.hyperparameters, "initial_accumulator_value")
    initial_accumulator_value: float = hyperparameter("initial_accumulator_value")

    def __init__(
        self,
        lr: float = 0.01,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            initial_accumulator_value=initial_accumulator_value,
        )

    def reset(self) -> None:
        """Set the state to that before the first step."""
        for buffer in self.buffers():
            buffer.fill_(self.initial_accumulator_value)

    def sums_of(self, weight: Tensor) -> Tensor:
        """The sums of squares of a weight, all 0."""
        return torch.zeros_like(weight, requires_grad=False)

    def root_of_sum(self, d: Tensor, weight_sum: Tensor) -> Tensor:
        """Add the squares of a chunk's gradient to their sums; a tensor of the roots of these."""
        return weight_sum.addcmul_(d, d).sqrt()


class FusedRowwiseAdagrad(_Adagrad):
    r"""Adagrad with one step size per label, inside the backward pass, for heads of many labels.

    .. math::
        g = \nabla W_l + \lambda W_l, \qquad
        s_l \leftarrow s_l + \frac{1}{D} \sum_d g_d^2, \qquad
        W_l \leftarrow W_l - \eta \, g / (\sqrt{s_l} + \epsilon)

    The bias is updated in the same way, with a sum of its own and without weight decay. The state,
    which is in the `state_dict`, is one number per label for the weight and one for the bias.

    This is not `torch.optim.Adagrad`, which has a sum per weight: here the features of a label
    share one step size, rare features get smaller steps than there, and another `lr` is best.
    `FusedAdagrad` is the same as `torch.optim.Adagrad`, if there is memory for a second weight.

    Args:
        lr: :math:`\eta`, the step size, 0 or above. It is an attribute, and `param_groups[0]["lr"]`
            is the same number: a schedule of `torch.optim.lr_scheduler` sets it.
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

    def __init__(self, lr: float, weight_decay: float = 0.0, eps: float = 1e-10) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, eps=eps)

    def sums_of(self, weight: Tensor) -> Tensor:
        """The sums of squares of a weight, all 0."""
        return weight.new_zeros(weight.shape[0])

    def root_of_sum(self, d: Tensor, weight_sum: Tensor) -> Tensor:
        """Add the squares of a chunk's gradient to their sums; a tensor of the roots of these."""
        squares = torch.linalg.vector_norm(d, dim=1).square_()
        return weight_sum.add_(squares, alpha=1 / max(d.shape[1], 1)).sqrt()[:, None]


def _local(tensor: Any) -> Any:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if tensor is not None and is_distributed(tensor) else tensor
