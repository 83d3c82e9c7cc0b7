"""Misuses of the linear loss and their error messages, and edge cases that are allowed.

Each message says what was given, what was expected and what to do.
"""

import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import scipy.sparse
import torch
from torch import Tensor

import torchbce
from torchbce import linear_binary_cross_entropy as linear_bce
from torchbce.functional import binary_cross_entropy_with_logits as bce

ROWS, LABELS, WIDTH = 4, 6, 3
BACKENDS = ["numba", "reference"]

X = torch.linspace(-1, 1, ROWS * WIDTH).view(ROWS, WIDTH)
W = torch.linspace(-2, 1, LABELS * WIDTH).view(LABELS, WIDTH)
B = torch.linspace(-1, 2, LABELS)
LISTS = torch.tensor([[0, 5], [3, -1], [-1, -1], [2, 1]])
NEEDS_GRAD = torch.ones(LABELS, requires_grad=True)


def call(
    input: Any = X, weight: Any = W, target: Any = LISTS, bias: Any = B, **options: Any
) -> Tensor:
    return linear_bce(input, weight, target, bias, **options)


def with_value(tensor: Tensor, value: float, *at: int) -> Tensor:
    changed = tensor.clone()
    changed[at] = value
    return changed


def dense(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(ROWS, LABELS, dtype=dtype)


MISUSES: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "an index beyond the labels": (
        {"target": with_value(LISTS, 6, 3, 1)},
        ValueError,
        ["target[3, 1] is 6", "with 6 rows of weight the labels are 0 to 5", "pad_sequence"],
    ),
    "an index beyond the labels of more rows than one": (
        {"input": X.view(2, 2, 3), "target": with_value(LISTS, 9, 3, 1).view(2, 2, 2)},
        ValueError,
        ["target[1, 1, 1] is 9"],
    ),
    "padding with -5": (
        {"target": with_value(LISTS, -5, 1, 1)},
        ValueError,
        ["target[1, 1] is -5", "only -1 or -100 pads", "padding_value=-1"],
    ),
    "padding with the number of labels": (
        {"target": with_value(LISTS, 6, 1, 1)},
        ValueError,
        ["target[1, 1] is 6"],
    ),
    "ignored beyond the labels": (
        {"ignored": with_value(LISTS, 6, 0, 0)},
        ValueError,
        ["ignored[0, 0] is 6", "labels are 0 to 5"],
    ),
    "ignored padded with -2": (
        {"ignored": with_value(LISTS, -2, 2, 0)},
        ValueError,
        ["ignored[2, 0] is -2"],
    ),
    "a repeated label": (
        {"target": with_value(LISTS, 2, 3, 1)},
        ValueError,
        ["target[3] has label 2 more than once", "target.bool()", "pad(target, (0, 1), value=-1)"],
    ),
    "a repeated label of more rows than one": (
        {"input": X.view(2, 2, 3), "target": with_value(LISTS, 2, 3, 1).view(2, 2, 2)},
        ValueError,
        ["target[1, 1] has label 2 more than once"],
    ),
    "a repeated label of a single row": (
        {"input": X[0], "target": torch.tensor([4, -1, 4])},
        ValueError,
        ["target has label 4 more than once"],
    ),
    "a SciPy matrix of ignored labels": (
        {"ignored": scipy.sparse.csr_array((3, 6))},
        TypeError,
        ["got csr_array; torchbce.positives_from(ignored)"],
    ),
    "a nested tensor": (
        {
            "target": torch.nested.nested_tensor(
                [torch.tensor([1]), torch.tensor([2, 3])], layout=torch.jagged
            )
        },
        TypeError,
        ["target is a nested tensor", "torchbce.positives_from(target) makes label lists"],
    ),
    "a repeated label among the ignored ones": (
        {"ignored": with_value(LISTS, 5, 0, 0)},
        ValueError,
        ["ignored[0] has label 5 more than once", "mask=~ignored.bool()"],
    ),
    "a list of lists": (
        {"target": [[0, 5], [3], [], [2, 1]]},
        TypeError,
        ["target must be a torch.Tensor, got list", "torchbce.positives_from", "torch.as_tensor"],
    ),
    "no target": ({"target": None}, TypeError, ["target must be a torch.Tensor, got NoneType"]),
    "a complex target": (
        {"target": dense(torch.complex64)},
        TypeError,
        ["target must be float, bool or integer, got torch.complex64"],
    ),
    "lists of fewer rows": (
        {"target": LISTS[:3]},
        ValueError,
        ["target has shape (3, 2)", "int64", "(4,) and one dimension more"],
    ),
    "lists of flattened rows": (
        {"input": X.view(2, 2, 3)},
        ValueError,
        ["target has shape (4, 2)", "(2, 2) and one dimension more"],
    ),
    "one label a row, as class indices": (
        {"target": torch.tensor([0, 1, 2, 3])},
        ValueError,
        ["target has shape (4,)", "(4,) and one dimension more"],
    ),
    "lists of int32": (
        {"target": LISTS.int()},
        ValueError,
        ["target has shape (4, 2)", "(4, 6)", "target.long()"],
    ),
    "a dense target of int64": (
        {"target": dense(torch.int64)},
        ValueError,
        [
            "target has shape (4, 6), dtype int64 and holds only 0 and 1",
            "target.bool()",
            "pad(target, (0, 1), value=-1)",
        ],
    ),
    "a mask of int64 for ignored": (
        {"ignored": dense(torch.int64)},
        ValueError,
        ["ignored has shape (4, 6), dtype int64 and holds only 0 and 1"],
    ),
    "a dense target of other labels": (
        {"target": torch.zeros(4, 5)},
        ValueError,
        ["target has shape (4, 5)", "input (4, 3) and 6 labels", "(4, 6)"],
    ),
    "a dense target of one column": (
        {"target": torch.zeros(4, 1)},
        ValueError,
        ["target has shape (4, 1)", "(4, 6)"],
    ),
    "a transposed dense target": (
        {"target": torch.zeros(6, 4).bool()},
        ValueError,
        ["target has shape (6, 4)", "(4, 6)"],
    ),
    "a sparse target of another shape": (
        {"target": torch.zeros(4, 5).to_sparse()},
        ValueError,
        ["target has shape (4, 5)", "(4, 6)"],
    ),
    "a sparse target by columns": (
        {"target": lambda: dense().to_sparse_csc()},
        TypeError,
        ["torch.sparse_coo or torch.sparse_csr, got torch.sparse_csc", ".to_sparse()"],
    ),
    "a sparse target dense in labels": (
        {"target": dense().to_sparse(1)},
        ValueError,
        ["sparse in each dimension"],
    ),
    "a sparse value out of range": (
        {"target": with_value(dense(), 1.5, 2, 4).to_sparse()},
        ValueError,
        ["target[2, 4] is 1.5", "must be in [0, 1]"],
    ),
    "a sparse NaN": (
        {"target": with_value(dense(), math.nan, 3, 0).to_sparse()},
        ValueError,
        ["target[3, 0] is nan", "NaN is not a target"],
    ),
    "a sparse element that is stored twice": (
        {"target": lambda: torch.sparse_coo_tensor([[1, 1], [2, 2]], torch.ones(2), (4, 6))},
        ValueError,
        ["target stores the element at index [1, 2] more than once", "target.coalesce()"],
    ),
    "a NaN in the input": (
        {"input": with_value(X, math.nan, 2, 1)},
        ValueError,
        ["input[2, 1] is nan", "must be finite", "diverged"],
    ),
    "an infinity in the input": (
        {"input": with_value(X, -math.inf, 3, 2).view(2, 2, 3), "target": LISTS.view(2, 2, 2)},
        ValueError,
        ["input[1, 1, 2] is -inf"],
    ),
    "an input that is no tensor": (
        {"input": [[1.0, 2.0, 3.0]]},
        TypeError,
        ["input must be a torch.Tensor, got list"],
    ),
    "a weight that is no tensor": (
        {"weight": [[1.0, 2.0, 3.0]]},
        TypeError,
        ["weight must be a torch.Tensor, got list"],
    ),
    "a bias that is a number": (
        {"bias": 0.5},
        TypeError,
        ["bias must be a torch.Tensor, got float"],
    ),
    "an integer input": (
        {"input": X.long()},
        TypeError,
        ["input must have a floating dtype, got torch.int64", ".float()"],
    ),
    "an integer weight": ({"weight": W.int()}, TypeError, ["weight must have a floating dtype"]),
    "an input of half precision": (
        {"input": X.half()},
        TypeError,
        ["input is torch.float16, weight torch.float32 and bias torch.float32", "torch.autocast"],
    ),
    "a bias of float64": (
        {"bias": B.double()},
        TypeError,
        ["weight torch.float32 and bias torch.float64"],
    ),
    "a bias of one number": (
        {"bias": B[:1]},
        ValueError,
        ["bias has shape (1,) and weight (6, 3)", "one number per label: (6,)"],
    ),
    "a bias of one column": ({"bias": B[:, None]}, ValueError, ["bias has shape (6, 1)"]),
    "a weight of one dimension": (
        {"weight": W[0]},
        ValueError,
        ["input has shape (4, 3) and weight (3,)", "(..., D) and (L, D)"],
    ),
    "a weight of three dimensions": ({"weight": W[None]}, ValueError, ["weight (1, 6, 3)"]),
    "a transposed weight": (
        {"weight": W.T},
        ValueError,
        ["input has shape (4, 3) and weight (3, 6)", "(L, D)"],
    ),
    "an input without dimensions": (
        {"input": torch.tensor(1.0)},
        ValueError,
        ["input has shape ()"],
    ),
    "a weight elsewhere": (
        {"weight": W.to("meta")},
        ValueError,
        ["weight is on meta and input on cpu", ".to('cpu')"],
    ),
    "a bias elsewhere": ({"bias": B.to("meta")}, ValueError, ["bias is on meta"]),
    "a target elsewhere": ({"target": LISTS.to("meta")}, ValueError, ["target is on meta"]),
    "a mask elsewhere": (
        {"mask": torch.ones(LABELS, dtype=torch.bool, device="meta")},
        ValueError,
        ["mask is on meta"],
    ),
    "weights elsewhere": ({"row_weight": X[:, 0].to("meta")}, ValueError, ["row_weight is on"]),
    "label_weight of rows": (
        {"label_weight": torch.ones(ROWS)},
        ValueError,
        ["label_weight has shape (4,); it must have shape (6,)"],
    ),
    "row_weight of labels": (
        {"row_weight": torch.ones(LABELS)},
        ValueError,
        ["row_weight has shape (6,); it must have shape (4,)"],
    ),
    "row_weight as a column": (
        {"row_weight": torch.ones(ROWS, 1)},
        ValueError,
        ["row_weight has shape (4, 1); it must have shape (4,)"],
    ),
    "row_weight as a number": (
        {"row_weight": 2.0},
        TypeError,
        ["row_weight must be a real tensor of shape (4,), got float"],
    ),
    "label_weight as a list": (
        {"label_weight": [1.0] * LABELS},
        TypeError,
        ["label_weight must be a real tensor of shape (6,), got list"],
    ),
    "complex label_weight": (
        {"label_weight": torch.ones(LABELS, dtype=torch.complex64)},
        TypeError,
        ["label_weight must be a real tensor"],
    ),
    "pos_weight of rows": (
        {"pos_weight": torch.ones(ROWS)},
        ValueError,
        ["pos_weight has shape (4,); it must have shape (6,)"],
    ),
    "pos_weight below 0": (
        {"pos_weight": -2},
        ValueError,
        ["pos_weight must be finite and not negative, got -2"],
    ),
    "an infinite pos_weight": ({"pos_weight": math.inf}, ValueError, ["got inf"]),
    "pos_weight as a list": (
        {"pos_weight": [1.0] * LABELS},
        TypeError,
        ["pos_weight must be a tensor or a number, got list"],
    ),
    "pos_weight as a bool": ({"pos_weight": True}, TypeError, ["pos_weight", "got bool"]),
    "a complex pos_weight": (
        {"pos_weight": torch.ones((), dtype=torch.complex64)},
        TypeError,
        ["pos_weight must be"],
    ),
    "a mask of integers": (
        {"mask": torch.ones(LABELS).long()},
        TypeError,
        ["mask must be a bool tensor, false where an element is ignored; got torch.int64"],
    ),
    "a mask as a list": ({"mask": [True] * LABELS}, TypeError, ["mask must be", "got list"]),
    "a mask of rows": (
        {"mask": torch.ones(ROWS, dtype=torch.bool)},
        ValueError,
        ["mask has shape (4,)", "does not broadcast", "(4, 6)"],
    ),
    "a mask of more dimensions": (
        {"mask": torch.ones(1, ROWS, LABELS, dtype=torch.bool)},
        ValueError,
        ["mask has shape (1, 4, 6)"],
    ),
    "ignored as a mask": (
        {"ignored": dense(torch.bool)},
        TypeError,
        ["ignored must be an int64 tensor", "for one value per element use mask"],
    ),
    "ignored of int32": ({"ignored": LISTS.int()}, TypeError, ["ignored must be an int64 tensor"]),
    "ignored as a list": (
        {"ignored": [[1]]},
        TypeError,
        ["ignored must be a torch.Tensor, got list; torchbce.positives_from(ignored) makes"],
    ),
    "ignored of fewer rows": (
        {"ignored": LISTS[:1]},
        ValueError,
        ["ignored has shape (1, 2)", "(4,) and one dimension more"],
    ),
    "smoothing above 1": (
        {"label_smoothing": 1.5},
        ValueError,
        ["label_smoothing must be in [0, 1], got 1.5"],
    ),
    "smoothing of NaN": ({"label_smoothing": math.nan}, ValueError, ["label_smoothing", "got nan"]),
    "a reduction of the losses of logits": (
        {"reduction": "weighted_mean"},
        ValueError,
        ["'mean', 'sum', 'batch_mean', 'none'", "got 'weighted_mean'"],
    ),
    **{
        f"chunks of {size!r}": (
            {"chunk_labels": size},
            ValueError,
            [f"chunk_labels must be an integer of 1 or above, or None; got {size!r}"],
        )
        for size in (0, -1, True, 2.5, "all")
    },
    "a target to be differentiated by": (
        {"target": dense().requires_grad_()},
        ValueError,
        ["target requires grad", "target.detach()"],
    ),
    **{
        f"{name} to be differentiated by": (
            {name: NEEDS_GRAD if name != "row_weight" else torch.ones(ROWS, requires_grad=True)},
            ValueError,
            [f"{name} requires grad", f"{name}.detach()"],
        )
        for name in ("pos_weight", "label_weight", "row_weight")
    },
}


@pytest.mark.filterwarnings("ignore:Sparse (CSC|invariant)")
@pytest.mark.parametrize("misuse", MISUSES)
def test_error_message(misuse: str) -> None:
    arguments, kind, parts = MISUSES[misuse]
    call()  # valid without the misuse
    given = {name: value() if callable(value) else value for name, value in arguments.items()}
    with pytest.raises(kind) as raised:
        call(**given)
    assert type(raised.value) is kind
    for part in parts:
        assert part in str(raised.value)


def test_the_remedy_for_a_dense_ignored_is_a_mask() -> None:
    with pytest.raises(ValueError, match="ignored has shape") as raised:
        call(ignored=dense(torch.int64))
    assert "mask" in str(raised.value)
    assert "dense target" not in str(raised.value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", [2, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_a_dense_value_out_of_range_is_named(
    backend: str, chunk: int | None, dtype: torch.dtype
) -> None:
    options: list[dict[str, Any]] = [{}, {"mask": torch.ones(LABELS, dtype=torch.bool)}]
    if dtype == torch.uint8:
        del options[1]  # one kernel less to compile
    for at, given in ((at, given) for at in ((0, 0), (2, 5), (3, 4)) for given in options):
        for target in (with_value(dense(dtype), 2, *at), with_value(dense(dtype), 255, *at)):
            if dtype == torch.float32 and target[at] == 255:
                target[at] = math.nan
            words = re.escape(f"target[{at[0]}, {at[1]}] is {target[at].item()}; ")
            for w in (W, W.clone().requires_grad_()):
                with torchbce.backend(backend), pytest.raises(ValueError, match=words):
                    call(weight=w, target=target, chunk_labels=chunk, **given)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_index_has_the_dimensions_of_the_target(backend: str) -> None:
    target = with_value(dense(), 2.0, 3, 4).view(2, 2, LABELS)
    with torchbce.backend(backend), pytest.raises(ValueError, match=r"target\[1, 1, 4\] is 2\.0"):
        call(input=X.view(2, 2, 3), target=target)
    one = with_value(dense()[0], 2.0, 4)
    with torchbce.backend(backend), pytest.raises(ValueError, match=r"target\[4\] is 2\.0"):
        call(input=X[0], target=one)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint16, torch.float64], ids=str)
def test_the_range_of_other_dtypes(dtype: torch.dtype) -> None:
    ones = torch.ones(ROWS, LABELS).to(dtype)
    assert call(target=ones).equal(call(target=ones.float()))
    with pytest.raises(ValueError, match=r"target\[0, 5\] is 2"):
        call(target=with_value(torch.ones(ROWS, LABELS), 2.0, 0, 5).to(dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_elements_may_have_any_target(backend: str) -> None:
    target = dense()
    target[0, 0], target[1, 1] = math.nan, -100.0
    mask = ~(target.isnan() | (target < 0))
    ignored = torch.tensor([[0], [1], [-1], [-1]])
    with torchbce.backend(backend):
        expected = call(target=dense(), mask=mask)
        assert call(target=target, mask=mask).equal(expected)
        assert call(target=target, ignored=ignored).equal(expected)
        wrong = with_value(target, 3.0, 2, 2)
        with pytest.raises(ValueError, match=r"target\[2, 2\] is 3\.0"):
            call(target=wrong, mask=mask)
        with pytest.raises(ValueError, match=r"target\[2, 2\] is 3\.0"):
            call(target=wrong, ignored=ignored)


def test_a_compiled_loss_has_the_same_messages() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        assert compiled(X, W, LISTS, B).equal(call())
        for arguments in (
            {"target": with_value(LISTS, 6, 3, 1)},
            {"input": with_value(X, math.nan, 2, 1)},
            {"target": with_value(dense(), 1.5, 3, 4)},
        ):
            given = {"input": X, "weight": W, "target": LISTS, "bias": B, **arguments}
            with pytest.raises(ValueError, match=r"is (6|nan|1\.5)") as eager:
                call(**given)
            with pytest.raises(ValueError, match=r"is (6|nan|1\.5)") as ran:
                compiled(**given)
            assert str(ran.value) == str(eager.value)
    torch._dynamo.reset()


def test_a_loss_is_correct_after_an_error() -> None:
    w = W.clone().requires_grad_()
    for _ in range(2):
        with pytest.raises(ValueError, match="target"):
            call(weight=w, target=with_value(dense(), 2.0, 3, 5), chunk_labels=1)
        assert call(weight=w).equal(call())


# ------------------------------------------------------------------------------- what is no error


def test_lists_in_any_order_with_gaps() -> None:
    expected = call(target=torch.tensor([[0, 5], [3, -1], [-1, -1], [2, 1]]))
    for lists in (
        [[5, 0], [-1, 3], [-1, -1], [1, 2]],
        [[5, 0], [-100, 3], [-100, -100], [1, 2]],
        [[-1, 5, -1, 0, -100, -1, -1], [-1] * 6 + [3], [-1] * 7, [2, -1, -1, 1, -1, -1, -1]],
    ):
        for w in (W, W.clone().requires_grad_()):
            assert call(weight=w, target=torch.tensor(lists)).equal(expected)
    ignored = call(ignored=torch.tensor([[1], [2], [-1], [5]]))
    assert call(ignored=torch.tensor([[-1, 1, -1], [-100, -100, 2], [-1] * 3, [-1, 5, -1]])).equal(
        ignored
    )


def test_repeated_labels_that_are_not_read_count_once() -> None:
    twice = torch.tensor([[0, 5, 0], [3, 3, 3], [-1, -1, -1], [2, 1, 1]])
    assert call(target=twice, check_targets=False).equal(call())


def test_a_mostly_padded_list_is_a_list() -> None:
    labels = 5000
    w, b = torch.linspace(-1, 1, labels * WIDTH).view(labels, WIDTH), torch.zeros(labels)
    lists = torch.full((ROWS, labels), -1)
    lists[1, ::2] = torch.arange(0, labels, 2)
    y = torch.zeros(ROWS, labels, dtype=torch.bool)
    y[1, ::2] = True
    assert call(weight=w, bias=b, target=lists).equal(call(weight=w, bias=b, target=y))


def test_rows_without_positives() -> None:
    expected = call(target=dense().bool())
    for lists in (torch.full((ROWS, 1), -1), torch.empty(ROWS, 0, dtype=torch.int64)):
        assert call(target=lists).equal(expected)
        assert call(target=lists, ignored=lists).equal(expected)
    assert call(target=dense().to_sparse()).equal(expected)


def test_a_label_both_positive_and_ignored_is_ignored() -> None:
    positive = call(target=LISTS, ignored=LISTS, reduction="none")
    assert positive.equal(call(target=dense().bool(), ignored=LISTS, reduction="none"))
    w = W.clone().requires_grad_()
    (
        call(weight=w, target=torch.tensor([[0]] * ROWS), ignored=torch.tensor([[0]] * ROWS))
    ).backward()
    assert not w.grad[0].any()
    assert w.grad[1].all()


def test_lists_of_two_labels_are_lists() -> None:
    two = torch.tensor([[0, 1], [1, -1], [0, -1], [-1, -1]])
    y = torch.tensor([[1.0, 1], [0, 1], [1, 0], [0, 0]])
    assert call(weight=W[:2], bias=B[:2], target=two).equal(
        call(weight=W[:2], bias=B[:2], target=y.bool())
    )
    short = torch.tensor([[0, 1]] * ROWS)
    assert call(target=short).isfinite()


@pytest.mark.parametrize("labels", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ["target", "ignored"])
def test_one_value_per_label_of_int64_is_refused(labels: int, name: str) -> None:
    """Whatever the number of labels, and whatever the values are."""
    given = {"weight": W[:labels], "bias": B[:labels], "target": torch.full((ROWS, 1), -1)}
    g = torch.Generator().manual_seed(labels)
    for _ in range(20):
        values = torch.randint(2, (ROWS, labels), generator=g)
        with pytest.raises(ValueError, match="one value per label") as raised:
            call(**given | {name: values})
        remedy = r"target\.bool\(\)" if name == "target" else r"mask=~ignored\.bool\(\)"
        assert re.search(remedy, str(raised.value))
        # Both remedies work.
        if name == "target":
            call(**given | {"target": values.bool()})
        padded = torch.nn.functional.pad(torch.where(values == 1, 0, -1)[:, :1], (0, 1), value=-1)
        call(**given | {name: padded}, reduction="sum")


def test_unknown_values_before_a_label_are_refused() -> None:
    for values in ([[-1, 1], [1, -1]], [[-100, 0], [1, -100]]):
        target = torch.tensor(values * 2)
        with pytest.raises(ValueError, match="before them"):
            call(weight=W[:2], bias=B[:2], target=target)
        assert call(weight=W[:3], bias=B[:3], target=target).isfinite()


@pytest.mark.parametrize("name", ["target", "ignored"])
def test_what_is_not_read_is_refused_if_it_may_be_dense(name: str) -> None:
    lists = torch.full((ROWS, LABELS), -1)
    call(**{name: lists})
    with pytest.raises(ValueError, match="values are not read here"):
        call(**{name: lists}, check_targets=False)
    call(**{name: lists[:, 1:]}, check_targets=False)


def test_the_denominator_excludes_ignored_elements() -> None:
    ignored = torch.tensor([[0, 1], [2, -1], [1, 4], [3, 5]])  # those of row 2 are masked too
    mask = torch.ones(ROWS, LABELS, dtype=torch.bool)
    mask[2] = False

    def denominators() -> list[float]:
        total, *means = (
            call(ignored=ignored, mask=mask, reduction=reduction).item()
            for reduction in ("sum", "mean", "batch_mean")
        )
        return [total / mean for mean in means]

    assert denominators() == pytest.approx([24 - 6 - 5, 3], rel=1e-6)
    mask[3] = torch.tensor(
        [False, False, False, True, False, True]
    )  # where both ignored labels are masked
    assert denominators() == pytest.approx([12 - 3, 2], rel=1e-6)


def nothing() -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
    """Arguments without a valid element, and their leaves."""
    whole = torch.arange(LABELS).expand(ROWS, LABELS)
    cases: dict[str, dict[str, Any]] = {
        "no rows": {"input": X[:0], "target": LISTS[:0]},
        "no rows, dense": {"input": X[:0], "target": dense()[:0]},
        "no labels": {"weight": W[:0], "bias": B[:0], "target": torch.full((ROWS, 1), -1)},
        "no labels, dense": {"weight": W[:0], "bias": B[:0], "target": dense()[:, :0]},
        "no label that counts": {"mask": torch.zeros(LABELS, dtype=torch.bool)},
        "no row that counts": {"mask": torch.zeros(ROWS, 1, dtype=torch.bool)},
        "nothing that counts": {"mask": torch.tensor(False)},
        "all ignored": {"ignored": whole},
        "all masked or ignored": {"mask": torch.arange(LABELS) < 4, "ignored": whole[:, 2:-1]},
    }
    cases["all masked or ignored"]["ignored"] = torch.arange(4).expand(ROWS, 4)
    for case in cases.values():
        leaves = [
            case.get(name, given).clone().requires_grad_()
            for name, given in (("input", X), ("weight", W), ("bias", B))
        ]
        yield {**case, **dict(zip(("input", "weight", "bias"), leaves, strict=True))}, leaves


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "batch_mean"])
def test_a_mean_over_no_elements_is_0_with_one_warning(backend: str, reduction: str) -> None:
    for arguments, leaves in nothing():
        with torchbce.backend(backend), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = call(**arguments, reduction=reduction)
            (loss * 3).backward()
        assert [str(w.message) for w in caught] == [
            f"the {reduction!r} of a loss over no elements is 0: the input is empty, or every "
            "element is ignored"
        ]
        assert caught[0].filename == __file__
        assert loss == 0
        assert all(leaf.grad.equal(torch.zeros_like(leaf)) for leaf in leaves)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_sum_over_no_elements_is_0_without_a_warning(reduction: str) -> None:
    for arguments, leaves in nothing():
        loss = call(**arguments, reduction=reduction)
        assert loss.shape == (arguments["input"].shape[:1] if reduction == "none" else ())
        assert not loss.any()
        loss.sum().backward()
        assert all(leaf.grad.equal(torch.zeros_like(leaf)) for leaf in leaves)


def test_a_masked_loss_is_that_of_a_smaller_layer() -> None:
    kept = torch.tensor([1, 3, 4])
    mask = torch.zeros(LABELS, dtype=torch.bool)
    mask[kept] = True
    y = torch.zeros(ROWS, LABELS, dtype=torch.bool)
    y[0, 3] = y[1, 0] = y[2, 4] = True
    smaller = call(weight=W[kept], bias=B[kept], target=y[:, kept])
    torch.testing.assert_close(call(target=y, mask=mask), smaller)
    logits = torch.nn.functional.linear(X, W[kept], B[kept])
    torch.testing.assert_close(smaller, bce(logits, y[:, kept]))


def test_a_wrong_label_raises_before_the_mean_of_no_elements_warns() -> None:
    x, w = torch.zeros(2, 3), torch.zeros(4, 3)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"target\[1, 0\] is 7"):  # a warning would be an error
        linear_bce(x, w, torch.tensor([[1], [7]]), mask=nothing)
