"""A linear model of sparse rows: the time of its loss and gradients, for `linear.py`.

One label: `linear.sparse_rows`, as a solver calls it, against SciPy's products X w and X^T g with
NumPy's formulas between them, in float64, in which SciPy is fastest. Several labels:
`linear_binary_cross_entropy` of a CSR tensor, with autograd, against `torch.sparse.mm` and
PyTorch's loss, in float32.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import torchbce
from common.processes import in_process
from common.timing import Call, Rounds, interleaved_medians

ROUNDS = Rounds(fewest=3, most=101, seconds=5.0)


class Kind(NamedTuple):
    """B rows of so many elements that are not 0, of D columns; L labels."""

    name: str
    rows: int
    columns: int
    per_row: int
    ones: bool
    labels: int = 1


KINDS = (
    Kind("table of bins", 465_000, 1_000, 60, ones=True),
    Kind("text", 25_000, 200_000, 100, ones=False),
    Kind("batch of text", 256, 200_000, 100, ones=False, labels=1_000),
    Kind("table of bins", 10_000, 1_000, 60, ones=True, labels=64),
    Kind("text", 2_000, 5_000, 50, ones=False, labels=983),
)
QUICK = tuple(
    kind._replace(rows=kind.rows // 64, columns=max(kind.columns // 64, 128)) for kind in KINDS
)


def measure(quick: bool) -> dict[str, Any]:
    rows = []
    for kind in QUICK if quick else KINDS:
        row = {**kind._asdict(), "seconds": in_process(seconds_of, *kind)}
        rows.append(row)
        print(row, flush=True)
    return {"threads": torch.get_num_threads(), "rows": rows}


def matrix(kind: Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row pointers, columns and values: low columns are frequent, as in text, except for bins."""
    random = np.random.default_rng(0)
    part = kind.columns / kind.per_row
    shape = kind.rows, kind.per_row
    # The columns of a row are in parts of their own, so that none is there twice.
    places = random.random(shape) if kind.ones else random.random(shape) ** 3
    columns = (np.arange(kind.per_row) * part + places * (part - 1)).astype(np.int32)
    pointers = np.arange(0, columns.size + 1, kind.per_row)
    values = np.ones(columns.size) if kind.ones else random.random(columns.size)
    return pointers, columns.ravel(), values.astype(np.float32)


def seconds_of(*fields: Any) -> dict[str, float]:
    kind = Kind(*fields)
    calls = one_label(kind) if kind.labels == 1 else several_labels(kind)
    for call in calls.values():
        call()
    return interleaved_medians(calls, ROUNDS)


def one_label(kind: Kind) -> dict[str, Call]:
    import scipy.sparse
    from scipy.special import expit

    from torchbce.linear import sparse_rows

    pointers, columns, values = matrix(kind)
    random = np.random.default_rng(1)
    w, y = random.normal(size=kind.columns) / 8, (random.random(kind.rows) < 0.3).astype(np.float64)
    shape = kind.rows, kind.columns
    csr = scipy.sparse.csr_array((values.astype(np.float64), columns, pointers), shape)
    transposed = csr.T

    def scipys() -> object:
        z = csr @ w
        loss = np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - y * z
        slope = expit(z) - y
        return loss.sum(), transposed @ slope, slope.sum()

    given = pointers, columns, None if kind.ones else values, w, 0.0, y, None
    return {
        "torchbce": functools.partial(
            sparse_rows.value_and_grad, *given, threads=torch.get_num_threads()
        ),
        "torchbce, one thread": functools.partial(sparse_rows.value_and_grad, *given, threads=1),
        "other": scipys,
    }


def several_labels(kind: Kind) -> dict[str, Call]:
    pointers, columns, values = map(torch.from_numpy, matrix(kind))
    csr = torch.sparse_csr_tensor(
        pointers, columns.long(), values, (kind.rows, kind.columns), check_invariants=False
    )
    generator = torch.Generator().manual_seed(1)
    w = (torch.randn(kind.labels, kind.columns, generator=generator) / 8).requires_grad_()
    b = torch.zeros(kind.labels, requires_grad=True)
    y = (torch.rand(kind.rows, kind.labels, generator=generator) < 0.1).float()

    def ours() -> Tensor:
        return torchbce.linear_binary_cross_entropy(csr, w, y, b)

    def eager() -> Tensor:
        logits = torch.sparse.mm(csr, w.T) + b
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, y)

    return {
        name: lambda loss=loss: torch.autograd.grad(loss(), (w, b))  # type: ignore[misc]
        for name, loss in {"torchbce": ours, "other": eager}.items()
    }
