"""The option --base-rate of `predict` and `evaluate`."""

import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torchbce.classifier.quality.base_rates import BaseRate


def base_rate_of(text: str | None) -> float | Literal["estimate"] | None:
    """The value of --base-rate."""
    from torchbce.classifier import InputError

    if text is None or text == "estimate":
        return text  # type: ignore[return-value]
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--base-rate must be 'estimate' or a number, got {text!r}") from None


def print_estimate(found: "BaseRate") -> None:
    """Print an estimated base rate on standard error."""
    print(
        f"torchbce: the base rate of these {found.rows:,} rows is estimated as {found.rate:.4f} "
        f"(95% interval {found.low:.4f} to {found.high:.4f})",
        file=sys.stderr,
    )
