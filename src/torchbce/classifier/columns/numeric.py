"""Numeric columns as standardised values and bins."""

import itertools
import warnings
from typing import Annotated

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.bins import bin_edges
from torchbce.classifier.columns.categorical import least_rows
from torchbce.classifier.columns.numbers import PLAIN, Notation
from torchbce.classifier.columns.values import as_numbers
from torchbce.classifier.errors import InputError

# A linear model extrapolates from the standardised value. It is clipped to +-10 standard
# deviations, so that a typing error in new data does not decide the answer.
CLIP = 10.0


class NumericColumn(msgspec.Struct, frozen=True, tag_field="kind", tag="numeric"):
    """A numeric column: its mean and scale, and the edges of its bins.

    The codes of its values are their bins; a missing value has a code of its own, after the bins,
    if as many training rows had one as a category needs.
    """

    name: str
    mean: float
    scale: Annotated[float, msgspec.Meta(gt=0)]
    flag_missing: bool
    edges: list[float]
    written: Notation = PLAIN

    @property
    def codes(self) -> int:
        """The number of codes."""
        return (len(self.edges) + 1 if self.edges else 0) + self.flag_missing

    @property
    def labels(self) -> list[str]:
        """What each code stands for, as `12 to 40`."""
        labels = []
        if self.edges:
            between = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(self.edges)]
            labels = [f"below {self.edges[0]:g}", *between, f"{self.edges[-1]:g} or more"]
        return labels + ["missing"] * self.flag_missing

    def numbers(self, values: pl.Series) -> np.ndarray:
        """The values as float64, [rows], missing ones NaN. Raises `InputError`."""
        return as_numbers(values, self.written)

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """The code of each number, int32, [rows]; -1 where it has none."""
        missing = np.isnan(numbers)
        if self.edges:
            codes = np.searchsorted(np.asarray(self.edges), numbers, side="right").astype(np.int32)
        else:
            codes = np.full(len(numbers), -1, dtype=np.int32)
        codes[missing] = self.codes - 1 if self.flag_missing else -1
        return codes

    def standardise(self, numbers: np.ndarray) -> np.ndarray:
        """The distance from the mean in units of the scale, float32; 0 where missing."""
        with np.errstate(over="ignore"):  # an overflow is clipped
            standardised = np.clip((numbers - self.mean) / self.scale, -CLIP, CLIP)
        return np.where(np.isnan(numbers), 0.0, standardised).astype(np.float32)


def fit_numeric(values: pl.Series, written: Notation = PLAIN) -> NumericColumn | None:
    """The description of a numeric column; None if it is constant and has no missing values."""
    numbers = as_numbers(values, written)
    present = numbers[~np.isnan(numbers)]
    # A single row with a missing value says nothing about others: see `least_rows`.
    flag_missing = len(numbers) - len(present) >= least_rows(len(numbers))
    if len(present) == 0 or present.min() == present.max():
        if len(present) == 0 or not flag_missing:
            return None
        return NumericColumn(values.name, float(present[0]), 1.0, True, [], written)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an overflow is reported below
        mean, scale = float(present.mean()), float(present.std())
    if not np.isfinite(mean + scale) or scale == 0:
        raise InputError(
            f"column {values.name!r} cannot be standardised: its values range from "
            f"{present.min():g} to {present.max():g}; rescale the column or drop it"
        )
    edges: list[float] = bin_edges(present).tolist()
    return NumericColumn(values.name, mean, scale, flag_missing, edges, written)
