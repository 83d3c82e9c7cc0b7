"""Cross-entropy of a linear model of sparse rows: the sum of the losses and its gradient.

Without tensors, without autograd and without checks of the matrix: what a solver calls many times
for one matrix. `linear_binary_cross_entropy` is the same kernel with the contract of the losses.
"""

from typing import Any

import numpy as np

from torchbce.backends.cpu import sparse_launch
from torchbce.backends.cpu import sparse_rows as kernels

__all__ = ["logits", "value_and_grad"]


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
    stored, columns = len(indices), len(weight)
    blocks = sparse_launch.row_blocks(stored, columns)
    gradients, sums = np.empty((blocks, columns)), np.zeros((blocks, kernels.SUMS + 1))
    z = np.empty(len(indptr) - 1) if with_logits else None
    fields = {
        kernels.TARGET_AT: _vector(target, np.float64),
        kernels.TARGET_ROW: 1,
        kernels.ROW_WEIGHT_AT: _vector(row_weight, np.float64),
        kernels.LOGITS_AT: z,
        kernels.GRADIENTS_AT: gradients,
        kernels.SUMS_AT: sums,
        kernels.SCALE: 1.0,
    }
    record = _run(indptr, indices, values, weight, bias, offsets, blocks, threads, fields)
    gradient: np.ndarray = gradients[0]
    if blocks > 1:
        gradient = np.empty(columns)
        record.set(kernels.WEIGHT_AT, gradient)
        record.set(kernels.WEIGHT_COLUMN, 1)
        kernel = sparse_launch.unpack_kernel("float64", 1)
        record.run(kernel, sparse_launch.pieces(1, columns, 1), threads, columns)
    loss, _, slope = (sum(column, 0.0) for column in sums.T.tolist())
    found = loss, gradient, slope
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
    blocks = sparse_launch.row_blocks(len(indices), 0)
    fields = {kernels.LOGITS_AT: z}
    _run(indptr, indices, values, weight, bias, offsets, blocks, threads, fields)
    return z


def _run(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray | None,
    weight: np.ndarray,
    bias: float,
    offsets: np.ndarray | None,
    blocks: int,
    count: int,
    fields: dict[int, Any],
) -> sparse_launch.RowsRecord:
    """Run the kernel of the rows; returns its record."""
    pointers, dtype = _vector(indptr, np.int64), "one"
    if values is not None:
        dtype = "float64" if values.dtype == np.float64 else "float32"
        values = _vector(values, dtype)
    matrix = sparse_launch.matrix_fields(pointers, _vector(indices, np.int32), values, len(weight))
    record = sparse_launch.RowsRecord(
        {
            **matrix,
            kernels.ITEMS: blocks,
            kernels.ROW_BLOCKS: blocks,
            kernels.LABELS: 1,
            kernels.EDGES_AT: sparse_launch.row_edges(pointers, blocks),
            kernels.PANELS_AT: _vector(weight, np.float64),
            kernels.BIAS_AT: np.array([bias], np.float64),
            kernels.OFFSETS_AT: _vector(offsets, np.float64),
            **fields,
        }
    )
    record.run(sparse_launch.rows_kernel(dtype, 1), blocks, count, len(indices))
    return record


def _vector(values: Any, dtype: Any) -> Any:
    """A contiguous array of a dtype, without a copy if it is one."""
    return None if values is None else np.ascontiguousarray(values, dtype)
