"""Measurements in JSON: results/NAME.json, from which every table and plot is made."""

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
#: A list of numbers as `json.dumps` indents it. Strings contain no line breaks in JSON.
NUMBERS = re.compile(r"\[\n([-+.\de,\s]+?)\n\s*\]")


def load(name: str) -> dict[str, Any]:
    """The measurements of a benchmark; empty if there are none."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def save(name: str, results: dict[str, Any], folder: Path | None = None) -> None:
    """Write the measurements of a benchmark, to another folder than RESULTS if there is one."""
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    # Lists of numbers on one line.
    text = NUMBERS.sub(
        lambda found: "[" + " ".join(found[1].split()) + "]", json.dumps(results, indent=2)
    )
    (folder / f"{name}.json").write_text(text + "\n")
