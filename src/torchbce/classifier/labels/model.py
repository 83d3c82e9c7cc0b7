"""A fitted classifier of many labels, and the card that describes it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import polars as pl

from torchbce.classifier.columns.encoder import Column, Encoded, Encoder
from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.matrix import as_matrix
from torchbce.classifier.columns.outcomes import RowColumns
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.errors import Argument, InputError, InputWarning
from torchbce.classifier.labels.inputs import network_inputs
from torchbce.classifier.labels.linear import LinearLabels
from torchbce.classifier.labels.metrics import LabelsMetrics, best_labels, evaluate_labels
from torchbce.classifier.labels.network import LabelsNetwork
from torchbce.classifier.labels.sources import LabelColumns, LabelSource
from torchbce.classifier.labels.targets import LabelTargets
from torchbce.classifier.model import Bounded, Split, Weight, unseen_values
from torchbce.classifier.models.search import Tried
from torchbce.classifier.tables.frames import TableLike, as_table

#: With more labels there are no columns for each label, but those of the most probable labels.
COLUMNS_OF_LABELS = 200
#: So many, if it is not said.
TOP = 5
#: A report has charts of so many labels.
SHOWN = 20

Threshold = Annotated[float, msgspec.Meta(ge=0, le=1)]
LabelsModelKey = Annotated[str, msgspec.Meta(pattern="^(linear|network)$")]


class LabelsCard(msgspec.Struct, frozen=True):
    """Everything about a classifier of many labels that is not a tensor.

    Attributes:
        format: the version of this description.
        kind: "labels"; a card without it is of a single target.
        source: the columns of the labels, or the column of label lists, and the labels.
        thresholds: of each label: a probability of at least this is predicted positive, [L].
        bases: the logit of each label's base rate, [L].
        models: the models, each with its weight in every label, [L]: as `Card.models`.
        hidden: the hidden units of the network; 0 without one.
        rows: the number of rows that it was fitted to.
        positives: the number of positives of each label, or the sum of their weights, [L].
        known: the number of rows in which each label was known, or the sum of their weights, [L].
        held_out: the metrics on the rows held out.
        options: what was asked for.
        versions: the versions of torchbce, Python and the libraries that fitted it.
        dropped: why each column that the model does not read was dropped, by name.
        columns: the columns that the model reads, in the order of their features.
        missing: more words that mean "no value".
        row_columns: the columns of weights, groups and times.
        split: how rows were held out.
        optimized: what the thresholds were chosen for; "" for 0.5.

    Example:
        >>> from torchbce.classifier import fit_labels
        >>> table = {"x": [0.0, 1.0, 5.0] * 20, "low": [1, 1, 0] * 20, "any": [1, 0, 1] * 20}
        >>> card = fit_labels(table, targets=["low", "any"]).card
        >>> card.labels, card.positives
        (['low', 'any'], [40.0, 40.0])
    """

    format: Literal[2]
    kind: Literal["labels"]
    source: LabelSource
    thresholds: list[Threshold]
    bases: list[Bounded]
    models: dict[LabelsModelKey, list[Weight]]
    hidden: Annotated[int, msgspec.Meta(ge=0, le=100_000)]
    rows: int
    positives: list[float]
    known: list[float]
    held_out: LabelsMetrics
    options: dict[str, Any]
    versions: dict[str, str]
    dropped: dict[str, str]
    columns: list[Column]
    missing: list[str] = []
    row_columns: RowColumns = RowColumns()
    split: Split | None = None
    optimized: str = ""

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the columns of logits."""
        return self.source.names

    def fault(self) -> str:
        """What is wrong with a card that was read from a file.

        Returns:
            A sentence; "" if nothing is wrong.
        """
        names = self.labels
        if len(names) < 2 or len(set(names)) != len(names):
            return "it must name at least two labels, and each label once"
        lists: dict[str, list[float]] = {
            "thresholds": self.thresholds,
            "bases": self.bases,
            "positives": self.positives,
            "known": self.known,
            **{f"models.{name}": own for name, own in self.models.items()},
        }
        for name, values in lists.items():
            if len(values) != len(names):
                return f"{name} must have a number for each of the {len(names):,} labels"
        if any(not 0 <= p <= n for p, n in zip(self.positives, self.known, strict=True)):
            return "positives must be from 0 to the number of rows that are known"
        if ("network" in self.models) != (self.hidden > 0):
            return "hidden must be above 0 with a network, and only then"
        for target in self.source.targets if isinstance(self.source, LabelColumns) else []:
            if target.positive == target.negative:
                return "the two values of a target must differ"
        return ""


class LabelsHeldOut(NamedTuple):
    """What a report shows of rows that a model was not fitted to.

    Attributes:
        labels: the numbers of the labels that it shows, those with most positives.
        logits: of these labels, float64 [rows, S].
        targets: in [0, 1], NaN where unknown, [rows, S].
        weight: how much each row counts; None for 1.
    """

    labels: list[int]
    logits: np.ndarray
    targets: np.ndarray
    weight: np.ndarray | None

    @classmethod
    def of(
        cls,
        logits: Callable[[int, int], np.ndarray],
        targets: LabelTargets,
        weight: np.ndarray | None,
    ) -> "LabelsHeldOut":
        """Those of the labels with most positives; `logits` as `evaluate_labels` takes it."""
        counts = targets.counts(weight)[0]
        shown = np.argsort(-counts, kind="stable")[:SHOWN].tolist()
        z = [logits(label, label + 1) for label in shown]
        y = [targets.values(label, label + 1) for label in shown]
        return cls(shown, np.hstack(z).astype(np.float64), np.hstack(y).astype(np.float64), weight)


@dataclass(frozen=True)
class LabelsClassifier:
    """A fitted classifier of many labels, as `fit_labels` and `load` return it.

    Attributes:
        card: the labels, the columns, the thresholds, how it was trained, and its metrics on the
            rows held out.
        encoder: from a table to features.
        linear: a linear model for each label; None without.
        network: one network for all labels; None without.
        text: the text features that the network reads.
        choices: the kind of each column and why; empty in a loaded classifier.
        tried: what each model reached on the rows held out, and how long it took.
        held_out: the rows held out, for a report; None in a loaded classifier.

    Example:
        >>> from torchbce.classifier import fit_labels
        >>> table = {"x": [0.0, 1.0, 5.0] * 20, "low": [1, 1, 0] * 20, "any": [1, 0, 1] * 20}
        >>> classifier = fit_labels(table, targets=["low", "any"])
        >>> classifier.predict({"x": [0.5]}).columns
        ['probability_low', 'predicted_low', 'probability_any', 'predicted_any']
    """

    card: LabelsCard
    encoder: Encoder
    linear: LinearLabels | None
    network: LabelsNetwork | None
    text: np.ndarray
    choices: tuple[Choice, ...] = ()
    tried: tuple[Tried, ...] = ()
    held_out: LabelsHeldOut | None = field(default=None, compare=False, repr=False)

    def logits(self, table: TableLike) -> np.ndarray:
        """The log-odds of each label, log(p / (1 - p)).

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.

        Returns:
            Logits in nats, float64 [rows, L].

        Raises:
            InputError: if a column that the model reads is missing, or of another type or kind.
        """
        return self._combined(self.encoded(table))

    def probabilities(self, table: TableLike) -> np.ndarray:
        """The probability of each label, sigmoid(logits).

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.

        Returns:
            Probabilities, float64 [rows, L].

        Raises:
            InputError: if a column that the model reads is missing, or of another type or kind.
        """
        from scipy.special import expit

        return np.asarray(expit(self.logits(table)))

    def with_threshold(self, threshold: float | None) -> "LabelsClassifier":
        """The same classifier with one threshold for all labels.

        Args:
            threshold: in [0, 1]; None keeps those of the card.

        Returns:
            The classifier.

        Raises:
            InputError: if the threshold is outside [0, 1].
        """
        if threshold is None:
            return self
        if not 0 <= threshold <= 1:
            raise InputError(Argument("threshold"), f" must be in [0, 1], got {threshold:g}")
        thresholds = [float(threshold)] * len(self.card.labels)
        return replace(self, card=msgspec.structs.replace(self.card, thresholds=thresholds))

    def topk(self, table: TableLike, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k most probable labels of each row, without storing the logits of all.

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.
            k: how many, from 1 to L.

        Returns:
            Their logits, float64, and their numbers, int64, both [rows, k], the best first.

        Raises:
            InputError: if k is out of range, or as `logits`.
        """
        if not 1 <= k <= len(self.card.labels):
            raise InputError(
                f"k must be from 1 to the number of labels, {len(self.card.labels)}, got {k}"
            )
        return self._topk(self.encoded(table), k)

    def predict(
        self, table: TableLike, as_written: bool = False, top: int | None = None
    ) -> pl.DataFrame:
        """The probabilities and the predicted values of the labels, or the most probable labels.

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.
            as_written: whether predicted values are strings, as they were written; else they are
                bool or integers where they are.
            top: K, to return the K most probable labels; None for all labels if there are at most
                200, and else 5.

        Returns:
            A table, [rows]: for each label `probability_LABEL` and `predicted_LABEL`; with `top`
            `label_1`, `probability_1` to `label_K`, `probability_K`, the most probable first.

        Raises:
            InputError: if `top` is out of range, or as `logits`.
        """
        from scipy.special import expit

        names = self.card.labels
        if top is None and len(names) > COLUMNS_OF_LABELS:
            top = TOP
        if top is not None:
            values, indices = self.topk(table, top)
            every = pl.Series(names)
            columns = {}
            for rank in range(top):
                columns[f"label_{rank + 1}"] = every.gather(indices[:, rank])
                columns[f"probability_{rank + 1}"] = pl.Series(expit(values[:, rank]))
            return pl.DataFrame(columns)
        probabilities = self.probabilities(table)
        columns = {}
        for number, name in enumerate(names):
            p = np.ascontiguousarray(probabilities[:, number])
            decided = p >= self.card.thresholds[number]
            columns[f"probability_{name}"] = pl.Series(p)
            columns[f"predicted_{name}"] = self.card.source.predicted(number, decided, as_written)
        return pl.DataFrame(columns)

    def evaluate(
        self,
        table: TableLike,
        targets: LabelTargets | None = None,
        weight: np.ndarray | None = None,
    ) -> LabelsMetrics:
        """The metrics on a table.

        Args:
            table: has the columns that the model reads, and those of the labels.
            targets: the labels of the rows; None reads them from the table.
            weight: how much each row counts; None for 1.

        Returns:
            The metrics.

        Raises:
            InputError: as `logits`, or if the table does not have the labels.
        """
        rows = as_table(table)
        if targets is None:
            targets = self.card.source.read(rows)
        return self.evaluate_encoded(self.encoded(rows), targets, weight)

    def evaluate_encoded(
        self, encoded: Encoded, targets: LabelTargets, weight: np.ndarray | None = None
    ) -> LabelsMetrics:
        """The metrics on rows that are arrays.

        Args:
            encoded: the rows, as `encoded` returns them.
            targets: their labels.
            weight: how much each row counts; None for 1.

        Returns:
            The metrics.

        Raises:
            ValueError: as `evaluate_logits`.
        """
        number = targets.number
        chunk: Callable[[int, int], np.ndarray]
        if number <= COLUMNS_OF_LABELS:
            logits = self._combined(encoded)
            chunk, best = (lambda start, stop: logits[:, start:stop]), best_labels(logits, 5)
        else:
            best = self._topk(encoded, min(5, number))[1]
            chunk = self.logits_of(encoded)
        return evaluate_labels(
            chunk,
            best,
            targets,
            self.card.labels,
            np.array(self.card.thresholds),
            propensity_of(self.card.positives, self.card.known),
            weight,
        )

    def encoded(self, table: TableLike) -> Encoded:
        """The arrays of some rows, as the models read them.

        Args:
            table: has at least the columns that the model reads; as `fit` takes it.

        Returns:
            The arrays.

        Raises:
            InputError: if a column that the model reads is missing, or of another type or kind.
        """
        if self.encoder.matrix is not None:
            return self.encoder.transform(as_matrix(table, self.encoder.matrix.width))
        rows = as_table(table)
        if self.card.missing:
            names = [column.name for column in self.card.columns if column.name in rows.columns]
            rows = without_words(rows.select(names), self.card.missing)
        encoded = self.encoder.transform(rows)
        if unseen := self.encoder.unseen(rows):
            warnings.warn(unseen_values(unseen), InputWarning, stacklevel=3)
        return encoded

    def _combined(self, encoded: Encoded) -> np.ndarray:
        """The logits of all labels, float64 [rows, L]."""
        bases = np.array(self.card.bases)
        if self.linear is None and self.network is not None and self._network_alone():
            return self.network.logits(network_inputs(self.encoder, encoded, self.text))
        total = np.tile(bases, (len(encoded), 1))
        if self.linear is not None:
            weight = np.array(self.card.models["linear"])
            total += weight * (self.linear.logits(self.encoder, encoded) - bases)
        if self.network is not None:
            weight = np.array(self.card.models["network"])
            inputs = network_inputs(self.encoder, encoded, self.text)
            total += weight * (self.network.logits(inputs) - bases)
        return total

    def _topk(self, encoded: Encoded, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.network is None or self.linear is not None or not self._network_alone():
            logits = self._combined(encoded)
            best = best_labels(logits, k)
            return np.take_along_axis(logits, best, 1), best
        found = self.network.topk(network_inputs(self.encoder, encoded, self.text), k)
        return found.values.double().cpu().numpy(), found.indices.cpu().numpy()

    def logits_of(self, encoded: Encoded) -> Callable[[int, int], np.ndarray]:
        """A function that computes the logits of some labels.

        Args:
            encoded: the rows, as `encoded` returns them.

        Returns:
            A function of the numbers of a first label and of the one after the last, which returns
            float64 [rows, labels].

        Raises:
            MemoryError: if the logits of a linear model do not fit in memory.
        """
        if self.network is None or self.linear is not None or not self._network_alone():
            logits = self._combined(encoded)
            return lambda start, stop: logits[:, start:stop]
        return self.network.chunks(network_inputs(self.encoder, encoded, self.text))

    def _network_alone(self) -> bool:
        """Whether the logits are those of the network."""
        return all(weight == 1 for weight in self.card.models["network"])


def propensity_of(positives: list[float], known: list[float]) -> np.ndarray:
    """The propensity of each label, from its counts in the training rows."""
    from torchbce import ranking

    rows = max(1.0, max(known, default=1.0))
    counts = np.clip(np.array(positives), 0, rows)
    found: np.ndarray = ranking.propensities(counts, rows).numpy()  # type: ignore[arg-type]
    return found
