"""Rows to train on."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Rows:
    """Features, [rows, F], and their targets of 0 and 1, float32, [rows]."""

    features: sp.csr_matrix
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: np.ndarray) -> "Rows":
        """The rows at some indices, in their order."""
        return Rows(self.features[index], self.targets[index])
