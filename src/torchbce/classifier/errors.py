"""Errors about the input: what came, what was expected, what to do."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Argument:
    """The part of a message that names an argument: `learning_rate`, or `overwrite=True`.

    The command line prints its flag for the argument instead.

    Args:
        name: the argument's name in the signature of a public function or class.
        value: the value to show with it, or `...` to show the name alone.
    """

    name: str
    value: Any = ...

    def __str__(self) -> str:
        return self.name if self.value is ... else f"{self.name}={self.value!r}"


@dataclass(frozen=True)
class Row:
    """The part of a message that names a row, by its position in the table, from 0."""

    position: int

    def __str__(self) -> str:
        return f"row {self.position + 1}"


class InputError(ValueError):
    """The table, the options or the files are wrong.

    The message says what came, what was expected and what to do. The command line prints it and
    exits with status 2.

    Args:
        parts: the message in parts. `Argument` and `Row` are kept as they are, so that the command
            line can print a flag for the argument, and code that reads a table in batches can count
            rows from the start of the table.

    Example:
        >>> raise InputError(Argument("epochs"), " must be above 0, got 0")
        Traceback (most recent call last):
            ...
        torchbce.classifier.errors.InputError: epochs must be above 0, got 0
    """

    def __init__(self, *parts: str | Argument | Row) -> None:
        super().__init__(*parts)

    def __str__(self) -> str:
        return self.message(str)

    def message(self, write_argument: Callable[[Argument], str]) -> str:
        """The message, with the arguments written by a function.

        Args:
            write_argument: returns what to write for an argument.

        Returns:
            The message as one string.

        Example:
            >>> error = InputError("pass ", Argument("overwrite", True), " to replace it")
            >>> error.message(lambda argument: f"<{argument.name}>")
            'pass <overwrite> to replace it'
        """
        return "".join(
            write_argument(part) if isinstance(part, Argument) else str(part) for part in self.args
        )


class InputWarning(UserWarning):
    """What the user should know of a table that is used all the same.

    The command line prints it on standard error.

    Args:
        message: what was seen, and what to check.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     warnings.warn("no value of column 'city' was seen before", InputWarning)
        >>> [str(warning.message) for warning in seen]
        ["no value of column 'city' was seen before"]
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


@contextmanager
def rows_offset(rows: int) -> Iterator[None]:
    """Add `rows` to the rows that an `InputError` raised inside names.

    For a batch that has `rows` rows of its table before it.
    """
    try:
        yield
    except InputError as error:
        error.args = tuple(
            replace(part, position=part.position + rows) if isinstance(part, Row) else part
            for part in error.args
        )
        raise


def file_error(verb: str, path: Path, error: OSError) -> InputError:
    """An error for a path that the system cannot read or write."""
    return InputError(f"cannot {verb} {str(path)!r}: {error.strerror or error}")


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not among `known`, which suggests the nearest ones."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    lowered = [n for n in names if n.lower() == name.lower() and n not in near]
    if suggestions := lowered + near:
        hint = f"did you mean {listing(suggestions, joiner='or')}?"
    else:
        hint = f"the names are {listing(names, most=12)}"
    return InputError(f"{what} {name!r} is not in the table; {hint}")


def name_columns(names: Sequence[str], most: int = 6) -> str:
    """`column 'a'`, or `columns 'a' and 'b'`."""
    return f"{'column' if len(names) == 1 else 'columns'} {listing(names, most)}"


def listing(values: Iterable[object], most: int = 6, joiner: str = "and") -> str:
    """`'a', 'b' and 'c'`; of more than `most` values, the first ones and how many more there are.

    Example:
        >>> listing("abc"), listing("abc", most=1)
        ("'a', 'b' and 'c'", "'a' and 2 more")
    """
    shown = [_short(repr(value)) for value in values]
    if len(shown) > most:
        return ", ".join(shown[:most]) + f" {joiner} {len(shown) - most} more"
    return f" {joiner} ".join(filter(None, [", ".join(shown[:-1]), shown[-1] if shown else ""]))


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
