"""The table of results/pairwise.json."""

import math

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
    return markdown.table(head, rows) + error_note(found["error"])


def error_note(error: Results) -> str:
    logit = error["logit"]
    rounding = 0.5 * 2.0 ** (math.floor(math.log2(logit)) - 23)
    return (
        f"\nThe loss of one pair with the logit {logit:g} is {error['loss']:.3e}. Its relative "
        f"error is {error['torchbce']:.0e} with torchbce and {error['dense']:.0e} with the dense "
        f"formula. Rounding that logit to float32 alone can cause {rounding:.0e}.\n"
    )


def blocks(found: Results) -> list[Block]:
    return [Block("pairwise", "docs/linear.md", table(found))]


REPORT = Report("pairwise", blocks)
