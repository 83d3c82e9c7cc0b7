"""What the losses are: formulas, options, reductions and checks, in plain PyTorch.

Nothing here imports another part of the package. `reference` has the formulas, from the functions
of `elementary`; `family` one record per loss, `dense` the loss with its options, `reductions` the
valid mask and the denominator. `checks` has the checks of arguments, `kinds` those of subclasses
and DTensors, and `sparse` those of sparse targets. `buffers` is what modules keep weights in.
"""
