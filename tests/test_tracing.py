"""Every loss in a graph of torch.fx and of make_fx, and the error of torch.jit.script."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import torchbce
from family import ONE_OF_EACH, Loss, targets

every_loss = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.name)
every_mode = pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
# What the loss of each domain is given.
DOMAINS = {"logits": nn.Identity(), "probabilities": nn.Sigmoid(), "log_probs": nn.LogSigmoid()}


class Model(nn.Module):
    """A layer and a loss."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.layer, self.domain = nn.Linear(5, 3), DOMAINS[loss.record.domain.name]
        weight = torch.tensor([1.0, 2.0, 3.0])
        self.criterion = loss.module(**loss.own, pos_weight=weight, reduction="sum")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.criterion(self.domain(self.layer(x)), y)
        return loss


class Head(nn.Module):
    """A model that ends in a head."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.head = torchbce.LinearBCELoss(5, 7, **options)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.head(x.tanh(), y)
        return loss


@every_loss
def test_symbolic_trace(loss: Loss) -> None:
    model, x, y = Model(loss), torch.randn(4, 5), targets(4, 3)
    traced = torch.fx.symbolic_trace(model)
    assert loss.function in [node.target for node in traced.graph.nodes]
    assert torch.equal(traced(x, y), model(x, y))
    with pytest.raises(ValueError, match=r"target\[0, 0\] is 255"):
        traced(x, y * 0 + 255)
    (gradient,) = torch.autograd.grad(traced(x, y), traced.layer.weight)
    assert torch.equal(gradient, torch.autograd.grad(model(x, y), model.layer.weight)[0])


def test_symbolic_trace_of_a_mask() -> None:
    traced = torch.fx.symbolic_trace(torchbce.BCEWithLogitsLoss(label_smoothing=0.1))
    x, y, mask = torch.randn(4, 3), targets(4, 3), torch.tensor([True, False, True])
    whole = torchbce.BCEWithLogitsLoss(label_smoothing=0.1)
    assert torch.equal(traced(x, y, mask=mask), whole(x, y, mask=mask))
    assert torch.equal(traced(x, y), whole(x, y))


def test_symbolic_trace_of_a_head_and_of_pairs() -> None:
    model, x, y = Head(), torch.randn(4, 5), torch.tensor([[1], [2], [-1], [6]])
    assert torch.equal(torch.fx.symbolic_trace(model)(x, y), model(x, y))

    def pairs(x: Tensor, y: Tensor) -> Tensor:
        return torchbce.pairwise_sigmoid_loss(x, y, scale=2.0, bias=-1.0)

    assert torch.equal(torch.fx.symbolic_trace(pairs)(x, x), pairs(x, x))
    with pytest.raises(TypeError, match=r"fused optimizer cannot be part.*is_leaf_module"):
        torch.fx.symbolic_trace(Head(fused_optimizer=torchbce.FusedSGD(0.1)))


@every_loss
@every_mode
def test_make_fx(loss: Loss, mode: str) -> None:
    x, y = loss.inputs(4, 3, dtype=torch.float32), targets(4, 3)
    mask = torch.tensor([[True], [False], [True], [True]])

    def step(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        value = loss(x, y, mask=mask)
        return value.detach(), torch.autograd.grad(value, x)[0]

    traced = make_fx(step, tracing_mode=mode)(x, y, mask)
    for got, expected in zip(traced(x, y, mask), step(x, y, mask), strict=True):
        torch.testing.assert_close(got, expected)
    # As torch.compile: values are checked when the graph runs.
    with pytest.raises(ValueError, match=r"target\[0, 0\] is 255"):
        traced(x, y * 0 + 255, mask)
    unchecked = make_fx(lambda x, y: loss(x, y, check_targets=False), tracing_mode=mode)(x, y)
    unchecked(x, y * 0 + 255)


@every_mode
def test_make_fx_of_a_head_and_of_pairs(mode: str) -> None:
    x, y, weight = torch.randn(2, 5), torch.tensor([[1, 2], [6, -1]]), torch.randn(7, 5)

    def both(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        pairs = torchbce.pairwise_sigmoid_loss(x, x, scale=2.0, bias=-1.0)
        return torchbce.linear_binary_cross_entropy(x, weight, y), pairs

    traced = make_fx(both, tracing_mode=mode)(x, y, weight)
    for got, expected in zip(traced(x, y, weight), both(x, y, weight), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@every_loss
def test_torch_jit_script_is_refused(loss: Loss) -> None:
    message = rf"cannot compile torchbce\.{loss.record.module}\. .*torch\.export"
    for module in (loss.module(**loss.own), Model(loss)):
        with pytest.raises(TypeError, match=message):
            torch.jit.script(module)
    with pytest.raises(TypeError, match=r"cannot compile torchbce\.LinearBCELoss"):
        torch.jit.script(Head())
