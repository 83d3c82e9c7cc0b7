"""The linear head: initialisation, state, top-k, and fused optimizers."""

import copy
import io
import itertools
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import lr_scheduler as schedules
from torch.utils.checkpoint import checkpoint

import torchbce.linear
from family import once
from torchbce import FusedAdagrad, FusedRowwiseAdagrad, FusedSGD, LinearBCELoss
from torchbce import linear_binary_cross_entropy as linear_bce

WIDTH, LABELS = 4, 11

#: Optimizers with all hyperparameters other than 0.
MAKERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: FusedSGD(lr=0.3, weight_decay=0.05),
    "adagrad": lambda: FusedRowwiseAdagrad(lr=0.2, weight_decay=0.05, eps=1e-3),
    "full adagrad": lambda: FusedAdagrad(0.2, 0.05, initial_accumulator_value=0.3, eps=1e-3),
}
each_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def head(**options: Any) -> LinearBCELoss:
    """A head with the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LinearBCELoss(WIDTH, LABELS, **options)


def batch(
    rows: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, WIDTH, generator=g)
    return x.to(dtype), once(torch.randint(-1, LABELS, (rows, 3), generator=g))


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(value.equal(other[name]) for name, value in one.items())


# ------------------------------------------------------------------------------------ beginning


@pytest.mark.parametrize("prior", [0.01, 0.5, 1e-9, torch.linspace(0.01, 0.99, LABELS)], ids=str)
@pytest.mark.parametrize("pos_weight", [None, 3.0, torch.arange(1.0, LABELS + 1)], ids=str)
def test_the_bias_is_initialised_from_the_prior(prior: Any, pos_weight: Any) -> None:
    made = head(prior=prior, pos_weight=pos_weight)
    p = torch.as_tensor(prior, dtype=torch.float64).expand(LABELS)
    w = torch.ones(LABELS) if pos_weight is None else torch.as_tensor(pos_weight).expand(LABELS)
    # The minimum of the weighted loss: the odds of the prior times the weight of positives.
    odds = p / (1 - p) * w
    torch.testing.assert_close(made.bias.double().exp(), odds, rtol=1e-5, atol=0)
    z, b = torch.zeros(1, WIDTH), made.bias.detach().double().requires_grad_()
    wide = made.weight.detach().double()
    for label in range(3):
        one = torch.full((1, 1), label)
        positive = linear_bce(
            z.double(), wide, one, b, pos_weight=w.double(), reduction="sum"
        ) - linear_bce(z.double(), wide, one * 0 - 1, b, reduction="sum")
        negative = linear_bce(z.double(), wide, one * 0 - 1, b, reduction="sum")
        # The expected loss of a label that is positive at the rate of the prior.
        expected = negative + p[label] * positive
        (slope,) = torch.autograd.grad(expected, b)
        scale = float(w[label])
        assert abs(slope[label].item()) < 1e-6 * scale


def test_the_weight_is_initialised_as_that_of_linear() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        weight = LinearBCELoss(100, 500).weight
        torch.manual_seed(3)
        assert weight.equal(torch.nn.Linear(100, 500).weight)
    assert weight.abs().max() <= 0.1
    assert weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    "prior", [0.0, 1.0, -0.1, 1.5, math.nan, torch.tensor([0.5] * 10 + [1.0])], ids=str
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_prior_out_of_range(prior: Any, bias: bool) -> None:
    with pytest.raises(ValueError, match=r"(?s)prior must be in \(0, 1\), got .*rate of positives"):
        LinearBCELoss(WIDTH, LABELS, bias=bias, prior=prior)


def test_one_number_in_any_shape() -> None:
    # A tensor of one element is one number, as linear_binary_cross_entropy takes pos_weight.
    expected = head(prior=0.25, pos_weight=2.0)
    for shape in ((), (1,), (1, 1)):
        made = head(prior=torch.full(shape, 0.25), pos_weight=torch.full(shape, 2.0))
        assert made.bias.equal(expected.bias)
        assert made(*batch()).equal(expected(*batch()))


def test_a_prior_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match="prior"):
        LinearBCELoss(WIDTH, LABELS, prior=torch.full((LABELS - 1,), 0.1))


def test_a_pos_weight_of_zero() -> None:
    # Allowed, as in linear_binary_cross_entropy; the bias that minimises the loss would be -inf.
    x, target = batch()
    assert head(pos_weight=0.0, bias=False)(x, target).isfinite()
    for pos_weight in (0.0, torch.arange(float(LABELS))):
        made = head(pos_weight=pos_weight)
        assert made.bias.isfinite().all()


def test_reset_parameters() -> None:
    made = head(prior=0.2)
    with torch.no_grad():
        made.weight.zero_()
        made.bias.zero_()
    made.reset_parameters()
    assert made.weight.abs().sum() > 0
    torch.testing.assert_close(made.bias.sigmoid(), torch.full((LABELS,), 0.2))


def test_a_head_without_bias() -> None:
    made, (x, target) = head(bias=False), batch()
    assert made.bias is None
    assert list(made.state_dict()) == ["weight"]
    assert made(x, target).equal(linear_bce(x, made.weight, target))
    torch.testing.assert_close(made.logits(x), x @ made.weight.T)
    assert made.topk(x, 2).indices.equal(torch.topk(made.logits(x), 2).indices)


@pytest.mark.parametrize("pos_weight", [None, 2.0], ids=str)
def test_made_on_the_meta_device(pos_weight: float | None) -> None:
    made = LinearBCELoss(WIDTH, LABELS, pos_weight=pos_weight, device="meta")
    assert made.weight.is_meta
    made.to_empty(device="cpu").load_state_dict(head(pos_weight=pos_weight).state_dict())
    assert made(*batch()).equal(head(pos_weight=pos_weight)(*batch()))


MISUSES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "pos_weight of other labels": (
        lambda: LinearBCELoss(3, 5, pos_weight=torch.ones(4)),
        ValueError,
        r"pos_weight has shape \(4,\); it must have shape \(5,\)",
    ),
    "pos_weight below 0": (
        lambda: LinearBCELoss(3, 5, pos_weight=-1.0),
        ValueError,
        "pos_weight must be finite and not negative, got -1.0",
    ),
    "label_weight of other labels": (
        lambda: LinearBCELoss(3, 5, label_weight=torch.ones(4)),
        ValueError,
        r"label_weight has shape \(4,\); it must have shape \(5,\)",
    ),
    "label_weight as a list": (
        lambda: LinearBCELoss(3, 5, label_weight=[1.0] * 5),  # type: ignore[arg-type]
        TypeError,
        r"label_weight must be a real tensor of shape \(5,\), got list",
    ),
    "a reduction": (
        lambda: LinearBCELoss(3, 5, reduction="avg"),
        ValueError,
        "reduction must be one of 'mean', 'sum', 'batch_mean', 'none'; got 'avg'",
    ),
    "smoothing": (
        lambda: LinearBCELoss(3, 5, label_smoothing=2.0),
        ValueError,
        r"label_smoothing must be in \[0, 1\], got 2.0",
    ),
    "chunks": (
        lambda: LinearBCELoss(3, 5, chunk_labels=0),
        ValueError,
        "chunk_labels must be an integer of 1 or above, or None; got 0",
    ),
    "a dtype": (
        lambda: LinearBCELoss(3, 5, dtype=torch.int32),
        TypeError,
        "must have a floating dtype|Only Tensors of floating point",
    ),
    "an optimizer of PyTorch": (
        lambda: LinearBCELoss(
            3,
            5,
            fused_optimizer=torch.optim.SGD([torch.ones(1)]),  # type: ignore[arg-type]
        ),
        TypeError,
        "fused_optimizer must be a torchbce.FusedSGD, FusedAdagrad or FusedRowwiseAdagrad, got SGD",
    ),
    "an optimizer's class": (
        lambda: LinearBCELoss(3, 5, fused_optimizer=FusedSGD),  # type: ignore[arg-type]
        TypeError,
        "fused_optimizer must be .* got type",
    ),
    **{
        f"{name} of {value} for {kind.__name__}": (
            lambda kind=kind, name=name, value=value: kind(**{"lr": 0.1, name: value}),
            ValueError,
            f"{name} must be finite and not negative, got {value}",
        )
        for kind, names in (
            (FusedSGD, ("lr", "weight_decay")),
            (FusedRowwiseAdagrad, ("lr", "weight_decay", "eps")),
            (FusedAdagrad, ("lr", "weight_decay", "initial_accumulator_value", "eps")),
        )
        for name in names
        for value in (-0.1, math.inf, math.nan)
    },
    "eps of 0": (
        lambda: FusedRowwiseAdagrad(0.1, eps=0.0),
        ValueError,
        "eps must be above 0, got 0",
    ),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_error_message(misuse: str) -> None:
    make, kind, words = MISUSES[misuse]
    with pytest.raises(kind, match=words):
        make()


# ------------------------------------------------------------------------------- loss and state


@pytest.mark.parametrize("reduction", ["mean", "sum", "batch_mean", "none"])
def test_options_reach_the_loss(reduction: str) -> None:
    x, target = batch()
    g = torch.Generator().manual_seed(1)
    stored = {
        "pos_weight": torch.rand(LABELS, generator=g) + 0.5,
        "label_weight": torch.rand(LABELS, generator=g),
        "label_smoothing": 0.1,
        "reduction": reduction,
        "chunk_labels": 3,
    }
    given = {
        "row_weight": torch.rand(5, generator=g),
        "mask": torch.rand(5, LABELS, generator=g) > 0.2,
        "ignored": torch.randint(-1, LABELS, (5, 1), generator=g),
    }
    made = head(**stored)
    expected = linear_bce(x, made.weight, target, made.bias, **stored, **given)
    assert made(x, target, **given).equal(expected)
    # Each option changes the loss.
    for name in given:
        without = {k: v for k, v in given.items() if k != name}
        assert not made(x, target, **without).equal(expected)


def test_a_number_as_pos_weight() -> None:
    x, target = batch()
    made = head(pos_weight=2.5)
    expected = linear_bce(x, made.weight, target, made.bias, pos_weight=2.5)
    assert made(x, target).equal(expected)
    assert made.state_dict()["pos_weight"] == 2.5


def test_it_loads_the_state_of_a_linear_layer() -> None:
    linear = torch.nn.Linear(WIDTH, LABELS)
    made = head()
    made.load_state_dict(linear.state_dict())
    x, target = batch()
    y = torch.zeros(5, LABELS + 1).scatter(1, target % (LABELS + 1), 1)[:, :LABELS]
    dense = torch.nn.functional.binary_cross_entropy_with_logits(linear(x), y)
    torch.testing.assert_close(made(x, target), dense)
    assert made.logits(x).equal(linear(x))
    linear.load_state_dict(made.state_dict())


def test_the_keys_of_the_state() -> None:
    assert list(head().state_dict()) == ["weight", "bias"]
    assert set(head(pos_weight=2.0, label_weight=torch.ones(LABELS)).state_dict()) == {
        "weight",
        "bias",
        "pos_weight",
        "label_weight",
    }
    sgd, adagrad, full = (head(fused_optimizer=make()) for make in MAKERS.values())
    assert full.state_dict().keys() == adagrad.state_dict().keys()
    assert set(sgd.state_dict()) == {"weight", "bias", "fused_optimizer._extra_state"}
    assert set(adagrad.state_dict()) == {
        *sgd.state_dict(),
        "fused_optimizer.weight_sum",
        "fused_optimizer.bias_sum",
    }
    assert (
        "fused_optimizer.bias_sum"
        not in head(bias=False, fused_optimizer=FusedRowwiseAdagrad(1.0)).state_dict()
    )


OPTIONS_WITH_STATE: dict[str, Callable[[], dict[str, Any]]] = {
    "none": dict,
    "no bias": lambda: {"bias": False},
    "weights": lambda: {"pos_weight": 2.0, "label_weight": torch.rand(LABELS)},
    "sgd": lambda: {"pos_weight": torch.rand(LABELS), "fused_optimizer": MAKERS["sgd"]()},
    "adagrad": lambda: {"fused_optimizer": MAKERS["full adagrad"]()},
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("options", OPTIONS_WITH_STATE.values(), ids=OPTIONS_WITH_STATE)
def test_states_are_exchanged_with_linear(
    options: Callable[[], dict[str, Any]], inside: bool, assign: bool
) -> None:
    made = head(**options())
    made(*batch()).backward()
    linear = torch.nn.Linear(WIDTH, LABELS, bias=made.bias is not None)
    if not set(options()) - {"bias"}:
        linear.load_state_dict(made.state_dict())
        assert linear.weight.equal(made.weight)
        torch.nn.init.zeros_(linear.weight)
    before = state(made)
    models: Any = [made, linear]
    if inside:
        models = [torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "head": m}) for m in models]
    models[0].load_state_dict(models[1].state_dict(), assign=assign)
    after = state(made)
    of_linear = {k: after.pop(k) for k in linear.state_dict()}
    assert_same(of_linear, state(linear))
    assert_same(after, {k: before[k] for k in after})
    layer = made.to_linear()
    linear.load_state_dict(layer.state_dict())
    assert type(layer) is torch.nn.Linear
    assert layer.weight is made.weight
    assert layer.bias is made.bias
    x = batch()[0]
    assert layer(x).equal(made.logits(x))


def test_a_state_with_other_keys_is_loaded_strictly() -> None:
    made = head(pos_weight=2.0, label_weight=torch.ones(LABELS))
    kept = made.state_dict()
    del kept["label_weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*label_weight"):
        made.load_state_dict(kept)
    with pytest.raises(RuntimeError, match=r"Missing key.*bias"):
        made.load_state_dict({"weight": made.weight})
    with pytest.raises(RuntimeError, match="Missing key"):
        made.load_state_dict({})


def test_the_layer_of_a_computed_weight_has_its_values() -> None:
    made = torch.nn.utils.parametrizations.weight_norm(head())
    layer = made.to_linear()
    assert layer.weight.equal(made.weight)
    assert isinstance(layer.weight, torch.nn.Parameter)
    assert made.double().eval().to_linear().weight.dtype == torch.float64
    assert not made.to_linear().training


def test_repr() -> None:
    assert repr(head(bias=False)) == (
        "LinearBCELoss(in_features=4, out_features=11, bias=False, reduction='mean')"
    )
    shown = repr(head(fused_optimizer=FusedRowwiseAdagrad(0.5, eps=1e-3), reduction="none"))
    assert "in_features=4, out_features=11, bias=True, reduction='none'" in shown
    assert "FusedRowwiseAdagrad(lr=0.5, weight_decay=0.0, eps=0.001)" in shown
    assert repr(FusedSGD(0.1)) == "FusedSGD(lr=0.1, weight_decay=0.0)"


def test_repr_shows_the_options() -> None:
    made = head(
        prior=0.2,
        pos_weight=0.1,
        label_weight=torch.ones(LABELS),
        label_smoothing=0.25,
        reduction="batch_mean",
        chunk_labels=3,
        check_targets=False,
    )
    assert repr(made) == (
        "LinearBCELoss(in_features=4, out_features=11, bias=True, prior=0.2, pos_weight=0.1, "
        "label_weight=tensor of shape (11,), label_smoothing=0.25, reduction='batch_mean', "
        "chunk_labels=3, check_targets=False)"
    )
    rates = torch.full((LABELS,), 0.2)
    shown = repr(LinearBCELoss(WIDTH, LABELS, prior=rates, pos_weight=2.0, device="meta"))
    assert "prior=tensor of shape (11,), pos_weight=tensor of shape ()" in shown


def test_public_names_load_at_their_first_use() -> None:
    script = (
        "import sys, torchbce.linear as linear\n"
        "assert 'torchbce.linear.records' not in sys.modules\n"
        "assert set(linear.__all__) <= set(dir(linear))\n"
        "import torchbce\n"
        "assert all(getattr(linear, n) is getattr(torchbce, n) for n in linear.__all__)\n"
        "torchbce.LinearBCELoss(2, 3, fused_optimizer=torchbce.FusedSGD(0.1))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    with pytest.raises(AttributeError, match=r"module 'torchbce\.linear' has no attribute 'loses'"):
        torchbce.linear.loses  # noqa: B018


def by_pickle(module: Any) -> Any:
    return pickle.loads(pickle.dumps(module))


def by_torch(module: Any) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle, by_torch])
@pytest.mark.parametrize("make", [lambda: None, *MAKERS.values()], ids=["none", *MAKERS])
def test_copies_are_equal_and_independent(duplicate: Callable[[Any], Any], make: Any) -> None:
    x, target = batch()
    made = head(pos_weight=2.0, chunk_labels=4, fused_optimizer=make())
    made(x, target).backward()
    twin = duplicate(made)
    assert_same(state(made), state(twin))
    before = state(made)
    assert twin(x, target).equal(made(x, target))
    twin(x, target).backward()
    with torch.no_grad():
        twin.weight.add_(1)
    assert_same(state(made), before)
    made(x, target).backward()
    if make() is not None:
        assert not made.weight.equal(before["weight"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_another_dtype(dtype: torch.dtype) -> None:
    made = head(pos_weight=2.0, label_weight=torch.ones(LABELS)).to(dtype)
    x, target = batch(dtype=dtype)
    loss = made(x, target)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    loss.backward()
    assert made.weight.grad.dtype == made.bias.grad.dtype == dtype
    fresh = LinearBCELoss(WIDTH, LABELS, dtype=dtype)
    assert fresh.weight.dtype == fresh.bias.dtype == dtype
    tolerance = {torch.float64: 1e-7, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    assert fresh.bias[0].item() == pytest.approx(math.log(0.01 / 0.99), rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_number_keeps_its_digits(dtype: torch.dtype) -> None:
    made = head(pos_weight=2.3).to(dtype)
    x, target = batch(dtype=dtype)
    expected = linear_bce(x, made.weight, target, made.bias, pos_weight=2.3)
    assert made(x, target).equal(expected)
    assert made.pos_weight.item() == 2.3
    assert "pos_weight=2.3" in repr(made)


# -------------------------------------------------------------------------------------- ranking


def test_logits_and_probabilities() -> None:
    made, (x, _) = head(), batch(6)
    for lead in ((6,), (2, 3), (1, 6)):
        z = made.logits(x.view(*lead, WIDTH))
        assert z.shape == (*lead, LABELS)
        assert z.equal(torch.nn.functional.linear(x.view(*lead, WIDTH), made.weight, made.bias))
        assert made.probabilities(x.view(*lead, WIDTH)).equal(torch.sigmoid(z))
    assert made.logits(x[0]).shape == (LABELS,)
    (gradient,) = torch.autograd.grad(made.logits(x).sum(), made.weight)
    torch.testing.assert_close(gradient, x.sum(0).expand(LABELS, WIDTH))


@pytest.mark.parametrize("k", [1, 2, 7, LABELS])
@pytest.mark.parametrize("chunk", [1, 3, 7, LABELS, 64, None])
@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (0,)], ids=str)
def test_topk_is_that_of_the_dense_logits(k: int, chunk: int | None, lead: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(k)
    x = torch.randn(*lead, WIDTH, generator=g)
    made = head(chunk_labels=chunk)
    with torch.no_grad():
        made.bias.copy_(torch.randn(LABELS, generator=g))
    values, indices = made.topk(x, k)
    expected = torch.topk(made.logits(x), k)
    assert indices.dtype == torch.int64
    assert indices.equal(expected.indices)
    assert not values.requires_grad
    torch.testing.assert_close(values, expected.values.detach(), rtol=1e-5, atol=1e-6)
    assert made.topk(x, k).values.equal(values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_topk_of_another_dtype_does_not_round_logits(dtype: torch.dtype) -> None:
    made = LinearBCELoss(WIDTH, 300, chunk_labels=64, dtype=dtype)
    x = batch(dtype=dtype)[0]
    values, indices = made.topk(x, 20)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    z = torch.nn.functional.linear(x.double(), made.weight.double(), made.bias.double())
    assert values.dtype == wide
    torch.testing.assert_close(values.double(), z.gather(1, indices), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(values.double(), torch.topk(z, 20).values, rtol=1e-5, atol=1e-6)
    assert all(len(set(row)) == 20 for row in indices.tolist())


def test_topk_of_equal_logits_has_each_label_once() -> None:
    made = head(chunk_labels=2)
    with torch.no_grad():
        made.weight.zero_()
    values, indices = made.topk(torch.ones(3, WIDTH), LABELS)
    assert values.equal(made.bias.detach().expand(3, LABELS))
    assert indices.sort().values.equal(torch.arange(LABELS).expand(3, LABELS))


def test_topk_under_autocast() -> None:
    made, (x, target) = head(), batch()
    half = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert made(half, target).isfinite()
        values, indices = made.topk(half, 3)
    expected = made.topk(half.float(), 3)
    assert values.equal(expected.values)
    assert indices.equal(expected.indices)


@pytest.mark.parametrize("k", [0, -1, LABELS + 1, 2.0, True, None], ids=str)
def test_topk_of_a_number_out_of_range(k: Any) -> None:
    words = rf"k must be an integer from 1 to the number of labels, 11; got {k}"
    with pytest.raises(ValueError, match=words):
        head().topk(batch()[0], k)


def test_topk_without_features() -> None:
    made = LinearBCELoss(0, LABELS)
    with torch.no_grad():
        made.bias.copy_(torch.arange(LABELS) % 7)
    values, indices = made.topk(torch.empty(3, 0), 1)
    assert values.equal(torch.full((3, 1), 6.0))
    assert indices.equal(torch.full((3, 1), 6))


def test_topk_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"input has shape \(5, 3\) and weight \(11, 4\)"):
        head().topk(torch.ones(5, 3), 2)


# ----------------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_sgd_is_pytorchs(dtype: torch.dtype, bias: bool, chunk: int | None, decay: float) -> None:
    made = head(bias=bias, chunk_labels=chunk, fused_optimizer=FusedSGD(0.5, decay)).to(dtype)
    plain = head(bias=bias, chunk_labels=chunk).to(dtype)
    groups: list[dict[str, Any]] = [{"params": [plain.weight], "weight_decay": decay}]
    if bias:
        groups.append({"params": [plain.bias], "weight_decay": 0.0})
    steps = torch.optim.SGD(groups, lr=0.5)
    for step in range(6):
        x, target = batch(seed=step, dtype=dtype)
        loss, expected = made(x, target), plain(x, target)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        steps.zero_grad()
        expected.backward()
        steps.step()
        assert made.weight.grad is None
        assert made.bias is None or made.bias.grad is None
    # A few roundings per step, of numbers below 5.
    close = {"rtol": 0, "atol": 1e-14 if dtype == torch.float64 else 1e-5}
    torch.testing.assert_close(made.weight, plain.weight, **close)
    assert (made.weight - head(bias=bias).weight).abs().max() > 0.01
    if bias:
        torch.testing.assert_close(made.bias, plain.bias, **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("numbers", [(0.2, 0.0, 1e-10), (0.2, 0.05, 1e-2)], ids=str)
def test_adagrad_is_its_formula(
    dtype: torch.dtype, bias: bool, chunk: int | None, numbers: tuple[float, float, float]
) -> None:
    lr, decay, eps = numbers
    made = head(bias=bias, chunk_labels=chunk, fused_optimizer=FusedRowwiseAdagrad(*numbers))
    made = made.to(dtype)
    plain = head(bias=bias).double()
    sums, bias_sums = torch.zeros(LABELS).double(), torch.zeros(LABELS).double()
    for step in range(6):
        x, target = batch(seed=step, dtype=dtype)
        made(x, target).backward()
        plain.zero_grad()
        plain(x.double(), target).backward()
        with torch.no_grad():
            g = plain.weight.grad + decay * plain.weight
            sums += (g * g).sum(1) / WIDTH
            plain.weight -= lr * g / (sums.sqrt() + eps)[:, None]
            if plain.bias is not None:
                bias_sums += plain.bias.grad**2
                plain.bias -= lr * plain.bias.grad / (bias_sums.sqrt() + eps)
    kept = made.fused_optimizer
    rtol = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(kept.weight_sum.double(), sums, rtol=rtol, atol=0)
    torch.testing.assert_close(made.weight.double(), plain.weight, rtol=rtol, atol=rtol)
    assert made.weight.grad is None
    if bias:
        torch.testing.assert_close(kept.bias_sum.double(), bias_sums, rtol=rtol, atol=0)
        torch.testing.assert_close(made.bias.double(), plain.bias, rtol=rtol, atol=rtol)
    else:
        assert kept.bias_sum is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("numbers", [(0.2, 0.0, 0.0, 1e-10), (0.2, 0.05, 0.125, 1e-2)], ids=str)
def test_full_adagrad_is_pytorchs(
    dtype: torch.dtype, bias: bool, chunk: int | None, numbers: tuple[float, ...]
) -> None:
    lr, decay, initial, eps = numbers
    made = head(bias=bias, chunk_labels=chunk, fused_optimizer=FusedAdagrad(*numbers)).to(dtype)
    plain = head(bias=bias, chunk_labels=chunk).to(dtype)
    groups: list[dict[str, Any]] = [{"params": [plain.weight], "weight_decay": decay}]
    if bias:
        groups.append({"params": [plain.bias]})
    steps = torch.optim.Adagrad(groups, lr=lr, initial_accumulator_value=initial, eps=eps)
    for step in range(50):
        x, target = batch(seed=step, dtype=dtype)
        made(x, target).backward()
        steps.zero_grad()
        plain(x, target).backward()
        steps.step()
    # A few roundings per step of numbers below 4, of which the first steps divide by small roots.
    close = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 2e-4}
    sums = {"rtol": 1e-11 if dtype == torch.float64 else 2e-4, "atol": 0}
    torch.testing.assert_close(made.weight, plain.weight, **close)
    kept, theirs = made.fused_optimizer, steps.state
    torch.testing.assert_close(kept.weight_sum, theirs[plain.weight]["sum"], **sums)
    assert made.weight.grad is None
    assert (made.weight - head(bias=bias).weight).abs().max() > 0.1
    if bias:
        torch.testing.assert_close(made.bias, plain.bias, **close)
        torch.testing.assert_close(kept.bias_sum, theirs[plain.bias]["sum"], **sums)


def test_a_row_without_a_gradient_stays_where_it_is() -> None:
    made = head(fused_optimizer=FusedRowwiseAdagrad(0.1))
    mask = torch.ones(LABELS, dtype=torch.bool)
    mask[3] = False
    before = state(made)
    made(*batch(), mask=mask).backward()
    assert made.weight[3].equal(before["weight"][3])
    assert made.bias[3] == before["bias"][3]
    assert (made.weight[mask] != before["weight"][mask]).any(1).all()


@each_optimizer
@pytest.mark.parametrize("reduction", ["mean", "sum", "batch_mean"])
def test_the_gradient_of_the_input_uses_the_weights_before_the_step(
    make: Any, reduction: str
) -> None:
    x, target = batch()
    x.requires_grad_()
    plain = head(reduction=reduction, chunk_labels=3)
    (expected,) = torch.autograd.grad(plain(x, target), x)
    made = head(reduction=reduction, chunk_labels=3, fused_optimizer=make())
    made(x, target).backward()
    assert x.grad.equal(expected)
    # An input that needs no gradient does not prevent the step.
    other = head(reduction=reduction, chunk_labels=3, fused_optimizer=make())
    other(x.detach(), target).backward()
    assert_same(state(other), state(made))
    assert not other.weight.equal(plain.weight)


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_loss_per_row(make: Any, dtype: torch.dtype) -> None:
    x, target = batch(dtype=dtype)
    above = torch.linspace(0.1, 1, 5).to(dtype)
    rows = head(reduction="none", fused_optimizer=make()).to(dtype)
    rows(x, target).backward(above)
    total = head(reduction="sum", fused_optimizer=make()).to(dtype)
    total(x, target, row_weight=above).backward()
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(rows, name), getattr(total, name))
    left = state(rows)
    with pytest.raises(RuntimeError, match="left as it was"):
        rows(x, target).backward(above.index_fill(0, torch.tensor([2]), math.nan))
    assert_same(state(rows), left)


@pytest.mark.parametrize("factor", [0.5, 2.0, 0.0])
def test_the_upstream_gradient_scales_the_step(factor: float) -> None:
    x, target = batch(dtype=torch.float64)
    whole, part = (head(fused_optimizer=FusedSGD(0.3)).double() for _ in range(2))
    before = state(whole)
    whole(x, target).backward()
    (part(x, target) * factor).backward()
    for name in ("weight", "bias"):
        step = whole.state_dict()[name] - before[name]
        assert step.abs().min() > 1e-6
        torch.testing.assert_close(part.state_dict()[name] - before[name], step * factor)


@each_optimizer
def test_a_schedule_sets_the_step_size(make: Any) -> None:
    changed, fixed = (head(fused_optimizer=make()) for _ in range(2))
    changed.fused_optimizer.lr = 0.01
    still = head(fused_optimizer=make())
    still.fused_optimizer.lr = 0.0
    before = state(still)["weight"]
    steps = []
    for made in (changed, fixed, still):
        made(*batch()).backward()
        steps.append(made.weight.detach() - before)
    torch.testing.assert_close(steps[0], steps[1] * 0.01 / make().lr, rtol=1e-3, atol=1e-7)
    assert not steps[2].any()
    assert changed.state_dict()["fused_optimizer._extra_state"][0] == 0.01


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: schedules.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: schedules.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: schedules.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: schedules.MultiStepLR(o, [1, 3], 0.5),
    "ConstantLR": lambda o: schedules.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda o: schedules.LinearLR(o, 0.5, total_iters=3),
    "ExponentialLR": lambda o: schedules.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: schedules.PolynomialLR(o, 5),
    "CosineAnnealingLR": lambda o: schedules.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 2),
    "ChainedScheduler": lambda o: schedules.ChainedScheduler(
        [schedules.StepLR(o, 2), schedules.ExponentialLR(o, 0.5)]
    ),
    "SequentialLR": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.5, total_iters=2), schedules.ExponentialLR(o, 0.5)], [2]
    ),
    "CyclicLR": lambda o: schedules.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=False),
    "OneCycleLR": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=6, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: schedules.ReduceLROnPlateau(o, patience=0),
}


def test_every_schedule_of_pytorch_is_tested() -> None:
    assert set(SCHEDULES) == set(schedules.__all__) - {"LRScheduler"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [lambda: FusedSGD(0.3), MAKERS["full adagrad"]])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_pytorch(make: Any, name: str) -> None:
    made = head(fused_optimizer=make())
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=make().lr)
    pairs = [(o, SCHEDULES[name](o)) for o in (made.fused_optimizer, theirs)]
    changes = []
    for step in range(5):
        rates = []
        for optimizer, schedule in pairs:
            rates.append(optimizer.param_groups[0]["lr"])
            if optimizer is theirs:
                theirs.step()
            else:
                before = made.weight.detach().clone()
                made(*batch(seed=step)).backward()
                changes.append((made.weight - before).norm().item())
            schedule.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        assert rates[0] == rates[1]
    assert made.fused_optimizer.lr == theirs.param_groups[0]["lr"]
    assert made.state_dict()["fused_optimizer._extra_state"][0] == made.fused_optimizer.lr
    assert all(changes)


@pytest.mark.filterwarnings("error")
def test_the_step_of_a_fused_optimizer() -> None:
    made, other = (head(fused_optimizer=FusedSGD(0.3)) for _ in range(2))
    fused, seen = made.fused_optimizer, []
    fused.register_step_post_hook(lambda *_: seen.append(made.weight.detach().clone()))
    made(*batch()).backward()
    other(*batch()).backward()
    assert len(seen) == 1
    assert seen[0].equal(other.weight)  # hooks run after the update
    # Where a loop calls it, it only calls the closure; and there is nothing to set to zero.
    fused.zero_grad()
    assert fused.step() is None
    assert fused.step(lambda: made(*batch()).requires_grad) is True
    assert_same(state(made), state(other))
    with pytest.raises(ValueError, match=r"give other parameters to an optimizer of torch\.optim"):
        fused.add_param_group({"params": [torch.zeros(1)]})
    with pytest.raises(ValueError, match="optimizer must support momentum"):
        schedules.OneCycleLR(fused, 0.1, total_steps=6)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle, by_torch])
def test_copies_under_a_schedule(duplicate: Callable[[Any], Any]) -> None:
    made = head(fused_optimizer=MAKERS["adagrad"]())
    schedule = schedules.StepLR(made.fused_optimizer, 1, 0.5)
    made(*batch()).backward()
    schedule.step()
    twin = duplicate(made)
    schedule.step()
    assert (twin.fused_optimizer.lr, made.fused_optimizer.lr) == (0.1, 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = schedules.StepLR(twin.fused_optimizer, 1, 0.5)
        twin(*batch()).backward()
        own.step()
    assert made.fused_optimizer.lr == 0.05


@each_optimizer
@pytest.mark.parametrize("safely", [True, False])
def test_training_continues_from_the_saved_state(make: Any, safely: bool, tmp_path: Any) -> None:
    made = head(fused_optimizer=make())
    for step in range(3):
        made(*batch(seed=step)).backward()
    made.fused_optimizer.lr = 0.07
    if safely:
        save_file(made.state_dict(), tmp_path / "head.safetensors")
        kept = load_file(tmp_path / "head.safetensors")
    else:
        torch.save(made.state_dict(), tmp_path / "head.pt")
        kept = torch.load(tmp_path / "head.pt", weights_only=True)
    other = LinearBCELoss(WIDTH, LABELS, fused_optimizer=type(make())(lr=1.0))
    other.load_state_dict(kept)
    assert other.fused_optimizer.lr == 0.07
    assert repr(other) == repr(made)
    for step in range(3, 6):
        for one in (made, other):
            one(*batch(seed=step)).backward()
    assert_same(state(other), state(made))


@each_optimizer
def test_a_second_backward_pass_is_no_second_step(make: Any) -> None:
    made = head(fused_optimizer=make())
    loss = made(*batch())
    loss.backward(retain_graph=True)
    after = state(made)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert_same(state(made), after)


@each_optimizer
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_not_written(make: Any, value: float) -> None:
    made = head(fused_optimizer=make())
    made(*batch()).backward()
    before = state(made)
    with pytest.raises(RuntimeError, match="would write it into the weight, which is left as it"):
        (made(*batch()) * value).backward()
    assert_same(state(made), before)


@each_optimizer
def test_no_step_without_a_backward_pass(make: Any) -> None:
    made = head(fused_optimizer=make())
    before = state(made)
    x, target = batch()
    made(x, target)
    with torch.no_grad():
        loss = made(x, target)
    assert not loss.requires_grad
    with torch.inference_mode():
        made(x, target)
    made.eval()(x, target)
    made.topk(x, 2)
    made.logits(x)
    with pytest.raises(ValueError, match=r"target\[0, 0\] is 2"):
        made(x, torch.full((5, LABELS), 2.0))
    assert_same(state(made), before)
    assert made(x, target).equal(head()(x, target))


@each_optimizer
def test_a_frozen_head_takes_no_step(make: Any) -> None:
    x, target = batch()
    made = head(fused_optimizer=make()).requires_grad_(False)
    before = state(made)
    x.requires_grad_()
    made(x, target).backward()
    assert_same(state(made), before)
    (expected,) = torch.autograd.grad(head()(x, target), x)
    assert x.grad.equal(expected)


@each_optimizer
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_only_the_parameter_that_is_not_frozen_changes(make: Any, frozen: str) -> None:
    made, free = (head(fused_optimizer=make()) for _ in range(2))
    getattr(made, frozen).requires_grad_(False)
    before = state(made)
    for one in (made, free):
        one(*batch()).backward()
    other = "bias" if frozen == "weight" else "weight"
    assert state(made)[other].equal(state(free)[other])
    assert state(made)[frozen].equal(before[frozen])


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_weights_are_refused(make: Any, dtype: torch.dtype) -> None:
    made = head(fused_optimizer=make()).to(dtype)
    x, target = batch(dtype=dtype)
    with pytest.raises(TypeError, match=rf"weight is {dtype}; a fused optimizer needs float32"):
        made(x, target)


@each_optimizer
def test_a_step_under_autocast(make: Any) -> None:
    made, plain = (head(fused_optimizer=make()) for _ in range(2))
    x, target = batch()
    half = x.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = made(half, target)
    loss.backward()
    plain(half.detach().float(), target).backward()
    assert_same(state(made), state(plain))
    assert half.grad.dtype == torch.bfloat16


@each_optimizer
@pytest.mark.parametrize("reentrant", [True, False])
def test_one_step_under_activation_checkpointing(make: Any, reentrant: bool) -> None:
    made, plain = (head(fused_optimizer=make()) for _ in range(2))
    x, target = batch()
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    checkpoint(lambda x: made(x * 2, target), inputs[0], use_reentrant=reentrant).backward()
    plain(inputs[1] * 2, target).backward()
    assert_same(state(made), state(plain))
    assert inputs[0].grad.equal(inputs[1].grad)


@each_optimizer
def test_one_step_between_compiled_graphs(make: Any, fresh_compiler: None) -> None:
    made, plain = (head(fused_optimizer=make()) for _ in range(2))
    compiled = torch.compile(lambda x, target: made(x * 2, target) * 3, backend="aot_eager")
    for seed in range(2):
        x, target = batch(seed=seed)
        loss = compiled(x, target)
        expected = plain(x * 2, target) * 3
        assert loss.equal(expected)
        loss.backward()
        expected.backward()
        assert_same(state(made), state(plain))


@each_optimizer
def test_first_derivatives_only(make: Any) -> None:
    made = head(fused_optimizer=make())
    x, target = batch()
    before = state(made)
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(made(x, target), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives by backward"):
        torch.func.grad(lambda x: made(x, target))(x.detach())
    assert_same(state(made), before)


@each_optimizer
def test_other_optimizers_skip_the_head(make: Any) -> None:
    body = torch.nn.Linear(WIDTH, WIDTH)
    made, alone = (head(fused_optimizer=make()) for _ in range(2))
    steps = torch.optim.AdamW([*body.parameters(), *made.parameters()], lr=0.1, weight_decay=0.5)
    x, target = batch()
    hidden = body(x)
    start = body.weight.detach().clone()
    made(hidden, target).backward()
    alone(hidden.detach(), target).backward()
    steps.step()
    assert_same(state(made), state(alone))
    assert not body.weight.equal(start)


@each_optimizer
def test_options_reach_the_step(make: Any) -> None:
    x, target = batch()
    options = {"pos_weight": 2.0, "label_smoothing": 0.1, "label_weight": torch.rand(LABELS)}
    given = {"row_weight": torch.rand(5), "ignored": torch.tensor([[1]] * 5)}
    for chunk, (name, value) in itertools.product((3, None), given.items()):
        made = head(**options, chunk_labels=chunk, fused_optimizer=make()).double()
        plain = head(**options, reduction="mean").double()
        made(x.double(), target, **{name: value}).backward()
        plain(x.double(), target, **{name: value}).backward()
        numbers = made.fused_optimizer
        g = plain.weight.grad + numbers.weight_decay * plain.weight
        if isinstance(numbers, FusedRowwiseAdagrad):
            g = g / ((g * g).mean(1, keepdim=True).sqrt() + numbers.eps)
        if isinstance(numbers, FusedAdagrad):
            g = g / ((g * g + numbers.initial_accumulator_value).sqrt() + numbers.eps)
        torch.testing.assert_close(made.weight, plain.weight - numbers.lr * g)


def test_training_with_a_fused_optimizer_learns() -> None:
    g = torch.Generator().manual_seed(0)
    true = torch.randn(50, 8, generator=g)
    for optimizer in (FusedSGD(lr=30.0), FusedRowwiseAdagrad(lr=0.5), FusedAdagrad(lr=0.5)):
        made = LinearBCELoss(8, 50, prior=0.1, chunk_labels=16, fused_optimizer=optimizer)
        losses = []
        for _ in range(60):
            x = torch.randn(64, 8, generator=g)
            loss = made(x, x @ true.T > 3)
            loss.backward()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2
        x = torch.randn(64, 8, generator=g)
        best = made.topk(x, 1).indices
        assert ((x @ true.T).gather(1, best) > 3).float().mean() > 0.8


def test_an_optimizer_belongs_to_one_head() -> None:
    optimizer = FusedRowwiseAdagrad(lr=0.1)
    head(fused_optimizer=optimizer)
    with pytest.raises(ValueError, match="belongs to another head already"):
        head(fused_optimizer=optimizer)


def test_reset_parameters_resets_the_sums() -> None:
    made = LinearBCELoss(WIDTH, LABELS, fused_optimizer=FusedRowwiseAdagrad(0.1), device="meta")
    made.to_empty(device="cpu")
    for buffer in made.buffers():
        buffer.fill_(-1.0)  # as uninitialised memory may hold
    made.reset_parameters()
    x, target = batch()
    made(x, target).backward()
    assert all(value.isfinite().all() for value in made.parameters())


def test_a_step_changes_the_parameters_if_hooks_return_copies() -> None:
    x, target = batch()
    made, other = (head(fused_optimizer=FusedSGD(0.5)) for _ in range(2))
    other.load_state_dict(made.state_dict())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()):
        loss = made(x, target)
    loss.backward()
    other(x, target).backward()
    assert_same(state(made), state(other))


def test_a_fused_optimizer_refuses_a_weight_that_is_computed() -> None:
    made = torch.nn.utils.parametrizations.weight_norm(head(fused_optimizer=FusedSGD(0.5)))
    with pytest.raises(RuntimeError, match="weight is computed from another tensor"):
        made(*batch())


def test_made_where_meta_is_the_default() -> None:
    with torch.device("meta"):
        made = LinearBCELoss(WIDTH, LABELS, fused_optimizer=FusedSGD(0.5))
        made.state_dict()
    assert made.weight.is_meta


def test_topk_names_a_value_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match=r"input\[0, 1\] is nan"):
        head().topk(torch.tensor([[0.0, torch.nan, *[0.0] * (WIDTH - 2)]]), 1)
