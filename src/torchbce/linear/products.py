"""Matrix products on a GPU: of 16-bit factors with float32 results, where PyTorch has them."""

import torch
from torch import Tensor


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a @ b into `out`: of 16-bit factors in float32, if `out` is float32."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    elif _widens(a, out):
        torch.ops.aten.mm.dtype_out(a, b, out.dtype, out=out)
    else:
        torch.mm(a.to(out.dtype), b.to(out.dtype), out=out)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `out`, as `multiply` computes it."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    elif _widens(a, out):
        torch.ops.aten.addmm.dtype_out(out, a, b, out.dtype, out=out)
    else:
        out.addmm_(a.to(out.dtype), b.to(out.dtype))


def _widens(a: Tensor, out: Tensor) -> bool:
    """Whether PyTorch has a product of these factors with this result.

    Its operators for it call cuBLAS. They refuse to accumulate float16 in 16 bits, which a setting
    of PyTorch asks for.
    """
    if not a.is_cuda or a.dtype.itemsize != 2 or out.dtype != torch.float32:
        return False
    if torch.version.hip is not None:
        return False
    return a.dtype != torch.float16 or not torch.backends.cuda.matmul.allow_fp16_accumulation


def scale(product: Tensor, factor: float | Tensor | None) -> None:
    """Multiply a product in place by a factor; None for 1."""
    if factor is not None:
        product.mul_(factor)
