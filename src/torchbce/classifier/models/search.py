"""Fit the models that suit a table, choose their settings on rows held out, and combine them."""

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from torchbce.classifier.models.blas import one_blas_thread
from torchbce.classifier.models.calibration import Calibration, calibration_of
from torchbce.classifier.models.candidates import mean_loss
from torchbce.classifier.models.data import Data, Fitted
from torchbce.classifier.models.linear import LinearPath, fit_linear, linear_path
from torchbce.classifier.models.members import Model
from torchbce.classifier.models.mixture import combined, mixture_weights
from torchbce.classifier.models.pairs_fit import fit_pairs

#: Trees split off at least 20 rows, so that with fewer rows than this there is little to split.
TREE_ROWS = 100


class Tried(msgspec.Struct, frozen=True):
    """What one model reached on the rows held out.

    Attributes:
        model: "linear", "pairs", "trees" or "mlp".
        setting: the setting that was best, in words.
        settings: how many settings were tried.
        held_out_loss: its log loss on the rows held out, in nats.
        weight: the weight of its logits in the combination; 0 where it does not help.
        seconds: the time that it took.
        share: its share of the answer: the standard deviation of its weighted logits over the rows
            held out, divided by the sum of those of all models.
        path: the settings in the order of trial, in words, and their log loss on the rows held out.
    """

    model: str
    setting: str
    settings: int
    held_out_loss: float
    weight: float
    seconds: float
    share: float = 0.0
    path: list[tuple[str, float]] = []


class Found(NamedTuple):
    """The models of a table.

    Attributes:
        models: the models that are kept.
        weights: the weight of each in the combination.
        base: the logit of the base rate.
        rows: the rows held out, each once.
        logits: the combined logits of these rows, calibrated, of models, settings, weights and
            maps that were chosen without their targets, float64.
        tried: what was tried.
        calibration: the map of the combined logits to calibrated ones; None for none.
    """

    models: list[Model]
    weights: list[float]
    base: float
    rows: np.ndarray
    logits: np.ndarray
    tried: list[Tried]
    calibration: Calibration | None = None


def search(data: Data) -> Found:
    """Fit, choose and combine the models of a table."""
    if not data.encoder.columns:  # the rows are all alike
        rows = np.unique(data.parts.held_out[data.parts.judged])
        return Found([], [], data.base, rows, np.full(len(rows), data.base), [])
    with one_blas_thread():
        return _search(data)


def _search(data: Data) -> Found:
    fits, seconds = _fit_models(data)
    y, weight, base = data.held_out_targets, data.held_out_weight, data.base
    every = np.ones(len(y), dtype=bool)
    chosen, weights = _choose(fits, y, weight, every, base)
    if data.options.model != "auto":  # who asks for a model gets it, also where it does not help
        weights = dict.fromkeys(fits, 1.0) | weights
    logits = {name: fit.candidates.logits[chosen[name]] for name, fit in fits.items()}
    shares = shares_of(logits, weights)
    # Rows that are held out several times are few, and few rows are not calibrated.
    calibrated = bool(weights) and data.parts.repeats == 1
    groups = None if data.groups is None else data.groups[data.parts.held_out]
    calibration = (
        calibration_of(combined(logits, weights, base), y, weight, groups) if calibrated else None
    )
    tried = [
        Tried(
            name,
            fit.words(fit.candidates.settings[chosen[name]]),
            fit.tried,
            mean_loss(logits[name], y, weight),
            weights.get(name, 0.0),
            round(seconds[name], 3),
            shares.get(name, 0.0),
            _path(fit, y, weight),
        )
        for name, fit in fits.items()
    ]
    held_out, judged = data.parts.held_out, data.parts.judged
    rows, first = np.unique(held_out[judged], return_index=True)
    return Found(
        [fits[name].model(chosen[name]) for name in weights],
        list(weights.values()),
        base,
        rows,
        _honest_logits(data, fits, calibration is not None)[judged][first],
        tried,
        calibration,
    )


def _path(fit: Fitted, y: np.ndarray, weight: np.ndarray | None) -> list[tuple[str, float]]:
    candidates = fit.candidates
    return [
        (fit.words(setting), mean_loss(logits, y, weight))
        for setting, logits in zip(candidates.settings, candidates.logits, strict=True)
    ]


def shares_of(logits: dict[str, np.ndarray], weights: dict[str, float]) -> dict[str, float]:
    """How much of the spread of the combined logit each model gives; see `Tried`."""
    spread = {name: weight * float(logits[name].std()) for name, weight in weights.items()}
    total = sum(spread.values())
    return {name: one / total if total else 0.0 for name, one in spread.items()}


def _fit_models(data: Data) -> tuple[dict[str, Fitted], dict[str, float]]:
    """The models that were asked for, or that suit the table; and the seconds of each."""
    wanted = data.options.model
    auto, effort = wanted == "auto", data.options.effort
    columns = len(data.encoder.coded)
    fits: dict[str, Fitted] = {}
    seconds: dict[str, float] = {}

    def add(name: str, fit: Callable[[], Fitted | None]) -> None:
        began = time.perf_counter()
        fitted = fit()
        seconds[name] = time.perf_counter() - began
        if fitted is not None:
            fits[name] = fitted

    began = time.perf_counter()
    path: LinearPath | None = None
    if wanted != "mlp" and (wanted != "trees" or data.encoder.texts):
        path = linear_path(data)
    path_seconds = time.perf_counter() - began
    if path is not None and (auto or wanted == "linear"):
        add("linear", lambda: fit_linear(data, path))
        seconds["linear"] += path_seconds
    if path is not None and (wanted == "pairs" or (auto and columns > 1)):
        add("pairs", lambda: fit_pairs(data, path))
        if not fits:  # no pair explains anything
            add("linear", lambda: fit_linear(data, path))
    trees = auto and data.options.loss == "bce"  # they know no other
    if wanted == "trees" or (trees and columns > 0 and len(data.targets) >= TREE_ROWS):
        from torchbce.classifier.models.trees_fit import fit_trees

        add("trees", lambda: fit_trees(data, 1.0 if path is None else path.l2))
    if wanted == "mlp" or (auto and effort == "high"):
        from torchbce.classifier.models.network_fit import fit_network

        add("mlp", lambda: fit_network(data))
    return fits, seconds


def _choose(
    fits: dict[str, Fitted],
    y: np.ndarray,
    weight: np.ndarray | None,
    rows: np.ndarray,
    base: float,
) -> tuple[dict[str, int], dict[str, float]]:
    """The setting of each model and the weights of the models, from some of the rows held out."""
    chosen = {name: fit.candidates.best(y, weight, rows) for name, fit in fits.items()}
    logits = {name: fit.candidates.logits[chosen[name]][rows] for name, fit in fits.items()}
    own = None if weight is None else weight[rows]
    return chosen, mixture_weights(logits, base, y[rows], own)


def _honest_logits(data: Data, fits: dict[str, Fitted], calibrated: bool) -> np.ndarray:
    """The combined logits of the rows held out, by settings and weights chosen on other rows.

    Args:
        data: the table, of which `parts.honest` has the rows to choose on, and those that get the
            logits.
        fits: what the models reached.
        calibrated: whether to calibrate them, by a map that is chosen on other rows too.
    """
    y, weight, base = data.held_out_targets, data.held_out_weight, data.base
    groups = None if data.groups is None else data.groups[data.parts.held_out]
    logits = np.full(len(y), np.nan)
    for choosing, part in data.parts.honest:
        chosen, weights = _choose(fits, y, weight, choosing, base)
        every = {name: fit.candidates.logits[chosen[name]] for name, fit in fits.items()}
        mixed = combined(every, weights, base)
        if calibrated and weights:
            own = [None if of is None else of[choosing] for of in (weight, groups)]
            calibration = calibration_of(mixed[choosing], y[choosing], *own)
            mixed = mixed if calibration is None else calibration(mixed)
        logits[part] = mixed[part]
    return logits
