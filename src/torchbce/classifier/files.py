"""Predict and evaluate whole files, in batches of rows and in the order of the file."""

import itertools
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from torchbce.classifier.columns.inference import with_decimal
from torchbce.classifier.columns.outcomes import (
    Outcomes,
    RowColumns,
    check_not_all_zero,
    positions,
    read_outcomes,
    read_weight,
)
from torchbce.classifier.columns.target import choose_target, named_target
from torchbce.classifier.columns.text import TextColumn
from torchbce.classifier.columns.values import as_numbers
from torchbce.classifier.decisions.deciding import Rule
from torchbce.classifier.errors import (
    Argument,
    InputError,
    InputWarning,
    Row,
    listing,
    rows_offset,
    unknown_name,
)
from torchbce.classifier.model import Classifier, unseen_values
from torchbce.classifier.quality.base_rates import BaseRate, estimate_base_rate
from torchbce.classifier.quality.evaluation import (
    Evaluation,
    evaluate_model,
    evaluate_predicted,
)
from torchbce.classifier.tables.carried import numeric_columns
from torchbce.classifier.tables.reading import Scan, batches, read, scan
from torchbce.classifier.tables.sources import Paths
from torchbce.classifier.tables.writing import row_writer

if TYPE_CHECKING:
    from torchbce.classifier.labels.model import LabelsClassifier

APPENDED = ("probability", "predicted")


def appended_names(columns: Collection[str], prefix: str = "", explain: int = 0) -> tuple[str, ...]:
    """The names of the columns that a prediction appends to a table.

    Args:
        columns: the names that the table has. A number is added to a name that is among them.
        prefix: what the names begin with.
        explain: the number of columns of explanations.

    Returns:
        The names of the column of probabilities, of the column of predicted values, and of the
        columns of explanations.

    Example:
        >>> appended_names(["age", "probability"])
        ('probability_2', 'predicted')
        >>> appended_names(["age", "probability"], prefix="my_")
        ('my_probability', 'my_predicted')
    """
    taken = set(columns)
    names = [*APPENDED, *(f"explanation_{rank}" for rank in range(1, explain + 1))]
    return tuple(free_name(prefix + name, taken) for name in names)


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or with the first number from 2 on that makes it differ from those taken."""
    candidates = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def predict_file(
    classifier: Classifier,
    table: Paths,
    output: Path | None,
    overwrite: bool,
    json_lines: bool,
    separator: str | None = None,
    prefix: str = "",
    explain: int = 0,
    base_rate: float | Literal["estimate"] | None = None,
    threshold: float | None = None,
    abstain: bool | None = None,
    on_names: Callable[[Sequence[str], Sequence[str]], object] = lambda columns, names: None,
) -> dict[str, Any]:
    """Write the rows of a file with the columns `probability` and `predicted` appended.

    Args:
        classifier: the model.
        table: the file to read, or several, as `read` takes them.
        output: the file to write; None writes to standard output.
        overwrite: whether to replace `output` if it exists.
        json_lines: whether standard output gets JSON lines rather than CSV.
        separator: what separates the values of a CSV; None to look at its first lines.
        prefix: what the names of the appended columns begin with; `appended_names` has the rest.
        explain: how many columns to name that weigh most for each row, as `Classifier.predict`.
        base_rate: the share of positives among the rows, if it is not that of the rows that the
            model was fitted to; "estimate" finds it from the rows, which are read twice.
        threshold: in place of that of the model, as `Classifier.predict`.
        abstain: whether rows stay undecided, likewise.
        on_names: called before the first row with the names of the table, and of the new columns.

    Returns:
        The number of `rows`, and of `positives` among the predictions; where rows may stay
        undecided the number of `undecided` ones, and with "estimate" the estimated `base_rate` too.

    Raises:
        InputError: if the file cannot be read, does not fit the model or cannot be written.
    """
    rows = positives = undecided = 0
    rule = classifier.rule(threshold, abstain)
    names: tuple[str, ...] | None = None
    unseen = Unseen(classifier)
    scanned = scan(table, separator, empty=True)
    classifier, estimate = _at_base_rate(
        classifier, base_rate, lambda: _logits(classifier, scanned)
    )
    with row_writer(output, overwrite, json_lines) as writer:
        numbers = {} if writer.keeps_strings else numeric_columns(scanned)
        for batch in batches(scanned):
            if names is None:
                names = appended_names(batch.columns, prefix, explain)
                on_names(batch.columns, names)
            with rows_offset(rows), unseen.collected(batch):
                predictions = classifier.predict(
                    batch, writer.keeps_strings, explain, threshold, abstain
                )
            rows += len(batch)
            positives += int((predictions["probability"] >= rule.threshold).sum())
            undecided += predictions["predicted"].null_count()
            typed = batch.cast(numbers)  # type: ignore[arg-type]
            appended = predictions.rename(dict(zip(predictions.columns, names, strict=True)))
            writer.write(pl.concat([typed, appended], how="horizontal"))
    unseen.warn()
    counts: dict[str, Any] = {"rows": rows, "positives": positives}
    if rule.undecided is not None:
        counts["undecided"] = undecided
    return counts if estimate is None else {**counts, "base_rate": estimate}


def _logits(classifier: Classifier, scanned: Scan) -> np.ndarray:
    """The logits of all rows, without the warnings that predicting them gives again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        found, rows = [], 0
        for batch in batches(scanned):
            with rows_offset(rows):
                found.append(classifier.logits(batch))
            rows += len(batch)
    return np.concatenate(found)


def _at_base_rate(
    classifier: Classifier,
    base_rate: float | Literal["estimate"] | None,
    logits: Callable[[], np.ndarray],
    weight: np.ndarray | None = None,
) -> tuple[Classifier, BaseRate | None]:
    """The classifier at a base rate, and what was estimated."""
    if base_rate is None:
        return classifier, None
    if base_rate != "estimate":
        return classifier.with_base_rate(base_rate), None
    card = classifier.card
    found = estimate_base_rate(logits() - card.base_shift, card.base, weight)
    return classifier.with_base_rate(found.usable), found


class Unseen:
    """The categorical columns none of whose values in a file was in the training rows."""

    def __init__(self, classifier: "Classifier | LabelsClassifier") -> None:
        self._classifier = classifier
        self._names: list[str] | None = None

    @contextmanager
    def collected(self, batch: pl.DataFrame) -> Iterator[None]:
        """Look at a batch in place of the classifier, which sees only the batch."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            yield
        if self._names != [] and len(batch):
            self._names = self._classifier.encoder.unseen(batch, self._names)

    def warn(self) -> None:
        """Say which columns they are, once all batches were looked at."""
        if self._names:
            warnings.warn(unseen_values(self._names), InputWarning, stacklevel=3)


def predict_text(
    classifier: Classifier,
    text: str,
    explain: int = 0,
    threshold: float | None = None,
    abstain: bool | None = None,
) -> dict[str, Any]:
    """The `probability` and the `predicted` value of one text.

    Args:
        classifier: a model of a single column, which is text.
        text: the value of that column.
        explain: how many of its words and n-grams to give with what they add to the logit, as
            `explanation_1`, `explanation_2` and so on.
        threshold: in place of that of the model, as `Classifier.predict`.
        abstain: whether the text may stay undecided, likewise.

    Raises:
        InputError: if the model reads other columns.
    """
    columns = classifier.encoder.columns
    if len(columns) != 1 or not isinstance(columns[0], TextColumn):
        names = listing([column.name for column in columns])
        raise InputError(
            Argument("text"), f" needs a model of one text column; this one reads {names}"
        )
    table = pl.DataFrame({columns[0].name: [text]})
    predictions = classifier.predict(table, threshold=threshold, abstain=abstain)
    prediction = predictions.row(0, named=True)
    if explain:
        from torchbce.classifier.explanations.labels import explained_words

        words = explained_words(classifier, table, explain)
        prediction |= {f"explanation_{rank}": word for rank, word in enumerate(words, start=1)}
    return prediction


def evaluate_file(
    classifier: Classifier,
    table: Paths,
    separator: str | None = None,
    weight: str | None = None,
    base_rate: float | Literal["estimate"] | None = None,
    on_base_rate: Callable[[BaseRate], object] = lambda rate: None,
    threshold: float | None = None,
    abstain: bool | None = None,
) -> Evaluation:
    """The metrics of a classifier on a file that has its target column.

    Args:
        classifier: the model.
        table: the file to read, or several, as `read` takes them.
        separator: what separates the values of a CSV; None to look at its first lines.
        weight: the name of a column of weights; rows of weight 0 are left out.
        base_rate: the share of positives where these rows come from, if it is not that of the rows
            that the model was fitted to; "estimate" finds it without the targets.
        on_base_rate: called with what "estimate" finds.
        threshold: in place of that of the model, as `Classifier.predict`.
        abstain: whether rows stay undecided, likewise.

    Raises:
        InputError: if the file cannot be read or does not fit the model.
    """
    target, rule = classifier.card.target, classifier.rule(threshold, abstain)
    logits: list[np.ndarray] = []
    found: list[Outcomes] = []
    rows = 0
    unseen = Unseen(classifier)
    for batch in batches(scan(table, separator)):
        with rows_offset(rows), unseen.collected(batch):
            outcomes = read_outcomes(batch, target, RowColumns(weight))
            counted = outcomes.counted()
            found.append(outcomes.take(counted))
            with positions(counted):
                logits.append(classifier.logits(batch[counted]))
        rows += len(batch)
    unseen.warn()
    z, targets = np.concatenate(logits), np.concatenate([one.targets for one in found])
    weights = [one.weight for one in found if one.weight is not None]
    w = np.concatenate(weights) if weights else None
    check_not_all_zero(w)
    moved, estimate = _at_base_rate(classifier, base_rate, lambda: z, w)
    if estimate is not None:
        on_base_rate(estimate)
    z = z + (moved.card.base_shift - classifier.card.base_shift)
    return evaluate_model(z, targets, rule, w)


def evaluate_predictions(
    path: Paths,
    target: str,
    probability: str,
    positive: str | None,
    separator: str | None = None,
    weight: str | None = None,
    soft: bool = False,
    threshold: float = 0.5,
    decimal: str = ".",
) -> Evaluation:
    """The metrics of a file of predictions, from any tool.

    Args:
        path: the file, or several, as `read` takes them.
        target: the name of the column of true values.
        probability: the name of the column of predicted probabilities, in [0, 1].
        positive: the positive value of the target; None if its values are a known pair.
        separator: what separates the values of a CSV; None to look at its first lines.
        weight: the name of a column of weights; rows of weight 0 are left out.
        soft: whether the true values are probabilities in [0, 1].
        threshold: rows with a probability of at least this are predicted positive, in [0, 1].
        decimal: what begins the decimals of numbers in strings, "." or ",".

    Raises:
        InputError: if the file cannot be read, or a value of its columns is wrong.
    """
    rule = Rule.of(threshold, None, threshold)
    RowColumns(weight).check([target])
    table = read(path, separator)
    given = {probability, weight, target if soft else None}
    numbers = [table[name] for name in table.columns if name in given]
    table = table.with_columns(with_decimal(column, decimal) for column in numbers)
    weights = read_weight(table, None, weight)
    counted = np.arange(len(table)) if weights is None else np.flatnonzero(weights > 0)
    check_not_all_zero(weights)
    with positions(counted):
        w = None if weights is None else weights[counted]
        return _evaluate_columns(
            table[counted], target, probability, positive, soft, w, rule.threshold
        )


def _evaluate_columns(
    table: pl.DataFrame,
    target: str,
    probability: str,
    positive: str | None,
    soft: bool,
    weight: np.ndarray | None,
    threshold: float,
) -> Evaluation:
    named = named_target(target, positive, soft, None, None)
    chosen = named or choose_target(table, target, positive)
    if probability not in table.columns:
        raise unknown_name("column", probability, table.columns)
    p = as_numbers(table[probability])
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        at = int(wrong.argmax())
        value = "no value" if np.isnan(p[at]) else f"{p[at]:g}"
        raise InputError(
            f"column {probability!r} holds {value} in ",
            Row(at),
            "; expected probabilities in [0, 1]",
        )
    return evaluate_predicted(p, chosen.targets(table), threshold, weight)
