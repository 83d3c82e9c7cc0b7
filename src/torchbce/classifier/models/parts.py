"""Which rows are held out, and in how many parts."""

from dataclasses import dataclass

import numpy as np

#: Below this many rows cross-validation is repeated, since one split says little.
FEW_ROWS, REPEATS, FOLDS_OF_FEW = 1000, 3, 5

# The number of parts, by the number of stored features of the table: the work of a part is in
# proportion to them. Each part holds out a tenth of the rows.
PARTS = ((300_000, 10), (2_000_000, 5), (8_000_000, 2))
FOLDS = 10

#: Of these models, alone, so many: one strength needs no more, and the network takes long.
FEW_PARTS = {"linear": 2, "mlp": 1}


@dataclass(frozen=True)
class Parts:
    """Rows to train on and rows held out, several times.

    Attributes:
        pairs: the indices of the rows to train on, and of the rows held out, of each part.
    """

    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]

    @property
    def held_out(self) -> np.ndarray:
        """The rows held out, of all parts one after the other."""
        return np.concatenate([held_out for _, held_out in self.pairs])


def make_parts(
    y: np.ndarray, features: int, seed: int, effort: str = "medium", model: str = "auto"
) -> Parts:
    """Parts of the rows of a table, stratified by target.

    Args:
        y: targets of 0 and 1, [rows], at least two of each.
        features: the number of stored features of all rows.
        seed: of the shuffling; scikit-learn uses its lowest 32 bits.
        effort: "low" is one part of at least 1,000 rows; "high" twice as many parts.
        model: "linear" alone has two parts at most, and "mlp" one, and below 1,000 rows one
            repetition.

    Returns:
        Below 1,000 rows three times five folds; else up to ten of ten folds, the fewer the more
        features there are.
    """
    from sklearn.model_selection import StratifiedKFold

    fewest = int(min(y.sum(), len(y) - y.sum()))
    few = len(y) < FEW_ROWS
    repeats = REPEATS if few and effort != "low" and model != "mlp" else 1
    folds = min(FOLDS_OF_FEW if few else FOLDS, fewest)
    if few or folds < FOLDS:  # few rows of one value are all held out once
        parts = folds
    else:
        parts = next((parts for most, parts in PARTS if features <= most), 1)
        parts = {"low": 1, "medium": parts, "high": 2 * parts}[effort]
        parts = min(parts, FEW_PARTS.get(model, parts))
    pairs = []
    for repeat in range(repeats):
        state = np.random.RandomState((seed + repeat) % 2**32)
        split = StratifiedKFold(folds, shuffle=True, random_state=state).split(np.zeros(len(y)), y)
        pairs += list(split)[:parts]
    return Parts(tuple(pairs))
