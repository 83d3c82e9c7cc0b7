"""The terminal session of the README: what `torchbce demo` prints, with some columns left out.

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
    """Run the demo, and return its output as a Markdown block."""
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
    text = re.sub(r"\n{2,}", "\n\n", "\n".join(lines).strip())
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    markdown.insert(Block("session", "README.md", session()))
