"""Run under torchrun: sharded heads and pairs over processes compute what one process does."""

import tempfile
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import parallelize_module

import torchbce
from family import once

CLOSE = {"rtol": 2e-6, "atol": 1e-7}  # float32 sums in another order


def batch(rows: int, labels: int, width: int = 6) -> tuple[Tensor, ...]:
    """Input, weight, bias and positives, the same on every process."""
    g = torch.Generator().manual_seed(labels)
    x = torch.randn(rows, width, generator=g)
    weight, bias = torch.randn(labels, width, generator=g), torch.randn(labels, generator=g)
    return x, weight, bias, once(torch.randint(-1, labels, (rows, 3), generator=g))


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, of, torch.full_like(loss, 0.7))
    return [g.full_tensor() if isinstance(g, DTensor) else g for g in found]


def shards_agree(mesh: dist.DeviceMesh) -> None:
    # 5 labels over 4 processes are 2, 2, 1 and none.
    for labels in (5, 37, dist.get_world_size(), 1):
        x, weight, bias, positives = batch(4, labels)
        g = torch.Generator().manual_seed(labels)
        options = {
            "pos_weight": torch.rand(labels, generator=g) + 0.5,
            "label_weight": torch.rand(labels, generator=g),
            "mask": torch.rand(4, labels, generator=g) > 0.2,
            "ignored": once(torch.randint(-1, labels, (4, 1), generator=g)),
            "row_weight": torch.rand(4, generator=g),
        }
        dense = torch.zeros(4, labels)
        for row, listed in enumerate(positives):
            dense[row, listed[listed >= 0]] = 1
        for given in ({}, options):
            for reduction in ("mean", "sum", "batch_mean", "none"):
                for target in (positives, dense, dense.to_sparse()):
                    one = [t.clone().requires_grad_() for t in (x, weight, bias)]
                    many = [
                        x.clone().requires_grad_(),
                        distribute_tensor(weight, mesh, [Shard(0)]).requires_grad_(),
                        distribute_tensor(bias, mesh, [Shard(0)]).requires_grad_(),
                    ]
                    losses = [
                        torchbce.linear_binary_cross_entropy(
                            i, w, target, b, reduction=reduction, chunk_labels=3, **given
                        )
                        for i, w, b in (one, many)
                    ]
                    torch.testing.assert_close(losses[1], losses[0], **CLOSE)
                    wanted, got = gradients(losses[0], *one), gradients(losses[1], *many)
                    torch.testing.assert_close(got, wanted, **CLOSE)


def inputs_on_the_mesh(mesh: dist.DeviceMesh) -> None:
    x, weight, _, positives = batch(4, 7)
    replicated = distribute_tensor(x, mesh, [Replicate()]).requires_grad_()
    w = distribute_tensor(weight, mesh, [Shard(0)])
    loss = torchbce.linear_binary_cross_entropy(replicated, w, positives)
    assert isinstance(loss, DTensor)
    x.requires_grad_()
    expected = torchbce.linear_binary_cross_entropy(x, weight, positives)
    torch.testing.assert_close(loss.full_tensor(), expected, **CLOSE)
    torch.testing.assert_close(gradients(loss, replicated), gradients(expected, x), **CLOSE)


def misplaced(mesh: dist.DeviceMesh) -> None:
    x, weight, bias, positives = batch(4, 8)
    sharded = distribute_tensor(weight, mesh, [Shard(0)])
    loss = torchbce.linear_binary_cross_entropy
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (
            ValueError,
            r"weight has placements \(Shard\(dim=1\),\); a head is sharded over labels",
            lambda: loss(x, distribute_tensor(weight, mesh, [Shard(1)]), positives),
        ),
        (
            TypeError,
            "and bias is not one; place both in the same way",
            lambda: loss(x, sharded, positives, bias),
        ),
        (
            ValueError,
            "place both in the same way",
            lambda: loss(x, sharded, positives, distribute_tensor(bias, mesh, [Replicate()])),
        ),
        (
            ValueError,
            "every process that holds labels needs every row",
            lambda: loss(distribute_tensor(x, mesh, [Shard(0)]), sharded, positives),
        ),
        (
            TypeError,
            "bias is a DTensor and weight is not",
            lambda: loss(x, weight, positives, distribute_tensor(bias, mesh, [Shard(0)])),
        ),
        (
            ValueError,
            "expected: shards must be those of torch.chunk",
            lambda: loss(
                x,
                DTensor.from_local(
                    weight[: 1 + 2 * dist.get_rank()],
                    mesh,
                    [Shard(0)],
                    run_check=False,
                    shape=torch.Size((8, 6)),
                    stride=(6, 1),
                ),
                positives,
            ),
        ),
        (
            ValueError,
            r"target\[0, 0\] is 8; with 8 rows of weight the labels are 0 to 7",
            lambda: loss(x, sharded, torch.full((4, 1), 8)),
        ),
    ]
    for error, words, call in cases:
        with pytest.raises(error, match=words):
            call()
    rank, last = dist.get_rank(), dist.get_world_size() - 1

    def alone(
        error: type[Exception], words: str, of_others: str, call: Callable[[], object]
    ) -> None:
        """The last process raises its own message, and the others one that refers to it."""
        with pytest.raises(error, match=words if rank == last else of_others):
            call()

    other = "another of the processes that hold the labels refused its arguments"
    broken = x.clone()
    broken[1, 2] = torch.nan if rank == last else 0
    alone(ValueError, r"input\[1, 2\] is nan", other, lambda: loss(broken, sharded, positives))
    lists = torch.full((4, 1), 8 if rank == last else 7)
    alone(ValueError, r"target\[0, 0\] is 8", other, lambda: loss(x, sharded, lists))
    held = weight[: 2 * 8 // (last + 1)] if rank == last else sharded.to_local()
    shaped = {"run_check": False, "shape": torch.Size((8, 6)), "stride": (6, 1)}
    uneven = DTensor.from_local(held, mesh, [Shard(0)], **shaped)
    alone(
        ValueError, "shards must be those of torch.chunk", other, lambda: loss(x, uneven, positives)
    )
    # A label that only one process holds, in a target that all processes have.
    dense = torch.zeros(4, 8)
    dense[2, 0] = 2
    with pytest.raises(ValueError, match=r"target\[2, 0\] is 2\.0"):
        loss(x, sharded, dense)
    # The outputs of layer_norm sum to 0 for every batch, and no sum depends on the order of rows.
    normed = torch.nn.functional.layer_norm(x + rank * x.flip(0).square(), (6,))
    for differing, mine in (
        ("input", (normed, positives)),
        ("input", (x.roll(int(rank == last), 0), positives)),
        ("target", (x, positives.roll(int(rank == last), 0))),
        ("target", (x, torch.eye(4, 8).roll(int(rank == last), 1).to_sparse())),
        ("input", (x[: 3 + (rank == last)], positives[: 3 + (rank == last)])),
    ):
        with pytest.raises(ValueError, match=f"{differing} differs between the processes"):
            loss(mine[0], sharded, mine[1])
    with pytest.raises(ValueError, match="input requires grad on some of the processes"):
        loss(x.clone().requires_grad_(rank == last), sharded, positives)
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(loss(x, sharded, positives), x, create_graph=True)


def heads_agree(mesh: dist.DeviceMesh) -> None:
    x, _, _, positives = batch(4, 11)
    for make in (
        lambda: None,
        lambda: torchbce.FusedSGD(lr=0.3, weight_decay=0.01),
        lambda: torchbce.FusedRowwiseAdagrad(lr=0.3, weight_decay=0.01),
        lambda: torchbce.FusedAdagrad(lr=0.3, weight_decay=0.01),
    ):
        torch.manual_seed(3)
        one = torchbce.LinearBCELoss(6, 11, chunk_labels=2, fused_optimizer=make())
        torch.manual_seed(3)
        many = torchbce.LinearBCELoss(6, 11, chunk_labels=2, fused_optimizer=make())
        many.shard_labels(mesh)
        for head in (one, many):
            step = torch.optim.Adagrad(head.parameters(), lr=0.1)
            for _ in range(3):
                step.zero_grad()
                head(x, positives).backward()
                step.step()
        for name, value in one.state_dict().items():
            placed = many.state_dict()[name]
            whole = placed.full_tensor() if isinstance(placed, DTensor) else placed
            torch.testing.assert_close(whole, value, rtol=2e-5, atol=1e-6)
        for k in (1, 5, 11):
            best, expected = many.topk(x, k), one.topk(x, k)
            torch.testing.assert_close(best.values, expected.values, rtol=2e-5, atol=1e-6)
            torch.testing.assert_close(best.indices, expected.indices)
        logits = many.logits(x)
        assert isinstance(logits, DTensor)
        torch.testing.assert_close(logits.full_tensor(), one.logits(x), rtol=2e-5, atol=1e-6)

        folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(folder)
        checkpoint.save(many.state_dict(), checkpoint_id=folder[0])
        torch.manual_seed(4)
        fresh = torchbce.LinearBCELoss(6, 11, fused_optimizer=make()).shard_labels(mesh)
        state = fresh.state_dict()
        checkpoint.load(state, checkpoint_id=folder[0])
        fresh.load_state_dict(state)
        torch.testing.assert_close(fresh(x, positives), many(x, positives))


def topk_of_infinite_logits(mesh: dist.DeviceMesh) -> None:
    """A process with fewer than k labels sends what is no label; a logit may be -inf."""
    for labels in (5, 11):
        head = torchbce.LinearBCELoss(6, labels)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.fill_(-torch.inf)
            head.bias[-2] = 1
        head.shard_labels(mesh)
        for k in (1, 3, labels):
            values, indices = head.topk(torch.zeros(4, 6), k)
            assert values[:, 0].eq(1).all()
            assert values[:, 1:].eq(-torch.inf).all()
            assert indices[:, 0].eq(labels - 2).all()
            assert all(len(set(row)) == k for row in indices.tolist())


class WithLoss(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.encoder = nn.Linear(6, 6)
        self.head = torchbce.LinearBCELoss(6, 11, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor, positives: Tensor, **given: Tensor) -> Tensor:
        loss: Tensor = self.head(self.encoder(x), positives, **given)
        return loss


def a_plan_with_a_head(mesh: dist.DeviceMesh) -> None:
    """LabelParallel in a plan, with the whole input and with a part of it on each process."""
    world, rank = dist.get_world_size(), dist.get_rank()
    x, _, _, positives = batch(2 * world, 11)
    given = {"row_weight": torch.linspace(0.5, 2, 2 * world)}
    one = WithLoss(pos_weight=2.0)
    expected = one(x, positives, **given)
    expected.backward()
    style = torchbce.LabelParallel()
    many = parallelize_module(WithLoss(pos_weight=2.0), mesh, {"head": style})
    loss = many(x, positives, **given)
    loss.backward()
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert many.head.weight.placements == (Shard(0),)
    for wanted, got in zip(one.parameters(), many.parameters(), strict=True):
        gradient = got.grad
        if isinstance(gradient, DTensor):
            gradient = gradient.full_tensor()
        torch.testing.assert_close(gradient, wanted.grad, **CLOSE)
    # A replicated DTensor, as the layers before a head may return it.
    replicated = distribute_tensor(one.encoder(x).detach(), mesh, [Replicate()])
    loss = many.head(replicated, positives, **given)
    torch.testing.assert_close(loss.full_tensor(), expected, **CLOSE)
    # Each process has its own rows.
    mine = slice(2 * rank, 2 * rank + 2)
    apart = parallelize_module(
        WithLoss(pos_weight=2.0), mesh, {"head": torchbce.LabelParallel(input_layouts=Shard(0))}
    )
    loss = apart(x[mine], positives, **given)
    loss.backward()
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert one.encoder.weight.grad is not None
    assert apart.encoder.weight.grad is not None
    of_encoder = apart.encoder.weight.grad.clone()
    dist.all_reduce(of_encoder)
    torch.testing.assert_close(of_encoder, one.encoder.weight.grad, **CLOSE)
    torch.testing.assert_close(apart.head.weight.grad.full_tensor(), one.head.weight.grad, **CLOSE)
    with pytest.raises(TypeError, match=r"of a torchbce\.LinearBCELoss, got Linear; for torch\.nn"):
        parallelize_module(WithLoss(), mesh, {"encoder": style})
    with pytest.raises(TypeError, match=r"input_layouts must be a placement .* got int"):
        torchbce.LabelParallel(input_layouts=0)  # type: ignore[arg-type]


def pairs_agree() -> None:
    world, rank = dist.get_world_size(), dist.get_rank()
    for counts in ([3] * world, [5, *range(world - 1)]):
        g = torch.Generator().manual_seed(1)
        x, y = (torch.randn(sum(counts), 4, generator=g) for _ in range(2))
        for dtype, reduction in (
            (torch.float32, "batch_mean"),
            (torch.float32, "sum"),
            (torch.float32, "mean"),
            (torch.bfloat16, "batch_mean"),
        ):
            leaves = [t.to(dtype).requires_grad_() for t in (x, y)]
            numbers = [
                torch.tensor(2.0, requires_grad=True),
                torch.tensor(-1.0, requires_grad=True),
            ]
            mine = [t.split(counts)[rank].detach().requires_grad_() for t in leaves]
            whole = torchbce.pairwise_sigmoid_loss(
                *leaves, scale=numbers[0], bias=numbers[1], reduction=reduction
            )
            share = torchbce.pairwise_sigmoid_loss(
                *mine,
                scale=numbers[0],
                bias=numbers[1],
                reduction=reduction,
                group=dist.group.WORLD,
                chunk_pairs=2,
            )
            wanted, got = gradients(whole, *leaves, *numbers), gradients(share, *mine, *numbers)
            total = share.detach().clone()
            for tensor in (total, *got[2:]):
                dist.all_reduce(tensor)
            torch.testing.assert_close(total, whole.detach(), **CLOSE)
            wanted[:2] = [t.split(counts)[rank] for t in wanted[:2]]
            close = CLOSE if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-7}
            torch.testing.assert_close(got, wanted, rtol=10 * close["rtol"], atol=1e-6)
    feature = torch.ones(2, 3)
    ours = torchbce.pairwise_sigmoid_loss
    given = {"scale": 1.0, "bias": 0.0, "group": dist.group.WORLD}
    wide = torch.ones(2, 3 + rank)
    with pytest.raises(ValueError, match=r"the width of y differs between the processes.*: 3, 4"):
        ours(wide, wide, **given)
    with pytest.raises(ValueError, match=r"the reduction differs.*: batch_mean, sum"):
        ours(feature, feature, reduction="sum" if rank else "batch_mean", **given)
    with pytest.raises(ValueError, match=r"whether y requires grad differs.*: False, True"):
        ours(feature, feature.clone().requires_grad_(rank > 0), **given)
    bad = feature.clone()
    bad[1, 0] = torch.inf if rank == 0 else 1
    words = r"x\[1, 0\] is inf" if rank == 0 else "another process of the group refused"
    with pytest.raises(ValueError, match=words):
        ours(bad, feature, **given)


def open_clip_loss(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The loss of one process as open_clip 3.3.0 computes it: dense, all texts gathered."""
    texts = dist.nn.functional.all_gather(y)
    total: Tensor = x.new_zeros(())
    for owner, block in enumerate(texts):
        signs = -torch.ones(len(x), len(block))
        if owner == dist.get_rank():
            signs += 2 * torch.eye(len(x))
        total = total - nn.functional.logsigmoid(signs * (scale * x @ block.T + bias)).sum()
    return total / len(x)


def the_module_of_pairs_is_open_clips() -> None:
    world, rank = dist.get_world_size(), dist.get_rank()
    g = torch.Generator().manual_seed(rank)
    leaves = [nn.functional.normalize(torch.randn(3, 4, generator=g), dim=1) for _ in range(2)]
    leaves += [torch.tensor(10.0), torch.tensor(-9.0)]
    leaves = [t.requires_grad_() for t in leaves]
    module = torchbce.PairwiseSigmoidLoss(True, rank, world, "shift", chunk_pairs=2)
    names = ("image_features", "text_features", "logit_scale", "logit_bias")
    ours = module(**dict(zip(names, leaves, strict=True)), output_dict=True)["contrastive_loss"]
    theirs = open_clip_loss(*leaves)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    got, wanted = gradients(ours, *leaves), gradients(theirs, *leaves)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    for other in (1 - rank if world == 2 else (rank + 1) % world, rank):
        count = world if other != rank else world + 1
        wrong = torchbce.PairwiseSigmoidLoss(rank=other, world_size=count)
        words = f"rank is {other} and world_size {count}, and torch.distributed has rank {rank}"
        with pytest.raises(RuntimeError, match=words):
            wrong(*leaves)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.encoder, self.head = nn.Linear(6, 6), torchbce.LinearBCELoss(6, 7)

    def forward(self, x: Tensor, positives: Tensor) -> Tensor:
        loss: Tensor = self.head(self.encoder(x), positives)
        return loss


def rows_and_labels(grid: dist.DeviceMesh) -> None:
    """Labels over one dimension of a mesh, rows over the other."""
    x, _, _, positives = batch(6, 7)
    one, many = Model(), Model()
    one(x, positives).backward()
    many.head.shard_labels(grid["labels"])
    mine = slice(3) if grid["copies"].get_local_rank() == 0 else slice(3, 6)
    parallel = nn.parallel.DistributedDataParallel(many, device_mesh=grid["copies"])
    # As an optimizer has them: a sharded parameter is replaced by its local tensor.
    parameters = list(parallel.parameters())
    parallel(x[mine], positives[mine]).backward()
    here = grid["labels"].get_local_rank()
    for wanted, got in zip(one.parameters(), parameters, strict=True):
        gradient = wanted.grad
        assert gradient is not None
        if got.shape != wanted.shape:
            gradient = gradient.split(4)[here]
        torch.testing.assert_close(got.grad, gradient, **CLOSE)


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    shards_agree(mesh)
    inputs_on_the_mesh(mesh)
    misplaced(mesh)
    heads_agree(mesh)
    topk_of_infinite_logits(mesh)
    a_plan_with_a_head(mesh)
    pairs_agree()
    the_module_of_pairs_is_open_clips()
    if dist.get_world_size() == 4:
        grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "labels"))
        x, weight, _, positives = batch(4, 7)
        placed = distribute_tensor(weight, grid, [Replicate(), Shard(0)])
        got = torchbce.linear_binary_cross_entropy(x, placed, positives)
        expected = torchbce.linear_binary_cross_entropy(x, weight, positives)
        torch.testing.assert_close(got, expected, **CLOSE)
        rows_and_labels(grid)
    if dist.get_rank() == 0:
        print("one process and many agree")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
