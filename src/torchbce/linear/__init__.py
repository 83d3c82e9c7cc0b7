"""Binary cross-entropy of a linear layer's outputs, without storing the outputs.

The public functions and classes are in `loss`, `head`, `parallel`, `pairwise`, `pairwise_module`,
`optimizers` and `positives`, and can be imported from here. A call goes through these files:

- `arguments` checks the arguments, and `prepare` turns them into a call and its operands, with
  `targets` (label lists as sorted keys) and `counts` (the denominator).
- `autograd` decides which gradients the forward pass computes; `compiled` is its counterpart in a
  compiled graph, and `dense` the definition in plain PyTorch.
- `chunks`, or `chunks_gpu` on a GPU, computes loss and gradients by chunks of labels, from `slices`
  of the operands and by the `chunk_loss`; on a CPU `workers` are the threads that do.
- `sparse_input` checks a sparse input, whose chunks `sparse_chunks` computes; `sparse_rows` is the
  same for a solver, without tensors.
- `topk` finds the largest logits of each row, by the `candidates` of each chunk.
- `sharding` and `agreement` are for labels that are spread over processes.
- `fused` is what the optimizers have in common that update a head in its backward pass.

`records` has what these steps pass to each other.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchbce.linear.head import LinearBCELoss
    from torchbce.linear.loss import linear_binary_cross_entropy
    from torchbce.linear.optimizers import FusedAdagrad, FusedRowwiseAdagrad, FusedSGD
    from torchbce.linear.pairwise import pairwise_sigmoid_loss
    from torchbce.linear.pairwise_module import PairwiseSigmoidLoss
    from torchbce.linear.parallel import LabelParallel
    from torchbce.linear.positives import collate_positives, positives_from

__all__ = [
    "FusedAdagrad",
    "FusedRowwiseAdagrad",
    "FusedSGD",
    "LabelParallel",
    "LinearBCELoss",
    "PairwiseSigmoidLoss",
    "collate_positives",
    "linear_binary_cross_entropy",
    "pairwise_sigmoid_loss",
    "positives_from",
]

#: The modules of the public names, which are imported at the first use of a name.
_MODULES = {
    "FusedAdagrad": "torchbce.linear.optimizers",
    "FusedRowwiseAdagrad": "torchbce.linear.optimizers",
    "FusedSGD": "torchbce.linear.optimizers",
    "LabelParallel": "torchbce.linear.parallel",
    "LinearBCELoss": "torchbce.linear.head",
    "PairwiseSigmoidLoss": "torchbce.linear.pairwise_module",
    "collate_positives": "torchbce.linear.positives",
    "linear_binary_cross_entropy": "torchbce.linear.loss",
    "pairwise_sigmoid_loss": "torchbce.linear.pairwise",
    "positives_from": "torchbce.linear.positives",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'torchbce.linear' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
