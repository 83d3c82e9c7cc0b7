"""The descriptions that docstrings of several functions and modules share.

Docstrings are written out in full in the source, where editors and documentation tools read them.
`tests/test_docstrings.py` compares them with these texts, so that they cannot drift apart.
"""

OPTIONS = {
    "target": """\
target: targets y in [0, 1] of any float, bool or integer dtype, of input's shape or of one
    that differs from it only by trailing dimensions of size 1, such as (N, 1) and (N,). Or
    a sparse COO or CSR tensor of input's shape, whose missing entries are 0 and which is
    never made dense (not under torch.compile, which cannot trace sparse tensors).""",
    "weight": """\
weight: weight w per element, a number or a tensor that broadcasts to input's shape. A
    number must be finite and not negative; the values of a tensor are not checked.""",
    "reduction": """\
reduction: "none"; "sum"; "mean", the sum divided by the number of elements, whatever their
    weights; "weighted_mean", the sum divided by the sum of `weight`; "batch_mean", the sum
    over all dimensions but the first, averaged over the first, not counting entries of
    which every element is ignored.""",
    "pos_weight": """\
pos_weight: weight p of the positive term, a number or a tensor that broadcasts to input's
    shape, for instance (C,) for an input of shape (N, C).""",
    "alpha": """\
alpha: in [0, 1], the weight of positives; negatives have the weight 1 - alpha. A number,
    or a tensor that broadcasts to input's shape, for instance (C,) for (N, C). None for no
    such weights.""",
    "gamma": """\
gamma: focusing exponent, at least 0; a number, or a tensor that broadcasts to input's
    shape.""",
    "gamma_pos": """\
gamma_pos: focusing exponent of positives, at least 0; a number, or a tensor that broadcasts
    to input's shape, for instance (C,) for an input of shape (N, C).""",
    "gamma_neg": """\
gamma_neg: focusing exponent of negatives, likewise.""",
    "epsilon": """\
epsilon: added to the coefficient of the first term, at least -1; a number, or a tensor that
    broadcasts to input's shape.""",
    "soft_targets": """\
soft_targets: the loss of a target between 0 and 1: "linear" in the target, or "p_t", as
    other libraries compute it. Targets of 0 and 1 have the same loss in both forms.""",
    "detach_focusing": """\
detach_focusing: whether the focusing weights (the factors with an exponent gamma) are
    constants in derivatives. The loss itself is the same.""",
    "label_smoothing": """\
label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.""",
    "ignore_index": """\
ignore_index: elements with this target (NaN allowed) are ignored: they have no loss and no
    gradient, whatever their input, and a mean does not count them.""",
    "mask": """\
mask: bool, of input's shape or broadcasting to it; elements where it is false are ignored.""",
    "check_targets": """\
check_targets: whether targets (and probabilities) outside their range raise. None: on the
    CPU, where the check is part of the pass, and not on a GPU, where the host would have to
    wait for the values. True: everywhere, with an error where they cannot be read. False:
    nowhere; on the CPU, losses of probabilities are then computed by the reference backend.""",
    "returns": """\
The loss in nats. For "none" it has input's shape and dtype, and is 0 for ignored elements.
Otherwise it is 0-dimensional, float64 for float64 input and float32 for any other. A mean
over no elements is 0 with zero gradients, and warns where the host knows it: on the CPU, or
for an empty input.""",
    "raises": """\
TypeError: if input is not floating, or an argument is not a tensor or a number.
ValueError: if shapes do not match, an option is out of its range, or a target is outside
    [0, 1] (the message names its value and index; see `check_targets`).""",
}
