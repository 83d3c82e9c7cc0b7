"""What `torchbce fit` says of probabilities and decisions, held against new rows.

    python benchmarks/decisions.py [weighted guarantees] [report] [--data DIR] [--quick]

`weighted`: whether a weight of the positives spoils the calibration, on census_income_kdd, whose
base rate is 6%. The data set is not part of this project; without it this is not measured.
`guarantees`: how often a guaranteed precision of 90% holds, in 200 fits of simulated tables, each
scored on 200,000 new rows.
"""

import time
from typing import Any, Literal

import numpy as np
import polars as pl

import decisions_report
from common.command import Options, main
from torchbce.classifier import TrainingOptions, evaluate_logits, fit

LABEL = "label"
QUICK_ROWS, QUICK_FITS = 2_000, 5
FITS, ROWS, NEW_ROWS = 200, 3_000, 200_000
GUARANTEE = "precision>=0.9"
WEIGHTS: dict[str, Literal["balanced"] | None] = {
    "torchbce": None,
    "torchbce, --pos-weight balanced": "balanced",
}


def figures(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    found = evaluate_logits(logits, targets)
    return {
        "log_loss": found.log_loss,
        "ece": found.ece,
        "mean_probability": float((1 / (1 + np.exp(-logits))).mean()),
    }


def weighted(options: Options) -> dict[str, Any] | None:
    """The same model with and without --pos-weight balanced, and scikit-learn's boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    folder = options.data / "census_income_kdd"
    if not folder.is_dir():
        return None
    train, test = (
        pl.read_parquet(folder / f"{part}.parquet").drop("instance_weight")
        for part in ("train", "test")
    )
    if options.quick:
        train, test = train[:QUICK_ROWS], test[:QUICK_ROWS]
    targets = test[LABEL].cast(pl.Float64).to_numpy()
    found: dict[str, Any] = {"size": (len(train), len(test)), "base_rate": float(targets.mean())}
    models = {}
    for name, weight in WEIGHTS.items():
        began = time.perf_counter()
        classifier = fit(train, LABEL, options=TrainingOptions(pos_weight=weight))
        seconds = time.perf_counter() - began
        models[name] = figures(classifier.logits(test), targets) | {"seconds": seconds}
        print(name, models[name], flush=True)
    # Numbers, and the codes of categories, which have at most 51 values each.
    numbers = [name for name in train.columns if train[name].dtype.is_numeric() and name != LABEL]
    names = [name for name in train.columns if name != LABEL]
    kinds = {
        name: pl.Enum(train[name].drop_nulls().unique().sort().cast(pl.String))
        for name in names
        if name not in numbers
    }
    x, x_test = (
        table.select(
            *numbers,
            *(
                pl.col(name).cast(pl.String).cast(kind, strict=False).to_physical()
                for name, kind in kinds.items()
            ),
        )
        .cast(pl.Float64)
        .fill_null(float("nan"))
        .to_numpy()
        for table in (train, test)
    )
    y = train[LABEL].cast(pl.Int64).to_numpy()
    codes = np.arange(len(numbers), x.shape[1])
    for name, class_weight in (("", None), (", class_weight balanced", "balanced")):
        began = time.perf_counter()
        peer = HistGradientBoostingClassifier(
            categorical_features=codes, class_weight=class_weight, random_state=0
        ).fit(x, y)
        seconds = time.perf_counter() - began
        models["HistGradientBoosting" + name] = figures(peer.decision_function(x_test), targets) | {
            "seconds": seconds
        }
    return found | {"models": models, "goal": 0.01}


def rows(number: int, seed: int) -> pl.DataFrame:
    """Two numbers that a row's target depends on, and one that it does not."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(number, 3))
    y = random.random(number) < 1 / (1 + np.exp(1 - 3 * x[:, 0] - x[:, 1]))
    return pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], LABEL: y.astype(int)})


def guarantees(options: Options) -> dict[str, Any]:
    """How often the precision of new rows is what was promised, and at which recall."""
    fits = QUICK_FITS if options.quick else FITS
    new = rows(NEW_ROWS, FITS)
    y = new[LABEL].to_numpy()
    precision, recall, at_half = [], [], []
    for seed in range(fits):
        wanted = TrainingOptions(model="linear", guarantee=GUARANTEE, seed=seed)
        classifier = fit(rows(ROWS, seed), LABEL, options=wanted)
        (found,) = classifier.card.decision.guarantees  # type: ignore[union-attr]
        p = classifier.probabilities(new)
        at_half.append(float(y[p >= 0.5].mean()))
        if found.threshold is not None:
            precision.append(float(y[p >= found.threshold].mean()))
            recall.append(float((p >= found.threshold)[y == 1].mean()))
    return {
        "guarantee": GUARANTEE,
        "size": (fits, ROWS, NEW_ROWS),
        "found": len(precision),
        "kept": sum(value >= 0.9 for value in precision),
        "precision": float(np.median(precision)),
        "recall": float(np.median(recall)),
        "precision_at_half": float(np.median(at_half)),
        "goal": 0.95,
    }


if __name__ == "__main__":
    main(__doc__, {"weighted": weighted, "guarantees": guarantees}, decisions_report.REPORT)
