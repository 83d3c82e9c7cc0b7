"""Run under torchrun: losses of unevenly sharded tensors equal those of the full tensors."""

import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from family import ONE_OF_EACH, targets
from torchbce.functional import asymmetric_loss, binary_cross_entropy_with_logits


def values_of_other_processes_count(mesh: dist.DeviceMesh) -> None:
    """A wrong value is named by the process that holds it; a mean is empty if all shards are."""
    last = dist.get_rank() == dist.get_world_size() - 1
    rows = 5
    y = torch.zeros(rows, 3)
    y[-1, 1] = 255
    z, y = (distribute_tensor(t, mesh, [Shard(0)]) for t in (torch.zeros(rows, 3), y))
    with pytest.raises(ValueError, match=r"target\[4, 1\] is 255") if last else nullcontext():
        binary_cross_entropy_with_logits(z, y)
    for kept, warns in ((rows - 1, False), (rows, True)):
        mask = distribute_tensor(torch.arange(rows)[:, None] >= kept, mesh, [Shard(0)])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            binary_cross_entropy_with_logits(z, z, mask=mask)
        assert any("over no elements" in str(w.message) for w in caught) is warns


def constants_per_class(mesh: dist.DeviceMesh) -> None:
    """Constants are distributed as weights are; each form and each way to focus."""
    random = torch.Generator().manual_seed(3)
    x, y = 3 * torch.randn(5, 3, generator=random), torch.rand(5, 3, generator=random)
    own = {"gamma_neg": torch.tensor([0.0, 1.0, 2.5]), "margin": torch.tensor([0.0, 0.05, 0.2])}
    shards = [distribute_tensor(t, mesh, [Shard(0)]) for t in (x, y)]
    everywhere = {name: distribute_tensor(t, mesh, [Replicate()]) for name, t in own.items()}
    for form in ("linear", "p_t"):
        for detached in (False, True):
            options = {"soft_targets": form, "detach_focusing": detached}
            got = asymmetric_loss(*shards, **everywhere, **options)
            torch.testing.assert_close(got.full_tensor(), asymmetric_loss(x, y, **own, **options))
    with pytest.raises(TypeError, match="input is a DTensor and gamma_neg is not"):
        asymmetric_loss(*shards, gamma_neg=own["gamma_neg"])


def in_compiled_graphs(mesh: dist.DeviceMesh) -> None:
    """One graph computes what the losses compute without, and checks the targets of its shard."""
    rows, last = 5, dist.get_rank() == dist.get_world_size() - 1
    mask = distribute_tensor(torch.arange(rows)[:, None] != torch.arange(2, 5), mesh, [Shard(0)])
    for loss in ONE_OF_EACH[:2]:
        torch.compiler.reset()
        x, y = (
            distribute_tensor(t, mesh, [Shard(0)]) for t in (loss.inputs(rows, 3), targets(rows, 3))
        )
        x.requires_grad_()
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        options = {"mask": mask, "reduction": "batch_mean", "label_smoothing": 0.1}
        got, expected = compiled(x, y, **options), loss(x, y, **options)
        torch.testing.assert_close(got.full_tensor(), expected.full_tensor())
        found = [torch.autograd.grad(value, x)[0].full_tensor() for value in (got, expected)]
        torch.testing.assert_close(*found)
        wrong = torch.zeros(rows, 3)
        wrong[-1, 1] = 255
        with pytest.raises(ValueError, match="is 255") if last else nullcontext():
            # Without a mask: the others would wait for the sum of a count of valid elements.
            compiled(x, distribute_tensor(wrong, mesh, [Shard(0)]))
    torch.compiler.reset()
    compiled = torch.compile(binary_cross_entropy_with_logits, backend="aot_eager")
    with pytest.raises(TypeError, match=r"input is a DTensor and target is not"):
        compiled(x, torch.zeros(rows, 3))


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for loss in ONE_OF_EACH:
        for rows, cols, dim in [(5, 3, 0), (4, 5, 1), (1, 4, 0)]:
            x, y = loss.inputs(rows, cols), targets(rows, cols)
            w = torch.rand(cols, generator=torch.Generator().manual_seed(2)).double() + 0.5
            shards = [distribute_tensor(t, mesh, [Shard(dim)]) for t in (x, y)]
            everywhere = distribute_tensor(w, mesh, [Replicate()])
            for reduction in ("mean", "sum", "weighted_mean", "batch_mean"):
                x.requires_grad_()
                shards[0].requires_grad_()
                expected = loss(x, y, weight=w, reduction=reduction)
                got = loss(*shards, weight=everywhere, reduction=reduction)
                assert isinstance(got, DTensor)
                place = f"{loss.name} {reduction} {rows}x{cols} sharded over {dim}"
                torch.testing.assert_close(
                    got.full_tensor(), expected, msg=lambda m, place=place: f"{place}: {m}"
                )
                (wanted,) = torch.autograd.grad(expected, x)
                (gradient,) = torch.autograd.grad(got, shards[0])
                torch.testing.assert_close(
                    gradient.full_tensor(), wanted, msg=lambda m, place=place: f"{place}: {m}"
                )
            mask = torch.ones(rows, cols, dtype=torch.bool)
            mask[-1] = False
            shards.append(distribute_tensor(mask, mesh, [Shard(dim)]))
            for reduction in ("mean", "batch_mean"):
                if rows == 1:
                    continue
                expected = loss(x, y, mask=mask, reduction=reduction)
                got = loss(*shards[:2], mask=shards[2], reduction=reduction)
                torch.testing.assert_close(got.full_tensor(), expected)
    values_of_other_processes_count(mesh)
    constants_per_class(mesh)
    in_compiled_graphs(mesh)
    if dist.get_rank() == 0:
        print("all losses agree")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
