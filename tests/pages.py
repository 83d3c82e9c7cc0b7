"""The documents of the project, and the code in them."""

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
#: README.md, and the pages of the site that are written by hand.
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
#: Where site and repository are published: links of the README must work on the package index.
SITE = "https://torchbce.github.io/torchbce/"
REPOSITORY = "https://github.com/torchbce/torchbce/"
RAW = "https://raw.githubusercontent.com/torchbce/torchbce/main/"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in that language."""
    text = page.read_text()
    found = re.findall(rf"^( *)```{language}\b[^\n]*\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def run(code: str) -> list[tuple[str, str]]:
    """Run a block by itself, as if it were pasted.

    Where a line starting with "# " comes directly after an expression, the pair of what its value
    prints (or the error that it raises) and of that line.
    """
    names: dict[str, Any] = {}
    lines = code.splitlines()
    pairs = []
    for statement in ast.parse(code).body:
        end = statement.end_lineno or 0
        comment = lines[end] if end < len(lines) else ""
        source = ast.unparse(statement)
        if not (isinstance(statement, ast.Expr) and comment.startswith("# ")):
            exec(source, names)
            continue
        try:
            printed = repr(eval(source, names))
        except (ValueError, TypeError) as error:
            printed = f"{type(error).__name__}: {error}"
        pairs.append((printed, comment.removeprefix("# ")))
    return pairs


def target(link: str) -> Path | None:
    """The file that an address of the site or of the repository stands for; None for others."""
    link = link.split("#")[0]
    if link == REPOSITORY:
        return ROOT
    if link.startswith(f"{REPOSITORY}issues"):
        return ROOT
    if link.startswith(SITE):
        page = link.removeprefix(SITE).strip("/") or "index"
        return next(
            (path for path in (DOCS / f"{page}.md", DOCS / page / "index.md") if path.exists()),
            DOCS / f"{page}.md",
        )
    for start in (RAW, f"{REPOSITORY}blob/main/", f"{REPOSITORY}tree/main/"):
        if link.startswith(start):
            return ROOT / link.removeprefix(start)
    return None
