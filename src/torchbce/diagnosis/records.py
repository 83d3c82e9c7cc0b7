"""A finding, and the findings of one diagnosis."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: A number, a word, or a list of them: what JSON can express.
Evidence = Mapping[str, Any]

Severity = Literal["error", "warning", "note"]

#: Every code, each of which is a section of the page.
CODES = (
    "input-nan",
    "target-range",
    "target-constant",
    "probabilities-as-logits",
    "logits-as-probabilities",
    "double-sigmoid",
    "broadcast",
    "saturation",
    "vanishing-gradients",
    "initial-loss",
    "mostly-ignored",
    "pos-weight-inverted",
    "worse-than-base-rate",
    "miscalibration",
    "flipped-labels",
    "swapped-rows",
    "swapped-labels",
    "mislabelled-rows",
)
PAGE = "https://torchbce.github.io/torchbce/diagnosis/"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks wrong.

    Attributes:
        code: a short name that does not change between versions, one of `CODES`.
        severity: "error": the loss is not what it is meant to be; "warning": the loss is right,
            and the model, the labels or the options are not as good as they could be; "note": it
            may be meant.
        message: what was found, in one sentence with figures.
        evidence: the figures, by name.
        remedy: what to do.
    """

    code: str
    severity: Severity
    message: str
    remedy: str
    evidence: Evidence = field(default_factory=dict)

    @property
    def page(self) -> str:
        """The section of the documentation that explains it."""
        return f"{PAGE}#{self.code}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as a dictionary that JSON can express."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "evidence": dict(self.evidence),
            "remedy": self.remedy,
            "page": self.page,
        }

    def __str__(self) -> str:
        return f"{self.code}: {self.message} {self.remedy} See {self.page}."


@dataclass(frozen=True)
class Diagnosis:
    """The findings about one set of elements, and their main figures.

    Attributes:
        findings: the most serious first.
        elements: the number of elements that are not ignored.
        base_rate: their mean target; None without elements.
        loss: their mean cross-entropy in nats, with the weights; None where it is not defined.
        base_loss: that of predicting the base rate for each element; None likewise.
    """

    findings: tuple[Finding, ...]
    elements: int
    base_rate: float | None = None
    loss: float | None = None
    base_loss: float | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no finding but notes."""
        return all(finding.severity == "note" for finding in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the findings."""
        return tuple(finding.code for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, code: str) -> Finding:
        """The finding with a code."""
        for finding in self.findings:
            if finding.code == code:
                return finding
        raise KeyError(f"no finding {code!r}; there are {', '.join(self.codes) or 'none'}")

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as a dictionary that JSON can express."""
        return {
            "ok": self.ok,
            "elements": self.elements,
            "base_rate": self.base_rate,
            "loss": self.loss,
            "base_loss": self.base_loss,
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = [f"{self.elements:,} elements"]
        if self.base_rate is not None:
            lines[0] += f", base rate {self.base_rate:.4g}"
        if self.loss is not None and self.base_loss is not None:
            lines[0] += f", loss {self.loss:.4g} (that of the base rate: {self.base_loss:.4g})"
        if not self.findings:
            lines.append("nothing found")
        for finding in self.findings:
            lines += [
                f"{finding.severity}: {finding.code}",
                f"  {finding.message}",
                f"  {finding.remedy}",
                f"  {finding.page}",
            ]
        return "\n".join(lines)
