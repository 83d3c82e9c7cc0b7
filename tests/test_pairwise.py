"""The sigmoid loss of pairs compared with its dense formula in float64.

The tolerance is half a unit in the last place of the result, plus `NOISE` units of the dtype of
computation (2^-24 in float32) of the sum of the absolute terms, which are products of about 1.
"""

import inspect
import math
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from torchbce import PairwiseSigmoidLoss, backend, pairwise_sigmoid_loss
from torchbce.linear.precision import in_full_precision
from truth import bce_with_logits, logit_gradient, ulp_error

NOISE = 16
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
REDUCTIONS = ["batch_mean", "sum", "mean"]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def features(n: int, width: int = 5, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Normalised features of n pairs, which require grad."""
    g = torch.Generator().manual_seed(n)
    pair = (torch.randn(n, width, generator=g) for _ in range(2))
    return [
        torch.nn.functional.normalize(t, dim=1).to(dtype).detach().requires_grad_() for t in pair
    ]


def truth(
    x: Tensor, y: Tensor, scale: Tensor | float, bias: Tensor | float, reduction: str = "batch_mean"
) -> tuple[Tensor, list[Tensor], list[float]]:
    """The loss, its gradients by all four arguments, and the sum of the absolute terms of each."""
    x, y, t, b = (
        torch.as_tensor(v, dtype=torch.float64).detach().clone().requires_grad_()
        for v in (x, y, scale, bias)
    )
    n = x.shape[0]
    z = t * x @ y.T + b
    divisor = max({"sum": 1, "batch_mean": n, "mean": n * n}[reduction], 1)
    signs = 2 * torch.eye(n, dtype=torch.float64) - 1
    loss = -torch.nn.functional.logsigmoid(signs * z).sum() / divisor
    gradients = torch.autograd.grad(loss, (x, y, t, b))
    # The derivative of each loss is at most 1.
    by_y, by_x = (v.detach().abs().sum(0).amax().item() if n else 0.0 for v in (y, x))
    size, pairs = abs(t.item()), n * n / divisor
    logits = 1 + z.detach().abs().amax().item() if n else 1.0
    terms = [loss.item() + pairs * logits, size * by_y / divisor, size * by_x / divisor]
    return loss.detach(), list(gradients), [*terms, pairs, pairs]


def assert_near(got: Tensor, true: Tensor, terms: float, of: torch.dtype) -> None:
    """Assert an error of at most half a unit of the result's dtype plus that of its terms."""
    info = torch.finfo(got.dtype)
    _, exponent = torch.frexp(true.abs().clamp(min=info.tiny))
    half_a_unit = torch.ldexp(torch.ones_like(true), exponent - 1) * info.eps / 2
    computed = 2.0**-53 if of == torch.float64 else 2.0**-24
    error, allowed = (got.double() - true).abs(), half_a_unit * 1.0001 + NOISE * computed * terms
    assert not bool((error > allowed).any()), (got, true, allowed)


def check(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    upstream: float = 1.0,
    reduction: str = "batch_mean",
    **options: Any,
) -> None:
    loss = pairwise_sigmoid_loss(x, y, scale=scale, bias=bias, reduction=reduction, **options)
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    true, gradients, terms = truth(x, y, scale, bias, reduction)
    assert_near(loss.detach(), true, terms[0], x.dtype)
    given = [x, y, scale, bias]
    differentiated = [i for i, t in enumerate(given) if isinstance(t, Tensor) and t.requires_grad]
    leaves: Any = [given[i] for i in differentiated]
    found = torch.autograd.grad(loss, leaves, torch.tensor(upstream, dtype=loss.dtype))
    for i, gradient in zip(differentiated, found, strict=True):
        assert gradient.dtype == leaves[differentiated.index(i)].dtype
        assert gradient.shape == leaves[differentiated.index(i)].shape
        expected = (gradients[i] * upstream).reshape(gradient.shape)
        assert_near(gradient, expected, terms[i + 1] * abs(upstream), x.dtype)


# --------------------------------------------------------------------------------------- values


def test_known_values() -> None:
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    z = [[2 * 0.5 - 1, -1.0], [2 * 0.5 - 1, 2 * 1.0 - 1]]
    each = [
        math.log1p(math.exp(-z[i][j] if i == j else z[i][j])) for i in range(2) for j in range(2)
    ]
    for reduction, divisor in (("batch_mean", 2), ("sum", 1), ("mean", 4)):
        loss = pairwise_sigmoid_loss(x, y, scale=2.0, bias=-1.0, reduction=reduction)
        assert loss.item() == pytest.approx(sum(each) / divisor, rel=1e-6)
    assert pairwise_sigmoid_loss(x, y, scale=2.0, bias=-1.0).item() == pytest.approx(
        sum(each) / 2, rel=1e-6
    )


@every_dtype
@every_reduction
@pytest.mark.parametrize("n", [1, 2, 7, 65])
def test_sizes_and_chunks(dtype: torch.dtype, reduction: str, n: int) -> None:
    x, y = features(n, dtype=dtype)
    scale, bias = torch.tensor(3.0, requires_grad=True), torch.tensor(-1.5, requires_grad=True)
    for chunk in (1, 3, 64, n, n + 1, None):
        check(x, y, scale, bias, 1.0, reduction, chunk_pairs=chunk)
        check(x, y, scale, bias, 0.3, reduction, chunk_pairs=chunk)


@every_dtype
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("number", DTYPES, ids=str)
def test_scale_and_bias_as_tensors(
    dtype: torch.dtype, shape: tuple[int, ...], number: torch.dtype
) -> None:
    x, y = features(5, dtype=dtype)
    scale = torch.full(shape, 10.0, dtype=number, requires_grad=True)
    bias = torch.full(shape, -10.0, dtype=number, requires_grad=True)
    check(x, y, scale, bias)
    check(x, y, scale.detach(), bias)
    check(x, y, scale, -10.0)


@every_dtype
@pytest.mark.parametrize(
    ("scale", "bias"), [(10.0, -10.0), (1, 0), (0.0, 3.5), (-2.5, 0.1), (1 / 0.07, -9.9)]
)
def test_scale_and_bias_as_numbers(dtype: torch.dtype, scale: float, bias: float) -> None:
    check(*features(5, dtype=dtype), scale, bias)
    check(*features(5, dtype=dtype), torch.tensor(float(scale), requires_grad=True), bias)


def test_any_of_the_four_may_be_frozen() -> None:
    for wanted in range(1, 16):
        given: list[Tensor] = [*features(5), torch.tensor(2.0), torch.tensor(-1.0)]
        for i, tensor in enumerate(given):
            tensor.requires_grad_(bool(wanted >> i & 1))
        check(*given)
    x, y = (t.detach() for t in features(5))
    assert not pairwise_sigmoid_loss(x, y, scale=1.0, bias=0.0).requires_grad
    with torch.no_grad():
        loss = pairwise_sigmoid_loss(*features(5), scale=torch.tensor(1.0), bias=0.0)
    assert not loss.requires_grad
    assert loss.equal(pairwise_sigmoid_loss(x, y, scale=1.0, bias=0.0))


def test_in_a_training_step() -> None:
    # Features are the normalised outputs of a layer, and the scale is exp of a parameter.
    g = torch.Generator().manual_seed(0)
    images, texts = torch.randn(9, 6, generator=g), torch.randn(9, 6, generator=g)
    leaves = [
        torch.randn(6, 4, generator=g).requires_grad_(),
        torch.tensor(math.log(10.0), requires_grad=True),
        torch.tensor([-10.0], requires_grad=True),
    ]

    def loss(w: Tensor, t: Tensor, b: Tensor, dense: bool) -> Tensor:
        x, y = (torch.nn.functional.normalize(v.to(w.dtype) @ w, dim=1) for v in (images, texts))
        if not dense:
            return pairwise_sigmoid_loss(x, y, scale=t.exp(), bias=b)
        z = t.exp() * x @ y.T + b
        signs = 2 * torch.eye(9, dtype=z.dtype) - 1
        return -torch.nn.functional.logsigmoid(signs * z).sum() / 9

    wide = [t.detach().double().requires_grad_() for t in leaves]
    got = torch.autograd.grad(loss(*leaves, dense=False), leaves)
    expected = torch.autograd.grad(loss(*wide, dense=True), wide)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def test_features_against_themselves() -> None:
    x, _ = features(6, dtype=torch.float64)
    (got,) = torch.autograd.grad(pairwise_sigmoid_loss(x, x, scale=4.0, bias=-2.0), x)
    _, gradients, _ = truth(x, x, 4.0, -2.0)
    torch.testing.assert_close(got, gradients[0] + gradients[1])


def test_memory_in_any_order() -> None:
    x, y = (t.detach() for t in features(6))
    crooked = [x.T.contiguous().T.requires_grad_(), torch.stack([y, y], 2)[..., 1].requires_grad_()]
    check(*crooked, torch.tensor(2.0, requires_grad=True), -1.0, chunk_pairs=4)
    one = torch.ones(1, 5).expand(6, 5).requires_grad_()
    check(one, y.requires_grad_(), 2.0, -1.0)


@pytest.mark.parametrize("name", ["numba", "reference"])
@every_dtype
def test_exact_at_confident_pairs(name: str, dtype: torch.dtype) -> None:
    # The loss of a positive with logit 20 is 2.1e-9, where 1 minus a sigmoid is 0 in float32.
    if dtype == torch.float64:
        name = "reference"
    for z in (20.0, 17.0, 40.0, 100.0, -20.0, -104.0):
        x = y = torch.ones(1, 1, dtype=dtype)
        bias = torch.tensor(0.0, requires_grad=True)
        with backend(name):
            loss = pairwise_sigmoid_loss(x, y, scale=z, bias=bias)
            (slope,) = torch.autograd.grad(loss, bias)
        assert loss > 0
        assert ulp_error(loss.item(), bce_with_logits(z, 1.0), loss.dtype) <= 2
        assert ulp_error(slope.item(), logit_gradient(z, 1.0), torch.float32) <= 2
    # The same together with negatives that are as confident, and have the same loss.
    x = torch.eye(64, dtype=dtype)
    with backend(name):
        loss = pairwise_sigmoid_loss(x, x, scale=40.0, bias=-20.0)
    assert ulp_error(loss.item(), 64 * bce_with_logits(20.0, 1.0), loss.dtype) <= 2


@pytest.mark.parametrize("chunk", [None, 2])
def test_without_a_bias(chunk: int | None) -> None:
    leaves = [*features(5), torch.tensor(3.0, requires_grad=True)]
    x, y, scale = leaves
    check(x, y, scale, 0.0, chunk_pairs=chunk)
    with_zero = pairwise_sigmoid_loss(x, y, scale=scale, bias=0.0, chunk_pairs=chunk)
    for given in ({}, {"bias": None}):
        loss = pairwise_sigmoid_loss(x, y, scale=scale, chunk_pairs=chunk, **given)
        assert loss.equal(with_zero)
        wanted, got = (torch.autograd.grad(v, leaves, retain_graph=True) for v in (with_zero, loss))
        assert all(map(torch.equal, got, wanted))


def test_no_pairs() -> None:
    for reduction in ("batch_mean", "mean"):
        given = [*features(0), torch.tensor(2.0, requires_grad=True), torch.tensor(-1.0)]
        given[3].requires_grad_()
        x, y, scale, bias = given
        with pytest.warns(UserWarning, match=f"'{reduction}' of a loss over no elements") as caught:
            loss = pairwise_sigmoid_loss(x, y, scale=scale, bias=bias, reduction=reduction)
        assert len(caught) == 1
        assert loss == 0
        loss.backward()
        assert all(t.grad.equal(torch.zeros_like(t)) for t in given)
    check(*features(0), 2.0, -1.0, reduction="sum")


@every_reduction
def test_second_derivatives(reduction: str) -> None:
    leaves = [*features(3, 2, torch.float64), torch.tensor([1.5]).double(), torch.tensor(-1.0)]
    leaves = [t.detach().double().requires_grad_() for t in leaves]

    def loss(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return pairwise_sigmoid_loss(
            x, y, scale=scale, bias=bias, reduction=reduction, chunk_pairs=2
        )

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


def test_transforms() -> None:
    x, y = (t.detach() for t in features(4, dtype=torch.float64))
    scale = torch.tensor(2.0).double()

    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return pairwise_sigmoid_loss(x, y, scale=scale, bias=-1.0)

    _, gradients, _ = truth(x, y, scale, -1.0)
    found = torch.func.grad(loss, argnums=(0, 1, 2))(x, y, scale)
    torch.testing.assert_close(list(found), gradients[:3])
    batches = torch.func.vmap(loss, in_dims=(0, 0, None))(
        torch.stack([x, y]), torch.stack([y, x]), scale
    )
    torch.testing.assert_close(batches[1], loss(y, x, scale))


def test_a_second_backward_pass_gives_the_same() -> None:
    leaves = [*features(5), torch.tensor(2.0, requires_grad=True)]
    loss = pairwise_sigmoid_loss(*leaves[:2], scale=leaves[2], bias=-1.0)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(loss, leaves)
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_with_two_dtypes(half: torch.dtype) -> None:
    x, y = features(9)
    x = x.detach().to(half).requires_grad_()
    scale = torch.tensor(10.0, requires_grad=True)
    bias = torch.tensor(-10.0, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        check(x, y, scale, bias)
        check(y, x, scale, bias, 0.3)
        loss = pairwise_sigmoid_loss(x, y, scale=scale, bias=bias)
    assert loss.equal(pairwise_sigmoid_loss(x.float(), y, scale=scale, bias=bias))


@pytest.mark.parametrize(
    ("dtype", "inductor"),
    [
        (torch.float32, False),
        pytest.param(torch.float32, True, marks=pytest.mark.slow),
        (torch.bfloat16, False),
        (torch.float16, False),
    ],
    ids=str,
)
def test_compiled(dtype: torch.dtype, inductor: bool, fresh_compiler: None) -> None:
    leaves = [*features(7, dtype=dtype)]
    leaves += [torch.tensor(v, requires_grad=True) for v in (2.0, -1.0)]

    def loss(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return pairwise_sigmoid_loss(x, y, scale=scale.exp(), bias=bias, chunk_pairs=4)

    compiled = torch.compile(loss, fullgraph=True, backend="inductor" if inductor else "aot_eager")
    results = []
    for function in (loss, compiled):
        value = function(*leaves)
        results.append([value, *torch.autograd.grad(value, leaves)])
    # The gradient of the scale is a sum in another order.
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"\[1, 2\] is nan; hidden values must be finite"):
        compiled(
            leaves[0]
            .detach()
            .index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(math.nan, dtype=dtype)),
            *leaves[1:],
        )


# --------------------------------------------------------------------------------------- module


def open_clip_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
) -> Tensor:
    """The loss of one process as open_clip 3.3.0 computes it."""
    logits = logit_scale * image_features @ text_features.T
    if logit_bias is not None:
        logits = logits + logit_bias
    labels = 2 * torch.eye(len(logits)) - torch.ones_like(logits)
    return -torch.nn.functional.logsigmoid(labels * logits).sum() / len(logits)


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_module_takes_what_a_model_of_open_clip_returns(with_bias: bool) -> None:
    output: dict[str, Any] = dict(
        zip(("image_features", "text_features"), features(9), strict=True)
    )
    output["logit_scale"] = torch.tensor(2.3, requires_grad=True)
    if with_bias:
        output["logit_bias"] = torch.tensor(-10.0, requires_grad=True)
    expected = open_clip_loss(**{"logit_bias": None, **output})
    # As open_clip's training script makes and calls its loss.
    module = PairwiseSigmoidLoss(rank=0, world_size=1, dist_impl=None)
    losses = module(**output, output_dict=True)
    assert list(losses) == ["contrastive_loss"]
    assert module(*output.values()).equal(losses["contrastive_loss"])
    wanted = torch.autograd.grad(expected, list(output.values()))
    got = torch.autograd.grad(losses["contrastive_loss"], list(output.values()))
    # float32 sums in another order.
    torch.testing.assert_close(losses["contrastive_loss"], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_module_of_open_clip() -> None:
    loss = pytest.importorskip("open_clip.loss")
    arguments = inspect.signature(loss.SigLipLoss.__init__).parameters
    ours = inspect.signature(PairwiseSigmoidLoss.__init__).parameters
    assert list(ours)[: len(arguments)] == list(arguments)
    called = inspect.signature(loss.SigLipLoss.forward).parameters
    assert list(inspect.signature(PairwiseSigmoidLoss.forward).parameters) == list(called)
    leaves = [*features(9), torch.tensor(2.3, requires_grad=True), torch.tensor(-3.0)]
    expected, got = loss.SigLipLoss()(*leaves), PairwiseSigmoidLoss()(*leaves)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


def test_the_module_passes_on_the_size_of_chunks() -> None:
    x, y = features(7)
    one = pairwise_sigmoid_loss(x, y, scale=2.0, bias=-1.0, chunk_pairs=3)
    assert PairwiseSigmoidLoss(chunk_pairs=3)(x, y, 2.0, -1.0).equal(one)
    assert repr(PairwiseSigmoidLoss(chunk_pairs=3)) == "PairwiseSigmoidLoss(chunk_pairs=3)"
    shown = "PairwiseSigmoidLoss(rank=1, world_size=2)"
    assert repr(PairwiseSigmoidLoss(False, 1, 2, "gather")) == shown


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dist_impl": "ring"}, "dist_impl must be one of 'bidir', .* or None; got 'ring'"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 .* got rank 2 and world_size 2"),
        ({"rank": -1}, "got rank -1 and world_size 1"),
        ({"chunk_pairs": 0}, "chunk_pairs must be an integer of 1 or above, or None; got 0"),
    ],
)
def test_wrong_arguments_of_the_module(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PairwiseSigmoidLoss(**given)


def test_the_module_of_several_processes_needs_them() -> None:
    with pytest.raises(RuntimeError, match=r"world_size is 2, and torch\.distributed is not init"):
        PairwiseSigmoidLoss(world_size=2)(*features(3), 1.0, 0.0)


# --------------------------------------------------------------------------------------- errors


ONES = torch.ones(4, 3)


def changed(value: float, *at: int) -> Tensor:
    tensor = ONES.clone()
    tensor[at] = value
    return tensor


MISUSES: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "other numbers of rows": (
        {"y": torch.ones(5, 3)},
        ValueError,
        ["x has shape (4, 3) and y (5, 3)", "there must be as many", "positives="],
    ),
    "other widths": (
        {"y": torch.ones(4, 2)},
        ValueError,
        ["x has shape (4, 3)", "y (4, 2)", "both must be (N, D)"],
    ),
    "one dimension": ({"x": ONES[0], "y": ONES[0]}, ValueError, ["x has shape (3,)", "(N, D)"]),
    "three dimensions": ({"x": ONES[None], "y": ONES[None]}, ValueError, ["(1, 4, 3)", "(N, D)"]),
    "two devices": ({"y": ONES.to("meta")}, ValueError, ["on cpu and y", "on meta"]),
    "two dtypes": (
        {"y": ONES.double()},
        TypeError,
        ["x is torch.float32 and y torch.float64", "y.to(x.dtype)"],
    ),
    "integers": ({"x": ONES.long()}, TypeError, ["x must have a floating dtype", "torch.int64"]),
    "y of integers": ({"y": ONES.long()}, TypeError, ["y must have a floating dtype"]),
    "a list": ({"y": [[1.0] * 3] * 4}, TypeError, ["y must be a torch.Tensor, got list"]),
    "a NaN in x": ({"x": changed(math.nan, 2, 1)}, ValueError, ["x[2, 1] is nan", "finite"]),
    "an infinity in y": ({"y": changed(math.inf, 3, 0)}, ValueError, ["y[3, 0] is inf", "finite"]),
    "a scale of two elements": (
        {"scale": torch.ones(2)},
        ValueError,
        ["scale must be one floating number, got torch.float32 (2,)"],
    ),
    "a bias of each pair": (
        {"bias": torch.zeros(4)},
        ValueError,
        ["bias must be one floating number, got torch.float32 (4,)"],
    ),
    "an integer tensor as scale": (
        {"scale": torch.tensor(2)},
        ValueError,
        ["scale must be one floating number, got torch.int64 ()"],
    ),
    "text as scale": ({"scale": "10"}, TypeError, ["scale must be a tensor or a number, got str"]),
    "None as scale": (
        {"scale": None},
        TypeError,
        ["scale must be a tensor or a number, got NoneType"],
    ),
    "a bool as bias": ({"bias": True}, TypeError, ["bias must be a tensor or a number, got bool"]),
    "an infinite scale": ({"scale": math.inf}, ValueError, ["scale", "inf"]),
    "a scale of NaN": ({"scale": torch.tensor(math.nan)}, ValueError, ["scale", "nan"]),
    "a reduction by row": (
        {"reduction": "none"},
        ValueError,
        ["reduction must be one of 'batch_mean', 'sum', 'mean'; got 'none'"],
    ),
    "a misspelt reduction": ({"reduction": "avg"}, ValueError, ["'batch_mean'", "got 'avg'"]),
    "chunks of 0": ({"chunk_pairs": 0}, ValueError, ["chunk_pairs must be an integer", "got 0"]),
    "chunks of 2.5": ({"chunk_pairs": 2.5}, ValueError, ["an integer of 1 or above", "got 2.5"]),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_error_message(misuse: str) -> None:
    arguments, kind, parts = MISUSES[misuse]
    given: dict[str, Any] = {"x": ONES, "y": ONES, "scale": 2.0, "bias": -1.0}
    pairwise_sigmoid_loss(**given)  # valid without the misuse
    with pytest.raises(kind) as raised:
        pairwise_sigmoid_loss(**given | arguments)
    assert type(raised.value) is kind
    for part in parts:
        assert re.search(re.escape(part), str(raised.value)), str(raised.value)


# ----------------------------------------------------------------------- several partners, TF32


@every_dtype
@every_reduction
@pytest.mark.parametrize("columns", [1, 3, 6, 7])
def test_several_positives(dtype: torch.dtype, reduction: str, columns: int) -> None:
    x, y = (t.double().detach().requires_grad_() for t in features(6, dtype=dtype))
    target = torch.zeros(6, 6, dtype=torch.float64)
    lists = torch.full((6, columns), -1)
    for row, partners in enumerate([[5], [0, 2], [], [3, 1, 4], [4], [0]]):
        given = partners[:columns]
        lists[row, : len(given)] = torch.tensor(given, dtype=torch.int64)
        target[row, given] = 1.0
    z = 3.0 * x @ y.T - 1.0
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, target, reduction="sum")
    loss = loss / {"sum": 1, "batch_mean": 6, "mean": 36}[reduction]
    wanted = torch.autograd.grad(loss, (x, y))
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, y)]
    for chunk in (None, 4):
        got = pairwise_sigmoid_loss(
            *leaves,
            scale=3.0,
            bias=-1.0,
            positives=lists,
            reduction=reduction,
            chunk_pairs=chunk,
        )
        torch.testing.assert_close(got.double(), loss, rtol=1e-6, atol=0)
        eps = torch.finfo(dtype).eps
        for one, other in zip(torch.autograd.grad(got, leaves), wanted, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=eps, atol=1e-6 + eps / 100)


@every_dtype
@every_reduction
@pytest.mark.parametrize(("n", "m"), [(4, 9), (9, 4), (1, 5), (5, 1), (3, 0)])
def test_other_numbers_of_x_and_y(dtype: torch.dtype, reduction: str, n: int, m: int) -> None:
    """Several captions per image: label m is a partner of row m % n."""
    x, y = (t.double().detach().requires_grad_() for t in features(9, dtype=dtype))
    x, y = (t.detach().requires_grad_() for t in (x[:n], y[:m]))
    target = torch.zeros(n, m, dtype=torch.float64)
    lists = torch.full((n, max(m, 1)), -1)
    for label in range(m):
        lists[label % n, label // n] = label
        target[label % n, label] = 1.0
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (3.0, -1.0))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        scale * x @ y.T + bias, target, reduction="sum"
    ) / max({"sum": 1, "batch_mean": n, "mean": n * m}[reduction], 1)
    wanted = torch.autograd.grad(loss, (x, y, scale, bias))
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, y)]
    leaves += [t.detach().clone().requires_grad_() for t in (scale, bias)]
    call: dict[str, Any] = {"scale": leaves[2], "bias": leaves[3], "positives": lists}
    for chunk in (None, 1, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if not m else "error")  # a mean over no logits
            got = pairwise_sigmoid_loss(*leaves[:2], **call, reduction=reduction, chunk_pairs=chunk)
        torch.testing.assert_close(got.double(), loss, rtol=1e-6, atol=1e-12)
        eps = torch.finfo(dtype).eps
        for one, other in zip(torch.autograd.grad(got, leaves), wanted, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=eps, atol=1e-6 + eps / 100)


def test_other_numbers_of_x_and_y_in_compiled_code(fresh_compiler: None) -> None:
    x, y = features(9)
    x = x[:4].detach().requires_grad_()
    lists = torch.tensor([[0, 4, 8], [1, 5, -1], [2, 6, -1], [3, 7, -1]])

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return pairwise_sigmoid_loss(x, y, scale=3.0, bias=-1.0, positives=lists)

    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        value = function(x, y)
        found.append([value, *torch.autograd.grad(value, (x, y))])
    torch.testing.assert_close(found[1], found[0])


def test_wrong_positives() -> None:
    x, y = features(4)
    lists = torch.zeros(4, 1, dtype=torch.int64)
    for wrong, words in (
        (lists.int(), r"positives is torch.int32 \(4, 1\); it must be int64 \(4, K\)"),
        (lists[:3], r"positives is torch.int64 \(3, 1\)"),
        (lists[:, 0], r"positives is torch.int64 \(4,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            pairwise_sigmoid_loss(x, y, scale=1.0, positives=wrong)
    with pytest.raises(ValueError, match="4"):
        pairwise_sigmoid_loss(x, y, scale=1.0, positives=lists + 4)
    with pytest.raises(ValueError, match="positives cannot be given with group"):
        pairwise_sigmoid_loss(x, y, scale=1.0, positives=lists, group=object())


def test_full_precision_is_without_tf32_and_leaves_the_setting_as_it_was() -> None:
    settings = torch.backends.cuda.matmul
    cuda, before = torch.device("cuda"), settings.fp32_precision
    try:
        for setting in ("none", "ieee", "tf32"):
            settings.fp32_precision = setting
            with in_full_precision(cuda):
                assert settings.fp32_precision == "ieee"
            assert settings.fp32_precision == setting
            with pytest.raises(KeyError), in_full_precision(cuda):
                raise KeyError
            assert settings.fp32_precision == setting
            with in_full_precision(torch.device("cpu")):
                assert settings.fp32_precision == setting
        # A program that uses the older name may go on to do so.
        settings.fp32_precision = before
        settings.allow_tf32 = True
        with in_full_precision(cuda):
            assert settings.fp32_precision == "ieee"
        assert settings.allow_tf32
        settings.allow_tf32 = False
        with torch.autocast("cpu", torch.bfloat16), in_full_precision(torch.device("cpu")):
            assert not torch.is_autocast_enabled("cpu")
    finally:
        settings.fp32_precision = before
