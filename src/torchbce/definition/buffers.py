"""Weights of a module as buffers, of which those that are numbers keep all their digits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchbce.definition import checks


class ModuleWithWeights(nn.Module):
    """A module whose weights are tensors or numbers.

    A number becomes a 0-dimensional buffer of float64, which a conversion of the module to another
    dtype leaves as it is: 0.1 in float32 differs by 1.5e-8 of it, and a float64 loss by as much; in
    bfloat16 by 1e-3. A `state_dict` with another dtype can be loaded, and this one into PyTorch's
    modules.
    """

    #: The names of the weights that are numbers.
    _numbers: tuple[str, ...] = ()

    def _register_weight(self, name: str, weight: Tensor | float | None) -> None:
        if weight is not None and not isinstance(weight, Tensor):
            weight = checks.align_weight(name, weight, torch.empty((), dtype=torch.float64))
            self._numbers = (*self._numbers, name)
        self.register_buffer(name, weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], *others: Any, **options: Any) -> Any:
        """As `nn.Module.to` and others call it: move each number, and keep its dtype."""
        numbers = [self._buffers.get(name) for name in self._numbers]

        def move(tensor: Tensor) -> Tensor:
            if not any(tensor is number for number in numbers):
                return fn(tensor)
            try:
                moved = fn(tensor)
                return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
            except TypeError:  # a device without float64
                return fn(tensor.float())

        module: Any = super()  # whose method has no types
        return module._apply(move, *others, **options)
