"""The elements of a call as flat arrays in float64, and what is known about its tensors."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchbce.definition import checks
from torchbce.definition.reductions import valid_mask
from torchbce.diagnosis.statistics import Groups

DOMAINS = ("logits", "probabilities", "log_probs")
#: At most so many elements are looked at; evenly spaced rows of larger tensors.
MOST = 2**18
#: Rows from which on each is a group; fewer rows are divided into `BLOCKS` of their elements.
FEWEST_ROWS, BLOCKS = 32, 64
#: More outputs than this are not told apart.
MOST_COLUMNS = 4096


@dataclass(frozen=True)
class Sample:
    """The valid elements of one or more calls.

    Attributes:
        input: as given: logits, probabilities or log-probabilities.
        target: as given, without label smoothing.
        y: the target with label smoothing.
        domain: what the input is said to be, one of `DOMAINS`.
        weight: of each element; None if all weigh 1.
        pos_weight: of each element; None if all are 1.
        groups: elements that are not independent.
        column: the output of each element, from 0; None if there is one.
        row: the row of each element, from 0.
        columns: the number of outputs.
        elements: how many there are in the tensors, before `MOST`.
        ignored: how many others are ignored.
        zero_weights: how many of `elements` have the weight 0.
        dtype: of the input.
        shapes: of the input and of the target.
        reduction: the reduction of the loss.
        positions: the index of each element in the flattened input; without `shapes`, in order.
    """

    input: np.ndarray
    target: np.ndarray
    y: np.ndarray
    domain: str
    weight: np.ndarray | None
    pos_weight: np.ndarray | None
    groups: Groups
    column: np.ndarray | None
    row: np.ndarray
    columns: int
    elements: int
    ignored: int
    zero_weights: int
    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    reduction: str
    positions: np.ndarray

    def only(self, kept: np.ndarray) -> "Sample":
        """The elements for which `kept` is true."""
        if kept.all():
            return self

        def part(values: np.ndarray | None) -> Any:
            return None if values is None else values[kept]

        of = part(self.groups.of)
        if of is not None:
            of = np.unique(of, return_inverse=True)[1].reshape(-1)
        number = int(kept.sum()) if of is None else int(of.max(initial=-1)) + 1
        return replace(
            self,
            input=self.input[kept],
            target=self.target[kept],
            y=self.y[kept],
            weight=part(self.weight),
            pos_weight=part(self.pos_weight),
            groups=Groups(of, number),
            column=part(self.column),
            row=self.row[kept],
            positions=self.positions[kept],
        )

    @property
    def hard(self) -> bool:
        """Whether every target is 0 or 1 and there are no weights."""
        unweighted = self.weight is None and self.pos_weight is None
        return unweighted and bool(((self.y == 0) | (self.y == 1)).all())

    def masses(self) -> tuple[np.ndarray, np.ndarray]:
        """The weight of each element as a positive and as a negative, see `statistics`."""
        w = 1.0 if self.weight is None else self.weight
        p = 1.0 if self.pos_weight is None else self.pos_weight
        return w * p * self.y, w * (1 - self.y)

    def logits(self) -> np.ndarray:
        """The input as logits, which may be infinite."""
        return as_logits(self.input, self.domain)

    def place(self, at: int) -> str:
        """The index of an element, in words; nothing where it is not known."""
        shape = self.shapes[0]
        if not shape:
            return ""
        index = np.unravel_index(int(self.positions[at]), shape)
        return f" at [{', '.join(str(int(i)) for i in index)}]"


def as_logits(values: np.ndarray, domain: str) -> np.ndarray:
    """Logits of values of a domain: log p - log(1 - p), or x - log(1 - exp(x)) for x = log p."""
    if domain == "logits":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        if domain == "probabilities":
            z: np.ndarray = np.log(values) - np.log1p(-values)
        else:
            z = values - np.log(-np.expm1(values))
    return z


def tensor(name: str, values: Any) -> Tensor:
    """An argument as a tensor without gradients; arrays and lists are taken too."""
    if isinstance(values, Tensor):
        found = values.detach()
        if found.layout is not torch.strided:
            found = found.to_dense()
    else:
        try:
            # A copy where PyTorch refuses: of negative strides, or of memory that is read-only.
            found = torch.as_tensor(np.require(values, requirements=["C", "W"]))
        except TypeError as error:
            raise TypeError(
                f"{name} must be a tensor or an array of numbers, got {type(values).__name__}"
            ) from error
    if found.is_complex():
        raise TypeError(f"{name} must be real, got {found.dtype}")
    return found


def make_sample(
    input: Tensor,
    target: Tensor,
    domain: str,
    weight: Any = None,
    pos_weight: Any = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Sample:
    """The sample of one call; the arguments are those of a loss."""
    shapes = tuple(input.shape), tuple(target.shape)
    dtype = input.dtype
    if not input.is_floating_point():
        input = input.double()
    target = checks.align_target(input, target)
    given = {"weight": weight, "pos_weight": pos_weight}
    weights: dict[str, Tensor | None] = {}
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor) and np.ndim(value):
            value = tensor(name, value)
        moved = value.to(input.device) if isinstance(value, Tensor) else value
        aligned = checks.align_weight(name, moved, input)
        weights[name] = None if aligned is None else aligned.detach().expand(input.shape)
    if mask is not None:
        mask = checks.align_mask(mask.to(input.device), input)
    # Integers are compared as numbers: a uint8 cannot be -100.
    valid = valid_mask(target, target.float(), mask, ignore_index)

    kept = _kept(input.shape)
    rows_of = _rows(input.shape)
    per_row = max(input.numel() // max(rows_of, 1), 1)

    def flat(values: Tensor) -> np.ndarray:
        whole = values.expand(input.shape).reshape(-1)
        picked = whole if kept is None else whole[kept.to(whole.device)]
        return picked.to("cpu", torch.float64).numpy()

    every = input.numel()
    positions = np.arange(every) if kept is None else kept.numpy()
    row = positions // per_row
    number = int(row.max()) + 1 if len(row) else 0
    of: np.ndarray | None = None
    if per_row > 1 and rows_of >= FEWEST_ROWS:
        of = np.unique(row, return_inverse=True)[1].reshape(-1)
    elif per_row > 1:
        of = (np.arange(len(positions)) * BLOCKS) // max(len(positions), 1)
    number = len(positions) if of is None else int(of.max()) + 1 if len(of) else 0
    columns = input.shape[1] if input.dim() > 1 else 1
    column = None
    if 1 < columns <= MOST_COLUMNS:
        inner = per_row // columns
        column = (positions % per_row) // inner
    y = flat(target)
    whole = Sample(
        input=flat(input),
        target=y,
        y=y * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else y,
        domain=domain,
        weight=None if weights["weight"] is None else flat(weights["weight"]),
        pos_weight=None if weights["pos_weight"] is None else flat(weights["pos_weight"]),
        groups=Groups(of, number),
        column=column,
        row=row,
        columns=columns if column is not None else 1,
        elements=every if valid is None else int(valid.sum()),
        ignored=0 if valid is None else every - int(valid.sum()),
        zero_weights=0 if weights["weight"] is None else int((weights["weight"] == 0).sum()),
        dtype=dtype,
        shapes=shapes,
        reduction=reduction,
        positions=positions,
    )
    return whole if valid is None else whole.only(flat(valid) > 0)


def joined(samples: list[Sample]) -> Sample | None:
    """The elements of several calls as one sample, without their places; None without calls."""
    if not samples:
        return None
    first = samples[0]
    if len(samples) == 1:
        return replace(first, shapes=((), ()))

    def together(values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(values)

    def optional(values: list[np.ndarray | None]) -> np.ndarray | None:
        given = [one for one in values if one is not None]
        return together(given) if len(given) == len(values) else None

    of, number = None, sum(len(one.input) for one in samples)
    if any(one.groups.of is not None for one in samples):
        parts, number = [], 0
        for one in samples:
            own = np.arange(len(one.input)) if one.groups.of is None else one.groups.of
            parts.append(own + number)
            number += one.groups.number
        of = together(parts)
    same = len({one.columns for one in samples}) == 1
    column = optional([one.column for one in samples]) if same else None
    starts = np.cumsum([0, *(int(one.row.max(initial=-1)) + 1 for one in samples)])
    return replace(
        first,
        input=together([one.input for one in samples]),
        target=together([one.target for one in samples]),
        y=together([one.y for one in samples]),
        weight=optional([one.weight for one in samples]),
        pos_weight=optional([one.pos_weight for one in samples]),
        groups=Groups(of, number),
        column=column,
        row=together([one.row + start for one, start in zip(samples, starts, strict=False)]),
        columns=first.columns if column is not None else 1,
        elements=sum(one.elements for one in samples),
        ignored=sum(one.ignored for one in samples),
        zero_weights=sum(one.zero_weights for one in samples),
        shapes=((), ()),
        positions=np.arange(sum(len(one.input) for one in samples)),
    )


def _rows(shape: torch.Size) -> int:
    return shape[0] if len(shape) else 1


def _kept(shape: torch.Size) -> Tensor | None:
    """The flat indices of the elements to look at; None for all of them."""
    every = shape.numel()
    if every <= MOST:
        return None
    per_row = every // shape[0]
    if per_row <= MOST // FEWEST_ROWS:
        rows = torch.linspace(0, shape[0] - 1, MOST // per_row, dtype=torch.float64).long()
        return (rows[:, None] * per_row + torch.arange(per_row)).reshape(-1)
    return torch.linspace(0, every - 1, MOST, dtype=torch.float64).long()
