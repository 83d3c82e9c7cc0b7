"""What `torchbce show` prints of a model."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchbce.classifier.explanations.labels import signed
from torchbce.cli.results import held_out_heading
from torchbce.cli.streams import visible
from torchbce.cli.terminal import (
    ALL_CHOICES,
    SHOWN_CHOICES,
    decision_lines,
    metrics_lines,
    tried_lines,
)

if TYPE_CHECKING:
    from torchbce.classifier import Classifier
    from torchbce.classifier.columns.encoder import Column
    from torchbce.classifier.explanations.records import Curve, Explanation, PairTable

#: Of more bins than this, some are shown: the first and the last, the highest and the lowest.
BINS = 9

#: A table of a pair is printed as a table up to this many columns, and else its largest cells.
CELL_COLUMNS, LARGEST_CELLS = 8, 8


def print_model(classifier: "Classifier", directory: Path, most: int, as_json: bool) -> None:
    """Print what a model reads, how good it is, and what weighs most in it.

    Args:
        classifier: the model.
        directory: where it comes from.
        most: how many words, categories, curves, pairs and columns to list.
        as_json: whether to print JSON.
    """
    if as_json:
        print(json.dumps(_json(classifier, most)))
        return
    width = shutil.get_terminal_size().columns
    for line in _lines(classifier, directory, most, width):
        print(visible(line))


def _json(classifier: "Classifier", most: int) -> dict[str, Any]:
    import msgspec

    from torchbce.classifier.quality.baseline import of_base_rate

    card = classifier.card
    return {
        "target": msgspec.to_builtins(card.target),
        "threshold": card.threshold,
        "rows": card.rows,
        "positives": card.positives,
        "columns": [
            {"name": column.name, "kind": kind_of(column), "features": features_of(column)}
            for column in card.columns
        ],
        "dropped": card.dropped,
        "held_out": msgspec.to_builtins(card.held_out),
        "base_rate": msgspec.to_builtins(of_base_rate(card.held_out)),
        "decision": msgspec.to_builtins(card.decision),
        "calibration": msgspec.to_builtins(card.calibration),
        "models": card.models,
        "tried": msgspec.to_builtins(classifier.tried),
        "explanation": msgspec.to_builtins(classifier.explain(most)),
        "options": card.options,
        "versions": card.versions,
    }


def _lines(classifier: "Classifier", directory: Path, most: int, width: int) -> Iterator[str]:
    from torchbce.classifier.quality.baseline import of_base_rate

    card, target = classifier.card, classifier.card.target
    names = ", ".join(card.models) or "the base rate"
    positives = f"{card.positives:,} of them positive"
    if card.target.kind != "values" or card.weight is not None:  # their sum is no number of rows
        positives = f"{1 / (1 + math.exp(-card.base)):.1%} positive"
    yield f"{directory}: {names}; {card.rows:,} rows, {positives}"
    yield f"target {target.column}: {target.positive!r} is positive, {target.negative!r} negative"
    yield ""
    used = [(column.name, kind_of(column), features_of(column)) for column in card.columns]
    used += [(name, "dropped", reason) for name, reason in card.dropped.items()]
    yield from _aligned([("column", "used as", "features"), *_in_part(used)])
    yield ""
    yield held_out_heading(card)
    yield from metrics_lines(card.held_out, of_base_rate(card.held_out))
    yield from decision_lines(card)
    if classifier.tried:
        yield ""
        yield from tried_lines(classifier.tried)
    explanation = classifier.explain(most)
    if len(explanation.models) > 1:
        shares = [f"{name} {share:.0%}" for name, share in explanation.models.items()]
        yield f"share of the answer: {', '.join(shares)}"
    yield ""
    yield from _explanation_lines(explanation, target.positive, width)


def _explanation_lines(explanation: "Explanation", positive: str, width: int) -> Iterator[str]:
    if not explanation.models:
        yield f"No model is better than the base rate, {signed(explanation.base)} in log-odds."
        return
    base = signed(explanation.base)
    yield f"What weighs most, in log-odds of {positive!r}; the base rate is {base}:"
    if explanation.words:
        matrix = any(word.unit == "columns" for word in explanation.words)
        yield "columns of the matrix" if matrix else "words and n-grams, per unit of TF-IDF"
        yield from _aligned(
            (f"  {signed(word.log_odds)}", word.column, repr(word.text))
            for word in explanation.words
        )
    if explanation.categories:
        yield "categories"
        yield from _aligned(
            (f"  {signed(one.log_odds)}", one.column, one.value) for one in explanation.categories
        )
    if explanation.curves:
        yield "numbers"
        for curve in explanation.curves:
            yield from _curve_lines(curve, width)
    for table in explanation.pairs:
        yield f"{table.first} & {table.second}, beside what each adds by itself"
        yield from _pair_lines(table, width)
    if explanation.trees:
        yield "share of each column in the splits of the trees"
        yield from _aligned((f"  {share:.1%}", name) for name, share in explanation.trees.items())
    if "mlp" in explanation.models:
        yield "The mlp has no weights to list; predict --explain names its columns for each row."


def _in_part(used: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The columns; of many, some of each kind, and how many others there are."""
    if len(used) <= ALL_CHOICES:
        return used
    shown = []
    for kind in dict.fromkeys(column[1] for column in used):
        own = [column for column in used if column[1] == kind]
        shown += own[:SHOWN_CHOICES]
        if len(own) > SHOWN_CHOICES:
            shown.append((f"({len(own) - SHOWN_CHOICES:,} more)", kind, ""))
    return shown


def kind_of(column: "Column") -> str:
    """The kind of a column."""
    return str(column.__struct_config__.tag)


def features_of(column: "Column") -> str:
    """What a column becomes, in words."""
    kind = kind_of(column)
    missing = ", missing" if getattr(column, "flag_missing", False) else ""
    if kind == "numeric":
        bins = len(column.edges) + 1 if column.edges else 0  # type: ignore[union-attr]
        return (f"the number and {bins} bins" if bins else "the number") + missing
    if kind == "categorical":
        return f"{len(column.categories):,} categories{missing}"  # type: ignore[union-attr]
    if kind == "date":
        return ", ".join(part.name for part in column.parts)  # type: ignore[union-attr]
    return ", ".join(f"{len(u.vocabulary):,} {u.unit}" for u in column.units)  # type: ignore[union-attr]


def _aligned(rows: Any) -> list[str]:
    """Rows of strings with their columns below each other; nothing is cut."""
    lines = [tuple(visible(cell) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _curve_lines(curve: "Curve", width: int) -> list[str]:
    shown = _shown_bins(curve)
    points = [f"{curve.bins[at]}: {signed(curve.log_odds[at])}" for at in shown]
    more = "" if len(shown) == len(curve.bins) else f" ({len(shown)} of {len(curve.bins)} bins)"
    return [f"  {visible(curve.column)}{more}", *_wrapped(points, width)]


def _shown_bins(curve: "Curve") -> list[int]:
    number = len(curve.bins)
    if number <= BINS:
        return list(range(number))
    spread = np.linspace(0, number - 1, BINS - 2).round().astype(int).tolist()
    return sorted({*spread, int(np.argmax(curve.log_odds)), int(np.argmin(curve.log_odds))})


def _wrapped(points: Sequence[str], width: int) -> list[str]:
    """Points side by side, as many as fit in a line; a point is never divided."""
    lines: list[str] = []
    for point in points:
        if lines and len(lines[-1]) + len(point) + 2 <= width:
            lines[-1] += f"; {point}"
        else:
            lines.append(f"    {point}")
    return lines


def _pair_lines(table: "PairTable", width: int) -> list[str]:
    if len(table.columns) <= CELL_COLUMNS:
        rows = [["", *table.columns]]
        for label, cells in zip(table.rows, table.log_odds, strict=True):
            rows.append([label, *("" if cell is None else signed(cell) for cell in cells)])
        lines = [f"  {line}" for line in _aligned(rows)]
        if max(map(len, lines)) <= width:
            return lines
    largest = [
        (cell, f"{row} & {column}")
        for row, values in zip(table.rows, table.log_odds, strict=True)
        for column, cell in zip(table.columns, values, strict=True)
        if cell is not None
    ]
    largest.sort(key=lambda one: -abs(one[0]))
    return _aligned((f"  {signed(cell)}", label) for cell, label in largest[:LARGEST_CELLS])
