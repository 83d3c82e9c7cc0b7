"""Is a review positive? A bag of words, a small network and binary cross-entropy, from scratch.

Then the same with the command line: it fits a model to a table, and predicts the probability for a
new review. That part needs the `cli` extra: `pip install '.[cli]'` in a checkout.
"""

import csv
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

import torchbce

POSITIVE = [
    "A wonderful film, funny and warm",
    "I loved this beautiful story",
    "Great acting and wonderful music",
    "Funny from start to finish, I loved it",
    "A great cast in a beautiful film",
    "Wonderful, just wonderful: I loved the ending",
    "The music is great and the story is moving",
    "A beautiful and moving film about friendship",
    "So funny that I loved every minute",
    "Great fun, a wonderful evening at the cinema",
    "Moving, funny and beautiful to look at",
    "I loved the cast, a great and moving story",
]
NEGATIVE = [
    "A boring film, slow and dull",
    "I hated this terrible story",
    "Bad acting and terrible music",
    "Boring from start to finish, I hated it",
    "A bad cast in a dull film",
    "Terrible, just terrible: I hated the ending",
    "The music is bad and the story is dull",
    "A slow and boring film about nothing",
    "So slow that I hated every minute",
    "A waste of an evening, boring and terrible",
    "Dull, slow and bad to look at",
    "I hated the cast, a waste of money and a boring story",
]
NEW = ["A wonderful and moving evening, great fun", "Slow, dull and a waste of time"]


def words(review: str) -> list[str]:
    return re.findall(r"[a-z']+", review.lower())


def bag(reviews: list[str], vocabulary: list[str]) -> Tensor:
    """(reviews, words): how often each word of the vocabulary occurs in each review.

    Words that are not in the vocabulary are ignored.
    """
    counts = [Counter(words(review)) for review in reviews]
    return torch.tensor([[float(count[word]) for word in vocabulary] for count in counts])


def by_hand(reviews: list[str], labels: list[int]) -> None:
    vocabulary = sorted({word for review in reviews for word in words(review)})
    x, y = bag(reviews, vocabulary), torch.tensor(labels)
    positives = int(y.sum())
    print(
        f"{len(reviews)} reviews, {positives} of them positive, {len(vocabulary)} different words"
    )

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(len(vocabulary), 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 1),  # a logit: the loss applies the sigmoid
    )
    criterion = torchbce.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1, 501):
        optimizer.zero_grad()
        loss = criterion(model(x), y)  # logits (24, 1), integer targets (24,)
        loss.backward()
        optimizer.step()
        if epoch % 100 == 0:
            print(f"epoch {epoch}  loss {loss.item():.6f}")

    # The network memorizes two dozen reviews, so this accuracy says nothing about new ones. The
    # new reviews below are a fairer test, but an easy one: they repeat words such as "wonderful"
    # and "dull", which occur in one class only.
    with torch.no_grad():
        accuracy = ((model(x).squeeze(1) > 0) == (y == 1)).float().mean()
        print(f"accuracy on the reviews it learnt from: {accuracy:.3f}")
        for review, p in zip(NEW, torch.sigmoid(model(bag(NEW, vocabulary))), strict=True):
            print(f"{p.item():.4f} positive: {review}")


def by_command_line(reviews: list[str], labels: list[int]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        with (Path(directory) / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(zip(reviews, labels, strict=True))

        fit = ["fit", "reviews.csv", "--target", "label", "--output", "model"]
        torchbce_command(fit, directory)
        for review in NEW:
            torchbce_command(["predict", "model", "--text", review], directory)


def torchbce_command(arguments: list[str], directory: str) -> None:
    """Run `torchbce ...` in `directory`, and show the command and its output."""
    print("\n$ torchbce " + " ".join(f'"{a}"' if " " in a else a for a in arguments), flush=True)
    subprocess.run([sys.executable, "-m", "torchbce.cli", *arguments], cwd=directory, check=True)


def main() -> None:
    reviews = POSITIVE + NEGATIVE
    labels = [1] * len(POSITIVE) + [0] * len(NEGATIVE)
    by_hand(reviews, labels)
    by_command_line(reviews, labels)


if __name__ == "__main__":
    main()
