"""The file format of a table, given by the end of its name."""

from pathlib import Path
from typing import NamedTuple

from torchbce.classifier.errors import InputError, listing

#: The ending of a name, what it is read as, and what separates its values.
FORMATS = {
    ".csv": ("csv", ","),
    ".tsv": ("csv", "\t"),
    ".txt": ("csv", ","),
    ".parquet": ("parquet", ""),
    ".jsonl": ("jsonl", ""),
    ".ndjson": ("jsonl", ""),
}
COMPRESSIONS = (".gz", ".zst", ".zip")

#: What can be written: a .txt says nothing of its separator, and .zst and .zip are only read.
_TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson")
WRITTEN = (*_TEXTS, ".parquet", *(f"{ending}.gz" for ending in _TEXTS))


class Format(NamedTuple):
    """How a table is written in a file.

    Attributes:
        kind: "csv", "parquet" or "jsonl".
        separator: what separates the values of a CSV, unless the file shows another.
        compression: "", ".gz", ".zst" or ".zip".
    """

    kind: str
    separator: str = ","
    compression: str = ""


def format_of(path: Path) -> Format:
    """The format of a file to read, by the end of its name. Raises `InputError`."""
    found = known_format(path.name)
    if found is None:
        raise InputError(
            f"{str(path)!r} has no known format; its name must end in "
            f"{listing(FORMATS, 9, 'or')}, and may end in {listing(COMPRESSIONS, 9, 'or')} "
            "after that"
        )
    return found


def known_format(name: str) -> Format | None:
    """The format by the end of a name; None if the name does not say it."""
    name = name.lower()
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    name = name.removesuffix(compression)
    for ending, (kind, separator) in FORMATS.items():
        if name.endswith(ending):
            return Format(kind, separator, compression)
    return None


def output_format(path: Path) -> Format:
    """The format of a file to write, by the end of its name. Raises `InputError`."""
    if not path.name.lower().endswith(WRITTEN):
        raise InputError(
            f"{str(path)!r} has no known format to write; its name must end in "
            f"{listing(WRITTEN, 9, 'or')}"
        )
    return format_of(path)
