"""The kernels as operators of a compiled graph, and with the further inputs of a linear layer."""

import pytest
import torch
import torch._dynamo.testing
from comparing import UNITS, normal, upstream_like, with_layout, worst
from interpreting import DEVICE
from torch import Tensor

import torchbce
from family import targets
from torchbce.backends import compiled
from torchbce.backends.gpu import launch
from torchbce.backends.gpu.operands import LinearInputs, Outputs
from torchbce.backends.request import KernelInputs, LossSpec
from torchbce.definition.reductions import REDUCTIONS
from torchbce.functional import binary_cross_entropy_with_logits as bce

pytestmark = pytest.mark.usefixtures("by_triton")

LOGITS = LossSpec("logits", (1.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def by_operator(
    x: Tensor,
    y: Tensor,
    reduction: str,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
) -> Tensor:
    loss_spec = LossSpec("focal", (0.25, 0.75, 2.0, 2.0, 0.0, 1.0), 0.1, ignore_index)
    return compiled.loss(loss_spec, reduction, x, y, weight, None, mask)


def by_function(
    x: Tensor,
    y: Tensor,
    reduction: str,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: float | None = None,
) -> Tensor:
    focal = torchbce.functional.sigmoid_focal_loss
    return focal(
        x,
        y,
        alpha=0.25,
        label_smoothing=0.1,
        reduction=reduction,
        weight=weight,
        mask=mask,
        ignore_index=ignore_index,
    )


@pytest.mark.parametrize(
    ("reduction", "name"),
    [
        *((reduction, "plain") for reduction in REDUCTIONS),
        *((reduction, "masked") for reduction in ("none", "mean", "batch_mean")),
        *((reduction, "ignored") for reduction in ("mean", "batch_mean")),
        *((reduction, "transposed") for reduction in ("none", "mean")),
        *((reduction, "weighted") for reduction in ("none", "weighted_mean")),
    ],
)
def test_the_operator_in_a_compiled_graph(reduction: str, name: str, fresh_compiler: None) -> None:
    x, y = normal(7, 9).to(DEVICE), targets(7, 9).float().to(DEVICE)
    weight = mask = ignore_index = None
    if name == "masked":
        mask = (targets(7, 9, seed=7) > 0.3).to(DEVICE)
        mask[3] = False
    if name == "ignored":
        y[3], y[4, 5], ignore_index = -100, -100, -100.0
    if name == "transposed":
        x = with_layout(x, "permuted")
    if name == "weighted":
        weight = (normal(9, seed=3).abs() + 0.5).to(DEVICE)
    compiled = torch.compile(
        by_operator, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager"
    )
    results = []
    for function in (compiled, by_function):
        z = x.clone(memory_format=torch.preserve_format).requires_grad_()
        value = function(z, y, reduction, weight, mask, ignore_index)
        (gradient,) = torch.autograd.grad(value, z, upstream_like(value))
        assert gradient.stride() == x.stride()
        results.append((value, gradient))
    assert results[0][0].stride() == results[1][0].stride()
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    # Outside a graph, the gradient that the forward pass kept is divided by a denominator that was
    # computed only then: one more rounding, of each of two numbers.
    later = reduction == "weighted_mean" or name in ("masked", "ignored")
    rtol = 2 * 2.0**-23 if later else 0.0
    torch.testing.assert_close(results[0][1], results[1][1], rtol=rtol, atol=0)


@pytest.mark.parametrize(
    ("reduction", "dtype"),
    [
        ("none", torch.float32),
        ("none", torch.bfloat16),
        ("mean", torch.float64),
        ("weighted_mean", torch.float32),
        ("batch_mean", torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_the_operators_pass_opcheck(reduction: str, dtype: torch.dtype) -> None:
    x, y = (
        with_layout(normal(4, 5), "permuted").to(dtype).to(DEVICE),
        targets(4, 5).float().to(DEVICE),
    )
    weight, mask = targets(5, seed=3).float().to(DEVICE), (targets(4, 5, seed=7) > 0.3).to(DEVICE)
    others = ("logits", [1.0, 1.0, 0.0, 0.0, 0.0, 1.0], 0.1, -100.0, reduction)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if (reduction, dtype) == ("none", torch.float32):
        checks.append("test_aot_dispatch_dynamic")
    for given in ((None, None), (weight, mask)):
        read = (y, given[0], None, given[1])
        z = x.clone(memory_format=torch.preserve_format).requires_grad_()
        torch.library.opcheck(
            torch.ops.torchbce.binary_loss.default, (z, *read, *others), test_utils=checks
        )
        value, denominator = torch.ops.torchbce.binary_loss(x, *read, *others)
        arguments = (torch.ones_like(value), denominator, x, *read, *others)
        torch.library.opcheck(
            torch.ops.torchbce.binary_loss_backward.default, arguments, test_utils=checks
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_graph_holds_for_any_size(reduction: str, fresh_compiler: None) -> None:
    """The denominator of a mean depends on the size, and is no constant of the graph."""
    counter = torch._dynamo.testing.CompileCounter()
    step = torch.compile(by_operator, dynamic=True, fullgraph=True, backend=counter)
    for rows in (5, 7, 12):
        x, y = normal(rows, 6).to(DEVICE), targets(rows, 6).float().to(DEVICE)
        torch.testing.assert_close(step(x, y, reduction), by_operator(x, y, reduction))
    assert counter.frame_count == 1


def test_a_compiled_loss_has_no_second_derivatives() -> None:
    x, y = normal(4).to(DEVICE).requires_grad_(), targets(4).float().to(DEVICE)
    (first,) = torch.autograd.grad(by_operator(x, y, "sum"), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), x)


@pytest.mark.parametrize("valued", [False, True])
def test_inputs_of_a_linear_layer(valued: bool) -> None:
    rows, columns, first = 6, 401, 2**33  # a tile and a part of the next
    x, bias = normal(rows, columns), normal(columns, seed=2)
    weight, second_weight = normal(rows, 1, seed=3).abs(), normal(columns, seed=4).abs()
    y = (targets(rows, columns) > 0.7).float()
    if valued:
        y *= targets(rows, columns, seed=5).float()
    ignored = targets(rows, columns, seed=8) > 0.8
    keys = y.view(-1).nonzero()[:, 0] + first
    # A key may occur twice, with the same value.
    twice = keys if valued else torch.cat((keys, keys)).sort()[0]
    read = KernelInputs(x.to(DEVICE), torch.zeros((), device=DEVICE), weight.to(DEVICE))
    linear = LinearInputs(
        bias=bias.to(DEVICE),
        weight=second_weight.to(DEVICE),
        keys=twice.to(DEVICE),
        values=y[y != 0].to(DEVICE) if valued else None,
        ignored=(ignored.view(-1).nonzero()[:, 0] + first).to(DEVICE),
        first_key=first,
    )
    losses, gradient = launch.new_output(read), launch.new_output(read)
    launch.launch_loss(LOGITS, read, Outputs(losses, gradient), linear, scale=0.5)
    z = (x + bias).double().requires_grad_()
    with torchbce.backend("reference"):
        expected = bce(z, y, weight=weight * second_weight, mask=~ignored, reduction="none")
    (slopes,) = torch.autograd.grad(0.5 * expected.sum(), z)
    losses, gradient = losses.cpu().double(), gradient.cpu().double()
    # 8 roundings; a gradient is a difference of terms of the size of the weights.
    torch.testing.assert_close(losses, expected.detach(), rtol=8 * 2.0**-23, atol=2.0**-149)
    largest = slopes.abs().max().item()
    torch.testing.assert_close(gradient, slopes, rtol=8 * 2.0**-23, atol=2 * 2.0**-23 * largest)


def test_a_gradient_of_a_wider_dtype_than_the_input(large_tiles: None) -> None:
    x = torch.arange(-(2**15), 2**15, 3).to(torch.int16).view(torch.bfloat16)
    x = x[x.isfinite()].to(DEVICE)
    gradient = torch.empty(x.shape, device=DEVICE)
    launch.launch_loss(LOGITS, KernelInputs(x, torch.zeros_like(x)), Outputs(gradient=gradient))
    assert worst(gradient.cpu(), torch.sigmoid(x.cpu().double())) <= UNITS
