"""Tables in Markdown, and their places in the documents."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Block(NamedTuple):
    """Generated text, and where it is shown.

    It is placed between the lines `<!-- marker -->` and `<!-- end of marker -->` of the document, a
    path from the root of the project.
    """

    marker: str
    document: str
    content: str


def insert(block: Block) -> None:
    """Write the content into its document."""
    path = ROOT / block.document
    text, count = _pattern(block.marker).subn(
        lambda found: found[1] + block.content + found[3], path.read_text()
    )
    if count != 1:
        raise ValueError(
            f"{block.document} has {count} places for {block.marker!r}; write the lines "
            f"<!-- {block.marker} --> and <!-- end of {block.marker} --> into it once"
        )
    path.write_text(text)


def shown(marker: str, document: str) -> str:
    """What the document shows in that place now."""
    found = _pattern(marker).search((ROOT / document).read_text())
    if found is None:
        raise ValueError(f"{document} has no place for {marker!r}")
    return found[2]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def goals(rows: Sequence[Sequence[str]]) -> str:
    """A table of measurements against their goals: rows of what, measured, goal, reached."""
    return table(["what", "measured", "goal", "reached"], rows)


def goal(what: str, measured: str, limit: str, reached: bool) -> list[str]:
    """One row of `goals`."""
    return [what, measured, limit, verdict(reached)]


def verdict(reached: bool) -> str:
    return "yes" if reached else "**no**"


def mebibytes(bytes: float) -> str:
    return f"{bytes / 2**20:,.1f}"


def power(n: int) -> str:
    """A power of two, as an exponent."""
    return f"2^{n.bit_length() - 1}"


def _pattern(marker: str) -> re.Pattern[str]:
    start, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->"
    return re.compile(f"({re.escape(start)})(.*?)({re.escape(end)})", re.DOTALL)
