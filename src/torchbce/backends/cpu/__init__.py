"""Kernels for the CPU, compiled by Numba when they are first needed.

`autograd` is the `torch.autograd.Function`, `launch` the call from tensors to a kernel, `loops` the
kernel, `staging` how operands are read, `blocks` what is computed per block, `formulas` the formula
of one element, `intrinsics` the instructions that Numba lacks, `memory` the memory of gradients,
`threads` the threads that a kernel runs in.
"""
