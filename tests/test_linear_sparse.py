"""The linear loss of a sparse input: values and gradients as of the same dense input in float64.

The expected values are those of the definition, `torchbce.backend("reference")`, with dense tensors
in float64. Everything is summed in float64, so that float32 results differ by their rounding, half
a unit in the last place, and gradients that are multiplied by an upstream gradient by two.
"""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import torchbce
from torchbce import linear_binary_cross_entropy as linear_bce
from torchbce.linear import topk

REDUCTIONS = ["mean", "sum", "batch_mean", "none"]
FORMS = ["lists", "bool", "soft", "coo", "csr"]
OPTIONS = [
    "pos_weight",
    "pos_weight of labels",
    "label_weight",
    "row_weight",
    "label_smoothing",
    "mask",
    "mask of rows",
    "ignored",
    "chunk_labels",
]
#: Rows, columns, labels.
SHAPES = [
    (7, 5, 1),
    (7, 5, 2),
    (9, 300, 3),
    (30, 40, 20),
    (1, 1, 8),
    (0, 4, 3),
    (4, 0, 3),
    (4, 3, 0),
]

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)", "ignore:the .*mean")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(rows: int, columns: int, labels: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """A dense input with zeros, a weight, a bias and targets."""
    g = seeded()
    x = torch.randn(rows, columns, generator=g) * (torch.rand(rows, columns, generator=g) < 0.3)
    w, b = torch.randn(labels, columns, generator=g), torch.randn(labels, generator=g)
    return x.to(dtype), w.to(dtype), b.to(dtype), torch.rand(rows, labels, generator=g)


def target_of(form: str, y: Tensor) -> Tensor:
    """The targets in a form; all but "soft" are 0 or 1."""
    if form == "soft":
        return y
    positive = y > 0.6
    if form == "lists":
        rows = [row.nonzero().flatten() for row in positive]
        longest = max(map(len, rows), default=0)
        lists = torch.full((len(y), longest + 1), -1)
        for i, row in enumerate(rows):
            lists[i, : len(row)] = row
        return lists
    sparse = {"coo": Tensor.to_sparse, "csr": Tensor.to_sparse_csr}
    return sparse[form](positive.float()) if form in sparse else positive


def options_of(name: str, rows: int, labels: int) -> dict[str, Any]:
    g = seeded(1)
    made: dict[str, Any] = {
        "pos_weight": {"pos_weight": 2.5},
        "pos_weight of labels": {"pos_weight": torch.rand(labels, generator=g) + 0.5},
        "label_weight": {"label_weight": torch.rand(labels, generator=g)},
        "row_weight": {"row_weight": torch.rand(rows, generator=g)},
        "label_smoothing": {"label_smoothing": 0.1},
        "mask": {"mask": torch.rand(rows, labels, generator=g) < 0.7},
        "mask of rows": {"mask": torch.rand(rows, 1, generator=g) < 0.7},
        "ignored": {"ignored": torch.tensor([[0, -1]] * rows).reshape(rows, 2)},
        "chunk_labels": {"chunk_labels": 3},
        "": {},
    }
    return made[name]


def compare(
    x: Tensor, w: Tensor, b: Tensor | None, target: Tensor, of_values: bool, **options: Any
) -> None:
    """Loss and gradients of the sparse input and of the definition in float64."""
    sparse = x.to_sparse_csr().requires_grad_(of_values)
    ours = [sparse, *(t.clone().requires_grad_() for t in (w, b) if t is not None)]
    true = [t.detach().double().requires_grad_(t.requires_grad) for t in [x, *ours[1:]]]
    true[0].requires_grad_(of_values)
    loss = linear_bce(ours[0], ours[1], target, *ours[2:], **options)
    with torchbce.backend("reference"):
        expected = linear_bce(true[0], true[1], target, *true[2:], **options)
    assert (loss.dtype, loss.shape) == (x.dtype, expected.shape)
    upstream = torch.rand(loss.shape, generator=seeded(2), dtype=x.dtype)
    start = 0 if of_values else 1
    found = torch.autograd.grad(loss, ours[start:], upstream)
    wanted = list(torch.autograd.grad(expected, true[start:], upstream.double()))
    if of_values:
        gradient = found[0]
        assert gradient.layout is torch.sparse_csr
        assert gradient.col_indices().equal(sparse.col_indices())
        found = (gradient.values(), *found[1:])
        wanted[0] = wanted[0][x != 0]
    unit = torch.finfo(x.dtype).eps
    for ours_, true_ in zip([loss.detach(), *found], [expected.detach(), *wanted], strict=True):
        scale = float(true_.abs().max()) if true_.numel() else 0.0
        # A tenth of a unit of the largest for sums that cancel, in float64 as well.
        torch.testing.assert_close(
            ours_.double(), true_, rtol=2 * unit, atol=(1e-7 if unit > 1e-9 else 20 * unit) * scale
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_and_reduction(
    shape: tuple[int, int, int], reduction: str, dtype: torch.dtype
) -> None:
    x, w, b, y = problem(*shape, dtype)
    for of_values in (False, True):
        compare(x, w, b, y, of_values, reduction=reduction)
    compare(x, w, None, y, False, reduction=reduction)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", [1, 11])
def test_every_form_of_targets_with_every_option(form: str, option: str, labels: int) -> None:
    x, w, b, y = problem(8, 30, labels, torch.float32)
    for reduction in ("mean", "none"):
        options = options_of(option, 8, labels)
        compare(x, w, b, target_of(form, y), True, reduction=reduction, **options)


def test_all_options_together() -> None:
    x, w, b, y = problem(20, 50, 21, torch.float32)
    options = {k: v for name in OPTIONS for k, v in options_of(name, 20, 21).items()}
    compare(x, w, b, y, True, **options)


def test_gradcheck() -> None:
    x, w, b, y = problem(5, 6, 3, torch.float64)
    sparse = x.to_sparse_csr()
    values = sparse.values().clone().requires_grad_()

    def loss(values: Tensor, w: Tensor, b: Tensor, reduction: str) -> Tensor:
        places = sparse.crow_indices(), sparse.col_indices()
        return linear_bce(
            torch.sparse_csr_tensor(*places, values, x.shape), w, y, b, reduction=reduction
        )

    parameters = w.requires_grad_(), b.requires_grad_()
    for reduction in ("mean", "none"):
        torch.autograd.gradcheck(lambda *t, r=reduction: loss(*t, r), (values, *parameters))
    torch.autograd.gradgradcheck(lambda w, b: linear_bce(sparse, w, y, b), parameters)


def test_gradients_accumulate_in_a_leaf() -> None:
    x, w, b, y = problem(5, 6, 3, torch.float32)
    sparse = x.to_sparse_csr().requires_grad_()
    for _ in range(2):
        linear_bce(sparse, w, y, b).backward()
    once = torch.autograd.grad(linear_bce(sparse, w, y, b), sparse)[0]
    assert sparse.grad is not None
    assert sparse.grad.layout is torch.sparse_csr
    torch.testing.assert_close(sparse.grad.values(), 2 * once.values())


@pytest.mark.parametrize("labels", [1, 30])
@pytest.mark.parametrize("of_values", [False, True])
def test_the_same_bits_for_any_number_of_threads(labels: int, of_values: bool) -> None:
    before = torch.get_num_threads()
    x, w, b, y = problem(1500, 200, labels, torch.float32)
    sparse = x.to_sparse_csr().requires_grad_(of_values)
    leaves = [w.requires_grad_(), b.requires_grad_(), *([sparse] if of_values else [])]

    def results() -> list[Tensor]:
        loss = linear_bce(sparse, w, y, b)
        found = torch.autograd.grad(loss, leaves)
        return [t if t.layout is torch.strided else t.values() for t in (loss.detach(), *found)]

    try:
        torch.set_num_threads(1)
        expected = results()
        for threads in (2, 5):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, results(), expected))
    finally:
        torch.set_num_threads(before)
    compare(x, w.detach(), b.detach(), y, of_values)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_indices_of_both_widths_in_any_order(index: torch.dtype) -> None:
    x, w, b, y = problem(6, 9, 2, torch.float32)
    sparse = x.to_sparse_csr()
    crow, columns, values = sparse.crow_indices(), sparse.col_indices(), sparse.values()
    ends = crow.tolist()
    order = torch.cat([torch.arange(j - 1, i - 1, -1) for i, j in itertools.pairwise(ends)])
    turned = torch.sparse_csr_tensor(
        crow.to(index), columns[order].to(index), values[order], x.shape, check_invariants=False
    )
    torch.testing.assert_close(linear_bce(turned, w, y, b), linear_bce(x, w, y, b))
    with pytest.raises(ValueError, match="columns do not ascend in each row"):
        linear_bce(turned.requires_grad_(), w, y, b)


def test_sums_are_in_float64() -> None:
    """In float32 the logit would lose the 1 next to 1e8."""
    x = torch.tensor([[1e8, 1.0, -1e8]])
    loss = linear_bce(x.to_sparse_csr(), torch.ones(1, 3), torch.ones(1, 1), reduction="sum")
    assert loss.item() == pytest.approx(0.31326168751822286, rel=1e-7)


def test_the_input_is_not_made_dense() -> None:
    """Dense it would take 4 TB."""
    rows, columns = 1_000_000, 1_000_000
    sparse = torch.sparse_csr_tensor(
        torch.arange(rows + 1), torch.arange(rows), torch.ones(rows), (rows, columns)
    )
    w = torch.zeros(1, columns, requires_grad=True)
    y = torch.arange(rows)[:, None] % 2 == 0
    loss = linear_bce(sparse, w, y, reduction="sum")
    loss.backward()
    assert loss.item() == pytest.approx(rows * 0.6931471805599453, rel=1e-7)
    assert w.grad is not None
    assert w.grad.tolist()[0] == [-0.5, 0.5] * (rows // 2)


def test_ignored_elements_may_have_any_weight() -> None:
    x, w, b, y = problem(6, 9, 3, torch.float32)
    w[1] = torch.nan
    w.requires_grad_()
    mask = torch.tensor([True, False, True])
    loss = linear_bce(x.to_sparse_csr(), w, y, b, mask=mask, reduction="none")
    upstream = torch.tensor([torch.inf, *[1.0] * 5])
    (gradient,) = torch.autograd.grad(loss, w, upstream)
    assert loss.isfinite().all()
    assert gradient[1].eq(0).all()


def test_a_head() -> None:
    head = torchbce.LinearBCELoss(40, 12)
    x, *_, y = problem(20, 40, 12, torch.float32)
    dense = copy.deepcopy(head)
    ours, expected = head(x.to_sparse_csr(), y), dense(x, y)
    ours.backward(), expected.backward()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(head.weight.grad, dense.weight.grad)
    torch.testing.assert_close(head.logits(x.to_sparse_csr()), dense.logits(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("chunk", [None, 7, 300])
def test_the_best_labels(
    dtype: torch.dtype,
    bias: bool,
    at_once: bool,
    chunk: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not at_once:  # several chunks of labels and of rows
        for name, value in {"_AT_ONCE": 0, "_LOGITS": 600, "_ROWS": 4, "_FEWEST_ROWS": 2}.items():
            monkeypatch.setattr(topk, name, value)
    head = torchbce.LinearBCELoss(40, 300, bias=bias, chunk_labels=chunk, dtype=dtype)
    x = problem(23, 40, 1, dtype)[0]
    x[5] = 0
    for rows in (x, x[:0]):
        values, indices = head.topk(rows.to_sparse_csr(), 6)
        expected = head.topk(rows, 6)
        torch.testing.assert_close(values, expected.values)
        z = head.logits(rows).detach()
        torch.testing.assert_close(z.gather(1, indices), expected.values)


def test_metrics_of_a_ranking() -> None:
    head = torchbce.LinearBCELoss(40, 30)
    x = problem(23, 40, 1, torch.float32)[0]
    positives = head.topk(x, 2).indices
    given = x.to_sparse_csr()
    for model in (head, head.logits):
        found = torchbce.ranking.evaluate(model, given, positives, ks=(1, 4), chunk_rows=10)
        assert found["precision_at"] == {1: 1.0, 4: 0.5}


def test_what_a_ranking_refuses() -> None:
    head = torchbce.LinearBCELoss(3, 9)
    for wrong, message in (
        ({"columns": [0, 3, 1]}, r"stores an element at index \[0, 3\], outside its shape"),
        ({"pointers": [0, 2, 99]}, "crow_indices"),
        ({"last": torch.nan}, r"input\[1, 1\] is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            head.topk(matrix(**wrong), 2)
    with pytest.raises(TypeError, match=r"input\.to_sparse_csr\(\)"):
        head.topk(matrix().to_sparse_coo(), 2)
    with pytest.raises(ValueError, match=r"\(\.\.\., D\) and \(L, D\)"):
        torchbce.LinearBCELoss(4, 9).topk(matrix(), 2)


def test_backends_by_name() -> None:
    x, w, b, y = problem(6, 9, 2, torch.float64)
    sparse = x.to_sparse_csr()
    losses = []
    for name in ("reference", "numba"):
        with torchbce.backend(name):
            losses.append(linear_bce(sparse, w, y, b))
    torch.testing.assert_close(*losses, rtol=1e-14, atol=0)
    with torchbce.backend("triton"), pytest.raises(RuntimeError, match="kernels of the CPU"):
        linear_bce(sparse, w, y, b)


# -------------------------------------------------------------------------------------- errors

POINTERS, COLUMNS = [0, 2, 3], [0, 2, 1]


def matrix(
    pointers: list[int] = POINTERS, columns: list[int] = COLUMNS, last: float = 1.0
) -> Tensor:
    values = torch.tensor([1.0, 1.0, last])
    places = torch.tensor(pointers), torch.tensor(columns)
    return torch.sparse_csr_tensor(*places, values, (2, 3), check_invariants=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"columns": [0, 3, 1]}, r"stores an element at index \[0, 3\], outside its shape"),
        ({"columns": [0, -1, 1]}, r"stores an element at index \[0, -1\], outside"),
        ({"columns": [2, 2, 1]}, r"stores the element at index \[0, 2\] more than once"),
        ({"pointers": [0, 3, 2]}, "crow_indices"),
        ({"pointers": [0, 2, 99]}, "crow_indices"),
        ({"pointers": [1, 2, 3]}, "crow_indices"),
        ({"last": torch.inf}, r"input\[1, 1\] is inf; stored values must be finite"),
        ({"last": torch.nan}, r"input\[1, 1\] is nan"),
    ],
)
@pytest.mark.parametrize("labels", [1, 9])
def test_a_malformed_matrix(wrong: dict[str, Any], message: str, labels: int) -> None:
    with pytest.raises(ValueError, match=message):
        linear_bce(matrix(**wrong), torch.ones(labels, 3), torch.ones(2, labels))
    linear_bce(matrix(), torch.ones(labels, 3), torch.ones(2, labels))


@pytest.mark.parametrize("layout", ["coo", "csc", "bsr"])
def test_another_layout(layout: str) -> None:
    dense = torch.ones(2, 3)
    makes = {
        "coo": dense.to_sparse,
        "csc": dense.to_sparse_csc,
        "bsr": lambda: dense.to_sparse_bsr((1, 1)),
    }
    with pytest.raises(TypeError, match=r"must be of layout torch.sparse_csr: input.to_sparse_csr"):
        linear_bce(makes[layout](), torch.ones(1, 3), torch.ones(2, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    half = torch.ones(1, 3, dtype=dtype)
    with pytest.raises(TypeError, match=r"weight is .*float16 and input is sparse"):
        linear_bce(matrix(), half, torch.ones(2, 1))
    with pytest.raises(TypeError, match=r"input is .*float16 and input is sparse"):
        linear_bce(matrix().to(dtype), half, torch.ones(2, 1))


def test_autocast_changes_nothing() -> None:
    x, w, b, y = problem(6, 9, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_bce(x.to_sparse_csr(), w, y, b)
    assert loss.equal(linear_bce(x.to_sparse_csr(), w, y, b))


def test_other_shapes_and_devices() -> None:
    w, y = torch.ones(1, 3), torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"must be \(..., D\) and \(L, D\)"):
        linear_bce(matrix(), torch.ones(1, 4), y)
    with pytest.raises(ValueError, match="target has shape"):
        linear_bce(matrix(), w, torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"target\[1, 0\] is 2.0"):
        linear_bce(matrix(), w, torch.tensor([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="rows and columns"):
        linear_bce(torch.ones(2, 2, 3).to_sparse_csr(), w, torch.ones(2, 2, 1))
    wide = torch.sparse_csr_tensor(
        torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 2**31)
    )
    with pytest.raises(ValueError, match="at most 2,147,483,647 are computed"):
        linear_bce(wide, w, y)
    with pytest.raises(ValueError, match="on the CPU only"):
        linear_bce(matrix().to("meta"), w.to("meta"), y.to("meta"))


def test_where_pytorch_must_see_its_own_operations() -> None:
    x, w, y = matrix(), torch.ones(1, 3), torch.ones(2, 1)
    with pytest.raises(RuntimeError, match=r"a transform of torch.func is active, and input is"):
        torch.func.grad(lambda w: linear_bce(x, w, y))(w)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        linear_bce(x, w, y)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_code() -> None:
    head, y = torchbce.LinearBCELoss(3, 1), torch.ones(2, 1)
    compiled = torch.compile(head, backend="eager")
    with pytest.raises(ValueError, match="cannot trace a sparse input"):
        compiled(matrix(), y)


def test_a_fused_optimizer() -> None:
    head = torchbce.LinearBCELoss(3, 1, fused_optimizer=torchbce.FusedSGD(lr=0.1))
    with pytest.raises(TypeError, match="a fused optimizer takes a dense input only"):
        head(matrix(), torch.ones(2, 1))
