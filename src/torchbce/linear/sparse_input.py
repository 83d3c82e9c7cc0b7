"""A sparse input: which are taken, and the checks that PyTorch leaves out."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbce.backends import selection
from torchbce.definition import kinds, sparse
from torchbce.linear.precision import autocast_enabled

_DTYPES = (torch.float32, torch.float64)
#: The kernels read columns as int32.
_MOST_COLUMNS = 2**31 - 1


def is_sparse(input: object) -> bool:
    """Whether an input is sparse, of any layout."""
    return isinstance(input, Tensor) and input.layout is not torch.strided and not input.is_nested


def check(input: Tensor, weight: Tensor, fused: bool) -> None:
    """Raise unless a sparse input, its weight and the options of the head can be computed.

    `fused`: whether a fused optimizer updates the weight.
    """
    if input.layout is not torch.sparse_csr:
        raise TypeError(
            f"input has layout {input.layout}; a sparse input must be of layout torch.sparse_csr: "
            "input.to_sparse_csr()"
        )
    mode = selection.active_mode()
    if mode is not None:
        raise RuntimeError(
            f"{mode}, and input is sparse; a layer with a sparse input is computed by a kernel, of "
            "which PyTorch sees no operations. Give input.to_dense()"
        )
    if input.device.type != "cpu":
        raise ValueError(
            f"input is sparse and on {input.device}; a sparse input is computed on the CPU only. "
            "Move input, target, weight and bias there, or give input.to_dense()"
        )
    if input.dim() != 2 or input.dense_dim():
        raise ValueError(
            f"input is sparse and has shape {tuple(input.shape)}"
            + (f" and {input.dense_dim()} dense dimensions" if input.dense_dim() else "")
            + "; a sparse input must have rows and columns, (B, D), and nothing else"
        )
    if input.shape[1] > _MOST_COLUMNS:
        raise ValueError(
            f"input is sparse and has {input.shape[1]:,} columns; at most {_MOST_COLUMNS:,} are "
            "computed. Leave out columns that are always 0, or hash them"
        )
    for name, tensor in {"input": input, "weight": weight}.items():
        if isinstance(tensor, Tensor) and tensor.dtype not in _DTYPES:
            mixed = " (autocast does not apply to it)" if autocast_enabled(input.device) else ""
            raise TypeError(
                f"{name} is {tensor.dtype} and input is sparse; a layer with a sparse input is "
                f"computed in float32 or float64{mixed}. Convert it: {name}.float()"
            )
    if kinds.is_distributed(weight):
        raise TypeError(
            "input is sparse and weight is a DTensor; the labels of a head with a sparse input "
            "cannot be sharded. Give weight.full_tensor(), or input.to_dense()"
        )
    if fused:
        raise TypeError(
            "input is sparse, and a fused optimizer takes a dense input only. Use a head without "
            "fused_optimizer and an optimizer of torch.optim, or give input.to_dense()"
        )


def checked_columns(input: Tensor) -> Tensor:
    """The columns of the stored elements of a CSR matrix, int32 [stored].

    Raises unless its row pointers delimit its elements, each column is inside the matrix and stored
    once per row, and values are finite. Columns of an input that requires grad must ascend.
    """
    from torchbce.backends.cpu import sparse_checks, sparse_launch  # loads Numba

    needs_grad = input.requires_grad and torch.is_grad_enabled()
    input = input.detach()
    sparse.check_row_pointers(input, "input")
    columns = input.col_indices().contiguous()
    narrow, found = sparse_launch.columns_as_int32(
        pointers_of(input), columns.numpy(), input.shape[1], torch.get_num_threads()
    )
    if found != sparse_checks.FINE:
        # Finds out where, and raises; columns in another order than ascending are accepted.
        sparse.sparse_entries(input, input, name="input")
        if needs_grad:
            raise ValueError(
                "input requires grad, and its columns do not ascend in each row, so that PyTorch "
                "would permute the gradient of its values. Sort them: input.to_sparse_coo()"
                ".coalesce().to_sparse_csr(), or sort_indices() of a SciPy matrix"
            )
    _check_finite(input)
    return torch.from_numpy(narrow)


def check_values(input: Tensor) -> None:
    """Raise unless a CSR matrix is well formed, as `checked_columns`, and its values are finite."""
    input = input.detach()
    sparse.check_row_pointers(input, "input")
    sparse.sparse_entries(input, input, name="input")
    _check_finite(input)


def rows_of(input: Any, rows: slice) -> Any:
    """Consecutive rows of any input, also of a CSR matrix, which PyTorch cannot slice."""
    if not isinstance(input, Tensor) or input.layout is not torch.sparse_csr:
        return input[rows]
    start, stop, _ = rows.indices(len(input))
    pointers = input.crow_indices()[start : stop + 1]
    stored = slice(int(pointers[0]), int(pointers[-1]))
    places = pointers - pointers[0], input.col_indices()[stored]
    shape = stop - start, input.shape[1]
    return torch.sparse_csr_tensor(*places, input.values()[stored], shape, check_invariants=False)


def pointers_of(input: Tensor) -> np.ndarray:
    """The row pointers of a CSR matrix, int64 [rows + 1]."""
    pointers: np.ndarray = input.crow_indices().to(torch.int64).contiguous().numpy()
    return pointers


def _check_finite(input: Tensor) -> None:
    values = input.values()
    if math.isfinite(values.sum()) or bool(values.isfinite().all()):
        return
    place = int((~values.isfinite()).nonzero()[0])
    row = int(torch.searchsorted(input.crow_indices(), place, right=True)) - 1
    column = int(input.col_indices()[place])
    raise ValueError(
        f"input[{row}, {column}] is {values[place].item()}; stored values must be finite. Look for "
        "a division by 0 or an overflow where the features are made"
    )


def with_values(input: Tensor, values: Tensor) -> Tensor:
    """A CSR matrix that stores other values at the places of another."""
    return torch.sparse_csr_tensor(
        input.crow_indices(), input.col_indices(), values, input.shape, check_invariants=False
    )
