"""Random calls of every loss, head and loss of pairs, compared with formulas in NumPy.

The call number and a seed determine a call. A failure prints both, and the call: repeat it with

    TORCHBCE_FUZZ=SEED:NUMBER pytest tests/test_fuzz.py -k losses-0

and make other calls with TORCHBCE_FUZZ=SEED: (for example 7:).

The tolerance has three parts: half a unit in the last place of the result's dtype, for the last
rounding; `ROUNDINGS` units of the dtype of computation (2^-24, or 2^-53 for float64) of the
absolute terms of the result, for the products and sums before; and `ROUNDINGS` units of float64 of
the terms times the condition of their exponentials, since exp, log and powers are computed in
float64. `formulas` bounds both kinds of terms. The sum of n terms adds log2(n) roundings.
"""

import math
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import formulas
import torchbce
import torchbce.dropin
from formulas import Call, Result
from torchbce import functional
from torchbce.definition.family import FAMILY

SEED = 20260601
ROUNDINGS = 8

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
INF, NAN = math.inf, math.nan

pytestmark = pytest.mark.filterwarnings(
    "ignore:the '.*mean' of a loss over no elements",
    "ignore:the 'weighted_mean' with weights whose sum is 0",
    "ignore:Sparse (CSR|invariant)",
)


# ----------------------------------------------------------------------------------- the numbers


class Numbers(random.Random):
    """Random numbers, shapes and layouts, from the seed and the number of a call.

    `place`: how to repeat the call.
    """

    place = ""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self.generator = torch.Generator().manual_seed(self.getrandbits(62))

    def often(self, probability: float) -> bool:
        return self.random() < probability

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=F64, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, dtype=F64, generator=self.generator)

    def sprinkle(self, tensor: Tensor, values: list[float]) -> Tensor:
        """The tensor with some of its elements replaced by some of the values."""
        for _ in range(self.randint(1, 4) if tensor.numel() else 0):
            tensor.view(-1)[self.randrange(tensor.numel())] = self.choice(values)
        return tensor

    def layout(self, tensor: Tensor) -> Tensor:
        """The tensor, possibly a copy of the same values with other strides or another offset."""
        kind = self.choices(["same", "step", "transposed", "offset", "expanded"], [6, 1, 1, 1, 1])[
            0
        ]
        if tensor.dim() and tensor.shape[-1] and kind == "step":
            wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
            wide[..., ::2] = tensor
            return wide[..., ::2]
        if tensor.dim() > 1 and kind == "transposed":
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == "offset":
            memory = tensor.new_zeros(tensor.numel() + 3)
            memory[3:] = tensor.reshape(-1)
            return memory[3:].view(tensor.shape)
        if tensor.dim() and len(tensor) and kind == "expanded":
            return tensor[:1].expand(tensor.shape)
        return tensor

    def broadcast_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts to this one."""
        shape = tuple(1 if self.often(0.3) else n for n in shape)
        return shape[self.choice([0, 0, self.randint(0, len(shape))]) :]


def calls(name: str, numbers: range) -> Iterator[Numbers]:
    """The random numbers of each call; with TORCHBCE_FUZZ those of one call, see above."""
    seed, _, only = os.environ.get("TORCHBCE_FUZZ", f"{SEED}:").partition(":")
    if only:
        numbers = range(int(only), int(only) + 1)
    for number in numbers:
        draw = Numbers(f"{name} {seed}:{number}")
        draw.place = f"TORCHBCE_FUZZ={seed}:{number} pytest tests/test_fuzz.py -k {name}-0"
        yield draw


def described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    layout = str(value.layout).removeprefix("torch.")
    if value.layout is torch.strided:
        layout = f"strides {value.stride()}"
    dtype = str(value.dtype).removeprefix("torch.")
    grad = ", requires_grad" if value.requires_grad else ""
    shown = f" {value.detach().tolist()}" if value.numel() <= 12 and "stri" in layout else ""
    return f"<{dtype} {tuple(value.shape)}, {layout}{grad}{shown}>"


def report(draw: Numbers, call: str, arguments: dict[str, Any], error: BaseException) -> None:
    listed = ",\n    ".join(f"{name}={described(value)}" for name, value in arguments.items())
    pytest.fail(f"{draw.place}\n{call}(\n    {listed}\n)\n{type(error).__name__}: {error}")


# ------------------------------------------------------------------------------------ comparing


def assert_near(name: str, got: Tensor, true: Result, unit: float, count: int) -> None:
    """Assert that a result is as near as the tolerance at the top of this file says."""
    with np.errstate(over="ignore"):
        rounded = torch.from_numpy(np.asarray(true.true)).to(got.dtype)
    assert got.shape == rounded.shape, f"{name} has shape {tuple(got.shape)}"
    info = torch.finfo(got.dtype)
    value, expected = got.detach().double().numpy(), np.asarray(true.true)
    _, exponent = np.frexp(np.maximum(abs(expected), info.tiny))
    last = np.ldexp(info.eps, exponent - 1) * 0.5001
    roundings = ROUNDINGS + math.log2(count + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Losses are rounded to subnormal numbers before they are weighted.
        smallest = 2.0**-149 if unit > 2**-30 else 2.0**-1074
        allowed = last + roundings * (unit * true.terms + 2.0**-53 * true.exact_terms)
        allowed = allowed + 100 * smallest
        wrong = ~(abs(value - expected) <= allowed) & (value != rounded.double().numpy())
        # A slope 1 / (1 - p) beyond float32, 3e38, is infinite, or the largest number times what it
        # is multiplied by afterwards.
        wrong &= ~((abs(expected) > 1e33) & (value / expected > 0) & (abs(value) > 1e33))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{name}{list(at)} is {value[at]!r}, the formula {expected[at]!r}; "
            f"the difference is {abs(value - expected)[at]:.3g}, allowed {allowed[at]:.3g}"
        )


def unit_of(dtype: torch.dtype) -> float:
    return 2.0**-53 if dtype == F64 else 2.0**-24


def array(value: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    value = value.detach().to_dense().double().numpy() if isinstance(value, Tensor) else value
    return np.broadcast_to(np.float64(value), np.broadcast_shapes(np.shape(value), shape))


# --------------------------------------------------------------------------------------- losses

SHAPES = [
    (),
    (1,),
    (3,),
    (0,),
    (0, 3),
    (5, 1),
    (4, 3),
    (2, 3, 4),
    (33,),
    (130, 2),
    (9, 70),
    (1030,),
]
#: A kernel compiles in 2 seconds for each loss and pair of dtypes, so that all pairs are tried with
#: cross-entropy and with the definition, and few with the other losses.
FEW_TARGETS = {F32: [F32, torch.int64], F64: [F64], BF16: [BF16], F16: [F16]}
ALL_TARGETS = [
    *(F32, F64, BF16, F16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
]
EXTREMES = [0.0, -0.0, 17.0, -17.0, 40.0, -40.0, 88.7, -88.7, 104.0, -104.0, 1e4, -1e4, 1e-40, 1e-7]
REDUCTIONS = ["none", "mean", "sum", "weighted_mean", "batch_mean"]


def random_input(draw: Numbers, domain: str, shape: tuple[int, ...], infinite: bool) -> Tensor:
    z = draw.normal(*shape) * draw.choice([1, 3, 30])
    if domain == "probabilities":
        p = torch.sigmoid(z)
        return draw.sprinkle(p, [0, 1, 0.5, 1e-7, 1 - 1e-7, 1e-38]) if draw.often(0.4) else p
    z = draw.sprinkle(z, EXTREMES) if draw.often(0.5) else z
    if infinite and draw.often(0.2):
        z = draw.sprinkle(z, [INF, -INF])
    return -z.abs() if domain == "log_probs" else z


def random_target(
    draw: Numbers, dtype: torch.dtype, shape: tuple[int, ...], ignore_index: float | None
) -> Tensor:
    y = draw.uniform(*shape)
    if not dtype.is_floating_point or draw.often(0.6):
        y = (y > draw.choice([0.5, 0.9])).double()
    y = y.to(dtype)
    if ignore_index is None or dtype == torch.bool or draw.often(0.2):
        return y
    whole = float(ignore_index).is_integer()
    if dtype.is_floating_point or (whole and ignore_index >= torch.iinfo(dtype).min):
        draw.sprinkle(y, [ignore_index])
    return y


def random_weight(draw: Numbers, shape: tuple[int, ...], any_dtype: bool) -> Tensor | float:
    if draw.often(0.25):
        return draw.choice([0.0, 1, 2.5, 0.3])
    weight = draw.uniform(*draw.broadcast_shape(shape)) * 3
    if draw.often(0.2):
        weight = (weight > 1).double()  # many zeros
    return weight.to(draw.choice([F32, F32, F64, torch.int64]) if any_dtype else F32)


def random_constants(draw: Numbers, name: str) -> dict[str, Any]:
    exponents = [0, 0.5, 1, 2, 4]
    if name == "binary_cross_entropy":
        return {"eps": draw.choice([None, None, 1e-7, 1e-3])}
    if name == "sigmoid_focal_loss":
        return {"alpha": draw.choice([None, 0.25, 1.0]), "gamma": draw.choice(exponents)}
    if name == "poly_binary_cross_entropy":
        return {
            "epsilon": draw.choice([1.0, 0.0, 2.5, -1.0]),
            "gamma": draw.choice(exponents),
            "alpha": draw.choice([None, 0.25]),
        }
    if name == "asymmetric_loss":
        margin = draw.choice([0.0, 0.05, 0.2])
        # s^0.5 has no derivative at s = 0.
        gamma_neg = draw.choice([g for g in exponents if margin == 0 or g != 0.5])
        return {"gamma_pos": draw.choice(exponents), "gamma_neg": gamma_neg, "margin": margin}
    return {}


def parts_of(name: str, constants: dict[str, Any], x: Tensor, valid: np.ndarray) -> formulas.Parts:
    domain = FAMILY[name].domain
    values = np.where(valid, array(x), domain.neutral)
    more: dict[str, Any] = {}
    if name == "binary_cross_entropy":
        more = {"largest": torch.finfo(F64 if x.dtype == F64 else F32).max}
    return formulas.FORMULAS[name](values, **constants, **more)


def valid_of(target: Tensor, ignore_index: float | None, mask: Tensor | None) -> np.ndarray:
    dense = target.to_dense()
    valid: Any = np.ones(tuple(dense.shape), dtype=bool)
    if ignore_index is not None:
        values = array(dense)
        marker = ignore_index
        if dense.dtype.is_floating_point:
            marker = torch.tensor(ignore_index, dtype=dense.dtype).double().item()
        valid = ~np.isnan(values) if marker != marker else values != marker
    if mask is not None:
        valid = valid & np.broadcast_to(mask.numpy(), np.shape(valid))
    return np.asarray(valid)


def check_loss(draw: Numbers) -> None:
    name = draw.choice(list(FAMILY))
    constants = random_constants(draw, name)
    shape = draw.choice(SHAPES)
    dtype = draw.choices([F32, F64, BF16, F16], [6, 2, 1, 1])[0]
    by_definition = dtype == F64 or draw.often(0.2)
    any_dtype = by_definition or (name == "binary_cross_entropy_with_logits" and dtype == F32)
    plain = draw.often(0.3)  # without options, as prepared calls are
    differentiated = () if plain or draw.often(0.9) else ("target", "weight", "pos_weight")
    options: dict[str, Any] = {"reduction": draw.choice(REDUCTIONS)}
    ignore_index = None
    if not plain:
        if draw.often(0.3):
            ignore_index = options["ignore_index"] = draw.choice([-100, -1, NAN, 0.1, 1])
        if draw.often(0.3):
            options["mask"] = draw.layout(draw.uniform(*draw.broadcast_shape(shape)) > 0.3)
        if draw.often(0.3):
            options["label_smoothing"] = draw.choice([0.1, 0.5, 1.0])
        for weight in ("weight", "pos_weight"):
            if draw.often(0.35):
                options[weight] = random_weight(draw, shape, by_definition)
        if draw.often(0.2):
            options["check_targets"] = draw.choice([None, True, False])

    infinite = name.endswith(("logits", "log_probs")) and not differentiated
    x = random_input(draw, FAMILY[name].domain.name, shape, infinite).to(dtype)
    targets = [*FEW_TARGETS[dtype], *(ALL_TARGETS if any_dtype else [])]
    y = random_target(draw, draw.choice(targets), shape, ignore_index)
    kind = draw.choices(["dense", "coo", "csr", "fewer ones"], [8, 1, 1, 1])[0]
    if kind == "coo" and shape:
        y = y.to_sparse()
    elif kind == "csr" and len(shape) == 2:
        y = y.to_sparse_csr()
    else:
        y = draw.layout(y)
    valid = valid_of(y, ignore_index, options.get("mask"))
    if kind == "fewer ones" and shape[-1:] == (1,):
        y = y.squeeze(-1)
    if not valid.all() and draw.often(0.5):  # an ignored input may be anything
        x[~torch.from_numpy(valid)] = NAN
    x = x if not valid.all() else draw.layout(x)
    if kind in ("coo", "csr") and shape:
        differentiated = ()
    x.requires_grad_(draw.often(0.85))

    leaves: dict[str, Tensor] = {"input": x} if x.requires_grad else {}
    for argument in differentiated:
        tensor = y if argument == "target" else options.get(argument)
        in_divisor = argument == "weight" and options["reduction"] == "weighted_mean"
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not in_divisor:
            leaves[argument] = tensor.requires_grad_()

    arguments = {"input": x, "target": y, **constants, **options}
    function: Callable[..., Tensor] = getattr(functional, name)
    rounded: dict[str, Any] = {}
    if draw.often(0.2):
        mask = options.pop("mask", None)
        module = getattr(torchbce, FAMILY[name].module)(**constants, **options)
        # A module keeps a number as a buffer of PyTorch's default dtype, float32.
        rounded = {w: getattr(module, w) for w in ("weight", "pos_weight") if w in options}
        function = lambda input, target, **_: module(input, target, mask=mask)  # noqa: E731
    try:
        with torchbce.backend("reference") if by_definition else nullcontext():
            for _ in range(draw.choice([1, 1, 1, 3])):
                value = function(**arguments)
            upstream = torch.ones_like(value)
            if draw.often(0.5):
                upstream = torch.full_like(value, draw.choice([0.3, -5.0, 2.0**-3]))
            if options["reduction"] == "none" and draw.often(0.5):
                upstream = draw.layout(draw.normal(*shape).to(value.dtype))
            found = []
            if leaves:
                found = torch.autograd.grad(value, list(leaves.values()), upstream)
        wide = F64 if dtype == F64 else F32
        assert value.dtype == (dtype if options["reduction"] == "none" else wide)

        dense = y.to_dense().reshape(shape)
        weights = {"weight": 1.0, "pos_weight": 1.0, **arguments, **rounded}
        weight, pos_weight = (array(weights[w], shape) for w in ("weight", "pos_weight"))
        call = Call(
            array(dense),
            weight,
            pos_weight,
            options.get("label_smoothing", 0.0),
            valid,
            array(upstream, shape),
            formulas.divisor_of(options["reduction"], valid, weight),
        )
        true = formulas.evaluate(parts_of(name, constants, x, valid), call)
        unit = unit_of(dtype)
        assert_near("the loss", value, true["value"], unit, value.numel() and valid.size)
        for argument, gradient in zip(leaves, found, strict=True):
            assert gradient.dtype == leaves[argument].dtype
            expected = true[argument]
            if argument != "input":
                like = shape if argument == "target" else tuple(leaves[argument].shape)
                expected = formulas.sum_to(expected, like)
                gradient = gradient.reshape(like)
            assert_near(f"the gradient by {argument}", gradient, expected, unit, valid.size)
    except Exception as error:
        report(draw, f"torchbce.functional.{name}", arguments, error)


# ---------------------------------------------------------------------------------------- heads

LEADS = [(), (0,), (1,), (5,), (9,), (2, 3)]
FORMS = ["lists", "lists", "bool", "soft", "coo", "csr", "coo, soft"]


def random_lists(draw: Numbers, lead: tuple[int, ...], labels: int) -> tuple[Tensor, np.ndarray]:
    """Lists of distinct labels, padded with -1, and the same dense."""
    rows, most = math.prod(lead), draw.randint(1, max(1, min(labels - 1, 5)))
    lists = torch.full((rows, most), -1)
    dense = np.zeros((rows, labels), dtype=bool)
    for i in range(rows):
        chosen = draw.sample(range(labels), draw.randint(0, most))
        places = draw.sample(range(most), len(chosen))  # padding may be anywhere
        lists[i, places] = torch.tensor(chosen, dtype=torch.int64)
        dense[i, chosen] = True
    return lists.reshape(*lead, most), dense


def check_head(draw: Numbers) -> None:
    lead, width = draw.choice(LEADS), draw.randint(1, 9)
    dtype = draw.choices([F32, BF16, F16, F64], [5, 2, 2, 2])[0]
    form = draw.choice(FORMS)
    # A list as long as the labels are many may be taken for one value per label.
    labels = draw.choice([3, 7, 8, 33, 129] if form == "lists" else [1, 2, 7, 33])
    rows, shape = math.prod(lead), (*lead, labels)
    if form == "csr" and len(lead) != 1:
        form = "coo"
    lists, y = random_lists(draw, lead, labels)
    dense = torch.from_numpy(y).reshape(shape)
    if "soft" in form:
        dense = dense * draw.uniform(*shape).float()
    target = {
        "lists": lambda: lists,
        "bool": lambda: dense,
        "soft": lambda: dense,
        "coo": dense.float().to_sparse,
        "csr": dense.float().to_sparse_csr,
        "coo, soft": dense.to_sparse,
    }[form]()
    # A single list is not expanded, which would repeat its first label.
    if target.layout is torch.strided and (lead or form != "lists"):
        target = draw.layout(target)
    if form == "lists":
        y = (target.numpy()[..., None] == np.arange(labels)).any(-2)
    y = np.float64(y if form == "lists" else array(target)).reshape(rows, labels)

    options: dict[str, Any] = {"reduction": draw.choice(["mean", "sum", "batch_mean", "none"])}
    valid = np.ones((rows, labels), dtype=bool)
    if draw.often(0.3):
        mask = options["mask"] = draw.uniform(*draw.broadcast_shape(shape)) > 0.3
        valid &= np.broadcast_to(mask.numpy(), shape).reshape(rows, labels)
    if draw.often(0.3) and labels > 2:
        options["ignored"], ignored = random_lists(draw, lead, labels)
        if draw.often(0.4):
            dense_ignored = torch.from_numpy(ignored).reshape(shape)
            sparse = dense_ignored.to_sparse_csr if len(lead) == 1 else dense_ignored.to_sparse
            options["ignored"] = sparse()
        valid &= ~ignored
    if draw.often(0.3):
        options["label_smoothing"] = draw.choice([0.1, 0.5])
    if draw.often(0.4):
        options["pos_weight"] = draw.choice([2.5, 0.0, draw.uniform(labels).float() * 3])
    if draw.often(0.4):
        options["label_weight"] = draw.uniform(labels).float() * 2
    if draw.often(0.4):
        options["row_weight"] = draw.uniform(*lead).float() * 2
    options["chunk_labels"] = draw.choice([None, None, 1, 3, 32, labels + 1])

    x = draw.layout((draw.normal(*lead, width) * draw.choice([1, 1, 10])).to(dtype))
    w, b = draw.layout(draw.normal(labels, width).to(dtype)), draw.normal(labels).to(dtype)
    head: dict[str, Tensor] = {"input": x, "weight": w, "bias": b}
    if draw.often(0.3):
        del head["bias"]
    leaves = {name: t.requires_grad_() for name, t in head.items() if draw.often(0.7)}
    arguments = {**head, "target": target, **options}
    try:
        value = torchbce.linear_binary_cross_entropy(**arguments)
        upstream = torch.full_like(value, draw.choice([1.0, 1.0, 0.3, -5.0]))
        if options["reduction"] == "none" and draw.often(0.5):
            upstream = draw.normal(*lead).to(value.dtype)
        found = torch.autograd.grad(value, list(leaves.values()), upstream) if leaves else []
        assert value.dtype == (F64 if dtype == F64 else F32)

        weight = array(options.get("label_weight", 1.0), (rows, labels))
        weight = weight * array(options.get("row_weight", 1.0), lead).reshape(rows, 1)
        per_row = array(upstream, lead).reshape(rows, 1)
        call = Call(
            y,
            weight,
            array(options.get("pos_weight", 1.0), (rows, labels)),
            options.get("label_smoothing", 0.0),
            valid,
            per_row if options["reduction"] == "none" else array(upstream),
            formulas.divisor_of(options["reduction"], valid.reshape(shape), weight),
        )
        if options["reduction"] == "batch_mean" and not lead:
            call = Call(**{**vars(call), "divisor": 1.0})
        bias = array(b) if "bias" in head else np.zeros(labels)
        true = formulas.linear(array(x).reshape(rows, width), array(w), bias, call)
        unit, count = unit_of(dtype), rows * labels + width
        got = value.reshape(-1) if options["reduction"] == "none" else value
        assert_near("the loss", got, true["value"], unit, count)
        for name, gradient in zip(leaves, found, strict=True):
            assert gradient.dtype == dtype
            gradient = gradient.reshape(true[name].true.shape)
            assert_near(f"the gradient by {name}", gradient, true[name], unit, count)
    except Exception as error:
        report(draw, "torchbce.linear_binary_cross_entropy", arguments, error)


def check_pairs(draw: Numbers) -> None:
    n, width = draw.choice([1, 2, 5, 17, 70]), draw.randint(1, 9)
    dtype = draw.choices([F32, BF16, F16, F64], [5, 2, 2, 2])[0]
    x, y = (draw.normal(n, width) / width**0.5 for _ in range(2))
    x, y = draw.layout(x.to(dtype)), draw.layout(y.to(dtype))
    arguments: dict[str, Any] = {"x": x, "y": y}
    for name, number in (
        ("scale", draw.uniform().item() * 20 - 5),
        ("bias", draw.choice([-10, 3])),
    ):
        number = np.float32(number).item()
        as_tensor = torch.full(draw.choice([(), (1,)]), number)
        arguments[name] = as_tensor if draw.often(0.6) else number
    reduction = arguments["reduction"] = draw.choice(["batch_mean", "sum", "mean"])
    arguments["chunk_pairs"] = draw.choice([None, 1, 3, 64, n])
    leaves = {
        name: t.requires_grad_()
        for name, t in arguments.items()
        if isinstance(t, Tensor) and draw.often(0.8)
    }
    try:
        value = torchbce.pairwise_sigmoid_loss(**arguments)
        upstream = torch.full_like(value, draw.choice([1.0, 1.0, 0.3, -4.0]))
        found = torch.autograd.grad(value, list(leaves.values()), upstream) if leaves else []
        assert value.dtype == (F64 if dtype == F64 else F32)
        ones = np.ones((n, n))
        divisor = {"sum": 1.0, "batch_mean": float(n), "mean": float(n * n)}[reduction]
        valid = np.ones((n, n), dtype=bool)
        call = Call(np.eye(n), ones, ones, 0.0, valid, array(upstream), divisor)
        scale, bias = (array(arguments[name]).item() for name in ("scale", "bias"))
        true = formulas.pairs(array(x), array(y), scale, bias, call)
        unit, count = unit_of(dtype), n * n + width
        assert_near("the loss", value, true["value"], unit, count)
        for name, gradient in zip(leaves, found, strict=True):
            assert gradient.dtype == leaves[name].dtype
            gradient = gradient.reshape(true[name].true.shape)
            # scale and bias are float32, also with features of float64
            assert_near(f"the gradient by {name}", gradient, true[name], unit, count)
    except Exception as error:
        report(draw, "torchbce.pairwise_sigmoid_loss", arguments, error)


# ------------------------------------------------------------------------------------ the drop-in


def outcome(function: Callable[..., Tensor], arguments: dict[str, Any]) -> Any:
    """What a call returns or raises, with its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value: Any = function(**arguments)
        except Exception as error:
            value = type(error), str(error)
    return value, sorted(str(warning.message) for warning in caught)


def check_dropin(draw: Numbers) -> None:
    """PyTorch's contract: dtype and shape, or the same error, also for arguments that are wrong."""
    name = draw.choice(["binary_cross_entropy_with_logits", "binary_cross_entropy"])
    of_logits = name.endswith("logits")
    shape = draw.choice([(), (3,), (4, 3), (2, 3, 4), (0,), (5, 1)])
    dtypes = draw.choices(
        [[F32], [F32, F64], [F32, BF16, F16], [F32, torch.int64, torch.bool]], [6, 1, 1, 1]
    )[0]
    x = draw.normal(*shape)
    x = (x if of_logits else torch.sigmoid(x)).to(draw.choice(dtypes))
    y = draw.uniform(*shape).to(draw.choice(dtypes))
    if draw.often(0.1) and not of_logits:
        wrong = draw.choice([x, y])
        if wrong.is_floating_point():
            draw.sprinkle(wrong, [1.5, -0.5, NAN])
    if draw.often(0.1):
        y = draw.choice([y[..., None], y.reshape(-1), y.expand(2, *shape), y.reshape(-1)[:1]])
    x, y = draw.layout(x), draw.layout(y)
    arguments: dict[str, Any] = {"input": x, "target": y}
    if draw.often(0.3):
        weights = draw.uniform(*draw.broadcast_shape(shape)).to(draw.choice(dtypes))
        arguments["weight"] = draw.choice([weights, draw.uniform(2, 7, 3)])
    if draw.often(0.3) and of_logits:
        arguments["pos_weight"] = draw.uniform(*draw.broadcast_shape(shape)).to(F32)
    arguments["reduction"] = draw.choice(["none", "mean", "sum", "mean", "batch"])
    if draw.often(0.05):
        arguments["size_average"] = draw.choice([True, False])
    function = getattr(F, name)
    with torchbce.dropin.installed():
        replacement = getattr(F, name)
    try:
        expected, got = outcome(function, arguments), outcome(replacement, arguments)
        assert got[1] == expected[1], f"warnings {got[1]}, PyTorch's {expected[1]}"
        if not isinstance(expected[0], Tensor):
            assert got[0] == expected[0], f"{got[0]}, PyTorch {expected[0]}"
            return
        assert (got[0].dtype, got[0].shape) == (expected[0].dtype, expected[0].shape)
        # PyTorch rounds several times: 8 units of half precision, 1e-5 in float32.
        rtol = 1e-5 if got[0].dtype.itemsize > 2 and x.dtype.itemsize > 2 else 8 * 2.0**-8
        torch.testing.assert_close(got[0], expected[0], rtol=rtol, atol=rtol, equal_nan=True)
    except Exception as error:
        report(draw, f"torch.nn.functional.{name}, by the drop-in", arguments, error)


# ------------------------------------------------------------------------------------- the tests

#: How many calls; the first 100 of each are made in `make test` too.
CHECKS = {
    "losses": (check_loss, 4000),
    "heads": (check_head, 1200),
    "pairs": (check_pairs, 500),
    "dropin": (check_dropin, 1000),
}
FAST, BLOCK = 100, 500


def blocks(calls: int) -> list[range]:
    starts = [0, *range(FAST, calls, BLOCK)]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], calls], strict=True)]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        pytest.param(
            name,
            numbers,
            marks=pytest.mark.slow if numbers.start else (),
            id=f"{name}-{numbers.start}",
        )
        for name, (_, count) in CHECKS.items()
        for numbers in blocks(count)
    ],
)
def test_random_calls(name: str, numbers: range) -> None:
    check, _ = CHECKS[name]
    for draw in calls(name, numbers):
        check(draw)
