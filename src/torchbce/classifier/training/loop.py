"""Fitting one network to rows of sparse features by mini-batches of our own loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch
from lightning_fabric import Fabric

from torchbce._backends import backend
from torchbce.classifier.errors import InputError
from torchbce.classifier.training.network import Network, predict_logits, row_features
from torchbce.classifier.training.options import TrainingOptions
from torchbce.classifier.training.progress import Progress
from torchbce.functional import binary_cross_entropy_with_logits
from torchbce.imbalance import prior_bias

LEARNING_RATE = {"linear": 0.02, "mlp": 0.001}

# 64 steps an epoch and more, so that small tables are not left untrained; batches of 512 from
# 32,768 rows on.
BATCH_SIZES = (16, 512)
STEPS_AN_EPOCH = 64

#: The part by which the held-out loss must fall for training to be worth going on.
LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class Rows:
    """Features [rows, F] with their targets [rows], float32 of 0 and 1."""

    features: sp.csr_matrix
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: np.ndarray) -> "Rows":
        return Rows(self.features[index], self.targets[index])


@dataclass(frozen=True)
class Trained:
    """A trained network, and at which epoch it was best on the rows held out, if any were."""

    network: Network
    epochs: int
    held_out_logits: np.ndarray = field(default_factory=lambda: np.zeros(0))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's CPU operations on one thread, and as many as before afterwards.

    A step on a few hundred sparse rows takes less than a thread team takes to meet: on two cores
    one thread was as fast alone, and 8 times as fast where another process ran beside it. The
    result then does not depend on the number of cores either.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
# The kernels would save less in a training of this kind than it takes to compile them once.
@backend("reference")
def train(
    rows: Rows,
    held_out: Rows | None,
    epochs: int,
    pos_weight: float,
    options: TrainingOptions,
    progress: Progress,
    stage: str,
) -> Trained:
    """Train a network on `rows` for `epochs`, or until the loss on `held_out` stops falling.

    The schedule is that of `options.epochs` in either case, so that a second training for as many
    epochs as were best in the first repeats it on more rows.
    """
    fabric = _fabric(options)
    generator = torch.Generator().manual_seed(options.seed)
    shuffling = np.random.default_rng(options.seed)

    network = Network(rows.features.shape[1], options.model)
    positives = float(rows.targets.sum())
    bias = prior_bias(positives, len(rows) - positives, pos_weight).item()
    network.initialise(bias, generator)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=options.learning_rate or LEARNING_RATE[options.model],
        weight_decay=options.weight_decay,
        # One pass over each parameter a step: on 50,000 weights half the time.
        fused=True,
    )
    batch_size = options.batch_size or _batch_size(len(rows))
    steps = -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * options.epochs)
    module, stepper = fabric.setup(network, optimizer)

    def held_out_loss() -> tuple[float, np.ndarray]:
        assert held_out is not None
        logits = predict_logits(network, held_out.features, fabric.autocast)
        targets = torch.from_numpy(held_out.targets)
        loss = binary_cross_entropy_with_logits(
            torch.from_numpy(logits), targets, pos_weight=pos_weight
        )
        return loss.item(), logits

    best, best_epoch, best_logits = float("inf"), 0, np.zeros(0)
    if held_out is not None:
        best, best_logits = held_out_loss()
    worth_beating, gained_at = best, 0
    progress.start(stage, steps * epochs)
    for epoch in range(1, epochs + 1):
        loss_sum = torch.zeros((), device=fabric.device)
        order = shuffling.permutation(len(rows))
        for start in range(0, len(rows), batch_size):
            batch = rows.take(order[start : start + batch_size])
            logits = module(*row_features(batch.features, fabric.device))
            loss = binary_cross_entropy_with_logits(
                logits, torch.from_numpy(batch.targets).to(fabric.device), pos_weight=pos_weight
            )
            stepper.zero_grad()
            fabric.backward(loss)
            stepper.step()
            schedule.step()
            loss_sum += loss.detach() * len(batch)
            progress.step(loss_sum, min(start + batch_size, len(rows)))
        mean_loss = loss_sum.item() / len(rows)
        if not np.isfinite(mean_loss):
            raise InputError(
                f"training diverged in epoch {epoch}: the loss is {mean_loss}; "
                "lower --learning-rate"
            )
        if held_out is None:
            progress.epoch(epoch, mean_loss, None)
            best_epoch = epoch
            continue
        current, logits_now = held_out_loss()
        progress.epoch(epoch, mean_loss, current)
        if current < best:
            best, best_epoch, best_logits = current, epoch, logits_now
        if current < worth_beating * (1 - LEAST_GAIN):
            worth_beating, gained_at = current, epoch
        elif epoch - gained_at >= options.patience:
            break
    progress.end()
    return Trained(network.float().cpu(), best_epoch, best_logits)


def _batch_size(rows: int) -> int:
    """A power of two, so that an epoch has at least `STEPS_AN_EPOCH` steps where it can."""
    smallest, largest = BATCH_SIZES
    wanted = max(rows // STEPS_AN_EPOCH, 1)
    return min(largest, max(smallest, 1 << (wanted.bit_length() - 1)))


def _fabric(options: TrainingOptions) -> Fabric:
    on_cpu = options.device == "cpu" or (
        options.device == "auto" and torch.accelerator.current_accelerator() is None
    )
    if on_cpu and options.precision == "16-mixed":
        # Fabric would take bfloat16 instead and say so in a warning.
        raise InputError("precision '16-mixed' needs a GPU; on the CPU give 'bf16-mixed'")
    try:
        return Fabric(accelerator=options.device, devices=1, precision=options.precision)
    except Exception as error:  # Fabric raises many kinds for a device or precision it lacks
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"cannot train on device {options.device!r} with precision {options.precision!r}: "
            f"{reason}"
        ) from error
