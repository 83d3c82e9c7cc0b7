"""What the GPU's benchmark computes: torchbce, PyTorch eager and compiled, a copy, matrix products.

`plan` gives all rows of the tables with the cells empty; `in_order` gives each row with the
function that fills it in.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchbce
from gpu_timing import OUT_OF_MEMORY, Call, Cell, attempt, extra_bytes, medians, release_memory
from torchbce import functional

DEVICE = "cuda"
NOT_MEASURED = "not measured"
SAMPLES, LINEAR_SAMPLES = 21, 9

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORWARD, BACKWARD = "forward", "forward + backward"
#: Powers of two of the number of elements; the one with goals; that of the other losses.
POWERS, GOAL_POWER, LOSS_POWER = (20, 22, 24, 26, 28, 30), 28, 26
#: Rows, width and labels.
SHAPES = ((4096, 4096, 131_072), (1024, 768, 1_000_000))
#: Positive labels per row, at most.
POSITIVES = 5

OURS, EAGER, COMPILED, COPY, PRODUCTS = "torchbce", "PyTorch", "compiled", "copy", "products"

Row = dict[str, Any]
Loss = Callable[[Tensor, Tensor], Tensor]


def plan() -> dict[str, Any]:
    """All rows, not measured."""
    names = ("card", "memory", "driver", "CUDA", "PyTorch", "Triton", "date")
    return {
        "header": _empty(*names),
        "elementwise": [
            {
                "dtype": dtype,
                "power": power,
                "what": what,
                "seconds": _empty(OURS, EAGER, COMPILED, COPY),
            }
            for dtype in DTYPES
            for what in (FORWARD, BACKWARD)
            for power in POWERS
        ],
        "losses": [
            {
                "loss": loss,
                "dtype": dtype,
                "power": LOSS_POWER,
                "what": BACKWARD,
                "seconds": _empty(OURS, EAGER, COPY),
            }
            for loss in LOSSES
            for dtype in DTYPES
        ],
        "linear": [
            {
                "shape": list(shape),
                "chunk": None,
                "seconds": _empty(OURS, PRODUCTS, EAGER, COMPILED),
                "extra": _empty(OURS, PRODUCTS, EAGER, COMPILED, FORWARD),
            }
            for shape in SHAPES
        ],
    }


def in_order(results: dict[str, Any]) -> list[tuple[Callable[[Row], None], Row]]:
    """The rows with goals first, then whole tables, the most important ones first."""
    grid = results["elementwise"]
    others = sorted((row for row in grid if not has_goal(row)), key=lambda row: -row["power"])
    return [
        *((measure_elementwise, row) for row in grid if has_goal(row)),
        *((measure_linear, row) for row in results["linear"]),
        *((measure_loss, row) for row in results["losses"]),
        *((measure_elementwise, row) for row in others),
    ]


def has_goal(row: Row) -> bool:
    return bool(row["power"] == GOAL_POWER and row["what"] == BACKWARD)


def measure(function: Callable[[Row], None], row: Row) -> None:
    """Fill in a row; with the reason if it cannot be measured."""
    release_memory()
    reason = attempt(lambda: function(row))
    if isinstance(reason, str):
        for cells in (row["seconds"], row.get("extra", {})):
            cells.update({name: reason for name, cell in cells.items() if cell == NOT_MEASURED})


def bytes_moved(row: Row) -> int:
    """Bytes that must move: logits and targets are read, the gradient is written."""
    item = DTYPES[row["dtype"]].itemsize
    return int((3 if row["what"] == BACKWARD else 2) * item * 2 ** row["power"])


def measure_elementwise(row: Row) -> None:
    torch._dynamo.reset()  # the compiler gives up after a number of sizes
    both = _logits_and_targets(2 ** row["power"], DTYPES[row["dtype"]])
    losses: dict[str, Loss] = {
        OURS: functional.binary_cross_entropy_with_logits,
        EAGER: _eager,
        COMPILED: torch.compile(_eager, dynamic=False),
    }
    row["seconds"].update(medians(_calls(losses, row, both), SAMPLES))


def measure_loss(row: Row) -> None:
    ours, peer, from_logits = LOSSES[row["loss"]]
    both = _logits_and_targets(2 ** row["power"], DTYPES[row["dtype"]])
    if from_logits is not None:
        both[0].copy_(from_logits(both[0]))
    row["seconds"].update(medians(_calls({OURS: ours, EAGER: peer}, row, both), SAMPLES))


def measure_linear(row: Row) -> None:
    torch._dynamo.reset()
    rows, width, labels = row["shape"]
    x = torch.randn(rows, width, dtype=torch.bfloat16, device=DEVICE)
    w = torch.empty(labels, width, dtype=torch.bfloat16, device=DEVICE)
    w.normal_(0, width**-0.5)
    head = x.detach().requires_grad_(), w.detach().requires_grad_()
    positives = _positive_labels(rows, labels)
    y = attempt(lambda: _dense(positives, labels, x.dtype))

    row["extra"][FORWARD] = attempt(
        lambda: extra_bytes(lambda: _forward_only(x, w, positives), positives)
    )
    row["chunk"], row["extra"][PRODUCTS] = _largest_products(x, w)
    calls: dict[str, Call] = {}
    contenders = {
        OURS: (_ours_linear, positives),
        EAGER: (_eager_linear, y),
        COMPILED: (torch.compile(_eager_linear, dynamic=False), y),
    }
    for name, (loss, target) in contenders.items():
        if isinstance(target, str):
            row["seconds"][name] = row["extra"][name] = target
            continue
        call = functools.partial(_linear_gradients, loss, *head, target)
        row["extra"][name] = attempt(functools.partial(extra_bytes, call, target))
        calls[name] = call
    calls[PRODUCTS] = functools.partial(_products, x, w, row["chunk"])
    row["seconds"].update(medians(calls, LINEAR_SAMPLES))


def _empty(*names: str) -> dict[str, Cell]:
    return dict.fromkeys(names, NOT_MEASURED)


# ---------------------------------------------------------------------------- elementwise losses


def _logits_and_targets(n: int, dtype: torch.dtype) -> Tensor:
    """[2, n]."""
    both = torch.empty(2, n, dtype=dtype, device=DEVICE)
    both[0].normal_(0, 3)
    both[1].bernoulli_(0.3)
    return both


def _calls(losses: dict[str, Loss], row: Row, both: Tensor) -> dict[str, Call]:
    x, y = both.unbind()
    calls: dict[str, Call] = {}
    for name, loss in losses.items():
        if row["what"] == BACKWARD:
            calls[name] = functools.partial(_gradient, loss, x.detach().requires_grad_(), y)
        else:
            calls[name] = functools.partial(loss, x, y)
    calls[COPY] = _copy(both, bytes_moved(row))
    return calls


def _gradient(loss: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(x, y), x)


def _copy(both: Tensor, size: int) -> Call:
    """A copy that moves `size` bytes: it reads half of them and writes half."""
    source = both.view(-1).view(torch.uint8)[: size // 2]
    return lambda: torch.empty_like(source).copy_(source)


def _eager(x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, y)


def _eager_focal(x: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(x)
    p_t = p * y + (1 - p) * (1 - y)
    alpha_t = 0.25 * y + 0.75 * (1 - y)
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    return (alpha_t * (1 - p_t) ** 2 * ce).mean()


def _eager_asymmetric(x: Tensor, y: Tensor) -> Tensor:
    positive = torch.sigmoid(x)
    negative = (1 - positive + 0.05).clamp(max=1)
    ce = y * positive.clamp(min=1e-8).log() + (1 - y) * negative.clamp(min=1e-8).log()
    p_t = positive * y + negative * (1 - y)
    return -(ce * (1 - p_t) ** (1 * y + 4 * (1 - y))).mean()


def _eager_poly(x: Tensor, y: Tensor) -> Tensor:
    p = torch.sigmoid(x)
    p_t = p * y + (1 - p) * (1 - y)
    return (F.binary_cross_entropy_with_logits(x, y, reduction="none") + (1 - p_t)).mean()


def _eager_log_probs(x: Tensor, y: Tensor) -> Tensor:
    return -(y * x + (1 - y) * torch.log(-torch.expm1(x))).mean()


#: torchbce's loss, the usual formula in PyTorch, and the function from logits to its input.
LOSSES: dict[str, tuple[Loss, Loss, Callable[[Tensor], Tensor] | None]] = {
    "focal": (functools.partial(functional.sigmoid_focal_loss, alpha=0.25), _eager_focal, None),
    "asymmetric": (functional.asymmetric_loss, _eager_asymmetric, None),
    "poly": (functional.poly_binary_cross_entropy, _eager_poly, None),
    "probabilities": (functional.binary_cross_entropy, F.binary_cross_entropy, torch.sigmoid),
    "log-probabilities": (
        functional.binary_cross_entropy_with_log_probs,
        _eager_log_probs,
        F.logsigmoid,
    ),
}


# ------------------------------------------------------------------------- linear + cross-entropy


def _ours_linear(x: Tensor, w: Tensor, positives: Tensor) -> Tensor:
    return torchbce.linear_binary_cross_entropy(x, w, positives)


def _eager_linear(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(F.linear(x, w), y)


def _linear_gradients(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, w: Tensor, target: Tensor
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(x, w, target), (x, w))


def _forward_only(x: Tensor, w: Tensor, positives: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        _ours_linear(x, w, positives)
    return ()


def _products(x: Tensor, w: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """The products for logits and both gradients, with the logits in place of their gradient."""
    d_w, d_x = torch.empty_like(w), torch.empty_like(x)
    for start in range(0, len(w), chunk):
        part = w[start : start + chunk]
        z = torch.mm(part, x.T)
        if start == 0:
            torch.mm(z.T, part, out=d_x)
        else:
            d_x.addmm_(z.T, part)
        torch.mm(z, x, out=d_w[start : start + chunk])
    return d_x, d_w


def _largest_products(x: Tensor, w: Tensor) -> tuple[int, Cell]:
    """The most labels per chunk, all or a half, a quarter, ..., that fit; and the extra memory."""
    chunk = len(w)
    while True:
        call = functools.partial(_products, x, w, chunk)
        found = attempt(functools.partial(extra_bytes, call, None))
        if found != OUT_OF_MEMORY or chunk <= 1024:
            return chunk, found
        chunk = -(-chunk // 2)


def _positive_labels(rows: int, labels: int) -> Tensor:
    """[rows, POSITIVES], padded with -1: every second row has one positive fewer."""
    each = labels // POSITIVES  # each positive of a row is drawn from other labels
    positives = torch.randint(each, (rows, POSITIVES), device=DEVICE)
    positives += torch.arange(POSITIVES, device=DEVICE) * each
    positives[::2, -1] = -1
    return positives


def _dense(positives: Tensor, labels: int, dtype: torch.dtype) -> Tensor:
    y = torch.zeros(len(positives), labels, dtype=dtype, device=DEVICE)
    row, column = (positives >= 0).nonzero(as_tuple=True)
    y[row, positives[row, column]] = 1
    return y
