"""Where results go: a JSON file, a Markdown table, and the place in README.md that shows it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def load(name: str) -> dict[str, Any]:
    """The results measured so far, so that one row can be measured anew."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def save(name: str, results: dict[str, Any], table: str, document: str = "README.md") -> None:
    """Write the results and their table, and put the table into a document."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(table)
    insert(name, table, document)


def insert(name: str, content: str, document: str = "README.md") -> None:
    """Put the content into a document, in the place that bears the name."""
    path = ROOT / document
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    text = path.read_text()
    path.write_text(pattern.sub(lambda _: start + content + end, text))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
