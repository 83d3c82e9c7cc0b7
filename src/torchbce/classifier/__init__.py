"""From a table with a yes/no column to a binary classifier that predicts probabilities.

    from torchbce.classifier import fit, load, read, save

Needs the extra `cli`: pip install 'torchbce[cli]'.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchbce.classifier.columns.inference import Choice, Overrides
    from torchbce.classifier.errors import InputError, InputWarning
    from torchbce.classifier.estimator.classifier import BCEClassifier
    from torchbce.classifier.explanations.records import Explanation
    from torchbce.classifier.exports.writing import export
    from torchbce.classifier.fitting import fit
    from torchbce.classifier.labels.fitting import fit_label_rows, fit_labels
    from torchbce.classifier.labels.metrics import LabelsMetrics
    from torchbce.classifier.labels.model import LabelsCard, LabelsClassifier
    from torchbce.classifier.model import Card, Classifier
    from torchbce.classifier.options import TrainingOptions
    from torchbce.classifier.quality.metrics import (
        Metrics,
        evaluate_logits,
        evaluate_probabilities,
    )
    from torchbce.classifier.reports.making import (
        held_out_report,
        report_files,
        table_report,
        write_report,
    )
    from torchbce.classifier.storage import check_output, load, save
    from torchbce.classifier.tables.reading import read

__all__ = [
    "BCEClassifier",
    "Card",
    "Choice",
    "Classifier",
    "Explanation",
    "InputError",
    "InputWarning",
    "LabelsCard",
    "LabelsClassifier",
    "LabelsMetrics",
    "Metrics",
    "Overrides",
    "TrainingOptions",
    "check_output",
    "evaluate_logits",
    "evaluate_probabilities",
    "export",
    "fit",
    "fit_label_rows",
    "fit_labels",
    "held_out_report",
    "load",
    "read",
    "report_files",
    "save",
    "table_report",
    "write_report",
]

#: The module of each name, imported with its first use: predictions need nothing of the training.
_LAZY = {
    "BCEClassifier": "estimator.classifier",
    "Card": "model",
    "Choice": "columns.inference",
    "Classifier": "model",
    "Explanation": "explanations.records",
    "InputError": "errors",
    "InputWarning": "errors",
    "LabelsCard": "labels.model",
    "LabelsClassifier": "labels.model",
    "LabelsMetrics": "labels.metrics",
    "Metrics": "quality.metrics",
    "Overrides": "columns.inference",
    "TrainingOptions": "options",
    "check_output": "storage",
    "evaluate_logits": "quality.metrics",
    "evaluate_probabilities": "quality.metrics",
    "export": "exports.writing",
    "fit": "fitting",
    "fit_label_rows": "labels.fitting",
    "fit_labels": "labels.fitting",
    "held_out_report": "reports.making",
    "load": "storage",
    "read": "tables.reading",
    "report_files": "reports.making",
    "save": "storage",
    "table_report": "reports.making",
    "write_report": "reports.making",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'torchbce.classifier' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"torchbce.classifier.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
