"""Every loss against its published formula, and every option of the contract for every loss."""

import copy
import inspect
import math
import pickle
import threading
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

import torchbce
from family import FAMILY, ONE_OF_EACH, Loss, targets
from torchbce import functional
from torchbce.definition import family as records
from torchbce.definition.arguments import Options

every_loss = pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)
one_of_each = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.function.__name__)
# PyTorch warns at the first sparse tensor of a process.
sparse_warnings = pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")

REDUCTIONS = ["none", "sum", "mean", "weighted_mean", "batch_mean"]


def reduced(elements: Tensor, reduction: str, weight: Tensor, valid: Tensor) -> Tensor:
    """Reduce element losses [rows, labels], as the documentation describes each reduction."""
    elements = torch.where(valid, elements, 0.0)
    match reduction:
        case "none":
            return elements
        case "sum":
            return elements.sum()
        case "mean":
            return elements.sum() / valid.sum()
        case "weighted_mean":
            return elements.sum() / weight.expand(elements.shape)[valid].sum()
        case "batch_mean":
            return elements.sum() / valid.any(dim=1).sum()
    raise AssertionError(reduction)


def test_the_table_has_every_function() -> None:
    own = set(functional.__all__) - set(functional._LAZY)
    assert {loss.function.__name__ for loss in FAMILY} == own == set(records.FAMILY)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.int64, torch.uint8], ids=str)
def test_formula(loss: Loss, dtype: torch.dtype) -> None:
    x, y = loss.inputs(6, 5), targets(6, 5, dtype=dtype)
    got = loss(x, y, reduction="none")
    torch.testing.assert_close(got, loss.expected(x, y), rtol=1e-10, atol=1e-12)


@one_of_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_an_infinite_pos_weight_without_positives(
    loss: Loss, dtype: torch.dtype, fresh_compiler: None
) -> None:
    """0 times inf counts as 0, in every backend and in compiled code, in gradients too."""
    x, y = loss.inputs(6, 5).to(dtype).requires_grad_(), targets(6, 5, dtype=torch.bool)
    y[:, 2] = False
    p = torch.tensor([1.0, 2.0, math.inf, 3.0, 1.0])
    expected = loss(x, y, pos_weight=torch.where(p == math.inf, 1.0, p), reduction="sum")
    (slope,) = torch.autograd.grad(expected, x)

    def found(x: Tensor) -> Tensor:
        return loss(x, y, pos_weight=p, reduction="sum")

    with torchbce.backend("reference"):
        values = [found(x)]
    values += [found(x), torch.compile(found, fullgraph=True, backend="aot_eager")(x)]
    for value in values:
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, x)[0], slope)
    weight = p.clone().requires_grad_()
    (of_weight,) = torch.autograd.grad(loss(x, y, pos_weight=weight, reduction="sum"), weight)
    assert of_weight[2] == 0
    assert of_weight.isfinite().all()


@every_loss
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_options_at_once(loss: Loss, reduction: str) -> None:
    x, y = loss.inputs(6, 5), targets(6, 5)
    weight, pos_weight = torch.rand(6, 1).double() + 0.5, torch.rand(5).double() + 0.5
    y[0, 1] = y[3] = -100.0
    mask = torch.ones(6, 5, dtype=torch.bool)
    mask[1, 2] = False
    valid = mask & (y != -100)
    smooth = torch.where(valid, y * 0.9 + 0.05, 0.5)
    positive, negative = loss.parts(x)
    elements = weight * (pos_weight * smooth * positive + (1 - smooth) * negative)
    got = loss(
        x,
        y,
        weight=weight,
        pos_weight=pos_weight,
        label_smoothing=0.1,
        ignore_index=-100,
        mask=mask,
        reduction=reduction,
    )
    expected = reduced(elements, reduction, weight, valid)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@one_of_each
@pytest.mark.parametrize("how", ["ignore_index", "nan", "mask"])
def test_an_ignored_element_has_no_effect(loss: Loss, how: str) -> None:
    x, y = loss.inputs(4, 3), targets(4, 3)
    x[1, 1] = math.nan
    y[1, 1] = {"ignore_index": -1.0, "nan": math.nan, "mask": 7.0}[how]
    options: dict[str, Any] = {
        "ignore_index": {"ignore_index": -1},
        "nan": {"ignore_index": math.nan},
        "mask": {"mask": ~x.isnan()},
    }[how]
    kept = ~x.isnan()
    x.requires_grad_()
    value = loss(x, y, **options)
    torch.testing.assert_close(value, loss(x[kept], y[kept]), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient[1, 1] == 0
    assert gradient[kept].isfinite().all()


@one_of_each
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batch_mean"])
def test_a_mean_over_no_elements_is_zero_with_one_warning(loss: Loss, reduction: str) -> None:
    x = loss.inputs(4, 3).requires_grad_()
    mask = torch.zeros(4, 3, dtype=torch.bool)
    with pytest.warns(UserWarning, match="over no elements is 0") as warned:
        value = loss(x, targets(4, 3), mask=mask, reduction=reduction)
    assert len(warned) == 1
    assert warned[0].filename == __file__ or "family" in warned[0].filename
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros(4, 3).double())


@one_of_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_weights_whose_sum_is_0_warn_once(loss: Loss, dtype: torch.dtype, masked: bool) -> None:
    x, y = loss.inputs(4, 3).to(dtype).requires_grad_(), targets(4, 3)
    mask = torch.arange(12).view(4, 3) < 6
    options: dict[str, Any] = {"mask": mask} if masked else {}
    none = (~mask).float() if masked else torch.zeros(4, 3)
    opposite = torch.tensor([1.0, -1.0, 0.0])
    for weight in (none, opposite):
        with pytest.warns(UserWarning, match="weights whose sum is 0 is the sum") as warned:
            value = loss(x, y, weight=weight, reduction="weighted_mean", **options)
        assert len(warned) == 1
        assert warned[0].filename == __file__ or "family" in warned[0].filename
        total = loss(x, y, weight=weight, reduction="sum", **options)
        torch.testing.assert_close(value, total)
        assert value.item() == 0 or weight is opposite
        (slope,) = torch.autograd.grad(value, x)
        torch.testing.assert_close(slope, torch.autograd.grad(total, x)[0])


@sparse_warnings
@one_of_each
@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sparse_targets(loss: Loss, layout: str, reduction: str) -> None:
    x = loss.inputs(6, 5).requires_grad_()
    dense = torch.where(targets(6, 5, seed=3) > 0.7, targets(6, 5), 0.0)
    sparse = dense.to_sparse() if layout == "coo" else dense.to_sparse_csr()
    options: dict[str, Any] = {
        "weight": torch.rand(6, 1).double(),
        "pos_weight": torch.rand(5).double(),
        "label_smoothing": 0.2,
        "mask": targets(6, 5, seed=4) > 0.3,
        "reduction": reduction,
    }
    got, expected = loss(x, sparse, **options), loss(x, dense, **options)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in (got, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-14)


@sparse_warnings
def test_sparse_targets_are_accurate_in_the_tails() -> None:
    loss = functional.binary_cross_entropy_with_logits
    x = torch.tensor([[math.inf, 40.0, -40.0]])
    y = torch.tensor([[1.0, 1.0, 0.0]]).to_sparse()
    got = loss(x, y, reduction="none")
    expected = loss(x, y.to_dense(), reduction="none")
    assert torch.equal(got, expected)
    assert got[0, 0] == 0


@sparse_warnings
def test_sparse_ignore_index_and_range() -> None:
    index = torch.tensor([[0, 1, 1], [2, 0, 1]])
    x = torch.zeros(2, 3)
    y = torch.sparse_coo_tensor(index, torch.tensor([1.0, -1.0, 1.0]), (2, 3))
    value = functional.binary_cross_entropy_with_logits(x, y, ignore_index=-1, reduction="none")
    assert value[1, 0] == 0
    with pytest.raises(ValueError, match=r"target\[1, 0\] is -1.0"):
        functional.binary_cross_entropy_with_logits(x, y)
    with pytest.raises(ValueError, match="must have input's shape"):
        functional.binary_cross_entropy_with_logits(torch.zeros(3, 2), y)


def test_gamma_zero_is_cross_entropy() -> None:
    z, y = ONE_OF_EACH[0].inputs(50, dtype=torch.float32) * 10, targets(50, dtype=torch.float32)
    bce = functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    assert torch.equal(functional.sigmoid_focal_loss(z, y, gamma=0, reduction="none"), bce)
    poly = functional.poly_binary_cross_entropy(z, y, epsilon=0, reduction="none")
    assert torch.equal(poly, bce)
    flat = functional.asymmetric_loss(z, y, gamma_pos=0, gamma_neg=0, margin=0, reduction="none")
    assert torch.equal(flat, bce)


@every_loss
@pytest.mark.parametrize(
    "target_dtype", [None, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(loss: Loss, dtype: torch.dtype, target_dtype: torch.dtype | None) -> None:
    x, y = loss.inputs(64, dtype=dtype), targets(64, dtype=target_dtype or dtype)
    assert loss(x, y, reduction="none").dtype == dtype
    value = loss(x, y)
    assert value.dtype == torch.float32
    expected = loss.expected(x, y.float()).mean().float()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)


@every_loss
def test_a_module_calls_the_function_with_its_options(loss: Loss) -> None:
    options: dict[str, Any] = {
        "weight": torch.rand(5),
        "pos_weight": torch.rand(5),
        "label_smoothing": 0.1,
        "ignore_index": -1,
        "reduction": "batch_mean",
    }
    module = loss.module(**loss.own, **options)
    x, y, mask = loss.inputs(6, 5), targets(6, 5), targets(6, 5) > 0.2
    expected = loss(x, y, mask=mask, **options)
    for copied in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(x, y, mask=mask), expected)
    assert set(module.state_dict()) == {"weight", "pos_weight"}
    assert not loss.module(**loss.own).state_dict()


@every_loss
def test_every_loss_and_module_takes_every_option(loss: Loss) -> None:
    options = set(Options._fields)
    assert options <= set(inspect.signature(loss.function).parameters)
    assert options - {"mask"} <= set(inspect.signature(loss.module).parameters)
    assert "mask" in inspect.signature(loss.module.forward).parameters
    assert "<" not in str(loss.function.__doc__).replace(">>>", "")


@one_of_each
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 1), (3, 0)])
def test_shapes(loss: Loss, shape: tuple[int, ...]) -> None:
    assert loss(loss.inputs(*shape), targets(*shape), reduction="none").shape == shape


@one_of_each
def test_strides(loss: Loss) -> None:
    x, y = loss.inputs(8, 6), targets(8, 6)
    expected = loss(x[::2, 1::2].contiguous(), y[::2, 1::2].contiguous())
    assert loss(x[::2, 1::2], y[::2, 1::2]) == expected
    row = loss.inputs(1, 6)
    torch.testing.assert_close(
        loss(row.expand(8, 6), y), loss(row.repeat(8, 1), y), rtol=1e-14, atol=0
    )
    torch.testing.assert_close(loss(x.T, y.T), loss(x, y), rtol=1e-14, atol=0)


@one_of_each
def test_calls_from_several_threads(loss: Loss) -> None:
    x, y = loss.inputs(1000, 10), targets(1000, 10)
    expected = loss(x, y)
    results: list[Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(loss(x, y))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    torch.testing.assert_close(torch.stack(results), expected.expand(8), rtol=1e-14, atol=0)


@one_of_each
def test_autocast(loss: Loss) -> None:
    x, y = loss.inputs(64, dtype=torch.float32), targets(64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, y)
    assert torch.equal(value, loss(x, y))
    assert value.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda f, x, y: f.sigmoid_focal_loss(x, y, alpha=2.0), "alpha must be in .*pos_weight"),
        (lambda f, x, y: f.sigmoid_focal_loss(x, y, gamma=-1.0), "gamma must be .* got -1.0"),
        (lambda f, x, y: f.asymmetric_loss(x, y, margin=1.0), r"margin must be in \[0, 1\)"),
        (lambda f, x, y: f.asymmetric_loss(x, y, gamma_neg=math.nan), "gamma_neg must be"),
        (lambda f, x, y: f.poly_binary_cross_entropy(x, y, epsilon=-2.0), "at least -1, got -2"),
        (
            lambda f, x, y: f.binary_cross_entropy_with_logits(x, y, label_smoothing=1.5),
            r"label_smoothing must be in \[0, 1\], got 1.5",
        ),
        (
            lambda f, x, y: f.binary_cross_entropy_with_log_probs(x + 2.5, y),
            r"input\[0\] is 2.5; log-probabilities are at most 0. These look like logits",
        ),
        (
            lambda f, x, y: f.binary_cross_entropy(x - 2.0, y),
            r"input\[0\] is -2.0; .*These look like logits",
        ),
        (
            lambda f, x, y: f.binary_cross_entropy_with_logits(x, y, mask=torch.ones(5) > 0),
            r"mask has shape \(5,\), .* input's shape \(3,\)",
        ),
    ],
)
def test_options_out_of_range(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(functional, torch.zeros(3), torch.tensor([0.0, 1.0, 1.0]))


def test_a_mask_must_be_bool() -> None:
    with pytest.raises(TypeError, match=r"mask must be a bool tensor.*float32"):
        functional.sigmoid_focal_loss(torch.zeros(3), torch.zeros(3), mask=torch.ones(3))


def test_alpha_and_gamma_of_the_focal_loss_are_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        functional.sigmoid_focal_loss(torch.zeros(3), torch.zeros(3), 0.25, 2.0)  # type: ignore[misc]


def test_a_log_probability_of_zero_has_a_finite_gradient() -> None:
    """In float32, the logsigmoid of a logit of 17 or more rounds to 0."""
    for logit in (10.0, 17.0, 120.0):
        z = torch.tensor(logit, requires_grad=True)
        loss = functional.binary_cross_entropy_with_log_probs(
            torch.nn.functional.logsigmoid(z), torch.tensor(1)
        )
        (gradient,) = torch.autograd.grad(loss, z)
        torch.testing.assert_close(gradient, -torch.sigmoid(-z.detach()), rtol=1e-4, atol=1e-6)
    certain = torch.zeros(1)
    wrong = functional.binary_cross_entropy_with_log_probs(certain, torch.zeros(1))
    assert wrong == math.inf


@sparse_warnings
def test_ignore_index_zero_ignores_the_implicit_zeros_of_a_sparse_target() -> None:
    x, y = torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    for target in (y, y.to_sparse()):
        loss = functional.binary_cross_entropy_with_logits(
            x, target, ignore_index=0, reduction="none"
        )
        torch.testing.assert_close(loss, y * math.log(2))


@one_of_each
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.uint16, torch.float64], ids=str)
def test_ignored_elements_of_a_column_with_flat_targets(loss: Loss, dtype: torch.dtype) -> None:
    x, y = loss.inputs(3, 1), torch.tensor([1, 0, 100]).to(dtype)
    expected = loss(x[:2], y[:2])
    assert loss(x, y, ignore_index=100) == expected
    assert loss(x, y, mask=torch.tensor([True, True, False])) == expected
    with pytest.raises(ValueError, match=r"target\[2, 0\] is 100"):
        loss(x, y)


def test_ignore_index_is_compared_in_the_dtype_of_the_target() -> None:
    y = torch.tensor([0.1, 1.0], dtype=torch.bfloat16)
    loss = functional.binary_cross_entropy_with_logits(
        torch.zeros(2), y, ignore_index=0.1, reduction="none"
    )
    assert loss.tolist() == [0.0, pytest.approx(math.log(2))]


@one_of_each
def test_nan_in_an_ignored_weight_does_not_reach_the_gradient(loss: Loss) -> None:
    x, y = loss.inputs(2), torch.ones(2)
    p = torch.tensor([1.0, 1.0], requires_grad=True)
    mask = torch.tensor([True, False])
    nan = torch.tensor([1.0, math.nan])
    (gradient,) = torch.autograd.grad(loss(x, y, weight=nan, pos_weight=p, mask=mask), p)
    assert gradient.isfinite().all()
    assert gradient[1] == 0


def test_alpha_of_zero_or_one_at_infinite_logits() -> None:
    z = torch.tensor([-math.inf, math.inf])
    for alpha, y in [(0.0, 1.0), (1.0, 0.0)]:
        loss = functional.sigmoid_focal_loss(z, torch.full((2,), y), alpha=alpha, reduction="none")
        assert loss.tolist() == [0.0, 0.0]
    assert functional.sigmoid_focal_loss(torch.tensor(math.nan), torch.tensor(1), alpha=0.0).isnan()


@pytest.mark.parametrize("epsilon", [-1.0, -0.99, -0.5])
@pytest.mark.parametrize("z", [-5.0, 0.0, 2.0, 2.9, 3.0, 10.0, 30.0, 40.0, 80.0])
def test_poly_with_a_negative_epsilon_does_not_cancel(epsilon: float, z: float) -> None:
    with mpmath.workdps(80):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(z)))
        truth = float(-mpmath.log(p) + mpmath.mpf(epsilon) * (1 - p))
    loss = functional.poly_binary_cross_entropy(
        torch.tensor(z, dtype=torch.float64), torch.tensor(1), epsilon=epsilon
    )
    # Where the series takes over, the other form is about 40 times less precise.
    assert loss.item() == pytest.approx(truth, rel=2e-14, abs=0)
