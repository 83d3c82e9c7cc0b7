"""What the command line tells the estimator beside X and y."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torchbce.classifier.columns.inference import Choice
from torchbce.classifier.columns.outcomes import RowColumns
from torchbce.classifier.columns.target import Target
from torchbce.classifier.progress import NoProgress, Progress


@dataclass(frozen=True)
class Context:
    """The names of columns, for `Classifier.card`, and who watches a fit.

    Attributes:
        target: the target of a table; y is then its probabilities. None takes it from y.
        columns: the columns of weights, groups and times, which X may have.
        progress: receives each model and setting that is tried.
        on_choice: called before the training with the choice of each column, and the target.
    """

    target: Target | None = None
    columns: RowColumns = field(default_factory=RowColumns)
    progress: Progress = field(default_factory=NoProgress)
    on_choice: Callable[[list[Choice], Target], object] = lambda choices, target: None
