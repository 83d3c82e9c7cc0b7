"""Tables to files: CSV (also gzipped), Parquet and JSON lines, written with polars."""

import io
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import polars as pl

from torchbce.classifier.errors import InputError, file_error, listing
from torchbce.classifier.outputs import refuse_existing
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
        self._waiting: tempfile.TemporaryDirectory[str] | None = None

    def write(self, table: pl.DataFrame) -> None:
        """Append the rows of a table. Raises `InputError` if the format cannot hold them."""
        if self._kind == "parquet":
            # polars writes a Parquet file in one call; until then the rows wait on disk.
            self._waiting = self._waiting or tempfile.TemporaryDirectory(prefix="torchbce-")
            count = len(os.listdir(self._waiting.name))
            table.write_ipc(Path(self._waiting.name) / f"{count:08}.arrow")
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
            pl.scan_ipc(Path(self._waiting.name) / "*.arrow").sink_parquet(self._stream)
        if self._compressor is not None:
            self._stream.write(self._compressor.flush())
        self._stream.flush()

    def discard(self) -> None:
        """Remove the temporary files."""
        if self._waiting is not None:
            self._waiting.cleanup()


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
        writer = RowWriter(sys.stdout.buffer, "jsonl" if json_lines else "csv")
        yield writer
        writer.close()
        return
    kind, compress = format_of(path), is_gzipped(path)
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
        raise file_error("write", path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
