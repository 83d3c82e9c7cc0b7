"""Kernels for GPUs, compiled by Triton when they are first needed.

`autograd` is the `torch.autograd.Function`, `prepared` its short way for repeated calls. `launch`
describes the launch of a kernel on tensors, whose layout in memory is described by `operands` and
which `tiles` divides among programs; `calls` launches it. `kernels` are the Triton kernels,
`formulas` the losses of one tile, `numbers` their arithmetic. `pairs` is the kernel of the sigmoid
loss of pairs.
"""
