"""What the command line and the import cost, each as a whole process: seconds and peak memory.

    python benchmarks/cost.py [--data DIR] [--runs N] [NAME ...]

Medians of N runs; the long documents are fitted once. `import torchbce` is timed in fresh processes
that have imported torch. The long documents are made here: 25,000 with a Zipf-like vocabulary, one
word in twenty telling of the class, and more than a million distinct n-grams.
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
    """Milliseconds that `import torchbce` takes where torch is imported already."""
    code = "import torch, time; start = time.perf_counter(); import torchbce; "
    code += "print(time.perf_counter() - start)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(runs)
    ]
    return 1000 * statistics.median(seconds)


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


def measure_import(data: Path, runs: int) -> dict[str, Any]:
    milliseconds = import_cost(max(runs, 11))
    return {
        "what": "`import torchbce` after `import torch`",
        "measured": f"{milliseconds:.0f} ms",
        "goal": "<= 50 ms",
        "reached": milliseconds <= 50,
    }


def measure_reviews(data: Path, runs: int) -> dict[str, Any]:
    cost = fit(data / "rt_polarity" / "data.csv", runs)
    return {
        "what": "`torchbce fit` on rt_polarity, the whole process",
        "measured": f"{cost.seconds:.1f} s, {cost.peak_mib:.0f} MiB",
        "goal": "<= 20 s",
        "reached": cost.seconds <= 20,
    }


def measure_long_documents(data: Path, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "long.csv"
        long_documents(path)
        ngrams = distinct_ngrams(path)
        cost = fit(path, 1)
    return {
        "what": f"`torchbce fit` on 25,000 documents with {ngrams:,} distinct n-grams",
        "measured": f"{cost.seconds:.0f} s, {cost.peak_mib:.0f} MiB",
        "goal": "about 60 s, <= 2,048 MiB",
        "reached": cost.seconds <= 75 and cost.peak_mib <= 2048,
    }


MEASURES = {
    "import": measure_import,
    "rt_polarity": measure_reviews,
    "long_documents": measure_long_documents,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="DIR")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    options = parser.parse_args()
    results = _results.load("cost")
    for name in options.names or MEASURES:
        if name == "rt_polarity" and not options.data.is_dir():
            print(f"no data at {options.data}: {name} is not measured")
            continue
        results[name] = MEASURES[name](options.data, options.runs)
        print(results[name], flush=True)
    ordered = {name: results[name] for name in MEASURES if name in results}
    _results.save("cost", ordered, table(ordered))


if __name__ == "__main__":
    main()
