"""The tables of results/decisions.json."""

from common import markdown
from common.markdown import Block
from common.report import Report, Results


def weighted_table(found: Results) -> str:
    head = ["model", "log loss", "ECE", "mean probability", "ECE at most", "reached"]
    rows = []
    for name, of in found["models"].items():
        own = name.startswith("torchbce")
        goal = [f"{found['goal']:g}", markdown.verdict(of["ece"] <= found["goal"])]
        rows.append(
            [
                name,
                f"{of['log_loss']:.4f}",
                f"{of['ece']:.4f}",
                f"{of['mean_probability']:.4f}",
                *(goal if own else ["", ""]),
            ]
        )
    return markdown.table(head, rows)


def guarantees_table(found: Results) -> str:
    fits = found["size"][0]
    # A fit without a threshold promises nothing, and so breaks no promise.
    share = 1 - (found["found"] - found["kept"]) / fits
    return markdown.goals(
        [
            markdown.goal(
                f"{found['guarantee']} holds, share of {fits} fits",
                f"{share:.1%}",
                f">= {found['goal']:.0%}",
                share >= found["goal"],
            ),
            [f"fits that found a threshold, of {fits}", f"{found['found']}", "", ""],
            ["precision of new rows, median", f"{found['precision']:.3f}", "", ""],
            ["recall of new rows, median", f"{found['recall']:.3f}", "", ""],
            ["precision at a threshold of 0.5", f"{found['precision_at_half']:.3f}", "", ""],
        ]
    )


def blocks(found: Results) -> list[Block]:
    places = {
        "weighted": ("docs/how-to/imbalance.md", weighted_table),
        "guarantees": ("docs/how-to/decide.md", guarantees_table),
    }
    return [
        Block(name, document, table(found[name]))
        for name, (document, table) in places.items()
        if name in found
    ]


REPORT = Report("decisions", blocks)
