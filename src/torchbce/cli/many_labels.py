"""What the commands do for many labels."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbce.cli.streams import visible, warn
from torchbce.cli.terminal import tried_lines

if TYPE_CHECKING:
    import polars as pl

    from torchbce.classifier import Choice, LabelsClassifier, LabelsMetrics
    from torchbce.classifier.labels.sources import LabelSource

#: Of more labels, those with most positives are printed.
SHOWN = 30


def only_for_one(**given: object) -> None:
    """Refuse options that have no meaning for many labels."""
    from torchbce.classifier import InputError
    from torchbce.classifier.errors import Argument

    for name, value in given.items():
        if value:
            raise InputError(Argument(name), " is for a single target; there are many labels here")


def before_training(
    table: "pl.DataFrame", choices: "Sequence[Choice]", source: "LabelSource", quiet: bool
) -> None:
    """Print the kind of each column, and what the labels are."""
    if quiet:
        return
    from torchbce.cli.terminal import print_choices

    names = source.names
    print_choices(choices, None)
    more = "" if len(names) <= 5 else f" and {len(names) - 5:,} more"
    print(visible(f"{len(names):,} labels: {', '.join(names[:5])}{more}"), file=sys.stderr)


def after_training(held_out: "LabelsMetrics") -> list[str]:
    """Warn of a model that found nothing. Returns the warnings."""
    relative = held_out.relative_log_loss
    if relative is None or relative < 1 - 1e-9:
        return []
    sentence = (
        "nothing better than the base rates of the labels was found: on rows held out the mean log "
        f"loss is {held_out.log_loss:.4f}, and {relative:.4f} times theirs"
    )
    warn(sentence)
    return [sentence]


def print_fit(
    classifier: "LabelsClassifier",
    output: Path,
    seconds: float,
    warnings: list[str],
    as_json: bool,
) -> None:
    """Print the size of the fitted model, and its metrics on held-out rows."""
    import dataclasses

    import msgspec

    card = classifier.card
    if as_json:
        result: dict[str, Any] = {
            "output": str(output),
            "seconds": round(seconds, 3),
            "rows": card.rows,
            "positives": dict(zip(card.labels, card.positives, strict=True)),
            "models": {name: sum(own) / len(own) for name, own in card.models.items()},
            "tried": msgspec.to_builtins(classifier.tried),
            "source": msgspec.to_builtins(card.source),
            "columns": [dataclasses.asdict(choice) for choice in classifier.choices],
            "held_out": msgspec.to_builtins(card.held_out),
            "warnings": warnings,
        }
        print(json.dumps(result))
        return
    print("\n".join(tried_lines(classifier.tried)))
    print("\nOn rows held out, with weights chosen on other rows:")
    print_metrics(card.held_out, False)
    names = ", ".join(card.models) or "the base rates"
    labels = f"{len(card.labels):,} labels"
    print(f"{visible(str(output))}: {names}; {labels}, {card.rows:,} rows, {seconds:.1f} s")


def print_metrics(metrics: "LabelsMetrics", as_json: bool) -> None:
    """Print the metrics of many labels, and of a few labels those of each."""
    import msgspec

    if as_json:
        print(msgspec.json.encode(metrics).decode())
        return
    for line in metrics_lines(metrics):
        print(visible(line))


def metrics_lines(metrics: "LabelsMetrics") -> list[str]:
    """The metrics of many labels as lines of text."""

    def figure(value: float | None) -> str:
        return "not defined" if value is None else f"{value:.4f}"

    rows = [
        ("mean log loss of the labels", metrics.log_loss, "lower"),
        ("divided by that of base rates", metrics.relative_log_loss, "lower"),
        ("micro F1", metrics.micro_f1, "higher"),
        ("macro F1", metrics.macro_f1, "higher"),
        ("Hamming loss", metrics.hamming_loss, "lower"),
        ("macro ROC-AUC", metrics.macro_roc_auc, "higher"),
        ("macro average precision", metrics.macro_average_precision, "higher"),
    ]
    for name, by_k in (
        ("P@", metrics.precision_at),
        ("nDCG@", metrics.ndcg_at),
        ("propensity-scored P@", metrics.psp_at),
    ):
        rows += [(f"{name}{k}", value, "higher") for k, value in by_k.items()]
    lines = [f"{'':<31}{'':>11}   better is"]
    lines += [f"{label:<31}{figure(value):>11}   {better}" for label, value, better in rows]
    if not metrics.labels:
        return lines
    by_count = sorted(
        metrics.labels.items(), key=lambda one: -(one[1].confusion.tp + one[1].confusion.fn)
    )
    width = max(len(visible(name)) for name, _ in by_count[:SHOWN])
    head = f"{'label':<{width}}{'positives':>11}{'log loss':>10}{'ROC-AUC':>13}{'F1':>8}"
    lines += ["", head]
    for name, own in by_count[:SHOWN]:
        positives = own.confusion.tp + own.confusion.fn
        lines.append(
            f"{visible(name):<{width}}{positives:>11,.0f}{own.log_loss:>10.4f}"
            f"{figure(own.roc_auc):>13}{own.f1:>8.4f}"
        )
    if len(by_count) > SHOWN:
        lines.append(f"(and {len(by_count) - SHOWN:,} more labels with fewer positives)")
    return lines


def renamed(columns: Sequence[str], usual: Sequence[str], names: Sequence[str]) -> None:
    """Say under which names `predict` appends its columns, if the table has their usual names."""
    from torchbce.classifier.errors import listing, name_columns

    if taken := [name for name in usual if name in columns]:
        own = [new for new, name in zip(names, usual, strict=True) if name in columns]
        sentence = f"the table has {name_columns(taken)}: predict appends {listing(own)}"
        print(f"torchbce: {visible(sentence)}", file=sys.stderr)


def predict(
    classifier: "LabelsClassifier",
    table: list[str] | None,
    text: str | None,
    output: Path | None,
    overwrite: bool,
    json_lines: bool,
    separator: str | None,
    prefix: str,
    top: int | None,
    quiet: bool,
) -> None:
    """`torchbce predict` for many labels."""
    from torchbce.classifier import InputError
    from torchbce.classifier.columns.text import TextColumn
    from torchbce.classifier.errors import listing
    from torchbce.classifier.labels.files import predict_labels_file

    if top is not None and top > len(classifier.card.labels):
        raise InputError(f"--top is {top}, and the model has {len(classifier.card.labels)} labels")
    if text is not None:
        columns = classifier.encoder.columns
        if len(columns) != 1 or not isinstance(columns[0], TextColumn):
            names = listing([column.name for column in columns])
            raise InputError(f"--text needs a model of one text column; this one reads {names}")
        number = min(5, len(classifier.card.labels)) if top is None else top
        found = classifier.predict({columns[0].name: [text]}, top=number).row(0, named=True)
        if json_lines:
            print(json.dumps(found))
            return
        for rank in range(1, number + 1):
            label = visible(found[f"label_{rank}"])
            print(f"probability {found[f'probability_{rank}']:.4f}  {label}")
        return
    assert table is not None
    counts = predict_labels_file(
        classifier, table, output, overwrite, json_lines, separator, prefix, top, renamed
    )
    if output is None or str(output) == "-" or (quiet and not json_lines):
        return
    if json_lines:
        print(json.dumps({**counts, "output": str(output)}))
    else:
        print(f"{counts['rows']:,} rows written to {visible(str(output))}")


def print_model(
    classifier: "LabelsClassifier",
    directory: Path,
    as_json: bool,
    kind: Callable[[Any], str],
    features: Callable[[Any], str],
) -> None:
    """`torchbce show` for many labels.

    Args:
        classifier: the model.
        directory: where it comes from.
        as_json: whether to print JSON.
        kind: the kind of a column.
        features: what a column becomes, in words.
    """
    import msgspec

    card = classifier.card
    if as_json:
        shown = msgspec.to_builtins(card)
        shown["columns"] = [
            {"name": column.name, "kind": kind(column), "features": features(column)}
            for column in card.columns
        ]
        shown["tried"] = msgspec.to_builtins(classifier.tried)
        print(json.dumps(shown))
        return
    names = ", ".join(card.models) or "the base rates"
    lines = [f"{directory}: {names}; {len(card.labels):,} labels, {card.rows:,} rows", ""]
    lines += [f"{column.name}: {kind(column)}, {features(column)}" for column in card.columns]
    lines += [f"{name}: dropped, {reason}" for name, reason in card.dropped.items()]
    lines += ["", "On rows held out, with weights chosen on other rows:"]
    lines += metrics_lines(card.held_out)
    if classifier.tried:
        lines += ["", *tried_lines(classifier.tried)]
    for line in lines:
        print(visible(line))
