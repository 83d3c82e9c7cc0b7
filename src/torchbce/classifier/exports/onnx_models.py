"""The logits of the models as nodes of an ONNX graph, float64 [rows, 1]."""

import numpy as np
from onnx import TensorProto

from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.exports.onnx_builder import Graph
from torchbce.classifier.exports.onnx_cells import Cells
from torchbce.classifier.models.arrays import arrays_of
from torchbce.classifier.models.boosting import MOST_CATEGORIES
from torchbce.classifier.models.features import Layout
from torchbce.classifier.models.members import (
    LinearModel,
    Model,
    NetworkModel,
    PairsModel,
    TreesModel,
)
from torchbce.classifier.models.trees import Trees

#: A sum over the columns of a row.
_AXIS = 1


def model_logit(graph: Graph, encoder: Encoder, cells: Cells, model: Model) -> str:
    """The logit of one model."""
    if isinstance(model, LinearModel):
        return _linear(graph, encoder, cells, model)
    if isinstance(model, PairsModel):
        main = _linear(graph, encoder, cells, model)
        pairs = _pairs(graph, cells, model)
        return graph.node("Add", main, pairs) if pairs else main
    if isinstance(model, TreesModel):
        return _trees(graph, encoder, cells, model)
    assert isinstance(model, NetworkModel)
    return _network(graph, encoder, cells, model)


def _sum(graph: Graph, value: str, keepdims: int = 1) -> str:
    return graph.node("ReduceSum", value, graph.constant([_AXIS], np.int64), keepdims=keepdims)


def _features(graph: Graph, encoder: Encoder, codes: str, none: int) -> str:
    """The feature of each code, [rows, columns]; `none` where a value has none."""
    starts = graph.constant(Layout.of(encoder).starts, np.int64)
    lacking = graph.node("Less", codes, graph.constant(0, np.int64))
    return graph.node(
        "Where", lacking, graph.constant(none, np.int64), graph.node("Add", codes, starts)
    )


def _linear(graph: Graph, encoder: Encoder, cells: Cells, model: LinearModel | PairsModel) -> str:
    """A weight for each code and number."""
    layout, weight = Layout.of(encoder), model.linear.weight
    logit = graph.constant([[model.linear.bias]], np.float64)
    if layout.numbers:
        own = graph.constant(np.append(weight[: layout.numbers], 0.0))
        feature = _features(graph, encoder, cells.codes, layout.numbers)
        logit = graph.node("Add", logit, _sum(graph, graph.node("Gather", own, feature)))
    if cells.scaled:
        slopes = graph.constant(weight[layout.numbers : layout.text].reshape(-1, 1))
        logit = graph.node("Add", logit, graph.node("MatMul", cells.scaled, slopes))
    return logit


def _column(graph: Graph, codes: str, position: int) -> str:
    return graph.node("Gather", codes, graph.constant([position], np.int64), axis=1)


def _pairs(graph: Graph, cells: Cells, model: PairsModel) -> str:
    """A weight for each cell of the pairs; "" where there are none."""
    crosses = model.crosses
    weight = np.append(model.linear.weight[len(model.linear.weight) - crosses.width :], 0.0)
    terms = []
    for pair in crosses.pairs:
        # From two codes to the cell: the last row and column are those of the code -1.
        table = weight[pair.cells[np.ix_(crosses.groups[pair.first], crosses.groups[pair.second])]]
        size = graph.constant(table.shape, np.int64)
        at = []
        for position, column in enumerate((pair.first, pair.second)):
            length = graph.node("Gather", size, graph.constant(position, np.int64))
            code = _column(graph, cells.codes, column)
            at.append(graph.node("Mod", code, length))  # -1 is the last one
        width = graph.constant(table.shape[1], np.int64)
        place = graph.node("Add", graph.node("Mul", at[0], width), at[1])
        terms.append(graph.node("Gather", graph.constant(table.ravel()), place))
    return graph.node("Sum", *terms) if terms else ""


def _trees(graph: Graph, encoder: Encoder, cells: Cells, model: TreesModel) -> str:
    """All trees as one ensemble.

    ONNX compares a node's column with a threshold. Each set of categories is a column of its own:
    0 for its members, 1 for other categories, and NaN where the value is missing.
    """
    first, numbers = len(encoder.categorical), len(encoder.numeric)
    sets: dict[tuple[int, bytes], int] = {}
    tables: list[list[np.ndarray]] = [[] for _ in encoder.categorical]
    columns: list[tuple[int, int]] = []
    nodes: dict[str, list[np.ndarray]] = {}
    for part, (trees, _) in enumerate(model.parts):
        feature = np.where(trees.feature >= first, trees.feature - first, -1).astype(np.int64)
        threshold = trees.threshold.copy()
        for node in np.flatnonzero((trees.feature >= 0) & (trees.feature < first)):
            column, row = int(trees.feature[node]), int(trees.categories[node])
            # A category is compared with a threshold, or is in a set.
            key = trees.sets[row].tobytes() if row >= 0 else trees.threshold[node].tobytes()
            if (column, key) not in sets:
                sets[column, key] = len(columns)
                columns.append((column, len(tables[column])))
                tables[column].append(_outside(encoder, trees, int(node)))
            feature[node] = numbers + sets[column, key]
            threshold[node] = 0.5
        for name, values in _nodes(trees, feature, threshold, part, model).items():
            nodes.setdefault(name, []).append(values)
    read = [cells.numbers] if cells.numbers else []
    order = sorted(range(len(columns)), key=lambda i: columns[i])
    place = np.zeros(len(columns), dtype=np.int64)
    place[order] = np.arange(len(columns))
    for column, own in enumerate(tables):
        if own:
            code = graph.node(
                "Squeeze", _column(graph, cells.codes, numbers + column), _axis(graph)
            )
            read.append(graph.node("Gather", graph.constant(np.column_stack(own)), code))
    table = graph.node("Concat", *read, axis=1)
    joined = {name: np.concatenate(values) for name, values in nodes.items()}
    by_set = joined["featureids"] >= numbers
    joined["featureids"][by_set] = numbers + place[joined["featureids"][by_set] - numbers]
    return _ensemble(
        graph, table, joined, float(np.mean([trees.baseline for trees, _ in model.parts]))
    )


def _axis(graph: Graph) -> str:
    return graph.constant([_AXIS], np.int64)


def _outside(encoder: Encoder, trees: Trees, node: int) -> np.ndarray:
    """For each code, and last for -1: 0 if it goes left, 1 if right, NaN if it is missing."""
    codes = np.arange(encoder.categorical[int(trees.feature[node])].codes + 1)
    missing = (codes == len(codes) - 1) | (codes > MOST_CATEGORIES)
    codes = np.where(missing, 0, codes)
    if trees.categories[node] >= 0:
        words = trees.sets[trees.categories[node]]
        left = (words[codes >> 5] >> (codes & 31).astype(np.uint32)) & 1
    else:
        left = codes <= trees.threshold[node]
    return np.where(missing, np.nan, np.where(left, 0.0, 1.0))


def _nodes(
    trees: Trees, feature: np.ndarray, threshold: np.ndarray, part: int, model: TreesModel
) -> dict[str, np.ndarray]:
    """The attributes of the nodes of some trees."""
    before = sum(len(other) for other, _ in model.parts[:part])
    tree = np.repeat(np.arange(len(trees)), np.diff(trees.starts))
    start = trees.starts[:-1][tree]
    inner = trees.feature >= 0
    return {
        "featureids": np.where(inner, feature, 0),
        "values": np.where(inner, threshold, 0.0),
        "inner": inner,
        "nodeids": np.arange(len(tree)) - start,
        "treeids": tree + before,
        "truenodeids": np.where(inner, trees.left - start, 0),
        "falsenodeids": np.where(inner, trees.right - start, 0),
        "missing_value_tracks_true": (inner & trees.missing_left).astype(np.int64),
        "leaves": trees.value / len(model.parts),
    }


def _ensemble(graph: Graph, table: str, nodes: dict[str, np.ndarray], baseline: float) -> str:
    from onnx import numpy_helper

    inner = nodes.pop("inner")
    leaves, values = nodes.pop("leaves"), nodes.pop("values")
    logit = graph.node(
        "TreeEnsembleRegressor",
        table,
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_modes=[b"BRANCH_LEQ" if one else b"LEAF" for one in inner],
        nodes_values_as_tensor=numpy_helper.from_array(values, "values"),
        target_ids=[0] * int((~inner).sum()),
        target_nodeids=nodes["nodeids"][~inner].tolist(),
        target_treeids=nodes["treeids"][~inner].tolist(),
        target_weights_as_tensor=numpy_helper.from_array(leaves[~inner], "weights"),
        **{f"nodes_{name}": own.tolist() for name, own in nodes.items()},
    )
    logit = graph.cast(logit, TensorProto.DOUBLE)
    return graph.node("Add", logit, graph.constant(baseline, np.float64))


def _network(graph: Graph, encoder: Encoder, cells: Cells, model: NetworkModel) -> str:
    """Two hidden layers; a number counts for the two edges of its bin that it is between."""
    layout = Layout.of(encoder)
    arrays = {name.removeprefix("mlp."): array for name, array in arrays_of(model).items()}
    weight = arrays["input.weight"]
    hidden = graph.constant(arrays["input_bias"].reshape(1, -1))
    if layout.numbers:
        padded = np.vstack([weight[: layout.numbers], np.zeros_like(weight[:1])])
        rows, none = graph.constant(padded), layout.numbers
        feature = _features(graph, encoder, cells.codes, none)
        share = _shares(graph, encoder, cells)
        one = graph.constant(1.0, np.float64)
        own = graph.node("Sub", one, share)
        following = graph.node("Add", feature, graph.constant(1, np.int64))
        between = graph.node("Greater", share, graph.constant(0.0, np.float64))
        following = graph.node("Where", between, following, graph.constant(none, np.int64))
        for place, part in ((feature, own), (following, share)):
            factor = graph.node("Unsqueeze", part, graph.constant([2], np.int64))
            product = graph.node(
                "Mul", graph.node("Gather", rows, place), graph.cast(factor, TensorProto.FLOAT)
            )
            hidden = graph.node("Add", hidden, _sum(graph, product, keepdims=0))
    if cells.scaled:
        slopes = graph.constant(weight[layout.numbers : layout.text])
        scaled = graph.cast(cells.scaled, TensorProto.FLOAT)
        hidden = graph.node("Add", hidden, graph.node("MatMul", scaled, slopes))
    for layer in ("rest.2", "rest.5"):
        dense, bias = arrays[f"{layer}.weight"].T, arrays[f"{layer}.bias"]
        hidden = graph.node("MatMul", graph.node("Relu", hidden), graph.constant(dense))
        hidden = graph.node("Add", hidden, graph.constant(bias))
    return graph.cast(hidden, TensorProto.DOUBLE)


def _shares(graph: Graph, encoder: Encoder, cells: Cells) -> str:
    """How far each number is from its bin's lower edge to the upper one; 0 for other columns."""
    shares = []
    for position, column in enumerate(encoder.coded):
        code = _column(graph, cells.codes, position)
        zero = graph.node(
            "Mul", graph.cast(code, TensorProto.DOUBLE), graph.constant(0.0, np.float64)
        )
        if position >= len(encoder.numeric) or len(encoder.numeric[position].edges) < 2:
            shares.append(zero)
            continue
        edges = np.asarray(encoder.numeric[position].edges)
        # By code, and last for -1: an infinite width where a bin has one edge, so that it counts 0.
        low = np.zeros(column.codes + 1)
        width = np.full(column.codes + 1, np.inf)
        low[1 : len(edges)], width[1 : len(edges)] = edges[:-1] / 2, edges[1:] / 2 - edges[:-1] / 2
        x = graph.node(
            "Div", _column(graph, cells.numbers, position), graph.constant(2.0, np.float64)
        )
        distance = graph.node("Sub", x, graph.node("Gather", graph.constant(low), code))
        share = graph.node("Div", distance, graph.node("Gather", graph.constant(width), code))
        shares.append(graph.node("Where", graph.node("IsNaN", share), zero, share))
    return graph.node("Concat", *shares, axis=1)
