"""Errors as one sentence and an exit status, with the flags of the command line."""

import functools
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

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
            sys.stdout.flush()
        except typer.Exit:
            raise
        except (KeyboardInterrupt, typer.Abort):
            print("torchbce: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # The reader of the results has closed the pipe. Python flushes once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            if kwargs.get("debug"):
                raise
            sentence, status = _explain(error)
            print(f"torchbce: {sentence}", file=sys.stderr)
            raise typer.Exit(status) from None

    return wrapper


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Print what `warnings.warn` says of the input as one sentence on standard error."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__name__ == "InputWarning":
            print(f"torchbce: warning: {message}", file=sys.stderr)
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
    if isinstance(error, MemoryError):
        return "out of memory; give fewer rows or columns, or use a machine with more memory", 2
    return (
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a fault of torchbce; run again with --debug to see where.",
        1,
    )
