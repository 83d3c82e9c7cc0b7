"""Label lists from the forms in which labels are stored, and in batches of a DataLoader."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torchbce import LinearBCELoss, collate_positives, positives_from

ROWS = [[3, 17], [], [5, 0, 19]]
LABELS = 20
LISTS = torch.tensor([[3, 17, -1, -1], [-1, -1, -1, -1], [5, 0, 19, -1]])
DENSE = torch.zeros(3, LABELS, dtype=torch.bool)
for number, labels in enumerate(ROWS):
    DENSE[number, labels] = True
CSR = scipy.sparse.csr_array(DENSE.numpy().astype(np.int8))


def as_sets(lists: Tensor) -> list[set[int]]:
    """The labels of each row, which must not be there twice."""
    rows = [[label for label in row if label != -1] for row in lists.tolist()]
    assert all(len(set(row)) == len(row) for row in rows)
    return [set(row) for row in rows]


def objects(rows: list[Any]) -> np.ndarray:
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


def with_explicit_zeros() -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array(
        ([1, 1, 0, 1, 1, 1, 0], [3, 17, 4, 0, 5, 19, 18], [0, 3, 3, 7]), shape=(3, LABELS)
    )


FORMS: dict[str, Callable[[], Any]] = {
    "lists": lambda: ROWS,
    "tuples": lambda: tuple(map(tuple, ROWS)),
    "sets": lambda: [set(row) for row in ROWS],
    "a generator of generators": lambda: ((label for label in row) for row in ROWS),
    "NumPy integers": lambda: [[np.int32(label) for label in row] for row in ROWS],
    "arrays": lambda: [np.array(row, dtype=np.uint16) for row in ROWS],
    "tensors": lambda: [torch.tensor(row, dtype=torch.int32) for row in ROWS],
    "an array of objects": lambda: objects(ROWS),
    "an array of arrays": lambda: objects([np.array(row, dtype=np.int64) for row in ROWS]),
    "padded with -1": lambda: LISTS,
    "padded with -100": lambda: torch.where(LISTS == -1, -100, LISTS).int(),
    "padded on the left": lambda: LISTS.flip(1),
    "a padded array": lambda: LISTS.numpy(),
    "lists with padding": lambda: LISTS.tolist(),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.tensor(row, dtype=torch.int64) for row in ROWS], layout=torch.jagged
    ),
    "bool": lambda: DENSE,
    "a bool array": lambda: DENSE.numpy(),
    "csr_array": lambda: CSR,
    "csr_matrix": lambda: scipy.sparse.csr_matrix(CSR),
    "of bool": lambda: CSR.astype(bool),
    "of floats": lambda: CSR.astype(np.float32),
    "coo": lambda: CSR.tocoo(),
    "csc": lambda: CSR.tocsc(),
    "lil": lambda: CSR.tolil(),
    "explicit zeros": with_explicit_zeros,
    "rows of a csr_array": lambda: [CSR[i] for i in range(3)],
    "rows of a csr_matrix": lambda: [scipy.sparse.csr_matrix(CSR)[i] for i in range(3)],
    "a sparse COO tensor": lambda: DENSE.float().to_sparse(),
    "a sparse CSR tensor": lambda: DENSE.float().to_sparse_csr(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_forms(form: str) -> None:
    for options in ({}, {"num_labels": LABELS}):
        lists = positives_from(FORMS[form](), **options)
        assert lists.dtype == torch.int64
        assert lists.shape == (3, 4)
        assert as_sets(lists) == [set(row) for row in ROWS]
        # Padding follows the labels.
        assert not ((lists[:, :-1] == -1) & (lists[:, 1:] != -1)).any()
        head, x = LinearBCELoss(6, LABELS), torch.ones(3, 6)
        assert head(x, lists).equal(head(x, DENSE))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_nested_tensors_of_strided_layout() -> None:
    nested = torch.nested.nested_tensor([torch.tensor(row, dtype=torch.int64) for row in ROWS])
    assert positives_from(nested).equal(LISTS)


def test_the_order_of_a_row_is_kept() -> None:
    assert positives_from(ROWS).equal(LISTS)
    assert positives_from(objects(ROWS)).equal(LISTS)


def test_no_rows_and_no_labels() -> None:
    assert positives_from([]).shape == (0, 1)
    for empty in ([[], []], scipy.sparse.csr_array((2, LABELS)), torch.zeros(2, 9).bool()):
        lists = positives_from(empty)
        assert lists.equal(torch.full((2, 1), -1))
    head = LinearBCELoss(6, LABELS)
    x = torch.ones(2, 6)
    assert head(x, positives_from([[], []])).equal(head(x, torch.zeros(2, LABELS)))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_every_label_in_every_row(columns: int) -> None:
    """Lists as wide as there are labels are refused by the loss; padding tells them apart."""
    full = scipy.sparse.csr_array(np.ones((2, columns)))
    head, x = LinearBCELoss(6, columns), torch.ones(2, 6)
    assert head(x, positives_from(full)).equal(head(x, torch.ones(2, columns)))


@pytest.mark.parametrize("form", [list, torch.tensor, np.array])
def test_one_value_per_label_as_integers_never_passes_as_lists(form: Any) -> None:
    # Two labels: no row has a label twice.
    lists = positives_from(form([[0, 1], [1, 0], [0, 1]]))
    with pytest.raises(ValueError, match=r"one value per label or lists.*target\.bool\(\)"):
        LinearBCELoss(6, 2)(torch.ones(3, 6), lists)
    # The labels 0 and 1 of more than two.
    assert LinearBCELoss(6, 5)(torch.ones(3, 6), lists).isfinite()
    with pytest.raises(ValueError, match=r"row 1 has label 0 more than once.*of dtype bool"):
        positives_from(form([[0, 1, 2], [1, 0, 0]]))


MISUSES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "one label per row": (
        lambda: [3, 17],
        TypeError,
        r"row 0 is 3, and a row is a list of labels, such as \[3, 17\]; if each .* \[\[3\], \[17\]",
    ),
    "an array of labels": (
        lambda: np.arange(3),
        TypeError,
        r"labels has shape \(3,\) and dtype int64; .* if each row has one label, .*\[:, None\]",
    ),
    "a tensor of labels": (lambda: torch.arange(3), TypeError, r"labels has shape \(3,\)"),
    "nothing": (lambda: None, TypeError, "labels must be rows of labels, .* got NoneType"),
    "text": (lambda: "3 17", TypeError, "labels must be rows of labels, .* got str"),
    "names": (lambda: [["cat"]], TypeError, "row 0 has <U3 values such as cat, .* are integers"),
    "a name per row": (lambda: ["cat"], TypeError, "row 0 is cat, and a row is a list of labels"),
    "floats": (lambda: [[1], [2.5]], TypeError, "row 1 has float64 values such as 2.5"),
    "missing": (lambda: [[1], [None]], TypeError, "row 1 has object values such as None"),
    "bools": (
        lambda: [[True, False]],
        TypeError,
        "row 0 has bool values such as True, .* dtype bool",
    ),
    "too deep": (lambda: [[[3]]], TypeError, r"row 0 is \[\[3\]\], and a row is a list of labels"),
    "of several shapes": (lambda: [[1, [2]]], TypeError, r"row 0 is \[1, \[2\]\], and a row"),
    "a float tensor": (
        lambda: DENSE.float(),
        TypeError,
        r"labels has shape \(3, 20\) and dtype float32; .* give \(labels > 0\)",
    ),
    "three dimensions": (lambda: DENSE[None], TypeError, r"labels has shape \(1, 3, 20\)"),
    "below 0": (
        lambda: [[1], [4, -3]],
        ValueError,
        "row 1 has the label -3; labels are 0 or above, and only -1 and -100 are padding",
    ),
    "soft targets": (
        lambda: CSR * 0.5,
        ValueError,
        r"labels\[0, 3\] is 0.5; .* Give \(labels != 0\) .* soft targets as a sparse tensor",
    ),
    "counts": (lambda: CSR * 2, ValueError, r"labels\[0, 3\] is 2; label lists have"),
    "a label twice": (
        lambda: [[5], [7, 3, 7]],
        ValueError,
        r"row 1 has label 7 more than once. If rows are lists of labels, .* set\(row\)",
    ),
    "an entry twice": (
        lambda: scipy.sparse.csr_array(([1, 1], [4, 4], [0, 0, 2]), shape=(2, 9)),
        ValueError,
        "row 1 has label 4 more than once",
    ),
    "a tensor's entry twice": (
        lambda: torch.sparse_coo_tensor(
            torch.tensor([[1, 1], [4, 4]]), torch.ones(2), (2, 9), check_invariants=False
        ),
        ValueError,
        r"labels stores the element at index \[1, 4\] more than once",
    ),
    "a 1-D sparse array": (
        lambda: scipy.sparse.coo_array(np.ones(3)),
        TypeError,
        r"labels has shape \(3,\); a sparse matrix must be \[rows, labels\]",
    ),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_error_message(misuse: str) -> None:
    make, kind, words = MISUSES[misuse]
    with pytest.raises(kind, match=words) as raised:
        positives_from(make())
    assert type(raised.value) is kind
    assert len(str(raised.value)) < 300


def test_labels_out_of_range() -> None:
    words = "row 2 has the label 19; labels are 0 to 18"
    for form in (ROWS, CSR, DENSE):
        with pytest.raises(ValueError, match=words):
            positives_from(form, num_labels=19)
    # SciPy does not check the columns of a matrix when it is made.
    matrix = scipy.sparse.csr_array(([1, 1], [5, 100], [0, 1, 2]), shape=(2, 100))
    with pytest.raises(ValueError, match="row 1 has the label 100; labels are 0 to 99"):
        positives_from(matrix)
    matrix = scipy.sparse.csr_array(([1, 1], [5, -1], [0, 1, 2]), shape=(2, 100))
    with pytest.raises(ValueError, match="labels has an entry in column -1; columns begin at 0"):
        positives_from(matrix)


def test_long_rows_have_short_errors() -> None:
    for rows in ([list(range(100_000)), [0.5] * 100_000], [[[1] * 100_000]], ["x" * 100_000]):
        with pytest.raises(TypeError) as raised:
            positives_from(rows)
        assert len(str(raised.value)) < 300


# ------------------------------------------------------------------------------------ DataLoader


class Samples(Dataset[Any]):
    """Four samples made from an index and its labels."""

    rows = ([2, 7], [], [1, 0, 3], [9])

    def __init__(self, make: Callable[[Tensor, Any], Any]) -> None:
        self._make = make

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self._make(torch.full((2,), float(i)), self.rows[i])


class Pair(NamedTuple):
    x: Tensor
    tags: list[int]


X = torch.arange(4.0)[:, None].expand(4, 2)
POSITIVES = positives_from(list(Samples.rows))


def batches(make: Callable[[Tensor, Any], Any], collate: Any, workers: int = 0) -> list[Any]:
    loader = DataLoader(Samples(make), batch_size=4, collate_fn=collate, num_workers=workers)
    return list(loader)


def test_samples_that_are_labels_only() -> None:
    (batch,) = batches(lambda x, labels: labels, positives_from)
    assert batch.equal(POSITIVES)


def test_tuples() -> None:
    (batch,) = batches(lambda x, labels: (x, labels), collate_positives)
    assert type(batch) is tuple
    assert batch[0].equal(X)
    assert batch[1].equal(POSITIVES)


def test_the_place_of_the_labels() -> None:
    for place in (1, -2):
        collate = functools.partial(collate_positives, labels=place)
        (batch,) = batches(lambda x, labels: [x, labels, {"weight": x[0]}], collate)
        assert type(batch) is list
        assert batch[1].equal(POSITIVES)
        assert batch[2]["weight"].equal(X[:, 0])


def test_named_tuples() -> None:
    (batch,) = batches(Pair, collate_positives)
    assert type(batch) is Pair
    assert batch.x.equal(X)
    assert batch.tags.equal(POSITIVES)


def test_dictionaries() -> None:
    (batch,) = batches(lambda x, labels: {"labels": labels, "x": x}, collate_positives)
    assert batch["x"].equal(X)
    assert batch["labels"].equal(POSITIVES)
    collate = functools.partial(collate_positives, labels="tags")
    (batch,) = batches(lambda x, labels: {"tags": set(labels), "labels": x}, collate)
    assert batch["labels"].equal(X)
    assert as_sets(batch["tags"]) == [set(row) for row in Samples.rows]


def test_rows_of_a_matrix() -> None:
    matrix = scipy.sparse.csr_matrix((4, 10), dtype=bool).tolil()
    for i, labels in enumerate(Samples.rows):
        matrix[i, labels] = True
    matrix = matrix.tocsr()
    (batch,) = batches(lambda x, labels: (x, matrix[int(x[0])]), collate_positives)
    assert as_sets(batch[1]) == [set(row) for row in Samples.rows]


def pair(x: Tensor, labels: Any) -> tuple[Tensor, Any]:
    return x, labels


@pytest.mark.slow
def test_in_a_worker_process() -> None:
    (batch,) = batches(pair, collate_positives, workers=1)
    assert batch[1].equal(POSITIVES)


def test_samples_of_another_form() -> None:
    with pytest.raises(
        TypeError, match=r"a sample must be a tuple, .* got Tensor; if it is the la"
    ):
        collate_positives([torch.ones(2)])
    with pytest.raises(KeyError, match=r"a sample has no field 'labels' but 'x', 'tags'; give the"):
        collate_positives([{"x": 1, "tags": [3]}])
    with pytest.raises(IndexError):
        collate_positives([(1, [3])], labels=2)
    with pytest.raises(TypeError, match="row 0 is 3, and a row is a list of labels"):
        collate_positives([([1, 2], 3), ([1, 2], 4)])
