"""y of a scikit-learn estimator as targets, and its weights, groups and times as arrays."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from torchbce.classifier.columns.target import Target, target_of_pair
from torchbce.classifier.columns.values import as_text
from torchbce.classifier.errors import Argument, InputError


class Classes(NamedTuple):
    """The two classes of a target.

    Attributes:
        values: the classes in their order, [2], as scikit-learn's `classes_`.
        positive: the position of the positive class.
        target: their names, and which is positive.
    """

    values: np.ndarray
    positive: int
    target: Target

    def targets(self, y: np.ndarray) -> np.ndarray:
        """1 for the positive class and 0 for the other, float64 [rows].

        Raises:
            ValueError: if y has other values.
        """
        others = [value for value in np.unique(y).tolist() if value not in self.values.tolist()]
        if others:
            raise ValueError(
                f"y has classes {others} that are not in {self.values.tolist()}, the classes of "
                "the first fit"
            )
        return np.asarray(y == self.values[self.positive], dtype=np.float64)


def labels_of(estimator: Any, y: Any) -> np.ndarray:
    """y as labels, [rows]. Raises `ValueError` if it has none, or more than two classes."""
    array = _vector(estimator, y)
    check_classification_targets(array)
    kind = type_of_target(array, input_name="y")
    if kind != "binary":
        raise ValueError(
            f"Only binary classification is supported. The type of the target is {kind}. Wrap the "
            "estimator in sklearn.multiclass.OneVsRestClassifier for several classes."
        )
    return array


def classes_of(labels: np.ndarray, name: str, positive: Any) -> Classes:
    """The classes of a target, and which of them is positive.

    Args:
        labels: the labels, or the classes.
        name: the name of the target column.
        positive: the positive class, or its name; None is the usual one of a known pair, as "yes"
            of "no" and "yes", and else the second one.

    Raises:
        ValueError: if there are not two classes, or `positive` is none of them.
    """
    values = np.unique(labels)
    if len(values) != 2:
        number = f"{len(values)} class{'es' * (len(values) != 1)}"
        raise ValueError(f"y has {number}, {values.tolist()}; two are needed")
    written = [str(value) for value in values]
    names = as_text(pl.Series(values.tolist(), strict=False)).to_list()
    if None in names or names[0] == names[1]:  # classes "NA" and "1.0" are words here
        names = written
    if names[0] == names[1]:
        raise ValueError(f"the classes of y, {values.tolist()}, are written alike; rename one")
    said = None
    if positive is not None:
        matches = [
            positive == value or str(positive) in one
            for value, *one in zip(values, names, written, strict=True)
        ]
        if sum(matches) != 1:
            raise InputError(
                Argument("positive", positive), f" is not a class of y, {values.tolist()}"
            )
        said = names[matches.index(True)]
    target = target_of_pair(name, names, said)
    return Classes(values, names.index(target.positive), target)


def classes_of_target(target: Target) -> Classes:
    """The classes of the target of a table."""
    labels = target.labels(np.array([False, True])).to_numpy()
    values = np.unique(labels)
    return Classes(values, int(values[1] == labels[1]), target)


def soft_classes(name: str) -> Classes:
    """The classes 0 and 1 of a target of probabilities."""
    return Classes(np.array([0, 1]), 1, Target(name, "0", "1", "probabilities of 1", "soft"))


def probabilities_of(estimator: Any, y: Any) -> np.ndarray:
    """y as probabilities of the positive class, float64 [rows]; `ValueError` outside [0, 1]."""
    array = check_array(_vector(estimator, y), ensure_2d=False, dtype=np.float64, input_name="y")
    wrong = (array < 0) | (array > 1)
    if wrong.any():
        raise ValueError(
            f"y holds {array[wrong.argmax()]:g}; with soft=True it holds probabilities in [0, 1]"
        )
    return np.asarray(array)


def name_of(y: Any, taken: list[str]) -> str:
    """The name of y as a column, which is none of those of X."""
    name = getattr(y, "name", None)
    name = name if isinstance(name, str) and name and name not in taken else "y"
    while name in taken:
        name += "_"
    return name


def weights_of(sample_weight: Any, rows: int) -> np.ndarray | None:
    """Weights of the rows, float64 [rows]; None for 1.

    Raises:
        ValueError: if they are not one per row, negative, not finite, or all zero.
    """
    if sample_weight is None:
        return None
    weights = check_array(
        np.full(rows, sample_weight) if np.isscalar(sample_weight) else sample_weight,
        ensure_2d=False,
        dtype=np.float64,
        input_name="sample_weight",
    )
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight.shape == {weights.shape}, expected {(rows,)}!")
    if (weights < 0).any():
        raise ValueError(f"sample_weight holds {weights.min():g}; expected weights of 0 or above")
    if not weights.any():
        raise ValueError(
            "sample_weight is zero in every row; at least one weight above 0 is needed"
        )
    return np.asarray(weights)


def check_both(targets: np.ndarray, weight: np.ndarray | None) -> None:
    """Raise `ValueError` unless rows that count have both classes."""
    counted = targets if weight is None else targets[weight > 0]
    if not (counted > 0).any() or not (counted < 1).any():
        raise ValueError("y has one class in the rows of a weight above zero; two are needed")


def groups_of(groups: Any, rows: int) -> np.ndarray | None:
    """The number of each row's group, int64 [rows]; None without groups."""
    if groups is None:
        return None
    values = column_or_1d(groups)
    _check_length("groups", values, rows)
    found: np.ndarray = np.unique(values, return_inverse=True)[1].ravel()
    if len(found) and found.max() == 0:
        raise InputError(
            Argument("groups"), " are the same in every row; at least 2 groups are needed"
        )
    return found


def times_of(times: Any, rows: int) -> np.ndarray | None:
    """Numbers in the order of time, float64 [rows]; None without times."""
    if times is None:
        return None
    values = column_or_1d(times)
    _check_length("times", values, rows)
    if values.dtype.kind == "O":  # dates of Python, and of pandas with a time zone
        values = pl.Series(values.tolist()).to_numpy()
    missing = np.isnat(values) if values.dtype.kind == "M" else None
    if values.dtype.kind not in "iufM" or (missing is not None and missing.any()):
        raise InputError(
            Argument("times"), f" must be numbers or dates in every row, got {values.dtype}"
        )
    if values.dtype.kind == "M":
        values = values.astype("datetime64[us]").astype(np.int64)
    assert_all_finite(values, input_name="times")
    return np.asarray(values, dtype=np.float64)


def _check_length(name: str, values: np.ndarray, rows: int) -> None:
    if len(values) != rows:
        raise ValueError(f"{name} has {len(values):,} values, expected {rows:,}, one per row")


def _vector(estimator: Any, y: Any) -> np.ndarray:
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"{name} requires y to be passed, but the target y is None")
    array = column_or_1d(y, warn=True)
    assert_all_finite(array, input_name="y")
    if np.iscomplexobj(array):
        raise ValueError("Complex data not supported\n")
    return np.asarray(array)
