"""Kernels for GPUs, compiled by Triton when they are first needed.

`autograd` is the `torch.autograd.Function`, `launch` the call from tensors to a kernel, `operands`
how tensors are laid out in memory, `kernels` the kernels, `formulas` the formulas of one tile.
"""
