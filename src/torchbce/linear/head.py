"""A linear layer and its loss as one module: the last layer of a model with many labels."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchbce import imbalance
from torchbce.definition import checks, kinds
from torchbce.definition.buffers import ModuleWithWeights
from torchbce.linear import arguments, sharding, topk
from torchbce.linear.fused import FusedOptimizer
from torchbce.linear.loss import linear_loss
from torchbce.linear.records import LinearOptions

__all__ = ["LinearBCELoss"]

#: The names in the state of `torch.nn.Linear`.
_OF_LINEAR = frozenset(("weight", "bias"))


class LinearBCELoss(ModuleWithWeights):
    r"""A linear layer with binary cross-entropy, for so many labels that the logits exceed memory.

    .. math::
        \ell = \mathrm{BCE}(x W^T + b, \, y)

    The loss is that of `torchbce.linear_binary_cross_entropy`. The parameters `weight` and `bias`
    have the names and shapes of those of `torch.nn.Linear`, whose `state_dict` can be loaded into a
    head, which keeps its own `pos_weight`, `label_weight` and state of the fused optimizer. The
    `state_dict` of a head without these can be loaded into `torch.nn.Linear`, and that of
    `head.to_linear()` always.

    Args:
        in_features: D, the size of the input's last dimension.
        out_features: L, the number of labels.
        bias: whether the layer has a bias.
        prior: the rate of positives, in (0, 1), that the initial bias predicts: a number or a
            tensor [L]. Otherwise the first steps of training are spent on it.
        pos_weight: p, the weight of the positive part: a number or a tensor [L].
        label_weight: u, the weight of each label, [L].
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        reduction: "mean", the sum divided by the number of valid elements; "sum"; "batch_mean", the
            sum divided by the size of input's first dimension, not counting entries of which every
            element is ignored; "none", the sum over the labels of each row.
        chunk_labels: the number of labels per chunk; None for a size that suits the device.
        check_targets: whether a label or a target out of range raises an error. None means true on
            the CPU, where it costs nothing, and false on a GPU, where the host would have to wait.
        fused_optimizer: a `FusedSGD`, `FusedAdagrad` or `FusedRowwiseAdagrad`, which updates weight
            and bias during `backward`, chunk by chunk. They get no gradient, so that other
            optimizers skip them. Every backward pass through the loss is a step, even that of
            `torch.autograd.grad` with respect to the input only: gradients do not accumulate. They
            are not clipped, not averaged over processes (keep the head out of
            DistributedDataParallel) and not unscaled (use no GradScaler). The weights must be
            float32 or float64.
        device: the device of the parameters.
        dtype: the dtype of the parameters, floating.

    Returns:
        The module. It is called with `input`, [..., D], `target` and, by name, `row_weight`, `mask`
        and `ignored`, as in `linear_binary_cross_entropy`, and returns the loss as that does.

    Raises:
        TypeError: if a dtype is not floating, or `fused_optimizer` is not a fused optimizer.
        ValueError: if a number is out of range, or a shape does not match.

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
        self.label_smoothing = checks.fraction("label_smoothing", label_smoothing)
        self.chunk_labels = arguments.check_chunk("chunk_labels", chunk_labels)
        self.reduction, self.prior = reduction, prior
        if not isinstance(prior, Tensor):
            self.prior = checks.number("prior", prior, or_tensor=True)
        self.check_targets = check_targets
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"a head must have a floating dtype, got {dtype}")
        made: Any = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **made))
        self.bias = nn.Parameter(torch.empty(out_features, **made)) if bias else None
        self._register_weights(pos_weight, label_weight)
        self._check_options()
        self.fused_optimizer = fused_optimizer
        if fused_optimizer is not None:
            if not isinstance(fused_optimizer, FusedOptimizer):
                raise TypeError(
                    "fused_optimizer must be a torchbce.FusedSGD, FusedAdagrad or "
                    f"FusedRowwiseAdagrad, got {type(fused_optimizer).__name__}; give an optimizer "
                    "of torch.optim the parameters of the head, head.parameters(), instead"
                )
            fused_optimizer.attach(self.weight, self.bias)
        self.reset_parameters()

    def _register_weights(
        self, pos_weight: Tensor | float | None, label_weight: Tensor | None
    ) -> None:
        """Register the weights as buffers on the device of the layer."""
        if label_weight is not None and not isinstance(label_weight, Tensor):
            raise TypeError(
                f"label_weight must be a real tensor of shape ({self.out_features},), got "
                f"{type(label_weight).__name__}; convert it with torch.as_tensor(label_weight)"
            )
        for name, value in (("pos_weight", pos_weight), ("label_weight", label_weight)):
            self._register_weight(name, value)
            if value is not None:
                setattr(self, name, getattr(self, name).to(self.weight.device))

    def _check_options(self) -> None:
        """Raise for options that the loss would refuse, by checking them with an empty batch."""
        weight, bias, pos_weight, label_weight = (
            None if tensor is None else tensor.to("meta")
            for tensor in (self.weight, self.bias, self.pos_weight, self.label_weight)
        )
        assert weight is not None
        input = weight.new_empty((0, self.in_features))
        target = torch.empty((0, 0), dtype=torch.int64, device="meta")
        options = self._options()._replace(pos_weight=pos_weight, label_weight=label_weight)
        arguments.check(input, weight, bias, target, self.out_features, options)

    def reset_parameters(self) -> None:
        """Initialise the weight as `torch.nn.Linear` does and the bias from the prior."""
        if self.fused_optimizer is not None:
            self.fused_optimizer.reset()
        if self.in_features:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.weight, -bound, bound)
        prior = self._checked_prior()
        if self.bias is None or self.bias.is_meta:
            return
        initial = imbalance.prior_bias(prior, 1 - prior).flatten()
        if self.pos_weight is not None:
            # Weighted positives have weighted odds; a weight of 0 would give a bias of -inf.
            weight = self.pos_weight.double().cpu().flatten()
            initial = initial + torch.where(weight > 0, weight, 1.0).log()
        initial = initial.expand(self.out_features).to(self.bias)
        if kinds.is_distributed(self.bias):
            initial = sharding.distributed_as(initial, self.bias)
        with torch.no_grad():
            self.bias.copy_(initial)

    def _checked_prior(self) -> Tensor:
        prior = torch.as_tensor(self.prior, dtype=torch.float64, device="cpu")
        remedy = ": it is a rate of positives; torchbce.imbalance.prior_from_counts estimates it"
        checks.every("prior must be in (0, 1)", prior, (prior > 0) & (prior < 1), remedy)
        if prior.numel() != 1 and prior.shape != (self.out_features,):
            raise ValueError(
                f"prior has shape {tuple(prior.shape)}; it must be one number or "
                f"({self.out_features},)"
            )
        return prior

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        row_weight: Tensor | None = None,
        mask: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> Tensor:
        """The loss of one batch, as `linear_binary_cross_entropy` computes it.

        Args:
            input: x, [..., D], of the weight's dtype (under autocast of any floating dtype); or
                sparse CSR, [B, D], on the CPU, without a fused optimizer.
            target: label lists, int64 [..., K], padded with -1 or -100; or sparse or dense,
                [..., L].
            row_weight: of input's shape without the last dimension.
            mask: bool, broadcasts to [..., L]: false where an element is ignored.
            ignored: the labels of each row that are ignored: lists, int64 [..., K], padded with
                -1 or -100; or sparse, [..., L], where entries that are not 0 are ignored.

        Returns:
            The loss: 0-dimensional, or for the reduction "none" of input's shape without the last
            dimension.

        Raises:
            TypeError: if dtypes do not match.
            ValueError: if shapes do not match, or a value is out of range.
            RuntimeError: if there is a fused optimizer and the weight is not a parameter.
        """
        options = self._options()._replace(row_weight=row_weight, mask=mask, ignored=ignored)
        make_update = None
        if self.fused_optimizer is not None:
            if isinstance(input, Tensor):  # while torch.fx traces, nothing is a tensor
                self._check_fused()
            make_update = self.fused_optimizer.make_update
        return linear_loss(input, self.weight, target, self.bias, options, make_update)

    def _check_fused(self) -> None:
        if not self.weight.is_leaf:
            raise RuntimeError(
                "weight is computed from another tensor (by a parametrization?), which a fused "
                "optimizer cannot update; use an optimizer of torch.optim instead"
            )
        if self.weight.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"weight is {self.weight.dtype}; a fused optimizer needs float32 or float64, since "
                "half precision would round small steps to nothing"
            )

    def __prepare_scriptable__(self) -> Any:
        """Raise, since `torch.jit.script` cannot compile the loss."""
        raise kinds.not_scriptable("LinearBCELoss")

    def logits(self, input: Tensor) -> Tensor:
        """All logits at once, as `torch.nn.functional.linear` computes them.

        Args:
            input: x, [..., D]; or sparse CSR, [B, D], on the CPU.

        Returns:
            x W^T + b, [..., L].
        """
        weight: Any = self.weight
        if kinds.is_distributed(weight) and not kinds.is_distributed(input):
            input = sharding.replicated(input, weight.device_mesh)
        return F.linear(input, weight, self.bias)

    def to_linear(self) -> nn.Linear:
        """The layer without its loss, to export, to serve or to save for other libraries.

        The layer shares the head's parameters: it needs no memory, and follows further training.
        `copy.deepcopy(head.to_linear())` does not. A weight that a parametrization computes is
        copied. The parameters of a sharded head are DTensors, and so is then the layer's input.

        Returns:
            A `torch.nn.Linear`, whose outputs are `head.logits`.

        Example:
            >>> import torch, torchbce
            >>> head = torchbce.LinearBCELoss(8, 1000, pos_weight=3.0)
            >>> linear = head.to_linear()
            >>> linear, linear.weight is head.weight, list(linear.state_dict())
            (Linear(in_features=8, out_features=1000, bias=True), True, ['weight', 'bias'])
        """
        linear = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device="meta"
        )
        linear.train(self.training)
        for name in ("weight", "bias"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, nn.Parameter):
                value = nn.Parameter(value.detach().clone())
            setattr(linear, name, value)
        return linear

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **options: Any
    ) -> None:
        """As `load_state_dict` calls it; what `torch.nn.Linear` does not have stays as it is."""
        names = {key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
        if "weight" in names and names <= _OF_LINEAR:
            own = self.state_dict(prefix=prefix)
            state_dict.update(
                (key, own[key]) for key in own if key.removeprefix(prefix) not in _OF_LINEAR
            )
        super()._load_from_state_dict(state_dict, prefix, *others, **options)

    def probabilities(self, input: Tensor) -> Tensor:
        """The sigmoid of all logits at once.

        A head with `pos_weight` predicts weighted odds; `torchbce.imbalance` corrects them.

        Args:
            input: x, [..., D].

        Returns:
            Probabilities, [..., L].
        """
        return torch.sigmoid(self.logits(input))

    def topk(self, input: Tensor, k: int) -> Any:
        """The k largest logits of each row and their labels, without storing the other logits.

        Of each chunk of labels, only logits above the k largest so far are kept. Logits that take
        no more than 4 MiB are computed at once. docs/linear.md has the time for several sizes, next
        to that of all logits and `torch.topk`. A graph that is compiled or exported has all logits.

        Args:
            input: x, [..., D]; or sparse CSR, [B, D], on the CPU.
            k: how many, from 1 to L.

        Returns:
            A named tuple of `values`, logits in float32 (float64 for float64 inputs), and
            `indices`, int64, both [..., k] in descending order of the logits.

        Raises:
            ValueError: if k is out of range, or an input on the CPU is not finite.
        """
        return topk.topk(input, self.weight, self.bias, k, self.chunk_labels)

    def shard_labels(self, mesh: Any, dim: int = 0) -> "LinearBCELoss":
        """Distribute the labels over the processes of a mesh, in place.

        Parameters, and the state of a fused optimizer, are replaced by DTensors. Create optimizers
        afterwards. `torchbce.LabelParallel` does this in a plan of `parallelize_module`.

        Args:
            mesh: a `torch.distributed.device_mesh.DeviceMesh`.
            dim: the dimension of the mesh over which labels are sharded; over others they are
                replicated.

        Returns:
            This module.
        """
        sharding.shard_parameters(self, mesh, dim)
        if self.fused_optimizer is not None:
            sharding.shard_parameters(self.fused_optimizer, mesh, dim, buffers=True)
        return self

    def extra_repr(self) -> str:
        """The sizes, the reduction, and the options that are not the default."""
        shown: dict[str, object] = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
        }
        if isinstance(self.prior, Tensor) or self.prior != 0.01:
            shown["prior"] = self.prior
        shown |= {"pos_weight": self.pos_weight, "label_weight": self.label_weight}
        if self.label_smoothing:
            shown["label_smoothing"] = self.label_smoothing
        shown["reduction"] = self.reduction
        shown |= {"chunk_labels": self.chunk_labels, "check_targets": self.check_targets}
        given = {name: value for name, value in shown.items() if value is not None}
        return ", ".join(f"{name}={_shown(value)}" for name, value in given.items())

    def _options(self) -> LinearOptions:
        return LinearOptions(
            pos_weight=self.pos_weight,
            label_weight=self.label_weight,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            chunk_labels=self.chunk_labels,
            check_targets=self.check_targets,
        )


def _shown(value: object) -> str:
    """A value of `extra_repr`: a tensor of one element as a number, of more by its shape."""
    if isinstance(value, Tensor):
        if value.numel() == 1 and not value.is_meta:
            return f"{value.item():g}"
        return f"tensor of shape {tuple(value.shape)}"
    return repr(value)
