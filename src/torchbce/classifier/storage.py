"""A classifier on disk: a directory of `model.json`, `model.safetensors` and `history.json`.

None of the files holds code, so loading a model from an unknown source runs none.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from torchbce.classifier.columns.categorical import CategoricalColumn
from torchbce.classifier.columns.dates import FORMATS, PARTS, DateColumn
from torchbce.classifier.columns.encoder import Column, Encoder
from torchbce.classifier.columns.matrix import MatrixColumn
from torchbce.classifier.columns.numeric import NumericColumn
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.errors import Argument, InputError, file_error, listing
from torchbce.classifier.model import FORMAT, Card, Classifier
from torchbce.classifier.models.arrays import BadArraysError, arrays_of, model_of
from torchbce.classifier.models.search import Tried
from torchbce.classifier.outputs import check_writable, refuse_existing, write_directory

if TYPE_CHECKING:
    from torchbce.classifier.labels.model import LabelsCard, LabelsClassifier

CARD = "model.json"
TENSORS = "model.safetensors"
#: What was tried and how long it took, which is the only thing that differs between two fits with
#: the same seed.
HISTORY = "history.json"
#: What `torchbce fit` writes beside a model: its report, and the data of it.
REPORT, REPORT_DATA = "report.html", "report.json"


def save(
    classifier: "Classifier | LabelsClassifier",
    directory: str | Path,
    overwrite: bool = False,
    report: Mapping[str, bytes] | None = None,
) -> None:
    """Write a classifier to a directory, completely or not at all.

    Args:
        classifier: what to write.
        directory: the directory to make; the folder that it is made in must exist.
        overwrite: whether to replace a model that is already there.
        report: files to write beside the model, as `torchbce.classifier.report_files` makes them.

    Raises:
        InputError: if the directory exists and `overwrite` is False, or holds anything but a model,
            or cannot be written.

    Example:
        >>> import tempfile
        >>> import polars as pl
        >>> from torchbce.classifier import fit
        >>> classifier = fit(pl.DataFrame({"x": [0.5, 1.5, 2.5] * 4, "y": [0, 1, 1] * 4}), "y")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(classifier, Path(folder) / "model")
        ...     load(Path(folder) / "model").card == classifier.card
        True
    """
    directory = Path(os.path.realpath(directory))
    check_output(directory, overwrite)
    try:
        tensors = save_arrays(_arrays(classifier))
        header = _Header(classifier.card.format, _checksum(tensors))
        card: dict[str, object] = msgspec.structs.asdict(header) | msgspec.structs.asdict(
            classifier.card
        )
        files = {
            TENSORS: tensors,
            CARD: msgspec.json.format(msgspec.json.encode(card)),
            HISTORY: msgspec.json.format(msgspec.json.encode(classifier.tried)),
            **(report or {}),
        }
        write_directory(directory, files)
    except OSError as error:
        raise file_error("write", directory, error) from error


def check_output(directory: str | Path, overwrite: bool) -> None:
    """Raise where `save` would refuse the directory, so that it can be checked before training.

    Args:
        directory: the directory that `save` will make.
        overwrite: whether it may replace a model that is already there.

    Raises:
        InputError: if the directory exists and `overwrite` is False, or holds anything but a model,
            or cannot be made in its folder.

    Example:
        >>> check_output(Path("models/first"), overwrite=False)
        Traceback (most recent call last):
            ...
        torchbce.classifier.errors.InputError: there is no folder 'models' to write 'first' into
    """
    directory = Path(directory)
    try:
        replaceable = not os.path.exists(directory) or _replaceable(directory)
    except OSError as error:
        raise file_error("read", directory, error) from error
    if not replaceable:
        raise InputError(
            f"{str(directory)!r} is not a model directory, so ",
            Argument("overwrite", True),
            " does not replace it; choose another ",
            Argument("directory"),
        )
    refuse_existing(directory, overwrite)
    check_writable(directory)


def load(directory: str | Path) -> "Classifier | LabelsClassifier":
    """Read a classifier from a directory that `save` wrote. Runs no code from it.

    Args:
        directory: the model directory.

    Returns:
        The classifier, of one target or of many labels, which predicts what the saved one predicts,
        bit for bit.

    Raises:
        InputError: if a file is missing or damaged, or from another version of torchbce, or the
            files are not from one `save`.

    Example:
        >>> load(Path("no-such-model"))
        Traceback (most recent call last):
            ...
        torchbce.classifier.errors.InputError: there is no model directory 'no-such-model'
    """
    directory = Path(directory)
    if directory.is_file():
        raise InputError(f"{str(directory)!r} is a file; expected a model directory")
    if not directory.is_dir():
        raise InputError(f"there is no model directory {str(directory)!r}")
    card, checksum = _read_card(directory / CARD)
    arrays = _read_arrays(directory / TENSORS, checksum)
    try:
        idf = {
            c.name: _of_column(arrays, key, c) for key, c in _column_arrays(card.columns).items()
        }
        encoder = Encoder(card.columns, idf)
        if isinstance(card, Card):
            models = tuple(model_of(name, arrays, encoder) for name in card.models)
            parts = None
        else:
            from torchbce.classifier.labels.arrays import parts_of

            parts = parts_of(card, arrays, encoder)
    except BadArraysError as error:
        raise _damaged(directory / TENSORS, str(error)) from error
    if arrays:
        raise _damaged(
            directory / TENSORS,
            f"the tensors {listing(sorted(arrays))} do not fit {CARD}; both must come from one fit",
        )
    tried = _read_history(directory / HISTORY)
    if isinstance(card, Card):
        return Classifier(card, encoder, models, tried=tried)
    from torchbce.classifier.labels.model import LabelsClassifier

    assert parts is not None
    return LabelsClassifier(card, encoder, *parts, tried=tried)


def _read_card(path: Path) -> "tuple[Card | LabelsCard, str]":
    """The card of a file, and the SHA-256 of the weights that belong to it."""
    content = _read(path)
    try:
        header = msgspec.json.decode(content, type=_Header)
        if header.format > 0 and header.format != FORMAT:
            newer = header.format > FORMAT
            raise InputError(
                f"{str(path)!r} has format {header.format}, from "
                f"{'a newer' if newer else 'an older'} torchbce; this one reads format {FORMAT}. "
                f"{'Upgrade torchbce' if newer else 'Fit the model again'}."
            )
        card = msgspec.json.decode(content, type=_card_type(header.kind))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    names = [column.name for column in card.columns]
    if len(set(names)) != len(names) or (card.models and not names):
        raise _damaged(path, "it must name at least one column, and each column once")
    if len(names) > 1 and any(isinstance(column, MatrixColumn) for column in card.columns):
        raise _damaged(path, "a matrix must be its only column")
    if isinstance(card, Card):
        if card.target.positive == card.target.negative:
            raise _damaged(path, "the two values of the target must differ")
    elif wrong := card.fault():
        raise _damaged(path, wrong)
    for column in card.columns:
        if fault := _fault(column):
            raise _damaged(path, f"column {listing([column.name])} {fault}")
    return card, header.weights_sha256


def _fault(column: Column) -> str:
    """What is wrong with a column of a card; "" if nothing."""
    numeric: list[NumericColumn] = []
    lists: list[list[str]] = []
    if isinstance(column, NumericColumn):
        numeric = [column]
    elif isinstance(column, CategoricalColumn):
        lists = [column.categories]
        if not column.codes:
            return "has no features"
    elif isinstance(column, TextColumn):
        lists = [units.vocabulary for units in column.units]
        if not lists or not all(lists):
            return "has no features"
    elif isinstance(column, DateColumn):
        numeric, parts = column.parts, [part.name for part in column.parts]
        lists = [parts]
        if not parts or not {*parts} <= {*PARTS}:
            return f"must have parts, and no others than {listing(PARTS)}"
        if column.written not in FORMATS:
            return f"must have dates written as one of {', '.join(FORMATS)}"
    if any(len(set(values)) != len(values) for values in lists):
        return "lists a value twice"
    edges = [itertools.pairwise(one.edges) for one in numeric]
    if any(low >= high for low, high in itertools.chain.from_iterable(edges)):
        return "has edges that do not increase"
    return ""


def _read_arrays(path: Path, checksum: str) -> dict[str, np.ndarray]:
    """The arrays of a file, none of which holds NaN."""
    content = _read(path)
    try:
        arrays = load_arrays(content)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # A header may name a dtype that NumPy does not have, or sizes that do not add up.
        raise _damaged(path, str(error)) from error
    for name, array in arrays.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise _damaged(path, f"tensor {listing([name])} holds NaN")
    if _checksum(content) != checksum:
        raise InputError(
            f"{str(path)!r} does not belong to {CARD}, or is damaged: its SHA-256 is not the "
            "weights_sha256 there; both files must come from one fit"
        )
    return arrays


def _of_column(
    arrays: dict[str, np.ndarray], key: str, column: TextColumn | MatrixColumn
) -> np.ndarray:
    values = arrays.pop(key, None)
    if values is None or values.shape != (column.width,) or values.dtype != np.float32:
        raise BadArraysError(f"tensor {key!r} must be float32 of shape ({column.width},)")
    if isinstance(column, MatrixColumn):
        if not ((values >= 1) & (values < np.inf)).all():
            raise BadArraysError(f"tensor {key!r} must be finite and at least 1")
    # idf = 1 + log((1 + documents) / (1 + documents with the word)) is in [1, 100] for up to 1e42
    # documents; a much larger one would overflow in a product.
    elif ((values < 0.99) | (values > 100)).any():
        raise BadArraysError(f"tensor {key!r} must be in [1, 100]")
    return values


def _read_history(path: Path) -> tuple[Tried, ...]:
    content = _read(path)
    try:
        return tuple(msgspec.json.decode(content, type=list[Tried]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


class _Header(msgspec.Struct):
    """What `model.json` holds beside the card: the SHA-256 of the file of the weights."""

    format: int
    weights_sha256: str = ""
    kind: str = "target"


def _card_type(kind: str) -> "type[Card] | type[LabelsCard]":
    if kind != "labels":
        return Card
    from torchbce.classifier.labels.model import LabelsCard

    return LabelsCard


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _arrays(classifier: "Classifier | LabelsClassifier") -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for key, column in _column_arrays(classifier.encoder.columns).items():
        arrays[key] = classifier.encoder.idf[column.name]
    if isinstance(classifier, Classifier):
        for model in classifier.models:
            arrays |= arrays_of(model)
    else:
        from torchbce.classifier.labels.arrays import arrays_of_labels

        arrays |= arrays_of_labels(classifier)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _column_arrays(columns: Sequence[Column]) -> dict[str, TextColumn | MatrixColumn]:
    """The columns that have a tensor, by its name: inverse document frequencies, or scales."""
    found: dict[str, TextColumn | MatrixColumn] = {}
    for position, column in enumerate(columns):
        if isinstance(column, TextColumn):
            found[f"idf.{position}"] = column
        elif isinstance(column, MatrixColumn):
            found[f"scale.{position}"] = column
    return found


def _read(path: Path) -> bytes:
    try:
        # A pipe would wait for its writer, and a device may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"cannot read {str(path)!r}: it is not a file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{str(path.parent)!r} is not a model directory: it has no {path.name}"
        ) from error
    except OSError as error:
        raise file_error("read", path, error) from error


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{str(path)!r} is damaged: {reason}")


def _replaceable(directory: Path) -> bool:
    """Whether a directory is empty or holds only a model; nothing else is ever deleted."""
    names = {entry.name for entry in directory.iterdir()} if directory.is_dir() else {""}
    return names <= {CARD, TENSORS, HISTORY, REPORT, REPORT_DATA}
