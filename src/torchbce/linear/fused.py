"""What the optimizers have in common that update a head in its backward pass: a module with state,
and an optimizer of torch.optim for schedules.
"""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from torchbce.definition import checks
from torchbce.linear.records import NeedsGrad, Update


def hyperparameter(name: str) -> Any:
    """An attribute for a number of the only parameter group, where schedules read and set it."""

    def get(self: "FusedOptimizer") -> float:
        return float(self.param_groups[0][name])

    def set(self: "FusedOptimizer", value: float) -> None:
        self.param_groups[0][name] = float(value)

    return property(get, set)


class FusedOptimizer(nn.Module, torch.optim.Optimizer):  # type: ignore[misc]
    """Hyperparameters that may change from step to step and are in the `state_dict`.

    As a module it is a part of the head: its state has the head's device, shards and `state_dict`.
    As an optimizer it can be given to `torch.optim.lr_scheduler`, which sets the numbers of its
    parameter group. The group has no parameters: what clips, averages or unscales gradients finds
    none. Methods that both classes have are those of the module.
    """

    hyperparameters: tuple[str, ...] = ("lr", "weight_decay")
    lr: float = hyperparameter("lr")
    weight_decay: float = hyperparameter("weight_decay")

    def __init__(self, **hyperparameters: float) -> None:
        nn.Module.__init__(self)
        numbers = {
            name: float(checks.exponent(name, value)) for name, value in hyperparameters.items()
        }
        torch.optim.Optimizer.__init__(self, [{"params": []}], numbers)
        self._attached = False

    def attach(self, weight: Tensor, bias: Tensor | None) -> None:
        """Allocate the state for one head."""
        if self._attached:
            raise ValueError(
                "this optimizer belongs to another head already, and its state has one number per "
                "label of that; make one for each head"
            )
        self._attached = True

    def reset(self) -> None:
        """Set the state to that before the first step."""
        for buffer in self.buffers():
            buffer.zero_()

    def make_update(self, weight: Tensor, bias: Tensor | None, needs_grad: NeedsGrad) -> Update:
        """The update of weight and bias, of those that are not frozen; see `records.Update`."""
        rule = self.rule(weight, bias, needs_grad)
        done, lock = 0, threading.Lock()

        def update(start: int, stop: int, g: Tensor, x: Tensor) -> None:
            nonlocal done
            rule(start, stop, g, x)
            with lock:  # several threads update at once, in any order
                done += stop - start
                last = done == len(weight)
            if last:
                self.step()  # tells a schedule and hooks that a step has been taken

        return update

    def rule(self, weight: Tensor, bias: Tensor | None, needs_grad: NeedsGrad) -> Update:
        """What `make_update` does with each chunk."""
        raise NotImplementedError

    def step(self, closure: Any = None) -> Any:
        """Do nothing but call the closure, if there is one: the backward pass is the step."""
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise: the parameters are those of the head."""
        if self.param_groups:
            raise ValueError(
                "a fused optimizer updates the weight and bias of one head in its backward pass; "
                "give other parameters to an optimizer of torch.optim"
            )
        # Not by the method of torch.optim, whose first call imports torch.compile, in 2 s.
        self.param_groups.append({**param_group, **self.defaults})

    def get_extra_state(self) -> Tensor:
        """The hyperparameters as a tensor, since safetensors stores nothing else."""
        values = [getattr(self, name) for name in self.hyperparameters]
        return torch.tensor(values, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Set the hyperparameters from `get_extra_state`'s tensor."""
        for name, value in zip(self.hyperparameters, state.tolist(), strict=True):
            setattr(self, name, value)

    def extra_repr(self) -> str:
        """The hyperparameters."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.hyperparameters)

    def __getstate__(self) -> dict[str, Any]:
        """All attributes but the `step` that a schedule has put in place of the method."""
        state = self.__dict__.copy()
        state.pop("step", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]
        torch.optim.Optimizer.__setstate__(self, {})
