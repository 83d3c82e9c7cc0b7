"""Numbers that a caller gives as options: those of Python, of NumPy and of other libraries."""

import operator
from typing import Any

import numpy as np


def as_whole(value: Any) -> int | None:
    """An integer as one of Python; None for anything else, as a bool, a float or text.

    Example:
        >>> import numpy as np
        >>> as_whole(np.int32(3)), as_whole(3.0), as_whole("3"), as_whole(True)
        (3, None, None, None)
    """
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def as_real(value: Any) -> float | None:
    """A number as a float, or as the int that it is; None for anything else, as a bool or text.

    Example:
        >>> import numpy as np
        >>> as_real(np.float32(0.5)), as_real(2), as_real("0.5"), as_real([0.5])
        (0.5, 2, None, None)
    """
    whole = as_whole(value)
    if whole is not None:
        return whole
    if isinstance(value, bool | np.bool_ | str) or np.ndim(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
