"""The CPU kernels compared with the definition: every option, dtype, stride and size.

The expected values are those of the definition in float64. The float32 kernel of cross-entropy is
within 1 unit in the last place of them; weights and the two terms of a soft target add rounding
errors of their own. The other kernels compute in float64 and are within half a unit.
"""

import itertools
import math
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import torchbce
from family import FAMILY, ONE_OF_EACH, Loss, targets
from torchbce import functional
from torchbce.backends import dispatch, selection
from torchbce.backends.cpu import launch as cpu_launch
from torchbce.functional import binary_cross_entropy_with_logits as bce

BLOCK, CHUNK = 1024, 32 * 1024
INPUTS = [torch.float32, torch.bfloat16, torch.float16]
TARGETS = [
    *INPUTS,
    torch.float64,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
]
#: Each pair of dtypes compiles a kernel. `make test` runs every dtype of targets with float32
#: inputs, and four of them with half precision; the other pairs are slow.
DTYPES = [
    pytest.param(
        x,
        y,
        id=f"{x}-{y}",
        marks=() if x == torch.float32 or y in (*INPUTS, torch.bool) else pytest.mark.slow,
    )
    for x, y in itertools.product(INPUTS, TARGETS)
]
EPS = {dtype: torch.finfo(dtype).eps for dtype in INPUTS}

every_loss = pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)
# `ONE_OF_EACH` has the loss of probabilities with a clamp; add the one with the floor of -100.
_floored = next(loss for loss in FAMILY if loss.name == "bce")
one_of_each = pytest.mark.parametrize("loss", [*ONE_OF_EACH, _floored], ids=lambda loss: loss.name)


def both(loss: Any, x: Tensor, y: Tensor, **options: Any) -> list[tuple[Tensor, Tensor]]:
    """Value and gradient by the kernel, and by the definition in float64."""
    results = []
    for wide in (False, True):
        logits = (x.double() if wide else x).detach().clone(memory_format=torch.preserve_format)
        logits = (logits.as_strided(x.shape, x.stride()) if _dense(x) else logits).requires_grad_()
        given = {
            k: v.double() if wide and isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in options.items()
        }
        with torchbce.backend("reference" if wide else "numba"):
            value = loss(logits, y, **given)
            (gradient,) = torch.autograd.grad(value.sum(), logits)
        results.append((value.detach(), gradient))
    return results


def _dense(x: Tensor) -> bool:
    return x.is_contiguous()


def assert_within(got: Tensor, true: Tensor, units: float, terms: Tensor | None = None) -> None:
    """Raise unless |got - true| is within some units in the last place of `terms`, or of `true`."""
    eps = EPS[got.dtype]
    scale = true.abs() if terms is None else terms
    least = 2.0 ** {torch.float32: -149, torch.bfloat16: -133, torch.float16: -24}[got.dtype]
    # eps times a value is between one and two units in its last place.
    allowed = units * torch.maximum(scale * eps, torch.tensor(least, dtype=torch.float64))
    wrong = (got.double() - true).abs() > allowed
    assert not wrong.any(), (got[wrong][:3], true[wrong][:3])


# ------------------------------------------------------------------------------------ choosing


def test_the_backend_and_its_reason() -> None:
    x, y = torch.zeros(3), torch.zeros(3)
    for choice in (torchbce.backend_for(x), torchbce.backend_for(x, y.long())):
        assert choice.name == "numba"
    grad = torch.zeros(3, requires_grad=True)
    # Targets of the input's dtype are meant, not the input itself.
    assert torchbce.backend_for(grad) == torchbce.backend_for(grad, y)
    assert torchbce.backend_for(grad).name == "numba"
    for words, arguments in {
        "float64": (x.double(), y),
        "target requires grad": (x, grad),
        "plain tensor": (x.to("meta"), y),
        "target is torch.uint16": (x, y.to(torch.uint16)),
        "input is not a plain tensor": (torch._neg_view(x), y),
        "input is not a plain": (torch._to_functional_tensor(x), y),
    }.items():
        choice = torchbce.backend_for(*arguments)
        assert choice.name == "reference"
        assert words in choice.reason
    for name in ("weight", "pos_weight"):
        assert f"{name} requires grad" in torchbce.backend_for(x, y, **{name: grad}).reason
        assert torchbce.backend_for(x, y, **{name: 2.0}).name == "numba"
    with torch.no_grad():
        assert torchbce.backend_for(x, grad).name == "numba"


def test_transforms_use_the_definition() -> None:
    seen: list[str] = []

    def ask(x: Tensor) -> Tensor:
        seen.append(torchbce.backend_for(x).reason)
        return x.sum()

    torch.func.grad(ask)(torch.zeros(3))
    with torch.autograd.forward_ad.dual_level():
        ask(torch.zeros(3))
    with torch._subclasses.FakeTensorMode():
        ask(torch.zeros(3))
    assert "torch.func" in seen[0]
    assert "forward-mode" in seen[1]
    assert "dispatch mode" in seen[2]


def test_a_named_backend_is_used_or_raises() -> None:
    x, y = torch.tensor([3.0]), torch.tensor([1.0])
    with torchbce.backend("reference"):
        assert torchbce.backend_for(x, y) == ("reference", "chosen by torchbce.backend")
        with torchbce.backend("numba"):
            assert torchbce.backend_for(x, y).name == "numba"
            with pytest.raises(
                RuntimeError, match=r"'numba'.* cannot compute this: input is torch"
            ):
                bce(x.double(), y)
        assert torchbce.backend_for(x, y).name == "reference"
    with torchbce.backend("".join(["num", "ba"])):  # an equal string, but another object
        assert bce(x, y) == bce(x, y)
        assert selection.chosen(x, y, None, None, None) is selection.NUMBA
    with pytest.raises(ValueError, match="no backend 'cuda'; choose one of reference, numba"):
        torchbce.backend("cuda").__enter__()


def test_functions_modules_and_drop_in_use_the_chosen_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    launch = cpu_launch.launch
    monkeypatch.setattr(dispatch, "prepared", {})  # a prepared call launches by itself
    monkeypatch.setattr(cpu_launch, "launch", lambda *a, **k: calls.append(a) or launch(*a, **k))
    x, y = torch.zeros(3), torch.zeros(3)
    with torchbce.backend("reference"):
        bce(x, y)
    assert not calls
    bce(x, y)
    torchbce.BCELoss()(x, y)
    assert len(calls) == 2
    with torchbce.dropin.installed():
        torch.nn.BCEWithLogitsLoss()(x, y)
    assert len(calls) == 3


# ------------------------------------------------------------------------------------- numbers


@every_loss
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "weighted_mean", "batch_mean"])
def test_all_options_at_once(loss: Loss, reduction: str) -> None:
    rows, columns = 70, 33
    x, y = loss.inputs(rows, columns, dtype=torch.float32), targets(rows, columns).float()
    y[3] = y[5, 6] = -100.0
    x[5, 6] = math.nan
    options: dict[str, Any] = {
        "weight": torch.rand(rows, 1) + 0.5,
        "pos_weight": torch.rand(columns) + 0.5,
        "label_smoothing": 0.1,
        "ignore_index": -100,
        "mask": targets(rows, columns, seed=7) > 0.2,
    }
    (value, gradient), (true, true_gradient) = both(loss, x, y, reduction=reduction, **options)
    torch.testing.assert_close(value.double(), true, rtol=6e-7, atol=1e-12)
    # The gradient is a difference of two terms, each within [-1, 1] times the weights.
    scale = true_gradient.abs().max().item()
    torch.testing.assert_close(gradient.double(), true_gradient, rtol=1e-6, atol=3e-7 * scale)


@pytest.mark.parametrize(("x_dtype", "y_dtype"), DTYPES)
def test_dtypes_of_targets(x_dtype: torch.dtype, y_dtype: torch.dtype) -> None:
    n = 2 * BLOCK + 7
    x = (torch.randn(n, generator=torch.Generator().manual_seed(0)) * 20).to(x_dtype)
    y = targets(n, dtype=y_dtype).float().to(y_dtype)  # rounded as the kernel rounds it
    (value, gradient), (true, true_gradient) = both(bce, x, y, reduction="none")
    units = 1.0 if x_dtype == torch.float32 else 0.51
    if y_dtype.is_floating_point:  # two terms, each rounded
        assert_within(value, true, units + 1.5)
        assert_within(gradient, true_gradient, units + 1.5, torch.ones(n).double())
    else:
        assert_within(value, true, 2 * units)
        assert_within(gradient, true_gradient, 2 * units)


@pytest.mark.parametrize(
    "loss",
    [pytest.param(loss, marks=() if loss in ONE_OF_EACH else pytest.mark.slow) for loss in FAMILY],
    ids=lambda loss: loss.name,
)
def test_the_family_rounds_correctly(loss: Loss) -> None:
    patterns = np.arange(0, 2**32, 65_521, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = torch.from_numpy(patterns[np.isfinite(patterns)].copy())
    if loss.kind == "probabilities":
        x = x[(x > 1e-38) & (x < 1)]
    elif loss.kind == "log_probs":
        x = x[x < 0]
    assert len(x) > 10_000
    for y in (torch.zeros_like(x), torch.ones_like(x)):
        (value, gradient), (true, true_gradient) = both(loss, x, y, reduction="none")
        units = 1.0 if value.equal(bce(x, y, reduction="none")) else 0.5001
        for got, wanted in ((value, true), (gradient, true_gradient)):
            rounded = wanted.float()
            beyond = rounded.isinf() | (got == rounded)
            spacing = torch.maximum(
                2.0 ** (wanted.abs().log2().floor() - 23), torch.tensor(2.0**-149).double()
            )
            error = (got.double() - wanted).abs() / spacing
            assert bool((beyond | (error <= units)).all()), error[~beyond].max()


@one_of_each
@pytest.mark.parametrize("dtype", INPUTS, ids=str)
def test_extremes(loss: Loss, dtype: torch.dtype) -> None:
    values = [0.0, -0.0, 17.0, -17.0, 104.0, -104.0, 1e4, -1e4, math.inf, -math.inf, 1e-40, -1e-40]
    if loss.kind == "probabilities":
        values = [0.0, 1.0, 1e-40, 1e-45, 0.5, 0.999]
    elif loss.kind == "log_probs":
        values = [0.0, -0.0, -1e-40, -17.0, -104.0, -1e4, -math.inf]
    x = torch.tensor(values).to(dtype)
    for target in (0.0, 1.0, 0.25):
        y = torch.full_like(x, target)
        (value, gradient), (true, true_gradient) = both(loss, x, y, reduction="none")
        assert torch.equal(value.isinf(), true.to(dtype).isinf())
        assert not value.isnan().any()
        finite = value.isfinite()
        assert_within(value[finite], true[finite], 3, true[finite].abs() + 1e-300)
        # At infinity the definition of the focal losses has no derivative; the kernel's is finite.
        defined = true_gradient.isfinite() & (true_gradient.abs() < 1e38)
        assert gradient[true_gradient.abs() < 1e38].isfinite().all()
        terms = true_gradient[defined].abs().clamp(min=0.25)
        assert_within(gradient[defined], true_gradient[defined], 3, terms)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("weight", [0.0, torch.tensor([0.0])], ids=["number", "tensor"])
def test_a_weight_of_0_drops_a_slope_beyond_float32(backend: str, weight: Any) -> None:
    x = torch.tensor([-1e-40], requires_grad=True)  # 1 / (1 - exp(x)) is 1e40
    for target in (0.0, 0.5, 1.0):
        with torchbce.backend(backend):
            loss = functional.binary_cross_entropy_with_log_probs(
                x, torch.tensor([target]), weight=weight
            )
        assert torch.autograd.grad(loss, x)[0].tolist() == [0.0]


@one_of_each
def test_nan_is_not_hidden_unless_ignored(loss: Loss) -> None:
    x, y = loss.inputs(5, dtype=torch.float32), torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0])
    x[1:3] = math.nan
    if loss.kind == "logits":
        for weight in (1.0, 0.0):
            value = loss(x, y, reduction="none", weight=weight)
            assert value.isnan().tolist() == [False, True, True, False, False]
    else:
        with pytest.raises(ValueError, match=r"input\[1\] is nan"):
            loss(x, y)
    kept = loss(x, y, reduction="none", mask=~x.isnan())
    assert kept[1:3].tolist() == [0.0, 0.0]
    assert kept.isfinite().all()


@pytest.mark.parametrize("n", [2**20, 2**20 + 1])
@pytest.mark.parametrize("logit", [0.0, -3.7, 2.0**-20])
def test_sums_of_equal_losses(n: int, logit: float) -> None:
    # In a float32 sum of equal numbers, rounding errors do not cancel.
    x, y = torch.full((n,), logit), torch.zeros(n)
    each = bce(x[:1], y[:1]).double().item()
    total = bce(x, y, reduction="sum").double().item()
    assert abs(total - n * each) <= n * each * 2**-24


def test_a_sum_beyond_float32_is_infinite() -> None:
    x = torch.full((8,), -3e38)
    assert bce(x, torch.ones(8), reduction="sum") == math.inf
    assert bce(x, torch.ones(8)).item() == pytest.approx(3e38)


# ------------------------------------------------------------------------- shapes, strides, sizes


@pytest.mark.parametrize(
    "n", [0, 1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK + 1, 5 * CHUNK + 3]
)
@pytest.mark.parametrize("dtype", INPUTS, ids=str)
@pytest.mark.filterwarnings("ignore:the 'mean' of a loss over no elements")
def test_sizes(n: int, dtype: torch.dtype) -> None:
    x, y = ONE_OF_EACH[0].inputs(n, dtype=dtype), targets(n, dtype=torch.bool)
    for reduction in ("none", "mean"):
        (value, gradient), (true, true_gradient) = both(bce, x, y, reduction=reduction)
        # 2^-24 is the smallest subnormal of float16.
        torch.testing.assert_close(value.double(), true, rtol=2 * EPS[value.dtype], atol=2.0**-24)
        torch.testing.assert_close(
            gradient.double(), true_gradient, rtol=2 * EPS[dtype], atol=2.0**-24
        )
        assert gradient.shape == (n,)


def strided(data: st.DataObject, shape: tuple[int, ...], values: Tensor) -> Tensor:
    """`values` [shape] with strides of any kind: contiguous, permuted, sliced or every second."""
    how = data.draw(st.sampled_from(["contiguous", "permuted", "sliced", "every second"]))
    if how == "permuted":
        order = data.draw(st.permutations(range(len(shape))))
        inverse = [order.index(d) for d in range(len(shape))]
        return values.permute(order).contiguous().permute(inverse)
    if how == "sliced" and shape:
        wide = torch.zeros(*shape[:-1], shape[-1] + 3, dtype=values.dtype)
        wide[..., 1 : 1 + shape[-1]] = values
        return wide[..., 1 : 1 + shape[-1]]
    if how == "every second" and shape:
        wide = torch.zeros(*shape[:-1], 2 * shape[-1], dtype=values.dtype)
        wide[..., ::2] = values
        return wide[..., ::2]
    return values


@settings(max_examples=150)
@given(
    data=st.data(),
    shape=st.lists(st.integers(0, 9), max_size=4).map(tuple),
    x_dtype=st.sampled_from(INPUTS),
    y_dtype=st.sampled_from([torch.float32, torch.bool, torch.int64]),
    reduction=st.sampled_from(["none", "sum", "mean", "weighted_mean", "batch_mean"]),
    smoothing=st.sampled_from([0.0, 0.2]),
    masked=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:the .* of a loss over no elements")
def test_any_shape_stride_and_option(
    data: st.DataObject,
    shape: tuple[int, ...],
    x_dtype: torch.dtype,
    y_dtype: torch.dtype,
    reduction: str,
    smoothing: float,
    masked: bool,
) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    x = (torch.randn(shape, generator=generator) * 5).to(x_dtype)
    y = (torch.rand(shape, generator=generator) > 0.5).to(y_dtype)
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    weights = [(), shape[-1:], shape, (*shape[:1], *(1 for _ in shape[1:]))]
    for name in ("weight", "pos_weight"):
        if data.draw(st.booleans()):
            size = data.draw(st.sampled_from(weights))
            options[name] = torch.rand(size, generator=generator) + 0.5
    if masked:
        options["mask"] = strided(data, shape, torch.rand(shape, generator=generator) > 0.3)
    results = []
    for wide, backend in ((False, "numba"), (True, "reference")):
        z = strided(data, shape, x.double() if wide else x).detach().requires_grad_()
        with torchbce.backend(backend):
            value = bce(z, strided(data, shape, y), **options)
            upstream = torch.linspace(0.5, 2, value.numel()).reshape(value.shape).to(value.dtype)
            (gradient,) = torch.autograd.grad(value, z, upstream)
        assert gradient.shape == value.shape or reduction != "none"
        results.append((value.detach().double(), gradient.double()))
    (value, gradient), (true, true_gradient) = results
    eps = EPS[x_dtype] if reduction == "none" else 2**-23
    least = 2.0**-24 if x_dtype == torch.float16 else 1e-30
    # Half an eps for each of the two steps of smoothing, p y, 1 - y, the product with w, and the
    # output; one eps for the loss, and two for the sum of its rounded terms.
    torch.testing.assert_close(value, true, rtol=6 * eps, atol=least)
    scale = true_gradient.abs().max().item() if true_gradient.numel() else 1.0
    if smoothing:
        # The two terms of a gradient may cancel. The smaller is at most s / 2 times the weights (up
        # to 1.5) and the upstream gradient (2). A sum of weights is at least half their number.
        valid = int(options.get("mask", torch.ones(shape)).sum())
        divisor = max(valid / 2, 1) if reduction in ("mean", "weighted_mean") else 1
        scale = max(scale, smoothing / 2 * 1.5 * 1.5 * 2 / divisor)
    # One of the two rounds `upstream` to the dtype of the input.
    torch.testing.assert_close(
        gradient, true_gradient, rtol=8 * EPS[x_dtype], atol=2 * EPS[x_dtype] * scale
    )


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
def test_the_gradient_has_the_memory_format_of_the_input(form: torch.memory_format) -> None:
    x = torch.randn(3, 5, 4, 6).to(memory_format=form).requires_grad_()
    (gradient,) = torch.autograd.grad(bce(x, torch.ones(3, 5, 4, 6)), x)
    assert gradient.is_contiguous(memory_format=form)
    losses = bce(x.detach().mT, torch.ones(3, 5, 6, 4), reduction="none")
    assert losses.stride() == x.detach().mT.stride()


@pytest.mark.slow
def test_more_than_2_to_the_31_elements() -> None:
    n = 2**31 + 5
    logit, y = torch.tensor([2.0]).expand(n), torch.zeros(n, dtype=torch.bool)
    y[-3:] = True
    value = bce(logit, y, reduction="sum")
    expected = (n - 3) * math.log1p(math.exp(2)) + 3 * math.log1p(math.exp(-2))
    assert value.item() == pytest.approx(expected, rel=1e-7)
    counted = bce(logit, y, reduction="mean", ignore_index=0)
    assert counted.item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-6)


# -------------------------------------------------------------------------------------- sparse


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("dtype", INPUTS, ids=str)
def test_sparse_targets_equal_dense_ones(layout: str, dtype: torch.dtype) -> None:
    rows, columns = 37, 211
    x = ONE_OF_EACH[0].inputs(rows, columns, dtype=dtype)
    dense = torch.where(targets(rows, columns) > 0.9, targets(rows, columns, seed=5), 0.0).float()
    sparse = dense.to_sparse() if layout == "coo" else dense.to_sparse_csr()
    for z in (x, x.T.contiguous().T):
        for options in ({}, {"label_smoothing": 0.1, "pos_weight": torch.rand(columns)}):
            results = []
            for y in (dense, sparse):
                logits = z.detach().requires_grad_()
                with torchbce.backend("numba"):
                    value = bce(logits, y, **options)
                results.append((value, *torch.autograd.grad(value, logits)))
            torch.testing.assert_close(results[0], results[1], rtol=2e-7, atol=0)


# ------------------------------------------------------------------------------------ backward


def test_a_second_backward_pass_gives_the_same_gradient() -> None:
    x, y = torch.randn(5000, requires_grad=True), torch.ones(5000)
    loss = bce(x, y)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    kept = first.clone()
    scaled = torch.autograd.grad(3 * loss, x, retain_graph=True)[0]
    again = torch.autograd.grad(loss, x)[0]
    assert torch.equal(first, kept)
    assert torch.equal(again, kept)
    torch.testing.assert_close(scaled, 3 * kept, rtol=3e-7, atol=0)

    loss = bce(x, y)
    scaled = torch.autograd.grad(3 * loss, x, retain_graph=True)[0]
    first = torch.autograd.grad(loss, x)[0]
    assert torch.equal(first, kept)
    torch.testing.assert_close(scaled, 3 * kept, rtol=3e-7, atol=0)


def test_gradients_accumulate() -> None:
    x, y = torch.randn(5000, requires_grad=True), torch.ones(5000)
    (once,) = torch.autograd.grad(bce(x, y), x)
    for _ in range(3):
        bce(x, y).backward()
    torch.testing.assert_close(x.grad, 3 * once)


def test_an_input_changed_before_the_backward_raises() -> None:
    x = torch.randn(10, requires_grad=True)
    z = x * 1
    loss = bce(z, torch.ones(10))
    z.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_half_precision_is_scaled_before_it_is_rounded() -> None:
    # The gradient of an easy negative underflows in float16, but not after the loss scale of AMP.
    z = torch.full((1024,), -20.0, dtype=torch.float16, requires_grad=True)
    loss = bce(z, torch.zeros(1024))
    (gradient,) = torch.autograd.grad(loss * 2.0**20, z)
    exact = torch.tensor(2.0**10 / (1 + math.exp(20.0)), dtype=torch.float16)
    assert torch.equal(gradient, exact.expand(1024))


def test_second_derivatives_are_those_of_the_definition() -> None:
    x, y = torch.randn(50, requires_grad=True), targets(50).float()
    (first,) = torch.autograd.grad(bce(x, y, reduction="sum"), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    p = torch.sigmoid(x.detach().double())
    torch.testing.assert_close(second.double(), p * (1 - p), rtol=1e-6, atol=0)
    (first,) = torch.autograd.grad(bce(x * 1, y, reduction="none").sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second.double(), p * (1 - p), rtol=1e-6, atol=0)


def test_batched_gradients() -> None:
    x, y = torch.randn(6, requires_grad=True), targets(6).float()
    losses = bce(x, y, reduction="none")
    (jacobian,) = torch.autograd.grad(losses, x, torch.eye(6), is_grads_batched=True)
    torch.testing.assert_close(jacobian.diagonal(), torch.sigmoid(x.detach()) - y)
    assert jacobian.count_nonzero() == 6


def test_a_returned_gradient_may_be_modified() -> None:
    x, y = torch.randn(50, requires_grad=True), torch.ones(50)
    loss = bce(x, y, reduction="sum")
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.zero_()
    assert torch.equal(torch.autograd.grad(loss, x)[0], kept)


def test_backward_passes_of_one_graph_in_several_threads() -> None:
    x, y = torch.randn(20_000, requires_grad=True), torch.ones(20_000)
    (once,) = torch.autograd.grad(bce(x, y), x)
    wrong: list[float] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(60):
            loss = bce(x, y)

            def back(scale: float, loss: Tensor = loss) -> None:
                upstream = torch.tensor(scale)
                (gradient,) = torch.autograd.grad(loss, x, upstream, retain_graph=True)
                if not torch.allclose(gradient, scale * once, rtol=1e-6, atol=0):
                    wrong.append(scale)

            threads = [threading.Thread(target=back, args=(k + 2.0,)) for k in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_a_nan_upstream_gradient_is_not_hidden_by_a_gradient_of_zero() -> None:
    x = torch.tensor([200.0, 1.0], requires_grad=True)
    losses = bce(x, torch.ones(2), reduction="none")
    (gradient,) = torch.autograd.grad(losses, x, torch.tensor([math.nan, 1.0]))
    assert gradient.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("weight", "pos_weight"), [(1e30, 1e10), (math.inf, 1.0), (0.0, 2.0), (-2.0, 1.0)]
)
@one_of_each
def test_extreme_weights(loss: Loss, weight: float, pos_weight: float) -> None:
    if weight == math.inf and loss.function is torchbce.functional.asymmetric_loss:
        return  # NaN or inf, depending on whether a loss of 1e-50 is rounded to 0 first
    x, y = loss.inputs(50, dtype=torch.float32), targets(50, dtype=torch.bool)
    options = {"weight": torch.tensor(weight), "pos_weight": torch.tensor(pos_weight)}
    with torchbce.backend("reference"):
        expected = loss(x, y, reduction="none", **options)
    with torchbce.backend("numba"):
        got = loss(x, y, reduction="none", **options)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


def test_an_infinite_loss_with_weight_zero_is_zero() -> None:
    x = torch.tensor([-math.inf, math.inf, math.nan])
    losses = bce(x, torch.tensor([1, 0, 1]), weight=torch.zeros(3), reduction="none")
    assert losses.tolist()[:2] == [0.0, 0.0]
    assert losses[2].isnan()


def test_ignore_index_is_compared_in_float64_with_float64_targets() -> None:
    y = torch.tensor([0.1, 0.1 + 1e-12, 0.5], dtype=torch.float64)
    for target in (y, y.to_sparse()):
        losses = bce(torch.zeros(3), target, ignore_index=0.1, reduction="none")
        assert (losses > 0).tolist() == [False, True, True]


def test_a_constant_that_is_a_tensor_is_read_at_each_call() -> None:
    gamma, x, y = torch.tensor(2.0), torch.ones(3), torch.ones(3)
    focal = torchbce.functional.sigmoid_focal_loss
    assert focal(x, y, gamma=gamma) == focal(x, y, gamma=2.0)  # type: ignore[arg-type]
    gamma.fill_(0.0)
    torch.testing.assert_close(focal(x, y, gamma=gamma), bce(x, y))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_tensors_stay_on_the_cpu_where_another_device_is_the_default() -> None:
    x, y = torch.randn(4, 5), (torch.rand(4, 5) > 0.5).float()
    sparse, wide = y.to_sparse(), torch.randn(2**20, 1).requires_grad_()
    expected = bce(x, y)
    for _ in range(2):
        with torch.device("meta"):
            z = x.t().requires_grad_()
            value = bce(z, y.t())
            (gradient,) = torch.autograd.grad(value, z)
            losses = bce(x, y, reduction="none", ignore_index=-1)
            (large,) = torch.autograd.grad(bce(wide, wide.detach() > 0), wide)
            again = bce(x, sparse)
        assert {t.device.type for t in (value, gradient, losses, large, again)} == {"cpu"}
        torch.testing.assert_close(value.detach(), expected)
        torch.testing.assert_close(again, expected)
        del large


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_a_warning_points_at_the_line_of_the_call() -> None:
    x, y = torch.randn(4, 5), torch.ones(4, 5)
    for call in (
        lambda: torchbce.BCEWithLogitsLoss()(x, y, mask=y > 5),
        lambda: bce(x, y.to_sparse(), mask=y > 5),
        lambda: bce(x.double(), y, mask=y > 5),
        lambda: bce(x.double(), y.to_sparse(), mask=y > 5),
    ):
        with pytest.warns(UserWarning, match="over no elements") as warned:
            call()
        assert [warning.filename for warning in warned] == [__file__]


def test_an_infinite_upstream_gradient_does_not_reach_ignored_elements() -> None:
    x, mask = torch.randn(4, requires_grad=True), torch.tensor([True, True, False, True])
    loss = bce(x, torch.ones(4), mask=mask)
    (gradient,) = torch.autograd.grad(loss * math.inf, x)
    assert gradient[2] == 0
    losses = bce(x, torch.ones(4), mask=mask, reduction="none")
    (gradient,) = torch.autograd.grad(losses, x, torch.full((4,), math.nan))
    assert gradient.isnan().tolist() == [True, True, False, True]


def test_saved_tensor_hooks_and_checkpointing() -> None:
    x, y = torch.randn(3000, requires_grad=True), torch.ones(3000)
    (expected,) = torch.autograd.grad(bce(x, y), x)
    with torch.autograd.graph.save_on_cpu():
        loss = bce(x, y)
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)
    loss = torch.utils.checkpoint.checkpoint(bce, x, y, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)


# -------------------------------------------------------------------------------------- memory


def test_memory_is_reused_only_when_it_is_free() -> None:
    n = 2**20 + 4  # slightly more than 4 MiB
    x, y = torch.zeros(n, requires_grad=True), torch.ones(n)

    def gradient(scale: float) -> Tensor:
        return torch.autograd.grad(bce(x, y, reduction="sum") * scale, x)[0]

    first = gradient(1)
    place, view = first.data_ptr(), first[7:9]
    second = gradient(2)
    assert second.data_ptr() != place
    assert first.tolist()[:3] == [-0.5] * 3
    del first
    third = gradient(3)
    assert third.data_ptr() not in (place, second.data_ptr())
    assert view.tolist() == [-0.5] * 2
    place = third.data_ptr()
    del third
    assert gradient(4).data_ptr() == place
    held = gradient(5).untyped_storage()
    gradient(6)
    assert held.nbytes() == 4 * n
    torchbce.empty_cache()
    del held
    assert gradient(7)[0] == -3.5


def test_shared_memory_is_not_reused() -> None:
    x, y = torch.zeros(2**20, requires_grad=True), torch.ones(2**20)
    (gradient,) = torch.autograd.grad(bce(x, y, reduction="sum"), x)
    place = gradient.share_memory_().data_ptr()
    del gradient
    (gradient,) = torch.autograd.grad(bce(x, y, reduction="sum"), x)
    assert gradient.data_ptr() != place


def test_a_smaller_gradient_does_not_reuse_larger_memory() -> None:
    for n in (2**21, 2**20, 2**21):
        x = torch.zeros(n, requires_grad=True)
        (gradient,) = torch.autograd.grad(bce(x, torch.ones(n)), x)
        assert gradient.untyped_storage().nbytes() == 4 * n


# -------------------------------------------------------------------------------------- errors


@one_of_each
@pytest.mark.parametrize("n", [3, CHUNK + 5, 5 * CHUNK])
def test_the_error_names_a_target_out_of_range_in_any_chunk(loss: Loss, n: int) -> None:
    x, y = loss.inputs(n, dtype=torch.float32), torch.zeros(n)
    for wrong in (1.0000001, -1e-45, math.nan, math.inf):
        y[-1] = wrong
        with torchbce.backend("numba"), pytest.raises(ValueError, match=rf"target\[{n - 1}\] is"):
            loss(x, y)
        assert loss(x, y, mask=torch.arange(n) < n - 1).isfinite()
        options: dict[str, Any] = {"ignore_index": wrong}
        assert loss(x, y, **options).isfinite()


@one_of_each
def test_minus_zero_is_a_valid_target(loss: Loss) -> None:
    x = loss.inputs(6, dtype=torch.float32)
    y = torch.tensor([-0.0, 0.0, 1.0, -0.0, 1.0, 0.0])
    assert torch.equal(loss(x, y, reduction="none"), loss(x, y.abs(), reduction="none"))


@pytest.mark.parametrize("dtype", INPUTS, ids=str)
def test_inputs_out_of_range(dtype: torch.dtype) -> None:
    y = torch.ones(BLOCK + 1, dtype=dtype)
    for loss, right, wrongs in (
        (torchbce.functional.binary_cross_entropy, 0.5, (1.5, -0.5, math.nan)),
        (torchbce.functional.binary_cross_entropy_with_log_probs, -0.5, (1.5, 1e-6, math.nan)),
    ):
        for wrong in wrongs:
            x = torch.full((BLOCK + 1,), right, dtype=dtype)
            x[-1] = wrong
            with pytest.raises(ValueError, match=rf"input\[{BLOCK}\] is {x[-1].item()}"):
                loss(x, y)
