"""The weights of a linear model: binary cross-entropy with an L2 penalty, solved by L-BFGS."""

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchbce.classifier.models.features import SparseRows

if TYPE_CHECKING:
    import scipy.sparse as sp

    from torchbce.classifier.models.losses import ArrayLoss

#: Strengths of the penalty from strong to weak. The penalty is `l2 / 2` times the sum of squared
#: weights, beside the sum of the losses of all rows: 1 / C of scikit-learn's `LogisticRegression`.
STRENGTHS = (
    10000.0,
    3000.0,
    1000.0,
    300.0,
    100.0,
    30.0,
    10.0,
    3.0,
    1.0,
    0.3,
    0.1,
    0.03,
    0.01,
    0.003,
)

#: L-BFGS stops where a step lowers the loss by less than this share.
TOLERANCE = 1e-6


class Linear(NamedTuple):
    """A linear model: weights, float64 [width], and a bias."""

    weight: np.ndarray
    bias: float

    def logits(self, rows: SparseRows, threads: int = 1) -> np.ndarray:
        """The logits of some rows, float64 [rows]."""
        from torchbce.linear import sparse_rows

        return sparse_rows.logits(*rows.matrix, self.weight, self.bias, threads)


class Problem:
    """What a linear model is fitted to.

    The features are scaled to a curvature of 1, so that L-BFGS takes a third of the steps: the
    second derivative by a weight is about p (1 - p) times the sum of its squared features, plus the
    penalty.

    Args:
        rows: the features.
        targets: in [0, 1], float64 [rows].
        row_weight: the weight of each row, float64 [rows]; None for 1.
        threads: how many threads compute; the result does not depend on it.
        loss: the loss of a row; None is binary cross-entropy.
        offsets: what is added to each logit, float64 [rows]; None for 0.
    """

    def __init__(
        self,
        rows: SparseRows,
        targets: np.ndarray,
        row_weight: np.ndarray | None = None,
        threads: int = 1,
        loss: "ArrayLoss | None" = None,
        offsets: np.ndarray | None = None,
    ) -> None:
        self._rows, self._targets, self._row_weight = rows, targets, row_weight
        self._threads, self._loss, self._offsets = threads, loss, offsets
        weight = np.ones(len(targets)) if row_weight is None else row_weight
        self._rate = float(np.average(targets, weights=weight))
        self._variance = self._rate * (1 - self._rate)
        self._total = float(weight.sum())
        squares = None if rows.values is None else np.square(rows.values, dtype=np.float64)
        self._squares = np.bincount(rows.indices, squares, minlength=rows.width)

    @property
    def start(self) -> Linear:
        """No weights, and the base rate as bias."""
        bias = float(np.log(self._rate) - np.log1p(-self._rate))
        return Linear(np.zeros(self._rows.width), bias)

    def solve(
        self,
        l2: float | np.ndarray,
        start: Linear,
        tolerance: float = TOLERANCE,
        bias_l2: float = 0.0,
    ) -> Linear:
        """The weights at a strength of the penalty, from the weights of another one.

        Args:
            l2: the strength, or that of each weight, [width].
            start: the weights to begin with.
            tolerance: a step that lowers the loss by less than this share is the last.
            bias_l2: the strength of the penalty of the bias.
        """
        from scipy.optimize import minimize

        scale = 1 / np.sqrt(self._variance * self._squares + l2)
        bias_scale = 1 / np.sqrt(self._variance * self._total + bias_l2)

        def value_and_grad(u: np.ndarray) -> tuple[float, np.ndarray]:
            weight, bias = u[:-1] * scale, float(u[-1] * bias_scale)
            loss, gradient, slope = self._value_and_grad(weight, bias)
            pull = l2 * weight
            value = loss + float(weight @ pull) / 2 + bias_l2 * bias * bias / 2
            slope += bias_l2 * bias
            return value, np.append((gradient + pull) * scale, slope * bias_scale)

        found = minimize(
            value_and_grad,
            np.append(start.weight / scale, start.bias / bias_scale),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": tolerance, "gtol": 0.0, "maxiter": 1000},
        )
        return Linear(found.x[:-1] * scale, float(found.x[-1] * bias_scale))

    def _value_and_grad(self, weight: np.ndarray, bias: float) -> tuple[float, np.ndarray, float]:
        """The sum of the losses, and its derivatives by the weights and the bias."""
        from torchbce.linear import sparse_rows

        if self._loss is None:
            found: tuple[float, np.ndarray, float] = sparse_rows.value_and_grad(
                *self._rows.matrix,
                weight,
                bias,
                self._targets,
                self._row_weight,
                self._threads,
                offsets=self._offsets,
            )
            return found
        logits = sparse_rows.logits(
            *self._rows.matrix, weight, bias, self._threads, offsets=self._offsets
        )
        loss, slopes = self._loss.value_and_grad(logits, self._targets, self._row_weight)
        return loss, self._matrix.T @ slopes, float(slopes.sum())

    @cached_property
    def _matrix(self) -> "sp.csr_matrix":
        """The features as a matrix of SciPy."""
        return self._rows.csr()
