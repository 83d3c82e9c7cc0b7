"""Binary cross-entropy of a linear layer's outputs, without storing the outputs."""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchbce.backends import selection
from torchbce.definition import kinds
from torchbce.definition.sparse import refuse_in_compiled_code
from torchbce.linear import arguments, autograd, compiled, sharding, sparse_input
from torchbce.linear.agreement import check_agreement
from torchbce.linear.dense import dense_loss
from torchbce.linear.prepare import prepare
from torchbce.linear.records import Head, LinearCall, LinearOperands, LinearOptions, MakeUpdate

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
    r"""Binary cross-entropy of the logits `input @ weight.T + bias`, in chunks of labels.

    .. math::
        \ell_{il} = v_i \, u_l \, [\, p_l \, y_{il} (-\log \sigma(z_{il}))
            + (1 - y_{il}) (-\log \sigma(-z_{il})) \,],
        \qquad z_{il} = x_i \cdot w_l + b_l

    This is `binary_cross_entropy_with_logits(linear(input, weight, bias), target)` in the memory of
    one chunk of labels: the logits, their gradient and the dense targets are never stored as a
    whole. Loss and gradients of a chunk are computed together.

    On the CPU, matrix products are computed in float32 (float64 for float64 inputs), whatever the
    dtype of the tensors, under autocast too. On a GPU, products of a half-precision input are
    computed in its dtype with float32 results: the weight and the gradients of the logits are
    rounded to that dtype.

    Args:
        input: x, [..., D], of any floating dtype; or a sparse CSR tensor [B, D] on the CPU, float32
            or float64, which is not made dense and whose logits and gradients are summed in float64
            (not under torch.compile, with a DTensor or under transforms of torch.func). Each column
            is stored once per row, in any order unless input requires grad.
        weight: W, [L, D], of input's dtype (under autocast of any). If it is a DTensor sharded over
            labels, each process computes the labels that it holds; see
            `LinearBCELoss.shard_labels`.
        target: y, in one of three forms. Label lists, int64 [..., K]: the labels that are 1 in each
            row, each once and in any order, padded with -1 or -100 (0 is a label). A sparse COO or
            CSR tensor, [..., L], with values in [0, 1], each element stored once; not under
            torch.compile. A dense tensor, [..., L], with values in [0, 1], of a bool, floating or
            integer dtype other than int64. An int64 tensor always means lists: one of L columns
            that may be either, with no value but 0 and 1, is refused.
        bias: b, [L], of weight's dtype (under autocast of any).
        pos_weight: p, the weight of the positive part: a number or a tensor [L].
        label_weight: u, the weight of each label, [L].
        row_weight: v, the weight of each row, of input's shape without the last dimension.
        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.
        mask: bool, broadcasts to [..., L]: false where an element is ignored. It has no loss and no
            gradient, and does not count in the denominator of a mean.
        ignored: the labels of each row that are ignored (unknown): lists, int64 [..., K], each
            label once, padded with -1 or -100; or a sparse COO or CSR tensor, [..., L], whose
            entries that are not 0 are ignored (not under torch.compile). A label that is both
            positive and ignored is ignored.
        reduction: "mean", the sum divided by the number of valid elements; "sum"; "batch_mean", the
            sum divided by the size of input's first dimension, not counting entries of which every
            element is ignored; "none", the sum over the labels of each row.
        chunk_labels: the number of labels per chunk; None for a size that suits the device.
        check_targets: whether a label or a target out of range raises an error. None means true on
            the CPU, where it costs nothing, and false on a GPU, where the host would have to wait.

    Returns:
        The loss in nats, 0-dimensional, or for "none" of input's shape without the last dimension.
        Its dtype is float64 for float64 inputs and float32 otherwise; it is a DTensor if input is
        one. A mean of no elements is 0 with zero gradients and a warning. Second derivatives are
        those of the dense form, and need its memory.

    Raises:
        TypeError: if dtypes do not match, an argument is not a tensor or a number, or a sparse
            input is of another layout or dtype.
        ValueError: if shapes or devices do not match; or, on the CPU, if a label is outside [0, L)
            or twice in a row, a target outside [0, 1] or an input not finite: the message has its
            value and index; or if a sparse input is malformed. On a GPU, unless `check_targets` is
            true, labels outside [0, L) are skipped, a label that is twice in a list counts once,
            and lists with as many columns as labels are refused, since they may be a dense target.

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
    options = LinearOptions(
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
    options: LinearOptions,
    make_update: MakeUpdate | None = None,
) -> Tensor:
    """The loss; with `make_update`, backward updates weight and bias and gives them no gradient."""
    tensors = {"input": input, "weight": weight, "bias": bias, "target": target}
    tensors |= options._asdict()
    kinds.check_kinds(tensors, ("input", "target", "ignored"))
    if sparse_input.is_sparse(input):
        refuse_in_compiled_code(input, "input")
        sparse_input.check(input, weight, make_update is not None)
    if has_torch_function_variadic(*tensors.values()):
        return _overridden(input, weight, target, bias, options, make_update)
    options = arguments.with_numbers(options)
    if not torch.compiler.is_compiling():
        return _eager_loss(input, weight, target, bias, options, make_update)
    if make_update is not None or kinds.is_distributed(weight):
        # Between two graphs: a graph has no node for another process or for an update.
        disable: Any = torch.compiler.disable
        value: Tensor = disable(_eager_loss)(input, weight, target, bias, options, make_update)
        return value
    refuse_in_compiled_code(target)
    if options.ignored is not None:
        refuse_in_compiled_code(options.ignored, "ignored")
    arguments.check(input, weight, bias, target, weight.shape[0], options)
    return compiled.operator_loss(Head(input, weight, bias), target, options)


def _overridden(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: LinearOptions,
    make_update: MakeUpdate | None,
) -> Tensor:
    """What the `__torch_function__` of one of the tensors makes of the loss."""
    tensors = input, weight, target, bias, *options
    head = input, weight, target, bias
    if make_update is None:
        function = linear_binary_cross_entropy
        return kinds.overridden(function, tensors, *head, **options._asdict())
    if not all(isinstance(tensor, Tensor) for tensor in (input, target)):
        raise TypeError(
            "a head with a fused optimizer cannot be part of a graph of torch.fx; trace the model "
            "with a torch.fx.Tracer whose is_leaf_module is true for torchbce.LinearBCELoss"
        )
    return kinds.overridden(linear_loss, tensors, *head, options, make_update)


def _eager_loss(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: LinearOptions,
    make_update: MakeUpdate | None,
) -> Tensor:
    input, weight, target, bias = map(kinds.plain, (input, weight, target, bias))
    options = LinearOptions(*map(kinds.plain, options))
    arguments.check_types(input, weight, bias)
    target = sharding.local_operand("target", target)
    options = LinearOptions(*map(sharding.local_operand, options._fields, options))
    local = sharding.local_head(input, weight, bias)
    head = Head(local.input, local.weight, local.bias)
    arguments.check(*head, target, local.shard.labels, options)
    first_derivatives_only = local.mesh is not None or make_update is not None
    mode = selection.active_mode()
    by_definition = False
    if sparse_input.is_sparse(head.input):
        by_definition = selection.for_sparse_input() is selection.REFERENCE
    if mode is not None or by_definition or head.input.device.type == "meta":
        if first_derivatives_only:
            raise RuntimeError(
                f"{mode or 'input is on meta'}: a head that is sharded or has a fused optimizer "
                "supports first derivatives by backward() only"
            )
        return dense_loss(*head, target=target, options=options)
    call, operands = _prepared(local, target, options)
    if first_derivatives_only:
        # Updates the parameters themselves: saved-tensor hooks may give autograd copies of them.
        update = None if make_update is None else functools.partial(make_update, *head[1:])
        call = call._replace(make_update=update, dense_loss=None)
    loss = autograd.differentiable_loss(call, head, operands)
    return sharding.replicated(loss, local.mesh) if kinds.is_distributed(input) else loss


def _prepared(
    local: sharding.LocalHead, target: Tensor, options: LinearOptions
) -> tuple[LinearCall, LinearOperands]:
    """The call and its operands, if the processes that share the labels agree on the batch."""
    group = local.shard.group
    if group is None:
        return prepare(local.input, target, options, local.shard)
    failure = None
    try:
        sharding.check_shard_size(local)
        prepared = prepare(local.input, target, options, local.shard)
    except ValueError as error:
        failure = error
    needs_grad = torch.is_grad_enabled() and local.input.requires_grad
    check_agreement(group, local.input, target, needs_grad, failure)
    return prepared
