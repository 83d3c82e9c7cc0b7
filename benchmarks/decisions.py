"""What `torchbce fit` says of probabilities and decisions, held against new rows.

    python benchmarks/decisions.py [weighted guarantees] [report] [--data DIR] [--quick]

`weighted`: whether a weight of the positives spoils the calibration, on census_income_kdd, whose
base rate is 6%. The data set is not part of this project; without it this is not measured.
`guarantees`: how often a guaranteed precision of 90% holds, in 200 fits of simulated tables, each
scored on 200,000 new rows.
"""

import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

import decisions_report
from classifier_contenders import LABEL, Matrices, Task
from common.command import Options, main
from torchbce.classifier import TrainingOptions, evaluate_logits, fit

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
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / f"{part}.parquet" for part in ("train", "test")]
        for table, file in zip((train, test), files, strict=True):
            table.write_parquet(file)
        matrices = Matrices(Task(files[0], files[1]))
        x_test = matrices.test()
    for name, class_weight in (("", None), (", class_weight balanced", "balanced")):
        began = time.perf_counter()
        peer = HistGradientBoostingClassifier(
            categorical_features=matrices.coded, class_weight=class_weight, random_state=0
        ).fit(matrices.train, matrices.targets)
        seconds = time.perf_counter() - began
        of_peer = figures(peer.decision_function(x_test), targets)
        models["HistGradientBoosting" + name] = of_peer | {"seconds": seconds}
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
