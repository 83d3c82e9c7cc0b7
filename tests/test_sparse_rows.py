"""Loss and gradient of a linear model of sparse rows, without autograd: `linear.sparse_rows`.

Tolerances: the formulas of a loss in float64 are within 6e-15 (`formulas._exp_split`), a sum of n
terms is within n 2^-53 of the sum of their absolute values.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from torchbce.backends.cpu import sparse_launch
from torchbce.linear import sparse_rows
from truth import bce_with_logits, logit_gradient

RELATIVE = 1e-14
#: exp(-700), below which exponentials are not computed.
LEAST = 1e-303
LOGITS = [0.0, 17.0, 40.0, 104.0, 600.0, 1e4, 5e-324, 1e-40, float("inf")]


def compressed(dense: np.ndarray, dtype: type = np.float32) -> tuple[np.ndarray, ...]:
    """Row pointers, columns and values of the elements that are not 0."""
    row, column = np.nonzero(dense)
    pointers = np.searchsorted(row, np.arange(len(dense) + 1)).astype(np.int64)
    return pointers, column.astype(np.int32), dense[row, column].astype(dtype)


def in_float64(
    dense: np.ndarray, w: np.ndarray, bias: float, y: np.ndarray, v: np.ndarray, o: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Loss, gradients and logits by the formulas."""
    z = dense.astype(np.float64) @ w + bias + o
    loss = v * (y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z))
    slope = v * (torch.sigmoid(torch.from_numpy(z)).numpy() - y)
    return loss.sum(), dense.T.astype(np.float64) @ slope, slope.sum(), z


def large(rows: int = 4000, columns: int = 300, per_row: int = 60) -> tuple[np.ndarray, ...]:
    """A problem that is split into several blocks: pointers, columns, values, weight, target."""
    random = np.random.default_rng(0)
    step = columns // per_row
    column = np.arange(per_row) * step + random.integers(0, step, (rows, per_row))
    pointers = np.arange(0, rows * per_row + 1, per_row)
    values = random.normal(size=rows * per_row).astype(np.float32)
    weight, target = random.normal(size=columns), random.random(rows)
    return pointers, column.ravel().astype(np.int32), values, weight, target


@pytest.mark.parametrize("target", [0.0, 1.0, 0.25])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_element_is_exact(target: float, sign: float) -> None:
    for size in LOGITS:
        z = sign * size
        matrix = np.array([0, 1]), np.zeros(1, np.int32), None
        loss, grad, grad_bias = sparse_rows.value_and_grad(
            *matrix, np.array([z]), 0.0, np.array([target])
        )
        true, slope = float(bce_with_logits(z, target)), float(logit_gradient(z, target))
        assert loss == pytest.approx(true, rel=RELATIVE, abs=LEAST)
        assert grad == pytest.approx(slope, rel=RELATIVE, abs=LEAST)
        assert grad_bias == grad[0]


@given(st.data())
def test_any_matrix(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 30))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    present = data.draw(arrays.arrays(bool, (rows, columns)))
    dense = random.normal(size=(rows, columns)).astype(np.float32) * present
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    w, y, v, o = (random.normal(size=columns), *random.random((3, rows)))
    found = sparse_rows.value_and_grad(
        *compressed(dense, dtype), w, 0.5, y, v, 2, offsets=o, with_logits=True
    )
    for ours, true in zip(found, in_float64(dense, w, 0.5, y, v, o), strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-13, atol=1e-13)
    ones = dense != 0
    pointers, column, _ = compressed(ones)
    found = sparse_rows.value_and_grad(pointers, column, None, w, 0.5, y.astype(np.float32))
    rounded = y.astype(np.float32).astype(np.float64)
    true = in_float64(ones, w, 0.5, rounded, np.ones(rows), np.zeros(rows))
    for ours, expected in zip(found, true[:3], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("columns", [300, 10_000])
@pytest.mark.parametrize("ones", [True, False])
def test_the_same_bits_for_any_number_of_threads(columns: int, ones: bool) -> None:
    pointers, column, values, weight, target = large(columns=columns)
    assert sparse_launch.row_blocks(len(column), columns) > 1
    matrix = pointers, column, None if ones else values
    expected = sparse_rows.value_and_grad(*matrix, weight, 0.1, target, threads=1, with_logits=True)
    for threads in (2, 3, 7):
        found = sparse_rows.value_and_grad(
            *matrix, weight, 0.1, target, threads=threads, with_logits=True
        )
        assert all(map(np.array_equal, found, expected))
        z = sparse_rows.logits(*matrix, weight, 0.1, threads)
        assert np.array_equal(z, expected[-1])
    dense = np.zeros((len(target), columns), np.float32)
    dense[np.arange(len(target))[:, None], column.reshape(len(target), -1)] = (
        1 if ones else values.reshape(len(target), -1)
    )
    nothing = np.zeros(len(target))
    true = in_float64(dense, weight, 0.1, target, nothing + 1, nothing)
    for ours, expected_value in zip(expected, true, strict=True):
        np.testing.assert_allclose(ours, expected_value, rtol=1e-11, atol=1e-11)


def test_blocks_are_split_by_their_stored_elements() -> None:
    pointers = np.concatenate([np.zeros(1000, np.int64), np.arange(0, 200_001, 200)])
    edges = sparse_launch.row_edges(pointers, 4)
    assert (edges[0], edges[-1]) == (0, len(pointers) - 1)
    stored = np.diff(pointers[edges])
    assert stored.sum() == 200_000
    assert stored.max() < 1.1 * 50_000


def test_one_long_row_among_many_blocks() -> None:
    pointers = np.array([0, 0, 200_000, 200_000])
    column = np.arange(200_000, dtype=np.int32)
    weight, target = np.full(200_000, 1e-5), np.array([0.0, 1.0, 1.0])
    loss, grad, grad_bias = sparse_rows.value_and_grad(pointers, column, None, weight, 0.0, target)
    slope = -1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(grad, slope, rtol=1e-11)
    assert grad_bias == pytest.approx(slope, rel=1e-11)  # those of the other rows cancel
    assert loss == pytest.approx(2 * np.log(2) + np.log1p(np.exp(-2.0)), rel=1e-12)


def test_sums_are_in_float64() -> None:
    """In float32 the sum would lose the 1 next to 1e8."""
    matrix = np.array([0, 3]), np.arange(3, dtype=np.int32), np.array([1e8, 1, -1e8], np.float32)
    z = sparse_rows.logits(*matrix, np.ones(3), 0.0)
    assert z.tolist() == [1.0]


def test_the_kernel_is_loaded_from_disk() -> None:
    code = (
        "import numpy as np; from torchbce.linear import sparse_rows as s;"
        "s.logits(np.array([0, 1]), np.zeros(1, np.int32), None, np.ones(1), 0.0)"
    )
    environment = {**os.environ, "NUMBA_DEBUG_CACHE": "1"}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        if "data loaded" in done.stdout:
            return
        # The first process has written the cache, if no other had.
    raise AssertionError(done.stdout)
