"""The table of results/pairwise.json."""

from common import markdown
from common.markdown import Block, mebibytes
from common.report import Report, Results

CONTENDERS = ("torchbce", "dense")


def table(found: Results) -> str:
    head = ["pairs", "torchbce", "dense", "dense / torchbce"]
    head += ["torchbce, peak MiB", "dense, peak MiB", "dense / torchbce"]
    rows = []
    for row in found["pairs"]["rows"]:
        seconds, peak = row["seconds"], row["peak"]
        rows.append(
            [
                f"{row['pairs']:,}",
                *(f"{seconds[name]:.2f} s" for name in CONTENDERS),
                f"{seconds['dense'] / seconds['torchbce']:.2f}",
                *(mebibytes(peak[name]) for name in CONTENDERS),
                f"{peak['dense'] / peak['torchbce']:.0f}",
            ]
        )
    return markdown.table(head, rows)


def blocks(found: Results) -> list[Block]:
    return [Block("pairwise", "docs/linear.md", table(found))]


REPORT = Report("pairwise", blocks)
