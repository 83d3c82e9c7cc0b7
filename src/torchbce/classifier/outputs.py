"""Write outputs: nothing is replaced unless requested, and nothing is left half written."""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torchbce.classifier.errors import Argument, InputError


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise if `path` exists and is not to be overwritten, or its parent folder does not exist."""
    if path.exists() and not overwrite:
        raise InputError(
            f"{str(path)!r} exists; pass ", Argument("overwrite", True), " to replace it"
        )
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a complete directory of files, or nothing; an existing directory is replaced.

    It is written under a temporary name in the same folder and then renamed. Raises `OSError`.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        # mkdtemp makes a folder that only the user can read; outputs follow the umask.
        temporary.chmod(0o777 & ~_umask())
        for name, content in files.items():
            _write(temporary / name, content)
        _put_in_place(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(new: Path, directory: Path) -> None:
    """Rename `new` to `directory`; an existing directory may remain under the name `new`."""
    if not directory.exists():
        new.rename(directory)
    elif not _exchange(new, directory):
        # Without an atomic exchange there is a moment without a model at `directory`. If the
        # process ends there, the old model is in `directory.old`.
        old = directory.with_name(f"{directory.name}.old")
        directory.rename(old)
        new.rename(directory)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names atomically by Linux's renameat2; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done: int = renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange)
    return done == 0


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
