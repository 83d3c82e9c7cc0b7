"""The linear model: main effects of all columns, with a penalty chosen on rows held out."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from torchbce.classifier.columns.categorical import least_rows
from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.models.candidates import Candidates, mean_loss
from torchbce.classifier.models.data import Data, Fitted
from torchbce.classifier.models.features import Layout, SparseRows
from torchbce.classifier.models.members import LinearModel
from torchbce.classifier.models.solver import STRENGTHS, Linear

# The path begins here, and goes on to weaker penalties; or to stronger ones, if those are better.
# Rows of text have a norm of 1, so that their weights are larger and want a weaker penalty.
FIRST, FIRST_OF_TEXT = STRENGTHS.index(10.0), STRENGTHS.index(1.0)

#: The path ends where the next strength lowers the held-out loss by less than this share.
GAIN = 5e-4

#: The strength of the penalty of a standardised number, as a share of that of its bins. A numeric
#: column has one weight for its value and one for each bin; with one strength for all of them
#: either the linear effect is shrunk or the bins fit the noise. On six tables of 900 rows with ten
#: Gaussian columns the log loss of new rows was 1.6% above that of scikit-learn's
#: `LogisticRegression` with a share of 1, 0.9% with 0.3, 0.2% with 0.1 and with 0.03; adult_income
#: and mammography stay as they were.
SHARE_OF_NUMBERS = 0.1
#: With fewer rows both shares are tried: on scikit-learn's breast cancer, 426 rows, the held-out
#: log loss is 0.065 with a share of 1 and 0.074 with 0.1.
FEW_ROWS, SHARES_OF_FEW = 5000, (0.1, 1.0)

# Few rows do not tell the strengths apart, and a usual one suits most tables, 1 for numbers and for
# text: another, l2, is chosen only if its mean loss is lower by PRIOR |log(l2 / usual)| / rows. On
# 40 tables of 60 rows with three Gaussian features the mean log loss of new rows fell from 0.4211
# to 0.4165; that of scikit-learn's `LogisticRegression` is 0.4132.
PRIOR = 0.4

#: While strengths are compared, L-BFGS stops earlier than for the final weights.
PATH_TOLERANCE = 1e-5


class LinearPath(NamedTuple):
    """The linear models of all parts, for strengths of the penalty from strong to weak.

    Attributes:
        candidates: the strengths, each with the share of it that numbers have, and the logits of
            the rows held out.
        weights: for each strength the weights of each part.
        best: the position of the strength with the lowest loss.
        raw: for each strength the logits of the rows held out as the models gave them.
    """

    candidates: Candidates
    weights: list[list[Linear]]
    best: int
    raw: list[np.ndarray]

    @property
    def l2(self) -> float:
        """The strength with the lowest loss."""
        strength: float = self.candidates.settings[self.best][0]
        return strength

    @property
    def share(self) -> float:
        """The share of the strength for standardised numbers that has the lowest loss."""
        share: float = self.candidates.settings[self.best][1]
        return share


def linear_path(data: Data) -> LinearPath:
    """Fit the linear model to each part, for one strength after the other.

    Each strength starts from the weights of the one before, so that it takes a few steps.
    """
    parts = [data.part_rows(number) for number in range(len(data.parts.pairs))]
    problems = [
        data.problem(rows, train)
        for (rows, _), (train, _) in zip(parts, data.parts.pairs, strict=True)
    ]
    first = first_strength(data.encoder)
    held_out = [rows for _, rows in parts]
    candidates = Candidates()
    weights: list[list[Linear]] = []
    raw: list[np.ndarray] = []
    data.progress.start("linear", len(STRENGTHS))

    def follow(share: float) -> None:
        def loss_of(l2: float, start: list[Linear]) -> float:
            of_weights = penalty(data.encoder, l2, share)
            models = [
                problem.solve(of_weights, model, PATH_TOLERANCE)
                for problem, model in zip(problems, start, strict=True)
            ]
            logits = [
                model.logits(rows, data.threads)
                for model, rows in zip(models, held_out, strict=True)
            ]
            raw.append(np.concatenate(logits))
            candidates.add((l2, share), data.comparable(raw[-1]))
            weights.append(models)
            own.append(models)
            loss = mean_loss(candidates.logits[-1], data.held_out_targets, data.held_out_weight)
            data.progress.tried(f"L2 {l2:g}", loss)
            return loss

        own: list[list[Linear]] = []
        follow_path(first, [problem.start for problem in problems], loss_of, own)

    few = len(data.targets) < FEW_ROWS and data.encoder.numeric
    for share in SHARES_OF_FEW if few else (SHARE_OF_NUMBERS,):
        follow(share)
    data.progress.end()
    rows = len(data.targets) if data.weight is None else float(data.weight.sum())
    usual = [1.0 if data.encoder.texts else 1 / share for _, share in candidates.settings]
    candidates.doubt = doubts([l2 for l2, _ in candidates.settings], usual, rows)
    best = candidates.best(data.held_out_targets, data.held_out_weight)
    return LinearPath(candidates, weights, best, raw)


def first_strength(encoder: Encoder) -> int:
    """The position in `STRENGTHS` of the strength that a path begins with."""
    return FIRST_OF_TEXT if encoder.texts else FIRST


def penalty(encoder: Encoder, l2: float, share: float = SHARE_OF_NUMBERS) -> np.ndarray:
    """The strength of the penalty of each weight of the main effects, [width].

    Args:
        encoder: the columns.
        l2: the strength.
        share: the share of it that standardised numbers have.
    """
    layout = Layout.of(encoder)
    found = np.full(layout.width, l2)
    found[layout.numbers : layout.text] *= share
    return found


def doubts(strengths: list[float], usual: list[float], rows: float) -> list[float]:
    """By how much the loss of each strength has to be lower than that of a usual one."""
    pairs = zip(strengths, usual, strict=True)
    return [PRIOR * abs(float(np.log(l2 / own))) / rows for l2, own in pairs]


def follow_path(
    at: int,
    start: list[Linear],
    loss_of: Callable[[float, list[Linear]], float],
    weights: list[list[Linear]],
) -> None:
    """Try one strength after the other: weaker ones, or stronger ones if those do not help.

    Args:
        at: the position of the first strength.
        start: the weights of each part that it begins with.
        loss_of: fits one strength from the weights of another and returns the held-out loss; it
            appends the new weights to `weights`.
        weights: for each strength that was tried the weights of each part.
    """
    first = loss_of(STRENGTHS[at], start)
    for strengths in (STRENGTHS[at + 1 :], STRENGTHS[at - 1 :: -1]):
        lowest, models = first, weights[0]
        for l2 in strengths:
            loss = loss_of(l2, models)
            if loss > lowest * (1 - GAIN):
                break
            lowest, models = loss, weights[-1]
        if lowest < first:
            break


def fit_linear(data: Data, path: LinearPath) -> Fitted:
    """The linear model of all rows, for the strengths of a path."""
    return Fitted(
        path.candidates,
        lambda at: LinearModel(
            calibrated(centred(solve_all(data, path, at), data), data, data.rows, path.raw[at])
        ),
        lambda setting: f"L2 {setting[0]:g}" + ", numbers too" * (setting[1] == 1),
        len(path.candidates.settings),
    )


def solve_all(data: Data, path: LinearPath, at: int) -> Linear:
    """The weights for all rows at one strength, from the mean of those of the parts."""
    parts = path.weights[at]
    start = Linear(
        np.mean([part.weight for part in parts], axis=0), float(np.mean([p.bias for p in parts]))
    )
    problem = data.problem(data.rows)
    return problem.solve(penalty(data.encoder, *path.candidates.settings[at]), start)


def calibrated(linear: Linear, data: Data, rows: SparseRows, held_out: np.ndarray) -> Linear:
    """The model of all rows with the probabilities of the targets, whatever its loss.

    Args:
        linear: the model.
        data: the table.
        rows: the features of all its rows.
        held_out: the logits of the rows held out.
    """
    return data.line(held_out, lambda: linear.logits(rows, data.threads)).after(linear)


def centred(linear: Linear, data: Data) -> Linear:
    """The same model, in which a column whose value has no code adds what it adds on average.

    A constant may move from the weights of a column's codes to the bias. It is chosen so that their
    mean over the training rows is 0, since a new value without a code, missing or unknown, adds 0.
    Columns in which enough training rows have no code stay as they are: the model has learned from
    these rows what that means.
    """
    weight, bias = linear.weight.copy(), linear.bias
    codes, starts = data.encoded.codes, Layout.of(data.encoder).starts
    few = least_rows(len(codes))
    for start, column, own in zip(starts, data.encoder.coded, codes.T, strict=True):
        known = own >= 0
        if known.any() and len(own) - known.sum() < few:
            of_column = weight[start : start + column.codes]
            rows = None if data.weight is None else data.weight[known]
            mean = float(np.average(of_column[own[known]], weights=rows))
            of_column -= mean
            bias += mean
    return Linear(weight, bias)
