"""Which labels each row has, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchbce.classifier.errors import InputError


@dataclass(frozen=True)
class LabelTargets:
    """The labels of some rows: one value per label, or lists of those that are positive.

    Attributes:
        number: the number of labels, L.
        dense: in [0, 1], NaN where unknown, float32 [rows, L]; None for lists.
        starts: of lists, where each row begins in `labels`, and the end of the last, int64.
        labels: of lists, the positive labels of all rows after each other, int64.
    """

    number: int
    dense: np.ndarray | None = None
    starts: np.ndarray | None = None
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        rows: np.ndarray | None = self.dense if self.starts is None else self.starts[:-1]
        assert rows is not None
        return len(rows)

    @classmethod
    def of(cls, y: Any, number: int | None = None) -> "LabelTargets":
        """Targets of any form.

        Args:
            y: one value per label in [0, 1], NaN where unknown, [rows, L]: an array, a PyTorch
                tensor or anything that NumPy reads; or the positives of each row, as
                `torchbce.positives_from` takes them: a sparse matrix or lists.
            number: L of lists; None for one more than the largest label.

        Raises:
            InputError: if a value is outside [0, 1], or the form is none of these.
        """
        from torchbce.linear.positives import label_rows

        if hasattr(y, "detach"):
            y = y.detach().cpu().numpy()
        if isinstance(y, np.ndarray) and y.ndim == 2 and y.dtype.kind in "fiub":
            dense = y.astype(np.float32)
            wrong = ~((dense >= 0) & (dense <= 1)) & ~np.isnan(dense)
            if wrong.any():
                row, label = (int(i) for i in np.argwhere(wrong)[0])
                raise InputError(
                    f"y[{row}, {label}] is {dense[row, label]:g}; expected values in [0, 1], and "
                    "NaN where a label is unknown"
                )
            return cls(dense.shape[1], dense)
        try:
            labels, lengths = label_rows(y, number)
        except (TypeError, ValueError) as error:
            raise InputError(f"the labels cannot be read: {error}") from error
        if number is None:
            columns = getattr(y, "shape", (0, 0))[-1]
            number = max(int(columns), int(labels.max(initial=-1)) + 1)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(number, starts=starts, labels=labels)

    @property
    def rows_of_labels(self) -> np.ndarray:
        """Of lists, the row of each stored label."""
        assert self.starts is not None
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def take(self, rows: np.ndarray) -> "LabelTargets":
        """The rows at some indices, in their order."""
        if self.dense is not None:
            return LabelTargets(self.number, self.dense[rows])
        assert self.starts is not None
        assert self.labels is not None
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        at = np.repeat(self.starts[rows] - starts[:-1], counts) + np.arange(starts[-1])
        return LabelTargets(self.number, starts=starts, labels=self.labels[at])

    def padded(self, rows: np.ndarray) -> np.ndarray:
        """Of lists, those of some rows padded with -1, int64 [rows, K], at least one of padding."""
        own = self.take(rows)
        assert own.starts is not None
        assert own.labels is not None
        lengths = np.diff(own.starts)
        lists = np.full((len(rows), int(lengths.max(initial=0)) + 1), -1, dtype=np.int64)
        lists[np.arange(lists.shape[1]) < lengths[:, None]] = own.labels
        return lists

    def values(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """One value per label, of the labels from `start` to `stop`, float64 [rows, labels]."""
        stop = self.number if stop is None else stop
        if self.dense is not None:
            return self.dense[:, start:stop].astype(np.float64)
        assert self.labels is not None
        dense = np.zeros((len(self), stop - start))
        own = (self.labels >= start) & (self.labels < stop)
        dense[self.rows_of_labels[own], self.labels[own] - start] = 1
        return dense

    def counts(self, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The positives and the known rows of each label, or the sums of their weights, [L]."""
        w = np.ones(len(self)) if weight is None else weight
        if self.dense is not None:
            return w @ np.nan_to_num(self.dense), w @ ~np.isnan(self.dense)
        assert self.labels is not None
        positives = np.bincount(self.labels, w[self.rows_of_labels], minlength=self.number)
        return positives, np.full(self.number, w.sum())

    def lists(self) -> Any:
        """What `torchbce.ranking` takes: the positives of each row."""
        if self.dense is not None:
            return np.nan_to_num(self.dense) >= 0.5
        assert self.starts is not None
        assert self.labels is not None
        import scipy.sparse as sp

        ones = np.ones(len(self.labels), dtype=bool)
        return sp.csr_matrix((ones, self.labels, self.starts), shape=(len(self), self.number))


def as_targets(y: Any, number: int | None = None) -> LabelTargets:
    """The targets themselves, or those of another form; see `LabelTargets.of`."""
    return y if isinstance(y, LabelTargets) else LabelTargets.of(y, number)


def concatenated(parts: Sequence[LabelTargets]) -> LabelTargets:
    """The rows of several targets of the same form after each other."""
    first = parts[0]
    if first.dense is not None:
        return LabelTargets(first.number, np.concatenate([part.values() for part in parts]))
    lengths = [np.diff(part.starts) for part in parts if part.starts is not None]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    return LabelTargets(first.number, starts=starts, labels=labels)
