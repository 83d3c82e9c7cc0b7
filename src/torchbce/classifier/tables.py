"""Tables in and out: CSV (also gzipped), Parquet and JSON lines, read with polars.

CSV is read as strings: what a column means is decided once, in `columns`, and the values that a
row came with leave it unchanged.
"""

import csv
import gzip
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import polars as pl

from torchbce.classifier.errors import InputError, listing

FORMATS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
}

BATCH_ROWS = 8192


def read(path: Path) -> pl.DataFrame:
    """The whole table, checked."""
    return _collect(path, scan(path))


def batches(path: Path) -> Iterator[pl.DataFrame]:
    """The table in its own order, at most `BATCH_ROWS` rows at a time. It is checked first."""
    frame = scan(path)
    try:
        yield from frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from error


def numeric_columns(path: Path) -> dict[str, pl.DataType]:
    """The columns of a CSV that hold numbers alone, and of which type; of other formats, none."""
    if format_of(path) != "csv":
        return {}
    try:
        schema = pl.scan_csv(path, infer_schema_length=None).collect_schema()
    except pl.exceptions.PolarsError:
        return {}  # then they stay strings, as they came
    return {name: dtype for name, dtype in schema.items() if dtype.is_numeric()}


def scan(path: Path) -> pl.LazyFrame:
    """A lazy table, after the checks that polars leaves out. Raises `InputError`."""
    kind = format_of(path)
    try:
        if not path.exists():
            raise InputError(f"there is no file {str(path)!r}")
        if path.is_dir():
            raise InputError(f"{str(path)!r} is a directory; give a file")
        if path.stat().st_size == 0:
            raise InputError(f"{str(path)!r} is empty")
        if kind == "csv":
            rows = _check_csv(path)
            return pl.scan_csv(path, infer_schema=False, n_rows=rows)
        if kind == "jsonl":
            _check_json_lines(path)
            return pl.scan_ndjson(path, infer_schema_length=None)
        frame = pl.scan_parquet(path, glob=False)
        if frame.select(pl.len()).collect().item() == 0:
            raise InputError(f"{str(path)!r} has a header and no rows")
        return frame
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from error


def format_of(path: Path) -> str:
    """The format that a file's name says."""
    name = path.name.lower()
    for ending, kind in FORMATS.items():
        if name.endswith(ending):
            return kind
    raise InputError(
        f"{str(path)!r} is of no known format; a table's name ends in {listing(FORMATS, 9, 'or')}"
    )


def _collect(path: Path, frame: pl.LazyFrame) -> pl.DataFrame:
    try:
        return frame.collect()
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0]
    return InputError(f"cannot read {str(path)!r} as {format_of(path)}: {reason}")


def _check_csv(path: Path) -> int:
    """The number of rows, after a pass that finds what polars passes over in silence.

    polars fills short rows with nulls, renames repeated columns, and names no line.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    field_limit = csv.field_size_limit(sys.maxsize)  # a document may be longer than 128 KiB
    line = 0
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            _check_names(path, header)
            rows, blank_from = 0, None
            for row in reader:
                line = reader.line_num
                if not row:
                    blank_from = blank_from or line
                    rows += len(header) == 1  # there, a blank line is an empty value
                    continue
                if blank_from and len(header) > 1:
                    raise InputError(f"{str(path)!r}, line {blank_from}: the line is blank")
                blank_from = None
                rows += 1
                if len(row) != len(header):
                    raise InputError(
                        f"{str(path)!r}, line {line}: {len(row)} values where the header names "
                        f"{len(header)} columns; quote values that hold a comma"
                    )
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(path)!r} is not UTF-8 (byte {error.object[error.start]:#04x} after line "
            f"{line or 1}); save it as UTF-8, for instance with iconv -f latin1 -t utf-8"
        ) from error
    except csv.Error as error:
        raise InputError(f"{str(path)!r}, line {line + 1}: {error}") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    finally:
        csv.field_size_limit(field_limit)
    if rows == 0:
        raise InputError(f"{str(path)!r} has a header and no rows")
    return rows


def _check_names(path: Path, names: list[str]) -> None:
    if not names:
        raise InputError(f"{str(path)!r} has no header in its first line")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"{str(path)!r} has more than one column {listing(sorted(repeated))}")


def _check_json_lines(path: Path) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(f"{str(path)!r}, line {number}: not UTF-8") from error
            except json.JSONDecodeError as error:
                if not line.strip():
                    continue
                raise InputError(f"{str(path)!r}, line {number}: not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise InputError(
                    f"{str(path)!r}, line {number}: expected an object, as "
                    '{"column": value}, got ' + type(row).__name__
                )


class RowWriter:
    """Writes tables one below the other, in one format."""

    def __init__(self, stream: IO[bytes], kind: str, compress: bool = False) -> None:
        self.keeps_strings = kind == "csv"
        self._kind = kind
        # mtime=0: the same rows make the same bytes.
        self._stream = gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) if compress else stream
        self._header = True
        self._parts: tempfile.TemporaryDirectory[str] | None = None

    def write(self, table: pl.DataFrame) -> None:
        if self._kind == "parquet":
            # One call writes a Parquet file: until then the rows wait on disk, not in memory.
            self._parts = self._parts or tempfile.TemporaryDirectory(prefix="torchbce-")
            count = len(os.listdir(self._parts.name))
            table.write_ipc(Path(self._parts.name) / f"{count:08}.arrow")
            return
        buffer = io.BytesIO()
        if self._kind == "csv":
            table.write_csv(buffer, include_header=self._header)
        else:
            table.write_ndjson(buffer)
        self._header = False
        self._stream.write(buffer.getvalue())

    def close(self) -> None:
        """Write what is left; the stream itself stays open."""
        if self._parts is not None:
            pl.scan_ipc(Path(self._parts.name) / "*.arrow").sink_parquet(self._stream)  # type: ignore[arg-type]
        if isinstance(self._stream, gzip.GzipFile):
            self._stream.close()
        else:
            self._stream.flush()

    def discard(self) -> None:
        """Remove the rows that waited."""
        if self._parts is not None:
            self._parts.cleanup()


@contextmanager
def row_writer(path: Path | None, overwrite: bool, json_lines: bool) -> Iterator[RowWriter]:
    """A writer to a file, which appears whole or not at all, or to standard output."""
    if path is None:
        writer = RowWriter(sys.stdout.buffer, "jsonl" if json_lines else "csv")
        yield writer
        writer.close()
        return
    kind, compress = format_of(path), path.name.lower().endswith(".gz")
    refuse_existing(path, overwrite)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            writer = RowWriter(file, kind, compress)
            try:
                yield writer
                writer.close()
            finally:
                writer.discard()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise if `path` is there and was not meant to be replaced, or has no folder to stand in."""
    if path.exists() and not overwrite:
        raise InputError(f"{str(path)!r} exists; give --overwrite to replace it")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")
