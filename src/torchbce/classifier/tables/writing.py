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

from torchbce.classifier.errors import InputError, file_error, listing
from torchbce.classifier.outputs import temporary_folder, written
from torchbce.classifier.tables.formats import format_of, is_gzipped


class RowWriter:
    """Appends tables of the same columns to a stream, in one format.

    Args:
        stream: where the rows go.
        kind: "csv", "parquet" or "jsonl".
        compress: whether to gzip them.
    """

    def __init__(self, stream: IO[bytes], kind: str, compress: bool = False) -> None:
        self.keeps_strings = kind == "csv"
        self._kind = kind
        self._stream = stream
        # zlib's gzip (16 + its largest window, 15) has no time stamp: the same rows are the same
        # bytes. gzip.GzipFile would write to the closed stream, when deleted after an error.
        self._compressor = zlib.compressobj(level=9, wbits=31) if compress else None
        self._header = True
        self._waiting: Path | None = None
        self._cleanup = ExitStack()

    def write(self, table: pl.DataFrame) -> None:
        """Append the rows of a table. Raises `InputError` if the format cannot hold them."""
        if self._kind == "parquet":
            # polars writes a Parquet file in one call; until then the rows wait on disk.
            try:
                self._waiting = self._waiting or self._cleanup.enter_context(temporary_folder())
                count = len(os.listdir(self._waiting))
                table.write_ipc(self._waiting / f"{count:08}.arrow")
            except OSError as error:
                folder = Path(tempfile.gettempdir())
                raise file_error("write temporary files into", folder, error) from error
            return
        buffer = io.BytesIO()
        if self._kind == "csv":
            nested = [name for name, dtype in table.schema.items() if dtype.is_nested()]
            if nested:
                raise InputError(
                    f"a CSV cannot hold the lists or structs of {listing(nested)}; choose an "
                    "output that ends in .jsonl or .parquet"
                )
            table.write_csv(buffer, include_header=self._header)
        else:
            table.write_ndjson(buffer)
        self._header = False
        rows = buffer.getvalue()
        self._stream.write(self._compressor.compress(rows) if self._compressor else rows)

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


@contextmanager
def row_writer(path: Path | None, overwrite: bool, json_lines: bool) -> Iterator[RowWriter]:
    """A writer to a file, which appears whole or not at all, or to standard output.

    Args:
        path: the file; None is standard output.
        overwrite: whether to replace the file if it exists.
        json_lines: whether standard output gets JSON lines rather than CSV.

    Raises:
        InputError: if the file exists and `overwrite` is False, or cannot be written.
    """
    if path is None:
        stream = sys.stdout.buffer
        writer = RowWriter(stream, "jsonl" if json_lines else "csv")
        yield writer
        writer.close()
        return
    kind, compress = format_of(path), is_gzipped(path)
    with written(path, overwrite) as partial, partial.open("wb") as file:
        writer = RowWriter(file, kind, compress)
        try:
            yield writer
            writer.close()
        finally:
            writer.discard()
        os.fsync(file.fileno())
