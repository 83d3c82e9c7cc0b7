"""`torchbce fit`: from a table to a model directory."""

import sys
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import typer

from torchbce.cli.arguments import (
    TABLES,
    Debug,
    Decimal,
    Json,
    Overwrite,
    Positive,
    Quiet,
    Soft,
    Weight,
)
from torchbce.cli.errors import one_sentence_errors
from torchbce.cli.results import print_fit
from torchbce.cli.streams import visible


@one_sentence_errors
def fit(
    table: Annotated[list[str], typer.Argument(metavar="TABLE...", help=TABLES)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The model directory to write.")
    ],
    target: Annotated[
        list[str],
        typer.Option(
            metavar="COLUMN",
            help="The column to predict, of two values; several are labels, which may be empty "
            "where they are unknown.",
        ),
    ] = [],  # noqa: B006
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Instead of --target: the labels of each row, lists or text."
        ),
    ] = None,
    positive: Positive = None,
    soft: Soft = False,
    positives: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Instead of --target: how many of the trials were positive."
        ),
    ] = None,
    trials: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --positives: how many trials.")
    ] = None,
    weight: Weight = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Rows of the same value here, as a patient, stay together in every split.",
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Dates or numbers: the latest rows are held out."),
    ] = None,
    text: Annotated[list[str], typer.Option(metavar="COLUMN", help="Use as text.")] = [],  # noqa: B006
    numeric: Annotated[list[str], typer.Option(metavar="COLUMN", help="Use as numbers.")] = [],  # noqa: B006
    categorical: Annotated[
        list[str], typer.Option(metavar="COLUMN", help="Use as categories.")
    ] = [],  # noqa: B006
    drop: Annotated[list[str], typer.Option(metavar="COLUMN", help="Leave out.")] = [],  # noqa: B006
    missing: Annotated[
        list[str], typer.Option(metavar="WORD", help="A word that means that there is no value.")
    ] = [],  # noqa: B006
    decimal: Decimal = ".",
    separator: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help="What separates the values of a CSV, as ; or tab, if not seen; with --labels what "
            "separates labels that are text, as a comma.",
        ),
    ] = None,
    csv_separator: Annotated[
        str | None,
        typer.Option(metavar="CHARACTER", help="The same of a CSV, where there are --labels."),
    ] = None,
    model: Annotated[
        Literal["auto", "linear", "pairs", "trees", "mlp"],
        typer.Option(help="One model, or the best combination of those that suit the table."),
    ] = "auto",
    effort: Annotated[
        Literal["low", "medium", "high"],
        typer.Option(help="How much work: low takes about half of the time of medium, or less."),
    ] = "medium",
    pos_weight: Annotated[
        str,
        typer.Option(
            metavar="balanced|NUMBER|none", help="The weight of the positives in the loss."
        ),
    ] = "none",
    loss: Annotated[
        Literal["bce", "focal", "asymmetric", "poly"],
        typer.Option(
            help="Of linear, pairs and mlp: what they are fitted by. Probabilities are brought "
            "back to the rate of the target."
        ),
    ] = "bce",
    alpha: Annotated[
        float | None, typer.Option(help="Of focal and poly: the weight of the positives, to 1.")
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(help="Of focal and poly: the exponent; by default 2 and 0.")
    ] = None,
    gamma_pos: Annotated[
        float | None, typer.Option(help="Of asymmetric: that of the positives; by default 1.")
    ] = None,
    gamma_neg: Annotated[
        float | None, typer.Option(help="Of asymmetric: that of the negatives; by default 4.")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Of asymmetric: taken off negatives' probabilities; by default 0.05."),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Of poly: added to its first term; by default 1.")
    ] = None,
    optimize: Annotated[
        str | None,
        typer.Option(
            metavar="GOAL",
            help="Choose the threshold for accuracy, f1, mcc, balanced-accuracy, precision@R, "
            "recall@P or cost:FP,FN; without it, it is 0.5.",
        ),
    ] = None,
    guarantee: Annotated[
        list[str],
        typer.Option(
            metavar="FIGURE",
            help="Find a threshold that keeps precision>=P, recall>=R or fpr<=F with 95% "
            "confidence; a quarter of the rows is set aside to test it.",
        ),
    ] = [],  # noqa: B006
    abstain: Annotated[
        bool,
        typer.Option(
            "--abstain", help="With --guarantee: predict nothing for rows that it does not cover."
        ),
    ] = False,
    base_rate: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="The share of positives where the model will be used, if not that of TABLE.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of the mlp: passes over the rows at most.")] = 30,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Of the mlp: rows per step; by default from 16 to 512."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the mlp: the initial one of AdamW; by default 0.002."),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of the mlp: that of AdamW.")] = 0.0,
    patience: Annotated[
        int, typer.Option(help="Of the mlp: epochs without a lower held-out loss before it stops.")
    ] = 5,
    device: Annotated[
        Literal["cpu", "cuda", "mps", "auto"], typer.Option(help="Where to train the mlp.")
    ] = "cpu",
    precision: Annotated[
        Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"],
        typer.Option(help="Of the mlp: the floating-point format of the training."),
    ] = "32-true",
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html beside the model.")
    ] = True,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fit a classifier to TABLE and write it to a model directory.

    Whether a column is text, categorical or numeric is inferred from its values; --text, --numeric,
    --categorical and --drop override that, and may be given several times.

    Several --target, or --labels for a column such as "red,blue", make a classifier of many labels.
    """
    started = perf_counter()
    from torchbce import classifier
    from torchbce.classifier.columns.outcomes import RowColumns
    from torchbce.classifier.estimator.tables import fit_table
    from torchbce.classifier.reports.making import held_out_report, report_files
    from torchbce.classifier.tables.reading import scan
    from torchbce.cli import many_labels, notes
    from torchbce.cli.terminal import training_progress

    estimator = classifier.BCEClassifier(
        model=model,
        effort=effort,
        pos_weight=_pos_weight(pos_weight),
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        patience=patience,
        device=device,
        precision=precision,
        loss=loss,
        alpha=alpha,
        gamma=gamma,
        gamma_pos=gamma_pos,
        gamma_neg=gamma_neg,
        margin=margin,
        epsilon=epsilon,
        optimize=optimize,
        guarantee=tuple(guarantee),
        abstain=abstain,
        base_rate=base_rate,
        text=text,
        numeric=numeric,
        categorical=categorical,
        drop=drop,
        missing=missing,
        decimal=decimal,
    )
    options = estimator.training_options()  # before a large table is read
    classifier.check_output(output, overwrite)
    many = labels is not None or len(target) > 1
    if csv_separator is None and labels is None:
        csv_separator = separator
    if not quiet and not many:
        notes.without_trees(options)
    scanned = scan(table, csv_separator)
    if not quiet:
        for note in scanned.notes:
            print(visible(note), file=sys.stderr)
    rows = classifier.read(scanned)
    warnings: list[str] = []
    if many:
        many_labels.only_for_one(
            positives=positives,
            trials=trials,
            base_rate=base_rate,
            guarantee=guarantee,
            abstain=abstain,
        )
        if labels is not None and target:
            raise classifier.InputError("give either --target or --labels")
        with training_progress(quiet) as progress:
            of_labels = classifier.fit_labels(
                rows,
                targets=target if labels is None else None,
                labels=labels,
                separator=separator,
                positive=positive,
                soft=soft,
                weight=weight,
                group=group,
                time=time,
                overrides=classifier.Overrides(text, numeric, categorical, drop),
                missing=missing,
                decimal=decimal,
                options=options,
                progress=progress,
                on_choice=lambda choices, source: many_labels.before_training(
                    rows, choices, source, quiet
                ),
            )
        files = report_files(held_out_report(of_labels)) if report else None
        classifier.save(of_labels, output, overwrite, files)
        warnings += many_labels.after_training(of_labels.card.held_out)
        if json_ or not quiet:
            many_labels.print_fit(of_labels, output, perf_counter() - started, warnings, json_)
        return
    with training_progress(quiet) as progress:
        fitted = fit_table(
            estimator,
            rows,
            target[0] if target else None,
            positive=positive,
            soft=soft,
            positives=positives,
            trials=trials,
            weight=weight,
            group=group,
            time=time,
            progress=progress,
            on_choice=lambda choices, chosen: warnings.extend(
                notes.before_training(rows, choices, chosen, quiet, RowColumns(weight, group, time))
            ),
        )
    files = report_files(held_out_report(fitted, rows)) if report else None
    classifier.save(fitted, output, overwrite, files)
    warnings += notes.after_training(fitted.card)
    if json_ or not quiet:
        print_fit(fitted, output, perf_counter() - started, warnings, json_)


def _pos_weight(text: str) -> float | Literal["balanced"] | None:
    from torchbce.classifier import InputError

    if text == "balanced":
        return "balanced"
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"--pos-weight must be 'balanced', 'none' or a number, got {text!r}"
        ) from None
