"""Cross-entropy of a linear layer's outputs, which are never held: from one label to millions."""

import functools
from typing import Any

import torch
from torch import Tensor

from torchbce.backends import selection
from torchbce.linear import autograd, call, compiled, sharding
from torchbce.linear.autograd import Updates
from torchbce.linear.call import Settings
from torchbce.linear.chunks import Head

__all__ = ["linear_binary_cross_entropy"]


def linear_binary_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    pos_weight: Tensor | float | None = None,
    label_weight: Tensor | None = None,
    row_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    mask: Tensor | None = None,
    ignored: Tensor | None = None,
    reduction: str = "mean",
    chunk_labels: int | None = None,
    check_targets: bool | None = None,
) -> Tensor:
    r"""Binary cross-entropy of `input @ weight.T + bias`, by chunks of labels.

    .. math::
        \ell_{il} = v_i \, u_l \, [\, p_l \, y_{il} (-\log \sigma(z_{il}))
            + (1 - y_{il}) (-\log \sigma(-z_{il})) \,],
        \qquad z_{il} = x_i \cdot w_l + b_l

    What `binary_cross_entropy_with_logits(linear(input, weight, bias), target)` computes, in memory
    for one chunk of labels: logits, dense targets and their gradients never exist as a whole.
    Gradients by input, weight and bias come from the same visit. On the CPU products are computed
    in float32 (float64 for float64) whatever the dtype, under autocast too. On a GPU those of a
    half-precision input are of its dtype (the weight is rounded to it if it is of another) with
    results in float32, and so are the slopes that two of them take.

    Args:
        input: x, [..., D], any floating dtype.
        weight: W, [L, D], of input's dtype (under autocast of any). A DTensor sharded over labels
            is visited by each process where it lies; see `LinearBCELoss`.
        target: y, in one of three forms. int64 [..., K]: the labels that are 1 in each row, in any
            order, padded with -1 (0 is a label); one given twice counts once. A sparse COO or CSR
            tensor, [..., L], with values in [0, 1], but not under torch.compile. Or dense,
            [..., L], bool, float or any integer dtype but int64, in [0, 1].
        bias: b, [L].
        pos_weight: p, the weight of the positive part: a number, or [L].
        label_weight: u, [L].
        row_weight: v, of input's shape without the last dimension.
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        mask: bool, broadcasting to [..., L]: false where an element is ignored, that is has no
            loss, no gradient and no part in the denominator of a mean.
        ignored: int64 [..., K]: the labels of each row that are ignored (unknown), padded with -1;
            a label both positive and ignored is ignored.
        reduction: "mean", over the number of elements; "sum"; "batch_mean", the sum over all
            dimensions but input's first and the mean over that; "none", the sum over the labels
            of each row.
        chunk_labels: how many labels are visited at a time; None for as many as fit the caches.
        <check_targets>

    Returns:
        The loss in nats, float64 for float64 input and float32 for every other: 0-dimensional, for
        "none" of input's shape without the last dimension. For an input that is a DTensor it is
        one too. A mean over nothing is 0 with a warning and zero gradients. Second derivatives are
        those of the dense form, with its memory.

    Raises:
        TypeError: if dtypes do not match, or an argument is not a tensor or a number.
        ValueError: if shapes or devices do not match; or, on the CPU, if a label lies outside
            [0, L), a target outside [0, 1] or an input is not finite: the value and its index are
            named. On a GPU a label outside [0, L) is passed over unless `check_targets` is true.

    Example:
        >>> import torch, torchbce
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> W = torch.tensor([[2.0, 0.0], [0.0, -1.0], [0.5, 0.5]])
        >>> positives = torch.tensor([[0, 2], [-1, -1]])  # the second row has none
        >>> round(torchbce.linear_binary_cross_entropy(x, W, positives).item(), 4)
        0.5712

    References:
        Schultheis et al., Renee: End-to-End Training of Extreme Classification Models, MLSys 2023.
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.linear.html
    """
    options = Settings(
        pos_weight,
        label_weight,
        row_weight,
        mask,
        ignored,
        label_smoothing,
        reduction,
        chunk_labels,
        check_targets,
    )
    return linear_loss(input, weight, target, bias, options)


def linear_loss(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: Settings,
    updates: Updates | None = None,
) -> Tensor:
    """The loss; `updates` change weight and bias in the backward pass in place of gradients."""
    if torch.compiler.is_compiling():
        if updates is None and not sharding.is_distributed(weight):
            if target.layout is not torch.strided:
                raise ValueError(
                    "a sparse target cannot be traced by torch.compile; give lists of labels, "
                    "int64 and padded with -1"
                )
            call.check(input, weight, bias, target, weight.shape[0], options)
            return compiled.linear_loss(Head(input, weight, bias), target, options)
        # Between two graphs: neither another process nor a step is a node of one.
        disable: Any = torch.compiler.disable
        between: Tensor = disable(_linear_loss)(input, weight, target, bias, options, updates)
        return between
    return _linear_loss(input, weight, target, bias, options, updates)


def _linear_loss(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: Settings,
    updates: Updates | None,
) -> Tensor:
    call.check_types(input, weight, bias)
    here = sharding.local(input, weight, bias)
    head = Head(here.input, here.weight, here.bias)
    call.check(*head, target, here.shard.labels, options)
    mode = selection.active_mode()
    if mode is not None or head.input.device.type == "meta":
        if here.mesh is not None or updates is not None:
            raise RuntimeError(
                f"{mode or 'input is on meta'}: a head that is sharded, or updated by a fused "
                "optimizer, has first derivatives by backward() alone"
            )
        return call.dense_loss(*head, target=target, options=options)
    if (group := here.shard.group) is None:
        asked, operands = call.prepare(head.input, target, options, here.shard)
    else:
        failure = None
        try:
            sharding.check_size(here)
            asked, operands = call.prepare(head.input, target, options, here.shard)
        except ValueError as error:
            failure = error
        wants = torch.is_grad_enabled() and head.input.requires_grad
        sharding.agree(group, head.input, target, wants, failure)
    if here.mesh is not None or updates is not None:
        # By the parameters themselves: what autograd saves may come back as a copy.
        bound = None if updates is None else functools.partial(updates, *head[1:])
        asked = asked._replace(updates=bound, definition=None)
    loss = autograd.evaluate(asked, head, operands)
    return sharding.on_mesh(loss, here.mesh) if sharding.is_distributed(input) else loss
