"""The models of many labels as named arrays, for a file, and back; what is read is checked."""

from typing import TYPE_CHECKING

import numpy as np

from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.errors import listing
from torchbce.classifier.labels.inputs import sparse_width
from torchbce.classifier.labels.linear import LinearLabels
from torchbce.classifier.labels.model import LabelsCard, LabelsClassifier
from torchbce.classifier.models.arrays import LARGEST, BadArraysError
from torchbce.classifier.models.features import Layout

if TYPE_CHECKING:
    from torchbce.classifier.labels.network import LabelsNetwork

Arrays = dict[str, np.ndarray]


def arrays_of_labels(classifier: LabelsClassifier) -> Arrays:
    """The arrays of a classifier of many labels, without those of its encoder."""
    arrays: Arrays = {}
    if classifier.linear is not None:
        arrays["linear.weight"] = classifier.linear.weight
        arrays["linear.bias"] = classifier.linear.bias
    if classifier.network is not None:
        arrays["network.text"] = classifier.text
        for name, value in classifier.network.named_parameters():
            arrays[f"network.{name}"] = value.detach().numpy()
    return arrays


def parts_of(
    card: LabelsCard, arrays: Arrays, encoder: Encoder
) -> "tuple[LinearLabels | None, LabelsNetwork | None, np.ndarray]":
    """The models of some arrays, which are taken out of the dictionary.

    Raises:
        BadArraysError: if an array is missing, or has another shape or value than the card and the
            encoder's columns allow.
    """
    number = len(card.labels)
    linear, network, text = None, None, np.zeros(0, np.int32)
    if "linear" in card.models:
        width = Layout.of(encoder).width
        linear = LinearLabels(
            _numbers(arrays, "linear.weight", "f4", (number, width)),
            _numbers(arrays, "linear.bias", "f8", (number,)),
        )
    if "network" in card.models:
        import torch

        from torchbce.classifier.labels.network import LabelsNetwork

        text = _array(arrays, "network.text", "i4", (None,))
        inside = (text >= 0) & (text < encoder.text_width)
        if not inside.all() or (np.diff(text) <= 0).any():
            raise BadArraysError(
                f"tensor 'network.text' must ascend from 0 to {encoder.text_width - 1}"
            )
        # Before memory is asked for: a damaged card may say anything.
        size = len(encoder.numeric), sparse_width(encoder, len(text))
        shapes = {
            "numbers": (size[0], card.hidden),
            "sparse": (size[1], card.hidden),
            "bias": (card.hidden,),
            "head.weight": (number, card.hidden),
            "head.bias": (number,),
        }
        state = {
            name: torch.from_numpy(_numbers(arrays, f"network.{name}", "f4", shape))
            for name, shape in shapes.items()
        }
        with torch.device("meta"):  # shapes without memory; load_state_dict assigns the values
            network = LabelsNetwork(*size, number, card.hidden)
        network.load_state_dict(state, assign=True)
        network = network.eval().requires_grad_(False)
    return linear, network, text


def _array(arrays: Arrays, name: str, dtype: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of a dtype and a shape, where None is any size."""
    found = arrays.pop(name, None)
    if found is None:
        raise BadArraysError(f"tensor {listing([name])} is missing")
    fits = found.ndim == len(shape) and all(
        size is None or size == own for size, own in zip(shape, found.shape, strict=False)
    )
    if not fits or found.dtype != np.dtype(dtype):
        raise BadArraysError(f"tensor {listing([name])} must be {np.dtype(dtype)} of shape {shape}")
    return found.copy()


def _numbers(arrays: Arrays, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array without values too large for a sum of products."""
    values = _array(arrays, name, dtype, shape)
    most = LARGEST[values.dtype]
    if not (np.abs(values) <= most).all():
        raise BadArraysError(f"tensor {listing([name])} must be from {-most:g} to {most:g}")
    return values
