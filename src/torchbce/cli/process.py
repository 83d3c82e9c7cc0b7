"""The process around a command: its signals, its streams, its arguments and its exit status.

Imports nothing but what Python itself has loaded or loads in a millisecond, so that Ctrl-C is
handled before the first library is imported.
"""

import os
import sys
from collections.abc import Sequence

from torchbce import __version__
from torchbce.cli import streams
from torchbce.cli.signals import handle_signals

TYPE_CHECKING = False  # as `typing` has it, which is imported only later
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Run the command line, and exit with its status."""
    handle_signals()
    if not streams.prepare():
        sys.exit(streams.say("standard output is closed, so there is nowhere to write results"))
    if wrong := _not_text(sys.argv[1:]):
        sys.exit(streams.say(wrong))
    sys.exit(streams.flush(_run()))


def _run() -> int:
    """Run the command that the arguments name; its exit status."""
    stdout = sys.stdout
    try:
        if sys.argv[1:] == ["--version"]:  # Typer would need 0.3 s for it
            print(f"torchbce {__version__}")
            return 0
        from torchbce.cli.app import app

        return int(app(prog_name="torchbce", standalone_mode=False) or 0)
    except SystemExit as end:
        # Typer ends with 1 where the reader of its help has closed the pipe, and replaces stdout.
        return 0 if sys.stdout is not stdout else int(end.code or 0)
    except ModuleNotFoundError as error:
        return streams.say(
            f"{error}. The command line needs more than the library: pip install 'torchbce[cli]'"
        )
    except Exception as error:
        if streams.is_of_output(error):
            return streams.failed(error)
        # The classes of these errors belong to click, or to Typer's copy of it.
        if not hasattr(error, "format_message"):
            raise
        return _misused(error)


def _misused(error: "Any") -> int:
    """Say what is wrong with the arguments, an error of click; the exit status."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
        return 2
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "torchbce"
    sentence = error.format_message().strip()
    sentence = sentence[:1].lower() + sentence[1:]
    return streams.say(f"{sentence}{'' if sentence[-1:] in '.?' else '.'} See {command} --help")


def _not_text(arguments: Sequence[str]) -> str | None:
    """A sentence about the first argument whose bytes are not text, or None."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            content = os.fsencode(argument)
            shown = content.decode(errors="backslashreplace")
            try:
                content.decode()
            except UnicodeDecodeError:
                return f"the argument '{shown}' is not UTF-8; rename the file, or convert the text"
            return f"the locale cannot read the argument '{shown}'; set LC_ALL=C.UTF-8"
    return None
