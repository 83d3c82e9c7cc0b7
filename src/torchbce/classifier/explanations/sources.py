"""Which columns of a table each feature of a model comes from."""

import numpy as np

from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.columns.numeric import NumericColumn
from torchbce.classifier.models.pairs import Crosses

#: Between two columns that act together.
TOGETHER = " & "


class Sources:
    """What contributions are listed for: columns of the table, and columns that act together.

    Args:
        encoder: the columns; a date is one of them, with all its parts.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._positions: dict[tuple[str, ...], int] = {}
        for column in encoder.columns:
            self._position(column.name)
        numeric = [c.name for c in encoder.columns if isinstance(c, NumericColumn)]
        numeric += [date.name for date in encoder.dates for _ in date.parts]
        self.numeric = [self._position(name) for name in numeric]
        self.categorical = [self._position(column.name) for column in encoder.categorical]
        self.texts = [self._position(column.name) for column in encoder.texts]

    @property
    def columns(self) -> list[tuple[str, ...]]:
        """The columns of each source: one, or those that act together."""
        return list(self._positions)

    @property
    def names(self) -> list[str]:
        """The names, of which each is there once."""
        names: dict[str, None] = {}
        for columns in self._positions:
            names[free_name(TOGETHER.join(columns), names)] = None
        return list(names)

    def of_linear(self, crosses: Crosses | None = None) -> np.ndarray:
        """The source of each feature of the linear model, and of the pairs model."""
        encoder = self._encoder
        coded = [*self.numeric, *self.categorical]
        sources = [*coded, *self.numeric, *self.texts]
        widths = [column.codes for column in encoder.coded]
        widths += [1] * len(encoder.numeric) + [column.width for column in encoder.texts]
        names = [columns[0] for columns in self._positions]
        for pair in [] if crosses is None else crosses.pairs:
            sources.append(self._position(names[coded[pair.first]], names[coded[pair.second]]))
            widths.append(int((pair.cells >= 0).sum()))
        return np.repeat(sources, widths)

    def of_trees(self) -> list[int]:
        """The source of each column that trees read; that of the text of all text columns."""
        texts = [column.name for column in self._encoder.texts]
        text = [self._position(*texts)] if texts else []
        return [*self.categorical, *self.numeric, *text]

    def _position(self, *names: str) -> int:
        columns = tuple(dict.fromkeys(names))
        return self._positions.setdefault(columns, len(self._positions))


def tree_features(encoder: Encoder) -> list[str]:
    """The names of the columns that trees read."""
    names = [column.name for column in encoder.categorical]
    names += [column.name for column in encoder.numeric]
    texts = [column.name for column in encoder.texts]
    return [*names, TOGETHER.join(texts)] if texts else names


def free_name(name: str, taken: "dict[str, None] | list[str]") -> str:
    """A name, with a number after it if it is taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
