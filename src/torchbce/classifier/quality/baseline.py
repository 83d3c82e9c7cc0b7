"""What the base rate alone scores: the share of positives, predicted for every row."""

import math

from torchbce.classifier.quality.metrics import Confusion, Metrics

#: A ranking within this many standard errors of chance is no sign of a signal: 2 are exceeded by
#: chance in one table of 40 (one side).
STANDARD_ERRORS = 2.0


def of_base_rate(metrics: Metrics) -> Metrics:
    """The metrics of predicting the base rate for every row, at a threshold of 0.5.

    Args:
        metrics: of any predictions of the same rows.

    Returns:
        With n rows and the base rate r: a log loss of -r log r - (1 - r) log(1 - r) nats, a Brier
        score of r (1 - r), a ROC-AUC of 0.5, an average precision of r, and the accuracy, F1 and
        confusion matrix of the more frequent value in every row.

    Example:
        >>> import numpy as np
        >>> from torchbce.classifier import evaluate_probabilities
        >>> metrics = evaluate_probabilities(np.array([0.1, 0.2, 0.7, 0.3]), np.array([0, 0, 1, 0]))
        >>> base = of_base_rate(metrics)
        >>> round(base.log_loss, 3), base.accuracy, base.confusion.tn
        (0.562, 0.75, 3)
    """
    positives, negatives = _counts(metrics)
    rows = positives + negatives
    rate = positives / rows
    both = positives > 0 and negatives > 0
    entropy = 0.0 - sum(p * math.log(p) for p in (rate, 1 - rate) if p > 0)
    all_positive = rate >= 0.5
    return Metrics(
        log_loss=entropy,
        relative_log_loss=1.0 if both else None,
        brier=rate * (1 - rate),
        roc_auc=0.5 if both else None,
        average_precision=rate if both else None,
        accuracy=max(rate, 1 - rate),
        f1=2 * rate / (1 + rate) if all_positive else 0.0,
        ece=0.0,
        confusion=Confusion(0, negatives, 0, positives)
        if all_positive
        else Confusion(negatives, 0, positives, 0),
    )


def no_better_than_base_rate(held_out: Metrics, rows: int | None = None) -> str | None:
    """Say so where a model found nothing that the base rate does not tell.

    Args:
        held_out: the metrics on rows that the model was not trained on.
        rows: the number of these rows, where they have weights; None for the sum of the counts.

    Returns:
        A sentence if the log loss is not below that of the base rate, or if the ROC-AUC is within
        two standard errors of 0.5, the value of chance; None otherwise. The standard error of n
        positives and m negatives in random order is sqrt((n + m + 1) / (12 n m)).

    Example:
        >>> import numpy as np
        >>> from torchbce.classifier import evaluate_probabilities
        >>> y = np.array([0.0, 1.0] * 20)
        >>> print(no_better_than_base_rate(evaluate_probabilities(np.full(40, 0.5), y)))
        nothing better than the base rate was found: on rows held out the log loss is 0.6931, that \
of predicting the share of positives, 0.500, for every row 0.6931
        >>> no_better_than_base_rate(evaluate_probabilities(0.2 + 0.6 * y, y)) is None
        True

    References:
        Mann and Whitney, On a Test of Whether one of Two Random Variables is Stochastically Larger
        than the Other, 1947 (the standard error).
    """
    if held_out.relative_log_loss is None or held_out.roc_auc is None:
        return None
    base = of_base_rate(held_out)
    n, m = _counts(held_out)
    rate = n / (n + m)
    if rows is not None:
        n, m = rows * rate, rows * (1 - rate)
    if held_out.relative_log_loss >= 1 - 1e-9:  # a loss that rounds apart is no better
        ranking = (
            f"; its ranking is better than chance, ROC-AUC {held_out.roc_auc:.3f}"
            if (held_out.roc_auc - 0.5) > STANDARD_ERRORS * standard_error(n, m)
            else ""
        )
        return (
            "nothing better than the base rate was found: on rows held out the log loss is "
            f"{held_out.log_loss:.4f}, that of predicting the share of positives, "
            f"{rate:.3f}, for every row {base.log_loss:.4f}{ranking}"
        )
    if held_out.roc_auc - 0.5 <= STANDARD_ERRORS * standard_error(n, m):
        return (
            "nothing that is certainly better than the base rate was found: on rows held out the "
            f"ROC-AUC is {held_out.roc_auc:.3f}, and without any signal it is 0.5 give or take "
            f"{STANDARD_ERRORS * standard_error(n, m):.3f}"
        )
    return None


def standard_error(n: float, m: float) -> float:
    """The standard error of the ROC-AUC of n positives and m negatives in random order."""
    return math.sqrt((n + m + 1) / (12 * n * m))


def _counts(metrics: Metrics) -> tuple[float, float]:
    """The numbers of positives and negatives."""
    counts = metrics.confusion
    return counts.tp + counts.fn, counts.tn + counts.fp
