"""Check which objective and which guarantees go together, before any work begins."""

from collections.abc import Sequence

from torchbce.classifier.decisions.guarantees import Guarantee
from torchbce.classifier.decisions.objectives import Objective
from torchbce.classifier.errors import Argument, InputError


def check_wishes(optimize: str | None, guarantees: Sequence[str], abstain: bool) -> None:
    """Raise `InputError` where an objective or a guarantee is not one, or they exclude each other.

    Args:
        optimize: an objective, as `Objective.parse` reads it, or None.
        guarantees: as `Guarantee.parse` reads them.
        abstain: whether rows may stay undecided.
    """
    if optimize is not None:
        Objective.parse(optimize)
    wanted = [Guarantee.parse(text) for text in guarantees]
    if abstain and not wanted:
        raise InputError(
            Argument("abstain"),
            " needs a guarantee, for instance ",
            Argument("guarantee", "precision>=0.9"),
        )
    if wanted and optimize is not None and not abstain:
        raise InputError(
            Argument("optimize"),
            " and ",
            Argument("guarantee"),
            " choose one threshold each; give one of them, or both with ",
            Argument("abstain", True),
        )
    if len(wanted) > 1 and not abstain:
        raise InputError(
            "two guarantees need two thresholds, and rows between them stay undecided: add ",
            Argument("abstain", True),
        )
    if len({guarantee.upper for guarantee in wanted}) < len(wanted):
        raise InputError(
            Argument("guarantee"),
            " may be given once for the rows predicted positive (precision>= or fpr<=), and once "
            "for those predicted negative (recall>=)",
        )
