"""The table of results/exact.json."""

from common import markdown
from common.markdown import Block
from common.report import Report, Results

#: In the order of the errors in the results.
COLUMNS = ("loss, y = 0", "gradient, y = 0", "loss, y = 1", "gradient, y = 1")


def table(found: Results) -> str:
    rows = [
        [dtype, f"{row['logits']:,}", *(f"{error:.4f}" for error in row["errors"])]
        for dtype, row in found.items()
    ]
    return markdown.table(["dtype", "logits", *COLUMNS], rows)


def blocks(found: Results) -> list[Block]:
    return [Block("exact", "docs/numerics.md", table(found))]


REPORT = Report("exact", blocks)
