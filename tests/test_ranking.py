"""Ranking metrics: against sums over rows in plain Python, and scikit-learn's nDCG."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor

import torchbce
from torchbce import ranking

KS = (1, 3, 5)


def lists_of(rows: int, labels: int, seed: int = 0) -> list[list[int]]:
    """Up to 8 labels of each row, and none of the first."""
    random = np.random.default_rng(seed)
    lists = [random.permutation(labels)[: random.integers(0, 9)].tolist() for _ in range(rows)]
    return [[], *lists[1:]]


def dense_of(lists: list[list[int]], labels: int) -> np.ndarray:
    dense = np.zeros((len(lists), labels), dtype=bool)
    for row, own in enumerate(lists):
        dense[row, own] = True
    return dense


def by_hand(best: Any, lists: list[list[int]], k: int, p: Any) -> tuple[float, float, float]:
    """P@k, nDCG@k and PSP@k as the formulas say."""
    precision = ndcg = gained = possible = 0.0
    for own, predicted in zip(lists, best, strict=True):
        hits = [label in own for label in predicted[:k]]
        precision += sum(hits) / k
        discounts = [1 / math.log2(rank + 2) for rank in range(k)]
        if own:
            dcg = sum(d for d, hit in zip(discounts, hits, strict=True) if hit)
            ndcg += dcg / sum(discounts[: len(own)])
        gained += sum(1 / p[label] for label in predicted[:k] if label in own)
        possible += sum(sorted((1 / p[label] for label in own), reverse=True)[:k])
    return precision / len(lists), ndcg / len(lists), gained / possible


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, list[list[int]], Tensor]:
    rows, labels = 61, 40
    scores = torch.randn(rows, labels, generator=torch.Generator().manual_seed(0))
    lists = lists_of(rows, labels)
    counts = dense_of(lists, labels).sum(0)
    return scores, lists, ranking.propensities(counts, rows)


def test_the_formulas(data: tuple[Tensor, list[list[int]], Tensor]) -> None:
    scores, lists, propensity = data
    best = scores.topk(5).indices
    found = ranking.RankingMetrics(KS, propensity=propensity).update(best, lists).compute()
    for k in KS:
        expected = by_hand(best.tolist(), lists, k, propensity.tolist())
        figures = [found[name][k] for name in ("precision_at", "ndcg_at", "psp_at")]
        # A few additions of float64 in another order.
        assert figures == pytest.approx(expected, rel=1e-13)
        functions = (ranking.precision_at_k, ranking.ndcg_at_k)
        assert [f(best, lists, k) for f in functions] == figures[:2]
        psp = ranking.propensity_scored_precision_at_k(best, lists, k, propensity)
        assert psp == figures[2]
    sklearn = ndcg_score(dense_of(lists, 40), scores.numpy(), k=5)
    assert found["ndcg_at"][5] == pytest.approx(sklearn, rel=1e-12)


def test_the_best_ranking_is_1(data: tuple[Tensor, list[list[int]], Tensor]) -> None:
    _, lists, propensity = data
    full = [own for own in lists if own]
    gains = torch.tensor(dense_of(full, 40)) / propensity
    metrics = ranking.RankingMetrics(KS, propensity=propensity).update(gains, full).compute()
    for name in ("ndcg_at", "psp_at"):
        assert metrics[name] == pytest.approx(dict.fromkeys(KS, 1.0))


def test_propensities_of_the_article() -> None:
    counts, rows = np.array([0, 3, 50]), 5000
    c = (math.log(rows) - 1) * 3.6**0.6
    expected = [1 / (1 + c * math.exp(-0.6 * math.log(n + 2.6))) for n in counts]
    assert ranking.propensities(counts, rows, a=0.6, b=2.6).tolist() == pytest.approx(expected)
    # log N - 1 is negative for N = 2: a probability stays one.
    assert ranking.propensities([0, 2], 2).tolist() == [1.0, 1.0]


FORMS = {
    "lists": lambda lists: lists,
    "padded": torchbce.positives_from,
    "bool array": lambda lists: dense_of(lists, 40),
    "float tensor": lambda lists: torch.tensor(dense_of(lists, 40)).float(),
    "bfloat16": lambda lists: torch.tensor(dense_of(lists, 40)).bfloat16(),
    "int array": lambda lists: dense_of(lists, 40).astype(np.int64),
    "uint8 tensor": lambda lists: torch.tensor(dense_of(lists, 40)).byte(),
    "SciPy": lambda lists: scipy.sparse.csr_array(dense_of(lists, 40).astype(float)),
    "COO": lambda lists: torch.tensor(dense_of(lists, 40)).float().to_sparse(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("predicted", ["scores", "array", "topk", "indices", "half"])
def test_forms(data: tuple[Tensor, list[list[int]], Tensor], form: str, predicted: str) -> None:
    scores, lists, _ = data
    given: Any = {
        "scores": scores,
        "array": scores.double().numpy(),
        "topk": scores.topk(7),
        "indices": scores.topk(5).indices.int(),
        "half": scores.topk(40).indices.argsort().neg().to(torch.bfloat16),
    }[predicted]
    assert ranking.ndcg_at_k(given, FORMS[form](lists), 5) == ranking.ndcg_at_k(scores, lists, 5)


def test_batches_and_heads(data: tuple[Tensor, list[list[int]], Tensor]) -> None:
    _, lists, propensity = data
    torch.manual_seed(0)
    head, x = torchbce.LinearBCELoss(6, 40), torch.randn(61, 6)
    metrics = ranking.RankingMetrics(KS, propensity=propensity)
    for rows in (slice(0, 20), slice(20, 21), slice(21, 21), slice(21, 61)):
        metrics.update(head.topk(x[rows], 5), lists[rows])
    once = metrics.compute()
    assert metrics.rows == 61
    sparse = scipy.sparse.csr_matrix(dense_of(lists, 40).astype(float))
    for model in (head, head.logits):
        chunks = ranking.evaluate(model, x, sparse, KS, propensity=propensity, chunk_rows=7)
        for name, figures in once.items():
            assert chunks[name] == pytest.approx(figures, rel=1e-13)


def test_fewer_predictions_than_k_are_padded() -> None:
    assert ranking.precision_at_k(torch.tensor([[2, -1, -1]]), [[2]], 2) == 0.5


def test_two_columns_of_0_and_1() -> None:
    best = torch.tensor([[1, 0], [0, 1]])
    assert ranking.precision_at_k(best, np.array([[0, 1], [1, 1]]), 1) == 1.0  # one per label
    assert ranking.precision_at_k(best, [[0, 1], [1]], 1) == 0.5  # lists
    with pytest.raises(ValueError, match=r"it may be one value per label"):
        ranking.precision_at_k(best, np.array([[0, 1], [1, 0]]), 1)
    wide = torch.tensor([[0.5, 0.1, 0.9]])  # of three labels, so that two columns are lists
    assert ranking.precision_at_k(wide, np.array([[0, 1]]), 1) == 0.0


SCORES = torch.tensor([[0.1, 0.2, 0.7]])


@pytest.mark.parametrize(
    ("predicted", "target", "k", "message"),
    [
        (SCORES, [[0]], 4, "k is 4, but predicted has 3 labels in each row"),
        (SCORES, [[0]], 0, "k must be integers of 1 or above"),
        (SCORES, [[0], [1]], 1, "predicted has 1 rows and target 2"),
        (SCORES, [[3]], 1, "labels are 0 to 2"),
        (SCORES, np.array([[0.5, 0.0, 1.0]]), 1, r"target\[0, 0\] is 0.5"),
        (SCORES, [[1, 1]], 1, "more than once"),
        (SCORES[0], [[1]], 1, r"got shape \(3,\)"),
        (SCORES * math.nan, [[1]], 1, r"predicted\[0\] has a score that is NaN"),
        (torch.tensor([[0, 0, 1]]), [[1]], 1, r"predicted\[0\] has a label more than once"),
    ],
)
def test_errors(predicted: Any, target: Any, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking.precision_at_k(predicted, target, k)


def test_one_k_or_several() -> None:
    for ks in (2, np.int64(2), [2], (2,), np.array([2])):
        found = ranking.evaluate(lambda rows: rows, SCORES, [[2]], ks=ks)
        assert found["precision_at"] == {2: 0.5}
    for wrong in (2.5, "13", None):
        with pytest.raises(TypeError, match="ks must be an integer or several"):
            ranking.RankingMetrics(ks=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"k must be integers of 1 or above, got \[True\]"):
        ranking.RankingMetrics(ks=True)


def test_errors_of_propensities() -> None:
    with pytest.raises(ValueError, match="counts must be from 0 to 5, got 6"):
        ranking.propensities([6, 1], 5)
    with pytest.raises(ValueError, match=r"propensity must be in \(0, 1\], got 0"):
        ranking.RankingMetrics(propensity=torch.tensor([0.0]))
    with pytest.raises(ValueError, match="has the label 2; with 2 labels"):
        ranking.propensity_scored_precision_at_k(torch.tensor([[2]]), [[1]], 1, torch.ones(2))
    with pytest.raises(ValueError, match="there are no rows"):
        ranking.RankingMetrics().compute()
