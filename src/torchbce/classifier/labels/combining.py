"""Few labels: a linear model each and a network together, weighed for each label."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from torchbce.classifier.labels.inputs import most_frequent, network_inputs
from torchbce.classifier.labels.linear import LabelOfRows, LinearLabels, LinearPaths, threads
from torchbce.classifier.labels.metrics import best_labels
from torchbce.classifier.labels.network import LabelsNetwork
from torchbce.classifier.labels.network_fit import NetworkRows, fit_networks
from torchbce.classifier.labels.targets import LabelTargets
from torchbce.classifier.models.blas import one_blas_thread
from torchbce.classifier.models.candidates import losses, mean_loss
from torchbce.classifier.models.data import Data
from torchbce.classifier.models.linear import centred
from torchbce.classifier.models.mixture import mixture_weights
from torchbce.classifier.models.parts import Pair, Parts
from torchbce.classifier.models.search import Tried
from torchbce.classifier.models.solver import Linear

#: A label with fewer rows of either value in a part to learn from has its base rate.
FEWEST = 1


class Found(NamedTuple):
    """The models of many labels.

    Attributes:
        linear: the linear model of each label; None without any.
        network: the network of all labels; None without.
        text: the text features that the network reads.
        bases: the logit of each label's base rate, [L].
        weights: by the name of a model, its weight in each label, [L].
        rows: rows held out, each once.
        chunks: returns the logits of these rows, by weights that were chosen on others, for the
            labels from a first to a last one, float64 [rows, labels].
        best: the most probable labels of these rows, [rows, at most 5].
        tried: what each model reached.
    """

    linear: LinearLabels | None
    network: LabelsNetwork | None
    text: np.ndarray
    bases: np.ndarray
    weights: dict[str, np.ndarray]
    rows: np.ndarray
    chunks: Callable[[int, int], np.ndarray]
    best: np.ndarray
    tried: list[Tried]


class OneLabel(NamedTuple):
    """The linear model of a label.

    Attributes:
        linear: the weights for all rows.
        l2: the strength of its penalty.
        tried: the number of strengths that were tried.
        logits: of the rows held out.
    """

    linear: Linear
    l2: float
    tried: int
    logits: np.ndarray


def base_logits(positives: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The logit of each label's base rate, with half a row of either value added, [L]."""
    found: np.ndarray = np.log(positives + 0.5) - np.log(known - positives + 0.5)
    return found


def find(data: Data, targets: LabelTargets, parts: Parts, pos_weight: np.ndarray | None) -> Found:
    """Fit a linear model to each label and networks to all, and weigh them for each label.

    Args:
        data: the table; its targets are not read.
        targets: the labels.
        parts: which rows are held out.
        pos_weight: the weight of the positives of each label, [L]; None for 1.
    """
    wanted, weight = data.options.model, data.weight
    text = most_frequent(data.encoded)
    pairs = list(parts.pairs)
    held_out = np.concatenate([rows for _, rows in pairs])
    seconds = dict.fromkeys(("network", "linear"), 0.0)
    network, network_logits, epochs = None, None, [0]
    if wanted in ("auto", "mlp"):
        began = time.perf_counter()
        inputs = network_inputs(data.encoder, data.encoded, text)
        rows = NetworkRows(inputs, targets, weight)
        fitted = fit_networks(rows, text, pairs, pos_weight, data.options, data.progress)
        network, epochs = fitted.network, fitted.epochs
        network_logits = np.concatenate(
            [
                one.logits(inputs.take(own))
                for one, (_, own) in zip(fitted.parts, pairs, strict=True)
            ]
        )
        seconds["network"] = time.perf_counter() - began

    y = targets.values()
    positives, known = targets.counts(weight)
    bases = base_logits(positives, known)
    logits = {}
    if network_logits is not None:
        logits["network"] = network_logits
    linear, linear_tried = None, None
    if wanted != "mlp":
        began = time.perf_counter()
        found = _fit_linear(data, y, pairs, pos_weight)
        seconds["linear"] = time.perf_counter() - began
        linear, logits["linear"], linear_tried = _together(found, bases, len(held_out))

    held_out_y = y[held_out]
    row_weight = None if weight is None else weight[held_out]

    def weigh(rows: np.ndarray) -> dict[str, float]:
        if wanted != "auto":
            return dict.fromkeys(logits, 1.0)
        of_rows = {name: z[rows] for name, z in logits.items()}
        return _shared_weights(
            of_rows, bases, held_out_y[rows], None if row_weight is None else row_weight[rows]
        )

    weights = weigh(np.ones(len(held_out), dtype=bool))
    honest = np.tile(bases, (len(held_out), 1))
    for choosing, judged in parts.honest:
        for name, own in weigh(choosing).items():
            honest[judged] += own * (logits[name][judged] - bases)
    once, first = np.unique(held_out[parts.judged], return_index=True)
    chunks = honest[parts.judged][first]

    tried = []
    for name, z in logits.items():
        setting, settings = (
            f"{min(epochs)} to {max(epochs)} epochs, {len(pairs)} networks",
            max(epochs),
        )
        if name == "linear" and linear_tried is not None:
            setting, settings = linear_tried
        known_y = ~np.isnan(held_out_y)
        loss = float(np.mean(losses(z, np.nan_to_num(held_out_y))[known_y]))
        share = weights.get(name, 0.0)
        tried.append(Tried(name, setting, settings, loss, share, round(seconds[name], 3)))
    return Found(
        linear if "linear" in weights else None,
        network if "network" in weights else None,
        text,
        bases,
        {name: np.full(targets.number, own) for name, own in weights.items()},
        once,
        lambda start, stop: chunks[:, start:stop],
        best_labels(chunks, 5),
        tried,
    )


def _shared_weights(
    logits: dict[str, np.ndarray], bases: np.ndarray, y: np.ndarray, weight: np.ndarray | None
) -> dict[str, float]:
    """The weight of each model, the same in all labels.

    With weights of its own, a label with few positives takes the model that is best by chance: on
    yeast (1,500 rows, 14 labels) the mean log loss of new rows was 0.4347 with them and is
    0.4328 with shared ones.
    """
    known = ~np.isnan(y)
    rows = np.nonzero(known)[0]
    base = np.broadcast_to(bases, y.shape)[known]
    flat = {name: z[known] for name, z in logits.items()}
    of_rows = None if weight is None else weight[rows]
    return mixture_weights(flat, base, y[known], of_rows, rows)


def _fit_linear(
    data: Data, y: np.ndarray, pairs: list[Pair], pos_weight: np.ndarray | None
) -> list[OneLabel | None]:
    """The linear model of each label; None where it cannot be learned."""
    paths = LinearPaths(data.encoder, data.encoded, pairs, data.weight)
    held_out = np.concatenate([rows for _, rows in pairs])
    weight = None if data.weight is None else data.weight[held_out]

    def fit_one(number: int) -> OneLabel | None:
        label = LabelOfRows(y[:, number], 1.0 if pos_weight is None else float(pos_weight[number]))
        known = label.known[held_out]
        if not known.any() or not _learnable(label, pairs):
            return None
        candidates, weights = paths.path(label)
        at = candidates.best(np.nan_to_num(y[held_out, number]), weight, known)
        l2 = candidates.settings[at]
        linear = centred(paths.solve(label, l2, weights[at]), data)
        if label.pos_weight != 1:  # what it added to the logits
            linear = linear._replace(bias=linear.bias - float(np.log(label.pos_weight)))
        return OneLabel(linear, l2, len(candidates.settings), candidates.logits[at])

    found: list[OneLabel | None] = []
    data.progress.start("linear", y.shape[1])
    with one_blas_thread(), ThreadPoolExecutor(threads()) as pool:
        for one in pool.map(fit_one, range(y.shape[1])):
            own = y[held_out, len(found)]
            known = ~np.isnan(own)
            loss = mean_loss(one.logits[known], own[known]) if one is not None else 0.0
            found.append(one)
            data.progress.tried(f"label {len(found)}", loss)
    data.progress.end()
    return found


def _together(
    found: list[OneLabel | None], bases: np.ndarray, rows: int
) -> tuple[LinearLabels | None, np.ndarray, tuple[str, int]]:
    """The linear models of all labels, their held-out logits, and what was tried, in words."""
    learned = [one for one in found if one is not None]
    logits = np.tile(bases, (rows, 1))
    if not learned:
        return None, logits, ("no label can be learned", 0)
    weight = np.zeros((len(found), len(learned[0].linear.weight)), np.float32)
    bias = bases.copy()
    for number, one in enumerate(found):
        if one is not None:
            weight[number], bias[number] = one.linear.weight, one.linear.bias
            logits[:, number] = one.logits
    strengths = [one.l2 for one in learned]
    words = f"L2 {min(strengths):g} to {max(strengths):g}"
    return LinearLabels(weight, bias), logits, (words, max(one.tried for one in learned))


def _learnable(label: LabelOfRows, pairs: list[Pair]) -> bool:
    """Whether each part to learn from has both values of a label."""
    for train, _ in pairs:
        y = label.targets[train]
        if np.nansum(y) < FEWEST or np.nansum(1 - y) < FEWEST:
            return False
    return True
