"""A head in a plan of `torch.distributed.tensor.parallel.parallelize_module`."""

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Placement, Replicate
from torch.distributed.tensor.parallel import ParallelStyle

from torchbce.linear.head import LinearBCELoss

__all__ = ["LabelParallel"]


class LabelParallel(ParallelStyle):
    """Shard the labels of a `LinearBCELoss`: a style for `parallelize_module`.

    It calls `LinearBCELoss.shard_labels`. `ColwiseParallel`, which does the same for
    `torch.nn.Linear`, takes no other layers, and would give the loss no target. The loss and the
    input's gradient are summed over the processes, so that nothing has to follow the head in the
    plan.

    Args:
        input_layouts: the placement of the head's input, if that is a plain tensor of which each
            process has a part: `Shard(0)` of the rows, after layers under sequence parallelism for
            instance. The parts are gathered. None for an input that each process has as a whole, as
            a plain tensor or as a replicated DTensor. Targets, masks and weights of rows are always
            those of all rows.

    Returns:
        The style, for the argument `parallelize_plan`.

    Raises:
        TypeError: by `parallelize_module`, if the module is no `LinearBCELoss`.

    Example:
        >>> import torch, torchbce
        >>> from torch.distributed.device_mesh import init_device_mesh
        >>> from torch.distributed.tensor.parallel import parallelize_module
        >>> model = torch.nn.Sequential()
        >>> model.head = torchbce.LinearBCELoss(8, 1000)
        >>> def distribute(processes):  # under torchrun
        ...     mesh = init_device_mesh("cpu", (processes,))
        ...     return parallelize_module(model, mesh, {"head": torchbce.LabelParallel()})

    References:
        https://docs.pytorch.org/docs/stable/distributed.tensor.parallel.html
    """

    def __init__(self, *, input_layouts: Placement | None = None) -> None:
        super().__init__()
        if input_layouts is not None and not isinstance(input_layouts, Placement):
            raise TypeError(
                "input_layouts must be a placement of torch.distributed.tensor, such as Shard(0), "
                f"or None; got {type(input_layouts).__name__}"
            )
        self.input_layouts = input_layouts

    def _apply(self, module: nn.Module, device_mesh: Any) -> nn.Module:
        """As `parallelize_module` calls it."""
        if not isinstance(module, LinearBCELoss):
            raise TypeError(
                f"LabelParallel shards the labels of a torchbce.LinearBCELoss, got "
                f"{type(module).__name__}; for torch.nn.Linear use ColwiseParallel"
            )
        module.shard_labels(device_mesh)
        if self.input_layouts is not None and not self.input_layouts.is_replicate():
            module.register_forward_pre_hook(_Gather(device_mesh, self.input_layouts))
        return module


class _Gather:
    """A forward pre-hook that gives the head all rows of its input."""

    def __init__(self, mesh: Any, layout: Placement):
        self._mesh, self._layout = mesh, layout

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        input, *others = arguments
        if isinstance(input, Tensor) and not isinstance(input, DTensor):
            input = DTensor.from_local(input, self._mesh, [self._layout], run_check=False)
        whole = input.redistribute(self._mesh, [Replicate()])
        return (whole.to_local(), *others)
