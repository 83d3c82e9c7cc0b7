"""The classifiers that `classifier.py` compares: from a training file to logits of a test file.

Each is imported where it is used: the process of a fit pays for its own imports alone.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common import memory

LABEL = "label"

#: What the early stopping of the boosted trees has in common.
LEARNING_RATE, HELD_OUT, MOST_TREES = 0.05, 0.1, 10_000


@dataclass(frozen=True)
class Task:
    """One fit: its files, and the columns to leave out."""

    train: Path
    test: Path
    drop: tuple[str, ...] = ()


#: Predicts the logits of the test file.
Fitted = Callable[[], Any]


def cost(contender: str, train: str, test: str, drop: list[str], logits: str) -> dict[str, float]:
    """Fit in this process, write the test file's logits, and return what the fit took.

    CPU seconds (user and system) are those of this whole process until the model is fitted: they
    include the start of Python, all imports and the reading of the training file. The peak memory
    is that of the same time.
    """
    import numpy as np

    fitted = CONTENDERS[contender].fit(Task(Path(train), Path(test), tuple(drop)))
    used, peak = resource.getrusage(resource.RUSAGE_SELF), memory.peak()
    start = time.perf_counter()
    predicted = np.asarray(fitted(), dtype=np.float64)
    seconds = time.perf_counter() - start
    np.save(logits, predicted)
    return {
        "cpu_seconds": used.ru_utime + used.ru_stime,
        # `used.ru_maxrss` is at least that of the process that started this one.
        "peak_bytes": peak,
        "predict_seconds": seconds,
    }


def torchbce(task: Task, model: Any, effort: Any) -> Fitted:
    from torchbce.classifier import Overrides, TrainingOptions, fit, read

    options = TrainingOptions(model=model, effort=effort)
    classifier = fit(read(task.train), LABEL, options=options, overrides=Overrides(drop=task.drop))
    return lambda: classifier.logits(read(task.test))


# ---------------------------------------------------------------------------- others, on tables


class Matrices:
    """Columns of numbers first, then the code of each category; NaN where missing or unseen."""

    def __init__(self, task: Task) -> None:
        import polars as pl

        self.task = task
        table = self._read(task.train)
        self.targets = table[LABEL].to_numpy().astype(int)
        features = table.drop(LABEL)
        self.numbers = [name for name in features.columns if features[name].dtype.is_numeric()]
        self.categories = {
            name: pl.Enum(features[name].drop_nulls().unique().sort())
            for name in features.columns
            if name not in self.numbers
        }
        self.train = self._matrix(features)

    @property
    def coded(self) -> list[int]:
        """The indices of the columns of codes."""
        return list(range(len(self.numbers), len(self.numbers) + len(self.categories)))

    def test(self) -> Any:
        return self._matrix(self._read(self.task.test))

    def _read(self, path: Path) -> Any:
        import polars as pl

        table = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
        return table.drop(self.task.drop)

    def _matrix(self, table: Any) -> Any:
        import polars as pl

        codes = [
            pl.col(name).cast(kind, strict=False).to_physical()
            for name, kind in self.categories.items()
        ]
        columns = table.select(*self.numbers, *codes).cast(pl.Float64)
        return columns.fill_null(float("nan")).to_numpy()


def logistic_regression(task: Task) -> Fitted:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    matrices = Matrices(task)
    features = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), list(range(len(matrices.numbers)))),
        (OneHotEncoder(handle_unknown="ignore"), matrices.coded),
    )
    model = make_pipeline(features, LogisticRegression(max_iter=1000))
    model.fit(matrices.train, matrices.targets)
    return lambda: model.decision_function(matrices.test())


def hist_gradient_boosting(task: Task) -> Fitted:
    from sklearn.ensemble import HistGradientBoostingClassifier

    matrices = Matrices(task)
    model = HistGradientBoostingClassifier(
        learning_rate=LEARNING_RATE,
        max_iter=MOST_TREES,
        early_stopping=True,
        validation_fraction=HELD_OUT,
        categorical_features=matrices.coded,
        random_state=0,
    )
    model.fit(matrices.train, matrices.targets)
    return lambda: model.decision_function(matrices.test())


def lightgbm(task: Task) -> Fitted:
    import lightgbm
    import numpy as np

    matrices = Matrices(task)
    held_out = stratified_share(matrices.targets, HELD_OUT)
    train, checked = (
        lightgbm.Dataset(
            matrices.train[rows],
            matrices.targets[rows],
            categorical_feature=matrices.coded,
            free_raw_data=False,
        )
        for rows in (~held_out, held_out)
    )
    model = lightgbm.train(
        {"objective": "binary", "learning_rate": LEARNING_RATE, "verbosity": -1, "seed": 0},
        train,
        num_boost_round=MOST_TREES,
        valid_sets=[checked],
        callbacks=[lightgbm.early_stopping(50, verbose=False)],
    )
    return lambda: np.asarray(model.predict(matrices.test(), raw_score=True))


def stratified_share(targets: Any, share: float) -> Any:
    """Marks this share of the rows of each target value, at random (seed 0)."""
    import numpy as np

    rng = np.random.default_rng(0)
    marked = np.zeros(len(targets), dtype=bool)
    for value in (0, 1):
        rows = rng.permutation(np.flatnonzero(targets == value))
        marked[rows[: max(1, round(share * len(rows)))]] = True
    return marked


# ------------------------------------------------------------------------------ others, on texts


def texts(path: Path) -> Any:
    import polars as pl

    return pl.read_csv(path)


def tfidf_logistic_regression(task: Task, strength: float) -> Fitted:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train = texts(task.train)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=strength, max_iter=1000))
    model.fit(train["text"].to_list(), train[LABEL].to_numpy())
    return lambda: model.decision_function(texts(task.test)["text"].to_list())


def fasttext(task: Task) -> Fitted:
    """fastText with word 2-grams, as its tutorial uses it.

    On one thread, as more give another model in each run.
    """
    import fasttext
    import numpy as np

    def line(text: str) -> str:
        return " ".join(text.split())

    # It takes the lines in their order: where all positives come first, it ends with the negatives.
    table = texts(task.train).sample(fraction=1, shuffle=True, seed=0)
    lines = task.train.with_suffix(".fasttext")
    lines.write_text(
        "".join(f"__label__{label} {line(text)}\n" for text, label in table["text", LABEL].rows())
    )
    model = fasttext.train_supervised(
        str(lines), lr=0.5, epoch=25, wordNgrams=2, thread=1, seed=0, verbose=0
    )

    def logits() -> Any:
        # `model.predict` fails with NumPy 2: it calls np.array(..., copy=False).
        found = [
            {label: p for p, label in model.f.predict(line(text) + "\n", 2, 0.0, "strict")}
            for text in texts(task.test)["text"]
        ]
        p = np.array([[of.get(f"__label__{y}", 0.0) for y in (0, 1)] for of in found])
        negative, positive = np.clip(p, 1e-7, 1).T
        return np.log(positive) - np.log(negative)

    return logits


# ------------------------------------------------------------------------------------- the list


@dataclass(frozen=True)
class Contender:
    """A classifier of the comparison.

    Attributes:
        fit: from a task to its predictions.
        kinds: the data sets that it is for.
        needs: the module that has to be installed, if it may be missing.
    """

    fit: Callable[[Task], Fitted]
    kinds: tuple[Literal["table", "text"], ...]
    needs: str | None = None


CONTENDERS = {
    "torchbce": Contender(lambda task: torchbce(task, "auto", "medium"), ("table", "text")),
    "torchbce, effort low": Contender(
        lambda task: torchbce(task, "auto", "low"), ("table", "text")
    ),
    "torchbce, linear": Contender(
        lambda task: torchbce(task, "linear", "medium"), ("table", "text")
    ),
    "logistic regression": Contender(logistic_regression, ("table",)),
    "HistGradientBoosting": Contender(hist_gradient_boosting, ("table",)),
    "LightGBM": Contender(lightgbm, ("table",), "lightgbm"),
    "TF-IDF + logistic regression": Contender(
        lambda task: tfidf_logistic_regression(task, 1.0), ("text",)
    ),
    "TF-IDF + logistic regression, C = 10": Contender(
        lambda task: tfidf_logistic_regression(task, 10.0), ("text",)
    ),
    "fastText": Contender(fasttext, ("text",), "fasttext"),
}
#: Those that are this library.
OWN = tuple(name for name in CONTENDERS if name.startswith("torchbce"))
