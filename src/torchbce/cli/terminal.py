"""Tables and progress for a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    import torch

    from torchbce.classifier import Choice, Metrics
    from torchbce.classifier.columns.target import Target
    from torchbce.classifier.training.progress import Progress as TrainingProgress

#: The running loss is read at most this often, because reading it waits for the device.
REFRESH_SECONDS = 0.1

METRIC_NAMES = {
    "log_loss": "log loss (nats)",
    "relative_log_loss": "  relative to the base rate",
    "brier": "Brier score",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "f1": "F1",
    "ece": "expected calibration error",
}


#: A table of more columns than this is shown in part.
ALL_CHOICES = 40
#: So many columns of each kind are shown then; plain numbers are only counted.
SHOWN_CHOICES = 8


def choices_table(choices: "list[Choice]", target: "Target") -> Table:
    """The kind of each column, and why; of many columns, those that are not plain numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("column", "used as", "why"):
        table.add_column(heading, overflow="fold")
    shown, rest = _shown(choices)
    for choice in shown:
        style = "dim" if choice.kind == "dropped" else None
        table.add_row(escape(choice.name), choice.kind, escape(choice.reason), style=style)
    for kind, count in rest.items():
        more = f"{count:,} more" if any(c.kind == kind for c in shown) else f"{count:,} columns"
        table.add_row(f"({more})", kind, "")
    why = f"{target.positive!r} is positive, {target.negative!r} negative: {target.reason}"
    table.add_row(escape(target.column), "target", escape(why), style="bold")
    return table


def _shown(choices: "list[Choice]") -> "tuple[list[Choice], dict[str, int]]":
    """The choices to show, and how many others there are of each kind."""
    if len(choices) <= ALL_CHOICES:
        return choices, {}
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


def metrics_table(metrics: "Metrics") -> Table:
    """The metrics, and the confusion matrix below them."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, label in METRIC_NAMES.items():
        value = getattr(metrics, name)
        table.add_row(label, "not defined" if value is None else f"{value:.4f}")
    counts = metrics.confusion
    table.add_row("true positives, false positives", f"{counts.tp:,}  {counts.fp:,}")
    table.add_row("false negatives, true negatives", f"{counts.fn:,}  {counts.tn:,}")
    return table


@contextmanager
def training_progress(console: Console) -> "Iterator[TrainingProgress]":
    """A bar with the running loss on a terminal, one line per epoch elsewhere."""
    if not console.is_terminal:
        yield EpochLines(console)
        return
    bar = Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[held_out]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        yield EpochBar(bar)


class EpochLines:
    """Progress as one line per epoch."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""

    def start(self, stage: str, steps: int) -> None:
        self._stage = stage

    def step(self, loss_sum: "torch.Tensor", rows: int) -> None: ...

    def epoch(self, number: int, loss: float, held_out: float | None) -> None:
        suffix = "" if held_out is None else f", held-out loss {held_out:.4f}"
        self._console.print(
            f"{self._stage}: epoch {number}, loss {loss:.4f}{suffix}", highlight=False
        )

    def end(self) -> None: ...


class EpochBar:
    """Progress as a bar that moves with every step."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._read_at = 0.0

    def start(self, stage: str, steps: int) -> None:
        self._task = self._bar.add_task(stage, total=steps, loss="", held_out="")

    def step(self, loss_sum: "torch.Tensor", rows: int) -> None:
        fields: dict[str, Any] = {}
        if monotonic() - self._read_at > REFRESH_SECONDS:
            self._read_at = monotonic()
            fields["loss"] = f"{loss_sum.item() / rows:.4f}"
        assert self._task is not None
        self._bar.update(self._task, advance=1, **fields)

    def epoch(self, number: int, loss: float, held_out: float | None) -> None:
        assert self._task is not None
        suffix = "" if held_out is None else f"held out {held_out:.4f}"
        self._bar.update(self._task, loss=f"{loss:.4f}", held_out=suffix)

    def end(self) -> None:
        if self._task is not None:
            # The bar is full at the end of a stage, also if training stopped early.
            self._bar.update(self._task, completed=self._bar.tasks[self._task].total)
