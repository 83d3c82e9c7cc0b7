"""The table of results/delicious.json; the summary of the linear loss includes one row of it."""

import linear_report
from common import markdown, results
from common.markdown import Block
from common.report import Report, Results

PRECISIONS = ("P@1", "P@3", "P@5")


def table(tags: Results) -> str:
    head = ["head", *PRECISIONS, "training", "goal", "reached"]
    rows = [
        [
            name,
            *(f"{figures[precision]:.3f}" for precision in PRECISIONS),
            f"{figures['seconds']:.1f} s",
            f"P@1 >= {tags['goal']}",
            markdown.verdict(figures["P@1"] >= tags["goal"]),
        ]
        for name, figures in tags["heads"].items()
    ]
    recipe = tags["recipe"]
    note = (
        f"\nAdamW, {recipe['epochs']} epochs in batches of {recipe['batch']}, a learning rate that "
        f"falls from {recipe['learning_rate']:g} to 0, weight decay {recipe['weight_decay']:g}; "
        f"learning rate and weight decay were chosen on {recipe['held_out']:,} of the training "
        "rows. Features are normalized to length 1.\n"
    )
    return markdown.table(head, rows) + note


def blocks(found: Results) -> list[Block]:
    return [
        Block("delicious", "docs/linear.md", table(found["tags"])),
        linear_report.summary_block(results.load("linear"), found),
    ]


REPORT = Report("delicious", blocks)
