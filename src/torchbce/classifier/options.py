"""The options of training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torchbce.classifier.decisions.wishes import check_wishes
from torchbce.classifier.errors import Argument, InputError, listing
from torchbce.classifier.scalars import as_real, as_whole

ModelName = Literal["auto", "linear", "pairs", "trees", "mlp"]
Effort = Literal["low", "medium", "high"]
Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true"]
Device = Literal["cpu", "cuda", "mps", "auto"]
LossName = Literal["bce", "focal", "asymmetric", "poly"]

#: The parameters of each loss, as `torchbce.functional` names them.
LOSS_PARAMETERS = {
    "bce": (),
    "focal": ("alpha", "gamma"),
    "asymmetric": ("gamma_pos", "gamma_neg", "margin"),
    "poly": ("epsilon", "gamma", "alpha"),
}


@dataclass(frozen=True)
class TrainingOptions:
    """How a classifier is trained. The defaults suit most tables.

    Args:
        model: "linear", main effects of all columns; "pairs", these and the pairs of columns that
            matter; "trees", boosted trees; "mlp", a network; or "auto", the best combination of
            the models that suit the size of the table.
        effort: how much work to do: "low" holds out fewer parts of the rows and grows fewer trees,
            "high" holds out more, grows more and trains the network too. "low" took 0.15 of the
            time of "medium" for 300,000 rows of eight columns, 0.4 to 0.6 of it for three other
            tables, and 0.85 for short texts. The work is bounded by rows and features and not by
            time, so that the same seed gives the same model.
        pos_weight: the weight of the positives in the loss: "balanced" (negatives / positives), a
            number above 0, or None for 1. A weight p adds log p to the logits that are learned;
            predictions subtract it.
        seed: of the parts held out, and of whatever is random, an integer from 0 to 2^63 - 1.
        epochs: of the network: the largest number of passes over the rows.
        batch_size: of the network: rows per step; None chooses from 16 to 512 by the number of
            rows.
        learning_rate: of the network: the initial learning rate of AdamW, which falls to 0 along
            half a cosine; None is 0.002.
        weight_decay: of the network: the decoupled weight decay of AdamW.
        patience: of the network: training stops when the held-out loss has not fallen by 0.1% for
            this many epochs.
        device: of the network: "cpu", "cuda", "mps" or "auto". On the CPU the same seed gives the
            same bits.
        precision: of the network: a precision of Lightning Fabric: "32-true", "64-true",
            "bf16-mixed", "16-mixed" or "bf16-true".
        loss: what the models are fitted by: "bce", binary cross-entropy; "focal", "asymmetric" or
            "poly", which weigh hard rows more, of the models "linear", "pairs" and "mlp" (trees
            know only binary cross-entropy, and are left out of "auto"). Settings are always chosen
            by binary cross-entropy, and probabilities are brought back to the rate of the target
            by a slope and an offset that are fitted to rows held out.
        alpha: of the losses "focal" and "poly": in [0, 1], the weight of the positives; None for no
            such weight. Parameters of losses are those of `torchbce.functional`.
        gamma: of the losses "focal" and "poly": the focusing exponent, 0 or above; None is 2 and 0.
        gamma_pos: of the loss "asymmetric": the focusing exponent of the positives; None is 1.
        gamma_neg: of the loss "asymmetric": that of the negatives; None is 4.
        margin: of the loss "asymmetric": in [0, 1), subtracted from the probability of negatives;
            None is 0.05.
        epsilon: of the loss "poly": -1 or above, added to the coefficient of 1 - p; None is 1.
        optimize: what the threshold is chosen for on rows held out: "accuracy", "f1", "mcc",
            "balanced-accuracy", "precision@R" (the highest precision with a recall of R),
            "recall@P" (the highest recall with a precision of P) or "cost:FP,FN" (the costs of a
            false positive and of a false negative); None for a threshold of 0.5.
        guarantee: what the threshold is to keep with 95% confidence: "precision>=P", "recall>=R" or
            "fpr<=F", the false positive rate. A quarter of the rows is set aside to test it. With
            `abstain`, a tuple of two may be given: one for rows predicted positive (precision or
            fpr), one for those predicted negative (recall).
        abstain: whether predictions leave rows undecided: those between the threshold that keeps
            the guarantee and that for the other value.

    Raises:
        InputError: if a number is out of its range.

    Example:
        >>> TrainingOptions(model="mlp", epochs=50).learning_rate is None
        True
        >>> TrainingOptions(learning_rate=0)
        Traceback (most recent call last):
            ...
        torchbce.classifier.errors.InputError: learning_rate must be above 0, got 0

    References:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019 (AdamW).
    """

    model: ModelName = "auto"
    effort: Effort = "medium"
    pos_weight: float | Literal["balanced"] | None = None
    seed: int = 0
    epochs: int = 30
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.0
    patience: int = 5
    device: Device = "cpu"
    precision: Precision = "32-true"
    loss: LossName = "bce"
    alpha: float | None = None
    gamma: float | None = None
    gamma_pos: float | None = None
    gamma_neg: float | None = None
    margin: float | None = None
    epsilon: float | None = None
    optimize: str | None = None
    guarantee: str | tuple[str, ...] = ()
    abstain: bool = False

    @property
    def guarantees(self) -> tuple[str, ...]:
        """The guarantees that are wanted."""
        return (self.guarantee,) if isinstance(self.guarantee, str) else tuple(self.guarantee)

    @property
    def loss_arguments(self) -> dict[str, float]:
        """The parameters of the loss that are given."""
        names = LOSS_PARAMETERS[self.loss]
        given = {name: getattr(self, name) for name in names}
        return {name: float(value) for name, value in given.items() if value is not None}

    def __post_init__(self) -> None:
        named = {
            "model": ModelName,
            "effort": Effort,
            "device": Device,
            "precision": Precision,
        }
        for name, words in named.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in get_args(words):
                raise InputError(
                    Argument(name),
                    f" must be {listing(get_args(words), joiner='or')}, got {listing([value])}",
                )
        for name in ("epochs", "batch_size", "patience"):
            self._check_number(name, "an integer", "above 0", lambda value: value > 0)
        kinds = {"learning_rate": "a number", "pos_weight": "'balanced', a number"}
        if isinstance(self.pos_weight, str) and self.pos_weight == "balanced":
            del kinds["pos_weight"]
        for name, kind in kinds.items():
            self._check_number(name, kind, "above 0", lambda value: 0 < value < math.inf)
        self._check_number(
            "weight_decay", "a number of", "0 or above", lambda value: 0 <= value < math.inf
        )
        self._check_number(
            "seed", "an integer", "from 0 to 2^63 - 1", lambda value: 0 <= value < 2**63
        )
        if not isinstance(self.abstain, bool):
            raise InputError(
                Argument("abstain"), f" must be True or False, got {listing([self.abstain])}"
            )
        if not isinstance(self.guarantee, str | tuple | list):
            raise InputError(
                Argument("guarantee"),
                f" must be text such as 'precision>=0.9', or a tuple of such texts, got "
                f"{listing([self.guarantee])}",
            )
        check_wishes(self.optimize, self.guarantees, self.abstain)
        self._check_loss()

    def _check_number(
        self, name: str, kind: str, bounds: str, fits: Callable[[float], bool]
    ) -> None:
        """Keep an option as a number of Python. Raises `InputError` if it is none that fits.

        Args:
            name: the option; where None is its default, it may be None.
            kind: what it must be, which an error says of what is no such number.
            bounds: the range, as errors say it.
            fits: whether a number is in the range.
        """
        given = getattr(self, name)
        optional = type(self).__dataclass_fields__[name].default is None
        if given is None and optional:
            return
        value = as_whole(given) if kind == "an integer" else as_real(given)
        if value is None:
            raise InputError(
                Argument(name),
                f" must be {kind} {bounds}{' or None' * optional}, got {listing([given])}",
            )
        if not fits(value):
            raise InputError(Argument(name), f" must be {bounds}, got {value}")
        object.__setattr__(self, name, value)

    def _check_loss(self) -> None:
        if not isinstance(self.loss, str) or self.loss not in LOSS_PARAMETERS:
            raise InputError(
                Argument("loss"),
                f" must be one of {listing(LOSS_PARAMETERS)}, got {listing([self.loss])}",
            )
        if self.loss != "bce" and self.model == "trees":
            raise InputError(
                "trees are fitted by binary cross-entropy alone; with ",
                Argument("loss", self.loss),
                " the models are linear, pairs and mlp",
            )
        ranges = {
            "alpha": (0, 1),
            "gamma": (0, math.inf),
            "gamma_pos": (0, math.inf),
            "gamma_neg": (0, math.inf),
            "margin": (0, 1),
            "epsilon": (-1, math.inf),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is None:
                continue
            if name not in LOSS_PARAMETERS[self.loss]:
                owners = [loss for loss, names in LOSS_PARAMETERS.items() if name in names]
                raise InputError(
                    Argument(name),
                    f" is a parameter of the loss {listing(owners, joiner='or')}; the loss here is "
                    f"{self.loss!r}",
                )
            self._check_number(name, *_range(low, high, closed=name == "alpha"))


def _range(low: float, high: float, closed: bool) -> tuple[str, str, Callable[[float], bool]]:
    """What a number from `low` to `high` is called, its range in words, and whether one fits."""
    if high == math.inf:
        return "a number of", f"{low} or above", lambda value: low <= value < high
    words = f"in [{low}, {high}{']' if closed else ')'}"
    return "a number", words, lambda value: low <= value < high or (closed and value == high)
