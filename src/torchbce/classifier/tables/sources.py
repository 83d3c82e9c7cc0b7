"""Where a table comes from: files, patterns, folders of Parquet, pipes and standard input.

What cannot be read twice (a pipe), or not by polars (a zip archive, compressed JSON lines), is read
into memory.
"""

import codecs
import gzip
import io
import stat
import sys
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import IO

import polars as pl

from torchbce.classifier.errors import InputError, file_error
from torchbce.classifier.tables.formats import Format, format_of, known_format

Paths = str | Path | Sequence[str | Path]

#: How files begin: the format, or how its content is compressed.
_GZIP, _ZSTD, _ZIP, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"
_COMPRESSED = {_GZIP: ".gz", _ZSTD: ".zst", _ZIP: ".zip"}
#: gzip's own trailer has a length other than 0, so eight zeros at the end are padding.
_PADDING = bytes(8)


@dataclass(frozen=True)
class Source:
    """One table to read.

    Attributes:
        name: the file's name, as messages write it.
        format: how it is written; `compression` is what polars and the check have to undo.
        data: the file, its content, or the files of a folder of Parquet.
    """

    name: str
    format: Format
    data: Path | bytes | list[Path]

    def open(self) -> IO[bytes]:
        """The content, decompressed. Raises `OSError`, `EOFError` or `zlib.error`."""
        if isinstance(self.data, bytes):
            return io.BytesIO(self.data)
        assert isinstance(self.data, Path)
        if self.format.compression == ".gz":
            return gzip.open(self.data)  # type: ignore[return-value]
        return self.data.open("rb")


def sources(paths: Paths) -> list[Source]:
    """The tables of a path, a pattern, a folder of Parquet, "-", or of several of them.

    Raises:
        InputError: if there is no such file, or its format is not known or not that of its content.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise InputError("give at least one table")
    for path in given:
        if not isinstance(path, str | Path):
            raise InputError(
                f"a table is read from a path, which is a str or Path; got {type(path).__name__}"
            )
    return [source for path in given for source in _sources(path)]


def _sources(path: str | Path) -> list[Source]:
    if str(path) == "-":
        return [_from_content("standard input", _standard_input())]
    path = Path(path)
    try:
        if not path.exists() and has_magic(str(path)):
            found = sorted(glob(str(path), recursive=True))
            if not found:
                raise InputError(f"no file matches {str(path)!r}")
            return [source for name in found for source in _sources(Path(name))]
        if path.is_dir():
            return [_folder(path)]
        return [_file(path)]
    except FileNotFoundError as error:
        known_or_raise = format_of(path)
        assert known_or_raise
        raise InputError(f"there is no file {str(path)!r}") from error
    except OSError as error:
        raise file_error("read", path, error) from error


def _folder(folder: Path) -> Source:
    files = sorted(path for path in folder.rglob("*.parquet") if path.is_file())
    if not files:
        raise InputError(
            f"{str(folder)!r} is a directory; give a file, or a folder of .parquet files"
        )
    return Source(repr(str(folder)), Format("parquet"), files)


def _file(path: Path) -> Source:
    name = repr(str(path))
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe
        return _from_content(name, path.read_bytes(), known_format(path.name))
    if path.name.lower().endswith(".zip") and known_format(path.name) is None:
        known: Format | None = None
    else:
        known = format_of(path)
    with path.open("rb") as file:
        head = file.read(4096)
        if not head:
            raise InputError(f"{name} is empty")
        if known is None or known.compression in (".zip", ".zst"):
            return _from_content(name, head + file.read(), known or Format("csv", ",", ".zip"))
        padded = known.compression == ".gz" and _ends_with_padding(file)
    _check_head(name, head, known)
    if known.compression and (known.kind != "csv" or padded):
        return _from_content(name, path.read_bytes(), known)
    try:
        str(path).encode()
    except UnicodeEncodeError:  # polars takes paths in UTF-8 only
        return (
            Source(name, known, path.read_bytes())
            if not known.compression
            else (_from_content(name, path.read_bytes(), known))
        )
    return Source(name, known, path)


def _ends_with_padding(file: IO[bytes]) -> bool:
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - len(_PADDING), 0))
    return file.read() == _PADDING


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise InputError("standard input is closed; give a file")
    return sys.stdin.buffer.read()


def _from_content(name: str, content: bytes, known: Format | None = None) -> Source:
    """A table whose content is in memory, of the format that its name says or that it shows."""
    if not content:
        raise InputError(f"{name} is empty")
    if known is None or known.compression:
        compression = known.compression if known else _compression(content)
        if compression:
            content, member = _decompressed(name, content, compression)
            known = known_format(member) if member else known
            if member and known is None:
                raise InputError(f"{name} holds {member!r}, whose name does not say its format")
            if not content:
                raise InputError(f"{name} is empty")
        known = replace_compression(known)
    if known is None:
        known = Format(_kind(content))
    _check_head(name, content[:4096], known)
    if known.kind == "jsonl":
        content = content.removeprefix(codecs.BOM_UTF8)
    return Source(name, known, content)


def replace_compression(known: Format | None) -> Format | None:
    """The format of the decompressed content."""
    return known and known._replace(compression="")


def _compression(content: bytes) -> str:
    return next((c for magic, c in _COMPRESSED.items() if content.startswith(magic)), "")


def _kind(content: bytes) -> str:
    if content.startswith(_PARQUET):
        return "parquet"
    return "jsonl" if content.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{" else "csv"


def _decompressed(name: str, content: bytes, compression: str) -> tuple[bytes, str]:
    """The content, and its name in a zip archive."""
    try:
        if compression == ".gz":
            return gzip.decompress(content), ""
        if compression == ".zst":
            return _zstd(content), ""
        with closing(zipfile.ZipFile(io.BytesIO(content))) as archive:
            return _only_member(name, archive)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(f"cannot read {name}: {error}") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"cannot read {name}: {str(error).splitlines()[0]}") from error


def _zstd(content: bytes) -> bytes:
    """Decompressed by polars, the only library at hand that knows the format."""
    if not content.startswith(_ZSTD):
        raise OSError("Not a zstd file")
    lines = pl.scan_lines(content).collect().to_series()
    return "\n".join(lines.to_list()).encode() + b"\n"


def _only_member(name: str, archive: zipfile.ZipFile) -> tuple[bytes, str]:
    names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")]
    if any(n.startswith("xl/") for n in names):
        raise InputError(f"{name} is an Excel workbook; save its sheet as CSV")
    if len(names) != 1:
        raise InputError(f"{name} holds {len(names)} files; it must hold one, which is the table")
    return archive.read(names[0]), names[0]


def _check_head(name: str, head: bytes, known: Format) -> None:
    """Raise if a file begins like one of another format than its name says."""
    if known.compression or known.kind == "parquet":
        return
    if found := _compression(head):
        if (found == ".zip" and b"xl/" in head) or b"[Content_Types].xml" in head:
            raise InputError(f"{name} is an Excel workbook; save its sheet as CSV")
        what = {".gz": "compressed by gzip", ".zst": "compressed by zstd", ".zip": "a zip archive"}
        raise InputError(
            f"{name} is {what[found]}, which its name does not say; add {found!r} to its name, or "
            "decompress it"
        )
    if head.startswith(_PARQUET):
        raise InputError(f"{name} is a Parquet file, which its name does not say; rename it")
    if head.count(0) > len(head) // 4 and not head.startswith(
        (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    ):
        odd = head[1::2].count(0) >= head[::2].count(0)
        raise InputError(
            f"{name} is not UTF-8: every other byte is 0, as in UTF-16; save it as UTF-8, for "
            f"instance with iconv -f utf-16{'le' if odd else 'be'} -t utf-8"
        )
