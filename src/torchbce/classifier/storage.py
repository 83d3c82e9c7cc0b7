"""A classifier on disk: a directory of `model.json` and `model.safetensors`.

Neither file holds code, so loading a model from an unknown source runs none.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from torchbce.classifier.columns.encoder import Column, Encoder
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.errors import Argument, InputError, file_error, listing
from torchbce.classifier.model import FORMAT, Card, Classifier
from torchbce.classifier.outputs import refuse_existing, write_directory
from torchbce.classifier.training.network import Network

CARD = "model.json"
TENSORS = "model.safetensors"


def save(classifier: Classifier, directory: str | Path, overwrite: bool = False) -> None:
    """Write a classifier to a directory, completely or not at all.

    Args:
        classifier: what to write.
        directory: the directory to make; the folder that it is made in must exist.
        overwrite: whether to replace a model that is already there.

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
        files = {
            TENSORS: save_tensors(_tensors(classifier)),
            CARD: msgspec.json.format(msgspec.json.encode(classifier.card)),
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
            or has no folder to be made in.

    Example:
        >>> check_output(Path("models/first"), overwrite=False)
        Traceback (most recent call last):
            ...
        torchbce.classifier.errors.InputError: there is no folder 'models' to write 'first' into
    """
    directory = Path(directory)
    refuse_existing(directory, overwrite)
    if directory.exists() and not _replaceable(directory):
        raise InputError(
            f"{str(directory)!r} is not a model directory, so ",
            Argument("overwrite", True),
            " does not replace it; choose another ",
            Argument("directory"),
        )


def load(directory: str | Path) -> Classifier:
    """Read a classifier from a directory that `save` wrote. Runs no code from it.

    Args:
        directory: the model directory.

    Returns:
        The classifier, which predicts what the saved one predicts, bit for bit.

    Raises:
        InputError: if a file is missing, damaged, or from a newer version of torchbce.

    Example:
        >>> load(Path("no-such-model"))
        Traceback (most recent call last):
            ...
        torchbce.classifier.errors.InputError: there is no model directory 'no-such-model'
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"there is no model directory {str(directory)!r}")
    card = _read_card(directory / CARD)
    with torch.device("meta"):  # shapes without memory; load_state_dict assigns the values
        network = Network(sum(column.width for column in card.columns), card.architecture)
    tensors = _read_tensors(directory / TENSORS, card, network)
    idf = {
        column.name: tensors.pop(key).numpy() for key, column in _idf_names(card.columns).items()
    }
    network.load_state_dict(tensors, assign=True)
    return Classifier(card, Encoder(card.columns, idf), network.eval())


def _read_card(path: Path) -> Card:
    content = _read(path)
    try:
        format = msgspec.json.decode(content, type=_Format).format
        if format > FORMAT:
            raise InputError(
                f"{str(path)!r} has format {format}, from a newer torchbce; this one reads format "
                f"{FORMAT}. Upgrade torchbce."
            )
        card = msgspec.json.decode(content, type=Card)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    names = [column.name for column in card.columns]
    if len(set(names)) != len(names) or not names:
        raise _damaged(path, "it must name at least one column, and each column once")
    for column in [part for c in card.columns for part in (c, *getattr(c, "parts", ()))]:
        if column.width == 0:
            raise _damaged(path, f"column {column.name!r} has no features")
        for values in (getattr(column, "vocabulary", []), getattr(column, "categories", [])):
            if len(set(values)) != len(values):
                raise _damaged(path, f"column {column.name!r} lists a value twice")
        edges = getattr(column, "edges", [])
        if any(low >= high for low, high in itertools.pairwise(edges)):
            raise _damaged(path, f"the edges of column {column.name!r} do not increase")
    return card


def _read_tensors(path: Path, card: Card, network: Network) -> dict[str, torch.Tensor]:
    """The tensors of a file, whose names, shapes and values are those of the card's model."""
    content = _read(path)
    try:
        tensors = load_tensors(content)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        # A header may name a dtype that torch does not have, or sizes that do not add up.
        raise _damaged(path, str(error)) from error
    texts = _idf_names(card.columns)
    expected = {key: (column.width,) for key, column in texts.items()}
    expected |= {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        names = sorted({name for name, _ in found.items() ^ expected.items()})
        raise _damaged(
            path, f"the tensors {listing(names)} do not fit {CARD}; both must come from one fit"
        )
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise _damaged(path, f"tensor {name!r} must be finite float32")
    for key in texts:
        # idf = 1 + log((1 + documents) / (1 + documents with the word)) is in [1, 100] for up to
        # 1e42 documents; a much larger one would overflow in a product.
        if bool(((tensors[key] < 0.99) | (tensors[key] > 100)).any()):
            raise _damaged(path, f"tensor {key!r} must be in [1, 100]")
    return tensors


class _Format(msgspec.Struct):
    format: int


def _tensors(classifier: Classifier) -> dict[str, torch.Tensor]:
    tensors = dict(classifier.network.state_dict())
    for key, column in _idf_names(classifier.encoder.columns).items():
        tensors[key] = torch.from_numpy(np.array(classifier.encoder.idf[column.name]))
    return tensors


def _idf_names(columns: Sequence[Column]) -> dict[str, TextColumn]:
    """The text columns, by the name of the tensor of their inverse document frequencies."""
    return {f"idf.{i}": c for i, c in enumerate(columns) if isinstance(c, TextColumn)}


def _read(path: Path) -> bytes:
    try:
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
    return names <= {CARD, TENSORS}
