"""Launch a kernel: the first time by Triton, then without its search for the compiled code.

Triton inspects every argument of every launch, which takes the host 20 to 50 microseconds. A
`PreparedLaunch` is for tensors of known shapes, strides and dtypes. It keeps what Triton compiled,
and looks only at the rest of what Triton compiles for: which addresses are multiples of 16.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

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
    """How to launch a compiled kernel, up to the stream, the number of programs, and hooks.

    Attributes:
        launcher: launches.
        current_stream: the stream of a device.
        function: the kernel on the device.
        metadata: of the kernel, as the launcher takes it.
        programs: the number of programs.
    """

    launcher: Callable[..., object]
    current_stream: Callable[[int], int]
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
        #: The place of each argument with tensors, what takes it from a list of all tensors that
        #: ends with None, and its type, if it is a tuple.
        self._getters: list[tuple[int, Callable[[list[object]], object]]] = []
        self._kinds: list[type[tuple[object, ...]] | None] = []
        count = 0
        for at, argument in enumerate(launch.arguments):
            places: list[int] = []
            for each in argument if isinstance(argument, tuple) else (argument,):
                places.append(count if isinstance(each, Tensor) else -1)
                count += isinstance(each, Tensor)
            if max(places, default=-1) < 0:
                continue
            self._arguments[at] = None
            self._getters.append((at, operator.itemgetter(*places)))
            self._kinds.append(type(argument) if isinstance(argument, tuple) else None)
        self._launch = launch._replace(arguments=())
        self._varying = launch.varying
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
        pool: list[Any] = []
        every = varying
        for tensor in tensors:
            address = tensor.data_ptr()
            pool.append(address)
            every |= address
        key: object = None
        if every % _ALIGNMENT or varying:
            aligned = tuple(number % _ALIGNMENT == 0 for number in (varying, *pool))
            key = aligned, varying == 1  # an integer of 1 becomes a constant
        compiled = self._compiled.get(key)
        if compiled is None or _is_observed():
            self._launch_by_triton(key, tensors, varying)
            return
        pool.append(None)
        arguments = self._arguments.copy()
        for at, getter in self._getters:
            arguments[at] = getter(pool)
        if self._varying is not None:
            arguments[self._varying] = varying
        index = self._index
        if index is not None and index != torch.cuda.current_device():
            with torch.cuda.device(index):
                self._launch_on(index, compiled, arguments)
        else:
            self._launch_on(index or 0, compiled, arguments)

    def _launch_by_triton(self, key: object, tensors: Sequence[Tensor], varying: int) -> None:
        pool: list[Any] = [*tensors, None]
        arguments = self._arguments.copy()
        for (at, getter), kind in zip(self._getters, self._kinds, strict=True):
            found: Any = getter(pool)
            arguments[at] = found if kind is None else getattr(kind, "_make", tuple)(found)
        if self._varying is not None:
            arguments[self._varying] = varying
        launch = self._launch._replace(arguments=tuple(arguments[: self._given]))
        compiled = launch.run(self._device)
        if compiled is not None and self._reuses:
            self._compiled[key] = self._described(compiled)

    @staticmethod
    def _launch_on(index: int, compiled: _Compiled, arguments: list[object]) -> None:
        launcher, current_stream, function, metadata, programs = compiled
        # Without metadata for hooks, and without hooks: there are none.
        launcher(
            programs, 1, 1, current_stream(index), function, metadata, None, None, None, *arguments
        )

    def _described(self, compiled: CompiledKernel) -> _Compiled:
        programs = self._launch.programs
        if self._launch.persistent:
            programs = min(programs, resident_programs(compiled, self._device))
        return _Compiled(
            compiled.run,
            triton.runtime.driver.active.get_current_stream,
            compiled.function,
            compiled.packed_metadata,
            programs,
        )


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


_runtime = triton.knobs.runtime


def _is_observed() -> bool:
    """Whether a profiler of Triton's wants to see each launch."""
    enter, leave = _runtime.launch_enter_hook, _runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
