"""The shared functions under their former names, for the benchmarks of the GPU."""

from typing import Any

from common import markdown as _markdown
from common import results
from common.markdown import Block, table
from common.results import RESULTS, load

__all__ = ["RESULTS", "insert", "load", "markdown", "save"]

markdown = table


def save(name: str, found: dict[str, Any], content: str, document: str = "README.md") -> None:
    """Write the results and their table, and put the table into a document."""
    results.save(name, found)
    (RESULTS / f"{name}.md").write_text(content)
    insert(name, content, document)


def insert(name: str, content: str, document: str = "README.md") -> None:
    """Put the content into a document, in the place that bears the name."""
    _markdown.insert(Block(name, document, content))
