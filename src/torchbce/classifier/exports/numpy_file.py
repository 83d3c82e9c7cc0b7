"""A classifier as one Python file that needs NumPy alone."""

import ast
import base64
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.dates import FORMATS, DateColumn
from torchbce.classifier.columns.encoder import Column
from torchbce.classifier.columns.numbers import PLAIN
from torchbce.classifier.columns.numeric import CLIP, NumericColumn
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.columns.values import MISSING
from torchbce.classifier.exports import standalone
from torchbce.classifier.exports.combination import combination_of
from torchbce.classifier.exports.patterns import moment_pattern, number_pattern
from torchbce.classifier.model import Classifier
from torchbce.classifier.models.arrays import arrays_of
from torchbce.classifier.models.boosting import MOST_CATEGORIES
from torchbce.classifier.models.features import Layout
from torchbce.classifier.models.members import PairsModel

#: The files of the code, in the order in which they are written.
PARTS = ("cells", "words", "models", "main")

#: Characters of a line of data.
LINE = 100

HEADER = '''"""A binary classifier that needs NumPy alone, written by `torchbce export --to numpy`.

    from model import predict, predict_proba      # where model.py is this file
    predict_proba([{example}])

    python model.py rows.csv > predictions.csv

`predict_proba` takes a list of dicts, one for each row, or a dict of columns. It returns the
probability of the positive value of the target; `predict` returns the target's values, the positive
one from a probability of {threshold} on. Values are read as `torchbce predict` reads them. The
model is at the end of the file, as arrays in base64.
"""
'''


def numpy_file(classifier: Classifier) -> bytes:
    """The content of the file."""
    column = classifier.encoder.columns[0].name
    example = f"{{{_safe(column)}: ..., ...}}"
    header = HEADER.format(example=example, threshold=f"{classifier.rule().threshold:g}")
    imports, code = _code()
    data = base64.b64encode(_data(classifier)).decode()
    lines = "\n".join(data[start : start + LINE] for start in range(0, len(data), LINE))
    return (
        f'{header}\n{imports}\n{code}\n\nDATA = """\n{lines}\n"""\n\n'
        'if __name__ == "__main__":\n    main()\n'
    ).encode()


def _safe(name: str) -> str:
    """A name in a docstring: ASCII, without what could end it."""
    return json.dumps(name).replace("\\", "\\\\").replace('"""', "'")


def _code() -> tuple[str, str]:
    """The imports of all parts, and what follows them."""
    folder = Path(standalone.__path__[0])
    imports: set[str] = set()
    code = []
    for part in PARTS:
        source = (folder / f"{part}.py").read_text(encoding="utf-8")
        lines = source.splitlines()
        body = ast.parse(source).body
        title = ast.literal_eval(body[0].value)  # type: ignore[attr-defined]
        last = 0
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                last = node.end_lineno or 0
                text = "\n".join(lines[node.lineno - 1 : last])
                if "torchbce" not in text:
                    imports.add(text)
        rest = "\n".join(lines[last:]).strip()
        code.append(f"\n# {title.splitlines()[0]}\n\n{rest}\n")
    ordered = sorted(
        imports, key=lambda line: (line.endswith(" np"), line.startswith("from"), line)
    )
    return "\n".join(ordered), "\n".join(code)


def _data(classifier: Classifier) -> bytes:
    """The model as compressed arrays, of which one is its description in JSON."""
    described = json.dumps(_description(classifier), ensure_ascii=False).encode()
    arrays = {"description": np.frombuffer(described, dtype=np.uint8)}
    encoder = classifier.encoder
    for position, column in enumerate(encoder.columns):
        if isinstance(column, TextColumn):
            arrays[f"idf.{position}"] = encoder.idf[column.name]
    for model in classifier.models:
        arrays |= arrays_of(model)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _description(classifier: Classifier) -> dict[str, Any]:
    card, encoder = classifier.card, classifier.encoder
    combination = combination_of(classifier)
    words = [word.strip() for word in card.missing]
    numbers = pl.Series(words, dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
    rule = classifier.rule()
    both = np.array([False, True])
    pairs = [model for model in classifier.models if isinstance(model, PairsModel)]
    return {
        "columns": [_column(column) for column in encoder.columns],
        "numeric": [
            {"mean": c.mean, "scale": c.scale, "edges": c.edges, "flag_missing": c.flag_missing}
            for c in encoder.numeric
        ],
        "starts": Layout.of(encoder).starts.tolist(),
        "cells": pairs[0].crosses.width if pairs else 0,
        "clip": CLIP,
        "most_categories": MOST_CATEGORIES,
        "missing": MISSING,
        "words": words,
        "word_numbers": numbers.to_list(),
        "offset": combination.offset,
        "weights": combination.weights,
        "calibration": msgspec.to_builtins(combination.calibration),
        "shift": combination.shift,
        "threshold": rule.threshold,
        "undecided": rule.undecided,
        "labels": card.target.labels(both).to_list(),
        "written": card.target.labels(both, as_written=True).to_list(),
    }


def _column(column: Column) -> dict[str, Any]:
    """What the code has to know to read a column."""
    if isinstance(column, NumericColumn):
        written = column.written
        words = written.words()
        return {
            "kind": "numeric",
            "name": column.name,
            "plain": written == PLAIN,
            "pattern": number_pattern(written, lookahead=True).text,
            "thousands": written.thousands,
            "decimal": written.decimal,
            "meaning": f"numbers {words}" if words else "numbers",
        }
    if isinstance(column, DateColumn):
        pattern = moment_pattern(column.written, r"[^\W\d_]")
        return {
            "kind": "date",
            "name": column.name,
            "pattern": pattern.text,
            "groups": pattern.groups,
            "parts": [part.name for part in column.parts],
            "meaning": f"dates as {FORMATS[column.written]}",
        }
    described: dict[str, Any] = msgspec.to_builtins(column)
    if isinstance(column, CategoricalColumn):
        described["boolean"] = column.boolean
    return described
