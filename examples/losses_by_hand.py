"""Binary cross-entropy written by hand, and where the ways to write it give different results.

    loss = -[ y log p + (1 - y) log(1 - p) ],    p = sigma(z) = 1 / (1 + exp(-z))

y is the label, p the predicted probability that y = 1, and z the logit, the output of a network.
The tables that this script prints show that the formulas agree on moderate numbers and disagree on
extreme ones.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import torchbce


def from_probabilities(p: Tensor, y: Tensor, eps: float = 1e-7) -> Tensor:
    """The formula as written above. The clamp avoids log(0); the tables show what it costs."""
    p = p.clamp(eps, 1 - eps)
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p))


def from_logits(z: Tensor, y: Tensor) -> Tensor:
    """The same from logits: -log sigma(z) = log(1 + exp(-z)) = max(-z, 0) + log(1 + exp(-|z|)).

    exp(-|z|) cannot overflow, log1p(x) stays accurate for x much smaller than 1, and a sum of
    nonnegative terms cannot cancel.
    """
    tail = torch.log1p(torch.exp(-z.abs()))
    if_positive = (-z).clamp(min=0) + tail
    if_negative = z.clamp(min=0) + tail
    return y * if_positive + (1 - y) * if_negative


def from_logits_hard(z: Tensor, y: Tensor) -> Tensor:
    """For labels of exactly 0 or 1: one of the two terms is 0, and one log1p is enough.

    Do not use it for soft labels: every value other than 1 counts as 0.
    """
    margin = torch.where(y == 1, z, -z)  # positive where the prediction is correct
    return (-margin).clamp(min=0) + torch.log1p(torch.exp(-margin.abs()))


def true_loss(z: float, y: int) -> float:
    """The loss of a hard label in float64, exact to the digits shown, also at infinity."""
    margin = z if y == 1 else -z
    return max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))


def row(name: str, losses: Tensor) -> None:
    cells = "".join(f"{loss:>10.6f}" for loss in losses.tolist())
    print(f"{name:<52}{cells}   mean {losses.mean():.10f}")


def easy_probabilities() -> None:
    print("Probabilities .8 .2 .95 .05, labels 1 0 1 0. Only the probability of the actual label")
    print("counts: the losses are -log .8 twice and -log .95 twice.")
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

    # The soft label .25 means that one in four such rows is positive. The form for hard labels
    # treats it as 0.
    soft = torch.full((3,), 0.25, dtype=torch.float64)
    print("The same logits, every label .25:")
    row("by hand, log1p", from_logits(z, soft))
    row("by hand, hard labels: wrong here", from_logits_hard(z, soft))
    ours = torchbce.functional.binary_cross_entropy_with_logits(z, soft, reduction="none")
    row("torchbce binary_cross_entropy_with_logits", ours)
    print()


def many_labels() -> None:
    # Several labels per row change nothing: each is a separate binary classification.
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
    # From z = 17 on, the float32 sigmoid is exactly 1: the naive loss of a positive is 0, and that
    # of a negative is infinite. The clamp turns both into constants. Their gradient is 0, so the
    # worst mistakes contribute nothing to training. For a well-classified negative, PyTorch
    # subtracts two nearly equal numbers: the result is 0 at -17, -40 and -100, and at infinity it
    # is inf - inf = NaN in three of four cases. torchbce returns the true value rounded to float32,
    # which has no more than two digits near 4e-44.


def main() -> None:
    easy_probabilities()
    easy_logits()
    many_labels()
    extreme_logits()


if __name__ == "__main__":
    main()
