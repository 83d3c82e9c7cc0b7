"""The largest logits of many labels: chunks, tiles and thresholds."""

import pytest
import torch

from torchbce import LinearBCELoss
from torchbce.linear import candidates, topk
from torchbce.linear.records import Head


def large_head(labels: int, order: str = "random") -> LinearBCELoss:
    """A head whose chunks and tiles are as those of millions of labels."""
    made = LinearBCELoss(8, labels)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.weight.copy_(torch.randn(labels, 8, generator=g))
        made.bias.copy_(torch.randn(labels, generator=g))
        if order != "random":
            made.bias.copy_(torch.linspace(0, 100, labels))
        if order == "descending":
            made.bias.neg_()
    return made


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of labels and of rows, and tiles, for a few thousand labels."""
    for name, value in {
        "_AT_ONCE": 0,
        "_LOGITS": 2**12,
        "_ROWS": 8,
        "_FEWEST_ROWS": 2,
        "_LARGE": 0,
    }.items():
        monkeypatch.setattr(topk, name, value)
    monkeypatch.setattr(topk, "_LABELS_OF_PRODUCT", 100)
    monkeypatch.setattr(candidates, "_FEWEST", 0)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
@pytest.mark.parametrize("k", [1, 3, 31, 64, 65, 250, 1000, 2999, 4999])
@pytest.mark.parametrize("chunk", [None, 70, 600])
def test_topk_of_several_chunks(k: int, order: str, chunk: int | None) -> None:
    made = large_head(4999, order)
    made.chunk_labels = chunk
    x = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))
    values, indices = made.topk(x, k)
    z = made.logits(x).detach()
    # Sums of 8 products in another order.
    torch.testing.assert_close(values, torch.topk(z, k).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values, z.gather(1, indices), rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("k", [1, 5, 40, 700, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_topk_of_equal_infinite_and_undefined_logits(k: int, dtype: torch.dtype) -> None:
    labels = 3000
    made = LinearBCELoss(1, labels, dtype=dtype)
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        made.weight.zero_()
        made.bias.copy_(torch.randint(4, (labels,), generator=g))
        for value, count in ((-torch.inf, 2000), (torch.inf, 3), (torch.nan, 4)):
            made.bias[torch.randperm(labels, generator=g)[:count]] = value
    values, indices = made.topk(torch.zeros(5, 1, dtype=dtype), k)
    bias = made.bias.detach().to(values.dtype)
    expected = torch.topk(bias, k).values.expand(5, k)
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(values, bias[indices], rtol=0, atol=0, equal_nan=True)
    assert all(len(set(row)) == k for row in indices.tolist())


class Best(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = large_head(4999)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = self.head.topk(x, 5)
        return values, indices


@pytest.mark.usefixtures("small_chunks")
def test_topk_in_graphs(fresh_compiler: None) -> None:
    model, x = Best(), torch.randn(9, 8, generator=torch.Generator().manual_seed(1))
    expected = model(x)
    for traced in (
        torch.compile(model, backend="aot_eager", fullgraph=True),
        torch.export.export(model, (x,)).module(),
        torch.jit.trace(model, (x,)),
    ):
        values, indices = traced(x)
        torch.testing.assert_close(values, expected[0], rtol=1e-5, atol=1e-5)
        assert indices.equal(expected[1])
        assert not values.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_few_logits_are_computed_at_once(dtype: torch.dtype, bias: bool) -> None:
    made = LinearBCELoss(8, 600, bias=bias, dtype=dtype)
    x = torch.randn(9, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    values, indices = made.topk(x, 7)
    made.chunk_labels = 50
    expected = made.topk(x, 7)
    torch.testing.assert_close(values, expected.values, rtol=1e-5, atol=1e-6)
    assert indices.equal(expected.indices)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("rows", [1, 64, 256, 4096])
@pytest.mark.parametrize("labels", [1000, 46_391, 1_000_000])
@pytest.mark.parametrize("k", [1, 100, 1000, 20_000, 1_000_000])
def test_a_chunk_is_small_or_a_small_multiple_of_k(rows: int, labels: int, k: int) -> None:
    k, one = min(k, labels), torch.empty(1, 1)
    size = topk._chunk_shape(Head(one.expand(rows, 16), one.expand(labels, 16), None), k, None)
    # Equal parts are up to twice as large as the least.
    assert size.numel() <= max(2 * topk._LOGITS, 2 * topk._FEWEST_ROWS * topk._LABELS_PER_K * k)
    assert size[0] <= rows
    assert size[1] <= labels
    assert size[1] >= min(labels, topk._LABELS_PER_K * k)


@pytest.mark.parametrize("k", [1, 5, 1000])
def test_blocks_of_which_little_is_above_the_threshold_are_not_searched(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []
    original = torch.topk

    def counted(numbers: torch.Tensor, *rest: object, **options: object) -> object:
        searched.append(numbers.numel())
        return original(numbers, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "topk", counted)
    rows, columns, blocks = 64, 32_000, 10
    found = candidates.Candidates(torch.empty(rows, 0), k)
    g = torch.Generator().manual_seed(3)
    numbers = torch.rand(rows, blocks * columns, generator=g)
    for block in numbers.split(columns, 1):
        found.add(block)
    values, indices = found.largest()
    assert values.equal(original(numbers, k).values)
    assert numbers.gather(1, indices).equal(values)
    # torch.topk of each block, and then of what was found in them, would search all of them.
    assert sum(searched) < 0.5 * numbers.numel()
