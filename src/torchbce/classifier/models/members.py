"""The fitted models: from the arrays of a table to logits."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from torchbce.classifier.columns.encoder import Encoded, Encoder
from torchbce.classifier.models.boosting import MOST_CATEGORIES
from torchbce.classifier.models.features import SparseRows, linear_features
from torchbce.classifier.models.pairs import Crosses
from torchbce.classifier.models.solver import Linear
from torchbce.classifier.models.trees import Trees

if TYPE_CHECKING:
    from torchbce.classifier.models.network import Network


class Model(Protocol):
    """A fitted model."""

    name: ClassVar[str]

    def logits(self, encoder: Encoder, encoded: Encoded) -> np.ndarray:
        """The logits of some rows, float64 [rows]."""


@dataclass(frozen=True)
class LinearModel:
    """Main effects: a weight for each bin, category, number and n-gram."""

    name: ClassVar[str] = "linear"
    linear: Linear

    def logits(self, encoder: Encoder, encoded: Encoded) -> np.ndarray:
        """The logits of some rows, float64 [rows]."""
        return products(self.linear, linear_features(encoder, encoded))


@dataclass(frozen=True)
class PairsModel:
    """Main effects and a weight for each cell of some pairs of columns."""

    name: ClassVar[str] = "pairs"
    linear: Linear
    crosses: Crosses

    def logits(self, encoder: Encoder, encoded: Encoded) -> np.ndarray:
        """The logits of some rows, float64 [rows]."""
        main = linear_features(encoder, encoded)
        return products(self.linear, self.crosses.features(encoded.codes, main))


@dataclass(frozen=True)
class TreesModel:
    """Boosted trees of one or more parts of the rows, whose logits are averaged.

    Attributes:
        parts: the trees of each part, with the linear model of the text that they read; None where
            there is no text.
    """

    name: ClassVar[str] = "trees"
    parts: tuple[tuple[Trees, Linear | None], ...]

    def logits(self, encoder: Encoder, encoded: Encoded) -> np.ndarray:
        """The logits of some rows, float64 [rows]."""
        columns = tree_columns(encoder, encoded)
        text = text_rows(encoded)
        total = np.zeros(len(encoded))
        for trees, reader in self.parts:
            read = None if reader is None else products(reader, text)
            total += trees.logits(with_text(columns, read))
        return total / len(self.parts)


@dataclass(frozen=True)
class NetworkModel:
    """The network."""

    name: ClassVar[str] = "mlp"
    network: "Network"

    def logits(self, encoder: Encoder, encoded: Encoded) -> np.ndarray:
        """The logits of some rows, float64 [rows]."""
        from torchbce.classifier.models.network import network_features, predict_logits

        return predict_logits(self.network, network_features(encoder, encoded))


def products(linear: Linear, rows: SparseRows) -> np.ndarray:
    """The logits of a linear model, float64 [rows], without Numba and PyTorch.

    A prediction takes one product, for which loading the kernel of the solver would not pay.
    """
    return np.asarray(rows.csr() @ linear.weight + linear.bias)


def tree_columns(encoder: Encoder, encoded: Encoded) -> np.ndarray:
    """What trees read: the categories' codes and then the numbers, float64; NaN where missing."""
    first = len(encoder.numeric)
    codes = encoded.codes[:, first:].astype(np.float64)
    # Codes above those that scikit-learn takes are those of the least frequent categories.
    codes[(codes < 0) | (codes > MOST_CATEGORIES)] = np.nan
    return np.hstack([codes, encoded.numbers])


def with_text(columns: np.ndarray, logits: np.ndarray | None) -> np.ndarray:
    """The columns, and after them the logits that a linear model gives the text."""
    return columns if logits is None else np.column_stack([columns, logits])


def text_rows(encoded: Encoded) -> SparseRows:
    """The features of the text alone."""
    text = encoded.text
    return SparseRows(
        text.indptr.astype(np.int64), text.indices.astype(np.int32), text.data, text.shape[1]
    )
