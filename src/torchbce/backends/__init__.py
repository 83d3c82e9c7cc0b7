"""How a loss is computed: by its definition, or by a kernel that makes one pass over memory.

`selection` chooses the backend and gives the reason, and `probe` finds out whether Triton works.
`request` describes a call to a kernel, and `dispatch` hands it to the CPU's kernels in `cpu/`
(Numba), to those of a GPU in `gpu/` (Triton), or to the definition. `compiled` is the operator that
`torch.compile` sees on a GPU.
"""
