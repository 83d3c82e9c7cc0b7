"""`diagnose`: the checks on tensors."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from torchbce.definition import checks
from torchbce.diagnosis import labels, quality, training, values
from torchbce.diagnosis.records import Diagnosis, Finding
from torchbce.diagnosis.sample import DOMAINS, Sample, make_sample, tensor
from torchbce.diagnosis.statistics import losses

SEVERITIES = ("error", "warning", "note")


def diagnose(
    input: Any,
    target: Any,
    *,
    domain: str = "logits",
    weight: Any = None,
    pos_weight: Any = None,
    mask: Any = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    initial: bool = False,
) -> Diagnosis:
    """What is wrong with logits or probabilities, given their targets.

    A logistic map `z -> slope z + offset`, the base rate and the ranks of the targets are compared
    with the input. What could be noise is not reported: a finding that rests on the values is 4.5
    standard errors, or 1e-6 of probability, away from it. Nothing guesses what the input is:
    `domain` says it, and the findings say if the values contradict it.

    Args:
        input: what the model returned, on rows that it was not trained on if it is to be judged:
            a floating tensor of any shape, an array or a list.
        target: targets y of input's shape, or of one that differs from it only by trailing
            dimensions of size 1.
        domain: what the input is said to be: "logits", "probabilities" or "log_probs".
        weight: weight w per element, a number or a tensor that broadcasts to input's shape.
        pos_weight: the weight p of the positive term that the model was trained with. Its logits
            are then judged with that weight: they are to be log p above the log-odds.
        mask: bool, of input's shape or broadcasting to it; elements where it is false are ignored.
        ignore_index: elements with this target (NaN allowed) are ignored.
        label_smoothing: s in [0, 1] of the loss: the target becomes y (1 - s) + s / 2.
        reduction: the reduction of the loss, as in `torchbce.functional`.
        initial: whether the model is untrained. Then its loss is compared with the entropy of the
            base rate, and its predictions are not judged otherwise.

    Returns:
        A `Diagnosis`: `findings`, each with a `code`, `evidence`, a `remedy` and a `page`; `codes`;
        `ok`; `as_dict()`. Its text is a report.

    Raises:
        TypeError: if an argument is not a tensor or array of real numbers.
        ValueError: if shapes do not match or an option is out of its range. Targets and inputs
            outside their range are findings.

    Example:
        >>> import torch, torchbce
        >>> z = torch.linspace(-4, 4, 400)
        >>> y = (torch.rand(400, generator=torch.Generator().manual_seed(0)) < z.sigmoid()).float()
        >>> torchbce.diagnose(z, y).codes
        ()
        >>> found = torchbce.diagnose(z.sigmoid(), y)
        >>> found.codes
        ('probabilities-as-logits',)
        >>> round(found["probabilities-as-logits"].evidence["loss"], 3)
        0.601
        >>> torchbce.diagnose(z.sigmoid(), y, domain="probabilities").ok
        True

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (temperature); Platt,
        Probabilistic Outputs for Support Vector Machines, 1999 (slope and offset).
    """
    checks.choice("domain", domain, DOMAINS)
    checks.reduction(reduction)
    if ignore_index is not None:
        ignore_index = checks.number("ignore_index", ignore_index)
    sample = make_sample(
        tensor("input", input),
        tensor("target", target),
        domain,
        weight,
        pos_weight,
        None if mask is None else tensor("mask", mask),
        ignore_index,
        checks.fraction("label_smoothing", label_smoothing),
        reduction,
    )
    return summarised(sample, every_finding(sample, initial))


def every_finding(sample: Sample, initial: bool = False) -> Iterator[Finding]:
    """The findings about a sample. What follows from one is not reported beside it."""
    yield from training.mostly_ignored(sample)
    if not len(sample.input) or (sample.weight is not None and not sample.weight.any()):
        return
    wrong = [*values.target_range(sample), *values.input_values(sample)]
    yield from wrong
    if any(finding.code != "input-nan" for finding in wrong):
        return
    sample = sample.only(~np.isnan(sample.input))
    if not len(sample.input):
        return
    yield from training.broadcast(sample)
    yield from values.target_constant(sample, initial)
    yield from training.pos_weight_inverted(sample)
    if initial:
        yield from training.initial_loss(sample)
        return
    wrong = list(values.other_domain(sample))
    yield from wrong
    if wrong:
        return
    yield from training.vanishing_gradients(sample)
    yield from training.saturation(sample)
    worse = list(quality.worse_than_base_rate(sample))
    yield from worse
    order = [
        *labels.flipped(sample),
        *labels.swapped_rows(sample),
        *labels.swapped_outputs(sample),
    ]
    yield from order
    # A map of logits that do not rank the targets is the base rate.
    if not order and not any(finding.evidence["unrelated"] for finding in worse):
        yield from quality.miscalibration(sample)
        yield from labels.mislabelled_rows(sample)


def summarised(sample: Sample, findings: Iterable[Finding]) -> Diagnosis:
    """The findings with the main figures of a sample."""
    found = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    rate = loss = base = None
    if len(sample.y):
        rate = _finite(sample.y.mean())
        a, b = sample.masses()
        mass = float((a + b).sum())
        if mass > 0 and "target-range" not in {finding.code for finding in found}:
            with np.errstate(invalid="ignore"):
                loss = _finite(losses(sample.logits(), a, b).sum() / mass)
            base = _finite(quality.base_losses(sample, a, b).sum() / mass)
    return Diagnosis(tuple(found), sample.elements, rate, loss, base)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
