"""The modules: subclasses of PyTorch's with more options and better numbers."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torchbce
from family import ONE_OF_EACH, Loss
from torchbce.functional import binary_cross_entropy, binary_cross_entropy_with_logits

LOGITS = torch.tensor([[5.0, -2.0, 0.5], [-40.0, 17.0, 0.0]])
TARGETS = torch.tensor([[1, 0, 1], [0, 0, 1]])
WEIGHT = torch.tensor([[1.0], [0.5]])
POS_WEIGHT = torch.tensor([1.0, 2.0, 3.0])
BOTH = {"weight": WEIGHT, "pos_weight": POS_WEIGHT}


def with_logits() -> torchbce.BCEWithLogitsLoss:
    return torchbce.BCEWithLogitsLoss(WEIGHT.clone(), pos_weight=POS_WEIGHT.clone())


def test_they_are_subclasses_of_pytorchs() -> None:
    assert isinstance(torchbce.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss)
    assert isinstance(torchbce.BCELoss(), nn.BCELoss)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_logits_module_equals_the_function(reduction: str) -> None:
    module = torchbce.BCEWithLogitsLoss(WEIGHT, reduction=reduction, pos_weight=POS_WEIGHT)
    expected = binary_cross_entropy_with_logits(
        LOGITS, TARGETS, WEIGHT, reduction=reduction, pos_weight=POS_WEIGHT
    )
    assert torch.equal(module(LOGITS, TARGETS), expected)
    plain = binary_cross_entropy_with_logits(LOGITS, TARGETS, reduction=reduction)
    assert not torch.equal(expected, plain)
    assert torch.equal(torchbce.BCEWithLogitsLoss(reduction=reduction)(LOGITS, TARGETS), plain)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_probability_module_equals_the_function(reduction: str) -> None:
    p = torch.sigmoid(LOGITS)
    module = torchbce.BCELoss(WEIGHT, reduction=reduction, eps=0.1)
    expected = binary_cross_entropy(p, TARGETS, WEIGHT, reduction=reduction, eps=0.1)
    assert torch.equal(module(p, TARGETS), expected)
    floored = torchbce.BCELoss(reduction=reduction)(p, TARGETS)
    assert torch.equal(floored, binary_cross_entropy(p, TARGETS, reduction=reduction))
    assert not torch.equal(floored, expected)


def test_weights_are_positional_as_in_pytorch() -> None:
    ours = torchbce.BCEWithLogitsLoss(WEIGHT, None, None, "sum", POS_WEIGHT)
    theirs = nn.BCEWithLogitsLoss(WEIGHT, None, None, "sum", POS_WEIGHT)
    z = LOGITS.clamp(-5, 5)
    torch.testing.assert_close(ours(z, TARGETS), theirs(z, TARGETS.float()))
    ours, theirs = (
        torchbce.BCELoss(WEIGHT, None, None, "sum"),
        nn.BCELoss(WEIGHT, None, None, "sum"),
    )
    p = torch.sigmoid(z)
    torch.testing.assert_close(ours(p, TARGETS), theirs(p, TARGETS.float()))


@pytest.mark.parametrize("swap", [False, True], ids=["from pytorch", "to pytorch"])
@pytest.mark.parametrize(
    ("ours", "theirs", "buffers"),
    [
        (
            torchbce.BCEWithLogitsLoss,
            nn.BCEWithLogitsLoss,
            {"weight": WEIGHT, "pos_weight": POS_WEIGHT},
        ),
        (torchbce.BCELoss, nn.BCELoss, {"weight": WEIGHT}),
    ],
)
def test_state_dicts_can_be_exchanged_with_pytorch(
    ours: type[nn.Module], theirs: type[nn.Module], buffers: dict[str, Tensor], swap: bool
) -> None:
    source_class, sink_class = (ours, theirs) if swap else (theirs, ours)
    source = source_class(**{name: buffer.clone() for name, buffer in buffers.items()})
    sink = sink_class(**{name: torch.zeros_like(buffer) for name, buffer in buffers.items()})
    sink.load_state_dict(source.state_dict(), strict=True)
    assert set(sink.state_dict()) == set(buffers)
    for name, buffer in buffers.items():
        assert torch.equal(sink.state_dict()[name], buffer)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_compute_the_same(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    for module, values in (
        (with_logits(), LOGITS),
        (torchbce.BCELoss(WEIGHT.clone(), reduction="sum", eps=0.1), torch.sigmoid(LOGITS)),
    ):
        twin = duplicate(module)
        assert type(twin) is type(module)
        assert torch.equal(twin(values, TARGETS), module(values, TARGETS))
        module.weight.zero_()
        assert twin(values, TARGETS) > 0
        assert module(values, TARGETS) == 0


def test_repr_shows_the_options() -> None:
    assert repr(torchbce.BCEWithLogitsLoss()) == "BCEWithLogitsLoss(reduction='mean')"
    assert repr(nn.Sequential(torchbce.BCELoss(eps=1e-7))) == (
        "Sequential(\n  (0): BCELoss(eps=1e-07, reduction='mean')\n)"
    )
    focal = torchbce.SigmoidFocalLoss(
        alpha=0.25, pos_weight=torch.ones(3), ignore_index=-1, reduction="sum"
    )
    assert repr(focal) == (
        "SigmoidFocalLoss(pos_weight=(3,), alpha=0.25, ignore_index=-1, reduction='sum')"
    )
    assert "weight=2.0" in repr(torchbce.PolyBCELoss(weight=2.0))


@pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.name)
def test_repr_shows_each_option_that_is_not_its_default(loss: Loss) -> None:
    options = {"label_smoothing": 0.1, "ignore_index": 7.0, "check_targets": True}
    shown = repr(loss.module(**loss.own, **options))
    for name, value in (loss.own | options).items():
        default = inspect.signature(loss.module).parameters[name].default
        assert (f"{name}={value!r}" in shown) == (value != default)


def test_buffers_follow_the_module() -> None:
    module = with_logits().to(torch.float64)
    assert module.weight.dtype == module.pos_weight.dtype == torch.float64
    loss = module(LOGITS.double(), TARGETS)
    assert loss.dtype == torch.float64
    number = torchbce.BCEWithLogitsLoss(pos_weight=3.0)
    assert number.pos_weight.dtype == torch.float64
    assert number.to("meta").pos_weight.is_meta
    assert number.to_empty(device="cpu").pos_weight.dtype == torch.float64
    assert not list(module.parameters())


@pytest.mark.parametrize(
    "convert", [lambda m: m, lambda m: m.float(), lambda m: m.bfloat16(), lambda m: m.double()]
)
def test_numbers_keep_their_digits(convert: Callable[[nn.Module], nn.Module]) -> None:
    """Rounded to float32, these numbers change a loss by 1e-8 of it, and more in bfloat16."""
    z, y = torch.linspace(-2, 3, 6).double(), torch.tensor([0.0, 1, 1, 0, 1, 0]).double()
    module = convert(torchbce.BCEWithLogitsLoss(weight=0.1, pos_weight=2.3))
    expected = binary_cross_entropy_with_logits(z, y, weight=0.1, pos_weight=2.3)
    assert module(z, y).equal(expected)
    assert (module.weight.item(), module.pos_weight.item()) == (0.1, 2.3)
    for dtype in (torch.float32, torch.bfloat16):
        narrow = z.to(dtype), y.to(dtype)
        of_number = binary_cross_entropy_with_logits(*narrow, weight=0.1, pos_weight=2.3)
        assert module(*narrow).equal(of_number)
    # A change in place, as a schedule of the weight makes it, is a change of the loss.
    module.pos_weight.fill_(1)
    assert module(z, y) < expected


def test_old_states_of_numbers_are_loaded() -> None:
    module = torchbce.BCEWithLogitsLoss(weight=0.1, pos_weight=2.3)
    old = {"weight": torch.tensor(0.5), "pos_weight": torch.tensor(4.0)}
    module.load_state_dict(old)
    assert (module.weight.item(), module.pos_weight.item()) == (0.5, 4.0)
    assert module.pos_weight.dtype == torch.float64
    theirs = nn.BCEWithLogitsLoss(torch.tensor(0.0), pos_weight=torch.tensor(0.0))
    theirs.load_state_dict(module.state_dict())
    assert theirs.pos_weight.item() == 4


def test_a_number_on_a_device_without_float64() -> None:
    def to_such_a_device(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64:
            raise TypeError("the device has no float64")
        return tensor.clone()

    module = torchbce.BCEWithLogitsLoss(pos_weight=2.5)._apply(to_such_a_device)
    assert module.pos_weight.dtype == torch.float32
    assert module.pos_weight.item() == 2.5


def test_numbers_become_buffers() -> None:
    module = torchbce.BCEWithLogitsLoss(weight=0.5, pos_weight=3)
    state = {name: value.item() for name, value in module.state_dict().items()}
    assert state == {"weight": 0.5, "pos_weight": 3.0}
    loss = module(torch.zeros(2), torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(0.5 * (3 + 1) / 2 * math.log(2))
    assert torchbce.BCELoss(weight=0.5)(torch.tensor([0.5]), torch.tensor([1])).item() == (
        pytest.approx(0.5 * math.log(2))
    )


@pytest.mark.parametrize("ours", [torchbce.BCEWithLogitsLoss, torchbce.BCELoss])
def test_constructor_errors(ours: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"reduction must be one of .*; got 'average'"):
        ours(reduction="average")
    with pytest.raises(ValueError, match=r"weight must be finite and not negative, got -1"):
        ours(weight=-1.0)


def test_constructor_errors_of_one_class() -> None:
    with pytest.raises(ValueError, match=r"pos_weight must be finite and not negative, got inf"):
        torchbce.BCEWithLogitsLoss(pos_weight=math.inf)
    with pytest.raises(ValueError, match=r"eps must be in \(0, 0.5\), got 0.5"):
        torchbce.BCELoss(eps=0.5)


@pytest.mark.parametrize("ours", [torchbce.BCEWithLogitsLoss, torchbce.BCELoss])
@pytest.mark.parametrize(
    ("size_average", "reduce", "reduction"),
    [(True, None, "mean"), (False, None, "sum"), (None, False, "none"), (False, True, "sum")],
)
def test_legacy_arguments(
    ours: type[nn.Module], size_average: bool | None, reduce: bool | None, reduction: str
) -> None:
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        module = ours(size_average=size_average, reduce=reduce)
    assert module.reduction == reduction


@pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.name)
def test_check_targets_of_a_module(loss: Loss) -> None:
    x, y = loss.inputs(3, dtype=torch.float32), torch.tensor([0.0, 2.0, 1.0])
    assert loss.module(**loss.own).check_targets is None
    for check in (None, True):
        module = loss.module(**loss.own, check_targets=check)
        assert module.check_targets is check
        with pytest.raises(ValueError, match=r"target\[1\] is 2.0"):
            module(x, y)
    module = loss.module(**loss.own, check_targets=False)
    assert module.check_targets is False
    assert torch.equal(module(x, y), loss(x, y, check_targets=False))
    module.check_targets = True
    with pytest.raises(ValueError, match=r"target\[1\] is 2.0"):
        module(x, y)


def test_a_model_trains_through_the_module() -> None:
    # The derivative at a zero-initialised layer is known: mean of (1/2 - y) x.
    layer = nn.Linear(3, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    x, y = LOGITS, torch.tensor([1, 0])
    torchbce.BCEWithLogitsLoss()(layer(x), y).backward()
    torch.testing.assert_close(layer.weight.grad, ((0.5 - y.float())[:, None] * x).mean(0)[None])
    assert layer.bias.grad.item() == 0
