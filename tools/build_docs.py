"""Build the documentation into site/; any warning is an error: python tools/build_docs.py

`zensical build --strict` fails for links and anchors that lead nowhere. Warnings of the API
reference (a name that is not found, an argument that a docstring describes and the function does
not have) are only printed, so that this script looks for them.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text() + "\n## Next\n\n[Install](../install.md)\n"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def command_line() -> str:
    """What `--help` says, as a page."""
    import typer

    from torchbce.cli.app import app

    group: Any = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "What `torchbce COMMAND --help` says. [Your first table](../how-to/first-table.md) shows",
        "the commands in use; results go to standard output, everything else to standard error.",
        "",
    ]
    for name, command in group.commands.items():
        context = typer.Context(command, info_name=f"torchbce {name}")
        lines += [f"## torchbce {name}", "", " ".join((command.help or "").split()), ""]
        lines += [
            f"`{' '.join([context.command_path, *command.collect_usage_pieces(context)])}`",
            "",
        ]
        if command.epilog:
            examples = command.epilog.replace("\b", "").split("Examples:")[1].strip("\n")
            lines += ["```sh", textwrap.dedent(examples), "```", ""]
        lines += ["| argument or option | meaning |", "| --- | --- |"]
        for parameter in command.params:
            if record := parameter.get_help_record(context):
                lines.append(f"| `{record[0]}` | {cell(record[1])} |")
        lines.append("")
    lines += ["## Exit status", "", "See [What fit does](../classifier.md#exit-status).", ""]
    lines += ["## Next", "", "[Reading the figures](../how-to/figures.md)", ""]
    return "\n".join(lines)


def generate() -> None:
    """Write the pages that are made from other files."""
    (REFERENCE / "changelog.md").write_text(changelog())
    (REFERENCE / "command-line.md").write_text(command_line())


def main() -> int:
    generate()
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--clean", "--strict"]
    ran = subprocess.run(
        command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(ran.stdout)
    warned = re.findall(r"^(?:griffe|mkdocstrings|mkdocs_autorefs): .*$", ran.stdout, re.MULTILINE)
    if warned:
        print(f"{len(warned)} warnings of the API reference, which are errors here")
    return ran.returncode or bool(warned)


if __name__ == "__main__":
    sys.exit(main())
