"""Sparse targets with wrong indices. PyTorch does not check a sparse tensor when it is made."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchbce
from torchbce import linear_binary_cross_entropy as linear_bce
from torchbce.functional import binary_cross_entropy_with_logits as bce

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")

ROWS, LABELS = 3, 100
Z = torch.linspace(-2, 3, ROWS * LABELS).view(ROWS, LABELS)


def csr(pointers: list[int], columns: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.sparse_csr_tensor(
        torch.tensor(pointers, dtype=dtype),
        torch.tensor(columns, dtype=dtype),
        torch.ones(len(columns)),
        size=(ROWS, LABELS),
        check_invariants=False,
    )


def coo(rows: list[int], columns: list[int], coalesced: bool) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.tensor([rows, columns]),
        torch.ones(len(columns)),
        (ROWS, LABELS),
        is_coalesced=coalesced,
        check_invariants=False,
    )


def as_loss(target: Tensor, **options: Any) -> Tensor:
    return bce(Z, target, reduction="sum", **options)


def as_head(target: Tensor, **options: Any) -> Tensor:
    # The logits are Z, since the input is the identity.
    return linear_bce(torch.eye(ROWS), Z.T, target, reduction="sum", **options)


WRONG: dict[str, tuple[Callable[[], Tensor], str]] = {
    "CSR, a column beyond the last": (
        lambda: csr([0, 1, 2, 2], [5, 100]),
        r"at index [1, 100], outside its shape (3, 100)",
    ),
    "CSR of int32, a column below 0": (
        lambda: csr([0, 1, 2, 2], [5, -1], torch.int32),
        r"at index [1, -1], outside",
    ),
    "COO, a column beyond the last": (lambda: coo([0, 1], [5, 100], False), "at index [1, 100]"),
    "COO, marked as coalesced": (lambda: coo([0, 1], [5, 100], True), "at index [1, 100]"),
    "COO, a row beyond the last": (lambda: coo([0, 3], [5, 7], True), "at index [3, 7]"),
    "COO, a row below 0": (lambda: coo([-1, 1], [5, 7], True), "at index [-1, 5]"),
    "CSR, decreasing pointers": (lambda: csr([0, 3, 1, 2], [5, 7]), "crow_indices"),
    "CSR, pointers from 1": (lambda: csr([1, 1, 2, 2], [5, 7]), "crow_indices"),
    "CSR, pointers beyond the values": (lambda: csr([0, 1, 2, 9], [5, 7]), "stored values, 2"),
    "CSR, pointers before the end": (lambda: csr([0, 1, 1, 1], [5, 7]), "stored values, 2"),
    "CSR, too few pointers": (lambda: csr([0, 2], [5, 7]), "crow_indices are not one more"),
    "CSR, too many pointers": (lambda: csr([0, 1, 1, 1, 2], [5, 7]), "crow_indices are not one"),
    "CSR, an element twice": (
        lambda: csr([0, 3, 3, 4], [5, 8, 5, 7]),
        "stores the element at index [0, 5] more than once",
    ),
    "COO, an element twice": (lambda: coo([1, 0, 1], [7, 5, 7], False), "index [1, 7] more than"),
    "COO, an element twice, marked": (lambda: coo([1, 1], [7, 7], True), "index [1, 7] more than"),
}


@pytest.mark.parametrize("check", [None, True, False])
@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("loss", [as_loss, as_head])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_indices_are_refused(
    case: str, loss: Callable[..., Tensor], backend: str, check: bool | None
) -> None:
    """On the CPU also if targets are not checked: the indices say where memory is read."""
    make, message = WRONG[case]
    with torchbce.backend(backend), pytest.raises(ValueError, match=re.escape(message)):
        loss(make(), check_targets=check)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("loss", [as_loss, as_head])
def test_indices_in_any_order(loss: Callable[..., Tensor], backend: str) -> None:
    y = torch.zeros(ROWS, LABELS)
    y[0, [5, 8, 99]] = y[2, 7] = 1
    with torchbce.backend(backend):
        expected = loss(y)
        for target in (
            csr([0, 3, 3, 4], [99, 5, 8, 7]),
            csr([0, 3, 3, 4], [99, 5, 8, 7], torch.int32),
            coo([2, 0, 0, 0], [7, 99, 5, 8], False),
            coo([2, 0, 0, 0], [7, 99, 5, 8], True),
            coo([0, 0, 0, 2], [5, 8, 99, 7], True),
        ):
            torch.testing.assert_close(loss(target), expected, rtol=1e-6, atol=0)


def test_values_follow_their_indices() -> None:
    y = torch.zeros(ROWS, LABELS)
    y[1, 4], y[1, 2], y[0, 9] = 0.25, 0.5, 0.75
    for marked in (False, True):
        target = torch.sparse_coo_tensor(
            torch.tensor([[1, 1, 0], [4, 2, 9]]),
            torch.tensor([0.25, 0.5, 0.75]),
            (ROWS, LABELS),
            is_coalesced=marked,
            check_invariants=False,
        )
        for loss in (as_loss, as_head):
            torch.testing.assert_close(loss(target), loss(y), rtol=1e-6, atol=0)


def test_values_that_share_memory() -> None:
    rows = torch.arange(ROWS).repeat_interleave(50)
    columns = torch.arange(50).repeat(ROWS)
    y = torch.zeros(ROWS, LABELS)
    y[:, :50] = 0.5
    target = torch.sparse_coo_tensor(
        torch.stack([rows, columns]),
        torch.tensor([0.5]).expand(len(rows)),
        (ROWS, LABELS),
        is_coalesced=True,
    )
    for loss in (as_loss, as_head):
        torch.testing.assert_close(loss(target), loss(y), rtol=1e-6, atol=0)


def test_empty_sparse_targets() -> None:
    expected = as_loss(torch.zeros(ROWS, LABELS))
    for target in (csr([0, 0, 0, 0], []), coo([], [], True), coo([], [], False)):
        assert as_loss(target).equal(expected)
        torch.testing.assert_close(as_head(target), expected, rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["csr", "coo"])
def test_a_compiled_function_refuses_sparse_targets(layout: str) -> None:
    y = torch.zeros(ROWS, LABELS)
    target = y.to_sparse_csr() if layout == "csr" else y.to_sparse()
    head = torchbce.LinearBCELoss(4, LABELS)

    def loss(z: Tensor, target: Tensor) -> Tensor:
        return bce(z, target)

    for function, input in ((head, torch.ones(ROWS, 4)), (loss, Z)):
        expected = function(input, target)
        torch._dynamo.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            with pytest.raises(ValueError, match=r"torch\.compile cannot trace a sparse target"):
                torch.compile(function, backend="aot_eager")(input, target)
            # What the message advises works.
            uncompiled = torch.compiler.disable(function)
            by_parts = torch.compile(lambda x, f=uncompiled: f(x * 1, target), backend="aot_eager")
            torch.testing.assert_close(by_parts(input), expected)
    torch._dynamo.reset()
