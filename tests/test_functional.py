"""What the functions accept, reject and return; the values of PyTorch where those are accurate."""

import contextlib
import inspect
import itertools
import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchbce import functional
from torchbce.functional import binary_cross_entropy, binary_cross_entropy_with_logits

LOSSES = [binary_cross_entropy_with_logits, binary_cross_entropy]
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

TARGETS = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.bfloat16,
    torch.float64,
]
#: Each pair of dtypes compiles a kernel. `make test` runs every dtype of targets with float32 and
#: float64 inputs, and two of them with half precision; the other pairs are slow.
DTYPES = [
    pytest.param(
        x,
        y,
        id=f"{x}-{y}",
        marks=pytest.mark.slow if x.itemsize == 2 and y not in (torch.bool, torch.bfloat16) else (),
    )
    for x, y in itertools.product(FLOATS, TARGETS)
]

both_losses = pytest.mark.parametrize("loss", LOSSES)


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Distinct numbers inside (0, 1), which serve as logits and as probabilities."""
    n = math.prod(shape)
    return ((torch.arange(n, dtype=torch.float64) + 1) / (n + 1)).reshape(shape).to(dtype)


def alternating(*shape: int) -> Tensor:
    """Targets 1, 0, 0, 1, 0, 0, ...: not symmetric, so that a transposition changes them."""
    return (torch.arange(math.prod(shape)) % 3 == 0).reshape(shape)


# --------------------------------------------------------------------------------------- values


def test_known_values() -> None:
    p = torch.tensor([0.8, 0.2, 0.95, 0.05], dtype=torch.float64)
    by_hand = -(2 * math.log(0.8) + 2 * math.log(0.95)) / 4
    assert binary_cross_entropy(p, torch.tensor([1, 0, 1, 0])).item() == pytest.approx(by_hand)
    assert round(by_hand, 4) == 0.1372

    z = torch.tensor([5.0, -2.0, 0.5], dtype=torch.float64)
    got = binary_cross_entropy_with_logits(z, torch.tensor([1, 0, 1]), reduction="none")
    expected = [math.log1p(math.exp(-margin)) for margin in (5, 2, 0.5)]
    assert got.tolist() == pytest.approx(expected, rel=1e-15)
    assert round(got.mean().item(), 10) == 0.2025734479


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("target", [alternating(5, 3).double(), values(5, 3, dtype=torch.float64)])
def test_moderate_values_equal_those_of_pytorch(target: Tensor, reduction: str) -> None:
    z = torch.linspace(-6, 6, 15, dtype=torch.float64).reshape(5, 3)
    weight, pos_weight = values(5, 1, dtype=torch.float64), values(3, dtype=torch.float64) * 4
    torch.testing.assert_close(
        binary_cross_entropy_with_logits(
            z, target, weight, reduction=reduction, pos_weight=pos_weight
        ),
        F.binary_cross_entropy_with_logits(
            z, target, weight, reduction=reduction, pos_weight=pos_weight
        ),
    )
    p = torch.sigmoid(z)
    torch.testing.assert_close(
        binary_cross_entropy(p, target, weight, reduction=reduction),
        F.binary_cross_entropy(p, target, weight, reduction=reduction),
    )


def test_logits_agree_with_their_probabilities() -> None:
    z = torch.linspace(-12, 12, 101, dtype=torch.float64)
    y = values(101, dtype=torch.float64)
    torch.testing.assert_close(
        binary_cross_entropy_with_logits(z, y, reduction="none"),
        binary_cross_entropy(torch.sigmoid(z), y, reduction="none"),
        rtol=1e-9,
        atol=1e-14,
    )


# --------------------------------------------------------------------------------------- shapes


@both_losses
@pytest.mark.parametrize(
    ("input_shape", "target_shape"),
    [
        ((5,), (5,)),
        ((5, 1), (5,)),
        ((5,), (5, 1)),
        ((5,), (5, 1, 1)),
        ((5, 1, 1), (5,)),
        ((2, 3, 1), (2, 3)),
        ((2, 3), (2, 3, 1)),
        ((), ()),
        ((), (1,)),
        ((1,), ()),
        ((1, 1), (1,)),
        ((1, 5), (1, 5)),
        ((2, 3, 4, 5), (2, 3, 4, 5)),
    ],
)
def test_shapes_may_differ_by_trailing_dimensions_of_size_one(
    loss: Callable[..., Tensor], input_shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> None:
    x, y = values(*input_shape), alternating(*target_shape)
    got = loss(x, y, reduction="none")
    assert got.shape == input_shape
    assert torch.equal(got.flatten(), loss(x.flatten(), y.flatten(), reduction="none"))


@both_losses
@pytest.mark.parametrize(
    ("input_shape", "target_shape"),
    [
        ((5, 1), (1, 5)),
        ((5,), (5, 2)),
        ((5, 2), (5,)),
        ((5, 2), (2,)),
        ((5, 2), (1, 2)),
        ((5, 2), (5, 1)),
        ((5,), (1, 5)),
        ((5,), (4,)),
        ((5,), ()),
        ((), (5,)),
        ((1,), (5,)),
        ((5,), (1,)),
        ((2, 3), (3, 2)),
        ((0,), (1,)),
    ],
)
def test_input_and_target_are_not_broadcast(
    loss: Callable[..., Tensor], input_shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> None:
    message = (
        f"input has shape {input_shape} and target has shape {target_shape}; they must be equal"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(values(*input_shape), alternating(*target_shape))


@both_losses
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (4, 1), (4, 3)])
def test_weights_broadcast_to_the_input(
    loss: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    x, y, weight = values(4, 3), alternating(4, 3), values(*shape) * 3
    got = loss(x, y, weight, reduction="none")
    torch.testing.assert_close(got, weight * loss(x, y, reduction="none"))
    assert got.shape == (4, 3)


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (4, 1), (4, 3)])
def test_pos_weights_broadcast_to_the_input(shape: tuple[int, ...]) -> None:
    x, y, pos_weight = values(4, 3), alternating(4, 3), values(*shape) * 3
    got = binary_cross_entropy_with_logits(x, y, pos_weight=pos_weight, reduction="none")
    plain = binary_cross_entropy_with_logits(x, y, reduction="none")
    torch.testing.assert_close(got, torch.where(y, pos_weight, 1.0) * plain)


@both_losses
def test_weights_per_row_of_a_column(loss: Callable[..., Tensor]) -> None:
    # (N,) against an input of (N, 1) would broadcast to (N, N).
    x, y, weight = values(5, 1), alternating(5), values(5)
    got = loss(x, y, weight, reduction="none")
    assert got.shape == (5, 1)
    torch.testing.assert_close(got[:, 0], weight * loss(x[:, 0], y, reduction="none"))


@both_losses
@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3), (4,), (3, 4), (1, 4, 3), (1, 1, 1, 5)])
def test_weights_do_not_enlarge_the_input(
    loss: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    message = f"weight has shape {shape}, which does not broadcast to the input's shape (4, 3)"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        loss(values(4, 3), alternating(4, 3), torch.ones(shape))


def test_pos_weights_do_not_enlarge_the_input() -> None:
    message = "pos_weight has shape (2, 3), which does not broadcast to the input's shape (4, 3)"
    with pytest.raises(ValueError, match=re.escape(message)):
        binary_cross_entropy_with_logits(
            values(4, 3), alternating(4, 3), pos_weight=torch.ones(2, 3)
        )


@both_losses
def test_a_weight_given_as_a_number(loss: Callable[..., Tensor]) -> None:
    x, y = values(4, 3, dtype=torch.float64), alternating(4, 3)
    # 0.1 must not pass through float32 on its way to a float64 loss.
    assert torch.equal(loss(x, y, 0.1), loss(x, y, torch.tensor(0.1, dtype=torch.float64)))
    assert loss(x, y, 2).item() == pytest.approx(2 * loss(x, y).item())
    assert loss(x, y, 0).item() == 0


def test_a_pos_weight_given_as_a_number() -> None:
    x, y = values(4, 3, dtype=torch.float64), alternating(4, 3)
    exact = torch.tensor(0.1, dtype=torch.float64)
    got = binary_cross_entropy_with_logits(x, y, pos_weight=0.1)
    assert torch.equal(got, binary_cross_entropy_with_logits(x, y, pos_weight=exact))
    assert not torch.equal(got, binary_cross_entropy_with_logits(x, y, pos_weight=0.2))


# ------------------------------------------------------------------------------------- targets


@both_losses
@pytest.mark.parametrize(("input_dtype", "dtype"), DTYPES)
def test_targets_of_any_dtype(
    loss: Callable[..., Tensor], dtype: torch.dtype, input_dtype: torch.dtype
) -> None:
    x, y = values(4, 3, dtype=input_dtype), alternating(4, 3)
    got = loss(x, y.to(dtype), reduction="none")
    assert got.dtype == input_dtype
    assert torch.equal(got, loss(x, y.to(input_dtype), reduction="none"))
    assert got[0, 0] != loss(x, (~y).to(dtype), reduction="none")[0, 0]


def test_soft_targets_are_not_rounded_to_the_inputs_dtype() -> None:
    x = torch.tensor([2.0], dtype=torch.bfloat16)
    y = torch.tensor([0.3], dtype=torch.float32)
    expected = binary_cross_entropy_with_logits(x.float(), y)
    assert torch.equal(binary_cross_entropy_with_logits(x, y), expected)
    assert not torch.equal(binary_cross_entropy_with_logits(x, y.bfloat16()), expected)


# ---------------------------------------------------------------------------------- reductions


@both_losses
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_reductions_and_their_dtypes(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    x, y = values(4, 3, dtype=dtype), alternating(4, 3)
    each = loss(x, y, reduction="none")
    assert (each.dtype, each.shape) == (dtype, (4, 3))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exact = loss(x.double(), y, reduction="none")
    for reduction, expected in (("sum", exact.sum()), ("mean", exact.sum() / 12)):
        got = loss(x, y, reduction=reduction)
        assert (got.dtype, got.shape) == (wide, ())
        torch.testing.assert_close(got, expected.to(wide))
    assert torch.equal(loss(x, y), loss(x, y, reduction="mean"))


def test_the_mean_divides_by_elements_and_not_by_weights() -> None:
    x, y = values(4, 3), alternating(4, 3)
    for weight in (0.0, 0.5, torch.tensor([0.0, 0.0, 7.0])):
        total = binary_cross_entropy_with_logits(x, y, weight, reduction="sum")
        mean = binary_cross_entropy_with_logits(x, y, weight)
        torch.testing.assert_close(mean, total / 12)


def test_a_half_precision_sum_does_not_overflow() -> None:
    x = torch.full((2**17,), 8.0, dtype=torch.float16)
    total = binary_cross_entropy_with_logits(x, torch.zeros(2**17), reduction="sum")
    assert total.item() == pytest.approx(2**17 * 8.000335, rel=1e-6)


def test_small_losses_are_not_rounded_before_they_are_summed() -> None:
    x = torch.full((2**16,), -6.0, dtype=torch.bfloat16)
    total = binary_cross_entropy_with_logits(x, torch.zeros(2**16), reduction="sum")
    assert total.item() == pytest.approx(2**16 * math.log1p(math.exp(-6)), rel=1e-6)


@both_losses
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 1)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_an_empty_batch_is_zero(
    loss: Callable[..., Tensor], shape: tuple[int, ...], reduction: str
) -> None:
    layer = torch.nn.Parameter(torch.tensor(2.0))
    warned = pytest.warns(UserWarning, match="over no elements")
    with warned if reduction == "mean" else contextlib.nullcontext():
        value = loss(layer * torch.zeros(shape), torch.zeros(shape), reduction=reduction)
    value.backward()
    assert value.item() == 0.0
    assert layer.grad.item() == 0.0
    assert loss(torch.zeros(shape), torch.zeros(shape), reduction="none").shape == shape


@both_losses
def test_unknown_reduction(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"reduction must be one of 'none', 'mean', .*; got 'm'"):
        loss(values(2), alternating(2), reduction="m")


# ------------------------------------------------------------------------- PyTorch's signatures


@pytest.mark.parametrize("name", [loss.__name__ for loss in LOSSES])
def test_positional_arguments_are_those_of_pytorch(name: str) -> None:
    theirs = list(inspect.signature(getattr(F, name)).parameters.values())
    ours = list(inspect.signature(getattr(functional, name)).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [
        (p.name, p.default) for p in theirs
    ]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in ours[: len(theirs)])
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


@pytest.mark.parametrize("name", [loss.__name__ for loss in LOSSES])
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_legacy_arguments(name: str, size_average: bool | None, reduce: bool | None) -> None:
    x, y = values(4, 3, dtype=torch.float64), alternating(4, 3).double()
    arguments = (x, y, None, size_average, reduce)
    if size_average is None and reduce is None:
        ours, theirs = getattr(functional, name)(*arguments), getattr(F, name)(*arguments)
    else:
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            ours = getattr(functional, name)(*arguments)
        with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
            theirs = getattr(F, name)(*arguments)
    torch.testing.assert_close(ours, theirs)


# -------------------------------------------------------------------------------------- errors


@both_losses
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([0.0, 255.0, 1.0], "target[1] is 255.0; targets must be in [0, 1]. Divide masks of"),
        ([0.0, 1.0, 2.0], "target[2] is 2.0; targets must be in [0, 1]."),
        ([-1.0, 1.0, 0.0], "target[0] is -1.0; targets must be in [0, 1]."),
        ([0.0, math.nan, 3.0], "target[1] is nan; NaN is not a target: drop or impute"),
        ([0.0, math.inf, 0.0], "target[1] is inf; targets"),
    ],
)
def test_targets_out_of_range(
    loss: Callable[..., Tensor], target: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(values(3), torch.tensor(target))


@both_losses
def test_the_error_names_the_index_of_a_target_in_any_shape(loss: Callable[..., Tensor]) -> None:
    x, y = values(2, 3), torch.zeros(2, 3, dtype=torch.int64)
    y[1, 2] = 7
    with pytest.raises(ValueError, match=re.escape("target[1, 2] is 7; ")):
        loss(x, y)
    with pytest.raises(ValueError, match=re.escape("target is 3; ")):
        loss(torch.tensor(0.5), torch.tensor(3))
    with pytest.raises(ValueError, match=re.escape("target[0] is 255; ")):
        loss(values(1), torch.tensor([255], dtype=torch.uint8))


def test_logits_given_as_probabilities() -> None:
    remedy = r"These look like logits: use\s+binary_cross_entropy_with_logits"
    for z in (-0.01, 1.01, 5.0, math.inf):
        with pytest.raises(ValueError, match=rf"^input\[1\] is {z}.*{remedy}"):
            binary_cross_entropy(torch.tensor([0.5, z], dtype=torch.float64), torch.ones(2))


@both_losses
def test_wrong_types(loss: Callable[..., Tensor]) -> None:
    x, y = values(2), alternating(2)
    with pytest.raises(TypeError, match=r"input must be a torch.Tensor, got list"):
        loss([0.5, 0.5], y)
    with pytest.raises(TypeError, match=r"floating dtype, got torch.int64; convert it with .float"):
        loss(torch.tensor([0, 1]), y)
    with pytest.raises(TypeError, match=r"floating dtype, got torch.complex64"):
        loss(x.to(torch.complex64), y)
    with pytest.raises(TypeError, match=r"target must be a torch.Tensor, got list; convert it"):
        loss(x, [0, 1])
    with pytest.raises(TypeError, match=r"target must be float, bool or integer, got torch.compl"):
        loss(x, y.to(torch.complex64))
    with pytest.raises(TypeError, match=r"weight must be a tensor or a number, got str"):
        loss(x, y, "balanced")
    with pytest.raises(TypeError, match=r"weight must be a tensor or a number, got bool"):
        loss(x, y, True)
    with pytest.raises(TypeError, match=r"weight must be real, got torch.complex64"):
        loss(x, y, torch.ones(2, dtype=torch.complex64))


@both_losses
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_wrong_weights(loss: Callable[..., Tensor], weight: float) -> None:
    with pytest.raises(ValueError, match=rf"weight must be finite and not negative, got {weight}"):
        loss(values(2), alternating(2), weight)


@pytest.mark.parametrize("eps", [0.0, -1e-7, 0.5, 1.0, math.nan])
def test_wrong_eps(eps: float) -> None:
    with pytest.raises(ValueError, match=rf"eps must be in \(0, 0.5\), got {eps}; 1e-7 is"):
        binary_cross_entropy(values(2), alternating(2), eps=eps)


# ---------------------------------------------------------------------------------- properties


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], elements: st.SearchStrategy[float]) -> Tensor:
    """A float64 tensor of `shape`: contiguous, transposed, strided, or expanded from one row."""
    layout = draw(st.sampled_from(["contiguous", "transposed", "strided", "expanded"]))
    if layout == "expanded" and shape:
        row = draw(tensors(shape[1:], elements))
        return row.expand(shape)
    n = math.prod(shape)
    flat = torch.tensor(draw(st.lists(elements, min_size=n, max_size=n)), dtype=torch.float64)
    if layout == "transposed":
        return flat.reshape(shape[::-1]).permute(tuple(range(len(shape)))[::-1])
    if layout == "strided" and shape:
        return torch.stack([flat.reshape(shape), torch.full(shape, 0.5)], -1)[..., 0]
    return flat.reshape(shape)


SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
LOGITS = st.one_of(st.floats(-30, 30), st.floats(-800, 800), st.sampled_from([0.0, -0.0]))
UNIT = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
#: Relative to the float64 loss of the same inputs: 3 float32 ulps, half an ulp of 16 bits.
TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 4e-7,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}


def by_logaddexp(z: Tensor, y: Tensor, weight: Tensor, pos_weight: Tensor) -> Tensor:
    """The formula of the loss, with logaddexp instead of the log1p of the package."""
    zero = torch.zeros_like(z)
    positive, negative = torch.logaddexp(zero, -z), torch.logaddexp(zero, z)
    return weight * (pos_weight * y * positive + (1 - y) * negative)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(FLOATS))
def test_any_shape_stride_and_dtype(
    data: st.DataObject, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    z = data.draw(tensors(shape, LOGITS)).to(dtype)
    y = data.draw(tensors(shape, UNIT)).to(dtype)
    weight = data.draw(tensors(shape, st.floats(0.125, 4))).to(dtype)
    pos_weight = data.draw(tensors(shape[1:], st.floats(0.125, 4))).to(dtype)
    got = binary_cross_entropy_with_logits(z, y, weight, reduction="none", pos_weight=pos_weight)
    true = by_logaddexp(z.double(), y.double(), weight.double(), pos_weight.double())
    assert got.shape == shape
    assert got.dtype == dtype
    info = torch.finfo(dtype)
    # Subnormal losses may be off by two steps, multiplied by w p, which is at most 16.
    tiny = 16 * 2 * info.tiny * info.eps
    error = (got.double() - true).abs()
    assert (error <= TOLERANCE[dtype] * 1.01 * true.abs() + tiny).all()

    total = binary_cross_entropy_with_logits(
        z, y, weight, reduction="sum", pos_weight=pos_weight
    ).double()
    assert (
        abs(total - true.sum()) <= (1e-13 if dtype == torch.float64 else 1e-6) * true.sum() + tiny
    )


@settings(deadline=None, max_examples=100)
@given(data=st.data(), shape=SHAPES)
def test_probabilities_of_any_shape_and_stride(data: st.DataObject, shape: tuple[int, ...]) -> None:
    p = data.draw(tensors(shape, UNIT))
    y = data.draw(tensors(shape, UNIT))
    got = binary_cross_entropy(p, y, reduction="none")
    floor = torch.tensor(-100.0, dtype=torch.float64)
    true = -(y * p.log().maximum(floor) + (1 - y) * (-p).log1p().maximum(floor))
    torch.testing.assert_close(got, true, rtol=1e-14, atol=0)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(FLOATS))
def test_a_positive_mirrors_a_negative(
    data: st.DataObject, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """A positive at z has the loss of a negative at -z, bit for bit, and minus its gradient."""
    z = data.draw(tensors(shape, LOGITS)).to(dtype)
    sides = []
    for logits, target in ((z, 1.0), (-z, 0.0)):
        x = logits.detach().clone().requires_grad_()
        y = torch.full(shape, target)
        loss = binary_cross_entropy_with_logits(x, y, reduction="none")
        (gradient,) = torch.autograd.grad(loss, x, torch.ones_like(loss))
        sides.append((loss.detach(), gradient))
    assert torch.equal(sides[0][0], sides[1][0])
    assert torch.equal(sides[0][1], -sides[1][1])


@settings(deadline=None, max_examples=100)
@given(z=st.floats(-800, 800), y=UNIT)
def test_soft_targets_are_symmetric(z: float, y: float) -> None:
    def loss(z: float, y: float) -> float:
        pair = (torch.tensor(v, dtype=torch.float64) for v in (z, y))
        return binary_cross_entropy_with_logits(*pair).item()

    assert loss(z, 1 - y) == pytest.approx(loss(-z, 1 - (1 - y)), rel=1e-14, abs=1e-300)
    # The loss is at least the entropy of y, which it reaches where sigma(z) = y.
    entropy = sum(-q * math.log(q) for q in (y, 1 - y) if q > 0)
    assert loss(z, y) >= entropy - 1e-15


def test_probabilities_in_eight_bits() -> None:
    """PyTorch has no minimum of float8: ranges are checked in the dtype of computation."""
    p, y = torch.tensor([0.25, 0.5]).to(torch.float8_e4m3fn), torch.tensor([1, 0])
    expected = binary_cross_entropy(torch.tensor([0.25, 0.5]), y)
    torch.testing.assert_close(binary_cross_entropy(p, y), expected)
    with pytest.raises(ValueError, match=r"input\[1\] is 1\.5"):
        binary_cross_entropy(torch.tensor([0.25, 1.5]).to(torch.float8_e4m3fn), y)
