"""Cross-entropy of a linear model of sparse rows: the sum of the losses and its gradient.

Without tensors, without autograd and without checks of the matrix: what a solver calls many times
for one matrix. `linear_binary_cross_entropy` is the same kernel with the contract of the losses.
"""

from array import array
from typing import Any

import numpy as np

from torchbce.backends.cpu import sparse_rows, threads
from torchbce.backends.cpu.compiler import compiled_once

__all__ = ["logits", "value_and_grad"]

_SOURCES = ("intrinsics.py", "formulas.py", "staging.py", "sparse_rows.py")
#: Stored elements from which on a second block, and so a second thread, is worth its gradient: 0.1
#: milliseconds of work.
_STORED_PER_BLOCK = 2**15
_MOST_BLOCKS = 64


def value_and_grad(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray | None,
    weight: np.ndarray,
    bias: float,
    target: np.ndarray,
    row_weight: np.ndarray | None = None,
    threads: int = 1,
    *,
    offsets: np.ndarray | None = None,
    with_logits: bool = False,
) -> tuple[Any, ...]:
    r"""The sum of the losses of a linear model of sparse rows, and its gradient, in one pass.

    .. math::
        \sum_i v_i \, [\, y_i (-\log \sigma(z_i)) + (1 - y_i) (-\log \sigma(-z_i)) \,],
        \qquad z_i = x_i \cdot w + b + o_i

    Everything is computed and summed in float64, and the result is bitwise the same for any number
    of threads. The matrix and the targets are not checked: columns must be in [0, D), row pointers
    must ascend from 0 to the number of stored elements, targets must be in [0, 1]. A column that is
    stored twice in a row counts twice.

    Args:
        indptr: where each row begins, and the end of the last, int64 [B + 1].
        indices: the columns of the stored elements, int32 [S].
        values: the stored elements, float32 or float64 [S]; None if all of them are 1.
        weight: w, float64 [D].
        bias: b.
        target: y, [B]; float64 is read without a copy.
        row_weight: v, the weight of each row, float64 [B]; None for 1.
        threads: how many threads compute.
        offsets: o, what is added to each logit, float64 [B]; None for 0.
        with_logits: whether to return the logits too.

    Returns:
        The sum of the losses in nats; its gradient by the weight, float64 [D]; its derivative by
        the bias; and, with `with_logits`, the logits z, float64 [B].

    Example:
        >>> import numpy as np
        >>> from torchbce.linear import sparse_rows
        >>> rows = np.array([0, 2, 3]), np.array([0, 2, 1], np.int32), None  # two rows of ones
        >>> w, y = np.array([0.5, -1.0, 0.5]), np.array([1.0, 0.0])
        >>> loss, grad_weight, grad_bias = sparse_rows.value_and_grad(*rows, w, 0.0, y)
        >>> round(loss, 4), grad_weight.round(4), round(grad_bias, 4)
        (0.6265, array([-0.2689,  0.2689, -0.2689]), 0.0)

    References:
        https://docs.scipy.org/doc/scipy/reference/generated/scipy.sparse.csr_array.html
    """
    y = _vector(target, np.float64)
    rows, columns = len(indptr) - 1, len(weight)
    blocks = _number_of_blocks(len(indices), columns)
    gradients = np.empty((blocks, columns))
    sums = np.empty((blocks, sparse_rows.SUMS_PER_BLOCK))
    z = np.empty(rows) if with_logits else None
    outputs = {
        sparse_rows.LOGITS_AT: z,
        sparse_rows.GRADIENTS_AT: gradients,
        sparse_rows.SUMS_AT: sums,
    }
    weights = {sparse_rows.TARGET_AT: y, sparse_rows.ROW_WEIGHT_AT: _vector(row_weight, np.float64)}
    _run(indptr, indices, values, weight, bias, offsets, blocks, threads, weights | outputs)
    loss, slope = (sum(column, 0.0) for column in sums.T.tolist())
    found = loss, gradients[0], slope
    return found if z is None else (*found, z)


def logits(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray | None,
    weight: np.ndarray,
    bias: float,
    threads: int = 1,
    *,
    offsets: np.ndarray | None = None,
) -> np.ndarray:
    """The logits of a linear model of sparse rows, the same bits as those of `value_and_grad`.

    Args:
        indptr: as in `value_and_grad`, and so are the others.
        indices: likewise.
        values: likewise.
        weight: likewise.
        bias: likewise.
        threads: likewise.
        offsets: likewise.

    Returns:
        z, float64 [B].

    Example:
        >>> import numpy as np
        >>> from torchbce.linear import sparse_rows
        >>> rows = np.array([0, 2, 3]), np.array([0, 2, 1], np.int32), None
        >>> sparse_rows.logits(*rows, np.array([0.5, -1.0, 0.5]), 0.0)
        array([ 1., -1.])
    """
    z = np.empty(len(indptr) - 1)
    blocks = _number_of_blocks(len(indices), 0)
    outputs = {sparse_rows.LOGITS_AT: z}
    _run(indptr, indices, values, weight, bias, offsets, blocks, threads, outputs)
    return z


def _number_of_blocks(stored: int, columns: int) -> int:
    """Into how many blocks the rows are split: a power of two that depends on the problem only.

    A block costs a gradient, which is filled with zeros and added to the others.
    """
    most = min(stored // _STORED_PER_BLOCK, _MOST_BLOCKS)
    if most < 2:
        return 1
    wanted = max(2, min(most, stored // (2 * max(columns, 1))))
    return 1 << (wanted.bit_length() - 1)


def _run(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray | None,
    weight: np.ndarray,
    bias: float,
    offsets: np.ndarray | None,
    blocks: int,
    count: int,
    others: dict[int, np.ndarray | None],
) -> None:
    """Run the kernel of the rows, and add the gradients of the blocks."""
    pointers, columns = _vector(indptr, np.int64), _vector(indices, np.int32)
    # Blocks of about as many stored elements, counting each row as one more.
    cost = pointers + np.arange(len(pointers)) if blocks > 1 else pointers
    edges = np.searchsorted(cost, np.linspace(cost[0], cost[-1], blocks + 1)).astype(np.int64)
    edges[0], edges[-1] = 0, len(pointers) - 1
    counter, b = np.zeros(1, np.int64), np.array([bias], np.float64)
    dtype = "one"
    if values is not None:
        dtype = "float64" if values.dtype == np.float64 else "float32"
        values = _vector(values, np.dtype(dtype))
    arrays = {
        sparse_rows.EDGES_AT: edges,
        sparse_rows.NEXT_AT: counter,
        sparse_rows.POINTERS_AT: pointers,
        sparse_rows.INDICES_AT: columns,
        sparse_rows.VALUES_AT: values,
        sparse_rows.WEIGHT_AT: _vector(weight, np.float64),
        sparse_rows.BIAS_AT: b,
        sparse_rows.OFFSETS_AT: _vector(offsets, np.float64),
        **others,
    }
    fields = [0] * sparse_rows.FIELDS
    fields[sparse_rows.BLOCKS], fields[sparse_rows.COLUMNS] = blocks, len(weight)
    for field, values_of_field in arrays.items():
        fields[field] = 0 if values_of_field is None else values_of_field.ctypes.data
    record, memory = array("q", fields), tuple(arrays.values())
    threads.run(_rows_kernel(dtype), record, min(count, blocks), memory)
    if blocks > 1 and fields[sparse_rows.GRADIENTS_AT]:
        counter[0] = 0
        pieces = -(-len(weight) // sparse_rows.COLUMNS_AT_A_TIME)
        kernel = compiled_once("sum_of_blocks", _SOURCES, sparse_rows.sum_of_blocks)
        threads.run(kernel, record, max(1, min(count, pieces)), memory)


def _rows_kernel(dtype: str) -> threads.Kernel:
    def made(name: str) -> Any:
        return sparse_rows.specialised(dtype, name)

    return compiled_once(f"sparse_rows_{dtype}", _SOURCES, made)


def _vector(values: Any, dtype: Any) -> Any:
    """A contiguous array of a dtype, without a copy if it is one."""
    return None if values is None else np.ascontiguousarray(values, dtype)
