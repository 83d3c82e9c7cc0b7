"""Columns that alone predict the target almost perfectly, as copies of it do."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.numbers import Notation, numbers_of
from torchbce.classifier.columns.outcomes import strata
from torchbce.classifier.columns.target import Target
from torchbce.classifier.columns.values import as_text
from torchbce.classifier.errors import Argument
from torchbce.classifier.quality.ranking import roc_auc

#: From this ROC-AUC on, a single column is named.
LEAK_AUC = 0.99
#: Rows that are looked at; a random sample of larger tables says the same.
SAMPLE_ROWS = 20_000
#: Parts of the rows: the target rate of a category comes from the other parts.
PARTS = 5
#: Quantile bins of a number whose high and low values tell the same, as a distance does.
BINS = 16
#: The probability that a random column of the table would be named.
CHANCE = 0.01


@dataclass(frozen=True)
class Leak:
    """A column that alone predicts the target almost perfectly.

    Attributes:
        column: its name.
        roc_auc: how well it ranks the rows, from 0.5 to 1.
    """

    column: str
    roc_auc: float

    def sentence(self, target: str, write_argument: Callable[[Argument], str] = str) -> str:
        """What it may mean and what to do.

        Args:
            target: the name of the target column.
            write_argument: returns what to write for an argument.

        Example:
            >>> print(Leak("repaid", 0.9991).sentence("default"))
            column 'repaid' alone predicts 'default' almost perfectly (ROC-AUC 0.9991); if it is \
known only after 'default' is, leave it out: drop='repaid'
        """
        return (
            f"column {self.column!r} alone predicts {target!r} almost perfectly (ROC-AUC "
            f"{self.roc_auc:.4f}); if it is known only after {target!r} is, leave it out: "
            f"{write_argument(Argument('drop', self.column))}"
        )


def find_leaks(table: pl.DataFrame, choices: Sequence[Choice], target: Target) -> list[Leak]:
    """The numeric and categorical columns that alone predict the target almost perfectly.

    A number ranks the rows by its values, ascending or descending, with the missing ones at either
    end, or by the target rate of its quantile bin. A category ranks them by its target rate. A rate
    comes from other rows than those it is given to, and a value that is not among these has the
    base rate, so that an identifier, which no other row has, ranks nothing.

    Args:
        table: has the columns of `choices`, and the target.
        choices: the kind of each column.
        target: the target column.

    Returns:
        The columns with a ROC-AUC of at least 0.99, the highest first. None of a table with so few
        rows of either value that one of as many random columns may have it.

    Example:
        >>> table = pl.DataFrame({"copy": ["a", "b"] * 20, "id": range(40), "y": [0, 1] * 20})
        >>> choices = [Choice("copy", "categorical", ""), Choice("id", "categorical", "")]
        >>> find_leaks(table, choices, Target("y", "0", "1"))
        [Leak(column='copy', roc_auc=1.0)]
    """
    random = np.random.default_rng(0)
    table = sampled(table, random)
    y = strata(target.targets(table))
    used = [choice for choice in choices if choice.kind in ("numeric", "categorical")]
    if _chance(int(y.sum()), len(y)) * len(used) > CHANCE:
        return []
    parts = random.permutation(len(y)) % PARTS
    leaks = [Leak(c.name, _best_auc(table[c.name], c, y, parts)) for c in used]
    return sorted(
        (leak for leak in leaks if leak.roc_auc >= LEAK_AUC),
        key=lambda leak: leak.roc_auc,
        reverse=True,
    )


def sampled(table: pl.DataFrame, random: np.random.Generator | None = None) -> pl.DataFrame:
    """`SAMPLE_ROWS` rows of a larger table, in their order."""
    if len(table) <= SAMPLE_ROWS:
        return table
    random = random or np.random.default_rng(0)
    return table[np.sort(random.choice(len(table), SAMPLE_ROWS, replace=False))]


def _chance(positives: int, rows: int) -> float:
    """The probability that a random order of the rows separates them: 2 / (rows over positives)."""
    log_ways = (
        math.lgamma(rows + 1) - math.lgamma(positives + 1) - math.lgamma(rows - positives + 1)
    )
    return 2 * math.exp(-log_ways)


def _best_auc(values: pl.Series, choice: Choice, y: np.ndarray, parts: np.ndarray) -> float:
    numbers = None
    if choice.kind == "numeric" and isinstance(choice.written, Notation):
        numbers = numbers_of(values, choice.written)
    if numbers is None:
        codes = as_text(values).rank("dense").fill_null(0).to_numpy().astype(np.int64)
        return rate_auc(codes, y, parts)
    missing = numbers.is_null().to_numpy()
    if missing.all():
        return 0.5  # an error about the values follows
    scores = numbers.fill_null(np.inf).to_numpy()
    edges = np.quantile(scores[~missing], np.arange(1, BINS) / BINS, method="inverted_cdf")
    bins = np.where(missing, BINS, np.searchsorted(edges, scores, side="right"))
    aucs = [rate_auc(bins, y, parts), roc_auc(scores, y)]
    if missing.any():
        aucs.append(roc_auc(np.where(missing, -np.inf, scores), y))
    return max(max(auc, 1 - auc) for auc in aucs)


def rate_auc(codes: np.ndarray, y: np.ndarray, parts: np.ndarray) -> float:
    """The ROC-AUC of each category's target rate in the other parts of the rows."""
    width = int(codes.max()) + 1
    cells = parts * width + codes
    hits = np.bincount(cells, weights=y, minlength=PARTS * width).reshape(PARTS, width)
    rows = np.bincount(cells, minlength=PARTS * width).reshape(PARTS, width)
    # One row of the base rate is added to each category, which has no other row if it is unseen.
    rates = (hits.sum(0) - hits + y.mean()) / (rows.sum(0) - rows + 1)
    return roc_auc(rates.ravel()[cells], y)
