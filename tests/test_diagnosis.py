"""What `torchbce.diagnose` finds, and what it does not take for a fault.

Each finding has cases that have it, in which it is found in every repetition, and the good models
have none, in many. Thresholds lie at 3 to 4.5 standard errors or at a probability of 1e-6, so that
hundreds of repetitions pass whatever the seed.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import torchbce
from making import done
from making import torchbce as command
from torchbce.diagnosis.records import CODES, PAGE, Diagnosis

Random = np.random.Generator
Case = tuple[Any, Any, dict[str, Any]]
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TORCHBCE_DATA", ROOT.parent / "shared" / "data"))


def sigmoid(z: np.ndarray) -> np.ndarray:
    p: np.ndarray = 1 / (1 + np.exp(-z))
    return p


def drawn(random: Random, z: np.ndarray) -> np.ndarray:
    """Targets of which these logits are the true ones."""
    return (random.random(z.shape) < sigmoid(z)).astype(np.float64)


def calibrated(
    random: Random, n: int = 1000, spread: float = 2.0, middle: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    z = random.normal(middle, spread, n)
    return z, drawn(random, z)


def changed(change: Callable[[Random, np.ndarray, np.ndarray], tuple[Any, ...]], **of: Any) -> Any:
    """A case made from a calibrated model."""

    def make(random: Random) -> Case:
        z, y, *options = change(random, *calibrated(random, **of))
        return z, y, options[0] if options else {}

    return make


def bf16(random: Random) -> Case:
    """Sure and right: PyTorch's sigmoid in bfloat16 is 1 from 6.24 on."""
    z = torch.from_numpy(np.append(random.uniform(6.5, 9, 499), -6)).bfloat16()
    return z, torch.cat((torch.ones(499), torch.zeros(1))), {}


def outputs(random: Random, change: Callable[[np.ndarray], None]) -> Case:
    z = random.normal(0, 2, (400, 6))
    y = drawn(random, z)
    change(y)
    return z, y, {}


def exchange(y: np.ndarray) -> None:
    y[:, [1, 4]] = y[:, [4, 1]]


def flip_third(y: np.ndarray) -> None:
    y[:, 3] = 1 - y[:, 3]


def outer(random: Random) -> Case:
    z, y = calibrated(random, 50)
    return np.broadcast_to(z[:, None], (50, 50)), np.broadcast_to(y, (50, 50)), {}


def nan_in(random: Random) -> Case:
    z, y = calibrated(random)
    z[17] = np.nan
    return z, y, {}


def wrong_targets(values: list[float]) -> Any:
    return lambda random: (random.normal(size=300), random.choice(values, 300), {})


def rare(random: Random, n: int = 500, rate: float = 0.05) -> np.ndarray:
    y = (random.random(n) < rate).astype(np.float64)
    y[:2] = 0, 1
    return y


AS_PROBABILITIES = {"domain": "probabilities"}

#: By code: cases in which it is found.
BAD: dict[str, list[Callable[[Random], Case]]] = {
    "input-nan": [nan_in],
    "target-range": [
        wrong_targets([0.0, 255.0]),
        wrong_targets([-1.0, 1.0]),
        wrong_targets([1.0, 2.0]),
        wrong_targets([0.0, 1.0, -100.0]),
        wrong_targets([0.0, 1.0, 2.0, 3.0]),
        wrong_targets([0.0, 1.0, math.nan]),
        changed(lambda random, z, y: (y, z)),
    ],
    "target-constant": [
        lambda random: (random.normal(size=200), np.ones(200), {}),
        lambda random: (random.normal(size=200), np.zeros(200), {}),
        lambda random: (random.normal(size=200), np.full(200, 0.3), {}),
    ],
    "probabilities-as-logits": [
        changed(lambda random, z, y: (sigmoid(z), y)),
        changed(lambda random, z, y: (sigmoid(z), y), n=100, spread=3),
        changed(lambda random, z, y: (sigmoid(z), y), middle=-3.0),
        changed(lambda random, z, y: (torch.sigmoid(torch.from_numpy(z).bfloat16()), y)),
        changed(lambda random, z, y: ((z > 0).astype(float), y)),
        # After training through both sigmoids, the outputs have saturated.
        changed(lambda random, z, y: (sigmoid(12 * z), y)),
    ],
    "logits-as-probabilities": [
        changed(lambda random, z, y: (z, y, AS_PROBABILITIES)),
        changed(lambda random, z, y: (sigmoid(z), y, {"domain": "log_probs"})),
    ],
    "double-sigmoid": [
        changed(lambda random, z, y: (sigmoid(sigmoid(z)), y, AS_PROBABILITIES)),
        changed(lambda random, z, y: (sigmoid(sigmoid(z)), y)),
        changed(lambda random, z, y: (sigmoid(sigmoid(z)), y, AS_PROBABILITIES), middle=-3.0),
        changed(lambda random, z, y: (sigmoid(sigmoid(12 * z)), y, AS_PROBABILITIES)),
    ],
    "broadcast": [
        changed(lambda random, z, y: (z[:, None], y)),
        changed(lambda random, z, y: (z, y[:, None])),
        outer,
    ],
    "saturation": [
        # 2 % of sure predictions are wrong.
        changed(
            lambda random, z, y: (np.where(random.random(1000) < 0.02, -30, 30) * (2 * y - 1), y)
        ),
        changed(lambda random, z, y: ((z > 0).astype(float), y, AS_PROBABILITIES)),
        lambda random: (np.full(100, 50.0), rare(random, 100, 0.5), {}),
    ],
    "vanishing-gradients": [bf16],
    "initial-loss": [
        lambda random: (random.normal(0, 0.1, 256), rare(random, 256, 0.02), {"initial": True}),
        lambda random: (random.normal(0, 5, 256), rare(random, 256, 0.4), {"initial": True}),
        lambda random: (np.zeros((64, 20)), rare(random, 1280).reshape(64, 20), {"initial": True}),
    ],
    "mostly-ignored": [
        changed(lambda random, z, y: (z, y, {"weight": (np.arange(1000) % 10 == 0) * 1.0})),
        changed(lambda random, z, y: (z, y, {"mask": np.arange(1000) % 10 == 0})),
        changed(
            lambda random, z, y: (z, np.where(np.arange(1000) % 10, -1, y), {"ignore_index": -1})
        ),
        changed(lambda random, z, y: (z, y, {"mask": np.zeros(1000, dtype=bool)})),
    ],
    "pos-weight-inverted": [
        lambda random: (np.full(500, -3.0), rare(random), {"pos_weight": 0.05}),
        lambda random: (np.full(500, 3.0), 1 - rare(random), {"pos_weight": 19.0}),
        lambda random: (
            np.full((500, 2), -3.0),
            np.stack([rare(random), rare(random, rate=0.1)], axis=1),
            {"pos_weight": np.array([0.05, 0.11])},
        ),
    ],
    "worse-than-base-rate": [
        changed(lambda random, z, y: (random.permutation(z), y)),
        changed(lambda random, z, y: (8 * z + 3, y)),
        lambda random: (np.zeros(2000), rare(random, 2000, 0.02), {}),
    ],
    "miscalibration": [
        changed(lambda random, z, y: (2 * z, y)),
        changed(lambda random, z, y: (z / 2, y)),
        changed(lambda random, z, y: (z + 1, y)),
        changed(lambda random, z, y: (sigmoid(2 * z), y, AS_PROBABILITIES)),
        changed(lambda random, z, y: (z + 2, y), middle=-4.0),
        changed(lambda random, z, y: (3 * z, sigmoid(z))),
    ],
    "flipped-labels": [
        changed(lambda random, z, y: (-z, y)),
        changed(lambda random, z, y: (z, 1 - y), n=100),
        changed(lambda random, z, y: (1 - sigmoid(z), y, AS_PROBABILITIES)),
        lambda random: outputs(random, flip_third),
    ],
    "swapped-rows": [
        changed(lambda random, z, y: (z, np.roll(y, 1))),
        changed(lambda random, z, y: (z, np.roll(y, -2))),
        changed(lambda random, z, y: (z, y[::-1].copy())),
    ],
    "swapped-labels": [lambda random: outputs(random, exchange)],
    "mislabelled-rows": [
        changed(lambda r, z, y: (z, np.where(r.random(len(y)) < 0.05, 1 - y, y)), spread=12.0),
        changed(lambda r, z, y: (z, np.where(r.random(len(y)) < 0.15, 1 - y, y)), spread=12.0),
    ],
}


def test_the_wrong_way_round_is_not_mended_by_calibration() -> None:
    z, y, options = BAD["flipped-labels"][0](np.random.default_rng(0))
    assert (
        "the wrong way round" in torchbce.diagnose(z, y, **options)["worse-than-base-rate"].remedy
    )
    sure = (1 - y).astype(float)  # probabilities of 0 and 1 have infinite logits
    found = torchbce.diagnose(sure, y, **AS_PROBABILITIES)["worse-than-base-rate"]
    assert "(infinite logits are taken as " in found.message


@pytest.mark.parametrize(("code", "at"), [(code, i) for code in BAD for i in range(len(BAD[code]))])
def test_each_finding_is_found(code: str, at: int) -> None:
    for seed in range(5):
        z, y, options = BAD[code][at](np.random.default_rng(seed))
        found = torchbce.diagnose(z, y, **options)
        assert code in found.codes, seed
        finding = found[code]
        assert finding.page == f"{PAGE}#{code}"
        assert finding.message.endswith(".")
        assert finding.remedy.endswith(".")
        assert len(finding.evidence) > 0
        json.dumps(found.as_dict())
        assert code in str(found)


def test_every_code_has_cases_and_a_section_of_the_page() -> None:
    assert tuple(BAD) == CODES
    page = (ROOT / "docs" / "diagnosis.md").read_text()
    sections = [line[3:].strip("`") for line in page.splitlines() if line.startswith("## ")]
    assert [section for section in sections if section in CODES] == list(CODES)


# ------------------------------------------------------------------------------------ good models


def soft(random: Random) -> Case:
    z = random.normal(0, 2, 800)
    p = sigmoid(z)
    return z, random.beta(10 * p + 0.01, 10 * (1 - p) + 0.01), {}


def votes(random: Random) -> Case:
    z = random.normal(0, 2, 800)
    return z, random.binomial(5, sigmoid(z)) / 5, {}


def perfect(random: Random, least: float = 6.0) -> Case:
    y = rare(random, 500, 0.3)
    return (2 * y - 1) * random.uniform(least, 3 * least, 500), y, {}


def constant(random: Random) -> Case:
    return np.full(500, math.log(0.2 / 0.8)), rare(random, 500, 0.2), {}


def left_one_out(random: Random) -> Case:
    """The base rate of the other rows, whose AUC is 0."""
    y = rare(random, 300, 0.3)
    p = (y.sum() - y) / (len(y) - 1)
    return p, y, AS_PROBABILITIES


def uniform_logits(random: Random) -> Case:
    z = random.uniform(0, 1, 2000)
    return z, drawn(random, z), {}


def bell_in_the_unit_interval(random: Random) -> Case:
    z = random.beta(6, 6, 2000)
    return z, drawn(random, z), {}


def narrow_probabilities(random: Random) -> Case:
    p = random.uniform(0.5, 0.731, 2000)
    return p, (random.random(2000) < p) * 1.0, AS_PROBABILITIES


def labels_of_a_row_alike(random: Random) -> Case:
    """One number decides all labels of a row: there are as many independent ones as rows."""
    z = random.normal(-2, 1.5, (300, 10))
    return z, (random.random((300, 1)) < sigmoid(z)) * 1.0, {}


def smooth_masks(random: Random) -> Case:
    z, u = random.normal(0, 2, (4, 1, 16, 16)), random.random((4, 1, 16, 16))
    z, u = (values.repeat(2, axis=2).repeat(2, axis=3) for values in (z, u))
    return z, (u < sigmoid(z)) * 1.0, {}


def weighted_positives(random: Random) -> Case:
    z, y = calibrated(random, 2000, 1.5, -2.0)
    return z + math.log(7), y, {"pos_weight": 7.0}


def series(random: Random) -> Case:
    z = np.cumsum(random.normal(0, 0.3, 1000))
    z -= z.mean()
    return z, drawn(random, z), {}


def sorted_by_class(random: Random) -> Case:
    y = np.sort(rare(random, 1000, 0.5))
    return 2 * random.normal(2 * y - 1), y, {}


def smoothed(random: Random) -> Case:
    """A model of smoothed targets 0.05 and 0.95."""
    y = rare(random, 2000, 0.5)
    sure = (random.random(2000) < 0.95) == (y > 0.5)
    return np.where(sure, 1, -1) * math.log(0.95 / 0.05), y, {}


GOOD: dict[str, Callable[[Random], Case]] = {
    **{f"{n} rows": changed(lambda r, z, y: (z, y), n=n) for n in (1, 5, 20, 50, 200, 2000)},
    "rare, few": changed(lambda r, z, y: (z, y), n=200, spread=1.5, middle=-4.0),
    "rare": changed(lambda r, z, y: (z, y), n=3000, spread=1.5, middle=-5.0),
    "sure": changed(lambda r, z, y: (z, y), spread=12.0),
    "weak": changed(lambda r, z, y: (z, y), spread=0.2, middle=0.5),
    "probabilities": changed(lambda r, z, y: (sigmoid(z), y, AS_PROBABILITIES)),
    "log-probabilities": changed(
        lambda r, z, y: (-np.logaddexp(0, -z), y, {"domain": "log_probs"})
    ),
    "float16": changed(lambda r, z, y: (torch.from_numpy(z).half(), y), spread=1.0),
    "bfloat16": changed(lambda r, z, y: (torch.from_numpy(z).bfloat16(), y)),
    "logits in [0, 1]": uniform_logits,
    "a bell in [0, 1]": bell_in_the_unit_interval,
    "narrow probabilities": narrow_probabilities,
    "perfect": perfect,
    "perfect and saturated": lambda random: perfect(random, 30.0),
    "certain": lambda random: (rare(random, 300, 0.5),) * 2 + (AS_PROBABILITIES,),
    "constant": constant,
    "left one out": left_one_out,
    "soft": soft,
    "votes": votes,
    "smoothed": smoothed,
    "weights": changed(lambda r, z, y: (z, y, {"weight": r.exponential(1, 1000)})),
    "pos_weight": weighted_positives,
    "few ignored": changed(lambda r, z, y: (z, y, {"mask": r.random(1000) < 0.7})),
    "outputs": lambda random: outputs(random, lambda y: None),
    "labels of a row alike": labels_of_a_row_alike,
    "masks": smooth_masks,
    "series": series,
    "sorted": sorted_by_class,
    "initial": lambda random: (
        random.normal(0, 0.5, 256),
        rare(random, 256, 0.4),
        {"initial": True},
    ),
    "initial, few": lambda random: (random.normal(0, 0.5, 16), rare(random, 16), {"initial": True}),
    "initial, rare": lambda random: (
        random.normal(-3.9, 0.2, 256),
        rare(random, 256, 0.02),
        {"initial": True},
    ),
    "balanced pos_weight": lambda random: (
        np.full(500, 0.0),
        rare(random),
        {"pos_weight": 19.0},
    ),
    "pos_weight far above the balance": lambda random: (
        np.full(500, math.log(400 * 0.05 / 0.95)),
        rare(random),
        {"pos_weight": 400.0},
    ),
    "pos_weight chosen below 1": changed(
        lambda r, z, y: (z + math.log(0.7), y, {"pos_weight": 0.7}), middle=-3.0
    ),
}
#: What may be noted of them: a small sample of rare positives may have none.
NOTED = {"target-constant"}


@pytest.mark.parametrize("name", GOOD)
def test_no_false_alarm(name: str) -> None:
    for seed in range(30):
        z, y, options = GOOD[name](np.random.default_rng(1000 + seed))
        found = torchbce.diagnose(z, y, **options)
        assert found.ok, (seed, str(found))
        assert set(found.codes) <= NOTED, seed


def test_outputs_that_know_nothing_are_not_taken_for_probabilities() -> None:
    """Those of an untrained model may lie in [0, 1] by chance, and near the base rate."""
    for seed in range(30):
        random = np.random.default_rng(seed)
        found = torchbce.diagnose(random.normal(0.3, 0.05, 1000), rare(random, 1000, 0.3))
        assert "probabilities-as-logits" not in found.codes, seed


def models() -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "boosting": HistGradientBoostingClassifier(max_iter=60, random_state=0),
    }


def bundled() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from sklearn import datasets

    cancer = datasets.load_breast_cancer(return_X_y=True)
    wine, kind = datasets.load_wine(return_X_y=True)
    digits, digit = datasets.load_digits(return_X_y=True)
    patients, progress = datasets.load_diabetes(return_X_y=True)
    return {
        "breast cancer": cancer,
        "wine": (wine, kind == 1),
        "the digit 0": (digits, digit == 0),
        "odd digits": (digits, digit % 2 == 1),
        "diabetes": (patients, progress > np.median(progress)),
    }


def held_out(data: str, model: str) -> Diagnosis:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x, y = bundled()[data]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    p = cross_val_predict(models()[model], x, y, cv=folds, method="predict_proba")[:, 1]
    return torchbce.diagnose(p, y * 1.0, domain="probabilities")


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ("breast cancer", "logistic regression"),
        ("breast cancer", "boosting"),
        ("wine", "logistic regression"),
        ("wine", "boosting"),
        ("the digit 0", "logistic regression"),
        ("the digit 0", "boosting"),
        ("odd digits", "logistic regression"),
        ("odd digits", "boosting"),
        ("diabetes", "logistic regression"),
    ],
)
def test_no_false_alarm_about_held_out_predictions(data: str, model: str) -> None:
    found = held_out(data, model)
    assert found.codes == (), str(found)


def test_boosting_of_few_rows_is_too_extreme() -> None:
    """442 rows: of loss 0.62, which a temperature lowers to 0.56."""
    assert held_out("diabetes", "boosting")["miscalibration"].evidence["temperature"] > 1.5


def test_no_false_alarm_about_mammography() -> None:
    """2.3 % positives, half of the rows held out."""
    path = DATA / "mammography" / "data.csv"
    if not path.exists():
        pytest.skip(f"needs {path}; TORCHBCE_DATA names another folder")
    table = pl.read_csv(path)
    x, y = table.drop("label").to_numpy(), table["label"].to_numpy()
    for model in models().values():
        p = model.fit(x[::2], y[::2]).predict_proba(x[1::2])[:, 1]
        found = torchbce.diagnose(p, y[1::2], domain="probabilities")
        assert found.codes == (), str(found)


def test_no_false_alarm_about_many_labels() -> None:
    """One regression for each of the 14 labels of yeast, on its test rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    folder = DATA / "multilabel_yeast"
    if not folder.exists():
        pytest.skip(f"needs {folder}; TORCHBCE_DATA names another folder")
    train, test = pl.read_csv(folder / "train.csv"), pl.read_csv(folder / "test.csv")
    labels = [name for name in train.columns if name.startswith("label")]
    scaler = StandardScaler().fit(train.drop(labels).to_numpy())
    x, x_test = (scaler.transform(one.drop(labels).to_numpy()) for one in (train, test))
    regression = LogisticRegression(C=0.1, max_iter=500)
    z = [regression.fit(x, train[name].to_numpy()).decision_function(x_test) for name in labels]
    found = torchbce.diagnose(np.stack(z, axis=1), test.select(labels).to_numpy())
    assert found.codes == (), str(found)


# --------------------------------------------------------------------------------- the evidence


def test_the_bias_mends_the_initial_loss() -> None:
    y = (torch.arange(1000) % 50 == 0).float()
    evidence = torchbce.diagnose(torch.full((1000,), 0.7), y, initial=True)["initial-loss"].evidence
    entropy = -0.02 * math.log(0.02) - 0.98 * math.log(0.98)
    # Half an element of each class is added to the counts 20 and 980.
    assert evidence["bias"] == pytest.approx(math.log(20.5 / 980.5), rel=1e-12)
    assert evidence["entropy"] == pytest.approx(entropy, rel=1e-3)
    assert evidence["loss"] == pytest.approx(math.log1p(math.exp(0.7)) - 0.02 * 0.7, rel=1e-6)
    mended = torch.full((1000,), 0.7 + evidence["add_to_bias"])
    loss = torchbce.functional.binary_cross_entropy_with_logits(mended, y)
    assert loss.item() == pytest.approx(evidence["loss_with_bias"], rel=1e-6)
    assert loss.item() == pytest.approx(entropy, rel=1e-3)
    assert torchbce.diagnose(mended, y, initial=True).ok


def test_the_bias_of_a_weighted_loss() -> None:
    y = (torch.arange(1000) % 50 == 0).float()
    found = torchbce.diagnose(torch.full((1000,), 4.0), y, pos_weight=49.0, initial=True)
    # The weighted classes are equal, up to half an element.
    assert found["initial-loss"].evidence["bias"] == pytest.approx(0, abs=1e-3)
    assert torchbce.diagnose(torch.zeros(1000), y, pos_weight=49.0, initial=True).ok


def test_the_map_is_that_of_a_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    z, y = calibrated(np.random.default_rng(0), 4000)
    evidence = torchbce.diagnose(2 * z + 1, y)["miscalibration"].evidence
    fitted = LogisticRegression(C=math.inf, tol=1e-8).fit((2 * z + 1)[:, None], y)
    assert evidence["slope"] == pytest.approx(fitted.coef_[0, 0], rel=1e-5)
    assert evidence["offset"] == pytest.approx(fitted.intercept_[0], rel=1e-4)
    mapped = evidence["slope"] * (2 * z + 1) + evidence["offset"]
    loss = np.mean(np.logaddexp(0, mapped) - y * mapped)
    assert evidence["loss_with_map"] == pytest.approx(loss, rel=1e-9)
    assert torchbce.diagnose(mapped, y).codes == ()


@pytest.mark.parametrize("temperature", [0.4, 2.0, 4.0])
def test_the_temperature_is_found(temperature: float) -> None:
    z, y = calibrated(np.random.default_rng(1), 20_000)
    finding = torchbce.diagnose(temperature * z, y)["miscalibration"]
    # The standard error of the slope of 20,000 rows is .018 here.
    assert finding.evidence["temperature"] == pytest.approx(temperature, rel=0.08)
    assert finding.evidence["offset"] == pytest.approx(0, abs=0.1)


def test_the_trace_of_pos_weight_is_named() -> None:
    z, y = calibrated(np.random.default_rng(2), 20_000, 1.5, -3.0)
    trained = z + math.log(20)
    finding = torchbce.diagnose(trained, y)["miscalibration"]
    assert "correct_logits" in finding.remedy
    weight = math.exp(-finding.evidence["offset"])
    # The standard error of the offset is below .04.
    assert weight == pytest.approx(20, rel=0.15)
    corrected = torchbce.imbalance.correct_logits(torch.from_numpy(trained), weight)
    assert torchbce.diagnose(corrected, y).ok


def test_separated_classes_have_a_finite_map() -> None:
    y = np.repeat([0.0, 1.0], 200)
    finding = torchbce.diagnose(0.3 * (2 * y - 1), y)["miscalibration"]
    assert 5 < finding.evidence["slope"] < 50
    assert math.isfinite(finding.evidence["loss_with_map"])


def test_the_share_of_wrong_labels_and_their_rows() -> None:
    random = np.random.default_rng(3)
    z, y = calibrated(random, 5000, 12.0)
    wrong = random.random(5000) < 0.08
    finding = torchbce.diagnose(z, np.where(wrong, 1 - y, y))["mislabelled-rows"]
    # 400 of 5,000, of which the standard error is .0038.
    assert finding.evidence["share"] == pytest.approx(0.08, abs=0.02)
    assert wrong[finding.evidence["positions"]].mean() > 0.9


def test_swapped_outputs_are_named() -> None:
    z, y, _ = outputs(np.random.default_rng(4), exchange)
    assert torchbce.diagnose(z, y)["swapped-labels"].evidence["pairs"] == [[1, 4]]
    z, y, _ = outputs(np.random.default_rng(4), flip_third)
    assert torchbce.diagnose(z, y)["flipped-labels"].evidence["outputs"] == [3]


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([0.0, 255.0], "/ 255"),
        ([-1.0, 1.0], "(target + 1) / 2"),
        ([1.0, 2.0], "target - 1"),
        ([0.0, 1.0, -100.0], "ignore_index=-100"),
        ([0.0, 1.0, math.nan], "ignore_index=nan"),
        ([0.0, 1.0, 2.0, 5.0], "one_hot"),
        ([0.2, 1.7], "[0, 1]"),
    ],
)
def test_the_remedy_of_targets_outside_their_range(values: list[float], remedy: str) -> None:
    y = np.resize(values, 60)
    finding = torchbce.diagnose(np.linspace(-1, 1, 60), y)["target-range"]
    assert remedy in finding.remedy
    assert finding.evidence["outside"] == int((~((y >= 0) & (y <= 1))).sum())


def test_places_are_those_of_the_tensor() -> None:
    y = np.zeros((10, 3))
    y[4, 2] = 7
    finding = torchbce.diagnose(np.zeros((10, 3)), y)["target-range"]
    assert "7 at [4, 2]" in finding.message
    assert finding.evidence["first_position"] == 14
    # The valid elements are counted, and their places are those of all elements.
    mask = np.ones((10, 3), dtype=bool)
    mask[0] = False
    assert "7 at [4, 2]" in torchbce.diagnose(np.zeros((10, 3)), y, mask=mask).findings[0].message
    mask[4, 2] = False
    assert "target-range" not in torchbce.diagnose(np.zeros((10, 3)), y, mask=mask).codes


def test_vanished_gradients_are_those_of_pytorch() -> None:
    z = torch.linspace(-12, 12, 1001).bfloat16().requires_grad_()
    y = (z > 0).bfloat16().detach()
    torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum").backward()
    vanished = int((z.grad == 0).sum())
    # A negative's gradient, sigmoid(-12), is not rounded to 0; a positive's is from 6.24 on.
    assert vanished > 200
    finding = torchbce.diagnose(z.detach()[z > 7], y[z > 7])["vanishing-gradients"]
    assert finding.evidence["vanished"] == int((z > 7).sum())
    assert finding.evidence["gradient_share"] == 1


def test_the_broadcast_loss_is_that_of_all_pairs() -> None:
    z, y = calibrated(np.random.default_rng(5), 60)
    evidence = torchbce.diagnose(z[:, None], y)["broadcast"].evidence
    pairs = np.mean(np.logaddexp(0, z[:, None]) - y[None] * z[:, None])
    assert evidence["loss_of_all_pairs"] == pytest.approx(pairs, rel=1e-12)
    assert evidence["loss"] == pytest.approx(np.mean(np.logaddexp(0, z) - y * z), rel=1e-12)


# ------------------------------------------------------------------------------------- arguments


def test_what_the_input_is_has_to_be_said() -> None:
    with pytest.raises(ValueError, match="domain must be 'logits' or 'probabilities'"):
        torchbce.diagnose([0.1], [1.0], domain="guess")
    # Nothing guesses: the same values are judged as what they are said to be.
    p, y = np.full(400, 0.25), np.arange(400) % 4 == 0
    assert torchbce.diagnose(p, y, domain="probabilities").ok
    assert torchbce.diagnose(p, y).loss == pytest.approx(math.log1p(math.exp(0.25)) - 0.25 / 4)


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match="input must be a tensor or an array of numbers"):
        torchbce.diagnose(["a"], [1.0])
    with pytest.raises(ValueError, match="Nothing is broadcast"):
        torchbce.diagnose(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        torchbce.diagnose([0.0], [1.0], label_smoothing=2.0)
    with pytest.raises(ValueError, match="reduction must be one of"):
        torchbce.diagnose([0.0], [1.0], reduction="average")
    with pytest.raises(KeyError, match="no finding 'saturation'"):
        torchbce.diagnose([0.0], [1.0])["saturation"]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (1, 1)])
def test_few_elements(shape: tuple[int, ...]) -> None:
    found = torchbce.diagnose(torch.zeros(shape), torch.ones(shape))
    assert found.findings == ()
    assert found.elements == math.prod(shape)


@pytest.mark.parametrize("target", [torch.bool, torch.uint8, torch.int64, torch.float64])
@pytest.mark.parametrize("input", [torch.float16, torch.float32, torch.float64])
def test_every_dtype_gives_the_same(input: torch.dtype, target: torch.dtype) -> None:
    z, y = calibrated(np.random.default_rng(6))
    found = torchbce.diagnose(
        torch.from_numpy(2.5 * z).to(input).requires_grad_(), torch.from_numpy(y).to(target)
    )
    assert found.codes == ("miscalibration",)
    assert found["miscalibration"].evidence["slope"] == pytest.approx(0.4, abs=0.07)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_ignored_targets_of_every_dtype(dtype: torch.dtype) -> None:
    y = torch.tensor([0, 1, 0, 1, 255]).to(dtype)
    assert torchbce.diagnose(torch.zeros(5), y, ignore_index=255).elements == 4
    assert torchbce.diagnose(torch.zeros(4), y[:4], ignore_index=-100).elements == 4


def test_infinite_logits() -> None:
    z, y = calibrated(np.random.default_rng(7))
    assert torchbce.diagnose(np.where(y > 0, np.inf, -np.inf), y).ok
    z[0], y[0] = np.inf, 0
    assert torchbce.diagnose(z, y)["saturation"].evidence["infinite"] == 1


def test_a_large_tensor_is_sampled() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(3_000, 1_000, generator=generator)
    y = torch.rand(z.shape, generator=generator) < z.sigmoid()
    found = torchbce.diagnose(z, y)
    assert found.elements == 3_000_000
    assert found.codes == ()


def test_sparse_targets() -> None:
    z, y, _ = outputs(np.random.default_rng(8), lambda y: None)
    found = torchbce.diagnose(z, torch.from_numpy(y).to_sparse())
    assert found == torchbce.diagnose(z, y)


def test_nothing_of_the_command_line_is_loaded() -> None:
    import subprocess
    import sys

    script = (
        "import sys, torch, torchbce; torchbce.diagnose(torch.randn(100), torch.ones(100));"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & "
        "{'scipy', 'sklearn', 'polars', 'typer', 'numba'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "[]\n"


# ----------------------------------------------------------------------------------- the command


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    z, y = calibrated(np.random.default_rng(9))
    table = pl.DataFrame(
        {
            "y": y.astype(int),
            "word": np.where(y, "yes", "no"),
            "soft": sigmoid(z),
            "z": z,
            "p": sigmoid(z),
            "sure": sigmoid(3 * z),
            "w": np.ones(1000),
        }
    )
    table.write_csv(tmp_path / "p.csv")
    return tmp_path / "p.csv"


@pytest.mark.parametrize("target", ["y", "word", "soft"])
@pytest.mark.parametrize(
    ("given", "codes"),
    [
        (("--logit", "z"), []),
        (("--probability", "p"), []),
        (("--probability", "p", "--weight", "w"), []),
        (("--logit", "p"), ["probabilities-as-logits"]),
        (("--probability", "z"), ["logits-as-probabilities"]),
        (("--probability", "sure"), ["miscalibration"]),
    ],
)
def test_the_command(
    predictions: Path, target: str, given: tuple[str, ...], codes: list[str]
) -> None:
    answer = json.loads(done("diagnose", predictions, "--target", target, *given, "--json").stdout)
    assert [finding["code"] for finding in answer["findings"]] == codes
    assert answer["ok"] == (not codes)
    text = done("diagnose", predictions, "--target", target, *given).stdout
    assert text.startswith("1,000 elements")
    for finding in answer["findings"]:
        for part in ("code", "message", "remedy", "page"):
            assert finding[part] in text
    assert ("nothing found" in text) == (not codes)


def test_the_command_takes_options_of_the_training(predictions: Path) -> None:
    found = done("diagnose", predictions, "--target", "y", "--logit", "z", "--pos-weight", "9")
    assert "miscalibration" in found.stdout
    table = pl.read_csv(predictions).with_columns(z=pl.lit(2.5), w=pl.lit(1.0))
    table.write_csv(predictions)
    found = done("diagnose", predictions, "--target", "y", "--logit", "z", "--initial")
    assert "initial-loss" in found.stdout
    flipped = done(
        "diagnose", predictions, "--target", "word", "--positive", "no", "--probability", "p"
    )
    assert "flipped-labels" in flipped.stdout


def test_the_command_refuses(predictions: Path) -> None:
    base = ("diagnose", predictions, "--target", "y")
    for arguments, words in {
        base: "give either --logit COLUMN or --probability COLUMN",
        (*base, "--logit", "z", "--probability", "p"): "give either",
        (*base, "--logit", "other"): "column 'other' is not in the table",
        (*base, "--logit", "word"): "'word'",
        ("diagnose", predictions, "--target", "other", "--logit", "z"): "'other'",
        (*base, "--logit", "z", "--weight", "z"): "weights are at least 0",
        (*base, "--logit", "z", "--pos-weight", "0"): "--pos-weight",
    }.items():
        result = command(*arguments)
        assert result.exit_code == 2, result.stdout
        assert words in result.stderr


def test_a_diagnosis_is_a_record() -> None:
    z, y = calibrated(np.random.default_rng(10))
    found = torchbce.diagnose(3 * z, y)
    assert isinstance(found, Diagnosis)
    assert [finding.code for finding in found] == list(found.codes)
    assert found.as_dict()["findings"][0]["page"] == f"{PAGE}#miscalibration"
    assert found.base_loss == pytest.approx(math.log(2), abs=0.01)
