"""Every loss under PyTorch's transforms: autograd, functorch, compile, export, fake tensors."""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from family import FAMILY, ONE_OF_EACH, Loss, targets

every_loss = pytest.mark.parametrize("loss", FAMILY, ids=lambda loss: loss.name)
one_of_each = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=lambda loss: loss.function.__name__)

# Inductor takes several seconds per graph to compile C++.
by_each_compiler = pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)

# PyTorch itself loads its forward-mode rules by the deprecated torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")


@every_loss
@pytest.mark.parametrize("reduction", ["none", "mean", "weighted_mean"])
def test_first_and_second_derivatives(loss: Loss, reduction: str) -> None:
    x, y = loss.inputs(3, 2).requires_grad_(), (targets(3, 2) * 0.8 + 0.1).requires_grad_()
    w = (torch.rand(2, dtype=torch.float64) + 0.5).requires_grad_()
    p = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def call(*arguments: Tensor) -> Tensor:
        x, y, w, p = arguments
        return loss(x, y, weight=w, pos_weight=p, label_smoothing=0.1, reduction=reduction)

    assert torch.autograd.gradcheck(call, (x, y, w, p), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, y, w, p))


@every_loss
def test_forward_mode(loss: Loss) -> None:
    x, y = loss.inputs(5), targets(5)
    tangent = torch.randn(5, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(x, tangent), y)
        slope = forward_ad.unpack_dual(dual).tangent
    gradient = torch.func.grad(lambda x: loss(x, y))(x)
    torch.testing.assert_close(slope, gradient @ tangent)


@every_loss
def test_vmap_grad_jacrev_hessian(loss: Loss) -> None:
    x, y = loss.inputs(4, 3), targets(4, 3)
    rows = torch.func.vmap(loss)(x, y)
    torch.testing.assert_close(rows, torch.stack([loss(a, b) for a, b in zip(x, y, strict=True)]))
    per_row = torch.func.vmap(torch.func.grad(lambda a, b: loss(a, b)))(x, y)
    jacobian = torch.func.jacrev(lambda x: loss(x, y, reduction="none"))(x)
    diagonal = jacobian.reshape(12, 12).diagonal().reshape(4, 3)
    torch.testing.assert_close(per_row, diagonal / 3)
    hessian = torch.func.hessian(lambda a: loss(a, y[0], reduction="sum"))(x[0])
    assert hessian.isfinite().all()
    torch.testing.assert_close(hessian, torch.diag(hessian.diagonal()))


def test_the_range_is_checked_under_vmap() -> None:
    loss = ONE_OF_EACH[0]
    y = targets(4, 3)
    y[2, 1] = 255.0
    with pytest.raises(ValueError, match=r"target\[2, 1\] is 255.0"):
        torch.func.vmap(loss)(loss.inputs(4, 3), y)


def test_the_range_is_checked_with_a_mask_that_is_batched_differently() -> None:
    loss = ONE_OF_EACH[0]
    x, y = torch.zeros(3, 3), torch.zeros(3, 3)
    y[0, 1] = 7.0
    mask = y != 7
    by_columns = torch.func.vmap(lambda x, y, m: loss(x, y, mask=m), in_dims=(1, 1, 1))
    assert by_columns(x, y, mask).isfinite().all()
    with pytest.raises(ValueError, match=r"7\.0; targets must be in"):
        by_columns(x, y, mask.T)
    shared = torch.func.vmap(lambda x, y: loss(x, y, mask=mask[0]))
    assert shared(x, y).isfinite().all()


@by_each_compiler
@one_of_each
def test_compiled(loss: Loss, compiler: str, fresh_compiler: None) -> None:
    def call(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        return loss(x, y, pos_weight=2.0, label_smoothing=0.1, mask=mask)

    compiled = torch.compile(call, fullgraph=True, backend=compiler)
    y = targets(16, 5, dtype=torch.float32)
    mask = targets(16, 5) > 0.1
    values, gradients = [], []
    for function in (call, compiled):
        x = loss.inputs(16, 5, dtype=torch.float32).requires_grad_()
        values.append(function(x, y, mask))
        gradients += torch.autograd.grad(values[-1], x)
    # Another order of summation and another exp: a few units in the last place of float32.
    torch.testing.assert_close(values[1], values[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=2e-6, atol=1e-9)
    y[3, 2] = 1.5
    mask[3, 2] = True
    with pytest.raises(ValueError, match=r"target\[3, 2\] is 1.5"):
        compiled(loss.inputs(16, 5, dtype=torch.float32), y, mask)


@by_each_compiler
def test_compiled_is_accurate_in_the_tails(compiler: str, fresh_compiler: None) -> None:
    loss = ONE_OF_EACH[0]
    x = torch.tensor([-100.0, -40.0, -17.0, 17.0, 40.0, 100.0, float("inf")])
    y = (x > 0).float()
    compiled = torch.compile(
        lambda x: loss(x, y, reduction="none"), fullgraph=True, backend=compiler
    )(x)
    truth = torch.log1p(torch.exp(-x.abs().double()))
    torch.testing.assert_close(compiled.double(), truth, rtol=1.2e-7, atol=2e-45)


@one_of_each
def test_export(loss: Loss) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return loss(x, y)

    x, y = loss.inputs(6, 5), targets(6, 5)
    exported = torch.export.export(Model(), (x, y)).module()
    torch.testing.assert_close(exported(x, y), loss(x, y))
    with pytest.raises(ValueError, match=r"is 2\.0; targets must be in"):
        exported(x, torch.full_like(y, 2.0))


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_export_of_any_number_of_rows(rows: int) -> None:
    loss = ONE_OF_EACH[0]

    class Model(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return loss(x, y, pos_weight=torch.tensor([1.0, 2.0, 3.0]).double())

    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        Model(), (loss.inputs(4, 3), targets(4, 3)), dynamic_shapes=({0: batch}, {0: batch})
    ).module()
    x, y = loss.inputs(rows, 3), targets(rows, 3)
    torch.testing.assert_close(exported(x, y), Model()(x, y))


@one_of_each
def test_meta_and_fake_tensors(loss: Loss) -> None:
    x, y = loss.inputs(6, 5).to("meta"), targets(6, 5).to("meta")
    assert loss(x, y, reduction="none").shape == (6, 5)
    assert loss(x, y).device.type == "meta"
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(loss.inputs(6, 5)), mode.from_tensor(targets(6, 5))
        assert loss(*fake, ignore_index=-1).shape == ()


def test_sizes_beyond_32_bits() -> None:
    """Meta tensors have sizes without memory; element counts are 64-bit integers."""
    loss = ONE_OF_EACH[0]
    x = torch.empty(2**31 + 8, device="meta")
    assert loss(x, torch.empty_like(x), reduction="none").numel() == 2**31 + 8
    expanded = torch.zeros(1).expand(2**31 + 8)
    assert expanded.numel() == 2**31 + 8


@pytest.mark.parametrize(
    "loss", [loss for loss in FAMILY if loss.kind != "probabilities"], ids=lambda loss: loss.name
)
@pytest.mark.parametrize(
    "z", [-1e4, -150.0, -104.0, -88.0, -17.0, 0.0, 17.0, 88.0, 104.0, 150.0, 1e4]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_derivatives_are_finite_at_large_logits(loss: Loss, z: float, dtype: torch.dtype) -> None:
    x = torch.tensor(z, dtype=torch.float64)
    if loss.kind == "log_probs":
        x = torch.nn.functional.logsigmoid(x).clamp(max=-1e-30)
    x = x.to(dtype).requires_grad_()
    for y in (0.0, 1.0, 0.5):
        value = loss(x, torch.tensor(y, dtype=dtype))
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        assert slope.isfinite()
        if loss.kind == "logits":
            (curvature,) = torch.autograd.grad(slope, x)
            assert curvature.isfinite()
