"""Standard input, output and error: closed, full or broken ones, and sentences for a terminal."""

import contextlib
import errno
import io
import os
import re
import sys

TYPE_CHECKING = False  # as `typing` has it, which is imported only later
if TYPE_CHECKING:
    from typing import Any, TypeGuard

_OUTPUT_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EBADF, errno.EIO, errno.EFBIG, errno.EDQUOT}

# Control characters (a terminal obeys them), those that reverse the direction of text, and halves
# of characters, which stand for bytes that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text with control characters written as escapes, for one line of a terminal.

    Example:
        >>> print(visible("a\\x1b[31mb\\nc"))
        a\\x1b[31mb\\nc
    """
    return _UNSAFE.sub(lambda found: repr(found[0])[1:-1], text)


def say(sentence: str) -> int:
    """Print a sentence about wrong input on standard error; the exit status that goes with it."""
    print(f"torchbce: {visible(sentence)}", file=sys.stderr)
    return 2


def warn(sentence: str) -> None:
    """Print a sentence on standard error about a result that may not be what was wanted."""
    print(f"torchbce: warning: {visible(sentence)}", file=sys.stderr)


def say_last(word: str) -> None:
    """Write a last line to standard error, from the handler of a signal: without Python's buffers.

    On a terminal it begins a line of its own, and shows the cursor that a progress bar hides.
    """
    before = "\n\x1b[?25h" if "rich.live" in sys.modules and os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{before}torchbce: {word}\n".encode())


def prepare() -> bool:
    """Open streams that the caller has closed, and accept every character.

    A file that is opened later would get the number of a closed stream, and what a library prints
    would be written into it.

    Returns:
        Whether there is a standard output.
    """
    there = sys.stdout is not None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free number, that of the closed stream; nothing ever closes it.
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if sys.stdout.isatty():
        sys.stdout = io.TextIOWrapper(
            _Terminal(open(1, "wb", buffering=0, closefd=False)),  # noqa: SIM115
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
    elif reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")
    with contextlib.suppress(OSError):
        sys.stderr = _StandardError(
            open(2, "wb", buffering=0, closefd=False),  # noqa: SIM115
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
            write_through=True,
        )
    return there


class _Terminal(io.BufferedWriter):
    """Standard output that is a terminal: control characters of a table are shown as escapes."""

    _unsafe = re.compile(b"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")

    def write(self, content: "Any", /) -> int:
        super().write(self._unsafe.sub(self._escaped, bytes(content)))
        return len(content)

    @staticmethod
    def _escaped(found: "re.Match[bytes]") -> bytes:
        return f"\\x{found[0][-1]:02x}".encode()


class _StandardError(io.TextIOWrapper):
    """Standard error that may be a full device, or a pipe whose reader is gone.

    A model that is being trained is worth more than a line about its progress.
    """

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def flush(status: int) -> int:
    """Flush standard output at the end, when Python would report an error with a trace.

    Args:
        status: the exit status so far.

    Returns:
        The exit status: 2 if what was printed could not be written, `status` otherwise, and where
        the reader has closed the pipe, which is its right.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        return failed(error) or status
    return status


def is_of_output(error: Exception) -> "TypeGuard[OSError]":
    """Whether an error is one of writing to a stream, which names no file.

    The library's own files have an `InputError` instead.
    """
    return isinstance(error, OSError) and error.filename is None and error.errno in _OUTPUT_ERRORS


def failed(error: OSError) -> int:
    """Say that standard output cannot be written; the exit status, 0 if its reader is gone."""
    discard()
    if isinstance(error, BrokenPipeError):
        return 0
    return say(f"cannot write to standard output: {error.strerror or error}")


def discard() -> None:
    """Send what is left for standard output nowhere: Python flushes once more at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
