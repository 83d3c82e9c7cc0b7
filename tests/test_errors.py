"""Common mistakes with binary cross-entropy, and their error messages.

Each message says what came, what was expected and what to do.
"""

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import torchbce
from torchbce import functional

MISUSES: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "a mask of 0 and 255": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(2, 3), torch.tensor([[0, 0, 255], [0, 255, 0]], dtype=torch.uint8)
        ),
        ValueError,
        ["target[0, 2] is 255", "must be in [0, 1]", "Divide masks of 0 and 255 by 255"],
    ),
    "class indices": (
        lambda f: f.binary_cross_entropy_with_logits(torch.zeros(3), torch.tensor([0, 1, 2])),
        ValueError,
        ["target[2] is 2", "must be in [0, 1]", "one_hot"],
    ),
    "an unmarked ignore value": (
        lambda f: f.sigmoid_focal_loss(torch.zeros(3), torch.tensor([0.0, -100.0, 1.0])),
        ValueError,
        ["target[1] is -100.0", "ignore_index"],
    ),
    "missing labels": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(2), torch.tensor([0.0, torch.nan])
        ),
        ValueError,
        ["target[1] is nan", "NaN is not a target", "ignore_index=nan"],
    ),
    "logits for probabilities": (
        lambda f: f.binary_cross_entropy(torch.tensor([[0.5], [-3.5]]), torch.ones(2)),
        ValueError,
        ["input[1, 0] is -3.5", "[0, 1]", "These look like logits", "_with_logits"],
    ),
    "a NaN probability": (
        lambda f: f.binary_cross_entropy(torch.tensor([0.5, torch.nan]), torch.ones(2)),
        ValueError,
        ["input[1] is nan", "NaN is not a probability", "look for"],
    ),
    "probabilities for log-probabilities": (
        lambda f: f.binary_cross_entropy_with_log_probs(torch.tensor([0.9]), torch.ones(1)),
        ValueError,
        ["input[0] is 0.8999999", "at most 0", "logsigmoid"],
    ),
    "(N, 1) against (1, N)": (
        lambda f: f.binary_cross_entropy_with_logits(torch.zeros(4, 1), torch.zeros(1, 4)),
        ValueError,
        ["(4, 1)", "(1, 4)", "must be equal", "reshape"],
    ),
    "logits of two classes": (
        lambda f: f.binary_cross_entropy_with_logits(torch.zeros(4, 2), torch.zeros(4)),
        ValueError,
        ["(4, 2)", "(4,)", "must be equal", "Nothing is broadcast"],
    ),
    "alpha above 1": (
        lambda f: f.sigmoid_focal_loss(torch.zeros(1), torch.zeros(1), alpha=3),
        ValueError,
        ["alpha must be in [0, 1], got 3", "pos_weight"],
    ),
    "pos_weight of the batch's size": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(4, 3), torch.zeros(4, 3), pos_weight=torch.ones(4)
        ),
        ValueError,
        ["pos_weight has shape (4,)", "(4, 3)", "(C,)", "here (3,)"],
    ),
    "class indices for one value per class": (
        lambda f: f.binary_cross_entropy_with_logits(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])),
        ValueError,
        ["(4, 3)", "(4,)", "If target holds class", "torch.nn.functional.one_hot(target, 3)"],
    ),
    "class indices of 32 bits in a column": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(2, 3), torch.tensor([[0], [2]], dtype=torch.int32)
        ),
        ValueError,
        ["torch.nn.functional.one_hot(target.long().reshape((2,)), 3)"],
    ),
    "an image of class indices": (
        lambda f: f.sigmoid_focal_loss(torch.zeros(2, 3, 4, 5), torch.ones(2, 4, 5).long()),
        ValueError,
        ["torch.nn.functional.one_hot(target, 3).movedim(-1, 1)"],
    ),
    "weight per channel of an image": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), weight=torch.ones(3)
        ),
        ValueError,
        ["weight has shape (3,)", "(C, 1, 1), here (3, 1, 1)", "weight.reshape(3, 1, 1)"],
    ),
    "pos_weight per channel of an image": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), pos_weight=torch.ones(3)
        ),
        ValueError,
        ["pos_weight has shape (3,)", "(C, 1, 1), here (3, 1, 1)", "pos_weight.reshape(3, 1, 1)"],
    ),
    "weight per row": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(4, 3), torch.zeros(4, 3), weight=torch.ones(4)
        ),
        ValueError,
        ["weight has shape (4,)", "(C,), here (3,)", "weight.reshape(4, 1)"],
    ),
    "a mask per pixel": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), mask=torch.ones(2, 4, 5) > 0
        ),
        ValueError,
        ["mask has shape (2, 4, 5)", "(2, 3, 4, 5)", "mask.unsqueeze(1)"],
    ),
    "a mask of numbers": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(2), torch.zeros(2), mask=torch.ones(2)
        ),
        TypeError,
        ["mask must be a bool tensor", "got torch.float32", "mask.bool()"],
    ),
    "swapped arguments": (
        lambda f: f.binary_cross_entropy_with_logits(torch.tensor([1, 0]), torch.tensor([1.5, -2])),
        TypeError,
        ["input must have a floating dtype, got torch.int64", "may be swapped", "comes first"],
    ),
    "swapped arguments, bool first": (
        lambda f: f.sigmoid_focal_loss(torch.tensor([True]), torch.tensor([1.5])),
        TypeError,
        ["got torch.bool", "target is torch.float32", "may be swapped"],
    ),
    "logits as an array": (
        lambda f: f.binary_cross_entropy_with_logits([0.5], torch.ones(1)),
        TypeError,
        ["input must be a torch.Tensor, got list", "torch.as_tensor"],
    ),
    "pos_weight below 0": (
        lambda f: f.binary_cross_entropy_with_logits(torch.zeros(1), torch.zeros(1), pos_weight=-2),
        ValueError,
        ["pos_weight must be finite and not negative, got -2"],
    ),
    "a reduction of another library": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(1), torch.zeros(1), reduction="avg"
        ),
        ValueError,
        ["'avg'", "'mean'", "'weighted_mean'"],
    ),
    "integer logits": (
        lambda f: f.binary_cross_entropy_with_logits(torch.tensor([1, 0]), torch.tensor([1, 0])),
        TypeError,
        ["input must have a floating dtype", "torch.int64", ".float()"],
    ),
    "a list of targets": (
        lambda f: f.binary_cross_entropy_with_logits(torch.zeros(2), [0, 1]),
        TypeError,
        ["target must be a torch.Tensor, got list", "torch.as_tensor"],
    ),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_the_message(misuse: str) -> None:
    call, kind, parts = MISUSES[misuse]
    with pytest.raises(kind) as raised:
        call(functional)
    assert type(raised.value) is kind
    for part in parts:
        assert part in str(raised.value)


def test_a_compiled_loss_raises_the_same_error() -> None:
    def loss(z: Tensor, y: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(z, y)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    z, y = torch.zeros(3), torch.tensor([0.0, 1.0, 1.5])
    with pytest.raises(ValueError, match=r"target\[2\] is 1\.5; targets must be in") as eager:
        loss(z, y)
    with pytest.raises(ValueError, match=r"target\[2\] is 1\.5; targets must be in") as ran:
        compiled(z, y)
    assert str(ran.value) == str(eager.value)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64], ids=str)
def test_integer_and_bool_targets_are_accepted(dtype: torch.dtype) -> None:
    z, y = torch.tensor([0.3, -2.0]), torch.tensor([1, 0])
    assert torchbce.BCEWithLogitsLoss()(z, y.to(dtype)) == torchbce.BCEWithLogitsLoss()(
        z, y.float()
    )


class Outside(NamedTuple):
    """A call with a value outside its range at index 1, and how the error begins."""

    function: Callable[..., Tensor]
    input: list[float]
    target: Tensor
    message: str


LOGITS = [-1.0, 0.5, 3.0]
OUTSIDE = {
    "float target": Outside(
        functional.binary_cross_entropy_with_logits,
        LOGITS,
        torch.tensor([0.0, 1.5, 1.0]),
        r"target[1] is 1.5;",
    ),
    "integer target": Outside(
        functional.sigmoid_focal_loss, LOGITS, torch.tensor([0, -3, 1]), "target[1] is -3;"
    ),
    "sparse target": Outside(
        functional.binary_cross_entropy_with_logits,
        LOGITS,
        torch.tensor([0.0, 7.0, 1.0]).to_sparse(),
        "target[1] is 7.0;",
    ),
    "probability": Outside(
        functional.binary_cross_entropy, [0.25, 1.5, 0.75], torch.tensor([0, 1, 1]), "input[1] is"
    ),
    "log-probability": Outside(
        functional.binary_cross_entropy_with_log_probs,
        [-1.0, 0.5, -0.25],
        torch.tensor([0, 1, 1]),
        "input[1] is 0.5;",
    ),
}
BACKENDS = ["reference", "numba"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", OUTSIDE)
@pytest.mark.parametrize("check", [None, True])
def test_values_outside_their_range_raise(case: str, backend: str, check: bool | None) -> None:
    function, input, target, message = OUTSIDE[case]
    with torchbce.backend(backend), pytest.raises(ValueError, match=re.escape(message)):
        function(torch.tensor(input), target, check_targets=check)


@pytest.mark.parametrize("named", [None, "numba"])
@pytest.mark.parametrize("case", OUTSIDE)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_unchecked_values_are_computed_by_the_formula(
    case: str, named: str | None, reduction: str
) -> None:
    function, input, target, _ = OUTSIDE[case]
    results = []
    for dtype, name in ((torch.float64, "reference"), (torch.float32, named)):
        x = torch.tensor(input, dtype=dtype, requires_grad=True)
        with torchbce.backend(name) if name else nullcontext():
            if name == "numba" and "probability" in case:
                # The kernels of the CPU compute probabilities in [0, 1] only.
                with pytest.raises(RuntimeError, match="check_targets is False"):
                    function(x, target, reduction=reduction, check_targets=False)
                return
            loss = function(x, target, reduction=reduction, check_targets=False)
            loss.sum().backward()
        results.append((loss.detach().double(), x.grad.double()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6, equal_nan=True)


def test_the_formula_for_targets_outside_the_range() -> None:
    z, y = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor([0.0, 1.5, -1.0])
    expected = torch.nn.functional.softplus(z) - y * z  # linear in y
    for backend, dtype in (("reference", torch.float64), ("numba", torch.float32)):
        with torchbce.backend(backend):
            loss = functional.binary_cross_entropy_with_logits(
                z.to(dtype), y, reduction="none", check_targets=False
            )
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", OUTSIDE)
def test_ignored_values_are_not_checked(case: str, backend: str) -> None:
    function, input, target, message = OUTSIDE[case]
    x, mask = torch.tensor(input), torch.tensor([True, False, True])
    with torchbce.backend(backend):
        loss = function(x, target, mask=mask, check_targets=True)
        kept = function(x[mask], target.to_dense()[mask], check_targets=True)
        torch.testing.assert_close(loss, kept)
        if target.layout is torch.strided and message.startswith("target"):
            loss = function(x, target, ignore_index=target[1].item(), check_targets=True)
            torch.testing.assert_close(loss, kept)


@pytest.mark.parametrize("case", [case for case in OUTSIDE if case != "sparse target"])
@pytest.mark.parametrize("check", [None, True, False])
def test_a_compiled_graph_has_the_requested_checks(
    case: str, check: bool | None, fresh_compiler: None
) -> None:
    function, input, target, message = OUTSIDE[case]
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        graphs.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return graph.forward

    def loss(x: Tensor) -> Tensor:
        return function(x, target, check_targets=check)

    x, compiled = torch.tensor(input), torch.compile(loss, fullgraph=True, backend=backend)
    if check is False:
        with torchbce.backend("reference"):
            expected = loss(x)
        torch.testing.assert_close(compiled(x), expected, equal_nan=True)
    else:
        with pytest.raises(ValueError, match=re.escape(message)):
            compiled(x)
    (graph,) = graphs
    assert ("check_range" in graph) is (check is not False)
