"""`torchbce.classifier.fit_labels` beside one linear model per label, and for 46,000 labels.

    python benchmarks/labels.py [yeast delicious text many] [report] [--data DIR] [--quick]

Each is fitted to the training rows with its defaults, and scored once on the test rows; yeast,
whose test rows are few, with four seeds, of which the means are shown. The text
set is the pages of delicious as text, a token for each of their words, with the 28 tags that are
the 31st to 58th most frequent. The 46,000 labels are made up: each belongs to one of 2,300 topics,
and a row has some labels and words of two topics. The data of the others is not part of this
project; without it they are not measured.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import labels_report
from common.command import Options, main
from torchbce import ranking
from torchbce.classifier import LabelsClassifier, TrainingOptions, fit_label_rows, fit_labels, read
from torchbce.classifier.labels.metrics import LabelsMetrics

QUICK_ROWS = 200
SEEDS = (0, 1, 2, 3)
#: Of the made-up labels: rows, rows of the test, labels, labels of a topic.
MANY, QUICK_MANY = (50_000, 2_000, 46_000, 20), (400, 50, 2_000, 20)


def timed(fit: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = fit()
    return found, time.perf_counter() - began


def ours(metrics: LabelsMetrics, seconds: float) -> dict[str, float | None]:
    return {
        "log_loss": metrics.log_loss,
        "micro_f1": metrics.micro_f1,
        "macro_f1": metrics.macro_f1,
        "macro_roc_auc": metrics.macro_roc_auc,
        **{f"P@{k}": value for k, value in metrics.precision_at.items()},
        "seconds": seconds,
    }


def figures(p: np.ndarray, y: np.ndarray, seconds: float) -> dict[str, float | None]:
    """The figures of probabilities, by scikit-learn."""
    q = np.clip(p, 1e-15, 1 - 1e-15)
    both = (y.min(0) == 0) & (y.max(0) == 1)
    found = ranking.RankingMetrics((1, 3, 5)).update(p, y > 0).compute()
    return {
        "log_loss": float(-(y * np.log(q) + (1 - y) * np.log1p(-q)).mean()),
        "micro_f1": float(f1_score(y, p >= 0.5, average="micro", zero_division=0)),
        "macro_f1": float(f1_score(y, p >= 0.5, average="macro", zero_division=0)),
        "macro_roc_auc": float(roc_auc_score(y[:, both], p[:, both])),
        **{f"P@{k}": value for k, value in found["precision_at"].items()},
        "seconds": seconds,
    }


def per_label(make: Callable[[], Any], x: Any, y: np.ndarray, test: Any) -> np.ndarray:
    """The probabilities of one model for each label."""
    columns = [make().fit(x, own).predict_proba(test)[:, 1] for own in y.T]
    return np.column_stack(columns)


def yeast(options: Options) -> dict[str, Any] | None:
    folder = options.data / "multilabel_yeast"
    if not folder.is_dir():
        return None
    train, test = (read(folder / f"{part}.csv") for part in ("train", "test"))
    train = train[:QUICK_ROWS] if options.quick else train
    names = [name for name in train.columns if name.startswith("label")]
    fits = []
    for seed in SEEDS[:1] if options.quick else SEEDS:
        wanted = TrainingOptions(seed=seed)
        call = functools.partial(fit_labels, train, targets=names, options=wanted)
        found, seconds = timed(call)
        fits.append(ours(found.evaluate(test), seconds))
    means = {name: float(np.mean([fit[name] for fit in fits])) for name in fits[0]}
    y, y_test = (t.select(pl.col(names).cast(pl.Float64)).to_numpy() for t in (train, test))
    x, x_test = (t.drop(names).cast(pl.Float64).to_numpy() for t in (train, test))

    def make() -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))

    p, peer_seconds = timed(lambda: per_label(make, x, y, x_test))
    return {
        "size": (len(train), len(test), len(names)),
        "torchbce": means,
        "peer": ("logistic regression per label, C=0.1", figures(p, y_test, peer_seconds)),
        "goals": {"micro_f1": 0.645, "log_loss": 0.44},
    }


def _delicious(options: Options) -> list[scipy.sparse.csr_matrix] | None:
    """X and Y of training and test."""
    folder = options.data / "delicious"
    if not folder.is_dir():
        return None
    names = ("X.train", "Y.train", "X.test", "Y.test")
    found = [scipy.sparse.load_npz(folder / f"{name}.npz").tocsr() for name in names]
    return [one[:QUICK_ROWS] for one in found] if options.quick else found


def delicious(options: Options) -> dict[str, Any] | None:
    data = _delicious(options)
    if data is None:
        return None
    x, y, x_test, y_test = data
    tables = [
        pl.DataFrame({f"word{i}": column for i, column in enumerate(one.toarray().T)})
        for one in (x, x_test)
    ]
    found, seconds = timed(lambda: fit_label_rows(tables[0], y))
    metrics = found.evaluate_encoded(found.encoded(tables[1]), _targets(y_test))
    ridge, peer_seconds = timed(lambda: Ridge(alpha=100).fit(x.toarray(), y.toarray()))
    best = ranking.RankingMetrics((1, 3, 5)).update(ridge.predict(x_test.toarray()), y_test)
    ranks = {f"P@{k}": value for k, value in best.compute()["precision_at"].items()}
    return {
        "size": (x.shape[0], x_test.shape[0], y.shape[1]),
        "torchbce": ours(metrics, seconds),
        "peer": ("ridge regression per label", {**ranks, "seconds": peer_seconds}),
        "goals": {"P@1": 0.67, "P@5": 0.565},
    }


def _targets(y: Any) -> Any:
    from torchbce.classifier.labels.targets import LabelTargets

    return LabelTargets.of(y)


def text(options: Options) -> dict[str, Any] | None:
    data = _delicious(options)
    if data is None:
        return None
    x, y, x_test, y_test = data
    chosen = np.argsort(-np.asarray(y.sum(0)).ravel(), kind="stable")[30:58]
    y, y_test = (one.toarray()[:, chosen].astype(np.float64) for one in (y, y_test))
    pages = [[" ".join(f"word{w}" for w in row.indices) for row in one] for one in (x, x_test)]
    rows, test = (pl.DataFrame({"text": one}) for one in pages)
    names = [f"tag{i}" for i in range(len(chosen))]
    found, seconds = timed(lambda: fit_label_rows(rows, y, names))
    metrics = found.evaluate_encoded(found.encoded(test), _targets(y_test))

    def peer() -> np.ndarray:
        vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        features = vectors.fit_transform(pages[0])
        return per_label(
            lambda: LogisticRegression(max_iter=1000), features, y, vectors.transform(pages[1])
        )

    p, peer_seconds = timed(peer)
    reached = figures(p, y_test, peer_seconds)
    return {
        "size": (len(rows), len(test), len(names)),
        "torchbce": ours(metrics, seconds),
        "peer": ("TF-IDF and logistic regression per label", reached),
        "goals": {"log_loss": reached["log_loss"], "micro_f1": reached["micro_f1"]},
    }


def made_up(rows: int, labels: int, of_topic: int, seed: int) -> pl.DataFrame:
    """Rows of two topics each: words, and some of the topics' labels."""
    random = np.random.default_rng(seed)
    topics = labels // of_topic
    share = 1 / np.arange(1, topics + 1) ** 0.7
    topic = random.choice(topics, (rows, 2), p=share / share.sum())
    said = random.random((rows, 4)) < 0.9
    words = [
        " ".join(f"u{t}" if own else "noise" for t, own in zip([*row, *row], one, strict=True))
        for row, one in zip(topic, said, strict=True)
    ]
    chance = 0.3 / (1 + 0.1 * np.arange(of_topic))
    has = random.random((rows, 2, of_topic)) < chance
    lists = [
        sorted(
            {
                f"label{t * of_topic + i}"
                for t, own in zip(row, one, strict=True)
                for i in own.nonzero()[0]
            }
        )
        for row, one in zip(topic, has, strict=True)
    ]
    return pl.DataFrame({"text": words, "labels": lists})


def many(options: Options) -> dict[str, Any]:
    rows, test_rows, labels, of_topic = QUICK_MANY if options.quick else MANY
    test = made_up(test_rows, labels, of_topic, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        made_up(rows, labels, of_topic, 0).write_parquet(path)
        found: LabelsClassifier
        found, seconds = timed(lambda: fit_labels(read(path), labels="labels"))
    metrics = found.evaluate(test)
    return {
        "size": (rows, test_rows, len(found.card.labels)),
        "torchbce": ours(metrics, seconds),
        "peer": None,
        "goals": {"seconds": 600},
    }


if __name__ == "__main__":
    parts = {"yeast": yeast, "delicious": delicious, "text": text, "many": many}
    main(__doc__, parts, labels_report.REPORT)
