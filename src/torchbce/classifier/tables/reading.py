"""Tables from files: CSV (also gzipped), Parquet and JSON lines, read with polars.

CSV is read as strings. What kind a column is, is decided in one place (`columns`), and the values
that are written next to the predictions are those that were read.
"""

import codecs
import glob
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from torchbce.classifier.errors import InputError, file_error
from torchbce.classifier.tables.checks import check_csv, check_json_lines
from torchbce.classifier.tables.formats import format_of

BATCH_ROWS = 8192


def read(path: Path) -> pl.DataFrame:
    """Read a whole table.

    Args:
        path: a .csv, .csv.gz, .parquet or .jsonl file. A CSV is UTF-8 with a header, and its values
            are quoted as RFC 4180 says.

    Returns:
        The table. All columns of a CSV are strings.

    Raises:
        InputError: if the file is not there, cannot be read, has no rows or is malformed; the
            message names the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "t.csv"
        ...     _ = path.write_text("age,liked\\n31,yes\\n47,no\\n")
        ...     read(path).rows()
        [('31', 'yes'), ('47', 'no')]
    """
    return pl.concat(batches(path), how="vertical")


def batches(path: Path, frame: pl.LazyFrame | None = None) -> Iterator[pl.DataFrame]:
    """The rows in their order, at most `BATCH_ROWS` at a time.

    Args:
        path: the file.
        frame: what `scan` returned for it, to scan it only once.

    Raises:
        InputError: as `read` does.
    """
    frame = scan(path) if frame is None else frame
    try:
        yield from frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from error


def numeric_columns(path: Path) -> dict[str, pl.DataType]:
    """The columns of a CSV that hold only 64-bit numbers, with their types; {} of other formats."""
    if format_of(path) != "csv":
        return {}
    try:
        schema = pl.scan_csv(path, infer_schema_length=None, glob=False).collect_schema()
    except pl.exceptions.PolarsError:
        return {}  # so all columns stay strings
    return {name: dtype for name, dtype in schema.items() if dtype in (pl.Int64, pl.Float64)}


def scan(path: Path) -> pl.LazyFrame:
    """A lazy table of a file that has been checked. Raises `InputError` as `read` does."""
    kind = format_of(path)
    try:
        if not path.exists():
            raise InputError(f"there is no file {str(path)!r}")
        if path.is_dir():
            raise InputError(f"{str(path)!r} is a directory; give a file")
        if path.stat().st_size == 0:
            raise InputError(f"{str(path)!r} is empty")
        if kind == "csv":
            rows = check_csv(path)
            return pl.scan_csv(path, infer_schema=False, n_rows=rows, glob=False)
        if kind == "jsonl":
            check_json_lines(path)
            if _starts_with_bom(path):  # polars takes a byte order mark for a value
                return pl.scan_ndjson(path.read_bytes()[3:], infer_schema_length=None)
            return pl.scan_ndjson(glob.escape(str(path)), infer_schema_length=None)
        frame = pl.scan_parquet(path, glob=False)
        if frame.select(pl.len()).collect().item() == 0:
            raise InputError(f"{str(path)!r} has a header and no rows")
        return frame
    except OSError as error:
        raise file_error("read", path, error) from error
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from error


def _starts_with_bom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == codecs.BOM_UTF8


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0]
    return InputError(f"cannot read {str(path)!r} as {format_of(path)}: {reason}")
