"""A sigmoid in the model with BCELoss, or none with BCEWithLogitsLoss; and both mix-ups.

The two correct ways train the same model: the sigmoid is part of the network, or of the loss. The
second is better, because a loss of logits needs no logarithm of a rounded probability.
"""

import math

import torch
from torch import Tensor, nn

import torchbce

STEPS = 300


def make_data() -> tuple[Tensor, Tensor]:
    """Points in the plane, and random labels whose probability depends on the point."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 2, generator=generator)
    p = torch.sigmoid(3 * x[:, 0] - 2 * x[:, 1] - 1.5)
    return x, torch.bernoulli(p, generator=generator)


def make_model(*, ends_in_sigmoid: bool) -> nn.Sequential:
    torch.manual_seed(0)  # the same initial weights for each model
    layers: list[nn.Module] = [nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)]
    return nn.Sequential(*layers, nn.Sigmoid()) if ends_in_sigmoid else nn.Sequential(*layers)


def train(model: nn.Module, criterion: nn.Module, x: Tensor, y: Tensor) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = criterion(model(x), y)  # (600, 1) and (600,): a trailing 1 is allowed
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(criterion(model(x), y))


def report(name: str, loss: float, p: Tensor, y: Tensor) -> None:
    accuracy = ((p > 0.5) == (y == 1)).float().mean()
    print(
        f"{name:<36} loss {loss:.4f}  accuracy {accuracy:.3f}  "
        f"p from {p.min():.3f} to {p.max():.3f}, mean {p.mean():.3f}"
    )


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, *, sigmoids: int) -> Tensor:
    """Probabilities: the outputs of the model, after this many sigmoids."""
    out: Tensor = model(x).squeeze(1)  # squeeze() alone would also remove a batch of size 1
    for _ in range(sigmoids):
        out = torch.sigmoid(out)
    return out


def main() -> None:
    x, y = make_data()
    print(f"{len(y)} points, {y.mean():.3f} of them positive\n")

    probabilities = make_model(ends_in_sigmoid=True)
    loss = train(probabilities, torchbce.BCELoss(), x, y)
    p_first = predict(probabilities, x, sigmoids=0)
    report("sigmoid in the model, BCELoss", loss, p_first, y)

    logits = make_model(ends_in_sigmoid=False)
    loss = train(logits, torchbce.BCEWithLogitsLoss(), x, y)
    p_second = predict(logits, x, sigmoids=1)
    report("logits out, BCEWithLogitsLoss", loss, p_second, y)
    print(f"largest difference of their probabilities: {(p_first - p_second).abs().max():.1e}\n")

    # Mix-up 1: the loss applies a second sigmoid. It trains without any error. What the loss takes
    # for a probability is the sigmoid of a number in (0, 1), hence between .5 and .731: a confident
    # positive still has a loss of -log .731 = .313, and a confident negative of -log .5 = .693.
    twice = make_model(ends_in_sigmoid=True)
    loss = train(twice, torchbce.BCEWithLogitsLoss(), x, y)
    report("sigmoid twice, as the loss sees it", loss, predict(twice, x, sigmoids=1), y)
    once = predict(twice, x, sigmoids=0)
    report("sigmoid twice, as the model says it", loss, once, y)
    base = float(y.mean())
    floor = base * math.log1p(math.exp(-1)) + (1 - base) * math.log(2)
    print(f"its loss cannot fall below {floor:.4f}; to approach that, its outputs move to 0 and 1:")
    right, wrong = (float(((p < 0.02) | (p > 0.98)).float().mean()) for p in (p_second, once))
    print(f"share of outputs within .02 of 0 or 1: {right:.3f} if right, {wrong:.3f} here")
    right, wrong = (float(((p - y) ** 2).mean()) for p in (p_second, once))
    print(f"mean squared error of the probabilities: {right:.4f} if right, {wrong:.4f} here\n")

    # Mix-up 2: logits where probabilities are expected. The first step raises an error.
    try:
        train(make_model(ends_in_sigmoid=False), torchbce.BCELoss(), x, y)
    except ValueError as error:
        print(f"logits into BCELoss: {error}")


if __name__ == "__main__":
    main()
