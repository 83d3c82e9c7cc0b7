"""Plots, drawn again only when their data has changed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import results
from common.markdown import ROOT

#: A colour per contender, the same in every plot.
COLOURS = {
    "PyTorch": "#d95f02",
    "PyTorch, compiled": "#e6ab02",
    "torchbce": "#1b6ca8",
    "memory traffic alone": "#999999",
}

#: Where the documents show them.
IMAGES = ROOT / "docs" / "images"

#: Of results/plots.json: for each picture a digest of its data and one of its file.
DIGESTS = "plots"

Rows = list[dict[str, Any]]


class Plot(NamedTuple):
    """A picture of docs/images/, its data, and the Altair chart of a data frame."""

    file: str
    rows: Rows
    chart: Callable[[Any], Any]


def colours(contenders: Sequence[str]) -> Any:
    """The colour channel of the column `contender`, in this order."""
    import altair as alt

    scale = alt.Scale(domain=contenders, range=[COLOURS[name] for name in contenders])
    return alt.Color("contender:N", scale=scale, sort=contenders, title=None)


def draw(plot: Plot) -> None:
    """Write the picture, unless it shows this data already."""
    if is_current(plot):
        return
    import polars as pl

    path = IMAGES / plot.file
    plot.chart(pl.DataFrame(plot.rows)).save(str(path), scale_factor=2)
    digests = results.load(DIGESTS)
    digests[plot.file] = {"data": _digest(plot.rows), "file": _file_digest(path)}
    results.save(DIGESTS, dict(sorted(digests.items())))


def is_current(plot: Plot) -> bool:
    """Whether the picture is the one that was drawn from this data."""
    path = IMAGES / plot.file
    recorded = results.load(DIGESTS).get(plot.file)
    return path.exists() and recorded == {
        "data": _digest(plot.rows),
        "file": _file_digest(path),
    }


def _digest(rows: Rows) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
