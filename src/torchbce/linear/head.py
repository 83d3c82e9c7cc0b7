"""A linear layer and its cross-entropy as one module: the last one of a model with many labels."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchbce import imbalance
from torchbce.definition import checks
from torchbce.linear import call, sharding, topk
from torchbce.linear.call import Settings
from torchbce.linear.loss import linear_loss
from torchbce.linear.optimizers import FusedOptimizer

__all__ = ["LinearBCELoss"]


class LinearBCELoss(nn.Module):
    r"""A linear layer with binary cross-entropy, for labels too many to hold their logits.

    .. math::
        \ell = \mathrm{BCE}(x W^T + b, \, y)

    as `torchbce.linear_binary_cross_entropy` computes it. `weight` and `bias` are parameters named
    and shaped as those of `torch.nn.Linear`, whose `state_dict` a head without `pos_weight`,
    `label_weight` and `fused_optimizer` can load.

    Args:
        in_features: D, the width of the input.
        out_features: L, the number of labels.
        bias: whether there is a bias.
        prior: the rate of positives with which the bias begins, in (0, 1): a number or [L]. An
            untrained head then predicts that rate, and the first steps are not spent on it.
        pos_weight: the weight of the positive part: a number, or [L].
        label_weight: [L].
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        reduction: "mean", over the number of elements; "sum"; "batch_mean", the sum over all
            dimensions but input's first and the mean over that; "none", the sum over the labels
            of each row.
        chunk_labels: how many labels are visited at a time; None for as many as fit the caches.
        check_targets: whether labels and targets outside their range raise; None for "on the CPU".
        fused_optimizer: a `FusedSGD` or `FusedRowwiseAdagrad`, which takes its step inside
            `backward`, chunk by chunk: weight and bias have no gradient, and other optimisers pass
            them over. Each backward pass through the loss is a step, that of
            `torch.autograd.grad` by the input too: gradients of several do not add up. They are
            taken as they come: not clipped, not averaged over processes (keep the head out of
            DistributedDataParallel), not unscaled (no GradScaler). For float32 and float64.
        device: where the parameters are made.
        dtype: of the parameters.

    Returns:
        Called with `input` [..., D], `target` and, by name, `row_weight`, `mask` and `ignored`, all
        as `linear_binary_cross_entropy` takes them: the loss, as that returns it.

    Raises:
        TypeError: if a dtype is not floating, or `fused_optimizer` is none.
        ValueError: if a number is out of its range, or a shape does not fit.

    Example:
        >>> import torch, torchbce
        >>> head = torchbce.LinearBCELoss(in_features=8, out_features=1000, prior=0.001)
        >>> positives = torch.tensor([[3, 999], [17, -1]])
        >>> loss = head(torch.randn(2, 8), positives)
        >>> loss.backward()
        >>> head.weight.grad.shape, head.topk(torch.randn(2, 8), 5).indices.shape
        (torch.Size([1000, 8]), torch.Size([2, 5]))

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4.1, for the prior.
    """

    bias: nn.Parameter | None
    pos_weight: Tensor | None
    label_weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        prior: float | Tensor = 0.01,
        pos_weight: Tensor | float | None = None,
        label_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        chunk_labels: int | None = None,
        check_targets: bool | None = None,
        fused_optimizer: FusedOptimizer | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.label_smoothing, self.reduction = label_smoothing, reduction
        self.chunk_labels, self.prior = chunk_labels, prior
        self.check_targets = check_targets
        made: Any = {"device": device, "dtype": dtype}
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"a head must have a floating dtype, got {dtype}")
        if label_weight is not None and not isinstance(label_weight, Tensor):
            raise TypeError(
                f"label_weight must be a real tensor of shape ({out_features},), got "
                f"{type(label_weight).__name__}"
            )
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **made))
        self.bias = nn.Parameter(torch.empty(out_features, **made)) if bias else None
        if pos_weight is not None and not isinstance(pos_weight, Tensor):
            pos_weight = checks.align_weight("pos_weight", pos_weight, self.weight.detach())
        for name, value in (("pos_weight", pos_weight), ("label_weight", label_weight)):
            self.register_buffer(name, value if value is None else value.to(self.weight.device))
        example = self.weight.new_empty((0, in_features), device="meta")
        w, b = (None if p is None else p.to("meta") for p in (self.weight, self.bias))
        assert w is not None
        positives = torch.empty((0, 0), dtype=torch.int64, device="meta")
        call.check(example, w, b, positives, out_features, self._options(device="meta"))
        self.fused_optimizer = fused_optimizer
        if fused_optimizer is not None:
            if not isinstance(fused_optimizer, FusedOptimizer):
                raise TypeError(
                    "fused_optimizer must be a torchbce.FusedSGD or FusedRowwiseAdagrad, got "
                    f"{type(fused_optimizer).__name__}; an optimiser of torch.optim takes "
                    "head.parameters() as ever"
                )
            fused_optimizer.attach(self.weight, self.bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin anew: the weight as that of `torch.nn.Linear`, the bias at the prior."""
        if self.fused_optimizer is not None:
            self.fused_optimizer.reset()
        if self.in_features:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.weight, -bound, bound)
        p = torch.as_tensor(self.prior, dtype=torch.float64, device="cpu")
        if not bool(((p > 0) & (p < 1)).all()):
            raise ValueError(
                f"prior must lie in (0, 1), got {self.prior}: it is a rate of positives"
            )
        if p.numel() != 1 and p.shape != (self.out_features,):
            raise ValueError(
                f"prior has shape {tuple(p.shape)}; it must be one number or ({self.out_features},)"
            )
        if self.bias is not None and not self.bias.is_meta:
            start = imbalance.prior_bias(p, 1 - p).flatten()
            if self.pos_weight is not None:
                # What expects positives that weigh nothing would be minus infinity.
                weight = self.pos_weight.double().cpu().flatten()
                start = start + torch.where(weight > 0, weight, 1.0).log()
            start = start.expand(self.out_features).to(self.bias)
            bias: Any = self.bias
            if sharding.is_distributed(bias):
                start = sharding.placed_as(start, bias)
            with torch.no_grad():
                bias.copy_(start)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        row_weight: Tensor | None = None,
        mask: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> Tensor:
        """The loss of one batch."""
        options = self._options()._replace(row_weight=row_weight, mask=mask, ignored=ignored)
        optimizer = self.fused_optimizer
        if optimizer is not None and not self.weight.is_leaf:
            raise RuntimeError(
                "weight is computed from another tensor (by a parametrization?), which a fused "
                "optimizer cannot change; give the head none, and an optimizer of torch.optim"
            )
        if optimizer is not None and self.weight.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"weight is {self.weight.dtype}; a fused optimizer needs float32 or float64, since "
                "a step below half a unit in the last place would be lost"
            )
        updates = None if optimizer is None else optimizer.updates
        return linear_loss(input, self.weight, target, self.bias, options, updates)

    def logits(self, input: Tensor) -> Tensor:
        """All logits at once, [..., L], as `torch.nn.functional.linear` computes them."""
        weight: Any = self.weight
        if sharding.is_distributed(weight) and not sharding.is_distributed(input):
            input = sharding.on_mesh(input, weight.device_mesh)
        return F.linear(input, weight, self.bias)

    def probabilities(self, input: Tensor) -> Tensor:
        """The sigmoid of all logits, [..., L]. What `pos_weight` adds is in it: see `imbalance`."""
        return torch.sigmoid(self.logits(input))

    def topk(self, input: Tensor, k: int) -> Any:
        """The k labels of the largest logits for each row, without the others.

        Args:
            input: [..., D].
            k: how many, from 1 to L.

        Returns:
            A named tuple of `values`, logits in float32 (float64 for float64), and `indices`,
            int64, both [..., k], from the largest on.

        Raises:
            ValueError: if k is out of its range.
        """
        return topk.topk(input, self.weight, self.bias, k, self.chunk_labels)

    def shard_labels(self, mesh: Any, dim: int = 0) -> "LinearBCELoss":
        """Spread the labels over the processes of a mesh, in place.

        Args:
            mesh: a `torch.distributed.device_mesh.DeviceMesh`.
            dim: its dimension over which the labels are spread; over others they are replicated.

        Returns:
            The module, whose parameters (and state of a fused optimizer) are other tensors now,
            DTensors: optimisers are to be made afterwards.
        """
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        placements = [Shard(0) if i == dim else Replicate() for i in range(mesh.ndim)]
        modules = [self] if self.fused_optimizer is None else [self, self.fused_optimizer]
        for module in modules:
            for name, parameter in module.named_parameters(recurse=False):
                placed = distribute_tensor(parameter.detach(), mesh, placements)
                setattr(module, name, nn.Parameter(placed, parameter.requires_grad))
        if self.fused_optimizer is not None:
            for name, buffer in self.fused_optimizer.named_buffers():
                setattr(self.fused_optimizer, name, distribute_tensor(buffer, mesh, placements))
        return self

    def extra_repr(self) -> str:
        """The sizes and options."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, reduction={self.reduction!r}"
        )

    def _options(self, device: str | None = None) -> Settings:
        p, u = (
            w.to(device) if w is not None and device is not None else w
            for w in (self.pos_weight, self.label_weight)
        )
        return Settings(
            pos_weight=p,
            label_weight=u,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            chunk_labels=self.chunk_labels,
            check_targets=self.check_targets,
        )
