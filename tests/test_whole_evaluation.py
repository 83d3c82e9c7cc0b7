"""What `evaluate` reports beside the metrics: intervals, calibration, decisions at thresholds."""

import math

import msgspec
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from making import METRICS
from torchbce.classifier.decisions.deciding import Rule
from torchbce.classifier.quality import intervals as module
from torchbce.classifier.quality.calibration import refinement_loss, smooth_calibration_error
from torchbce.classifier.quality.evaluation import (
    AtThreshold,
    Evaluation,
    evaluate_model,
    evaluate_predicted,
)
from torchbce.classifier.quality.metrics import evaluate_logits


def rows(number: int = 600, seed: int = 0, wrong: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    z = random.normal(-1, 1.5, size=number)
    return wrong * z, (random.random(number) < expit(z)).astype(float)


# ---------------------------------------------------------------------- shape


def test_the_keys_of_the_json() -> None:
    z, y = rows()
    found = evaluate_model(z, y, Rule(0.3, (0.2, 0.3)))
    as_json = msgspec.json.decode(msgspec.json.encode(found))
    assert list(as_json)[: len(METRICS)] == METRICS
    same = msgspec.to_builtins(evaluate_logits(z, y, 0.3))
    assert {name: as_json[name] for name in METRICS} == same
    assert as_json["rows"] == 600
    assert as_json["threshold"] == 0.3
    assert {*as_json["intervals"]} == {*METRICS, "smooth_ece", "net_benefit"} - {"confusion"}
    assert msgspec.json.decode(msgspec.json.encode(found), type=Evaluation) == found


@pytest.mark.parametrize("number", [1, 2, 3, 60])
@pytest.mark.parametrize("value", [0.0, 1.0, None])
def test_few_rows_and_one_target_value(number: int, value: float | None) -> None:
    z, y = rows(number)
    y = y if value is None else np.full(number, value)
    for found in (evaluate_model(z, y, Rule(0.5)), evaluate_predicted(expit(z), y)):
        assert found.rows == number
        assert len(found.thresholds) == 15
        if found.roc_auc is None:
            assert "roc_auc" not in found.intervals
        for name, (low, high) in found.intervals.items():
            assert math.isfinite(low)
            assert low <= high, name


def test_saturated_probabilities() -> None:
    y = np.array([0.0, 1.0] * 60)
    for found in (evaluate_model(np.where(y > 0, 800.0, -800.0), y, Rule(0.5)),
                  evaluate_predicted(y, y)):  # fmt: skip
        assert found.log_loss == 0
        assert found.intervals["log_loss"] == (0, 0)
        assert found.calibration_loss == found.refinement_loss == 0
    wrong = evaluate_predicted(1 - y, y)
    assert wrong.log_loss == 100
    assert wrong.refinement_loss < 1  # type: ignore[operator]  # all logits mapped to one


# ---------------------------------------------------------------------- intervals


def bootstrapped(z: np.ndarray, y: np.ndarray, name: str) -> tuple[float, float]:
    """The percentiles of 400 resamples of the rows."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(400):
        at = random.integers(0, len(z), len(z))
        found.append(getattr(evaluate_logits(z[at], y[at]), name))
    low, high = np.percentile(found, module.ENDS)
    return float(low), float(high)


@pytest.mark.parametrize("name", ["log_loss", "roc_auc", "average_precision", "accuracy", "f1"])
def test_intervals_are_those_of_the_bootstrap(name: str) -> None:
    """The ends differ by the noise of 400 and 500 resamples, some 20% of the width."""
    z, y = rows(400)
    low, high = evaluate_model(z, y, Rule(0.5)).intervals[name]
    want = bootstrapped(z, y, name)
    assert (low, high) == pytest.approx(want, abs=0.2 * (want[1] - want[0]))


def test_merged_rows_have_the_same_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = rows(3000)
    whole = evaluate_model(z, y, Rule(0.5)).intervals
    monkeypatch.setattr(module, "GROUPS", 300)
    merged = evaluate_model(z, y, Rule(0.5)).intervals
    for name, (low, high) in whole.items():
        # Other draws: the ends differ by their noise.
        assert merged[name] == pytest.approx((low, high), abs=0.2 * (high - low)), name


def test_weights_widen_the_intervals_as_far_as_they_differ() -> None:
    z, y = rows(2000)
    equal = evaluate_model(z, y, Rule(0.5), np.full(2000, 5.0)).intervals["log_loss"]
    none = evaluate_model(z, y, Rule(0.5)).intervals["log_loss"]
    assert equal == pytest.approx(none, abs=1e-9)
    weight = np.where(np.arange(2000) % 10 == 0, 1.0, 1e-6)  # as a tenth of the rows
    wide = evaluate_model(z, y, Rule(0.5), weight).intervals["log_loss"]
    assert 2.2 < (wide[1] - wide[0]) / (none[1] - none[0]) < 4.2  # the square root of 10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrong"), [("roc_auc", 1.0), ("ece", 1.0), ("ece", 1.6)])
def test_intervals_cover_the_truth(
    name: str, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 60 samples, 51 or more: with a coverage of 95% fewer have a probability of 0.1%."""
    truth = getattr(evaluate_logits(*rows(1_000_000, seed=9, wrong=wrong)), name)
    monkeypatch.setattr(module, "ROUNDS", 200)
    covered = 0
    for seed in range(60):
        low, high = evaluate_model(*rows(1000, seed, wrong), Rule(0.5)).intervals[name]
        # Rounded: the error of calibrated rows is 0, the end of many intervals.
        covered += low <= truth + 1e-3 and truth <= high
    assert covered >= 51


# ---------------------------------------------------------------------- calibration


def smooth_error_by_hand(p: np.ndarray, y: np.ndarray) -> float:
    """The width that equals the error, with the reflected kernel summed over its images."""
    t = (np.arange(1000) + 0.5) / 1000

    def error(width: float) -> float:
        images = [sign * p + 2 * k for k in range(-2, 3) for sign in (1, -1)]
        kernel = sum(norm.pdf(t[:, None], image[None], width) for image in images)
        return float(np.abs(kernel @ (y - p) / len(p)).mean())

    low, high = 1e-3, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) > middle else (low, middle)
    return high


@pytest.mark.parametrize("wrong", [1.0, 3.0, -1.0])
def test_the_smooth_calibration_error(wrong: float) -> None:
    z, y = rows(150, wrong=wrong)
    got = smooth_calibration_error(expit(z), y)
    assert got == pytest.approx(smooth_error_by_hand(expit(z), y), abs=2e-3)


def test_the_smooth_calibration_error_at_its_limits() -> None:
    y = np.array([0.0, 1.0] * 50)
    assert smooth_calibration_error(y, y) == 0
    assert smooth_calibration_error(1 - y, y) == pytest.approx(0.5, abs=0.06)  # half of ECE 1
    assert smooth_calibration_error(np.full(100, 0.5), y) == pytest.approx(0, abs=1e-12)


def test_calibration_and_refinement_loss() -> None:
    z, y = rows(20_000)
    right = evaluate_model(z, y, Rule(0.5))
    wrong = evaluate_model(2 * z + 1, y, Rule(0.5))
    for found in (right, wrong):
        assert found.calibration_loss >= 0  # type: ignore[operator]
        parts = found.calibration_loss + found.refinement_loss  # type: ignore[operator]
        assert parts == pytest.approx(found.log_loss, rel=1e-12)
    assert right.calibration_loss < 1e-3  # type: ignore[operator]
    assert wrong.refinement_loss == pytest.approx(right.log_loss, abs=1e-3)
    assert refinement_loss(z[:49], y[:49], None) is None
    assert refinement_loss(z, np.zeros_like(y), None) is None


# ---------------------------------------------------------------------- decisions


def test_a_threshold_by_hand() -> None:
    p, y = np.array([0.1, 0.3, 0.3, 0.8, 0.9]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    found = {one.threshold: one for one in evaluate_predicted(p, y, 0.3).thresholds}
    assert found[0.3] == AtThreshold(
        threshold=0.3,
        predicted=0.8,
        precision=0.75,
        recall=1.0,
        false_positive_rate=0.5,
        accuracy=0.8,
        f1=pytest.approx(6 / 7),
        net_benefit=pytest.approx(3 / 5 - 1 / 5 * 3 / 7),
        net_benefit_of_all=pytest.approx(3 / 5 - 2 / 5 * 3 / 7),
    )
    assert found[0.95].precision is None
    assert found[0.95].net_benefit == 0
    assert evaluate_predicted(p, y, 1.0).net_benefit is None
    assert evaluate_predicted(p, y, 0.3).net_benefit == found[0.3].net_benefit
    assert list(found) == sorted(found)


def test_undecided_rows() -> None:
    z = np.log(np.array([0.1, 0.2, 0.4, 0.6, 0.8]) / np.array([0.9, 0.8, 0.6, 0.4, 0.2]))
    y = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    one = evaluate_model(z, y, Rule(0.7, (0.3, 0.7))).undecided
    assert one is not None
    assert one.share == pytest.approx(0.4)
    assert one.accuracy == pytest.approx(2 / 3)
    assert one.precision == 1
    assert one.missed == pytest.approx(1 / 3)
    nothing = evaluate_model(z, y, Rule(1.0, (0.0, 2.0))).undecided
    assert nothing is not None
    assert (nothing.share, nothing.accuracy, nothing.precision) == (1, None, None)
