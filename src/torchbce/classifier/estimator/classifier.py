"""The estimator: `fit` and `Classifier` with the names and the checks of scikit-learn."""

import dataclasses
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import polars as pl
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from torchbce.classifier.columns.inference import Overrides
from torchbce.classifier.columns.outcomes import Outcomes
from torchbce.classifier.columns.values import without_words
from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.estimator import updates
from torchbce.classifier.estimator.classes import (
    Classes,
    check_both,
    classes_of,
    classes_of_target,
    groups_of,
    labels_of,
    name_of,
    probabilities_of,
    soft_classes,
    times_of,
    weights_of,
)
from torchbce.classifier.estimator.context import Context
from torchbce.classifier.estimator.inputs import (
    Rows,
    given_kinds,
    is_frame,
    read_more,
    read_rows,
)
from torchbce.classifier.estimator.many_labels import fit_many, is_of_labels
from torchbce.classifier.model import Card, Classifier, encoded_rows
from torchbce.classifier.options import (
    Device,
    Effort,
    LossName,
    ModelName,
    Precision,
    TrainingOptions,
)
from torchbce.classifier.rows import Settings, fit_rows
from torchbce.classifier.storage import load
from torchbce.classifier.tables.frames import as_table

if TYPE_CHECKING:
    from torchbce.classifier.labels.model import LabelsClassifier

#: The options of a fit, which are parameters here.
OPTIONS = [field.name for field in dataclasses.fields(TrainingOptions)]


class BCEClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""A binary classifier of tables that predicts probabilities, as a scikit-learn estimator.

    It fits what `torchbce.classifier.fit` fits: linear models, pairs of columns and boosted trees,
    with settings chosen on rows held out, whose logits are combined as

    .. math:: z = b + \sum_m w_m (z_m - b), \qquad p = \sigma(z)

    X is a polars or pandas frame, whose columns of numbers, categories, dates and text are told
    apart by their values; or an array or a SciPy sparse matrix, whose columns are numbers. NaN is a
    missing value. A sparse matrix of more than 256 columns is not made dense: the linear model
    reads it as it is, each column divided by its largest absolute value if that is above 1, and
    trees read the logit that a linear model gives it.

    Args:
        model: as in `TrainingOptions`, and so are the options below.
        effort: likewise.
        pos_weight: likewise.
        seed: likewise.
        epochs: likewise.
        batch_size: likewise.
        learning_rate: likewise.
        weight_decay: likewise.
        patience: likewise.
        device: likewise.
        precision: likewise.
        loss: likewise.
        alpha: likewise.
        gamma: likewise.
        gamma_pos: likewise.
        gamma_neg: likewise.
        margin: likewise.
        epsilon: likewise.
        optimize: likewise.
        guarantee: likewise.
        abstain: likewise; `predict` gives undecided rows the likelier class.
        base_rate: the share of positives where the estimator will be used, if it is not that of y.
        positive: the positive class; None is the usual one of a known pair, as "yes" of "no" and
            "yes", and else `classes_[1]`. It matters for `pos_weight` and the metrics.
        soft: whether y holds probabilities of the class 1, float [rows] in [0, 1], in place of
            labels. `classes_` is then 0 and 1.
        text: the columns to use as text, by their names or positions; None infers the kind.
        numeric: those to use as numbers.
        categorical: those to use as categories.
        drop: those to leave out.
        missing: words or numbers that mean "no value", besides NaN and those of pandas.
        decimal: what begins the decimals of numbers in strings, "." or ",".

    Attributes:
        classes_: the two classes in their order, [2]; of several labels their names, or their
            numbers if y has no names, [L].
        n_features_in_: the number of columns of X.
        feature_names_in_: their names, where X is a frame with names.
        classifier_: the fitted `Classifier`, which explains, and which `save` writes; of several
            labels a `LabelsClassifier`.

    Example:
        >>> import numpy as np
        >>> X = np.array([[0.0], [1.0], [5.0], [6.0]] * 20)
        >>> y = np.array(["no", "no", "yes", "yes"] * 20)
        >>> estimator = BCEClassifier(model="linear").fit(X, y)
        >>> estimator.predict([[0.5], [5.5]])
        array(['no', 'yes'], dtype='<U3')
        >>> estimator.predict_proba([[0.5], [5.5]]).shape
        (2, 2)

    References:
        https://scikit-learn.org/stable/developers/develop.html
    """

    classes_: np.ndarray
    classifier_: Any
    n_features_in_: int
    _classes: Classes | None
    _names: list[str] | None
    _by_name: bool
    _state: updates.State | None

    def __init__(
        self,
        model: ModelName = "auto",
        effort: Effort = "medium",
        pos_weight: float | Literal["balanced"] | None = None,
        seed: int = 0,
        epochs: int = 30,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        patience: int = 5,
        device: Device = "cpu",
        precision: Precision = "32-true",
        loss: LossName = "bce",
        alpha: float | None = None,
        gamma: float | None = None,
        gamma_pos: float | None = None,
        gamma_neg: float | None = None,
        margin: float | None = None,
        epsilon: float | None = None,
        optimize: str | None = None,
        guarantee: str | tuple[str, ...] = (),
        abstain: bool = False,
        base_rate: float | None = None,
        positive: Any = None,
        soft: bool = False,
        text: Collection[Any] | None = None,
        numeric: Collection[Any] | None = None,
        categorical: Collection[Any] | None = None,
        drop: Collection[Any] | None = None,
        missing: Collection[Any] | None = None,
        decimal: str = ".",
    ) -> None:
        self.model = model
        self.effort = effort
        self.pos_weight = pos_weight
        self.seed = seed
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.device = device
        self.precision = precision
        self.loss = loss
        self.alpha = alpha
        self.gamma = gamma
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.margin = margin
        self.epsilon = epsilon
        self.optimize = optimize
        self.guarantee = guarantee
        self.abstain = abstain
        self.base_rate = base_rate
        self.positive = positive
        self.soft = soft
        self.text = text
        self.numeric = numeric
        self.categorical = categorical
        self.drop = drop
        self.missing = missing
        self.decimal = decimal

    @classmethod
    def from_model(cls, model: "Classifier | LabelsClassifier | str | Path") -> Self:
        """A fitted estimator of a classifier, or of the model directory of one.

        Args:
            model: a fitted or loaded `Classifier` or `LabelsClassifier`, or the directory that
                `save` wrote.

        Returns:
            The estimator. X then has at least the columns that the model reads, by their names.

        Raises:
            InputError: if the directory cannot be read.

        Example:
            >>> from torchbce.classifier import fit
            >>> table = {"x": [0.0, 1.0, 5.0, 6.0] * 20, "y": ["no", "no", "yes", "yes"] * 20}
            >>> estimator = BCEClassifier.from_model(fit(table, "y"))
            >>> estimator.predict({"x": [0.5, 5.5]}).tolist()
            ['no', 'yes']
        """
        classifier = load(model) if isinstance(model, str | Path) else model
        card = classifier.card
        options = {name: card.options[name] for name in OPTIONS if name in card.options}
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        estimator = cls(**options, missing=list(card.missing) or None)
        classes = None
        if isinstance(card, Card):
            classes = classes_of_target(card.target)
            estimator.base_rate = card.base_rate
            estimator.soft = card.target.kind != "values"
            estimator.positive = None if estimator.soft else classes.values[classes.positive]
        matrix = classifier.encoder.matrix
        names = None if matrix else [column.name for column in card.columns]
        estimator.n_features_in_ = len(names or ()) if matrix is None else matrix.width
        estimator._keep(classifier, classes, names, by_name=names is not None)
        return estimator

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        times: Any = None,
    ) -> Self:
        """Fit the models to rows and their labels.

        Args:
            X: a polars, pandas or Arrow frame, a dict of columns, an array or a sparse matrix,
                [rows, columns].
            y: labels of two classes, at least two rows of each, [rows]; with `soft` probabilities.
                Or several labels, [rows, L]: 0 and 1 in an array, a frame or a sparse matrix, NaN
                where a label is unknown.
            sample_weight: how much each row counts, 0 or above, float [rows]; None for 1. A row of
                weight 0 is left out.
            groups: any values, [rows]; rows of one group are held out together.
            times: numbers or dates, [rows]; the latest rows are held out.

        Returns:
            The estimator.

        Raises:
            ValueError: if a parameter or an argument is wrong; mostly as `InputError`, which is
                one.
        """
        context = self.__dict__.pop("_context", Context())
        options = self.training_options()
        rows = read_rows(self, X)
        names = rows.columns if isinstance(rows, pl.DataFrame) else None
        settings = Settings(
            columns=context.columns,
            base_rate=self.base_rate,
            overrides=self._kinds(X, rows),
            missing=self._words(),
            decimal=self.decimal,
            options=options,
            progress=context.progress,
            on_choice=context.on_choice,
            all_constant=not is_frame(X),
        )
        if context.target is None and is_of_labels(y):
            if self.positive is not None:
                raise InputError(
                    Argument("positive"), " is for a single target; labels are 0 and 1"
                )
            many = fit_many(
                self._with_nulls(rows), y, self.soft, settings, sample_weight, groups, times
            )
            self._keep(many, None, names)
            return self
        classes, targets = self._read_targets(y, names, context)
        check_consistent_length(rows, targets)
        number = len(targets)
        weight = weights_of(sample_weight, number)
        if context.target is None:  # that of a table is checked, with the names of its columns
            check_both(targets, weight)
        outcomes = Outcomes(targets, weight, groups_of(groups, number), times_of(times, number))
        classifier = fit_rows(self._with_nulls(rows), outcomes, classes.target, settings)
        self._keep(classifier, classes, names)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        r"""Learn one more batch of rows, of which nothing else is kept.

        A linear model is updated: with the loss :math:`\ell` of the batch, its weights w move from
        their mean m to the minimum of

        .. math:: \ell(w) + \tfrac12 \sum_j \lambda_j (w_j - m_j)^2

        where the precision :math:`\lambda_j` is 1 at first and grows by the curvature of each
        batch, :math:`\sum_i p_i (1 - p_i) x_{ij}^2` (Laplace's approximation). After `fit`, its
        other models stay as they are, and their logits are added. Without one, the first batch
        decides what the columns are: their kinds, categories, words, means and bins. A larger first
        batch is better, and later categories and words are not known.

        The metrics of `classifier_` are those of the latest 10,000 rows, each predicted before it
        was learned.

        Args:
            X: as in `fit`, one row at least.
            y: as in `fit`; a batch may be of one class.
            classes: the two classes; needed in the first call, unless `fit` was called before or
                `soft` is true.
            sample_weight: as in `fit`.

        Returns:
            The estimator.

        Raises:
            ValueError: as `fit`, and if `classes` is missing, or the options ask for models that
                cannot be updated.

        Example:
            >>> import numpy as np
            >>> X, y = np.array([[0.0], [1.0], [5.0], [6.0]]), np.array([0, 0, 1, 1])
            >>> estimator = BCEClassifier()
            >>> for _ in range(20):
            ...     estimator = estimator.partial_fit(X, y, classes=[0, 1])
            >>> estimator.predict([[0.5], [5.5]])
            array([0, 1])

        References:
            Chapelle and Li, An empirical evaluation of Thompson sampling, 2011 (algorithm 3).
        """
        if is_of_labels(y):
            raise ValueError("partial_fit is for a single target; fit learns several labels")
        first = not hasattr(self, "classifier_")
        rows = read_rows(self, X) if first else self._rows(X)
        if first:
            names = rows.columns if isinstance(rows, pl.DataFrame) else None
            self._start(X, y, rows, names, classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes={np.unique(classes).tolist()} is not the same as on last call to "
                f"partial_fit, was: {self.classes_.tolist()}"
            )
        if self._classes is None:
            raise ValueError("partial_fit does not learn several labels; call fit with all rows")
        targets = self._targets_of(y, self._classes)
        check_consistent_length(rows, targets)
        weight = weights_of(sample_weight, len(targets))
        state = self._state or updates.start(self.classifier_)
        encoded = encoded_rows(self.classifier_, rows)
        state = updates.learn(state, encoded, targets, weight)
        self.classifier_ = updates.classifier_of(state, self.classifier_.card, encoded, targets)
        self._state = state
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """The log-odds of `classes_[1]`, log(p / (1 - p)).

        Args:
            X: has the columns of `fit`.

        Returns:
            Logits in nats, float64, [rows]; of several labels each label's, [rows, L].

        Raises:
            ValueError: if X has other columns, or values of another kind.
        """
        check_is_fitted(self)
        logits: np.ndarray = self.classifier_.logits(self._rows(X))
        return logits if self._classes is None or self._classes.positive else -logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class.

        Args:
            X: has the columns of `fit`.

        Returns:
            Probabilities in the order of `classes_`, float64, [rows, 2]; of several labels that of
            each being 1, [rows, L].

        Raises:
            ValueError: if X has other columns, or values of another kind.
        """
        logits = self.decision_function(X)
        if self._classes is None:
            return np.asarray(expit(logits))
        # Not 1 - p, which is 0 where p is close to 1.
        return np.column_stack([expit(-logits), expit(logits)])

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of the probability of each class.

        Args:
            X: has the columns of `fit`.

        Returns:
            In the order of `classes_`, in nats, float64, [rows, 2]; of several labels [rows, L].

        Raises:
            ValueError: if X has other columns, or values of another kind.
        """
        logits = self.decision_function(X)
        if self._classes is None:
            return np.asarray(-np.logaddexp(0.0, -logits))
        return -np.column_stack([np.logaddexp(0.0, logits), np.logaddexp(0.0, -logits)])

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row: the positive one where its probability reaches the threshold.

        Args:
            X: has the columns of `fit`.

        Returns:
            Values of `classes_`, [rows]; the threshold is that of `classifier_.card`, 0.5 as a
            rule. Of several labels 0 and 1, int64 [rows, L].

        Raises:
            ValueError: if X has other columns, or values of another kind.
        """
        check_is_fitted(self)
        probabilities: np.ndarray = self.classifier_.probabilities(self._rows(X))
        if self._classes is None:
            decided = probabilities >= np.array(self.classifier_.card.thresholds)
            return decided.astype(np.int64)
        positive = probabilities >= self.classifier_.card.threshold
        at = self._classes.positive
        return np.asarray(self.classes_[np.where(positive, at, 1 - at)])

    def training_options(self) -> TrainingOptions:
        """The options of the training, checked; `fit` checks them too.

        Returns:
            The options.

        Raises:
            InputError: if one is out of its range.
        """
        values = {name: getattr(self, name) for name in OPTIONS}
        # Grids hold numbers of NumPy, which JSON does not have.
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        return TrainingOptions(**plain)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classifier_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        return tags

    def _words(self) -> list[str]:
        if isinstance(self.missing, str) or not isinstance(self.missing, Iterable | None):
            raise InputError(
                Argument("missing"), f" must be a list of words, as [{self.missing!r}]"
            )
        return [str(word) for word in self.missing or ()]

    def _with_nulls(self, rows: Rows) -> Rows:
        return without_words(rows, self._words()) if isinstance(rows, pl.DataFrame) else rows

    def _kinds(self, X: Any, rows: Rows) -> Overrides:
        given = {name: getattr(self, name) for name in ("text", "numeric", "categorical", "drop")}
        return given_kinds(rows, not is_frame(X), given)

    def _read_targets(
        self, y: Any, names: list[str] | None, context: Context
    ) -> tuple[Classes, np.ndarray]:
        """The classes of y, and its targets."""
        if context.target is not None:
            return classes_of_target(context.target), np.asarray(y)
        name = name_of(y, names or [])
        if self.soft:
            return soft_classes(name), probabilities_of(self, y)
        labels = labels_of(self, y)
        classes = classes_of(labels, name, self.positive)
        return classes, classes.targets(labels)

    def _targets_of(self, y: Any, classes: Classes) -> np.ndarray:
        """The targets of y, whose classes are known."""
        return probabilities_of(self, y) if self.soft else classes.targets(labels_of(self, y))

    def _start(self, X: Any, y: Any, rows: Rows, names: list[str] | None, classes: Any) -> None:
        """Before the first batch, without a fit: what the columns are, and no models."""
        options = self.training_options()
        refused = {
            "model": options.model not in ("auto", "linear"),
            "loss": options.loss != "bce",
            "pos_weight": options.pos_weight == "balanced",  # it would differ between batches
            "optimize": options.optimize is not None,
            "guarantee": bool(options.guarantee),
        }
        for name in (name for name, wrong in refused.items() if wrong):
            raise InputError(
                "partial_fit updates a linear model by its cross-entropy, with a weight of the "
                "positives that is a number, and chooses no threshold; leave out ",
                Argument(name, getattr(options, name)),
            )
        name = name_of(y, names or [])
        if self.soft:
            found = soft_classes(name)
        elif classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        else:
            found = classes_of(np.asarray(classes), name, self.positive)
        rows, kinds = self._with_nulls(rows), self._kinds(X, rows)
        classifier = updates.untrained(
            rows, found.target, kinds, self._words(), self.decimal, options, self.base_rate
        )
        self._keep(classifier, found, names)

    def _keep(
        self,
        classifier: "Classifier | LabelsClassifier",
        classes: Classes | None,
        names: list[str] | None,
        by_name: bool = False,
    ) -> None:
        """Set what was fitted.

        Args:
            classifier: the classifier.
            classes: the classes; None for several labels.
            names: the names of the columns of X as a table; None where the model reads a matrix.
            by_name: whether frames may have more columns, in another order.
        """
        self._classes, self._names, self._by_name = classes, names, by_name
        self._state = None
        self.classifier_ = classifier
        if classes is None:
            labels = np.array(self.classifier_.card.labels)
            numbers = np.arange(len(labels))
            self.classes_ = numbers if (labels == numbers.astype(str)).all() else labels
        else:
            self.classes_ = classes.values

    def _rows(self, X: Any) -> Rows:
        """X as it was read in the fit."""
        if self._by_name and is_frame(X):
            return as_table(X)
        return read_more(self, X, self._names)
