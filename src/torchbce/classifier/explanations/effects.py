"""What weighs most: the weights of the linear models, and the columns of the trees."""

import numpy as np

from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.columns.numeric import CLIP, NumericColumn
from torchbce.classifier.explanations.records import (
    Category,
    Curve,
    Explanation,
    PairTable,
    Word,
)
from torchbce.classifier.explanations.scales import calibrated_base, scaled_weights
from torchbce.classifier.explanations.sources import tree_features
from torchbce.classifier.model import Classifier
from torchbce.classifier.models.features import Layout
from torchbce.classifier.models.members import LinearModel, PairsModel, TreesModel
from torchbce.classifier.models.pairs import Crosses


def explain(classifier: Classifier, most: int) -> Explanation:
    """See `Classifier.explain`."""
    encoder = classifier.encoder
    weights = scaled_weights(classifier.card)
    main = np.zeros(Layout.of(encoder).width)
    pairs: list[PairTable] = []
    trees: dict[str, float] = {}
    for model in classifier.models:
        weight = weights[model.name]
        if isinstance(model, LinearModel | PairsModel):
            main += weight * model.linear.weight[: len(main)]
        if isinstance(model, PairsModel):
            pairs = _pairs(encoder, model.crosses, weight * model.linear.weight[len(main) :])
        if isinstance(model, TreesModel):
            trees = _tree_shares(encoder, model)
    readable = any(isinstance(model, LinearModel | PairsModel) for model in classifier.models)
    return Explanation(
        base=calibrated_base(classifier.card) + classifier.card.base_shift,
        models={one.model: one.share for one in classifier.tried if one.model in weights},
        words=_words(encoder, main, most) if readable else [],
        categories=_categories(encoder, main, most) if readable else [],
        curves=_curves(encoder, main, most) if readable else [],
        pairs=pairs[:most],
        trees=dict(list(trees.items())[:most]),
    )


def _largest(weights: np.ndarray, most: int) -> list[int]:
    """The positions of the largest absolute weights that are not 0, the largest first."""
    if most < len(weights):
        bound = np.partition(np.abs(weights), -most)[-most] if most else np.inf
        kept = np.flatnonzero((np.abs(weights) >= bound) & (weights != 0))
    else:
        kept = np.flatnonzero(weights)
    order: list[int] = kept[np.argsort(-np.abs(weights[kept]), kind="stable")][:most].tolist()
    return order


def _words(encoder: Encoder, main: np.ndarray, most: int) -> list[Word]:
    start = Layout.of(encoder).text
    found = []
    for column in encoder.texts:
        for units in column.units:
            words = units.vocabulary
            weights = main[start : start + len(words)]
            found += [
                Word(column.name, words[at], units.unit, float(weights[at]))
                for at in _largest(weights, most)
            ]
            start += len(words)
    return sorted(found, key=lambda word: -abs(word.log_odds))[:most]


def _categories(encoder: Encoder, main: np.ndarray, most: int) -> list[Category]:
    starts = Layout.of(encoder).starts[len(encoder.numeric) :]
    found = []
    for start, column in zip(starts.tolist(), encoder.categorical, strict=True):
        weights = main[start : start + column.codes]
        labels = column.labels
        found += [
            Category(column.name, labels[at], float(weights[at])) for at in _largest(weights, most)
        ]
    return sorted(found, key=lambda category: -abs(category.log_odds))[:most]


def _curves(encoder: Encoder, main: np.ndarray, most: int) -> list[Curve]:
    layout = Layout.of(encoder)
    curves = []
    for position, column in enumerate(encoder.numeric):
        start = int(layout.starts[position])
        weights = main[start : start + column.codes]
        curve = _curve(column, weights, float(main[layout.numbers + position]))
        if any(curve.log_odds):
            curves.append(curve)
    return sorted(curves, key=lambda curve: min(curve.log_odds) - max(curve.log_odds))[:most]


def _curve(column: NumericColumn, weights: np.ndarray, slope: float) -> Curve:
    edges = np.asarray(column.edges)
    bins = len(edges) + 1 if column.edges else 0
    if bins:
        labels = column.labels[:bins]
        middles = np.concatenate([edges[:1], edges[:-1] / 2 + edges[1:] / 2, edges[-1:]])
        values = weights[:bins] + slope * column.standardise(middles)
    else:
        steps = np.array([-1.0, 0.0, 1.0] if slope else [0.0])
        labels = [f"{column.mean + step * column.scale:g}" for step in steps]
        values = slope * np.clip(steps, -CLIP, CLIP)
    if column.flag_missing:
        labels, values = [*labels, "missing"], np.append(values, weights[-1])
    return Curve(column.name, labels, values.tolist())


def _pairs(encoder: Encoder, crosses: Crosses, weights: np.ndarray) -> list[PairTable]:
    coded = encoder.coded
    tables = []
    for pair in crosses.pairs:
        cells = [
            [None if cell < 0 else float(weights[cell]) for cell in row]
            for row in pair.cells.tolist()
        ]
        one, other = (
            _group_labels(coded[position], crosses.groups[position])
            for position in (pair.first, pair.second)
        )
        first, second = coded[pair.first].name, coded[pair.second].name
        tables.append(_without_empty(PairTable(first, second, one, other, cells)))
    with_weights = [table for table in tables if _largest_cell(table)]
    return sorted(with_weights, key=lambda table: -_largest_cell(table))


def _without_empty(table: PairTable) -> PairTable:
    """The table without rows and columns that have no cell with a weight."""
    cells = [[cell is not None for cell in row] for row in table.log_odds]
    rows = [at for at, row in enumerate(cells) if any(row)]
    columns = [at for at, column in enumerate(zip(*cells, strict=True)) if any(column)]
    return PairTable(
        table.first,
        table.second,
        [table.rows[at] for at in rows],
        [table.columns[at] for at in columns],
        [[table.log_odds[row][column] for column in columns] for row in rows],
    )


def _largest_cell(table: PairTable) -> float:
    return max((abs(cell) for row in table.log_odds for cell in row if cell is not None), default=0)


def _group_labels(column: NumericColumn | CategoricalColumn, group: np.ndarray) -> list[str]:
    """What each group of a column's codes stands for; the last code is that of no value."""
    labels = []
    for number in range(int(group.max()) + 1):
        codes = np.flatnonzero(group == number).tolist()
        if isinstance(column, NumericColumn):
            labels.append(_range_label(column, codes))
        else:
            known = column.labels
            single = len(codes) == 1 and codes[0] < len(known)
            labels.append(known[codes[0]] if single else "other")
    return labels


def _range_label(column: NumericColumn, codes: list[int]) -> str:
    """The range of some bins that follow one another."""
    edges = column.edges
    if not codes or codes[0] > len(edges) or not edges:
        return "missing"
    low = f"{edges[codes[0] - 1]:g}" if codes[0] else None
    high = f"{edges[codes[-1]]:g}" if codes[-1] < len(edges) else None
    if low is None:
        return "any" if high is None else f"below {high}"
    return f"{low} or more" if high is None else f"{low} to {high}"


def _tree_shares(encoder: Encoder, model: TreesModel) -> dict[str, float]:
    """The share of each column in the trees, the largest first; those of 0 are left out."""
    names = tree_features(encoder)
    gains = np.zeros(len(names))
    for trees, _ in model.parts:
        gains += trees.gains(len(names))
    if not gains.any():
        return {}
    shares = gains / gains.sum()
    return {names[at]: float(shares[at]) for at in _largest(shares, len(shares))}
