"""Rows in, probabilities out."""

import base64
import csv
import functools
import io
import json
import os
import sys
from typing import Any

import numpy as np

from torchbce.classifier.exports.standalone.cells import (
    category_reader,
    moment_parts,
    moment_reader,
    number_reader,
    plain_text,
    read_all,
    values_of,
    without_words,
)
from torchbce.classifier.exports.standalone.models import (
    Inputs,
    calibrated,
    linear_logits,
    network_logits,
    pair_logits,
    standardised,
    tree_logits,
)
from torchbce.classifier.exports.standalone.words import TextColumn

#: The model: arrays of NumPy, compressed, in base64. The exported file has it at its end.
DATA = ""


def logits(rows: Any) -> np.ndarray:
    """The log-odds of the positive value, float64, [rows]; `rows` as `predict_proba` takes them."""
    model, arrays = _model()
    inputs = _inputs(model, _columns(rows, [column["name"] for column in model["columns"]]))
    scaled = standardised(inputs.numbers, model["numeric"], model["clip"])
    total = np.full(len(inputs), model["offset"])
    for name, weight in model["weights"].items():
        own = arrays[name]
        if name in ("linear", "pairs"):
            width = len(own["weight"]) - (model["cells"] if name == "pairs" else 0)
            z = linear_logits(inputs, scaled, own["weight"][:width], own["bias"][0])
            if name == "pairs":
                z += pair_logits(inputs, own, own["weight"][width:])
        elif name == "trees":
            z = tree_logits(inputs, own, model["most_categories"])
        else:
            z = network_logits(inputs, scaled, model["numeric"], own)
        total += weight * z
    if model["calibration"] is not None:
        total = calibrated(total, **model["calibration"])
    return np.asarray(total + model["shift"])


def predict_proba(rows: Any) -> np.ndarray:
    """The probability of the positive value of each row.

    Args:
        rows: a list of dicts, one for each row, or a dict of columns, each a list or an array.

    Returns:
        float64, [rows].
    """
    z = logits(rows)
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1, small) / (1 + small))


def predict(rows: Any) -> list[Any]:
    """The predicted target value of each row, None where it is undecided; of `predict_proba`."""
    return _decided(predict_proba(rows), _model()[0]["labels"])


def _decided(probabilities: np.ndarray, labels: list[Any]) -> list[Any]:
    model, _ = _model()
    low, high = model["undecided"] or (0.0, 0.0)
    return [
        None if low <= p < high else labels[int(p >= model["threshold"])]
        for p in probabilities.tolist()
    ]


@functools.cache
def _model() -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """The description of the model, and the arrays of each of its models."""
    with np.load(io.BytesIO(base64.b64decode(DATA)), allow_pickle=False) as stored:
        model = json.loads(stored["description"].tobytes())
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for name in stored.files:
            group, _, own = name.partition(".")
            arrays.setdefault(group, {})[own] = stored[name]
    model["texts"] = [
        TextColumn(column, arrays["idf"][str(i)])
        for i, column in enumerate(model["columns"])
        if column["kind"] == "text"
    ]
    model["missing"] = set(model["missing"])
    read = category_reader(model["missing"])
    for column in model["columns"]:
        if column["kind"] == "categorical":
            column["places"] = {read(value): i for i, value in enumerate(column["categories"])}
    return model, arrays


def _columns(rows: Any, names: list[str]) -> dict[str, Any]:
    """The columns of some rows by their names."""
    if hasattr(rows, "columns"):  # of pandas or polars
        known = list(rows.columns)
    elif hasattr(rows, "keys"):
        known = list(rows)
    else:
        records = list(rows)
        known = [name for record in records for name in record] if records else names
        rows = {name: [record.get(name) for record in records] for name in names}
    if lacking := [name for name in names if name not in known]:
        raise ValueError(f"the model reads {lacking}, which the rows do not have")
    return {name: rows[name] for name in names}


def _inputs(model: dict[str, Any], columns: dict[str, Any]) -> Inputs:
    """The columns as the models read them."""
    missing = model["missing"]
    numbers, codes, dates = [], [], []
    texts: dict[str, list[str]] = {}
    count = 0
    for column in model["columns"]:
        name, kind = column["name"], column["kind"]
        values = values_of(columns[name], kind == "numeric")
        values = without_words(values, set(model["words"]), set(model["word_numbers"]))
        count = len(values)
        if kind == "numeric":
            read = read_all(values, name, column["meaning"], number_reader(column, missing))
            numbers.append(np.array(read, dtype=np.float64))
        elif kind == "date":
            read = read_all(values, name, column["meaning"], moment_reader(column, missing))
            parts = moment_parts(read)
            dates += [parts[part] for part in column["parts"]]
        elif kind == "categorical":
            keys = _categories(values, column, missing)
            last = len(column["categories"]) if column["flag_missing"] else -1
            found = [last if key is None else column["places"].get(key, -1) for key in keys]
            codes.append(np.array(found, dtype=np.int64))
        else:
            texts[name] = [plain_text(value) for value in values]
    numbers += dates
    binned = [_bins(x, column) for x, column in zip(numbers, model["numeric"], strict=True)]
    rows, features, weights, start = [], [], [], 0
    for text in model["texts"]:
        row, feature, value = text.features(texts[text.name])
        rows.append(row)
        features.append(feature + start)
        weights.append(value)
        start += text.width
    return Inputs(
        np.column_stack(numbers) if numbers else np.zeros((count, 0)),
        np.column_stack(binned + codes) if binned + codes else np.zeros((count, 0), np.int64),
        np.array(model["starts"], dtype=np.int64),
        np.concatenate(rows) if rows else np.zeros(0, np.int64),
        np.concatenate(features) if features else np.zeros(0, np.int64),
        np.concatenate(weights) if weights else np.zeros(0, np.float32),
        start,
    )


def _categories(
    values: list[Any], column: dict[str, Any], missing: set[str]
) -> list[str | float | None]:
    """What equal values have in common; 1 and 0 are other ways to write true and false."""
    keys = [category_reader(missing)(value) for value in values]
    if not column["boolean"]:
        return keys
    words: dict[Any, str] = {1.0: "true", 0.0: "false"}
    return [words.get(key, key) for key in keys]


def _bins(numbers: np.ndarray, column: dict[str, Any]) -> np.ndarray:
    """The bin of each number; a missing one comes after the bins, if it has a code."""
    edges = np.asarray(column["edges"], dtype=np.float64)
    codes = (
        np.searchsorted(edges, numbers, side="right") if len(edges) else np.full(len(numbers), -1)
    )
    bins = len(edges) + 1 if len(edges) else 0
    return np.where(np.isnan(numbers), bins if column["flag_missing"] else -1, codes)


def main() -> None:
    """Read a CSV from a file or from standard input, and write it with the predictions appended."""
    model, _ = _model()
    csv.field_size_limit(2**31 - 1)
    if len(sys.argv) > 1:
        with open(sys.argv[1], encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    else:
        text = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        header, *rows = list(csv.reader(text)) or [[]]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            sys.exit(f"row {number} has {len(row)} values, and the header has {len(header)}")
    try:
        found = predict_proba({name: [row[i] for row in rows] for i, name in enumerate(header)})
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    try:
        writer.writerow([*header, "probability", "predicted"])
        labels = _decided(found, model["written"])
        for row, p, label in zip(rows, found.tolist(), labels, strict=True):
            writer.writerow([*row, p, label])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has what it wanted, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
