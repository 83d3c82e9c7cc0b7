"""From a table with a yes/no column to a binary classifier that predicts probabilities.

    from torchbce.classifier import fit, load, read, save

Needs the extra `cli`: pip install 'torchbce[cli]'.
"""

from torchbce.classifier.columns.inference import Choice, Overrides
from torchbce.classifier.errors import InputError, InputWarning
from torchbce.classifier.fitting import fit
from torchbce.classifier.model import Card, Classifier
from torchbce.classifier.quality.metrics import Metrics, evaluate_logits, evaluate_probabilities
from torchbce.classifier.storage import check_output, load, save
from torchbce.classifier.tables.reading import read
from torchbce.classifier.training.options import TrainingOptions

__all__ = [
    "Card",
    "Choice",
    "Classifier",
    "InputError",
    "InputWarning",
    "Metrics",
    "Overrides",
    "TrainingOptions",
    "check_output",
    "evaluate_logits",
    "evaluate_probabilities",
    "fit",
    "load",
    "read",
    "save",
]
