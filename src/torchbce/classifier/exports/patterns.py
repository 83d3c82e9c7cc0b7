"""Regular expressions of numbers and dates that Python and DuckDB read alike.

Those of `columns` are written for polars, and find how a column is written. These find the same
cells of a column whose notation is known: what comes before and after its numbers is fixed.
"""

import re
from typing import NamedTuple

from torchbce.classifier.columns.dates import date_pattern
from torchbce.classifier.columns.numbers import Notation, digits_pattern

#: The characters themselves: not every database reads \u2212.
MINUS_SIGNS = "-\u2212\u2013"


class Pattern(NamedTuple):
    """A regular expression of a whole cell, and the names of its groups, from group 1 on."""

    text: str
    groups: tuple[str, ...]


def number_pattern(written: Notation, lookahead: bool) -> Pattern:
    """The numbers of a notation.

    Args:
        written: the notation.
        lookahead: whether to use (?!...), which DuckDB does not have: without it `kr5` is a number
            among `kr 5`.
    """
    groups = ("open", "sign", "inner", "body", "exponent", "close")
    sign = f"([{MINUS_SIGNS}+])?"
    before = _escape(written.before)
    if lookahead and before[-1:].isascii() and before[-1:].isalpha():
        before += "(?![0-9.])"
    return Pattern(
        rf"^(\()?{sign}\s*{before}\s*{sign}({digits_pattern(written)})"
        rf"([eE][{MINUS_SIGNS}+]?[0-9]+)?\s*{_escape(written.after)}(\))?$",
        groups,
    )


def moment_pattern(written: str, letter: str) -> Pattern:
    r"""The dates of a format, with groups named as in `columns.dates`.

    Args:
        written: one of `FORMATS`.
        letter: a regular expression of a letter, in place of \p{L}.
    """
    pattern = date_pattern(written)
    groups = tuple(re.findall(r"\(\?P<(\w+)>", pattern))
    text = re.sub(r"\(\?P<\w+>", "(", pattern)
    return Pattern(text.replace(r"\p{L}{3}", "[A-Za-z]{3}").replace(r"\p{L}", letter), groups)


def _escape(text: str) -> str:
    return re.sub(r"([.^$*+?()\[\]{}|\\])", r"\\\1", text)
