"""A model with its loss exported to ONNX, run by onnxruntime and compared with PyTorch.

The losses are compared to 1e-6 of their value: onnxruntime's own exp and its order of summation
differ from PyTorch's by a few units in the last place of float32, 6e-8 each.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchbce
import torchbce.dropin
from family import FAMILY, ONE_OF_EACH, Loss, targets
from torchbce.functional import binary_cross_entropy_with_logits

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

#: Of the argument `dynamo` of torch.onnx.export, and of a program exported before.
EXPORTERS = ["dynamo", "program", "torchscript"]
REDUCTIONS = ["none", "mean", "sum", "weighted_mean", "batch_mean"]


@pytest.fixture(autouse=True)
def exporters_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the exporters themselves
        yield


class Model(nn.Module):
    """A linear layer, the function that brings its outputs into the loss' domain, and the loss."""

    def __init__(self, loss: Callable[..., Tensor], kind: str = "logits") -> None:
        super().__init__()
        self.linear, self.loss, self.kind = nn.Linear(4, 3), loss, kind

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        z = self.linear(x)
        if self.kind == "probabilities":
            z = torch.sigmoid(z)
        elif self.kind == "log_probs":
            z = -z.square() - 0.01
        return self.loss(z, *others)


class Only(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.function(*arguments)


def exported(model: nn.Module, inputs: tuple[Tensor, ...], by: str, **options: Any) -> bytes:
    if by == "torchscript":
        buffer = io.BytesIO()
        torch.onnx.export(model, inputs, buffer, dynamo=False, **options)
        return buffer.getvalue()
    if by == "program":
        model, inputs = torch.export.export(model, inputs, **options), ()  # type: ignore[assignment]
        options = {}
    program = torch.onnx.export(model, inputs, dynamo=True, verbose=False, **options)
    assert program is not None
    return program.model_proto.SerializeToString()


def run(graph: bytes, inputs: tuple[Tensor, ...]) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    by_name = {n: t.numpy() for n, t in zip(names, inputs, strict=True)}
    (value,) = session.run(None, by_name)
    return value


def check(
    model: nn.Module, inputs: tuple[Tensor, ...], by: str = "dynamo", rtol: float = 1e-6
) -> None:
    expected = model(*inputs).detach()
    value = run(exported(model, inputs, by), inputs)
    torch.testing.assert_close(torch.from_numpy(value), expected, rtol=rtol, atol=1e-40)


def batch(rows: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    return x, targets(rows, 3, dtype=torch.float32)


# ------------------------------------------------------------------------------------ the family


@pytest.mark.parametrize(
    "by", ["dynamo", *(pytest.param(e, marks=pytest.mark.slow) for e in EXPORTERS[1:])]
)
@pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.record.name)
def test_modules(loss: Loss, by: str) -> None:
    check(Model(loss.module(**loss.own), loss.kind), batch(), by)


@pytest.mark.slow
@pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)
def test_every_case(loss: Loss) -> None:
    check(Model(loss, loss.kind), batch())


@pytest.mark.parametrize("by", EXPORTERS)
def test_by_each_exporter(by: str) -> None:
    check(Model(torchbce.BCEWithLogitsLoss()), batch(), by)


@pytest.mark.parametrize(
    "reduction", ["batch_mean", *(pytest.param(r, marks=pytest.mark.slow) for r in REDUCTIONS[:-1])]
)
def test_options(reduction: str) -> None:
    x, y = batch()
    mask = targets(5, 3, seed=2) > 0.3
    y[0], y[2, 1] = -100, -100
    module = torchbce.BCEWithLogitsLoss(
        weight=torch.tensor([1.0, 2.0, 3.0]),
        pos_weight=torch.tensor([0.5, 1.0, 2.0]),
        label_smoothing=0.1,
        ignore_index=-100,
        reduction=reduction,
    )

    def loss(z: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        return module(z, y, mask=mask)

    check(Model(loss), (x, y, mask))


def test_nan_as_ignore_index() -> None:
    x, y = batch()
    y[1, 1] = float("nan")
    check(Model(torchbce.BCEWithLogitsLoss(ignore_index=float("nan"), pos_weight=2.0)), (x, y))


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64], ids=str
)
def test_dtypes_of_targets(dtype: torch.dtype) -> None:
    x, y = batch()
    check(Model(torchbce.SigmoidFocalLoss()), (x, (y > 0.5).to(dtype)))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_dtypes_of_inputs(dtype: torch.dtype) -> None:
    x, y = batch()
    model = Model(torchbce.BCEWithLogitsLoss()).to(dtype)
    # onnxruntime rounds a product of half precision elsewhere: 2^-11 of a logit.
    check(model, (x.to(dtype), y), rtol=1e-3 if dtype == torch.float16 else 1e-6)


@pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.record.name)
def test_both_tails(loss: Loss) -> None:
    """Without terms for rounding errors, log(1 + exp(-40)) and log(1 - exp(-1e-20)) lose all."""
    x = torch.tensor([1e4, 104.0, 87.0, 40.0, 17.0, 1.0, 1e-3, 1e-9, 1e-20, 0.0])
    x = torch.cat([x, -x])
    if loss.kind == "logits":
        x = torch.cat([x, torch.tensor([float("inf"), float("-inf")])])
    elif loss.kind == "probabilities":
        x = torch.cat([x.abs().clamp(max=1), 1 - x.abs().clamp(max=1)])
    else:
        x = -x.abs()
    x = torch.cat([x, x])
    y = (torch.arange(len(x)) < len(x) // 2).float()
    losses = Only(lambda x, y: loss(x, y, reduction="none"))
    check(losses, (x, y))
    # What the graph computes is the definition, also where PyTorch traced it.
    check(losses, (x, y), "torchscript")


@pytest.mark.parametrize("by", EXPORTERS[:2])
def test_any_number_of_rows(by: str) -> None:
    model = Model(torchbce.SigmoidFocalLoss(reduction="batch_mean", ignore_index=-1))
    rows = torch.export.Dim("rows", min=1)
    graph = exported(model, batch(), by, dynamic_shapes=({0: rows}, ({0: rows},)))
    inputs = batch(9, seed=1)
    torch.testing.assert_close(
        run(graph, inputs), model(*inputs).detach().numpy(), rtol=1e-6, atol=0
    )


def test_a_graph_does_not_check_targets() -> None:
    x, y = batch()
    graph = exported(Model(torchbce.BCEWithLogitsLoss(check_targets=True)), (x, y), "dynamo")
    assert np.isfinite(run(graph, (x, y + 255)))


# --------------------------------------------------------------------------------- linear layers


class WithHead(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.head = torchbce.LinearBCELoss(4, 7, **options)

    def forward(
        self,
        x: Tensor,
        target: Tensor,
        ignored: Tensor | None = None,
        row_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        return self.head(x, target, ignored=ignored, row_weight=row_weight, mask=mask)


LISTS = torch.tensor([[0, 2], [1, -1], [-1, -1], [6, 3], [4, 5]])


@pytest.mark.parametrize("by", EXPORTERS)
def test_a_head_with_lists(by: str) -> None:
    check(WithHead(), (batch()[0], LISTS), by)


@pytest.mark.parametrize(
    "reduction",
    ["none", *(pytest.param(r, marks=pytest.mark.slow) for r in ("mean", "sum", "batch_mean"))],
)
def test_a_head_with_options(reduction: str) -> None:
    options = {"pos_weight": torch.rand(7), "label_weight": torch.rand(7), "label_smoothing": 0.1}
    x, mask = batch()[0], targets(5, 7) > 0.3
    model = WithHead(bias=False, reduction=reduction, **options)
    check(model, (x, LISTS, LISTS.flip(0), torch.rand(5), mask))
    check(model, (x, targets(5, 7, dtype=torch.float32)))


class Logits(nn.Module):
    def __init__(self, k: int | None = None) -> None:
        super().__init__()
        self.head, self.k = torchbce.LinearBCELoss(4, 7, pos_weight=2.0), k

    def forward(self, x: Tensor) -> Any:
        return self.head.logits(x) if self.k is None else self.head.topk(x, self.k).values


@pytest.mark.parametrize("by", EXPORTERS)
def test_what_a_head_serves(by: str) -> None:
    for model in (Logits(), Logits(3), Logits().head.to_linear()):
        check(model, batch()[:1], by)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@pytest.mark.parametrize("by", EXPORTERS)
def test_sparse_targets_are_refused(by: str, layout: torch.layout) -> None:
    x = batch()[0]
    for model, labels in ((Model(torchbce.BCEWithLogitsLoss()), 3), (WithHead(), 7)):
        target = (targets(5, labels) > 0.5).float().to_sparse(layout=layout)
        with pytest.raises(Exception) as raised:  # noqa: PT011
            exported(model, (x, target), by)
        errors = [str(raised.value), str(raised.value.__cause__)]
        assert any("Give a dense one, or label lists" in text for text in errors)


def test_a_head_of_any_number_of_rows() -> None:
    model, rows = WithHead(), torch.export.Dim("rows", min=1)
    inputs = batch()[0], LISTS
    graph = exported(model, inputs, "program", dynamic_shapes=({0: rows}, {0: rows}))
    inputs = batch(2)[0], LISTS[:2]
    torch.testing.assert_close(
        run(graph, inputs), model(*inputs).detach().numpy(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("reduction", ["batch_mean", pytest.param("sum", marks=pytest.mark.slow)])
def test_pairs(reduction: str) -> None:
    def loss(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return torchbce.pairwise_sigmoid_loss(x, y, scale=scale, bias=-2.0, reduction=reduction)

    x, y = (nn.functional.normalize(batch(seed=seed)[0]) for seed in (0, 1))
    check(Only(loss), (x, y, torch.tensor(3.0)))


# --------------------------------------------------------------------------------- the drop-in


@pytest.mark.parametrize("by", EXPORTERS)
def test_pytorchs_modules_with_the_dropin(by: str) -> None:
    with torchbce.dropin.installed():
        check(Model(nn.BCEWithLogitsLoss()), batch(), by)


@pytest.mark.parametrize(
    "module",
    [
        nn.BCELoss(),
        pytest.param(nn.BCELoss(weight=torch.rand(3), reduction="none"), marks=pytest.mark.slow),
        pytest.param(
            nn.BCEWithLogitsLoss(torch.rand(3), pos_weight=torch.rand(3), reduction="none"),
            marks=pytest.mark.slow,
        ),
        pytest.param(nn.BCEWithLogitsLoss(reduction="sum"), marks=pytest.mark.slow),
    ],
    ids=lambda module: f"{type(module).__name__}-{module.reduction}",
)
def test_pytorchs_modules_and_their_options_with_the_dropin(module: nn.Module) -> None:
    kind = "probabilities" if isinstance(module, nn.BCELoss) else "logits"
    with torchbce.dropin.installed():
        check(Model(module, kind), batch())


def test_the_loss_of_a_graph_is_accurate_with_the_dropin() -> None:
    z, y = torch.tensor([-40.0, 40.0, -104.0]), torch.tensor([0.0, 1.0, 0.0])
    with torchbce.dropin.installed():
        check(Only(lambda z, y: nn.functional.binary_cross_entropy_with_logits(z, y)), (z, y))
    # PyTorch's own loss is 0 there.
    assert binary_cross_entropy_with_logits(z, y) > 2e-18
