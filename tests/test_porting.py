"""The tables of docs/how-to/porting.md and docs/losses.md about other libraries, run against them.

A row whose library is not installed, or cannot be imported with this build of PyTorch, is skipped.
"""

import importlib
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchbce
from torchbce import functional

# Those of the libraries.
pytestmark = pytest.mark.filterwarnings("ignore")

DOCS = Path(__file__).parent.parent / "docs"
ROWS = re.findall(
    r"^\| (\w+) \| `([^`]+)` \| `([^`]+)` \|$",
    (DOCS / "how-to" / "porting.md").read_text(),
    re.MULTILINE,
)
#: The part of each library that has its losses.
PARTS = {
    "torchvision": "ops",
    "timm": "loss",
    "kornia": "losses",
    "segmentation_models_pytorch": "losses",
    "monai": "losses",
    "keras": "losses",
    "optax": "losses",
    "open_clip": "loss",
    "pytorch_toolbelt": "losses",
}
N, C, H, W = 6, 5, 6, 4


def imported(library: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The part of a library that has its losses; skips the test where it cannot be imported."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(f"{library}.{PARTS[library]}")
        except Exception as error:  # torchvision raises RuntimeError beside another PyTorch
            pytest.skip(f"{library} cannot be imported: {error}")


def data() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    def unit(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    labels = (unit(N, C) > 0.5).float()
    return {
        "x": 2 * normal(N, C),
        "y": unit(N, C),
        "labels": labels,
        "marked": torch.where(unit(N, C) > 0.8, 255.0, labels),
        "q": unit(N, C),
        "images": 2 * normal(N, C, H, W),
        "masks": (unit(N, C, H, W) > 0.5).float(),
        "classes": torch.randint(C, (N,), generator=random),
        "c": unit(C) + 0.5,
        "rows": unit(N) + 0.5,
        "image": torch.nn.functional.normalize(normal(N, 8)),
        "text": torch.nn.functional.normalize(normal(N, 8)),
    }


def value_and_gradient(code: str, names: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """What an expression of the tables gives, and its gradient by the logits or probabilities."""
    given = data()
    if names.get("library") == "optax":
        jax = importlib.import_module("jax.numpy")
        value = eval(code, names, {n: jax.asarray(v.numpy()) for n, v in given.items()})
        return torch.from_numpy(np.array(value)), None
    inputs = [given[n].requires_grad_() for n in ("x", "q", "images", "image") if n in code]
    value = eval(code, names, given)
    return value.detach(), torch.autograd.grad(value.sum(), inputs, allow_unused=True)[-1]


def test_the_table_is_there() -> None:
    assert len(ROWS) == 31
    assert {library for library, _, _ in ROWS} == set(PARTS)


@pytest.mark.parametrize(("library", "theirs", "ours"), ROWS)
def test_a_row_gives_the_same_numbers(
    library: str, theirs: str, ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = imported(library, monkeypatch)
    peer = value_and_gradient(theirs, {"library": library, PARTS[library]: part})
    own = {name: getattr(functional, name) for name in functional.__all__}
    own |= {name: getattr(torchbce, name) for name in torchbce.__all__ if name.endswith("Loss")}
    value, gradient = value_and_gradient(
        ours, {**own, "torch": torch, "one_hot": torch.nn.functional.one_hot}
    )
    # The others compute in float32, with differences such as 1 - p.
    torch.testing.assert_close(value, peer[0], rtol=1e-5, atol=1e-6)
    if peer[1] is not None:
        torch.testing.assert_close(gradient, peer[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("number", "library", "code"),
    [
        (0.79810, "kornia", "losses.binary_focal_loss_with_logits(x, y, alpha=None)"),
        (0.49201, "torchvision", "ops.sigmoid_focal_loss(x, y, alpha=-1)"),
        (0.49201, "keras", "losses.BinaryFocalCrossentropy(from_logits=True)(y, x)"),
        (0.49201, "optax", "losses.sigmoid_focal_loss(x, y)"),
        (0.49201, "pytorch_toolbelt", "losses.BinaryFocalLoss()(x, y)"),
        (0.63779, "segmentation_models_pytorch", "losses.FocalLoss('binary')(x, y)"),
        (0.52168, "monai", "losses.FocalLoss()(x, y)"),
    ],
)
def test_the_forms_of_a_soft_target(
    number: float, library: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"| {number:.5f} |" in (DOCS / "losses.md").read_text()
    part = imported(library, monkeypatch)
    x, y = torch.tensor([[1.5]]), torch.tensor([[0.3]])
    if library == "optax":
        x, y = x.numpy(), y.numpy()  # type: ignore[assignment]
    value = eval(code, {PARTS[library]: part}, {"x": x, "y": y})
    assert float(np.asarray(value).item()) == pytest.approx(number, abs=5e-6)


@pytest.mark.parametrize(
    ("library", "code", "flat", "whole"),
    [
        ("torchvision", "ops.sigmoid_focal_loss(x, y)", "error", "error"),
        ("timm", "loss.BinaryCrossEntropy(smoothing=0.0)(x, y)", "error", "error"),
        ("timm", "loss.AsymmetricLossMultiLabel()(x, y)", "wrong", "right"),
        ("timm", "loss.PolyBinaryCrossEntropy()(x, y)", "error", "right"),
        ("segmentation_models_pytorch", "losses.SoftBCEWithLogitsLoss()(x, y)", "error", "error"),
        ("segmentation_models_pytorch", "losses.FocalLoss('binary')(x, y)", "right", "right"),
        ("kornia", "losses.binary_focal_loss_with_logits(x, y)", "error", "right"),
        ("keras", "losses.BinaryCrossentropy(from_logits=True)(y, x)", "right", "right"),
        ("keras", "losses.BinaryFocalCrossentropy(from_logits=True)(y, x)", "right", "right"),
        ("optax", "losses.sigmoid_binary_cross_entropy(x, y)", "wrong", "right"),
    ],
)
def test_flat_and_integer_targets(
    library: str, code: str, flat: str, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = imported(library, monkeypatch)
    x, y = torch.tensor([[2.0], [-1.0], [0.5], [3.0]]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    array = importlib.import_module("jax.numpy").asarray if library == "optax" else torch.as_tensor

    def outcome(target: Tensor) -> Any:
        names = {"x": array(x.numpy()), "y": array(target.numpy())}
        try:
            return np.asarray(eval(code, {PARTS[library]: part}, names))
        except Exception:
            return "error"

    expected = outcome(y[:, None])
    for target, said in ((y, flat), (y[:, None].long(), whole)):
        got = outcome(target)
        if said == "error":
            assert isinstance(got, str)
        else:
            same = got.shape == expected.shape and np.allclose(got, expected, rtol=1e-5)
            assert same == (said == "right")
