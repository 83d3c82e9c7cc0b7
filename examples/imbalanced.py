"""Rare positives: what pos_weight does, what it costs, and how to undo it.

`pos_weight` multiplies the loss of every positive. Recall rises and precision falls, as with a
lower threshold. The outputs are no longer probabilities; `correct_logits` turns them into
probabilities again.
"""

import torch
from torch import Tensor, nn

import torchbce
from torchbce.imbalance import correct_logits, pos_weight_from_counts, prior_bias

ROWS = 20_000
RATE = 0.02


def twenty_in_a_hundred() -> None:
    y = torch.cat([torch.ones(20), torch.zeros(80)])
    pos_weight = pos_weight_from_counts(20, 80)
    print(f"20 positives, 80 negatives: pos_weight = 80 / 20 = {pos_weight:g}")

    # An untrained network returns the logit 0 for every row, with a loss of log 2 = .6931 per row.
    z = torch.zeros(100)
    plain = torchbce.BCEWithLogitsLoss(reduction="none")(z, y)
    weighted = torchbce.BCEWithLogitsLoss(reduction="none", pos_weight=pos_weight)(z, y)
    print(f"sum over positives {plain[:20].sum():.2f} -> {weighted[:20].sum():.2f}")
    print(f"sum over negatives {plain[20:].sum():.2f} -> {weighted[20:].sum():.2f}")
    # The mean still divides by the 100 rows, not by the total weight of 160: it grows by 1.6.
    print(f"mean {plain.mean():.4f} -> {weighted.mean():.4f}\n")


def make_data(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Five features; 2% of the rows are positive, and each of their features is shifted by 1."""
    y = torch.bernoulli(torch.full((ROWS,), RATE), generator=generator)
    x = torch.randn(ROWS, 5, generator=generator) + y[:, None]
    return x, y


def train(x: Tensor, y: Tensor, pos_weight: Tensor | None) -> nn.Linear:
    """A logistic regression that starts from zero weights and the bias of the base rate."""
    positives = float(y.sum())
    bias = prior_bias(positives, len(y) - positives, 1.0 if pos_weight is None else pos_weight)
    model = nn.Linear(5, 1)
    nn.init.zeros_(model.weight)
    nn.init.constant_(model.bias, bias.item())
    criterion = torchbce.BCEWithLogitsLoss(pos_weight=pos_weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    return model


def report(name: str, logits: Tensor, y: Tensor) -> None:
    p = torch.sigmoid(logits)
    predicted = p > 0.5
    true_positives = (predicted & (y == 1)).sum()
    loss = torchbce.functional.binary_cross_entropy_with_logits(logits, y)
    print(
        f"{name:<22} recall {true_positives / y.sum():.3f}  "
        f"precision {true_positives / predicted.sum():.3f}  "
        f"mean p {p.mean():.4f}  log loss {loss:.4f}"
    )


def main() -> None:
    twenty_in_a_hundred()

    generator = torch.Generator().manual_seed(0)
    x, y = make_data(generator)
    x_new, y_new = make_data(generator)
    positives = int(y.sum())
    pos_weight = pos_weight_from_counts(positives, len(y) - positives)
    print(f"{positives} positives in {len(y)} rows: pos_weight {pos_weight:.2f}")
    print(f"New rows, of which {y_new.mean():.4f} are positive, at the threshold .5:")

    plain, weighted = train(x, y, None), train(x, y, pos_weight)
    with torch.no_grad():
        z_plain, z_weighted = plain(x_new).squeeze(1), weighted(x_new).squeeze(1)
    report("without pos_weight", z_plain, y_new)
    # Most positives are predicted, with many false positives, and the mean probability is far above
    # the base rate.
    report("with pos_weight", z_weighted, y_new)
    # z - log(pos_weight) restores the probabilities, and with them the figures of the first line.
    corrected = correct_logits(z_weighted, pos_weight)
    report("with it, and corrected", corrected, y_new)

    # More recall does not need a weight: a lower threshold gives it, and the outputs stay
    # probabilities. The threshold .5 with the weight p corresponds to 1 / (1 + p) without it.
    threshold = 1 / (1 + pos_weight.item())
    recall = ((torch.sigmoid(z_plain) > threshold) & (y_new == 1)).sum() / y_new.sum()
    print(f"without pos_weight, at the threshold {threshold:.4f}: recall {recall:.3f}")


if __name__ == "__main__":
    main()
