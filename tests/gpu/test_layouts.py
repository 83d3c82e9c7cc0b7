"""Numbers of elements, partial sums, strides, and sparse targets."""

import math
from typing import Any

import pytest
import torch
from comparing import (
    BLOCK,
    FLOATS,
    assert_close,
    both,
    normal,
    options_for,
    upstream_like,
    with_layout,
)
from interpreting import DEVICE
from torch import Tensor

from family import targets
from torchbce.backends.gpu import launch, tiles
from torchbce.functional import binary_cross_entropy_with_logits as bce

pytestmark = pytest.mark.usefixtures("by_triton")


@pytest.mark.parametrize("n", [0, 1, 7, 16, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 4 * BLOCK])
@pytest.mark.filterwarnings("ignore:the 'mean' of a loss over no elements")
def test_sizes(n: int) -> None:
    x, y = normal(n), targets(n, dtype=torch.bool)
    for reduction in ("none", "mean"):
        assert_close(both(bce, x, y, reduction=reduction))


@pytest.mark.parametrize("reduction", ["sum", "mean", "weighted_mean", "batch_mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_sums_over_several_programs(reduction: str, masked: bool) -> None:
    x, y = normal(3, BLOCK + 5), targets(3, BLOCK + 5).float()
    options: dict[str, Any] = {"weight": normal(3, 1, seed=3).abs(), "reduction": reduction}
    if masked:
        options["mask"] = targets(3, BLOCK + 5, seed=7) > 0.4
        options["mask"][1] = False
    assert_close(both(bce, x, y, **options))


@pytest.mark.parametrize("n", [1, 64 * 5 + 3, 64 * 8])
def test_programs_that_visit_several_tiles(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "MANY", 1)
    monkeypatch.setattr(tiles, "BLOCK", 64)
    x, y = normal(n), targets(n).float()
    mask = targets(n, seed=7) > 0.3
    mask[0] = True
    for options in (
        {"reduction": "none"},
        {"reduction": "mean", "mask": mask},
        {"reduction": "weighted_mean", "weight": normal(n, seed=3).abs() + 0.1},
    ):
        assert_close(both(bce, x, y, **options))


@pytest.mark.parametrize("programs", [1, 127, 128, 129, 300])
def test_more_partial_sums_than_one_block(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_SUM_BLOCK", 128)
    sums = torch.arange(1.0, 2 * programs + 1).reshape(2, programs).to(DEVICE)
    value, denominator = sums.new_empty(()), sums.new_empty(())
    for weighted in (False, True):
        launch.launch_sum(sums, value, None, weighted, denominator)
        total, expected = sums.double().sum(1)
        assert denominator.item() == expected.item()  # small integers, which no sum rounds
        assert value.item() == (total / expected).float().item()
    launch.launch_sum(sums[0], value, 3.0)
    assert value.item() == (total / 3).float().item()
    launch.launch_sum(sums[0], value, torch.tensor(7, device=DEVICE))
    assert value.item() == (total / 7).float().item()


def test_a_sum_beyond_float32_is_infinite() -> None:
    x, y = torch.full((8,), -3e38, device=DEVICE), torch.ones(8, device=DEVICE)
    assert bce(x, y, reduction="sum") == math.inf
    assert bce(x[:1], y[:1]).item() == pytest.approx(3e38)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batch_mean"])
def test_a_mean_over_no_elements_is_zero(reduction: str) -> None:
    x = normal(BLOCK + 1, 2).to(DEVICE).requires_grad_()
    y = torch.full((BLOCK + 1, 2), -100.0, device=DEVICE)
    none = torch.zeros(BLOCK + 1, 2, dtype=torch.bool, device=DEVICE)
    for options in ({"ignore_index": -100}, {"mask": none, "ignore_index": -100}):
        value = bce(x, y, reduction=reduction, weight=2.0, **options)
        assert value.item() == 0
        assert not torch.autograd.grad(value, x)[0].any()
    for shape in ((0,), (0, 3), (3, 0)):
        empty = torch.zeros(shape, device=DEVICE, requires_grad=True)
        with pytest.warns(UserWarning, match="over no elements"):
            value = bce(empty, empty.detach(), reduction=reduction)
        assert value.item() == 0
        assert torch.autograd.grad(value, empty)[0].shape == shape


def test_a_weighted_mean_with_weights_of_zero_is_zero() -> None:
    x = normal(5).to(DEVICE).requires_grad_()
    value = bce(x, x.detach() > 0, weight=torch.zeros(5, device=DEVICE), reduction="weighted_mean")
    assert value.item() == 0
    assert not torch.autograd.grad(value, x)[0].any()


LAYOUTS = ["contiguous", "permuted", "inner", "sliced", "stepped", "offset"]


@pytest.mark.parametrize("input_layout", LAYOUTS)
@pytest.mark.parametrize("other_layout", LAYOUTS)
def test_strides(input_layout: str, other_layout: str) -> None:
    shape, dtype = (3, 4, 5, 7), torch.bfloat16 if other_layout == "inner" else torch.float32
    x, y = (
        with_layout(normal(*shape).to(dtype), input_layout),
        with_layout(targets(*shape).float(), other_layout),
    )
    options: dict[str, Any] = {
        "mask": with_layout(targets(*shape, seed=7) > 0.3, other_layout),
        "weight": with_layout(normal(4, 1, 7, seed=3).abs(), "permuted"),
        "pos_weight": normal(3, 1, 1, 1, seed=4).abs(),
    }
    reduction = "none" if input_layout != "offset" else "weighted_mean"
    results = both(
        bce, x, y, lambda value: upstream_like(value, other_layout), **options, reduction=reduction
    )
    assert_close(results)
    assert (results[0][0].stride() == with_layout(x, input_layout).stride()) == (
        reduction == "none" and input_layout not in ("sliced", "stepped")
    )


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("size", [(), (1,), (7,), (5, 1), (4, 1, 1), (1, 5, 1), (3, 1, 5, 7)])
def test_weights_broadcast(name: str, size: tuple[int, ...]) -> None:
    shape = 3, 4, 5, 7
    weight = normal(*size, seed=3).abs() + 0.5
    for how, reduction in (("contiguous", "weighted_mean"), ("inner", "none")):
        x, y = with_layout(normal(*shape), how), targets(*shape).float()
        assert_close(both(bce, x, y, reduction=reduction, **{name: weight}))


def test_repeated_inputs() -> None:
    y, mask = targets(6, 5).float(), targets(6, 5, seed=7) > 0.4
    for x in (normal(1, 5).expand(6, 5), normal(6, 1).expand(6, 5), normal(1, 1).expand(6, 5)):
        for reduction in ("none", "mean"):
            assert_close(both(bce, x, y, reduction=reduction))
            assert_close(both(bce, x, y, reduction=reduction, mask=mask))


def test_shapes_that_differ_by_trailing_ones() -> None:
    x, y, mask = normal(9, 1), targets(9).float(), targets(9, seed=7) > 0.4
    for reduction in ("none", "batch_mean"):
        assert_close(both(bce, x, y, reduction=reduction, weight=normal(9).abs(), mask=mask))
    assert_close(both(bce, normal(), targets().float(), reduction="batch_mean"))
    assert_close(both(bce, normal(), targets().float(), reduction="none", weight=torch.tensor(2)))


def test_results_have_the_strides_of_the_input() -> None:
    x = with_layout(normal(3, 5, 4, 6), "inner").to(DEVICE).requires_grad_()
    y = torch.ones(3, 5, 4, 6, device=DEVICE)
    assert bce(x, y, reduction="none").stride() == x.stride()
    assert torch.autograd.grad(bce(x, y), x)[0].stride() == x.stride()
    z = with_layout(normal(3, 5, 4, 6), "stepped").to(DEVICE)
    assert bce(z, y, reduction="none").is_contiguous()


def sparse_of(dense: Tensor, layout: str) -> Tensor:
    if layout == "csr":
        return dense.to_sparse_csr()
    if layout == "coo":
        return dense.to_sparse()
    # In descending order.
    index, values = dense.to_sparse().indices().flip(1), dense.to_sparse().values().flip(0)
    return torch.sparse_coo_tensor(index, values, dense.shape)


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        *(("coo", name) for name in ("plain", "all", "zero", "nan")),
        ("csr", "all"),
        ("descending", "all"),
    ],
)
def test_sparse_targets_give_the_results_of_dense_ones(layout: str, name: str) -> None:
    rows, columns = 13, 211  # more than one tile, whose edge is within a row
    dense = torch.where(targets(rows, columns) > 0.8, targets(rows, columns, seed=5), 0.0).float()
    dense[4] = 0
    dense[9, 100:150] = 1
    options: dict[str, Any] = {}
    if name != "plain":
        ignore_index = {"all": -100.0, "zero": 0.0, "nan": math.nan}[name]
        if name != "zero":
            dense[2, 5] = dense[12, 210] = ignore_index
        options = options_for((rows, columns), ignore_index)
    x = normal(rows, columns)
    given = {k: v.to(DEVICE) if isinstance(v, Tensor) else v for k, v in options.items()}
    for how, reduction in (
        ("contiguous", "weighted_mean"),
        ("permuted", "none"),
    ):
        z = with_layout(x, how).to(DEVICE).requires_grad_()
        results = []
        for y in (dense.to(DEVICE), sparse_of(dense.to(DEVICE), layout)):
            value = bce(z, y, reduction=reduction, **given)
            results.append((value, *torch.autograd.grad(value, z, upstream_like(value))))
        # The same operations on the same numbers in the same order.
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    expected = both(bce, x, dense, reduction="none", **options)[1]
    torch.testing.assert_close(
        bce(x.to(DEVICE), y, reduction="none", **given).cpu().double(),
        expected[0],
        rtol=1e-6,
        atol=1e-30,
    )


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
def test_dtypes_of_sparse_targets() -> None:
    dense = targets(5, 7) > 0.6
    for y_dtype in (torch.float64, torch.float16, torch.uint8, torch.int64):
        y = dense.to(y_dtype).to(DEVICE)
        for dtype in FLOATS:
            z = normal(5, 7).to(dtype).to(DEVICE).requires_grad_()
            results = []
            for target in (y, y.to_sparse()):
                value = bce(z, target)
                results.append((value, torch.autograd.grad(value, z)[0]))
            assert torch.equal(results[0][0], results[1][0])
            assert torch.equal(results[0][1], results[1][1])
    nothing = torch.zeros(5, 7, device=DEVICE)
    assert bce(z, nothing.to_sparse()) == bce(z, nothing)
    assert bce(z, (nothing + 1).to_sparse()) == bce(z, nothing + 1)


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
def test_unsorted_columns_of_a_csr_target() -> None:
    """PyTorch does not require them to be sorted."""
    row, column = torch.tensor([0, 3, 3, 5]), torch.tensor([4, 0, 2, 3, 1])
    values = torch.tensor([1.0, 0.5, 0.25, 1.0, 0.75])
    target = torch.sparse_csr_tensor(row, column, values, (3, 5)).to(DEVICE)
    x = normal(3, 5).to(DEVICE)
    torch.testing.assert_close(
        bce(x, target, reduction="none"), bce(x, target.to_dense(), reduction="none")
    )
