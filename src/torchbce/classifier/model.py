"""A fitted classifier: an encoder, models, and the card that describes them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.encoder import Column, Encoded, Encoder
from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.matrix import as_matrix
from torchbce.classifier.columns.outcomes import RowColumns
from torchbce.classifier.columns.target import Target
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.decisions.deciding import Decision, Rule
from torchbce.classifier.errors import InputWarning, name_columns
from torchbce.classifier.models.calibration import Calibration
from torchbce.classifier.models.members import Model
from torchbce.classifier.models.mixture import combined
from torchbce.classifier.models.parts import Parts
from torchbce.classifier.models.search import Tried
from torchbce.classifier.quality.base_rates import (
    BaseRate,
    check_rate,
    estimate_base_rate,
    log_odds,
)
from torchbce.classifier.quality.metrics import Metrics
from torchbce.classifier.tables.frames import TableLike, as_table

if TYPE_CHECKING:
    from torchbce.classifier.explanations.records import Explanation

ModelKey = Annotated[str, msgspec.Meta(pattern="^(linear|pairs|trees|mlp)$")]
#: Far more than any base rate has, and few enough that no combined logit overflows.
Bounded = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Weight = Annotated[float, msgspec.Meta(ge=0, le=1e30)]

#: The version of `model.json`, raised whenever an older reader would misread it.
FORMAT: Literal[2] = 2


class Split(msgspec.Struct, frozen=True):
    """How rows were held out.

    Attributes:
        kind: "random", stratified by target; "group", without dividing a group; "time", the latest.
        folds: into how many parts the rows were divided; with times the number of windows.
        repeats: how many times they were divided.
        parts: how many of all these parts were held out, one after the other.
        figures: the number of rows that the figures are of.
    """

    kind: Literal["random", "group", "time"]
    folds: int
    repeats: int
    parts: int
    figures: int


def split_of(parts: Parts, rows: np.ndarray) -> Split:
    """What the card says of the parts; `rows` are those that the figures are of."""
    return Split(parts.kind, parts.folds, parts.repeats, len(parts.pairs), len(rows))


class Card(msgspec.Struct, frozen=True):
    """Everything about a classifier that is not a tensor: the content of `model.json`.

    Attributes:
        format: the version of this description.
        target: the target column and its two values.
        threshold: rows with a probability of at least this are predicted positive, in [0, 1].
        base: the logit of the share of positives.
        models: the models, each with the weight of its logits: the combined logit is the base, and
            for each model its weight times the difference of its logit from the base. Without a
            model every row has the base rate.
        pos_weight: the weight of the positives in the loss, above 0.
        rows: the number of rows that it was fitted to.
        positives: the number of positives among them, or the sum of their weights.
        held_out: the metrics on the rows held out.
        options: what was asked for.
        versions: the versions of torchbce, Python and the libraries that fitted it.
        dropped: why each column that the model does not read was dropped, by name.
        columns: the columns that the model reads, in the order of their features.
        missing: more words that mean "no value".
        decimal: what begins the decimals of numbers in strings.
        row_columns: the columns of weights, groups and times.
        weight: the sum of the weights of the rows; None without weights.
        split: how rows were held out.
        base_rate: the share of positives where the model is used, above 0 and below 1; None where
            it is that of the table. Logits are shifted by the difference of the two in log-odds.
        calibration: the map from the combined logits to calibrated ones; None for none.
        decision: how the threshold was chosen, what it keeps, and which rows stay undecided; None
            where it is 0.5 because nothing else was wanted.
        set_aside: the number of rows that the models were not fitted to, which tested the
            guarantees; `rows` does not count them.

    Example:
        >>> from torchbce.classifier import fit
        >>> card = fit(pl.DataFrame({"x": [0.5, 1.5, 2.5] * 4, "y": [0, 1, 1] * 4}), "y").card
        >>> card.rows, card.positives, [column.name for column in card.columns]
        (12, 8, ['x'])
    """

    format: Literal[2]
    target: Target
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    base: Bounded
    models: dict[ModelKey, Weight]
    pos_weight: Annotated[float, msgspec.Meta(gt=0)]
    rows: int
    positives: int | float
    held_out: Metrics
    options: dict[str, Any]
    versions: dict[str, str]
    dropped: dict[str, str]
    columns: list[Column]
    missing: list[str] = []
    decimal: str = "."
    row_columns: RowColumns = RowColumns()
    weight: float | None = None
    split: Split | None = None
    base_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    calibration: Calibration | None = None
    decision: Decision | None = None
    set_aside: int = 0

    @property
    def base_shift(self) -> float:
        """What is added to the logits for the base rate in use, in nats."""
        return 0.0 if self.base_rate is None else log_odds(self.base_rate) - self.base


class HeldOut(NamedTuple):
    """Rows that a model was not fitted to.

    Attributes:
        rows: where they are in the table, int64 [rows].
        logits: of models, settings and maps that were chosen without their targets, float64.
        targets: in [0, 1], float64.
        weight: how much each counts; None for 1.
    """

    rows: np.ndarray
    logits: np.ndarray
    targets: np.ndarray
    weight: np.ndarray | None


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier, as `fit` and `load` return it.

    Attributes:
        card: the target, the columns, the threshold, how it was trained, and its metrics on the
            rows held out.
        encoder: from a table to features.
        models: from the encoder's arrays to logits, in the order of `card.models`.
        choices: the kind of each column and why; empty in a loaded classifier.
        tried: what each model reached on the rows held out, and how long it took.
        curvature: the second derivatives of the loss of the training rows at the base rate, by the
            weights of the linear model and by its bias, float64 [width + 1]; None in a loaded
            classifier.
        held_out: the rows held out, for a report; None in a loaded classifier.

    Example:
        >>> from torchbce.classifier import fit
        >>> columns = {"x": [0.0, 1.0, 5.0, 6.0] * 20, "y": ["no", "no", "yes", "yes"] * 20}
        >>> classifier = fit(pl.DataFrame(columns), "y")
        >>> classifier.predict(pl.DataFrame({"x": [0.5, 5.5]}))["predicted"].to_list()
        ['no', 'yes']
    """

    card: Card
    encoder: Encoder
    models: tuple[Model, ...]
    choices: tuple[Choice, ...] = ()
    tried: tuple[Tried, ...] = ()
    curvature: np.ndarray | None = field(default=None, compare=False, repr=False)
    held_out: HeldOut | None = field(default=None, compare=False, repr=False)

    def logits(self, table: TableLike) -> np.ndarray:
        """The log-odds of the positive value, log(p / (1 - p)).

        The models are combined as `card.models` says. What the weight of the positives added to
        their logits, log(pos_weight), is taken out. The result is mapped by `card.calibration`, and
        the shift to `card.base_rate` is added.

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.

        Returns:
            Logits in nats, float64, [rows].

        Raises:
            InputError: if a column that the model reads is missing, or of another type or kind.
        """
        return logits_of(self, encoded_rows(self, table))

    def with_base_rate(self, rate: float | None) -> "Classifier":
        """The same classifier for use where the share of positives is another one.

        Its logits are shifted by log(r' / (1 - r')) - log(r / (1 - r)), for the share r of the
        table that it was fitted to.

        Args:
            rate: the share of positives in use, above 0 and below 1; None is that of the table.

        Returns:
            A classifier with `card.base_rate`, which `save` keeps.

        Raises:
            InputError: if the rate is not above 0 and below 1.

        Example:
            >>> from torchbce.classifier import fit
            >>> classifier = fit({"x": [0.0, 1.0, 5.0, 6.0] * 20, "y": [0, 0, 1, 1] * 20}, "y")
            >>> rows = {"x": [0.5, 5.5]}
            >>> shift = classifier.with_base_rate(0.1).logits(rows) - classifier.logits(rows)
            >>> bool(np.allclose(shift, np.log(0.1 / 0.9)))
            True
        """
        if rate is not None and self.card.decision is not None and self.card.decision.guarantees:
            warnings.warn(
                "the guarantee of this model does not hold where the base rate is another one",
                InputWarning,
                stacklevel=2,
            )
        card = msgspec.structs.replace(
            self.card, base_rate=None if rate is None else check_rate(rate)
        )
        return replace(self, card=card)

    def estimate_base_rate(self, table: TableLike) -> BaseRate:
        """The share of positives among the rows of a table without targets, with its interval.

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.

        Returns:
            The estimate of `torchbce.classifier.quality.base_rates.estimate_base_rate`.

        Raises:
            InputError: as `logits`, and if the table has no rows or the model does not tell them
                apart.
        """
        logits = self.logits(table) - self.card.base_shift
        return estimate_base_rate(logits, self.card.base)

    def probabilities(self, table: TableLike) -> np.ndarray:
        """The probabilities of the positive value, sigmoid(logits).

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.

        Returns:
            Probabilities, float64, [rows].

        Raises:
            InputError: if a column that the model reads is missing, or of another type or kind.
        """
        from scipy.special import expit

        return np.asarray(expit(self.logits(table)))

    def predict(
        self,
        table: TableLike,
        as_written: bool = False,
        explain: int = 0,
        threshold: float | None = None,
        abstain: bool | None = None,
    ) -> pl.DataFrame:
        """The probability and the predicted target value of each row.

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.
            as_written: whether `predicted` is strings, as the target's values were written; else it
                is bool or integers where they are.
            explain: how many columns to name that weigh most for each row.
            threshold: in [0, 1], in place of `card.threshold`; then no row is undecided.
            abstain: whether rows between the thresholds of `card.decision` stay undecided; None for
                what was asked for when the classifier was fitted.

        Returns:
            A table of two columns, [rows]: `probability` of the positive value, float64, and
            `predicted`, the positive value where that is at least the threshold, else the negative
            one, or null where the row is undecided. With `explain` K there are `explanation_1` to
            `explanation_K` too, the columns of the largest absolute contributions as strings, as
            "age=39 +0.41"; null where a contribution rounds to 0.00.

        Raises:
            InputError: if a column that the model reads is missing, or of another type or kind, the
                threshold is outside [0, 1], or the classifier has no guarantee to abstain by.
        """
        rule = self.rule(threshold, abstain)
        probabilities = self.probabilities(table)
        labels = self.card.target.labels(probabilities >= rule.threshold, as_written)
        predictions = pl.DataFrame(
            {"probability": probabilities, "predicted": rule.decided(labels, probabilities)}
        )
        if explain < 1:
            return predictions
        from torchbce.classifier.explanations.contributions import explanations

        found = explanations(self, self._inputs(table), explain)
        return predictions.with_columns(
            values.alias(f"explanation_{rank}") for rank, values in enumerate(found, start=1)
        )

    def rule(self, threshold: float | None = None, abstain: bool | None = None) -> Rule:
        """What is predicted at which probability.

        Args:
            threshold: in place of that of the card, in [0, 1]; None keeps it.
            abstain: whether rows may stay undecided; None for what the card says.

        Returns:
            The rule.

        Raises:
            InputError: if the threshold is outside [0, 1] or given with `abstain`, or the model has
                no guarantee to abstain by.
        """
        return Rule.of(self.card.threshold, self.card.decision, threshold, abstain)

    def explain(self, most: int = 20) -> "Explanation":
        """What weighs most, in log-odds of the positive value.

        Args:
            most: how many words, categories, curves, pairs and columns of trees to list at most.

        Returns:
            The weights of words, categories, bins of numbers and cells of pairs in the combined
            logit, the columns that trees use most, and the share of each model in the answer. Of a
            network (`mlp`) only that share is given.

        Raises:
            ValueError: if `most` is negative.

        Example:
            >>> from torchbce.classifier import fit
            >>> columns = {"x": ["a", "b", "c"] * 40, "y": [1, 0, 0] * 40}
            >>> fit(pl.DataFrame(columns), "y").explain(most=1).categories[0].value
            'a'
        """
        from torchbce.classifier.explanations.effects import explain

        if most < 0:
            raise ValueError(f"most must be at least 0, got {most}")
        return explain(self, most)

    def contributions(self, table: TableLike) -> pl.DataFrame:
        r"""What each column adds to the logit of each row.

        .. math:: z = b + \sum_c v_c

        The values of the linear and of the pairs model are exact; where two columns act together in
        a pair, it is listed as one, `a & b`. In trees each split on the way of a row adds to its
        column the difference between the mean of the training rows on the side that the row takes
        and their mean before the split. The text of several text columns acts together there. In a
        network the columns are put in one after the other, in their order and in the reverse one,
        and the mean of what a column changes in the two is its value.

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.

        Returns:
            Log-odds in nats, float64, [rows]: a column `base`, the same in each row, one for each
            column that the model reads, and one for each two that act together. They add up to
            `logits`. A number is added to a name that is there twice.

        Raises:
            InputError: if a column that the model reads is missing, or of another type or kind.

        Example:
            >>> from torchbce.classifier import fit
            >>> columns = {"x": ["a", "b", "c"] * 40, "y": [1, 0, 0] * 40}
            >>> classifier = fit(pl.DataFrame(columns), "y")
            >>> parts = classifier.contributions({"x": ["a", "b"]})
            >>> parts.columns, bool(parts["x"][0] > parts["x"][1])
            (['base', 'x'], True)
            >>> bool(np.allclose(parts.sum_horizontal(), classifier.logits({"x": ["a", "b"]})))
            True

        References:
            Saabas, Interpreting random forests, 2014; Strumbelj and Kononenko, Explaining
            prediction models and individual predictions with feature contributions, 2014 (orders of
            the columns).
        """
        from torchbce.classifier.explanations.contributions import contributions_table

        return contributions_table(self, self._inputs(table))

    def _inputs(self, table: TableLike) -> Any:
        """The columns that the model reads, null for words of `missing`; or a matrix."""
        if self.encoder.matrix is not None:
            return as_matrix(table, self.encoder.matrix.width)
        rows = as_table(table)
        if not self.card.missing:
            return rows
        names = [column.name for column in self.card.columns if column.name in rows.columns]
        return without_words(rows.select(names), self.card.missing)


def encoded_rows(classifier: Classifier, table: TableLike) -> Encoded:
    """The arrays of the rows that a classifier reads, for `logits_of`.

    Args:
        classifier: the classifier.
        table: as `Classifier.logits` takes it. A column none of whose values is known is warned of.

    Raises:
        InputError: if a column that the model reads is missing, or of another type or kind.
    """
    rows = classifier._inputs(table)
    encoded = classifier.encoder.transform(rows)
    if unseen := classifier.encoder.unseen(rows):
        warnings.warn(unseen_values(unseen), InputWarning, stacklevel=3)
    return encoded


def logits_of(classifier: Classifier, encoded: Encoded) -> np.ndarray:
    """The logits of rows that are encoded already, float64 [rows]; see `Classifier.logits`."""
    card = classifier.card
    if not card.models:
        return np.full(len(encoded), card.base + card.base_shift)
    shift = np.log(card.pos_weight)
    logits = {m.name: m.logits(classifier.encoder, encoded) - shift for m in classifier.models}
    mixed = combined(logits, card.models, card.base)
    if card.calibration is not None:
        mixed = card.calibration(mixed)
    return mixed + card.base_shift


def unseen_values(names: Sequence[str]) -> str:
    """What to say of columns of which no value was in the training rows."""
    return (
        f"no value of {name_columns(names)} was in the rows that the model was fitted to; check "
        "that they are written as there"
    )
