"""The network of many labels: one hidden layer, and a linear head with the cross-entropy of all."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchbce.classifier.labels.inputs import Inputs
from torchbce.linear.fused import FusedOptimizer
from torchbce.linear.head import LinearBCELoss

#: Units of the hidden layer, and the share of the inputs and of the units dropped in training.
HIDDEN, INPUT_DROPOUT, DROPOUT = 256, 0.2, 0.5

#: Rows per forward pass without gradients.
INFERENCE_ROWS = 1024


class LabelsNetwork(nn.Module):
    """One hidden layer on dense and sparse features, and a `LinearBCELoss`.

    Args:
        numbers: the number of dense features, N.
        sparse: the number of sparse features, F.
        labels: the number of labels, L.
        hidden: the number of hidden units, H.
        fused_optimizer: of the head.
        pos_weight: the weight of the positives of each label, [L].
    """

    def __init__(
        self,
        numbers: int,
        sparse: int,
        labels: int,
        hidden: int = HIDDEN,
        fused_optimizer: FusedOptimizer | None = None,
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(numbers, hidden))
        self.sparse = nn.Parameter(torch.zeros(sparse, hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.head = LinearBCELoss(
            hidden,
            labels,
            reduction="batch_mean",
            fused_optimizer=fused_optimizer,
            pos_weight=pos_weight,
        )

    @torch.no_grad()
    def initialise(self, prior_bias: Tensor, per_row: float, generator: torch.Generator) -> None:
        """Set the initial weights: PyTorch's uniform ones.

        Args:
            prior_bias: the bias of each label, [L]: the logit of its base rate.
            per_row: the mean number of sparse features of a row.
            generator: the generator of the random weights.
        """
        inputs = max(self.numbers.shape[0] + per_row, 1.0)
        for weight, fan_in in (
            (self.numbers, inputs),
            (self.sparse, inputs),
            (self.head.weight, self.head.in_features),
        ):
            bound = 1 / math.sqrt(max(fan_in, 1.0))
            weight.uniform_(-bound, bound, generator=generator)
        assert self.head.bias is not None
        self.head.bias.copy_(prior_bias)

    def hidden(self, rows: Inputs) -> Tensor:
        """The hidden units of some rows, [rows, H]."""
        device = self.bias.device
        total = self.bias.expand(len(rows), -1)
        if self.numbers.shape[0]:
            numbers = F.dropout(
                torch.from_numpy(rows.numbers).to(device), INPUT_DROPOUT, self.training
            )
            total = torch.addmm(total, numbers, self.numbers)
        if self.sparse.shape[0]:
            values = F.dropout(
                torch.from_numpy(rows.sparse.data).to(device), INPUT_DROPOUT, self.training
            )
            total = total + F.embedding_bag(
                torch.from_numpy(rows.sparse.indices.astype(np.int64)).to(device),
                self.sparse,
                torch.from_numpy(rows.sparse.indptr[:-1].astype(np.int64)).to(device),
                mode="sum",
                per_sample_weights=values,
            )
        return F.dropout(F.relu(total), DROPOUT, self.training)

    @torch.no_grad()
    def hidden_of(self, rows: Inputs) -> Tensor:
        """The hidden units of many rows, on the network's device, without gradients."""
        self.eval()
        parts = [
            self.hidden(rows.take(np.arange(start, min(start + INFERENCE_ROWS, len(rows)))))
            for start in range(0, len(rows), INFERENCE_ROWS)
        ]
        return torch.cat(parts) if parts else self.bias.new_zeros((0, len(self.bias)))

    def logits(self, rows: Inputs) -> np.ndarray:
        """All logits of some rows, float64 [rows, L]."""
        with torch.no_grad():
            found: np.ndarray = self.head.logits(self.hidden_of(rows)).double().cpu().numpy()
        return found

    def chunks(self, rows: Inputs) -> Callable[[int, int], np.ndarray]:
        """A function that computes the logits of the labels from a first to a last one."""
        hidden, head = self.hidden_of(rows), self.head

        def of(start: int, stop: int) -> np.ndarray:
            assert head.bias is not None
            with torch.no_grad():
                z = torch.addmm(head.bias[start:stop], hidden, head.weight[start:stop].t())
            found: np.ndarray = z.double().cpu().numpy()
            return found

        return of

    def topk(self, rows: Inputs, k: int) -> Any:
        """The k largest logits of each row, as `LinearBCELoss.topk`."""
        return self.head.topk(self.hidden_of(rows), k)


@torch.no_grad()
def mean_of(networks: list[LabelsNetwork]) -> LabelsNetwork:
    """One network whose logits are the mean of those of several.

    Its hidden units are those of all, and its head's weights theirs divided by their number.
    """
    if len(networks) == 1:
        return networks[0]
    first = networks[0]
    mean = LabelsNetwork(
        first.numbers.shape[0],
        first.sparse.shape[0],
        first.head.out_features,
        sum(len(network.bias) for network in networks),
    )
    for name in ("numbers", "sparse", "bias"):
        getattr(mean, name).copy_(torch.cat([getattr(n, name) for n in networks], dim=-1))
    mean.head.weight.copy_(torch.cat([n.head.weight for n in networks], dim=1) / len(networks))
    biases: list[Tensor] = [n.head.bias for n in networks if n.head.bias is not None]
    assert mean.head.bias is not None
    mean.head.bias.copy_(torch.stack(biases).double().mean(0))
    return mean.eval()
