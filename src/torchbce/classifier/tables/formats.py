"""The file format of a table, by the end of its name."""

from pathlib import Path

from torchbce.classifier.errors import InputError, listing

FORMATS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
}


def format_of(path: Path) -> str:
    """ "csv", "parquet" or "jsonl", by the end of a file's name. Raises `InputError`."""
    name = path.name.lower()
    for ending, kind in FORMATS.items():
        if name.endswith(ending):
            return kind
    raise InputError(
        f"{str(path)!r} is of no known format; a table's name ends in {listing(FORMATS, 9, 'or')}"
    )


def is_gzipped(path: Path) -> bool:
    """Whether a file is gzipped, by the end of its name."""
    return path.name.lower().endswith(".gz")
