"""Losses and gradients in NumPy, in float64, from the published formulas: no code of the package.

Every result comes with its terms, the sum of the absolute values that it adds up, from which a
tolerance follows: a computation that rounds k times by a unit u is off by at most k u times them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Parts:
    """The loss of a positive and of a negative, and their derivatives by the input.

    `condition`: by how many units the results change if an exponent changes by one unit; exp(-g l)
    changes by g l.
    """

    positive: Array
    negative: Array
    d_positive: Array
    d_negative: Array
    condition: Array


@dataclass(frozen=True)
class Result:
    """A value or a gradient, and a bound of its error in two kinds of units.

    Attributes:
        true: the value.
        terms: the error per unit of the dtype of computation.
        exact_terms: the error per unit of float64, in which exp and log are computed.
    """

    true: Array
    terms: Array
    exact_terms: Array


# ------------------------------------------------------------------------------------- formulas


def logits(z: Array) -> Parts:
    l, m, tail = np.logaddexp(0, -z), np.logaddexp(0, z), np.exp(-abs(z))
    small, large = tail / (1 + tail), 1 / (1 + tail)
    sigma, rest = np.where(z < 0, small, large), np.where(z < 0, large, small)
    return Parts(l, m, -rest, sigma, np.ones_like(z))


def poly(z: Array, epsilon: float, gamma: float, alpha: float | None) -> Parts:
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    l, m = np.logaddexp(0, -z), np.logaddexp(0, z)
    p, q = np.exp(-l), np.exp(-m)
    p_g, q_g = np.exp(-gamma * l), np.exp(-gamma * m)
    first, second = _poly(l, q, epsilon), _poly(m, p, epsilon)
    # 1 + epsilon p, in terms that do not cancel
    of_p, of_q = (
        (1 + min(epsilon, 0)) + abs(epsilon) * t for t in ((q, p) if epsilon < 0 else (p, q))
    )
    return Parts(
        a * q_g * first,
        b * p_g * second,
        -a * q_g * (gamma * p * first + q * of_p),
        b * p_g * (gamma * q * second + p * of_q),
        1 + (1 + gamma) * np.maximum(l, m),
    )


def _poly(l: Array, q: Array, epsilon: float) -> Array:
    """l + epsilon q, where l = -log(1 - q); l - q is q^2 / 2 + q^3 / 3 + ..."""
    if epsilon >= 0:
        return l + epsilon * q
    series = sum(np.minimum(q, 0.1) ** k / k for k in range(2, 20))
    return (1 + epsilon) * l - epsilon * np.where(q < 0.1, series, l - q)


def focal(z: Array, alpha: float | None, gamma: float) -> Parts:
    return poly(z, 0.0, gamma, alpha)


def asymmetric(z: Array, gamma_pos: float, gamma_neg: float, margin: float) -> Parts:
    positive = focal(z, None, gamma_pos)
    if margin == 0:
        negative = focal(z, None, gamma_neg)
        n, d_n = negative.negative, negative.d_negative
        condition = np.maximum(positive.condition, negative.condition)
        return Parts(positive.positive, n, positive.d_positive, d_n, condition)
    p, q = np.exp(-np.logaddexp(0, -z)), np.exp(-np.logaddexp(0, z))
    s = np.maximum(p - margin, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        minus_log = -np.where(s > 0.5, np.log(q + margin), np.log1p(-np.minimum(s, 0.5)))
        g = gamma_neg
        slope = (g * s ** (g - 1) * minus_log if g else 0.0) + s**g / (q + margin)
    n = np.where(s > 0, s**g * minus_log, 0.0)
    d_n = np.where(s > 0, slope * p * q, 0.0)
    # A rounding error of p is one of p / s in s.
    with np.errstate(divide="ignore", invalid="ignore"):
        condition = positive.condition + np.where(s > 0, g * p / s, 0.0)
    return Parts(positive.positive, n, positive.d_positive, d_n, condition)


def probabilities(p: Array, eps: float | None, largest: float) -> Parts:
    """`largest`: the largest number of the dtype of computation, beyond which 1 / p is dropped."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if eps is None:
            l, m = np.minimum(-np.log(p), 100.0), np.minimum(-np.log1p(-p), 100.0)
            by_p = np.where((p < np.exp(-100.0)) | (p < 1 / largest), 0.0, -1 / p)
            by_q = np.where(p == 1, 0.0, 1 / (1 - p))
        else:
            low, high = p < eps, 1 - p < eps
            inside = np.clip(p, eps, 1 - eps)
            l = np.where(high, -np.log1p(-eps), -np.log(inside))
            m = np.where(high, -np.log(eps), -np.log1p(-inside))
            by_p, by_q = (np.where(low | high, 0.0, d) for d in (-1 / inside, 1 / (1 - inside)))
    return Parts(l, m, by_p, by_q, np.ones_like(p))


def log_probabilities(x: Array) -> Parts:
    with np.errstate(divide="ignore", over="ignore"):
        m = -np.where(x > -0.7, np.log(-np.expm1(x)), np.log1p(-np.exp(x)))
        by_x = np.where(x == 0, 0.0, 1 / np.expm1(-x))
    return Parts(-x, m, -np.ones_like(x), by_x, np.ones_like(x))


FORMULAS: dict[str, Callable[..., Parts]] = {
    "binary_cross_entropy_with_logits": logits,
    "binary_cross_entropy": probabilities,
    "binary_cross_entropy_with_log_probs": log_probabilities,
    "sigmoid_focal_loss": focal,
    "asymmetric_loss": asymmetric,
    "poly_binary_cross_entropy": poly,
}


# ------------------------------------------------------------------------ weights and reductions


@dataclass(frozen=True)
class Call:
    """A call of a loss: arrays that broadcast to the input's shape, and the options.

    Attributes:
        target: in [0, 1], or anything where it is not valid.
        weight: of an element.
        pos_weight: of its positive part.
        smoothing: label smoothing.
        valid: of the input's shape.
        upstream: of the losses or of the reduced loss.
        divisor: of a sum; None for the losses of elements.
    """

    target: Array
    weight: Array
    pos_weight: Array
    smoothing: float
    valid: np.ndarray[Any, np.dtype[np.bool_]]
    upstream: Array
    divisor: float | None


def divisor_of(reduction: str, valid: Array, weight: Array) -> float | None:
    """The divisor of a reduction; `valid` in the shape of the input."""
    if reduction == "none":
        return None
    if reduction == "sum":
        return 1.0
    if reduction == "mean":
        count = valid.sum()
    elif reduction == "weighted_mean":
        count = np.where(valid, weight, 0.0).sum()
    else:
        rows = valid.reshape(len(valid), -1) if valid.ndim and valid.size else valid.reshape(1, -1)
        count = rows.any(axis=1).sum()
    return float(count) or 1.0


def evaluate(parts: Parts, call: Call) -> dict[str, Result]:
    """The value, and the gradients by input, target, weight and pos_weight, in the input's shape.

    The gradient by the weight is without the derivative of the denominator of "weighted_mean".
    """
    valid, s = call.valid, call.smoothing
    w, p, y = (np.where(valid, t, 0.0) for t in (call.weight, call.pos_weight, call.target))
    y = np.where(valid, y * (1 - s) + s / 2, 0.0)
    up = np.where(valid, call.upstream / (call.divisor or 1.0), 0.0)
    # Where the target is soft, 1 - y and smoothing are off by a unit of 1, not of themselves.
    soft = (y != 0) & (y != 1)

    def result(of_positive: Array, of_negative: Array, factor: Array) -> Result:
        """factor (p y of_positive + (1 - y) of_negative), where 0 times infinity is 0."""
        true = _times(p * y, of_positive) + _times(1 - y, of_negative)
        terms = _times(np.where(soft, p, p * y), abs(of_positive))
        terms = terms + _times(np.where(soft, 1.0, 1 - y), abs(of_negative))
        return _result(_times(factor, true), _times(abs(factor), terms), parts)

    losses = result(parts.positive, parts.negative, np.where(valid, w, 0.0))
    value = losses
    if call.divisor is not None:
        fields = losses.true, losses.terms, losses.exact_terms
        value = Result(*(t.sum() / call.divisor for t in fields))
    with np.errstate(invalid="ignore"):  # infinite losses have no gradient by the target
        by_y = w * up * (1 - s) * (p * parts.positive - parts.negative)
        terms = abs(w * up) * (p * parts.positive + parts.negative)
        by_p = _times(w * up * y, parts.positive)
        terms_of_p = abs(by_p) + _times(abs(w * up * s), parts.positive)
    return {
        "value": value,
        "input": result(parts.d_positive, parts.d_negative, w * up),
        "target": _result(by_y, terms, parts),
        "weight": result(parts.positive, parts.negative, up),
        "pos_weight": _result(by_p, terms_of_p, parts),
    }


def _result(true: Array, terms: Array, parts: Parts) -> Result:
    return Result(true, terms, _times(terms, parts.condition))


def sum_to(result: Result, shape: Sequence[int]) -> Result:
    """The gradient of something that was broadcast from a shape."""

    def summed(t: Array) -> Array:
        t = t.sum(axis=tuple(range(t.ndim - len(shape))))
        axes = tuple(i for i, n in enumerate(shape) if n == 1 and t.shape[i] != 1)
        return t.sum(axis=axes, keepdims=True)

    return Result(summed(result.true), summed(result.terms), summed(result.exact_terms))


def _times(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.where((a == 0) | (b == 0), 0.0, a * b)


# --------------------------------------------------------------------------------- linear layers


def linear(x: Array, w: Array, bias: Array, call: Call) -> dict[str, Result]:
    """The loss of the logits x w^T + bias, and its gradients by x, w and bias.

    Args:
        x: [rows, features].
        w: [labels, features].
        bias: [labels].
        call: of the logits, [rows, labels]; without a divisor, the value is the sum of each row.
    """
    parts = logits(x @ w.T + bias)
    found = evaluate(parts, call)
    value, g = found["value"], found["input"]
    # A logit is off by as many units of the sum of its absolute terms, a loss by at most as much
    # times its largest derivative, and the derivative by at most a quarter of it.
    steepest = np.where(call.valid, call.weight * np.maximum(call.pos_weight, 1.0), 0.0)
    moved = steepest * (abs(x) @ abs(w).T + abs(bias))
    scale = 1 / (call.divisor or 1.0)
    of_value = moved.sum(1) if call.divisor is None else moved.sum() * scale
    true = value.true.sum(1) if call.divisor is None else value.true
    terms = value.terms.sum(1) if call.divisor is None else value.terms
    of_g = g.terms + moved * abs(call.upstream) * scale / 4
    return {
        "value": _plain(true, terms + of_value),
        "input": _plain(g.true @ w, (of_g + abs(g.true)) @ abs(w)),
        "weight": _plain(g.true.T @ x, (of_g + abs(g.true)).T @ abs(x)),
        "bias": _plain(g.true.sum(0), of_g.sum(0)),
    }


def pairs(x: Array, y: Array, scale: float, bias: float, call: Call) -> dict[str, Result]:
    """The loss of the logits scale x y^T + bias, and its gradients."""
    found = linear(scale * x, y, np.full(len(y), bias), call)
    by_x, by_bias = found["input"], found["bias"]
    return {
        "value": found["value"],
        "x": _plain(scale * by_x.true, abs(scale) * by_x.terms),
        "y": found["weight"],
        "scale": _plain((by_x.true * x).sum(), (by_x.terms * abs(x)).sum()),
        "bias": _plain(by_bias.true.sum(), by_bias.terms.sum()),
    }


def _plain(true: Array, terms: Array) -> Result:
    return Result(np.asarray(true), np.asarray(terms), np.asarray(terms))
