"""A classifier as an ONNX graph: from the columns of a table to probabilities."""

import numpy as np
import polars as pl
from onnx import TensorProto

from torchbce.classifier.exports.combination import Combination
from torchbce.classifier.exports.onnx_builder import Graph
from torchbce.classifier.exports.onnx_cells import Cells, cells, inputs_of, value_info
from torchbce.classifier.exports.onnx_models import model_logit
from torchbce.classifier.model import Classifier
from torchbce.classifier.models.calibration import Calibration

#: The versions of the operators: those of onnxruntime 1.14, of 2023, and later.
OPSETS = {"": 18, "ai.onnx.ml": 3}

ABOUT = (
    "A binary classifier, written by torchbce. Inputs are columns of shape [rows]: numbers as "
    "float64, NaN where missing; dates as int64, the seconds since 1970 on the clock, and the "
    "smallest int64 (NaT) where missing; categories as strings, empty where missing."
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
    predicted, kind = _decided(graph, classifier, probability)
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
    mixed = graph.node("Squeeze", total, graph.constant([1], np.int64))
    if combination.calibration is not None:
        mixed = _calibrated(graph, combination.calibration, mixed)
    return graph.node("Add", mixed, graph.constant(combination.shift, np.float64))


def _calibrated(graph: Graph, calibration: Calibration, z: str) -> str:
    """The calibrated logit."""

    def constant(value: float) -> str:
        return graph.constant(value, np.float64)

    functions = [z]
    if calibration.kind == "beta":
        one, zero = constant(1.0), constant(0.0)
        small = graph.node("Exp", graph.node("Neg", graph.node("Abs", z)))
        tail = graph.node("Log", graph.node("Add", one, small))
        functions = [
            graph.node("Sub", graph.node("Min", z, zero), tail),
            graph.node("Add", graph.node("Max", z, zero), tail),
        ]
    elif calibration.kind == "quadratic":
        assert calibration.low is not None
        assert calibration.high is not None
        low, high = constant(calibration.low), constant(calibration.high)
        above = graph.node("Sub", graph.node("Clip", z, low, high), low)
        width = constant(2 * (calibration.high - calibration.low))
        inside = graph.node("Div", graph.node("Mul", above, above), width)
        beyond = graph.node("Max", graph.node("Sub", z, high), constant(0.0))
        rising = graph.node("Add", inside, beyond)
        functions = [graph.node("Sub", z, rising), rising]
    terms = [
        graph.node("Mul", constant(slope), own)
        for slope, own in zip(calibration.slopes, functions, strict=True)
    ]
    return graph.node("Sum", *terms, constant(calibration.offset))


def _decided(graph: Graph, classifier: Classifier, probability: str) -> tuple[str, int]:
    """The predicted value and its type; if rows may be undecided a string, which is empty there."""
    rule, target = classifier.rule(), classifier.card.target
    both = np.array([False, True])
    above = graph.node("GreaterOrEqual", probability, graph.constant(rule.threshold, np.float64))
    place = graph.cast(above, TensorProto.INT64)
    labels = target.labels(both, as_written=rule.undecided is not None).to_list()
    if rule.undecided is not None:
        labels.append("")
        low, high = (graph.constant(p, np.float64) for p in rule.undecided)
        at_least = graph.node("GreaterOrEqual", probability, low)
        between = graph.node("And", at_least, graph.node("Less", probability, high))
        place = graph.node("Where", between, graph.constant(2, np.int64), place)
    kind = {bool: TensorProto.BOOL, int: TensorProto.INT64}.get(type(labels[0]), TensorProto.STRING)
    values = graph.constant(labels, object if kind == TensorProto.STRING else None)
    return graph.node("Gather", values, place), kind


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
