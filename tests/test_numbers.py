"""Numbers of NumPy and of other libraries, wherever an argument is a number."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import torchbce
from torchbce import functional as f

Z = torch.tensor([[0.5, -1.0, 2.0], [-3.0, 0.25, 1.0]])
Y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
LISTS = torch.tensor([[1], [0]])

#: Calls with a number of 0.25 or 1 in them; their results are compared with those of a float.
PLACES: dict[str, Callable[[Any], Tensor]] = {
    "weight": lambda n: f.binary_cross_entropy_with_logits(Z, Y, weight=n),
    "pos_weight": lambda n: f.binary_cross_entropy_with_logits(Z, Y, pos_weight=n),
    "pos_weight of probabilities": lambda n: f.binary_cross_entropy(Y, Y, pos_weight=n),
    "label_smoothing": lambda n: f.binary_cross_entropy_with_logits(Z, Y, label_smoothing=n),
    "alpha": lambda n: f.sigmoid_focal_loss(Z, Y, alpha=n),
    "gamma": lambda n: f.sigmoid_focal_loss(Z, Y, gamma=n),
    "gamma_pos": lambda n: f.asymmetric_loss(Z, Y, gamma_pos=n),
    "gamma_neg": lambda n: f.asymmetric_loss(Z, Y, gamma_neg=n),
    "alpha of Poly": lambda n: f.poly_binary_cross_entropy(Z, Y, alpha=n),
    "epsilon": lambda n: f.poly_binary_cross_entropy(Z, Y, epsilon=n),
    "ignore_index": lambda n: f.binary_cross_entropy_with_logits(Z, Y, ignore_index=n),
    "weight of a module": lambda n: torchbce.BCEWithLogitsLoss(weight=n)(Z, Y),
    "options of a module": lambda n: torchbce.BCEWithLogitsLoss(
        pos_weight=n, label_smoothing=n, ignore_index=n
    )(Z, Y),
    "options of a focal module": lambda n: torchbce.SigmoidFocalLoss(alpha=n, gamma=n)(Z, Y),
    "options of an asymmetric module": lambda n: torchbce.AsymmetricLoss(gamma_pos=n, gamma_neg=n)(
        Z, Y
    ),
    "options of a Poly module": lambda n: torchbce.PolyBCELoss(epsilon=n, gamma=n, alpha=n)(Z, Y),
    "options of a linear loss": lambda n: torchbce.linear_binary_cross_entropy(
        Z, Z, LISTS, pos_weight=n, label_smoothing=n
    ),
    "pos_weight of a head": lambda n: torchbce.LinearBCELoss(
        3, 5, pos_weight=n, label_smoothing=n
    ).bias.detach(),
    "scale": lambda n: torchbce.pairwise_sigmoid_loss(Z, Z, scale=n, bias=-1.0),
    "bias": lambda n: torchbce.pairwise_sigmoid_loss(Z, Z, scale=1.0, bias=n),
    "correct_logits": lambda n: torchbce.imbalance.correct_logits(Z, n),
    "prior_bias": lambda n: torchbce.imbalance.prior_bias(n, n).reshape(()),
}
#: As above, with numbers below 1/2 only.
SMALL_PLACES: dict[str, Callable[[Any], Tensor]] = {
    "eps": lambda n: f.binary_cross_entropy(Y, Y, eps=n),
    "eps of a module": lambda n: torchbce.BCELoss(eps=n)(Y, Y),
    "margin": lambda n: f.asymmetric_loss(Z, Y, margin=n),
    "prior": lambda n: torchbce.LinearBCELoss(3, 5, prior=n).bias.detach(),
    "lr": lambda n: torch.tensor(torchbce.FusedSGD(n, weight_decay=n).lr),
}
NUMBERS = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "an array without dimensions": np.array,
    "an array of one": lambda n: np.array([n]),
    "a list of one": lambda n: [n],
    "a fraction": Fraction,
}
INTEGERS = {"int64": np.int64, "int32": np.int32, "uint8": np.uint8, "an int array": np.array}


@pytest.mark.parametrize("place", PLACES | SMALL_PLACES)
@pytest.mark.parametrize("kind", NUMBERS)
def test_a_number_of_another_library_is_a_number(place: str, kind: str) -> None:
    call = (PLACES | SMALL_PLACES)[place]
    assert torch.equal(call(NUMBERS[kind](0.25)), call(0.25))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", INTEGERS)
def test_an_integer_of_another_library_is_a_number(place: str, kind: str) -> None:
    assert torch.equal(PLACES[place](INTEGERS[kind](1)), PLACES[place](1))


def test_options_of_modules_are_python_numbers() -> None:
    module = torchbce.PolyBCELoss(
        epsilon=np.float32(0.5), ignore_index=np.int64(-100), label_smoothing=np.float32(0.5)
    )
    assert repr(module) == "PolyBCELoss(epsilon=0.5, label_smoothing=0.5, ignore_index=-100, " + (
        "reduction='mean')"
    )
    missing = torch.where(Y > 0, Y, math.nan)
    kept = f.binary_cross_entropy_with_logits(Z, missing, ignore_index=np.float32("nan"))
    assert kept == f.binary_cross_entropy_with_logits(Z, Y, ignore_index=0)


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_sizes(kind: type) -> None:
    head = torchbce.LinearBCELoss(3, 5, chunk_labels=kind(2))
    assert head.topk(Z, kind(2)).indices.shape == (2, 2)
    expected = torchbce.linear_binary_cross_entropy(Z, head.weight, LISTS, head.bias)
    torch.testing.assert_close(head(Z, LISTS), expected)
    torchbce.pairwise_sigmoid_loss(Z, Z, scale=1.0, bias=0.0, chunk_pairs=kind(1))


@pytest.mark.parametrize("place", sorted((PLACES | SMALL_PLACES).keys() - {"prior_bias"}))
@pytest.mark.parametrize(
    "wrong", [True, np.True_, [True], "0.25", b"1", 1j, np.array("1")], ids=repr
)
def test_what_is_no_number(place: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"must be (a tensor or )?a number, got"):
        (PLACES | SMALL_PLACES)[place](wrong)


@pytest.mark.parametrize("several", [[1.0, 2.0, 3.0], (1.0, 2.0), np.ones(3)], ids=repr)
def test_several_numbers_are_to_be_a_tensor(several: Any) -> None:
    for place in ("weight", "pos_weight", "alpha", "gamma", "scale", "options of a linear loss"):
        with pytest.raises(TypeError, match=r"convert it with torch\.as_tensor\("):
            PLACES[place](several)
    for name in ("weight", "pos_weight"):
        with pytest.raises(TypeError, match=rf"convert it with torch\.as_tensor\({name}\)"):
            torchbce.BCEWithLogitsLoss(**{name: several})
    with pytest.raises(TypeError, match=r"torch\.as_tensor\(prior\)"):
        torchbce.LinearBCELoss(3, 5, prior=several)
    for name in ("label_weight", "row_weight"):
        with pytest.raises(TypeError, match=rf"convert it with torch\.as_tensor\({name}\)"):
            torchbce.linear_binary_cross_entropy(Z, Z, LISTS, **{name: several})
    with pytest.raises(TypeError, match="label_smoothing must be a number, got"):
        PLACES["label_smoothing"](several)
