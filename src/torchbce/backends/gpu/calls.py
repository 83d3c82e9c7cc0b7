"""Launch a kernel: the first time by Triton, then without its search for the compiled code.

Triton inspects every argument of every launch, which takes the host 20 to 50 microseconds. A
`PreparedLaunch` is for tensors of known shapes, strides and dtypes. It keeps what Triton compiled,
and looks only at the rest of what Triton compiles for: which addresses are multiples of 16.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel

#: Triton compiles another kernel for addresses and integers that are multiples of this.
_ALIGNMENT = 16
#: The unit in which a multiprocessor hands out registers per thread.
_REGISTERS = 8


class Kernel(Protocol):
    """A function compiled by Triton: `kernel[grid](*arguments, **options)` launches it."""

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., object]: ...


class Launch(NamedTuple):
    """A kernel, its number of programs, and its arguments.

    Attributes:
        kernel: one of `kernels`.
        programs: the number of programs.
        arguments: tensors, tuples of tensors, and numbers.
        options: parameters that are known at compile time, and options of Triton's compiler.
        persistent: whether any number of programs up to `programs` gives the same results, since
            each continues with further tiles.
        varying: the place among the arguments of an integer that the next launch may change.
    """

    kernel: Kernel
    programs: int
    arguments: tuple[object, ...]
    options: dict[str, object]
    persistent: bool = False
    varying: int | None = None

    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        found: list[Tensor] = []
        for each in self.arguments:
            inside = each if isinstance(each, tuple) else (each,)
            found += [tensor for tensor in inside if isinstance(tensor, Tensor)]
        return found

    def run(self, device: torch.device) -> CompiledKernel | None:
        """Launch by Triton, and return what it compiled; None where it interprets the kernel."""
        programs = self.programs
        if self.persistent:
            # Few enough to run at the same time, however many registers the kernel takes.
            programs = min(programs, int(2 * multiprocessors(device)))
        # Contraction to fused multiply-adds would break the remainders that `formulas` computes.
        run = functools.partial(self.kernel[(programs,)], enable_fp_fusion=False)
        if device.type == "cuda":
            with torch.cuda.device(device):
                compiled = run(*self.arguments, **self.options)
        else:
            compiled = run(*self.arguments, **self.options)
        return compiled if isinstance(compiled, CompiledKernel) else None


class _Compiled(NamedTuple):
    """How to launch a compiled kernel, and the number of programs."""

    launcher: Callable[..., object]
    function: object
    metadata: object
    programs: int


class PreparedLaunch:
    """A launch for tensors of the same shapes, strides and dtypes, on the same device.

    Args:
        launch: a launch of this kind; its tensors are not kept.
        device: of its tensors.
    """

    def __init__(self, launch: Launch, device: torch.device) -> None:
        self._device = device
        self._index = device.index if device.type == "cuda" else None
        names = getattr(launch.kernel, "arg_names", ())[len(launch.arguments) :]
        #: All arguments in the kernel's order; those with tensors are filled in at each launch.
        self._arguments = [*launch.arguments, *(launch.options[name] for name in names)]
        # The tensors of all arguments are written to one list, from which tuples are cut.
        self._slots: list[int] = []
        self._tuples: list[tuple[int, int, int]] = []
        self._singles: list[tuple[int, int]] = []
        self._kinds: list[type[tuple[object, ...]]] = []
        size = 0
        for at, argument in enumerate(launch.arguments):
            inside = argument if isinstance(argument, tuple) else (argument,)
            found = [i for i, each in enumerate(inside) if isinstance(each, Tensor)]
            if not found:
                continue
            self._arguments[at] = None
            self._slots += [size + i for i in found]
            if isinstance(argument, tuple):
                self._tuples.append((at, size, size + len(inside)))
                self._kinds.append(type(argument))
            else:
                self._singles.append((at, size))
            size += len(inside)
        self._absent: list[object] = [None] * size
        self._launch = launch._replace(arguments=())
        self._given = len(launch.arguments)
        # On AMD's hardware Triton compiles another kernel for small tensors too.
        self._reuses = torch.version.hip is None
        self._compiled: dict[object, _Compiled] = {}

    @property
    def is_compiled(self) -> bool:
        """Whether a kernel was compiled that the next launch may reuse."""
        return bool(self._compiled)

    def __call__(self, tensors: Sequence[Tensor], varying: int = 0) -> None:
        """Launch.

        Args:
            tensors: those that `Launch.tensors` lists, in order.
            varying: the integer that changes between launches.
        """
        addresses = [tensor.data_ptr() for tensor in tensors]
        every = varying
        for address in addresses:
            every |= address
        key: object = None
        if every % _ALIGNMENT or varying:
            aligned = tuple(number % _ALIGNMENT == 0 for number in (varying, *addresses))
            key = aligned, varying == 1  # an integer of 1 becomes a constant
        compiled = self._compiled.get(key)
        if compiled is None or _is_observed():
            found = self._launch._replace(
                arguments=tuple(self._filled(tensors, varying, named=True)[: self._given])
            ).run(self._device)
            if found is not None and self._reuses:
                self._compiled[key] = self._described(found)
            return
        index = self._index
        if index is not None and index != torch.cuda.current_device():
            with torch.cuda.device(index):
                self._launch_on(index, compiled, self._filled(addresses, varying))
        else:
            self._launch_on(index or 0, compiled, self._filled(addresses, varying))

    def _filled(self, tensors: Sequence[object], varying: int, named: bool = False) -> list[object]:
        """The arguments with tensors, or their addresses, in tuples that are `named` or not."""
        slots = self._absent.copy()
        for slot, each in zip(self._slots, tensors, strict=True):
            slots[slot] = each
        arguments = self._arguments.copy()
        for at, start, stop in self._tuples:
            arguments[at] = tuple(slots[start:stop])
        for at, slot in self._singles:
            arguments[at] = slots[slot]
        if self._launch.varying is not None:
            arguments[self._launch.varying] = varying
        if named:
            for kind, (at, start, stop) in zip(self._kinds, self._tuples, strict=True):
                arguments[at] = getattr(kind, "_make", tuple)(slots[start:stop])
        return arguments

    @staticmethod
    def _launch_on(index: int, compiled: _Compiled, arguments: list[object]) -> None:
        launcher, function, metadata, programs = compiled
        stream = triton.runtime.driver.active.get_current_stream(index)
        # Without metadata for hooks, and without hooks: there are none.
        launcher(programs, 1, 1, stream, function, metadata, None, None, None, *arguments)

    def _described(self, compiled: CompiledKernel) -> _Compiled:
        programs = self._launch.programs
        if self._launch.persistent:
            programs = min(programs, resident_programs(compiled, self._device))
        return _Compiled(compiled.run, compiled.function, compiled.packed_metadata, programs)


def multiprocessors(device: torch.device) -> int:
    """The number of multiprocessors of a device."""
    return _hardware(device)[0]


def resident_programs(compiled: CompiledKernel, device: torch.device) -> int:
    """How many programs of a kernel a device runs at the same time.

    More would wait for the first ones to end, in the time of which nearly all of the device idles.
    """
    count, registers, threads = _hardware(device)
    block = 32 * compiled.metadata.num_warps
    each = -(-max(compiled.n_regs, 1) // _REGISTERS) * _REGISTERS
    resident = max(min(registers // (each * block), threads // block), 1)
    return int(count * resident)


@functools.cache
def _hardware(device: torch.device) -> tuple[int, int, int]:
    """Multiprocessors; and the registers and threads of each."""
    if device.type != "cuda":  # Triton's interpreter, and tests of launches
        return 4, 2**16, 2048
    properties = torch.cuda.get_device_properties(device)
    return (
        properties.multi_processor_count,
        getattr(properties, "regs_per_multiprocessor", 2**16),
        properties.max_threads_per_multi_processor,
    )


def _is_observed() -> bool:
    """Whether a profiler of Triton's wants to see each launch."""
    runtime = triton.knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
