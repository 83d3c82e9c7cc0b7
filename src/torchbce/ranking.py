"""How good the highest-scored labels of each row are: P@k, nDCG@k and propensity-scored P@k.

For any PyTorch model with many labels: from the `topk` of a head, from the indices of another
search, or from dense scores; rows may come in batches.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchbce.definition import checks
from torchbce.linear.positives import label_rows
from torchbce.linear.sparse_input import rows_of

__all__ = [
    "RankingMetrics",
    "evaluate",
    "ndcg_at_k",
    "precision_at_k",
    "propensities",
    "propensity_scored_precision_at_k",
]

#: Rows that `evaluate` ranks at a time.
CHUNK_ROWS = 1024


def precision_at_k(predicted: Any, target: Any, k: int) -> float:
    r"""The mean share of the k highest-scored labels that are positive.

    .. math:: P@k = \frac1N \sum_i \frac1k \sum_{r \le k} y_{i, l_{ir}}

    Args:
        predicted: the best labels of each row, int64 [N, K] with K >= k, the best first; or what
            `LinearBCELoss.topk` and `torch.topk` return; or scores, floating [N, L], of which equal
            ones are ranked as `torch.topk` does. A label below 0 stands for none.
        target: the positives of each row: lists as `torchbce.positives_from` takes them (also a
            SciPy or PyTorch sparse matrix), or one value per label, bool, floating or of 0 and 1,
            [N, L].
        k: how many labels of each row count.

    Returns:
        The precision, in [0, 1]. A row without positives counts as 0.

    Raises:
        ValueError: if the numbers of rows differ, k is out of range, a row has a label twice, a
            score is NaN, or a target is neither 0 nor 1.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.9, 0.1, 0.8], [0.2, 0.7, 0.1]])
        >>> precision_at_k(scores, [[0], [0, 1]], k=2)
        0.75

    References:
        Bhatia et al., The extreme classification repository, 2016,
        http://manikvarma.org/downloads/XC/XMLRepository.html
    """
    return RankingMetrics([k]).update(predicted, target).compute()["precision_at"][k]


def ndcg_at_k(predicted: Any, target: Any, k: int) -> float:
    r"""The normalised discounted cumulative gain of the k highest-scored labels.

    .. math::
        nDCG@k = \frac1N \sum_i
        \frac{\sum_{r \le k} y_{i, l_{ir}} d_r}{\sum_{r \le \min(k, n_i)} d_r},
        \qquad d_r = \frac{1}{\log_2(r + 1)}

    where n_i is the number of positives of row i.

    Args:
        predicted: the best labels of each row, or scores, as `precision_at_k` takes them.
        target: the positives of each row, as `precision_at_k` takes them.
        k: how many labels of each row count.

    Returns:
        The gain, in [0, 1]. A row without positives counts as 0, as in scikit-learn.

    Raises:
        ValueError: as `precision_at_k`.

    Example:
        >>> import torch
        >>> round(ndcg_at_k(torch.tensor([[2, 0, 1]]), [[0]], k=3), 4)
        0.6309

    References:
        Jarvelin and Kekalainen, Cumulated gain-based evaluation of IR techniques, 2002;
        https://scikit-learn.org/stable/modules/generated/sklearn.metrics.ndcg_score.html
    """
    return RankingMetrics([k]).update(predicted, target).compute()["ndcg_at"][k]


def propensity_scored_precision_at_k(
    predicted: Any, target: Any, k: int, propensity: Tensor
) -> float:
    r"""The precision at k in which a rare label counts for more, relative to the best ranking.

    .. math::
        PSP@k = \frac{\sum_i \sum_{r \le k} y_{i, l_{ir}} / p_{l_{ir}}}
        {\sum_i \max_{S \subseteq Y_i, |S| \le k} \sum_{l \in S} 1 / p_l}

    Positives that are missing from the targets are mostly those of rare labels; dividing by the
    probability that a label is recorded makes up for it.

    Args:
        predicted: the best labels of each row, or scores, as `precision_at_k` takes them.
        target: the positives of each row, Y_i, as `precision_at_k` takes them.
        k: how many labels of each row count.
        propensity: p, the probability that a positive of a label is recorded, in (0, 1], [L]:
            `propensities` of the counts in the training rows.

    Returns:
        The precision, in [0, 1]: 1 for the best ranking. 0 if no row has a positive.

    Raises:
        ValueError: as `precision_at_k`, and if a label is not below L.

    Example:
        >>> import torch
        >>> rare = torch.tensor([1.0, 0.1])
        >>> round(propensity_scored_precision_at_k(torch.tensor([[0]]), [[0, 1]], 1, rare), 4)
        0.1

    References:
        Jain, Prabhu and Varma, Extreme Multi-label Loss Functions for Recommendation, Tagging,
        Ranking and Other Missing Label Applications, KDD 2016.
    """
    metrics = RankingMetrics([k], propensity=propensity)
    return metrics.update(predicted, target).compute()["psp_at"][k]


def propensities(counts: Any, rows: int, *, a: float = 0.55, b: float = 1.5) -> Tensor:
    r"""How probable it is that a positive of each label is recorded, from the labels' counts.

    .. math:: p_l = \frac{1}{1 + C e^{-A \log(N_l + B)}}, \qquad C = (\log N - 1) (B + 1)^A

    Args:
        counts: N_l, how many training rows have each label, [L].
        rows: N, the number of training rows.
        a: A. The article uses 0.55 and 1.5; for Wikipedia 0.5 and 0.4, for Amazon 0.6 and 2.6.
        b: B.

    Returns:
        p in (0, 1], float64 [L].

    Raises:
        ValueError: if a count is below 0 or above N, N is not positive, or `a` or `b` is below 0.

    Example:
        >>> propensities([1, 10, 1000], 1000).round(decimals=3)
        tensor([0.1450, 0.2820, 0.8210], dtype=torch.float64)

    References:
        Jain et al., KDD 2016; see `propensity_scored_precision_at_k`.
    """
    n = torch.as_tensor(counts).double().cpu()
    if not rows > 0:
        raise ValueError(f"rows must be above 0, got {rows}")
    for name, value in (("a", a), ("b", b)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be 0 or above and finite, got {value}")
    checks.every(f"counts must be from 0 to {rows}", n, (n >= 0) & (n <= rows))
    # Below e rows the logarithm is less than 1, and the formula would exceed 1.
    scale = max(float(np.log(rows)) - 1, 0.0) * (b + 1) ** a
    found: Tensor = 1 / (1 + scale * (n + b) ** -a)
    return found


def evaluate(
    head: Any,
    input: Tensor,
    target: Any,
    ks: int | Sequence[int] = (1, 3, 5),
    *,
    propensity: Tensor | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> dict[str, dict[int, float]]:
    """The metrics of a head on all rows, by chunks of rows: the logits are never stored together.

    Args:
        head: a `torchbce.LinearBCELoss`, or anything with its `topk(input, k)`; or a function from
            rows of the input to scores, [rows, L].
        input: what the head reads, [N, ...]; a sparse CSR tensor is given to it in rows.
        target: the positives of each row, as `precision_at_k` takes them.
        ks: how many labels of each row count, a number or several; each k is one figure.
        propensity: [L], as `propensity_scored_precision_at_k` takes it; None for no such figure.
        chunk_rows: the rows of a chunk.

    Returns:
        As `RankingMetrics.compute`.

    Raises:
        ValueError: as `precision_at_k`.

    Example:
        >>> import torch, torchbce
        >>> head = torchbce.LinearBCELoss(8, 1000)
        >>> found = evaluate(head, torch.randn(4, 8), [[3], [5, 999], [], [17]], ks=(1, 5))
        >>> list(found), list(found["precision_at"])
        (['precision_at', 'ndcg_at'], [1, 5])
    """
    metrics = RankingMetrics(ks, propensity=propensity)
    rank: Callable[[Tensor, int], Any] = getattr(head, "topk", lambda rows, k: head(rows))
    positives = _positives(target, None)
    _check_rows(len(input), positives.rows)
    for start in range(0, len(input), chunk_rows):
        stop = min(start + chunk_rows, len(input))
        with torch.no_grad():
            predicted = rank(rows_of(input, slice(start, stop)), max(metrics.ks))
        metrics._update(predicted, positives.slice(start, stop))
    return metrics.compute()


class RankingMetrics:
    """P@k, nDCG@k and propensity-scored P@k of rows that come in batches.

    Args:
        ks: how many labels of each row count, a number or several; each k is one figure.
        propensity: [L], as `propensity_scored_precision_at_k` takes it; None for no such figure.

    Raises:
        TypeError: if ks is neither a number nor a sequence.
        ValueError: if a k is not a positive integer, or a propensity is not in (0, 1].

    Example:
        >>> import torch
        >>> metrics = RankingMetrics(ks=(1, 2))
        >>> for scores, lists in [([[0.9, 0.1]], [[0]]), ([[0.3, 0.8]], [[0]])]:
        ...     _ = metrics.update(torch.tensor(scores), lists)
        >>> metrics.compute()["precision_at"]
        {1: 0.5, 2: 0.5}
    """

    def __init__(
        self, ks: int | Sequence[int] = (1, 3, 5), *, propensity: Tensor | None = None
    ) -> None:
        given: Any = [ks] if isinstance(ks, Integral) else ks
        if isinstance(given, str) or not hasattr(given, "__iter__"):
            raise TypeError(f"ks must be an integer or several, as (1, 3, 5); got {ks!r}")
        self.ks = [int(k) for k in given]
        if not self.ks or any(isinstance(k, bool) or k != int(k) or k < 1 for k in given):
            raise ValueError(f"k must be integers of 1 or above, got {list(given)}")
        self.gain: Tensor | None = None
        if propensity is not None:
            p = torch.as_tensor(propensity).detach().double().cpu()
            if p.dim() != 1:
                raise ValueError(f"propensity must be [labels], got shape {tuple(p.shape)}")
            checks.every("propensity must be in (0, 1]", p, (p > 0) & (p <= 1))
            self.gain = 1 / p
        self.rows = 0
        # Sums over the rows, in float64: precision, nDCG, and the two sums of PSP, by k.
        self._sums = torch.zeros(4, len(self.ks), dtype=torch.float64)

    def update(self, predicted: Any, target: Any) -> "RankingMetrics":
        """Add a batch of rows.

        Args:
            predicted: the best labels of each row, or scores, as `precision_at_k` takes them.
            target: the positives of each row, as `precision_at_k` takes them.

        Returns:
            These metrics.

        Raises:
            ValueError: as `precision_at_k`.
        """
        self._update(predicted, target)
        return self

    def compute(self) -> dict[str, dict[int, float]]:
        """The figures of the rows so far.

        Returns:
            `precision_at`, `ndcg_at` and, with `propensity`, `psp_at`: each a dictionary by k.

        Raises:
            ValueError: if there were no rows.
        """
        if not self.rows:
            raise ValueError("there are no rows to compute metrics of; call update first")
        precision, ndcg, gained, best = self._sums.tolist()
        found = {
            "precision_at": {k: v / self.rows for k, v in zip(self.ks, precision, strict=True)},
            "ndcg_at": {k: v / self.rows for k, v in zip(self.ks, ndcg, strict=True)},
        }
        if self.gain is not None:
            found["psp_at"] = {
                k: a / b if b else 0.0 for k, a, b in zip(self.ks, gained, best, strict=True)
            }
        return found

    def _update(self, predicted: Any, target: "Any | _Positives") -> None:
        best, labels = _best_labels(predicted, max(self.ks))
        if labels is None and self.gain is not None:
            labels = len(self.gain)
        positives = target if isinstance(target, _Positives) else _positives(target, labels)
        _check_rows(len(best), positives.rows)
        if not len(best):
            return
        _check_labels("target", positives.label, labels)
        if self.gain is not None:
            _check_labels("predicted", best, len(self.gain))
            _check_labels("target", positives.label, len(self.gain))
        hits = _hits(best, positives)
        counts = torch.diff(positives.starts)
        rank = torch.arange(1, best.shape[1] + 1, dtype=torch.float64)
        discount = 1 / torch.log2(rank + 1)
        ideal = discount.cumsum(0)
        dcg = (hits * discount).cumsum(1)
        gained = None if self.gain is None else (hits * self.gain[best.clamp(min=0)]).sum(0)
        for at, k in enumerate(self.ks):
            self._sums[0, at] += hits[:, :k].sum(dtype=torch.float64) / k
            reach = counts.clamp(max=k)
            share = dcg[:, k - 1] / ideal[(reach - 1).clamp(min=0)]
            self._sums[1, at] += share[reach > 0].sum()
            if gained is not None and self.gain is not None:
                self._sums[2, at] += gained[:k].sum()
                self._sums[3, at] += _largest_gains(positives, self.gain, k)
        self.rows += len(best)


class _Positives(NamedTuple):
    """The positives of some rows.

    Attributes:
        starts: where each row begins in `label`, and the end of the last, int64 [rows + 1].
        label: the positive labels of all rows after each other, int64.
    """

    starts: Tensor
    label: Tensor

    @property
    def rows(self) -> int:
        return len(self.starts) - 1

    @property
    def row(self) -> Tensor:
        """The row of each label."""
        return torch.repeat_interleave(torch.arange(self.rows), torch.diff(self.starts))

    def slice(self, start: int, stop: int) -> "_Positives":
        """The rows from `start` to `stop`."""
        first, last = self.starts[start], self.starts[stop]
        return _Positives(self.starts[start : stop + 1] - first, self.label[first:last])


def _positives(target: Any, labels: int | None) -> _Positives:
    """The positives of every form of targets; `labels` is L where it is known."""
    dense = _as_dense(target, labels)
    if dense is not None:
        row, label = np.nonzero(dense)
        lengths = np.bincount(row, minlength=len(dense))
    else:
        label, lengths = label_rows(target, labels)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return _Positives(torch.from_numpy(starts), torch.from_numpy(label.astype(np.int64)))


def _as_dense(target: Any, labels: int | None) -> np.ndarray | None:
    """Targets of one value per label; None if they are lists or sparse."""
    if isinstance(target, Tensor):
        if target.is_nested or target.layout is not torch.strided:
            return None
        target = target.detach().cpu()
        target = (target.float() if target.dtype == torch.bfloat16 else target).numpy()
    if not isinstance(target, np.ndarray) or target.ndim != 2 or target.dtype.kind not in "fiub":
        return None
    if target.dtype.kind == "b":
        return target
    ones: np.ndarray = target == 1
    if target.dtype.kind == "f":
        if not (ones | (target == 0)).all():
            row, label = np.argwhere(~(ones | (target == 0)))[0]
            raise ValueError(
                f"target[{row}, {label}] is {target[row, label]}; a ranking is measured against "
                "targets of 0 and 1: give (target >= 0.5) for soft targets"
            )
        return ones
    if not target.size or not (ones | (target == 0)).all():
        return None
    # Integers of 0 and 1 only. As lists, a row has each of the two labels at most once.
    columns = target.shape[1]
    if columns > 2 or (columns == 2 and (target[:, 0] == target[:, 1]).any()):
        return ones
    if labels is not None and labels != columns:
        return None
    raise ValueError(
        f"target has shape {target.shape} and holds only 0 and 1: it may be one value per label, "
        "or lists of the labels 0 and 1. For one value per label give (target > 0); for lists add "
        "a column of padding, -1"
    )


def _best_labels(predicted: Any, k: int) -> tuple[Tensor, int | None]:
    """The k best labels of each row on the CPU, int64 [rows, k], and L if they come from scores."""
    predicted = (
        getattr(predicted, "indices", predicted) if isinstance(predicted, tuple) else predicted
    )
    scores = torch.as_tensor(predicted).detach()
    if scores.dim() != 2:
        raise ValueError(
            "predicted must be labels [rows, k] or scores [rows, labels], got shape "
            f"{tuple(scores.shape)}"
        )
    if scores.dtype == torch.bool or scores.is_complex():
        raise TypeError(f"predicted must be scores or integer labels, got {scores.dtype}")
    if k > scores.shape[1]:
        raise ValueError(f"k is {k}, but predicted has {scores.shape[1]} labels in each row")
    if not scores.dtype.is_floating_point:
        best = scores.to("cpu", torch.int64)
        ordered = best.sort(1).values
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if bool(twice.any()):
            row = int(twice.any(1).nonzero()[0])
            raise ValueError(
                f"predicted[{row}] has a label more than once; predicted integers are the best "
                "labels of each row, and scores are floating"
            )
        return best[:, :k], None
    if bool(scores.isnan().any()):
        row = int(scores.isnan().any(1).nonzero()[0])
        raise ValueError(f"predicted[{row}] has a score that is NaN")
    return scores.topk(k).indices.cpu(), scores.shape[1]


def _check_rows(predicted: int, target: int) -> None:
    if predicted != target:
        raise ValueError(f"predicted has {predicted} rows and target {target}; they must be equal")


def _check_labels(name: str, labels: Tensor, number: int | None) -> None:
    if number is not None and labels.numel() and int(labels.max()) >= number:
        raise ValueError(
            f"{name} has the label {int(labels.max())}; with {number} labels they are from 0 to "
            f"{number - 1}"
        )


def _hits(best: Tensor, positives: _Positives) -> Tensor:
    """Whether each predicted label is a positive of its row, bool [rows, k]."""
    if not positives.label.numel():
        return torch.zeros(best.shape, dtype=torch.bool)
    width = int(torch.maximum(best.max(), positives.label.max())) + 1
    keys = (positives.row * width + positives.label).sort().values
    wanted = torch.arange(len(best))[:, None] * width + best
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return (keys[at] == wanted) & (best >= 0)


def _largest_gains(positives: _Positives, gain: Tensor, k: int) -> Tensor:
    """The sum over the rows of the k largest gains of their positives."""
    gains, row = gain[positives.label], positives.row
    order = gains.argsort(descending=True)
    order = order[row[order].argsort(stable=True)]
    rank = torch.arange(len(order)) - positives.starts[row]
    return gains[order][rank < k].sum()
