"""The network: from sparse features to one logit per row."""

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

Architecture = Literal["linear", "mlp"]

#: Hidden ReLU units per layer.
HIDDEN: dict[str, tuple[int, ...]] = {"linear": (), "mlp": (64, 32)}

#: Rows per forward pass without gradients.
INFERENCE_ROWS = 8192


class Network(nn.Module):
    """A linear model or a multilayer perceptron with ReLU on sparse features.

    The first layer sums the rows of its weight that belong to the nonzero features, so features
    that are 0 cost nothing.

    Args:
        features: the number of features, F.
        architecture: "linear", or "mlp" with 64 and 32 hidden units.
    """

    def __init__(self, features: int, architecture: Architecture) -> None:
        super().__init__()
        widths = (*HIDDEN[architecture], 1)
        self.input = nn.EmbeddingBag(
            features, widths[0], mode="sum", _weight=torch.zeros(features, widths[0])
        )
        self.input_bias = nn.Parameter(torch.zeros(widths[0]))
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            # skip_init, because nn.Linear's own initialisation draws from the global generator.
            layers += [nn.ReLU(), skip_init(nn.Linear, before, after)]  # type: ignore[no-untyped-call]
        self.rest = nn.Sequential(*layers)

    @torch.no_grad()
    def initialise(self, bias: float, generator: torch.Generator) -> None:
        """Set the initial weights: zeros if linear, else PyTorch's uniform ones.

        Args:
            bias: the output bias in nats: `torchbce.imbalance.prior_bias` of the base rate.
            generator: the generator of the random weights.
        """
        linears = [layer for layer in self.rest if isinstance(layer, nn.Linear)]
        if not linears:
            self.input_bias.fill_(bias)
            return
        bound = 1 / math.sqrt(self.input.num_embeddings)
        self.input.weight.uniform_(-bound, bound, generator=generator)
        for layer in linears:
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
        linears[-1].bias.fill_(bias)

    def forward(self, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """The logits of rows of features in CSR form; `row_features` makes the arguments.

        Args:
            indices: the feature of each nonzero value, [nonzeros].
            offsets: where each row begins in `indices`, [rows].
            values: the nonzero values, [nonzeros].

        Returns:
            Logits, [rows].
        """
        hidden = self.input(indices, offsets, values.to(self.input.weight.dtype)) + self.input_bias
        return self.rest(hidden).squeeze(-1)  # type: ignore[no-any-return]


def row_features(features: sp.csr_matrix, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `Network.forward` for a CSR matrix: indices, offsets and values."""
    index_dtype = features.indptr.dtype
    return (
        torch.from_numpy(features.indices.astype(index_dtype, copy=False)).to(device),
        torch.from_numpy(features.indptr[:-1]).to(device),
        torch.from_numpy(features.data).to(device),
    )


@torch.no_grad()
def predict_logits(
    network: Network,
    features: sp.csr_matrix,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> np.ndarray:
    """The logits of a CSR matrix of features, computed in batches on the network's device.

    Args:
        network: the network.
        features: a CSR matrix, float32, [rows, F].
        autocast: makes the context manager of each forward pass.

    Returns:
        Logits, float64, [rows].
    """
    device = network.input_bias.device
    parts = []
    for start in range(0, features.shape[0], INFERENCE_ROWS):
        with autocast():
            logits = network(*row_features(features[start : start + INFERENCE_ROWS], device))
        parts.append(logits.double().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)
