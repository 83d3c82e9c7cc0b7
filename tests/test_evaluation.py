"""The figures of `evaluate`: against scikit-learn, and against the formulas by hand."""

import math
import warnings

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from making import METRICS
from torchbce.calibration import Platt
from torchbce.classifier import Metrics, evaluate_logits, evaluate_probabilities
from torchbce.classifier.quality.metrics import ECE_BINS, expected_calibration_error


def sample(rows: int = 500, seed: int = 0, rate: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Logits that know something, some of them equal, and their targets."""
    random = np.random.default_rng(seed)
    y = (random.random(rows) < rate).astype(np.float32)
    return np.round(random.normal(loc=2 * y - 1.5), 1).astype(np.float64), y


def sigmoid(z: np.ndarray) -> np.ndarray:
    p: np.ndarray = 1 / (1 + np.exp(-z))
    return p


@pytest.mark.parametrize("seed", range(3))
def test_each_metric(seed: int) -> None:
    z, y = sample(seed=seed)
    p = sigmoid(z)
    # Rows of equal logits are tied, though a vectorised sigmoid may round them apart.
    for got, scores in ((evaluate_logits(z, y), z), (evaluate_probabilities(p, y), p)):
        assert got.log_loss == pytest.approx(metrics.log_loss(y, p), rel=1e-12)
        assert got.brier == pytest.approx(np.mean((p - y) ** 2), rel=1e-12)
        assert got.roc_auc == pytest.approx(metrics.roc_auc_score(y, scores), rel=1e-12)
        assert got.average_precision == pytest.approx(
            metrics.average_precision_score(y, scores), rel=1e-12
        )
        assert got.accuracy == pytest.approx(np.mean((p >= 0.5) == y), rel=1e-12)
        assert got.f1 == pytest.approx(metrics.f1_score(y, p >= 0.5), rel=1e-12)
        rate = y.mean(dtype=np.float64)
        entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
        assert got.relative_log_loss == pytest.approx(got.log_loss / entropy, rel=1e-9)
        c = got.confusion
        assert c.tp == ((p >= 0.5) & (y == 1)).sum()
        assert c.fp == ((p >= 0.5) & (y == 0)).sum()
        assert c.fn == ((p < 0.5) & (y == 1)).sum()
        assert c.tn == ((p < 0.5) & (y == 0)).sum()


def test_four_rows_by_hand() -> None:
    p, y = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1], dtype=np.float32)
    got = evaluate_probabilities(p, y)
    assert got.log_loss == pytest.approx(-math.log(0.9 * 0.6 * 0.35 * 0.8) / 4)
    assert got.relative_log_loss == pytest.approx(got.log_loss / math.log(2))
    assert got.brier == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    assert got.roc_auc == 0.75
    assert got.average_precision == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert got.accuracy == 0.75
    assert got.f1 == pytest.approx(2 / 3)
    assert (got.confusion.tn, got.confusion.fp, got.confusion.fn, got.confusion.tp) == (2, 0, 1, 1)
    # Bins of 1/15: .1 in [1, 2), .35 in [5, 6), .4 in [6, 7), .8 in [12, 13): a row each.
    assert got.ece == pytest.approx((0.1 + 0.4 + 0.65 + 0.2) / 4)


def test_predicting_the_base_rate_has_a_relative_log_loss_of_1() -> None:
    y = np.array([1, 0, 0, 0], dtype=np.float32)
    got = evaluate_probabilities(np.full(4, 0.25), y)
    assert got.relative_log_loss == pytest.approx(1, rel=1e-12)
    assert got.roc_auc == 0.5
    assert got.average_precision == 0.25
    assert got.ece == 0


def test_the_threshold_is_positive() -> None:
    p, y = np.array([0.5, 0.3, 0.29999]), np.array([1, 1, 0], dtype=np.float32)
    assert evaluate_probabilities(p, y).confusion.tp == 1
    assert evaluate_probabilities(p, y, 0.3).confusion.tp == 2
    assert evaluate_probabilities(p, y, 0.3).accuracy == 1
    z = np.array([0.0, -1e-12, -3.0])
    assert evaluate_logits(z, y).confusion.tp == 1
    assert evaluate_logits(z, y, 0.01).confusion.fp == 1


# ------------------------------------------------------------------------------------- calibration


def ece_by_hand(p: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for bin in range(ECE_BINS):
        low, high = bin / ECE_BINS, (bin + 1) / ECE_BINS
        inside = (p >= low) & ((p < high) | (bin == ECE_BINS - 1))
        if inside.any():
            total += inside.mean() * abs(y[inside].mean() - p[inside].mean())
    return total


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error(seed: int) -> None:
    random = np.random.default_rng(seed)
    p, y = random.random(400) ** 2, random.random(400) < 0.4
    got = expected_calibration_error(p, y)
    assert got == pytest.approx(ece_by_hand(p, y), rel=1e-9)
    assert evaluate_probabilities(p, y.astype(np.float32)).ece == got


def test_calibration_error_at_the_ends() -> None:
    y = np.array([False, True])
    assert expected_calibration_error(np.array([0.0, 1.0]), y) == 0
    assert expected_calibration_error(np.array([1.0, 0.0]), y) == 1
    # 1 is in the last bin, with .95.
    got = expected_calibration_error(np.array([1.0, 0.95]), y)
    assert got == pytest.approx((1.95 - 1) / 2)


# ------------------------------------------------------------------------- weights, soft targets


def test_weights_against_scikit_learn() -> None:
    z, y = sample()
    w = np.random.default_rng(1).gamma(1.0, size=len(y))
    w[::7] = 0
    p = sigmoid(z)
    for got, scores in (
        (evaluate_logits(z, y, 0.3, w), z),
        (evaluate_probabilities(p, y, 0.3, w), p),
    ):
        of_weights = {"sample_weight": w}
        assert got.log_loss == pytest.approx(metrics.log_loss(y, p, **of_weights), rel=1e-12)
        assert got.brier == pytest.approx(metrics.brier_score_loss(y, p, **of_weights), rel=1e-12)
        assert got.roc_auc == pytest.approx(metrics.roc_auc_score(y, scores, **of_weights))
        assert got.average_precision == pytest.approx(
            metrics.average_precision_score(y, scores, **of_weights)
        )
        assert got.accuracy == pytest.approx(metrics.accuracy_score(y, p >= 0.3, **of_weights))
        assert got.f1 == pytest.approx(metrics.f1_score(y, p >= 0.3, **of_weights))
        matrix = metrics.confusion_matrix(y, p >= 0.3, **of_weights).ravel()
        np.testing.assert_allclose(msgspec.structs.astuple(got.confusion), matrix)


def test_whole_weights_are_repeated_rows() -> None:
    z, y = sample(300)
    w = np.random.default_rng(2).integers(0, 4, size=300)
    weighted = msgspec.to_builtins(evaluate_logits(z, y, weight=w))
    repeated = msgspec.to_builtins(evaluate_logits(np.repeat(z, w), np.repeat(y, w)))
    assert weighted.pop("confusion") == repeated.pop("confusion")
    assert weighted == pytest.approx(repeated, rel=1e-12)


def test_soft_targets_are_votes() -> None:
    """A row with the target 1/4 is one positive and three negatives; the Brier score differs."""
    z, _ = sample(200)
    soft = np.random.default_rng(3).integers(0, 5, size=200) / 4
    got = msgspec.to_builtins(evaluate_logits(z, soft))
    votes = np.concatenate([np.arange(4) < 4 * target for target in soft]).astype(float)
    want = msgspec.to_builtins(evaluate_logits(np.repeat(z, 4), votes))
    confusion = {name: count / 4 for name, count in want.pop("confusion").items()}
    assert got.pop("confusion") == pytest.approx(confusion)
    want["brier"] = np.mean((sigmoid(z) - soft) ** 2)
    assert got == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("weight", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, math.nan]])
def test_wrong_weights(weight: list[float]) -> None:
    y = np.array([0.0, 1.0])
    for evaluate in (evaluate_logits, evaluate_probabilities):
        with pytest.raises(ValueError, match="weight"):
            evaluate(np.array([0.2, 0.7]), y, weight=np.array(weight))


# ------------------------------------------------------------------------------------ at the limits


@pytest.mark.parametrize("label", [0, 1])
def test_one_class(label: int) -> None:
    y = np.full(5, label, dtype=np.float32)
    p = np.linspace(0.1, 0.9, 5)
    got = evaluate_probabilities(p, y)
    assert got.relative_log_loss is None
    assert got.roc_auc is None
    assert got.average_precision is None
    assert got.log_loss == pytest.approx(-np.mean(np.log(p if label else 1 - p)))
    assert got.brier == pytest.approx(np.mean((p - label) ** 2))
    assert got.accuracy == 0.6 if label else 0.4
    assert got.f1 == (pytest.approx(0.75) if label else 0)
    c = got.confusion
    assert (c.tn, c.fp, c.fn, c.tp) == ((0, 0, 2, 3) if label else (2, 3, 0, 0))


def test_one_row() -> None:
    got = evaluate_probabilities(np.array([0.25]), np.array([1.0], dtype=np.float32))
    assert got.log_loss == pytest.approx(math.log(4))
    assert got.ece == 0.75


def test_nothing_is_predicted_positive() -> None:
    got = evaluate_probabilities(np.array([0.1, 0.2]), np.array([0, 1], dtype=np.float32))
    assert got.f1 == 0


def test_saturated_probabilities_have_a_loss_of_100_nats() -> None:
    y = np.array([0, 1], dtype=np.float32)
    assert evaluate_probabilities(np.array([0.0, 1.0]), y).log_loss == 0
    assert evaluate_probabilities(np.array([1.0, 0.0]), y).log_loss == 100
    assert evaluate_probabilities(np.array([1e-300, 1.0]), y).log_loss == pytest.approx(1e-300)


def test_logits_are_exact_where_probabilities_round() -> None:
    y = np.array([0, 1], dtype=np.float32)
    assert evaluate_logits(np.array([50.0, 0.0]), y).log_loss == pytest.approx(
        (50 + math.log(2)) / 2
    )
    got = evaluate_logits(np.array([1e4, 800.0]), y)
    assert got.log_loss == pytest.approx(5000)
    assert got.brier == 0.5
    far = evaluate_logits(np.array([-800.0, 800.0]), y)
    assert far.log_loss == pytest.approx(0, abs=1e-300)
    assert (far.brier, far.roc_auc, far.ece) == (0, 1, 0)


# ------------------------------------------------------------------------------------------- JSON


def test_the_keys_of_the_json() -> None:
    for y in ([0, 1], [1, 1]):
        got = evaluate_probabilities(np.array([0.2, 0.7]), np.array(y, dtype=np.float32))
        as_json = msgspec.json.decode(msgspec.json.encode(got))
        assert list(as_json) == METRICS
        assert set(as_json["confusion"]) == {"tn", "fp", "fn", "tp"}
        assert (as_json["roc_auc"] is None) == (y == [1, 1])
        assert msgspec.json.decode(msgspec.json.encode(got), type=Metrics) == got


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_any_probabilities(pairs: list[tuple[float, bool]], threshold: float) -> None:
    p = np.array([pair[0] for pair in pairs])
    y = np.array([pair[1] for pair in pairs], dtype=np.float32)
    got = evaluate_probabilities(p, y, threshold)
    for name in ("brier", "roc_auc", "average_precision", "accuracy", "f1", "ece"):
        value = getattr(got, name)
        assert value is None or -1e-12 <= value <= 1 + 1e-12
    assert 0 <= got.log_loss <= 100
    c = got.confusion
    assert c.tn + c.fp + c.fn + c.tp == len(pairs)
    assert c.tp + c.fn == y.sum()
    assert got.ece <= abs(p - y).mean() + 1e-12


def test_arrays_that_are_read_only() -> None:
    """As those of polars are: no warning, and the same figures."""
    z, y = np.linspace(-3, 3, 60), np.arange(60) % 2.0
    expected = evaluate_logits(z, y, weight=y + 1)
    for array in (z, y):
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate_logits(z, y, weight=y + 1) == expected
        evaluate_probabilities(sigmoid(z), y)
        assert Platt().fit(z, y)(z).shape == z.shape
