"""What makes the figures of rows held out too good: copies of rows, and cases with several rows."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.outcomes import strata
from torchbce.classifier.columns.target import Target
from torchbce.classifier.columns.values import as_text
from torchbce.classifier.errors import Argument
from torchbce.classifier.quality.baseline import STANDARD_ERRORS, standard_error
from torchbce.classifier.quality.leaks import PARTS, rate_auc, sampled

#: From this share of rows with the inputs of another row on, the table is said to repeat rows, if
#: there are this many times as many equal pairs as independent columns would have.
REPEATED, BEYOND_CHANCE = 0.01, 10.0

# A column of cases has at least so many values, on average between 2 and 50 rows of each, and ranks
# the rows of other cases' parts by at least this ROC-AUC.
CASES, MOST_ROWS, CASE_AUC = 20, 50, 0.6

#: Of tables of more columns than this only names are looked at.
COMPARED = 100

#: Words of the names of such columns.
NAMES = re.compile(
    r"(?:^|[^a-z])(?:id|ids|uuid|guid|key|patient|subject|participant|person|user|customer|client|"
    r"member|account|session|household|family|speaker|writer|author|device)(?:[^a-z]|$)"
)


@dataclass(frozen=True)
class Repeats:
    """Rows with the same inputs as another row.

    Attributes:
        share: of all rows, from 0 to 1.
    """

    share: float

    def sentence(self, write_argument: Callable[[Argument], str] = str) -> str:
        """What it means and what to do.

        Example:
            >>> print(Repeats(0.125).sentence())
            12.5% of the rows have the same inputs as another row; where these are copies, rows \
held out were learned from, and the figures are too good: leave copies out, or name a column that \
is equal in them by group
        """
        return (
            f"{self.share:.1%} of the rows have the same inputs as another row; where these are "
            "copies, rows held out were learned from, and the figures are too good: leave copies "
            f"out, or name a column that is equal in them by {write_argument(Argument('group'))}"
        )


@dataclass(frozen=True)
class Cases:
    """A column that seems to say which case a row is of, where cases have several rows.

    Attributes:
        column: its name.
        values: how many cases there are.
        rows: how many rows they have together.
        roc_auc: how well the target of a case's other rows ranks its rows.
    """

    column: str
    values: int
    rows: int
    roc_auc: float

    def sentence(self, target: str, write_argument: Callable[[Argument], str] = str) -> str:
        """What it means and what to do.

        Example:
            >>> print(Cases("patient", 300, 3000, 0.912).sentence("ill"))
            column 'patient' looks like an identifier: 300 values in 3,000 rows, and the rows of a \
value have the same 'ill' more often than not (ROC-AUC 0.912). The figures are those of new rows \
of known values; for those of new values keep the rows of each together: group='patient'
        """
        return (
            f"column {self.column!r} looks like an identifier: {self.values:,} values in "
            f"{self.rows:,} rows, and the rows of a value have the same {target!r} more often than "
            f"not (ROC-AUC {self.roc_auc:.3f}). The figures are those of new rows of known values; "
            "for those of new values keep the rows of each together: "
            f"{write_argument(Argument('group', self.column))}"
        )


def find_repeats(table: pl.DataFrame, choices: Sequence[Choice]) -> Repeats | None:
    """Rows with the same inputs as another row, where these are not few, nor there by chance.

    Args:
        table: has the columns of `choices`.
        choices: the kind of each column.

    Returns:
        None where fewer than 1% of the rows are, or as many as in a table of a few coarse columns.
        Of a single column equal texts count, and no other values.

    Example:
        >>> rows = pl.DataFrame({"x": [f"the text of row {i % 90}" for i in range(100)]})
        >>> find_repeats(rows, [Choice("x", "text", "")])
        Repeats(share=0.2)
    """
    used = [choice.name for choice in choices if choice.kind != "dropped"]
    # A few columns differ in nearly all rows of most tables; the others need no look then.
    hashes = table.select(used).hash_rows()
    counts = np.unique(hashes.to_numpy(), return_counts=True)[1].astype(np.float64)
    share = float(counts[counts > 1].sum() / max(len(table), 1))
    if share < REPEATED:
        return None
    if len(used) == 1 and any(choice.kind == "text" for choice in choices):
        return Repeats(share)  # texts are not equal by chance
    pairs = float((counts * (counts - 1)).sum())
    chance = len(table) * (len(table) - 1.0)
    for name in used:
        if pairs >= BEYOND_CHANCE * chance:
            return Repeats(share)
        own = table[name].value_counts()["count"].to_numpy().astype(np.float64)
        chance *= float((own**2).sum()) / len(table) ** 2
    return Repeats(share) if pairs >= BEYOND_CHANCE * chance else None


def find_cases(table: pl.DataFrame, choices: Sequence[Choice], target: Target) -> list[Cases]:
    """The columns that seem to identify cases of several rows, whose targets are alike.

    Such a column holds text or whole numbers, has many values and several rows of each, and is
    named like an identifier, or other columns are the same in all rows of each of its values.

    Args:
        table: has the columns of `choices`, and the target.
        choices: the kind of each column.
        target: the target column.

    Example:
        >>> rows = pl.DataFrame({"user": np.arange(900) % 90, "y": (np.arange(900) % 90 < 30) * 1})
        >>> [found.column for found in find_cases(rows, [Choice("user", "numeric", "")],
        ...                                       Target("y", "0", "1"))]
        ['user']
    """
    table = sampled(table)
    y = strata(target.targets(table))
    parts = np.random.default_rng(0).permutation(len(y)) % PARTS
    used = [choice.name for choice in choices if choice.kind in ("numeric", "categorical")]
    found = []
    for name in used:
        named = bool(NAMES.search(_words(name)))
        if not named and len(used) > COMPARED:
            continue
        values = as_text(table[name])
        distinct = values.n_unique()
        if not CASES <= distinct <= len(table) // 2 or distinct * MOST_ROWS < len(table):
            continue
        whole = values.cast(pl.Float64, strict=False)
        if not whole.null_count() and (whole != whole.round()).any():
            continue  # a measurement
        if not named and not _determines(table, name, used):
            continue
        codes = values.rank("dense").fill_null(0).to_numpy().astype(np.int64)
        auc = rate_auc(codes, y, parts)
        noise = standard_error(int(y.sum()), int(len(y) - y.sum()))
        if auc >= max(CASE_AUC, 0.5 + STANDARD_ERRORS * noise):
            found.append(Cases(name, distinct, len(table), auc))
    return found


def _words(name: str) -> str:
    """A name in lower case, with its words apart: "patientId" is "patient id"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _determines(table: pl.DataFrame, name: str, used: Sequence[str]) -> bool:
    """Whether at least half of the other columns have one value for each value of this one."""
    others = [other for other in used if other != name and table[other].n_unique() > 1]
    if not others:
        return False
    counts = table.group_by(name).agg(pl.col(others).n_unique())
    constant = [bool((counts[other] == 1).all()) for other in others]
    return sum(constant) * 2 >= len(constant)
