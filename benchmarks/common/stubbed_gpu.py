"""Launches without a GPU: Triton compiles and launches, and NVIDIA's driver does nothing.

A library with the functions of libcuda.so.1 that Triton calls takes its place. It answers that
everything succeeded, and records the launches. So the host's part of a launch can be timed and
tested: which kernel is chosen, on which grid, with which parameters. Tensors are on the CPU. It
needs a C compiler, and a process of its own.
"""

import ctypes
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

CAPABILITY = 9, 0
MULTIPROCESSORS = 132

_SOURCE = r"""
#include <stdint.h>
#include <stddef.h>

/* The beginning of CUlaunchConfig. */
typedef struct { unsigned grid[3], block[3], shared; void *stream; } Config;

uint64_t functions, launches, words, last[512];

int cuLaunchKernelEx(const Config *config, void *function, void **parameters, void **extra) {
  launches++;
  last[0] = (uint64_t)function;
  last[1] = config->grid[0];
  last[2] = config->block[0];
  last[3] = (uint64_t)config->stream;
  for (uint64_t i = 0; i < words && i < 500; i++) last[4 + i] = *(uint64_t *)parameters[i];
  return 0;
}
int cuModuleLoadData(void **module, const void *image) { *module = (void *)1; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = (void *)++functions;
  return 0;
}
int cuFuncGetAttribute(int *value, int attribute, void *function) {
  /* The most threads of a block, registers per thread; local memory. */
  *value = attribute == 0 ? 1024 : attribute == 4 ? 64 : 0;
  return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
int cuFuncSetCacheConfig(void *function, int config) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 232448; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuCtxGetLimit(size_t *value, int limit) { *value = 0; return 0; }
int cuCtxSetLimit(int limit, size_t value) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "stub"; return 0; }
int cuPointerGetAttribute(uint64_t *value, int attribute, uint64_t pointer) {
  *value = pointer;
  return 0;
}
int cuPointerGetAttributes(unsigned n, int *attributes, void **values, uint64_t pointer) {
  return 0;
}
int cuOccupancyMaxActiveClusters(int *n, void *function, const void *config) { *n = 1; return 0; }
int cuTensorMapEncodeTiled() { return 0; }
int cuTensorMapEncodeIm2col() { return 0; }
"""


class Launched(NamedTuple):
    """One launch: the kernel's number, in the order of loading, its grid, block, stream, and the
    first 8 bytes of each of its first `Stub.words` parameters."""

    function: int
    programs: int
    threads: int
    stream: int
    parameters: tuple[int, ...]


class Stub:
    """What the library recorded, and what it is to record."""

    def __init__(self, library: ctypes.CDLL, driver: Any) -> None:
        self._library, self.driver = library, driver
        self._last = (ctypes.c_uint64 * 512).in_dll(library, "last")

    def _number(self, name: str) -> Any:
        return ctypes.c_uint64.in_dll(self._library, name)

    @property
    def loaded(self) -> int:
        """How many kernels were loaded."""
        return int(self._number("functions").value)

    @property
    def launches(self) -> int:
        """How many launches there were."""
        return int(self._number("launches").value)

    def last(self, words: int = 0) -> Launched:
        """The last launch. `words` parameters of each launch are recorded from now on."""
        recorded = int(self._number("words").value)
        self._number("words").value = words
        head, rest = self._last[:4], self._last[4 : 4 + recorded]
        function, programs, threads, stream = head
        return Launched(function, programs, threads, stream, tuple(rest))


def build(folder: Path) -> ctypes.CDLL:
    """Compile the library into a folder and load it in place of NVIDIA's."""
    source, library = folder / "cuda.c", folder / "libcuda.so.1"
    source.write_text(_SOURCE)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    command = [compiler, "-O1", "-shared", "-fPIC", "-w", source, "-o", library]
    subprocess.run([*command, "-Wl,-soname,libcuda.so.1"], check=True)
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def always(answer: object) -> Callable[..., object]:
    """A function that is faster than a mock, whose time would be measured."""
    return lambda *arguments: answer


@contextmanager
def installed(folder: Path) -> Iterator[Stub]:
    """Losses of tensors on the CPU are launched by Triton on the stubbed driver.

    Args:
        folder: for the library and for Triton's cache.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    from torchbce.backends import dispatch, selection
    from torchbce.backends.gpu import kernels, launch

    library = build(folder)
    # Before Triton's driver is imported, which looks for the library with ldconfig.
    with mock.patch.dict("os.environ", TRITON_LIBCUDA_PATH=str(folder)):
        from triton.backends.nvidia import driver as nvidia

        class Driver(nvidia.CudaDriver):  # type: ignore[misc]
            """A GPU of compute capability 9.0."""

            def __init__(self) -> None:
                super().__init__()
                self.stream = 0
                self.get_current_device = lambda: 0
                self.get_current_stream = lambda device: self.stream

            def get_current_target(self) -> Any:
                return GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], 32)

            def get_active_torch_device(self) -> torch.device:
                return torch.device("cpu")

        with (
            mock.patch.dict("os.environ", TRITON_CACHE_DIR=str(folder / "cache")),
            mock.patch.dict(vars(triton.runtime.driver)),
            mock.patch.object(selection, "fitting", always(selection.TRITON)),
            mock.patch.object(selection, "_interprets", always(True)),
        ):
            driver = Driver()
            triton.runtime.driver.set_active(driver)
            try:
                yield Stub(library, driver)
            finally:
                # What was loaded into the stub is of no use to others.
                for kernel in (kernels.loss_kernel, kernels.sum_kernel, kernels.scale_kernel):
                    kernel.device_caches.clear()
                for prepared in (launch._prepared, dispatch.prepared, dispatch._missed):
                    prepared.clear()
