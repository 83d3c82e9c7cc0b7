"""Write a classifier in another format."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.errors import Argument, InputError, name_columns
from torchbce.classifier.exports.combination import check_classifier, columns_of, combination_of
from torchbce.classifier.model import Classifier
from torchbce.classifier.outputs import check_file, written

if TYPE_CHECKING:
    from torchbce.classifier.labels.model import LabelsClassifier

Format = Literal["onnx", "numpy", "sql", "card"]


def export(
    classifier: "Classifier | LabelsClassifier",
    path: str | Path,
    to: Format,
    overwrite: bool = False,
) -> None:
    """Write a classifier to a file that other programs run, without PyTorch.

    The probabilities of each are those of `Classifier.probabilities`: of `numpy` and `sql` to 1e-6,
    of `onnx` to 1e-5.

    Args:
        classifier: what to write, of one target; also a fitted `BCEClassifier`.
        path: the file.
        to: "numpy", a Python file that needs NumPy alone; "sql", a SELECT for DuckDB, of
            models without text and without a network; "onnx", a graph, of models
            without text; "card", a README.md that describes the model, with the metadata of the
            Hugging Face Hub.
        overwrite: whether to replace the file if it exists.

    Raises:
        InputError: if the format cannot express the model, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> import polars as pl
        >>> from torchbce.classifier import fit
        >>> classifier = fit(pl.DataFrame({"x": ["a", "b", "c"] * 40, "y": [1, 0, 0] * 40}), "y")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(classifier, Path(folder) / "model.py", to="numpy")
        ...     names = {}
        ...     exec((Path(folder) / "model.py").read_text(), names)
        >>> names["predict"]([{"x": "a"}, {"x": "b"}])
        [1, 0]
    """
    path = Path(path)
    if to not in get_args(Format):
        names = ", ".join(get_args(Format))
        raise InputError(Argument("to"), f" must be one of {names}, got {to!r}")
    fitted = check_classifier(getattr(classifier, "classifier_", classifier))
    check_file(path, overwrite)
    content = _content(fitted, to)
    with written(path, overwrite) as partial:
        partial.write_bytes(content)


def _content(classifier: Classifier, to: Format) -> bytes:
    if to == "numpy":
        from torchbce.classifier.exports.numpy_file import numpy_file

        return numpy_file(classifier)
    if to == "sql":
        from torchbce.classifier.exports.sql import sql_file

        return sql_file(classifier)
    if to == "card":
        from torchbce.classifier.exports.model_card import model_card

        return model_card(classifier)
    return _onnx(classifier)


def _onnx(classifier: Classifier) -> bytes:
    combination = combination_of(classifier)
    if texts := columns_of(classifier, TextColumn):
        raise InputError(
            f"ONNX has no operator that splits the text of {name_columns(texts)} as the model "
            "does; export with ",
            Argument("to", "numpy"),
        )
    try:
        importlib.import_module("onnx")
    except ImportError as error:
        raise InputError(
            "writing ONNX needs the package onnx; install it with pip install 'torchbce[onnx]'"
        ) from error
    from torchbce.classifier.exports.onnx_file import onnx_bytes

    return onnx_bytes(classifier, combination)
