"""Subclasses of Tensor, DTensors, and tensors that no loss takes: checks, results and errors."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

import torchbce
from family import ONE_OF_EACH, Loss, targets
from torchbce import dropin, functional

LOGITS = torch.tensor([[0.5, -1.0], [2.0, -0.25]])
MASKS = torch.tensor([[0.0, 255.0], [0.0, 1.0]])
X = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]])
every_loss = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.name)
checks = pytest.mark.parametrize("check", [None, True])
bce = functional.binary_cross_entropy_with_logits


class Sub(Tensor):
    """As a label pipeline hands it over."""


class Sibling(Tensor):
    """Another one, which knows nothing of the first."""


class Tagged(Tensor):
    """As MONAI's `MetaTensor`: each result knows the function that made it."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        if isinstance(result, Tagged):
            result.made_by = function
        return result


def sub(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Sub)


# ---- subclasses ----


@every_loss
@checks
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64], ids=str)
def test_targets_of_a_subclass_are_checked(
    loss: Loss, check: bool | None, dtype: torch.dtype
) -> None:
    x = loss.inputs(2, 2, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"target\[0, 1\] is 255(\.0)?; targets must be in"):
        loss(x, sub(MASKS.to(dtype)), check_targets=check)
    loss(x, sub(MASKS.to(dtype)), check_targets=False)
    loss(x, sub(MASKS.to(dtype)), ignore_index=255)
    with pytest.raises(ValueError, match=r"target\[0\] is 255"), torchbce.backend("reference"):
        loss(x[0], sub(MASKS[0].flip(0)))


def test_inputs_of_a_subclass_are_checked() -> None:
    with pytest.raises(ValueError, match=r"input\[0\] is 1\.5; probabilities"):
        functional.binary_cross_entropy(sub(torch.tensor([1.5])), torch.ones(1))
    with pytest.raises(ValueError, match=r"input\[0\] is 1\.5; log-probabilities"):
        functional.binary_cross_entropy_with_log_probs(sub(torch.tensor([1.5])), torch.ones(1))


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "weighted_mean", "batch_mean"])
@pytest.mark.parametrize("places", [(0,), (1,), (2,), (3,), (4,), (0, 1), (0, 1, 2, 3, 4)])
def test_values_and_types_of_results(loss: Loss, reduction: str, places: tuple[int, ...]) -> None:
    plain = [
        loss.inputs(4, 3, dtype=torch.float32),
        targets(4, 3),
        torch.linspace(0.5, 2, 3),
        torch.linspace(1, 3, 3),
        torch.tensor([[True], [False], [True], [True]]),
    ]
    names = "input", "target", "weight", "pos_weight", "mask"
    given = [sub(t) if i in places else t for i, t in enumerate(plain)]
    expected = loss.function(
        **dict(zip(names, plain, strict=True)), **loss.own, reduction=reduction
    )
    got = loss.function(**dict(zip(names, given, strict=True)), **loss.own, reduction=reduction)
    assert type(got) is Sub  # as PyTorch's own: see below
    assert torch.equal(got.as_subclass(Tensor), expected)  # the kernel computes both


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("kind", [Tensor, torch.nn.Parameter, Sub, Tagged])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_results_keep_the_type_that_pytorchs_have(place: int, kind: Any, reduction: str) -> None:
    tensors = [LOGITS, torch.ones(2, 2), torch.ones(2), torch.ones(2)]
    as_kind = kind if kind is torch.nn.Parameter else lambda t: t.as_subclass(kind)
    tensors[place] = as_kind(tensors[place].clone()).requires_grad_(place == 0)
    input, target, weight, pos_weight = tensors
    results = [
        function(input, target, weight=weight, pos_weight=pos_weight, reduction=reduction)
        for function in (F.binary_cross_entropy_with_logits, bce)
    ]
    torch.testing.assert_close(results[1], results[0])
    assert type(results[1]) is type(results[0])
    if kind is Tagged:
        assert results[1].made_by is bce
    if place == 0:
        gradients = [torch.autograd.grad(r.sum(), input)[0] for r in results]
        assert type(gradients[1]) is type(gradients[0])
        torch.testing.assert_close(gradients[1], gradients[0])


def test_the_backend_for_a_subclass_is_that_of_its_values() -> None:
    assert torchbce.backend_for(sub(LOGITS)).name == torchbce.backend_for(LOGITS).name == "numba"
    with torchbce.backend("numba"):
        assert torch.equal(
            bce(sub(LOGITS), LOGITS > 0).as_subclass(Tensor), bce(LOGITS, LOGITS > 0)
        )


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batch_mean"])
def test_the_mean_over_no_elements_of_a_subclass_warns(reduction: str) -> None:
    nothing = sub(torch.zeros(2, 2, dtype=torch.bool))
    for input in (LOGITS, LOGITS.double()):
        with pytest.warns(UserWarning, match="over no elements"):
            assert bce(input, input > 0, mask=nothing, reduction=reduction) == 0
        with pytest.warns(UserWarning, match="over no elements"):
            assert bce(input, sub(0 * input), ignore_index=0, reduction=reduction) == 0


def test_siblings_are_refused_as_pytorch_refuses_them() -> None:
    x, y = sub(LOGITS), torch.ones(2, 2).as_subclass(Sibling)
    for function in (F.binary_cross_entropy_with_logits, bce):
        with pytest.raises(TypeError, match="no implementation found for"):
            function(x, y)
    with pytest.raises(TypeError, match=r"\.as_subclass\(torch\.Tensor\)"):
        bce(x, y)


def test_a_wrapper_whose_values_cannot_be_read() -> None:
    two = TwoTensor(LOGITS.clone(), LOGITS.clone())
    wrong = TwoTensor(MASKS.clone(), MASKS.clone())
    assert isinstance(bce(two, wrong), TwoTensor)  # not checked, as on a GPU
    with pytest.raises(TypeError, match="check_targets is True, and the values of target, a TwoT"):
        bce(two, wrong, check_targets=True)
    lists = TwoTensor(torch.tensor([[1], [0]]), torch.tensor([[1], [0]]))
    with pytest.raises(TypeError, match="values of target, a TwoTensor, cannot be read"):
        torchbce.linear_binary_cross_entropy(X, X, lists, check_targets=True)
    # There are no values to be wrong.
    assert bce(LOGITS.to("meta"), MASKS.to("meta"), check_targets=True).is_meta


def test_transforms_of_rows_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"target\[0, 1\] is 255\.0"):
        torch.func.vmap(lambda x, y: bce(x, y, check_targets=True))(LOGITS, MASKS)


# ---- heads and pairs ----


@checks
@pytest.mark.parametrize("rows", [[[1, 7]], [[-5, 1]]])
def test_label_lists_of_a_subclass_are_checked(check: bool | None, rows: list[list[int]]) -> None:
    wrong = 7 if 7 in rows[0] else -5
    head, lists = torchbce.LinearBCELoss(3, 5, check_targets=check), sub(torch.tensor(rows))
    at = rows[0].index(wrong)
    with pytest.raises(ValueError, match=rf"target\[0, {at}\] is {wrong}; with 5 rows of weight"):
        head(X[:1], lists)
    with pytest.raises(ValueError, match=rf"ignored\[0, {at}\] is {wrong}; with 5 rows of weight"):
        head(X[:1], torch.tensor([[1]]), ignored=lists)
    with pytest.raises(ValueError, match=rf"target\[0, {at}\] is {wrong}; with 5 rows of weight"):
        torch.func.grad(lambda x: head(x, lists))(X[:1])


def test_hidden_values_of_a_subclass_are_checked() -> None:
    hidden, head = X.clone(), torchbce.LinearBCELoss(3, 5)
    hidden[1, 2] = torch.nan
    for call in (
        lambda: head(sub(hidden), torch.tensor([[1], [2]])),
        lambda: head.topk(sub(hidden), 2),
        lambda: torchbce.pairwise_sigmoid_loss(sub(hidden), X, scale=1.0, bias=0.0),
        lambda: torchbce.pairwise_sigmoid_loss(X, sub(hidden), scale=1.0, bias=0.0),
    ):
        with pytest.raises(ValueError, match=r"\[1, 2\] is nan; hidden values must be finite"):
            call()
    nan = sub(torch.tensor(torch.nan))
    with pytest.raises(ValueError, match="scale is nan"):
        torchbce.pairwise_sigmoid_loss(X, X, scale=nan, bias=0.0)


@pytest.mark.parametrize("place", ["input", "target", "row_weight", "mask", "ignored"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_heads_keep_the_type(place: str, reduction: str) -> None:
    head = torchbce.LinearBCELoss(3, 5, reduction=reduction)
    given = {
        "input": X,
        "target": torch.tensor([[1], [4]]),
        "row_weight": torch.tensor([1.0, 2.0]),
        "mask": torch.tensor([[True], [True]]),
        "ignored": torch.tensor([[2], [-1]]),
    }
    expected = head(**given)
    loss = head(**given | {place: sub(given[place])})
    assert type(loss) is Sub
    assert torch.equal(loss.as_subclass(Tensor), expected)
    (gradient,) = torch.autograd.grad(loss.sum(), head.weight)
    assert torch.equal(gradient, torch.autograd.grad(expected.sum(), head.weight)[0])


def test_pairs_and_topk_keep_the_type() -> None:
    pairs = torchbce.pairwise_sigmoid_loss(sub(X), X, scale=1.0, bias=0.0)
    assert type(pairs) is Sub
    assert pairs == torchbce.pairwise_sigmoid_loss(X, X, scale=1.0, bias=0.0)
    head = torchbce.LinearBCELoss(3, 5)
    found = head.topk(sub(X), 2)
    assert type(found.values) is Sub
    assert torch.equal(found.indices.as_subclass(Tensor), head.topk(X, 2).indices)


def test_a_fused_optimizer_updates_a_head_with_inputs_of_a_subclass() -> None:
    heads = []
    for kind in (Tensor, Sub):
        torch.manual_seed(0)
        head = torchbce.LinearBCELoss(3, 5, fused_optimizer=torchbce.FusedSGD(0.1))
        head(X.as_subclass(kind), torch.tensor([[1], [4]]).as_subclass(kind)).backward()
        heads.append(head.weight.detach())
    assert torch.equal(*heads)


def test_an_empty_mean_of_a_head_warns() -> None:
    nothing = sub(torch.zeros(2, 5, dtype=torch.bool))
    with pytest.warns(UserWarning, match="over no elements"):
        torchbce.LinearBCELoss(3, 5)(X, torch.tensor([[1], [4]]), mask=nothing)


# ---- DTensors, in one process; over two: tests/sharded_losses.py ----


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def sharded(mesh: Any) -> Callable[[Tensor], Tensor]:
    from torch.distributed.tensor import Shard, distribute_tensor

    return lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)])


@pytest.fixture
def replicated(mesh: Any) -> Callable[[Tensor], Tensor]:
    from torch.distributed.tensor import Replicate, distribute_tensor

    return lambda tensor: distribute_tensor(tensor, mesh, [Replicate()])


@every_loss
@checks
def test_targets_of_a_dtensor_are_checked(loss: Loss, check: bool | None, sharded: Any) -> None:
    x = sharded(loss.inputs(2, 2, dtype=torch.float32))
    for masks in (MASKS, MASKS.long()):
        with pytest.raises(ValueError, match=r"target\[0, 1\] is 255"):
            loss(x, sharded(masks), check_targets=check)
        loss(x, sharded(masks), check_targets=False)
        loss(x, sharded(masks), ignore_index=255)
        loss(x, sharded(masks), mask=sharded(masks < 2))


def test_probabilities_of_a_dtensor_are_checked(sharded: Any) -> None:
    with pytest.raises(ValueError, match=r"input\[1\] is -0\.5; probabilities"):
        functional.binary_cross_entropy(sharded(torch.tensor([0.5, -0.5])), sharded(torch.ones(2)))


def test_terms_of_a_sum_cannot_be_checked(mesh: Any, sharded: Any) -> None:
    from torch.distributed.tensor import DTensor, Partial

    terms = DTensor.from_local(torch.full((2, 2), 3.0), mesh, [Partial()])
    bce(sharded(LOGITS), terms)
    with pytest.raises(TypeError, match="a DTensor, cannot be read; redistribute it first"):
        bce(sharded(LOGITS), terms, check_targets=True)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "batch_mean"])
def test_the_mean_over_no_elements_of_a_dtensor_warns(reduction: str, sharded: Any) -> None:
    x, y = sharded(LOGITS), sharded(torch.zeros(2, 2))
    with pytest.warns(UserWarning, match="over no elements"):
        bce(x, y, mask=sharded(LOGITS > 9), reduction=reduction)
    with pytest.warns(UserWarning, match="over no elements"):
        bce(x, y, ignore_index=0, reduction=reduction)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bce(x, y, mask=sharded(LOGITS > 0), reduction=reduction)
        bce(x, y, mask=sharded(LOGITS > 9), reduction="sum")


def test_plain_tensors_among_dtensors_are_named(sharded: Any, replicated: Any) -> None:
    x, y = sharded(LOGITS), sharded(torch.ones(2, 2))
    with pytest.raises(
        TypeError, match=r"input is a DTensor and target is not.*distribute_tensor\("
    ):
        bce(x, torch.ones(2, 2))
    with pytest.raises(
        TypeError, match=r"target is a DTensor and input is not.*target\.full_tensor"
    ):
        bce(LOGITS, y)
    for name, weight in (("weight", torch.ones(2, 1)), ("pos_weight", torch.ones(2))):
        remedy = rf"and {name} is not.*distribute_tensor\({name}, mesh, \[Replicate\(\)\]"
        with pytest.raises(TypeError, match=remedy):
            bce(x, y, **{name: weight})
        with pytest.raises(TypeError, match=remedy):
            torchbce.BCEWithLogitsLoss(**{name: weight})(x, y)
        bce(x, y, **{name: replicated(weight)})
        bce(x, y, **{name: 2.0})
        bce(x, y, **{name: torch.tensor(2.0)})
    with pytest.raises(TypeError, match="and mask is not"):
        bce(x, y, mask=LOGITS > 0)


def test_plain_tensors_in_a_block_that_replicates_them(sharded: Any) -> None:
    from torch.distributed.tensor.experimental import implicit_replication

    with implicit_replication():
        loss = bce(sharded(LOGITS), torch.ones(2, 2), pos_weight=torch.ones(2)).full_tensor()
    torch.testing.assert_close(loss, bce(LOGITS, torch.ones(2, 2)))


def test_dtensors_of_a_head(mesh: Any, sharded: Any, replicated: Any) -> None:
    lists, wrong = torch.tensor([[1], [4]]), torch.tensor([[1], [7]])
    hidden = X.clone()
    hidden[1, 2] = torch.nan
    for head in (torchbce.LinearBCELoss(3, 5), torchbce.LinearBCELoss(3, 5).shard_labels(mesh)):
        torch.testing.assert_close(head(X, replicated(lists)), head(X, lists))
        with pytest.raises(ValueError, match=r"target\[1, 0\] is 7"):
            head(X, replicated(wrong))
        with pytest.raises(ValueError, match=r"ignored\[1, 0\] is 7"):
            head(X, lists, ignored=replicated(wrong))
        with pytest.raises(TypeError, match=r"target has placements.*target\.full_tensor\(\)"):
            head(X, sharded(lists))
    with pytest.raises(ValueError, match=r"input\[1, 2\] is nan"):
        head(replicated(hidden), lists)
    with pytest.raises(TypeError, match=r"x is a DTensor; give the pairs of this process"):
        torchbce.pairwise_sigmoid_loss(sharded(X), sharded(X), scale=1.0, bias=0.0)


# ---- tensors that no loss takes ----


def jagged() -> Tensor:
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)


REFUSED: dict[str, tuple[Callable[[], Tensor], list[str]]] = {
    "sparse COO": (LOGITS.to_sparse, ["has layout torch.sparse_coo", ".to_dense()"]),
    "sparse CSR": (LOGITS.to_sparse_csr, ["has layout torch.sparse_csr", ".to_dense()"]),
    "jagged": (jagged, ["is a nested tensor", "to_padded_tensor", ".values()"]),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        ["is a nested tensor", "to_padded_tensor"],
    ),
    "masked": (
        lambda: torch.masked.masked_tensor(LOGITS, LOGITS > 0),
        ["is a MaskedTensor", ".get_data()", ".get_mask()"],
    ),
}


@pytest.mark.filterwarnings("ignore:.*(nested|MaskedTensor|Sparse CSR).*")
@pytest.mark.parametrize("kind", REFUSED)
@every_loss
def test_what_no_loss_takes(loss: Loss, kind: str) -> None:
    make, parts = REFUSED[kind]
    wrong, x, y = make(), loss.inputs(2, 2, dtype=torch.float32), torch.ones(2, 2)
    calls = {
        "input": lambda: loss(wrong, y),
        "weight": lambda: loss(x, y, weight=wrong),
        "pos_weight": lambda: loss(x, y, pos_weight=wrong),
    }
    if "sparse" not in kind:
        calls["target"] = lambda: loss(x, wrong)
    for name, call in calls.items():
        with pytest.raises(TypeError) as raised:
            call()
        assert str(raised.value).startswith(name)
        for part in parts:
            assert part in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*(nested|MaskedTensor|Sparse CSR).*")
@pytest.mark.parametrize("kind", ["jagged", "masked"])
def test_what_no_head_takes(kind: str) -> None:
    make, parts = REFUSED[kind]
    head = torchbce.LinearBCELoss(3, 5)
    for call in (
        lambda: head(make(), torch.tensor([[1], [2]])),
        lambda: head(X, make()),
        lambda: head.topk(make(), 2),
        lambda: torchbce.pairwise_sigmoid_loss(make(), X, scale=1.0, bias=0.0),
    ):
        with pytest.raises(TypeError) as raised:
            call()
        for part in parts:
            assert part in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*MaskedTensor.*")
@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_dropin_refuses_masked_tensors_as_pytorch_does(name: str, place: int) -> None:
    arguments = [LOGITS.sigmoid(), torch.ones(2, 2), torch.ones(2, 2)]
    arguments[place] = torch.masked.masked_tensor(arguments[place], LOGITS > 0)
    for block in (False, True):
        if block:
            dropin.install()
        try:
            with pytest.raises(
                TypeError, match=r"Multiple dispatch failed|no implementation found"
            ):
                getattr(F, name)(*arguments)
        finally:
            dropin.uninstall()
