"""`torchbce.watch`: what it warns of during training, what it leaves alone, and what it costs."""

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import torchbce
from torchbce.diagnosis import watch as watching
from torchbce.diagnosis.watch import Watch, watch

LOGITS = [torchbce.BCEWithLogitsLoss, nn.BCEWithLogitsLoss]
every_logit_loss = pytest.mark.parametrize("loss", LOGITS, ids=["torchbce", "torch"])


def data(rows: int = 512, seed: int = 0, middle: float = 0.0) -> tuple[Tensor, Tensor]:
    """Inputs, and targets that a linear model of the first two tells."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator)
    z = 2 * x[:, 0] - x[:, 1] + middle
    return x, (torch.rand(rows, generator=generator) < z.sigmoid()).float()


class Squeezed(nn.Module):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).squeeze(-1)


def linear(bias: float = 0.0) -> nn.Linear:
    layer = nn.Linear(4, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def train(
    model: nn.Module,
    loss: nn.Module,
    x: Tensor,
    y: Tensor,
    steps: int = 200,
    rate: float = 0.1,
    batch: int = 64,
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for step in range(steps):
        at = torch.arange(step * batch, (step + 1) * batch) % len(x)
        optimizer.zero_grad()
        loss(model(x[at]), y[at]).backward()
        optimizer.step()


def warned(run: Any) -> list[str]:
    """The codes that a call warns of, in order."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(one.message).partition(":")[0] for one in caught]


# ----------------------------------------------------------------------------------- good training


@every_logit_loss
@pytest.mark.parametrize("middle", [0.0, -2.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_false_alarm_in_good_training(loss: Any, middle: float, seed: int) -> None:
    x, y = data(4096, seed, middle)
    rate = float(y.mean())
    model = Squeezed(linear(float(torch.logit(y.mean())) if rate < 0.4 else 0.0))
    criterion = loss()
    with watch(criterion) as watched:
        train(model, criterion, x, y, steps=200)
    assert watched.report().codes == ()
    assert watched.calls == 200


def test_no_false_alarm_in_good_training_of_a_network() -> None:
    x, y = data(4096)
    torch.manual_seed(0)
    model = Squeezed(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
    criterion = torchbce.BCEWithLogitsLoss()
    with watch(criterion) as watched:
        train(model, criterion, x, y, steps=1030, batch=32)
    assert watched.report().codes == ()


@pytest.mark.parametrize(
    "criterion",
    [
        torchbce.SigmoidFocalLoss(),
        torchbce.AsymmetricLoss(),
        torchbce.PolyBCELoss(),
        torchbce.BCEWithLogitsLoss(label_smoothing=0.1),
        torchbce.BCEWithLogitsLoss(reduction="sum"),
        torchbce.BCEWithLogitsLoss(pos_weight=1.5),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(1.5)),
    ],
    ids=repr,
)
def test_no_false_alarm_about_other_losses(criterion: Any) -> None:
    x, y = data(4096)
    rate = 0.001 if criterion.reduction == "sum" else 0.1
    with watch(criterion) as watched:
        train(Squeezed(linear()), criterion, x, y, rate=rate)
    assert watched.report().codes == ()


@pytest.mark.parametrize("loss", [torchbce.BCELoss, nn.BCELoss], ids=["torchbce", "torch"])
def test_no_false_alarm_about_probabilities(loss: Any) -> None:
    x, y = data(4096)
    criterion = loss()
    with watch(criterion) as watched:
        train(Squeezed(linear(), nn.Sigmoid()), criterion, x, y)
    assert watched.report().codes == ()


def test_log_probabilities() -> None:
    x, y = data(4096)
    criterion = torchbce.BCEWithLogProbsLoss()
    with watch(criterion) as watched:
        train(Squeezed(linear(), nn.LogSigmoid()), criterion, x, y)
    assert watched.report().codes == ()


# ---------------------------------------------------------------------------------------- findings


@every_logit_loss
def test_a_sigmoid_before_the_loss_is_warned_of_once(loss: Any) -> None:
    x, y = data(4096)
    criterion = loss()
    watched = watch(criterion)
    model = Squeezed(linear(), nn.Sigmoid())
    assert warned(lambda: train(model, criterion, x, y, steps=400, rate=2.0)) == [
        "probabilities-as-logits"
    ]
    assert warned(lambda: train(model, criterion, x, y, steps=200)) == []
    assert warned(watched.close) == []
    assert watched.report().codes == ("probabilities-as-logits",)


@pytest.mark.parametrize("loss", [torchbce.BCELoss, nn.BCELoss], ids=["torchbce", "torch"])
def test_two_sigmoids_before_the_loss_of_probabilities(loss: Any) -> None:
    x, y = data(4096)
    criterion = loss()
    watched = watch(criterion)
    model = Squeezed(linear(), nn.Sigmoid(), nn.Sigmoid())
    assert warned(lambda: train(model, criterion, x, y, steps=400, rate=2.0)) == ["double-sigmoid"]
    watched.close()


@every_logit_loss
def test_the_initial_loss_of_rare_positives(loss: Any) -> None:
    x, y = data(4096, middle=-6.0)
    criterion = loss()
    watch(criterion)
    with pytest.warns(UserWarning, match="initial-loss: .* Set the bias of the last layer to -"):
        train(Squeezed(linear()), criterion, x, y, steps=1, batch=512)


def test_shapes_are_told_before_pytorch_raises() -> None:
    criterion = nn.BCEWithLogitsLoss()
    watch(criterion)
    with (
        pytest.warns(UserWarning, match=r"broadcast: .*\(64, 1\) and the target \(64,\)"),
        pytest.raises(ValueError, match="must be the same as input size"),
    ):
        criterion(torch.zeros(64, 1), torch.arange(64.0) % 2)
    own = torchbce.BCEWithLogitsLoss()
    watched = watch(own)
    codes = warned(
        lambda: [own(torch.zeros(64), torch.arange(64.0)[:, None] % 2) for _ in range(20)]
    )
    assert codes == ["broadcast"]
    watched.close()


@every_logit_loss
def test_a_product_of_all_pairs(loss: Any) -> None:
    x, y = data(64)
    criterion = loss()
    with (
        pytest.warns(UserWarning, match="each of N inputs is compared with each"),
        watch(criterion),
    ):
        criterion(x[:, :1].expand(64, 64), y.expand(64, 64))


def test_a_target_that_no_kept_element_shows() -> None:
    """PyTorch's loss takes it; one element of 100,000 is not among the 4,096 that are kept."""
    y = torch.zeros(100_000)
    y[12_345] = 255
    criterion = nn.BCEWithLogitsLoss()
    watch(criterion)
    with pytest.warns(UserWarning, match=r"target-range: Some .* \[0, 255\]"):
        criterion(torch.full((100_000,), -9.0), y)


@every_logit_loss
def test_nan(loss: Any) -> None:
    criterion = loss()
    watch(criterion)
    with pytest.warns(UserWarning, match="input-nan: 1 of 64 inputs are NaN"):
        criterion(torch.arange(64.0).where(torch.arange(64) != 3, torch.nan), torch.ones(64))


@every_logit_loss
def test_pos_weight_the_wrong_way_round(loss: Any) -> None:
    y = (torch.arange(640).reshape(10, 64).T % 20 == 0).float()
    criterion = loss(pos_weight=torch.full((10,), 0.05))
    watch(criterion)
    with pytest.warns(UserWarning, match=r"pos-weight-inverted: "):
        criterion(torch.full((64, 10), -5.9), y)


def test_zero_weights_in_a_mean() -> None:
    weight = (torch.arange(100) % 10 == 0).float()
    criterion = nn.BCEWithLogitsLoss(weight=weight)
    watch(criterion)
    with pytest.warns(UserWarning, match=r"mostly-ignored: 90.0% of the weights are 0"):
        criterion(torch.zeros(100), (torch.arange(100) % 3 == 0).float())


def test_ignored_elements_are_noted_and_not_warned_of() -> None:
    criterion = torchbce.BCEWithLogitsLoss(ignore_index=-1)
    y = torch.where(torch.arange(200) % 5 > 0, -1, torch.arange(200) % 2).float()
    with watch(criterion) as watched:
        criterion(torch.zeros(200), y)
        criterion(torch.zeros(200), y, mask=torch.arange(200) < 100)
    assert watched.report().codes == ("mostly-ignored",)
    assert watched.report()["mostly-ignored"].severity == "note"


def test_gradients_that_vanish_in_bfloat16() -> None:
    z = torch.linspace(7, 9, 100).bfloat16()
    y = torch.cat((torch.ones(99), torch.zeros(1))).bfloat16()
    z[-1] = -6
    criterion = nn.BCEWithLogitsLoss()
    with watch(criterion) as watched, pytest.warns(UserWarning, match="vanishing-gradients"):
        criterion(z, y)
    # This library's loss does not round the sigmoid, and neither does PyTorch's under autocast.
    with watch(torchbce.BCEWithLogitsLoss()) as watched:
        watched._module(z, y)
    assert watched.report().codes == ()
    with watch(criterion) as watched, torch.autocast("cpu", torch.bfloat16):
        criterion(z, y)
    assert watched.report().codes == ()


@every_logit_loss
def test_training_that_diverges_is_worse_than_the_base_rate(loss: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4096, 4, generator=generator), data(4096, seed=1)[1]
    criterion = loss()
    watched = watch(criterion)
    model = Squeezed(linear())
    warned(lambda: train(model, criterion, x, y, steps=150, rate=100.0))
    with pytest.warns(UserWarning, match="worse-than-base-rate"):
        watched.close()


def test_a_loss_of_the_wrong_sign() -> None:
    x, y = data(4096)
    criterion = torchbce.BCEWithLogitsLoss()
    model = Squeezed(linear())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    watched = watch(criterion)
    for _ in range(150):
        optimizer.zero_grad()
        (-criterion(model(x), y)).backward()
        optimizer.step()
    assert "flipped-labels" in watched.close(warn=False).codes


# ------------------------------------------------------------------------------------- its handling


def test_it_is_removed() -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watched = watch(criterion)
    assert len(criterion._forward_pre_hooks) == 1
    watched.close()
    assert len(criterion._forward_pre_hooks) == 0
    criterion(torch.zeros(3), torch.ones(3))
    assert watched.calls == 0
    with watch(criterion):
        pass
    assert len(criterion._forward_pre_hooks) == 0


def test_an_error_in_the_block_is_not_followed_by_warnings() -> None:
    """A warning made an error would hide it."""
    criterion = torchbce.BCEWithLogitsLoss()

    def fail() -> None:
        with watch(criterion) as watched:
            watched.calls = 31  # the next call is kept, and its values are not looked at
            criterion(torch.zeros(100), torch.arange(100) == 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # warnings are errors in this suite
        fail()
    assert len(criterion._forward_pre_hooks) == 0


def test_a_report_without_calls() -> None:
    assert watch(nn.BCELoss()).report().findings == ()


def test_calls_without_gradients_are_not_looked_at() -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watched = watch(criterion)
    with torch.no_grad():
        criterion(torch.zeros(100), torch.ones(100))
    with torch.inference_mode():
        criterion(torch.zeros(100), torch.ones(100))
    assert watched.calls == 0


def test_arguments_by_name() -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watched = watch(criterion)
    criterion(target=torch.arange(4.0) % 2, input=torch.zeros(4))
    assert watched.report().elements == 4


@pytest.mark.parametrize(
    "module",
    [nn.CrossEntropyLoss(), nn.Linear(1, 1), torchbce.LinearBCELoss(3, 2), "loss"],
    ids=["other loss", "layer", "head", "word"],
)
def test_other_modules_are_refused(module: Any) -> None:
    with pytest.raises(TypeError, match="watch takes a loss of torchbce"):
        watch(module)


def test_values_and_gradients_are_unchanged() -> None:
    x, y = data(2048)
    results = []
    for watched in (False, True):
        criterion, model = torchbce.BCEWithLogitsLoss(), Squeezed(linear())
        if watched:
            watch(criterion)
        train(model, criterion, x, y, steps=40)
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_kept_elements_are_bounded_and_copies() -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watched = watch(criterion)
    z = torch.zeros(100_000, requires_grad=True)
    y = torch.arange(100_000) % 2
    for shape in ((100_000,), (100, 1000), (10, 10, 1000), (1, 100_000)) * 2:
        criterion(z.reshape(shape), y.reshape(shape))
    for _ in range(16 * 40):
        criterion(z[:100], y[:100])
    kept = watched._kept
    assert len(kept) == watching.CALLS
    assert watched._first is not None
    for call in (watched._first, *kept):
        assert call.input.numel() <= watching.ELEMENTS
        assert not call.input.requires_grad
        assert call.input.untyped_storage().data_ptr() != z.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "shape", [(), (0,), (5,), (300, 40), (3, 9000), (2, 1, 200, 200), (5000, 2, 1)], ids=str
)
def test_every_shape(shape: tuple[int, ...]) -> None:
    criterion = torchbce.BCEWithLogitsLoss(pos_weight=2.0)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(shape, generator=generator)
    y = torch.rand(shape, generator=generator) < z.sigmoid()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the 'mean' of a loss over no elements")
        with watch(criterion) as watched:
            criterion(z + torch.tensor(2.0).log(), y)
    assert watched.report().ok
    assert watched.report().elements <= watching.ELEMENTS


class Operations(TorchDispatchMode):
    """The names of the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """No values are looked at without a report, as on a GPU."""
    monkeypatch.setattr(watching, "LOOKS", frozenset())


@pytest.mark.usefixtures("on_another_device")
@pytest.mark.parametrize("mask", [False, True])
def test_the_hook_reads_no_value(mask: bool) -> None:
    """So a GPU is not waited for: each of these operations runs without the host."""
    module = nn.BCEWithLogitsLoss(weight=torch.ones(40), pos_weight=torch.ones(40))
    watched = watch(module)
    z, y = torch.randn(500, 40, requires_grad=True), torch.ones(500, 40)
    given = {"mask": torch.ones(500, 40, dtype=torch.bool)} if mask else {}
    with Operations() as operations:
        watched._look(module, (z, y), given)
        watched._look(module, (z, y), given)
    assert set(operations.names) <= {
        "detach", "alias", "expand", "slice", "clone", "aminmax", "stack", "cat", "unbind",
        "minimum", "maximum", "view", "_unsafe_view", "unsqueeze", "select", "_to_copy",
    }  # fmt: skip
    assert "_local_scalar_dense" not in operations.names
    assert len(watched._kept) == 2


def test_calls_between_those_that_are_kept_run_nothing() -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watched = watch(criterion)
    z, y = torch.randn(500, requires_grad=True), torch.arange(500) % 2
    for _ in range(9):
        criterion(z, y)
    with Operations() as operations:
        watched._look(criterion, (z, y), {})
    assert operations.names == []


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step(fresh_compiler: None) -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watched = watch(criterion)
    step = torch.compile(lambda z, y: criterion(z, y), backend="eager", fullgraph=True)
    z, y = torch.zeros(8), torch.ones(8)
    assert torch.equal(step(z, y), criterion(z, y))
    assert watched.calls == 1


def test_vmap_and_functional_gradients() -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watch(criterion)
    z, y = torch.randn(7, 5), torch.arange(35).reshape(7, 5) % 2
    expected = torch.stack([criterion(a, b) for a, b in zip(z, y, strict=True)])
    assert torch.allclose(torch.func.vmap(criterion)(z, y.float()), expected)
    gradient = torch.func.grad(lambda z: criterion(z, y))(z)
    assert torch.allclose(gradient, (z.sigmoid() - y) / 35)


def test_sparse_targets_are_left_alone() -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watched = watch(criterion)
    criterion(torch.zeros(4, 5), torch.eye(4, 5).to_sparse())
    assert watched.report().elements == 0


def test_a_watched_module_can_be_copied_and_pickled() -> None:
    criterion = torchbce.BCEWithLogitsLoss()
    watched = watch(criterion)
    criterion(torch.zeros(10, requires_grad=True), torch.arange(10.0) % 2)
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert other(torch.zeros(2), torch.ones(2)).item() == pytest.approx(0.6931, abs=1e-4)
    assert watched.calls == 1
    assert isinstance(watched, Watch)
