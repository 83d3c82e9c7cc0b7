"""Triton's interpreter, changed to round as the hardware does."""

import os
from typing import Any

import numpy as np
import torch

#: The device of the kernels: a GPU, or the CPU, where Triton interprets them.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def interpret() -> None:
    """Make Triton interpret kernels; call this before Triton is imported."""
    os.environ["TRITON_INTERPRET"] = "1"
    from triton import language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    handle = interpreter.TensorHandle
    cast = builder.cast_impl
    patch: Any = interpreter._patch_lang
    patched: set[int] = set()
    run: Any = interpreter.GridExecutor.__call__

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        """One rounding, except for ties in the float64 sum, which has 29 more bits."""
        if z.data.dtype != np.float32:
            return handle(x.data * y.data + z.data, z.dtype.scalar)
        exact = x.data.astype(np.float64) * y.data.astype(np.float64)
        return handle((exact + z.data).astype(np.float32), z.dtype.scalar)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        kinds = source.dtype.scalar, to.scalar
        if kinds == (tl.float32, tl.bfloat16):
            return handle(to_bfloat16(source.data), to.scalar)
        if kinds == (tl.bfloat16, tl.float32):
            wide = source.data.astype(np.uint32) << 16
            return handle(wide.view(np.float32), to.scalar)
        return cast(self, source, to)

    def patch_once(function: Any) -> Any:
        """Patch each module once; Triton does it in every call, a third of the time."""
        module = id(function.__globals__)
        if module in patched:
            return None
        patched.add(module)
        scope = patch(function)
        # Triton 3.6 calls int() of an array of one element, which NumPy 2.4 refuses.
        tl.tensor.__index__ = index
        return scope

    def index(self: Any) -> int:
        return int(self.handle.data.item())

    def quietly(self: Any, *arguments: Any, **named: Any) -> Any:
        """Without numpy's warnings, which the test suite turns into errors."""
        patched.clear()
        with np.errstate(all="ignore"):
            return run(self, *arguments, **named)

    def create_rsqrt(self: Any, x: Any) -> Any:
        """With the hardware's relative error of 2^-22.9."""
        return handle(_with_error(1 / np.sqrt(x.data), 22.9), x.dtype.scalar)

    def create_exp2(self: Any, x: Any) -> Any:
        """With the hardware's relative error of 2^-22.5; subnormal results are flushed to 0."""
        found = _with_error(np.exp2(x.data), 22.5)
        return handle(np.where(found < 2.0**-126, np.float32(0), found), x.dtype.scalar)

    builder.create_fma = create_fma
    builder.create_rsqrt, builder.create_exp2 = create_rsqrt, create_exp2
    # The builder's other casts call this one by name.
    builder.cast_impl = cast_impl
    interpreter.GridExecutor.__call__ = quietly
    interpreter._patch_lang = patch_once


def _with_error(values: np.ndarray, bits: float) -> np.ndarray:
    """float32 values with a relative error of 2^-bits, whose sign depends on their last bits."""
    if values.dtype != np.float32:
        return values
    up = (values.view(np.uint32) * np.uint32(2654435761)) >> 31
    error = np.where(up == 1, 2.0**-bits, -(2.0**-bits))
    return (values.astype(np.float64) * (1 + error)).astype(np.float32)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values rounded to bfloat16: to nearest, ties to even; NaN stays.

    >>> [hex(bits) for bits in to_bfloat16(np.float32([1.0, 1 + 2**-8, 1 + 3 * 2**-8]))]
    ['0x3f80', '0x3f80', '0x3f82']
    >>> [hex(bits) for bits in to_bfloat16(np.float32([-np.inf, 3.4e38, np.nan]))]
    ['0xff80', '0x7f80', '0x7fc0']
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
