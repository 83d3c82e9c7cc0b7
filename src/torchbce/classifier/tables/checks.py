"""One pass over a CSV or JSON lines file that finds malformed lines and names them.

polars rejects some of them without a line number (short rows, repeated names, invalid JSON), and
reads others incorrectly (stray quotes).
"""

import codecs
import csv
import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torchbce.classifier.errors import Argument, InputError, listing
from torchbce.classifier.tables.separators import CANDIDATES, unlimited_fields
from torchbce.classifier.tables.sources import Source

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class CsvShape(NamedTuple):
    """What a CSV holds.

    Attributes:
        names: of its columns, None of a column without a name and without any value: spreadsheets
            end lines with separators after the last column.
        rows: how many there are.
    """

    names: list[str | None]
    rows: int


def check_csv(source: Source, separator: str, skipped: int = 0) -> CsvShape:
    """Check a CSV file line by line.

    Args:
        source: the CSV.
        separator: what separates its values.
        skipped: how many lines come before the header.

    Returns:
        The names of its columns and the number of its rows.

    Raises:
        InputError: at the first fault; the message names its line.
    """
    line = 0
    quoted = _quoted_row(separator)
    try:
        # With universal newlines Python would end a line at a lone \r, which polars does not.
        with (
            source.open() as content,
            io.TextIOWrapper(content, encoding="utf-8-sig", newline="\n") as file,
            unlimited_fields(),
        ):
            for _ in range(skipped):
                file.readline()
            lines: list[str] = []
            reader = csv.reader(_recorded(file, lines), strict=True, delimiter=separator)
            header = next(reader, [])
            _check_names(source.name, [name for name in header if name or len(header) == 1])
            unnamed = {at for at, name in enumerate(header) if not name and len(header) > 1}
            rows, blank_from = 0, None
            lines.clear()
            for row in reader:
                line = reader.line_num + skipped
                raw = "".join(lines)
                lines.clear()
                if not row:
                    if "\r" in raw.removesuffix("\r\n"):
                        raise _lone_return(source.name, line)
                    blank_from = blank_from or line
                    rows += len(header) == 1  # in a single column a blank line is an empty value
                    continue
                if blank_from and len(header) > 1:
                    raise InputError(f"{source.name}, line {blank_from}: the line is blank")
                blank_from = None
                rows += 1
                if len(row) != len(header):
                    raise _other_length(source.name, line, len(row), len(header), separator)
                if ('"' in raw or "\r" in raw) and not quoted.fullmatch(raw):
                    raise _stray_quote(source.name, line, raw)
                if unnamed:
                    unnamed -= {at for at in unnamed if row[at]}
    except UnicodeDecodeError as error:
        raise _line_not_utf8(source) or error from error
    except csv.Error as error:
        if "new-line character" in str(error):
            raise _lone_return(source.name, line + 1) from error
        raise InputError(f"{source.name}, line {line + 1}: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {source.name}: {error}") from error
    names = [None if at in unnamed else name for at, name in enumerate(header)]
    _check_names(source.name, [name for name in names if name is not None])  # several of none
    return CsvShape(names, rows)


def _quoted_row(separator: str) -> re.Pattern[str]:
    """A line as RFC 4180 says: a value is quoted as a whole, with the quotes inside it doubled, or
    holds no quote.

    Python and polars accept other forms, but read them differently, and polars may lose rows.
    """
    between = re.escape(separator)
    value = rf'(?:"[^"]*(?:""[^"]*)*"|[^"{between}\r\n]*)'
    return re.compile(rf"{value}(?:{between}{value})*\r?\n?")


def check_json_lines(source: Source) -> dict[str, set[str]]:
    """Check that every line is a JSON object, or blank.

    Returns:
        The names, in their order, with the kinds of their values: "bool", "int" (of 53 bits),
        "long" (of 64 bits), "longer", "float", "str", "dict", "list", and "list of" what it holds.

    Raises:
        InputError: at the first fault; the message names its line.
    """
    kinds: dict[str, set[str]] = {}
    with source.open() as file:
        for number, line in enumerate(file, start=1):
            place = f"{source.name}, line {number}"
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = json.loads(
                    line.decode(),
                    parse_constant=_refuse_constant,
                    parse_float=_finite,
                    object_pairs_hook=_unique_keys,
                )
            except UnicodeDecodeError as error:
                raise _not_utf8(source.name, error, number) from error
            except json.JSONDecodeError as error:
                raise InputError(f"{place}: not JSON ({error.msg})") from error
            except RecursionError as error:
                raise InputError(f"{place}: nested too deeply") from error
            except ValueError as error:
                raise InputError(f"{place}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise InputError(
                    f'{place}: expected an object, as {{"column": value}}, got {type(row).__name__}'
                )
            for name, value in row.items():
                found = kinds.setdefault(name, set())
                if value is not None:
                    found.add(_kind(value))
    if not kinds:
        raise InputError(f"{source.name} has no rows")
    return kinds


def _kind(value: Any) -> str:
    if type(value) is int and not -(2**53) <= value <= 2**53:
        return "long" if -(2**63) <= value < 2**63 else "longer"
    if type(value) is list and value:
        within = {type(v).__name__ if isinstance(v, list | dict) else "values" for v in value}
        return f"list of {' and '.join(sorted(within))}"
    return type(value).__name__


def _recorded(lines: Iterable[str], into: list[str]) -> Iterator[str]:
    """The lines, each also appended to `into`."""
    for line in lines:
        into.append(line)
        yield line


def _check_names(file: str, names: list[str]) -> None:
    if not names:
        raise InputError(f"{file} has no header in its first line")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{file} has more than one column {listing(sorted(repeated))}")
    if len(names) == 1 and (found := next((c for c in CANDIDATES if c in names[0]), None)):
        raise InputError(
            f"{file} has one column, {names[0]!r}; if {found!r} separates its values, check that "
            "each line has as many as the header, or pass ",
            Argument("separator", found),
        )


def _other_length(file: str, line: int, values: int, names: int, separator: str) -> InputError:
    between = "a comma" if separator == "," else repr(separator)
    return InputError(
        f"{file}, line {line}: {values} value{'s' * (values != 1)} where the header names {names} "
        f"column{'s' * (names != 1)}; quote values that hold {between}"
    )


def _stray_quote(file: str, line: int, raw: str) -> InputError:
    if '"' not in raw:
        return _lone_return(file, line)
    return InputError(
        f'{file}, line {line}: a quote inside a value that is not quoted; write 5" as "5"""'
    )


def _lone_return(file: str, line: int) -> InputError:
    return InputError(
        f"{file}, line {line}: a carriage return without a line feed; end lines with a line feed, "
        "for instance with tr '\\r' '\\n'"
    )


def _line_not_utf8(source: Source) -> InputError | None:
    """The error for the first line that is not UTF-8: lines are decoded ahead, in pieces."""
    with source.open() as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return _not_utf8(source.name, error, number)
    return None


def _not_utf8(file: str, error: UnicodeDecodeError, line: int) -> InputError:
    encoding = "utf-16" if error.object.startswith(_UTF16) else "latin1"
    return InputError(
        f"{file} is not UTF-8 (byte {error.object[error.start]:#04x} in line {line}); "
        f"save it as UTF-8, for instance with iconv -f {encoding} -t utf-8"
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}; write null for a missing number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        repeated = sorted(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{listing(repeated)} appears more than once")
    return row
