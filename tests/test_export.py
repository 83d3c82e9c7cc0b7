"""Programs of torch.export: saved, loaded, run and trained, with their checks.

`test_transforms.py` exports each loss, `test_onnx.py` goes on to ONNX.
"""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import torchbce
import torchbce.dropin
from family import ONE_OF_EACH, Loss, targets

one_of_each = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.record.name)


class Model(nn.Module):
    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.linear, self.loss = nn.Linear(4, 3), loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.linear(x), y)


class WithHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torchbce.LinearBCELoss(4, 7)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.head(x, target)


def loaded(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """The model exported, saved and loaded."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, inputs), file)
    file.seek(0)
    return torch.export.load(file).module()


def gradients(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(*inputs), list(model.parameters())))


X, LISTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 2]] * 5)


@pytest.mark.parametrize("module", ["BCEWithLogitsLoss", "AsymmetricLoss", "PolyBCELoss"])
def test_a_model_is_saved_loaded_run_and_trained(module: str) -> None:
    model, y = Model(getattr(torchbce, module)()), targets(5, 3, dtype=torch.float32)
    program = loaded(model, X, y)
    # The graph has another, equally exact, form of log1p: one unit in the last place of float32.
    torch.testing.assert_close(program(X, y), model(X, y), rtol=2e-7, atol=0)
    for got, expected in zip(gradients(program, X, y), gradients(model, X, y), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match=r"target\[0, 0\] is 255\.0"):
        program(X, torch.full_like(y, 255))


def test_a_head_is_saved_loaded_run_and_trained() -> None:
    model = WithHead()
    program = loaded(model, X, LISTS)
    assert torch.equal(program(X, LISTS), model(X, LISTS))
    for got, expected in zip(gradients(program, X, LISTS), gradients(model, X, LISTS), strict=True):
        torch.testing.assert_close(got, expected)
    with pytest.raises(ValueError, match=r"target\[0, 0\] is 7; .* the labels are 0 to 6"):
        program(X, LISTS + 7)


@one_of_each
def test_a_program_is_as_exact_as_the_definition(loss: Loss) -> None:
    """Values and gradients of the forms of log1p and expm1 that a graph has."""
    z = torch.linspace(-60, 60, 41, dtype=torch.float64)
    if loss.kind == "probabilities":
        z = torch.cat([torch.sigmoid(z[:20]), 1 - torch.sigmoid(z[:20])])
    elif loss.kind == "log_probs":
        z = nn.functional.logsigmoid(z)[z < 36]
    y = targets(len(z))

    class Losses(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return loss(x, y, reduction="none")

    program = loaded(Losses(), z, y)
    (x, other) = (z.clone().requires_grad_() for _ in range(2))
    got, expected = program(x, y), Losses()(other, y)
    # A few roundings of float64, 1.1e-16 each, in either form.
    torch.testing.assert_close(got, expected, rtol=2e-15, atol=1e-300)
    slopes = [torch.autograd.grad(t.sum(), of)[0] for t, of in ((got, x), (expected, other))]
    torch.testing.assert_close(*slopes, rtol=1e-14, atol=1e-300)


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated")
def test_decomposition_to_pytorchs_core_operators_keeps_the_check() -> None:
    y = targets(5, 3, dtype=torch.float32)
    program = torch.export.export(Model(torchbce.BCEWithLogitsLoss()), (X, y))
    core = program.run_decompositions().module()
    with pytest.raises(ValueError, match=r"target\[0, 0\] is 255\.0"):
        core(X, torch.full_like(y, 255))


def test_a_program_with_the_dropin() -> None:
    y = targets(5, 3, dtype=torch.float32)
    model = Model(nn.BCEWithLogitsLoss())
    with torchbce.dropin.installed():
        program, expected = loaded(model, X, y), model(X, y)
    torch.testing.assert_close(program(X, y), expected, rtol=2e-7, atol=0)


SCRIPT = """
import sys, torch
from torchbce import LinearBCELoss
x, y, lists = torch.zeros(5, 4), torch.zeros(5, 3), torch.tensor([[0, 2]] * 5)
print(torch.export.load(sys.argv[1]).module()(x, y).isfinite().item())
print(torch.export.load(sys.argv[2]).module()(x, lists).isfinite().item())
"""


@pytest.mark.slow
def test_a_process_that_loads_programs_imports_what_they_were_made_of(tmp_path: Path) -> None:
    y = targets(5, 3, dtype=torch.float32)
    of_loss, of_head = tmp_path / "loss.pt2", tmp_path / "head.pt2"
    torch.export.save(torch.export.export(Model(torchbce.BCEWithLogitsLoss()), (X, y)), of_loss)
    torch.export.save(torch.export.export(WithHead(), (X, LISTS)), of_head)
    command = [sys.executable, "-c", SCRIPT, str(of_loss), str(of_head)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["True", "True"], done.stderr
