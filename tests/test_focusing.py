"""The focal, asymmetric and Poly-1 losses: constants per class, soft targets, focusing weights.

The true values are computed in 60 digits from the formulas of the documentation.
"""

import copy
import gc
import itertools
import math
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor, nn

import torchbce
import truth
from torchbce.backends import dispatch
from torchbce.functional import (
    asymmetric_loss,
    binary_cross_entropy_with_logits,
    poly_binary_cross_entropy,
    sigmoid_focal_loss,
)

FORMS = ["linear", "p_t"]
every_form = pytest.mark.parametrize("soft_targets", FORMS)

#: Values per class, some of which neither float32 nor float64 represents.
GAMMA = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.3], dtype=torch.float64)
ALPHA = torch.tensor([0.1, 0.25, 0.5, 0.9, 0.75], dtype=torch.float64)
MARGIN = torch.tensor([0.0, 0.05, 0.3, 0.001, 0.6], dtype=torch.float64)
EPSILON = torch.tensor([-1.0, -0.5, 0.0, 1.0, 2.5], dtype=torch.float64)

LOSSES: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "focal": (sigmoid_focal_loss, {"alpha": ALPHA, "gamma": GAMMA}),
    "asymmetric": (
        asymmetric_loss,
        {"gamma_pos": GAMMA.flip(0), "gamma_neg": GAMMA, "margin": MARGIN},
    ),
    "poly": (
        poly_binary_cross_entropy,
        {"epsilon": EPSILON, "gamma": GAMMA.roll(2), "alpha": ALPHA},
    ),
}
every_loss = pytest.mark.parametrize("name", list(LOSSES))


def true_terms(
    z: Any,
    y: float,
    soft_targets: str,
    at: Any = None,
    alpha: float | None = None,
    gamma: float | None = None,
    gamma_pos: float = 0.0,
    gamma_neg: float = 0.0,
    margin: float = 0.0,
    epsilon: float = 0.0,
) -> tuple[mpf, mpf]:
    """The two terms of the loss of one element; `at` is the logit of the focusing weights, z."""
    if gamma is not None:
        gamma_pos = gamma_neg = gamma
    share, not_share = (mpf(1), mpf(1)) if alpha is None else (mpf(alpha), 1 - mpf(alpha))
    y, not_y = mpf(y), 1 - mpf(y)

    def misses(z: mpf) -> tuple[mpf, mpf]:
        return 1 / (1 + mp.exp(z)), max(1 / (1 + mp.exp(-z)) - mpf(margin), mpf(0))

    q, s = misses(mpf(z))
    positive = mp.log1p(mp.exp(-mpf(z))) + mpf(epsilon) * q
    negative = (-mp.log(1 - s) if margin else mp.log1p(mp.exp(mpf(z)))) + mpf(epsilon) * s
    q, s = misses(mpf(z if at is None else at))
    if soft_targets == "linear":
        focus_pos, focus_neg = q ** mpf(gamma_pos), s ** mpf(gamma_neg)
        return y * share * focus_pos * positive, not_y * not_share * focus_neg * negative
    focus = (y * q + not_y * s) ** (y * mpf(gamma_pos) + not_y * mpf(gamma_neg))
    focus *= y * share + not_y * not_share
    return y * focus * positive, not_y * focus * negative


def true_slopes(z: float, y: float, soft_targets: str, detached: bool, **own: Any) -> list[mpf]:
    """The derivatives of the two terms, and those by their focusing weights."""
    slopes = [
        mp.diff(lambda x, i=i: true_terms(x, y, soft_targets, z, **own)[i], mpf(z)) for i in (0, 1)
    ]
    if not detached:
        slopes += [
            mp.diff(lambda x, i=i: true_terms(z, y, soft_targets, x, **own)[i], mpf(z))
            for i in (0, 1)
        ]
    return slopes


def one_class(own: dict[str, Any], column: int) -> dict[str, Any]:
    return {
        name: value[column].item() if isinstance(value, Tensor) else value
        for name, value in own.items()
    }


def value_and_gradient(loss: Any, x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = loss(x, y, **options)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


# ------------------------------------------------------------------------------------ accuracy

LOGITS = [0.0, 0.7, -3.0, 17.0, -40.0, 104.0, -104.0]
TARGETS = [0.0, 1.0, 0.3, 1e-7, 0.999999]


@every_loss
@every_form
@pytest.mark.parametrize("detached", [False, True], ids=["whole", "detached"])
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_values_and_gradients(name: str, soft_targets: str, detached: bool, backend: str) -> None:
    loss, own = LOSSES[name]
    dtypes = [torch.float32, torch.bfloat16] if backend == "numba" else [torch.float64]
    for dtype, target in itertools.product(dtypes, TARGETS):
        z = torch.tensor(LOGITS, dtype=dtype)[:, None].expand(-1, 5)
        y = torch.full_like(z, target)
        options = {"soft_targets": soft_targets, "detach_focusing": detached, "reduction": "none"}
        with torchbce.backend(backend):
            value, gradient = value_and_gradient(loss, z, y, **own, **options)
        # Half a unit for rounding the result; that of a soft target has weights y and 1 - y, which
        # are rounded to float32. In float64, a power multiplies the relative error of its
        # logarithm by up to 104 * 3.3.
        soft = target not in (0, 1) and dtype == torch.float32
        allowed = 500.0 if dtype == torch.float64 else 1.51 if soft else 0.51
        for i, k in itertools.product(*map(range, z.shape)):
            given = z[i, k].item(), y[i, k].item(), soft_targets
            constants = one_class(own, k)
            true = sum(true_terms(*given, **constants))
            assert truth.ulp_error(value[i, k].item(), true, dtype) <= allowed, (given, constants)
            slopes = true_slopes(*given, detached, **constants)
            # The gradient of a soft target is a difference, measured by its largest term.
            terms = slopes if given[1] not in (0, 1) else []
            scale = max(map(abs, [sum(slopes), *terms]))
            error = abs(mpf(gradient[i, k].item()) - sum(slopes)) / truth.ulp(scale, dtype)
            assert error <= allowed, (given, constants)


@every_loss
@every_form
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_limits(name: str, soft_targets: str, backend: str) -> None:
    loss, own = LOSSES[name]
    options = {"reduction": "none", "soft_targets": soft_targets, **own}
    with torchbce.backend(backend):
        for z, y in ((math.inf, 1.0), (-math.inf, 0.0), (1e4, 1.0), (-1e4, 0.0)):
            right = loss(torch.full((3, 5), z), torch.full((3, 5), y), **options)
            assert right.eq(0).all(), (z, y, right)
        wrong = loss(torch.full((3, 5), -math.inf), torch.ones(3, 5), **options)
        assert wrong.eq(math.inf).all()
        wrong = loss(torch.full((3, 5), -1e4), torch.ones(3, 5), **options)
        shares = own.get("alpha", torch.ones(5))
        extra = own.get("epsilon", 0)
        torch.testing.assert_close(
            wrong[0].double(), (1e4 + extra) * shares.double(), rtol=1e-6, atol=0
        )
        for z in (1e4, -1e4):
            _, gradient = value_and_gradient(
                loss, torch.full((3, 5), z), torch.full((3, 5), 0.3), **options
            )
            assert gradient.isfinite().all()
        assert loss(torch.full((3, 5), math.nan), torch.full((3, 5), 0.3), **options).isnan().all()
        nothing = torch.zeros(3, 5)
        infinite = loss(torch.full((3, 5), -math.inf), torch.ones(3, 5), weight=nothing, **options)
        assert infinite.eq(0).all()


@every_form
def test_a_weight_of_alpha_that_is_0_hides_an_infinite_loss(soft_targets: str) -> None:
    z, alpha = torch.tensor([-math.inf, math.inf]), torch.tensor([0.0, 1.0])
    for backend, given in itertools.product(("numba", "reference"), (alpha, alpha.double())):
        with torchbce.backend(backend):
            losses = sigmoid_focal_loss(
                z,
                torch.tensor([1.0, 0.0]),
                alpha=given,
                soft_targets=soft_targets,
                reduction="none",
            )
        assert losses.tolist() == [0.0, 0.0]


# ------------------------------------------------------------------------------------ constants


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_a_column_has_the_loss_of_its_constants(name: str, dtype: torch.dtype) -> None:
    loss, own = LOSSES[name]
    x = (3 * torch.randn(37, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    y = torch.rand(37, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    for form, detached in itertools.product(FORMS, (False, True)):
        options = {"soft_targets": form, "detach_focusing": detached, "reduction": "none"}
        value, gradient = value_and_gradient(loss, x, y, **own, **options)
        for k in range(5):
            column = value_and_gradient(loss, x[:, k], y[:, k], **one_class(own, k), **options)
            # The kernels compute the same in the same order. Cross-entropy, and the definition,
            # take other ways for numbers: two roundings of the result, 345 in float64.
            rtol = 1e-12 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
            for got, expected in zip((value[:, k], gradient[:, k]), column, strict=True):
                torch.testing.assert_close(
                    got, expected, rtol=rtol, atol=1e-7 * (dtype != torch.float64)
                )


@pytest.mark.parametrize("n", [1, 7, 1025, 3 * 32 * 1024 + 5])
def test_a_tensor_of_one_value_gives_the_bits_of_the_number(n: int) -> None:
    x, y = torch.linspace(-60, 60, n), torch.rand(n)
    cases: list[tuple[Any, dict[str, float]]] = [
        (sigmoid_focal_loss, {"alpha": 0.3, "gamma": 1.7}),
        (asymmetric_loss, {"gamma_pos": 0.5, "gamma_neg": 3.0, "margin": 0.05}),
        (poly_binary_cross_entropy, {"epsilon": -0.5, "gamma": 1.7, "alpha": 0.3}),
    ]
    for (loss, own), form in itertools.product(cases, FORMS):
        expected = value_and_gradient(loss, x, y, soft_targets=form, **own)
        for make in (
            lambda v: torch.tensor(v, dtype=torch.float64),
            lambda v: torch.full((n,), v, dtype=torch.float64),
        ):
            tensors = {name: make(value) for name, value in own.items()}
            got = value_and_gradient(loss, x, y, soft_targets=form, **tensors)
            assert torch.equal(got[0], expected[0])
            assert torch.equal(got[1], expected[1])


@every_loss
@every_form
@pytest.mark.parametrize("reduction", ["none", "mean", "weighted_mean", "batch_mean"])
@pytest.mark.parametrize("half", [False, True])
def test_all_options_at_once(name: str, soft_targets: str, reduction: str, half: bool) -> None:
    loss, own = LOSSES[name]
    random = torch.Generator().manual_seed(2)
    x = 4 * torch.randn(60, 5, generator=random)
    y = torch.rand(60, 5, generator=random)
    x = x.bfloat16() if half else x
    y[3] = y[5, 1] = -100
    x[5, 1] = math.nan
    options: dict[str, Any] = {
        "weight": torch.rand(60, 1, generator=random),
        "pos_weight": torch.rand(5, generator=random) + 0.5,
        "label_smoothing": 0.1,
        "ignore_index": -100,
        "mask": torch.rand(60, 5, generator=random) > 0.2,
        "soft_targets": soft_targets,
        "reduction": reduction,
        **own,
    }
    for detached in (False, True):
        value, gradient = value_and_gradient(loss, x, y, detach_focusing=detached, **options)
        true = value_and_gradient(loss, x.double(), y, detach_focusing=detached, **options)
        # A smoothed target is rounded to float32, and 1 - y with it: three units in the last place
        # of 1 - y, which is at least 0.05.
        rtol = 2.0**-8 if half and reduction == "none" else 4e-6
        torch.testing.assert_close(value.double(), true[0], rtol=rtol, atol=1e-7)
        scale = true[1].abs().max().item()
        rtol = 2.0**-8 if half else 4e-6
        torch.testing.assert_close(gradient.double(), true[1], rtol=rtol, atol=1e-6 * scale)
        assert gradient[5, 1] == 0


@every_form
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced", "contiguous"])
def test_layouts(soft_targets: str, layout: str) -> None:
    x, y = torch.randn(3, 5, 8, 6), torch.rand(3, 5, 8, 6)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        x, y = x.transpose(2, 3), y.transpose(2, 3)
    elif layout == "sliced":
        x, y = x[:, :, ::2], y[:, :, ::2]
    gamma, alpha = GAMMA[:, None, None].float(), torch.rand(3, 1, 1, 1)
    options = {"alpha": alpha, "gamma": gamma, "soft_targets": soft_targets, "reduction": "none"}
    got = value_and_gradient(sigmoid_focal_loss, x, y, **options)
    true = value_and_gradient(sigmoid_focal_loss, x.double(), y, **options)
    torch.testing.assert_close(got[0].double(), true[0], rtol=3e-7, atol=1e-12)
    torch.testing.assert_close(got[1].double(), true[1], rtol=3e-7, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sparse_targets(soft_targets: str, dtype: torch.dtype, smoothing: float) -> None:
    x, y = torch.randn(6, 5).to(dtype), torch.rand(6, 5).to(dtype)
    y[y < 0.6] = 0
    options = {"soft_targets": soft_targets, "label_smoothing": smoothing, "reduction": "none"}
    for loss, own in LOSSES.values():
        expected = value_and_gradient(loss, x, y, **own, **options)
        for sparse in (y.to_sparse(), y.to_sparse_csr()):
            got = value_and_gradient(loss, x, sparse, **own, **options)
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool], ids=str)
def test_dtypes_of_constants(dtype: torch.dtype) -> None:
    x, y, ones = torch.randn(7, 2), torch.rand(7, 2), torch.ones(2).to(dtype)
    expected = sigmoid_focal_loss(x, y, gamma=1.0, alpha=1.0)
    assert sigmoid_focal_loss(x, y, gamma=ones, alpha=ones) == expected


def test_constants_are_read_in_float64() -> None:
    x, y, gamma = torch.tensor([-17.0]), torch.tensor([0]), torch.tensor([3.3], dtype=torch.float64)
    p = truth.sigmoid(-17)
    true = p ** mpf(gamma.item()) * truth.softplus(-17)
    value = sigmoid_focal_loss(x, y, gamma=gamma, reduction="none").item()
    assert truth.ulp_error(value, true, torch.float32) <= 0.51
    rounded = p ** mpf(gamma.float().item()) * truth.softplus(-17)
    assert truth.ulp_error(value, rounded, torch.float32) > 1


def test_columns_and_flat_shapes() -> None:
    x, y = torch.randn(4, 1), torch.rand(4)
    gamma = torch.rand(4)
    expected = sigmoid_focal_loss(x.flatten(), y, gamma=gamma)
    assert sigmoid_focal_loss(x, y, gamma=gamma) == expected


@every_loss
@every_form
def test_derivatives_by_the_constants(name: str, soft_targets: str) -> None:
    loss, own = LOSSES[name]
    x = torch.randn(4, 5, dtype=torch.float64)
    y = torch.rand(4, 5, dtype=torch.float64)
    names = [n for n in own if n != "margin"]  # where the loss is not smooth
    inside = [own[n].clamp(0.05, 0.95).requires_grad_() for n in names]

    def value(*constants: Tensor) -> Tensor:
        given = {**own, **dict(zip(names, constants, strict=True))}
        return loss(x, y, soft_targets=soft_targets, **given)

    assert torch.autograd.gradcheck(value, inside)
    assert torch.autograd.gradgradcheck(value, inside)
    # In float32 too, where a kernel would leave them out.
    value = loss(x.float(), y.float(), **{**own, **dict(zip(names, inside, strict=True))})
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(value, inside))


def test_the_backend_says_what_it_does_not_compute() -> None:
    x, y = torch.zeros(3), torch.zeros(3)
    gamma = torch.ones(3, requires_grad=True)
    assert torchbce.backend_for(x, y, gamma=torch.ones(3)).name == "numba"
    name, reason = torchbce.backend_for(x, y, gamma=gamma)
    assert name == "reference"
    assert reason.startswith("gamma requires grad;")
    with (
        torchbce.backend("numba"),
        pytest.raises(RuntimeError, match="cannot compute this: gamma requires grad"),
    ):
        sigmoid_focal_loss(x, y, gamma=gamma)
    with torch.no_grad():
        assert torchbce.backend_for(x, y, gamma=gamma).name == "numba"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"alpha": torch.tensor([0.5, 1.5, 0.5])},
            r"alpha must be in \[0, 1\], got 1.5 at index 1: it is",
        ),
        ({"alpha": torch.tensor([[0.5], [math.nan]])}, r"alpha must be .* got nan at index 1, 0"),
        ({"gamma": torch.tensor(-1)}, r"gamma must be finite and not negative, got -1"),
        ({"gamma": torch.ones(2)}, r"gamma has shape \(2,\), .* input's shape \(2, 3\); .*\(C,\)"),
        ({"soft_targets": "pt"}, "soft_targets must be 'linear' or 'p_t'; got 'pt'"),
    ],
)
def test_constants_out_of_range(options: dict[str, Any], sentence: str) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=sentence):
        sigmoid_focal_loss(x, x, **options)
    if "has shape" not in sentence:
        with pytest.raises(ValueError, match=sentence):
            torchbce.SigmoidFocalLoss(**options)


def test_constants_of_a_wrong_type() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(TypeError, match="gamma must be a tensor or a number, got list"):
        sigmoid_focal_loss(x, x, gamma=[1.0, 2.0, 3.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="alpha must be real"):
        sigmoid_focal_loss(x, x, alpha=torch.ones(3, dtype=torch.complex64))


def test_repeated_calls_read_a_tensor_again_and_do_not_keep_it() -> None:
    x, y = torch.randn(3, 5), torch.rand(3, 5)
    gamma = torch.ones(5)
    for step in range(6):
        gamma.fill_(step)
        assert sigmoid_focal_loss(x, y, gamma=gamma) == sigmoid_focal_loss(
            x, y, gamma=torch.full((5,), float(step))
        )
    before = len(dispatch.prepared), len(dispatch._missed)
    gone = weakref.ref(gamma)
    del gamma
    gc.collect()
    assert gone() is None
    for _ in range(6):
        sigmoid_focal_loss(x, y, gamma=torch.ones(5))
    assert (len(dispatch.prepared), len(dispatch._missed)) == before


def test_prepared_calls_distinguish_the_options() -> None:
    x, y = torch.tensor([1.5]), torch.tensor([0.3])
    for form, detached in itertools.product(FORMS, (False, True)):
        options = {"soft_targets": form, "detach_focusing": detached}
        first, *others = (value_and_gradient(sigmoid_focal_loss, x, y, **options) for _ in range(5))
        assert all(o == first for o in others)
        assert round(first[0].item(), 5) == (0.7981 if form == "linear" else 0.49201)


def test_a_constant_changed_before_the_backward_pass_raises() -> None:
    x, gamma = torch.randn(5, requires_grad=True), torch.full((5,), 2.0, dtype=torch.float64)
    losses = sigmoid_focal_loss(x, torch.rand(5), gamma=gamma, reduction="none")
    gamma.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


# --------------------------------------------------------------------------------- soft targets


def test_the_two_forms_of_a_soft_target() -> None:
    z, y = torch.tensor([1.5], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    for form, number in zip(FORMS, (0.79810, 0.49201), strict=True):
        assert round(sigmoid_focal_loss(z, y, soft_targets=form).item(), 5) == number
    assert sigmoid_focal_loss(z, y) == sigmoid_focal_loss(z, y, soft_targets="linear")


@every_form
def test_where_a_smoothed_target_has_the_smallest_loss(soft_targets: str) -> None:
    z = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    losses = sigmoid_focal_loss(
        z, torch.ones_like(z), label_smoothing=0.1, soft_targets=soft_targets, reduction="none"
    )
    best = torch.sigmoid(z[losses.argmin()]).item()
    assert round(best, 3) == (0.750 if soft_targets == "linear" else 0.995)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize("numbers", [False, True])
def test_hard_targets_have_the_same_loss_in_both_forms(
    name: str, dtype: torch.dtype, numbers: bool
) -> None:
    loss, own = LOSSES[name]
    own = one_class(own, 3) if numbers else own
    x = torch.linspace(-104, 104, 400).reshape(-1, 5)
    y = (torch.rand(x.shape) > 0.5).to(dtype)
    linear, by_p_t = (
        value_and_gradient(loss, x, y, soft_targets=form, reduction="none", **own) for form in FORMS
    )
    for a, b in zip(linear, by_p_t, strict=True):
        if dtype != torch.float32:  # the same kernel
            assert torch.equal(a, b)
        # Each is within 0.51 units of the true value.
        torch.testing.assert_close(a, b, rtol=1.3e-7, atol=2.0**-149)


def test_a_pos_weight_of_poly_1_multiplies_both_terms_of_a_positive() -> None:
    """In the form by p_t too, as docs/losses.md has it."""
    z, y = torch.tensor([1.5, -0.7]).double(), torch.tensor([0.3, 0.9]).double()
    p, epsilon, gamma, alpha = 3.0, 1.7, 2.0, 0.25
    s, not_s = torch.sigmoid(z), torch.sigmoid(-z)
    p_t = y * s + (1 - y) * not_s
    bracket = p * y * (-s.log() + epsilon * not_s) + (1 - y) * (-not_s.log() + epsilon * s)
    expected = (alpha * y + (1 - alpha) * (1 - y)) * (1 - p_t) ** gamma * bracket
    options: Any = {"epsilon": epsilon, "gamma": gamma, "alpha": alpha, "soft_targets": "p_t"}
    for dtype in (torch.float64, torch.float32):
        found = poly_binary_cross_entropy(z.to(dtype), y, pos_weight=p, reduction="none", **options)
        torch.testing.assert_close(found, expected.to(dtype))


def test_without_focusing_both_forms_are_cross_entropy() -> None:
    x, y = 4 * torch.randn(50), torch.rand(50)
    expected = binary_cross_entropy_with_logits(x, y, reduction="none")
    for form in FORMS:
        given = {"gamma": 0.0, "soft_targets": form, "reduction": "none"}
        assert torch.equal(sigmoid_focal_loss(x, y, **given), expected)  # type: ignore[arg-type]


@every_loss
@every_form
@pytest.mark.parametrize("detached", [False, True])
def test_derivatives_of_every_order(name: str, soft_targets: str, detached: bool) -> None:
    loss, own = LOSSES[name]
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)

    def value(x: Tensor, y: Tensor) -> Tensor:
        return loss(x, y, soft_targets=soft_targets, **own)

    if not detached:
        assert torch.autograd.gradcheck(value, (x, y))
        assert torch.autograd.gradgradcheck(value, (x, y))
    # Second derivatives of a kernel are those of the definition.
    seconds = []
    for wide in (x, x.detach().float().requires_grad_()):
        given = loss(
            wide,
            y.detach().to(wide.dtype),
            soft_targets=soft_targets,
            detach_focusing=detached,
            **own,
        )
        (first,) = torch.autograd.grad(given, wide, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), wide)[0].double())
    torch.testing.assert_close(seconds[1], seconds[0], rtol=1e-4, atol=1e-7)


# ------------------------------------------------------------------------------------- detached


@every_loss
@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_detached_focusing_weights(name: str, soft_targets: str, dtype: torch.dtype) -> None:
    loss, own = LOSSES[name]
    own = one_class(own, 3)
    x, y = (3 * torch.randn(50, 5)).to(dtype), torch.rand(50, 5).to(dtype)
    options = {"soft_targets": soft_targets, "reduction": "none", **own}
    whole, detached = (
        value_and_gradient(loss, x, y, detach_focusing=detached, **options)
        for detached in (False, True)
    )
    torch.testing.assert_close(whole[0], detached[0], rtol=1e-6, atol=0)
    assert not torch.allclose(whole[1], detached[1])
    # The same formula without exponents, times the constant weights.
    unfocused = {n: 0.0 if "gamma" in n else v for n, v in options.items()}
    if soft_targets == "linear":
        for side in (0.0, 1.0):
            hard = torch.full_like(y, side)
            plain, slope = value_and_gradient(loss, x, hard, **unfocused)
            focused, gradient = value_and_gradient(loss, x, hard, detach_focusing=True, **options)
            expected = torch.where(plain > 0, focused / plain, 0.0) * slope
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-9)


def test_without_exponents_nothing_is_detached() -> None:
    x, y = torch.randn(50), torch.rand(50)
    plain = value_and_gradient(sigmoid_focal_loss, x, y, gamma=0.0)
    detached = value_and_gradient(sigmoid_focal_loss, x, y, gamma=0.0, detach_focusing=True)
    assert all(map(torch.equal, plain, detached))


# -------------------------------------------------------------------------- modules, transforms


@every_loss
def test_modules(name: str) -> None:
    loss, own = LOSSES[name]
    module_of = {
        "focal": torchbce.SigmoidFocalLoss,
        "asymmetric": torchbce.AsymmetricLoss,
        "poly": torchbce.PolyBCELoss,
    }[name]
    options = {"soft_targets": "p_t", "detach_focusing": True}
    module = module_of(**own, **options)
    x, y = torch.randn(4, 5), torch.rand(4, 5)
    expected = loss(x, y, **own, **options)
    for made in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert made(x, y) == expected
    assert set(module.state_dict()) == set(own)
    assert "soft_targets='p_t', detach_focusing=True" in repr(module)
    assert all(f"{constant}=(5,)" in repr(module) for constant in own)
    assert all(buffer.device.type == "meta" for buffer in module.to("meta").buffers())


def test_a_parameter_is_trained() -> None:
    module = torchbce.SigmoidFocalLoss(gamma=nn.Parameter(torch.ones(5)))
    assert [name for name, _ in module.named_parameters()] == ["gamma"]
    module(torch.randn(4, 5), torch.rand(4, 5)).backward()
    assert module.gamma.grad.abs().sum() > 0


@every_form
def test_transforms(soft_targets: str) -> None:
    x, y = torch.randn(4, 5), torch.rand(4, 5)
    options = {"gamma": GAMMA.float(), "alpha": ALPHA.float(), "soft_targets": soft_targets}

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return sigmoid_focal_loss(x, y, **options)  # type: ignore[arg-type]

    expected, gradient = value_and_gradient(loss, x, y)
    torch.testing.assert_close(torch.func.vmap(loss)(x, y).mean(), expected)
    torch.testing.assert_close(torch.func.grad(loss)(x, y), gradient)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), expected)
    torch.testing.assert_close(value_and_gradient(compiled, x, y)[1], gradient)


class Sub(Tensor):
    """As a data pipeline hands it over."""


def test_subclasses() -> None:
    x, y, gamma = torch.randn(3, 2), torch.rand(3, 2), torch.tensor([1.0, 2.0])
    expected = sigmoid_focal_loss(x, y, gamma=gamma)
    for given in ((x.as_subclass(Sub), gamma), (x, gamma.as_subclass(Sub))):
        value = sigmoid_focal_loss(given[0], y, gamma=given[1])
        assert type(value) is Sub
        assert value.as_subclass(Tensor) == expected
    with pytest.raises(
        ValueError, match=r"gamma must be finite and not negative, got -2\.0 at index 1"
    ):
        sigmoid_focal_loss(x, y, gamma=(gamma * torch.tensor([1.0, -1.0])).as_subclass(Sub))


def test_a_traced_graph_is_one_call() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = torchbce.SigmoidFocalLoss(gamma=torch.ones(2), soft_targets="p_t")

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.loss(x, y)

    x, y = torch.randn(3, 2), torch.rand(3, 2)
    model = Model()
    assert torch.fx.symbolic_trace(model)(x, y) == model(x, y)
    made = torch.fx.experimental.proxy_tensor.make_fx(model)(x, y)
    torch.testing.assert_close(made(x, y), model(x, y))
