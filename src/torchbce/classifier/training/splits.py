"""Which rows are trained on and which are held out."""

from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

#: The share of the rows that is held out.
HELD_OUT = 0.1

# Below 2,000 rows a tenth of them is too few to tell one epoch from another: each of five parts is
# held out in turn.
FEW_ROWS = 2000
PARTS = 5


def splits(y: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of the rows to train on and of the rows held out, stratified by target.

    Args:
        y: targets of 0 and 1, [rows], at least two of each.
        seed: of the shuffling; scikit-learn uses its lowest 32 bits.

    Yields:
        One pair from 2,000 rows on, or two if a tenth of the rows may have no row of the rarer
        value; below 2,000 rows five, or as many as there are rows of the rarer value.
    """
    fewest = int(min(y.sum(), len(y) - y.sum()))
    state = np.random.RandomState(seed % 2**32)
    if len(y) >= FEW_ROWS and fewest >= 1 / HELD_OUT:
        yield tuple(
            train_test_split(np.arange(len(y)), test_size=HELD_OUT, stratify=y, random_state=state)
        )
        return
    parts = min(PARTS, fewest) if len(y) < FEW_ROWS else 2
    folds = StratifiedKFold(parts, shuffle=True, random_state=state)
    yield from folds.split(np.zeros(len(y)), y)
