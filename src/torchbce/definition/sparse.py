"""The stored entries of a sparse target, checked before anything reads memory by them."""

import torch
from torch import Tensor

from torchbce import _pytorch
from torchbce.definition import checks


def sparse_entries(
    target: Tensor, input: Tensor, check: bool | None = None, name: str = "target"
) -> tuple[Tensor, Tensor]:
    """The indices, [dimensions, stored], ascending, and the values, [stored], of a sparse target.

    PyTorch does not check the indices of a sparse tensor when it is made. Here they are checked on
    the CPU, and on other devices if `check` is true, since the host has to wait for them: each
    index is inside the shape, and each element is stored once.
    """
    refuse_in_compiled_code(target, name)
    if target.layout not in (torch.sparse_csr, torch.sparse_coo):
        raise TypeError(
            f"a sparse {name} must be of layout torch.sparse_coo or torch.sparse_csr, got "
            f"{target.layout}; convert it with .to_sparse()"
        )
    if target.shape != input.shape or target.dense_dim():
        raise ValueError(
            f"input has shape {tuple(input.shape)} and the sparse {name} has shape "
            f"{tuple(target.shape)}; a sparse {name} must have input's shape and be sparse in "
            "each dimension"
        )
    # On the CPU whatever `check` says: wrong indices would read and write other memory.
    plain = checks.readable(target, anywhere=bool(check))
    if target.layout == torch.sparse_csr:
        if plain is not None:
            check_row_pointers(plain, name)
        target = target.to_sparse()
        plain = None if plain is None else checks.readable(target, anywhere=True)
    order = None if plain is None else _order(plain, name)
    target = target.coalesce()
    # Contiguous, since kernels read the values one after another.
    indices, values = target.indices(), target.values().contiguous()
    if order is None:
        return indices, values
    return indices[:, order], values[order]


def refuse_in_compiled_code(target: Tensor, name: str = "target") -> None:
    """Raise for a sparse tensor where torch.compile or an exporter traces what is called."""
    if target.layout is torch.strided:
        return
    to_onnx = torch.onnx.is_in_onnx_export()  # in the older exporter, which does not use Dynamo
    if not (to_onnx or _pytorch.is_in_compiled_code()):
        return
    remedy = "Give a mask" if name == "ignored" else "Give a dense one"
    if name != "input":
        remedy += ", or label lists to a layer that takes them (int64, padded with -1)"
    if to_onnx:
        raise ValueError(f"ONNX has no sparse tensors, and {name} is one. {remedy}")
    raise ValueError(
        f"torch.compile cannot trace a sparse {name}, and torch.export neither. {remedy}; or "
        "compute the loss in a function decorated with torch.compiler.disable"
    )


def check_row_pointers(target: Tensor, name: str) -> None:
    """Raise unless the row pointers of a CSR tensor delimit its stored values."""
    pointers, columns = target.crow_indices(), target.col_indices()
    stored = columns.shape[-1]
    right = (
        pointers.shape == (*target.shape[:-2], target.shape[-2] + 1)
        and target.values().shape == columns.shape
        and bool((pointers[..., 0] == 0).all())
        and bool((pointers[..., -1] == stored).all())
        and bool((pointers[..., 1:] >= pointers[..., :-1]).all())
    )
    if not right:
        raise ValueError(
            f"{name} is a CSR tensor whose crow_indices are not one more than its rows, do not "
            "start with 0, decrease, or do not end with the number of its stored values, "
            f"{stored}. Build it with torch.sparse_csr_tensor(..., check_invariants=True) to see "
            "where"
        )


def _order(target: Tensor, name: str) -> Tensor | None:
    """The order in which the indices of a COO tensor ascend; None if `coalesce` provides it.

    Raises for an index outside the shape and for an element that is stored twice.
    """
    indices = _pytorch.stored_indices(target)
    if not indices.shape[1]:
        return None
    sizes = torch.tensor(target.shape, device=indices.device)[:, None]
    outside = ((indices < 0) | (indices >= sizes)).any(0)
    if bool(outside.any()):
        wrong = indices[:, outside.nonzero()[0, 0]].tolist()
        raise ValueError(
            f"{name} stores an element at index {wrong}, outside its shape "
            f"{tuple(target.shape)}: indices begin at 0 in each dimension"
        )
    position = flattened(indices, target.shape)
    if bool((position[1:] > position[:-1]).all()):
        return None
    ascending, order = position.sort(stable=True)
    twice = ascending[1:] == ascending[:-1]
    if bool(twice.any()):
        index = indices[:, order[twice.nonzero()[0, 0]]].tolist()
        raise ValueError(
            f"{name} stores the element at index {index} more than once; store each element once. "
            f"For a COO tensor {name}.coalesce() adds the values up, for a SciPy matrix "
            "sum_duplicates() does"
        )
    # A tensor may be marked as coalesced and be in another order.
    return order if target.is_coalesced() else None


def flattened(indices: Tensor, shape: torch.Size) -> Tensor:
    """The positions in the flattened tensor, [stored], of indices in each dimension."""
    position = torch.zeros(indices.shape[1], dtype=torch.int64, device=indices.device)
    for places, size in zip(indices, shape, strict=True):
        position.mul_(size).add_(places)
    return position
