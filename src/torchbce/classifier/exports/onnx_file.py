"""A classifier as an ONNX graph: from the columns of a table to probabilities."""

import numpy as np
import polars as pl
from onnx import TensorProto

from torchbce.classifier.exports.combination import Combination
from torchbce.classifier.exports.onnx_builder import Graph
from torchbce.classifier.exports.onnx_cells import Cells, cells, inputs_of, value_info
from torchbce.classifier.exports.onnx_models import model_logit
from torchbce.classifier.model import Classifier

#: The versions of the operators: those of onnxruntime 1.14, of 2023, and later.
OPSETS = {"": 18, "ai.onnx.ml": 3}

ABOUT = (
    "A binary classifier, written by torchbce. Inputs are columns of shape [rows]: numbers as float64, "
    "NaN where missing; dates as int64, the seconds since 1970 on the clock, and the smallest int64 "
    "(NaT) where missing; categories as strings, empty where missing."
)


def onnx_bytes(classifier: Classifier, combination: Combination) -> bytes:
    """The content of the file."""
    card, encoder = classifier.card, classifier.encoder
    inputs = inputs_of(encoder)
    outputs = _output_names([name for name, _ in inputs])
    graph = Graph({name for name, _ in inputs} | set(outputs))
    words = pl.Series([word.strip() for word in card.missing], dtype=pl.String)
    numbers = words.cast(pl.Float64, strict=False).drop_nulls().drop_nans().to_list()
    columns = cells(graph, encoder, numbers, words.to_list())
    logit = _logit(graph, classifier, combination, columns)
    probability = graph.node("Sigmoid", logit)
    above = graph.node("GreaterOrEqual", probability, graph.constant(card.threshold, np.float64))
    labels = card.target.labels(np.array([False, True])).to_list()
    kind = {bool: TensorProto.BOOL, int: TensorProto.INT64}.get(type(labels[0]), TensorProto.STRING)
    values = graph.constant(labels, object if kind == TensorProto.STRING else None)
    predicted = graph.node("Gather", values, graph.cast(above, TensorProto.INT64))
    for value, name in zip((probability, predicted, logit), outputs, strict=True):
        graph.name(value, name)
    types = (TensorProto.DOUBLE, kind, TensorProto.DOUBLE)
    return graph.model(
        [value_info(name, dtype) for name, dtype in inputs],
        [value_info(name, dtype) for name, dtype in zip(outputs, types, strict=True)],
        OPSETS,
        ABOUT,
    )


def _logit(graph: Graph, classifier: Classifier, combination: Combination, columns: Cells) -> str:
    """The combined logit, float64 [rows]."""
    terms = [graph.constant([[combination.offset]], np.float64)]
    for model in classifier.models:
        weight = graph.constant(combination.weights[model.name], np.float64)
        own = model_logit(graph, classifier.encoder, columns, model)
        terms.append(graph.node("Mul", own, weight))
    # A base rate alone has no rows of its own.
    shape = graph.node("Concat", columns.rows, graph.constant([1], np.int64), axis=0)
    total = graph.node("Expand", graph.node("Sum", *terms), shape)
    return graph.node("Squeeze", total, graph.constant([1], np.int64))


def _output_names(taken: list[str]) -> list[str]:
    """`probability`, `predicted` and `logit`, with a number where a column is called so."""
    names = []
    for wanted in ("probability", "predicted", "logit"):
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        names.append(name)
    return names
