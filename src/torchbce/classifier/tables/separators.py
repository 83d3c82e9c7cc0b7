"""What separates the values of a CSV: what the user says, or what its first lines show."""

import csv
import io
import itertools
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.tables.sources import Source

CANDIDATES = (",", ";", "\t", "|")

#: So many lines are compared with the header.
LINES = 200

_SEPARATOR_LINE = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=([,;|\t])"?\r?\n')
LONGEST_SEPARATOR_LINE = 16


def separator_of(source: Source, separator: str | None) -> str:
    """The separator of a CSV.

    It is the usual one of the file's format, unless another one, and only that one, separates the
    header and each of the first lines into the same number of values, above 1.

    Args:
        source: the CSV.
        separator: what the user says; None to look.

    Raises:
        InputError: if several would do, or `separator` is not one character.
    """
    if separator is not None:
        return check_separator(separator)
    usual = source.format.separator
    with source.open() as file, unlimited_fields():
        try:
            with io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n") as text:
                lines = list(itertools.islice(text, LINES))
        except (UnicodeDecodeError, EOFError, OSError, zlib.error):
            return usual  # the check of all lines names the fault
    if _columns(lines, usual):
        return usual
    fitting = [other for other in CANDIDATES if other != usual and _columns(lines, other)]
    if len(fitting) > 1:
        raise InputError(
            f"the values of {source.name} may be separated by {fitting[0]!r} or {fitting[1]!r}; "
            "say which with ",
            Argument("separator", fitting[0]),
        )
    return fitting[0] if fitting else usual


def separator_line(source: Source) -> str | None:
    """The separator that a line before the header says, as `sep=;`, which spreadsheets write."""
    try:
        with source.open() as file:
            found = _SEPARATOR_LINE.fullmatch(file.readline(LONGEST_SEPARATOR_LINE))
    except (EOFError, OSError, zlib.error):
        return None  # the check of all lines names the fault
    return None if found is None else found[1].decode()


def check_separator(separator: str) -> str:
    """The separator, of which "tab" and a written-out \\t are one too. Raises `InputError`."""
    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(separator) != 1 or not separator.isascii() or separator in '"\r\n\0':
        raise InputError(
            Argument("separator"),
            " must be one ASCII character other than a quote or a line end, as ; or tab, got "
            f"{separator!r}",
        )
    return separator


def _columns(lines: list[str], separator: str) -> int:
    """The number of values in every line; 0 if it is 1, or differs."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error:
        return 0
    if len(lines) == LINES and len(rows) > 1:
        rows.pop()  # a value with line ends may go on
    widths = {len(row) for row in rows}
    return widths.pop() if len(widths) == 1 and widths != {1} else 0


@contextmanager
def unlimited_fields() -> Iterator[None]:
    """Let the csv module read values of more than 128 KiB: a document may be longer."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
