"""Tables from files: CSV, Parquet and JSON lines, read with polars.

CSV is read as strings. What kind a column is, is decided in one place (`columns`), and the values
that are written next to the predictions are those that were read.
"""

import codecs
import glob
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from torchbce.classifier.errors import InputError, listing, name_columns
from torchbce.classifier.tables.checks import check_csv, check_json_lines
from torchbce.classifier.tables.separators import (
    check_separator,
    separator_line,
    separator_of,
)
from torchbce.classifier.tables.sources import Paths, Source, sources

BATCH_ROWS = 8192


@dataclass(frozen=True)
class Scan:
    """A table that was checked, and is not read yet.

    Attributes:
        name: the names of its files, as messages write them.
        frame: its rows, as polars reads them.
        strings: whether all of its columns are strings, as those of a CSV are.
        empty: whether it has no rows.
        notes: what the user should see of how it is read.
    """

    name: str
    frame: pl.LazyFrame
    strings: bool
    empty: bool = False
    notes: list[str] = field(default_factory=list)


def read(path: Paths | Scan, separator: str | None = None) -> pl.DataFrame:
    """Read a whole table.

    Args:
        path: a .csv, .tsv, .txt, .parquet, .jsonl or .ndjson file, which may be compressed (.gz,
            .zst, .zip); a pattern such as "day-*.csv", a folder of Parquet, "-" for standard input,
            or a list of these, whose rows are put together. A CSV is UTF-8 with a header, and its
            values are quoted as RFC 4180 says.
        separator: what separates the values of a CSV; None to look at its first lines.

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
    scanned = path if isinstance(path, Scan) else scan(path, separator)
    return pl.concat(batches(scanned), how="vertical")


def batches(table: Paths | Scan) -> Iterator[pl.DataFrame]:
    """The rows in their order, at most `BATCH_ROWS` at a time; of a table without rows, none once.

    Args:
        table: what `scan` returned, or what it takes.

    Raises:
        InputError: as `read` does.
    """
    scanned = table if isinstance(table, Scan) else scan(table)
    count = 0
    try:
        for batch in scanned.frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
            count += 1
            yield batch
        if count == 0:
            yield scanned.frame.collect()
    except pl.exceptions.PolarsError as error:
        raise _unreadable(scanned.name, "a table", error) from error


def scan(paths: Paths, separator: str | None = None, empty: bool = False) -> Scan:
    """A table that has been checked.

    Args:
        paths: as `read` takes them.
        separator: as `read` takes it.
        empty: whether a table with a header and without rows is one.

    Raises:
        InputError: as `read` does.
    """
    if separator is not None:
        check_separator(separator)
    found = sources(paths)
    kinds = {source.format.kind for source in found}
    if len(kinds) > 1:
        raise InputError(
            f"several files are one table only if they have the same format, but these are "
            f"{listing(sorted(kinds))}"
        )
    scans = [_scan(source, separator) for source in found]
    name = " and ".join(source.name for source in found[:3]) + " and more" * (len(found) > 3)
    none = all(scanned.empty for scanned in scans)
    if none and not empty:
        raise InputError(f"{name} has a header and no rows")
    frame = scans[0].frame if len(scans) == 1 else _together(scans)
    notes = [note for scanned in scans for note in scanned.notes]
    return Scan(name, frame, kinds == {"csv"}, none, notes)


def _scan(source: Source, separator: str | None) -> Scan:
    kind = source.format.kind
    try:
        if kind == "csv":
            return _scan_csv(source, separator)
        if kind == "jsonl":
            return Scan(source.name, _scan_json_lines(source), False)
        frame = _scan_parquet(source)
        rows = frame.select(pl.len()).collect().item()
        return Scan(source.name, frame, False, rows == 0)
    except OSError as error:
        raise InputError(f"cannot read {source.name}: {error.strerror or error}") from error
    except pl.exceptions.PolarsError as error:
        raise _unreadable(source.name, kind, error) from error


def _scan_csv(source: Source, separator: str | None) -> Scan:
    said = separator_line(source)
    skipped = 0 if said is None else 1
    chosen = separator_of(source, separator or said)
    names, rows = check_csv(source, chosen, skipped)
    assert not isinstance(source.data, list)
    frame = pl.scan_csv(
        source.data,
        separator=chosen,
        skip_lines=skipped,
        infer_schema=False,
        n_rows=rows,
        glob=False,
    )
    # polars keeps the doubled quotes of a name, and adds something to one that is repeated.
    found = frame.collect_schema().names()
    if found != names:
        unnamed = [own for own, name in zip(found, names, strict=True) if name is None]
        renamed = {own: name for own, name in zip(found, names, strict=True) if name is not None}
        frame = frame.drop(unnamed).rename(renamed)
    notes = []
    if separator is None and chosen != source.format.separator:
        what = "a tab" if chosen == "\t" else repr(chosen)
        notes.append(f"the values of {source.name} are separated by {what}")
    return Scan(source.name, frame, True, rows == 0, notes)


def _scan_json_lines(source: Source) -> pl.LazyFrame:
    """polars finds the types; where it would change values or give up, they are strings."""
    kinds = check_json_lines(source)
    assert not isinstance(source.data, list)
    content: bytes | str
    if isinstance(source.data, Path):
        # polars takes a path for a pattern, and a byte order mark for a value.
        content = _without_bom(source.data) or glob.escape(str(source.data))
    else:
        content = source.data
    if not any(map(_mixed, kinds.values())):
        frame = pl.scan_ndjson(content, infer_schema_length=None)
        try:
            frame.collect_schema()
        except pl.exceptions.PolarsError:  # lists or objects of different kinds
            pass
        else:
            return frame
    return _scan_mixed(content, kinds)


def _without_bom(path: Path) -> bytes | None:
    """The content without its byte order mark; None if it has none."""
    with path.open("rb") as file:
        return file.read() if file.read(3) == codecs.BOM_UTF8 else None


def _mixed(kinds: set[str]) -> bool:
    """Whether one type of polars cannot hold all values of these kinds as they are."""
    numbers = kinds & {"int", "long", "longer", "float"}
    others = kinds - numbers
    if any(kind.startswith("list of") for kind in kinds):
        others = others - {"list"}  # an empty one is of any type
    several = len(others) + bool(numbers) > 1 or any(" and " in kind for kind in kinds)
    return several or "longer" in kinds or {"long", "float"} <= kinds


def _scan_mixed(content: bytes | str, kinds: dict[str, set[str]]) -> pl.LazyFrame:
    """Values that differ in kind as strings, of which lists and objects are JSON."""
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        name: pl.String if _mixed(found) else _type(found) for name, found in kinds.items()
    }
    frame = pl.scan_ndjson(content, schema=schema)
    for name, found in kinds.items():
        if schema[name] == pl.String and found and not _mixed(found) and found != {"str"}:
            values = frame.select(name).collect().to_series()
            try:
                dtype = values.str.json_decode(infer_schema_length=None).dtype
            except pl.exceptions.PolarsError:
                continue
            frame = frame.with_columns(pl.col(name).str.json_decode(dtype))
    return frame


def _type(kinds: set[str]) -> type[pl.DataType]:
    if not kinds:
        return pl.Null
    if kinds <= {"int", "long"}:
        return pl.Int64
    if kinds <= {"int", "float"}:
        return pl.Float64
    return pl.Boolean if kinds == {"bool"} else pl.String


def _scan_parquet(source: Source) -> pl.LazyFrame:
    if isinstance(source.data, list):
        # A folder is called as its rows are: year=2024.
        files = [
            Scan(repr(str(path)), pl.scan_parquet(path, glob=False, hive_partitioning=True), False)
            for path in source.data
        ]
        return _together(files) if len(files) > 1 else files[0].frame
    return pl.scan_parquet(source.data, glob=False)


def _together(scans: list[Scan]) -> pl.LazyFrame:
    """The rows of several tables one after the other. Raises `InputError` if they do not fit."""
    first = scans[0]
    names = first.frame.collect_schema().names()
    frames = [first.frame]
    for other in scans[1:]:
        found = other.frame.collect_schema().names()
        lacking = [name for name in names if name not in set(found)]
        added = [name for name in found if name not in set(names)]
        if lacking or added:
            what = f"no {name_columns(lacking)}" if lacking else name_columns(added)
            raise InputError(
                f"several files are one table only if they have the same columns, but {other.name} "
                f"has {what}, unlike {first.name}"
            )
        frames.append(other.frame.select(names))
    schema = first.frame.collect_schema()
    for other, frame in zip(scans[1:], frames[1:], strict=True):
        for name, here in frame.collect_schema().items():
            dtype = schema[name]
            alike = here == dtype or (here.is_numeric() and dtype.is_numeric())
            if not alike and pl.Null not in (here, dtype):
                raise InputError(
                    f"column {name!r} is of type {dtype} in {first.name} and {here} in {other.name}"
                )
    return pl.concat(frames, how="vertical_relaxed")


def _unreadable(name: str, kind: str, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[0]
    return InputError(f"cannot read {name} as {kind}: {reason}")
