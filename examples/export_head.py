"""A head trained by its loss, and what serves it: a linear layer, an exported program, ONNX.

    python examples/export_head.py

The loss, its weights and the fused optimizer are for training only. `head.to_linear()` is the layer
without them. ONNX needs the packages onnx, onnxscript and onnxruntime.
"""

import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchbce

ROWS, FEATURES, LABELS, K = 512, 32, 2000, 3


class Server(nn.Module):
    """What is served: the labels with the largest logits, and their probabilities."""

    def __init__(self, encoder: nn.Module, linear: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.linear = encoder, linear

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, labels = torch.topk(self.linear(self.encoder(x)), K)
        return torch.sigmoid(values), labels


def data() -> tuple[Tensor, Tensor]:
    """Rows, and the labels to which a random linear model gives the largest logits."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=g)
    weight = torch.randn(LABELS, FEATURES, generator=g)
    return x, (x @ weight.T).topk(K).indices


def train(encoder: nn.Module, head: torchbce.LinearBCELoss, epochs: int) -> float:
    """Train, and return the loss of the last batch."""
    x, positives = data()
    steps = torch.optim.Adam(encoder.parameters(), lr=0.001)
    assert head.fused_optimizer is not None
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for optimizer in (steps, head.fused_optimizer)
    ]
    loss = torch.tensor(0.0)
    for _ in range(epochs):
        for rows, labels in DataLoader(TensorDataset(x, positives), batch_size=64):
            steps.zero_grad()
            loss = head(encoder(rows), labels)
            loss.backward()  # updates the head
            steps.step()  # updates the encoder
        for schedule in schedules:
            schedule.step()
    return loss.item()


def main() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(FEATURES, 48), nn.ReLU())
    optimizer = torchbce.FusedAdagrad(lr=0.1)
    head = torchbce.LinearBCELoss(
        48, LABELS, prior=K / LABELS, pos_weight=2.0, fused_optimizer=optimizer
    )
    print(f"loss after 20 epochs: {train(encoder, head, 20):.5f}")
    x, positives = data()

    # The weights in a layer of PyTorch: nothing is missing and nothing is left over.
    linear = nn.Linear(48, LABELS)
    print(f"loaded into nn.Linear: {linear.load_state_dict(head.to_linear().state_dict())}")

    # Without the layers' gradients and for any number of rows.
    server = Server(encoder, linear).eval()
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(server, (x[:2],), dynamic_shapes=({0: rows},))
    file = Path(tempfile.mkdtemp()) / "server.pt2"
    torch.export.save(program, file)
    _, labels = torch.export.load(file).module()(x)
    best = head.topk(encoder(x), K).indices
    print(f"the exported program finds head.topk: {(labels == best).float().mean():.3f}")
    correct = (labels[:, :1] == positives).any(1).float().mean()
    print(f"P@1: {correct:.3f}")

    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        print("ONNX: not installed")
        return
    onnxruntime = importlib.import_module("onnxruntime")
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    _, found = session.run(None, {name: x.numpy()})
    print(f"ONNX finds head.topk: {(torch.from_numpy(found) == best).float().mean():.3f}")


if __name__ == "__main__":
    main()
