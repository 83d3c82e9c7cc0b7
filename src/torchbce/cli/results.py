"""The results of the commands on standard output, as text or as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbce.cli.streams import visible
from torchbce.cli.terminal import decision_lines, evaluation_lines, metrics_lines, tried_lines

if TYPE_CHECKING:
    from torchbce.classifier import Card, Classifier, Metrics
    from torchbce.classifier.quality.base_rates import BaseRate
    from torchbce.classifier.quality.evaluation import Evaluation


def print_fit(
    classifier: "Classifier", output: Path, seconds: float, warnings: list[str], as_json: bool
) -> None:
    """Print the size of the fitted model, and its metrics on held-out rows."""
    card = classifier.card
    if as_json:
        import msgspec

        result: dict[str, Any] = {
            "output": str(output),
            "seconds": round(seconds, 3),
            "rows": card.rows,
            "positives": card.positives,
            "models": card.models,
            "tried": msgspec.to_builtins(classifier.tried),
            "target": msgspec.to_builtins(card.target),
            "columns": [dataclasses.asdict(choice) for choice in classifier.choices],
            "split": msgspec.to_builtins(card.split),
            "held_out": msgspec.to_builtins(card.held_out),
            "threshold": card.threshold,
            "decision": msgspec.to_builtins(card.decision),
            "calibration": msgspec.to_builtins(card.calibration),
            "warnings": warnings,
        }
        print(json.dumps(result))
        return
    print("\n".join(tried_lines(classifier.tried)))
    print(f"\n{held_out_heading(card)}")
    _print_metrics(card.held_out)
    for line in decision_lines(card):
        print(line)
    names = ", ".join(card.models) or "the base rate"
    print(f"{visible(str(output))}: {names}; {card.rows:,} rows, {seconds:.1f} s")


def held_out_heading(card: "Card") -> str:
    """Of which rows the metrics of a card are."""
    split, names = card.split, card.row_columns
    if split is not None and split.kind == "time":
        others = "earlier ones" if split.parts > 1 else "others of them"
        return (
            f"On the latest {split.figures:,} rows by {visible(str(names.time))}, with settings "
            f"and weights chosen on {others}:"
        )
    if split is not None and split.kind == "group":
        return (
            "On rows held out, with settings and weights chosen on other rows, none of the same "
            f"{visible(str(names.group))}:"
        )
    return "On rows held out, with settings and weights chosen on other rows:"


def print_text(prediction: dict[str, Any], as_json: bool) -> None:
    """Print the prediction for one text."""
    if as_json:
        print(json.dumps(prediction))
    else:
        predicted = prediction["predicted"]
        what = "undecided" if predicted is None else f"predicted {visible(str(predicted))}"
        print(f"probability {prediction['probability']:.4f}  {what}")
        for name, explanation in prediction.items():
            if name.startswith("explanation_") and explanation is not None:
                print(f"  {visible(explanation)}")


def print_file(counts: dict[str, Any], output: Path, positive: str, as_json: bool) -> None:
    """Print how many rows were written to a file, and how many are predicted positive."""
    if as_json:
        import msgspec

        print(json.dumps(msgspec.to_builtins({**counts, "output": str(output)})))
    else:
        print(
            f"{counts['rows']:,} rows written to {visible(str(output))}, "
            f"{counts['positives']:,} of them predicted {visible(positive)}"
            + (f", {counts['undecided']:,} undecided" if "undecided" in counts else "")
        )


def print_metrics(
    metrics: "Evaluation", as_json: bool, base_rate: "BaseRate | None" = None
) -> None:
    """Print the metrics of a model or of predictions, with an estimated base rate in JSON."""
    if as_json:
        import msgspec

        found = msgspec.to_builtins(metrics)
        if base_rate is not None:
            found["base_rate"] = msgspec.to_builtins(base_rate)
        print(msgspec.json.encode(found).decode())
    else:
        from torchbce.classifier.quality.baseline import of_base_rate

        print("\n".join(evaluation_lines(metrics, of_base_rate(metrics))))


def _print_metrics(metrics: "Metrics") -> None:
    from torchbce.classifier.quality.baseline import of_base_rate

    print("\n".join(metrics_lines(metrics, of_base_rate(metrics))))
