"""Cross-entropy of a linear layer's outputs without the outputs: from one label to millions.

A user calls `loss`, `head` and `pairwise`. `call` checks and prepares the arguments; `autograd`
differentiates, as `operator` does inside a compiled graph; `chunks` visits the labels, whose
targets `targets` has; `ranking` finds the best. `sharding` and `optimizers` are for heads too large
for one process or for a gradient.
"""
