"""Binary cross-entropy written out by hand, and where the ways to write it part.

    loss = -[ y log p + (1 - y) log(1 - p) ],    p = sigma(z) = 1 / (1 + exp(-z))

y is the label, p the predicted probability of y = 1, z the logit that a network puts out. Run
it and read the three tables: the formulas agree on easy numbers, and disagree on extreme ones.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import torchbce


def from_probabilities(p: Tensor, y: Tensor, eps: float = 1e-7) -> Tensor:
    """The formula as it stands. The clamp keeps log(0) out, at a price that the tables show."""
    p = p.clamp(eps, 1 - eps)
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p))


def from_logits(z: Tensor, y: Tensor) -> Tensor:
    """The same from logits. -log sigma(z) = log(1 + exp(-z)) = max(-z, 0) + log(1 + exp(-|z|)).

    exp of a number that is not positive cannot overflow, log1p keeps what is small beside 1, and
    a sum of terms that are not negative cannot cancel.
    """
    tail = torch.log1p(torch.exp(-z.abs()))
    if_positive = (-z).clamp(min=0) + tail
    if_negative = z.clamp(min=0) + tail
    return y * if_positive + (1 - y) * if_negative


def from_logits_hard(z: Tensor, y: Tensor) -> Tensor:
    """For labels that are exactly 0 or 1 one of the two terms is absent, and one log1p is enough.

    Do not use it for soft labels: whatever is not 1 counts as 0.
    """
    margin = torch.where(y == 1, z, -z)  # above 0 where the sign is right
    return (-margin).clamp(min=0) + torch.log1p(torch.exp(-margin.abs()))


def true_loss(z: float, y: int) -> float:
    """For a hard label, in float64. This one is exact to the digits shown, at infinity too."""
    margin = z if y == 1 else -z
    return max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))


def row(name: str, losses: Tensor) -> None:
    cells = "".join(f"{loss:>10.6f}" for loss in losses.tolist())
    print(f"{name:<52}{cells}   mean {losses.mean():.10f}")


def easy_probabilities() -> None:
    print("Probabilities .8 .2 .95 .05, labels 1 0 1 0. The loss looks at the chosen side only:")
    print("-log .8 twice and -log .95 twice.")
    p = torch.tensor([0.8, 0.2, 0.95, 0.05], dtype=torch.float64)
    y = torch.tensor([1, 0, 1, 0], dtype=torch.float64)
    row("by hand, clamped", from_probabilities(p, y))
    row("torch.nn.functional.binary_cross_entropy", F.binary_cross_entropy(p, y, reduction="none"))
    loss = torchbce.functional.binary_cross_entropy
    row("torchbce binary_cross_entropy", loss(p, y, reduction="none"))
    print(f"rounded: {loss(p, y):.4f}\n")


def easy_logits() -> None:
    print("Logits 5 -2 .5, labels 1 0 1:")
    z = torch.tensor([5, -2, 0.5], dtype=torch.float64)
    y = torch.tensor([1, 0, 1], dtype=torch.float64)
    row("by hand, through the sigmoid", from_probabilities(torch.sigmoid(z), y))
    row("by hand, log1p", from_logits(z, y))
    row("by hand, hard labels", from_logits_hard(z, y))
    theirs = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    row("torch.nn.functional.binary_cross_entropy_with_logits", theirs)
    ours = torchbce.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    row("torchbce binary_cross_entropy_with_logits", ours)

    # A soft label says "one in four of these is positive". The short form calls it a negative.
    soft = torch.full((3,), 0.25, dtype=torch.float64)
    print("The same logits, every label .25:")
    row("by hand, log1p", from_logits(z, soft))
    row("by hand, hard labels: wrong here", from_logits_hard(z, soft))
    ours = torchbce.functional.binary_cross_entropy_with_logits(z, soft, reduction="none")
    row("torchbce binary_cross_entropy_with_logits", ours)
    print()


def many_labels() -> None:
    # Nothing changes when a row has several labels: each is a question of its own.
    print("Two rows of three labels each: the loss has the shape of the logits.")
    z = torch.tensor([[2.0, -1.0, 0.0], [-3.0, 4.0, 1.0]])
    y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    by_hand = from_logits(z, y)
    ours = torchbce.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    for hand, our in zip(by_hand.tolist(), ours.tolist(), strict=True):
        print("".join(f"{x:>10.6f}" for x in hand), " by hand,", end="")
        print("".join(f"{x:>10.6f}" for x in our), " torchbce")
    print(f"largest difference {(by_hand - ours).abs().max():.0e}\n")


def extreme_logits() -> None:
    print("Extreme logits in float32. In turn: -log(sigmoid), sigmoid and a clamp at 1e-7,")
    print("PyTorch's loss from logits, ours, and the truth.")
    print(f"{'z':>5} y {'naive':>12} {'clamp':>12} {'torch':>12} {'torchbce':>12} {'truth':>12}")
    magnitudes = (17.0, 40.0, 100.0, math.inf)
    for logit in (*magnitudes, *(-m for m in magnitudes)):
        for label in (1, 0):
            z, y = torch.tensor(logit), torch.tensor(float(label))
            p = torch.sigmoid(z)
            cells = (
                (-torch.log(p if label == 1 else 1 - p)).item(),
                from_probabilities(p, y).item(),
                F.binary_cross_entropy_with_logits(z, y).item(),
                torchbce.functional.binary_cross_entropy_with_logits(z, y).item(),
                true_loss(logit, label),
            )
            numbers = " ".join(f"{cell:>12.4g}" for cell in cells)
            print(f"{logit:>+5g} {label} {numbers}")
    # What to see. From +17 on a float32 sigmoid is 1: the loss of a positive is lost, that of a
    # negative infinite. The clamp turns both into constants, whose gradient is 0, so that the worst
    # mistakes teach nothing. PyTorch subtracts two nearly equal numbers for a good negative, which
    # gives 0 at -17, -40 and -100, and inf - inf = NaN in three of four cases at infinity. Ours is
    # the truth rounded to float32; near 4e-44 that type has no more than two digits.


def main() -> None:
    easy_probabilities()
    easy_logits()
    many_labels()
    extreme_logits()


if __name__ == "__main__":
    main()
