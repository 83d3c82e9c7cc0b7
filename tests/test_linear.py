"""The linear loss compared with its dense form in float64: value and gradients, for all options.

`truth` takes the logits from `torch.nn.functional.linear` in float64 and the losses of elements
from the definition, and has a reduction of its own. The tolerance is half a unit in the last place
of the result, plus `NOISE` units of the dtype of computation (2^-24 in float32) of the sum of the
absolute terms: logits are sums of up to ten products of about 1, gradients of up to hundreds, whose
errors add like the steps of a random walk.
"""

import copy
import itertools
import math
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import torchbce
from family import once
from torchbce import linear_binary_cross_entropy as linear_bce
from torchbce.backends.cpu import launch as cpu_launch
from torchbce.functional import binary_cross_entropy_with_logits as bce
from truth import bce_with_logits, logit_gradient, ulp_error

NOISE = 16
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
HALVES = [torch.bfloat16, torch.float16]
REDUCTIONS = ["mean", "sum", "batch_mean", "none"]
FORMS = ["lists", "bool", "uint8", "float", "soft", "coo", "csr", "coo of bool", "coo, soft"]
OPTIONS = [
    "pos_weight",
    "pos_weight of labels",
    "label_weight",
    "row_weight",
    "label_smoothing",
    "mask",
    "ignored",
]
SPARSE_OPTIONS = ["ignored as coo", "ignored as csr"]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
sparse_warnings = pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
# PyTorch itself loads its forward-mode rules by the deprecated torch.jit.script.
script_warnings = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(
    lead: tuple[int, ...] = (5,),
    labels: int = 7,
    width: int = 5,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> list[Tensor]:
    """Input, weight and bias, all of which require grad."""
    g = seeded(seed)
    shapes = ((*lead, width), (labels, width), (labels,))
    return [torch.randn(s, generator=g).to(dtype).requires_grad_() for s in shapes]


def hot(lists: Tensor, labels: int) -> Tensor:
    """Label lists as a dense bool target."""
    return (lists[..., None] == torch.arange(labels)).any(-2)


def listed(lead: tuple[int, ...], labels: int, most: int = 3, seed: int = 1) -> Tensor:
    return once(torch.randint(-1, labels, (*lead, most), generator=seeded(seed)))


def target_of(form: str, lead: tuple[int, ...], labels: int, seed: int = 1) -> tuple[Any, Tensor]:
    """A target in one of its forms, and the same target dense in float64."""
    lists = listed(lead, labels, seed=seed)
    y = hot(lists, labels).double()
    if "soft" in form:
        y = y * torch.rand(y.shape, generator=seeded(seed + 1)).double()
        y = y.float().double()
    made: dict[str, Any] = {
        "lists": lambda: lists,
        "bool": y.bool,
        "uint8": lambda: y.to(torch.uint8),
        "float": y.float,
        "soft": y.float,
        "coo": lambda: y.float().to_sparse(),
        "csr": lambda: y.float().to_sparse_csr(),
        "coo of bool": lambda: y.bool().to_sparse(),
        "coo, soft": lambda: y.float().to_sparse(),
    }
    return made[form](), y


def option(name: str, lead: tuple[int, ...], labels: int, seed: int = 2) -> dict[str, Any]:
    g = seeded(seed)
    made: dict[str, Any] = {
        "pos_weight": lambda: 2.5,
        "pos_weight of labels": lambda: torch.rand(labels, generator=g) * 3,
        "label_weight": lambda: torch.rand(labels, generator=g) * 2,
        "row_weight": lambda: torch.rand(lead, generator=g) * 2,
        "label_smoothing": lambda: 0.1,
        "mask": lambda: torch.rand((*lead, labels), generator=g) > 0.3,
        "ignored": lambda: listed(lead, labels, 2, seed),
        "ignored as coo": lambda: hot(listed(lead, labels, 2, seed), labels).to_sparse(),
        "ignored as csr": lambda: (
            hot(listed(lead, labels, 2, seed), labels).float().to_sparse_csr()
        ),
    }
    return {name.split()[0]: made[name]()}


def all_options(lead: tuple[int, ...], labels: int) -> dict[str, Any]:
    return {k: v for name in OPTIONS for k, v in option(name, lead, labels).items()}


def truth(
    leaves: list[Tensor | None],
    y: Tensor,
    upstream: Tensor | float = 1.0,
    *,
    pos_weight: Any = None,
    label_weight: Tensor | None = None,
    row_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    mask: Tensor | None = None,
    ignored: Tensor | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, list[Tensor], list[float]]:
    """The loss, the gradients, and an upper bound of the sum of the absolute terms of each."""
    x, w, *b = (t.detach().double().requires_grad_() for t in leaves if t is not None)
    z = F.linear(x, w, *b)
    kept = torch.ones(z.shape, dtype=torch.bool)
    if mask is not None:
        kept = kept & mask
    if ignored is not None:
        sparse = ignored.layout is not torch.strided
        kept = kept & ~(ignored.to_dense() != 0 if sparse else hot(ignored, z.shape[-1]))
    weight = torch.ones(z.shape, dtype=torch.float64)
    if label_weight is not None:
        weight = weight * label_weight.double()
    if row_weight is not None:
        weight = weight * row_weight.double()[..., None]
    p = pos_weight.double() if isinstance(pos_weight, Tensor) else pos_weight
    each = bce(
        z, y, weight, pos_weight=p, label_smoothing=label_smoothing, mask=kept, reduction="none"
    )
    rows = kept if z.dim() > 1 else kept[None]
    divisor = {
        "mean": int(kept.sum()),
        "batch_mean": int(rows.flatten(1).any(1).sum()) if rows.numel() else 0,
    }.get(reduction, 1)
    loss = each.sum(-1) if reduction == "none" else each.sum() / max(divisor, 1)
    upstream = torch.as_tensor(upstream, dtype=torch.float64).expand(loss.shape)
    gradients = torch.autograd.grad(loss, [x, w, *b], upstream)

    # The derivative of a loss is at most its weights, and so is the error of a loss per error of
    # its logit.
    most = 1.0 if p is None or not kept.numel() else float(torch.as_tensor(p).amax().clamp(min=1))
    per_element = upstream[..., None].expand(z.shape) if reduction == "none" else upstream
    slope = (weight * kept * most * per_element).abs() / max(divisor, 1)
    flat, across = (t if t.dim() == 2 else t[None].flatten(0, -2) for t in (slope, x.detach()))
    terms = [flat @ w.detach().abs(), flat.T @ across.abs(), flat.sum(0)]
    one = loss.detach().abs().amax() + slope.sum() if loss.numel() else torch.zeros(())
    return loss.detach(), list(gradients), [float(one), *map(_most, terms)]


def _most(terms: Tensor) -> float:
    return float(terms.amax()) if terms.numel() else 0.0


def assert_near(got: Tensor, true: Tensor, terms: float) -> None:
    """Assert an error of at most half a unit of the result's dtype plus that of its terms."""
    assert got.shape == true.shape
    info = torch.finfo(got.dtype)
    _, exponent = torch.frexp(true.abs().clamp(min=info.tiny))
    half_a_unit = torch.ldexp(torch.ones_like(true), exponent - 1) * info.eps / 2
    computed = 2.0**-53 if got.dtype == torch.float64 else 2.0**-24
    error, allowed = (got.double() - true).abs(), half_a_unit * 1.0001 + NOISE * computed * terms
    wrong = (error > allowed) & (got != true.to(got.dtype))  # both infinite in float16
    assert not wrong.any(), (got[wrong][:3], true[wrong][:3], allowed[wrong][:3])


def check(
    leaves: list[Tensor],
    target: Any,
    y: Tensor,
    upstream: Tensor | float = 1.0,
    chunk_labels: int | None = None,
    backend: str | None = None,
    **options: Any,
) -> None:
    """Check value and gradients; the bias may be None, and a leaf may need no gradient."""
    x, w, b = leaves
    with torchbce.backend(backend) if backend else nullcontext():
        loss = linear_bce(x, w, target, b, chunk_labels=chunk_labels, **options)
    assert loss.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    true, gradients, terms = truth(leaves, y, upstream, **options)
    assert_near(loss.detach(), true, terms[0])
    differentiated = [i for i, t in enumerate(leaves) if t is not None and t.requires_grad]
    assert loss.requires_grad == bool(differentiated)
    if differentiated:
        of_loss = torch.as_tensor(upstream, dtype=loss.dtype).expand(loss.shape)
        with torchbce.backend(backend) if backend else nullcontext():
            found = torch.autograd.grad(loss, [leaves[i] for i in differentiated], of_loss)
        for i, gradient in zip(differentiated, found, strict=True):
            assert gradient.dtype == leaves[i].dtype
            assert_near(gradient, gradients[i], terms[i + 1])


# --------------------------------------------------------------------------------------- values


def test_known_values() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    w = torch.tensor([[2.0, 0.0], [0.0, -1.0], [0.5, 0.5]])
    z = [[2.0, 0.0, 0.5], [0.0, -2.0, 1.0]]
    signs = [[-1, 1, -1], [1, 1, 1]]  # labels 0 and 2 are the first row's
    each = [
        [math.log1p(math.exp(s * v)) for s, v in zip(*pair, strict=True)]
        for pair in zip(signs, z, strict=True)
    ]
    positives = torch.tensor([[2, 0], [-1, -1]])
    rows = linear_bce(x, w, positives, reduction="none")
    assert rows.tolist() == pytest.approx([sum(row) for row in each], rel=1e-6)
    total = sum(map(sum, each))
    for reduction, divisor in (("sum", 1), ("batch_mean", 2), ("mean", 6)):
        loss = linear_bce(x, w, positives, reduction=reduction)
        assert loss.item() == pytest.approx(total / divisor, rel=1e-6)
    biased = linear_bce(x, w, positives, torch.tensor([-2.0, 0.0, 0.0]), reduction="sum")
    expected = total - each[0][0] - each[1][0] + math.log(2) + math.log1p(math.exp(-2.0))
    assert biased.item() == pytest.approx(expected, rel=1e-6)


@sparse_warnings
@every_dtype
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_targets(dtype: torch.dtype, form: str) -> None:
    target, y = target_of(form, (5,), 7)
    assert 0 < y.sum() < y.numel()
    for bias, chunk in itertools.product((True, False), (3, None)):
        x, w, b = layer(dtype=dtype)
        check([x, w, b if bias else None], target, y, 0.3, chunk)


@every_dtype
@every_reduction
def test_reductions_with_all_options(dtype: torch.dtype, reduction: str) -> None:
    options = all_options((5,), 70)
    options["mask"][2] = False  # a row that batch_mean does not count
    upstream = torch.linspace(-1, 2, 5) if reduction == "none" else 0.3
    for form in ("lists", "soft"):
        target, y = target_of(form, (5,), 70)
        leaves = layer(labels=70, width=9, dtype=dtype)
        check(leaves, target, y, upstream, 32, reduction=reduction, **options)


@sparse_warnings
@pytest.mark.parametrize("name", OPTIONS + SPARSE_OPTIONS)
@pytest.mark.parametrize("form", ["lists", "bool", "soft"])
def test_each_option_by_itself(name: str, form: str) -> None:
    for reduction, chunk in itertools.product(REDUCTIONS, (2, None)):
        options = option(name, (5,), 7)
        target, y = target_of(form, (5,), 7)
        check(layer(), target, y, 1.0, chunk, reduction=reduction, **options)
        # The option changes the loss; otherwise the check above would pass without it.
        plain = linear_bce(*layer()[:2], target, reduction=reduction)
        assert not plain.equal(linear_bce(*layer()[:2], target, reduction=reduction, **options))


@every_dtype
def test_weights_of_any_dtype(dtype: torch.dtype) -> None:
    weights = [torch.arange(7), torch.arange(7).double() / 3, torch.arange(7).half() / 4]
    target, y = target_of("lists", (5,), 7)
    for weight in weights:
        check(layer(dtype=dtype), target, y, pos_weight=weight, label_weight=weight.flip(0))
    check(layer(dtype=dtype), target, y, pos_weight=torch.tensor([3]), row_weight=weights[0][:5])


@pytest.mark.parametrize("labels", [0, 1, 3, 4, 65])
def test_sizes_and_chunks(labels: int) -> None:
    for rows, chunk in itertools.product((0, 1, 5), {1, 3, 64, labels or 1, labels + 7, None}):
        for form, reduction in (("lists", "sum"), ("bool", "none"), ("coo, soft", "sum")):
            if labels == 0:
                target, y = torch.full((rows, 2), -1), torch.zeros(rows, 0)
            else:
                target, y = target_of(form, (rows,), labels)
            leaves = layer((rows,), labels)
            check(leaves, target, y.double(), 2.0, chunk, reduction=reduction)
            if labels:
                options = all_options((rows,), labels)
                check(leaves, target, y.double(), 2.0, chunk, reduction=reduction, **options)


@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 3), (2, 1, 3)], ids=str)
@every_reduction
@sparse_warnings
def test_leading_shapes(lead: tuple[int, ...], reduction: str) -> None:
    labels = 6
    shapes = {(labels,), (1,), (), (*lead, labels), (*lead, 1), (*(1 for _ in lead), labels)}
    masks = [torch.rand(shape, generator=seeded(3)) > 0.4 for shape in sorted(shapes)]
    masks.append(torch.arange(labels) % 2 == 0)
    weights = option("row_weight", lead, labels) | option("ignored", lead, labels)
    upstream = torch.rand(lead, generator=seeded(4)) if reduction == "none" else 1.0
    for form in ("lists", "float", "coo"):
        target, y = target_of(form, lead, labels)
        check(layer(lead, labels), target, y, upstream, 4, reduction=reduction)
        check(layer(lead, labels), target, y, upstream, 4, reduction=reduction, **weights)
        for mask in masks:
            if mask.any():
                check(layer(lead, labels), target, y, upstream, 4, reduction=reduction, mask=mask)
    if reduction == "none":
        assert linear_bce(
            *layer(lead, labels)[:2], listed(lead, labels), reduction="none"
        ).shape == (lead)


def test_a_mask_of_the_last_leading_dimension_is_not_one_of_the_first() -> None:
    # In the flattened rows of (2, 3) a mask (3, 1) repeats and a mask (2, 1, 1) does not.
    target, y = target_of("lists", (2, 3), 5)
    for mask in (
        torch.tensor([[True], [False], [True]]),
        torch.tensor([[[True]], [[False]]]),
        torch.rand(2, 1, 5, generator=seeded(5)) > 0.5,
        torch.rand(3, 5, generator=seeded(5)) > 0.5,
    ):
        check(layer((2, 3), 5), target, y, chunk_labels=2, mask=mask)


def test_a_masked_batch_mean_without_rows() -> None:
    x, w, b = layer((0,))
    for options in ({"mask": torch.ones(7, dtype=torch.bool)}, {"ignored": listed((0,), 7)}):
        with pytest.warns(UserWarning, match="'batch_mean' of a loss over no elements"):
            loss = linear_bce(x, w, listed((0,), 7), b, reduction="batch_mean", **options)
        assert loss == 0


def test_no_features() -> None:
    # As torch.nn.functional.linear takes them: the logits are the bias.
    target, y = target_of("lists", (5,), 7)
    check(layer(width=0), target, y)


@every_reduction
def test_memory_in_any_order(reduction: str) -> None:
    target, y = target_of("lists", (2, 3), 6)
    straight = layer((2, 3), 6)
    crooked = {
        "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
        "every other": lambda t: torch.stack([t, t], -1)[..., 0],
        "from an odd place": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    }
    for make in crooked.values():
        leaves = [make(t.detach()).requires_grad_() for t in straight]
        check(leaves, target, y, 1.0, 4, reduction=reduction)
        dense = make(y.float())
        check(leaves, dense, y, 1.0, 4, reduction=reduction)
        check(leaves, make(target), y, 1.0, 4, reduction=reduction)
    every = torch.zeros(2, 3, 1).bool().expand(2, 3, 6)
    check(straight, every, every.double(), reduction=reduction)
    one = torch.randn(5, generator=seeded()).expand(2, 3, 5)  # one row, repeated
    check([one, *straight[1:]], target, y, reduction=reduction)
    options = {"mask": (y > 0).transpose(0, 1).contiguous().transpose(0, 1)}
    options["row_weight"] = torch.rand(3, 2, generator=seeded()).T
    check(straight, target, y, 1.0, 4, reduction=reduction, **options)


# ------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("wanted", list(itertools.product((True, False), repeat=3)), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_any_of_the_three_may_be_frozen(wanted: tuple[bool, ...], dtype: torch.dtype) -> None:
    target, y = target_of("lists", (5,), 7)
    for reduction in ("mean", "none"):
        leaves = layer(dtype=dtype)
        for leaf, requires in zip(leaves, wanted, strict=True):
            leaf.requires_grad_(requires)
        check(leaves, target, y, 1.0, 3, reduction=reduction)
        if not any(wanted):
            continue
        linear_bce(*leaves[:2], target, leaves[2], reduction=reduction).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == list(wanted)


@every_dtype
@every_reduction
@pytest.mark.parametrize("factor", [0.0, 2.0**-3, 0.3, -7.0, 1e4])
def test_upstream_gradients_round_once(dtype: torch.dtype, reduction: str, factor: float) -> None:
    # The tolerance in half precision is half a unit: a second rounding would exceed it.
    target, y = target_of("lists", (33,), 65)
    leaves = layer((33,), 65, 9, dtype)
    upstream = torch.linspace(0.1, 1, 33) * factor if reduction == "none" else factor
    check(leaves, target, y, upstream, 32, reduction=reduction)


def test_the_loss_inside_a_larger_graph() -> None:
    x, w, b = layer()
    target, y = target_of("lists", (5,), 7)
    outer = torch.tensor(0.7, requires_grad=True)
    (torch.tanh(linear_bce(torch.sin(x), w * 2, target, b)) * outer).backward()
    got = [t.grad for t in (x, w, b, outer)]
    wide = [t.detach().double().requires_grad_() for t in (x, w, b, outer)]
    dense = bce(F.linear(torch.sin(wide[0]), wide[1] * 2, wide[2]), y)
    (torch.tanh(dense) * wide[3]).backward()
    for g, t in zip(got, wide, strict=True):
        torch.testing.assert_close(g.double(), t.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@every_reduction
def test_a_second_backward_pass_gives_the_same(dtype: torch.dtype, reduction: str) -> None:
    leaves = layer(dtype=dtype)
    loss = linear_bce(*leaves[:2], listed((5,), 7), leaves[2], reduction=reduction)
    upstream = torch.full_like(loss, 0.25)
    first = torch.autograd.grad(loss, leaves, upstream, retain_graph=True)
    kept = copy.deepcopy(first)
    for gradient in first:
        gradient.fill_(-1)  # the caller owns the gradients it was given
    for factor in (0.25, 0.5):
        again = torch.autograd.grad(loss, leaves, upstream * factor / 0.25, retain_graph=True)
        for got, expected in zip(again, kept, strict=True):
            assert got.equal(expected * (factor / 0.25))
    torch.autograd.grad(loss, leaves, upstream)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves, upstream)


def test_a_change_in_place_before_backward_is_noticed() -> None:
    for changed in range(4):
        x, w, b = layer()
        target = target_of("float", (5,), 7)[0]
        loss = linear_bce(x, w, target, b, reduction="none")
        with torch.no_grad():
            (x, w, b, target)[changed].mul_(0.5)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.sum().backward()


def test_gradients_accumulate() -> None:
    leaves, wide = layer(), [t.detach().double().requires_grad_() for t in layer()]
    for seed in (1, 2):
        target, y = target_of("lists", (5,), 7, seed)
        linear_bce(*leaves[:2], target, leaves[2]).backward()
        bce(F.linear(*wide), y).backward()
    for got, true in zip(leaves, wide, strict=True):
        torch.testing.assert_close(got.grad.double(), true.grad, rtol=1e-5, atol=1e-7)


def test_large_gradients_that_exist_at_once_share_no_memory() -> None:
    # From 4 MiB on, the memory of the weight's gradient is reused.
    w = torch.randn(2**17, 9, generator=seeded()).requires_grad_()
    inputs = [torch.randn(2, 9, generator=seeded(i)) for i in range(3)]
    target = torch.tensor([[3], [2**17 - 1]])
    alone = []
    for x in inputs:
        (gradient,) = torch.autograd.grad(linear_bce(x, w, target, reduction="sum"), w)
        alone.append(gradient.sum(0))
        del gradient
    losses = [linear_bce(x, w, target, reduction="sum") for x in inputs]
    together = [torch.autograd.grad(loss, w)[0] for loss in losses]
    assert all(g.sum(0).equal(a) for g, a in zip(together, alone, strict=True))
    sum(linear_bce(x, w, target, reduction="sum") for x in inputs).backward()
    torch.testing.assert_close(w.grad.sum(0), sum(alone))


def test_a_loss_scale_keeps_float16_from_underflow() -> None:
    # With 16 x 5000 elements the gradients of the logits are 6e-6, and those of labels 1e-5, which
    # float16 stores with 8 bits at most: its smallest normal number is 6e-5.
    target, y = target_of("lists", (16,), 5000)
    leaves = layer((16,), 5000, 5, torch.float16)
    check(leaves, target, y, 65536.0)
    check(leaves, target, y, 65536.0, **all_options((16,), 5000))
    loss = linear_bce(*leaves[:2], target, leaves[2])
    (loss * 65536).backward()
    _, gradients, terms = truth(leaves, y, 65536.0)
    for leaf, true, scale in zip(leaves, gradients, terms[1:], strict=True):
        assert_near(leaf.grad, true, scale)


def test_a_bias_of_float16_alone_is_kept_from_underflow() -> None:
    target, y = target_of("lists", (4,), 20_000)
    x, w, b = layer((4,), 20_000)
    b = b.detach().half().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_bce(x, w, target, b)
    (gradient,) = torch.autograd.grad(loss, b, torch.tensor(65536.0))
    _, gradients, terms = truth([x, w, b], y, 65536.0)
    assert_near(gradient, gradients[2], terms[3])


@pytest.mark.parametrize("reentrant", [True, False])
@every_reduction
def test_activation_checkpointing(reentrant: bool, reduction: str) -> None:
    x, w, b = layer(labels=65)

    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        rows = linear_bce(torch.tanh(x), w, listed((5,), 65), b, reduction=reduction)
        return (rows * torch.arange(1.0, 6.0)).sum() if reduction == "none" else rows

    plain = loss(x, w, b)
    expected = torch.autograd.grad(plain, (x, w, b))
    again = checkpoint(loss, x, w, b, use_reentrant=reentrant)
    assert again.equal(plain)
    again.backward()
    assert all(t.grad.equal(g) for t, g in zip((x, w, b), expected, strict=True))


def test_saved_tensor_hooks() -> None:
    # Hooks offload or recompute what is saved, so that no gradient as large must be saved instead.
    x, w, b = layer()
    target = listed((5,), 7)
    expected = torch.autograd.grad(linear_bce(x, w, target, b), (x, w, b))
    doubled = torch.autograd.grad(linear_bce(x, w * 2, target, b), x)
    for factor in (1, 2):

        def unpack(t: Tensor, factor: int = factor) -> Tensor:
            return t * factor if t.shape == w.shape else t

        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            loss = linear_bce(x, w, target, b)
        found = torch.autograd.grad(loss, (x, w, b))
        # If the hook returns another weight, the gradient is that for this weight.
        assert all(map(torch.equal, found, expected)) if factor == 1 else found[0].equal(*doubled)


@pytest.mark.parametrize("biased", [True, False])
@every_reduction
def test_second_derivatives(reduction: str, biased: bool) -> None:
    leaves = layer((3,), 4, 2, torch.float64)[: 3 if biased else 2]
    options = all_options((3,), 4)
    target = target_of("soft", (3,), 4)[0]

    def loss(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return linear_bce(x, w, target, b, reduction=reduction, chunk_labels=3, **options)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


@sparse_warnings
@pytest.mark.parametrize("form", ["lists", "bool", "coo, soft", "csr"])
@pytest.mark.parametrize("lead", [(), (3,), (2, 2)], ids=str)
def test_second_derivatives_for_every_form(form: str, lead: tuple[int, ...]) -> None:
    if form == "csr" and len(lead) != 1:
        lead = (3,)
    target = target_of(form, lead, 4)[0]
    leaves = layer(lead, 4, 2, torch.float64)
    for reduction in ("batch_mean", "none"):

        def loss(x: Tensor, w: Tensor, b: Tensor, r: str = reduction) -> Tensor:
            return linear_bce(x, w, target, b, reduction=r, ignored=listed(lead, 4, 1, 9))

        assert torch.autograd.gradcheck(loss, leaves)
        assert torch.autograd.gradgradcheck(loss, leaves)


@every_reduction
@pytest.mark.parametrize("lead", [(), (5,), (2, 3)], ids=str)
def test_a_gradient_with_create_graph_equals_one_without(
    reduction: str, lead: tuple[int, ...]
) -> None:
    leaves = layer(lead, dtype=torch.float64)
    cases = [
        {},
        all_options(lead, 7),
        *(option(name, lead, 7) for name in OPTIONS + SPARSE_OPTIONS[:1]),
    ]
    for form, options in itertools.product(("lists", "soft", "coo"), cases):
        target = target_of(form, lead, 7)[0]
        loss = linear_bce(*leaves[:2], target, leaves[2], reduction=reduction, **options)
        upstream = torch.rand(loss.shape, generator=seeded()).double()
        dense = torch.autograd.grad(loss, leaves, upstream, create_graph=True)
        assert all(g.requires_grad for g in dense)
        plain = torch.autograd.grad(loss, leaves, upstream)
        torch.testing.assert_close([g.detach() for g in dense], list(plain))


# ------------------------------------------------------------------------- transforms and modes


@script_warnings
@every_reduction
def test_transforms(reduction: str) -> None:
    x, w, b = (t.detach() for t in layer(dtype=torch.float64))
    target, y = target_of("lists", (5,), 7)
    options = all_options((5,), 7)

    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return linear_bce(x, w, target, b, reduction=reduction, **options)

    def scalar(*leaves: Tensor) -> Tensor:
        return loss(*leaves).sum()

    _, gradients, _ = truth([x, w, b], y, reduction=reduction, **options)
    found = torch.func.grad(scalar, argnums=(0, 1, 2))(x, w, b)
    torch.testing.assert_close(list(found), gradients)
    jacobian = torch.func.jacrev(loss)(x, w, b)
    torch.testing.assert_close(jacobian.sum(0) if reduction == "none" else jacobian, gradients[0])
    _, slope = torch.func.jvp(scalar, (x, w, b), (x, w, b))
    expected = sum((g * t).sum() for g, t in zip(gradients, (x, w, b), strict=True))
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_vmap_over_rows_and_heads(dtype: torch.dtype) -> None:
    x, w, b = (t.detach() for t in layer(dtype=dtype))
    target = listed((5,), 7)
    rows = torch.func.vmap(lambda x, t: linear_bce(x, w, t, b, reduction="sum"))(x, target)
    torch.testing.assert_close(rows, linear_bce(x, w, target, b, reduction="none"))
    per_row = torch.func.vmap(torch.func.grad(lambda x, t: linear_bce(x, w, t, b)))(x, target)
    (together,) = torch.autograd.grad(
        linear_bce(x.requires_grad_(), w, target, b, reduction="sum"), x
    )
    torch.testing.assert_close(per_row * 7, together)
    heads = torch.stack([w, -w])
    both = torch.func.vmap(lambda w: linear_bce(x.detach(), w, target, b))(heads)
    torch.testing.assert_close(both[1], linear_bce(x.detach(), -w, target, b))


@every_reduction
def test_batched_upstream_gradients(reduction: str) -> None:
    leaves = layer(dtype=torch.float64)
    loss = linear_bce(*leaves[:2], listed((5,), 7), leaves[2], reduction=reduction)
    upstream = torch.rand(3, *loss.shape, generator=seeded()).double()
    batched = torch.autograd.grad(loss, leaves, upstream, retain_graph=True, is_grads_batched=True)
    for i, one in enumerate(upstream):
        single = torch.autograd.grad(loss, leaves, one, retain_graph=True)
        torch.testing.assert_close([g[i] for g in batched], list(single))


def test_the_range_of_labels_is_checked_under_a_transform() -> None:
    x, w, b = (t.detach() for t in layer())
    for wrong in (7, -5):
        target = torch.full((5, 1), wrong)
        with pytest.raises(ValueError, match=rf"target\[0, 0\] is {wrong}"):
            torch.func.grad(lambda x, t=target: linear_bce(x, w, t, b))(x)


def test_half_weights_do_not_overflow_in_the_dense_form() -> None:
    x, w, b = (t.detach() for t in layer())
    target = listed((5,), 7)
    options = {"row_weight": torch.full((5,), 300.0).half()}
    options["label_weight"] = torch.full(
        (7,), 300.0
    ).half()  # their product 90,000 overflows float16

    def loss(x: Tensor) -> Tensor:
        return linear_bce(x, w, target, b, **options)

    (expected,) = torch.autograd.grad(loss(x.requires_grad_()), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), expected)


def test_meta_tensors() -> None:
    leaves = [t.detach().to("meta").requires_grad_() for t in layer()]
    for form, shape in (("lists", ()), ("float", (5,))):
        target = target_of(form, (5,), 7)[0].to("meta")
        reduction = "none" if shape else "mean"
        loss = linear_bce(*leaves[:2], target, leaves[2], reduction=reduction)
        assert loss.is_meta
        assert loss.shape == shape
        found = torch.autograd.grad(loss.sum(), leaves)
        assert [g.shape for g in found] == [t.shape for t in leaves]


def test_without_grad() -> None:
    x, w, b = layer()
    target, y = target_of("lists", (5,), 7)
    with torch.no_grad():
        loss = linear_bce(x, w, target, b)
    assert not loss.requires_grad
    assert loss.equal(linear_bce(x, w, target, b).detach())
    with torch.inference_mode():
        assert linear_bce(x, w, target, b).equal(loss)
    assert not linear_bce(*(t.detach() for t in (x, w)), target).requires_grad
    check([t.detach() for t in (x, w, b)], target, y)


@every_reduction
def test_autocast(reduction: str) -> None:
    # The input is in half precision, the weight is not, and products are computed in float32.
    target, y = target_of("lists", (5,), 65)
    x, w, b = layer(labels=65)
    x = x.detach().bfloat16().requires_grad_()
    w = (w.detach() * 1.001).requires_grad_()  # not bfloat16
    upstream = torch.full((5,) if reduction == "none" else (), 0.3)
    true, gradients, terms = truth([x, w, b], y, upstream, reduction=reduction)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_bce(x, w, target, b, reduction=reduction)
    assert_near(loss.detach(), true, terms[0])
    found = torch.autograd.grad(loss, (x, w, b), upstream)
    assert [g.dtype for g in found] == [torch.bfloat16, torch.float32, torch.float32]
    for got, expected, scale in zip(found, gradients, terms[1:], strict=True):
        assert_near(got, expected, scale)


def test_autocast_leaves_float32_as_it_is() -> None:
    leaves, target = layer(), listed((5,), 7)

    def loss(*leaves: Tensor) -> Tensor:
        return linear_bce(*leaves[:2], target, leaves[2])

    expected = torch.autograd.grad(loss(*leaves), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*leaves)
        assert all(map(torch.equal, torch.autograd.grad(loss(*leaves), leaves), expected))
    assert value.equal(loss(*leaves))
    assert all(map(torch.equal, torch.autograd.grad(value, leaves), expected))


def test_autocast_leaves_float32_as_it_is_in_the_dense_form() -> None:
    leaves, target = layer(), listed((5,), 7)

    def loss(*leaves: Tensor) -> Tensor:
        return linear_bce(*leaves[:2], target, leaves[2])

    expected = list(torch.autograd.grad(loss(*leaves), leaves))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    torch.testing.assert_close([g.detach() for g in found], expected, rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------------- compiling


def compiled_equals_eager(leaves: list[Tensor], backend: str, reduction: str, **given: Any) -> None:
    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return linear_bce(x * 1, w, listed_once, b, reduction=reduction, **given)

    listed_once = listed(tuple(leaves[0].shape[:-1]), leaves[1].shape[0])
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    results = []
    for function in (loss, compiled):
        value = function(*leaves)
        results.append([value, *torch.autograd.grad(value, leaves, torch.full_like(value, 0.3))])
    for eager, other in zip(*results, strict=True):
        assert eager.dtype == other.dtype
        assert eager.equal(other)


@every_dtype
@every_reduction
def test_compiled(dtype: torch.dtype, reduction: str, fresh_compiler: None) -> None:
    options = all_options((5,), 7) if dtype == torch.float32 else {}
    compiled_equals_eager(layer(dtype=dtype), "aot_eager", reduction, **options)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_by_inductor(reduction: str, fresh_compiler: None) -> None:
    compiled_equals_eager(layer(), "inductor", reduction)


@pytest.mark.slow
@pytest.mark.parametrize("crooked", ["input", "weight"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_with_a_transposed_tensor(
    crooked: str, reduction: str, fresh_compiler: None
) -> None:
    leaves = [t.detach() for t in layer()]
    i = ("input", "weight").index(crooked)
    leaves[i] = leaves[i].T.contiguous().T
    compiled_equals_eager([t.requires_grad_() for t in leaves], "inductor", reduction)


def test_compiled_for_any_number_of_rows(fresh_compiler: None) -> None:
    x, w, b = layer((9,))
    target = listed((9,), 7)

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return linear_bce(x, w, target, b, label_smoothing=0.1)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (9, 4, 1):
        assert compiled(x[:rows], target[:rows]).equal(loss(x[:rows], target[:rows]))
    with torch.no_grad():
        assert compiled(x, target).equal(loss(x, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_schema_and_shapes_of_the_operators(dtype: torch.dtype, reduction: str) -> None:
    x, w, b = layer(dtype=dtype)
    x, w, b = x.detach(), w.detach(), b.detach()
    target = listed((5,), 7)
    rest = [None, None, None, None, None, 0.0, reduction, 3, None, [True, True, True]]
    operators = torch.ops.torchbce
    upstream = torch.ones(5 if reduction == "none" else ())
    for layout in (w, w.T.contiguous().T):
        tests = ("test_schema", "test_faketensor")
        arguments = (x, layout, b, target, *rest)
        torch.library.opcheck(operators.linear_binary_cross_entropy, arguments, test_utils=tests)
        torch.library.opcheck(
            operators.linear_binary_cross_entropy_backward,
            (upstream, *arguments),
            test_utils=tests,
        )


# ------------------------------------------------------------------------------------- promises


def test_the_same_bits_for_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    target = listed((64,), 3000)
    options = option("label_weight", (64,), 3000)
    found = []
    try:
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            for dtype in (torch.float32, torch.bfloat16):
                leaves = layer((64,), 3000, 33, dtype)
                loss = linear_bce(*leaves[:2], target, leaves[2], **options)
                found.append([loss, *torch.autograd.grad(loss, leaves)])
    finally:
        torch.set_num_threads(threads)
    for i, tensors in enumerate(found):
        assert all(map(torch.equal, tensors, found[i % 2]))


LOGITS = [0.0, 17.0, -17.0, 40.0, -40.0, 88.0, 100.0, -100.0, 103.0, 104.0, -104.0, 1e4, -1e4]


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["lists", "bool"])
def test_exact_at_every_logit(dtype: torch.dtype, backend: str, form: str) -> None:
    if dtype == torch.float64 and backend == "numba":
        backend = "reference"
    x = torch.zeros(1, 1, dtype=dtype)
    for logit, positive in itertools.product(LOGITS, (True, False)):
        w, b = torch.zeros(1, 1, dtype=dtype), torch.tensor([logit]).to(dtype).requires_grad_()
        target = torch.tensor([[0 if positive else -1]])
        target = target == 0 if form == "bool" else once(target)
        z, y = b.item(), float(positive)
        with torchbce.backend(backend):
            loss = linear_bce(x, w, target, b)
            (slope,) = torch.autograd.grad(loss, b)
        assert ulp_error(loss.item(), bce_with_logits(z, y), loss.dtype) <= 2, (z, y)
        assert ulp_error(slope.item(), logit_gradient(z, y), dtype) <= 2, (z, y)


def test_losses_of_confident_positives_among_many_are_exact() -> None:
    # log(1 + e^-17) is 4.1e-8; computed as the logarithm of a sigmoid near 1 it is 0 or 6e-8.
    labels = 10_001
    b = torch.full((labels,), 17.0, requires_grad=True)
    x, w = torch.zeros(1, 2), torch.zeros(labels, 2)
    for target in (torch.arange(labels)[None], torch.ones(1, labels)):
        loss = linear_bce(x, w, target, b, reduction="sum", chunk_labels=64)
        assert ulp_error(loss.item(), labels * bce_with_logits(17.0, 1.0), torch.float32) <= 1
        (slope,) = torch.autograd.grad(loss, b)
        assert ulp_error(slope[-1].item(), logit_gradient(17.0, 1.0), torch.float32) <= 1


def test_a_sum_of_many_equal_losses() -> None:
    # The rounding errors of a float32 sum of equal numbers have one sign: here 10 units and more.
    labels = 100_003
    x, w, b = torch.zeros(1, 1), torch.zeros(labels, 1), torch.full((labels,), -3.7)
    each = bce(b[:1], torch.zeros(1)).double().item()
    for backend, chunk in itertools.product(("numba", "reference"), (None, 500)):
        with torchbce.backend(backend):
            for reduction in ("sum", "none"):
                loss = linear_bce(
                    x, w, torch.full((1, 1), -1), b, reduction=reduction, chunk_labels=chunk
                )
                assert abs(loss.item() - labels * each) <= labels * each * 2**-24


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", ["weight", "bias"])
def test_weights_that_are_not_finite_give_losses_that_are_not(value: float, place: str) -> None:
    for dtype in DTYPES:
        x, w, b = layer(dtype=dtype)
        with torch.no_grad():
            x[:, 0] = 0.0
            (b if place == "bias" else w[:, 0])[2] = value
        dense = F.linear(x, w, b).detach()
        loss = linear_bce(x, w, torch.full((5, 1), 2), b, reduction="none")
        # As for logits: an infinite logit with the right sign has loss 0 and with the wrong sign an
        # infinite loss, and 0 times infinity in the product is NaN.
        expected = bce(dense[:, 2].double(), torch.ones(5), reduction="none")
        assert loss.isnan().equal(expected.isnan())
        assert loss.isinf().equal(expected.isinf())
        loss.sum().backward()
        others = [0, 1, 3, 4, 5, 6]
        assert w.grad[others].isfinite().all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", ["lists", "soft", "bool"])
def test_backends_agree(reduction: str, form: str) -> None:
    target, y = target_of(form, (5,), 65)
    for options, dtype in itertools.product(({}, all_options((5,), 65)), DTYPES[:3]):
        for backend in ("numba", "reference"):
            leaves = layer(labels=65, dtype=dtype)
            check(leaves, target, y, 0.3, 32, backend, reduction=reduction, **options)


def test_a_named_backend_is_used_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    cpu = cpu_launch
    launch = cpu.launch
    monkeypatch.setattr(cpu, "launch", lambda *a, **k: calls.append(1) or launch(*a, **k))
    x, w, b = (t.detach() for t in layer())
    with torchbce.backend("reference"):
        linear_bce(x, w, listed((5,), 7), b, chunk_labels=3)
    assert not calls
    with torchbce.backend("numba"):
        linear_bce(x, w, listed((5,), 7), b, chunk_labels=3)
        assert len(calls) == 3
        with pytest.raises(RuntimeError, match=r"cannot compute this: input is torch\.float64"):
            linear_bce(x.double(), w.double(), listed((5,), 7), b.double())
    linear_bce(x, w, listed((5,), 7), b)
    assert len(calls) == 4


MEMORY = """
import torch, torchbce
from pathlib import Path

def resident(field):
    status = Path("/proc/self/status").read_text()
    return next(int(s.split()[1]) * 1024 for s in status.splitlines() if s.startswith(field))

rows, width, labels = 64, 16, 200_000
x = torch.randn(rows, width, requires_grad=True)
w = torch.randn(labels, width, requires_grad=True)
b = torch.zeros(labels, requires_grad=True)
target = torch.arange(5).expand(rows, 5) * (labels // 5)
everything = {
    "label_weight": torch.rand(labels),
    "row_weight": torch.rand(rows),
    "mask": torch.rand(labels) > 0.1,
    "ignored": target[:, :2],
}

def step(options):
    loss = torchbce.linear_binary_cross_entropy(x, w, target, b, **options)
    return torch.autograd.grad(loss.sum(), (x, w, b))

def used(options):
    step(options)
    torchbce.empty_cache()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    found = step(options)
    return resident("VmHWM") - before - sum(g.nbytes for g in found)

for options in ({}, {"reduction": "none"}, everything):
    # What the allocator returns late, after other work, is not of this step.
    print(min(used(options) for _ in range(3)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_memory_for_one_chunk() -> None:
    # The logits would take 51 MB, and their gradients as much again.
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    plain, by_row, with_options = map(int, ran.stdout.split())
    assert plain < 15e6
    assert by_row < 15e6
    assert with_options < 15e6


@pytest.mark.parametrize("bool_or_float", [torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@sparse_warnings
def test_ignored_labels_as_a_sparse_tensor(layout: torch.layout, bool_or_float: Any) -> None:
    x, w, b = (t.detach() for t in layer())
    target, lists = listed((5,), 7), listed((5,), 7, 2, 9)
    dense = hot(lists, 7).to(bool_or_float)
    sparse = dense.to_sparse(layout=layout)
    for reduction in REDUCTIONS:
        expected = linear_bce(x, w, target, b, ignored=lists, reduction=reduction)
        assert linear_bce(x, w, target, b, ignored=sparse, reduction=reduction).equal(expected)
        # Entries that are stored and 0 are not ignored.
        stored = torch.ones(5, 7).to_sparse(layout=torch.sparse_coo)
        zeros = torch.sparse_coo_tensor(
            stored.indices(), dense.flatten(), (5, 7), check_invariants=True, is_coalesced=True
        )
        assert linear_bce(x, w, target, b, ignored=zeros, reduction=reduction).equal(expected)


@sparse_warnings
def test_wrong_indices_of_ignored_labels() -> None:
    x, w, b = (t.detach() for t in layer())
    target = listed((5,), 7)
    given: Any = {"size": (5, 7), "check_invariants": False}
    pointers = torch.tensor([0, 1, 2, 2, 2, 2])
    beyond = torch.sparse_csr_tensor(pointers, torch.tensor([3, 7]), torch.ones(2), **given)
    with pytest.raises(ValueError, match=r"ignored stores an element at index \[1, 7\], outside"):
        linear_bce(x, w, target, b, ignored=beyond)
    twice = torch.sparse_csr_tensor(
        pointers * 2, torch.tensor([3, 3, 1, 2]), torch.ones(4), **given
    )
    with pytest.raises(ValueError, match=r"ignored stores the element at index \[0, 3\] more than"):
        linear_bce(x, w, target, b, ignored=twice)
    with pytest.raises(ValueError, match=r"ignored is sparse and has shape \(5, 6\); the logits"):
        linear_bce(x, w, target, b, ignored=torch.zeros(5, 6).to_sparse())


@sparse_warnings
def test_compiled_with_sparse_ignored_labels(fresh_compiler: None) -> None:
    x, w, b = (t.detach() for t in layer())
    sparse = hot(listed((5,), 7, 2), 7).to_sparse()
    compiled = torch.compile(linear_bce, backend="aot_eager")
    with pytest.raises(
        ValueError, match=r"cannot trace a sparse ignored, .* Give a mask, or label"
    ):
        compiled(x, w, listed((5,), 7), b, ignored=sparse)


def test_one_number_of_two_dimensions_in_the_dense_form() -> None:
    x, w, b = layer()
    target, p = listed((5,), 7), torch.full((1, 1), 2.0)
    loss = linear_bce(x, w, target, b, pos_weight=p)
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    expected = torch.autograd.grad(linear_bce(x, w, target, b, pos_weight=2.0), x)
    torch.testing.assert_close(first, *expected)
