"""Tables in and out: CSV (also gzipped), Parquet and JSON lines, read with polars.

CSV is read as strings: what a column means is decided once, in `columns`, and the values that a
row came with leave it unchanged.
"""

import codecs
import glob
import gzip
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import polars as pl

from torchbce.classifier.errors import InputError, listing
from torchbce.classifier.table_checks import check_csv, check_json_lines

FORMATS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
}

BATCH_ROWS = 8192


def read(path: Path) -> pl.DataFrame:
    """The whole table, checked."""
    return pl.concat(batches(path), how="vertical")


def batches(path: Path, frame: pl.LazyFrame | None = None) -> Iterator[pl.DataFrame]:
    """The table in its own order, at most `BATCH_ROWS` rows at a time; `frame` if it is scanned."""
    frame = scan(path) if frame is None else frame
    try:
        yield from frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from error


def numeric_columns(path: Path) -> dict[str, pl.DataType]:
    """The columns of a CSV that hold 64-bit numbers alone, and which; of other formats, none."""
    if format_of(path) != "csv":
        return {}
    try:
        schema = pl.scan_csv(path, infer_schema_length=None, glob=False).collect_schema()
    except pl.exceptions.PolarsError:
        return {}  # then they stay strings, as they came
    return {name: dtype for name, dtype in schema.items() if dtype in (pl.Int64, pl.Float64)}


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
            rows = check_csv(path)
            return pl.scan_csv(path, infer_schema=False, n_rows=rows, glob=False)
        if kind == "jsonl":
            check_json_lines(path)
            if _starts_with_mark(path):  # polars takes it for a value
                return pl.scan_ndjson(path.read_bytes()[3:], infer_schema_length=None)
            return pl.scan_ndjson(glob.escape(str(path)), infer_schema_length=None)
        frame = pl.scan_parquet(path, glob=False)
        if frame.select(pl.len()).collect().item() == 0:
            raise InputError(f"{str(path)!r} has a header and no rows")
        return frame
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except pl.exceptions.PolarsError as error:
        raise _unreadable(path, error) from error


def _starts_with_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == codecs.BOM_UTF8


def format_of(path: Path) -> str:
    """The format that a file's name says."""
    name = path.name.lower()
    for ending, kind in FORMATS.items():
        if name.endswith(ending):
            return kind
    raise InputError(
        f"{str(path)!r} is of no known format; a table's name ends in {listing(FORMATS, 9, 'or')}"
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0]
    return InputError(f"cannot read {str(path)!r} as {format_of(path)}: {reason}")


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
            nested = [name for name, dtype in table.schema.items() if dtype.is_nested()]
            if nested:
                raise InputError(
                    f"a CSV cannot hold the lists or structures of {listing(nested)}; give an "
                    "output that ends in .jsonl or .parquet"
                )
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
