"""The results of the commands on standard output, as text or as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from torchbce.cli.terminal import metrics_table

if TYPE_CHECKING:
    from torchbce.classifier import Classifier, Metrics


def print_fit(classifier: "Classifier", output: Path, seconds: float, as_json: bool) -> None:
    """What was fitted, and its metrics on the rows held out."""
    import msgspec

    card = classifier.card
    if as_json:
        result: dict[str, Any] = {
            "output": str(output),
            "seconds": round(seconds, 3),
            "rows": card.rows,
            "positives": card.positives,
            "features": classifier.encoder.width,
            "epochs": card.epochs,
            "target": msgspec.to_builtins(card.target),
            "columns": [dataclasses.asdict(choice) for choice in classifier.choices],
            "held_out": msgspec.to_builtins(card.held_out),
        }
        print(json.dumps(result))
        return
    print("On rows held out, before the last training on all rows:")
    _print_metrics(card.held_out)
    print(
        f"{output}: {card.architecture} model of {classifier.encoder.width:,} features, "
        f"{card.rows:,} rows, {card.epochs} epochs, {seconds:.1f} s"
    )


def print_text(prediction: dict[str, Any], as_json: bool) -> None:
    """The prediction for one text."""
    if as_json:
        print(json.dumps(prediction))
    else:
        print(f"probability {prediction['probability']:.4f}  predicted {prediction['predicted']}")


def print_file(counts: dict[str, int], output: Path, positive: str, as_json: bool) -> None:
    """How many rows were written to a file, and how many are predicted positive."""
    if as_json:
        print(json.dumps({**counts, "output": str(output)}))
    else:
        print(
            f"{counts['rows']:,} rows written to {output}, "
            f"{counts['positives']:,} of them predicted {positive}"
        )


def print_metrics(metrics: "Metrics", as_json: bool) -> None:
    """The metrics of a model or of predictions."""
    import msgspec

    if as_json:
        print(msgspec.json.encode(metrics).decode())
    else:
        _print_metrics(metrics)


def _print_metrics(metrics: "Metrics") -> None:
    Console(highlight=False).print(metrics_table(metrics))
