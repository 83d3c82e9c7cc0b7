"""The network: two hidden layers on the sparse features of a table."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from torchbce.classifier.columns.encoder import Encoded, Encoder
from torchbce.classifier.models.features import Layout, SparseRows, beside, linear_features

# What RealMLP and TabM do otherwise was measured: by how much the log loss of new rows changed on
# adult_income (0.289), on 60,000 flights (0.478) and on 60,000 rows of interactions (0.440).
#
#     Mish for ReLU                         -0.005  +0.001  +0.003
#     SiLU for ReLU                         -0.005  +0.001  +0.027
#     a cosine of the logarithm (coslog4)   -0.001  -0.001  -0.002
#     beta2 = 0.95                           0.000   0.000   0.000
#     a dropout of 0.2                      +0.001  -0.001  -0.003
#     a third layer, 1.4 to 2.4 times the time   0.000  +0.001  -0.008
#     8 members as in TabM, 6 to 7 times the time   -0.004  -0.004  -0.003
#
# Nothing of it was worth having on all three, or its time.

#: Units of each of the two hidden layers, and the share of them that is dropped in training.
HIDDEN, DROPOUT = 256, 0.1

#: Rows per forward pass without gradients.
INFERENCE_ROWS = 8192


class Network(nn.Module):
    """A multilayer perceptron on sparse features.

    The first layer sums the rows of its weight that belong to the nonzero features, so features
    that are 0 cost nothing.

    Args:
        features: the number of features, F.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.input = nn.EmbeddingBag(
            features, HIDDEN, mode="sum", _weight=torch.zeros(features, HIDDEN)
        )
        self.input_bias = nn.Parameter(torch.zeros(HIDDEN))
        # skip_init, because nn.Linear's own initialisation draws from the global generator.
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            skip_init(nn.Linear, HIDDEN, HIDDEN),  # type: ignore[no-untyped-call]
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            skip_init(nn.Linear, HIDDEN, 1),  # type: ignore[no-untyped-call]
        )

    @torch.no_grad()
    def initialise(self, bias: float, per_row: float, generator: torch.Generator) -> None:
        """Set the initial weights: PyTorch's uniform ones.

        Args:
            bias: the output bias in nats: `torchbce.imbalance.prior_bias` of the base rate.
            per_row: the mean number of features of a row, the inputs that a unit adds up.
            generator: the generator of the random weights.
        """
        bound = 1 / math.sqrt(max(per_row, 1.0))
        self.input.weight.uniform_(-bound, bound, generator=generator)
        linears = [layer for layer in self.rest if isinstance(layer, nn.Linear)]
        for layer in linears:
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
        linears[-1].bias.fill_(bias)

    @torch.no_grad()
    def map_logits(self, slope: float, offset: float) -> None:
        """Multiply the logits by a slope and add an offset, in the weights of the last layer."""
        if (slope, offset) == (1.0, 0.0):
            return
        last = self.rest[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(slope)
        last.bias.mul_(slope).add_(offset)

    def forward(self, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """The logits of sparse rows; `row_tensors` makes the arguments.

        Args:
            indices: the feature of each nonzero value, [nonzeros].
            offsets: where each row begins in `indices`, [rows].
            values: the nonzero values, [nonzeros].

        Returns:
            Logits, [rows].
        """
        hidden = self.input(indices, offsets, values.to(self.input.weight.dtype)) + self.input_bias
        return self.rest(hidden).squeeze(-1)  # type: ignore[no-any-return]


def network_features(encoder: Encoder, encoded: Encoded) -> SparseRows:
    """The features of the network: those of the linear model, with numbers between two knots.

    A number is between two edges of its bins; it is the weighted mean of the two knots' features,
    so that the first layer is a piecewise-linear function of the number instead of a step function.
    """
    rows = linear_features(encoder, encoded)
    layout = Layout.of(encoder)
    indptr, indices, values = rows.indptr, rows.indices.copy(), rows.values
    assert values is not None
    values = values.copy()
    extra_rows, extra_indices, extra_values = [], [], []
    row_of = np.repeat(np.arange(len(encoded)), np.diff(indptr))
    for position, column in enumerate(encoder.numeric):
        if len(column.edges) < 2:
            continue
        numbers = encoded.numbers[:, position]
        start = int(layout.starts[position])
        share = _share_of_next(np.asarray(column.edges), numbers)
        own = (indices >= start) & (indices <= start + len(column.edges))
        values[own] = 1 - share[row_of[own]]
        present = np.flatnonzero(share > 0)
        extra_rows.append(present)
        extra_indices.append(start + encoded.codes[present, position] + 1)
        extra_values.append(share[present])
    if not extra_rows:
        return SparseRows(indptr, indices, values, rows.width)
    at = np.concatenate(extra_rows)
    order = np.argsort(at, kind="stable")
    counts = np.bincount(at, minlength=len(encoded))
    return beside(
        SparseRows(indptr, indices, values, rows.width),
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate(extra_indices)[order],
        np.concatenate(extra_values)[order].astype(np.float32),
    )


def _share_of_next(edges: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """How far each number is on the way from its bin's lower edge to the upper one, in [0, 1).

    0 in the first and in the last bin, which have one edge, and where the number is missing.
    """
    code = np.searchsorted(edges, numbers, side="right")
    inside = (code > 0) & (code < len(edges)) & ~np.isnan(numbers)
    share = np.zeros(len(numbers))
    low, high = edges[code[inside] - 1], edges[code[inside]]
    share[inside] = (numbers[inside] / 2 - low / 2) / (high / 2 - low / 2)
    return share


def row_tensors(rows: SparseRows, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `Network.forward`: indices, offsets and values."""
    assert rows.values is not None
    return (
        torch.from_numpy(rows.indices.astype(np.int64)).to(device),
        torch.from_numpy(rows.indptr[:-1].astype(np.int64)).to(device),
        torch.from_numpy(rows.values).to(device),
    )


@torch.no_grad()
def predict_logits(
    network: Network,
    rows: SparseRows,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> np.ndarray:
    """The logits of sparse rows, computed in batches on the network's device, float64 [rows]."""
    device = network.input_bias.device
    training = network.training
    network.eval()
    parts = []
    for start in range(0, len(rows.indptr) - 1, INFERENCE_ROWS):
        batch = rows.slice(start, min(start + INFERENCE_ROWS, len(rows.indptr) - 1))
        with autocast():
            logits = network(*row_tensors(batch, device))
        parts.append(logits.double().cpu().numpy())
    network.train(training)
    return np.concatenate(parts) if parts else np.zeros(0)
