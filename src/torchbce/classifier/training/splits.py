"""Which rows are trained on and which are held out."""

from collections.abc import Iterator

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

#: The part of the rows that is held out to find when to stop.
HELD_OUT = 0.1

# Below this many rows a tenth of them is too few to find anything; five parts take turns.
FEW_ROWS = 2000
PARTS = 5


def splits(y: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows to train on and rows held out, each with its share of positives."""
    fewest = int(min(y.sum(), len(y) - y.sum()))
    # scikit-learn takes seeds of 32 bits.
    state = np.random.RandomState(seed % 2**32)
    if len(y) < FEW_ROWS:
        folds = StratifiedKFold(min(PARTS, fewest), shuffle=True, random_state=state)
        yield from folds.split(np.zeros(len(y)), y)
        return
    if fewest < 1 / HELD_OUT:  # so few that a tenth might hold none
        yield from StratifiedKFold(2, shuffle=True, random_state=state).split(np.zeros(len(y)), y)
        return
    yield tuple(
        train_test_split(np.arange(len(y)), test_size=HELD_OUT, stratify=y, random_state=state)
    )
