"""A report: what a benchmark shows in the documents, made from its JSON alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common import markdown, plots, results

Results = dict[str, Any]


def no_pictures(found: Results) -> list[plots.Plot]:
    return []


@dataclass(frozen=True)
class Report:
    """Tables and plots of results/NAME.json.

    Attributes:
        name: of the benchmark and its JSON.
        blocks: from the results to what the documents show.
        pictures: from the results to the plots.
    """

    name: str
    blocks: Callable[[Results], list[markdown.Block]]
    pictures: Callable[[Results], list[plots.Plot]] = no_pictures

    def write(self) -> None:
        """Insert the tables into the documents, and draw the plots."""
        found = results.load(self.name)
        for block in self.blocks(found):
            markdown.insert(block)
        for plot in self.pictures(found):
            plots.draw(plot)
