"""Linear + cross-entropy on a GPU: synchronization, CUDA graphs, torch.compile, memory, accuracy.

The expected values are those of the dense form in float64, for inputs as rounded to their dtype.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from devices import bits, captured, extra_bytes, never_waiting
from interpreting import DEVICE
from torch import Tensor

import torchbce
from torchbce.linear import chunks_gpu
from torchbce.linear.chunks import Head

ROWS, WIDTH, LABELS, CHUNK = 256, 128, 5000, 1024
#: The dtypes of input and weight. If they differ, autocast is active with the input's dtype.
DTYPES = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16": (torch.float16, torch.float16),
    "autocast": (torch.bfloat16, torch.float32),
}
#: Of gradients, relative to the largest one.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}
#: Upstream gradients, as of a loss scale: the gradient of a mean would underflow in float16.
UPSTREAM = {"mean": 1024.0, "sum": 1.0, "batch_mean": 16.0, "none": 1.0}

every_dtype = pytest.mark.parametrize("dtypes", DTYPES)
every_form = pytest.mark.parametrize("form", ["lists", "bool", "coo", "csr"])
every_reduction = pytest.mark.parametrize("reduction", UPSTREAM)
every_set = pytest.mark.parametrize("options", ["plain", "number", "tensor", "all"])
plain_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
pytestmark = [
    pytest.mark.usefixtures("by_triton", "clean_memory", "exact_products"),
    pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)"),
]


@pytest.fixture
def exact_products() -> Iterator[None]:
    """Float32 products without TF32, whatever the environment has set."""
    products = torch.backends.cuda.matmul
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the setting has a newer name
        before = products.allow_tf32
        products.allow_tf32 = False
        try:
            yield
        finally:
            products.allow_tf32 = before


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=_generator(seed)).to(DEVICE)


def _lists(length: int, seed: int, labels: int = LABELS, rows: int = ROWS) -> Tensor:
    """Labels in any order, some of them twice; the last column is padding."""
    lists = torch.randint(labels, (rows, length), generator=_generator(seed))
    lists[:, -1] = -1
    return lists.to(DEVICE)


def _target(form: str, seed: int = 3) -> Tensor:
    if form == "lists":
        return _lists(8, seed)
    positive = _uniform(ROWS, LABELS, seed=seed) > 0.99
    if form == "bool":
        return positive
    soft = positive * _uniform(ROWS, LABELS, seed=seed + 1)
    return soft.to_sparse() if form == "coo" else soft.to_sparse_csr()


def _options(name: str) -> dict[str, Any]:
    if name == "plain":
        return {}
    if name == "number":
        row_weight = _uniform(ROWS, seed=7) + 0.5
        return {"pos_weight": 2.0, "row_weight": row_weight, "ignored": _lists(6, 8)}
    options: dict[str, Any] = {
        "pos_weight": _uniform(LABELS, seed=9) + 0.5,
        "label_weight": _uniform(LABELS, seed=10) + 0.5,
        "mask": _uniform(ROWS, LABELS, seed=11) > 0.3,
    }
    if name == "all":
        options |= _options("number") | {"pos_weight": options["pos_weight"]}
        options["label_smoothing"] = 0.1
    return options


def _head(dtypes: str, seed: int = 0) -> list[Tensor]:
    """Input, weight and bias, so that logits have a variance of about 1."""
    input_dtype, weight_dtype = DTYPES[dtypes]
    x = torch.randn(ROWS, WIDTH, generator=_generator(seed))
    w = torch.randn(LABELS, WIDTH, generator=_generator(seed + 1)) / WIDTH**0.5
    b = torch.randn(LABELS, generator=_generator(seed + 2)) / 4
    parts = (x.to(input_dtype), w.to(weight_dtype), b.to(weight_dtype))
    return [part.to(DEVICE).requires_grad_() for part in parts]


def _upstream(reduction: str) -> Tensor:
    """The upstream gradient; for the reduction "none" another one per row."""
    scale = UPSTREAM[reduction]
    if reduction != "none":
        return torch.full((), scale, device=DEVICE)
    return torch.linspace(0.5 * scale, 1.5 * scale, ROWS, device=DEVICE)


def _step(
    head: list[Tensor], target: Tensor, upstream: Tensor, **options: Any
) -> tuple[Tensor, ...]:
    """The loss and the gradients."""
    x, w, b = head
    options = {"chunk_labels": CHUNK} | options
    with torch.autocast(DEVICE, x.dtype if x.dtype.itemsize == 2 else None, x.dtype != w.dtype):
        loss = torchbce.linear_binary_cross_entropy(x, w, target, b, **options)
    return loss.detach(), *torch.autograd.grad(loss, head, upstream.to(loss.dtype))


def _truth(
    head: list[Tensor], target: Tensor, upstream: Tensor, **options: Any
) -> tuple[Tensor, ...]:
    x, w, b = (part.detach() for part in head)
    wide = [part.double().requires_grad_() for part in (x, w.to(x.dtype), b)]
    given = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }
    target = target.double() if target.is_floating_point() else target
    with torchbce.backend("reference"):
        return _step(wide, target, upstream, **given)


def _error(got: Tensor, true: Tensor) -> float:
    """The largest error, relative to the largest entry."""
    assert bool(got.isfinite().all())
    return ((got.double() - true).abs().max() / true.abs().max()).item()


def _tolerance(*tensors: Tensor) -> float:
    return max(TOLERANCE[tensor.dtype] for tensor in tensors)


def _create_head(
    optimizer: torchbce.FusedSGD | torchbce.FusedRowwiseAdagrad | None = None, **options: Any
) -> torchbce.LinearBCELoss:
    torch.manual_seed(0)
    # Created on the CPU, so that the parameters do not depend on the device.
    head = torchbce.LinearBCELoss(
        WIDTH, LABELS, chunk_labels=CHUNK, fused_optimizer=optimizer, **options
    )
    return head.to(DEVICE)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "sgd": lambda: torchbce.FusedSGD(lr=0.1),
    "adagrad": lambda: torchbce.FusedRowwiseAdagrad(lr=0.1),
}
every_optimizer = pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])


def _pairs(dtype: torch.dtype) -> list[Tensor]:
    parts = (torch.randn(ROWS, WIDTH, generator=_generator(seed)) for seed in (0, 1))
    unit = (torch.nn.functional.normalize(part).to(dtype).to(DEVICE) for part in parts)
    return [part.requires_grad_() for part in unit]


def _step_of_pairs(pairs: list[Tensor]) -> tuple[Tensor, ...]:
    loss = torchbce.pairwise_sigmoid_loss(*pairs, scale=10.0, bias=-10.0, chunk_pairs=64)
    upstream = torch.full((), 16.0, device=DEVICE, dtype=loss.dtype)
    return loss.detach(), *torch.autograd.grad(loss, pairs, upstream)


@every_form
@every_dtype
@every_reduction
def test_the_host_does_not_wait(form: str, dtypes: str, reduction: str) -> None:
    head, target, upstream = _head(dtypes), _target(form), _upstream(reduction)
    for name in ("plain", "number", "tensor", "all"):
        options = _options(name)
        _step(head, target, upstream, reduction=reduction, **options)  # compiles
        with never_waiting():
            _step(head, target, upstream, reduction=reduction, **options)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("autocasts", [False, True])
def test_the_host_does_not_wait_for_a_module(optimizer: str, autocasts: bool) -> None:
    head = _create_head(OPTIMIZERS[optimizer](), pos_weight=2.0, label_smoothing=0.1)
    x, target, ignored = _head("float32")[0], _target("lists"), _lists(6, 8)

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, autocasts):
            loss = head(x, target, ignored=ignored)
        loss.backward()

    for _ in range(2):  # the second adds gradients
        step()
    with never_waiting():
        step()
    assert (head.weight.grad is None) == (optimizer != "none")


@plain_dtypes
def test_the_host_does_not_wait_for_pairs_or_topk(dtype: torch.dtype) -> None:
    pairs, head = _pairs(dtype), _create_head().to(dtype)
    x = pairs[0].detach()
    for _ in range(2):
        _step_of_pairs(pairs)
        head.topk(x, 5)
    with never_waiting():
        _step_of_pairs(pairs)
        head.topk(x, 5)


@every_form
@every_dtype
@every_set
def test_accuracy(form: str, dtypes: str, options: str) -> None:
    _compare(form, dtypes, "mean", _options(options))


@every_dtype
@pytest.mark.parametrize("reduction", ["sum", "batch_mean", "none"])
def test_accuracy_of_other_reductions(dtypes: str, reduction: str) -> None:
    _compare("lists", dtypes, reduction, _options("all"))


def _compare(form: str, dtypes: str, reduction: str, options: dict[str, Any]) -> None:
    head, target, upstream = _head(dtypes), _target(form), _upstream(reduction)
    (loss, *found), (true_loss, *true) = (
        step(head, target, upstream, reduction=reduction, **options) for step in (_step, _truth)
    )
    torch.testing.assert_close(loss.double(), true_loss, rtol=1e-5, atol=0)
    for part, gradient, expected in zip(head, found, true, strict=True):
        assert gradient.dtype == part.dtype
        # Derivatives by the logits have the input's dtype.
        assert _error(gradient, expected) <= _tolerance(part, head[0])


def test_large_weights_of_float16() -> None:
    """A derivative of 3,000 fits float16, but not if it is scaled by 64 as small ones are."""
    target = _target("lists")
    for reduction in ("mean", "none"):
        upstream = _upstream(reduction) / 16
        given: dict[str, Any] = {"reduction": reduction, "pos_weight": 3000.0}
        head = _head("float16")
        (_, *found), (_, *true) = (f(head, target, upstream, **given) for f in (_step, _truth))
        for gradient, expected in zip(found, true, strict=True):
            assert _error(gradient, expected) <= TOLERANCE[torch.float16]


@every_optimizer
@pytest.mark.parametrize("autocasts", [False, True])
def test_accuracy_of_a_fused_optimizer(optimizer: str, autocasts: bool) -> None:
    x, target = _head("bfloat16" if autocasts else "float32")[0], _target("lists")
    steps, slopes = [], []
    for wide in (False, True):
        head = _create_head(OPTIMIZERS[optimizer](), reduction="sum", pos_weight=2.0)
        before = head.weight.detach().double()
        if wide:
            head.double()
        z = (x.detach().double() if wide else x.detach()).requires_grad_()
        with (
            torchbce.backend("reference" if wide else "triton"),
            torch.autocast(DEVICE, torch.bfloat16, autocasts and not wide),
        ):
            head(z, target).backward()
        steps.append(head.weight.detach().double() - before)
        assert z.grad is not None
        slopes.append(z.grad.double())
    allowed = TOLERANCE[torch.bfloat16 if autocasts else torch.float32]
    assert _error(*steps) <= allowed
    assert _error(*slopes) <= allowed


@plain_dtypes
def test_accuracy_of_pairs(dtype: torch.dtype) -> None:
    pairs = _pairs(dtype)
    loss, *found = _step_of_pairs(pairs)
    with torchbce.backend("reference"):
        wide = [part.detach().double().requires_grad_() for part in pairs]
        true_loss, *true = _step_of_pairs(wide)
    torch.testing.assert_close(loss.double(), true_loss, rtol=1e-5, atol=0)
    for gradient, expected in zip(found, true, strict=True):
        assert gradient.dtype == dtype
        assert _error(gradient, expected) <= TOLERANCE[dtype]


@plain_dtypes
def test_topk(dtype: torch.dtype) -> None:
    head, x = _create_head().to(dtype), _head("float32")[0].detach().to(dtype)
    best = head.topk(x, 5)
    w, b = (part.detach().double() for part in (head.weight, head.bias))
    logits = x.double() @ w.T + b
    expected = logits.topk(5)
    torch.testing.assert_close(best.values.double(), expected.values, rtol=1e-5, atol=1e-5)
    # Of two nearly equal logits, either may come first.
    chosen = logits.gather(1, best.indices)
    torch.testing.assert_close(chosen, expected.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["lists", "bool"])
@every_dtype
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_capture_into_a_graph(form: str, dtypes: str, reduction: str) -> None:
    head, target, upstream = _head(dtypes), _target(form), _upstream(reduction)
    options = _options("all")

    def step() -> tuple[Tensor, ...]:
        return _step(head, target, upstream, reduction=reduction, **options)

    graph, results = captured(step)
    before = bits(step())
    with torch.no_grad():
        for part, other in zip(head, _head(dtypes, seed=20), strict=True):
            part.copy_(other)
        target.copy_(_target(form, seed=30))
        options["mask"].logical_not_()
        options["ignored"].copy_(_lists(6, 40))
        options["row_weight"].mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    found = bits(results)
    assert found == bits(step())
    assert all(a != b for a, b in zip(found, before, strict=True))


def test_capture_of_pairs_into_a_graph() -> None:
    pairs = _pairs(torch.bfloat16)
    graph, results = captured(lambda: _step_of_pairs(pairs))
    with torch.no_grad():
        pairs[0].neg_()
    graph.replay()
    torch.cuda.synchronize()
    assert bits(results) == bits(_step_of_pairs(pairs))


@every_optimizer
def test_capture_of_a_fused_optimizer_into_a_graph(optimizer: str) -> None:
    head, other = (_create_head(OPTIMIZERS[optimizer](), reduction="sum") for _ in range(2))
    x, target = _head("float32")[0], _target("lists")

    def step(module: torchbce.LinearBCELoss) -> tuple[Tensor, ...]:
        loss = module(x, target)
        return loss.detach(), *torch.autograd.grad(loss, x)

    graph, results = captured(lambda: step(head))
    head.load_state_dict(other.state_dict())
    with torch.no_grad():
        x.neg_()
    for _ in range(2):
        graph.replay()
        torch.cuda.synchronize()
        assert bits(results) == bits(step(other))
    assert bits(head.parameters()) == bits(other.parameters())


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("form", ["lists", "bool"])
@every_dtype
def test_compiled_is_eager(mode: str, form: str, dtypes: str, fresh_compiler: None) -> None:
    target = _target(form)
    given = _options("all")
    input_dtype, weight_dtype = DTYPES[dtypes]

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, input_dtype != weight_dtype):
            return torchbce.linear_binary_cross_entropy(
                x * 2, w, target, b, chunk_labels=CHUNK, **given
            )

    compiled = torch.compile(function, mode=mode, fullgraph=True)
    for run in range(4):  # the later ones replay a CUDA graph
        results = []
        for called in (function, compiled):
            head = _head(dtypes, seed=run)
            loss = called(*head) * UPSTREAM["mean"]
            results.append([t.clone() for t in (loss.detach(), *torch.autograd.grad(loss, head))])
        (loss, *expected), (value, *found) = results
        torch.testing.assert_close(value, loss, rtol=1e-5, atol=0)
        for gradient, true in zip(found, expected, strict=True):
            # One rounding more or fewer; the product with 2 is exact.
            allowed = 2 * torch.finfo(gradient.dtype).eps
            assert _error(gradient, true.double()) <= allowed


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_pairs_are_eager(mode: str, fresh_compiler: None) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return torchbce.pairwise_sigmoid_loss(x, y, scale=10.0, bias=-10.0, chunk_pairs=64)

    compiled = torch.compile(function, mode=mode, fullgraph=True)
    for _ in range(4):
        results = []
        for called in (function, compiled):
            pairs = _pairs(torch.float32)
            loss = called(*pairs)
            results.append([t.clone() for t in (loss.detach(), *torch.autograd.grad(loss, pairs))])
        for got, true in zip(results[1], results[0], strict=True):
            assert _error(got, true.double()) <= TOLERANCE[torch.float32]


def test_peak_memory_is_that_of_a_chunk() -> None:
    rows, width, labels = 1024, 256, 200_000
    x = torch.randn(rows, width, device=DEVICE).bfloat16().requires_grad_()
    w = (torch.randn(labels, width, device=DEVICE) / 16).bfloat16().requires_grad_()
    target = _lists(8, 3, labels=labels, rows=rows)
    logits = rows * chunks_gpu.chunk_size(Head(x, w, None), None)
    workspace = 64 * 2**20  # of matrix products

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (torchbce.linear_binary_cross_entropy(x, w, target),)

    def both_ways() -> tuple[Tensor, ...]:
        loss = torchbce.linear_binary_cross_entropy(x, w, target)
        return loss.detach(), *torch.autograd.grad(loss, (x, w))

    bounds = {forward: 4 * logits, both_ways: 6 * logits + 4 * x.numel()}
    for step, bound in bounds.items():
        step()
        extra = extra_bytes(step)
        print(f"{step.__name__}: {extra / 2**20:.1f} MiB for {logits:,} logits per chunk")
        assert extra < bound + workspace < 4 * rows * labels


@pytest.mark.parametrize("form", ["lists", "coo"])
@every_dtype
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_results_are_deterministic(form: str, dtypes: str, reduction: str) -> None:
    head, target, upstream = _head(dtypes), _target(form), _upstream(reduction)
    options = _options("all")
    first, *others = (
        bits(_step(head, target, upstream, reduction=reduction, **options)) for _ in range(10)
    )
    assert all(other == first for other in others)


def test_fused_optimizers_and_pairs_are_deterministic() -> None:
    for name in ("sgd", "adagrad"):
        found = []
        for _ in range(10):
            head = _create_head(OPTIMIZERS[name](), reduction="sum")
            head(_head("float32")[0], _target("lists")).backward()
            found.append(bits(head.parameters()))
        assert all(other == found[0] for other in found)
    first, *others = (bits(_step_of_pairs(_pairs(torch.bfloat16))) for _ in range(10))
    assert all(other == first for other in others)
