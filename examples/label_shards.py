"""A head whose labels are spread over processes, trained, saved and loaded by PyTorch's own tools.

    torchrun --nproc-per-node=2 examples/label_shards.py

Every process is given the same rows and holds some of the labels. Without torchrun the same code
runs in one process, which holds all labels.
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
        # Every process has the whole encoder. The loss sums the encoder's gradient over all labels,
        # so that every process takes the same step.
        self.encoder = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU())
        self.head = torchbce.LinearBCELoss(HIDDEN, LABELS, prior=POSITIVES / LABELS)
        self.head.shard_labels(mesh)

    def forward(self, x: Tensor, positives: Tensor) -> Tensor:
        loss: Tensor = self.head(self.encoder(x), positives)
        return loss

    def precision(self, x: Tensor, positives: Tensor) -> float:
        """The share of rows whose best label is a positive, P@1."""
        best = self.head.topk(self.encoder(x), 1).indices
        correct = (best == positives).any(1)
        return int(correct.sum()) / len(correct)


def data() -> tuple[Tensor, Tensor]:
    """Rows, and the labels to which a random linear model gives the largest logits."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=g)
    weight = torch.randn(LABELS, FEATURES, generator=g)
    return x, (x @ weight.T).topk(POSITIVES).indices


def make_optimizer(model: Tagger) -> torch.optim.Optimizer:
    # Two groups: an optimizer updates the tensors of a group together, and cannot mix plain tensors
    # with DTensors.
    parts = (model.encoder, model.head)
    return torch.optim.AdamW([{"params": part.parameters()} for part in parts], lr=0.01)


def train(model: Tagger, optimizer: torch.optim.Optimizer, epochs: int) -> float:
    """Train, and return the loss of all rows."""
    x, positives = data()
    for _ in range(epochs):
        for batch in DataLoader(TensorDataset(x, positives), batch_size=64):
            optimizer.zero_grad()
            model(*batch).backward()
            optimizer.step()
    with torch.no_grad():
        return float(model(x, positives))


def state_of(model: Tagger, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": model_state, "optimizer": optimizer_state}


def print_once(text: str) -> None:
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
    optimizer = make_optimizer(model)
    weight: Any = model.head.weight
    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(held, weight.to_local().shape[0])
    print_once(f"{LABELS} labels over {len(held)} processes: {held}")

    x, positives = data()
    print_once(f"P@1 before: {model.precision(x, positives):.3f}")
    print_once(f"loss after 20 epochs: {train(model, optimizer, 20):.5f}")
    print_once(f"P@1 after: {model.precision(x, positives):.3f}")

    folder: list[Any] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    save(state_of(model, optimizer), checkpoint_id=folder[0])

    loaded = Tagger(mesh)
    loaded_optimizer = make_optimizer(loaded)
    state = state_of(loaded, loaded_optimizer)
    load(state, checkpoint_id=folder[0])
    set_state_dict(
        loaded,
        loaded_optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    print_once(f"P@1 loaded: {loaded.precision(x, positives):.3f}")
    same = train(model, optimizer, 1) == train(loaded, loaded_optimizer, 1)
    print_once(f"one more epoch of both, the same loss: {same}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
