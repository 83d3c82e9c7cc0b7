"""Several labels per row, or one label per pixel: shapes, reductions, and weights per label."""

import torch
from torch import Tensor

import torchbce
from torchbce.functional import binary_cross_entropy_with_logits
from torchbce.imbalance import pos_weight_from_counts


def reductions(z: Tensor, y: Tensor) -> None:
    rows, labels = z.shape
    each = binary_cross_entropy_with_logits(z, y, reduction="none")
    total = binary_cross_entropy_with_logits(z, y, reduction="sum")
    mean = binary_cross_entropy_with_logits(z, y)
    print(f"logits {tuple(z.shape)}: {rows} rows of {labels} labels")
    print(f'"none" has the shape {tuple(each.shape)}, "sum" and "mean" are one number')
    print(f'"sum" divides by nothing:               {total:.4f}')
    print(f'"mean" divides by every element, {rows * labels:>2}:    {mean:.4f}')
    # The likelihood of a row is the product over its labels, so the loss of a row is a sum. The
    # mean of these sums is not "mean": it and its gradient are larger by the number of labels.
    by_row = each.sum(1).mean()
    print(f"sum over labels, then mean over rows, {rows}: {by_row:.4f} = {labels} x {mean:.4f}\n")


def pixels() -> None:
    # (batch, classes, height, width): one binary classification per class and pixel.
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, 3, 4, 5, generator=generator)
    y = torch.randint(2, z.shape, generator=generator, dtype=torch.uint8)  # as masks are stored
    mean = binary_cross_entropy_with_logits(z, y)
    by_class = binary_cross_entropy_with_logits(z, y, reduction="none").mean((0, 2, 3))
    print(f"pixels {tuple(z.shape)}: the mean is over {z.numel()} elements: {mean:.4f}")
    print("by class:", " ".join(f"{loss:.4f}" for loss in by_class.tolist()))
    # The weights of the classes must broadcast along dimension 1, hence the shape (3, 1, 1).
    weight = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    first = binary_cross_entropy_with_logits(z, y, weight)
    print(f"the first class alone, still over {z.numel()}: {first:.4f} = {by_class[0]:.4f} / 3\n")


def weights_by_label(z: Tensor, y: Tensor) -> None:
    positives = y.sum(0)
    pos_weight = pos_weight_from_counts(positives, len(y) - positives)
    print(f"positives by label {positives.int().tolist()} of {len(y)}:", end=" ")
    print("pos_weight", " ".join(f"{p:.4f}" for p in pos_weight.tolist()))
    criterion = torchbce.BCEWithLogitsLoss(reduction="none", pos_weight=pos_weight)
    # With every prediction .5, the losses differ by their weights alone.
    at_zero = criterion(torch.zeros_like(z), y)
    shares = [(at_zero[:, c][y[:, c] == 1].sum() / at_zero[:, c].sum()).item() for c in range(3)]
    print("share of a label's loss that its positives make:", [round(s, 4) for s in shares])
    print()


def the_column_trap() -> None:
    # A model with one output returns (N, 1), and the labels have the shape (N,). Subtraction,
    # multiplication and most losses broadcast these to (N, N): every logit with every label.
    z = torch.tensor([[3.0], [-3.0], [3.0], [-3.0]])
    y = torch.tensor([1.0, 0.0, 1.0, 0.0])
    by_hand = z.clamp(min=0) - y * z + torch.log1p(torch.exp(-z.abs()))
    print(f"by hand, (4, 1) with (4,): shape {tuple(by_hand.shape)}, mean {by_hand.mean():.4f}")
    ours = binary_cross_entropy_with_logits(z, y, reduction="none")
    print(f"torchbce:                  shape {tuple(ours.shape)}, mean {ours.mean():.4f}")
    # The shapes may differ by a trailing dimension of size 1. Any other difference is an error.
    try:
        binary_cross_entropy_with_logits(z, y.reshape(1, 4))
    except ValueError as error:
        print(f"(4, 1) with (1, 4): {error}")


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(8, 3, generator=generator)
    y = (torch.rand(8, 3, generator=generator) < torch.tensor([0.25, 0.5, 0.75])).float()
    reductions(z, y)
    pixels()
    weights_by_label(z, y)
    the_column_trap()


if __name__ == "__main__":
    main()
