"""The terminal session of `torchbce demo`, without some columns; shorter in the README.

python benchmarks/session.py
"""

import re
import subprocess
import sys
import tempfile

from common import markdown
from common.markdown import Block

#: Columns that are shown at the start of the table of columns.
SHOWN = 2


def session() -> str:
    """Run the demo, and return its output."""
    command = [sys.executable, "-m", "torchbce.cli", "demo"]
    with tempfile.TemporaryDirectory() as directory:
        ran = subprocess.run(
            command,
            cwd=directory,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    # A terminal shows a progress bar that disappears, a pipe some lines for each model.
    lines = [line.rstrip() for line in ran.stdout.splitlines() if ", held-out loss " not in line]
    columns = [i for i, line in enumerate(lines) if re.search(r" numeric +numbers", line)]
    lines[columns[SHOWN] : columns[-1]] = ["..."]
    return re.sub(r"\n{2,}", "\n\n", "\n".join(lines).strip()) + "\n"


def shortened(text: str) -> str:
    """The commands, the first and some other figures of the fit, and what predict says."""
    fit, predict, _evaluate = re.findall(r"^\$ .*?(?=^\$ |\Z)", text, re.MULTILINE | re.DOTALL)
    command, *lines = fit.replace("torchbce-demo/", "").rstrip().splitlines()
    kept = r" +base rate|log loss|ROC-AUC|accuracy|model: "
    figures = [line for line in lines if re.match(kept, line)]
    command = command.replace(" --output", " \\\n    --output")
    return (
        "\n".join([command, "...", *figures, "", predict.replace("torchbce-demo/", "").rstrip()])
        + "\n"
    )


def block(text: str) -> str:
    return f"```text\n{text}```\n"


def blocks(text: str) -> list[Block]:
    return [
        Block("session", "docs/how-to/first-table.md", block(text)),
        Block("session-short", "README.md", block(shortened(text))),
    ]


if __name__ == "__main__":
    for found in blocks(session()):
        markdown.insert(found)
