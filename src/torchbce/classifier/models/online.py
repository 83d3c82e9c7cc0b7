"""A linear model that learns one batch of rows after another, and keeps none of them."""

from dataclasses import dataclass

import numpy as np

from torchbce.classifier.models.blas import one_blas_thread
from torchbce.classifier.models.features import SparseRows
from torchbce.classifier.models.solver import Linear, Problem

#: The precision of the weights before the first batch, the strength 1 that suits most tables, and
#: that of the bias, which is almost free: a standard deviation of 3.
WEIGHT_PRECISION, BIAS_PRECISION = 1.0, 0.1


@dataclass(frozen=True)
class Belief:
    r"""What is known of the weights: a mean, and the precision of each weight.

    A batch with loss :math:`\ell` moves the mean m to the minimum of

    .. math:: \ell(w) + \tfrac12 \sum_j \lambda_j (w_j - m_j)^2

    and adds to the precision :math:`\lambda_j` the batch's curvature there,
    :math:`\sum_i v_i \, p_i (1 - p_i) \, x_{ij}^2`. This is Laplace's approximation, with a
    diagonal in place of the matrix of second derivatives. On four simulated tables of 4,000
    rows, learned in batches of 10 to 1,000, the loss of new rows was at most 1.3% above that of one
    fit to all rows; where ten columns were correlated by 0.9, at most 4.4%.

    Attributes:
        mean: the weights and the bias.
        precision: of each weight, above 0, float64 [width].
        bias_precision: that of the bias, above 0.

    References:
        Spiegelhalter and Lauritzen, Sequential updating of conditional probabilities on directed
        graphical structures, 1990; Chapelle and Li, An empirical evaluation of Thompson sampling,
        2011 (algorithm 3).
    """

    mean: Linear
    precision: np.ndarray
    bias_precision: float

    @classmethod
    def prior(cls, width: int) -> "Belief":
        """What is known before the first batch."""
        precision = np.full(width, WEIGHT_PRECISION)
        return cls(Linear(np.zeros(width), 0.0), precision, BIAS_PRECISION)

    def updated(
        self,
        rows: SparseRows,
        targets: np.ndarray,
        row_weight: np.ndarray | None,
        offsets: np.ndarray,
    ) -> "Belief":
        """What is known after a batch.

        Args:
            rows: the features of the batch.
            targets: in [0, 1], float64 [rows].
            row_weight: the weight of each row, float64 [rows]; None for 1.
            offsets: what else is added to the logits, float64 [rows].
        """
        before = self.mean.logits(rows) + offsets
        problem = Problem(rows, targets, row_weight, offsets=before)
        none = Linear(np.zeros(rows.width), 0.0)
        with one_blas_thread():
            change = problem.solve(self.precision, none, bias_l2=self.bias_precision)
        mean = Linear(self.mean.weight + change.weight, self.mean.bias + change.bias)
        logits = before + change.logits(rows)
        p = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        curvature = p * (1 - p) * (1.0 if row_weight is None else row_weight)
        return Belief(
            mean,
            self.precision + squares(rows, curvature),
            self.bias_precision + float(curvature.sum()),
        )


def squares(rows: SparseRows, row_weight: np.ndarray) -> np.ndarray:
    """The weighted sum of the squares of each feature, float64 [width]."""
    stored = np.repeat(row_weight, np.diff(rows.indptr))
    if rows.values is not None:
        stored = stored * np.square(rows.values, dtype=np.float64)
    found: np.ndarray = np.bincount(rows.indices, stored, minlength=rows.width)
    return found


def curvature(rows: SparseRows, targets: np.ndarray, row_weight: np.ndarray | None) -> np.ndarray:
    """The second derivatives of the loss at the base rate, float64 [width + 1]; the bias last."""
    weight = np.ones(len(targets)) if row_weight is None else row_weight
    rate = float(np.average(targets, weights=weight))
    found: np.ndarray = rate * (1 - rate) * np.append(squares(rows, weight), weight.sum())
    return found
