"""Which rows are held out, and in how many parts: at random, by groups, or the latest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from torchbce.classifier.columns.outcomes import strata
from torchbce.classifier.errors import InputError

#: Below this many rows cross-validation is repeated, since one split says little; but not in a wide
#: table: 300 rows of 2,000 numbers took 105 s.
FEW_ROWS, REPEATS, FOLDS_OF_FEW, MOST_REPEATED = 1000, 3, 5, 1_000_000

# The number of parts, by the number of stored features of the table: the work of a part is in
# proportion to them. Each part holds out a tenth of the rows.
PARTS = ((300_000, 10), (2_000_000, 5), (8_000_000, 2))
FOLDS = 10

#: Where the rows held out would be fewer than these, more parts are held out: on 1,200 rows with an
#: AUC of 0.73 the 120 rows of one part did not tell the model from the base rate.
HELD_OUT_ROWS = 1000

#: Of these models, alone, so many: one strength needs no more, and the network takes long.
FEW_PARTS = {"linear": 2, "mlp": 1}

#: Of rows in the order of time, so many parts at most: each holds out the next tenth of them, and
#: learns from all rows before it.
WINDOWS = 5

#: Parts of the rows held out, each with settings and weights chosen on the others.
FIFTHS = 5

#: scikit-learn's StratifiedGroupKFold takes a second per 3,000 groups; more are dealt in turn.
MANY_GROUPS = 1000

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Parts:
    """Rows to train on and rows held out, several times.

    Attributes:
        pairs: the indices of the rows to train on, and of the rows held out, of each part.
        honest: masks over `held_out`: rows to choose settings and weights on, and other rows that
            these are judged by. No row is judged twice, and with times only later ones are.
        kind: "random"; "group", where no part divides a group; "time", where the rows held out are
            later than those to train on.
        folds: into how many parts the rows were divided, of which `pairs` has some.
        repeats: how many times they were divided.
    """

    pairs: tuple[Pair, ...]
    honest: tuple[Pair, ...]
    kind: Literal["random", "group", "time"] = "random"
    folds: int = FOLDS
    repeats: int = 1

    @property
    def held_out(self) -> np.ndarray:
        """The rows held out, of all parts one after the other."""
        return np.concatenate([held_out for _, held_out in self.pairs])

    @property
    def judged(self) -> np.ndarray:
        """Which positions of `held_out` the figures are of, as a mask."""
        judged: np.ndarray = np.logical_or.reduce([part for _, part in self.honest])
        return judged


def make_parts(
    y: np.ndarray,
    features: int,
    seed: int,
    effort: str = "medium",
    model: str = "auto",
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
    most: int | None = None,
) -> Parts:
    """Parts of the rows of a table, stratified by target.

    Args:
        y: targets in [0, 1], [rows], not all equal.
        features: the number of stored features of all rows.
        seed: of the shuffling; scikit-learn uses its lowest 32 bits.
        effort: "low" is as many parts as hold out 1,000 rows; "high" twice as many as "medium".
        model: "linear" alone has two parts, or as many as hold out 1,000 rows, and "mlp" one, and
            below 1,000 rows one repetition.
        groups: the number of each row's group, which no part divides, [rows].
        times: numbers in the order of time, [rows]; a part holds out rows that are later than
            those to train on. With groups too, it does not train on rows of a group that it holds
            out.
        most: the largest number of parts, of all repetitions; None for no limit.

    Returns:
        Below 1,000 rows three times five folds, or once where they have more than a million
        features; else up to ten of ten folds, the fewer the more features there are. With times up
        to five windows, the latest first.

    Raises:
        InputError: if groups or times leave no part that has both target values to learn from, or
            none to check with.
    """
    levels = strata(y)
    fewest = int(min(levels.sum(), len(y) - levels.sum()))
    few = len(y) < FEW_ROWS
    repeated = few and features <= MOST_REPEATED and effort != "low" and model != "mlp"
    repeats = REPEATS if repeated else 1
    folds = min(FOLDS_OF_FEW if few else FOLDS, fewest)
    if groups is not None and times is None:
        shared = _groups_with_both(y, groups)
        repeats = 1 if len(np.unique(groups)) <= folds else repeats
        folds = min(folds, shared)
    if few or folds < FOLDS:  # few rows of one value are all held out once
        parts = folds
    else:
        suited = next((parts for most, parts in PARTS if features <= most), 1)
        parts = {"low": 1, "medium": suited, "high": 2 * suited}[effort]
        parts = min(parts, FEW_PARTS.get(model, parts))
        if model != "mlp":
            parts = max(parts, min(-(-HELD_OUT_ROWS * folds // len(y)), suited))
    if times is not None:
        pairs = _windows(y, times, groups, min(parts, WINDOWS, most or parts))
        return Parts(tuple(pairs), _later(pairs, levels, groups), "time", len(pairs))
    pairs = []
    for repeat in range(repeats):
        state = np.random.RandomState((seed + repeat) % 2**32)
        pairs += list(_folds(levels, groups, folds, state))[:parts]
    if groups is not None:
        pairs = [pair for pair in pairs if len(pair[1]) and _has_both(y[pair[0]])]
        if not pairs or not _has_both(y[np.concatenate([held_out for _, held_out in pairs])]):
            raise InputError(
                "the groups cannot be divided so that rows of both target values are among those "
                "to learn from and among those to check with; more groups that have both are needed"
            )
    pairs = pairs[:most]
    honest = _fifths(np.concatenate([held_out for _, held_out in pairs]), levels, groups)
    return Parts(tuple(pairs), honest, "random" if groups is None else "group", folds, repeats)


def _has_both(y: np.ndarray) -> bool:
    return 0 < float(y.sum()) < len(y)


def _groups_with_both(y: np.ndarray, groups: np.ndarray) -> int:
    """How many groups have rows of the target value that is in the fewest.

    Raises:
        InputError: if all rows of a value are in one group.
    """
    counts = []
    for name, mass in (("positive", y), ("negative", 1 - y)):
        counts.append(len(np.unique(groups[mass > 0])))
        if counts[-1] < 2:
            raise InputError(
                f"all {name} rows are in one group; at least 2 groups with {name} rows are needed, "
                "one to learn from and one to check with"
            )
    return min(counts)


def _folds(
    levels: np.ndarray, groups: np.ndarray | None, folds: int, state: np.random.RandomState
) -> Sequence[Pair]:
    """The rows to train on and those held out of each fold."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    rows = np.zeros(len(levels))
    if groups is None:
        split = StratifiedKFold(folds, shuffle=True, random_state=state)
        return list(split.split(rows, levels))
    if len(np.unique(groups)) <= MANY_GROUPS:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=state)
        return list(split.split(rows, levels, groups))
    fold = _dealt(levels, groups, folds, state)
    return [(np.flatnonzero(fold != n), np.flatnonzero(fold == n)) for n in range(folds)]


def _dealt(
    levels: np.ndarray, groups: np.ndarray, folds: int, state: np.random.RandomState
) -> np.ndarray:
    """The fold of each row: groups in the order of their positives and sizes, dealt in turn."""
    own = np.unique(groups, return_inverse=True)[1].ravel()
    sizes, hits = np.bincount(own), np.bincount(own, weights=levels)
    order = np.lexsort((state.permutation(len(sizes)), sizes, hits))
    fold = np.empty(len(sizes), dtype=np.int64)
    fold[order] = np.arange(len(sizes)) % folds
    return fold[own]


def _windows(y: np.ndarray, times: np.ndarray, groups: np.ndarray | None, parts: int) -> list[Pair]:
    """The rows before each of the latest tenths of the rows, and that tenth; the latest first.

    Rows of one time are never divided.
    """
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    if ordered[0] == ordered[-1]:
        raise InputError("every row has the same time, so that none is later than others")
    wanted = len(y) - np.ceil(np.arange(1, parts + 1) * len(y) / FOLDS).astype(np.int64)
    edges = np.searchsorted(ordered, ordered[wanted], side="left")
    first = int(np.searchsorted(ordered, ordered[0], side="right"))
    edges = np.unique(np.maximum(edges, first))
    pairs = []
    for start, stop in zip(edges, [*edges[1:], len(y)], strict=True):
        train, held_out = np.sort(order[:start]), np.sort(order[start:stop])
        if groups is not None:
            train = train[~np.isin(groups[train], groups[held_out])]
        if len(train) and _has_both(y[train]):
            pairs.append((train, held_out))
    if not pairs:
        raise InputError(
            "the rows that are earlier than those held out, the latest, are not of both target "
            "values" + ("" if groups is None else ", without the groups that are held out")
        )
    if not _has_both(y[np.concatenate([held_out for _, held_out in pairs])]):
        held_out_rows = sum(len(held_out) for _, held_out in pairs)
        raise InputError(
            f"the {held_out_rows:,} latest rows, which are held out, are all of one target value; "
            "both are needed to check with"
        )
    return pairs[::-1]


def _later(pairs: list[Pair], levels: np.ndarray, groups: np.ndarray | None) -> tuple[Pair, ...]:
    """Each window but the earliest, by what was chosen on all that are earlier."""
    number = np.repeat(np.arange(len(pairs)), [len(held_out) for _, held_out in pairs])
    if len(pairs) == 1:
        return _fifths(pairs[0][1], levels, groups)
    return tuple((number > window, number == window) for window in range(len(pairs) - 1))


def _fifths(rows: np.ndarray, levels: np.ndarray, groups: np.ndarray | None) -> tuple[Pair, ...]:
    """Each fifth of the rows held out, by what was chosen on the other four.

    A row that several repetitions hold out is in one fifth, and each has both target values if it
    can. No group is divided, unless there is only one.
    """
    order = np.random.default_rng(0).permutation(int(rows.max()) + 1)
    fifth = np.zeros(len(order), dtype=np.int64)
    once = np.unique(rows)
    if groups is not None and (number := min(FIFTHS, len(np.unique(groups[once])))) > 1:
        fifth[once] = _dealt(levels[once], groups[once], number, np.random.RandomState(0))
    else:
        for value in (False, True):
            of_value = once[levels[once] == value]
            fifth[of_value[np.argsort(order[of_value])]] = np.arange(len(of_value)) % FIFTHS
    parts = [fifth[rows] == number for number in range(FIFTHS)]
    return tuple((~part, part) for part in parts if part.any())
