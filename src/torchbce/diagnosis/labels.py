"""Labels that are flipped, in another order than the inputs, or wrong in some rows."""

import itertools
from collections.abc import Iterator

import numpy as np

from torchbce.diagnosis.quality import enough, finite_logits, has_spread
from torchbce.diagnosis.records import Finding
from torchbce.diagnosis.sample import FEWEST_ROWS, Sample
from torchbce.diagnosis.statistics import (
    DEVIANCE,
    FEWEST,
    FEWEST_PER_CLASS,
    SIGMAS,
    fit_map,
    improbable,
    losses,
    ranking,
    ranks,
    sigmas,
    sigmoid,
)

#: An AUC above this is not well below 1/2.
FLIPPED_AUC = 0.45
#: Standard errors of a correlation from which on rows or outputs are in another order. Several
#: orders are tried, on data whose neighbouring rows may be alike.
ORDER_SIGMAS = 8.0
#: Rows by which targets may be shifted.
SHIFTS = (-3, -2, -1, 1, 2, 3)
#: More outputs than this are not compared with each other.
MOST_OUTPUTS = 512
#: The shares of wrong labels that are tried, and from which on they are reported.
SHARES = 0.01, 0.05, 0.2
FEWEST_SHARE = 0.01
STEPS = 30
#: The probability of the other class below which a prediction is sure.
SURE = 0.02
#: Slopes between which the other elements are about calibrated. A model that is too sure of itself
#: everywhere is wrong in sure predictions too.
CALIBRATED = 0.5, 3.0
#: So many elements tell how many labels are wrong.
MOST_MIXED = 20_000


def flipped(sample: Sample) -> Iterator[Finding]:
    """Logits that rank the negatives above the positives."""
    column = np.zeros(len(sample.y), dtype=np.int64) if sample.column is None else sample.column
    z = finite_logits(sample)
    found, aucs, judged = [], [], 0
    for c, of in _by_column(column, sample.columns):
        y, own = sample.y[of], z[of]
        rarer = min(float(y.sum()), float((1 - y).sum()))
        if len(y) < FEWEST or rarer < FEWEST_PER_CLASS:
            continue
        judged += 1
        independent = min(len(y), sample.groups.number)
        got = ranking(own, y, independent)
        if got.sigmas > -SIGMAS or got.auc > FLIPPED_AUC:
            continue
        # Base rates out of fold differ too, see `has_spread`.
        above = own @ (1 - y) / (1 - y).sum() - own @ y / y.sum()
        if above > max(0.1, 3 / rarer):
            found.append(c)
            aucs.append(got.auc)
    if not found:
        return
    what = "The AUC is"
    if sample.columns > 1:
        what = f"{len(found)} of {judged} outputs have an AUC well below 0.5; of {found[0]} it is"
    yield Finding(
        "flipped-labels",
        "error",
        f"{what} {aucs[0]:.3f}: positives have the lower logits. Flipped, it is {1 - aucs[0]:.3f}.",
        "Check which class is 1 in the targets, the sign of the logits, and that a probability is "
        "that of class 1: predict_proba(X)[:, 1].",
        {"auc": aucs[0], "outputs": found, "aucs": aucs},
    )


def _by_column(column: np.ndarray, columns: int) -> Iterator[tuple[int, np.ndarray]]:
    order = np.argsort(column, kind="stable")
    starts = np.searchsorted(column[order], np.arange(columns + 1))
    for c in range(columns):
        yield c, order[starts[c] : starts[c + 1]]


def swapped_rows(sample: Sample) -> Iterator[Finding]:
    """Targets that are shifted by some rows, or in the reverse order."""
    if sample.columns > 1 or not enough(sample) or sample.groups.number < len(sample.y):
        return
    r, y = ranks(finite_logits(sample)), sample.y - sample.y.mean()
    if float(r @ r) == 0 or float(y @ y) == 0:
        return
    n = len(y)

    def correlation(r: np.ndarray, y: np.ndarray) -> float:
        spread = np.sqrt(float(r @ r) * float(y @ y))
        return float(r @ y / spread) if spread else 0.0

    as_given = correlation(r, y)
    orders = {f"shifted by {abs(k)} {'up' if k > 0 else 'down'}": _shifted(r, y, k) for k in SHIFTS}
    orders["in reverse order"] = (r[::-1], y)
    best, (other_r, other_y) = max(orders.items(), key=lambda one: correlation(*one[1]))
    found = correlation(other_r, other_y)
    noise = 1 / np.sqrt(n)
    # Neighbouring rows may be alike: the other order has to be much better than the given one.
    if found < ORDER_SIGMAS * noise or found - max(as_given, 0) < ORDER_SIGMAS * noise:
        return
    if found < 2 * as_given:
        return
    yield Finding(
        "swapped-rows",
        "error",
        f"Input and target agree (correlation of ranks {found:.3f}) with the targets {best}, and "
        f"hardly as they are ({as_given:.3f}).",
        "Check how the rows of inputs and targets were put together: a header row read as data, "
        "a shift of a time series, a sampler or a sort of only one of them.",
        {"order": best, "correlation": found, "correlation_as_given": as_given},
    )


def _shifted(r: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return (r[:-k], y[k:]) if k > 0 else (r[-k:], y[:k])


def swapped_outputs(sample: Sample) -> Iterator[Finding]:
    """Two outputs of which each ranks the other's labels."""
    columns = sample.columns
    if not 1 < columns <= MOST_OUTPUTS or len(sample.y) % columns:
        return
    shape = sample.shapes[0]
    if len(shape) != 2 or len(sample.y) != len(np.unique(sample.row)) * columns:
        return
    y = sample.y.reshape(-1, columns)
    z = finite_logits(sample).reshape(-1, columns)
    if len(y) < 2 * FEWEST:
        return
    r = np.stack([ranks(one) for one in z.T], axis=1)
    y = y - y.mean(axis=0)
    enough_of = np.minimum((y > 0).sum(axis=0), (y < 0).sum(axis=0)) >= 2 * FEWEST_PER_CLASS
    size = np.sqrt((r**2).sum(axis=0))[:, None] * np.sqrt((y**2).sum(axis=0))[None, :]
    correlation = np.divide(r.T @ y, size, out=np.zeros_like(size), where=size > 0)
    own = np.diag(correlation)
    # Of the labels of an output, which logits rank them best, and the reverse.
    margin = ORDER_SIGMAS / np.sqrt(len(y))
    better = np.minimum(correlation - own[:, None], correlation - own[None, :])
    mutual = np.minimum(better, better.T)
    mutual[~enough_of] = mutual[:, ~enough_of] = 0
    pairs = [
        (int(j), int(k))
        for j, k in np.argwhere(np.triu(mutual, 1) > margin)
        if mutual[j].argmax() == k and mutual[k].argmax() == j
    ]
    if not pairs:
        return
    j, k = pairs[0]
    yield Finding(
        "swapped-labels",
        "error",
        f"Output {j} ranks the labels of output {k} (correlation {correlation[j, k]:.3f}) and "
        f"output {k} those of {j} ({correlation[k, j]:.3f}), better than their own "
        f"({own[j]:.3f} and {own[k]:.3f}).",
        "Check the order of the columns of the targets against that of the model's outputs.",
        {"pairs": [list(pair) for pair in pairs[:20]]},
    )


def mislabelled_rows(sample: Sample) -> Iterator[Finding]:
    """A share of labels that look flipped: sure predictions are wrong as often as less sure ones.

    The targets of a share e of the elements being flipped, the probability of a positive is
    e + (1 - 2 e) sigmoid(slope z + offset). Its loss is compared with that of the map alone, which
    can tell of errors of all degrees, and of e itself with the map.
    """
    blocks = sample.groups.of is not None and sample.shapes[0][0] < FEWEST_ROWS
    if not enough(sample) or not sample.hard or blocks:
        return
    if len(sample.y) > MOST_MIXED:
        kept = np.zeros(len(sample.y), dtype=bool)
        kept[np.linspace(0, len(kept) - 1, MOST_MIXED).astype(np.int64)] = True
        sample = sample.only(kept)
    z = finite_logits(sample)
    y = sample.y
    a, b = sample.masses()
    # Before the mixture, which takes longer than all other checks: are sure predictions wrong?
    certain = sigmoid(-np.abs(z))
    certain_wrong = float(((z > 0) != (y > 0.5))[certain < SURE].sum())
    if not improbable(certain_wrong, float(certain[certain < SURE].sum())):
        return
    if not has_spread(sample, z):
        return
    plain = fit_map(z, a, b, sample.groups, True)
    if plain.slope <= 0:
        return
    share, slope, offset, loss = _mixture(z, y, plain.slope, plain.offset)
    lower = losses(plain.slope * z + plain.offset, a, b) - loss
    gain = float(lower.sum())
    if share < FEWEST_SHARE or 2 * gain < DEVIANCE:
        return
    if sample.groups.of is not None and sigmas(lower, sample.groups) < SIGMAS:
        return
    if not CALIBRATED[0] <= slope <= CALIBRATED[1]:
        return
    sure = sigmoid(-np.abs(slope * z + offset)) < share / 4
    wrong = (slope * z + offset > 0) != (y > 0.5)
    suspects = np.flatnonzero(sure & wrong)
    suspects = suspects[np.argsort(-np.abs(z[suspects]), kind="stable")]
    yield Finding(
        "mislabelled-rows",
        "warning",
        f"About {share:.1%} of the labels look flipped: {len(suspects):,} of the "
        f"{int(sure.sum()):,} surest predictions are wrong, which calibration does not explain.",
        "Look at these rows and their labels; if many are wrong, train with label_smoothing, and "
        "judge the model on rows labelled again.",
        {
            "share": share,
            "suspects": len(suspects),
            "sure": int(sure.sum()),
            "deviance": 2 * gain,
            "positions": [int(sample.positions[at]) for at in suspects[:20]],
        },
    )


def _mixture(
    z: np.ndarray, y: np.ndarray, slope: float, offset: float
) -> tuple[float, float, float, np.ndarray]:
    """The share of flipped targets, slope, offset and losses of the best mixture.

    By expectation maximisation: the probability that each target is flipped, then a step of
    Newton's method towards the map of the targets that it expects.
    """
    scale = float(np.abs(z).max(initial=0)) or 1.0
    x = np.stack((z / scale, np.ones_like(z)), axis=1)
    best = 0.0, slope, offset, np.full(len(z), np.inf)
    for share, start in itertools.product(SHARES, (slope, 1.0)):
        weights = np.array([start * scale, offset if start == slope else 0.0])
        for _ in range(STEPS):
            p = sigmoid(x @ weights)
            right = np.where(y > 0.5, p, 1 - p)
            flipped = share * (1 - right) / (share * (1 - right) + (1 - share) * right)
            expected = np.where(y > 0.5, 1 - flipped, flipped)
            share = float(flipped.mean())
            curvature = x.T @ (x * np.maximum(p * (1 - p), 1e-9)[:, None])
            step = np.linalg.solve(curvature + 1e-9 * np.eye(2), x.T @ (p - expected))
            weights = weights - np.clip(step, -scale, scale)
        p = share + (1 - 2 * share) * sigmoid(x @ weights)
        p = np.clip(np.where(y > 0.5, p, 1 - p), 1e-300, 1)
        loss = -np.log(p)
        if loss.sum() < best[3].sum():
            best = share, float(weights[0]) / scale, float(weights[1]), loss
    return best
