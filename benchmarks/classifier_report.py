"""The table of results/classifier.json."""

from common import markdown
from common.markdown import Block
from common.report import Report, Results

METRICS = ("log_loss", "relative_log_loss", "accuracy", "roc_auc", "average_precision", "ece")


def table(found: Results) -> str:
    head = ["data set", "how", *METRICS, "goal", "reached"]
    rows = [
        [
            name,
            row["how"],
            *(f"{row[metric]:.4f}" for metric in METRICS),
            ", ".join(row["goals"]),
            markdown.verdict(row["reached"]),
        ]
        for name, row in found.items()
    ]
    return markdown.table([cell.replace("_", " ") for cell in head], rows)


def blocks(found: Results) -> list[Block]:
    return [Block("classifier", "README.md", table(found))]


REPORT = Report("classifier", blocks)
