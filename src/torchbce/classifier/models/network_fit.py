"""Training the network by mini-batches, until the loss of the rows held out stops falling."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric

from torchbce import backend
from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.models import losses
from torchbce.classifier.models.candidates import Candidates, mean_loss
from torchbce.classifier.models.data import Data, Fitted
from torchbce.classifier.models.features import SparseRows
from torchbce.classifier.models.members import NetworkModel
from torchbce.classifier.models.network import (
    Network,
    network_features,
    predict_logits,
    row_tensors,
)
from torchbce.classifier.models.vocabulary import part_rows
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.progress import Progress
from torchbce.imbalance import prior_bias

LEARNING_RATE = 0.002

# At least 64 steps per epoch, so that small tables get enough steps; batches of 512 rows from
# 32,768 rows on.
BATCH_SIZES = (16, 512)
STEPS_PER_EPOCH = 64

#: The relative fall of the held-out loss that restarts the patience.
MIN_GAIN = 1e-3


class Rows(NamedTuple):
    """Features, targets in [0, 1], float32 [rows], and weights, float32 [rows]; None for 1."""

    features: SparseRows
    targets: np.ndarray
    weight: np.ndarray | None = None

    def take(self, index: np.ndarray) -> "Rows":
        """The rows at some indices, in their order."""
        weight = None if self.weight is None else self.weight[index]
        return Rows(self.features.take(index), self.targets[index], weight)

    def positives(self) -> tuple[float, float]:
        """The weights of all positives and of all negatives."""
        if self.weight is None:
            positives = float(self.targets.sum())
            return positives, len(self.targets) - positives
        weight = self.weight.astype(np.float64)
        positives = float(weight @ self.targets)
        return positives, float(weight.sum()) - positives


class Trained(NamedTuple):
    """A trained network.

    Attributes:
        network: with the weights of the last epoch, on the CPU.
        stages: the logits of the rows held out, before the first epoch and after each one, as the
            network gives them.
    """

    network: Network
    stages: list[np.ndarray]


def fit_network(data: Data) -> Fitted:
    """The network: trained on each part until its rows held out get worse, and then on all rows."""
    # A mean of 1, because the learning rate is made for losses that are means over rows.
    weight = None if data.weight is None else (data.weight / data.weight.mean()).astype(np.float32)
    features = network_features(data.encoder, data.encoded)
    rows = Rows(features, data.targets.astype(np.float32), weight)
    stages: list[list[np.ndarray]] = []
    for number, (train_on, held_out) in enumerate(data.parts.pairs, start=1):
        parts = part_rows(features, data.vocabulary, train_on, held_out)
        own, others = (
            rows.take(index)._replace(features=of_part)
            for of_part, index in zip(parts, (train_on, held_out), strict=True)
        )
        trained = train(
            own,
            others,
            data.options.epochs,
            data.pos_weight,
            data.options,
            data.progress,
            f"mlp {number}/{len(data.parts.pairs)}",
            functools.partial(data.loss_on, held_out),
        )
        stages.append(trained.stages)
    raw = [np.concatenate(epoch) for epoch in zip(*stages, strict=False)]
    candidates = Candidates()
    for epoch, logits in enumerate(raw):
        candidates.add(epoch, data.comparable(logits))

    def model(epochs: int) -> NetworkModel:
        final = train(
            rows, None, epochs, data.pos_weight, data.options, data.progress, "mlp, all rows"
        )
        line = data.line(raw[epochs], lambda: predict_logits(final.network, features))
        final.network.map_logits(*line)
        return NetworkModel(final.network)

    return Fitted(candidates, model, lambda epochs: f"{epochs} epochs", len(candidates.settings))


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
    loss_of: Callable[[np.ndarray], float] | None = None,
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
        loss_of: the loss of the logits of `held_out`; None is binary cross-entropy, without the
            log(pos_weight) that the weight of the positives adds.

    Raises:
        InputError: if the loss is not finite, or the device or the precision is not available.
    """
    fabric = _fabric(options)
    generator = torch.Generator().manual_seed(options.seed)
    shuffling = np.random.default_rng(options.seed)
    count = len(rows.targets)
    loss_function = losses.loss_function(options)

    network = Network(rows.features.width)
    bias = prior_bias(*rows.positives(), pos_weight).item()
    network.initialise(bias, len(rows.features.indices) / max(count, 1), generator)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=options.learning_rate or LEARNING_RATE,
        weight_decay=options.weight_decay,
        # One pass over each parameter per step: half the time for 50,000 weights.
        fused=True,
    )
    batch_size = options.batch_size or _batch_size(count)
    steps = -(-count // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * options.epochs)
    module, stepper = fabric.setup(network, optimizer)
    module.train()

    def run_epoch() -> float:
        """One pass over the rows; their mean loss."""
        loss_sum = torch.zeros((), device=fabric.device)
        order = shuffling.permutation(count)
        for start in range(0, count, batch_size):
            batch = rows.take(order[start : start + batch_size])
            # Dropout draws from the global generator, whose state is restored afterwards.
            logits = module(*row_tensors(batch.features, fabric.device))
            loss = loss_function(
                logits,
                torch.from_numpy(batch.targets).to(fabric.device),
                weight=None
                if batch.weight is None
                else torch.from_numpy(batch.weight).to(fabric.device),
                pos_weight=pos_weight,
            )
            stepper.zero_grad()
            fabric.backward(loss)
            stepper.step()
            schedule.step()
            loss_sum += loss.detach() * len(batch.targets)
            progress.step(loss_sum, min(start + batch_size, count))
        return loss_sum.item() / count

    stages: list[np.ndarray] = []

    def held_out_loss(held_out: Rows) -> float:
        logits = predict_logits(network, held_out.features, fabric.autocast)
        stages.append(logits)
        if loss_of is not None:
            return loss_of(logits)
        return mean_loss(logits - np.log(pos_weight), held_out.targets, held_out.weight)

    lowest, lowest_at = np.inf, 0
    if held_out is not None:
        lowest = held_out_loss(held_out)
    progress.start(stage, steps * epochs)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        for epoch in range(1, epochs + 1):
            epoch_loss = run_epoch()
            if not np.isfinite(epoch_loss):
                raise InputError(
                    f"training diverged in epoch {epoch}: the loss is {epoch_loss}; lower the ",
                    Argument("learning_rate"),
                )
            if held_out is None:
                progress.epoch(epoch, epoch_loss, None)
                continue
            loss = held_out_loss(held_out)
            progress.epoch(epoch, epoch_loss, loss)
            if loss < lowest * (1 - MIN_GAIN):
                lowest, lowest_at = loss, epoch
            elif epoch - lowest_at >= options.patience:
                break
    progress.end()
    return Trained(network.float().cpu().eval(), stages)


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
