"""The table of results/accuracy.json."""

from common import markdown
from common.markdown import Block
from common.report import Report, Results

CAP = 1e6


def shown(error: float | None) -> str:
    if error is None:
        return "NaN"
    if error >= CAP:
        return "> 1e6"
    return f"{error:.3g}" if error >= 100 else f"{error:.2f}"


def table(found: Results) -> str:
    head = ["loss", "dtype", "loss: torchbce", "PyTorch", "gradient: torchbce", "PyTorch"]
    rows = [
        [f"`{loss}`", dtype, *(shown(errors[name][i]) for i in (0, 1) for name in errors)]
        for loss, by_dtype in found.items()
        for dtype, errors in by_dtype.items()
    ]
    return markdown.table(head, rows)


def blocks(found: Results) -> list[Block]:
    return [Block("accuracy", "docs/numerics.md", table(found))]


REPORT = Report("accuracy", blocks)
