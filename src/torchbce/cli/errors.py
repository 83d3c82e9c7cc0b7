"""Errors as one sentence and an exit status, with the flags of the command line."""

import functools
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

from torchbce.cli import streams

if TYPE_CHECKING:
    from torchbce.classifier.errors import Argument

#: The flags whose names differ from those of the library's arguments.
OTHER_FLAGS = {"directory": "--output", "json_lines": "--json"}

P = ParamSpec("P")


def one_sentence_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command print its errors as one sentence and exit with their status."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _warnings_as_sentences():
                command(*args, **kwargs)
        except typer.Exit:
            raise
        except (KeyboardInterrupt, typer.Abort):
            # The handler of the process ends it before; this is for callers from Python.
            streams.say("interrupted")
            raise typer.Exit(130) from None
        except Exception as error:
            if streams.is_of_output(error):
                raise typer.Exit(streams.failed(error)) from None
            if kwargs.get("debug"):
                raise
            sentence, status = _explain(error)
            streams.say(sentence)
            if status == 1:
                print(
                    "This is a fault of torchbce; run again with --debug to see where.",
                    file=sys.stderr,
                )
            raise typer.Exit(status) from None
        if status := streams.flush(0):
            raise typer.Exit(status)

    return wrapper


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Print what `warnings.warn` says of the input as one sentence on standard error."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__name__ == "InputWarning":
            streams.warn(str(message))
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        # By its module: the class would import the libraries of the classifier.
        warnings.filterwarnings(
            "always", category=UserWarning, module=r"torchbce\.(classifier|cli)"
        )
        yield


def flag(argument: "Argument") -> str:
    """An argument of the library as it is written on the command line.

    Example:
        >>> from torchbce.classifier.errors import Argument
        >>> flag(Argument("learning_rate")), flag(Argument("overwrite", True))
        ('--learning-rate', '--overwrite')
        >>> flag(Argument("positive", "not spam"))
        "--positive 'not spam'"
    """
    name = OTHER_FLAGS.get(argument.name, "--" + argument.name.replace("_", "-"))
    if argument.value is ... or argument.value is True:
        return name
    return f"{name} {shlex.quote(str(argument.value))}"


def _explain(error: Exception) -> tuple[str, int]:
    """What went wrong, and the exit status that says whose fault it is."""
    if isinstance(error, ImportError):
        return (
            f"{error}. Install it with the rest of the command line: pip install 'torchbce[cli]'",
            2,
        )
    # Not at the top: it imports the libraries of the classifier, of which one may be missing.
    from torchbce.classifier import InputError

    if isinstance(error, InputError):
        return error.message(flag), 2
    if isinstance(error, OSError):
        place = f" {error.filename!r}" if error.filename else ""
        return f"{error.strerror or error}{place}", 2
    if isinstance(error, UnicodeEncodeError):
        shown = error.object.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return f"'{shown}' is not UTF-8; rename the file, or convert the text", 2
    if isinstance(error, MemoryError):
        return "out of memory; give fewer rows or columns, or use a machine with more memory", 2
    return f"internal error: {type(error).__name__}: {error}", 1
