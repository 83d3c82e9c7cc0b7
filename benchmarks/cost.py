"""What the command line and the import cost, each as a whole process: seconds and peak memory.

    python benchmarks/cost.py [--data DIR] [--runs N]

Medians of N runs. `import torchbce` is timed in turn with `import torch`, and the difference of
each pair is what counts. The long documents are made here: 25,000 of them with a Zipf-like
vocabulary, a tenth of a signal in the words, and more than a million distinct n-grams.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import CountVectorizer

import _results


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak_mib: float


def run(arguments: Sequence[str]) -> Cost:
    """The wall time and the peak resident memory of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(arguments))
    # Linux counts the peak in KiB, macOS in bytes.
    return Cost(seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.peak_mib for cost in costs),
    )


def fit(table: Path, runs: int) -> Cost:
    """`torchbce fit TABLE --target label` with its defaults."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "torchbce.cli", "fit", str(table), "--target", "label"]
        command += ["--output", f"{directory}/model", "--overwrite"]
        return median([run(command) for _ in range(runs)])


def import_cost(runs: int) -> float:
    """Milliseconds that `import torchbce` takes over `import torch`."""
    differences = []
    for _ in range(runs):
        torch = run([sys.executable, "-c", "import torch"])
        both = run([sys.executable, "-c", "import torch, torchbce"])
        differences.append(both.seconds - torch.seconds)
    return 1000 * statistics.median(differences)


def long_documents(path: Path, rows: int = 25_000, vocabulary: int = 300_000) -> None:
    """Write documents of about 240 words: word k of the vocabulary has odds of 1 / k."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = rng.integers(3, 10, size=vocabulary)
    words = np.array(["".join(rng.choice(letters, size=length)) for length in lengths])
    odds = 1 / np.arange(1, vocabulary + 1)
    labels = rng.integers(0, 2, size=rows)
    documents = []
    for label in labels:
        drawn = rng.choice(vocabulary, size=int(rng.lognormal(5.3, 0.6)) + 1, p=odds / odds.sum())
        telling = rng.random(len(drawn)) < 0.05
        drawn[telling] = 1000 + 500 * label + rng.integers(0, 500, size=telling.sum())
        documents.append(" ".join(words[drawn]))
    pl.DataFrame({"text": documents, "label": labels}).write_csv(path)


def distinct_ngrams(path: Path) -> int:
    vectorizer = CountVectorizer(ngram_range=(1, 2))
    vectorizer.fit(pl.read_csv(path)["text"])
    return len(vectorizer.vocabulary_)


def table(results: dict[str, Any]) -> str:
    rows = [
        [row["what"], row["measured"], row["goal"], "yes" if row["reached"] else "**no**"]
        for row in results.values()
    ]
    return _results.markdown(["what", "measured", "goal", "reached"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="DIR")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    options = parser.parse_args()
    results = _results.load("cost")

    milliseconds = import_cost(max(options.runs, 11))
    results["import"] = {
        "what": "`import torchbce` over `import torch`",
        "measured": f"{milliseconds:.0f} ms",
        "goal": "<= 50 ms",
        "reached": milliseconds <= 50,
    }
    reviews = options.data / "rt_polarity" / "data.csv"
    if reviews.exists():
        cost = fit(reviews, options.runs)
        results["rt_polarity"] = {
            "what": "`torchbce fit` on rt_polarity, the whole process",
            "measured": f"{cost.seconds:.1f} s, {cost.peak_mib:.0f} MiB",
            "goal": "<= 20 s",
            "reached": cost.seconds <= 20,
        }
    else:
        print(f"no {reviews}: not measured")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "long.csv"
        long_documents(path)
        ngrams = distinct_ngrams(path)
        cost = fit(path, 1)
    results["long documents"] = {
        "what": f"`torchbce fit` on 25,000 documents with {ngrams:,} distinct n-grams",
        "measured": f"{cost.seconds:.0f} s, {cost.peak_mib:.0f} MiB",
        "goal": "about 60 s, <= 2,048 MiB",
        "reached": cost.seconds <= 75 and cost.peak_mib <= 2048,
    }
    for row in results.values():
        print(row)
    _results.save("cost", results, table(results))


if __name__ == "__main__":
    main()
