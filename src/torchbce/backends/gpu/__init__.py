"""Kernels for GPUs, compiled by Triton when they are first needed.

`autograd` is the `torch.autograd.Function`. `launch` launches a kernel on tensors, whose layout in
memory is described by `operands` and which `tiles` divides among programs. `kernels` are the Triton
kernels, `formulas` the losses of one tile.
"""
