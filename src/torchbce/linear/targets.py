"""What is right of each label: several ways to say it, and one in which chunks read it.

Logits stand as [labels, rows], so that a chunk of labels is one piece of memory. An element's key
is `label * rows + row`: in the order of the keys the positives of a chunk are neighbours, and where
they stand in the chunk is their key less that of its first element.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from torchbce.definition import checks

_STRIDED = torch.strided


class Operands(NamedTuple):
    """What the loss of some labels is computed from, beside the logits.

    Attributes:
        dense: targets, [rows, labels]; None where keys are given.
        keys: of the targets that are not 0, [stored], int64, ascending. On a GPU they may be below
            0, which stands for nothing, beyond the last label, and not distinct.
        values: those targets, [stored]; None for ones, on a GPU.
        mask: bool, [rows, labels], false where an element is ignored.
        ignored: keys of elements that are ignored, [stored], int64, ascending.
        pos_weight: one number, or [labels].
        label_weight: [labels].
        row_weight: [rows].
    """

    dense: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    mask: Tensor | None = None
    ignored: Tensor | None = None
    pos_weight: Tensor | None = None
    label_weight: Tensor | None = None
    row_weight: Tensor | None = None


class Chunk(NamedTuple):
    """Targets and options of logits [labels, rows], to which all of them broadcast.

    Attributes:
        target: dense, or the values that are not 0.
        positions: where in the flattened logits those stand; None for dense targets.
        weight: of elements.
        pos_weight: of positives.
        mask: false where an element is ignored.
    """

    target: Tensor
    positions: Tensor | None
    weight: Tensor | None
    pos_weight: Tensor | None
    mask: Tensor | None


class Chunks:
    """The operands by chunks of `size` labels, in buffers that every chunk uses again."""

    def __init__(self, operands: Operands, rows: int, labels: int, size: int):
        self._operands, self._rows = operands, rows
        self._edges = [min(start, labels) * rows for start in range(0, labels + size, size)]
        self._stored = self._places(operands.keys)
        self._ignored = self._places(operands.ignored)
        self._valid, self._weights = None, None
        if operands.ignored is not None:
            self._valid = operands.ignored.new_empty(size * rows, dtype=torch.bool)
        if operands.label_weight is not None and operands.row_weight is not None:
            self._weights = operands.row_weight.new_empty(size * rows)

    def __call__(self, number: int, start: int, stop: int) -> Chunk:
        """The chunk of this number, of the labels from `start` to `stop`."""
        o, shape = self._operands, (stop - start, self._rows)
        first, elements = start * self._rows, shape[0] * shape[1]
        if o.dense is not None:
            target, positions = o.dense[:, start:stop].T, None
        else:
            assert o.keys is not None  # where there is no dense target
            assert o.values is not None
            stored = slice(*self._stored[number : number + 2])
            target, positions = o.values[stored], o.keys[stored]
            if first:
                positions = positions - first
        mask = None if o.mask is None else o.mask[:, start:stop].T
        if self._valid is not None:
            assert o.ignored is not None
            valid = self._valid[:elements]
            if mask is None:
                valid.fill_(True)
            else:
                valid.view(shape).copy_(mask)
            valid[o.ignored[slice(*self._ignored[number : number + 2])] - first] = False
            mask = valid.view(shape)
        weight = None if o.label_weight is None else o.label_weight[start:stop, None]
        if o.row_weight is not None:
            of_rows = o.row_weight[None, :]
            if self._weights is None:
                weight = of_rows
            else:
                assert weight is not None
                weight = torch.mul(weight, of_rows, out=self._weights[:elements].view(shape))
        p = o.pos_weight
        pos_weight = p[start:stop, None] if p is not None and p.dim() else p
        return Chunk(target, positions, weight, pos_weight, mask)

    def _places(self, keys: Tensor | None) -> list[int]:
        """Where the keys of each chunk begin and end."""
        if keys is None:
            return []
        if len(self._edges) == 2:
            return [0, keys.numel()]
        edges = torch.tensor(self._edges, device=keys.device)
        places: list[int] = torch.searchsorted(keys, edges).tolist()
        return places


class Labels(NamedTuple):
    """Which logits there are, and which of them are here.

    Attributes:
        lead: the shape of input without its last dimension.
        all: how many labels there are.
        first: the first label that is here.
        here: how many labels are here.
    """

    lead: torch.Size
    all: int
    first: int
    here: int

    @property
    def rows(self) -> int:
        return self.lead.numel()

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.lead, self.all)


def positives(
    target: Tensor, labels: Labels, check: bool | None, on_gpu: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """A target as `dense`, `keys` and `values` of the labels that are here, once it is checked."""
    values: Tensor | None
    if target.layout is not _STRIDED:
        keys, values = _of_sparse(target, labels, check)
    elif target.dtype == torch.int64:
        check_listed("target", target, labels, check)
        if on_gpu:
            keys, values = sorted_keys(target, labels), None
        else:
            keys = listed(target, labels)
            values = torch.ones(keys.shape, dtype=torch.bool, device=keys.device)
    else:
        dense = target.reshape(labels.rows, labels.all)
        return dense[:, labels.first : labels.first + labels.here], None, None
    if on_gpu:
        return None, keys - labels.first * labels.rows, values
    assert values is not None
    low, high = _here(keys, labels)
    return None, keys[low:high] - labels.first * labels.rows, values[low:high]


def ignored_keys(
    ignored: Tensor | None, labels: Labels, check: bool | None, on_gpu: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Keys of ignored elements: of all labels, and of those that are here."""
    if ignored is None:
        return None, None
    check_listed("ignored", ignored, labels, check)
    if on_gpu:
        keys = sorted_keys(ignored, labels)
        return keys, keys - labels.first * labels.rows
    keys = listed(ignored, labels)
    low, high = _here(keys, labels)
    return keys, keys[low:high] - labels.first * labels.rows


def sorted_keys(lists: Tensor, labels: Labels) -> Tensor:
    """Keys of labels listed by row, those of what pads them too: as many as there are places.

    How many are distinct only the device knows.
    """
    keys: Tensor = _keys(lists, labels).sort().values
    return keys


def _keys(lists: Tensor, labels: Labels) -> Tensor:
    row = torch.arange(labels.rows, device=lists.device)[:, None]
    return (lists.reshape(labels.rows, lists.shape[-1]) * labels.rows + row).flatten()


def listed(lists: Tensor, labels: Labels) -> Tensor:
    """Keys of labels listed by row, each once."""
    keys = _keys(lists, labels)
    if keys.device.type == "cpu":
        # numpy sorts in a third of the time that PyTorch takes, which for 5,120 labels was that of
        # one of their products.
        array = keys.numpy()
        array.sort()
        first = int(array.searchsorted(0))  # keys of what pads are below 0
        found = keys[first:]
        return torch.unique_consecutive(found) if (array[1:] == array[:-1]).any() else found
    unique: Tensor = torch.unique(keys[keys >= 0])
    return unique


def check_listed(name: str, lists: Tensor, labels: Labels, check: bool | None = None) -> None:
    """Raise unless these are labels and what pads them: on the CPU, or everywhere if `check`."""
    plain = None if check is False else checks.readable(lists, anywhere=bool(check))
    if plain is None or not plain.numel():
        return
    lists = plain
    low, high = (int(value) for value in torch.aminmax(lists))
    if low < -1 or high >= labels.all:
        wrong = (lists < -1) | (lists >= labels.all)
        at = tuple(int(i) for i in wrong.nonzero()[0])
        place = ", ".join(map(str, at))
        raise ValueError(
            f"{name}[{place}] is {lists[at].item()}; with {labels.all} rows of weight labels are 0 "
            f"to {labels.all - 1}, and -1 alone pads a row that lists fewer: "
            "torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)"
        )
    if low >= 0 and high <= 1 and lists.shape[-1] == labels.all > 2:
        # A list as long as there are labels, of nothing but labels 0 and 1.
        raise ValueError(
            f"{name} has shape {tuple(lists.shape)}, dtype int64 and holds only 0 and 1: int64 "
            "lists labels by row. For one value an element give "
            + ("target.bool()" if name == "target" else f"mask=~{name}.bool()")
        )


def _of_sparse(target: Tensor, labels: Labels, check: bool | None) -> tuple[Tensor, Tensor]:
    logits = torch.empty(labels.shape, device="meta")
    index, values = checks.sparse_entries(target, logits)
    checks.value_range("target", values, None, index, check)
    row = torch.zeros_like(index[0])
    for places, size in zip(index[:-1], labels.lead, strict=True):
        row = row * size + places
    keys, order = torch.sort(index[-1] * labels.rows + row)
    return keys, values[order]


def _here(keys: Tensor, labels: Labels) -> tuple[int, int]:
    """Between which places the keys stand of the labels that are here."""
    if labels.here == labels.all:
        return 0, keys.numel()
    edges = torch.tensor([labels.first, labels.first + labels.here], device=keys.device)
    low, high = torch.searchsorted(keys, edges * labels.rows).tolist()
    return low, high


def counted(mask: Tensor | None, ignored: Tensor | None, labels: Labels) -> Tensor | None:
    """How many labels of each row count, [rows]; None where all do."""
    if mask is None and ignored is None:
        return None
    if mask is None:
        assert ignored is not None
        counts = torch.full((labels.rows,), labels.all, device=ignored.device)
    else:
        counts = _counts(mask)
    if ignored is not None:
        row = ignored % labels.rows
        if mask is not None:
            row = row[mask[row, ignored // labels.rows]]
        counts = counts - torch.bincount(row, minlength=labels.rows)
    return counts


def counted_on_gpu(mask: Tensor | None, ignored: Tensor | None, labels: Labels) -> Tensor | None:
    """As `counted`, from lists of ignored labels instead of keys: of known sizes throughout."""
    if mask is None and ignored is None:
        return None
    counts = None if mask is None else _counts(mask)
    if ignored is None:
        return counts
    lists = ignored.reshape(labels.rows, ignored.shape[-1]).sort(1).values
    there = (lists >= 0) & (lists < labels.all)
    there[:, 1:] &= lists[:, 1:] != lists[:, :-1]  # each once
    if mask is not None:
        there &= mask.gather(1, lists.clamp(0, max(labels.all - 1, 0))) if labels.all else False
    return (labels.all if counts is None else counts) - there.sum(1)


def _counts(mask: Tensor) -> Tensor:
    """The sum of each row, of which PyTorch would make int64 as a whole."""
    if mask.stride(0) == 0 and len(mask):
        return mask[:1].sum(1).expand(len(mask))
    rows = max(1, 2**18 // max(mask.shape[1], 1))
    return torch.cat([part.sum(1) for part in torch.split(mask, rows)])


def dense(target: Tensor, labels: Labels) -> Tensor:
    """A target that is not sparse as one value a logit, differentiably."""
    if target.dtype != torch.int64:
        return target.reshape(labels.shape)
    # Those that pad go to a column of their own.
    at = torch.where(target < 0, labels.all, target)
    columns = torch.zeros((*labels.lead, labels.all + 1), dtype=torch.bool, device=target.device)
    ones = torch.ones_like(at, dtype=torch.bool)
    return columns.scatter(-1, at, ones)[..., : labels.all]
