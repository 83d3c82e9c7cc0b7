"""Maps of logits: recovered, monotone, safe at the limits, and kept only where they help."""

import copy
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

import torchbce
from torchbce import calibration
from torchbce.calibration import (
    Beta,
    Calibrator,
    Identity,
    Platt,
    Quadratic,
    Temperature,
    choose,
    from_dict,
    maps,
)
from torchbce.classifier.models.calibration import calibration_of
from torchbce.classifier.models.recalibration import fit_line

MAPS: list[type[Calibrator]] = [Temperature, Platt, Beta, Quadratic]
every_map = pytest.mark.parametrize("kind", MAPS, ids=lambda kind: kind.__name__)


def rows(
    number: int = 4000, labels: int | None = None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are the log-odds of their targets, float64."""
    random = np.random.default_rng(seed)
    shape = (number,) if labels is None else (number, labels)
    z = random.normal(-0.5, 2, size=shape)
    y = (random.random(shape) < 1 / (1 + np.exp(-z))).astype(float)
    return torch.from_numpy(z), torch.from_numpy(y)


def loss_of(z: torch.Tensor, y: torch.Tensor) -> float:
    return torchbce.functional.binary_cross_entropy_with_logits(z, y).item()


# ----------------------------------------------------------------------------------- what is fitted


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 4.0])
def test_a_temperature_is_found(scale: float) -> None:
    z, y = rows(40_000)
    assert Temperature().fit(scale * z, y).temperature.item() == pytest.approx(scale, rel=0.03)


def test_platt_is_logistic_regression() -> None:
    z, y = rows()
    found = Platt().fit(2 * z + 1, y)
    want = LogisticRegression(C=np.inf, tol=1e-10).fit((2 * z + 1).numpy()[:, None], y.numpy())
    # The prior weighs a twentieth of a row of 4,000.
    assert found.slopes[0].item() == pytest.approx(want.coef_[0, 0], rel=1e-3)
    assert found.offset.item() == pytest.approx(want.intercept_[0], rel=1e-3)


@every_map
def test_the_fit_is_the_minimum_of_the_penalised_loss(kind: type[Calibrator]) -> None:
    """No other method finds a lower loss by more than what the prior, 1/20 row of 1,000, adds."""
    z, y = rows(1000)
    z = 1.7 * z + 0.3 * z.clip(0)
    found = kind().fit(z, y)
    number, has_offset = maps.KINDS[found.kind]
    bounds = [found.low, found.high] if isinstance(found, Quadratic) else []
    columns = torch.stack([*maps.functions(found.kind, z, *bounds), torch.ones_like(z)]).numpy()
    columns = columns[: number + has_offset]

    def value(theta: np.ndarray) -> float:
        return loss_of(torch.from_numpy(theta @ columns), y)

    start = np.array([1.0] * number + [0.0] * has_offset)
    limits = [(0, None)] * number + [(None, None)] * has_offset
    best = minimize(value, start, bounds=limits).fun
    assert loss_of(found(z), y) == pytest.approx(best, abs=5e-6)


def test_a_curve_needs_two_slopes() -> None:
    z, y = rows(40_000)
    bent = torch.where(z > 0, 3 * z, z)  # c(z) = z / 3 above 0
    beta, quadratic = Beta().fit(bent, y), Quadratic().fit(bent, y)
    assert loss_of(beta(bent), y) < loss_of(Platt().fit(bent, y)(bent), y) - 0.005
    assert beta.slopes[0] > 2 * beta.slopes[1]
    assert quadratic.slopes[0] > 2 * quadratic.slopes[1]


@every_map
def test_slopes_stay_at_0_or_above(kind: type[Calibrator]) -> None:
    z, y = rows()
    with pytest.warns(UserWarning, match="every row gets the same probability"):
        found = kind().fit(-z, y)  # logits that rank the wrong way round
    assert (found.slopes >= 0).all()
    assert (found(-z).diff()[torch.argsort(-z).diff() > 0]).isfinite().all()
    ordered = found(torch.linspace(-50, 50, 1001, dtype=torch.float64))
    assert (ordered.diff() >= -1e-12).all()


@every_map
def test_no_map_changes_an_order(kind: type[Calibrator]) -> None:
    z, y = rows(500)
    ordered = kind().fit(z**3, y)(torch.linspace(-300, 300, 10_001, dtype=torch.float64))
    assert (ordered.diff() >= 0).all()


@every_map
def test_many_labels_are_each_fitted_by_themselves(kind: type[Calibrator]) -> None:
    z, y = rows(700, labels=5)
    together = kind().fit(z, y)(z)
    for label in range(5):
        alone = kind().fit(z[:, label], y[:, label])(z[:, label])
        torch.testing.assert_close(together[:, label], alone, rtol=1e-6, atol=1e-6)


def test_many_labels_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = rows(100, labels=7)
    whole = [kind().fit(z, y).state_dict() for kind in MAPS]
    monkeypatch.setattr("torchbce.calibration.modules.BLOCK", 300)
    for kind, want in zip(MAPS, whole, strict=True):
        torch.testing.assert_close(dict(kind().fit(z, y).state_dict()), dict(want))


@every_map
def test_weights_are_repeated_rows_and_masks_leave_rows_out(kind: type[Calibrator]) -> None:
    z, y = rows(600)
    weight = torch.arange(600) % 3
    weighted = kind().fit(z, y, weight)
    # The bounds of `Quadratic` are quantiles of the rows, without their weights.
    repeated = kind().fit(z.repeat_interleave(weight), y.repeat_interleave(weight))
    torch.testing.assert_close(weighted(z), repeated(z), rtol=0.02, atol=0.02)
    missing = torch.where(weight == 0, torch.nan, y)
    torch.testing.assert_close(
        kind().fit(z, missing)(z), kind().fit(z[weight > 0], y[weight > 0])(z)
    )
    ignored = torch.where(weight == 0, -1.0, y)
    torch.testing.assert_close(
        kind().fit(z, ignored, ignore_index=-1)(z), kind().fit(z, missing)(z)
    )


@every_map
def test_the_scale_of_weights_does_not_matter(kind: type[Calibrator]) -> None:
    z, y = rows(200)
    weight = torch.rand(200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kind().fit(z, y, weight)(z), kind().fit(z, y, 1e-9 * weight)(z))


@every_map
def test_soft_targets_are_rows_repeated(kind: type[Calibrator]) -> None:
    z, _ = rows(400)
    soft = torch.round(4 * torch.sigmoid(z / 2)) / 4
    votes = (torch.arange(4) < (4 * soft)[:, None]).double().flatten()
    want = kind().fit(z.repeat_interleave(4), votes, torch.full_like(votes, 0.25))
    torch.testing.assert_close(kind().fit(z, soft)(z), want(z), rtol=0.01, atol=0.01)


# ------------------------------------------------------------------------------------ at the limits


@every_map
def test_separated_targets_have_a_finite_map(kind: type[Calibrator]) -> None:
    z = torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    found = kind().fit(z, (z > 0).double())
    assert found(z).isfinite().all()
    assert found.slopes.max() < 100
    assert loss_of(found(z), (z > 0).float()) < loss_of(z, (z > 0).float())


@every_map
@pytest.mark.filterwarnings("ignore:the fitted slope is 0")
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_target_value(kind: type[Calibrator], value: float) -> None:
    z, y = rows(300)
    found = kind().fit(z, torch.full_like(y, value))
    assert found(z).isfinite().all()
    assert loss_of(found(z), torch.full_like(y, value)) <= loss_of(z, torch.full_like(y, value))


@every_map
def test_infinite_and_huge_logits(kind: type[Calibrator]) -> None:
    z, y = rows(300)
    z, y = (
        torch.cat([z, torch.tensor([math.inf, -math.inf, 1e30, -1e4])]),
        torch.cat(
            [y, torch.tensor([1.0, 0.0, 1.0, 1.0])]  # the last one is wrong
        ),
    )
    found = kind().fit(z, y)
    assert found.slopes.isfinite().all()
    ends = found(torch.tensor([-math.inf, math.inf, math.nan], dtype=torch.float64))
    assert ends[0] <= found(torch.tensor(-1e3, dtype=torch.float64))
    assert ends[1] >= found(torch.tensor(1e3, dtype=torch.float64))
    assert ends[2].isnan()
    unfitted = kind()(torch.tensor([-math.inf, -1e20, 0.0, 1e20, math.inf]))
    assert unfitted.tolist() == pytest.approx([-math.inf, -1e20, 0.0, 1e20, math.inf], rel=1e-6)


@every_map
@pytest.mark.filterwarnings("ignore:the fitted slope is 0")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_hardly_any_rows(kind: type[Calibrator], number: int) -> None:
    z, y = rows(number)
    assert kind().fit(z, y)(torch.linspace(-9, 9, 5)).isfinite().all()
    empty = kind().fit(torch.zeros(number, 0), torch.zeros(number, 0))
    assert empty(torch.zeros(3, 0)).shape == (3, 0)


@every_map
def test_equal_logits(kind: type[Calibrator]) -> None:
    y = (torch.arange(1000) < 200).double()
    found = kind().fit(torch.zeros(1000), y)
    rate = 0.5 if kind is Temperature else 0.2  # 0 is 0 at every temperature
    assert torch.sigmoid(found(torch.zeros(1))).item() == pytest.approx(rate, abs=1e-3)


def test_a_slope_of_0_warns_once_and_names_the_label() -> None:
    z, y = rows(2000, labels=3)
    flipped = z * torch.tensor([1.0, -1.0, -1.0])
    for fit in (Platt().fit, choose):
        for given, words in ((flipped, "for 2 of 3 labels, first for label 1,"), (-z[:, 0], "0, ")):
            with pytest.warns(UserWarning, match="slope is 0.*Give -logits if their") as caught:
                fit(given, y[:, 0] if given.ndim == 1 else y)
            assert len(caught) == 1
            assert words in str(caught[0].message)
            assert caught[0].filename == __file__
    z, y = rows(300)
    infinite = z.index_fill(0, (y == 0).nonzero()[0], math.inf)
    with pytest.warns(UserWarning, match="or a large one"):
        Platt().fit(infinite, y)


def test_the_classifier_does_not_warn_of_a_slope_of_0() -> None:
    z, y = (t.numpy() for t in rows(2000))
    assert calibration_of(-z, y, None).slopes == [0.0]
    assert fit_line(-z, y, None).slope == 0


# ------------------------------------------------------------------------------------ as a module


@every_map
def test_type_shape_dtype_and_device_are_kept(kind: type[Calibrator]) -> None:
    z, y = rows(300)
    found = kind().fit(z, y)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        got = found(z.to(dtype))
        assert (got.dtype, got.shape) == (dtype, z.shape)
        torch.testing.assert_close(got.double(), found(z), rtol=0.02, atol=0.1)
    for numpy_dtype in (np.float32, np.float64):
        array = found(z.numpy().astype(numpy_dtype))
        assert isinstance(array, np.ndarray)
        assert array.dtype == numpy_dtype
    assert kind().fit(z.numpy(), y.numpy()).to_dict() == found.to_dict()
    assert found(z.reshape(3, 100)).shape == (3, 100)
    many = kind().fit(z.reshape(150, 2), y.reshape(150, 2))
    assert many(z.reshape(5, 30, 2)).shape == (5, 30, 2)
    with pytest.raises(ValueError, match="2 labels in their last dimension"):
        many(z)


@every_map
def test_derivatives(kind: type[Calibrator]) -> None:
    z, y = rows(300)
    found = kind().fit(1.5 * z + 1, y)
    at = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(found, at)
    assert torch.nn.Sequential(torch.nn.Identity(), found)(at).requires_grad


@every_map
@pytest.mark.parametrize("labels", [None, 3])
def test_stored_and_read(kind: type[Calibrator], labels: int | None, tmp_path: Path) -> None:
    z, y = rows(300, labels)
    found = kind().fit(z, y)
    fresh = kind()
    fresh.load_state_dict(found.state_dict())
    for other in (fresh, from_dict(found.to_dict()), copy.deepcopy(found)):
        assert torch.equal(other(z), found(z))
    file = io.BytesIO()
    torch.save(found, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(z), found(z))
    found.fit(z[:, 0] if labels else z, y[:, 0] if labels else y)  # again, of another shape
    assert found.offset.shape == ()


@every_map
def test_the_formula_of_arrays_is_that_of_tensors(kind: type[Calibrator]) -> None:
    z, y = rows(300)
    record: dict[str, Any] = kind().fit(z, y).to_dict()
    name = record.pop("kind")
    got = maps.apply(name, z.numpy(), **record)
    np.testing.assert_allclose(got, kind().fit(z, y)(z).numpy(), rtol=1e-12, atol=1e-12)


def test_a_loaded_record_must_be_complete() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        from_dict({"kind": "isotonic"})
    with pytest.raises(ValueError, match="has no 'offset'"):
        from_dict({"kind": "platt", "slopes": [1.0]})


WRONG: list[tuple[Any, Any, Any, type[Exception], str]] = [
    (torch.zeros(3, dtype=torch.int64), torch.zeros(3), None, TypeError, "floating dtype"),
    ([0.0], [1.0], None, TypeError, "a tensor or a NumPy array, got list"),
    (torch.zeros(3), torch.zeros(4), None, ValueError, r"got \(3,\) and \(4,\)"),
    (torch.zeros(2, 2, 2), torch.zeros(2, 2, 2), None, ValueError, "one shape"),
    (torch.tensor([math.nan]), torch.zeros(1), None, ValueError, "logits must not be NaN"),
    (torch.zeros(2), torch.tensor([0.0, 2.0]), None, ValueError, r"in \[0, 1\] or NaN, got 2"),
    (torch.zeros(2), torch.zeros(2), torch.ones(3), ValueError, "weight must have"),
    (torch.zeros(2), torch.zeros(2), torch.tensor([1.0, -1.0]), ValueError, "at least 0"),
]


@pytest.mark.parametrize(("z", "y", "weight", "error", "sentence"), WRONG)
def test_wrong_arguments(
    z: Any, y: Any, weight: Any, error: type[Exception], sentence: str
) -> None:
    for fit in (Platt().fit, choose):
        with pytest.raises(error, match=sentence):
            fit(z, y, weight)


def test_the_package() -> None:
    assert torchbce.calibration is calibration
    assert {"Temperature", "Platt", "Beta", "Quadratic", "choose"} <= set(dir(calibration))
    with pytest.raises(AttributeError, match="no attribute 'Isotonic'"):
        _ = calibration.Isotonic  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------- what is chosen


def test_calibrated_logits_are_left_alone() -> None:
    """On 20 samples of 1,000 rows no more than one map is kept, and it harms little."""
    fresh_z, fresh_y = rows(100_000, seed=99)
    kept = 0
    for seed in range(20):
        found = choose(*rows(1000, seed=seed))
        kept += not isinstance(found, Identity)
        assert loss_of(found(fresh_z), fresh_y) < 1.004 * loss_of(fresh_z, fresh_y)
    assert kept <= 1


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (lambda z: 2 * z, "temperature"),
        (lambda z: z + 1, "platt"),
        (lambda z: torch.where(z > 0, 4 * z, z), "beta"),
    ],
)
def test_the_simplest_map_that_is_enough(wrong: Any, kind: str) -> None:
    z, y = rows(10_000)
    found = choose(wrong(z), y)
    assert found.kind == kind
    fresh_z, fresh_y = rows(50_000, seed=1)
    assert loss_of(found(wrong(fresh_z)), fresh_y) < 1.01 * loss_of(fresh_z, fresh_y)


def test_labels_that_it_does_not_help_keep_their_logits() -> None:
    z, y = rows(3000, labels=4)
    wrong = z * torch.tensor([1.0, 3.0, 1.0, 0.3])
    found = choose(wrong, y)
    changed = (found(wrong) - wrong).abs().amax(0) > 1e-6
    assert changed.tolist() == [False, True, False, True]


def test_few_rows_or_one_value_keep_their_logits() -> None:
    z, y = rows(49)
    assert isinstance(choose(5 * z, y), Identity)
    z, y = rows(1000)
    assert isinstance(choose(5 * z, torch.zeros_like(y)), Identity)
    assert isinstance(choose(5 * z, (torch.arange(1000) < 24).double()), Identity)


def test_the_choice_is_repeatable_and_leaves_generators_alone() -> None:
    z, y = rows(2000)
    before = torch.get_rng_state()
    assert choose(2 * z, y).to_dict() == choose(2 * z, y).to_dict()
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="kinds must be among"):
        choose(z, y, kinds=["isotonic"])
    assert choose(2 * z + 1, y, kinds=["temperature"]).kind == "temperature"
    assert choose(2 * z + 1, y, kinds="temperature").kind == "temperature"
    with pytest.raises(ValueError, match=r"kinds must be among .* got 'isotonic'"):
        choose(z, y, kinds="isotonic")
