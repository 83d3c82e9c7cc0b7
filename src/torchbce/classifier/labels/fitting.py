"""Fit a classifier of many labels to a table."""

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from torchbce.classifier.columns.encoder import Encoded, Encoder, fit_encoder
from torchbce.classifier.columns.inference import Choice, Overrides, infer_columns
from torchbce.classifier.columns.matrix import as_matrix
from torchbce.classifier.columns.outcomes import Outcomes, RowColumns, check_weight, positions
from torchbce.classifier.columns.target import Target
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.labels import combining
from torchbce.classifier.labels.inputs import MOST_TEXT_OF_MANY, most_frequent, network_inputs
from torchbce.classifier.labels.metrics import evaluate_labels
from torchbce.classifier.labels.model import (
    LabelsCard,
    LabelsClassifier,
    LabelsHeldOut,
    propensity_of,
)
from torchbce.classifier.labels.network_fit import NetworkRows, fit_networks, network_count
from torchbce.classifier.labels.sources import (
    LabelColumns,
    LabelLists,
    LabelSource,
    choose_columns,
    choose_lists,
    read_row_columns,
)
from torchbce.classifier.labels.targets import LabelTargets, as_targets
from torchbce.classifier.model import FORMAT, split_of
from torchbce.classifier.models.data import Data
from torchbce.classifier.models.parts import Parts, make_parts
from torchbce.classifier.models.search import Tried
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.progress import NoProgress, Progress
from torchbce.classifier.rows import versions
from torchbce.classifier.tables.frames import TableLike, as_table

#: Up to so many labels each has a linear model beside the network.
FEW_LABELS = 200


def fit_labels(
    table: TableLike,
    *,
    targets: Sequence[str] | None = None,
    labels: str | None = None,
    separator: str | None = None,
    positive: str | None = None,
    soft: bool = False,
    weight: str | None = None,
    group: str | None = None,
    time: str | None = None,
    overrides: Overrides | None = None,
    missing: Collection[str] = (),
    decimal: str = ".",
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
    on_choice: Callable[[list[Choice], LabelSource], object] = lambda choices, source: None,
) -> LabelsClassifier:
    """Fit a classifier to a table with several target columns, or with one column of label lists.

    Up to 200 labels have a linear model each, with a strength of the penalty of its own, and one
    network with a hidden layer of 256 units for all of them; for each label the models are
    combined by weights that are fitted to rows held out. More labels have the network alone, whose
    last layer is a `torchbce.LinearBCELoss`.

    Args:
        table: the rows, as `fit` takes them.
        targets: the names of the target columns, of two values each. An empty cell means that the
            label is unknown: it counts nowhere, and the other labels of its row do.
        labels: the name of a column of the labels of each row, in place of `targets`: lists of
            strings or integers (null where they are unknown), or text with a separator (empty for
            no label).
        separator: what separates labels that are text; None for the first of "," ";" "|" that is
            in a cell.
        positive: the positive value of all target columns; needed unless their values are a known
            pair.
        soft: whether the target columns hold probabilities in [0, 1].
        weight: the name of a column of weights, as in `fit`, and so are the next two.
        group: the name of a column of groups.
        time: the name of a column of dates or numbers.
        overrides: the columns whose kind is given; that of the others is inferred.
        missing: words that mean "no value", besides those of pandas.
        decimal: what begins the decimals of numbers in strings, "." or ",".
        options: what to fit and how; None is `TrainingOptions()`. `model` is "auto", "linear" (few
            labels only) or "mlp", the network; `optimize` is what the threshold of each label is
            chosen for.
        progress: receives each model and setting that is tried.
        on_choice: called before the training with the choice of each column, and the labels.

    Returns:
        The classifier; `classifier.card.held_out` has its metrics on the rows held out.

    Raises:
        InputError: if the table cannot be learned from, or the options do not fit it.

    Example:
        >>> table = {"x": ["a", "b"] * 40, "tags": [["red"], ["big", "new"]] * 40}
        >>> classifier = fit_labels(table, labels="tags")
        >>> classifier.card.labels, classifier.predict({"x": ["a"]}, top=1)["label_1"].to_list()
        (['big', 'new', 'red'], ['red'])

    References:
        Breiman, Stacked Regressions, 1996 (non-negative weights fitted to rows held out).
    """
    if (targets is None) == (labels is None):
        raise InputError("give either ", Argument("target"), "s or ", Argument("labels"))
    rows = without_words(as_table(table), missing)
    columns = RowColumns(weight, group, time)
    columns.check(targets or [labels or ""])
    counted = read_row_columns(rows, columns).counted()
    source: LabelSource
    if labels is not None:
        if positive is not None or soft:
            raise InputError(
                Argument("positive"), " and ", Argument("soft"), " go with target columns"
            )
        source = choose_lists(rows[counted], labels, separator)
    else:
        assert targets is not None
        source = choose_columns(rows[counted], targets, positive, soft)
    kept = np.intersect1d(counted, source.known(rows))
    with positions(kept):
        rows = rows[kept]
        outcomes = read_row_columns(rows, columns)
        y = source.read(rows)
    return fit_label_rows(
        rows,
        y,
        source,
        weight=outcomes.weight,
        groups=outcomes.groups,
        times=outcomes.times,
        columns=columns,
        overrides=overrides,
        missing=missing,
        decimal=decimal,
        options=options,
        progress=progress,
        on_choice=on_choice,
    )


def fit_label_rows(
    inputs: Any,
    y: Any,
    source: LabelSource | Sequence[str] | None = None,
    *,
    weight: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
    columns: RowColumns | None = None,
    overrides: Overrides | None = None,
    missing: Collection[str] = (),
    decimal: str = ".",
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
    on_choice: Callable[[list[Choice], LabelSource], object] = lambda choices, source: None,
) -> LabelsClassifier:
    """Fit a classifier of many labels to inputs, and labels that are arrays.

    `fit_labels` reads the labels from columns of the table, and calls this.

    Args:
        inputs: the rows, a table, of which the columns of the labels, and those of `columns`, are
            not read; or a SciPy sparse matrix.
        y: one value per label in [0, 1], NaN where unknown, [rows, L]; or the positives of each
            row, as `torchbce.positives_from` takes them: a SciPy matrix, or lists.
        source: the columns that the labels come from, or their names; None for "0", "1" and so on.
        weight: how much each row counts, 0 or above, [rows]; None for 1. Rows of 0 are left out.
        groups: the number of each row's group, which no split divides, [rows].
        times: numbers in the order of time, of which the latest are held out, [rows].
        columns: the names of the columns of weights, groups and times, for the card.
        overrides: as in `fit_labels`, and so are the others.
        missing: likewise.
        decimal: likewise.
        options: likewise.
        progress: likewise.
        on_choice: likewise.

    Returns:
        The classifier.

    Raises:
        InputError: as `fit_labels`.

    Example:
        >>> y = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 20)
        >>> classifier = fit_label_rows({"x": [0.0, 1.0, 2.0, 3.0] * 20}, y, ["a", "b"])
        >>> classifier.probabilities({"x": [0.0]}).shape
        (1, 2)
    """
    options, columns = options or TrainingOptions(), columns or RowColumns()
    progress = progress or NoProgress()
    targets = as_targets(y, len(source) if isinstance(source, Sequence) else None)
    source = _source(source, targets)
    matrix = sp.issparse(inputs)
    inputs = as_matrix(inputs) if matrix else as_table(inputs)
    rows = inputs.shape[0]
    if len(targets) != rows:
        raise InputError(
            f"the table has {rows:,} rows and the labels {len(targets):,}; give as many"
        )
    if weight is not None:
        check_weight(weight)
        if len(kept := np.flatnonzero(weight > 0)) < rows:
            with positions(kept):
                return fit_label_rows(
                    inputs[kept],
                    targets.take(kept),
                    source,
                    weight=weight[kept],
                    groups=None if groups is None else groups[kept],
                    times=None if times is None else times[kept],
                    columns=columns,
                    overrides=overrides,
                    missing=missing,
                    decimal=decimal,
                    options=options,
                    progress=progress,
                    on_choice=on_choice,
                )
    if options.loss != "bce":
        raise InputError(Argument("loss", options.loss), " is for a single target")
    if options.guarantee or options.abstain:
        raise InputError(Argument("guarantee"), " is for a single target")
    if options.model not in ("auto", "linear", "mlp"):
        raise InputError(
            Argument("model", options.model),
            " is for a single target; many labels have auto, linear or mlp",
        )
    if rows < 4:
        raise InputError(f"the table has {rows} rows; at least 4 are needed")
    choices: list[Choice] = []
    if not matrix:
        choices = infer_columns(
            inputs, source.columns, overrides or Overrides(), decimal, columns.dropped()
        )
    on_choice(choices, source)
    encoder, encoded = fit_encoder(inputs, choices)
    weight = Outcomes(np.zeros(rows), weight).scaled()
    few = targets.number <= FEW_LABELS
    if few and targets.dense is None:
        targets = LabelTargets(targets.number, targets.values().astype(np.float32))
    if options.model == "linear" and not few:
        raise InputError(
            Argument("model", "linear"),
            f" is for up to {FEW_LABELS} labels; there are {targets.number:,}: use ",
            Argument("model", "mlp"),
        )
    pos_weight = _pos_weight(options, targets, weight)
    parts = _parts(encoder, encoded, targets, options, groups, times)
    positives, known = targets.counts()
    if not known.all():
        raise InputError(
            f"label {source.names[int(np.argmin(known))]!r} is unknown in every row; leave it out"
        )
    data = Data(encoder, encoded, np.zeros(0), 1.0, options, progress, weight, groups, times)
    if few:
        found = combining.find(data, targets, parts, pos_weight)
    else:
        found = _find_many(data, targets, parts, pos_weight)
    own_weight = None if weight is None else weight[found.rows]
    thresholds = [0.5] * targets.number
    if options.optimize is not None:
        thresholds = _thresholds(found, targets.take(found.rows), own_weight, options.optimize)
    held_out = evaluate_labels(
        found.chunks,
        found.best,
        targets.take(found.rows),
        source.names,
        np.array(thresholds),
        propensity_of(positives.tolist(), known.tolist()),
        own_weight,
        listed=few,
    )
    card = LabelsCard(
        format=FORMAT,
        kind="labels",
        source=source,
        thresholds=thresholds,
        bases=found.bases.tolist(),
        models={name: own.tolist() for name, own in found.weights.items()},
        hidden=0 if found.network is None else len(found.network.bias),
        rows=len(targets),
        positives=positives.tolist(),
        known=known.tolist(),
        held_out=held_out,
        options=json.loads(json.dumps(dataclasses.asdict(options))),  # lists for tuples
        versions=versions(),
        dropped={choice.name: choice.reason for choice in choices if choice.kind == "dropped"},
        columns=encoder.columns,
        missing=list(missing),
        row_columns=columns,
        split=split_of(parts, found.rows),
        optimized=options.optimize or "",
    )
    return LabelsClassifier(
        card,
        encoder,
        found.linear,
        found.network,
        found.text,
        tuple(choices),
        tuple(found.tried),
        LabelsHeldOut.of(found.chunks, targets.take(found.rows), own_weight),
    )


def _thresholds(
    found: combining.Found, targets: LabelTargets, weight: np.ndarray | None, objective: str
) -> list[float]:
    """The threshold of each label that is best for an objective on the rows held out."""
    from torchbce.classifier.decisions import Objective, choose_threshold

    goal = Objective.parse(objective)
    thresholds = []
    for label in range(targets.number):
        z, y = found.chunks(label, label + 1)[:, 0], targets.values(label, label + 1)[:, 0]
        thresholds.append(choose_threshold(z, y, goal, weight).threshold)
    return thresholds


def _source(source: LabelSource | Sequence[str] | None, targets: LabelTargets) -> LabelSource:
    """The labels' source; of names alone, columns of 0 and 1."""
    if targets.number < 2:
        raise InputError("at least two labels are needed; fit learns a single target")
    if isinstance(source, LabelColumns | LabelLists):
        return source
    names = [str(i) for i in range(targets.number)] if source is None else list(map(str, source))
    if len(names) != targets.number:
        raise InputError(f"there are {len(names)} names for {targets.number} labels")
    return LabelColumns([Target(name, "0", "1", "given") for name in names])


def _pos_weight(
    options: TrainingOptions, targets: LabelTargets, weight: np.ndarray | None
) -> np.ndarray | None:
    """The weight of the positives of each label; None for 1."""
    if options.pos_weight is None or options.pos_weight == 1:
        return None
    if options.pos_weight == "balanced":
        positives, known = targets.counts(weight)
        balanced: np.ndarray = (known - positives + 0.5) / (positives + 0.5)
        return balanced
    return np.full(targets.number, float(options.pos_weight))


def _parts(
    encoder: Encoder,
    encoded: Encoded,
    targets: LabelTargets,
    options: TrainingOptions,
    groups: np.ndarray | None,
    times: np.ndarray | None,
) -> Parts:
    """Which rows are held out, stratified by the label that is nearest to a half of the rows."""
    positives, known = targets.counts()
    rate = positives / np.maximum(known, 1)
    label = int(np.argmin(np.abs(rate - 0.5)))
    y = np.nan_to_num(targets.values(label, label + 1)[:, 0], nan=float(rate[label]) > 0.5)
    if y.min() == y.max():
        raise InputError("every label has one value in all rows; there is nothing to learn from")
    stored = encoded.codes.size + encoded.numbers.size + encoded.text.nnz
    number = network_count(len(targets), targets.number, stored / len(targets))
    number = {"low": 1, "medium": number, "high": 2 * number}[options.effort]
    return make_parts(y, stored, options.seed, options.effort, "auto", groups, times, number)


def _find_many(
    data: Data, targets: LabelTargets, parts: Parts, pos_weight: np.ndarray | None
) -> combining.Found:
    """The network of many labels. Figures are those of the first part's, on its rows held out."""
    began = time.perf_counter()
    text = most_frequent(data.encoded, MOST_TEXT_OF_MANY)
    inputs = network_inputs(data.encoder, data.encoded, text)
    rows, pairs = NetworkRows(inputs, targets, data.weight), list(parts.pairs)
    fitted = fit_networks(rows, text, pairs, pos_weight, data.options, data.progress)
    loss = float(np.mean(fitted.losses))
    setting = f"{min(fitted.epochs)} to {max(fitted.epochs)} epochs, {len(parts.pairs)} networks"
    tried = Tried(
        "network", setting, max(fitted.epochs), loss, 1.0, round(time.perf_counter() - began, 3)
    )
    first, held_out = fitted.parts[0], pairs[0][1]
    of_rows = inputs.take(held_out)
    positives, known = targets.counts(data.weight)
    return combining.Found(
        None,
        fitted.network,
        text,
        combining.base_logits(positives, known),
        {"network": np.ones(targets.number)},
        held_out,
        first.chunks(of_rows),
        first.topk(of_rows, 5).indices.cpu().numpy(),
        [tried],
    )
