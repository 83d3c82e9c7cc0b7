"""y of several labels: which it is, and its fit."""

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils.validation import check_array, check_consistent_length

from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.estimator.classes import groups_of, times_of, weights_of
from torchbce.classifier.estimator.inputs import is_frame
from torchbce.classifier.tables.frames import as_table

if TYPE_CHECKING:
    from torchbce.classifier.estimator.inputs import Rows
    from torchbce.classifier.labels.model import LabelsClassifier
    from torchbce.classifier.rows import Settings


def is_of_labels(y: Any) -> bool:
    """Whether y has several columns, one for each label."""
    if sp.issparse(y) or (is_frame(y) and not hasattr(y, "items")):
        return bool(y.shape[1] > 1)
    if is_frame(y):
        return len(as_table(y).columns) > 1
    if hasattr(y, "ndim"):
        return bool(y.ndim == 2 and y.shape[1] > 1)
    first = y[0] if isinstance(y, list | tuple) and y else None
    return isinstance(first, list | tuple | np.ndarray) and len(first) > 1


def read_labels(y: Any, soft: bool) -> tuple[Any, list[str]]:
    """The values of the labels and their names.

    Args:
        y: 0 and 1, or with `soft` probabilities, NaN where unknown, [rows, L]: a frame, an array,
            lists of equal lengths, or a SciPy sparse matrix.
        soft: whether other values than 0 and 1 are probabilities.

    Raises:
        ValueError: for any other value or shape.
    """
    if sp.issparse(y):
        matrix = sp.csr_matrix(y)
        values, names = matrix.data, [str(label) for label in range(matrix.shape[1])]
        dense: Any = matrix
    else:
        table = as_table(y) if is_frame(y) else None
        dense = check_array(
            y if table is None else table.to_numpy(),
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            input_name="y",
        )
        names = table.columns if table is not None else list(map(str, range(dense.shape[1])))
        values = dense[~np.isnan(dense)]
    known = ((values >= 0) & (values <= 1)) if soft else np.isin(values, (0, 1))
    if not known.all():
        wrong = float(values[~known][0])
        expected = "probabilities in [0, 1]" if soft else "0 and 1, or probabilities with soft=True"
        raise ValueError(
            f"y has several columns, one for each label, and holds {wrong:g}; expected {expected}"
        )
    return dense, names


def fit_many(
    rows: "Rows",
    y: Any,
    soft: bool,
    settings: "Settings",
    sample_weight: Any,
    groups: Any,
    times: Any,
) -> "LabelsClassifier":
    """Fit a classifier of many labels; the arguments are those of `BCEClassifier.fit`.

    Raises:
        ValueError: as `BCEClassifier.fit`, and for options that one label only has.
    """
    from torchbce.classifier.labels.fitting import fit_label_rows

    if settings.base_rate is not None:
        raise InputError(Argument("base_rate"), " is for a single target")
    dense, names = read_labels(y, soft)
    check_consistent_length(rows, dense)
    number = dense.shape[0]
    return fit_label_rows(
        rows,
        dense,
        names,
        weight=weights_of(sample_weight, number),
        groups=groups_of(groups, number),
        times=times_of(times, number),
        columns=settings.columns,
        overrides=settings.overrides,
        missing=settings.missing,
        decimal=settings.decimal,
        options=settings.options,
        progress=settings.progress,
    )
