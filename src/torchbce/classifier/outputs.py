"""Write outputs: nothing is replaced unless requested, and nothing is left half written."""

import ctypes
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from torchbce.classifier.errors import Argument, InputError, file_error

#: The temporary files and folders of this process.
_temporary: set[Path] = set()


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise if `path` exists and is not to be overwritten, or its parent folder does not exist."""
    try:
        if exists(path) and not overwrite:
            raise InputError(
                f"{str(path)!r} exists; pass ", Argument("overwrite", True), " to replace it"
            )
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")
    except OSError as error:
        raise file_error("write", path, error) from error


def exists(path: Path) -> bool:
    """Whether something has this name. Raises `OSError` for a name that the system cannot have."""
    with suppress(FileNotFoundError):
        path.stat()
        return True
    return False


def check_file(path: Path, overwrite: bool) -> Path:
    """Check that a file can be written at a path, before the work whose result it will hold.

    Args:
        path: the file; a symbolic link stays one, and the file that it points to is written.
        overwrite: whether to replace it if it exists.

    Returns:
        The path without symbolic links.

    Raises:
        InputError: if it exists and `overwrite` is False, or is not a file, or its folder is not
            there or not writable.
    """
    # Before a word of `overwrite`, which would not help. `os.path` raises nothing for any name.
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a directory" if os.path.isdir(path) else "a device or a pipe"
        raise InputError(f"cannot write {str(path)!r}: it is {what}; give the name of a file")
    refuse_existing(path, overwrite)
    check_writable(path)
    return Path(os.path.realpath(path))


def check_writable(path: Path) -> None:
    """Raise `InputError` if nothing can be made beside `path`, by making something."""
    probe = _unused(Path(os.path.realpath(path)).parent)
    try:
        # The permissions of a folder do not tell: a file system may be read-only, or full.
        with temporary(probe):
            probe.touch()
    except OSError as error:
        raise file_error("write", path, error) from error


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Remove a file or folder at the end of the block, and when a signal ends the process.

    Args:
        path: the path of what the block will make.
    """
    _temporary.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _temporary.discard(path)


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that only the user can read, until the end of the block.

    Args:
        parent: where to make it; None is the system's folder for temporary files.
    """
    with temporary(_unused(Path(tempfile.gettempdir()) if parent is None else parent)) as folder:
        folder.mkdir(mode=0o700)
        yield folder


def remove_temporary() -> None:
    """Remove what `temporary` would, for a process that ends here."""
    for path in tuple(_temporary):
        _remove(path)


def _unused(folder: Path) -> Path:
    """A hidden path in a folder; short, because the longest name of an output may be taken."""
    return folder / f".torchbce-{os.getpid()}-{secrets.token_hex(4)}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def written(path: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary file that takes the place of the one at `path` if the block ends without error.

    Args:
        path: the file; a symbolic link stays one. A file that is replaced keeps its permissions.
        overwrite: whether to replace it if it exists.

    Raises:
        InputError: as `check_file` does, and if the file cannot be written.
    """
    target = check_file(path, overwrite)
    try:
        with temporary(_unused(target.parent)) as partial:
            partial.touch()
            with suppress(FileNotFoundError):
                partial.chmod(stat.S_IMODE(target.stat().st_mode))
            yield partial
            partial.replace(target)
    except OSError as error:
        raise file_error("write", path, error) from error


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a complete directory of files, or nothing; an existing directory is replaced.

    It is written under a temporary name in the same folder and then renamed. Raises `OSError`.
    """
    with temporary_folder(directory.parent) as new:
        new.chmod(0o777 & ~_umask())  # outputs follow the umask
        for name, content in files.items():
            _write(new / name, content)
        _put_in_place(new, directory)


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
