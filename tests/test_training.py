"""Training: repeatable, calibrated, stopped in time, and without traces in the process."""

import math
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

from making import numbers, reviews
from torchbce.classifier import (
    BCEClassifier,
    Classifier,
    InputError,
    TrainingOptions,
    fit,
    save,
)
from torchbce.classifier.models.candidates import losses as losses_of
from torchbce.classifier.models.features import SparseRows
from torchbce.classifier.models.members import NetworkModel
from torchbce.classifier.models.network import HIDDEN, Network, predict_logits
from torchbce.classifier.models.network_fit import (
    BATCH_SIZES,
    MIN_GAIN,
    STEPS_PER_EPOCH,
    Rows,
    _batch_size,
    one_thread,
    train,
)

MODELS = ["auto", "linear", "pairs", "trees", "mlp"]


class Recorded:
    """Progress that records every call."""

    def __init__(self) -> None:
        self.settings: list[tuple[str, float]] = []
        self.stages: list[tuple[str, int]] = []
        self.epochs: list[tuple[int, float, float | None]] = []
        self.steps: list[tuple[float, int]] = []
        self.threads: set[int] = set()

    def start(self, stage: str, steps: int) -> None:
        self.stages.append((stage, steps))

    def tried(self, setting: str, held_out: float) -> None:
        self.settings.append((setting, held_out))

    def step(self, loss_sum: torch.Tensor, rows: int) -> None:
        self.steps.append((loss_sum.item(), rows))
        self.threads.add(torch.get_num_threads())

    def epoch(self, number: int, loss: float, held_out: float | None) -> None:
        self.epochs.append((number, loss, held_out))

    def end(self) -> None: ...


def fitted(
    table: pl.DataFrame, target: str = "y", progress: Any = None, **options: Any
) -> Classifier:
    options.setdefault("epochs", 4)
    return fit(table, target, options=TrainingOptions(**options), progress=progress)


def network_of(classifier: Classifier) -> Network:
    (model,) = classifier.models
    assert isinstance(model, NetworkModel)
    return model.network


def sparse(array: np.ndarray) -> SparseRows:
    matrix = sp.csr_matrix(array.astype(np.float32))
    return SparseRows(matrix.indptr, matrix.indices, matrix.data, matrix.shape[1])


def rows_of(table: pl.DataFrame) -> Rows:
    return Rows(sparse(table.drop("y").to_numpy()), table["y"].to_numpy().astype(np.float32))


# ---------------------------------------------------------------------------------- repeatability


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_makes_the_same_bytes(tmp_path: Path, model: str) -> None:
    table = reviews(40)
    contents = []
    for name in ("one", "other"):
        torch.rand(7)  # the state of the process has no say
        np.random.default_rng().random()
        classifier = fitted(table, "kind", model=model, seed=3)
        save(classifier, tmp_path / name)
        contents.append(
            [(tmp_path / name / file).read_bytes() for file in ("model.safetensors", "model.json")]
        )
    assert contents[0] == contents[1]


def test_another_seed_makes_another_network() -> None:
    weights = [
        network_of(fitted(reviews(40), "kind", model="mlp", seed=seed)).input.weight
        for seed in (0, 1)
    ]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("model", MODELS)
def test_the_number_of_threads_does_not_change_the_result(model: str) -> None:
    before = torch.get_num_threads()
    table, logits = numbers(300, effect=1.0), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            logits.append(fitted(table, model=model).logits(table))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*logits)


@pytest.mark.parametrize("model", MODELS)
def test_global_state_is_not_changed(model: str) -> None:
    before = (torch.get_num_threads(), torch.get_rng_state(), np.random.get_state()[1].copy())  # type: ignore[index]
    recorded = Recorded()
    fitted(numbers(), model=model, progress=recorded)
    assert recorded.threads == ({1} if model == "mlp" else set())
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()  # type: ignore[index]
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_the_number_of_threads_is_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    error = RuntimeError("midway")
    with pytest.raises(RuntimeError, match="midway"), one_thread():
        raise error
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("model", MODELS)
def test_training_in_a_thread(model: str) -> None:
    results: list[Classifier] = []
    table = numbers(300)
    thread = threading.Thread(target=lambda: results.append(fitted(table, model=model)))
    thread.start()
    thread.join()
    expected = fitted(table, model=model).logits(table)
    assert np.array_equal(results[0].logits(table), expected)


# ----------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("pos_weight", [1.0, 9.0])
def test_the_output_bias_of_a_network_is_the_base_rate(pos_weight: float) -> None:
    y = np.arange(200) % 10 == 0
    rows = Rows(sparse(np.zeros((200, 3))), y.astype(np.float32))
    options = TrainingOptions("mlp", batch_size=200, learning_rate=1e-9)
    trained = train(rows, None, 1, pos_weight, options, Recorded(), "stage")
    bias = trained.network.state_dict()["rest.5.bias"]
    assert bias.item() == pytest.approx(math.log(pos_weight * 20 / 180), abs=1e-5)


def test_the_layers_of_the_network() -> None:
    """The sparse first layer is a dense one."""
    random = np.random.default_rng(0)
    array = random.normal(size=(20, 7)) * (random.random((20, 7)) < 0.4)
    array[3] = 0
    network = Network(7)
    network.initialise(0.5, 3.0, torch.Generator().manual_seed(1))
    network.eval()
    with torch.no_grad():
        x = torch.from_numpy(array.astype(np.float32))
        expected = network.rest(x @ network.input.weight + network.input_bias)[:, 0]
    np.testing.assert_allclose(
        predict_logits(network, sparse(array)), expected.double().numpy(), rtol=1e-5, atol=1e-5
    )
    assert network.input.weight.shape == (7, HIDDEN)


# ------------------------------------------------------------------------------------- when to stop


def test_patience() -> None:
    """Training waits for `patience` epochs; a second one repeats the first."""
    recorded = Recorded()
    rows = rows_of(numbers(60, effect=2.0))
    options = TrainingOptions("mlp", epochs=30, patience=2, learning_rate=0.005)
    parts = rows.take(np.arange(40)), rows.take(np.arange(40, 60))
    trained = train(*parts, 30, 1.0, options, recorded, "stage")
    losses = [loss or 0.0 for _, _, loss in recorded.epochs]
    assert len(trained.stages) == len(losses) + 1
    first = losses_of(trained.stages[0], parts[1].targets).mean()
    gained_at, lowest = 0, first
    for epoch, loss in enumerate(losses, start=1):
        if loss < lowest * (1 - MIN_GAIN):
            lowest, gained_at = loss, epoch
    assert len(losses) == gained_at + 2 < 30
    again = train(parts[0], None, gained_at, 1.0, options, Recorded(), "stage")
    np.testing.assert_array_equal(
        predict_logits(again.network, parts[1].features), trained.stages[gained_at]
    )


def test_a_network_learns_an_interaction() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(1200, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    table = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y})
    classifier = fitted(table, model="mlp", epochs=15)
    assert classifier.card.held_out.roc_auc > 0.95  # type: ignore[operator]


def test_few_positives_among_many_rows() -> None:
    table = numbers(2500).with_columns(y=pl.Series(np.arange(2500) < 3).cast(pl.Int64))
    seen = fitted(table, model="linear").card.held_out.confusion
    assert seen.tp + seen.fn == 3


def test_the_batches() -> None:
    assert [_batch_size(n) for n in (4, 1024, 2047, 2048, 5000, 10**6)] == [16, 16, 16, 32, 64, 512]
    for rows in (10, 3000, 10**5):
        size = _batch_size(rows)
        assert BATCH_SIZES[0] <= size <= BATCH_SIZES[1]
        assert size in BATCH_SIZES or rows // size >= STEPS_PER_EPOCH
    recorded = Recorded()
    train(
        rows_of(numbers(50)), None, 2, 1.0, TrainingOptions("mlp", batch_size=20), recorded, "stage"
    )
    assert recorded.stages == [("stage", 6)]
    assert [rows for _, rows in recorded.steps] == [20, 40, 50] * 2
    assert recorded.epochs[1][1] == pytest.approx(recorded.steps[-1][0] / 50)


# --------------------------------------------------------------------------------- rare positives


def imbalanced(rows: int) -> pl.DataFrame:
    random = np.random.default_rng(1)
    y = random.random(rows) < 0.1
    return pl.DataFrame({"x": random.normal(size=rows) + 1.5 * y, "y": y.astype(int)})


@pytest.mark.parametrize("model", MODELS)
def test_weights_leave_the_probabilities_calibrated(model: str) -> None:
    table = imbalanced(600)
    rate = table["y"].mean()
    options: dict[str, Any] = {"epochs": 6, "model": model}
    classifiers = {w: fitted(table, pos_weight=w, **options) for w in (None, "balanced", 3.0)}
    weighted = classifiers["balanced"]
    assert weighted.card.pos_weight == pytest.approx((1 - rate) / rate)  # type: ignore[operator]
    assert classifiers[None].card.pos_weight == 1
    assert classifiers[3.0].card.pos_weight == 3
    for classifier in classifiers.values():
        p = classifier.probabilities(table)
        assert p.mean() == pytest.approx(rate, abs=0.03)
        assert classifier.card.held_out.ece < 0.06
        assert classifier.card.held_out.relative_log_loss < 0.9  # type: ignore[operator]
    encoded = weighted.encoder.transform(table)
    raw = [model.logits(weighted.encoder, encoded) for model in weighted.models]
    assert all((1 / (1 + np.exp(-z))).mean() > rate + 0.1 for z in raw)  # type: ignore[operator]


def test_the_threshold_is_of_the_corrected_probability() -> None:
    table = imbalanced(300)
    classifier = fitted(table, pos_weight="balanced")
    answer = classifier.predict(table)
    assert answer.columns == ["probability", "predicted"]
    assert (answer["predicted"] == (answer["probability"] >= 0.5).cast(pl.Int64)).all()


# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows", [4, 5, 6, 7, 9, 12, 17, 33])
def test_every_number_of_rows(model: str, rows: int) -> None:
    y = [1, 1, *[0] * (rows - 2)]
    table = pl.DataFrame({"x": [float(i * i) for i in range(rows)], "y": y})
    classifier = fitted(table, model=model, epochs=1)
    p = classifier.probabilities(table)
    assert ((p > 0) & (p < 1)).all()


def test_two_rows_of_each_value_are_needed() -> None:
    for y, word in (([1, 0, 0, 0, 0], "'1'"), ([1, 1, 1, 0], "'0'")):
        table = pl.DataFrame({"x": [1.0, 2.0, 3.0, 5.0, 4.0][: len(y)], "y": y})
        with pytest.raises(InputError, match=rf"^only 1 row of target column 'y' holds {word}"):
            fitted(table)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 0}, "epochs must be above 0, got 0"),
    ({"epochs": -1}, "epochs must be above 0, got -1"),
    ({"batch_size": 0}, "batch_size must be above 0, got 0"),
    ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
    ({"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
    ({"learning_rate": math.inf}, "learning_rate must be .*, got inf"),
    ({"weight_decay": -0.1}, "weight_decay must be 0 or above, got -0.1"),
    ({"weight_decay": math.nan}, "weight_decay must be 0 or above, got nan"),
    ({"patience": 0}, "patience must be above 0, got 0"),
    ({"pos_weight": 0.0}, "pos_weight must be above 0, got 0.0"),
    ({"pos_weight": -2.0}, "pos_weight must be above 0, got -2.0"),
    ({"pos_weight": math.inf}, "pos_weight must be .*, got inf"),
    ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1, got -1"),
    ({"seed": 2**63}, r"seed must be from 0 to 2\^63 - 1, got 9223372036854775808"),
]


#: Options of the wrong type: what is expected is said, and what came.
RANDOM = np.random.RandomState(0)
WRONG_TYPES: list[tuple[dict[str, Any], str]] = [
    *(
        ({"seed": seed}, r"seed must be an integer from 0 to 2\^63 - 1, got " + came)
        for seed, came in ((None, "None"), (RANDOM, "RandomState"), (1.0, r"1\.0"), ("1", "'1'"))
    ),
    ({"seed": True}, r"seed must be an integer from 0 to 2\^63 - 1, got True"),
    ({"seed": np.bool_(True)}, "seed must be an integer"),
    ({"seed": np.float64(3)}, "seed must be an integer"),
    ({"epochs": "3"}, "epochs must be an integer above 0, got '3'"),
    ({"epochs": None}, "epochs must be an integer above 0, got None"),
    ({"epochs": 2.5}, r"epochs must be an integer above 0, got 2\.5"),
    ({"patience": None}, "patience must be an integer above 0, got None"),
    ({"batch_size": 1.5}, r"batch_size must be an integer above 0 or None, got 1\.5"),
    ({"learning_rate": "x"}, "learning_rate must be a number above 0 or None, got 'x'"),
    ({"learning_rate": True}, "learning_rate must be a number above 0 or None, got True"),
    ({"learning_rate": [0.1]}, r"learning_rate must be a number above 0 or None, got \[0\.1\]"),
    ({"weight_decay": "x"}, "weight_decay must be a number of 0 or above, got 'x'"),
    ({"weight_decay": None}, "weight_decay must be a number of 0 or above, got None"),
    ({"pos_weight": "x"}, "pos_weight must be 'balanced', a number above 0 or None, got 'x'"),
    ({"pos_weight": [2]}, r"pos_weight must be 'balanced', a number above 0 or None, got \[2\]"),
    ({"pos_weight": np.ones(2)}, "pos_weight must be 'balanced', a number above 0 or None"),
    ({"model": None}, "model must be 'auto', .* or 'mlp', got None"),
    ({"model": ["linear"]}, r"model must be .*, got \['linear'\]"),
    ({"effort": 2}, "effort must be 'low', 'medium' or 'high', got 2"),
    ({"effort": np.ones(2)}, "effort must be 'low', 'medium' or 'high', got array"),
    ({"device": 0}, "device must be .*, got 0"),
    ({"precision": 32}, "precision must be .*, got 32"),
    ({"loss": None}, "loss must be one of 'bce', .*, got None"),
    ({"loss": ["bce"]}, r"loss must be one of .*, got \['bce'\]"),
    ({"loss": "focal", "alpha": "x"}, r"alpha must be a number in \[0, 1\] or None, got 'x'"),
    ({"loss": "focal", "gamma": [2]}, r"gamma must be a number of 0 or above or None, got \[2\]"),
    ({"loss": "poly", "epsilon": True}, "epsilon must be a number of -1 or above or None, got T"),
    ({"optimize": 3}, "optimize must be accuracy, .*, got 3"),
    ({"guarantee": None}, r"guarantee must be text such as 'precision>=0\.9', or .*, got None"),
    ({"guarantee": 0.9}, r"guarantee must be text such as 'precision>=0\.9', or .*, got 0\.9"),
    ({"guarantee": (0.9,)}, r"guarantee must be precision>=P, .*, got 0\.9"),
    ({"abstain": "no"}, "abstain must be True or False, got 'no'"),
]
WRONG += WRONG_TYPES


def words(options: dict[str, Any]) -> str:
    """The same in each process."""
    return re.sub(" at 0x[0-9A-F]+", "", str(options))


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=[words(w[0]) for w in WRONG])
def test_options_are_checked(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{sentence}"):
        TrainingOptions(**options)


@pytest.mark.parametrize("options", [wrong for wrong, _ in WRONG_TYPES], ids=words)
def test_options_of_the_estimator_are_checked(options: dict[str, Any]) -> None:
    estimator = BCEClassifier(**options)
    for fit_ in (estimator.fit, lambda X, y: estimator.partial_fit(X, y, classes=[0, 1])):
        with pytest.raises(InputError, match=r"^\w+ must be .*, got "):
            fit_(np.arange(20.0)[:, None], [0, 1] * 10)


def test_numbers_of_numpy_are_numbers() -> None:
    given: dict[str, Any] = {"seed": np.int64(3), "epochs": np.int32(2), "batch_size": np.uint8(8)}
    given |= {
        "learning_rate": np.float32(0.5),
        "weight_decay": np.int8(0),
        "pos_weight": np.ones(()),
    }
    given |= {"loss": "focal", "gamma": np.float64(2), "model": "linear", "effort": "low"}
    options = TrainingOptions(**given)
    assert options == TrainingOptions(
        "linear", "low", 1, 3, 2, 8, learning_rate=0.5, loss="focal", gamma=2
    )
    for name in given:
        assert type(getattr(options, name)) in (int, float, str)
    table = pl.DataFrame({"x": [n % 7 for n in range(40)], "y": [0, 1] * 20})
    assert fit(table, "y", options=options, base_rate=np.float32(0.25)).card.base_rate == 0.25


@pytest.mark.parametrize("rate", ["x", True, [0.1]])
def test_a_base_rate_is_a_number(rate: Any) -> None:
    with pytest.raises(InputError, match=r"^base_rate must be above 0 and below 1, .*; got "):
        fit(pl.DataFrame({"x": range(8), "y": [0, 1] * 4}), "y", base_rate=rate)


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_any_seed(seed: int) -> None:
    fitted(numbers(8), seed=seed, epochs=1)


def test_divergence_raises() -> None:
    table = numbers(100).with_columns(a=pl.Series([1e3] + [0.0] * 99))
    with pytest.raises(
        InputError, match=r"^training diverged in epoch \d+: the loss is .*lower the learning_rate$"
    ):
        fitted(table, model="mlp", learning_rate=1e38, epochs=5)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_precisions(precision: str) -> None:
    table = numbers(60)
    exact = fitted(table, model="mlp", patience=9)
    classifier = fitted(table, model="mlp", precision=precision, patience=9)
    assert all(p.dtype == torch.float32 for p in network_of(classifier).parameters())
    difference = np.abs(classifier.probabilities(table) - exact.probabilities(table)).max()
    assert difference < (1e-3 if precision == "64-true" else 0.2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_available() -> None:
    with pytest.raises(
        InputError, match=r"^cannot train with device='cuda' and precision='32-true'"
    ):
        fitted(numbers(), model="mlp", device="cuda")


def test_a_precision_that_is_none() -> None:
    with pytest.raises(InputError, match=r"^precision must be '32-true', .*, got '8-bit'"):
        fitted(numbers(), model="mlp", precision="8-bit")


def test_auto_is_a_device() -> None:
    fitted(numbers(), model="mlp", device="auto", epochs=1)


def test_the_card_records_the_training() -> None:
    card = fitted(reviews(24), "kind", weight_decay=0.01, seed=5).card
    assert card.options["weight_decay"] == 0.01
    assert card.options["seed"] == 5
    assert set(card.versions) == {"torchbce", "python", "torch", "scikit-learn", "polars", "numpy"}
    assert (card.target.column, card.target.positive) == ("kind", "yes")
    assert [column.name for column in card.columns] == ["review", "place", "stars"]
    assert card.dropped == {}
    assert fitted(numbers().with_columns(k=pl.lit(1))).card.dropped == {"k": "constant"}
