"""The inputs of an ONNX graph as numbers and codes."""

from typing import NamedTuple

import numpy as np
from onnx import TensorProto, helper

from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.dates import DAYS, HOURS, DateColumn
from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.columns.numeric import CLIP, NumericColumn
from torchbce.classifier.columns.values import BOOLEANS, MISSING
from torchbce.classifier.exports.onnx_builder import Graph
from torchbce.classifier.exports.standalone.cells import EXACT, plain_number

#: The integer that NumPy's NaT is, which stands for a missing date.
NO_TIME = np.iinfo(np.int64).min


class Cells(NamedTuple):
    """The columns of the rows.

    Attributes:
        numbers: of the numeric columns, float64 [rows, N], NaN where missing; "" if there are none.
        scaled: these standardised, float64 [rows, N].
        codes: int64 [rows, N + C], -1 where a value has none; "" if there are none.
        rows: the number of rows, int64 [1].
    """

    numbers: str
    scaled: str
    codes: str
    rows: str


def inputs_of(encoder: Encoder) -> list[tuple[str, int]]:
    """The name and the type of each input, all of shape [rows].

    Numbers are float64, dates the seconds since 1970 as int64, categories strings.
    """
    types: dict[type, int] = {
        NumericColumn: TensorProto.DOUBLE,
        DateColumn: TensorProto.INT64,
        CategoricalColumn: TensorProto.STRING,
    }
    return [(column.name or "unnamed", types[type(column)]) for column in encoder.columns]


def cells(graph: Graph, encoder: Encoder, numbers_missing: list[float], words: list[str]) -> Cells:
    """The nodes that read the inputs; some numbers and words mean "no value"."""
    numbers: list[str] = []
    dates: list[str] = []
    codes: list[str] = []
    names = [name for name, _ in inputs_of(encoder)]
    for column, name in zip(encoder.columns, names, strict=True):
        if isinstance(column, NumericColumn):
            numbers.append(_without(graph, name, numbers_missing))
        elif isinstance(column, DateColumn):
            parts = _date(graph, name)
            dates += [parts[part.name] for part in column.parts]
        elif isinstance(column, CategoricalColumn):
            codes.append(_column(graph, _code(graph, name, column, words)))
    shape = graph.node("Shape", names[0])
    columns = [_column(graph, x) for x in numbers + dates]
    bins = [_bins(graph, x, c) for x, c in zip(columns, encoder.numeric, strict=True)]
    joined = graph.node("Concat", *columns, axis=1) if columns else ""
    all_codes = graph.node("Concat", *bins, *codes, axis=1) if bins + codes else ""
    scaled = _standardised(graph, joined, encoder) if columns else ""
    return Cells(joined, scaled, all_codes, shape)


def _column(graph: Graph, value: str) -> str:
    return graph.node("Unsqueeze", value, graph.constant([1], np.int64))


def _without(graph: Graph, x: str, missing: list[float]) -> str:
    """The numbers, NaN for those that mean "no value"."""
    for value in missing:
        same = graph.node("Equal", x, graph.constant(value, np.float64))
        x = graph.node("Where", same, graph.constant(np.nan, np.float64), x)
    return x


def _bins(graph: Graph, x: str, column: NumericColumn) -> str:
    """The number of edges that a number is not below, [rows, 1]."""
    gone = graph.node("IsNaN", x)
    none = graph.constant(-1, np.int64)
    if column.edges:
        edges = graph.constant([column.edges], np.float64)
        above = graph.cast(graph.node("GreaterOrEqual", x, edges), TensorProto.INT64)
        none = graph.node("ReduceSum", above, graph.constant([1], np.int64), keepdims=1)
    missing = column.codes - 1 if column.flag_missing else -1
    return graph.node("Where", gone, graph.constant(missing, np.int64), none)


def _standardised(graph: Graph, numbers: str, encoder: Encoder) -> str:
    mean = graph.constant([c.mean for c in encoder.numeric], np.float64)
    scale = graph.constant([c.scale for c in encoder.numeric], np.float64)
    distance = graph.node("Div", graph.node("Sub", numbers, mean), scale)
    bounds = [graph.constant(sign * CLIP, np.float64) for sign in (-1, 1)]
    clipped = graph.node("Clip", distance, *bounds)
    zero = graph.constant(0.0, np.float64)
    present = graph.node("Where", graph.node("IsNaN", numbers), zero, clipped)
    # The models read float32.
    return graph.cast(graph.cast(present, TensorProto.FLOAT), TensorProto.DOUBLE)


def _code(graph: Graph, text: str, column: CategoricalColumn, words: list[str]) -> str:
    """The code of each category, as it is written in a CSV or as a number is as text."""
    gone = len(column.categories) if column.flag_missing else -1
    codes = dict.fromkeys([*MISSING, *words], gone)
    for code, category in enumerate(column.categories):
        spellings = [category] + [word for word, meaning in BOOLEANS.items() if meaning == category]
        if column.boolean:
            spellings += ["1", "1.0"] if category == "true" else ["0", "0.0"]
        value = plain_number(category)
        if value is not None and value.is_integer() and abs(value) < EXACT:
            spellings.append(f"{category}.0")
        for spelling in spellings:
            codes.setdefault(spelling, code)
    return graph.node(
        "LabelEncoder",
        text,
        domain="ai.onnx.ml",
        keys_strings=[key.encode() for key in codes],
        values_int64s=list(codes.values()),
        default_int64=-1,
    )


def _date(graph: Graph, seconds: str) -> dict[str, str]:
    """The parts of a date, float64, NaN where missing: the civil calendar, in whole numbers."""

    def whole(value: int) -> str:
        return graph.constant(value, np.int64)

    def add(x: str, value: int) -> str:
        return graph.node("Add", x, whole(value))

    def times(x: str, value: int) -> str:
        return graph.node("Mul", x, whole(value))

    def modulo(x: str, value: int) -> str:
        return graph.node("Mod", x, whole(value))  # of the sign of the divisor

    def divided(x: str, value: int) -> str:
        return graph.node("Div", graph.node("Sub", x, modulo(x, value)), whole(value))

    gone = graph.node("Equal", seconds, whole(NO_TIME))
    present = graph.node("Where", gone, whole(0), seconds)
    clock, days = modulo(present, 86400), divided(present, 86400)
    # Hinnant, chrono-compatible low-level date algorithms: days since March 1 of year 0, in eras of
    # 400 years.
    since = add(days, 719468)
    era, of_era = divided(since, 146097), modulo(since, 146097)
    leaps = graph.node("Sub", of_era, divided(of_era, 1460))
    leaps = graph.node("Add", leaps, divided(of_era, 36524))
    year_of_era = divided(graph.node("Sub", leaps, divided(of_era, 146096)), 365)
    before = graph.node("Add", times(year_of_era, 365), divided(year_of_era, 4))
    before = graph.node("Sub", before, divided(year_of_era, 100))
    day_of_year = graph.node("Sub", of_era, before)
    from_march = divided(add(times(day_of_year, 5), 2), 153)
    month = add(modulo(add(from_march, 2), 12), 1)
    january = graph.cast(graph.node("Less", month, whole(3)), TensorProto.INT64)
    year = graph.node("Add", graph.node("Add", year_of_era, times(era, 400)), january)

    def double(x: str) -> str:
        return graph.cast(x, TensorProto.DOUBLE)

    def product(x: str, factor: float) -> str:
        return graph.node("Mul", double(x), graph.constant(factor, np.float64))

    minutes = product(modulo(divided(clock, 60), 60), HOURS)
    parts = {
        "year": double(year),
        "month": double(month),
        "day of week": double(add(modulo(add(days, 3), 7), 1)),
        "hour": graph.node("Add", double(divided(clock, 3600)), minutes),
        "elapsed days": product(times(present, 1_000_000), DAYS),
    }
    nan = graph.constant(np.nan, np.float64)
    return {name: graph.node("Where", gone, nan, part) for name, part in parts.items()}


def value_info(name: str, dtype: int) -> object:
    """What a graph says of an input or output of shape [rows]."""
    made: object = helper.make_tensor_value_info(name, dtype, ["rows"])
    return made
