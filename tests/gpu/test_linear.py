"""Linear + cross-entropy by the GPU's kernels: chunks, forms of the target, options, rounding.

The expected values are those of the dense form in float64 on the CPU, for inputs as rounded to
their dtype. A gradient of 16 bits is rounded three times: the derivatives by the logits, the
gradient itself, and its product with the upstream gradient.
"""

from typing import Any

import pytest
import torch
from interpreting import DEVICE
from torch import Tensor

import torchbce
from family import once
from torchbce.backends.gpu import launch, tiles
from torchbce.linear import chunks_gpu

pytestmark = pytest.mark.usefixtures("by_triton")

B, D, L = 9, 5, 50
#: Of the loss, and of gradients relative to the largest: three roundings, and those of sums.
TOLERANCE = {
    torch.float64: (1e-14, 1e-13),
    torch.float32: (5e-7, 2e-6),
    torch.bfloat16: (2e-6, 2**-7),
    torch.float16: (2e-6, 2**-10),
}
every_float = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _lists(*shape: int, seed: int = 0) -> Tensor:
    """Labels in any order, some of them twice, some of them padding."""
    return once(torch.randint(-1, L, shape, generator=torch.Generator().manual_seed(seed)))


TARGETS = {
    "lists": _lists(B, 6),
    "bool": _uniform(B, L) > 0.7,
    "soft": _uniform(B, L, seed=3),
    "coo": (_uniform(B, L, seed=4) > 0.8).float().to_sparse(),
    "csr": _uniform(B, L, seed=5) * (_uniform(B, L, seed=6) > 0.8),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "all": {
        "pos_weight": _uniform(L, seed=7) + 0.5,
        "label_weight": _uniform(L, seed=8) + 0.5,
        "row_weight": _uniform(B, seed=9) + 0.5,
        "mask": _uniform(B, L, seed=10) > 0.3,
        "ignored": _lists(B, 4, seed=11),
        "label_smoothing": 0.1,
        "chunk_labels": 7,
    },
    "some": {
        "pos_weight": 2.0,
        "row_weight": _uniform(B, seed=12),
        "ignored": _lists(B, 4, seed=13),
        "chunk_labels": 16,
    },
}


OPTIONS["sparse, ignored"] = {
    "ignored": (_uniform(B, L, seed=14) > 0.8).to_sparse(),
    "mask": _uniform(B, L, seed=15) > 0.3,
    "chunk_labels": 16,
}


def _convert(value: Any, wide: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.double() if wide and value.is_floating_point() else value.to(_device(wide))


def _device(wide: bool) -> str:
    return "cpu" if wide else DEVICE


def both(
    dtype: torch.dtype,
    target: Tensor,
    upstream: float = 3.0,
    weight_dtype: torch.dtype | None = None,
    bias: bool = True,
    sizes: tuple[int, int, int] = (B, D, L),
    **options: Any,
) -> list[list[Tensor]]:
    """Loss and gradients by input, weight and bias: by the kernels, and expected in float64."""
    rows, width, labels = sizes
    weight_dtype = weight_dtype or dtype
    results = []
    for wide in (False, True):
        heads = [_random(rows, width).to(dtype), _random(labels, width, seed=1).to(weight_dtype)]
        if bias:
            heads.append(_random(labels, seed=2).to(weight_dtype))
        if wide:
            # A weight that autocast rounds is rounded for the expected values too.
            heads = [t.to(dtype).double() if t.dim() == 2 else t.double() for t in heads]
        heads = [t.to(_device(wide)).requires_grad_() for t in heads]
        given = {name: _convert(value, wide) for name, value in options.items()}
        autocasts = weight_dtype != dtype and not wide
        with (
            torchbce.backend("reference" if wide else "triton"),
            torch.autocast(DEVICE, dtype=dtype if autocasts else torch.bfloat16, enabled=autocasts),
        ):
            loss = torchbce.linear_binary_cross_entropy(
                heads[0], heads[1], _convert(target, wide), heads[2] if bias else None, **given
            )
            found = torch.autograd.grad((loss * upstream).sum(), heads)
        results.append([t.detach().cpu().double() for t in (loss, *found)])
    return results


def assert_close(results: list[list[Tensor]], dtype: torch.dtype, factor: float = 1.0) -> None:
    loss_tolerance, gradient_tolerance = TOLERANCE[dtype]
    (loss, *found), (true_loss, *true) = results
    torch.testing.assert_close(loss, true_loss, rtol=loss_tolerance * factor, atol=0)
    for gradient, expected in zip(found, true, strict=True):
        error = (gradient - expected).abs().max()
        assert error <= factor * gradient_tolerance * expected.abs().max()


@pytest.mark.parametrize(
    ("dtype", "reduction"),
    [(dtype, reduction) for dtype in TOLERANCE for reduction in ("mean", "none")]
    + [(torch.bfloat16, "sum"), (torch.float16, "batch_mean")],
    ids=str,
)
def test_all_options_at_once(dtype: torch.dtype, reduction: str) -> None:
    results = both(dtype, TARGETS["lists"], reduction=reduction, **OPTIONS["all"])
    assert_close(results, dtype)


@every_float
@pytest.mark.parametrize("options", ["none", "some"])
def test_fewer_options(dtype: torch.dtype, options: str) -> None:
    assert_close(both(dtype, TARGETS["lists"], **OPTIONS[options]), dtype)


@every_float
@pytest.mark.parametrize("form", [name for name in TARGETS if name != "lists"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_forms_of_the_target(dtype: torch.dtype, form: str) -> None:
    target = TARGETS[form].to_sparse_csr() if form == "csr" else TARGETS[form]
    assert_close(both(dtype, target, **OPTIONS["some"]), dtype)


def test_chunks_of_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """All chunks share one search for the keys of their tiles, and one row of partial sums."""
    monkeypatch.setattr(tiles, "BLOCK", 32)
    monkeypatch.setattr(tiles, "MANY", 100)
    for chunk_labels in (7, None):
        given = OPTIONS["all"] | {"chunk_labels": chunk_labels}
        assert_close(both(torch.float32, TARGETS["lists"], **given), torch.float32)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3, 200), (130, 16, 17), (64, 8, 48)])
def test_sizes(sizes: tuple[int, int, int]) -> None:
    rows, _, labels = sizes
    target = once(torch.randint(-1, labels, (rows, 3), generator=torch.Generator().manual_seed(1)))
    for bias in (True, False):
        assert_close(both(torch.bfloat16, target, sizes=sizes, bias=bias), torch.bfloat16)


@pytest.mark.parametrize("sizes", [(0, 3, 4), (3, 0, 4), (3, 2, 0)])
def test_empty_inputs(sizes: tuple[int, int, int]) -> None:
    target = torch.full((sizes[0], 2), -1)
    (loss, *found), (true_loss, *true) = both(torch.float32, target, sizes=sizes, reduction="sum")
    torch.testing.assert_close([loss, *found], [true_loss, *true], rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:the '.*mean' of a loss over no elements")
def test_rows_in_which_every_label_is_ignored() -> None:
    every_label = torch.arange(L).expand(B, L)
    for reduction in ("mean", "batch_mean"):
        (loss, *found), _ = both(
            torch.float32, TARGETS["lists"], ignored=every_label, reduction=reduction
        )
        assert loss == 0
        assert all((gradient == 0).all() for gradient in found)


def test_batch_mean_over_rows_with_a_valid_label() -> None:
    ignored = torch.full((B, L), -1)
    ignored[2] = torch.arange(L)
    results = both(torch.float32, TARGETS["lists"], ignored=ignored, reduction="batch_mean")
    assert_close(results, torch.float32)


def test_labels_out_of_range_are_skipped_or_raise() -> None:
    x, w = _random(2, 3).to(DEVICE), _random(4, 3).to(DEVICE)
    right, wrong = torch.tensor([[1, -1], [-1, 3]]), torch.tensor([[1, 9], [-7, 3]])
    losses = [
        torchbce.linear_binary_cross_entropy(x, w, t.to(DEVICE), check_targets=False)
        for t in (right, wrong)
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"target\[0, 1\] is 9"):
        torchbce.linear_binary_cross_entropy(x, w, wrong.to(DEVICE), check_targets=True)
    with pytest.raises(ValueError, match=r"ignored\[1, 0\] is -7"):
        torchbce.linear_binary_cross_entropy(
            x, w, right.to(DEVICE), ignored=torch.tensor([[0], [-7]]).to(DEVICE), check_targets=True
        )
    dense = torch.full((2, 4), 0.5)
    dense[1, 2] = 1.5
    with pytest.raises(ValueError, match=r"target\[1, 2\] is 1.5"):
        torchbce.linear_binary_cross_entropy(x, w, dense.to(DEVICE), check_targets=True)
    torchbce.linear_binary_cross_entropy(x, w, dense.to(DEVICE), check_targets=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    results = both(dtype, TARGETS["lists"], weight_dtype=torch.float32)
    assert_close(results, dtype)


@pytest.mark.parametrize(
    ("dtype", "weight_dtype"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.bfloat16),
    ],
    ids=str,
)
def test_a_weight_of_another_dtype_than_the_input(
    dtype: torch.dtype, weight_dtype: torch.dtype
) -> None:
    found = []
    target = TARGETS["lists"]
    for wide in (False, True):
        heads = [_random(B, D).to(dtype), _random(L, D, seed=1).to(weight_dtype)]
        if wide and dtype.itemsize == 2:
            heads[1] = heads[1].to(dtype)
        heads = [_convert(t, wide).requires_grad_() for t in heads]
        with (
            torchbce.backend("reference" if wide else "triton"),
            torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=not wide),
        ):
            loss = torchbce.linear_binary_cross_entropy(*heads, _convert(target, wide))
            found.append([loss, *torch.autograd.grad(loss * 1024, heads)])
    for got, true in zip(*found, strict=True):
        error = (got.cpu().double() - true).abs().max() / true.abs().max()
        assert error <= 2**-7


def test_large_weights_of_float16() -> None:
    """64 times a derivative times 3,000 exceeds float16."""
    for options in (
        {"pos_weight": 3000.0},
        {"pos_weight": torch.full((L,), 3000.0), "label_weight": torch.full((L,), 100.0)},
        {"row_weight": torch.full((B,), 1e5)},
        {"row_weight": torch.zeros(B)},
    ):
        results = both(torch.float16, TARGETS["lists"], upstream=1.0, **options)
        assert_close(results, torch.float16, factor=2)


def test_an_upstream_gradient_of_zero() -> None:
    (loss, *found), _ = both(torch.float16, TARGETS["lists"], upstream=0.0)
    assert loss > 0
    assert all((gradient == 0).all() for gradient in found)


def test_small_derivatives_in_half_precision() -> None:
    """Those of rare labels, 1e-5 over the number of elements, underflow in float16 if unscaled."""
    x, w = torch.full((4, 2), 0.01), torch.zeros(30, 2)
    bias = torch.full((30,), -11.5)
    for dtype in (torch.float16, torch.bfloat16):
        found = []
        for wide in (False, True):
            heads = [t.to(dtype).double() if wide else t.to(dtype).to(DEVICE) for t in (x, w, bias)]
            heads = [t.requires_grad_() for t in heads]
            with torchbce.backend("reference" if wide else "triton"):
                loss = torchbce.linear_binary_cross_entropy(
                    heads[0], heads[1], torch.full((4, 1), -1, device=_device(wide)), heads[2]
                )
                # As a GradScaler does: without it the gradient itself underflows in float16.
                found.append(torch.autograd.grad(loss * 65536, heads[1:]))
        for got, true in zip(*found, strict=True):
            error = (got.cpu().double() - true).abs().max() / true.abs().max()
            assert error <= TOLERANCE[dtype][1]


def test_results_are_deterministic() -> None:
    first, second = (both(torch.bfloat16, TARGETS["lists"], **OPTIONS["all"]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))


def test_backward_twice() -> None:
    for dtype in TOLERANCE:
        x = _random(B, D).to(dtype).to(DEVICE).requires_grad_()
        w = _random(L, D, seed=1).to(dtype).to(DEVICE).requires_grad_()
        loss = torchbce.linear_binary_cross_entropy(x, w, TARGETS["lists"].to(DEVICE))
        first = torch.autograd.grad(2 * loss, (x, w), retain_graph=True)
        kept = [t.clone() for t in first]
        second = torch.autograd.grad(loss, (x, w))
        for a, b, c in zip(first, kept, second, strict=True):
            assert torch.equal(a, b)  # not written into
            torch.testing.assert_close(a.double(), 2 * c.double(), rtol=2**-7, atol=1e-6)


def test_second_derivatives_are_those_of_the_dense_form() -> None:
    target = torch.tensor([[0], [3], [-1]])
    found = []
    for wide in (False, True):
        x, w = (_convert(_random(n, 2, seed=n), wide).requires_grad_() for n in (3, 4))
        with torchbce.backend("reference" if wide else "triton"):
            loss = torchbce.linear_binary_cross_entropy(x, w, target.to(_device(wide)))
        with torchbce.backend("reference"):  # of the dense form
            (first,) = torch.autograd.grad(loss, x, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), (x, w)))
    for got, true in zip(*found, strict=True):
        torch.testing.assert_close(got.cpu().double(), true, rtol=1e-5, atol=1e-7)


def test_frozen_parameters() -> None:
    x = _random(B, D).to(DEVICE).requires_grad_()
    w = _random(L, D, seed=1).to(DEVICE)
    loss = torchbce.linear_binary_cross_entropy(x, w, TARGETS["lists"].to(DEVICE))
    loss.backward()
    assert x.grad is not None
    with torch.no_grad():
        again = torchbce.linear_binary_cross_entropy(x, w, TARGETS["lists"].to(DEVICE))
    torch.testing.assert_close(again, loss.detach(), rtol=2e-7, atol=0)


@pytest.mark.parametrize("optimizer", ["FusedSGD", "FusedRowwiseAdagrad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_optimizers(optimizer: str, dtype: torch.dtype) -> None:
    """In bfloat16 under autocast, where the derivatives by the logits have 8 bits."""
    weights = []
    for wide in (False, True):
        torch.manual_seed(0)
        fused = getattr(torchbce, optimizer)(lr=0.1)
        head = torchbce.LinearBCELoss(D, L, chunk_labels=16, fused_optimizer=fused)
        before = head.weight.detach().clone()
        head = (head.double() if wide else head).to(_device(wide))
        if wide and dtype == torch.bfloat16:
            with torch.no_grad():
                head.weight.copy_(before)
        x = _random(B, D).to(dtype).to(torch.float64 if wide else dtype).to(_device(wide))
        autocasts = dtype == torch.bfloat16 and not wide
        with (
            torchbce.backend("reference" if wide else "triton"),
            torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=autocasts),
        ):
            head(x.requires_grad_(), TARGETS["lists"].to(_device(wide))).backward()
        weights.append(head.weight.detach().cpu().double() - before)
    step, expected = weights
    allowed = (
        2**-6 * expected.abs().max() if dtype == torch.bfloat16 else 2e-7
    )  # weights are below 1
    assert (step - expected).abs().max() <= allowed


def test_a_fused_optimizer_with_a_frozen_input() -> None:
    steps = []
    for frozen in (True, False):
        torch.manual_seed(0)
        head = torchbce.LinearBCELoss(D, L, fused_optimizer=torchbce.FusedSGD(lr=0.1)).to(DEVICE)
        before = head.weight.detach().clone()
        x = _random(B, D).to(DEVICE).requires_grad_(not frozen)
        head(x, TARGETS["lists"].to(DEVICE)).backward()
        steps.append(head.weight.detach() - before)
    assert torch.equal(*steps)
    assert steps[0].any()


def test_pairs() -> None:
    x, y = (torch.nn.functional.normalize(_random(20, 6, seed=s)) for s in (0, 1))
    found = []
    for wide in (False, True):
        parts = [_convert(t, wide).requires_grad_() for t in (x, y)]
        with torchbce.backend("reference" if wide else "triton"):
            loss = torchbce.pairwise_sigmoid_loss(*parts, scale=10.0, bias=-10.0, chunk_pairs=6)
            found.append([loss, *torch.autograd.grad(loss, parts)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.cpu().double(), b.cpu().double(), rtol=1e-5, atol=1e-7)


def test_compiled(fresh_compiler: None) -> None:
    target = TARGETS["lists"].to(DEVICE)
    heads = [_random(B, D), _random(L, D, seed=1), _random(L, seed=2)]
    heads = [t.to(DEVICE).requires_grad_() for t in heads]

    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torchbce.linear_binary_cross_entropy(x * 1.0, w, target, b, pos_weight=2.0)

    expected = torch.autograd.grad(loss(*heads), heads)
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*heads), heads)
    torch.testing.assert_close(got, expected)


def test_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    def size(rows: int, width: int, labels: int, copies: bool = False) -> int:
        x, w = (
            torch.empty(size, width, dtype=torch.bfloat16, device="meta") for size in (rows, labels)
        )
        return chunks_gpu.chunk_size(chunks_gpu.Head(x, w, None), None, copies)

    # 132 multiprocessors, 50 MB of cache, 80 GB of memory.
    facts = (4 * 132 * 128 * 256, 50 * 2**20, 80 * 2**30 // 384)
    monkeypatch.setattr(chunks_gpu, "_device", lambda device: facts)
    # 22 million logits, 134 MB with their gradients: an eighth of the weight.
    assert size(4096, 4096, 131_072) == 5504
    assert size(1024, 768, 1_000_000) == 31_360  # 32 chunks of one size
    assert size(4096, 256, 131_072) == 4096  # 17 million logits fill the GPU; the last is as large
    assert size(1024, 8192, 10**7) == 67_584  # four times as many at most
    assert size(2**20, 64, 10_000) == 128  # no less than the side of a tile
    assert size(2**24, 64, 10_000) == 13  # unless memory is short
    assert size(1, 64, 10_000) == 10_000
    assert size(16, 2**15, 10**6, copies=True) == 1024


def test_each_chunk_is_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and derivatives of a chunk come from one launch and one pass over its logits."""
    launched, run = [], launch.run
    monkeypatch.setattr(launch, "run", lambda key, *a: launched.append(key[0]) or run(key, *a))
    both(torch.bfloat16, TARGETS["lists"], upstream=1.0, chunk_labels=10)
    assert launched.count("loss") == 5
    assert launched.count("sum") == 1


def test_a_captured_backward_pass_may_be_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the backward pass alone is in a CUDA graph, it leaves the kept gradients as they are."""
    x, w = (_random(*shape).to(DEVICE).requires_grad_() for shape in ((B, D), (L, D)))
    upstream = torch.tensor(3.0, device=DEVICE)
    expected = torch.autograd.grad(
        torchbce.linear_binary_cross_entropy(x, w, _lists(B, 6).to(DEVICE)), (x, w), upstream
    )
    scaled = []
    monkeypatch.setattr(launch, "launch_scale", lambda *given: scaled.append(given))
    loss = torchbce.linear_binary_cross_entropy(x, w, _lists(B, 6).to(DEVICE))
    with monkeypatch.context() as patch:
        patch.setattr("torchbce.linear.autograd._captures", lambda: True)
        found = torch.autograd.grad(loss, (x, w), upstream)
        assert not scaled
        torch.testing.assert_close(found, expected)
        # A graph of both passes computes the gradients anew in each replay.
        loss = torchbce.linear_binary_cross_entropy(x, w, _lists(B, 6).to(DEVICE))
        torch.autograd.grad(loss, (x, w), upstream)
        assert len(scaled) == 2
