"""Time and peak memory of the command line and of the import, each as a whole process.

    python benchmarks/cost.py [import] [rt_polarity] [long_documents] [report]

import: the median milliseconds of importing a loss, in new processes that have imported torch.
rt_polarity: medians of five runs of `torchbce fit`; needs the data set in DIR.
long_documents: one run of `torchbce fit` on 25,000 generated documents with more than a million
    distinct n-grams. Word k of the vocabulary has a frequency proportional to 1 / k, and one word
    in twenty depends on the label.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import CountVectorizer

import cost_report
from common.command import Options, main
from common.timing import timed

RUNS, IMPORTS = 5, 11
#: Rows and size of the vocabulary.
DOCUMENTS, QUICK_DOCUMENTS = (25_000, 300_000), (100, 3_000)

Cost = dict[str, float]


def run(arguments: Sequence[str]) -> Cost:
    """The time and the peak resident memory of one process."""

    def wait() -> tuple[int, Any]:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage

    (code, usage), seconds = timed(wait)
    if code:
        raise subprocess.CalledProcessError(code, list(arguments))
    # Linux counts the peak in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {"seconds": seconds, "peak_mib": usage.ru_maxrss / unit}


def fit(table: Path, runs: int) -> Cost:
    """Medians of `torchbce fit TABLE --target label` with its defaults."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "torchbce.cli", "fit", str(table), "--target", "label"]
        command += ["--output", f"{directory}/model", "--overwrite"]
        costs = [run(command) for _ in range(runs)]
    return {key: statistics.median(cost[key] for cost in costs) for key in costs[0]}


IMPORT = """
import torch, time
start = time.perf_counter()
from torchbce import BCEWithLogitsLoss
print(time.perf_counter() - start)
"""


def measure_import(options: Options) -> dict[str, float]:
    command = [sys.executable, "-c", IMPORT]
    seconds = [
        float(subprocess.run(command, capture_output=True, check=True).stdout)
        for _ in range(1 if options.quick else IMPORTS)
    ]
    return {"milliseconds": 1000 * statistics.median(seconds)}


def measure_reviews(options: Options) -> Cost | None:
    table = options.data / "rt_polarity" / "data.csv"
    return fit(table, 1 if options.quick else RUNS) if table.exists() else None


def measure_long_documents(options: Options) -> Cost:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "long.csv"
        write_documents(path, *(QUICK_DOCUMENTS if options.quick else DOCUMENTS))
        return {"ngrams": distinct_ngrams(path), **fit(path, 1)}


def write_documents(path: Path, rows: int, vocabulary: int) -> None:
    """Write documents of about 240 words."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = rng.integers(3, 10, size=vocabulary)
    words = np.array(["".join(rng.choice(letters, size=length)) for length in lengths])
    frequencies = 1 / np.arange(1, vocabulary + 1)
    labels = rng.integers(0, 2, size=rows)
    documents = []
    for label in labels:
        length = int(rng.lognormal(5.3, 0.6)) + 1
        drawn = rng.choice(vocabulary, size=length, p=frequencies / frequencies.sum())
        of_label = rng.random(len(drawn)) < 0.05
        drawn[of_label] = 1000 + 500 * label + rng.integers(0, 500, size=of_label.sum())
        documents.append(" ".join(words[drawn]))
    pl.DataFrame({"text": documents, "label": labels}).write_csv(path)


def distinct_ngrams(path: Path) -> int:
    vectorizer = CountVectorizer(ngram_range=(1, 2))
    vectorizer.fit(pl.read_csv(path)["text"])
    return len(vectorizer.vocabulary_)


PARTS = {
    "import": measure_import,
    "rt_polarity": measure_reviews,
    "long_documents": measure_long_documents,
}

if __name__ == "__main__":
    main(__doc__, PARTS, cost_report.REPORT)
