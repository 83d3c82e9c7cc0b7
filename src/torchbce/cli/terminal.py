"""Tables and progress for a terminal."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from torchbce.cli.streams import visible

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from torchbce.classifier import Card, Choice, Metrics
    from torchbce.classifier.columns.target import Target
    from torchbce.classifier.models.search import Tried
    from torchbce.classifier.progress import Progress as TrainingProgress
    from torchbce.classifier.quality.evaluation import Evaluation

#: A narrower terminal wraps the lines of a table; what is cut off is lost.
NARROWEST = 60
#: Where there is no bar, one line per stage of the training, and one each time so many seconds have
#: passed.
LINE_SECONDS = 10.0
#: The running loss is read at most this often, because reading it waits for the device.
REFRESH_SECONDS = 0.1

#: The label of each figure, and which direction is good.
METRIC_NAMES = {
    "log_loss": ("log loss (nats)", "lower"),
    "relative_log_loss": ("  relative to the base rate", "lower"),
    "brier": ("Brier score", "lower"),
    "roc_auc": ("ROC-AUC", "higher"),
    "average_precision": ("average precision", "higher"),
    "accuracy": ("accuracy", "higher"),
    "f1": ("F1", "higher"),
    "ece": ("expected calibration error", "lower"),
}


#: The thresholds that are printed; JSON has more.
SHOWN_THRESHOLDS = (0.05, 0.1, 0.2, 0.5, 0.8, 0.9)
#: A table of more columns than this is shown in part.
ALL_CHOICES = 40
#: So many columns of each kind are shown then; plain numbers are only counted.
SHOWN_CHOICES = 8


def print_choices(choices: "Sequence[Choice]", target: "Target | None") -> None:
    """Print the kind of each column, and why, on standard error."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    console.width = max(console.width, NARROWEST)
    console.print(choices_table(choices, target))


def choices_table(choices: "Sequence[Choice]", target: "Target | None") -> "Table":
    """The kind of each column, and why; of many columns, those that are not plain numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("column", "used as", "why"):
        table.add_column(heading, overflow="fold")

    def add(name: str, kind: str, reason: str, style: str | None) -> None:
        table.add_row(Text(visible(name)), kind, Text(visible(reason)), style=style)

    shown, rest = _shown(choices)
    for choice in shown:
        style = "dim" if choice.kind == "dropped" else None
        add(choice.name, choice.kind, choice.reason, style)
    for kind, count in rest.items():
        more = f"{count:,} more" if any(c.kind == kind for c in shown) else f"{count:,} columns"
        table.add_row(f"({more})", kind, "")
    if target is not None:
        why = f"{target.positive!r} is positive, {target.negative!r} negative: {target.reason}"
        add(target.column, "target", why, "bold")
    return table


def _shown(choices: "Sequence[Choice]") -> "tuple[list[Choice], dict[str, int]]":
    """The choices to show, and how many others there are of each kind."""
    if len(choices) <= ALL_CHOICES:
        return list(choices), {}
    shown: list[Choice] = []
    rest: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for choice in choices:
        plain = choice.kind == "numeric" and choice.reason.startswith("numbers, ")
        if plain or numbers.get(choice.kind, 0) >= SHOWN_CHOICES:
            rest[choice.kind] = rest.get(choice.kind, 0) + 1
        else:
            numbers[choice.kind] = numbers.get(choice.kind, 0) + 1
            shown.append(choice)
    return shown, rest


def metrics_lines(metrics: "Metrics", base: "Metrics") -> list[str]:
    """The metrics beside those of the base rate alone, and the confusion matrix below them.

    Lines of text and not a table of rich, which cuts figures where a terminal is narrow.
    """
    lines = [f"{'':<31}{'':>11}  base rate   better is"]
    for name, (label, better) in METRIC_NAMES.items():
        lines.append(f"{label:<31}{_figure(metrics, name):>11}{_figure(base, name):>11}   {better}")
    return lines + _confusion_lines(metrics)


def evaluation_lines(found: "Evaluation", base: "Metrics") -> list[str]:
    """What `evaluate` found: figures with intervals, and decisions at several thresholds."""
    lines = [f"{'':<31}{'':>11}      95% interval  base rate   better is"]
    for name, (label, better) in (METRIC_NAMES | MORE_NAMES).items():
        shown = f"{label:<31}{_figure(found, name):>11}{_interval(found, name):>18}"
        lines.append(f"{shown}{_figure(base, name) if hasattr(base, name) else '':>11}   {better}")
    lines += _confusion_lines(found)
    if (one := found.undecided) is not None:
        lines.append(
            f"{one.share:.1%} undecided; of the others {_percent(one.accuracy)} right, "
            f"precision {_percent(one.precision)}; {_percent(one.missed)} of the positives are "
            "predicted negative"
        )
    return [*lines, "", *_threshold_lines(found)]


#: The figures of `evaluate` beside those of `fit`.
MORE_NAMES = {
    "smooth_ece": ("smooth calibration error", "lower"),
    "calibration_loss": ("calibration loss (nats)", "lower"),
    "refinement_loss": ("refinement loss (nats)", "lower"),
    "net_benefit": ("net benefit", "higher"),
}


def _figure(metrics: "Metrics", name: str) -> str:
    value = getattr(metrics, name)
    return "not defined" if value is None else f"{value:.4f}"


def _interval(found: "Evaluation", name: str) -> str:
    if name not in found.intervals:
        return ""
    low, high = found.intervals[name]
    return f"{low:.4f}-{high:.4f}" if low >= 0 else f"{low:.4f} to {high:.4f}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _confusion_lines(metrics: "Metrics") -> list[str]:
    counts = metrics.confusion
    return [
        f"{label}  {_count(first)}  {_count(second)}"
        for label, first, second in (
            ("true positives, false positives", counts.tp, counts.fp),
            ("false negatives, true negatives", counts.fn, counts.tn),
        )
    ]


def _threshold_lines(found: "Evaluation") -> list[str]:
    """The decisions at some thresholds, and at the one in use, which is marked."""
    lines = ["threshold  predicted  precision  recall  false positives     F1  net benefit"]
    for one in found.thresholds:
        own = one.threshold == found.threshold
        if not own and one.threshold not in SHOWN_THRESHOLDS:
            continue
        benefit = "" if one.net_benefit is None else f"{one.net_benefit:.4f}"
        lines.append(
            f"{one.threshold:>8.4f}{'*' if own else ' '}{one.predicted:>11.1%}"
            f"{_percent(one.precision):>11}{_percent(one.recall):>8}"
            f"{_percent(one.false_positive_rate):>17}{one.f1:>7.3f}{benefit:>13}"
        )
    return lines


def _count(value: float) -> str:
    """A number of rows, or a sum of their weights."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def decision_lines(card: "Card") -> list[str]:
    """How the threshold of a model was chosen and the logits were calibrated; none by default."""
    lines = []
    if card.calibration is not None:
        lines.append(f"calibration: {card.calibration.kind}")
    decision = card.decision
    if decision is None:
        return lines
    positive = visible(card.target.positive)
    if (one := decision.optimized) is not None:
        value = "" if one.value is None else f", {one.value:.4f} there"
        lines.append(
            f"threshold for {one.objective}: {one.threshold:.4f}, chosen on {one.rows:,} rows held "
            f"out{value}"
        )
    for kept in decision.guarantees:
        if kept.threshold is not None:
            lines.append(
                f"{kept.guarantee} holds with {kept.confidence:.0%} confidence from {positive} at "
                f"a probability of {kept.threshold:.4f} on: {kept.estimate:.4f} of "
                f"{kept.rows:,} rows set aside"
            )
    if decision.undecided is not None and decision.abstain:
        low, high = decision.undecided
        if high > 1:
            lines.append(f"undecided: probabilities from {low:.4f} on")
        else:
            lines.append(f"undecided: probabilities from {low:.4f} to below {high:.4f}")
    return lines


def tried_lines(tried: "Sequence[Tried]") -> list[str]:
    """What each model reached on the rows held out, its weight, and how long it took."""
    lines = [f"{'model':<8}{'held-out loss':>14}{'weight':>8}{'seconds':>9}  best of"]
    for one in tried:
        lines.append(
            f"{one.model:<8}{one.held_out_loss:>14.4f}{one.weight:>8.2f}{one.seconds:>9.1f}"
            f"  {one.settings}: {one.setting}"
        )
    return lines


@contextmanager
def training_progress(quiet: bool = False) -> "Iterator[TrainingProgress]":
    """A bar with the running loss on a terminal, one line per stage elsewhere, nothing if quiet."""
    from torchbce.classifier.progress import NoProgress

    if quiet:
        yield NoProgress()
        return
    if not sys.stderr.isatty():
        yield StageLines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[held_out]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        yield EpochBar(bar)


class StageLines:
    """Progress as one line per stage, when it is done, and every few seconds until then."""

    def __init__(self) -> None:
        self._stage = self._last = ""
        self._printed_at = 0.0

    def start(self, stage: str, steps: int) -> None:
        self._stage, self._last = stage, ""
        self._printed_at = monotonic()

    def tried(self, setting: str, held_out: float) -> None:
        self._show(f"{setting}, held-out loss {held_out:.4f}")

    def step(self, loss_sum: "torch.Tensor", rows: int) -> None: ...

    def epoch(self, number: int, loss: float, held_out: float | None) -> None:
        suffix = "" if held_out is None else f", held-out loss {held_out:.4f}"
        self._show(f"epoch {number}, loss {loss:.4f}{suffix}")

    def _show(self, line: str) -> None:
        self._last = f"{self._stage}: {line}"
        if monotonic() - self._printed_at >= LINE_SECONDS:
            self.end()

    def end(self) -> None:
        if self._last:
            print(visible(self._last), file=sys.stderr, flush=True)
        self._last = ""
        self._printed_at = monotonic()


class EpochBar:
    """Progress as a bar that moves with every step."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._read_at = 0.0

    def start(self, stage: str, steps: int) -> None:
        self._task = self._bar.add_task(stage, total=steps, loss="", held_out="")

    def tried(self, setting: str, held_out: float) -> None:
        assert self._task is not None
        self._bar.update(self._task, advance=1, loss="", held_out=f"{setting}: {held_out:.4f}")

    def step(self, loss_sum: "torch.Tensor", rows: int) -> None:
        fields: dict[str, Any] = {}
        if monotonic() - self._read_at > REFRESH_SECONDS:
            self._read_at = monotonic()
            fields["loss"] = f"loss {loss_sum.item() / rows:.4f}"
        assert self._task is not None
        self._bar.update(self._task, advance=1, **fields)

    def epoch(self, number: int, loss: float, held_out: float | None) -> None:
        assert self._task is not None
        suffix = "" if held_out is None else f"held out {held_out:.4f}"
        self._bar.update(self._task, loss=f"loss {loss:.4f}", held_out=suffix)

    def end(self) -> None:
        if self._task is not None:
            # The bar is full at the end of a stage, also if training stopped early.
            self._bar.update(self._task, completed=self._bar.tasks[self._task].total)
