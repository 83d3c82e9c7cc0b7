"""Training the network of many labels, until the loss of the rows held out stops falling."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchbce import backend, imbalance
from torchbce.classifier.errors import Argument, InputError
from torchbce.classifier.labels.inputs import Inputs
from torchbce.classifier.labels.network import HIDDEN, LabelsNetwork, mean_of
from torchbce.classifier.labels.targets import LabelTargets
from torchbce.classifier.options import TrainingOptions
from torchbce.classifier.progress import Progress
from torchbce.linear.optimizers import FusedAdagrad

#: From so many labels on, the head is trained in its backward pass, without a gradient in memory.
FUSED_LABELS = 500
LEARNING_RATE, WEIGHT_DECAY = 0.001, 0.01
#: With a fused head, of the hidden layer and of the head.
LEARNING_RATES_FUSED = 0.003, 0.2
#: Adagrad's first step has the full learning rate whatever the gradient is, so that the first batch
#: would fill the weights of rare labels with noise. It begins as if each had once had a quarter of
#: the gradient of a positive, 1 / batch size: of 20,000 made-up labels and 15,000 rows the log loss
#: divided by that of base rates fell from 1.01 to 0.64, and P@1 rose from 0.14 to 0.25.
GRADIENT_BEFORE = 0.25

BATCH_SIZES = (32, 256)
STEPS_PER_EPOCH = 32

#: Logits of all epochs together, about: with 46,000 labels and 45,000 rows 5 epochs, which take
#: some minutes on two cores. With a fused head there are never more than the third number.
MOST_LOGITS, FEWEST_EPOCHS, MOST_EPOCHS_FUSED = 1e10, 5, 15

#: So many networks, each trained without a part of the rows, are averaged, by the products of an
#: epoch of one: rows times inputs and labels of a row times hidden units.
NETWORKS = ((1e8, 5), (2e9, 2))

#: The relative fall of the held-out loss that restarts the patience.
MIN_GAIN = 5e-4


@dataclass(frozen=True)
class NetworkRows:
    """What the networks are trained on: features, targets, and the weight of each row or None."""

    inputs: Inputs
    targets: LabelTargets
    weight: np.ndarray | None

    def take(self, rows: np.ndarray) -> "NetworkRows":
        """The rows at some indices."""
        weight = None if self.weight is None else self.weight[rows]
        return NetworkRows(self.inputs.take(rows), self.targets.take(rows), weight)

    def loss(self, network: LabelsNetwork, rows: np.ndarray) -> Tensor:
        """The loss of some rows: the mean over the rows of the sum over the labels."""
        device = network.bias.device
        given: dict[str, Tensor] = {}
        if self.weight is not None:
            given["row_weight"] = torch.from_numpy(self.weight[rows].astype(np.float32)).to(device)
        if self.targets.dense is None:
            target = torch.from_numpy(self.targets.padded(rows))
        else:
            dense = self.targets.dense[rows]
            known = ~np.isnan(dense)
            target = torch.from_numpy(np.nan_to_num(dense))
            if not known.all():
                given["mask"] = torch.from_numpy(known).to(device)
        hidden = network.hidden(self.inputs.take(rows))
        loss: Tensor = network.head(hidden, target.to(device), **given)
        return loss


class FittedNetwork(NamedTuple):
    """A network for all rows, and what it reached on the rows held out.

    Attributes:
        network: the mean of the networks of the parts, on the CPU.
        parts: the network of each part.
        text: the text features that it reads.
        epochs: the epochs that each part was trained for.
        losses: the held-out loss of each part: the mean over its elements.
    """

    network: LabelsNetwork
    parts: list[LabelsNetwork]
    text: np.ndarray
    epochs: list[int]
    losses: list[float]


def network_count(rows: int, labels: int, stored: float) -> int:
    """How many networks are averaged, from the number of stored features of a row."""
    products = rows * (labels + stored) * HIDDEN
    return next((number for most, number in NETWORKS if products <= most), 1)


def fit_networks(
    rows: NetworkRows,
    text: np.ndarray,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    pos_weight: np.ndarray | None,
    options: TrainingOptions,
    progress: Progress,
) -> FittedNetwork:
    """Train a network on each part, keep its best epoch, and average them.

    Args:
        rows: all rows.
        text: the text features in `rows`.
        pairs: the indices of the rows to train on and of the rows held out, of each part.
        pos_weight: the weight of the positives of each label, [L]; None for 1.
        options: the options of training.
        progress: receives each epoch.
    """
    networks, epochs, losses = [], [], []
    for number, (train_on, held_out) in enumerate(pairs):
        stage = f"network {number + 1}/{len(pairs)}"
        network, best, loss = _train(
            rows, train_on, held_out, pos_weight, options, progress, stage, number
        )
        networks.append(network)
        epochs.append(best)
        losses.append(loss)
    return FittedNetwork(mean_of(networks), networks, text, epochs, losses)


def _train(
    rows: NetworkRows,
    train_on: np.ndarray,
    held_out: np.ndarray,
    pos_weight: np.ndarray | None,
    options: TrainingOptions,
    progress: Progress,
    stage: str,
    number: int,
) -> tuple[LabelsNetwork, int, float]:
    """A network, the best of its epochs, and the held-out loss of that one."""
    device = _device(options)
    labels = rows.targets.number
    batch_size = options.batch_size or _batch_size(len(train_on))
    fused = None
    if labels >= FUSED_LABELS:
        start = (GRADIENT_BEFORE / batch_size) ** 2
        fused = FusedAdagrad(lr=LEARNING_RATES_FUSED[1], initial_accumulator_value=start)
    sizes = rows.inputs.numbers.shape[1], rows.inputs.sparse.shape[1], labels
    weights = None if pos_weight is None else torch.from_numpy(pos_weight).float()
    network = LabelsNetwork(*sizes, fused_optimizer=fused, pos_weight=weights)
    generator = torch.Generator().manual_seed(options.seed + number)
    counted = rows.targets.take(train_on)
    weight = None if rows.weight is None else rows.weight[train_on]
    positives, known = (torch.from_numpy(count) for count in counted.counts(weight))
    bias = imbalance.prior_bias(positives + 0.5, known - positives + 0.5)
    shift = torch.zeros(labels) if pos_weight is None else torch.from_numpy(np.log(pos_weight))
    bias = bias + shift
    stored = rows.inputs.sparse.nnz / max(len(rows.inputs), 1)
    network.initialise(bias, stored, generator)
    network.to(device)
    own = [p for n, p in network.named_parameters() if fused is None or not n.startswith("head.")]
    optimizer = torch.optim.AdamW(
        own,
        options.learning_rate or (LEARNING_RATE if fused is None else LEARNING_RATES_FUSED[0]),
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )
    epochs = _epochs(len(train_on), labels, options.epochs)
    steps = -(-len(train_on) // batch_size) * epochs
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)]
    if fused is not None:
        schedules.append(torch.optim.lr_scheduler.CosineAnnealingLR(fused, steps))
    shuffling = np.random.default_rng([options.seed, number])
    elements = float(rows.targets.take(held_out).counts()[1].sum())
    progress.start(stage, steps)
    with ExitStack() as stack:
        if fused is None:  # see `one_thread` of the network of one label
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
            stack.enter_context(backend("reference"))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(options.seed + number)
        best, best_at, state = _held_out_loss(network, rows, held_out), 0, _state(network)
        for epoch in range(1, epochs + 1):
            network.train()
            order = train_on[shuffling.permutation(len(train_on))]
            total = torch.zeros((), dtype=torch.float64, device=device)
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                loss = rows.loss(network, batch)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                for schedule in schedules:
                    schedule.step()
                total += loss.detach() * (len(batch) / labels)
                progress.step(total, min(start + batch_size, len(order)))
            mean = total.item() / len(order)
            if not np.isfinite(mean):
                raise InputError(
                    f"training diverged in epoch {epoch}: the loss is {mean}; lower the ",
                    Argument("learning_rate"),
                )
            found = _held_out_loss(network, rows, held_out)
            progress.epoch(epoch, mean, found / max(elements, 1.0))
            if found < best * (1 - MIN_GAIN):
                best, best_at, state = found, epoch, _state(network)
            elif epoch - best_at >= options.patience:
                break
    progress.end()
    state["head.bias"] -= shift  # what the weight of the positives added
    plain = LabelsNetwork(*sizes)
    plain.load_state_dict(state, assign=True)
    return plain.eval().requires_grad_(False), best_at, best / max(elements, 1.0)


@torch.no_grad()
def _held_out_loss(network: LabelsNetwork, rows: NetworkRows, held_out: np.ndarray) -> float:
    """The sum of the losses of the rows held out."""
    network.eval()
    total = 0.0
    for start in range(0, len(held_out), BATCH_SIZES[1]):
        batch = held_out[start : start + BATCH_SIZES[1]]
        total += float(rows.loss(network, batch)) * len(batch)
    return total


def _state(network: LabelsNetwork) -> dict[str, Tensor]:
    """A copy of the parameters on the CPU."""
    return {n: p.detach().to("cpu", copy=True) for n, p in network.named_parameters()}


def _epochs(rows: int, labels: int, most: int) -> int:
    most = min(most, MOST_EPOCHS_FUSED) if labels >= FUSED_LABELS else most
    return min(most, max(FEWEST_EPOCHS, int(MOST_LOGITS // (rows * labels))))


def _batch_size(rows: int) -> int:
    """A power of two in `BATCH_SIZES`, with at least `STEPS_PER_EPOCH` steps if it can be."""
    smallest, largest = BATCH_SIZES
    wanted = max(rows // STEPS_PER_EPOCH, 1)
    return min(largest, max(smallest, 1 << (wanted.bit_length() - 1)))


def _device(options: TrainingOptions) -> torch.device:
    if options.precision != "32-true":
        raise InputError(
            Argument("precision", options.precision),
            " is for a single target; many labels are trained in 32-true",
        )
    if options.device == "auto":
        found = torch.accelerator.current_accelerator()
        return torch.device("cpu") if found is None else found
    try:
        device = torch.device(options.device)
        torch.empty(1, device=device)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            "cannot train with ", Argument("device", options.device), f": {reason}"
        ) from error
    return device
