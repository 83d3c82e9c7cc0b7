"""What torch.profiler and `grad_fn` show of a loss that a kernel computes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import torchbce
import torchbce.dropin

pytestmark = pytest.mark.filterwarnings("ignore:Profiler clears events")

Y = (torch.arange(150).reshape(50, 3) % 2).float()
HEAD = torchbce.LinearBCELoss(3, 10)
LISTS = torch.zeros(50, 1, dtype=torch.int64)

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "module": lambda x: torchbce.BCEWithLogitsLoss()(x, Y),
    "per element": lambda x: torchbce.BCEWithLogitsLoss(reduction="none")(x, Y).sum(),
    "focal": lambda x: torchbce.SigmoidFocalLoss()(x, Y),
    "probabilities": lambda x: torchbce.BCELoss()(torch.sigmoid(x), Y),
    "drop-in, logits": lambda x: nn.BCEWithLogitsLoss()(x, Y),
    "drop-in, probabilities": lambda x: nn.BCELoss()(torch.sigmoid(x), Y),
    "head": lambda x: HEAD(x, LISTS),
    "pairs": lambda x: torchbce.pairwise_sigmoid_loss(x, Y, scale=1.0, bias=0.0),
}


def shown(step: Callable[[], object]) -> set[str]:
    """The names in a profile of a repeated call."""
    with torchbce.dropin.installed():
        for _ in range(3):  # the third is prepared
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step()
    return {event.key for event in profiled.key_averages()}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_name_of_a_loss_says_cross_entropy(loss: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(50, 3, requires_grad=True)
    names = shown(lambda: loss(x).backward())
    assert any(name.endswith("BinaryCrossEntropy") for name in names)
    assert any(name.endswith("BinaryCrossEntropyBackward") for name in names)
    assert not any("aten::binary_cross_entropy" in name for name in names)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_without_gradients_too(loss: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(50, 3)
    names = shown(lambda: loss(x))
    assert any(name.endswith("BinaryCrossEntropy") for name in names)
    assert not any("aten::binary_cross_entropy" in name for name in names)


@pytest.mark.parametrize("loss", [LOSSES["module"], LOSSES["drop-in, logits"], LOSSES["head"]])
def test_the_node_of_the_graph_has_the_name(loss: Callable[[Tensor], Tensor]) -> None:
    with torchbce.dropin.installed():
        node = loss(torch.randn(50, 3, requires_grad=True)).grad_fn
    assert node is not None
    assert "BinaryCrossEntropyBackward" in node.name()


def test_the_graph_of_a_compiled_model_has_no_operator_of_pytorchs_loss() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(x, Y)

    program = torch.export.export(Model(), (torch.randn(50, 3),))
    assert "binary_cross_entropy" in str(program.graph)
    with torchbce.dropin.installed():
        program = torch.export.export(Model(), (torch.randn(50, 3),))
    assert "binary_cross_entropy" not in str(program.graph)
