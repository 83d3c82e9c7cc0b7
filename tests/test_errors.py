"""What people do wrong with binary cross-entropy, and the sentence that tells them.

Each sentence names what came, what was expected and the remedy.
"""

import re
from typing import Any

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
        ["target[0, 2] is 255", "must lie in [0, 1]", "Divide masks of 0 and 255 by 255"],
    ),
    "class indices": (
        lambda f: f.binary_cross_entropy_with_logits(torch.zeros(3), torch.tensor([0, 1, 2])),
        ValueError,
        ["target[2] is 2", "must lie in [0, 1]", "one_hot"],
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
        ["alpha must lie in [0, 1], got 3", "pos_weight"],
    ),
    "pos_weight of the batch's size": (
        lambda f: f.binary_cross_entropy_with_logits(
            torch.zeros(4, 3), torch.zeros(4, 3), pos_weight=torch.ones(4)
        ),
        ValueError,
        ["pos_weight has shape (4,)", "(4, 3)", "(C,)"],
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
def test_the_sentence(misuse: str) -> None:
    call, kind, parts = MISUSES[misuse]
    with pytest.raises(kind) as raised:
        call(functional)
    assert type(raised.value) is kind
    for part in parts:
        assert part in str(raised.value)


def test_a_compiled_loss_says_the_same() -> None:
    def loss(z: Tensor, y: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(z, y)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    z, y = torch.zeros(3), torch.tensor([0.0, 1.0, 1.5])
    with pytest.raises(ValueError, match=re.escape("target[2] is 1.5; targets must lie")) as eager:
        loss(z, y)
    with pytest.raises(ValueError, match=re.escape("target[2] is 1.5; targets must lie")) as ran:
        compiled(z, y)
    assert str(ran.value) == str(eager.value)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64], ids=str)
def test_integer_and_bool_targets_are_no_error(dtype: torch.dtype) -> None:
    z, y = torch.tensor([0.3, -2.0]), torch.tensor([1, 0])
    assert torchbce.BCEWithLogitsLoss()(z, y.to(dtype)) == torchbce.BCEWithLogitsLoss()(
        z, y.float()
    )
