"""Training one network by mini-batches, until the loss on held-out rows stops falling."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from lightning_fabric import Fabric

from torchbce import backend
from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.training.network import Network, predict_logits, row_features
from torchbce.classifier.training.options import TrainingOptions
from torchbce.classifier.training.progress import Progress
from torchbce.classifier.training.rows import Rows
from torchbce.classifier.training.stopping import EarlyStopping
from torchbce.functional import binary_cross_entropy_with_logits
from torchbce.imbalance import prior_bias

LEARNING_RATE = {"linear": 0.02, "mlp": 0.001}

# 64 steps per epoch or more, so that small tables get enough steps; batches of 512 rows from 32,768
# rows on.
BATCH_SIZES = (16, 512)
STEPS_PER_EPOCH = 64


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: with the weights of the last epoch, on the CPU.
        epochs: the epoch with the lowest held-out loss, 0 for the initial weights; without held-out
            rows the last one.
        held_out_logits: the logits of the held-out rows at that epoch, float64, [rows].
    """

    network: Network
    epochs: int
    held_out_logits: np.ndarray = field(default_factory=lambda: np.zeros(0))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's CPU operations on one thread; restore the number of threads afterwards.

    A step on a few hundred sparse rows is shorter than the synchronisation of several threads: on
    two cores one thread was as fast as two, and 8 times as fast while another process ran. With one
    thread the result does not depend on the number of cores either.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
# Compiling the kernels takes longer than they would save in one training of this size.
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

    The learning rate's schedule always spans `options.epochs`, so a second training, on more rows
    and for as many epochs as were best in the first, repeats the first one's schedule.

    Args:
        rows: the rows to train on.
        held_out: the rows to measure the loss on after each epoch; None trains for all `epochs`.
        epochs: the largest number of passes over `rows`.
        pos_weight: the weight of the positives in the loss.
        options: the other options.
        progress: receives each step and epoch.
        stage: the name of this training, for `progress`.

    Raises:
        InputError: if the loss is no longer finite, or the device or the precision is not there.
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
        # One pass over each parameter per step: half the time for 50,000 weights.
        fused=True,
    )
    batch_size = options.batch_size or _batch_size(len(rows))
    steps = -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * options.epochs)
    module, stepper = fabric.setup(network, optimizer)

    def run_epoch() -> float:
        """One pass over the rows; their mean loss."""
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
        return loss_sum.item() / len(rows)

    def held_out_loss(held_out: Rows) -> tuple[float, np.ndarray]:
        logits = predict_logits(network, held_out.features, fabric.autocast)
        loss = binary_cross_entropy_with_logits(
            torch.from_numpy(logits), torch.from_numpy(held_out.targets), pos_weight=pos_weight
        )
        return loss.item(), logits

    stopping = (
        None if held_out is None else EarlyStopping(*held_out_loss(held_out), options.patience)
    )
    progress.start(stage, steps * epochs)
    for epoch in range(1, epochs + 1):
        mean_loss = run_epoch()
        if not np.isfinite(mean_loss):
            raise InputError(
                f"training diverged in epoch {epoch}: the loss is {mean_loss}; lower the ",
                Argument("learning_rate"),
            )
        if held_out is None or stopping is None:
            progress.epoch(epoch, mean_loss, None)
            continue
        loss, logits = held_out_loss(held_out)
        progress.epoch(epoch, mean_loss, loss)
        if stopping.stops(epoch, loss, logits):
            break
    progress.end()
    network = network.float().cpu()
    if stopping is None:
        return Trained(network, epochs)
    return Trained(network, stopping.epoch, stopping.logits)


def _batch_size(rows: int) -> int:
    """A power of two in `BATCH_SIZES`, with at least `STEPS_PER_EPOCH` steps if it can be."""
    smallest, largest = BATCH_SIZES
    wanted = max(rows // STEPS_PER_EPOCH, 1)
    return min(largest, max(smallest, 1 << (wanted.bit_length() - 1)))


def _fabric(options: TrainingOptions) -> Fabric:
    on_cpu = options.device == "cpu" or (
        options.device == "auto" and torch.accelerator.current_accelerator() is None
    )
    if on_cpu and options.precision == "16-mixed":
        # Fabric would use bfloat16 instead, with a warning.
        raise InputError(
            Argument("precision", "16-mixed"),
            " needs a GPU; on the CPU use ",
            Argument("precision", "bf16-mixed"),
        )
    try:
        return Fabric(accelerator=options.device, devices=1, precision=options.precision)
    except Exception as error:  # Fabric raises many types for what it does not support
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            "cannot train with ",
            Argument("device", options.device),
            " and ",
            Argument("precision", options.precision),
            f": {reason}",
        ) from error
