"""What every model of a table is fitted to, and what its fit returns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from torchbce.classifier.columns.encoder import Encoded, Encoder
from torchbce.classifier.models.candidates import Candidates, mean_loss
from torchbce.classifier.models.features import SparseRows, linear_features
from torchbce.classifier.models.losses import ArrayLoss
from torchbce.classifier.models.members import Model
from torchbce.classifier.models.parts import Parts, make_parts
from torchbce.classifier.models.recalibration import Line, cross_fitted, fit_line, offset_at
from torchbce.classifier.models.solver import Problem
from torchbce.classifier.models.vocabulary import Vocabulary, part_rows
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.progress import Progress

#: From this many stored features on a second thread is worth its waiting between the steps: with
#: 650,000 (UCI Adult) two threads took twice the CPU time of one.
THREADED = 10_000_000

#: A table of text alone, for which only the linear model is fitted, may have so many times the
#: stored features for the same number of parts: 25,000 reviews of 240 words, in two parts, take 25
#: CPU seconds.
OF_TEXT_ALONE = 4


@dataclass(frozen=True)
class Data:
    """A table to learn from.

    Attributes:
        encoder: its columns.
        encoded: their arrays.
        targets: in [0, 1], float64 [rows]: the probability of the positive value.
        pos_weight: the weight of the positives in the loss.
        options: how to fit.
        progress: receives each setting that is tried.
        weight: how much each row counts, above 0, float64 [rows]; None for 1.
        groups: the number of each row's group, which no split divides, int64 [rows].
        times: any numbers in the order of time, of which the latest are held out, float64 [rows].
    """

    encoder: Encoder
    encoded: Encoded
    targets: np.ndarray
    pos_weight: float
    options: TrainingOptions
    progress: Progress
    weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    times: np.ndarray | None = None

    @cached_property
    def rows(self) -> SparseRows:
        """The features of the linear model."""
        return linear_features(self.encoder, self.encoded)

    @cached_property
    def parts(self) -> Parts:
        """The rows that are held out."""
        stored, options = len(self.rows.indices), self.options
        if not self.encoder.coded:
            stored //= OF_TEXT_ALONE
        return make_parts(
            self.targets,
            stored,
            options.seed,
            options.effort,
            options.model,
            self.groups,
            self.times,
        )

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Which of the features of the linear model are words and n-grams."""
        return Vocabulary.of(self.encoder)

    def part_rows(self, number: int) -> tuple[SparseRows, SparseRows]:
        """The features of the rows to train on and of the rows held out of a part."""
        return part_rows(self.rows, self.vocabulary, *self.parts.pairs[number])

    @cached_property
    def held_out_targets(self) -> np.ndarray:
        """The targets of the rows held out, of all parts one after the other."""
        targets: np.ndarray = self.targets[self.parts.held_out]
        return targets

    @cached_property
    def held_out_weight(self) -> np.ndarray | None:
        """How much each row held out counts; None for 1."""
        return None if self.weight is None else self.weight[self.parts.held_out]

    @cached_property
    def row_weight(self) -> np.ndarray | None:
        """The weight of each row in the loss, float64 [rows]; None for 1.

        With w the row's own weight, y its target and p the weight of the positives, w (p y + 1 - y)
        here and p y / (p y + 1 - y) in `training_targets` are the loss
        w [p y (-log s(z)) + (1 - y) (-log s(-z))].
        """
        if self.pos_weight == 1:
            return self.weight
        share = self.pos_weight * self.targets + (1 - self.targets)
        weight: np.ndarray = share if self.weight is None else self.weight * share
        return weight

    @cached_property
    def training_targets(self) -> np.ndarray:
        """The targets with the weight of the positives in them, see `row_weight`."""
        if self.pos_weight == 1:
            return self.targets
        positive = self.pos_weight * self.targets
        targets: np.ndarray = positive / (positive + (1 - self.targets))
        return targets

    @property
    def base(self) -> float:
        """The logit of the base rate."""
        positive, negative = self.targets, 1 - self.targets
        if self.weight is not None:
            positive, negative = self.weight * positive, self.weight * negative
        return float(np.log(positive.sum()) - np.log(negative.sum()))

    @property
    def threads(self) -> int:
        """The number of threads for sparse features; results do not depend on it."""
        return 2 if len(self.rows.indices) >= THREADED else 1

    def weight_of(self, rows: np.ndarray) -> np.ndarray | None:
        """The weight of some rows."""
        return None if self.row_weight is None else self.row_weight[rows]

    def unweighted(self, logits: np.ndarray) -> np.ndarray:
        """Logits without the log(pos_weight) that the weight of the positives added."""
        return logits if self.pos_weight == 1 else logits - np.log(self.pos_weight)

    @cached_property
    def loss(self) -> ArrayLoss | None:
        """The loss of the linear models; None for binary cross-entropy."""
        return None if self.options.loss == "bce" else ArrayLoss(self.options)

    def problem(self, rows: SparseRows, at: np.ndarray | slice = slice(None)) -> Problem:
        """What a linear model is fitted to.

        Args:
            rows: the features of the rows to learn from.
            at: which rows of the table these are.
        """
        weight = None if self.row_weight is None else self.row_weight[at]
        return Problem(rows, self.training_targets[at], weight, self.threads, self.loss)

    def comparable(self, logits: np.ndarray) -> np.ndarray:
        """The logits of all rows held out, as they would be after binary cross-entropy.

        Args:
            logits: of a model fitted by the loss and the weight of the positives of the options.

        Returns:
            The logits without log(pos_weight); after another loss than binary cross-entropy mapped
            by lines that were fitted to other rows.
        """
        logits = self.unweighted(logits)
        if self.options.loss == "bce":
            return logits
        return cross_fitted(logits, self.held_out_targets, self.held_out_weight, self.parts.honest)

    def loss_on(self, rows: np.ndarray, logits: np.ndarray) -> float:
        """The mean binary cross-entropy of a model on some rows held out, to compare settings.

        Args:
            rows: the indices of the rows.
            logits: as in `comparable`; here a line is fitted to the same rows.
        """
        logits, targets = self.unweighted(logits), self.targets[rows]
        weight = None if self.weight is None else self.weight[rows]
        if self.options.loss != "bce":
            logits = fit_line(logits, targets, weight)(logits)
        return mean_loss(logits, targets, weight)

    def line(self, held_out: np.ndarray, every: Callable[[], np.ndarray]) -> Line:
        """What makes a model's logits those of binary cross-entropy with the weight of positives.

        `Classifier` subtracts log(pos_weight) from what this returns.

        Args:
            held_out: the logits of the rows held out, as in `comparable`.
            every: returns the logits of all rows, by the model that was fitted to them.
        """
        if self.options.loss == "bce":
            return Line(1.0, 0.0)
        slope = fit_line(held_out, self.held_out_targets, self.held_out_weight).slope
        offset = offset_at(slope * every(), self.targets, self.weight)
        return Line(slope, offset + float(np.log(self.pos_weight)))


class Fitted(NamedTuple):
    """What a model reached on the rows held out, with each setting.

    Attributes:
        candidates: the settings and the logits that they give, without the weight of positives.
        model: the model for all rows, of the setting at a position.
        words: a setting in words.
        tried: the number of settings that were tried.
    """

    candidates: Candidates
    model: Callable[[int], Model]
    words: Callable[[Any], str]
    tried: int
