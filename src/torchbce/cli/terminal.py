"""What the command line shows a person: tables, and progress that stays out of the results."""

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

#: Reading the running loss waits for the device, so it is read no oftener than the eye can see.
REFRESH_SECONDS = 0.1

FIGURES = {
    "log_loss": "log loss (nats)",
    "relative_log_loss": "  relative to the base rate",
    "brier": "Brier score",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "f1": "F1",
    "ece": "expected calibration error",
}


def choices_table(choices: "list[Choice]", target: "Target") -> Table:
    """What each column was taken for, and why."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("column", "taken for", "why"):
        table.add_column(heading, overflow="fold")
    for choice in choices:
        style = "dim" if choice.kind == "dropped" else None
        table.add_row(escape(choice.name), choice.kind, escape(choice.reason), style=style)
    why = f"{target.positive!r} is positive, {target.negative!r} negative: {target.reason}"
    table.add_row(escape(target.column), "target", escape(why), style="bold")
    return table


def metrics_table(metrics: "Metrics") -> Table:
    """The figures, and the confusion counts below them."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, label in FIGURES.items():
        value = getattr(metrics, name)
        table.add_row(label, "not defined" if value is None else f"{value:.4f}")
    counts = metrics.confusion
    table.add_row("true positives, false positives", f"{counts.tp:,}  {counts.fp:,}")
    table.add_row("false negatives, true negatives", f"{counts.fn:,}  {counts.tn:,}")
    return table


@contextmanager
def training_progress(console: Console) -> "Iterator[TrainingProgress]":
    """A bar with the running loss on a terminal, a line an epoch elsewhere."""
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
    """Progress as a line an epoch."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""

    def start(self, stage: str, steps: int) -> None:
        self._stage = stage

    def step(self, loss_sum: "torch.Tensor", rows: int) -> None: ...

    def epoch(self, number: int, loss: float, held_out: float | None) -> None:
        beside = "" if held_out is None else f", held-out loss {held_out:.4f}"
        self._console.print(
            f"{self._stage}: epoch {number}, loss {loss:.4f}{beside}", highlight=False
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
        beside = "" if held_out is None else f"held out {held_out:.4f}"
        self._bar.update(self._task, loss=f"{loss:.4f}", held_out=beside)

    def end(self) -> None:
        if self._task is not None:
            # Early stopping leaves steps undone: the bar is full when the stage is over.
            self._bar.update(self._task, completed=self._bar.tasks[self._task].total)
