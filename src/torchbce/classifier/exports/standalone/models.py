"""The logits of each model, from arrays."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Nodes that are followed at a time, so that they stay in the cache.
NODES = 1 << 18


@dataclass
class Inputs:
    """The columns of some rows as arrays: numbers, NaN where missing; codes, -1 where none."""

    numbers: np.ndarray
    codes: np.ndarray
    starts: np.ndarray
    row: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    text_width: int

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def categories(self) -> np.ndarray:
        """The codes of the categorical columns."""
        return self.codes[:, self.numbers.shape[1] :]

    def text_logits(self, weight: np.ndarray) -> np.ndarray:
        """The products of the features of the text and of their weights."""
        return np.bincount(
            self.row, self.value.astype(np.float64) * weight[self.feature], len(self)
        )

    def weighted_codes(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For each column with codes: its position, the rows that have a code, and its feature."""
        for position, start in enumerate(self.starts):
            rows = np.flatnonzero(self.codes[:, position] >= 0)
            yield position, rows, start + self.codes[rows, position]


def standardised(numbers: np.ndarray, columns: list[dict[str, Any]], clip: float) -> np.ndarray:
    """The distances from the means in units of the scales, 0 where missing."""
    with np.errstate(over="ignore"):
        scaled = [
            np.clip((numbers[:, i] - column["mean"]) / column["scale"], -clip, clip)
            for i, column in enumerate(columns)
        ]
    found = np.nan_to_num(np.column_stack(scaled)) if scaled else np.zeros((len(numbers), 0))
    return found.astype(np.float32).astype(np.float64)


def linear_logits(
    inputs: Inputs, scaled: np.ndarray, weight: np.ndarray, bias: float
) -> np.ndarray:
    """A weight for each code, number and n-gram."""
    total = np.full(len(inputs), bias)
    for _, rows, feature in inputs.weighted_codes():
        total[rows] += weight[feature]
    end = len(weight) - inputs.text_width
    total += scaled @ weight[end - scaled.shape[1] : end]
    total += inputs.text_logits(weight[end:])
    return total


def pair_logits(inputs: Inputs, arrays: dict[str, np.ndarray], weight: np.ndarray) -> np.ndarray:
    """A weight for each cell of the pairs of columns."""
    total = np.zeros(len(inputs))
    padded = np.append(weight, 0.0)  # a cell without a weight is -1
    for number, (first, second) in enumerate(arrays["columns"]):
        groups = (arrays[f"groups.{c}"][inputs.codes[:, c]] for c in (first, second))
        total += padded[arrays[f"cells.{number}"][tuple(groups)]]
    return total


def tree_logits(inputs: Inputs, arrays: dict[str, np.ndarray], most: int) -> np.ndarray:
    """The mean of the boosted trees of each part of the rows."""
    codes = inputs.categories.astype(np.float64)
    codes[(codes < 0) | (codes > most)] = np.nan
    columns = np.hstack([codes, inputs.numbers])
    total, part = np.zeros(len(inputs)), 0
    while f"{part}.starts" in arrays:
        own = {
            name.removeprefix(f"{part}."): array
            for name, array in arrays.items()
            if name.startswith(f"{part}.")
        }
        table = columns
        if "text_weight" in own:
            text = inputs.text_logits(own["text_weight"]) + own["text_bias"][0]
            table = np.column_stack([columns, text])
        total += own["baseline"][0]
        step = max(1, NODES // max(1, len(own["starts"])))
        for start in range(0, len(table), step):
            total[start : start + step] += _leaves(table[start : start + step], own).sum(axis=1)
        part += 1
    return total / part


def _leaves(table: np.ndarray, tree: dict[str, np.ndarray]) -> np.ndarray:
    """The value of the leaf of each tree that each row comes to, [rows, trees]."""
    node = np.tile(tree["starts"][:-1], (len(table), 1))
    while True:
        rows, trees = np.nonzero(tree["feature"][node] >= 0)
        if len(rows) == 0:
            return np.asarray(tree["value"][node])
        at = node[rows, trees]
        x = table[rows, tree["feature"][at]]
        left = x <= tree["threshold"][at]
        by_set = (tree["categories"][at] >= 0) & ~np.isnan(x)
        code = x[by_set].astype(np.int64)
        words = tree["sets"][tree["categories"][at[by_set]], code >> 5]
        left[by_set] = (words >> (code & 31).astype(np.uint32)) & 1
        left = np.where(np.isnan(x), tree["missing_left"][at], left)
        node[rows, trees] = np.where(left, tree["left"][at], tree["right"][at])


def network_logits(
    inputs: Inputs,
    scaled: np.ndarray,
    columns: list[dict[str, Any]],
    arrays: dict[str, np.ndarray],
) -> np.ndarray:
    """Two hidden layers; a number counts for the two edges of its bin that it is between."""
    weight = arrays["input.weight"]
    hidden = np.tile(arrays["input_bias"].astype(np.float64), (len(inputs), 1))
    for position, rows, feature in inputs.weighted_codes():
        edges = np.asarray(columns[position]["edges"] if position < len(columns) else [])
        if len(edges) < 2:
            hidden[rows] += weight[feature]
            continue
        x = inputs.numbers[rows, position]
        code = inputs.codes[rows, position]
        inside = (code > 0) & (code < len(edges)) & ~np.isnan(x)
        low, high = edges[code[inside] - 1] / 2, edges[code[inside]] / 2
        share = np.zeros(len(rows))
        share[inside] = (x[inside] / 2 - low) / (high - low)
        hidden[rows] += (1 - share)[:, None] * weight[feature]
        hidden[rows[inside]] += share[inside, None] * weight[feature[inside] + 1]
    end = len(weight) - inputs.text_width
    hidden += scaled @ weight[end - scaled.shape[1] : end]
    order = np.argsort(inputs.row, kind="stable")
    bounds = np.searchsorted(inputs.row[order], np.arange(len(inputs) + 1))
    for row, (first, last) in enumerate(itertools.pairwise(bounds)):
        own = order[first:last]
        hidden[row] += inputs.value[own] @ weight[end + inputs.feature[own]]
    for layer in ("rest.2", "rest.5"):
        hidden = np.maximum(hidden, 0) @ arrays[f"{layer}.weight"].T.astype(np.float64)
        hidden += arrays[f"{layer}.bias"]
    return np.asarray(hidden[:, 0])


def calibrated(z: np.ndarray, kind: str, slopes: list[float], offset: float, **where: float) -> Any:
    """The map of combined logits to calibrated ones: slopes times functions that do not fall."""
    functions = [z]
    if kind == "beta":
        functions = [-np.logaddexp(0, -z), np.logaddexp(0, z)]
    elif kind == "quadratic":
        low, high = where["low"], where["high"]
        rising = (z.clip(low, high) - low) ** 2 / (2 * (high - low)) + (z - high).clip(0)
        functions = [z - rising, rising]
    return sum(slope * own for slope, own in zip(slopes, functions, strict=True)) + offset
