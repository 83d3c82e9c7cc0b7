"""The linear model: main effects of all columns, with a penalty chosen on rows held out."""

from collections.abc import Callable

import numpy as np

from torchbce.classifier.models.candidates import Candidates, losses
from torchbce.classifier.models.features import SparseRows
from torchbce.classifier.models.parts import Parts
from torchbce.classifier.models.solver import STRENGTHS, Linear, Problem

#: The path ends where the held-out loss has risen by this share above the lowest.
RISE = 1e-3

#: While strengths are compared, L-BFGS stops earlier than for the final weights.
PATH_TOLERANCE = 1e-5


def linear_path(
    rows: SparseRows,
    targets: np.ndarray,
    row_weight: np.ndarray | None,
    parts: Parts,
    threads: int,
    on_step: Callable[[float, float], object] = lambda l2, loss: None,
) -> tuple[Candidates, list[list[Linear]]]:
    """The logits of the rows held out for each strength, and the weights that gave them.

    Each part starts from the weights of the strength before, so that the path takes a few steps per
    strength.

    Returns:
        The candidates, and for each strength the weights of each part.
    """
    problems = [
        Problem(
            rows.take(train),
            targets[train],
            None if row_weight is None else row_weight[train],
            threads,
        )
        for train, _ in parts.pairs
    ]
    held_out = [rows.take(index) for _, index in parts.pairs]
    held_out_targets = targets[parts.held_out]
    models = [problem.start for problem in problems]
    candidates, weights = Candidates(), []
    lowest = np.inf
    for l2 in STRENGTHS:
        models = [
            problem.solve(l2, model, PATH_TOLERANCE)
            for problem, model in zip(problems, models, strict=True)
        ]
        logits = np.concatenate(
            [model.logits(part, threads) for model, part in zip(models, held_out, strict=True)]
        )
        candidates.add(l2, logits)
        weights.append(models)
        loss = float(losses(logits, held_out_targets).mean())
        on_step(l2, loss)
        lowest = min(lowest, loss)
        if loss > lowest * (1 + RISE):
            break
    return candidates, weights
