"""Tables to files: CSV (also gzipped), Parquet and JSON lines, written with polars."""

import io
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import polars as pl
import polars.selectors as cs

from torchbce.classifier.errors import InputError, listing, name_columns
from torchbce.classifier.outputs import temporary_folder, written
from torchbce.classifier.tables.formats import Format, output_format


class RowWriter:
    """Appends tables of the same columns to a stream, in one format.

    Args:
        stream: where the rows go.
        format: how they are written; a compression is gzip's.
    """

    def __init__(self, stream: IO[bytes], format: Format) -> None:
        self.keeps_strings = format.kind == "csv"
        self._kind = format.kind
        self._separator = format.separator
        self._stream = stream
        # zlib's gzip (16 + its largest window, 15) has no time stamp: the same rows are the same
        # bytes. gzip.GzipFile would write to the closed stream, when deleted after an error.
        self._compressor = zlib.compressobj(level=9, wbits=31) if format.compression else None
        self._header = True
        self._waiting: Path | None = None
        self._cleanup = ExitStack()

    def write(self, table: pl.DataFrame) -> None:
        """Append the rows of a table. Raises `InputError` if the format cannot hold them."""
        if self._kind == "parquet":
            self._wait(table)
            return
        table = writable(table, self._kind)
        buffer = io.BytesIO()
        if self._kind == "csv":
            table.write_csv(buffer, include_header=self._header, separator=self._separator)
        else:
            table.write_ndjson(buffer)
        self._header = False
        rows = buffer.getvalue()
        self._stream.write(self._compressor.compress(rows) if self._compressor else rows)

    def _wait(self, table: pl.DataFrame) -> None:
        """polars writes a Parquet file in one call; until then the rows wait on disk."""
        try:
            self._waiting = self._waiting or self._cleanup.enter_context(temporary_folder())
            count = len(os.listdir(self._waiting))
            table.write_ipc(self._waiting / f"{count:08}.arrow")
        except OSError as error:
            folder = str(self._waiting or tempfile.gettempdir())
            raise InputError(
                f"cannot write the rows that wait in the temporary folder {folder!r}: "
                f"{error.strerror or error}; the environment variable TMPDIR names another"
            ) from error

    def close(self) -> None:
        """Write what is left. Does not close the stream."""
        if self._waiting is not None:
            rows = pl.scan_ipc(self._waiting / "*.arrow")
            with ThreadPoolExecutor(1) as thread:  # so that a signal is handled meanwhile
                thread.submit(rows.sink_parquet, self._stream).result()
        if self._compressor is not None:
            self._stream.write(self._compressor.flush())
        self._stream.flush()

    def discard(self) -> None:
        """Remove the temporary files."""
        self._cleanup.close()


def writable(table: pl.DataFrame, kind: str) -> pl.DataFrame:
    """The table with values that a CSV or JSON lines can hold: durations as ISO 8601 writes them.

    Raises:
        InputError: for lists, structs and bytes in a CSV, bytes and infinite numbers in JSON lines.
    """
    lacking = [
        name for name, dtype in table.schema.items() if not _holds(dtype, nested=kind == "jsonl")
    ]
    if lacking:
        format, other = ("a CSV", ".jsonl or .parquet") if kind == "csv" else ("JSON", ".parquet")
        types = listing(sorted({str(table.schema[name]) for name in lacking}), most=3)
        raise InputError(
            f"{format} cannot hold the values of {name_columns(lacking)}, of type {types}; choose "
            f"an output that ends in {other}, or drop {'it' if len(lacking) == 1 else 'them'}"
        )
    if kind == "jsonl":
        floats = table.select(cs.float().is_infinite().any())
        if infinite := [column.name for column in floats if column[0]]:
            raise InputError(
                f"JSON has no infinite numbers, as in {name_columns(infinite)}; choose an output "
                "that ends in .csv or .parquet"
            )
    return table.with_columns(cs.duration().dt.to_string("iso"))


def _holds(dtype: pl.DataType, nested: bool) -> bool:
    """Whether text can hold values of a type; of lists and structs, only if `nested`."""
    if isinstance(dtype, pl.List | pl.Array):
        return nested and dtype.inner is not None and _holds(dtype.inner, nested)  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return nested and all(_holds(field.dtype, nested) for field in dtype.fields)  # type: ignore[arg-type]
    return dtype not in (pl.Binary, pl.Object)


@contextmanager
def row_writer(path: Path | None, overwrite: bool, json_lines: bool) -> Iterator[RowWriter]:
    """A writer to a file, which appears whole or not at all, or to standard output.

    Args:
        path: the file; None and "-" are standard output.
        overwrite: whether to replace the file if it exists.
        json_lines: whether standard output gets JSON lines rather than CSV.

    Raises:
        InputError: if the file exists and `overwrite` is False, or cannot be written.
    """
    if path is None or str(path) == "-":
        writer = RowWriter(sys.stdout.buffer, Format("jsonl" if json_lines else "csv"))
        yield writer
        writer.close()
        return
    format = output_format(path)
    with written(path, overwrite) as partial, partial.open("wb") as file:
        writer = RowWriter(file, format)
        try:
            yield writer
            writer.close()
        finally:
            writer.discard()
        os.fsync(file.fileno())
