"""A head whose labels are spread over processes, trained, saved and loaded by PyTorch's own tools.

    torchrun --nproc-per-node=2 examples/label_shards.py

Every process sees the same rows and holds some of the labels. Without torchrun there is one
process, which holds them all, and the same code runs.
"""

import os
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils.data import DataLoader, TensorDataset

import torchbce

ROWS, FEATURES, HIDDEN, LABELS, POSITIVES = 512, 32, 48, 1001, 3


class Tagger(nn.Module):
    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        # The encoder is whole on every process. The loss sums its gradient over the labels, so that
        # all of them take the same step and stay alike.
        self.encoder = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU())
        self.head = torchbce.LinearBCELoss(HIDDEN, LABELS, prior=POSITIVES / LABELS)
        self.head.shard_labels(mesh)

    def forward(self, x: Tensor, positives: Tensor) -> Tensor:
        loss: Tensor = self.head(self.encoder(x), positives)
        return loss

    def precision(self, x: Tensor, positives: Tensor) -> float:
        """Of how many rows the best label is one of the positives."""
        best = self.head.topk(self.encoder(x), 1).indices
        right = (best == positives).any(1)
        return int(right.sum()) / len(right)


def data() -> tuple[Tensor, Tensor]:
    """The labels of a row are those that a hidden model scores highest."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=g)
    hidden = torch.randn(LABELS, FEATURES, generator=g)
    return x, (x @ hidden.T).topk(POSITIVES).indices


def optimiser(model: Tagger) -> torch.optim.Optimizer:
    # Two groups, since an optimiser updates the tensors of a group together, and shards are tensors
    # of another kind.
    parts = (model.encoder, model.head)
    return torch.optim.AdamW([{"params": part.parameters()} for part in parts], lr=0.01)


def train(model: Tagger, step: torch.optim.Optimizer, epochs: int) -> float:
    x, positives = data()
    for _ in range(epochs):
        for rows in DataLoader(TensorDataset(x, positives), batch_size=64):
            step.zero_grad()
            model(*rows).backward()
            step.step()
    with torch.no_grad():
        return float(model(x, positives))


def state_of(model: Tagger, step: torch.optim.Optimizer) -> dict[str, Any]:
    of_model, of_optimiser = get_state_dict(model, step)
    return {"model": of_model, "optimiser": of_optimiser}


def say(text: str) -> None:
    if dist.get_rank() == 0:
        print(text)


def start() -> DeviceMesh:
    if "RANK" in os.environ:  # torchrun sets it
        dist.init_process_group("gloo")
    else:
        dist.init_process_group(
            "gloo", init_method=f"file://{tempfile.mkdtemp()}/one", rank=0, world_size=1
        )
    torch.manual_seed(1)
    return init_device_mesh("cpu", (dist.get_world_size(),))


def main() -> None:
    mesh = start()
    model = Tagger(mesh)
    step = optimiser(model)
    weight: Any = model.head.weight
    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(held, weight.to_local().shape[0])
    say(f"{LABELS} labels over {len(held)} processes: {held}")

    x, positives = data()
    say(f"P@1 before: {model.precision(x, positives):.3f}")
    say(f"loss after 20 epochs: {train(model, step, 20):.5f}")
    say(f"P@1 after: {model.precision(x, positives):.3f}")

    folder: list[Any] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    save(state_of(model, step), checkpoint_id=folder[0])

    fresh = Tagger(mesh)
    fresh_step = optimiser(fresh)
    state = state_of(fresh, fresh_step)
    load(state, checkpoint_id=folder[0])
    set_state_dict(
        fresh, fresh_step, model_state_dict=state["model"], optim_state_dict=state["optimiser"]
    )
    say(f"P@1 loaded: {fresh.precision(x, positives):.3f}")
    same = train(model, step, 1) == train(fresh, fresh_step, 1)
    say(f"one more epoch of both, the same loss: {same}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
