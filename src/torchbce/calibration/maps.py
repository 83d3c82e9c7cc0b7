r"""The maps of logits: :math:`\sum_k s_k f_k(z) + b` with slopes :math:`s_k \ge 0`.

The functions :math:`f_k` do not fall, so that no map reverses an order, and the logarithmic loss is
convex in the slopes and in b. They take NumPy arrays and tensors alike.
"""

from typing import Any

import numpy as np

#: The number of slopes of each map, and whether it has an offset.
KINDS: dict[str, tuple[int, bool]] = {
    "identity": (0, False),
    "temperature": (1, False),
    "platt": (1, True),
    "beta": (2, True),
    "quadratic": (2, True),
}

#: Infinite logits are computed as this, whose products are finite in float32.
LARGE = 1e30


def functions(kind: str, z: Any, low: Any = None, high: Any = None) -> list[Any]:
    r"""The functions :math:`f_k` of a map at finite logits.

    - temperature and platt: z.
    - beta: :math:`\log p` and :math:`-\log(1 - p)`, where p is the sigmoid of z.
    - quadratic: the integrals of 1 - u and of u, where u rises from 0 at `low` to 1 at `high` and
      is constant outside, so that the slope of the map goes from the first to the second one.

    For slopes of 1 and b = 0 each map is the identity.
    """
    if kind in ("temperature", "platt"):
        return [z]
    if kind == "beta":
        return [-_softplus(-z), _softplus(z)]
    rising = (z.clip(low, high) - low) ** 2 / (2 * (high - low)) + (z - high).clip(0)
    return [z - rising, rising]


def apply(kind: str, z: Any, slopes: Any, offset: Any, low: Any = None, high: Any = None) -> Any:
    """The map at any logits.

    Args:
        kind: one of `KINDS`.
        z: logits in nats, [N] or [N, L]; an array or a tensor.
        slopes: at least 0, [K] or [K, L].
        offset: in nats, a number or [L].
        low: of "quadratic", where the slope begins to change, a number or [L].
        high: of "quadratic", where it ends, above `low`.

    Returns:
        Logits of the shape of z. Infinite ones stay infinite where the slope there is above 0.
    """
    if kind == "identity":
        return z
    finite = z.clip(-LARGE, LARGE)
    terms = (s * f for s, f in zip(slopes, functions(kind, finite, low, high), strict=True))
    mapped = sum(terms) + offset
    where = np.where if isinstance(z, np.ndarray) else _torch().where
    return where((abs(z) == np.inf) & (abs(mapped) > LARGE**0.5), z, mapped)


def _softplus(z: Any) -> Any:
    """log(1 + e^z)."""
    if isinstance(z, np.ndarray):
        return np.logaddexp(0.0, z)
    return _torch().nn.functional.softplus(z, threshold=100)


def _torch() -> Any:
    import torch

    return torch
