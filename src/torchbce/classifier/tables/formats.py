"""The file formats of a table, told by the end of its name."""

from pathlib import Path

from torchbce.classifier.errors import InputError, listing

FORMATS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
}


def format_of(path: Path) -> str:
    """The format that a file's name says."""
    name = path.name.lower()
    for ending, kind in FORMATS.items():
        if name.endswith(ending):
            return kind
    raise InputError(
        f"{str(path)!r} is of no known format; a table's name ends in {listing(FORMATS, 9, 'or')}"
    )
