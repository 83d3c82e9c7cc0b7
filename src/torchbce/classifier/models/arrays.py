"""Models as named arrays, for a file, and back.

Whatever indexes something else is checked: a damaged file must not read foreign memory, nor walk
around in a circle.
"""

from typing import TYPE_CHECKING

import numpy as np

from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.errors import listing
from torchbce.classifier.models.features import Layout
from torchbce.classifier.models.members import (
    LinearModel,
    Model,
    NetworkModel,
    PairsModel,
    TreesModel,
)
from torchbce.classifier.models.pairs import Crosses, Pair
from torchbce.classifier.models.solver import Linear
from torchbce.classifier.models.trees import NODE_FIELDS, Trees

if TYPE_CHECKING:
    from torchbce.classifier.models.network import Network

Arrays = dict[str, np.ndarray]

#: Far larger than any fitted weight, and small enough that no logit overflows to NaN.
LARGEST = {np.dtype(np.float64): 1e30, np.dtype(np.float32): 1e8}


class BadArraysError(ValueError):
    """Arrays that are not those of a model."""


def arrays_of(model: Model) -> Arrays:
    """The arrays of a model; their names begin with its name."""
    if isinstance(model, LinearModel):
        found = _linear_arrays("", model.linear)
    elif isinstance(model, PairsModel):
        found = _linear_arrays("", model.linear)
        pairs = model.crosses.pairs
        columns = [(pair.first, pair.second) for pair in pairs]
        found["columns"] = np.array(columns, dtype=np.int32).reshape(len(pairs), 2)
        found |= {f"groups.{i}": group for i, group in enumerate(model.crosses.groups)}
        found |= {f"cells.{i}": pair.cells for i, pair in enumerate(pairs)}
    elif isinstance(model, TreesModel):
        found = {}
        for number, (trees, reader) in enumerate(model.parts):
            found |= {f"{number}.{name}": getattr(trees, name) for name in _TREE_FIELDS}
            found[f"{number}.baseline"] = np.array([trees.baseline])
            if reader is not None:
                found |= _linear_arrays(f"{number}.text_", reader)
    elif isinstance(model, NetworkModel):
        found = {name: value.numpy() for name, value in model.network.state_dict().items()}
    else:
        raise TypeError(f"{type(model).__name__} is no model")
    return {f"{model.name}.{name}": array for name, array in found.items()}


def model_of(name: str, arrays: Arrays, encoder: Encoder) -> Model:
    """The model of some arrays, which are taken out of the dictionary.

    Raises:
        BadArraysError: if an array is missing, or has another shape or value than the encoder's
            columns and the other arrays allow.
    """
    own = {
        key.removeprefix(f"{name}."): arrays.pop(key)
        for key in list(arrays)
        if key.startswith(f"{name}.")
    }
    reader = _Reader(name, own)
    width = Layout.of(encoder).width
    made: Model
    if name == "linear":
        made = LinearModel(reader.linear("", width))
    elif name == "pairs":
        crosses = reader.crosses(encoder)
        made = PairsModel(reader.linear("", width + crosses.width), crosses)
    elif name == "trees":
        made = TreesModel(tuple(reader.trees(encoder)))
    elif name == "mlp":
        made = NetworkModel(reader.network(width))
    else:
        raise BadArraysError(f"there is no model {name!r}")
    if own:
        raise BadArraysError(f"tensor {listing([f'{name}.{min(own)}'])} is not one of the model's")
    return made


_TREE_FIELDS = ("starts", *NODE_FIELDS, "sets")
_NODE_DTYPES = dict(zip(NODE_FIELDS, ("i4", "f8", "i4", "i4", "?", "i4", "f8", "i4"), strict=True))


def _linear_arrays(prefix: str, linear: Linear) -> Arrays:
    return {f"{prefix}weight": linear.weight, f"{prefix}bias": np.array([linear.bias])}


class _Reader:
    """Takes arrays out of a dictionary, and checks them."""

    def __init__(self, model: str, arrays: Arrays) -> None:
        self._model, self._arrays = model, arrays

    def array(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """An array of a dtype and a shape, where None is any size."""
        found = self._arrays.pop(name, None)
        self.need(found is not None, name, "is missing")
        assert found is not None
        fits = found.ndim == len(shape) and all(
            size is None or size == own for size, own in zip(shape, found.shape, strict=False)
        )
        wanted = np.dtype(dtype)
        self.need(fits and found.dtype == wanted, name, f"must be {wanted} of shape {shape}")
        # A copy can be written to, as fitted arrays can, so that Numba compiles its loop once.
        return found.copy()

    def numbers(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """An array without NaN, infinite values, or values too large for a sum of products."""
        values = self.array(name, dtype, shape)
        most = LARGEST[values.dtype]
        self.need(bool((np.abs(values) <= most).all()), name, f"must be from {-most:g} to {most:g}")
        return values

    def need(self, fine: bool, name: str, sentence: str) -> None:
        """Raise unless something holds."""
        if not fine:
            raise BadArraysError(f"tensor {listing([f'{self._model}.{name}'])} {sentence}")

    def linear(self, prefix: str, width: int) -> Linear:
        """Weights and a bias, all finite."""
        weight = self.numbers(f"{prefix}weight", "f8", (width,))
        return Linear(weight, float(self.numbers(f"{prefix}bias", "f8", (1,))[0]))

    def crosses(self, encoder: Encoder) -> Crosses:
        """The groups and cells of the pairs model."""
        columns = self.array("columns", "i4", (None, 2))
        coded = encoder.coded
        groups = []
        for number, column in enumerate(coded):
            group = self.array(f"groups.{number}", "i4", (column.codes + 1,))
            self.need(bool((group >= 0).all()), f"groups.{number}", "must not be negative")
            groups.append(group)
        fine = bool(((columns >= 0) & (columns < len(coded))).all())
        self.need(fine, "columns", f"must be columns, from 0 to {len(coded) - 1}")
        pairs, start = [], 0
        for number, (first, second) in enumerate(columns.tolist()):
            shape = int(groups[first].max()) + 1, int(groups[second].max()) + 1
            cells = self.array(f"cells.{number}", "i4", shape)
            used = cells[cells >= 0]
            expected = np.arange(start, start + len(used))
            same = np.array_equal(np.sort(used), expected)
            self.need(same, f"cells.{number}", "must number the cells in their order")
            start += len(used)
            pairs.append(Pair(first, second, cells))
        return Crosses(groups, pairs)

    def trees(self, encoder: Encoder) -> list[tuple[Trees, Linear | None]]:
        """The trees of each part, and the linear models of their text."""
        parts: list[tuple[Trees, Linear | None]] = []
        while f"{len(parts)}.starts" in self._arrays:
            parts.append(self._part(f"{len(parts)}.", encoder))
        self.need(bool(parts), "0.starts", "is missing")
        return parts

    def _part(self, prefix: str, encoder: Encoder) -> tuple[Trees, Linear | None]:
        starts = self.array(f"{prefix}starts", "i8", (None,))
        ascending = len(starts) > 0 and starts[0] == 0
        # Not their difference, which may overflow.
        ascending = ascending and bool((starts[1:] > starts[:-1]).all())
        self.need(ascending, f"{prefix}starts", "must ascend from 0")
        nodes = int(starts[-1])
        node = {
            # A threshold may be infinite: where only missing values go right.
            name: (self.numbers if name == "value" else self.array)(
                f"{prefix}{name}", dtype, (nodes,)
            )
            for name, dtype in _NODE_DTYPES.items()
        }
        self.need(not np.isnan(node["threshold"]).any(), f"{prefix}threshold", "holds NaN")
        sets = self.array(f"{prefix}sets", "u4", (None, 8))
        baseline = self.numbers(f"{prefix}baseline", "f8", (1,))
        reader = None
        if encoder.texts:
            reader = self.linear(f"{prefix}text_", encoder.text_width)
        columns = len(encoder.coded) + (reader is not None)
        inner = node["feature"] >= 0
        self.need(bool((node["feature"] < columns).all()), f"{prefix}feature", "has no such column")
        at = np.arange(nodes)
        ends = np.repeat(starts[1:], np.diff(starts))
        for side in ("left", "right"):
            child = node[side]
            # A child comes after its node, inside its tree, so that every way ends in a leaf.
            fine = bool(((child > at) & (child < ends))[inner].all())
            self.need(fine, f"{prefix}{side}", "must be later nodes of the same tree")
        by_set = inner & (node["categories"] >= 0)
        fine = bool((node["categories"] < len(sets)).all())
        fine &= bool((node["feature"][by_set] < len(encoder.categorical)).all())
        self.need(fine, f"{prefix}categories", "must be sets of categorical columns")
        self.need(bool((node["cover"] > 0).all()), f"{prefix}cover", "must be above 0")
        return Trees(starts, **node, sets=sets, baseline=float(baseline[0])), reader

    def network(self, width: int) -> "Network":
        """The network of some weights."""
        import torch

        from torchbce.classifier.models.network import Network

        with torch.device("meta"):  # shapes without memory; load_state_dict assigns the values
            network = Network(width)
        state = {
            name: torch.from_numpy(self.numbers(name, "f4", tuple(value.shape)))
            for name, value in network.state_dict().items()
        }
        network.load_state_dict(state, assign=True)
        return network.eval()
