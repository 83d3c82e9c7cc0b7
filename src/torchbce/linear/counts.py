"""How many elements and rows are valid, which the denominator of a mean depends on."""

import torch
from torch import Tensor

from torchbce.linear.records import LogitsShape


def elements_and_rows(
    shape: LogitsShape, valid: Tensor | None
) -> tuple[float | Tensor, float | Tensor]:
    """The number of valid elements, and of entries of input's first dimension that have any.

    Args:
        shape: of the logits.
        valid: the number of valid labels of each row, [rows]; None where all are valid.
    """
    batch = shape.batch[:1].numel()
    if valid is None:
        elements = shape.rows * shape.labels
        return float(elements), float(batch if elements else 0)
    per_batch = valid.view(batch, shape.batch[1:].numel()).sum(1)
    return valid.sum(), (per_batch > 0).sum()


def valid_labels(mask: Tensor | None, ignored: Tensor | None, shape: LogitsShape) -> Tensor | None:
    """How many labels of each row are valid, [rows]; None where all are.

    Args:
        mask: bool, [rows, labels].
        ignored: keys of ignored elements, each once.
        shape: of the logits.
    """
    if mask is None and ignored is None:
        return None
    if mask is None:
        assert ignored is not None
        counts = torch.full((shape.rows,), shape.labels, device=ignored.device)
    else:
        counts = _true_per_row(mask)
    if ignored is not None:
        row = ignored % shape.rows
        if mask is not None:
            row = row[mask[row, ignored // shape.rows]]
        counts = counts - torch.bincount(row, minlength=shape.rows)
    return counts


def valid_labels_on_gpu(
    mask: Tensor | None, ignored: Tensor | None, shape: LogitsShape
) -> Tensor | None:
    """As `valid_labels`, from label lists instead of keys.

    No size depends on the values, so that the host does not wait for the GPU.
    """
    if mask is None and ignored is None:
        return None
    counts = None if mask is None else _true_per_row(mask)
    if ignored is None:
        return counts
    lists = ignored.reshape(shape.rows, ignored.shape[-1]).sort(1).values
    counted = (lists >= 0) & (lists < shape.labels)
    counted[:, 1:] &= lists[:, 1:] != lists[:, :-1]  # duplicates count once
    if mask is not None:
        last = max(shape.labels - 1, 0)
        counted &= mask.gather(1, lists.clamp(0, last)) if shape.labels else False
    return (shape.labels if counts is None else counts) - counted.sum(1)


def valid_labels_of_keys_on_gpu(mask: Tensor | None, ignored: Tensor, shape: LogitsShape) -> Tensor:
    """As `valid_labels_on_gpu`, from distinct keys, of which those below 0 are none."""
    row = ignored % max(shape.rows, 1)
    counted = ignored >= 0
    if mask is not None:
        counted &= mask[row, (ignored // max(shape.rows, 1)).clamp(min=0)]
        of_rows = _true_per_row(mask)
    else:
        of_rows = torch.full((shape.rows,), shape.labels, device=ignored.device)
    return of_rows.index_add(0, row, counted.to(of_rows.dtype), alpha=-1)


def _true_per_row(mask: Tensor) -> Tensor:
    """The number of true values in each row, by blocks: PyTorch's sum converts a bool to int64."""
    if mask.stride(0) == 0 and len(mask):
        return mask[:1].sum(1).expand(len(mask))
    rows = max(1, 2**18 // max(mask.shape[1], 1))
    return torch.cat([part.sum(1) for part in torch.split(mask, rows)])
