"""The backward pass; autocast, the drop-in for PyTorch's losses, the choice of a backend."""

import math
from typing import Any

import pytest
import torch
from comparing import (
    BLOCK,
    EPS,
    FLOATS,
    INTEGERS,
    assert_close,
    both,
    normal,
    upstream_like,
    with_layout,
)
from interpreting import DEVICE
from torch import Tensor

import torchbce
from family import targets
from torchbce.backends.gpu import autograd as gpu_autograd
from torchbce.backends.gpu import calls, launch
from torchbce.functional import binary_cross_entropy_with_logits as bce

pytestmark = pytest.mark.usefixtures("by_triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [3.0, -0.5, 0.0, 1.0])
def test_upstream_gradients(dtype: torch.dtype, scale: float) -> None:
    x, y = normal(BLOCK + 3).to(dtype), targets(BLOCK + 3).float()
    options = {"weight": normal(BLOCK + 3, seed=3).abs()}
    for reduction in ("mean", "weighted_mean"):
        results = both(
            bce, x, y, lambda value: torch.full_like(value, scale), reduction=reduction, **options
        )
        assert_close(results)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_the_kept_gradient_is_returned_in_its_memory(
    dtype: torch.dtype, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is multiplied there; half precision, where that would round twice, is computed there."""
    outputs, new_output = [], launch.new_output
    monkeypatch.setattr(
        launch, "new_output", lambda read: outputs.append(new_output(read)) or outputs[-1]
    )
    ran, run = [], launch.run
    monkeypatch.setattr(launch, "run", lambda key, *a: ran.append(key[0]) or run(key, *a))
    x, y = normal(50).to(DEVICE, dtype).requires_grad_(), targets(50).float().to(DEVICE)
    mask = y > 0.1 if masked else None
    half = dtype.itemsize == 2
    for scale in (1.0, 3.0):
        loss = bce(x, y, mask=mask)
        # Where the kernel computes the denominator, a gradient in half precision is not kept.
        assert len(outputs) == (not (half and masked))
        ran.clear()
        (gradient,) = torch.autograd.grad(scale * loss, x)
        assert ran == ["loss" if half else "scale"]
        assert len(outputs) == 1
        assert gradient.data_ptr() == outputs.pop().data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_captured_backward_pass_may_be_replayed(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the backward pass alone is in a CUDA graph, it leaves the kept gradient as it is."""
    x, y = normal(50).to(DEVICE, dtype).requires_grad_(), targets(50).float().to(DEVICE)
    upstream = torch.tensor(3.0, device=DEVICE)
    (expected,) = torch.autograd.grad(bce(x, y), x, upstream)
    kept, new_output = [], launch.new_output
    monkeypatch.setattr(
        launch, "new_output", lambda read: kept.append(new_output(read)) or kept[-1]
    )
    for of_both in (False, True):
        monkeypatch.setattr(gpu_autograd, "_captures", lambda tensor: of_both)  # noqa: B023
        loss = bce(x, y)
        before = kept[0].clone()
        monkeypatch.setattr(gpu_autograd, "_captures", lambda tensor: True)
        (found,) = torch.autograd.grad(loss, x, upstream)
        torch.testing.assert_close(found, expected)
        # A graph of both passes computes the kept gradient anew in each replay.
        assert torch.equal(kept[0], before) != of_both
        assert len(kept) == (1 if of_both else 2)
        kept.clear()


@pytest.mark.parametrize("programs", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_number_of_programs_computes_a_gradient(
    programs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels of the backward pass visit all tiles, however few programs there are."""
    monkeypatch.setattr(calls, "multiprocessors", lambda device: programs / 2)
    x = normal(6 * BLOCK + 3).to(DEVICE, dtype).requires_grad_()
    y = targets(6 * BLOCK + 3).float().to(DEVICE)
    (found,) = torch.autograd.grad(bce(x, y, reduction="sum"), x, torch.tensor(-3.0, device=DEVICE))
    (once,) = torch.autograd.grad(bce(x, y, reduction="sum"), x)
    torch.testing.assert_close(found, -3 * once)


def test_a_second_backward_pass_does_not_overwrite_the_first_gradient() -> None:
    x, y = normal(5000).to(DEVICE).requires_grad_(), torch.ones(5000, device=DEVICE)
    for scales in ((1.0, 3.0, 1.0), (3.0, 1.0, 3.0)):
        loss = bce(x, y)
        found = [torch.autograd.grad(s * loss, x, retain_graph=True)[0] for s in scales]
        assert len({gradient.data_ptr() for gradient in found}) == 3
        assert torch.equal(found[0], found[2])
        once, thrice = found[:2] if scales[0] == 1 else found[1::-1]
        # Each is rounded once, `3 * once` twice.
        torch.testing.assert_close(thrice, 3 * once, rtol=2 * EPS[torch.float32], atol=0)


def test_a_returned_gradient_may_be_written_to() -> None:
    x, y = normal(50).to(DEVICE).requires_grad_(), torch.ones(50, device=DEVICE)
    loss = bce(x, y, reduction="sum")
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.zero_()
    assert torch.equal(torch.autograd.grad(loss, x)[0], kept)


def test_accumulation() -> None:
    x, y = normal(50).to(DEVICE).requires_grad_(), torch.ones(50, device=DEVICE)
    (once,) = torch.autograd.grad(bce(x, y), x)
    for _ in range(3):
        bce(x, y).backward()
    torch.testing.assert_close(x.grad, 3 * once)


def test_an_expanded_upstream_gradient() -> None:
    x, y = normal(7, 9), targets(7, 9).float()
    for upstream in (
        lambda value: value.new_full((), 3.0).expand(value.shape),
        lambda value: torch.arange(9.0).to(value).expand(value.shape),
        lambda value: torch.arange(7.0).to(value)[:, None].expand(value.shape),
    ):
        for layout in ("contiguous", "permuted"):
            assert_close(both(bce, with_layout(x, layout), y, upstream, reduction="none"))


def test_half_precision_is_scaled_before_it_is_rounded() -> None:
    # The gradient of an easy negative underflows in float16, but not times the scale of AMP.
    z = torch.full((1024,), -20.0, dtype=torch.float16, device=DEVICE, requires_grad=True)
    y = torch.zeros(1024, device=DEVICE)
    exact = torch.tensor(2.0**10 / (1 + math.exp(20.0)), dtype=torch.float16).item()
    for options in ({}, {"ignore_index": -1}, {"weight": 1.0, "reduction": "weighted_mean"}):
        (gradient,) = torch.autograd.grad(bce(z, y, **options) * 2.0**20, z)
        assert gradient.unique().tolist() == [exact]


def test_the_upstream_gradient_does_not_reach_ignored_elements() -> None:
    x = normal(4).to(DEVICE).requires_grad_()
    y, mask = torch.ones(4, device=DEVICE), torch.tensor([1, 1, 0, 1], device=DEVICE).bool()
    (gradient,) = torch.autograd.grad(bce(x, y, mask=mask) * math.inf, x)
    assert gradient[2] == 0
    losses = bce(x, y, mask=mask, reduction="none")
    upstream = torch.full((4,), math.nan, device=DEVICE)
    (gradient,) = torch.autograd.grad(losses, x, upstream)
    assert gradient.isnan().tolist() == [True, True, False, True]


def test_second_derivatives_are_those_of_the_definition() -> None:
    x, y = normal(50).to(DEVICE).requires_grad_(), targets(50).float().to(DEVICE)
    p = torch.sigmoid(x.detach().double())
    for reduction in ("sum", "none"):
        value = bce(x * 1, y, reduction=reduction).sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        torch.testing.assert_close(second.double(), p * (1 - p), rtol=1e-6, atol=0)


def test_batched_gradients() -> None:
    x, y = normal(6).to(DEVICE).requires_grad_(), targets(6).float().to(DEVICE)
    losses = bce(x, y, reduction="none")
    eye = torch.eye(6, device=DEVICE)
    (jacobian,) = torch.autograd.grad(losses, x, eye, is_grads_batched=True)
    torch.testing.assert_close(jacobian.diagonal(), torch.sigmoid(x.detach()) - y)
    assert jacobian.count_nonzero() == 6


def test_without_gradients() -> None:
    x, y = normal(50).to(DEVICE).requires_grad_(), targets(50).float().to(DEVICE)
    attached = bce(x, y)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            value = bce(x, y)
            assert not value.requires_grad
            assert value == attached
            assert bce(x, y.clone().requires_grad_()) == attached


def test_an_input_modified_before_the_backward_pass_raises() -> None:
    z = normal(10).to(DEVICE).requires_grad_() * 1
    loss = bce(z, torch.ones(10, device=DEVICE))
    z.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_saved_tensor_hooks_and_checkpointing() -> None:
    x, y = normal(300).to(DEVICE).requires_grad_(), torch.ones(300, device=DEVICE)
    (expected,) = torch.autograd.grad(bce(x, y), x)
    outputs, new_output = [], launch.new_output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "new_output", lambda read: outputs.append(read) or new_output(read))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            loss = bce(x, y)
        assert not outputs  # a kept gradient would bypass the hooks
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)
    for reentrant in (False, True):
        loss = torch.utils.checkpoint.checkpoint(bce, x, y, use_reentrant=reentrant)
        assert torch.equal(
            torch.autograd.grad(loss, x)[0] if not reentrant else backward_gradient(loss, x),
            expected,
        )


def backward_gradient(loss: Tensor, x: Tensor) -> Tensor:
    """The gradient by `backward`, which reentrant checkpointing requires."""
    x.grad = None
    loss.backward()
    assert x.grad is not None
    return x.grad


def test_results_are_deterministic() -> None:
    x, y = normal(3, BLOCK + 5).to(DEVICE), targets(3, BLOCK + 5).float().to(DEVICE)
    results = []
    for _ in range(3):
        z = x.clone().requires_grad_()
        value = bce(z, y, reduction="weighted_mean", weight=y + 0.1)
        results.append((value.item(), torch.autograd.grad(value, z)[0]))
    for value, gradient in results[1:]:
        assert value == results[0][0]
        assert torch.equal(gradient, results[0][1])


def test_autocast() -> None:
    w, x = normal(5, 4, scale=1.0).to(DEVICE).requires_grad_(), normal(9, 5, seed=2).to(DEVICE)
    y = targets(9, 4).float().to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        logits = x @ w
        assert logits.dtype == torch.bfloat16
        value = bce(logits, y)
        probabilities = torchbce.functional.binary_cross_entropy(torch.sigmoid(logits), y)
    for got in (value, probabilities):
        assert got.dtype == torch.float32
        (gradient,) = torch.autograd.grad(got, w, retain_graph=True)
        assert gradient.dtype == torch.float32
    with torchbce.backend("reference"):
        torch.testing.assert_close(value, bce(logits, y), rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_drop_in(reduction: str) -> None:
    x, y = normal(6, 5), targets(6, 5)
    weight, pos_weight = normal(5, seed=3).abs() + 0.5, normal(6, 1, seed=4).abs() + 0.5
    p = torch.sigmoid(x)
    for dtype in FLOATS:
        results: list[list[Tensor]] = []
        for wide in (False, True):
            device, to = ("cpu", torch.float64) if wide else (DEVICE, dtype)
            z, q, target, w, pw = (
                t.to(dtype).to(device, to) for t in (x, p, y, weight, pos_weight)
            )
            z.requires_grad_()
            q.requires_grad_()
            with torchbce.dropin.installed(), torchbce.backend("reference" if wide else "triton"):
                logits = torch.nn.BCEWithLogitsLoss(w, reduction=reduction, pos_weight=pw)
                value = logits(z, target)
                other = torch.nn.BCELoss(w, reduction=reduction)(q, target)
            assert value.dtype == other.dtype == to
            results.append(
                [
                    value.cpu(),
                    *(t.cpu() for t in torch.autograd.grad(value, z, upstream_like(value))),
                ]
            )
            results[-1] += [other.cpu()]
            results[-1] += [t.cpu() for t in torch.autograd.grad(other, q, upstream_like(other))]
        for got, true in zip(*results, strict=True):
            rtol = 8 * 2.0**-23 + EPS[dtype] / 2 if dtype != torch.float64 else 1e-14
            atol = 2 * rtol if got.dim() else 0.0  # gradients are of the order of 1
            torch.testing.assert_close(got.double(), true, rtol=rtol, atol=atol)


def test_the_drop_in_accepts_targets_outside_0_and_1_and_of_other_dtypes() -> None:
    x, y = normal(40), normal(40, seed=1)
    for y_dtype in (torch.float32, torch.bfloat16):
        target = y.to(y_dtype)
        z, wide = x.to(DEVICE).requires_grad_(), x.double().requires_grad_()
        with torchbce.dropin.installed():
            value = torch.nn.functional.binary_cross_entropy_with_logits(z, target.to(DEVICE))
            with torchbce.backend("reference"):
                true = torch.nn.functional.binary_cross_entropy_with_logits(wide, target.double())
        assert value.dtype == y_dtype
        torch.testing.assert_close(value.cpu().double(), true, rtol=EPS[y_dtype] * 2, atol=0)
        slopes = torch.autograd.grad(value, z)[0].cpu().double()
        # Differences of terms up to 8 / 40: the largest |y| over the number of elements.
        expected = torch.autograd.grad(true, wide)[0]
        torch.testing.assert_close(slopes, expected, rtol=4 * 2.0**-23, atol=2.0**-24)


def test_backend_for_and_its_reason() -> None:
    x, y = torch.zeros(3, device=DEVICE), torch.zeros(3, device=DEVICE)
    for dtype in FLOATS:
        for target in (None, *(y.to(t) for t in (*FLOATS, *INTEGERS))):
            assert torchbce.backend_for(x.to(dtype), target).name == "triton"
    assert torchbce.backend_for(x, y.to_sparse()).name == "triton"
    assert torchbce.backend_for(x, weight=2.0, pos_weight=y, mask=y > 0).name == "triton"
    grad = torch.zeros(3, device=DEVICE, requires_grad=True)
    refused: dict[str, tuple[tuple[Tensor, ...], dict[str, Any]]] = {
        "target requires grad": ((x, grad), {}),
        "weight requires grad": ((x, y), {"weight": grad}),
        "pos_weight requires grad": ((x, y), {"pos_weight": grad}),
        "input is torch.complex64": ((x.to(torch.complex64), y), {}),
        "target is torch.complex64": ((x, y.to(torch.complex64)), {}),
        "target is torch.uint16": ((x, y.to(torch.uint16)), {}),
        "weight is torch.uint16": ((x, y), {"weight": y.to(torch.uint16)}),
        "input is not a plain tensor": ((x.to("meta"), y), {}),
        "target is neither a plain tensor": ((x, y.to("meta")), {}),
        "mask is not a plain tensor": ((x, y), {"mask": (y > 0).to("meta")}),
    }
    for words, (arguments, options) in refused.items():
        with pytest.raises(RuntimeError, match=rf"'triton'.* cannot compute this: {words}"):
            torchbce.backend_for(*arguments, **options)
        with pytest.raises(RuntimeError, match=rf"'triton'.* cannot compute this: {words}"):
            bce(*arguments, **options)
    with torch.no_grad():
        assert torchbce.backend_for(x, grad).name == "triton"

    def checked(z: Tensor) -> Tensor:
        with pytest.raises(RuntimeError, match=r"torch\.func is active"):
            torchbce.backend_for(z)
        return z.sum()

    torch.func.grad(checked)(x)


def test_the_chosen_backend_computes_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = launch.launch_loss
    monkeypatch.setattr(launch, "launch_loss", lambda *a, **k: calls.append(a) or run(*a, **k))
    x, y = torch.zeros(3, device=DEVICE), torch.zeros(3, device=DEVICE)
    with torchbce.backend("reference"):
        bce(x, y)
    assert not calls
    bce(x, y)
    torchbce.BCELoss()(x, y)
    with torchbce.dropin.installed():
        torch.nn.BCEWithLogitsLoss()(x, y)
    assert len(calls) == 3


@pytest.mark.parametrize("size", [3, 2 * BLOCK + 1])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.skipif(DEVICE == "cuda", reason="a failed assertion of the device ends the process")
def test_the_drop_in_finds_values_outside_their_range(size: int, reduction: str) -> None:
    """In the pass of the kernel, wherever the value is."""
    p, y = torch.full((size,), 0.25), torch.full((size,), 1.0)
    y[0] = p[0] = 0.0
    criterion = torch.nn.BCELoss(reduction=reduction)
    with torchbce.dropin.installed():
        criterion(p.requires_grad_(), y).sum().backward()
        for wrong in (-1e-6, 1.5, math.nan):
            for at in (0, size - 1):
                for which in range(2):
                    tensors = [p.detach().clone(), y.clone()]
                    tensors[which][at] = wrong
                    with pytest.raises(RuntimeError, match="should be between 0 and 1"):
                        criterion(*tensors)
