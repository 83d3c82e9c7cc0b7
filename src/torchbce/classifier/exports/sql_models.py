"""The logits of the models, in SQL: sums of CASE expressions."""

import numpy as np

from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.columns.numeric import CLIP, NumericColumn
from torchbce.classifier.exports.sql_words import choice, lookup, number, total
from torchbce.classifier.models.boosting import MOST_CATEGORIES
from torchbce.classifier.models.features import Layout
from torchbce.classifier.models.members import LinearModel, PairsModel, TreesModel
from torchbce.classifier.models.pairs import Pair
from torchbce.classifier.models.trees import Trees


def linear_logit(encoder: Encoder, model: LinearModel | PairsModel) -> str:
    """A weight for each bin, category and number."""
    layout = Layout.of(encoder)
    weight, terms = model.linear.weight, [number(model.linear.bias)]
    for position, (start, column) in enumerate(zip(layout.starts, encoder.coded, strict=True)):
        own = [*weight[start : start + column.codes].tolist(), 0.0]
        if any(own):
            terms.append(by_code(encoder, position, [number(value) for value in own]))
    for position, column in enumerate(encoder.numeric):
        slope = float(weight[layout.numbers + position])
        if slope:
            terms.append(f"{number(slope)} * {_standardised(f'value.x{position}', column)}")
    return total(terms)


def by_code(encoder: Encoder, position: int, values: list[str]) -> str:
    """A value for each code of a column; the last one is that of no code."""
    none = values[-1]
    column = encoder.coded[position]
    if not isinstance(column, NumericColumn):
        k = f"value.k{position - len(encoder.numeric)}"
        known = ((str(code), value) for code, value in enumerate(values[:-1]) if value != none)
        return lookup(k, known, none)
    x = f"value.x{position}"
    bins = len(column.edges) + 1 if column.edges else 0
    gone = values[bins] if column.flag_missing else none
    if not bins:
        return choice([(f"{x} IS NULL", gone)], none)
    cases = [(f"{x} IS NULL", gone)]
    for at, edge in enumerate(column.edges):
        if values[at] != values[at + 1]:  # bins of one value are one
            cases.append((f"{x} < {number(edge)}", values[at]))
    return choice(cases, values[bins - 1])


def _standardised(x: str, column: NumericColumn) -> str:
    """The distance from the mean, rounded to float32 as the models read it."""
    low, high = column.mean - CLIP * column.scale, column.mean + CLIP * column.scale
    cases = [(f"{x} IS NULL", number(0.0))]
    if np.isfinite(high):
        cases.append((f"{x} >= {number(high)}", number(CLIP)))
    if np.isfinite(low):
        cases.append((f"{x} <= {number(low)}", number(-CLIP)))
    distance = f"({x} - {number(column.mean)}) / {number(column.scale)}"
    return choice(cases, f"CAST(CAST({distance} AS REAL) AS DOUBLE PRECISION)")


def groups_of(encoder: Encoder, model: PairsModel) -> dict[str, str]:
    """For each column of a pair the group of its value, as `g` and its position."""
    pairs = model.crosses.pairs
    columns = sorted({column for pair in pairs for column in (pair.first, pair.second)})
    return {
        f"g{column}": by_code(encoder, column, [str(g) for g in model.crosses.groups[column]])
        for column in columns
    }


def pairs_logit(model: PairsModel) -> str:
    """A weight for each cell of the pairs."""
    weight = model.linear.weight[len(model.linear.weight) - model.crosses.width :]
    return total([_pair(pair, weight) for pair in model.crosses.pairs])


def _pair(pair: Pair, weight: np.ndarray) -> str:
    zero = number(0.0)
    rows = []
    for group, cells in enumerate(pair.cells.tolist()):
        cases = [(str(i), number(float(weight[cell]))) for i, cell in enumerate(cells) if cell >= 0]
        if cases:
            rows.append((str(group), lookup(f"pair.g{pair.second}", cases, zero)))
    return lookup(f"pair.g{pair.first}", rows, zero)


def trees_logit(encoder: Encoder, model: TreesModel) -> str:
    """The mean of the trees of each part of the rows."""
    parts = []
    for trees, _ in model.parts:
        roots = trees.starts[:-1].tolist()
        parts.append(
            total([number(trees.baseline), *(_node(encoder, trees, root) for root in roots)])
        )
    return f"{total(parts)} / {number(len(parts))}"


def _node(encoder: Encoder, trees: Trees, node: int) -> str:
    feature = int(trees.feature[node])
    if feature < 0:
        return number(float(trees.value[node]))
    left, right = (_node(encoder, trees, int(side[node])) for side in (trees.left, trees.right))
    categories = len(encoder.categorical)
    if feature < categories:
        column = f"value.k{feature}"
        missing = f"({column} < 0 OR {column} > {MOST_CATEGORIES})"
    else:
        column = f"value.x{feature - categories}"
        missing = f"{column} IS NULL"
    if trees.categories[node] >= 0:
        words = trees.sets[trees.categories[node]]
        codes = [c for c in range(encoder.categorical[feature].codes) if c <= MOST_CATEGORIES]
        members = [str(code) for code in codes if words[code >> 5] >> np.uint32(code & 31) & 1]
        goes_left = f"{column} IN ({', '.join(members)})" if members else "FALSE"
    elif np.isinf(trees.threshold[node]):
        goes_left = f"NOT {missing}" if trees.threshold[node] > 0 else "FALSE"
    else:
        goes_left = f"{column} <= {number(float(trees.threshold[node]))}"
        if feature < categories:
            goes_left = f"NOT {missing} AND {goes_left}"
    if trees.missing_left[node]:
        goes_left = f"{goes_left} OR {missing}"
    return choice([(goes_left, left)], right)
