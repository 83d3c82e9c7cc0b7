"""`watch`: the checks on what a loss module is called with during training."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchbce import modules
from torchbce.definition import checks
from torchbce.definition.reductions import warn
from torchbce.diagnosis import labels, quality, training, values
from torchbce.diagnosis.diagnose import summarised
from torchbce.diagnosis.records import Diagnosis, Finding
from torchbce.diagnosis.sample import Sample, joined, make_sample

#: The first calls are all looked at, and later every so many.
FIRST, EVERY = 8, 16
#: At most so many elements of a call are kept, of so many calls.
ELEMENTS, CALLS = 4096, 32
#: After these calls the CPU's values are looked at; those of a GPU only for a report, since the
#: host would have to wait for them.
LOOKS = frozenset((1, 16, 128, 1024, 8192, 65536))
#: After so many calls a report expects a model to be better than the base rate; ten times as many
#: without being asked.
TRAINED = 100

#: What the input of each module is. Subclasses are the same.
_DOMAINS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.BCEWithLogitsLoss, "logits"),
    (nn.BCELoss, "probabilities"),
    (modules.BCEWithLogProbsLoss, "log_probs"),
    (modules.SigmoidFocalLoss, "logits"),
    (modules.AsymmetricLoss, "logits"),
    (modules.PolyBCELoss, "logits"),
)
#: Those whose lowest loss is at the probabilities of the targets.
_PROPER = nn.BCEWithLogitsLoss, nn.BCELoss, modules.BCEWithLogProbsLoss


class Call(NamedTuple):
    """Some elements of one call, on its device.

    Attributes:
        number: of the call, from 1.
        shapes: of the whole input and target.
        rounds: whether the gradient is computed in the dtype of the input.
        extremes: the smallest and the largest target of the whole call, float32, [2]; None where
            some are ignored.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None
    pos_weight: Tensor | None
    mask: Tensor | None
    number: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    rounds: bool
    extremes: Tensor | None


class Watch:
    """What `watch` returns: it looks at the calls of a loss module until it is closed.

    Attributes:
        calls: the number of calls with gradients enabled; others, as in validation, are not looked
            at.
        findings: those that were found so far, by code.
    """

    def __init__(self, module: nn.Module, domain: str) -> None:
        self.calls = 0
        self.findings: dict[str, Finding] = {}
        self._module: Any = module
        self._domain = domain
        self._proper = isinstance(module, _PROPER)
        self._own = type(module).__module__.startswith("torchbce.")
        self._kept: deque[Call] = deque(maxlen=CALLS)
        self._first: Call | None = None
        self._extremes: Tensor | None = None
        self._handle: Any = module.register_forward_pre_hook(self._look, with_kwargs=True)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # While an error is on its way its own message matters.
        self.close(warn=kind is None)

    def close(self, warn: bool = True) -> Diagnosis:
        """Remove the hook, and report.

        Args:
            warn: whether to warn of findings that are new.

        Returns:
            The findings of all calls.
        """
        self._handle.remove()
        return self.report(warn)

    def report(self, warn: bool = True) -> Diagnosis:
        """What was found so far; reads the kept elements, for which a GPU is waited for.

        Args:
            warn: whether to warn of findings that are new.

        Returns:
            The findings of all calls; the figures are those of the later half of them.
        """
        sample = self._recent()
        if sample is None:
            return Diagnosis(tuple(self.findings.values()), 0)
        self._add(self._check(sample, TRAINED), warn)
        return summarised(_without_nan(sample), self.findings.values())

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The hook: keep some elements of the call, on its device."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        self.calls += 1
        if self.calls > FIRST and self.calls % EVERY:
            return
        call = _kept(self.calls, module, args, kwargs, not self._own)
        if call is None:
            return
        self._kept.append(call)
        if call.extremes is not None:
            both = call.extremes
            if self._extremes is not None:
                low, high = self._extremes.unbind()
                both = torch.stack((torch.minimum(low, both[0]), torch.maximum(high, both[1])))
            self._extremes = both
        if self._first is None:
            self._first = call
        if call.shapes[0] != call.shapes[1]:
            # PyTorch's modules raise right after this.
            self._add(training.mismatched(*call.shapes, {}), True)
        if call.input.device.type == "cpu" and self.calls in LOOKS:
            sample = self._recent()
            if sample is not None:
                self._add(self._check(sample, 10 * TRAINED), True)

    def _recent(self) -> Sample | None:
        """The elements that are kept of the later half of the calls; None if there are none."""
        later = [call for call in self._kept if 2 * call.number > self.calls]
        return joined([self._sample(call) for call in later or self._kept])

    def _sample(self, call: Call) -> Sample:
        return make_sample(
            call.input,
            call.target,
            self._domain,
            call.weight,
            call.pos_weight,
            call.mask,
            getattr(self._module, "ignore_index", None),
            getattr(self._module, "label_smoothing", 0.0),
            self._module.reduction,
        )

    def _check(self, sample: Sample, trained: int) -> Iterator[Finding]:
        """The findings about these elements.

        Args:
            sample: of the later half of the calls.
            trained: the number of calls after which the model is expected to know something.
        """
        last = self._kept[-1]
        yield from training.mostly_ignored(sample)
        if not len(sample.input):
            return
        wrong = [*values.target_range(sample), *values.input_values(sample)]
        yield from wrong
        if not wrong and self._extremes is not None:
            low, high = self._extremes.tolist()
            yield from values.target_extremes(low, high)
        if any(finding.code != "input-nan" for finding in wrong):
            return
        sample = _without_nan(sample)
        if not len(sample.input):
            return
        if last.shapes[0] == last.shapes[1]:
            yield from training.broadcast(replace(self._sample(last), shapes=last.shapes))
        if self._first is not None and self._proper:
            yield from training.initial_loss(_without_nan(self._sample(self._first)))
        yield from values.target_constant(sample, initial=self.calls < TRAINED)
        yield from training.pos_weight_inverted(sample)
        wrong = list(values.other_domain(sample)) if self._proper else []
        yield from wrong
        if wrong:
            return
        if last.rounds:
            yield from training.vanishing_gradients(sample)
        yield from training.saturation(sample)
        if self.calls >= trained:
            if self._proper:
                yield from quality.worse_than_base_rate(sample)
            yield from labels.flipped(sample)

    def _add(self, found: Iterable[Finding], announce: bool) -> None:
        for finding in found:
            if finding.code not in self.findings:
                self.findings[finding.code] = finding
                if announce and finding.severity != "note":
                    warn(str(finding))


def watch(loss_module: nn.Module) -> Watch:
    """Look at what a loss module is called with during training, and warn once per finding.

    A hook keeps up to 4,096 elements of the first 8 calls and of every 16th, on their device. On
    the CPU they are looked at after calls 1, 16, 128, 1024 and so on; those of a GPU, for which the
    host would have to wait, when a report is asked for. Shapes are looked at in every kept call.

    Of the findings of `torchbce.diagnose`, those about calibration and about the order of labels
    are not made here: on rows that a model is trained on they mean little. The initial loss is that
    of the first call, and what is worse than the base rate is told from call 100 on.

    Args:
        loss_module: a loss of `torchbce`, `torch.nn.BCEWithLogitsLoss`, `torch.nn.BCELoss`, or a
            subclass of one of them.

    Returns:
        A `Watch`: `report()` returns a `Diagnosis`, `close()` removes the hook too. As a context
        manager it is closed at the end of the block.

    Raises:
        TypeError: if the module is not one of these losses.

    Example:
        >>> import torch, torchbce
        >>> criterion = torchbce.BCEWithLogitsLoss()
        >>> z = torch.full((1000,), -3.5, requires_grad=True)
        >>> y = (torch.arange(1000) % 30 == 0).float()
        >>> with torchbce.watch(criterion) as watching:
        ...     loss = criterion(z, y)
        >>> watching.report().codes
        ()
    """
    for kind, domain in _DOMAINS:
        if isinstance(loss_module, kind):
            return Watch(loss_module, domain)
    raise TypeError(
        f"watch takes a loss of torchbce or torch.nn that is called with an input and a target, "
        f"such as torchbce.BCEWithLogitsLoss; got {type(loss_module).__name__}. For a head or a "
        "loss of your own, give its logits to torchbce.diagnose"
    )


def _plain(value: Any) -> Tensor | None:
    """A strided tensor whose values can be read, without its gradient; None for any other."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested:
        return None
    return checks.readable(value, anywhere=True)


def _kept(
    number: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rounds: bool
) -> Call | None:
    """Evenly spaced rows of a call, copied; or elements, if a row has more than `ELEMENTS`.

    None for calls that the module itself refuses, and for tensors that are not plain.
    """
    given = dict(zip(("input", "target"), args, strict=False)) | kwargs
    input, target = _plain(given.get("input")), _plain(given.get("target"))
    mask = given.get("mask")
    if input is None or target is None or not input.is_floating_point():
        return None
    if mask is not None and (mask := _plain(mask)) is None:
        return None
    shapes = tuple(input.shape), tuple(target.shape)
    try:
        every: list[Any] = [input, checks.align_target(input, target)]
        for name in ("weight", "pos_weight"):
            every.append(_weight(name, getattr(module, name, None), input))
        every.append(None if mask is None else checks.align_mask(mask, input))
    except (TypeError, ValueError):
        return None
    if input.numel() > ELEMENTS:
        if input.numel() // input.shape[0] > ELEMENTS:
            every = [None if one is None else one.reshape(-1) for one in every]
        rows = int(every[0].shape[0])
        step = -(-input.numel() // ELEMENTS)
        every = [None if one is None else one[:: min(step, rows)] for one in every]
    copied: list[Any] = [None if one is None else one.clone() for one in every]
    if input.dtype in (torch.bfloat16, torch.float16):
        rounds = rounds and not torch.is_autocast_enabled(input.device.type)
    extremes = None
    if mask is None and getattr(module, "ignore_index", None) is None and target.numel():
        extremes = torch.stack(torch.aminmax(target.float()))
    return Call._make((*copied, number, shapes, rounds, extremes))


def _weight(name: str, weight: Tensor | None, input: Tensor) -> Tensor | None:
    aligned = checks.align_weight(name, checks.scalar_to_device(weight, input), input)
    return None if aligned is None else aligned.detach().expand(input.shape)


def _without_nan(sample: Sample) -> Sample:
    return sample.only(~np.isnan(sample.input))
