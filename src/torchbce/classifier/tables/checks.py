"""One pass over a CSV or JSON lines file that finds malformed lines and names them.

polars refuses some of them without a line number (short rows, repeated names, invalid JSON), and
reads others as something else than was written (stray quotes).
"""

import codecs
import csv
import gzip
import json
import math
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torchbce.classifier.errors import InputError, listing
from torchbce.classifier.tables.formats import is_gzipped

# RFC 4180: a value is quoted as a whole, with the quotes inside it doubled, or holds no quote. What
# else Python and polars accept they read differently, and polars may lose rows.
_VALUE = r'(?:"[^"]*(?:""[^"]*)*"|[^",\r\n]*)'
_ROW = re.compile(rf"{_VALUE}(?:,{_VALUE})*\r?\n?")

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_csv(path: Path) -> int:
    """Check a CSV file line by line.

    Returns:
        The number of its rows.

    Raises:
        InputError: at the first fault; the message names its line.
    """
    opener = gzip.open if is_gzipped(path) else open
    field_limit = csv.field_size_limit(sys.maxsize)  # a document may be longer than 128 KiB
    line = 0
    try:
        # Python's universal newlines take a lone \r for the end of a line, polars does not.
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            lines: list[str] = []
            reader = csv.reader(_recorded(file, lines), strict=True)
            header = next(reader, [])
            _check_names(path, header)
            rows, blank_from = 0, None
            lines.clear()
            for row in reader:
                line = reader.line_num
                raw = "".join(lines)
                lines.clear()
                if not row:
                    if "\r" in raw.removesuffix("\r\n"):
                        raise _lone_return(path, line)
                    blank_from = blank_from or line
                    rows += len(header) == 1  # in a single column a blank line is an empty value
                    continue
                if blank_from and len(header) > 1:
                    raise InputError(f"{str(path)!r}, line {blank_from}: the line is blank")
                blank_from = None
                rows += 1
                _check_row(path, line, row, raw, header)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error, line) from error
    except csv.Error as error:
        raise InputError(f"{str(path)!r}, line {line + 1}: {error}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    finally:
        csv.field_size_limit(field_limit)
    if rows == 0:
        raise InputError(f"{str(path)!r} has a header and no rows")
    return rows


def check_json_lines(path: Path) -> None:
    """Check that every line is a JSON object, or blank.

    Raises:
        InputError: at the first fault; the message names its line.
    """
    objects = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{str(path)!r}, line {number}"
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
                raise _not_utf8(path, error, number - 1) from error
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
            objects += 1
    if objects == 0:
        raise InputError(f"{str(path)!r} has no rows")


def _recorded(lines: Iterable[str], into: list[str]) -> Iterator[str]:
    """The lines, each also appended to `into`."""
    for line in lines:
        into.append(line)
        yield line


def _check_names(path: Path, names: list[str]) -> None:
    if not names:
        raise InputError(f"{str(path)!r} has no header in its first line")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"{str(path)!r} has more than one column {listing(sorted(repeated))}")
    if len(names) == 1 and (found := re.search("[;\t|]", names[0])):
        raise InputError(
            f"{str(path)!r} has one column, {names[0]!r}; if {found[0]!r} separates its values, "
            "save it with commas"
        )


def _check_row(path: Path, line: int, row: list[str], raw: str, header: list[str]) -> None:
    if len(row) != len(header):
        raise InputError(
            f"{str(path)!r}, line {line}: {len(row)} values where the header names "
            f"{len(header)} columns; quote values that hold a comma"
        )
    if ('"' in raw or "\r" in raw) and not _ROW.fullmatch(raw):
        if '"' not in raw:
            raise _lone_return(path, line)
        raise InputError(
            f"{str(path)!r}, line {line}: a quote inside a value that is not quoted; "
            'write 5" as "5"""'
        )


def _lone_return(path: Path, line: int) -> InputError:
    return InputError(
        f"{str(path)!r}, line {line}: a carriage return without a line feed; end lines with one"
    )


def _not_utf8(path: Path, error: UnicodeDecodeError, line: int) -> InputError:
    encoding = "utf-16" if error.object.startswith(_UTF16) else "latin1"
    return InputError(
        f"{str(path)!r} is not UTF-8 (byte {error.object[error.start]:#04x} after line {line}); "
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
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{listing(repeated)} is there more than once")
    return row
